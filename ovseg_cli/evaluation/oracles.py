"""What a run would reach if one thing were known: where, what, or whether. Upper bounds, not results.

Each takes the records of a run and gives records in which the truth has answered one question:

- names (what): the areas that the run gave one class in a picture are regions, and these get the names that fit the
  truth best;
- regions (where): the areas of one true class in a picture are regions, and the run names each by its most frequent
  answer there;
- presence (whether): it is known which classes a picture shows, and answers of others are withdrawn.

The bounds of `regions` and `presence` are such for every class: no IoU can fall. `names` maximises the pixels that are
right, as the published matching does, so the pixel accuracy cannot fall; the mIoU seldom does.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
import numpy.typing as npt

from ovseg_cli.evaluation.bootstrap import with_intervals
from ovseg_cli.evaluation.draws import DRAWS, LEVEL, SEED
from ovseg_cli.evaluation.metrics import Counts
from ovseg_cli.evaluation.pictures import PictureCounts, Pictures
from ovseg_cli.evaluation.report import Bound, Report, build_report
from ovseg_cli.evaluation.scoring import picture_of

__all__ = [
    "MATCHES",
    "NO_CLASS",
    "ORACLES",
    "Match",
    "Oracle",
    "OracleName",
    "best_match",
    "matched",
    "oracle",
    "with_oracles",
]

Match = Literal["image", "dataset"]
OracleName = Literal["names", "regions", "presence"]

NO_CLASS = "(no class)"
"""The last name in the records of an oracle: what is predicted there is wrong, but no class's false alarm."""

MATCHES: dict[Match, str] = {
    "image": (
        "regions are named by the best one-to-one match with the true classes of each picture (Hungarian matching, as "
        "DiffSeg is scored); regions and classes without a partner count as missed"
    ),
    "dataset": "region numbers are named once for all pictures by the best one-to-one match with the true classes",
}
"""How regions without names get names from the truth."""

_TIES = 1 << 26
"""Among equal matches the one of the smaller regions is taken in pictures of fewer pixels; beyond, sums would round."""

Indices = npt.NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class Oracle:
    """An upper bound.

    Attributes:
        title: What is known, for tables.
        convention: How it is computed, in words.
        apply: Makes its records of those of a run.
    """

    title: str
    convention: str
    apply: Callable[[Pictures], Pictures]


def best_match(counts: Counts) -> Indices:
    """The one-to-one match of true classes and regions that makes most pixels right.

    As `hungarian_matching` of google/diffseg b5d249a, but for two things. A region that shares no pixel with a class is
    not given to it: there, regions that are left over become false alarms of classes that the picture lacks, of which
    ones depends on their order. And among equal matches the one of the smaller regions is taken, so that the order of
    regions does not matter.

    Args:
        counts: `(T, R)` int64, the pixels that true class and region share.

    Returns:
        `(R,)` int64: the class of each region; -1 where it has none.
    """
    from scipy.optimize import linear_sum_assignment

    found = np.full(counts.shape[1], -1, dtype=np.int64)
    order = np.lexsort(counts[::-1])  # whatever the regions' numbers, they come in one order
    weights = counts[:, order].astype(np.float64)
    total = int(counts.sum())
    if total < _TIES:
        weights = np.where(weights > 0, weights * (total + 1) - weights.sum(axis=0), 0.0)
    rows, columns = linear_sum_assignment(weights, maximize=True)
    regions = order[columns]
    kept = counts[rows, regions] > 0
    found[regions[kept]] = rows[kept]
    return found


def matched(pictures: Pictures, match: Match) -> Pictures:
    """Records of regions with names that the truth has given them.

    Args:
        pictures: Records whose predicted indices are numbers of regions, of any range from 0; those of one picture
            ("image") or of all ("dataset") with one number are one region.
        match: How they are matched (see `MATCHES`).

    Returns:
        Records with one more class, `NO_CLASS`, which is not scored.
    """
    if match == "dataset":
        _, true, regions, pixels = pictures.entries()
        names = _names(true, regions, pixels, len(pictures.names))
        return _changed(pictures, lambda picture: names[picture.predicted])
    return _changed(
        pictures,
        lambda picture: _names(picture.true, picture.predicted, picture.pixels, len(pictures.names))[picture.predicted],
    )


