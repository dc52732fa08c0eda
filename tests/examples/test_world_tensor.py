from __future__ import annotations

import pickle

import numpy as np
import pytest
import torch

from examples.mini_pack.glyphs import TWEMOJI, GlyphSet, Jitter, Sprite, Styles, Warp
from examples.mini_pack.vocabulary import LABEL_IDS
from examples.mini_pack.world import Scene, World
from examples.mini_pack.world_tensor import Planner, SceneBatch, TensorWorld

WILD = Jitter(mirror=0.5, rotation=70, rotation_limit=180, hue=0.6, gain=0.3)


@pytest.fixture(scope="module")
def pair(glyphs: GlyphSet) -> tuple[World, TensorWorld]:
    return World(glyphs, variants=2), TensorWorld(glyphs, variants=2)


@pytest.fixture(scope="module")
def tensor_world(pair: tuple[World, TensorWorld]) -> TensorWorld:
    return pair[1]


def assert_alike(scenes: list[Scene], batch: SceneBatch) -> None:
    overlaps, tints = [], []
    for i, scene in enumerate(scenes):
        image, labels = batch.images[i].numpy(), batch.labels[i].numpy()
        assert batch.captions[i] == scene.captions
        assert batch.counts[i] == len(scene.things)
        assert (labels == scene.labels).mean() > 0.97
        assert np.abs(image.astype(int) - scene.image).mean() < 4
        for thing in scene.things:
            ours, theirs = labels == LABEL_IDS[thing.name], scene.labels == LABEL_IDS[thing.name]
            overlaps.append((ours & theirs).sum() / (ours | theirs).sum())
            tints.append(np.abs((image.astype(float) - scene.image)[ours & theirs].mean(0)).max())
    assert np.mean(overlaps) > 0.98
    assert np.min(overlaps) > 0.8
    assert np.mean(tints) < 2


@pytest.mark.slow
def test_each_seed_gives_the_scene_of_the_other_renderer(pair: tuple[World, TensorWorld]) -> None:
    world, tensor_world = pair
    batch = tensor_world.scenes(0, 150)
    assert batch.images.shape == (150, 64, 64, 3)
    assert batch.labels.shape == (150, 64, 64)
    assert batch.images.dtype == batch.labels.dtype == batch.counts.dtype == torch.uint8
    assert set(batch.counts.tolist()) == {0, 1, 2, 3, 4}
    assert_alike([world.scene(seed) for seed in range(150)], batch)


def test_renderers_agree_at_another_size_with_strong_jitter_and_all_arguments(glyphs: GlyphSet) -> None:
    world = World(glyphs, size=96, variants=1, bank_seed=5, jitter=WILD)
    tensor_world = TensorWorld(glyphs, size=96, variants=1, bank_seed=5, jitter=WILD)
    assert_alike([world.scene(seed) for seed in range(30)], tensor_world.scenes(0, 30))
    asked = {"things": ["kitten", "dog", "umbrella"], "count": 2, "captions": 5}
    assert_alike([world.scene(seed, **asked) for seed in range(9, 19)], tensor_world.scenes(9, 10, **asked))


def test_grounds_are_equal_to_the_last_bit(pair: tuple[World, TensorWorld]) -> None:
    world, tensor_world = pair
    batch = tensor_world.scenes(0, 80, count=0)
    scenes = [world.scene(seed, count=0) for seed in range(80)]
    assert sum(scene.under_sky for scene in scenes) > 5
    assert sum(scene.stuff.name == "sky" for scene in scenes) > 3
    np.testing.assert_array_equal(batch.images, np.stack([scene.image for scene in scenes]))
    np.testing.assert_array_equal(batch.labels, np.stack([scene.labels for scene in scenes]))


def test_an_object_leaves_the_rest_of_the_picture_alone(pair: tuple[World, TensorWorld]) -> None:
    """No neighbour in the atlas may be seen; the lookup may reach two pixels out of the sprite's rectangle."""
    world, tensor_world = pair
    batch = tensor_world.scenes(0, 100, count=1)
    for seed in range(100):
        ((outline, left, top),) = tensor_world.planner.plan(seed, count=1).objects
        outside = np.ones((64, 64), bool)
        outside[max(0, top - 2) : top + outline.height + 2, max(0, left - 2) : left + outline.width + 2] = False
        np.testing.assert_array_equal(batch.images[seed].numpy()[outside], world.scene(seed, count=1).image[outside])


