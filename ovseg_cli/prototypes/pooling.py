"""Masked features to prototypes: class mean, instance means and part centroids (OVDiff, section 3.2)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torch.nn import functional as F

from ovseg_cli.clustering.kmeans import kmeans

Vectors = npt.NDArray[np.float32]

POINTS_PER_PART = 256
"""k-means sees at most this many sampled pixels per centroid, so memory does not grow with the support set."""


@dataclass(frozen=True, slots=True)
class PooledPrototype:
    """One prototype before it is stored.

    Attributes:
        kind: "mean" (all images), "instance" (one image) or "part" (k-means centroid).
        vector: float32 (D,), not normalised.
        pixels: How many feature cells were pooled.
        support: Position of the support image: an instance's own; for a part the one that gave most of its pixels;
            None for the mean.
    """

    kind: Literal["mean", "instance", "part"]
    vector: Vectors
    pixels: int
    support: int | None = None


def masks_to_grid(masks: Tensor, grid: tuple[int, int], threshold: float) -> Tensor:
    """Masks on the feature grid.

    Args:
        masks: bool (N, H, W).
        grid: (rows, columns) of the feature map.
        threshold: A cell is inside when the bilinearly resized mask is above this. At 0 any overlap of the
            sampled pixels counts, as in the published code.

    Returns:
        bool (N, rows, columns). A mask so small that it slips between the sampled pixels marks the cells that
        it touches; it would be lost otherwise.
    """
    as_numbers = masks[:, None].float()
    cells = F.interpolate(as_numbers, grid, mode="bilinear", align_corners=False)[:, 0] > threshold
    lost = ~cells.flatten(1).any(dim=1) & masks.flatten(1).any(dim=1)
    if lost.any():
        cells[lost] = F.adaptive_max_pool2d(as_numbers[lost], grid)[:, 0] > 0
    return cells


class PrototypePool:
    """Pools one role (fg or bg) of one class for one extractor, image by image.

    Only means and a bounded sample of pixels are kept, on the device that the features are on: 32 images of 7680
    channels have 4 GB of features, and 1 MB of means.

    Args:
        parts: Number of k-means centroids, at most.
        images: How many support images will come, which divides the sample fairly among them.
        seed: Of the sample and of k-means.
        spherical: Whether parts are clusters by angle; see `kmeans`.
    """

    def __init__(self, *, parts: int, images: int, seed: int, spherical: bool = False) -> None:
        self._parts = parts
        self._spherical = spherical
        self._per_image = -(-parts * POINTS_PER_PART // max(images, 1))
        self._seed = seed
        self._random = np.random.default_rng(seed)
        self._means: list[Tensor] = []
        self._counts: list[int] = []
        self._supports: list[int] = []
        self._sample: list[Tensor] = []
        self._sources: list[int] = []

    def add(self, features: Tensor, mask: Tensor, support: int) -> None:
        """Pool one support image; an image with an empty mask gives nothing.

        Args:
            features: float (D, rows, columns), on any device.
            mask: bool (rows, columns), on the CPU: what a device chooses by a mask, the CPU has to wait for.
            support: Position of the support image.
        """
        places = mask.flatten().nonzero()[:, 0]
        if not len(places):
            return
        cells = features.flatten(1).index_select(1, places.to(features.device)).float()
        whole = cells.isfinite().all(dim=0).cpu()
        if not whole.all():
            left = whole.nonzero()[:, 0]
            if not len(left):
                return
            cells = cells.index_select(1, left.to(cells.device))
        count = cells.shape[1]
        self._means.append(cells.mean(dim=1, dtype=torch.float64).float())
        self._counts.append(count)
        self._supports.append(support)
        if count > self._per_image:
            drawn = np.sort(self._random.choice(count, self._per_image, replace=False))
            cells = cells.index_select(1, torch.from_numpy(drawn).to(cells.device))
        self._sample.append(cells.T.contiguous())
        self._sources += [support] * cells.shape[1]

    def prototypes(self) -> list[PooledPrototype]:
        """The class mean over all pixels of all images, the instances, and the part centroids; empty without pixels."""
        if not self._means:
            return []
        means = torch.stack(self._means).cpu().numpy()
        weights = np.array(self._counts, dtype=np.float64)
        mean = (weights[:, None] * means.astype(np.float64)).sum(axis=0) / weights.sum()
        whole = PooledPrototype("mean", mean.astype(np.float32), int(weights.sum()))
        each = zip(means, self._counts, self._supports, strict=True)
        instances = [PooledPrototype("instance", vector, count, support) for vector, count, support in each]
        return [whole, *instances, *self._part_centroids()]

    def _part_centroids(self) -> list[PooledPrototype]:
        points = torch.cat(self._sample)
        self._sample = [points]
        parts = min(self._parts, len(points))
        if parts == 0:
            return []
        found = kmeans(points, parts, seed=self._seed, spherical=self._spherical)
        centroids, assignment = (part.cpu().numpy() for part in found)
        sources = np.array(self._sources)
        pooled = []
        for number, centroid in enumerate(centroids):
            votes = np.bincount(sources[assignment == number])
            if votes.size:
                pooled.append(PooledPrototype("part", centroid, int(votes.sum()), int(votes.argmax())))
        return pooled
