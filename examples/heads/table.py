"""Rows of heads as a Markdown table, with paired bootstrap over pictures."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from ovseg_cli.evaluation.bootstrap import interval
from ovseg_cli.evaluation.draws import DRAWS, LEVEL
from ovseg_cli.runs.head_report import Counts, harmonic, mean_iou_of

Interval = tuple[float, float]


@dataclass(frozen=True, slots=True)
class Outcome:
    """What one row did with one seed on one set of pictures.

    Attributes:
        row: The row, or the name of a method without training.
        seed: Of the training; -1 for a method without one.
        pictures: Which set.
        counts: A confusion matrix for each picture.
        seconds: For a picture.
        steps: Of the training.
    """

    row: str
    seed: int
    pictures: str
    counts: list[Counts]
    seconds: float
    steps: int = 0


def figures(counts: Counts, base: npt.NDArray[np.bool_]) -> tuple[float, float, float]:
    """MIoU of base and of novel names, and their harmonic mean, of one confusion matrix.

    Args:
        counts: (C + 1, C + 1), index 0 the background.
        base: bool (C,), which names were trained.
    """
    first, second = mean_iou_of(counts, base), mean_iou_of(counts, ~base)
    undefined = float("nan")
    return (
        undefined if first is None else first,
        undefined if second is None else second,
        harmonic(first, second) or 0.0,
    )


def bootstrap(
    first: Sequence[Outcome], second: Sequence[Outcome], base: npt.NDArray[np.bool_], *, which: int
) -> Interval:
    """The 95 % interval of the difference of a figure, over pictures that are drawn with repetition.

    Pictures are drawn once for both, and all seeds of a row are averaged.

    Args:
        first: Of one row, its seeds.
        second: Of another.
        base: As `figures` has it.
        which: 0 base, 1 novel, 2 harmonic mean.
    """
    random = np.random.default_rng(0)
    stacks = [[np.stack(outcome.counts) for outcome in row] for row in (first, second)]
    number = len(stacks[0][0])
    differences = []
    for _ in range(DRAWS):
        drawn = random.integers(0, number, number)
        means = [np.mean([figures(stack[drawn].sum(axis=0), base)[which] for stack in row]) for row in stacks]
        differences.append(means[0] - means[1])
    found = interval(np.array(differences), LEVEL, number)
    return (float("nan"), float("nan")) if found is None else (found.low, found.high)


def markdown(
    outcomes: Sequence[Outcome], names: Sequence[str], trained: Sequence[str], *, references: Mapping[str, str]
) -> str:
    """A table for each set of pictures.

    Args:
        outcomes: All of them.
        names: The vocabulary.
        trained: The base names.
        references: For a row, the one that its harmonic mean is compared with.
    """
    base = np.array([name in trained for name in names])
    lines: list[str] = []
    for pictures in dict.fromkeys(outcome.pictures for outcome in outcomes):
        own = [outcome for outcome in outcomes if outcome.pictures == pictures]
        rows = {row: [o for o in own if o.row == row] for row in dict.fromkeys(o.row for o in own)}
        lines += [f"**{pictures}**, {len(own[0].counts)} pictures", ""]
        lines += ["| row | base | novel | harmonic | against | difference of the harmonic mean | steps | s/picture |"]
        lines += ["|---|---:|---:|---:|---|---:|---:|---:|"]
        for row, found in rows.items():
            values = [figures(sum(outcome.counts[1:], outcome.counts[0]), base) for outcome in found]
            cells = [_spread([value[place] for value in values]) for place in range(3)]
            reference = references.get(row)
            against = ["", ""]
            if reference in rows:
                low, high = bootstrap(found, rows[reference], base, which=2)
                change = statistics.fmean(value[2] for value in values) - statistics.fmean(
                    figures(sum(o.counts[1:], o.counts[0]), base)[2] for o in rows[reference]
                )
                against = [reference, f"{100 * change:+.1f} ({100 * low:+.1f} to {100 * high:+.1f})"]
            steps = statistics.fmean(outcome.steps for outcome in found)
            seconds = statistics.fmean(outcome.seconds for outcome in found)
            shown = "–" if not steps else f"{steps:.0f}"
            lines.append(f"| {row} | {' | '.join(cells)} | {' | '.join(against)} | {shown} | {seconds:.2f} |")
        lines.append("")
    return "\n".join(lines)


def _spread(values: Sequence[float]) -> str:
    mean = f"{100 * statistics.fmean(values):.1f}"
    return f"{mean} ± {100 * statistics.stdev(values):.1f}" if len(values) > 1 else mean
