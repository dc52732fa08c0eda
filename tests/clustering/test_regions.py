from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy.stats import entropy
from sklearn.cluster import KMeans
from torch.nn import functional as F

from ovseg_cli.clustering.regions import (
    divergence_matrix,
    enlarge_regions,
    largest_map,
    merge_attention,
    settle_regions,
)


def distributions(rows, columns, seed=0):
    random = np.random.default_rng(seed).gamma(0.5, size=(rows, columns)) + 1e-6
    return torch.from_numpy(random / random.sum(axis=1, keepdims=True)).float()


def attention_of_blocks(labels, inside=0.9):
    """Tokens that attend evenly to their own block, and weakly to everything."""
    labels = torch.as_tensor(labels).flatten()
    same = (labels[:, None] == labels[None]).float()
    return inside * same / same.sum(dim=1, keepdim=True) + (1 - inside) / len(labels)


BLOCKS = np.zeros((8, 8), int)
BLOCKS[2:6, 1:5] = 1
BLOCKS[:, 6:] = 2


def test_divergence_is_the_mean_of_both_directions():
    first, second = distributions(4, 10), distributions(3, 10, seed=1)
    found = divergence_matrix(first, second)
    for i in range(4):
        for j in range(3):
            p, q = first[i].double().numpy(), second[j].double().numpy()
            assert found[i, j] == pytest.approx((entropy(p, q) + entropy(q, p)) / 2, rel=1e-4)
    torch.testing.assert_close(divergence_matrix(first, first).diagonal(), torch.zeros(4), atol=1e-5, rtol=0)


@pytest.mark.parametrize(("anchors", "places"), [(1, [3]), (2, [0, 7]), (3, [0, 3, 6]), (5, [1, 2, 3, 4, 5])])
def test_attention_is_merged_into_the_blocks_that_anchors_lie_in(anchors, places):
    attention = attention_of_blocks(BLOCKS)
    merged = merge_attention(attention, anchors=anchors, divergence=0.5)
    met = list(dict.fromkeys(BLOCKS[np.ix_(places, places)].flatten()))
    assert len(merged) == len(met)
    for row, block in zip(merged, met, strict=True):
        torch.testing.assert_close(row, attention[np.flatnonzero(block == BLOCKS)[0]])


def merge_one_by_one(attention, places, threshold, rounds, overlap):
    """The published description, distribution by distribution."""

    def alike(p, q):
        return (entropy(p, q) + entropy(q, p)) / 2 < threshold

    rows = attention.double().numpy()
    side = round(len(rows) ** 0.5)
    kept = [rows[y * side + x] for y in places for x in places]
    kept = [np.mean([row for row in rows if alike(anchor, row)], axis=0) for anchor in kept]
    for _ in range(rounds):
        taken, averages = set(), []
        for index, row in enumerate(kept):
            if index not in taken:
                members = [i for i, other in enumerate(kept) if alike(row, other) and (overlap or i not in taken)]
                taken.update(members)
                averages.append(np.mean([kept[i] for i in members], axis=0))
        kept = averages
    return np.stack(kept)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("rounds", "threshold", "overlap"),
    [(0, 0.25, False), (1, 0.1, True), (1, 0.5, False), (2, 0.1, False), (2, 0.25, True), (2, 0.5, True)],
)
def test_merging_equals_a_loop_over_distributions(rounds, threshold, overlap):
    attention = (attention_of_blocks(BLOCKS) + distributions(64, 64, seed=2)) / 2
    merged = merge_attention(attention, anchors=4, divergence=threshold, rounds=rounds, overlap=overlap)
    expected = merge_one_by_one(attention, [0, 2, 4, 6], threshold, rounds, overlap)
    assert merged.shape == expected.shape
    np.testing.assert_allclose(merged.numpy(), expected, atol=1e-6)


def test_without_a_limit_merging_goes_on_until_a_further_round_changes_nothing():
    attention = (attention_of_blocks(BLOCKS) + distributions(64, 64)) / 2
    settled = merge_attention(attention, anchors=8, divergence=0.3)
    assert len(settled) < len(merge_attention(attention, anchors=8, divergence=0.3, rounds=1))
    torch.testing.assert_close(merge_attention(attention, anchors=8, divergence=0.3, rounds=50), settled)


