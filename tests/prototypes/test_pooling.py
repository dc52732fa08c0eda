from __future__ import annotations

import math

import numpy as np
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from ovseg_cli.clustering.kmeans import kmeans
from ovseg_cli.prototypes import pooling
from ovseg_cli.prototypes.pooling import PrototypePool, masks_to_grid


def bilinear_at(mask, rows, columns, row, column):
    """One cell of a bilinear resize (half-pixel centres, no antialiasing), by its four neighbours."""
    height, width = mask.shape
    y = max((row + 0.5) * height / rows - 0.5, 0)
    x = max((column + 0.5) * width / columns - 0.5, 0)
    top, left = math.floor(y), math.floor(x)
    total = 0.0
    for yy, down in ((top, 1 - (y - top)), (top + 1, y - top)):
        for xx, right in ((left, 1 - (x - left)), (left + 1, x - left)):
            total += down * right * bool(mask[min(yy, height - 1), min(xx, width - 1)])
    return total


@settings(max_examples=40, deadline=None)
@given(
    height=st.integers(1, 20),
    width=st.integers(1, 20),
    rows=st.integers(1, 12),
    columns=st.integers(1, 12),
    seed=st.integers(0, 99),
    threshold=st.sampled_from([0.0, 0.3, 0.5]),
)
def test_masks_on_the_grid_equal_brute_force(height, width, rows, columns, seed, threshold):
    mask = torch.from_numpy(np.random.default_rng(seed).random((2, height, width)) < 0.3)
    cells = masks_to_grid(mask, (rows, columns), threshold)
    assert cells.shape == (2, rows, columns)
    for i in range(2):
        values = np.array(
            [[bilinear_at(mask[i].numpy(), rows, columns, r, c) for c in range(columns)] for r in range(rows)]
        )
        if (np.abs(values - threshold) < 1e-5).any():  # rounding decides exactly on the threshold
            continue
        expected = values > threshold
        if not expected.any():  # too small to be sampled: every cell that it touches
            for y, x in mask[i].nonzero().tolist():
                for row in range(rows):
                    for column in range(columns):
                        top, bottom = row * height // rows, -(-(row + 1) * height // rows)
                        left, right = column * width // columns, -(-(column + 1) * width // columns)
                        expected[row, column] |= top <= y < bottom and left <= x < right
        np.testing.assert_array_equal(cells[i].numpy(), expected)


