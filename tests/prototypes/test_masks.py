from __future__ import annotations

import itertools
import json

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
    choose_regions,
    class_thresholds,
    cut_out,
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


def test_attribution_of_an_oblong_picture_is_enlarged_to_its_size():
    maps = three_heaps(1, (1, 8, 8))
    ours = normalise_attribution(maps, (24, 40))
    assert ours.shape == (1, 24, 40)
    tall = F.interpolate(torch.from_numpy(minmax(maps))[None], (24, 40), mode="bilinear")[0].numpy()
    np.testing.assert_allclose(ours, minmax(tall), atol=1e-6)


# --------------------------------------------------------------------------- regions


def published_choice(proposals, attribution):
    """Foreground, label of every pixel and weights as the published code has them: an array of all products."""
    uncovered = ~np.any(proposals, axis=0)
    regions = np.concatenate([uncovered[None], proposals]).astype(np.float64)
    regions = regions[regions.sum(axis=(1, 2)) > 0]
    weights = np.array([(region * attribution).sum() / region.sum() for region in regions])
    order = np.argsort(-weights)
    products = regions[order] * weights[order, None, None]
    return products.argmax(axis=0), weights[order], bool((regions[order[0]] == uncovered).all())


def eroded(mask):
    """Pixels whose four neighbours inside the picture all belong to the mask."""
    height, width = mask.shape
    kept = mask.copy()
    for y, x in itertools.product(range(height), range(width)):
        near = [(y + 1, x), (y - 1, x), (y, x + 1), (y, x - 1)]
        kept[y, x] &= all(mask[a, b] for a, b in near if 0 <= a < height and 0 <= b < width)
    return kept


@pytest.mark.parametrize("seed", range(30))
def test_the_choice_among_regions_equals_the_published_products(seed):
    random = np.random.default_rng(seed)
    attribution = random.random((7, 9)) ** 3 * 0.999 + 0.001
    proposals = random.random((random.integers(1, 6), 7, 9)) < random.choice([0.1, 0.4, 0.8])
    labels, weights, missed = published_choice(proposals, attribution)
    assert len(set(weights)) == len(weights)
    chosen = choose_regions(proposals, attribution.astype(np.float32))
    if missed:
        assert chosen == "the object in no region"
        return
    foreground, background = chosen
    np.testing.assert_array_equal(foreground, labels == 0)
    np.testing.assert_array_equal(background, eroded((labels == labels.max()) & (attribution < FIXED_LOW)))


def squares(*corners, side=12):
    """One proposal per (top, left, bottom, right)."""
    proposals = np.zeros((len(corners), side, side), bool)
    for proposal, (top, left, bottom, right) in zip(proposals, corners, strict=True):
        proposal[top:bottom, left:right] = True
    return proposals


def test_the_object_is_the_region_with_the_most_attention_per_pixel_and_not_the_largest():
    attribution = np.full((12, 12), 0.1, np.float32)
    attribution[2:5, 2:5] = 0.9
    foreground, background = choose_regions(squares((2, 2, 5, 5), (0, 0, 8, 8), (0, 0, 12, 12)), attribution)
    np.testing.assert_array_equal(foreground, squares((2, 2, 5, 5))[0])
    # The lightest region that keeps pixels is the whole picture less what the square of 8 covers.
    expected = np.ones((12, 12), bool)
    expected[:8, :8] = False
    np.testing.assert_array_equal(background, eroded(expected))


def test_what_no_proposal_covers_can_be_the_background():
    attribution = np.zeros((12, 12), np.float32)
    attribution[3:9, 3:9] = 1
    foreground, background = choose_regions(squares((3, 3, 9, 9)), attribution)
    np.testing.assert_array_equal(foreground, attribution == 1)
    np.testing.assert_array_equal(background, eroded(attribution == 0))
    assert background[0, 0]  # the picture's edge does not erode


@pytest.mark.parametrize(
    ("proposals", "reason"),
    [
        (np.zeros((0, 12, 12), bool), "no region"),
        (np.zeros((2, 12, 12), bool), "no region"),
        (np.ones((1, 12, 12), bool), "one region only"),
        (squares((0, 0, 12, 12), (0, 0, 12, 12)), "one region only"),
        (squares((9, 9, 12, 12)), "the object in no region"),
    ],
)
def test_regions_that_do_not_tell_the_object_say_why(proposals, reason):
    attribution = np.zeros((12, 12), np.float32)
    attribution[2:5, 2:5] = 1
    assert choose_regions(proposals, attribution) == reason


