"""The legend below a picture: the classes in it, their colours and their shares."""

from __future__ import annotations

from dataclasses import dataclass

from PIL import Image, ImageDraw

from ovseg_cli.drawing.fonts import Font, bundled_font, can_draw, font_for, shortened
from ovseg_cli.drawing.ink import FAINT, INK, PAPER
from ovseg_cli.files.labels import Colour, LabelMap

_WIDEST = 4  # the letters of a legend grow with the width up to this ratio; a long strip wants no giant ones
_ALL_LISTED = 6  # so many classes a legend lists whatever their share; of more,
_SPECK = 0.001  # those below this share are counted only


def legend_strip(shares: dict[int, float], labelmap: LabelMap, width: int, height: int) -> Image.Image:
    """Draw the present classes as a strip of `width` pixels, in as many lines as they need.

    Of more than six classes, those that cover less than a thousandth are only counted.

    Args:
        shares: By class id, its share of the picture, 0..1.
        labelmap: Names and colours.
        width: Of the strip, in pixels.
        height: Of the picture above it: letters grow with the smaller of both.
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

    strip = Image.new("RGB", (width, 2 * (pad // 2) + (row + 1) * line), PAPER)
    draw = ImageDraw.Draw(strip)
    if not places:
        draw.text((pad, strip.height / 2), "only background", FAINT, small, anchor="lm")
    for entry in places:
        middle = pad // 2 + entry.row * line + line / 2
        box = (entry.x, middle - size / 2, entry.x + size, middle + size / 2)
        draw.rounded_rectangle(box, radius=size * 0.22, fill=entry.colour)
        text_x = entry.x + indent
        draw.text((text_x, middle), entry.name, INK, entry.font, anchor="lm")
        text_x += round(entry.font.getlength(entry.name) + space)
        draw.text((text_x, middle), entry.percent, FAINT, small, anchor="lm")
    if rest:
        draw.text((x, pad // 2 + row * line + line / 2), rest, FAINT, small, anchor="lm")
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


def _percent(share: float) -> str:
    return "< 0.1 %" if share < _SPECK else f"{share * 100:.1f} %"
