"""The figures of all methods as text."""

from __future__ import annotations

from collections.abc import Sequence

from examples.compare.measure import Contestant
from ovseg_cli.methods.catalogue import METHODS


def markdown(contestants: Sequence[Contestant], notes: Sequence[str]) -> str:
    """A table, the best mIoU first, and how it was measured.

    Args:
        contestants: The methods after the last picture.
        notes: Sentences below the table.
    """
    scored = [(contestant, contestant.report()) for contestant in contestants]
    scored.sort(key=lambda item: -1.0 if item[1] is None or item[1].miou is None else -1 - item[1].miou)
    rows = [["method", "mIoU", "images/s", "pictures", "published as"]]
    for contestant, report in scored:
        miou = "–" if report is None or report.miou is None else f"{100 * report.miou:.1f}"
        speed = "–" if contestant.speed is None else f"{contestant.speed:.2f}"
        info = METHODS[contestant.segmenter.method]
        rows.append(
            [
                contestant.segmenter.method,
                miou,
                speed,
                str(contestant.done),
                f"{info.title} ({info.source})",
            ]
        )
    if all(contestant.speed is None for contestant in contestants):
        rows = [[*row[:2], *row[3:]] for row in rows]
    if all(contestant.scored == 0 for contestant in contestants):
        rows = [[*row[:1], *row[2:]] for row in rows]
    numbers = range(1, len(rows[0]) - 1)
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    rule = ["-" * (width - 1) + ":" if i in numbers else "-" * width for i, width in enumerate(widths)]
    lines = [
        "| "
        + " | ".join(
            cell.rjust(w) if i in numbers else cell.ljust(w)
            for i, (cell, w) in enumerate(zip(row, widths, strict=True))
        )
        + " |"
        for row in [rows[0], rule, *rows[1:]]
    ]
    return "\n".join([*lines, "", *notes, ""])