@given(
    hnp.arrays(bool, (4, 5, 6)),
    hnp.arrays(np.float32, (5, 6), elements=st.sampled_from([0.0, 0.1, 0.5, 1.0])),
)
@settings(max_examples=100, deadline=None)
def test_masks_never_overlap_whatever_the_proposals(proposals, attribution):
    chosen = choose_regions(proposals, attribution)
    if not isinstance(chosen, str):
        foreground, background = chosen
        assert foreground.any()
        assert not (foreground & background).any()
        assert (attribution[background] < FIXED_LOW).all()
        inside = attribution[foreground].mean(dtype=float)
        for proposal in proposals:
            assert not proposal.any() or inside >= attribution[proposal].mean(dtype=float) - 1e-6


# --------------------------------------------------------------------------- cut_out


class Squares:
    """Proposes a list of regions for each image in turn."""

    name = "squares"

    def __init__(self, *answers):
        self.answers = iter(answers)

    def propose(self, image):
        assert image.dtype == np.uint8
        return next(self.answers)


def pictures(*sizes):
    return [np.zeros((*size, 3), np.uint8) for size in sizes]


def test_otsu_and_fixed_threshold_every_image_at_its_own_size():
    attention = three_heaps(4, (2, 8, 8)) * 0.02
    for method in ("otsu", "fixed"):
        cutouts = cut_out(pictures((32, 32), (20, 50)), attention, method=method)
        thresholds = class_thresholds(minmax(attention)) if method == "otsu" else Thresholds(0.2, 0.5, "fixed")
        for index, size in enumerate([(32, 32), (20, 50)]):
            relative = normalise_attribution(attention[index : index + 1], size)[0]
            foreground, background = masks_from_attribution(relative, thresholds)
            np.testing.assert_array_equal(cutouts.attribution[index], relative)
            np.testing.assert_array_equal(cutouts.foreground[index], foreground)
            np.testing.assert_array_equal(cutouts.background[index], background)
        assert cutouts.record == {
            "method": method,
            "low": round(thresholds.low, 4),
            "high": round(thresholds.high, 4),
            "fallbacks": {},
        }


def test_flat_maps_under_otsu_are_told_and_recorded(caplog):
    cutouts = cut_out(pictures((8, 8), (8, 8)), np.full((2, 4, 4), 0.1, np.float32), method="otsu")
    assert cutouts.record["fallbacks"] == {"too few levels for Otsu": 2}
    assert (cutouts.record["low"], cutouts.record["high"]) == (FIXED_LOW, FIXED_HIGH)
    assert "too few levels for Otsu in 2 of 2 images" in caplog.text


def test_images_without_a_region_of_the_object_fall_back_and_are_counted(caplog):
    attention = np.zeros((3, 12, 12), np.float32)
    attention[:, 2:5, 2:5] = 1
    proposer = Squares(squares((2, 2, 5, 5), (0, 0, 12, 12)), np.zeros((0, 12, 12), bool), squares((9, 9, 12, 12)))
    cutouts = cut_out(pictures(*[(12, 12)] * 3), attention, method="sam", proposer=proposer)
    thresholds = Thresholds(FIXED_LOW, FIXED_HIGH, "fixed")
    assert not np.array_equal(cutouts.background[0], cutouts.attribution[0] < 0.2)
    for index in (1, 2):
        foreground, background = masks_from_attribution(cutouts.attribution[index], thresholds)
        np.testing.assert_array_equal(cutouts.foreground[index], foreground)
        np.testing.assert_array_equal(cutouts.background[index], background)  # not eroded
    assert json.loads(json.dumps(cutouts.record)) == {
        "method": "sam",
        "low": 0.2,
        "high": 0.5,
        "fallbacks": {"no region": 1, "the object in no region": 1},
        "proposer": "squares",
        "regions": 3,
    }
    assert caplog.text.count("1 of 3 images") == 2


def test_masks_are_as_large_as_the_images():
    proposals = squares((2, 2, 5, 5), (0, 0, 12, 12))[:, :6]
    attention = np.zeros((1, 4, 4), np.float32)
    attention[0, 1:3, 0:2] = 1
    cutouts = cut_out(pictures((6, 12)), attention, method="self-attention", proposer=Squares(proposals))
    assert {item.shape for item in (*cutouts.foreground, *cutouts.background, *cutouts.attribution)} == {(6, 12)}


def test_arguments_that_do_not_fit_together_are_refused():
    attention = np.zeros((1, 4, 4), np.float32)
    with pytest.raises(ValueError, match="1 maps of 2 images"):
        cut_out(pictures((8, 8), (8, 8)), attention, method="fixed")
    with pytest.raises(ValueError, match="needs a region proposer"):
        cut_out(pictures((8, 8)), attention, method="self-attention")
    with pytest.raises(ValueError, match=r"shape \(12, 12\) for an image of \(8, 8\)"):
        cut_out(pictures((8, 8)), attention, method="sam", proposer=Squares(squares((0, 0, 3, 3))))
