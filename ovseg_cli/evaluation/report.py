"""What an evaluation found, as data."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any

import numpy as np

from ovseg_cli.evaluation import metrics
from ovseg_cli.evaluation.figures import Background, Figure, all_figures
from ovseg_cli.evaluation.pictures import Pictures, background_place
from ovseg_cli.evaluation.presence import ClassPresence, class_presence

__all__ = ["Bound", "ClassScore", "Report", "UnaskedClass", "build_report", "convention"]

_ABSENT = "–"


@dataclass(frozen=True, slots=True, kw_only=True)
class ClassScore:
    """The figures of one class. None stands for "not defined".

    Attributes:
        name: The class.
        iou: Intersection over union, 0..1; None when the class is absent from truth and prediction.
        precision: Right share of the predicted pixels; None when nothing was predicted.
        recall: Found share of the true pixels; None when there are none.
        gt_pixels: True pixels.
        predicted_pixels: Predicted pixels.
        gt_share: Their share of all scored pixels, 0..1.
        predicted_share: Likewise.
        dice: Twice the right pixels by the true and the predicted ones; None when the class is absent from both.
        boundary_iou: IoU of the pixels along its outlines (see `ovseg_cli.evaluation.boundary`); None when there are
            none, or they were not counted.
    """

    name: str
    iou: float | None
    precision: float | None
    recall: float | None
    gt_pixels: int
    predicted_pixels: int
    gt_share: float
    predicted_share: float
    dice: float | None = None
    boundary_iou: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class UnaskedClass:
    """A class of the ground truth that was not asked for, with its share of the labelled pixels."""

    name: str
    pixels: int
    share: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Bound:
    """An upper bound of a run (see `ovseg_cli.evaluation.oracles`).

    Attributes:
        oracle: "names", "regions" or "presence".
        title: What is known, for tables.
        convention: How it is computed, in words.
        figures: As `Report.figures`.
        class_iou: IoU of each scored class, in the report's order; None where it is not defined.
    """

    oracle: str
    title: str
    convention: str
    figures: tuple[Figure, ...]
    class_iou: tuple[float | None, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Report:
    """The outcome of an evaluation.

    Attributes:
        classes: One score per class, in the order of the request; the background comes first if it counts.
        miou: Mean IoU over the classes that occur in the ground truth or in the prediction.
        miou_present: Mean IoU over the classes that occur in the ground truth.
        pixel_accuracy: Right share of the scored pixels.
        mean_accuracy: Mean recall over the classes of the ground truth.
        frequency_weighted_iou: IoU weighted by the classes' shares of the true pixels.
        images: How many images were scored.
        pixels: How many pixels were scored.
        ignored_pixels: How many were left out (the ignore value, and the background if it does not count).
        background: Whether the background counts as a class.
        figures: Every figure over all classes, by every convention about the background, each with its convention.
            The five above are among them.
        unasked: Classes of the ground truth that were not asked for, the largest first.
        missing: Keys of ground-truth images without a prediction.
        extra: Keys of predictions without ground truth.
        convention: One sentence that says how the figures are computed.
        warnings: What the reader of the figures should know.
        sources: Where ground truth, predictions and label maps came from.
        match: How regions without names got names from the truth: "image" or "dataset"; empty where nothing did. With
            it, all figures are those of an oracle.
        presence: How well it is known which pictures show a class (see `ovseg_cli.evaluation.presence`).
        oracles: What the run would reach if one thing were known.
        pictures: What was counted in each picture; None where that was not kept.
    """

    classes: tuple[ClassScore, ...]
    miou: float | None
    miou_present: float | None
    pixel_accuracy: float | None
    mean_accuracy: float | None
    frequency_weighted_iou: float | None
    images: int
    pixels: int
    ignored_pixels: int
    background: bool
    figures: tuple[Figure, ...] = ()
    unasked: tuple[UnaskedClass, ...] = ()
    missing: tuple[str, ...] = ()
    extra: tuple[str, ...] = ()
    convention: str = ""
    warnings: tuple[str, ...] = ()
    sources: dict[str, str] | None = None
    match: str = ""
    presence: tuple[ClassPresence, ...] = ()
    oracles: tuple[Bound, ...] = ()
    pictures: Pictures | None = field(default=None, repr=False, compare=False)

    def to_dict(self, *, pictures: bool = False) -> dict[str, Any]:
        """The report as JSON-able data; what is not defined is None, never NaN.

        Args:
            pictures: Whether the pictures' records are in it too, under `pictures` (see `Pictures.to_dict`).
        """
        data = asdict(replace(self, pictures=None))
        del data["pictures"]
        if pictures and self.pictures is not None:
            data["pictures"] = self.pictures.to_dict()
        return {key: list(value) if isinstance(value, tuple) else value for key, value in data.items()}

    def figure(self, key: str, background: Background | None = None) -> Figure:
        """One of the `figures`.

        Args:
            key: Its key.
            background: What becomes of the background; None as in the report's own means.

        Raises:
            KeyError: There is no such figure.
        """
        treatment = background or self.figures[0].background
        for figure in self.figures:
            if (figure.key, figure.background) == (key, treatment):
                return figure
        raise KeyError(f"{key}, background {treatment}")

    def rows(self) -> list[tuple[str, str, str, str]]:
        """(class, IoU, share of the truth, share of the prediction) as text; "–" where not defined."""
        return [
            (
                score.name,
                _ABSENT if score.iou is None else f"{score.iou:.3f}",
                f"{100 * score.gt_share:.1f} %",
                f"{100 * score.predicted_share:.1f} %",
            )
            for score in self.classes
        ]


def _defined(value: float) -> float | None:
    return None if math.isnan(value) else float(value)


def convention(
    *, background: bool, ignore: int | Sequence[int] | None = None, unasked: bool = False, match: str = ""
) -> str:
    """Say in one line how the figures of a report are computed.

    Args:
        background: Whether the background counts as a class.
        ignore: The ground-truth value or values that are left out; None, none or a negative number for none.
        unasked: Whether the ground truth has classes that were not asked for.
        match: How regions got their names from the truth, in words; empty where nothing did.
    """
    parts = ["IoU from one confusion matrix over all images", "mIoU over the classes in truth or prediction"]
    if background:
        parts.append("background counts as a class" + (", classes not asked for as background" if unasked else ""))
    else:
        parts.append("true background" + (" and classes not asked for are" if unasked else " is") + " left out")
    values = () if ignore is None else (ignore,) if isinstance(ignore, int) else ignore
    if left_out := [str(value) for value in values if value >= 0]:
        parts.append(f"pixels labelled {' or '.join(left_out)} left out")
    if match:
        parts.insert(0, f"an oracle's figures, not a segmenter's: {match}")
    return "; ".join(parts)


def build_report(
    names: Sequence[str],
    counts: metrics.Counts,
    *,
    scored: slice = slice(None),
    background: bool = True,
    pictures: Pictures | None = None,
    **facts: Any,
) -> Report:
    """Compute every figure of a report from one confusion matrix.

    Args:
        names: The names of the C classes.
        counts: `(C, C)` int64, ground truth in rows.
        scored: The classes that the report lists and that its means cover. The others still count as
            wrong answers.
        background: Whether the background is one of them.
        pictures: What was counted in each picture.
        **facts: The other fields of `Report`.

    Returns:
        The report.
    """
    true, predicted = counts.sum(axis=1), counts.sum(axis=0)
    iou, recall = metrics.class_iou(counts), metrics.class_accuracy(counts)
    precision = metrics.class_precision(counts)
    dice = metrics.class_dice(counts)
    bands = None if pictures is None else pictures.bands()
    outlines = np.full(len(names), np.nan) if bands is None else metrics.ratio(bands[2], bands[0] + bands[1] - bands[2])
    place = background_place(names, scored) if background else None
    figures = all_figures(counts, scored, background=place, bands=bands)
    own = {figure.key: figure.value for figure in reversed(figures) if figure.background == figures[0].background}
    total = int(counts.sum())
    classes = tuple(
        ClassScore(
            name=names[i],
            iou=_defined(iou[i]),
            precision=_defined(precision[i]),
            recall=_defined(recall[i]),
            dice=_defined(dice[i]),
            boundary_iou=_defined(outlines[i]),
            gt_pixels=int(true[i]),
            predicted_pixels=int(predicted[i]),
            gt_share=int(true[i]) / total if total else 0.0,
            predicted_share=int(predicted[i]) / total if total else 0.0,
        )
        for i in range(len(names))[scored]
    )
    return Report(
        classes=classes,
        miou=own["miou"],
        miou_present=own["miou_present"],
        pixel_accuracy=own["pixel_accuracy"],
        mean_accuracy=own["mean_accuracy"],
        frequency_weighted_iou=own["frequency_weighted_iou"],
        figures=figures,
        presence=() if pictures is None else class_presence(pictures),
        pictures=pictures,
        pixels=total,
        background=background,
        **facts,
    )
