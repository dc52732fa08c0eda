from __future__ import annotations

from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from open_clip.model import CLIP

from examples.mini_pack.clip import (
    Towers,
    box_means,
    contrastive_loss,
    draw_crop,
    draw_pairs,
    model_config,
    show_pairs,
)
from examples.mini_pack.config import ClipConfig
from examples.mini_pack.dataset import Dataset, DatasetSpec, render_dataset
from examples.mini_pack.vocabulary import LABEL_IDS, STUFF_NAMES, THINGS


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory, glyphs: object) -> Dataset:
    folder = tmp_path_factory.mktemp("scenes")
    list(render_dataset(folder, DatasetSpec(scenes=60)))
    return Dataset(folder)


def test_with_different_captions_the_loss_is_clips() -> None:
    generator = torch.Generator().manual_seed(0)
    images, texts = (F.normalize(torch.randn(5, 8, generator=generator), dim=-1) for _ in range(2))
    logits = 10 * images @ texts.T
    expected = (F.cross_entropy(logits, torch.arange(5)) + F.cross_entropy(logits.T, torch.arange(5))) / 2
    loss = contrastive_loss(
        images, texts, torch.tensor(10.0), torch.eye(5, dtype=torch.bool), torch.zeros(5, 5, dtype=torch.bool)
    )
    assert float(loss) == pytest.approx(float(expected), rel=1e-5)


def test_skipped_pairs_do_not_count() -> None:
    generator = torch.Generator().manual_seed(0)
    images, texts = (F.normalize(torch.randn(3, 8, generator=generator), dim=-1) for _ in range(2))
    skipped = torch.tensor([[False, False, True], [False, False, False], [True, False, False]])
    logits = 10 * images @ texts.T
    kept = [(0, [0, 1]), (1, [0, 1, 2]), (2, [1, 2])]
    expected = sum(
        (table[row, columns].logsumexp(0) - table[row, row]) / 6
        for table in (logits, logits.T)
        for row, columns in kept
    )
    loss = contrastive_loss(images, texts, torch.tensor(10.0), torch.eye(3, dtype=torch.bool), skipped)
    assert float(loss) == pytest.approx(float(expected), rel=1e-5)


def test_equal_captions_are_no_negatives() -> None:
    texts = F.normalize(torch.tensor([[1.0, 0.0], [1.0, 0.0], [0.0, 1.0]]), dim=-1)
    same = torch.tensor([[True, True, False], [True, True, False], [False, False, True]])
    loss = contrastive_loss(texts, texts, torch.tensor(100.0), same, torch.zeros_like(same))
    # the best there is: both equal captions share the probability
    assert float(loss) == pytest.approx(2 / 3 * np.log(2), rel=1e-4)


def mentioned(text: str) -> set[str]:
    padded = f" {text} "
    return {thing.name for thing in THINGS if any(f" {word} " in padded for word in (thing.name, *thing.aliases))}


@pytest.mark.slow
def test_captions_of_crops_are_true_and_name_what_is_large(data: Dataset) -> None:
    rng = np.random.default_rng(0)
    sides = []
    for turn in range(600):
        index = turn % len(data)
        (top, left, side), text = draw_crop(data, index, ClipConfig(), rng)
        sides.append(side)
        inside = data.labels[index, top : top + side, left : left + side]
        assert inside.shape == (side, side)
        if side == 64:
            assert text in data.captions[index]
            continue
        named = mentioned(text)
        shares = {name: float((inside == label).mean()) for name, label in LABEL_IDS.items()}
        assert all(shares[name] > 0 for name in named)
        assert all(shares[thing.name] <= 0.25 for thing in THINGS if thing.name not in named)
        stuff = max(STUFF_NAMES, key=lambda name: shares[name])
        assert all(name == stuff or f" {name} " not in f" {text} " for name in STUFF_NAMES)  # not: snowman
        assert named or stuff in text
    assert min(sides) >= 16
    assert len({side for side in sides if side < 64}) > 40


