"""Nearest prototype: `prototype_scores` at the layers' native resolution, against resizing and stacking them first."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

import numpy as np

from tests.benchmarks.harness import Benchmark, Case, DisagreementError, Job

if TYPE_CHECKING:
    from torch import Tensor

PER_ROLE = 65
"""A class's prototypes of one role: the mean, 32 instances and 32 parts, as in OVDiff."""

SD_LAYERS = ((320, 64), (1280, 8), *[(1280, 16)] * 3, *[(640, 32)] * 3, (320, 64))
"""Channels and grid of the layers that the profile `sd15` reads from Stable Diffusion, 7680 channels together."""

CLIP_LAYERS = ((768, 28),)

SD_CROPS, SD_CLASSES = 4, 21
CLIP_CROPS, CLIP_CLASSES = 1, 500


def synthetic(
    layers: tuple[tuple[int, int], ...], crops: int, classes: int, device: str
) -> tuple[list[Tensor], Tensor, Tensor]:
    """Random feature maps of crops, unit prototypes of both roles of every class, and the channel of each prototype."""
    import torch
    from torch.nn import functional as F

    random = torch.Generator().manual_seed(0)
    maps = [torch.randn(crops, width, side, side, generator=random).to(device) for width, side in layers]
    width = sum(width for width, _ in layers)
    vectors = F.normalize(torch.randn(2 * PER_ROLE * classes, width, generator=random), dim=1).to(device)
    channel = torch.arange(1, classes + 1).repeat_interleave(2 * PER_ROLE)
    channel[torch.arange(len(channel)) % (2 * PER_ROLE) >= PER_ROLE] = 0
    return maps, vectors, channel.to(device)


def shipped(layers: tuple[tuple[int, int], ...], crops: int, classes: int, device: str) -> Job:
    import torch

    from ovseg_cli.methods.prototype import prototype_scores

    maps, vectors, channel = synthetic(layers, crops, classes, device)

    @torch.inference_mode()
    def job() -> np.ndarray:
        return prototype_scores(maps, vectors, channel, classes + 1).cpu().numpy()

    return job


def concatenated(layers: tuple[tuple[int, int], ...], crops: int, classes: int, device: str) -> Job:
    """One map of all channels for all crops; then crop by crop all cosines, without a normalised copy of the map."""
    import torch

    from ovseg_cli.models import concatenate_maps

    maps, vectors, channel = synthetic(layers, crops, classes, device)

    @torch.inference_mode()
    def job() -> np.ndarray:
        joined = concatenate_maps(maps).flatten(2)
        best = joined.new_full((crops, classes + 1, joined.shape[2]), -1.0)
        for image, scores in zip(joined, best, strict=True):
            cosines = vectors @ image / torch.linalg.vector_norm(image, dim=0)
            scores.scatter_reduce_(0, channel[:, None].expand_as(cosines), cosines, reduce="amax")
        return best.view(crops, classes + 1, *[max(side for _, side in layers)] * 2).cpu().numpy()

    return job


def equal_scores(baseline: np.ndarray, answer: np.ndarray) -> str:
    difference = float(np.abs(baseline - answer).max())
    if not difference <= 1e-5:
        raise DisagreementError(f"the cosines differ by {difference:.1e}")
    return f"differs by {difference:.0e}"


SD = (SD_LAYERS, SD_CROPS, SD_CLASSES)
CLIP = (CLIP_LAYERS, CLIP_CROPS, CLIP_CLASSES)

BENCHMARK = Benchmark(
    name="scoring",
    question=(
        f"{SD_CROPS} crops' features of Stable Diffusion's 9 layers, {SD_CLASSES} classes; "
        f"{CLIP_CROPS} crop's features of CLIP, {CLIP_CLASSES} classes; {2 * PER_ROLE} prototypes each"
    ),
    cases=(
        Case(name="concatenated", what="9 layers: stacked, then compared", prepare=partial(concatenated, *SD)),
        Case(
            name="native",
            what="9 layers: compared where they are, as shipped",
            prepare=partial(shipped, *SD),
            baseline="concatenated",
            agree=equal_scores,
        ),
        Case(name="many-at-once", what="1 layer, all products at once", prepare=partial(concatenated, *CLIP)),
        Case(
            name="many",
            what="1 layer, products in parts, as shipped",
            prepare=partial(shipped, *CLIP),
            baseline="many-at-once",
            agree=equal_scores,
        ),
    ),
)
