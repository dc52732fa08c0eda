"""One picture under every method, side by side."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Final

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageDraw

from examples.compare.measure import Compared
from examples.compare.truth import LEFT_OUT
from ovseg_cli.drawing.fonts import bundled_font, font_for, shortened, wrapped
from ovseg_cli.drawing.ink import EMPTY, FAINT, INK, PAPER, bright, fitted_size, inner_edge
from ovseg_cli.files.labels import Colour, LabelMap
from ovseg_cli.methods.catalogue import METHODS

_SIDE: Final = 320
"""The longer side of a panel's picture."""
_NARROWEST: Final = 280
"""Of a panel: its heading needs room, however narrow the picture is."""
_TEXT: Final = 15
_HEAD: Final = 26
_GAP: Final = 12
_ASPECT: Final = 1.6

_BEST: Colour = (20, 120, 60)
_VOID: Colour = (224, 224, 192)

_TINT: Final = 0.6
"""How much of a class's colour is mixed in."""
_PALE: Final = 0.55
"""How much white is mixed into the background."""
_HUE: Final = 24
"""A colour whose channels differ by less is a grey, which is striped."""
_STRIPE: Final = 5
"""Pixels of a stripe, across and down."""


def comparison_sheet(compared: Compared, labels: LabelMap) -> Image.Image:
    """The picture, its ground truth if there is one, and every method's label map, with one legend below.

    Args:
        compared: The picture and what the methods make of it.
        labels: Names and colours of the ids.

    Returns:
        An RGB picture.
    """
    image = compared.image
    size = fitted_size(image.size, _SIDE)
    shown = image.resize(size, Image.Resampling.LANCZOS)
    cells = [_cell(compared.source.path.name, shown)]
    present: set[int] = set()
    if compared.truth is not None:
        present |= set(np.unique(compared.truth).tolist())
        cells.append(_cell("ground truth", _painted(shown, compared.truth, labels)))
    best = max((panel.miou for panel in compared.panels if panel.miou is not None), default=None)
    for panel in compared.panels:
        title = METHODS[panel.method].title
        if panel.ids is None:
            cells.append(_cell(title, _failed(size, panel.error), note="left out"))
            continue
        present |= set(np.unique(panel.ids).tolist())
        note = "" if panel.miou is None else f"mIoU  {100 * panel.miou:.1f}"
        best_here = best is not None and panel.miou == best
        cells.append(_cell(title, _painted(shown, panel.ids, labels), note=note, best=best_here))
    return _arranged(cells, sorted(present), labels)


