from __future__ import annotations

import numpy as np
import pytest
import scipy.linalg
import torch
from torch.nn import functional as F

from ovseg_cli.clustering.regions import merge_attention, settle_regions
from ovseg_cli.labeling.decide import enlarge_rows
from ovseg_cli.methods.clusters import diffseg_maps, region_means, spectral_maps, spectral_vectors

# Four blocks of 16 x 16 tokens.
BLOCKS = np.zeros((16, 16), int)
BLOCKS[:, 9:] = 1
BLOCKS[3:9, 2:8] = 2
BLOCKS[11:, 6:13] = 3


def attention_of_blocks(inside=0.9, seed=0):
    """Tokens that attend to their own block, unevenly, and weakly to everything."""
    labels = torch.from_numpy(BLOCKS.flatten())
    same = (labels[:, None] == labels[None]).float()
    noise = torch.rand(256, 256, generator=torch.Generator().manual_seed(seed)) + 0.5
    attention = (inside * same / same.sum(dim=1, keepdim=True) + (1 - inside) / 256) * noise
    return attention / attention.sum(dim=1, keepdim=True)


def diffseg_regions(attention, size, **settings):
    """The region of each pixel, at a size."""
    return enlarge_rows(diffseg_maps(attention, **settings), size, 0, size[0], "bicubic").argmax(dim=0)


def spectral_regions(attention, size, **settings):
    return enlarge_rows(spectral_maps(attention, **settings), size, 0, size[0], "nearest").argmax(dim=0)


def same_partition(first, second):
    pairs = {(a, b) for a, b in zip(np.ravel(first), np.ravel(second), strict=True)}
    return len(pairs) == len(np.unique(first)) == len(np.unique(second))


def test_diffseg_finds_the_blocks():
    regions = diffseg_regions(attention_of_blocks(), (16, 16))
    assert regions.dtype == torch.int64
    assert same_partition(regions.numpy(), BLOCKS)


@pytest.mark.parametrize("size", [(32, 32), (40, 25), (7, 50)])
def test_diffseg_labels_a_pixel_by_the_largest_enlarged_attention(size):
    attention = (attention_of_blocks(inside=0.3) + attention_of_blocks(seed=3).T.roll(40, 0)) / 2
    attention = attention / attention.sum(dim=1, keepdim=True)
    settled = settle_regions(attention, merge_attention(attention, anchors=4, divergence=0.1, rounds=2, overlap=True))
    assert len(settled) > 5
    expected = F.interpolate(settled.view(1, -1, 16, 16), size, mode="bicubic", antialias=True)[0].argmax(dim=0)
    assert torch.equal(diffseg_regions(attention, size, anchors=4, divergence=0.1), expected)


@pytest.mark.parametrize(("side", "anchors"), [(64, 16), (32, 16), (16, 16), (6, 6)])
def test_diffseg_has_as_many_anchors_as_published_or_as_there_are_tokens(monkeypatch, side, anchors):
    asked = []

    def merge(attention, **settings):
        asked.append(settings["anchors"])
        return attention[:2]

    monkeypatch.setattr("ovseg_cli.methods.clusters.merge_attention", merge)
    monkeypatch.setattr("ovseg_cli.methods.clusters.settle_regions", lambda _attention, merged: merged)
    diffseg_maps(torch.ones(1, 1).expand(side**2, side**2))
    assert asked == [anchors]


@pytest.mark.parametrize("seed", range(3))
def test_spectral_vectors_span_what_the_full_decomposition_spans(seed):
    attention = torch.softmax(3 * torch.randn(100, 100, generator=torch.Generator().manual_seed(seed)), dim=1)
    rows, columns = attention.double().sum(dim=1), attention.double().sum(dim=0)
    u, s, _ = torch.linalg.svd(attention.double() / rows.sqrt()[:, None] / columns.sqrt())
    expected = (u[:, :8] / rows.sqrt()[:, None]).numpy()
    found = spectral_vectors(attention, 8)
    assert s[7] - s[8] > 1e-3
    # Signs are free, and rotations among nearly equal values; inner products are all that k-means depends on.
    np.testing.assert_allclose(found @ found.T, expected @ expected.T, atol=1e-4)


def test_spectral_regions_are_the_blocks_and_the_same_every_time():
    attention = attention_of_blocks()
    regions = spectral_regions(attention, (16, 16), vectors=4, clusters=4)
    assert same_partition(regions.numpy(), BLOCKS)
    assert torch.equal(spectral_regions(attention, (16, 16), vectors=4, clusters=4), regions)


