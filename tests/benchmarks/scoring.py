"""Nearest prototype: `prototype_scores` against normalising all features and comparing them with everything at once."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from tests.benchmarks.harness import Benchmark, Case, DisagreementError, Job

if TYPE_CHECKING:
    from torch import Tensor

CROPS, WIDTH, GRID = 6, 7680, 64
CLASSES, PER_CLASS = 3, 130


def synthetic(device: str) -> tuple[Tensor, Tensor, Tensor]:
    """Query features of the crops of one photograph, unit prototypes, and the channel of each."""
    import torch
    from torch.nn import functional as F

    random = torch.Generator().manual_seed(0)
    features = torch.randn(CROPS, WIDTH, GRID, GRID, generator=random).to(device)
    vectors = F.normalize(torch.randn(CLASSES * PER_CLASS, WIDTH, generator=random), dim=1).to(device)
    return features, vectors, (torch.arange(len(vectors)) % (CLASSES + 1)).to(device)


def shipped(device: str) -> Job:
    import torch

    from ovseg_cli.methods.prototype import prototype_scores

    features, vectors, channel = synthetic(device)

    @torch.inference_mode()
    def job() -> np.ndarray:
        return prototype_scores(features, vectors, channel, CLASSES + 1).cpu().numpy()

    return job


def everything_at_once(device: str) -> Job:
    import torch
    from torch.nn import functional as F

    features, vectors, channel = synthetic(device)

    @torch.inference_mode()
    def job() -> np.ndarray:
        cosines = torch.einsum("bdhw,pd->bphw", F.normalize(features, dim=1), vectors)
        best = [cosines[:, channel == index].amax(dim=1) for index in range(CLASSES + 1)]
        return torch.stack(best, dim=1).cpu().numpy()

    return job


def equal_scores(baseline: np.ndarray, answer: np.ndarray) -> str:
    difference = float(np.abs(baseline - answer).max())
    if not difference <= 1e-5:
        raise DisagreementError(f"the cosines differ by {difference:.1e}")
    return f"differs by {difference:.0e}"


BENCHMARK = Benchmark(
    name="scoring",
    question=f"{CROPS} crops' features of {WIDTH} channels at {GRID} x {GRID}, {CLASSES * PER_CLASS} prototypes",
    cases=(
        Case(name="at-once", what="normalised copy, all cosines", prepare=everything_at_once),
        Case(name="shipped", what="prototype_scores", prepare=shipped, baseline="at-once", agree=equal_scores),
    ),
)
