"""What an evaluation's page says: the report's figures, and the pictures that went wrong most."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Final

import numpy as np
import numpy.typing as npt
from PIL import Image

from ovseg_cli.drawing.difference import difference, labelled, shrunk
from ovseg_cli.drawing.ink import EMPTY
from ovseg_cli.drawing.palettes import class_colour
from ovseg_cli.evaluation.figures import Figure
from ovseg_cli.evaluation.folder import LEFT_OUT
from ovseg_cli.evaluation.page import ClassRow, Headline, Page, PictureRow, ShownClass, ShownPicture
from ovseg_cli.evaluation.per_picture import PictureFigures, figures_of
from ovseg_cli.evaluation.pictures import Pictures
from ovseg_cli.evaluation.reliability import reliability
from ovseg_cli.evaluation.report import Report
from ovseg_cli.names import ClassList, is_background

WORST: Final = 12
"""Pictures that are shown where nobody says."""

SIDE: Final = 360
"""Pixels of the longer side of their copies."""

NO_SCORES: Final = (
    "No scores are kept for these label maps, so nothing can be said of them. ovseg segment keeps the mean score of "
    "each class in each picture."
)
SCORES: Final = (
    "What is kept is the mean score of each class in each picture. Where bars end at the dashed line, a score of 0.8 "
    "means that four pixels in five are right. Methods that read words score by probabilities; prototypes by cosines, "
    "which are no probabilities, so only the order of their scores can be right."
)

Maps = tuple[npt.NDArray[np.int32], npt.NDArray[np.int32]]


def page_of(
    report: Report,
    *,
    title: str,
    summary: Sequence[str],
    maps: Callable[[str], Maps],
    image_of: Callable[[str], Image.Image | str],
    scores: Mapping[str, Mapping[str, float]],
    facts: Mapping[str, str],
    worst: int = WORST,
) -> Page:
    """The page of a report.

    Args:
        report: With its pictures' records.
        title: What was scored.
        summary: Lines below it.
        maps: Of a picture's key, its true and predicted class indices (see `ovseg_cli.evaluation.folder.index_maps`).
        image_of: Of a key, the picture, upright and of the maps' size; or why there is none.
        scores: Of a key, the mean score of each class found; empty where none are kept.
        facts: What it was made with.
        worst: How many pictures are shown.

    Raises:
        ValueError: The report has no pictures' records.
    """
    pictures = report.pictures
    if pictures is None:
        raise ValueError("a page needs the records of the report's pictures")
    figures = sorted(figures_of(pictures), key=_how_bad)
    rows = [_row(one) for one in figures]
    found = reliability(_regions(pictures, scores))
    own = report.figures[0].background
    return Page(
        title=title,
        summary=summary,
        headlines=[
            *(_headline(figure, own=figure.background == own) for figure in _told(report)),
            *(_bound(bound.title, bound.figures[0], bound.convention) for bound in report.oracles),
        ],
        classes=[
            ClassRow(
                name=score.name,
                iou=score.iou,
                precision=score.precision,
                recall=score.recall,
                gt_share=score.gt_share,
                predicted_share=score.predicted_share,
            )
            for score in report.classes
        ],
        names=pictures.names,
        counts=pictures.matrix(),
        reliability=found,
        reliability_note=NO_SCORES if found is None else SCORES,
        pictures=rows,
        shown=[_shown(one, row, pictures, maps, image_of) for one, row in zip(figures[:worst], rows, strict=False)],
        warnings=report.warnings,
        facts={"convention": report.convention, **facts},
    )


def _how_bad(one: PictureFigures) -> tuple[bool, float, float, str]:
    """The worst first; pictures without a figure, of which nothing counts, come last."""
    return one.miou_present is None, one.miou_present or 0.0, one.accuracy or 0.0, one.key


def _row(one: PictureFigures) -> PictureRow:
    return PictureRow(key=one.key, miou=one.miou_present, accuracy=one.accuracy, pixels=one.pixels, remark=one.remark)


def _told(report: Report) -> list[Figure]:
    """The figures of the report's own convention about the background, then the mean IoUs of the others."""
    own = report.figures[0].background
    first = [figure for figure in report.figures if figure.background == own]
    return [*first, *(figure for figure in report.figures if figure.background != own and figure.key == "miou")]


def _bound(title: str, figure: Figure, convention: str) -> Headline:
    """An upper bound as a figure beside the others."""
    interval = None if figure.interval is None else (figure.interval.low, figure.interval.high)
    return Headline(name=f"mIoU, oracle: {title}", value=figure.value, interval=interval, convention=convention)


def _headline(figure: Figure, *, own: bool) -> Headline:
    interval = None if figure.interval is None else (figure.interval.low, figure.interval.high)
    return Headline(
        name=figure.title if own else f"{figure.title}, background {figure.background}",
        value=figure.value,
        interval=interval,
        convention=f"{figure.convention}; background {figure.background}",
    )


def _regions(pictures: Pictures, scores: Mapping[str, Mapping[str, float]]) -> list[tuple[float, int, int]]:
    """Of each class found in a picture, its score, its pixels that count, and how many of them are right."""
    if not scores:
        return []
    names = ClassList.distinct(pictures.names)
    found = []
    for picture in pictures:
        own = scores.get(picture.key, {})
        counts = picture.per_class()
        places = {index: at for at, index in enumerate(counts.classes.tolist())}
        for name, score in own.items():
            index = names.find(name)
            if index is not None and index in places:
                at = places[index]
                found.append((float(score), int(counts.predicted[at]), int(counts.hit[at])))
    return found


def _shown(
    one: PictureFigures,
    row: PictureRow,
    pictures: Pictures,
    maps: Callable[[str], Maps],
    image_of: Callable[[str], Image.Image | str],
) -> ShownPicture:
    truth, found = maps(one.key)
    image = image_of(one.key)
    missing = ""
    if isinstance(image, Image.Image) and (image.height, image.width) != truth.shape:
        image = f"The picture is {image.width}x{image.height}, and its labels are not."
    if isinstance(image, str):
        missing = image
        under = Image.new("RGB", (truth.shape[1], truth.shape[0]), EMPTY)
    else:
        under = image
    small, (small_truth, small_found) = shrunk(under, [truth, found], SIDE)
    rest = next((i for i, name in enumerate(pictures.names) if is_background(name)), None)
    colours = {
        index: class_colour(pictures.names[index])
        for index in sorted({*np.unique(truth).tolist(), *np.unique(found).tolist()})
        if index not in (rest, LEFT_OUT)
    }
    total = max(1, one.pixels)
    return ShownPicture(
        row=row,
        image=None if missing else small,
        truth=labelled(small, small_truth, colours),
        found=labelled(small, small_found, colours),
        difference=difference(small, small_truth, small_found, rest=rest, left_out=LEFT_OUT),
        classes=[
            ShownClass(
                name=name,
                colour=None if is_background(name) else class_colour(name),
                truth=true / total,
                found=predicted / total,
                iou=iou,
            )
            for name, (iou, true, predicted, _) in sorted(one.classes.items(), key=lambda item: -item[1][1])
        ],
        missing=missing,
    )
