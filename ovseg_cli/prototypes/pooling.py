"""Masked features to prototypes: class mean, instance means and part centroids (OVDiff, section 3.2)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
import numpy.typing as npt
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

    Only running sums and a bounded sample of pixels are kept.

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
        self._instances: list[PooledPrototype] = []
        self._sample: list[Vectors] = []
        self._sources: list[int] = []

    def add(self, features: Tensor, mask: Tensor, support: int) -> None:
        """PooledPrototype one support image; an image with an empty mask gives nothing.

        Args:
            features: float (D, rows, columns).
            mask: bool (rows, columns).
            support: Position of the support image.
        """
        cells = features[:, mask].T.float().cpu().numpy()
        cells = cells[np.isfinite(cells).all(axis=1)]
        if not len(cells):
            return
        mean = cells.mean(axis=0, dtype=np.float64).astype(np.float32)
        self._instances.append(PooledPrototype("instance", mean, len(cells), support))
        if len(cells) > self._per_image:
            cells = cells[np.sort(self._random.choice(len(cells), self._per_image, replace=False))]
        self._sample.append(np.ascontiguousarray(cells))
        self._sources += [support] * len(cells)

    def prototypes(self) -> list[PooledPrototype]:
        """The class mean over all pixels of all images, the instances, and the part centroids; empty without pixels."""
        if not self._instances:
            return []
        weights = np.array([instance.pixels for instance in self._instances], dtype=np.float64)
        means = np.stack([instance.vector for instance in self._instances]).astype(np.float64)
        mean = (weights[:, None] * means).sum(axis=0) / weights.sum()
        whole = PooledPrototype("mean", mean.astype(np.float32), int(weights.sum()))
        return [whole, *self._instances, *self._part_centroids()]

    def _part_centroids(self) -> list[PooledPrototype]:
        points = np.concatenate(self._sample)
        parts = min(self._parts, len(points))
        if parts == 0:
            return []
        centroids, assignment = kmeans(points, parts, seed=self._seed, spherical=self._spherical)
        sources = np.array(self._sources)
        pooled = []
        for number, centroid in enumerate(centroids):
            votes = np.bincount(sources[assignment == number])
            if votes.size:
                pooled.append(PooledPrototype("part", centroid, int(votes.sum()), int(votes.argmax())))
        return pooled
