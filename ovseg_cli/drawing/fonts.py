"""A font for the text in our pictures.

Pillow brings one along, the same on every machine, but it knows little more than ASCII. Text beyond it is
drawn in a system font when one is found that has all of its letters; otherwise accents are dropped.
"""

from __future__ import annotations

import unicodedata
from bisect import bisect_right
from functools import lru_cache

from PIL import ImageFont

__all__ = ["Font", "bundled_font", "can_draw", "font_for", "shortened", "wrapped"]

Font = ImageFont.FreeTypeFont | ImageFont.ImageFont

SYSTEM_FONTS = (
    "DejaVuSans.ttf",
    "NotoSans-Regular.ttf",
    "LiberationSans-Regular.ttf",
    "NotoSansArabic-Regular.ttf",
    "NotoSansDevanagari-Regular.ttf",
    "NotoSansHebrew-Regular.ttf",
    "NotoSansThai-Regular.ttf",
    "NotoSansBengali-Regular.ttf",
    "NotoSansTamil-Regular.ttf",
    "NotoSansCJK-Regular.ttc",
    "NotoSansCJKsc-Regular.otf",
    "WenQuanYi Zen Hei.ttf",
    "wqy-zenhei.ttc",
    "Arial Unicode.ttf",
    "PingFang.ttc",
    "arial.ttf",
    "msyh.ttc",
    "segoeui.ttf",
)
"""File names to look for, on Linux, macOS and Windows; Pillow knows the folders."""

_NO_LETTER = "\U0010ffff"  # not a character, so that a font draws its "missing" box


@lru_cache(maxsize=32)
def bundled_font(size: int) -> Font:
    """Pillow's own font at `size` pixels, with the simple layout, so that it looks alike everywhere."""
    font = ImageFont.load_default(size)
    if isinstance(font, ImageFont.FreeTypeFont):
        return font.font_variant(layout_engine=ImageFont.Layout.BASIC)
    return font


@lru_cache(maxsize=32)
def _system_font(name: str, size: int) -> Font | None:
    try:
        return ImageFont.truetype(name, size)
    except OSError:
        return None


@lru_cache(maxsize=1024)
def _has_letter(font: Font, letter: str) -> bool:
    return letter.isspace() or bytes(font.getmask(letter)) != bytes(font.getmask(_NO_LETTER))


def _has_all(font: Font, text: str) -> bool:
    return all(_has_letter(font, letter) for letter in set(text))


def can_draw(text: str, size: int) -> bool:
    """Whether some font on this machine has all letters of `text` (accents aside), so that none becomes a box."""
    font, drawn = font_for(text, size)
    return _has_all(font, drawn)


def font_for(text: str, size: int) -> tuple[Font, str]:
    """Choose how to draw `text`.

    Args:
        text: One line.
        size: The height in pixels.

    Returns:
        A font, and the text as it can be drawn: composed, and without accents when no font on this machine
        has them. Letters of scripts that no font here knows remain, and appear as boxes.
    """
    text = unicodedata.normalize("NFC", text)
    own = bundled_font(size)
    if _has_all(own, text):
        return own, text
    for name in SYSTEM_FONTS:
        font = _system_font(name, size)
        if font is not None and _has_all(font, text):
            return font, text
    return own, "".join(letter if _has_letter(own, letter) else _plain(letter) for letter in text)


def _plain(letter: str) -> str:
    """A letter without its accents."""
    decomposed = unicodedata.normalize("NFKD", letter)
    return "".join(part for part in decomposed if not unicodedata.combining(part)) or letter


def shortened(text: str, font: Font, width: float) -> str:
    """Cut `text` to `width` pixels, with three dots where something is missing."""
    if font.getlength(text) <= width:
        return text
    lengths = range(1, len(text))
    fitting = bisect_right(lengths, width, key=lambda length: font.getlength(text[:length] + "..."))
    return text[:fitting].rstrip() + "..."


def wrapped(text: str, font: Font, width: float) -> list[str]:
    """Break a sentence between words."""
    lines: list[str] = []
    for word in text.split():
        if lines and font.getlength(f"{lines[-1]} {word}") <= width:
            lines[-1] += f" {word}"
        else:
            lines.append(word)
    return [shortened(line, font, width) for line in lines]
