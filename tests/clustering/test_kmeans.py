from __future__ import annotations

import numpy as np
import pytest
from sklearn.cluster import KMeans

from ovseg_cli.clustering.kmeans import kmeans


def blobs(centres, dim, points, seed):
    random = np.random.default_rng(seed)
    middle = random.normal(size=(centres, dim)) * 4
    return (middle[random.integers(0, centres, points)] + random.normal(size=(points, dim))).astype(np.float32)


def inertia(points, centroids, assignment):
    return float(((points - centroids[assignment]) ** 2).sum())


@pytest.mark.parametrize(("centres", "dim", "clusters"), [(8, 16, 8), (6, 288, 8), (20, 16, 8), (40, 96, 16)])
@pytest.mark.parametrize("seed", range(3))
def test_kmeans_is_as_tight_as_scikit_learns(centres, dim, clusters, seed):
    points = blobs(centres, dim, 1500, seed)
    reference = KMeans(clusters, random_state=seed, n_init="auto").fit(points)
    centroids, assignment = kmeans(points, clusters, seed=seed)
    assert inertia(points, centroids, assignment) <= 1.05 * reference.inertia_


def test_kmeans_assigns_each_point_to_its_nearest_centroid():
    points = blobs(5, 4, 300, 0)
    centroids, assignment = kmeans(points, 7, seed=0)
    assert centroids.shape == (7, 4)
    np.testing.assert_array_equal(assignment, ((points[:, None] - centroids) ** 2).sum(-1).argmin(1))


def test_kmeans_is_deterministic_by_seed():
    points = np.random.default_rng(0).random((500, 8)).astype(np.float32)
    first, again = kmeans(points, 8, seed=3), kmeans(points, 8, seed=3)
    np.testing.assert_array_equal(first[0], again[0])
    np.testing.assert_array_equal(first[1], again[1])
    assert not np.array_equal(first[0], kmeans(points, 8, seed=4)[0])


@pytest.mark.parametrize("seed", [0, 2**31, 2**32 + 5, 2**62])
def test_kmeans_takes_any_seed_that_a_class_may_have(seed):
    assert len(kmeans(blobs(3, 4, 60, 0), 3, seed=seed)[0]) == 3


@pytest.mark.parametrize("count", [1, 2, 5])
def test_kmeans_of_as_many_clusters_as_points_gives_the_points(count):
    points = np.random.default_rng(1).random((count, 3)).astype(np.float32)
    centroids, assignment = kmeans(points, count, seed=0)
    np.testing.assert_allclose(centroids[assignment], points, atol=1e-6)


@pytest.mark.parametrize("clusters", [1, 4, 9])
def test_spherical_clusters_are_found_whatever_the_lengths(clusters):
    """Directions with very different lengths: clustered by angle alone, and no length decides a centroid."""
    random = np.random.default_rng(clusters)
    directions = np.linalg.qr(random.normal(size=(16, 16)))[0][:clusters].astype(np.float32)
    labels = np.repeat(np.arange(clusters), 12)
    noisy = directions[labels] + 0.02 * random.normal(size=(len(labels), 16)).astype(np.float32)
    points = (noisy * np.exp(random.normal(size=(len(labels), 1)) * 2)).astype(np.float32)
    centroids, assignment = kmeans(points, clusters, seed=0, spherical=True)
    np.testing.assert_allclose(np.linalg.norm(centroids, axis=1), 1, rtol=1e-5)
    assert len({(a, b) for a, b in zip(assignment.tolist(), labels.tolist(), strict=True)}) == clusters
    cosines = centroids @ directions.T
    np.testing.assert_allclose(cosines.max(axis=1), 1, atol=2e-3)