def test_an_object_of_one_pixel_is_not_lost():
    mask = torch.zeros(2, 512, 512, dtype=torch.bool)
    mask[0, 100, 300] = True
    cells = masks_to_grid(mask, (16, 16), 0.0)
    assert cells[0].nonzero().tolist() == [[100 // 32, 300 // 32]]
    assert not cells[1].any()


def test_masks_at_the_grids_own_size_are_themselves():
    mask = torch.rand(1, 9, 9) < 0.4
    assert torch.equal(masks_to_grid(mask, (9, 9), 0.0), mask)
    assert not masks_to_grid(torch.zeros(1, 9, 9, dtype=torch.bool), (4, 4), 0.0).any()
    assert masks_to_grid(torch.ones(1, 9, 9, dtype=torch.bool), (13, 2), 0.99).all()


def make_pool(images=5, dim=6, parts=3, seed=1, share=0.4):
    random = np.random.default_rng(seed)
    features = torch.from_numpy(random.normal(size=(images, dim, 8, 8)).astype(np.float32) + 100)
    masks = torch.from_numpy(random.random((images, 8, 8)) < share * np.linspace(0.2, 1, images)[:, None, None])
    pool = PrototypePool(parts=parts, images=images, seed=seed)
    for i in range(images):
        pool.add(features[i], masks[i], i)
    return features.numpy(), masks.numpy(), pool.prototypes()


def pixels_of(features, masks, image):
    return [features[image, :, y, x] for y in range(8) for x in range(8) if masks[image, y, x]]


def test_the_mean_is_over_all_masked_pixels_of_all_images():
    features, masks, pooled = make_pool()
    every = [p for i in range(5) for p in pixels_of(features, masks, i)]
    (mean,) = [p for p in pooled if p.kind == "mean"]
    np.testing.assert_allclose(mean.vector, np.mean(every, axis=0, dtype=np.float64), rtol=1e-6)
    assert mean.pixels == len(every)
    assert mean.support is None
    assert mean.vector.dtype == np.float32
    # Not the mean of the instances: images count by their pixels.
    instances = np.mean([p.vector for p in pooled if p.kind == "instance"], axis=0)
    assert np.abs(instances - mean.vector).max() > 1e-3


def test_an_instance_is_the_mean_of_its_image():
    features, masks, pooled = make_pool()
    instances = [p for p in pooled if p.kind == "instance"]
    assert [p.support for p in instances] == [0, 1, 2, 3, 4]
    for p in instances:
        mine = pixels_of(features, masks, p.support)
        np.testing.assert_allclose(p.vector, np.mean(mine, axis=0, dtype=np.float64), rtol=1e-6)
        assert p.pixels == len(mine)


def test_images_without_a_mask_give_no_instance_and_no_masks_give_nothing():
    pool = PrototypePool(parts=4, images=3, seed=0)
    features = torch.randn(5, 4, 4)
    empty, one = torch.zeros(4, 4, dtype=torch.bool), torch.zeros(4, 4, dtype=torch.bool)
    one[2, 1] = True
    pool.add(features, empty, 0)
    assert pool.prototypes() == []
    pool.add(features, one, 1)
    pool.add(features, empty, 2)
    kinds = [(p.kind, p.support, p.pixels) for p in pool.prototypes()]
    assert kinds == [("mean", None, 1), ("instance", 1, 1), ("part", 1, 1)]
    for p in pool.prototypes():
        np.testing.assert_allclose(p.vector, features[:, 2, 1], rtol=1e-6)


def test_rows_that_are_not_finite_are_left_out():
    features = torch.randn(3, 4, 4)
    features[1, 0, 0], features[2, 0, 1] = float("nan"), float("inf")
    mask = torch.zeros(4, 4, dtype=torch.bool)
    mask[0] = True
    pool = PrototypePool(parts=2, images=2, seed=0)
    pool.add(features, mask, 0)
    pool.add(torch.full((3, 4, 4), float("nan")), mask, 1)
    pooled = pool.prototypes()
    assert all(np.isfinite(p.vector).all() for p in pooled)
    assert [(p.support, p.pixels) for p in pooled if p.kind == "instance"] == [(0, 2)]
    np.testing.assert_allclose(pooled[0].vector, features[:, 0, 2:].mean(1).numpy(), rtol=1e-5)


def test_parts_cover_every_pixel_and_are_means_of_their_clusters():
    features, masks, pooled = make_pool(parts=4)
    every = np.array([p for i in range(5) for p in pixels_of(features, masks, i)])
    parts = [p for p in pooled if p.kind == "part"]
    assert len(parts) == 4
    assert sum(p.pixels for p in parts) == len(every)
    nearest = ((every[:, None] - np.stack([p.vector for p in parts])) ** 2).sum(-1).argmin(1)
    for index, p in enumerate(parts):
        np.testing.assert_allclose(p.vector, every[nearest == index].mean(0), atol=1e-3)
        assert p.pixels == (nearest == index).sum()


def test_never_more_parts_than_different_pixels():
    pool = PrototypePool(parts=8, images=1, seed=0)
    features = torch.zeros(2, 4, 4)
    features[0, :, :2] = 1
    pool.add(features, torch.ones(4, 4, dtype=torch.bool), 0)
    parts = sorted((p.vector.tolist(), p.pixels) for p in pool.prototypes() if p.kind == "part")
    assert parts == [([0.0, 0.0], 8), ([1.0, 0.0], 8)]


def test_the_sample_is_bounded_and_fair_while_means_are_exact(monkeypatch):
    monkeypatch.setattr(pooling, "POINTS_PER_PART", 5)
    seen = []

    def watching(points, clusters, **settings):
        seen.append(points.numpy())
        return kmeans(points, clusters, **settings)

    monkeypatch.setattr(pooling, "kmeans", watching)
    pool = PrototypePool(parts=4, images=3, seed=0)
    features = [torch.full((2, 10, 10), float(i)) + torch.rand(2, 10, 10) * 0.01 for i in range(3)]
    for i, f in enumerate(features):
        pool.add(f, torch.ones(10, 10, dtype=torch.bool), i)
    mean = pool.prototypes()[0]
    assert mean.pixels == 300
    np.testing.assert_allclose(mean.vector, torch.cat([f.flatten(1) for f in features], 1).mean(1), rtol=1e-5)
    (points,) = seen
    assert np.bincount(points[:, 0].astype(int)).tolist() == [7, 7, 7]  # ceil(4 * 5 / 3) of each image
    assert len(np.unique(points, axis=0)) == 21  # without repeats


def test_a_part_names_the_image_that_gave_most_of_its_pixels():
    """Two images of two colours each: the parts are the colours, and each is mostly of one image."""
    pool = PrototypePool(parts=2, images=2, seed=0)
    red, blue = torch.tensor([1.0, 0.0]), torch.tensor([0.0, 1.0])
    for support, (reds, blues) in {3: (9, 2), 7: (1, 6)}.items():
        cells = torch.cat([red.repeat(reds, 1), blue.repeat(blues, 1)])
        pool.add(cells.T[:, None], torch.ones(1, reds + blues, dtype=torch.bool), support)
    parts = {p.support: p for p in pool.prototypes() if p.kind == "part"}
    assert sorted(parts) == [3, 7]
    np.testing.assert_allclose(parts[3].vector, red, atol=1e-6)
    assert (parts[3].pixels, parts[7].pixels) == (10, 8)


def test_features_stay_where_they_are_and_means_come_back(monkeypatch):
    """What leaves the device while images are added: one flag for each cell. At the end: means, parts and labels."""
    moved = []
    cpu = torch.Tensor.cpu

    def watched(tensor):
        moved.append(tensor.numel() * tensor.element_size())
        return cpu(tensor)

    monkeypatch.setattr(torch.Tensor, "cpu", watched)
    dim, cells, images = 500, 400, 3
    pool = PrototypePool(parts=2, images=images, seed=0)
    for support in range(images):
        pool.add(torch.rand(dim, 20, 20), torch.ones(20, 20, dtype=torch.bool), support)
    assert moved == [cells] * images
    moved.clear()
    pool.prototypes()
    points = images * -(-2 * pooling.POINTS_PER_PART // images)
    assert sorted(moved) == sorted([4 * dim * images, 4 * points, 4 * dim * 2, 8 * points])
