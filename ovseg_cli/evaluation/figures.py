"""The figures over all classes, each with the convention that it follows.

Papers call different numbers mIoU. What differs is over which classes the mean goes, and what becomes of the
background. From one confusion matrix all of them are computed, side by side and by name.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import numpy as np
import numpy.typing as npt

from ovseg_cli.evaluation import metrics
from ovseg_cli.evaluation.metrics import Counts, Scored

__all__ = [
    "BACKGROUNDS",
    "BOUNDARY",
    "Background",
    "Figure",
    "Interval",
    "all_figures",
    "averaged",
    "without_background",
]

BOUNDARY = "boundary_miou"
"""The key of the mean boundary IoU."""

ClassTotals = npt.NDArray[np.int64]
Background = Literal["counts", "not averaged", "left out"]

BACKGROUNDS: dict[Background, str] = {
    "counts": "the background is a class like the others",
    "not averaged": "the mean is over the other classes; pixels of the background count, as false alarms of these",
    "left out": "pixels whose truth is background are left out, as with --no-background",
}
"""What can become of the background, and what that means."""

_MEANS = "classes in truth or prediction (mmsegmentation, torchmetrics)"
_PRESENT = "classes in the truth (detectron2)"


@dataclass(frozen=True, slots=True, kw_only=True)
class Interval:
    """Between which values a figure lies, had other pictures been drawn from where these came from.

    Attributes:
        low: The lower limit.
        high: The upper limit.
        level: How often such an interval holds the figure of all pictures there are, 0..1.
        method: How it was found.
    """

    low: float
    high: float
    level: float
    method: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Figure:
    """One figure over all classes.

    Attributes:
        key: What it is called in files: "miou", "miou_present", "mean_dice", "frequency_weighted_iou",
            "pixel_accuracy", "mean_accuracy" or "boundary_miou".
        title: What it is called for people.
        background: What becomes of the background.
        value: 0..1; None where it is not defined.
        convention: How it is computed, in words.
        interval: How sure it is; None where that was not computed.
    """

    key: str
    title: str
    background: Background
    value: float | None
    convention: str
    interval: Interval | None = None


@dataclass(frozen=True, slots=True)
class _Kind:
    """A figure, as a function of a matrix and of the classes that a mean covers."""

    key: str
    title: str
    of: Callable[[Counts, Scored], float]
    convention: str
    mean: bool = True


_KINDS = (
    _Kind("miou", "mIoU", metrics.mean_iou, f"mean IoU over the {_MEANS}"),
    _Kind("miou_present", "mIoU (in truth)", metrics.mean_iou_present, f"mean IoU over the {_PRESENT}"),
    _Kind("mean_dice", "mean Dice", metrics.mean_dice, f"mean of 2 hits / (true + predicted) over the {_MEANS}"),
    _Kind("mean_accuracy", "mean accuracy", metrics.mean_accuracy, f"mean recall over the {_PRESENT}"),
    _Kind(
        "frequency_weighted_iou",
        "fwIoU",
        lambda counts, _: metrics.frequency_weighted_iou(counts),
        "IoU weighted by the classes' shares of the true pixels",
        mean=False,
    ),
    _Kind(
        "pixel_accuracy",
        "pixel accuracy",
        lambda counts, _: metrics.pixel_accuracy(counts),
        "share of the pixels that are right",
        mean=False,
    ),
)

_OF_BANDS = "within 2 % of the diagonal of the class's outline (Cheng et al., 2021)"


def without_background(counts: Counts, background: int) -> Counts:
    """A matrix without the pixels whose truth is background; where that was predicted elsewhere, it is still wrong."""
    left = counts.copy()
    left[background] = 0
    return left


def all_figures(
    counts: Counts, scored: slice, *, background: int | None, bands: ClassTotals | None = None
) -> tuple[Figure, ...]:
    """Every figure of a confusion matrix, by every convention about the background.

    Args:
        counts: `(C, C)` int64, ground truth in rows.
        scored: The classes that means cover.
        background: Which of them is the background, if it counts; without, there is one convention.
        bands: True, predicted and right pixels of the C classes along their outlines, `(3, C)`; None where they were
            not counted.

    Returns:
        The figures in which the background counts first; then the same over the other classes, those of them that are
        means; then those without its pixels.
    """
    found = []
    for treatment, chosen in averaged(len(counts), scored, background).items():
        matrix = counts
        if background is not None and treatment == "left out":
            matrix = without_background(counts, background)
        found += [
            _figure(kind.key, kind.title, treatment, kind.of(matrix, chosen), kind.convention)
            for kind in _KINDS
            if kind.mean or treatment != "not averaged"  # otherwise nothing is averaged
        ]
        if bands is not None and (background is None or treatment != "left out"):
            iou = metrics.ratio(bands[2], bands[0] + bands[1] - bands[2])[chosen]
            value = metrics.mean(iou)
            found.append(
                _figure(BOUNDARY, "boundary mIoU", treatment, value, f"mean IoU over the {_MEANS}, {_OF_BANDS}")
            )
    return tuple(found)


def averaged(num_classes: int, scored: slice, background: int | None) -> dict[Background, npt.NDArray[np.intp]]:
    """The classes that a mean covers, by what becomes of the background.

    Args:
        num_classes: How many there are.
        scored: Those that are scored.
        background: Which of them is the background; None where it does not count.
    """
    every = np.arange(num_classes)[scored]
    others = every[every != background]
    if background is None:
        return {"left out": every}
    return {"counts": every, "not averaged": others, "left out": others}


def _figure(key: str, title: str, background: Background, value: float, convention: str) -> Figure:
    shown = None if math.isnan(value) else value
    return Figure(key=key, title=title, background=background, value=shown, convention=convention)