def kmeans_means(attention, start):
    """The refinement as published, by scikit-learn itself."""
    found = KMeans(len(start), init=start.double().numpy(), n_init=1).fit(attention.double().numpy()).labels_
    return np.stack([attention.numpy()[found == label].mean(axis=0) for label in np.unique(found)])


@pytest.mark.parametrize("seed", range(4))
def test_settling_equals_scikit_learns_k_means(seed):
    attention = (attention_of_blocks(BLOCKS) + distributions(64, 64, seed=seed)) / 2
    start = attention[torch.from_numpy(np.random.default_rng(seed).choice(64, 7, replace=False))]
    settled = settle_regions(attention, start)
    np.testing.assert_allclose(settled.numpy(), kmeans_means(attention, start), atol=1e-6)


def test_a_region_that_no_token_is_nearest_to_goes_on_from_the_farthest_token():
    attention = (attention_of_blocks(BLOCKS) + distributions(64, 64)) / 2
    start = torch.cat([attention[[0, 20, 47]], torch.full((1, 64), 9.0)])
    settled = settle_regions(attention, start)
    assert len(settled) == 4
    np.testing.assert_allclose(settled.numpy(), kmeans_means(attention, start), atol=1e-6)


def test_settling_tokens_that_all_attend_alike_leaves_one_region():
    attention = torch.full((16, 16), 1 / 16)
    torch.testing.assert_close(settle_regions(attention, attention[:3]), attention[:1])


def test_the_largest_map_is_the_first_of_the_largest_enlarged_ones():
    maps = torch.rand(5, 6, 6, generator=torch.Generator().manual_seed(0))
    maps[4] = maps[1]
    expected = F.interpolate(maps[None], (13, 4), mode="bilinear")[0].argmax(dim=0)
    found = largest_map(maps, (13, 4))
    assert found.dtype == torch.int64
    assert torch.equal(found, expected)
    assert 4 not in found


def test_no_two_merged_rows_are_alike_and_a_wider_threshold_merges_more():
    attention = (attention_of_blocks(BLOCKS) + distributions(64, 64)) / 2
    counts = []
    for divergence in (0.05, 0.3, 0.8, 100.0):
        merged = merge_attention(attention, anchors=8, divergence=divergence)
        torch.testing.assert_close(merged.sum(dim=1), torch.ones(len(merged)))
        apart = divergence_matrix(merged, merged) + torch.eye(len(merged)) * 1000
        assert len(merged) == 1 or apart.min() >= divergence
        counts.append(len(merged))
    assert counts == sorted(counts, reverse=True)
    assert counts[0] > 10
    assert counts[-1] == 1


@pytest.mark.parametrize("size", [(8, 8), (32, 32), (30, 50), (3, 5)])
def test_regions_of_pixels_part_the_picture_and_follow_the_blocks(size):
    regions = enlarge_regions(attention_of_blocks(BLOCKS), torch.from_numpy(BLOCKS.flatten()), size)
    assert regions.shape[1:] == size
    assert (regions.sum(axis=0) == 1).all()
    rows, columns = ((np.arange(n) * 8 + 4) // n for n in size)
    agree = sum((region & (BLOCKS[np.ix_(rows, columns)] == block)).sum() for block, region in enumerate(regions))
    assert agree > 0.85 * size[0] * size[1]


def test_a_token_goes_where_its_attention_goes():
    attention = attention_of_blocks(BLOCKS)
    labels = torch.from_numpy(BLOCKS.flatten().copy())
    labels[2 * 8 + 2] = 0  # inside block 1, which it still attends to
    regions = enlarge_regions(attention, labels, (8, 8))
    assert regions[1, 2, 2]


def test_a_picture_that_attends_everywhere_alike_is_one_region():
    attention = torch.full((64, 64), 1 / 64)
    merged = merge_attention(attention, anchors=4, divergence=0.8)
    regions = enlarge_regions(attention, merged.argmax(dim=0), (9, 7))
    assert regions.shape == (1, 9, 7)
    assert regions.all()
