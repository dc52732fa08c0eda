"""Scoring label arrays that are in memory already."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from itertools import zip_longest

import numpy as np
import numpy.typing as npt

from ovseg_cli.evaluation.pictures import Pictures
from ovseg_cli.evaluation.report import Report, build_report, convention
from ovseg_cli.evaluation.scoring import check_classes, count_pair
from ovseg_cli.files.labels import IGNORE, is_background

__all__ = ["evaluate_arrays"]


def evaluate_arrays(
    predictions: Iterable[npt.NDArray[np.integer]],
    ground_truths: Iterable[npt.NDArray[np.integer]],
    names: Sequence[str],
    ignore: int | None = IGNORE,
) -> Report:
    """Score predicted label arrays against true ones.

    Example:
        >>> report = evaluate_arrays([np.array([[0, 1]])], [np.array([[0, 255]])], ["background", "cat"])
        >>> report.miou, report.classes[1].iou
        (1.0, None)

    Args:
        predictions: One `(H, W)` integer array per image with indices into `names`.
        ground_truths: Likewise, in the same order and sizes; pixels of the value `ignore` are left out.
        names: The names of the indices 0, 1, 2 ... ; all of them are scored, the background too.
        ignore: The value of pixels that do not count; None if there is none.

    Returns:
        The report.

    Raises:
        ValueError: The numbers of arrays differ, or arrays of one image differ in shape or hold other
            values; the message says which image (from 0).
    """
    check_classes(len(names), ignore)
    pictures = Pictures(names)
    for prediction, gt in zip_longest(predictions, ground_truths):
        image = len(pictures)
        if prediction is None or gt is None:
            side = "prediction" if prediction is None else "ground truth"
            raise ValueError(f"image {image} has no {side}: as many predictions as ground truths are needed")
        try:
            pictures.append(count_pair(gt, prediction, num_classes=len(names), key=str(image), ignore=ignore))
        except ValueError as error:
            raise ValueError(f"image {image}: {error}") from error
    background = any(is_background(name) for name in names)
    return build_report(
        names,
        pictures.matrix(),
        background=background,
        images=len(pictures),
        ignored_pixels=pictures.ignored,
        pictures=pictures,
        convention=convention(background=background, ignore=ignore),
    )