@pytest.mark.parametrize("box", [(0, 0, 64), (8, 16, 24), (3, 41, 19)])
def test_box_means_weigh_patches_by_their_share(box: tuple[int, int, int]) -> None:
    generator = torch.Generator().manual_seed(0)
    patches = F.normalize(torch.randn(2, 64, 5, generator=generator), dim=-1)
    pixels = patches[0].reshape(8, 8, 5).repeat_interleave(8, 0).repeat_interleave(8, 1)
    top, left, side = box
    expected = F.normalize(pixels[top : top + side, left : left + side].mean((0, 1)), dim=0)
    found = box_means(patches, torch.tensor([box, (0, 0, 8)]), 64)
    torch.testing.assert_close(found[0], expected)
    torch.testing.assert_close(found[1], patches[1, 0])


def test_the_towers_give_open_clips_embeddings() -> None:
    torch.manual_seed(0)
    config = ClipConfig(embedding=8, width=32, layers=2, text_width=32, text_layers=1)
    model = CLIP(**model_config(config, 50, 32)).eval()
    pixels, ids = torch.randn(3, 3, 32, 32), torch.randint(1, 50, (3, 24))
    with torch.no_grad():
        images, patches, texts = Towers(model)(pixels, ids)
        torch.testing.assert_close(images, model.encode_image(pixels, normalize=True))
        torch.testing.assert_close(texts, model.encode_text(ids, normalize=True))
    assert patches.shape == (3, 16, 8)
    torch.testing.assert_close(patches.norm(dim=-1), torch.ones(3, 16))


def drawn(data: Dataset, config: ClipConfig, scenes: int = 40, seed: int = 0) -> dict[str, torch.Tensor]:
    words: Any = SimpleNamespace(encode=lambda text: SimpleNamespace(ids=torch.tensor([len(text)])))
    return draw_pairs(data, words, config, scenes)(torch.Generator().manual_seed(seed))


STILL = ClipConfig(gain=0, contrast=0, offset=0, blurred=0)


def test_crops_are_parts_of_their_scenes(data: Dataset) -> None:
    for seed in range(4):  # mirrored and not
        batch = drawn(data, STILL, seed=seed)
        pixels, boxes = show_pairs(batch)
        pixels = (pixels + 1) * 127.5
        whole = batch["images"].permute(0, 3, 1, 2).float()
        whole = whole.flip(-1) if batch["mirrored"] else whole
        torch.testing.assert_close(pixels[:40], whole, atol=1e-3, rtol=0)
        for index, (top, left, side) in enumerate(boxes.tolist()):
            part = whole[index : index + 1, :, top : top + side, left : left + side]
            expected = F.interpolate(part, (64, 64), mode="bilinear")[0]
            # at the border, the one looks at the pixel beyond and the other repeats its own
            assert (pixels[40 + index] - expected)[:, 4:-4, 4:-4].abs().max() < 0.1
    assert {bool(drawn(data, STILL, seed=seed)["mirrored"]) for seed in range(4)} == {True, False}


def test_equal_texts_have_equal_numbers(data: Dataset) -> None:
    batch = drawn(data, STILL, scenes=60)
    assert batch["texts"].shape == batch["ids"].shape[:1] == (120,)
    for number in batch["texts"].unique():
        assert len(batch["ids"][batch["texts"] == number].unique()) == 1
    assert 2 < len(batch["texts"].unique()) < 120


def test_objects_get_other_colours_and_grounds_keep_theirs(data: Dataset) -> None:
    batch = drawn(data, replace(STILL, recoloured=0.5), scenes=60)
    pixels, _ = show_pairs(batch)
    shown = (pixels[:60] + 1) * 127.5
    shown = shown.flip(-1) if batch["mirrored"] else shown
    changed = (shown - batch["images"].permute(0, 3, 1, 2)).abs().amax(1) > 1
    assert not changed[~batch["inside"]].any()
    scenes = changed.flatten(1).any(1)
    assert 10 < int(scenes.sum()) < 45
    assert "inside" not in drawn(data, STILL)
