from __future__ import annotations

import math
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from transformers import ViTConfig, ViTModel

from examples.mini_pack import selfsup
from examples.mini_pack.selfsup import (
    MEAN,
    STD,
    Pictures,
    SelfSupConfig,
    balanced_targets,
    centre_keys,
    change_colours,
    cluster_loss,
    crop,
    draw_boxes,
    draw_colours,
    normalise,
    save,
    token_probe,
    tokens_at,
    train_selfsup,
    update_teacher,
)
from examples.mini_pack.training import Clock, Schedule, Stopped
from examples.mini_pack.vocabulary import LABEL_IDS, LABEL_NAMES, THING_NAMES
from ovseg_cli.backbones.vit import VitBackbone

TINY = SelfSupConfig(width=64, layers=2, size=32, local_size=16, class_prototypes=8, patch_prototypes=16)
SCHEDULE = Schedule(steps=4, batch=4, lr=1e-3, warmup=2, ema=0)


def scenes(count: int, size: int = 32) -> Any:
    """Stands in for a rendered data set: blocks of random colours."""
    rng = np.random.default_rng(0)
    blocks = rng.integers(0, 256, (count, size // 8, size // 8, 3), np.uint8)

    class Scenes(SimpleNamespace):
        def __len__(self) -> int:
            return count

    return Scenes(images=blocks.repeat(8, 1).repeat(8, 2))


def tiny_vit() -> ViTModel:
    torch.manual_seed(0)
    config = ViTConfig(
        hidden_size=64, num_hidden_layers=2, num_attention_heads=2, intermediate_size=64, patch_size=8, image_size=32
    )
    return ViTModel(config, add_pooling_layer=False, use_mask_token=True).eval()


class Steps:
    """A clock that stops after a number of steps."""

    def __init__(self, steps: int) -> None:
        self._left = steps

    @property
    def spent(self) -> bool:
        self._left -= 1
        return self._left < 0


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, ViTModel]:
    folder = tmp_path_factory.mktemp("whole")
    return folder, train_selfsup(scenes(12), folder, TINY, SCHEDULE, Clock(), device="cpu", compiled=False)


def test_a_training_has_finite_losses_and_moves_every_weight_of_the_teacher(trained: tuple[Path, ViTModel]) -> None:
    folder, vit = trained
    header, line = (folder / "selfsup.csv").read_text().splitlines()
    figures = dict(zip(header.split(","), map(float, line.split(",")), strict=True))
    # cosines start out nearly equal, so that the cross-entropy over K clusters starts near log K
    assert figures["loss"] == pytest.approx(math.log(8), abs=0.7)
    assert figures["dense"] == pytest.approx(math.log(16), abs=0.7)
    with torch.random.fork_rng():
        torch.manual_seed(SCHEDULE.seed)
        fresh = selfsup.Branch(TINY).vit.state_dict()
    still = {name for name, value in vit.state_dict().items() if torch.equal(value, fresh[name])}
    assert still == set()


def test_a_training_that_was_stopped_ends_as_one_that_was_not(trained: tuple[Path, ViTModel], tmp_path: Path) -> None:
    with pytest.raises(Stopped):
        train_selfsup(scenes(12), tmp_path, TINY, SCHEDULE, Steps(2), device="cpu", compiled=False)
    resumed = train_selfsup(scenes(12), tmp_path, TINY, SCHEDULE, Clock(), device="cpu", compiled=False)
    torch.testing.assert_close(resumed.state_dict(), trained[1].state_dict(), rtol=0, atol=0)


def test_a_second_moving_average_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"ema=0 .* got 0\.9"):
        train_selfsup(
            scenes(4),
            tmp_path,
            TINY,
            Schedule(steps=1, batch=2, lr=0.1, ema=0.9),
            Clock(),
            device="cpu",
            compiled=False,
        )