@pytest.mark.slow
@pytest.mark.parametrize("jitter", [Jitter(), WILD, Jitter(rotation=1000, rotation_limit=90), Jitter(rotation=0)])
@pytest.mark.parametrize("size", [16, 100])
def test_planned_objects_have_the_size_of_the_sprites(glyphs: GlyphSet, size: int, jitter: Jitter) -> None:
    sizes: list[tuple[int, int]] = []

    class Spy(GlyphSet):
        def sprite(self, *args, **options) -> Sprite:
            sprite = super().sprite(*args, **options)
            sizes.append((sprite.width, sprite.height))
            return sprite

    world = World(Spy(glyphs.path), size=size, variants=1, jitter=jitter)
    planner = Planner(glyphs, size=size, variants=1, jitter=jitter)
    for seed in range(20):
        sizes.clear()
        world.scene(seed, count=seed % 5)
        assert [(outline.width, outline.height) for outline, *_ in planner.plan(seed, count=seed % 5).objects] == sizes


def test_a_scene_is_the_same_in_every_batch(tensor_world: TensorWorld) -> None:
    plans = [tensor_world.planner.plan(seed) for seed in range(40)]
    together = tensor_world.render(plans)
    for start, stop in ((0, 1), (7, 8), (39, 40), (10, 27)):
        apart = tensor_world.render(plans[start:stop])
        assert torch.equal(apart.images, together.images[start:stop])
        assert torch.equal(apart.labels, together.labels[start:stop])
        assert torch.equal(apart.counts, together.counts[start:stop])
        assert apart.captions == together.captions[start:stop]


def test_equal_seeds_render_equal_scenes(glyphs: GlyphSet, tensor_world: TensorWorld) -> None:
    ours, theirs = tensor_world.scenes(3, 20), TensorWorld(glyphs, variants=2).scenes(3, 20)
    assert torch.equal(ours.images, theirs.images)
    assert torch.equal(ours.labels, theirs.labels)
    assert ours.captions == theirs.captions


def test_labels_hold_exactly_what_the_plan_lists(tensor_world: TensorWorld) -> None:
    plans = [tensor_world.planner.plan(seed) for seed in range(100)]
    for plan, labels in zip(plans, tensor_world.render(plans).labels, strict=True):
        story = plan.story
        listed = {thing.name for thing in story.things} | {story.stuff.name} | ({"sky"} if story.under_sky else set())
        assert set(labels.unique().tolist()) == {LABEL_IDS[name] for name in listed}


def test_plans_travel_between_processes(tensor_world: TensorWorld, glyphs: GlyphSet) -> None:
    plans = [Planner(glyphs, variants=2).plan(seed) for seed in range(5)]
    batch = tensor_world.render(pickle.loads(pickle.dumps(plans)))
    assert torch.equal(batch.images, tensor_world.scenes(0, 5).images)


def test_bad_arguments_are_refused(glyphs: GlyphSet, tensor_world: TensorWorld) -> None:
    with pytest.raises(ValueError, match="size=8"):
        TensorWorld(glyphs, size=8)
    with pytest.raises(ValueError, match="no plan"):
        tensor_world.scenes(0, 0)
    with pytest.raises(ValueError, match="count=5"):
        tensor_world.scenes(0, 1, count=5)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_a_gpu_renders_what_the_cpu_renders(glyphs: GlyphSet, tensor_world: TensorWorld) -> None:
    ours, theirs = tensor_world.scenes(0, 200), TensorWorld(glyphs, variants=2, device="cuda").scenes(0, 200)
    assert theirs.images.device.type == theirs.labels.device.type == theirs.counts.device.type == "cuda"
    assert ours.captions == theirs.captions
    assert torch.equal(ours.counts, theirs.counts.cpu())
    # rounding of the lookups may tip single pixels over a whole number
    assert (ours.labels != theirs.labels.cpu()).float().mean() < 1e-3
    assert (ours.images.int() - theirs.images.cpu().int()).abs().float().mean() < 0.02
    empty = tensor_world.scenes(0, 40, count=0), TensorWorld(glyphs, variants=2, device="cuda").scenes(0, 40, count=0)
    assert torch.equal(empty[0].images, empty[1].images.cpu())


@pytest.mark.slow
def test_both_renderers_draw_the_same_artists(glyphs: GlyphSet) -> None:
    for mixed in ("glyph", "scene"):
        styles = Styles([glyphs, GlyphSet(TWEMOJI)], mixed)
        world, tensor_world = World(styles, variants=1), TensorWorld(styles, variants=1)
        assert_alike([world.scene(seed) for seed in range(40)], tensor_world.scenes(0, 40))
        drawn = {outline.style for seed in range(40) for outline, *_ in tensor_world.planner.plan(seed).objects}
        assert drawn == {0, 1}


def test_what_tensors_cannot_draw_is_refused(glyphs: GlyphSet) -> None:
    for jitter in (Jitter(inked=0.1), Jitter(warp=Warp())):
        with pytest.raises(ValueError, match="in processes on the CPU"):
            TensorWorld(glyphs, variants=1, jitter=jitter)
