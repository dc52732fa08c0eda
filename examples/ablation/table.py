"""The figures as a Markdown table."""

from __future__ import annotations

import statistics
from collections.abc import Sequence

from examples.ablation.measure import Result
from examples.ablation.rows import Row


def markdown(result: Result) -> str:
    """One table of all rows.

    mIoU in percent, as the mean over the seeds and their standard deviation (n - 1); beside it the difference from the
    group's reference, which is taken seed by seed, so that what both have in common does not widen its spread.
    """
    sets = list(result.miou)
    head = ["", *(cell for name in sets for cell in (f"{name}: mIoU", "difference")), "paper: VOC / Context"]
    lines = [_line(head), _line(["---", *["---:"] * (2 * len(sets)), "---"])]
    for group in result.groups.values():
        lines.append(_line([f"**{group.title}**", *[""] * (2 * len(sets)), group.note]))
        lines += [_line([row.name, *_cells(result, sets, row), row.paper]) for row in group.rows]
    return "\n".join([*lines, "", _footnote(result), ""])


def _cells(result: Result, sets: Sequence[str], row: Row) -> list[str]:
    cells = []
    for name in sets:
        ours, theirs = result.miou[name][row.setting], result.miou[name][row.reference]
        differences = [a - b for a, b in zip(ours, theirs, strict=True)]
        cells += [spread(ours), "" if row.setting == row.reference else spread(differences, signed=True)]
    return cells


def spread(values: Sequence[float], *, signed: bool = False) -> str:
    """Mean and standard deviation of shares, in percent: "58.0 ± 3.9"; one value has no deviation.

    Args:
        values: One for each seed.
        signed: Whether a plus stands before a mean that is not negative.
    """
    mean = f"{100 * statistics.fmean(values):{'+' if signed else ''}.1f}"
    return f"{mean} ± {100 * statistics.stdev(values):.1f}" if len(values) > 1 else mean


def _footnote(result: Result) -> str:
    sizes = ", ".join(f"{count} pictures {name!r}" for name, count in result.sizes.items())
    classes = result.plan.classes
    lines = [
        f"mIoU in percent, mean and standard deviation over {result.plan.seeds} seeds; {sizes}. Classes: background "
        f"and {len(classes.things)} things; with stuff {len(classes.stuff)} more. Differences are from the reference, "
        "seed by seed; a row without one is the reference."
    ]
    for extractor, shares in result.filtered.items():
        told = ", ".join(f"{share:.0%} ({rule})" for rule, share in shares.items())
        lines.append(f"Background prototypes of things that are left out, {extractor}: {told}.")
    for name, means in result.kept.items():
        lines.append(
            f"Pre-filter {name}: keeps {means['classes']:.1f} things of a picture, which shows "
            f"{means['there']:.1f} of them, and loses {means['lost']:.2f} of these."
        )
    return "\n\n".join(lines)


def _line(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cells)} |"
