"""A confusion matrix as a picture that scales: squares by how often a class is taken for another, with their names."""

from __future__ import annotations

import base64
import io
from collections.abc import Sequence
from html import escape

import numpy as np
import numpy.typing as npt
from PIL import Image

_FIGURES_UP_TO = 24  # classes, for figures in the squares
_LETTER = 0.58  # width of a letter, in heights
_LONGEST = 28  # letters of a name

NOTE = "Each row is a true class and adds up to 100 %. The stronger a square, the larger its share, by the square root."
"""How the picture is read."""


def row_shares(counts: npt.NDArray[np.int64]) -> npt.NDArray[np.float64]:
    """Of each true class, the shares that were found to be each class: `(C, C)`, rows of 0 where there is none."""
    total = counts.sum(axis=1, keepdims=True)
    shares = np.zeros(counts.shape)
    np.divide(counts, total, out=shares, where=total > 0)
    return shares


def matrix_svg(names: Sequence[str], counts: npt.NDArray[np.int64], *, title: str = "Confusion matrix") -> str:
    """Draw it as SVG that stands alone, and takes a page's colours (`--ink`, `--heat`, `--rule`) inside one.

    The squares are one small picture that a mask turns into the page's colour, so that 171 classes take little.
    Of up to 24 classes each share of a percent or more is written into its square.

    Args:
        names: The C classes.
        counts: `(C, C)` int64, ground truth in rows.
        title: What it is called to those who do not see it.
    """
    number = len(names)
    shares = row_shares(counts)
    cell = 34 if number <= _FIGURES_UP_TO else 14
    size = 12 if number <= _FIGURES_UP_TO else 10
    shown = [name if len(name) <= _LONGEST else name[: _LONGEST - 1] + "…" for name in names]
    margin = round(max(4, *map(len, shown)) * size * _LETTER) + 30
    many = number > _FIGURES_UP_TO
    end = margin + number * cell
    side = end + (margin if many else 8)
    lines = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {side} {side}" width="{side}" height="{side}" '
        f'role="img" aria-label="{escape(title)}" font-family="system-ui, sans-serif" font-size="{size}">',
        f"<title>{escape(title)}</title>",
        '<mask id="shares" style="mask-type:luminance">'
        f'<image x="{margin}" y="{margin}" width="{number * cell}" height="{number * cell}" '
        f'style="image-rendering:pixelated" preserveAspectRatio="none" href="{_squares(shares)}"/></mask>',
        f'<rect x="{margin}" y="{margin}" width="{number * cell}" height="{number * cell}" '
        'style="fill:var(--heat,#0b4f9c)" mask="url(#shares)"/>',
        f'<path d="{_grid(number, cell, margin)}" style="stroke:var(--rule,#8886)" stroke-width="0.5" fill="none"/>',
        '<g style="fill:var(--ink,#202124)">',
        f'<text x="{margin}" y="{size}" >found →</text><text x="2" y="{margin + size}" '
        f'transform="rotate(-90 {size} {margin + size})" text-anchor="end">true →</text>',
    ]
    for place, name in enumerate(shown):
        middle = margin + (place + 0.5) * cell
        lines.append(
            f'<text x="{margin - 5}" y="{middle + size * 0.35:.1f}" text-anchor="end">{escape(name)}</text>'
            f'<text transform="translate({middle + size * 0.35:.1f} {margin - 5}) rotate(-90)">{escape(name)}</text>'
        )
        if many:  # the names stand on all sides, as not all of it is seen at once
            lines.append(
                f'<text x="{end + 5}" y="{middle + size * 0.35:.1f}">{escape(name)}</text>'
                f'<text transform="translate({middle + size * 0.35:.1f} {end + 5}) rotate(-90)" text-anchor="end">'
                f"{escape(name)}</text>"
            )
    lines.append("</g>")
    if number <= _FIGURES_UP_TO:
        lines += _figures(shares, cell, margin)
    lines.append("</svg>")
    return "\n".join(lines)


def _squares(shares: npt.NDArray[np.float64]) -> str:
    """The matrix as a grey PNG of one pixel for each square, as a data URI."""
    grey = np.rint(255 * np.sqrt(shares)).astype(np.uint8)
    stream = io.BytesIO()
    Image.fromarray(grey).save(stream, "PNG", optimize=True)
    return "data:image/png;base64," + base64.b64encode(stream.getvalue()).decode()


def _grid(number: int, cell: int, margin: int) -> str:
    """A frame, and lines between the squares where they are few; every tenth otherwise."""
    step = 1 if number <= _FIGURES_UP_TO else 10
    places = sorted({*range(0, number, step), number})
    end = margin + number * cell
    at = [margin + place * cell for place in places]
    return "".join(f"M{margin} {y}H{end}" for y in at) + "".join(f"M{x} {margin}V{end}" for x in at)


def _figures(shares: npt.NDArray[np.float64], cell: int, margin: int) -> list[str]:
    """The percentages in the squares, in what can be read on them."""
    found = []
    for row, column in np.argwhere(shares >= 0.005):
        share = shares[row, column]
        ink = "var(--on-heat,#fff)" if share > 0.3 else "var(--ink,#202124)"
        x, y = margin + (column + 0.5) * cell, margin + (row + 0.5) * cell + 4
        found.append(
            f'<text x="{x:.0f}" y="{y:.0f}" text-anchor="middle" font-size="11" style="fill:{ink}">'
            f"{100 * share:.0f}</text>"
        )
    return found
