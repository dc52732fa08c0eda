"""Attribution maps: a running mean of the cross-attention against keeping every map and averaging at the end."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

import numpy as np

from tests.benchmarks.harness import Benchmark, Case, DisagreementError, Job

if TYPE_CHECKING:
    from torch import Tensor

# Stable Diffusion 1.5 at 512 x 512: (side of the grid, width) of its 16 cross-attention layers, all of 8 heads.
LAYERS = 5 * [(64, 320)] + 5 * [(32, 640)] + 5 * [(16, 1280)] + [(8, 1280)]
HEADS, TOKENS, GRID = 8, 77, 64
BATCH, STEPS = 2, 16
POSITIONS = (5, 6)


def synthetic_layers(device: str) -> list[tuple[Tensor, Tensor, float]]:
    """(queries, keys, scale) per layer, of a guided batch."""
    import torch

    random = torch.Generator().manual_seed(0)
    return [
        (
            torch.randn(2 * BATCH, side * side, width, generator=random).to(device),
            torch.randn(2 * BATCH, TOKENS, width, generator=random).to(device),
            (width // HEADS) ** -0.5,
        )
        for side, width in LAYERS
    ]


def attention_calls(layers: list[tuple[Tensor, Tensor, float]]) -> Iterator[tuple[Tensor, Tensor, int, float]]:
    """What a sampling run shows: every layer at every step, sharper from step to step."""
    for step in range(STEPS):
        for queries, keys, scale in layers:
            yield queries, keys, HEADS, scale * (1 + step / STEPS)


def running_mean(device: str) -> Job:
    import torch

    from ovseg_cli.backbones.attention import RunningAttribution

    layers = synthetic_layers(device)

    @torch.inference_mode()
    def job() -> np.ndarray:
        attribution = RunningAttribution(BATCH * [POSITIONS], GRID, min_grid=8)
        for call in attention_calls(layers):
            attribution.add(*call)
        return attribution.mean().cpu().numpy()

    return job


def all_maps(device: str) -> Job:
    import torch
    from torch.nn import functional as F

    from ovseg_cli.backbones.attention import attention_probabilities

    layers = synthetic_layers(device)

    @torch.inference_mode()
    def job() -> np.ndarray:
        kept = []
        for queries, keys, heads, scale in attention_calls(layers):
            probabilities = attention_probabilities(queries[-BATCH:], keys[-BATCH:], heads, scale)
            side = round(probabilities.shape[2] ** 0.5)
            maps = probabilities[..., list(POSITIONS)].transpose(2, 3).reshape(BATCH, -1, side, side)
            if side != GRID:
                maps = F.interpolate(maps, (GRID, GRID), mode="bicubic", align_corners=False)
            kept.append(maps.clamp(min=0))
        return torch.stack(kept).mean(dim=(0, 2)).cpu().numpy()

    return job


def equal_maps(baseline: np.ndarray, answer: np.ndarray) -> str:
    difference = float(np.abs(baseline - answer).max())
    if not difference <= 1e-5:
        raise DisagreementError(f"the attribution maps differ by {difference:.1e}")
    return f"differs by {difference:.0e}"


BENCHMARK = Benchmark(
    name="attribution",
    question=f"attribution maps of {BATCH} images in {STEPS} steps, layers of Stable Diffusion 1.5's sizes",
    cases=(
        Case(name="all-maps", what="keep every map, average at the end", prepare=all_maps),
        Case(name="running-mean", what="keep the sum", prepare=running_mean, baseline="all-maps", agree=equal_maps),
    ),
)
