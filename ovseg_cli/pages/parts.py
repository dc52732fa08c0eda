"""The small parts of our pages: tables, numbers, swatches, pictures. Whatever something is called, it is text here."""

from __future__ import annotations

import base64
import io
from collections.abc import Iterable, Iterator, Mapping, Sequence
from html import escape
from typing import Final

from PIL import Image

from ovseg_cli.files.labels import Colour

ABSENT: Final = "–"
WORDS: Final = frozenset({"class", "picture", "what went wrong most", "true", "found as", "score", "why", "alone"})
"""Columns that do not hold numbers."""

_NUMBER: Final = ' class="number"'


def table(title: str, columns: Sequence[str], rows: Iterable[Sequence[str]]) -> Iterator[str]:
    """A table that can be sorted where scripts run, and scrolled by its own bar where it is too wide."""
    yield f'<div class="scroll" role="region" tabindex="0" aria-label="{escape(title)}"><table class="sortable">'
    yield f'<caption class="unseen">{escape(title)}</caption><thead><tr>'
    yield "".join(f'<th scope="col"{"" if column in WORDS else _NUMBER}>{escape(column)}</th>' for column in columns)
    yield "</tr></thead><tbody>"
    for cells in rows:
        yield f"<tr>{''.join(cells)}</tr>"
    yield "</tbody></table></div>"


def cell(text: str, value: float | None) -> str:
    """A number in a cell; what is not defined is sorted below all."""
    return f'<td class="number" data-value="{"" if value is None else repr(float(value))}">{escape(text)}</td>'


def number(value: float | None, *, bar: bool = False) -> str:
    """A figure of 0..1 in a cell, with a bar behind it on request."""
    if value is None or not bar:
        return cell(figure(value), value)
    return (
        f'<td class="number bar" style="--share:{100 * min(1.0, max(0.0, value)):.1f}%" data-value="{float(value)!r}">'
        f"{figure(value)}</td>"
    )


def share(value: float) -> str:
    """A share of 0..1 in a cell, in percent."""
    return cell(percent(value), value)


def percent(value: float) -> str:
    """A share of 0..1 in percent."""
    return "< 0.1 %" if 0 < value < 0.0005 else f"{100 * value:.1f} %"


def figure(value: float | None) -> str:
    """A figure in three decimals; a dash where it is not defined."""
    return ABSENT if value is None else f"{value:.3f}"


def swatch(colour: Colour | None) -> str:
    """A small square of a colour; empty for what is left bare. Those who do not see it are told nothing."""
    if colour is None:
        return '<span class="swatch bare" aria-hidden="true"></span>'
    red, green, blue = colour
    return f'<span class="swatch" style="background:rgb({red} {green} {blue})" aria-hidden="true"></span>'


def jpeg_uri(image: Image.Image) -> str:
    """A picture as the address of itself."""
    stream = io.BytesIO()
    image.convert("RGB").save(stream, "JPEG", quality=82, optimize=True)
    return "data:image/jpeg;base64," + base64.b64encode(stream.getvalue()).decode()


def fact_list(facts: Mapping[str, str]) -> Iterator[str]:
    """Pairs of name and value."""
    yield '<dl class="facts">'
    for name, value in facts.items():
        yield f"<dt>{escape(name)}</dt><dd>{escape(value)}</dd>"
    yield "</dl>"