def decomposed_otherwise(attention, count, change):
    """The vectors of `spectral_vectors` by another decomposition, changed in what is free."""
    rows, columns = attention.double().sum(dim=1), attention.double().sum(dim=0)
    whole = (attention.double() / rows.sqrt()[:, None] / columns.sqrt()).numpy()
    vectors = scipy.linalg.svd(whole, lapack_driver="gesvd" if change == "driver" else "gesdd")[0][:, :count]
    if change == "signs":
        vectors = vectors * np.where(np.arange(count) % 3, 1, -1)
    elif change == "swapped":
        vectors = vectors[:, np.random.default_rng(0).permutation(count)]
    elif change == "rotated":  # as if two values were equal
        vectors[:, 2:4] = vectors[:, 2:4] @ np.array([[0.6, -0.8], [0.8, 0.6]])
    return np.asarray(vectors / rows.sqrt().numpy()[:, None], np.float32)


@pytest.mark.parametrize("seed", range(3))
def test_spectral_regions_are_the_same_whatever_decomposes_the_matrix(monkeypatch, seed):
    """On each device another library does, and leaves other signs, another order of equal values, other digits."""
    attention = (attention_of_blocks(inside=0.5, seed=seed) + attention_of_blocks(inside=0.3, seed=9).roll(37, 0)) / 2
    regions = spectral_maps(attention)
    assert len(regions) == 20
    for change in ("none", "driver", "signs", "swapped", "rotated"):
        with monkeypatch.context() as patch:
            vectors = decomposed_otherwise(attention, 20, change)
            patch.setattr("ovseg_cli.methods.clusters.spectral_vectors", lambda *_, made=vectors: made)
            assert torch.equal(spectral_maps(attention), regions), change


@pytest.mark.parametrize("size", [1e-6, 1e-4, 1e-3])
@pytest.mark.parametrize("seed", range(2))
def test_spectral_regions_do_not_hang_on_what_another_device_rounds_otherwise(seed, size):
    """1e-3 is the share by which TF32, a GPU's convolutions in float32, and half precision change a number."""
    random = torch.Generator().manual_seed(seed)
    looks = F.interpolate(torch.randn(1, 12, 5, 5, generator=random), (16, 16), mode="bicubic")[0].flatten(1).T
    attention = torch.softmax(3 * looks @ looks.T / 12**0.5, dim=1)
    smooth = torch.randn(256, 8, generator=random) @ torch.randn(8, 256, generator=random) / 8**0.5
    regions = spectral_maps(attention)
    assert len(regions) == 20
    assert torch.equal(spectral_maps(attention * (1 + size * smooth)), regions)


def test_spectral_regions_are_enlarged_token_by_token():
    attention = attention_of_blocks()
    small = spectral_regions(attention, (16, 16))
    for size in ((32, 32), (24, 50), (5, 16)):
        large = spectral_regions(attention, size)
        expected = F.interpolate(small[None, None].double(), size, mode="nearest")[0, 0].long()
        assert torch.equal(large, expected)


@pytest.mark.parametrize("side", [2, 5])
@pytest.mark.parametrize("make", [diffseg_regions, spectral_regions])
def test_a_picture_that_attends_everywhere_alike_does_no_harm(make, side):
    attention = torch.full((side**2, side**2), 1 / side**2)
    assert make(attention, (9, 4)).shape == (9, 4)


def test_regions_get_the_mean_of_their_scores():
    random = torch.Generator().manual_seed(0)
    regions, scores = torch.randint(0, 5, (12, 7), generator=random) * 2, torch.rand(4, 12, 7, generator=random)
    strips = [(regions[start : start + 5], scores[:, start : start + 5]) for start in range(0, 12, 5)]
    found = region_means(strips, 9)
    assert found.shape == (4, 9)
    for region in regions.unique():
        torch.testing.assert_close(found[:, region], scores[:, regions == region].mean(dim=1))
    assert (found[:, 1::2] == 0).all()


def test_a_region_takes_the_class_that_most_of_it_looks_like():
    regions = torch.zeros(4, 4, dtype=torch.int64)
    regions[:, 2:] = 1
    scores = torch.zeros(2, 4, 4)
    scores[0], scores[1, :, :2], scores[1, 1, 3] = 0.5, 0.6, 0.9
    labels = region_means([(regions, scores)], 2).argmax(dim=0)[regions]
    assert torch.equal(labels, 1 - regions)
