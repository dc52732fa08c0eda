"""Whether pictures show a class at all: label maps judged as if they were lists of classes.

A class is predicted where a label map has at least one pixel of it. The average precision needs a score of each
picture: the class's share of its pixels in the prediction, of which label maps know no better one.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from ovseg_cli.evaluation.pictures import Pictures

__all__ = ["CONVENTION", "ClassPresence", "average_precision", "class_presence", "mean_presence"]

CONVENTION = (
    "a class is present where one pixel that counts has it; the average precision orders pictures by the class's share "
    "of the prediction, and is the sum of precision times gain in recall (scikit-learn); without the background"
)

Values = npt.NDArray[np.float64]


@dataclass(frozen=True, slots=True, kw_only=True)
class ClassPresence:
    """How well it is known which pictures show a class. None stands for "not defined".

    Attributes:
        name: The class.
        images_true: Pictures that show it.
        images_predicted: Pictures in whose label map it is.
        precision: Right share of the latter.
        recall: Found share of the former.
        f1: Harmonic mean of both; None where the class is in neither.
        average_precision: Area under precision over recall; None where no picture shows it.
    """

    name: str
    images_true: int
    images_predicted: int
    precision: float | None
    recall: float | None
    f1: float | None
    average_precision: float | None


def class_presence(pictures: Pictures) -> tuple[ClassPresence, ...]:
    """Figures of the presence of every scored class but the background.

    Args:
        pictures: The records of a run.
    """
    owner, true, predicted, pixels = pictures.entries()
    totals = np.zeros(len(pictures), dtype=np.int64)
    np.add.at(totals, owner, pixels)
    background = pictures.background
    found = []
    for place in range(len(pictures.names))[pictures.scored]:
        if place == background:
            continue
        shows = np.zeros(len(pictures), dtype=bool)
        shows[owner[true == place]] = True
        areas = np.zeros(len(pictures), dtype=np.int64)
        mine = predicted == place
        np.add.at(areas, owner[mine], pixels[mine])
        answers = areas > 0
        hits, number, answered = int((shows & answers).sum()), int(shows.sum()), int(answers.sum())
        shares = np.divide(areas, totals, out=np.zeros(len(areas)), where=totals > 0)
        found.append(
            ClassPresence(
                name=pictures.names[place],
                images_true=number,
                images_predicted=answered,
                precision=hits / answered if answered else None,
                recall=hits / number if number else None,
                f1=2 * hits / (number + answered) if number + answered else None,
                average_precision=average_precision(shows, shares) if number else None,
            )
        )
    return tuple(found)


def average_precision(shows: npt.NDArray[np.bool_], scores: Values) -> float:
    """Precision at each score that occurs, weighted by the recall that is gained there.

    Args:
        shows: `(N,)` bool, at least one true.
        scores: `(N,)`; pictures of one score are taken together.
    """
    order = np.argsort(-scores, kind="stable")
    last = np.flatnonzero(np.append(np.diff(scores[order]) != 0, True))
    hits = np.cumsum(shows[order])[last]
    return float((hits / (last + 1) * np.diff(hits, prepend=0)).sum() / hits[-1])


def mean_presence(classes: Sequence[ClassPresence]) -> dict[str, float]:
    """The mean of each figure over the classes for which it is defined; what is defined for none is left out.

    Args:
        classes: From `class_presence`.
    """
    found = {}
    for key in ("precision", "recall", "f1", "average_precision"):
        values = [value for each in classes if (value := getattr(each, key)) is not None]
        if values:
            found[key] = sum(values) / len(values)
    return found
