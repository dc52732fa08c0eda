"""Why pixels have their labels, as a picture."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageDraw

from ovseg_cli.drawing.fonts import bundled_font, font_for, shortened, wrapped
from ovseg_cli.drawing.ink import (
    DIM,
    EMPTY,
    FAINT,
    INK,
    OUTLINE,
    PAPER,
    RGB,
    RULE,
    Mask,
    bright,
    fitted_mask,
    fitted_size,
    inner_edge,
    paste_centred,
)
from ovseg_cli.drawing.legend import legend_strip
from ovseg_cli.files.labels import Colour, LabelMap

# The side of the small pictures, the width of the picture at the left, and how bright matches are.
_PATCH = 150
_LEFT = 460
_TALLEST = 640
_TEXT = 15
_DARKEST = 0.35  # of the place within its mask that matches least
_BEST = 0.75  # a match is outlined where it is at least so good, from the worst to the best place within its mask
_NAME_ROOM = 180
_BAR_WIDTH = 190
_SENTENCE_WIDTH = 250


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
    sheet = Image.new("RGB", (left.width + gap + width + 2 * margin, tall + foot.height + 2 * margin), PAPER)
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
    edge = inner_edge(small, 3)
    values, counts = np.unique(ids, return_counts=True)
    shares = {int(i): int(n) / ids.size for i, n in zip(values, counts, strict=True) if i != labelmap.background_id}
    for index in shares:
        pixels[(small == index) & edge] = bright(labelmap.colour_of(index))
    legend = legend_strip(shares, labelmap, _LEFT, _LEFT)
    left = Image.new("RGB", (_LEFT, fitted[1] + legend.height), PAPER)
    left.paste(Image.fromarray(pixels), (0, 0))
    left.paste(legend, (0, fitted[1]))
    draw = ImageDraw.Draw(left)
    for number, point in enumerate(points, start=1):
        x, y = (point.x + 0.5) * scale, (point.y + 0.5) * scale
        _mark(draw, x, y)
        to_left, up = x > fitted[0] - 40, y < 40
        _badge(draw, x - 20 if to_left else x + 20, y + 18 if up else y - 18, number, point.colour)
    return left


def _mark(draw: ImageDraw.ImageDraw, x: float, y: float, radius: float = 8) -> None:
    """A ring around a place, seen on light and on dark."""
    for extra, colour, width in ((2, INK, 6), (0, (255, 255, 255), 2)):
        box = (x - radius - extra, y - radius - extra, x + radius + extra, y + radius + extra)
        draw.ellipse(box, outline=colour, width=width)
    draw.ellipse((x - 1.5, y - 1.5, x + 1.5, y + 1.5), fill=(255, 255, 255), outline=INK)


def _badge(draw: ImageDraw.ImageDraw, x: float, y: float, number: int, colour: Colour) -> None:
    """A number on a disc."""
    radius = 11
    draw.ellipse((x - radius, y - radius, x + radius, y + radius), fill=INK, outline=tuple(bright(colour)), width=2)
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
    lines = [part for line in point.lines for part in wrapped(line, font, width - text_left)]
    body = max(len(point.bars) * row, len(lines) * step)
    captions = max((len(tile.caption) for group in point.groups for tile in group.tiles), default=0)
    if point.groups:
        height = head + body + _TEXT + row + _PATCH + captions * step + 2 * _TEXT
    else:
        height = head + max(body, _PATCH) + 2 * _TEXT
    panel = Image.new("RGB", (width, height), PAPER)
    draw = ImageDraw.Draw(panel)
    _panel_head(draw, number, point, width, head)
    for place, bar in enumerate(point.bars):
        _draw_bar(draw, bar, bars_left, head + place * row + row / 2)
    for place, line in enumerate(lines):
        line_font, text = font_for(line, _TEXT)
        draw.text((text_left, head + place * step + row / 2), text, INK, line_font, anchor="lm")
    if not point.groups:
        panel.paste(_surroundings(image, point), (0, head))
        return panel
    top = head + body + _TEXT
    draw.text((0, top + _TEXT * 0.7), "this pixel", INK, font, anchor="lm")
    panel.paste(_surroundings(image, point), (0, top + row))
    x = _PATCH + 10 + _TEXT
    for group in point.groups:
        _draw_group(panel, group, (x, top))
        x += len(group.tiles) * (_PATCH + 10) + _TEXT
    return panel


def _panel_head(draw: ImageDraw.ImageDraw, number: int, point: ExplainedPoint, width: int, height: int) -> None:
    draw.line((0, 0, width, 0), fill=RULE)
    middle = height / 2
    _badge(draw, 12, middle, number, point.colour)
    draw.rounded_rectangle((34, middle - 9, 52, middle + 9), radius=4, fill=point.colour)
    font, title = font_for(point.title, round(_TEXT * 1.4))
    draw.text((62, middle), shortened(title, font, width - 260), INK, font, anchor="lm")
    # The space of the bundled font is very narrow.
    draw.text((width, middle), f"pixel  {point.x}, {point.y}", FAINT, bundled_font(_TEXT), anchor="rm")


def _draw_group(panel: Image.Image, group: MatchGroup, corner: tuple[int, int]) -> None:
    """The support images that speak for one label, side by side, each with its caption."""
    draw, step = ImageDraw.Draw(panel), round(_TEXT * 1.45)
    x, top = corner
    draw.rounded_rectangle((x, top + 3, x + 14, top + 17), radius=3, fill=group.colour)
    font, title = font_for(group.title, _TEXT)
    room = len(group.tiles) * (_PATCH + 10) - 30
    draw.text((x + 20, top + _TEXT * 0.7), shortened(title, font, room), INK, font, anchor="lm")
    y = top + round(_TEXT * 1.7)
    for tile in group.tiles:
        paste_centred(panel, _match_picture(tile), (x, y), _PATCH)
        for place, line in enumerate(tile.caption):
            font, text = font_for(line, _TEXT - 2)
            at = (x, y + _PATCH + 4 + (place + 0.5) * step)
            draw.text(at, shortened(text, font, _PATCH), FAINT if place else INK, font, anchor="lm")
        x += _PATCH + 10


def _draw_bar(draw: ImageDraw.ImageDraw, bar: Bar, left: int, middle: float) -> None:
    font, name = font_for(bar.name, _TEXT)
    draw.text((left, middle), shortened(name, font, _NAME_ROOM - 8), INK, font, anchor="lm")
    start, upper, lower = left + _NAME_ROOM, middle - 6, middle + 6
    draw.rounded_rectangle((start, upper, start + _BAR_WIDTH, lower), radius=3, fill=EMPTY)
    filled = _BAR_WIDTH * min(max(bar.value, 0.0), 1.0)
    if filled >= 1:
        draw.rounded_rectangle((start, upper, start + filled, lower), radius=min(3, filled / 2), fill=bar.colour)
    draw.text((start + _BAR_WIDTH + 8, middle), f"{bar.value:.3f}", INK, bundled_font(_TEXT), anchor="lm")


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
        empty = Image.new("RGB", (_PATCH, _PATCH), EMPTY)
        ImageDraw.Draw(empty).text((_PATCH / 2, _PATCH / 2), "no picture", FAINT, bundled_font(_TEXT), anchor="mm")
        return empty
    picture = Image.fromarray(np.ascontiguousarray(tile.image))
    fitted = fitted_size(picture.size, _PATCH)
    pixels = np.asarray(picture.resize(fitted, Image.Resampling.LANCZOS)).astype(np.float32)
    mask = fitted_mask(tile.mask, fitted)
    smooth = Image.fromarray(np.ascontiguousarray(tile.similarity, dtype=np.float32))
    similarity = np.asarray(smooth.resize(fitted, Image.Resampling.BILINEAR))
    shown = np.repeat(pixels.mean(axis=2, keepdims=True) * DIM, 3, axis=2)
    if mask.any():
        low, high = float(similarity[mask].min()), float(similarity[mask].max())
        strength = ((similarity - low) / max(high - low, 1e-6)).clip(0, 1)
        lit = pixels * (_DARKEST + (1 - _DARKEST) * strength[..., None])
        shown[mask] = lit[mask]
        best = mask & (strength >= _BEST)
        shown[inner_edge(best.astype(np.uint8), 2) & best] = OUTLINE
    return Image.fromarray(np.rint(shown).clip(0, 255).astype(np.uint8))


def _foot_of_matches(width: int, note: str, *, with_matches: bool) -> Image.Image:
    """What the support images show, and a note."""
    font = bundled_font(_TEXT - 1)
    lines = wrapped(note, font, width) if note else []
    step = round(_TEXT * 1.5)
    foot = Image.new("RGB", (width, (len(lines) + with_matches) * step + _TEXT), PAPER)
    draw = ImageDraw.Draw(foot)
    draw.line((0, 0, width, 0), fill=RULE)
    y = _TEXT * 1.3
    if with_matches:
        x = 0.0
        marks: tuple[tuple[str, Colour, Colour], ...] = (
            ("outlined: the support image matches the prototype best", PAPER, OUTLINE),
            ("bright to dark: well to badly", (250, 200, 60), (80, 64, 20)),
            ("grey: does not count for this prototype", (60, 60, 60), (60, 60, 60)),
        )
        for text, fill, line in marks:
            draw.rounded_rectangle((x, y - 7, x + 14, y + 7), radius=3, fill=fill, outline=line, width=2)
            draw.text((x + 20, y), text, FAINT, font, anchor="lm")
            x += 44 + font.getlength(text)
        y += step
    for text in lines:
        draw.text((0, y), text, FAINT, font, anchor="lm")
        y += step
    return foot
