"""Pictures for people: overlays of a segmentation, contact sheets of support images, and explanations of pixels."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageDraw

from ovseg_cli.files.fonts import Font, bundled_font, can_draw, font_for, shortened
from ovseg_cli.files.images import open_image
from ovseg_cli.files.labels import IGNORE, Colour, LabelMap, read_label

__all__ = [
    "Bar",
    "ExplainedPoint",
    "MatchGroup",
    "MatchTile",
    "SheetRow",
    "SheetTile",
    "contact_sheet",
    "explanation_sheet",
    "overlay",
]

RGB = npt.NDArray[np.uint8]
Mask = npt.NDArray[np.bool_]

_PAPER: Colour = (250, 250, 248)
_INK: Colour = (32, 33, 36)
_FAINT: Colour = (112, 116, 122)
_RULE: Colour = (222, 222, 218)

_MIN_WIDTH = 256  # below this a legend cannot be read, so the picture is enlarged,
_MAX_ENLARGED = 2048  # but not beyond this height: a strip of one pixel is no reason for a huge file

_STRIP_PIXELS = 2**20  # painted at once, so that a large picture takes no more than itself and its overlay

_WIDEST = 4  # the letters of a legend grow with the width up to this ratio; a long strip wants no giant ones
_ALL_LISTED = 6  # so many classes a legend lists whatever their share; of more,
_SPECK = 0.001  # those below this share are counted only

# Of a support mask: the line around the object, and the tint of what was taken as background.
_OUTLINE: Colour = (255, 45, 120)
_TINT: Colour = (36, 92, 200)
_TINT_ALPHA = 0.6
_DIM = 0.28

# Of an explanation: the side of its small pictures, the width of the picture at its left, and how bright matches are.
_PATCH = 150
_LEFT = 460
_TALLEST = 640
_TEXT = 15
_DARKEST = 0.35  # of the place within its mask that matches least
_BEST = 0.75  # a match is outlined where it is at least so good, from the worst to the best place within its mask
_TRACK: Colour = (236, 236, 232)
_NAME_ROOM = 180
_BAR_WIDTH = 190
_SENTENCE_WIDTH = 250


def overlay(
    image: Image.Image, ids: npt.NDArray[np.integer], labelmap: LabelMap, *, alpha: float = 0.55
) -> Image.Image:
    """Lay a segmentation over its picture, with outlines and a legend below.

    Pixels of the background and of the ignore value stay as they are. The legend lists the other classes
    that are present with their share of the picture, the largest first, and with their ids where no font here has the
    letters of their names. Pictures less than 256 pixels wide
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
    if factor > 1:
        ids = ids.repeat(factor, axis=0).repeat(factor, axis=1)
        image = image.resize((image.width * factor, image.height * factor), Image.Resampling.NEAREST)
    bare = {IGNORE} if labelmap.name_of(IGNORE) is None else set()
    if labelmap.background_id is not None:
        bare.add(labelmap.background_id)
    strip = max(1, _STRIP_PIXELS // image.width)
    strips = [(top, min(top + strip, image.height)) for top in range(0, image.height, strip)]
    counts: Counter[int] = Counter()
    for top, bottom in strips:
        values, numbers = np.unique(ids[top:bottom], return_counts=True)
        counts.update(dict(zip(values.tolist(), numbers.tolist(), strict=True)))
    shares = {index: counts[index] / ids.size for index in sorted(counts.keys() - bare)}

    legend = _legend(shares, labelmap, max(_MIN_WIDTH, image.width), image.height)
    result = Image.new("RGB", (legend.width, image.height + legend.height), _PAPER)
    line = max(1, round(min(ids.shape) / 300))
    for top, bottom in strips:
        first = max(0, top - line)  # a strip's edges depend on the rows around it
        edge = _inner_edge(ids[first : bottom + line], line)[top - first : bottom - first]
        pixels = np.array(image.crop((0, top, image.width, bottom)).convert("RGB"))
        _paint(pixels, ids[top:bottom], edge, {index: labelmap.colour_of(index) for index in shares}, alpha)
        result.paste(Image.fromarray(pixels), (0, top))
    result.paste(legend, (0, image.height))
    return result


def _paint(pixels: RGB, ids: npt.NDArray[np.integer], edge: Mask, colours: dict[int, Colour], alpha: float) -> None:
    """Mix the colours of the regions into the pixels, in place, with a lighter line at their edges."""
    for index, rgb in colours.items():
        colour = np.array(rgb, dtype=np.float32)
        region = ids == index
        pixels[region] = np.rint(pixels[region] * (1 - alpha) + colour * alpha).astype(np.uint8)
        # The colours of VOC are dark; a lighter line of the same hue stands out inside and outside.
        pixels[region & edge] = np.rint(colour * 0.45 + 255 * 0.55).astype(np.uint8)


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
        name = labelmap.name_of(index) or ""
        # Boxes for letters look all the same; by its id the name is found in the label map.
        font, name = font_for(name if name and can_draw(name, size) else f"id {index} {name}".strip(), size)
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
            below = (x + tile / 2, top + 2 * tile + 2)
            draw.text(below, str(position), _FAINT, bundled_font(round(size * 0.8)), anchor="mt")
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
    draw.line((left, top, right, top), fill=_RULE)
    middle = (top + bottom) / 2
    (font, title), (note_font, note) = _title_texts(row, size)
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


# ---------------------------------------------------------------------- explanations


@dataclass(frozen=True, slots=True)
class Bar:
    """One of the scores of a pixel.

    Attributes:
        name: Whose it is.
        value: The score; what is below 0 or above 1 is drawn as that.
        colour: Of the bar.
    """

    name: str
    value: float
    colour: Colour


@dataclass(frozen=True, slots=True, eq=False)
class MatchTile:
    """A support image, and how well it matches a prototype.

    Attributes:
        image: uint8 (H, W, 3), RGB; None draws an empty tile.
        mask: bool (H, W): where matches count.
        similarity: float32 (H, W).
        caption: Short lines below it.
    """

    image: RGB | None
    mask: Mask | None
    similarity: npt.NDArray[np.float32] | None
    caption: Sequence[str]


@dataclass(frozen=True, slots=True, eq=False)
class MatchGroup:
    """Support images that speak for one label, under a heading in its colour."""

    title: str
    colour: Colour
    tiles: Sequence[MatchTile]


@dataclass(frozen=True, slots=True, eq=False)
class ExplainedPoint:
    """All that an explanation shows of one pixel.

    Attributes:
        x: Column in the picture.
        y: Row.
        title: Its label.
        colour: The label's colour.
        bars: The scores, the pixel's own first.
        lines: Sentences, wrapped where they are too long.
        groups: Support images.
    """

    x: int
    y: int
    title: str
    colour: Colour
    bars: Sequence[Bar]
    lines: Sequence[str]
    groups: Sequence[MatchGroup]


def explanation_sheet(
    image: Image.Image,
    ids: npt.NDArray[np.integer],
    labelmap: LabelMap,
    points: Sequence[ExplainedPoint],
    *,
    note: str = "",
) -> Image.Image:
    """Show why pixels have their labels.

    At the left the picture with the outlines of its label map and numbered marks; at the right, for each mark, the
    scores and the support images whose prototypes matched, bright where they match and grey where they do not count.

    Args:
        image: The picture, RGB.
        ids: `(H, W)` integers, the ids of `labelmap`; the size of `image`.
        labelmap: Names and colours.
        points: The pixels, in the order of their numbers.
        note: One more sentence, at the foot.

    Returns:
        An RGB picture.

    Raises:
        ValueError: `ids` has another size than `image`.
    """
    if ids.shape != (image.height, image.width):
        raise ValueError(f"ids of shape {ids.shape} do not fit an image of {image.width}x{image.height}")
    margin, gap = _TEXT, 2 * _TEXT
    left = _marked(image, ids, labelmap, points)
    width = max([_panel_width(point) for point in points], default=0)
    panels = [_panel(image, number, point, width) for number, point in enumerate(points, start=1)]
    tall = max(left.height, sum(panel.height for panel in panels))
    foot = _foot_of_matches(left.width + gap + width, note, with_matches=any(point.groups for point in points))
    sheet = Image.new("RGB", (left.width + gap + width + 2 * margin, tall + foot.height + 2 * margin), _PAPER)
    sheet.paste(left, (margin, margin))
    y = margin
    for panel in panels:
        sheet.paste(panel, (margin + left.width + gap, y))
        y += panel.height
    sheet.paste(foot, (margin, margin + tall))
    return sheet


def _marked(
    image: Image.Image, ids: npt.NDArray[np.integer], labelmap: LabelMap, points: Sequence[ExplainedPoint]
) -> Image.Image:
    """The picture with the outlines of its labels, numbered marks, and a legend below."""
    scale = min(_LEFT / image.width, _TALLEST / image.height)
    fitted = (max(1, round(image.width * scale)), max(1, round(image.height * scale)))
    pixels = np.asarray(image.convert("RGB").resize(fitted, Image.Resampling.LANCZOS)).copy()
    rows = np.minimum((np.arange(fitted[1]) / scale).astype(np.int64), image.height - 1)
    columns = np.minimum((np.arange(fitted[0]) / scale).astype(np.int64), image.width - 1)
    small = ids[np.ix_(rows, columns)]
    edge = _inner_edge(small, 3)
    values, counts = np.unique(ids, return_counts=True)
    shares = {int(i): int(n) / ids.size for i, n in zip(values, counts, strict=True) if i != labelmap.background_id}
    for index in shares:
        pixels[(small == index) & edge] = _bright(labelmap.colour_of(index))
    legend = _legend(shares, labelmap, _LEFT, _LEFT)
    left = Image.new("RGB", (_LEFT, fitted[1] + legend.height), _PAPER)
    left.paste(Image.fromarray(pixels), (0, 0))
    left.paste(legend, (0, fitted[1]))
    draw = ImageDraw.Draw(left)
    for number, point in enumerate(points, start=1):
        x, y = (point.x + 0.5) * scale, (point.y + 0.5) * scale
        _mark(draw, x, y)
        to_left, up = x > fitted[0] - 40, y < 40
        _badge(draw, x - 20 if to_left else x + 20, y + 18 if up else y - 18, number, point.colour)
    return left


def _bright(colour: Colour) -> npt.NDArray[np.uint8]:
    """A lighter colour of the same hue: those of VOC are dark."""
    return np.rint(np.array(colour, dtype=np.float32) * 0.45 + 255 * 0.55).astype(np.uint8)


def _mark(draw: ImageDraw.ImageDraw, x: float, y: float, radius: float = 8) -> None:
    """A ring around a place, seen on light and on dark."""
    for extra, colour, width in ((2, _INK, 6), (0, (255, 255, 255), 2)):
        box = (x - radius - extra, y - radius - extra, x + radius + extra, y + radius + extra)
        draw.ellipse(box, outline=colour, width=width)
    draw.ellipse((x - 1.5, y - 1.5, x + 1.5, y + 1.5), fill=(255, 255, 255), outline=_INK)


def _badge(draw: ImageDraw.ImageDraw, x: float, y: float, number: int, colour: Colour) -> None:
    """A number on a disc."""
    radius = 11
    draw.ellipse((x - radius, y - radius, x + radius, y + radius), fill=_INK, outline=tuple(_bright(colour)), width=2)
    draw.text((x, y), str(number), (255, 255, 255), bundled_font(_TEXT - 1), anchor="mm")


def _panel_width(point: ExplainedPoint) -> int:
    tiles = 1 + sum(len(group.tiles) for group in point.groups)
    beside = 0 if point.groups else _PATCH + _TEXT
    return max(beside + _bars_width() + _SENTENCE_WIDTH, tiles * (_PATCH + 10) + _TEXT * len(point.groups))


def _bars_width() -> int:
    return _NAME_ROOM + _BAR_WIDTH + 5 * _TEXT


def _panel(image: Image.Image, number: int, point: ExplainedPoint, width: int) -> Image.Image:
    """One pixel: its label, its scores, sentences, its surroundings, and the support images."""
    font, step, row = bundled_font(_TEXT), round(_TEXT * 1.45), round(_TEXT * 1.7)
    head = round(_TEXT * 2.6)
    bars_left = 0 if point.groups else _PATCH + _TEXT  # without support images the surroundings stand beside the bars
    text_left = bars_left + _bars_width()
    lines = [part for line in point.lines for part in _wrapped(line, font, width - text_left)]
    body = max(len(point.bars) * row, len(lines) * step)
    captions = max((len(tile.caption) for group in point.groups for tile in group.tiles), default=0)
    if point.groups:
        height = head + body + _TEXT + row + _PATCH + captions * step + 2 * _TEXT
    else:
        height = head + max(body, _PATCH) + 2 * _TEXT
    panel = Image.new("RGB", (width, height), _PAPER)
    draw = ImageDraw.Draw(panel)
    _panel_head(draw, number, point, width, head)
    for place, bar in enumerate(point.bars):
        _draw_bar(draw, bar, bars_left, head + place * row + row / 2)
    for place, line in enumerate(lines):
        line_font, text = font_for(line, _TEXT)
        draw.text((text_left, head + place * step + row / 2), text, _INK, line_font, anchor="lm")
    if not point.groups:
        panel.paste(_surroundings(image, point), (0, head))
        return panel
    top = head + body + _TEXT
    draw.text((0, top + _TEXT * 0.7), "this pixel", _INK, font, anchor="lm")
    panel.paste(_surroundings(image, point), (0, top + row))
    x = _PATCH + 10 + _TEXT
    for group in point.groups:
        _draw_group(panel, group, (x, top))
        x += len(group.tiles) * (_PATCH + 10) + _TEXT
    return panel


def _panel_head(draw: ImageDraw.ImageDraw, number: int, point: ExplainedPoint, width: int, height: int) -> None:
    draw.line((0, 0, width, 0), fill=_RULE)
    middle = height / 2
    _badge(draw, 12, middle, number, point.colour)
    draw.rounded_rectangle((34, middle - 9, 52, middle + 9), radius=4, fill=point.colour)
    font, title = font_for(point.title, round(_TEXT * 1.4))
    draw.text((62, middle), shortened(title, font, width - 260), _INK, font, anchor="lm")
    # The space of the bundled font is very narrow.
    draw.text((width, middle), f"pixel  {point.x}, {point.y}", _FAINT, bundled_font(_TEXT), anchor="rm")


def _draw_group(panel: Image.Image, group: MatchGroup, corner: tuple[int, int]) -> None:
    """The support images that speak for one label, side by side, each with its caption."""
    draw, step = ImageDraw.Draw(panel), round(_TEXT * 1.45)
    x, top = corner
    draw.rounded_rectangle((x, top + 3, x + 14, top + 17), radius=3, fill=group.colour)
    font, title = font_for(group.title, _TEXT)
    room = len(group.tiles) * (_PATCH + 10) - 30
    draw.text((x + 20, top + _TEXT * 0.7), shortened(title, font, room), _INK, font, anchor="lm")
    y = top + round(_TEXT * 1.7)
    for tile in group.tiles:
        _paste_centred(panel, _match_picture(tile), (x, y), _PATCH)
        for place, line in enumerate(tile.caption):
            font, text = font_for(line, _TEXT - 2)
            at = (x, y + _PATCH + 4 + (place + 0.5) * step)
            draw.text(at, shortened(text, font, _PATCH), _FAINT if place else _INK, font, anchor="lm")
        x += _PATCH + 10


def _draw_bar(draw: ImageDraw.ImageDraw, bar: Bar, left: int, middle: float) -> None:
    font, name = font_for(bar.name, _TEXT)
    draw.text((left, middle), shortened(name, font, _NAME_ROOM - 8), _INK, font, anchor="lm")
    start, upper, lower = left + _NAME_ROOM, middle - 6, middle + 6
    draw.rounded_rectangle((start, upper, start + _BAR_WIDTH, lower), radius=3, fill=_TRACK)
    filled = _BAR_WIDTH * min(max(bar.value, 0.0), 1.0)
    if filled >= 1:
        draw.rounded_rectangle((start, upper, start + filled, lower), radius=min(3, filled / 2), fill=bar.colour)
    draw.text((start + _BAR_WIDTH + 8, middle), f"{bar.value:.3f}", _INK, bundled_font(_TEXT), anchor="lm")


def _wrapped(text: str, font: Font, width: float) -> list[str]:
    """Break a sentence between words."""
    lines: list[str] = []
    for word in text.split():
        if lines and font.getlength(f"{lines[-1]} {word}") <= width:
            lines[-1] += f" {word}"
        else:
            lines.append(word)
    return [shortened(line, font, width) for line in lines]


def _surroundings(image: Image.Image, point: ExplainedPoint) -> Image.Image:
    """What lies around a pixel: a third of the picture's shorter side, with a mark."""
    side = max(1, min(min(image.size), max(24, min(image.size) // 3)))
    left = min(max(point.x - side // 2, 0), image.width - side)
    top = min(max(point.y - side // 2, 0), image.height - side)
    patch = image.convert("RGB").crop((left, top, left + side, top + side))
    patch = patch.resize((_PATCH, _PATCH), Image.Resampling.LANCZOS)
    scale = _PATCH / side
    _mark(ImageDraw.Draw(patch), (point.x - left + 0.5) * scale, (point.y - top + 0.5) * scale, radius=7)
    return patch


def _match_picture(tile: MatchTile) -> Image.Image:
    """A support image, bright where it matches, outlined where it matches best, grey where it does not count."""
    if tile.image is None or tile.mask is None or tile.similarity is None:
        empty = Image.new("RGB", (_PATCH, _PATCH), _TRACK)
        ImageDraw.Draw(empty).text((_PATCH / 2, _PATCH / 2), "no picture", _FAINT, bundled_font(_TEXT), anchor="mm")
        return empty
    picture = Image.fromarray(np.ascontiguousarray(tile.image))
    scale = _PATCH / max(picture.size)
    fitted = (max(1, round(picture.width * scale)), max(1, round(picture.height * scale)))
    pixels = np.asarray(picture.resize(fitted, Image.Resampling.LANCZOS)).astype(np.float32)
    mask = _fitted(tile.mask, fitted)
    smooth = Image.fromarray(np.ascontiguousarray(tile.similarity, dtype=np.float32))
    similarity = np.asarray(smooth.resize(fitted, Image.Resampling.BILINEAR))
    shown = np.repeat(pixels.mean(axis=2, keepdims=True) * _DIM, 3, axis=2)
    if mask.any():
        low, high = float(similarity[mask].min()), float(similarity[mask].max())
        strength = ((similarity - low) / max(high - low, 1e-6)).clip(0, 1)
        lit = pixels * (_DARKEST + (1 - _DARKEST) * strength[..., None])
        shown[mask] = lit[mask]
        best = mask & (strength >= _BEST)
        shown[_inner_edge(best.astype(np.uint8), 2) & best] = _OUTLINE
    return Image.fromarray(np.rint(shown).clip(0, 255).astype(np.uint8))


def _foot_of_matches(width: int, note: str, *, with_matches: bool) -> Image.Image:
    """What the support images show, and a note."""
    font = bundled_font(_TEXT - 1)
    lines = _wrapped(note, font, width) if note else []
    step = round(_TEXT * 1.5)
    foot = Image.new("RGB", (width, (len(lines) + with_matches) * step + _TEXT), _PAPER)
    draw = ImageDraw.Draw(foot)
    draw.line((0, 0, width, 0), fill=_RULE)
    y = _TEXT * 1.3
    if with_matches:
        x = 0.0
        marks: tuple[tuple[str, Colour, Colour], ...] = (
            ("outlined: the support image matches the prototype best", _PAPER, _OUTLINE),
            ("bright to dark: well to badly", (250, 200, 60), (80, 64, 20)),
            ("grey: does not count for this prototype", (60, 60, 60), (60, 60, 60)),
        )
        for text, fill, line in marks:
            draw.rounded_rectangle((x, y - 7, x + 14, y + 7), radius=3, fill=fill, outline=line, width=2)
            draw.text((x + 20, y), text, _FAINT, font, anchor="lm")
            x += 44 + font.getlength(text)
        y += step
    for text in lines:
        draw.text((0, y), text, _FAINT, font, anchor="lm")
        y += step
    return foot
