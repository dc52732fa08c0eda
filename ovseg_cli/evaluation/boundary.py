"""Boundary IoU: how well outlines agree, where large insides would hide it.

Cheng et al., "Boundary IoU: Improving Object-Centric Image Segmentation Evaluation" (CVPR 2021), and their code
(bowenc0221/boundary-iou-api 8006aa9, `mask_to_boundary`): of every mask, only the pixels are compared that lie within
2 % of the picture's diagonal of its outline; the border of the picture is an outline too. Here the masks are those of
classes, and intersections and unions are summed over pictures, as for the IoU.

The evaluators of detectron2 and MESS subtract an eroded label map from a label map as if ids were amounts, so that
their figure depends on how classes are numbered. It is another one, and not computed here.
"""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt

from ovseg_cli.evaluation.pictures import ClassCounts
from ovseg_cli.files.tally import tally

__all__ = ["DILATION", "boundary_band", "boundary_counts", "boundary_reach"]

DILATION = 0.02
"""The width of the band as a share of the picture's diagonal, as published."""

Mask = npt.NDArray[np.bool_]
Labels = npt.NDArray[np.integer]


def boundary_reach(height: int, width: int) -> int:
    """The width of the band in pixels, at least 1."""
    return max(1, round(DILATION * math.sqrt(height**2 + width**2)))


def boundary_band(labels: Labels, reach: int) -> Mask:
    """Which pixels lie within `reach` of an outline of their own class.

    For every class at once: a mask's eroded part is where the square of `2 * reach + 1` pixels around a pixel lies in
    the picture and is of one class.

    Args:
        labels: `(H, W)` integers.
        reach: In pixels, along rows, columns and diagonals alike; at least 1.

    Returns:
        `(H, W)` bool.
    """
    height, width = labels.shape
    band = np.ones(labels.shape, dtype=bool)
    if min(height, width) > 2 * reach:
        across = _any_of(labels[:, 1:] != labels[:, :-1], 2 * reach, axis=1)
        square = _any_of(across, 2 * reach + 1, axis=0)
        middle = labels[:, reach : width - reach]
        square |= _any_of(middle[1:] != middle[:-1], 2 * reach, axis=0)
        band[reach : height - reach, reach : width - reach] = square
    return band


def _any_of(marks: Mask, length: int, *, axis: int) -> Mask:
    """Whether any of `length` marks in a row is set, for each row that fits in, in the logarithm of `length` steps."""
    found, covered = np.moveaxis(marks, axis, 0), 1
    while covered < length:
        step = min(covered, length - covered)
        found = found[:-step] | found[step:]
        covered += step
    return np.moveaxis(found, 0, axis)


def boundary_counts(true: Labels, predicted: Labels) -> ClassCounts:
    """Pixels of each class within the bands of one picture.

    Args:
        true: `(H, W)` true class indices; negative ones are left out.
        predicted: `(H, W)` predicted class indices from 0.

    Returns:
        Of each class: its true pixels in the band of the truth, its predicted ones in that of the prediction, and those
        that are both.
    """
    reach = boundary_reach(*true.shape)
    counted = true >= 0
    of_truth, of_prediction = boundary_band(true, reach) & counted, boundary_band(predicted, reach) & counted
    both = of_truth & of_prediction & (true == predicted)
    parts = [tally(true[of_truth]), tally(predicted[of_prediction]), tally(true[both])]
    classes = np.unique(np.concatenate([values for values, _ in parts]))
    columns = []
    for values, pixels in parts:
        column = np.zeros(len(classes), dtype=np.int64)
        column[np.searchsorted(classes, values)] = pixels
        columns.append(column)
    return ClassCounts(classes.astype(np.int32), *columns)