def _names(true: npt.NDArray[np.integer], regions: npt.NDArray[np.integer], pixels: Counts, no_class: int) -> Indices:
    """A table of the class of each number of a region, from entries of a confusion matrix."""
    classes, rows = np.unique(true, return_inverse=True)
    numbers, columns = np.unique(regions, return_inverse=True)
    table = np.full(int(numbers.max(initial=-1)) + 1, no_class, dtype=np.int64)
    if not classes.size:
        return table
    counts = np.zeros((len(classes), len(numbers)), dtype=np.int64)
    np.add.at(counts, (rows, columns), pixels)
    found = best_match(counts)
    table[numbers] = np.where(found < 0, no_class, classes[found])
    return table


def _voted(pictures: Pictures) -> Pictures:
    """The oracle `regions`.

    Where the most frequent answer in a true region is wrong, the answers stay as they are: those that are right by
    chance would be lost otherwise, and the figure would be no bound.
    """

    def change(picture: PictureCounts) -> Indices:
        predicted = picture.predicted.astype(np.int64)
        for name in np.unique(picture.true):
            region = picture.true == name
            if predicted[region][picture.pixels[region].argmax()] == name:
                predicted[region] = name
        return predicted

    return _changed(pictures, change)


def _present(pictures: Pictures) -> Pictures:
    """The oracle `presence`.

    A withdrawn answer is right where the truth is background, and nowhere a false alarm: what the run would have said
    instead is not known, and the background is not charged with it.
    """
    background = pictures.background

    def change(picture: PictureCounts) -> Indices:
        absent = ~np.isin(picture.predicted, picture.true)
        right = absent & (picture.true == (-1 if background is None else background))
        return np.where(right, picture.true, np.where(absent, len(pictures.names), picture.predicted))

    return _changed(pictures, change)


def _changed(pictures: Pictures, change: Callable[[PictureCounts], Indices]) -> Pictures:
    """Records with other predicted classes for each entry; `len(pictures.names)` for none."""
    found = Pictures([*pictures.names, NO_CLASS], scored=slice(pictures.scored.start, pictures.scored.stop))
    for picture in pictures:
        changed = picture_of(picture.key, picture.true, change(picture), picture.pixels, ignore=-1)
        found.append(
            PictureCounts(changed.key, changed.true, changed.predicted, changed.pixels, ignored=picture.ignored)
        )
    return found


ORACLES: dict[OracleName, Oracle] = {
    "names": Oracle(
        "perfect names",
        "the run's areas of one class in a picture, named by the best one-to-one match with the truth (Hungarian "
        "matching, as DiffSeg is scored)",
        lambda pictures: matched(pictures, "image"),
    ),
    "regions": Oracle(
        "perfect regions",
        "the true areas of one class in a picture, named by the run's most frequent answer there; where that is wrong, "
        "its answers stay",
        _voted,
    ),
    "presence": Oracle(
        "known presence",
        "answers of classes that the picture does not show are withdrawn: right where the truth is background, nowhere "
        "a false alarm",
        _present,
    ),
}
"""The upper bounds by name."""


def oracle(pictures: Pictures, name: OracleName) -> Pictures:
    """The records of a run as an oracle would have made them, with the class `NO_CLASS` in the end."""
    return ORACLES[name].apply(pictures)


def with_oracles(
    report: Report, names: Iterable[OracleName], *, draws: int = DRAWS, seed: int = SEED, level: float = LEVEL
) -> Report:
    """A report that says what its run would reach if one thing were known.

    Args:
        report: One that has its pictures' records.
        names: Which bounds.
        draws: Bootstrap draws for their intervals; 0 for none.
        seed: Of the draws.
        level: Of the intervals.

    Raises:
        ValueError: The report has no records.
    """
    if report.pictures is None:
        raise ValueError("a report without its pictures' records has no upper bounds")
    bounds = []
    for name in names:
        of = oracle(report.pictures, name)
        known = build_report(
            of.names,
            of.matrix(),
            scored=of.scored,
            background=report.background,
            pictures=of,
            images=len(of),
            ignored_pixels=of.ignored,
        )
        known = with_intervals(known, draws=draws, seed=seed, level=level)
        facts = ORACLES[name]
        bounds.append(
            Bound(
                oracle=name,
                title=facts.title,
                convention=facts.convention,
                figures=known.figures,
                class_iou=tuple(score.iou for score in known.classes),
            )
        )
    return replace(report, oracles=tuple(bounds))
