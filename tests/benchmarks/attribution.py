"""Attribution maps: what is read of the cross-attention while pictures are drawn, in three ways.

Every map of the class's tokens is kept and averaged at the end; or a sum is kept, of softmaxed attention to all tokens;
or the sum, and attention to the class's tokens alone.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import nullcontext
from typing import TYPE_CHECKING, Any

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


class AllTokens:
    """As it was: the probabilities of all tokens in float32, of which the class's are taken."""

    def __init__(self) -> None:
        self.sum: Tensor | None = None
        self.count = 0

    def add(self, queries: Tensor, keys: Tensor, heads: int, scale: float) -> None:
        from torch.nn import functional as F

        from ovseg_cli.backbones.attention import attention_probabilities

        probabilities = attention_probabilities(queries[-BATCH:], keys[-BATCH:], heads, scale)
        side = round(queries.shape[1] ** 0.5)
        maps = probabilities[..., list(POSITIONS)].permute(0, 1, 3, 2).reshape(BATCH, -1, side, side)
        if side != GRID:
            maps = F.interpolate(maps, (GRID, GRID), mode="bicubic", align_corners=False)
        mean = maps.clamp(min=0).mean(dim=1)
        self.sum = mean if self.sum is None else self.sum + mean
        self.count += 1

    def mean(self) -> Tensor:
        assert self.sum is not None
        return self.sum / self.count


def all_tokens(device: str) -> Job:
    import torch

    layers = synthetic_layers(device)

    @torch.inference_mode()
    def job() -> np.ndarray:
        attribution = AllTokens()
        for call in attention_calls(layers):
            attribution.add(*call)
        return attribution.mean().cpu().numpy()

    return job


def costs(attribution: Any) -> tuple[int, int]:
    """Operators of one step in half precision (each is a kernel or a few on a GPU), and bytes that they make."""
    import torch
    from torch._subclasses import FakeTensorMode
    from torch.utils._python_dispatch import TorchDispatchMode

    found = [0, 0]

    class Count(TorchDispatchMode):
        def __torch_dispatch__(self, func: Any, _types: Any, args: Any = (), kwargs: Any = None) -> Any:
            answer = func(*args, **(kwargs or {}))
            if func.namespace == "aten" and not func.is_view and isinstance(answer, torch.Tensor):
                found[0] += 1
                found[1] += answer.numel() * answer.element_size()
            return answer

    with torch.inference_mode(), FakeTensorMode():
        layers = [
            tuple(
                torch.empty(2 * BATCH, tokens, width, device="cuda", dtype=torch.float16)
                for tokens in (side**2, TOKENS)
            )
            for side, width in LAYERS
        ]
        for step in range(2):  # the first one sends what is sent once
            with Count() if step else nullcontext():
                for queries, keys in layers:
                    attribution.add(queries, keys, HEADS, 0.1)
    return found[0], found[1]


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


def fewer_operators(baseline: np.ndarray, answer: np.ndarray) -> str:
    from ovseg_cli.backbones.attention import RunningAttribution

    same = equal_maps(baseline, answer)
    before = costs(AllTokens())
    after = costs(RunningAttribution(BATCH * [POSITIONS], GRID, min_grid=8))
    made = f"{after[1] / 1e6:.0f} MB made for {before[1] / 1e6:.0f}"
    return f"{same}; a step of {after[0]} operators for {before[0]}, {made}"


BENCHMARK = Benchmark(
    name="attribution",
    question=f"attribution maps of {BATCH} images in {STEPS} steps, layers of Stable Diffusion 1.5's sizes",
    cases=(
        Case(name="all-maps", what="keep every map, average at the end", prepare=all_maps),
        Case(name="all-tokens", what="keep the sum", prepare=all_tokens, baseline="all-maps", agree=equal_maps),
        Case(
            name="running-mean",
            what="keep the sum, read the class's tokens alone",
            prepare=running_mean,
            baseline="all-tokens",
            agree=fewer_operators,
        ),
    ),
)
