"""Boundary IoU, as Cheng et al. compute it of one mask at a time."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.ndimage import binary_erosion

from ovseg_cli.evaluation.boundary import boundary_band, boundary_counts, boundary_reach
from tests.evaluation.maps import CLASSES, adversarial


def mask_to_boundary(mask, reach):
    """`mask_to_boundary` of bowenc0221/boundary-iou-api 8006aa9: a frame of nothing, then 3 x 3 erosions."""
    framed = np.pad(mask, 1)
    eroded = binary_erosion(
        framed, np.ones((3, 3)), iterations=reach, border_value=1
    )  # cv2 pads with the largest value
    return mask & ~eroded[1:-1, 1:-1]


MAPS = [array for pair in adversarial() for array in pair]


@pytest.mark.parametrize("reach", [1, 2, 3, 5])
@pytest.mark.parametrize("place", range(len(MAPS)))
def test_bands_of_all_classes_at_once(place, reach):
    labels = MAPS[place]
    band = boundary_band(labels, reach)
    for c in np.unique(labels):
        np.testing.assert_array_equal((labels == c) & band, mask_to_boundary(labels == c, reach))


@pytest.mark.parametrize(("height", "width"), [(1, 1), (20, 20), (333, 500), (375, 500), (1024, 2048)])
def test_the_reach_is_the_published_one(height, width):
    diagonal = np.sqrt(height**2 + width**2)
    assert boundary_reach(height, width) == max(1, round(0.02 * diagonal))


@pytest.mark.parametrize("place", range(len(adversarial())))
def test_counts_are_those_of_the_masks(place):
    truth, prediction = adversarial()[place]
    truth = np.where(truth == 255, -1, truth)
    counts = boundary_counts(truth, prediction)
    reach, kept = boundary_reach(*truth.shape), truth >= 0
    for c in range(CLASSES):
        there, found = (mask_to_boundary(labels == c, reach) & kept for labels in (truth, prediction))
        expected = (there.sum(), found.sum(), (there & found).sum())
        where = counts.classes == c
        ours = tuple(int(part[where].sum()) for part in (counts.true, counts.predicted, counts.hit))
        assert ours == expected


def test_how_classes_are_numbered_does_not_matter():
    truth, prediction = adversarial()[6]
    order = np.array([3, 5, 0, 4, 2, 1])
    one, other = boundary_counts(truth, prediction), boundary_counts(order[truth], order[prediction])
    found = dict(zip(other.classes.tolist(), other.hit.tolist(), strict=True))
    assert {int(order[c]): int(hit) for c, hit in zip(one.classes, one.hit, strict=True)} == found
