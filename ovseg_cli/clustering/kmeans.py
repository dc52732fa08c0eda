"""k-means of vectors, on their own device and the same on each.

Not faiss's: its copies of the vectors would go from the device to the CPU and back. What is drawn is drawn on the CPU,
sums are products of matrices, whose order does not change from run to run, and of equal distances the first counts.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torch.nn import functional as F

ROUNDS = 50
"""Rounds of Lloyd's algorithm, at most."""

START = "race"
"""How starting centroids are drawn (`_race`), for records: other draws end in other clusters, as good as these."""


def kmeans(points: Tensor, clusters: int, *, seed: int, spherical: bool = False) -> tuple[Tensor, Tensor]:
    """k-means: greedy k-means++ start, then Lloyd's algorithm.

    Args:
        points: float (N, D), on any device.
        clusters: K, at most N.
        seed: Of the starting centroids; any integer that is not negative.
        spherical: Cluster by cosine, the points and centroids brought to norm 1, instead of Euclidean distance.

    Returns:
        (centroids (K, D), index of each point's centroid int64 (N,)), as the points are. There are fewer than K
        centroids when there are fewer different points.
    """
    if spherical:
        points = F.normalize(points, dim=1)
    start = points[_greedy_start(points, clusters, np.random.default_rng(seed))]
    return lloyd(points, start, rounds=ROUNDS, spherical=spherical)


def lloyd(
    points: Tensor, centroids: Tensor, *, rounds: int, rest: float = 0.0, spherical: bool = False
) -> tuple[Tensor, Tensor]:
    """Rounds of Lloyd's algorithm, until no point changes its cluster.

    A cluster that lost all its points goes on from the point that is farthest from its centroid.

    Args:
        points: float (N, D).
        centroids: float (K, D), where they start.
        rounds: How many at most.
        rest: The rounds also end once the squares of all that centroids moved sum to no more than this.
        spherical: Whether centroids are brought to norm 1, as the points are.

    Returns:
        (centroids (K, D), index of the nearest one of each point int64 (N,)).
    """
    labels: Tensor | None = None
    for _ in range(rounds):
        found = _nearest(points, centroids)
        if labels is not None and torch.equal(found, labels):
            return centroids, found
        labels = found
        moved = _moved(points, labels, centroids)
        if spherical:
            moved = F.normalize(moved, dim=1)
        resting = rest > 0 and float((moved - centroids).square().sum()) <= rest
        centroids = moved
        if resting:
            break
    return centroids, _nearest(points, centroids)


def cluster_sums(points: Tensor, labels: Tensor, count: int) -> tuple[Tensor, Tensor]:
    """Sum of the points of each label (count, D), and their number (count,)."""
    members = points.new_zeros(len(points), count).scatter_(1, labels[:, None], 1)
    return members.T @ points, members.sum(dim=0)


def _nearest(points: Tensor, centroids: Tensor) -> Tensor:
    """Index of each point's nearest centroid, of equally near ones the first.

    The points' own squares, the same for all centroids, are left out: added, they would only take digits.
    """
    return torch.addmm(centroids.square().sum(dim=1), points, centroids.T, alpha=-2).argmin(dim=1)


def _moved(points: Tensor, labels: Tensor, centroids: Tensor) -> Tensor:
    """The mean of each cluster's points; an empty cluster's is the point that was farthest from its own centroid."""
    sums, counts = cluster_sums(points, labels, len(centroids))
    empty = (counts == 0).nonzero()[:, 0]
    if len(empty):
        distances = (points - centroids[labels]).square().sum(dim=1)
        for cluster, far in zip(empty, distances.argsort(descending=True, stable=True), strict=False):
            sums[labels[far]] -= points[far]
            counts[labels[far]] -= 1
            sums[cluster], counts[cluster] = points[far], 1
    return torch.where(counts[:, None] > 0, sums / counts[:, None].clamp_min(1), centroids)


def _greedy_start(points: Tensor, clusters: int, random: np.random.Generator) -> list[int]:
    """Indices of the starting centroids: k-means++ that tries several points at each step and takes the best.

    A point is drawn with the probability of its squared distance by a race, in which each point runs that distance in
    a time of its own from the exponential distribution. So distances that differ by rounding, or by half precision,
    draw the same points, but for one draw in as many as the difference is small. (With a place on the line of all
    distances, as k-means++ is mostly written, each draw hangs on the sum of all distances before it.)
    """
    squares = points.square().sum(dim=1)
    rounding = 8 * torch.finfo(points.dtype).eps

    def distances(chosen: list[int]) -> Tensor:
        """Squared distances of all points from the chosen ones, (len(chosen), N); of equal points exactly 0."""
        scale = squares[chosen][:, None] + squares
        found = torch.addmm(scale, points[chosen], points.T, alpha=-2)
        return found.masked_fill_(found <= rounding * scale, 0)

    start = [int(random.integers(len(points)))]
    nearest = distances(start)[0]
    tries = 2 + int(np.log(clusters))
    for _ in range(1, clusters):
        drawn = _race(nearest.cpu().numpy(), tries, random)
        if not drawn:  # every point lies on a centroid already
            break
        shrunk = torch.minimum(nearest, distances(drawn))
        best = int(shrunk.sum(dim=1, dtype=torch.float64).argmin())
        start.append(drawn[best])
        nearest = shrunk[best]
    return start


def _race(weights: npt.NDArray[np.floating], count: int, random: np.random.Generator) -> list[int]:
    """Indices drawn with probabilities in proportion to weights; none where all weights are 0."""
    times = random.standard_exponential((count, len(weights)))
    with np.errstate(divide="ignore"):
        winners = (times / weights).argmin(axis=1)
    return [int(winner) for winner in winners] if weights.any() else []