def test_a_saved_folder_gives_the_backbone_the_same_keys(trained: tuple[Path, ViTModel], tmp_path: Path) -> None:
    vit = trained[1]
    save(tmp_path, vit)
    assert {path.name for path in tmp_path.iterdir()} == {
        "config.json",
        "model.safetensors",
        "preprocessor_config.json",
    }
    pictures = torch.rand(2, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    loaded = VitBackbone.load(tmp_path, device="cpu").keys(pictures, block=-1, input_size=64, mean=MEAN, std=STD)
    ours = VitBackbone(vit, "cpu").keys(pictures, block=-1, input_size=64, mean=MEAN, std=STD)
    assert loaded.shape == (2, 64, 8, 8)
    assert F.cosine_similarity(loaded, ours).min() > 0.999


def test_centred_keys_have_no_mean_and_change_nothing_else() -> None:
    vit = tiny_vit()
    for layer in vit.layers:
        torch.nn.init.normal_(layer.attention.k_proj.bias)
    pictures = torch.rand(3, 3, 64, 64, generator=torch.Generator().manual_seed(1))
    with torch.inference_mode():
        before = vit(normalise(pictures), interpolate_pos_encoding=True).last_hidden_state
        centre_keys(vit, pictures)
        after = vit(normalise(pictures), interpolate_pos_encoding=True).last_hidden_state
    torch.testing.assert_close(after, before, atol=1e-4, rtol=1e-4)
    for block in (0, 1):
        keys = VitBackbone(vit, "cpu").keys(pictures, block=block, input_size=64, mean=MEAN, std=STD)
        assert keys.mean((0, 2, 3)).abs().max() < 1e-5 < keys.std()


def test_the_teacher_is_the_moving_average_of_the_student() -> None:
    torch.manual_seed(0)
    teacher, student = torch.nn.Linear(3, 2), torch.nn.Linear(3, 2)
    weight, bias = teacher.weight.detach().clone(), teacher.bias.detach().clone()
    update_teacher(teacher.requires_grad_(False), student, 0.9)
    torch.testing.assert_close(teacher.weight, 0.9 * weight + 0.1 * student.weight.detach())
    torch.testing.assert_close(teacher.bias, 0.9 * bias + 0.1 * student.bias.detach())


def test_the_momentum_rises_from_its_start_to_one() -> None:
    momenta = [SelfSupConfig(momentum=0.9).momentum_at(step / 11) for step in range(12)]
    assert momenta[0] == pytest.approx(0.9)
    assert momenta[-1] == pytest.approx(1.0)
    assert momenta == sorted(momenta)


def test_the_loss_is_the_cross_entropy_summed_by_hand() -> None:
    generator = torch.Generator().manual_seed(0)
    cosines, targets = torch.rand(5, 4, generator=generator), torch.rand(5, 4, generator=generator).softmax(-1)
    total = 0.0
    for student, teacher in zip(cosines.tolist(), targets.tolist(), strict=True):
        norm = sum(math.exp(c / 0.1) for c in student)
        total -= sum(p * math.log(math.exp(c / 0.1) / norm) for c, p in zip(student, teacher, strict=True))
    assert float(cluster_loss(cosines, targets, 0.1)) == pytest.approx(total / 5, rel=1e-5)


def test_targets_spread_a_batch_over_all_clusters() -> None:
    # every row prefers cluster 0; a plain softmax would give it everything
    cosines = torch.rand(64, 4, generator=torch.Generator().manual_seed(0)) * 0.2
    cosines[:, 0] += 0.3
    targets = balanced_targets(cosines, 0.1)
    torch.testing.assert_close(targets.sum(1), torch.ones(64))
    torch.testing.assert_close(targets.mean(0), torch.full((4,), 0.25), atol=0.02, rtol=0)
    assert (cosines / 0.1).softmax(-1).mean(0)[0] > 0.8


def test_boxes_lie_within_the_scene_and_have_the_areas_asked_for() -> None:
    boxes = draw_boxes(500, (0.2, 0.6), torch.Generator().manual_seed(0))
    half = boxes[:, :2].abs()
    assert (boxes[:, 2:].abs() + half <= 1 + 1e-6).all()
    area = half.prod(1)
    assert 0.2 - 1e-6 <= area.min() < 0.22
    assert 0.58 < area.max() <= 0.6 + 1e-6
    assert 0.4 < (boxes[:, 0] < 0).float().mean() < 0.6


def test_a_crop_of_whole_pixels_is_a_slice() -> None:
    scene = torch.rand(1, 3, 8, 8, generator=torch.Generator().manual_seed(0))
    box = torch.tensor([[0.5, 0.5, 0.25, -0.5]])  # columns 3 to 6, rows 0 to 3
    torch.testing.assert_close(crop(scene, box, 4), scene[:, :, 0:4, 3:7])
    mirrored = box * torch.tensor([-1.0, 1, 1, 1])
    torch.testing.assert_close(crop(scene, mirrored, 4), scene[:, :, 0:4, 3:7].flip(-1))


def test_tokens_of_another_crop_are_those_of_the_same_place() -> None:
    # tokens that say where in the scene they are: asked for a place, a crop must answer with that place
    generator = torch.Generator().manual_seed(0)
    ours, theirs = draw_boxes(40, (0.3, 1.0), generator), draw_boxes(40, (0.3, 1.0), generator)
    tokens = selfsup._places(theirs, 8).flatten(1, 2)
    places = selfsup._places(ours, 8)
    values, inside = tokens_at(tokens, theirs, places)
    wanted = places.flatten(1, 2)
    low, high = tokens.amin(1, keepdim=True), tokens.amax(1, keepdim=True)  # outermost centres; beyond is clamped
    within = ((wanted >= low) & (wanted <= high)).all(-1)
    assert within.sum() > 500
    assert inside[within].all()
    torch.testing.assert_close(values[within], wanted[within], atol=1e-5, rtol=0)
    edge = theirs[:, None, :2].abs()
    torch.testing.assert_close(inside, ((wanted - theirs[:, None, 2:]).abs() <= edge).all(-1))


def recoloured(crops: torch.Tensor, seed: int = 1, **settings: float) -> torch.Tensor:
    config = SelfSupConfig(**settings)  # type: ignore[arg-type]
    return change_colours(crops, draw_colours(len(crops), config, torch.Generator().manual_seed(seed)))


def test_colours_change_a_little_and_grey_stays_grey() -> None:
    crops = torch.rand(8, 3, 4, 4, generator=torch.Generator().manual_seed(0)) * 0.6 + 0.1
    changed = recoloured(crops, jitter=0.1)
    assert 0 < (changed - crops).abs().max() < 0.25
    torch.testing.assert_close(recoloured(crops, jitter=0.0), crops)
    grey = crops.mean(1, keepdim=True).expand(-1, 3, -1, -1)
    changed = recoloured(grey, jitter=0.1, hue=3.0)
    torch.testing.assert_close(changed[:, :1].expand(-1, 3, -1, -1), changed)


def test_hues_turn_and_some_crops_lose_their_colour() -> None:
    crops = torch.tensor([0.6, 0.4, 0.4]).view(1, 3, 1, 1).expand(400, 3, 2, 2)
    turned = recoloured(crops, jitter=0.0, hue=math.pi)[..., 0, 0]
    torch.testing.assert_close(turned.mean(1), crops.mean((1, 2, 3)), atol=1e-3, rtol=0)
    assert turned.argmax(1).bincount(minlength=3).min() > 100
    third = change_colours(crops[:1], torch.tensor([1, 1, 1, 2 * math.pi / 3, 0]).view(5, 1))
    torch.testing.assert_close(third[0, :, 0, 0], torch.tensor([0.4, 0.6, 0.4]))
    without = recoloured(crops, jitter=0.0, grey=0.25)
    assert 60 < int((without[:, 0] == without[:, 1]).all((1, 2)).sum()) < 140


def labelled(seed: int) -> Pictures:
    """One scene per label: its left half is the label, its right half a ground (or another one)."""
    rng = np.random.default_rng(seed)
    count, things = len(LABEL_NAMES) - 1, len(THING_NAMES)
    labels = np.empty((count, 16, 16), np.uint8)
    labels[:, :, :8] = np.arange(1, count + 1)[:, None, None]
    labels[:, :, 8:] = np.arange(count)[:, None, None] % (count - things) + things + 1
    codes = np.random.default_rng(0).integers(0, 256, (len(LABEL_NAMES), 3))
    images = np.clip(codes[labels] + rng.integers(-2, 3, (*labels.shape, 3)), 0, 255).astype(np.uint8)
    return Pictures(images, labels)


def test_the_probe_gives_full_marks_to_features_that_tell_classes_apart_and_chance_to_noise() -> None:
    pictures = labelled(1)
    codes = F.one_hot(torch.from_numpy(pictures.labels[:, ::4, ::4]).long(), len(LABEL_NAMES)).permute(0, 3, 1, 2)
    seen = iter([codes[:26], codes[26:], codes[:26], codes[26:]])
    perfect = token_probe(lambda _images: next(seen), pictures, pictures, batch=26)
    assert (perfect.things, perfect.stuff, perfect.figure, perfect.joint) == (1, 1, 1, 1)
    generator = torch.Generator().manual_seed(0)
    noise = token_probe(lambda images: torch.randn(len(images), 64, 4, 4, generator=generator), pictures, pictures)
    assert noise.things < 0.15
    assert noise.joint < 0.15


def test_the_probe_names_a_class_that_it_cannot_measure() -> None:
    pictures = labelled(1)
    few = Pictures(pictures.images[1:], pictures.labels[1:])
    assert LABEL_IDS[THING_NAMES[0]] == 1
    with pytest.raises(ValueError, match="supports hold no token of 'cat'"):
        token_probe(lambda images: images, few, pictures)
    with pytest.raises(ValueError, match="queries hold no token of 'cat'"):
        token_probe(lambda images: images, pictures, few)
