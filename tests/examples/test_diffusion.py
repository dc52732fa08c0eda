from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from diffusers import UNet2DConditionModel
from torch import nn

from examples.mini_pack import diffusion
from examples.mini_pack.autoencoder import fit_components, new_autoencoder
from examples.mini_pack.config import AutoencoderConfig, DiffusionConfig
from examples.mini_pack.dataset import Dataset, DatasetSpec, render_dataset
from examples.mini_pack.diffusion import Denoiser, attention_loss, draw_scenes, new_unet, train_diffusion
from examples.mini_pack.tokens import Encoded
from examples.mini_pack.training import Clock, Schedule

SMALL = DiffusionConfig(unet_widths=(32, 32, 64), text_width=32)


@pytest.fixture(scope="module")
def unet() -> UNet2DConditionModel:
    torch.manual_seed(0)
    return new_unet(SMALL, latent_channels=4, latent_size=16).eval()


@pytest.fixture
def inputs() -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(1)
    return (
        torch.randn(2, 4, 16, 16, generator=generator),
        torch.tensor([5, 700]),
        torch.randn(2, 7, 32, generator=generator),
    )


@torch.no_grad()
def test_the_denoiser_predicts_what_the_unet_predicts(
    unet: UNet2DConditionModel, inputs: tuple[torch.Tensor, ...]
) -> None:
    plain = unet(*inputs).sample
    before = dict(unet.attn_processors)
    denoiser = Denoiser(unet)
    sample, maps = denoiser(*inputs)
    assert torch.allclose(sample, plain, atol=1e-5)
    # two layers at 16x16, three at 8x8 and one at 4x4
    assert sorted(m.shape[1] for m in maps) == [16, 64, 64, 64, 256, 256]
    for layer in maps:
        assert torch.allclose(layer.sum(-1), torch.ones(2, layer.shape[1]), atol=1e-5)
    assert len(denoiser(*inputs)[1]) == 6  # nothing is kept from the call before
    denoiser.release()
    assert unet.attn_processors == before


def reference_loss(maps: list[np.ndarray], tokens: np.ndarray, regions: np.ndarray, valid: np.ndarray) -> float:
    per_layer = []
    for layer in maps:
        side = round(layer.shape[1] ** 0.5)
        if side < 8:
            continue
        cell = regions.shape[-1] // side
        entropies, outsides = [], []
        for b, p in zip(*np.nonzero(valid), strict=True):
            mass = np.clip(layer[b] @ tokens[b, p], 1e-4, 1 - 1e-4)
            target = regions[b, p].reshape(side, cell, side, cell).mean((1, 3)).ravel()
            entropies.append(-(target * np.log(mass) + (1 - target) * np.log(1 - mass)).mean())
            outsides.append((1 - (mass * target).sum() / mass.sum()) ** 2)
        per_layer.append(np.mean(entropies) + 0.5 * np.mean(outsides))
    return float(np.mean(per_layer))


def test_the_attention_loss_against_a_loop() -> None:
    rng = np.random.default_rng(0)
    maps = [rng.dirichlet(np.ones(6), (2, side * side)).astype(np.float32) for side in (16, 8, 4)]
    tokens = (rng.random((2, 3, 6)) < 0.3).astype(np.float32)
    regions = (rng.random((2, 3, 32, 32)) < 0.4).astype(np.float32)
    valid = np.array([[True, False, True], [False, True, False]])
    loss = attention_loss([torch.from_numpy(m) for m in maps], *(torch.from_numpy(x) for x in (tokens, regions, valid)))
    assert float(loss) == pytest.approx(reference_loss(maps, tokens, regions, valid), rel=1e-5)


def test_a_map_that_is_the_mask_has_the_least_loss() -> None:
    region = torch.zeros(1, 1, 16, 16)
    region[..., 4:12, 4:12] = 1
    tokens = torch.tensor([[[0.0, 1.0]]])
    valid = torch.ones(1, 1, dtype=torch.bool)

    def loss(inside: torch.Tensor) -> float:
        flat = inside.reshape(1, -1)
        return float(attention_loss([torch.stack([1 - flat, flat], -1)], tokens, region, valid))

    exact = loss(region)
    assert exact < 0.001
    assert loss(region.roll(2, -1)) > 10 * exact
    assert loss(torch.full_like(region, 0.25)) > 10 * exact
    assert loss(1 - region) > loss(region.roll(2, -1))


