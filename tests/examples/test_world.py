from __future__ import annotations

from collections import Counter

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from examples.mini_pack.glyphs import TWEMOJI, GlyphSet, Jitter, Sprite, Styles
from examples.mini_pack.vocabulary import LABEL_IDS, STUFF_NAMES, THING_NAMES, find_thing
from examples.mini_pack.world import World, paste


@pytest.fixture(scope="module")
def world(glyphs: GlyphSet) -> World:
    return World(glyphs, variants=2)


@settings(max_examples=60, deadline=None)
@given(left=st.integers(-9, 12), top=st.integers(-9, 12), seed=st.integers(0, 99))
def test_paste_agrees_with_a_pixel_by_pixel_loop(left: int, top: int, seed: int) -> None:
    rng = np.random.default_rng(seed)
    canvas = rng.uniform(0, 255, (8, 10, 3)).astype(np.float32)
    labels = np.full((8, 10), 3, np.uint8)
    sprite = Sprite(rgb=rng.uniform(0, 255, (5, 7, 3)).astype(np.float32), alpha=rng.random((5, 7), dtype=np.float32))
    blended, marked = canvas.copy(), labels.copy()
    for y in range(5):
        for x in range(7):
            row, column = top + y, left + x
            if 0 <= row < 8 and 0 <= column < 10:
                a = sprite.alpha[y, x]
                blended[row, column] = a * sprite.rgb[y, x] + (1 - a) * canvas[row, column]
                if a > 0.5:
                    marked[row, column] = 9
    paste(canvas, labels, sprite, left, top, 9)
    np.testing.assert_allclose(canvas, blended, atol=1e-3)
    np.testing.assert_array_equal(labels, marked)


@pytest.mark.parametrize("name", ["cat", "bicycle", "airplane"])
def test_the_label_of_one_object_is_where_its_alpha_is_above_half(glyphs: GlyphSet, name: str) -> None:
    sprite = glyphs.sprite(find_thing(name).glyph, 50, np.random.default_rng(1))
    canvas, labels = np.zeros((64, 64, 3), np.float32), np.zeros((64, 64), np.uint8)
    paste(canvas, labels, sprite, 5, 5, LABEL_IDS[name])
    assert (labels == LABEL_IDS[name]).sum() == (sprite.alpha > 0.5).sum()
    box = labels[5 : 5 + sprite.height, 5 : 5 + sprite.width]
    np.testing.assert_array_equal(box == LABEL_IDS[name], sprite.alpha > 0.5)


def test_equal_seeds_render_equal_scenes(glyphs: GlyphSet, world: World) -> None:
    twin = World(glyphs, variants=2)
    for seed in range(10):
        ours, theirs = world.scene(seed), twin.scene(seed)
        np.testing.assert_array_equal(ours.image, theirs.image)
        np.testing.assert_array_equal(ours.labels, theirs.labels)
        assert ours.captions == theirs.captions


def test_another_bank_changes_the_textures_and_nothing_else(glyphs: GlyphSet, world: World) -> None:
    other = World(glyphs, variants=2, bank_seed=8)
    for seed in range(10):
        ours, theirs = world.scene(seed), other.scene(seed)
        np.testing.assert_array_equal(ours.labels, theirs.labels)
        ground = np.isin(ours.labels, [LABEL_IDS[name] for name in STUFF_NAMES])
        assert np.abs(ours.image.astype(int) - theirs.image)[ground].mean() > 1


def test_labels_hold_exactly_what_the_scene_lists(world: World) -> None:
    counts = []
    for seed in range(150):
        scene = world.scene(seed)
        assert scene.image.shape == (64, 64, 3)
        assert scene.image.dtype == scene.labels.dtype == np.uint8
        listed = {thing.name for thing in scene.things} | {scene.stuff.name}
        listed |= {"sky"} if scene.under_sky else set()
        assert set(np.unique(scene.labels).tolist()) == {LABEL_IDS[name] for name in listed}
        counts.append(len(scene.things))
    assert set(counts) == set(range(5))
    assert counts.count(1) > counts.count(2) > counts.count(3) + counts.count(4) > 0


