"""Pictures for people: overlays of a segmentation and contact sheets of support images."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageDraw

from ovseg_cli.files.fonts import Font, bundled_font, font_for, shortened
from ovseg_cli.files.images import open_image
from ovseg_cli.files.labels import IGNORE, Colour, LabelMap, read_label

__all__ = ["SheetRow", "SheetTile", "contact_sheet", "overlay"]

RGB = npt.NDArray[np.uint8]
Mask = npt.NDArray[np.bool_]

_PAPER: Colour = (250, 250, 248)
_INK: Colour = (32, 33, 36)
_FAINT: Colour = (112, 116, 122)
_RULE: Colour = (222, 222, 218)

_MIN_WIDTH = 256  # below this a legend cannot be read, so the picture is enlarged,
_MAX_ENLARGED = 2048  # but not beyond this height: a strip of one pixel is no reason for a huge file

_WIDEST = 4  # the letters of a legend grow with the width up to this ratio; a long strip wants no giant ones
_ALL_LISTED = 6  # so many classes a legend lists whatever their share; of more,
_SPECK = 0.001  # those below this share are counted only

# Of a support mask: the line around the object, and the tint of what was taken as background.
_OUTLINE: Colour = (255, 45, 120)
_TINT: Colour = (36, 92, 200)
_TINT_ALPHA = 0.6
_DIM = 0.28


def overlay(
    image: Image.Image, ids: npt.NDArray[np.integer], labelmap: LabelMap, *, alpha: float = 0.55
) -> Image.Image:
    """Lay a segmentation over its picture, with outlines and a legend below.

    Pixels of the background and of the ignore value stay as they are. The legend lists the other classes
    that are present with their share of the picture, the largest first. Pictures less than 256 pixels wide
    are enlarged by a whole factor (nearest neighbour, as long as they do not grow beyond 2048 in height), and
    the result is never narrower than that, so that the legend can be read.

    Args:
        image: The picture, RGB.
        ids: `(H, W)` integers, the ids of `labelmap`; the size of `image`.
        labelmap: Names and colours.
        alpha: How much of the class colour is mixed in, 0..1.

    Returns:
        An RGB picture: the (enlarged) image on top, the legend below it.

    Raises:
        ValueError: `ids` has another size than `image`.
    """
    if ids.shape != (image.height, image.width):
        raise ValueError(f"ids of shape {ids.shape} do not fit an image of {image.width}x{image.height}")
    factor = max(1, min(-(-_MIN_WIDTH // image.width), _MAX_ENLARGED // image.height))
    ids = ids.repeat(factor, axis=0).repeat(factor, axis=1)
    pixels = np.asarray(image.convert("RGB")).repeat(factor, axis=0).repeat(factor, axis=1).copy()

    bare = {IGNORE} if labelmap.name_of(IGNORE) is None else set()
    if labelmap.background_id is not None:
        bare.add(labelmap.background_id)
    values, counts = np.unique(ids, return_counts=True)
    shares = {int(i): int(n) / ids.size for i, n in zip(values, counts, strict=True) if int(i) not in bare}
    edge = _inner_edge(ids, max(1, round(min(ids.shape) / 300)))
    for index in shares:
        colour = np.array(labelmap.colour_of(index), dtype=np.float32)
        region = ids == index
        pixels[region] = np.rint(pixels[region] * (1 - alpha) + colour * alpha).astype(np.uint8)
        # The colours of VOC are dark; a lighter line of the same hue stands out inside and outside.
        pixels[region & edge] = np.rint(colour * 0.45 + 255 * 0.55).astype(np.uint8)

    legend = _legend(shares, labelmap, max(_MIN_WIDTH, pixels.shape[1]), pixels.shape[0])
    result = Image.new("RGB", (legend.width, pixels.shape[0] + legend.height), _PAPER)
    result.paste(Image.fromarray(pixels), (0, 0))
    result.paste(legend, (0, pixels.shape[0]))
    return result


def _inner_edge(ids: npt.NDArray[np.integer], width: int) -> Mask:
    """Pixels less than `width` steps (up, down, left, right) away from another id: `(H, W)` bool."""
    edge = np.zeros(ids.shape, dtype=bool)
    for step in range(1, width + 1):
        vertical, horizontal = ids[step:] != ids[:-step], ids[:, step:] != ids[:, :-step]
        edge[step:] |= vertical
        edge[:-step] |= vertical
        edge[:, step:] |= horizontal
        edge[:, :-step] |= horizontal
    return edge


def _legend(shares: dict[int, float], labelmap: LabelMap, width: int, height: int) -> Image.Image:
    """Draw the present classes as a strip of `width` pixels, in as many lines as they need, below `height` of picture.

    Of more than six classes, those that cover less than a thousandth are only counted.
    """
    size = max(13, round(min(width, _WIDEST * height) / 48))
    small = bundled_font(size)
    pad, gap, line = round(size * 0.7), round(size * 1.1), round(size * 1.7)
    indent, space = round(size * 1.4), size * 0.35  # swatch to name, name to share
    places: list[_Entry] = []
    x, row = pad, 0
    ordered = sorted(shares.items(), key=lambda item: -item[1])
    listed = ordered
    if len(ordered) > _ALL_LISTED:
        listed = [item for item in ordered if item[1] >= _SPECK] or ordered[:_ALL_LISTED]
    for index, share in listed:
        percent = _percent(share)
        font, name = font_for(labelmap.name_of(index) or f"id {index}", size)
        fixed = indent + space + small.getlength(percent)
        name = shortened(name, font, width - 2 * pad - fixed)
        needed = round(fixed + font.getlength(name))
        if x > pad and x + needed > width - pad:
            x, row = pad, row + 1
        places.append(_Entry(x, row, labelmap.colour_of(index), font, name, percent))
        x += needed + gap
    rest = f"and {len(ordered) - len(listed)} more" if len(listed) < len(ordered) else ""
    if rest and x > pad and x + small.getlength(rest) > width - pad:
        x, row = pad, row + 1

    strip = Image.new("RGB", (width, 2 * (pad // 2) + (row + 1) * line), _PAPER)
    draw = ImageDraw.Draw(strip)
    if not places:
        draw.text((pad, strip.height / 2), "only background", _FAINT, small, anchor="lm")
    for entry in places:
        middle = pad // 2 + entry.row * line + line / 2
        box = (entry.x, middle - size / 2, entry.x + size, middle + size / 2)
        draw.rounded_rectangle(box, radius=size * 0.22, fill=entry.colour)
        text_x = entry.x + indent
        draw.text((text_x, middle), entry.name, _INK, entry.font, anchor="lm")
        text_x += round(entry.font.getlength(entry.name) + space)
        draw.text((text_x, middle), entry.percent, _FAINT, small, anchor="lm")
    if rest:
        draw.text((x, pad // 2 + row * line + line / 2), rest, _FAINT, small, anchor="lm")
    return strip


@dataclass(frozen=True, slots=True)
class _Entry:
    """One class of the legend: where it stands (x, line) and how it is drawn."""

    x: int
    row: int
    colour: Colour
    font: Font
    name: str
    percent: str


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
    a line at the foot of the sheet says so.

    Args:
        rows: One per class, from top to bottom.
        tile: The side of the square into which each image is fitted, in pixels.
        columns: How many images stand side by side before the row is broken.

    Returns:
        An RGB picture as wide as the longest row needs.

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
    width = max(2 * margin + across * (tile + gap) - gap, round(size * 24))
    bands = [-(-len(row.tiles) // across) for row in rows]
    band = 2 * tile + 1 + 2 * gap
    foot = round(size * 2.4)
    height = margin // 2 + sum(title + n * band + margin // 2 for n in bands) + foot

    sheet = Image.new("RGB", (width, height), _PAPER)
    draw = ImageDraw.Draw(sheet)
    y = margin // 2
    for row, count in zip(rows, bands, strict=True):
        _title(draw, row, (margin, y, width - margin, y + title), size)
        y += title
        for position, item in enumerate(row.tiles):
            x = margin + position % across * (tile + gap)
            top = y + position // across * band
            upper, lower = _tile_pictures(item, tile)
            _paste_centred(sheet, upper, (x, top), tile)
            _paste_centred(sheet, lower, (x, top + tile + 1), tile)
        y += count * band + margin // 2
    _foot(draw, (margin, height - foot), size)
    return sheet


def _title(draw: ImageDraw.ImageDraw, row: SheetRow, box: tuple[int, int, int, int], size: int) -> None:
    left, top, right, bottom = box
    draw.line((left, top, right, top), fill=_RULE)
    middle = (top + bottom) / 2
    # The space of the bundled font is so narrow that "10 images" would read as one word.
    note_font, note = font_for(row.note.replace(" ", "  "), size)
    note = shortened(note, note_font, (right - left) // 2)
    font, title = font_for(row.title, round(size * 1.25))
    title = shortened(title, font, right - left - note_font.getlength(note) - size)
    draw.text((left, middle), title, _INK, font, anchor="lm")
    draw.text((right, middle), note, _FAINT, note_font, anchor="rm")


def _foot(draw: ImageDraw.ImageDraw, corner: tuple[int, int], size: int) -> None:
    """Explain the colours of the lower pictures."""
    x, y = corner
    font = bundled_font(size)
    middle = y + size * 1.2
    marks: tuple[tuple[str, Colour, Colour], ...] = (
        ("foreground", _PAPER, _OUTLINE),
        ("background", _TINT, _TINT),
        ("left out", (60, 60, 60), (60, 60, 60)),
    )
    for text, fill, line in marks:
        box = (x, middle - size / 2, x + size, middle + size / 2)
        draw.rounded_rectangle(box, radius=size * 0.22, fill=fill, outline=line, width=max(2, size // 8))
        draw.text((x + round(size * 1.4), middle), text, _FAINT, font, anchor="lm")
        x += round(size * 2.6 + font.getlength(text))


def _tile_pictures(item: SheetTile, tile: int) -> tuple[Image.Image, Image.Image]:
    """The image fitted into a tile, and the same with its masks shown."""
    picture = Image.fromarray(np.ascontiguousarray(item.image))
    scale = tile / max(picture.size)
    fitted = (max(1, round(picture.width * scale)), max(1, round(picture.height * scale)))
    upper = picture.resize(fitted, Image.Resampling.LANCZOS)
    foreground, background = _fitted(item.foreground, fitted), _fitted(item.background, fitted)

    pixels = np.asarray(upper).astype(np.float32)
    lower = pixels * _DIM
    lower[foreground] = pixels[foreground]
    tinted = pixels * (1 - _TINT_ALPHA) + np.array(_TINT, dtype=np.float32) * _TINT_ALPHA
    lower[background] = tinted[background]
    edge = _inner_edge(foreground.astype(np.uint8), max(1, tile // 96)) & foreground
    lower[edge] = _OUTLINE
    return upper, Image.fromarray(np.rint(lower).astype(np.uint8))


def _fitted(mask: Mask, size: tuple[int, int]) -> Mask:
    picture = Image.fromarray(np.ascontiguousarray(mask, dtype=np.uint8))
    return np.asarray(picture.resize(size, Image.Resampling.NEAREST)) > 0


def _paste_centred(sheet: Image.Image, picture: Image.Image, corner: tuple[int, int], tile: int) -> None:
    sheet.paste(picture, (corner[0] + (tile - picture.width) // 2, corner[1] + (tile - picture.height) // 2))


def _percent(share: float) -> str:
    return "< 0.1 %" if share < _SPECK else f"{share * 100:.1f} %"
