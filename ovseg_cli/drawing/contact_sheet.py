"""Support images of classes and their masks, side by side."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw

from ovseg_cli.drawing.fonts import Font, bundled_font, font_for
from ovseg_cli.drawing.ink import (
    DIM,
    FAINT,
    INK,
    OUTLINE,
    PAPER,
    RGB,
    RULE,
    Mask,
    fitted_mask,
    fitted_size,
    inner_edge,
    paste_centred,
)
from ovseg_cli.files.images import open_image
from ovseg_cli.files.labels import Colour, read_label

# The tint of what was taken as background.
_TINT: Colour = (36, 92, 200)
_TINT_ALPHA = 0.6


@dataclass(frozen=True, slots=True, eq=False)
class SheetTile:
    """One support image and its masks.

    Attributes:
        image: `(H, W, 3)` uint8 RGB.
        foreground: `(H, W)` bool: the object.
        background: `(H, W)` bool: what was taken as background; the rest was left out.
    """

    image: RGB
    foreground: Mask
    background: Mask

    def __post_init__(self) -> None:
        shape = self.image.shape[:2]
        if self.image.ndim != 3 or self.foreground.shape != shape or self.background.shape != shape:
            shapes = f"{self.image.shape}, {self.foreground.shape}, {self.background.shape}"
            raise ValueError(f"an image and its masks must have one size, got {shapes}")

    @classmethod
    def read(cls, image: str | Path, mask: str | Path) -> SheetTile:
        """Read a stored support image and its mask (0 neither, 1 foreground, 2 background).

        Raises:
            ImageError: A file is missing or damaged.
            LabelError: The mask does not hold ids.
        """
        ids = read_label(mask)
        return cls(np.asarray(open_image(image)), ids == 1, ids == 2)


@dataclass(frozen=True, slots=True, eq=False)
class SheetRow:
    """A class on a contact sheet: its name, its support images, and a remark at the right (or none)."""

    title: str
    tiles: Sequence[SheetTile]
    note: str = ""


def contact_sheet(rows: Sequence[SheetRow], *, tile: int = 128, columns: int = 8) -> Image.Image:
    """Show support images with, below each, where its masks lie.

    In the lower picture the foreground is kept and outlined, the background is tinted and the rest is dimmed;
    a line at the foot of the sheet says so. Below each image
    stands its number, by which explanations name it.

    Args:
        rows: One per class, from top to bottom.
        tile: The side of the square into which each image is fitted, in pixels.
        columns: How many images stand side by side before the row is broken.

    Returns:
        An RGB picture as wide as the longest row and the longest title need.

    Raises:
        ValueError: `tile` or `columns` is too small to show anything.
    """
    if tile < 16 or columns < 1:
        raise ValueError(f"a sheet needs tiles of 16 pixels and one column at least, got {tile} and {columns}")
    size = max(13, tile // 8)
    gap = max(2, tile // 32)
    margin = size
    title = round(size * 2.2)
    across = min(columns, max((len(row.tiles) for row in rows), default=1) or 1)
    titles = max((_title_width(row, size) for row in rows), default=0)
    width = max(2 * margin + across * (tile + gap) - gap, round(size * 24), 2 * margin + titles)
    bands = [-(-len(row.tiles) // across) for row in rows]
    band = 2 * tile + 1 + 2 * gap + size
    foot = round(size * 2.4)
    height = margin // 2 + sum(title + n * band + margin // 2 for n in bands) + foot

    sheet = Image.new("RGB", (width, height), PAPER)
    draw = ImageDraw.Draw(sheet)
    y = margin // 2
    for row, count in zip(rows, bands, strict=True):
        _title(draw, row, (margin, y, width - margin, y + title), size)
        y += title
        for position, item in enumerate(row.tiles):
            x = margin + position % across * (tile + gap)
            top = y + position // across * band
            upper, lower = _tile_pictures(item, tile)
            paste_centred(sheet, upper, (x, top), tile)
            paste_centred(sheet, lower, (x, top + tile + 1), tile)
            below = (x + tile / 2, top + 2 * tile + 2)
            draw.text(below, str(position), FAINT, bundled_font(round(size * 0.8)), anchor="mt")
        y += count * band + margin // 2
    _foot(draw, (margin, height - foot), size)
    return sheet


def _title_width(row: SheetRow, size: int) -> int:
    """The pixels that the title and the remark of a row take."""
    (font, title), (note_font, note) = _title_texts(row, size)
    return math.ceil(font.getlength(title) + size + note_font.getlength(note))


def _title_texts(row: SheetRow, size: int) -> tuple[tuple[Font, str], tuple[Font, str]]:
    # The space of the bundled font is so narrow that "10 images" would read as one word.
    return font_for(row.title, round(size * 1.25)), font_for(row.note.replace(" ", "  "), size)


def _title(draw: ImageDraw.ImageDraw, row: SheetRow, box: tuple[int, int, int, int], size: int) -> None:
    left, top, right, bottom = box
    draw.line((left, top, right, top), fill=RULE)
    middle = (top + bottom) / 2
    (font, title), (note_font, note) = _title_texts(row, size)
    draw.text((left, middle), title, INK, font, anchor="lm")
    draw.text((right, middle), note, FAINT, note_font, anchor="rm")


def _foot(draw: ImageDraw.ImageDraw, corner: tuple[int, int], size: int) -> None:
    """Explain the colours of the lower pictures."""
    x, y = corner
    font = bundled_font(size)
    middle = y + size * 1.2
    marks: tuple[tuple[str, Colour, Colour], ...] = (
        ("foreground", PAPER, OUTLINE),
        ("background", _TINT, _TINT),
        ("left out", (60, 60, 60), (60, 60, 60)),
    )
    for text, fill, line in marks:
        box = (x, middle - size / 2, x + size, middle + size / 2)
        draw.rounded_rectangle(box, radius=size * 0.22, fill=fill, outline=line, width=max(2, size // 8))
        draw.text((x + round(size * 1.4), middle), text, FAINT, font, anchor="lm")
        x += round(size * 2.6 + font.getlength(text))


def _tile_pictures(item: SheetTile, tile: int) -> tuple[Image.Image, Image.Image]:
    """The image fitted into a tile, and the same with its masks shown."""
    picture = Image.fromarray(np.ascontiguousarray(item.image))
    fitted = fitted_size(picture.size, tile)
    upper = picture.resize(fitted, Image.Resampling.LANCZOS)
    foreground, background = fitted_mask(item.foreground, fitted), fitted_mask(item.background, fitted)

    pixels = np.asarray(upper).astype(np.float32)
    lower = pixels * DIM
    lower[foreground] = pixels[foreground]
    tinted = pixels * (1 - _TINT_ALPHA) + np.array(_TINT, dtype=np.float32) * _TINT_ALPHA
    lower[background] = tinted[background]
    edge = inner_edge(foreground.astype(np.uint8), max(1, tile // 96)) & foreground
    lower[edge] = OUTLINE
    return upper, Image.fromarray(np.rint(lower).astype(np.uint8))