def test_single_objects_have_the_sizes_that_models_are_trained_on(world: World) -> None:
    for seed in range(60):
        scene = world.scene(seed, count=1)
        rows, columns = np.nonzero(scene.labels == LABEL_IDS[scene.things[0].name])
        extent = max(np.ptp(rows), np.ptp(columns)) + 1
        # the sprite's longer side is 42 to 90 % of the canvas; faint edges do not count as object
        assert 0.42 * 64 - 4 <= extent <= 0.90 * 64 + 1


def test_captions_name_every_object_and_only_those(world: World) -> None:
    for seed in range(100):
        scene = world.scene(seed, captions=5)
        assert len(scene.captions) == 5
        for text in scene.captions:
            assert text == text.lower()
            assert text.isascii()
            for thing in scene.things:
                assert any(f" {word}" in f" {text}" for word in (thing.name, *thing.aliases))
            if not scene.things:
                assert scene.stuff.name in text
            assert "under the sky" not in text or scene.under_sky


def test_aliases_and_their_article_appear_in_captions(world: World) -> None:
    texts = {text for seed in range(60) for text in world.scene(seed, things=["car"], count=1).captions}
    assert any("an automobile" in text for text in texts)
    assert any("a car" in text for text in texts)
    assert not any("a automobile" in text for text in texts)


def test_objects_come_from_the_given_names(world: World) -> None:
    drawn = {thing.name for seed in range(40) for thing in world.scene(seed, things=["kitten", "dog"]).things}
    assert drawn == {"cat", "dog"}
    assert not world.scene(0, count=0).things
    for count in (2, 3, 4):
        assert len(world.scene(0, count=count).things) == count


@pytest.mark.parametrize("size", [16, 48, 96])
def test_scenes_of_other_sizes(glyphs: GlyphSet, size: int) -> None:
    scene = World(glyphs, size=size, variants=1).scene(3)
    assert scene.image.shape == (size, size, 3)


def test_bad_arguments_are_refused(glyphs: GlyphSet, world: World) -> None:
    with pytest.raises(ValueError, match="size=8"):
        World(glyphs, size=8)
    with pytest.raises(ValueError, match="count=5"):
        world.scene(0, count=5)
    with pytest.raises(ValueError, match="out of 1, got count=2"):
        world.scene(0, things=["cat", "kitten"], count=2)
    with pytest.raises(ValueError, match="wolf"):
        world.scene(0, things=["wolf"])


def test_every_thing_and_stuff_is_drawn(world: World) -> None:
    scenes = [world.scene(seed, count=4) for seed in range(150)]
    assert {thing.name for scene in scenes for thing in scene.things} == set(THING_NAMES)
    assert {scene.stuff.name for scene in scenes} == set(STUFF_NAMES)


def test_scenes_are_drawn_by_several_artists(glyphs: GlyphSet) -> None:
    other = GlyphSet(TWEMOJI)
    alone = [World(one, variants=1, jitter=Jitter(mirror=0)) for one in (glyphs, other)]
    mixed = World(Styles([glyphs, other], "scene"), variants=1, jitter=Jitter(mirror=0))
    artists: Counter[int] = Counter()
    for seed in range(40):
        scene = mixed.scene(seed, things=["cat"], count=1)
        assert scene.captions
        mean = scene.image[scene.labels == LABEL_IDS["cat"]].mean(0)
        theirs = []
        for world in alone:
            drawn = world.scene(seed, things=["cat"], count=1)
            theirs.append(drawn.image[drawn.labels == LABEL_IDS["cat"]].mean(0))
        artists[int(np.argmin([np.abs(mean - one).sum() for one in theirs]))] += 1
    assert min(artists[0], artists[1]) > 10


def test_objects_are_made_smaller_down_to_a_share(glyphs: GlyphSet) -> None:
    def sizes(smallest: float) -> list[int]:
        world = World(glyphs, variants=1, smallest=smallest)
        return [int((world.scene(seed, count=1).labels < 45).sum()) for seed in range(60)]

    plain, smaller = sizes(1.0), sizes(0.3)
    assert 0.25 * np.mean(plain) < np.mean(smaller) < 0.65 * np.mean(plain)
