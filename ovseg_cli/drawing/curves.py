"""Curves of a training as a picture: one panel for each figure, over the steps."""

from __future__ import annotations

import csv
import math
from collections.abc import Mapping, Sequence
from pathlib import Path

from PIL import Image, ImageDraw

from ovseg_cli.drawing.fonts import bundled_font, font_for, shortened
from ovseg_cli.drawing.ink import FAINT, INK, PAPER, RULE
from ovseg_cli.drawing.palettes import class_colour

_PANEL = (460, 190)
_PAD, _LEFT, _HEAD, _FOOT = 18, 64, 34, 26
_NOT_DRAWN = ("step", "seconds")


def read_curves(path: Path) -> dict[str, list[float]]:
    """The columns of a training's CSV file; what is empty there is NaN."""
    with path.open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    columns = list(rows[0]) if rows else []
    return {name: [float(row[name]) if row[name] else math.nan for row in rows] for name in columns}


def curves_sheet(curves: Mapping[str, Sequence[float]], *, title: str) -> Image.Image:
    """Draw curves.

    Args:
        curves: Columns of equal length; "step" is what they are drawn over.
        title: Stands above them.
    """
    steps = list(curves.get("step", ()))
    drawn = [name for name in curves if name not in _NOT_DRAWN]
    width, height = _PANEL[0] + 2 * _PAD, _PAD + 30 + max(1, len(drawn)) * (_PANEL[1] + _PAD)
    sheet = Image.new("RGB", (width, height), PAPER)
    draw = ImageDraw.Draw(sheet)
    font, text = font_for(title, 18)
    draw.text((_PAD, _PAD - 4), shortened(text, font, width - 2 * _PAD), fill=INK, font=font)
    for place, name in enumerate(drawn):
        corner = (_PAD, _PAD + 30 + place * (_PANEL[1] + _PAD))
        _panel(draw, corner, name, steps, list(curves[name]))
    return sheet


def _panel(
    draw: ImageDraw.ImageDraw, corner: tuple[int, int], name: str, steps: Sequence[float], values: Sequence[float]
) -> None:
    """One curve with its axes."""
    small = bundled_font(12)
    left, top = corner[0] + _LEFT, corner[1] + _HEAD
    right, bottom = corner[0] + _PANEL[0], corner[1] + _PANEL[1] - _FOOT
    known = [(step, value) for step, value in zip(steps, values, strict=True) if math.isfinite(value)]
    draw.text((corner[0], corner[1] + 6), name, fill=INK, font=bundled_font(14))
    if not known:
        return
    low, high = min(value for _, value in known), max(value for _, value in known)
    span = high - low or max(abs(high), 1.0)
    first, last = known[0][0], known[-1][0]
    length = last - first or 1.0
    for share in (0.0, 0.5, 1.0):
        y = bottom - share * (bottom - top)
        draw.line((left, y, right, y), fill=RULE)
        label = f"{low + share * span:.3g}"
        draw.text((left - 8 - draw.textlength(label, font=small), y - 8), label, fill=FAINT, font=small)
    for step, anchor in ((first, 0.0), (last, 1.0)):
        label = f"{step:.0f}"
        x = left + (step - first) / length * (right - left) - anchor * draw.textlength(label, font=small)
        draw.text((x, bottom + 5), label, fill=FAINT, font=small)
    points = [
        (left + (step - first) / length * (right - left), bottom - (value - low) / span * (bottom - top))
        for step, value in known
    ]
    colour = class_colour(name)
    if len(points) > 1:
        draw.line(points, fill=colour, width=2, joint="curve")
    x, y = points[-1]
    draw.ellipse((x - 3, y - 3, x + 3, y + 3), fill=colour)
