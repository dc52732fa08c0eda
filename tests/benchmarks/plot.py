"""Draw how the benchmark `many` grows: ``python -m tests.benchmarks.plot REPORT.json PICTURE.png``.

The report is what ``python -m tests.benchmarks many --json REPORT.json`` writes. Both axes are logarithmic: a straight
line of slope 1 is what grows as the number of classes does.
"""

from __future__ import annotations

import json
import math
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

from PIL import Image, ImageDraw

from ovseg_cli.drawing.fonts import bundled_font
from ovseg_cli.drawing.ink import FAINT, INK, PAPER, RULE

_PANEL = (520, 300)
_PAD, _LEFT, _RIGHT, _HEAD, _FOOT = 20, 62, 24, 56, 44
LINES = {"exact": "all classes compared (--exact)", "own": "as it is by itself"}
COLOURS = {"exact": (196, 78, 82), "own": (33, 102, 172)}

Curve = Sequence[tuple[float, float]]


def curves_of(report: Mapping[str, object], figure: str) -> dict[str, Curve]:
    """By line, (classes, figure) of each case that was measured; "cpu" in seconds, "peak" in MB."""
    found: dict[str, list[tuple[float, float]]] = {name: [] for name in LINES}
    (benchmark,) = (entry for entry in report["benchmarks"] if entry["benchmark"] == "many")  # type: ignore[attr-defined]
    for case in benchmark["cases"]:
        name, _, count = case["case"].partition("-")
        if (seen := case["measurement"]) is None:
            continue
        seconds = sorted(seen["cpu_seconds"])
        found[name].append((float(count), seconds[len(seconds) // 2] if figure == "cpu" else seen["peak_bytes"] / 1e6))
    return dict(found)


def draw(panels: Mapping[str, Mapping[str, Curve]]) -> Image.Image:
    """The picture: one panel for each figure, by its title."""
    width = _PAD + len(panels) * (_PANEL[0] + _PAD)
    sheet = Image.new("RGB", (width, _PANEL[1] + 2 * _PAD), PAPER)
    pen = ImageDraw.Draw(sheet)
    for place, (title, curves) in enumerate(panels.items()):
        _panel(pen, (_PAD + place * (_PANEL[0] + _PAD), _PAD), title, curves)
    return sheet


def _panel(pen: ImageDraw.ImageDraw, corner: tuple[int, int], title: str, curves: Mapping[str, Curve]) -> None:
    small, font = bundled_font(12), bundled_font(15)
    left, top = corner[0] + _LEFT, corner[1] + _HEAD
    right, bottom = corner[0] + _PANEL[0] - _RIGHT, corner[1] + _PANEL[1] - _FOOT
    points = [point for curve in curves.values() for point in curve]
    across = [math.log10(x) for x, _ in points]
    ends = [math.floor(min(math.log10(y) for _, y in points)), math.ceil(max(math.log10(y) for _, y in points))]

    def at(x: float, y: float) -> tuple[float, float]:
        share = (math.log10(x) - min(across)) / (max(across) - min(across))
        return left + share * (right - left), bottom - (math.log10(y) - ends[0]) / (ends[1] - ends[0]) * (bottom - top)

    pen.text(corner, title, fill=INK, font=font)
    for power in range(ends[0], ends[1] + 1):
        y = at(10 ** min(across), 10.0**power)[1]
        pen.line((left, y, right, y), fill=RULE)
        label = f"{10.0**power:,g}" if power < 3 else f"{10**power:,}"
        pen.text((left - 8 - pen.textlength(label, font=small), y - 8), label, fill=FAINT, font=small)
    for x in sorted({x for x, _ in points}):
        label = f"{x:,.0f}"
        pen.text(
            (at(x, 10.0 ** ends[0])[0] - pen.textlength(label, font=small) / 2, bottom + 6),
            label,
            fill=FAINT,
            font=small,
        )
    pen.text((left + (right - left) / 2 - 24, bottom + 24), "classes", fill=FAINT, font=small)
    for place, (name, curve) in enumerate(curves.items()):
        colour = COLOURS[name]
        drawn = [at(x, y) for x, y in curve]
        pen.line(drawn, fill=colour, width=3, joint="curve")
        for x, y in drawn:
            pen.ellipse((x - 4, y - 4, x + 4, y + 4), fill=colour)
        key = (left + place * 240, corner[1] + 28)
        pen.line((key[0], key[1] + 8, key[0] + 22, key[1] + 8), fill=colour, width=3)
        pen.text((key[0] + 28, key[1]), LINES[name], fill=INK, font=small)


def main(report: str, picture: str) -> None:
    """Read the one, and write the other."""
    read = json.loads(Path(report).read_text(encoding="utf-8"))
    panels = {
        "CPU seconds for a picture": curves_of(read, "cpu"),
        "memory at its peak, MB": curves_of(read, "peak"),
    }
    draw(panels).save(picture, optimize=True)


if __name__ == "__main__":
    main(*sys.argv[1:3])
