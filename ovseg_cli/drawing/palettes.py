"""The colours in which classes are shown to people: a class has the same one in every run, whatever is beside it.

Label maps keep VOC's palette, where a colour says which id a pixel has. In overlays that would give a class another
colour whenever `--classes` names others before it.
"""

from __future__ import annotations

import hashlib
from dataclasses import replace

from ovseg_cli.files.labels import Colour, LabelMap, is_background
from ovseg_cli.names import class_key

# Of the salts below 600 the one whose nearest pair of colours is farthest apart, also for those who cannot tell red
# from green, in each of these: VOC's classes, Cityscapes', the first of COCO's, and those of the demo.
_SALT = "98"
# Steps of sequences that fill a square (by the root of x^3 = x + 1) and a line most evenly.
_STEPS = (0.7548776662466927, 0.6180339887498949, 0.5698402909980532)
# Lightness and the axis from blue to yellow are what people see who cannot tell red from green, so these vary most.
_LIGHTNESS, _GREEN_RED, _BLUE_YELLOW = (0.42, 0.92), (-0.11, 0.14), (-0.20, 0.14)


def class_colour(name: str) -> Colour:
    """The colour of a class by its name, in upper or lower case.

    >>> class_colour("cat") == class_colour("Cat") != class_colour("dog")
    True
    """
    digest = hashlib.sha256((_SALT + class_key(name)).encode("utf-8", "surrogatepass")).digest()
    place = int.from_bytes(digest[:3], "big")
    shares = [(0.5 + step * place) % 1 for step in _STEPS]
    lightness, red, yellow = (
        low + share * (high - low)
        for share, (low, high) in zip(shares, (_LIGHTNESS, _GREEN_RED, _BLUE_YELLOW), strict=True)
    )
    return _from_oklab(lightness, red, yellow)


def for_display(labelmap: LabelMap) -> LabelMap:
    """A label map of the same ids and names, in the colours of `class_colour`; the background keeps its own."""
    colours = tuple(
        colour if is_background(name) else class_colour(name)
        for name, colour in zip(labelmap.names, labelmap.colours, strict=True)
    )
    return replace(labelmap, colours=colours)


def _from_oklab(lightness: float, red: float, yellow: float) -> Colour:
    """An sRGB colour from OKLab (Ottosson 2020), where equal distances look equal; what no screen shows is cut off."""
    long = (lightness + 0.3963377774 * red + 0.2158037573 * yellow) ** 3
    middle = (lightness - 0.1055613458 * red - 0.0638541728 * yellow) ** 3
    short = (lightness - 0.0894841775 * red - 1.2914855480 * yellow) ** 3
    linear = (
        4.0767416621 * long - 3.3077115913 * middle + 0.2309699292 * short,
        -1.2684380046 * long + 2.6097574011 * middle - 0.3413193965 * short,
        -0.0041960863 * long - 0.7034186147 * middle + 1.7076147010 * short,
    )
    first, second, third = (round(255 * _gamma(min(1.0, max(0.0, value)))) for value in linear)
    return first, second, third


def _gamma(value: float) -> float:
    return 12.92 * value if value <= 0.0031308 else 1.055 * value ** (1 / 2.4) - 0.055
