"""The figures of every picture, as a table and as lines of JSON."""

from __future__ import annotations

import csv
import io
import json
import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from ovseg_cli.evaluation.pictures import PictureCounts, Pictures, picture_accuracy, picture_miou


@dataclass(frozen=True, slots=True, kw_only=True)
class PictureFigures:
    """The figures of one picture, 0..1; None where they are not defined.

    Attributes:
        key: Its path below its folder, without the suffix.
        miou: Mean IoU over the classes in its truth or prediction.
        miou_present: Mean IoU over the classes in its truth, so that a few wrong pixels of another class do not weigh
            as much as an object.
        accuracy: Share of its pixels that are right.
        pixels: How many count.
        ignored: How many are left out.
        classes: By class that occurs: its IoU, and its true, predicted and right pixels.
        mistake: The largest of its mistakes: true class, predicted class, pixels; None where all is right.
    """

    key: str
    miou: float | None
    miou_present: float | None
    accuracy: float | None
    pixels: int
    ignored: int
    classes: dict[str, tuple[float, int, int, int]]
    mistake: tuple[str, str, int] | None

    @property
    def remark(self) -> str:
        """The largest mistake in words."""
        if self.mistake is None:
            return ""
        true, found, pixels = self.mistake
        return f"{true} found as {found} ({100 * pixels / self.pixels:.1f} % of the pixels)"


def figures_of(pictures: Pictures) -> Iterator[PictureFigures]:
    """The figures of each picture, in order."""
    for picture in pictures:
        yield _figures(picture, pictures)


def _figures(picture: PictureCounts, pictures: Pictures) -> PictureFigures:
    counts = picture.per_class()
    iou = counts.hit / (counts.true + counts.predicted - counts.hit)
    scored = [pictures.scored.start <= index < pictures.scored.stop for index in counts.classes.tolist()]
    present = [float(one) for one, counted, true in zip(iou, scored, counts.true, strict=True) if counted and true]
    wrong = picture.true != picture.predicted
    mistake = None
    if wrong.any():
        place = int((picture.pixels * wrong).argmax())
        names = pictures.names[picture.true[place]], pictures.names[picture.predicted[place]]
        mistake = (*names, int(picture.pixels[place]))
    return PictureFigures(
        key=picture.key,
        miou=_defined(picture_miou(picture, pictures.scored)),
        miou_present=sum(present) / len(present) if present else None,
        accuracy=_defined(picture_accuracy(picture)),
        pixels=picture.scored,
        ignored=picture.ignored,
        classes={
            pictures.names[index]: (float(one), int(true), int(found), int(hit))
            for index, one, true, found, hit in zip(
                counts.classes.tolist(), iou, counts.true, counts.predicted, counts.hit, strict=True
            )
        },
        mistake=mistake,
    )


def as_csv(pictures: Pictures) -> str:
    """One row for each picture; cells are empty where a figure is not defined."""
    text = io.StringIO()
    table = csv.writer(text, lineterminator="\n")
    table.writerow(
        (
            *("picture", "miou", "miou_present", "pixel_accuracy", "pixels", "ignored_pixels"),
            *("mistake_true", "mistake_found", "mistake_pixels"),
        )
    )
    for one in figures_of(pictures):
        table.writerow(
            (one.key, one.miou, one.miou_present, one.accuracy, one.pixels, one.ignored, *(one.mistake or (None,) * 3))
        )
    return text.getvalue()


def as_jsonl(pictures: Pictures) -> str:
    """One line for each picture, with its classes."""
    return "".join(json.dumps(_record(one), ensure_ascii=False, allow_nan=False) + "\n" for one in figures_of(pictures))


def _record(one: PictureFigures) -> dict[str, Any]:
    columns = ("iou", "true_pixels", "predicted_pixels", "right_pixels")
    mistake = None if one.mistake is None else dict(zip(("true", "found", "pixels"), one.mistake, strict=True))
    return {
        "picture": one.key,
        "miou": one.miou,
        "miou_present": one.miou_present,
        "pixel_accuracy": one.accuracy,
        "pixels": one.pixels,
        "ignored_pixels": one.ignored,
        "classes": {name: dict(zip(columns, values, strict=True)) for name, values in one.classes.items()},
        "mistake": mistake,
    }


def _defined(value: float) -> float | None:
    return None if math.isnan(value) else value
