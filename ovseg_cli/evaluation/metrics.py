"""The figures of semantic segmentation, each a pure function of a confusion matrix.

The matrix is `(C, C)` int64 with the ground truth in rows and the prediction in columns, summed over the
whole dataset (the convention of mmsegmentation; averages per image give other numbers). Figures that are
not defined, such as the IoU of a class that occurs nowhere, are NaN.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

__all__ = [
    "Scored",
    "class_accuracy",
    "class_dice",
    "class_iou",
    "class_precision",
    "frequency_weighted_iou",
    "mean",
    "mean_accuracy",
    "mean_dice",
    "mean_iou",
    "mean_iou_present",
    "pixel_accuracy",
    "ratio",
]

Counts = npt.NDArray[np.int64]
PerClass = npt.NDArray[np.float64]
Scored = slice | npt.NDArray[np.intp]
"""The classes that a mean covers: a slice of their indices, or the indices."""

_ALL = slice(None)


def ratio(part: Counts, whole: Counts) -> PerClass:
    """`part / whole`, NaN where `whole` is 0; arrays of one shape."""
    result = np.full(part.shape, np.nan)
    np.divide(part, whole, out=result, where=whole != 0)
    return result


def mean(values: PerClass) -> float:
    """The mean of what is defined, NaN when nothing is (`numpy.nanmean` would warn)."""
    defined = values[~np.isnan(values)]
    return float(defined.mean()) if defined.size else float("nan")


def class_iou(counts: Counts) -> PerClass:
    """Intersection over union of each class.

    Args:
        counts: `(C, C)` confusion matrix.

    Returns:
        `(C,)` float64 in 0..1; NaN for a class that is absent from ground truth and prediction, 0 for one
        that is only in one of them.
    """
    hit = np.diagonal(counts)
    return ratio(hit, counts.sum(axis=0) + counts.sum(axis=1) - hit)


def class_accuracy(counts: Counts) -> PerClass:
    """The share of each class's true pixels that were found (recall): `(C,)`, NaN without true pixels."""
    return ratio(np.diagonal(counts), counts.sum(axis=1))


def class_precision(counts: Counts) -> PerClass:
    """The share of each class's predicted pixels that are right: `(C,)`, NaN without predicted pixels."""
    return ratio(np.diagonal(counts), counts.sum(axis=0))


def class_dice(counts: Counts) -> PerClass:
    """Dice (F1) of each class, twice its hits by its true and predicted pixels: `(C,)`, NaN where it is absent."""
    return ratio(2 * np.diagonal(counts), counts.sum(axis=0) + counts.sum(axis=1))


def mean_iou(counts: Counts, scored: Scored = _ALL) -> float:
    """The mean IoU over those of the `scored` classes that occur in the ground truth or in the prediction."""
    return mean(class_iou(counts)[scored])


def mean_iou_present(counts: Counts, scored: Scored = _ALL) -> float:
    """The mean IoU over those of the `scored` classes that occur in the ground truth."""
    return mean(class_iou(counts)[scored][counts.sum(axis=1)[scored] > 0])


def mean_dice(counts: Counts, scored: Scored = _ALL) -> float:
    """The mean of `class_dice` over those of the `scored` classes that occur in the ground truth or the prediction."""
    return mean(class_dice(counts)[scored])


def pixel_accuracy(counts: Counts) -> float:
    """The share of all pixels that are right; NaN without pixels."""
    total = int(counts.sum())
    return int(np.trace(counts)) / total if total else float("nan")


def mean_accuracy(counts: Counts, scored: Scored = _ALL) -> float:
    """The mean of `class_accuracy` over those of the `scored` classes that occur in the ground truth."""
    return mean(class_accuracy(counts)[scored])


def frequency_weighted_iou(counts: Counts) -> float:
    """The mean IoU with each class weighted by its share of the true pixels; NaN without pixels."""
    true = counts.sum(axis=1)
    if not true.any():
        return float("nan")
    present = true > 0
    return float((class_iou(counts)[present] * true[present]).sum() / true.sum())
