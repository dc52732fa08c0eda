"""How sure a mean IoU is, and whether two differ: by drawing the pictures anew.

A data set is one draw of pictures out of many that could have been drawn. The bootstrap (Efron, 1979) draws as many
again out of the set itself, with replacement, and computes the figure of each such draw from the pictures' counts. Its
percentiles are the interval. What is drawn are pictures, not pixels: those of one picture depend on each other.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Iterator, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy.special import ndtr, ndtri, stdtr, stdtrit

from ovseg_cli.evaluation.draws import DRAWS, LEVEL, SEED
from ovseg_cli.evaluation.figures import BOUNDARY, Background, Interval, averaged
from ovseg_cli.evaluation.pictures import Pictures
from ovseg_cli.evaluation.report import Report

__all__ = ["Means", "expanded", "interval", "p_value", "with_intervals"]

_BLOCK = 1 << 21
"""Numbers of one block of draws at most, 16 MiB."""

_DENSE = 1 << 23
"""Up to so many numbers, 64 MiB, a table of classes and pictures is kept with its zeros, which is faster."""

Values = npt.NDArray[np.float64]
_Part = tuple[npt.NDArray[np.integer], npt.NDArray[np.integer], npt.NDArray[np.integer]]


class _Tables:
    """True, predicted and right pixels of each class in each picture, for one way to count.

    Args:
        parts: For the true, the predicted and the right pixels: the places of pictures, class indices below
            `num_classes`, and the pixels; `(n,)` each. What stands there for one picture and class is added up.
        pictures: How many pictures there are.
        num_classes: How many classes there are.
    """

    def __init__(self, parts: Sequence[_Part], pictures: int, num_classes: int) -> None:
        self._classes = num_classes
        columns = np.concatenate(
            [classes.astype(np.int64) + i * num_classes for i, (_, classes, _) in enumerate(parts)]
        )
        rows = np.concatenate([owner for owner, _, _ in parts])
        values = np.concatenate([pixels for _, _, pixels in parts]).astype(np.float64)  # sums are exact below 2**53
        self._sums: Any
        shape = (3 * num_classes, pictures)
        if math.prod(shape) > _DENSE:
            from scipy.sparse import csr_array  # takes a while, and few need it

            self._sums = csr_array((values, (columns, rows)), shape=shape)
            self._sums.sum_duplicates()
        else:
            self._sums = np.zeros(shape)
            np.add.at(self._sums, (columns, rows), values)

    def iou(self, weights: Values) -> tuple[Values, Values]:
        """IoU of each class in each draw, and its true pixels there.

        Args:
            weights: `(N, B)`, how often each of the N pictures is in each of B draws.

        Returns:
            `(C, B)` float64 each; NaN for an IoU where the class is absent.
        """
        true, predicted, hit = (self._sums @ weights).reshape(3, self._classes, -1)
        union = true + predicted - hit
        iou = np.full(union.shape, np.nan)
        np.divide(hit, union, out=iou, where=union > 0)
        return iou, true


def _tables(pictures: Pictures, *, drop: int | None = None, boundary: bool = False) -> _Tables:
    """Tables of some pictures; without those pixels whose truth is class `drop`; or of the bands along outlines."""
    size = len(pictures), len(pictures.names)
    if boundary:
        found = pictures.boundary_entries()
        if found is None:
            raise ValueError("these records have no boundary counts")
        owner, bands = found
        return _Tables([(owner, bands.classes, part) for part in (bands.true, bands.predicted, bands.hit)], *size)
    owner, true, predicted, pixels = pictures.entries()
    if drop is not None:
        kept = true != drop
        owner, true, predicted, pixels = owner[kept], true[kept], predicted[kept], pixels[kept]
    right = true == predicted
    hits = owner[right], true[right], pixels[right]
    return _Tables([(owner, true, pixels), (owner, predicted, pixels), hits], *size)


def _draws(pictures: int, number: int, seed: int) -> Iterator[Values]:
    """How often each picture is in each draw, `(N, b)`, block by block; the same draws for one seed and number."""
    random = np.random.default_rng(seed)
    block = max(1, _BLOCK // max(1, pictures))
    for begin in range(0, number, block):
        width = min(block, number - begin)
        chosen = random.integers(0, pictures, (width, pictures))
        chosen += np.arange(width)[:, None] * pictures
        yield np.bincount(chosen.ravel(), minlength=width * pictures).reshape(width, pictures).T.astype(np.float64)


def _mean(iou: Values, chosen: npt.NDArray[np.intp], present: Values | None = None) -> Values:
    """The mean over the `chosen` classes of each draw, `(B,)`: those that are defined, or that are in the truth."""
    values = iou[chosen]
    defined = ~np.isnan(values) if present is None else present[chosen] > 0
    number = defined.sum(axis=0)
    sums = np.where(defined, values, 0.0).sum(axis=0)
    return np.divide(sums, number, out=np.full(len(sums), np.nan), where=number > 0)


def interval(values: Values, level: float, pictures: int) -> Interval | None:
    """Expanded percentiles of the draws in which a figure is defined; None where it never is.

    Percentiles of few pictures are too near to each other, as a sample's own spread is too small and is not known well.
    Hesterberg's are further out, by what Student's t is beyond the normal distribution ("What Teachers Should Know
    About the Bootstrap", The American Statistician 69, 2015, section 5.3); with many pictures they are the usual ones.

    Args:
        values: `(draws,)`, the figure of each draw; NaN where it is not defined.
        level: How often the true figure should lie between the limits, 0..1.
        pictures: How many pictures there are; at least 2.
    """
    defined = values[~np.isnan(values)]
    if not defined.size:
        return None
    outside = float(ndtr(-expanded(float(ndtri((1 + level) / 2)), pictures)))
    low, high = np.quantile(defined, [outside, 1 - outside])
    method = f"expanded percentiles of {len(values)} bootstrap draws of pictures"
    return Interval(low=float(low), high=float(high), level=level, method=method)


def expanded(errors: float, pictures: int) -> float:
    """How many standard errors of so few pictures are as sure as so many of the normal distribution.

    Args:
        errors: A distance in standard errors, with the normal distribution; above 0.
        pictures: How many pictures the standard error comes from; at least 2.
    """
    return float(math.sqrt(pictures / (pictures - 1)) * stdtrit(pictures - 1, ndtr(errors)))


def p_value(differences: Values, pictures: int) -> float | None:
    """How likely so large a difference is by chance; None where it is never defined.

    Args:
        differences: `(draws,)`, of two runs in each draw.
        pictures: How many pictures there are; at least 2. What the draws say is taken back as `interval` expands it.
    """
    defined = differences[np.isfinite(differences)]
    if not defined.size:
        return None
    fewer = min(int((defined <= 0).sum()), int((defined >= 0).sum()))
    p = 2 * (fewer + 1) / (defined.size + 1)
    if p >= 1:
        return 1.0
    errors = -ndtri(p / 2) * math.sqrt((pictures - 1) / pictures)
    return float(2 * stdtr(pictures - 1, -errors))


def with_intervals(report: Report, *, draws: int = DRAWS, seed: int = SEED, level: float = LEVEL) -> Report:
    """A report whose mean IoUs have intervals.

    Args:
        report: One that has its pictures' records.
        draws: How many draws; 0 leaves the report as it is.
        seed: Of the draws. One report, number and seed give one interval.
        level: How often such an interval holds the true value, 0..1. With fewer than ten pictures it is still too
            short: read it as a lower bound of the doubt.

    Returns:
        The report, with `Figure.interval` of every mean IoU. Fewer than two pictures have none.
    """
    pictures = report.pictures
    if pictures is None or len(pictures) < 2 or draws < 1:
        return report
    wanted = [figure for figure in report.figures if figure.key in ("miou", "miou_present", BOUNDARY)]
    means = Means(pictures, {(figure.key, figure.background) for figure in wanted})
    found = means.of_draws(draws, seed)
    figures = tuple(
        replace(figure, interval=interval(found[figure.key, figure.background], level, len(pictures)))
        if figure in wanted
        else figure
        for figure in report.figures
    )
    return replace(report, figures=figures)


class Means:
    """Mean IoUs of draws of one run's pictures.

    Args:
        pictures: Their records.
        wanted: Which: pairs of a figure's key ("miou", "miou_present" or "boundary_miou") and what becomes of the
            background.
    """

    def __init__(self, pictures: Pictures, wanted: Collection[tuple[str, Background]]) -> None:
        background = pictures.background
        self._pictures = len(pictures)
        self._wanted = sorted(wanted)
        self._chosen = averaged(len(pictures.names), pictures.scored, background)
        self._whole = _tables(pictures)
        self._left = None
        if background is not None and any(treatment == "left out" for _, treatment in wanted):
            self._left = _tables(pictures, drop=background)
        self._bands = _tables(pictures, boundary=True) if any(key == BOUNDARY for key, _ in wanted) else None

    def of(self, weights: Values) -> dict[tuple[str, Background], Values]:
        """The means of draws that are given as `_draws` gives them."""
        whole = self._whole.iou(weights)
        left = whole if self._left is None else self._left.iou(weights)
        bands = None if self._bands is None else self._bands.iou(weights)
        found = {}
        for key, treatment in self._wanted:
            source = bands if key == BOUNDARY else left if treatment == "left out" else whole
            if source is not None:
                found[key, treatment] = _mean(
                    source[0], self._chosen[treatment], source[1] if key == "miou_present" else None
                )
        return found

    def of_draws(self, draws: int, seed: int) -> dict[tuple[str, Background], Values]:
        """The means of so many draws, `(draws,)` each."""
        blocks = [self.of(weights) for weights in _draws(self._pictures, draws, seed)]
        return {key: np.concatenate([block[key] for block in blocks]) for key in blocks[0]}
