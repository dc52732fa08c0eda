"""PAMR: neighbours added one by one in place, against unfolding all of them at once."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

import numpy as np

from tests.benchmarks.harness import Benchmark, Case, DisagreementError, Job

if TYPE_CHECKING:
    from torch import Tensor

SMALL, LARGE = (192, 256), (448, 597)
FEW, MANY = 21, 150
KEPT = 4
"""Classes whose scores are compared; all would fill the disk."""


def synthetic_input(size: tuple[int, int], classes: int, device: str) -> tuple[Tensor, Tensor]:
    """A picture of soft blobs with some noise, and smooth scores of the classes and the background."""
    import torch
    from torch.nn import functional as F

    random = torch.Generator().manual_seed(0)

    def smooth(channels: int, cells: int) -> Tensor:
        coarse = torch.rand(1, channels, cells, cells, generator=random)
        return F.interpolate(coarse, size, mode="bicubic", align_corners=False)

    picture = (smooth(3, 12) + 0.05 * torch.rand(1, 3, *size, generator=random)).clamp(0, 1)
    return picture.to(device), smooth(classes + 1, 14)[0].to(device)


def shifting(size: tuple[int, int], classes: int, device: str) -> Job:
    import torch

    from ovseg_cli.labeling.refine import pamr

    picture, scores = synthetic_input(size, classes, device)

    @torch.inference_mode()
    def job() -> np.ndarray:
        return pamr(picture, scores)[:KEPT].cpu().numpy()

    return job


def unfolding(size: tuple[int, int], classes: int, device: str) -> Job:
    import torch
    from torch.nn import functional as F

    from ovseg_cli.labeling.refine import DILATIONS, EPSILON, ITERATIONS, SHARPNESS

    picture, scores = synthetic_input(size, classes, device)
    others = [place for place in range(9 * len(DILATIONS)) if place % 9 != 4]

    def neighbourhoods(values: Tensor) -> Tensor:
        """(C, 9 * dilations, h, w) of (C, h, w)."""
        padded = [(F.pad(values[None], [d] * 4, mode="replicate"), d) for d in DILATIONS]
        unfolded = [F.unfold(image, 3, dilation=d).view(len(values), 9, *size) for image, d in padded]
        return torch.cat(unfolded, dim=1)

    @torch.inference_mode()
    def job() -> np.ndarray:
        around = neighbourhoods(picture[0])
        divisor = SHARPNESS * around.std(dim=1, keepdim=True) + EPSILON
        difference = (around[:, others] - picture[0][:, None]).abs() / divisor
        weights = (-difference.mean(dim=0)).softmax(dim=0)
        refined = scores
        for _ in range(ITERATIONS):
            refined = (neighbourhoods(refined)[:, others] * weights).sum(dim=1)
        return refined[:KEPT].cpu().numpy()

    return job


def equal_scores(baseline: np.ndarray, answer: np.ndarray) -> str:
    difference = float(np.abs(baseline - answer).max())
    if not difference <= 1e-4:
        raise DisagreementError(f"the scores differ by {difference:.1e}")
    return f"differs by {difference:.0e}"


def shifted(name: str, size: tuple[int, int], classes: int, baseline: str | None) -> Case:
    return Case(
        name=name,
        what=f"as shipped, {classes} classes, {size[1]} x {size[0]}",
        prepare=partial(shifting, size, classes),
        baseline=baseline,
        agree=equal_scores if baseline else None,
        repeats=1,
        heavy=size == LARGE,
    )


def unfolded(name: str, size: tuple[int, int], classes: int) -> Case:
    what = f"all neighbours at once, {classes} classes, {size[1]} x {size[0]}"
    return Case(name=name, what=what, prepare=partial(unfolding, size, classes), repeats=1, heavy=size == LARGE)


BENCHMARK = Benchmark(
    name="refine",
    question="PAMR, 10 iterations over 48 neighbours, at the working sizes of mini and sd15",
    cases=(
        unfolded("unfold-mini", SMALL, FEW),
        shifted("pamr-mini", SMALL, FEW, "unfold-mini"),
        unfolded("unfold-sd15", LARGE, FEW),
        shifted("pamr-sd15", LARGE, FEW, "unfold-sd15"),
        shifted("pamr-mini-150", SMALL, MANY, None),  # unfolding would take gigabytes
        shifted("pamr-sd15-150", LARGE, MANY, None),
    ),
)
