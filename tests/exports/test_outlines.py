from __future__ import annotations

import numpy as np
import pytest
from scipy import ndimage

from ovseg_cli.exports.outlines import outlines


def filled(corners, shape):
    """A polygon as OpenCV fills it: what is inside by the even-odd rule, and the pixels of its lines."""
    out = np.zeros(shape, bool)
    ends = np.roll(corners, -1, axis=0)
    for (x, y), (u, v) in zip(corners.tolist(), ends.tolist(), strict=True):
        steps = max(abs(u - x), abs(v - y))
        assert steps == 0 or {abs(u - x), abs(v - y)} <= {0, steps}, "lines are straight or diagonal, and so exact"
        for step in range(steps + 1):
            out[y + (v - y) * step // max(steps, 1), x + (u - x) * step // max(steps, 1)] = True
    for y in range(shape[0]):
        for x in range(shape[1]):
            crossed = 0
            for (ax, ay), (bx, by) in zip(corners.tolist(), ends.tolist(), strict=True):
                if (ay > y) != (by > y) and x < ax + (y - ay) * (bx - ax) / (by - ay):
                    crossed += 1
            out[y, x] |= crossed % 2 == 1
    return out


def all_filled(mask):
    out = np.zeros(mask.shape, bool)
    for corners in outlines(mask):
        out |= filled(corners, mask.shape)
    return out


@pytest.mark.parametrize("share", [0.1, 0.5, 0.8, 0.95])
def test_filling_the_outlines_gives_the_mask_back(share):
    rng = np.random.default_rng(int(100 * share))
    for _ in range(12):
        mask = rng.random(rng.integers(1, 14, 2)) < share
        assert (all_filled(mask) == mask).all()


def test_each_connected_part_is_one_polygon_whatever_holes_it_has():
    mask = ndimage.gaussian_filter(np.random.default_rng(1).random((30, 40)), 1.2) > 0.5
    _, parts = ndimage.label(mask, np.ones((3, 3)))
    assert len(outlines(mask)) == parts
    assert (all_filled(mask) == mask).all()


def test_corners_are_few_where_lines_are_straight():
    (corners,) = outlines(np.ones((50, 70), bool))
    assert sorted(map(tuple, corners.tolist())) == [(0, 0), (0, 49), (69, 0), (69, 49)]


@pytest.mark.parametrize("mask", [np.zeros((3, 4), bool), np.zeros((0, 4), bool)])
def test_nothing_has_no_outline(mask):
    assert outlines(mask) == []


def test_one_pixel_is_one_corner():
    mask = np.zeros((3, 4), bool)
    mask[2, 3] = True
    assert [corners.tolist() for corners in outlines(mask)] == [[[3, 2]]]
