"""k-means of vectors."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from ovseg_cli.faiss_import import import_faiss

Vectors = npt.NDArray[np.float32]


def kmeans(
    points: Vectors, clusters: int, *, seed: int, spherical: bool = False
) -> tuple[Vectors, npt.NDArray[np.int64]]:
    """k-means: greedy k-means++ start, iterations by faiss.

    Args:
        points: float32 (N, D).
        clusters: K, at most N.
        seed: Of the starting centroids; any integer that is not negative.
        spherical: Cluster by cosine, the points and centroids brought to norm 1, instead of Euclidean distance.

    Returns:
        (centroids float32 (K, D), index of each point's centroid int64 (N,)). There are fewer than K
        centroids when there are fewer different points.
    """
    faiss = import_faiss()
    if spherical:
        points = points / np.linalg.norm(points, axis=1, keepdims=True).clip(min=1e-12)
    start = points[_greedy_start(points, clusters, np.random.default_rng(seed))]
    solver = faiss.Kmeans(
        points.shape[1],
        len(start),
        niter=50,
        spherical=spherical,
        seed=seed % 2**31,  # a C int; after the start it only splits clusters that ran empty
        min_points_per_centroid=1,
        max_points_per_centroid=max(1, -(-len(points) // len(start))),
    )
    solver.train(points, init_centroids=start)
    _, assignment = solver.index.search(points, 1)
    return np.asarray(solver.centroids, dtype=np.float32), assignment[:, 0]


def _greedy_start(points: Vectors, clusters: int, random: np.random.Generator) -> list[int]:
    """Indices of the starting centroids: k-means++ that tries several points at each step and takes the best.

    faiss starts from random points, which leaves far more spread inside the clusters.
    """
    squares = np.einsum("nd,nd->n", points, points)

    def distances(chosen: list[int]) -> Vectors:
        """Squared distances of all points from the chosen ones, (len(chosen), N)."""
        return np.maximum(squares[chosen][:, None] - 2 * points[chosen] @ points.T + squares, 0)

    start = [int(random.integers(len(points)))]
    nearest = distances(start)[0]
    tries = 2 + int(np.log(clusters))
    for _ in range(1, clusters):
        cumulative = np.cumsum(nearest, dtype=np.float64)
        if cumulative[-1] <= 0:  # every point lies on a centroid already
            break
        drawn = np.searchsorted(cumulative, random.random(tries) * cumulative[-1]).clip(max=len(points) - 1).tolist()
        shrunk = np.minimum(nearest, distances(drawn))
        best = int(shrunk.sum(axis=1).argmin())
        start.append(drawn[best])
        nearest = shrunk[best]
    return start
