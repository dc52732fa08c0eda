from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from torch.nn import functional as F

from ovseg_cli.prototypes.masks import (
    FIXED_HIGH,
    FIXED_LOW,
    Thresholds,
    class_thresholds,
    masks_from_attribution,
    minmax,
    normalise_attribution,
)


def three_heaps(seed=0, shape=(4, 16, 16)):
    """Maps with three heaps of values, around 0.1, 0.45 and 0.9."""
    random = np.random.default_rng(seed)
    centre = random.choice([0.1, 0.45, 0.9], size=shape, p=[0.6, 0.25, 0.15])
    return np.clip(centre + random.normal(scale=0.04, size=shape), 0, 1).astype(np.float32)


def brute_force_otsu(values, bins):
    """The pair of histogram bins that leaves the least variance inside the three classes."""
    counts, edges = np.histogram(values, bins=bins)
    centres = (edges[:-1] + edges[1:]) / 2

    def spread(part):
        weights, places = counts[part], centres[part]
        return (weights * (places - np.average(places, weights=weights)) ** 2).sum() if weights.sum() else 0.0

    def left(cut):
        first, second = cut[0] + 1, cut[1] + 1
        return spread(slice(0, first)) + spread(slice(first, second)) + spread(slice(second, None))

    best = min(itertools.combinations(range(bins - 1), 2), key=left)
    return centres[best[0]], centres[best[1]]


@pytest.mark.parametrize("seed", range(3))
def test_otsu_thresholds_agree_with_skimage_and_with_brute_force(seed):
    from skimage.filters import threshold_multiotsu

    maps = three_heaps(seed)
    ours = class_thresholds(maps)
    assert ours.method == "otsu"
    assert (ours.low, ours.high) == pytest.approx(tuple(threshold_multiotsu(maps, classes=3)))
    # Between separated heaps many cuts are as good; what matters is which pixels fall where.
    low, high = brute_force_otsu(maps, 48)
    assert ((maps > ours.high) != (maps > high)).mean() < 0.01
    assert ((maps < ours.low) != (maps < low)).mean() < 0.02


def test_thresholds_are_of_the_whole_class_and_not_of_each_map():
    strong, weak = three_heaps(), three_heaps() * 0.4
    alone = class_thresholds(strong), class_thresholds(weak)
    together = class_thresholds(np.concatenate([strong, weak]))
    assert alone[1].high < alone[0].high
    assert together not in alone
    assert together == class_thresholds(np.concatenate([weak, strong])[::-1])


@pytest.mark.parametrize(
    "maps", [np.zeros((3, 8, 8)), np.ones((1, 4, 4)), np.array([[[0.0, 1.0]]]), np.full((2, 2, 2), 0.3)]
)
def test_flat_maps_get_the_fixed_thresholds(maps):
    assert class_thresholds(maps.astype(np.float32)) == Thresholds(FIXED_LOW, FIXED_HIGH, "fixed")
    assert (FIXED_LOW, FIXED_HIGH) == (0.2, 0.5)


def test_masks_never_overlap_and_leave_the_middle_to_neither():
    maps = three_heaps(5)
    foreground, background = masks_from_attribution(maps, class_thresholds(maps))
    assert not (foreground & background).any()
    assert foreground[maps > 0.75].all()
    assert background[maps < 0.2].all()
    middle = (maps > 0.35) & (maps < 0.55)
    assert not foreground[middle].any()
    assert not background[middle].any()


@given(hnp.arrays(np.float32, (3, 4, 5), elements=st.floats(-1e6, 1e6, width=32)))
@settings(max_examples=60, deadline=None)
def test_minmax_stretches_each_map_to_the_whole_range(maps):
    stretched = minmax(maps)
    assert stretched.dtype == np.float32
    for before, after in zip(maps, stretched, strict=True):
        if before.max() > before.min():
            assert after.min() == 0
            assert after.max() == 1
            assert after[np.unravel_index(before.argmax(), before.shape)] == 1
        else:
            assert (after == 0).all()


def test_minmax_keeps_the_order_and_one_map_does_not_touch_another():
    maps = three_heaps(2)
    both = minmax(maps)
    np.testing.assert_array_equal(minmax(maps[1:2])[0], both[1])
    order = np.argsort(maps[0].ravel())
    assert (np.diff(both[0].ravel()[order]) >= 0).all()


def test_attribution_is_stretched_enlarged_and_stretched_again():
    maps = three_heaps(1, (2, 8, 8)) * 0.01
    ours = normalise_attribution(maps, 32)
    for one, result in zip(maps, ours, strict=True):
        first = (one - one.min()) / (one.max() - one.min())
        large = F.interpolate(torch.from_numpy(first)[None, None], (32, 32), mode="bilinear")[0, 0].numpy()
        expected = (large - large.min()) / (large.max() - large.min())
        np.testing.assert_allclose(result, expected, atol=1e-5)
    assert ours.min() == 0
    assert ours.max() == 1
    assert (normalise_attribution(np.full((1, 8, 8), 0.3, np.float32), 16) == 0).all()