def test_a_batch_without_words_has_no_attention_loss() -> None:
    maps = [torch.rand(1, 64, 3, requires_grad=True)]
    nothing = torch.zeros(1, 1, dtype=torch.bool)
    loss = attention_loss(maps, torch.zeros(1, 1, 3), torch.zeros(1, 1, 16, 16), nothing)
    assert float(loss.detach()) == 0
    loss.backward()  # type: ignore[no-untyped-call]
    assert maps[0].grad is not None
    assert not maps[0].grad.any()


@pytest.fixture(scope="module")
def sets(tmp_path_factory: pytest.TempPathFactory, glyphs: object) -> list[Dataset]:
    found = []
    for size, scenes in ((32, 40), (64, 20)):
        folder = tmp_path_factory.mktemp("scenes")
        list(render_dataset(folder, DatasetSpec(scenes=scenes, size=size)))
        found.append(Dataset(folder))
    return found


class Words:
    """Stands in for a tokenizer: three tokens, the second of which is every name."""

    length = 3

    def encode(self, caption: str, names: Sequence[str] = ()) -> Encoded:
        return Encoded(ids=torch.tensor([len(caption), 1, 2]), words={name: [1] for name in names})


def test_steps_take_scenes_of_either_size_and_as_many_pixels(sets: list[Dataset]) -> None:
    draw = draw_scenes(sets, Words(), DiffusionConfig(), channels=8, factor=4, batch=12)
    seen = set()
    for seed in range(12):
        batch = draw(torch.Generator().manual_seed(seed))
        count, side = batch["images"].shape[:2]
        seen.add((count, side))
        assert batch["noise"].shape == (count, 8, side // 4, side // 4)
        assert batch["labels"].shape == (count, side, side)
        for row in range(count):
            named = set(batch["named"][row].tolist()) - {0}
            assert named <= set(batch["labels"][row].unique().tolist())
            dropped = batch["ids"][row, 0] == 0
            assert bool(named) == bool(batch["timesteps"][row] < 700 and not dropped)
            assert torch.equal(batch["tokens"][row, :, 1] > 0, batch["named"][row] > 0)
    assert seen == {(12, 32), (3, 64)}


@pytest.mark.slow
def test_a_training_on_both_sizes_reaches_attention_of_both(
    sets: list[Dataset], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: set[int] = set()
    loss = diffusion.attention_loss

    def watched(maps: Sequence[torch.Tensor], *rest: torch.Tensor) -> torch.Tensor:
        seen.update(layer.shape[1] for layer in maps)
        return loss(maps, *rest)

    monkeypatch.setattr(diffusion, "attention_loss", watched)
    torch.manual_seed(0)
    unet = new_unet(SMALL, 8, 8)
    vae = new_autoencoder(AutoencoderConfig(widths=(16, 48, 96)), fit_components(sets[0], 8), 32).eval()
    encoder = nn.Embedding(1000, 32)
    encoder.forward = lambda ids: SimpleNamespace(last_hidden_state=F.embedding(ids, encoder.weight))  # type: ignore
    schedule = Schedule(steps=6, batch=4, lr=1e-4)
    before = unet.conv_in.weight.detach().clone()
    train_diffusion(unet, encoder, vae, Words(), sets, tmp_path, SMALL, schedule, Clock(), device="cpu", compiled=False)  # type: ignore[arg-type]
    assert {64, 256} <= seen  # 8x8 and 16x16: the finest grids of pictures of 32 and of 64 pixels
    assert not torch.equal(unet.conv_in.weight, before)
    row = (tmp_path / "diffusion.csv").read_text().splitlines()[-1].split(",")
    assert all(np.isfinite(float(value)) for value in row)
