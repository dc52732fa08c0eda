from __future__ import annotations

import numpy as np
import pytest
import torch
from sklearn.cluster import KMeans
from torch.utils._python_dispatch import TorchDispatchMode

from ovseg_cli.clustering import kmeans as module
from ovseg_cli.faiss_import import import_faiss
from tests.clustering.draws import draw_on_a_line


def kmeans(points, clusters, **settings):
    """Of arrays."""
    return tuple(part.numpy() for part in module.kmeans(torch.from_numpy(points), clusters, **settings))


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


def test_from_the_same_start_the_answer_is_faiss():
    """As stores were made before: its points were drawn on a line, and its rounds were faiss's."""
    for seed, spherical in ((0, False), (1, True)):
        points = blobs(20, 96, 1500, seed)
        if spherical:
            points /= np.linalg.norm(points, axis=1, keepdims=True)
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(module, "_race", draw_on_a_line)
            found, labels = kmeans(points, 16, seed=seed, spherical=spherical)
            start = module._greedy_start(torch.from_numpy(points), 16, np.random.default_rng(seed))
        solver = import_faiss().Kmeans(96, 16, niter=50, spherical=spherical, max_points_per_centroid=1500)
        solver.train(points, init_centroids=points[start])
        np.testing.assert_allclose(found, solver.centroids, atol=1e-4)
        np.testing.assert_array_equal(labels, solver.index.search(points, 1)[1][:, 0])


def test_the_start_does_not_hang_on_rounding():
    """A thousandth, as half precision changes features, alike in neighbouring cells: draws on a line nearly all started
    elsewhere.
    """
    walk = torch.randn(1000, 16, generator=torch.Generator().manual_seed(0)).cumsum(dim=0)
    near = walk * (1 + 1e-3 * torch.sin(torch.arange(1000) / 100)[:, None])

    def kept():
        starts = [[module._greedy_start(p, 32, np.random.default_rng(s)) for s in range(6)] for p in (walk, near)]
        return sum(one == other for one, other in zip(*starts, strict=True))

    assert kept() == 6
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "_race", draw_on_a_line)
        assert kept() <= 2


def test_points_are_drawn_in_proportion_to_their_weights():
    weights = np.array([0, 1, 2, 3, 0, 4], np.float32)
    drawn = module._race(weights, 20_000, np.random.default_rng(0))
    np.testing.assert_allclose(np.bincount(drawn, minlength=6) / 20_000, weights / 10, atol=0.01)
    assert module._race(np.zeros(3, np.float32), 2, np.random.default_rng(0)) == []


def test_a_cluster_that_runs_empty_goes_on_from_the_farthest_point():
    points = torch.tensor([[0.0], [1.0], [2.0], [9.0]])
    centroids, labels = module.lloyd(points, torch.tensor([[1.0], [50.0]]), rounds=9)
    assert centroids.tolist() == [[1.0], [9.0]]
    assert labels.tolist() == [0, 0, 0, 1]


class Called(TorchDispatchMode):
    """The names of the operators that ran."""

    def __init__(self):
        super().__init__()
        self.names = []

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        self.names.append(func.overloadpacket.__name__)
        return func(*args, **(kwargs or {}))


def test_no_sum_is_taken_in_the_order_that_a_device_likes():
    """Additions to one place from many threads give other digits in each run on a GPU."""
    with Called() as called:
        module.kmeans(torch.from_numpy(blobs(5, 4, 300, 0)), 7, seed=0)
    assert {"mm", "addmm", "argmin"} <= set(called.names)
    assert not {name for name in called.names if "add_" in name or "cumsum" in name or "bincount" in name}


def test_equally_near_centroids_give_the_first():
    points = torch.tensor([[0.0, 1.0], [0.0, -1.0]])
    assert module._nearest(points, torch.tensor([[5.0, 0.0], [1.0, 0.0], [-1.0, 0.0]])).tolist() == [1, 1]