def _arranged(cells: Sequence[Image.Image], present: Sequence[int], labels: LabelMap) -> Image.Image:
    """Cells of one size in rows, and the legend."""
    width, height = cells[0].width + _GAP, cells[0].height + _GAP
    columns = _columns(len(cells), width / height)
    rows = -(-len(cells) // columns)
    legend = _legend(present, labels, columns * width - _GAP)
    sheet = Image.new("RGB", (columns * width + _GAP, rows * height + legend.height + 2 * _GAP), PAPER)
    for place, cell in enumerate(cells):
        sheet.paste(cell, (_GAP + place % columns * width, _GAP + place // columns * height))
    sheet.paste(legend, (_GAP, _GAP + rows * height))
    return sheet


def _columns(count: int, aspect: float) -> int:
    """How many cells of an aspect ratio stand side by side: near a wide screen's shape, with few places empty."""
    ideal = min(count, max(1, round(math.sqrt(count * _ASPECT / aspect))))
    return min((ideal, ideal + 1, max(1, ideal - 1)), key=lambda columns: -count % columns)


def _cell(title: str, picture: Image.Image, *, note: str = "", best: bool = False) -> Image.Image:
    """A picture with its heading."""
    cell = Image.new("RGB", (max(_NARROWEST, picture.width), _HEAD + picture.height), PAPER)
    draw = ImageDraw.Draw(cell)
    small = bundled_font(_TEXT - 1)
    font, title = font_for(title, _TEXT)
    room = cell.width - small.getlength(note) - _TEXT
    draw.text((0, _HEAD / 2), shortened(title, font, room), INK, font, anchor="lm")
    draw.text((cell.width, _HEAD / 2), note, _BEST if best else FAINT, small, anchor="rm")
    cell.paste(picture, ((cell.width - picture.width) // 2, _HEAD))
    return cell


def _painted(picture: Image.Image, ids: npt.NDArray[np.integer], labels: LabelMap) -> Image.Image:
    """A label map over the picture, which is grey, so that colours are those of the legend; the background is pale."""
    rows = (np.arange(picture.height) + 0.5) * ids.shape[0] / picture.height
    columns = (np.arange(picture.width) + 0.5) * ids.shape[1] / picture.width
    small = ids[np.ix_(rows.astype(np.int64), columns.astype(np.int64))]
    grey = np.repeat(np.asarray(picture).astype(np.float32).mean(axis=2, keepdims=True), 3, axis=2)
    result = grey * (1 - _PALE) + 255 * _PALE
    edge = inner_edge(small, 1)
    stripes = np.add.outer(np.arange(picture.height), np.arange(picture.width)) // _STRIPE % 2 == 0
    for index in np.unique(small).tolist():
        if index == 0:
            continue
        region = small == index
        if index == LEFT_OUT:
            result[region] = _VOID
            continue
        colour = np.array(labels.colour_of(index), dtype=np.float32)
        result[region] = grey[region] * (1 - _TINT) + colour * _TINT
        if _is_grey(colour.tolist()):  # as is the picture
            result[region & stripes] *= 1 - _TINT
        result[region & edge] = bright(labels.colour_of(index))  # as in overlays
    return Image.fromarray(np.rint(result).astype(np.uint8))


def _is_grey(colour: Sequence[float]) -> bool:
    """Whether a colour cannot be told from the grey picture that it lies on."""
    return max(colour) - min(colour) < _HUE


def _failed(size: tuple[int, int], reason: str) -> Image.Image:
    """An empty picture that says why."""
    picture = Image.new("RGB", size, EMPTY)
    draw, font = ImageDraw.Draw(picture), bundled_font(_TEXT - 2)
    lines = wrapped(reason, font, size[0] - 2 * _GAP)
    step = round(_TEXT * 1.3)
    for place, line in enumerate(lines[: max(1, (size[1] - _GAP) // step)]):
        face, text = font_for(line, _TEXT - 2)
        draw.text((_GAP, _GAP + place * step), shortened(text, face, size[0] - 2 * _GAP), FAINT, face)
    return picture


def _legend(present: Sequence[int], labels: LabelMap, width: int) -> Image.Image:
    """The classes of some panel, in as many lines as they need."""
    step, box, indent = round(_TEXT * 1.8), _TEXT, round(_TEXT * 1.5)
    entries = []
    for index in present:
        if index > 0:
            striped = " (striped)" if _is_grey(labels.colour_of(index)) else ""
            entries.append((f"{labels.name_of(index) or ''}{striped}", labels.colour_of(index)))
    entries.append(("background (pale)", EMPTY))
    if LEFT_OUT in present:
        entries.append(("does not count", _VOID))
    places, x, row = [], 0.0, 0
    for name, colour in entries:
        font, name = font_for(name, _TEXT)
        name = shortened(name, font, width - indent)
        needed = indent + font.getlength(name)
        if x > 0 and x + needed > width:
            x, row = 0.0, row + 1
        places.append((x, row, name, font, colour))
        x += needed + 1.5 * _TEXT
    strip = Image.new("RGB", (width, (row + 1) * step), PAPER)
    draw = ImageDraw.Draw(strip)
    for x, row, name, font, colour in places:
        middle = row * step + step / 2
        draw.rounded_rectangle((x, middle - box / 2, x + box, middle + box / 2), radius=3, fill=colour)
        draw.text((x + indent, middle), name, INK, font, anchor="lm")
    return strip
