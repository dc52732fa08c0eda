"""What the published class files of Pascal VOC, Context and COCO-Object hold: facts, put together here.

Compared with VOC's own names, boats are ships, dining tables tables, and persons and television sets have synonyms.
"""

from __future__ import annotations

_FIRST = "sky, wall, tree, wood, grass, road, sea, river, mountain, sands, desk, bed, building, cloud"
_OTHERS = "lamp, door, window, wardrobe, ceiling, shelf, curtain, stair, floor, hill, rail, fence"
_VOC = (
    "aeroplane, bicycle, bird, ship, bottle, bus, car, cat, chair, cow, table, dog, horse, motorbike, person, "
    "pottedplant, sheep, sofa, train, tvmonitor"
)

BACKGROUND = tuple(f"{_FIRST}, {_OTHERS}".split(", "))
"""26 words, of SCLIP (VOC and Object), NACLIP and ProxyCLIP (VOC)."""

OBJECT_BACKGROUND = tuple(f"{_FIRST}, floor, hill, rail".split(", "))
"""17 words, of ProxyCLIP (Object)."""

VOC = _VOC.split(", ")
PERSONS = tuple(f"person in {what}" for what in ("shirt", "jeans", "dress", "sweater", "skirt", "jacket"))
SCREENS = ("television monitor", "tv monitor", "monitor", "television", "screen")


def sclip_voc21() -> str:
    """Separated by commas; the background first, with nothing that says so."""
    lines = [", ".join(BACKGROUND), *VOC]
    lines[1 + VOC.index("person")] = ", ".join(("person", *PERSONS))
    lines[1 + VOC.index("tvmonitor")] = ", ".join(SCREENS)
    return "\n".join(lines)


def proxyclip_voc21() -> str:
    """Separated by semicolons."""
    return "\n".join(["; ".join(BACKGROUND), *VOC]) + "\n"


def clearclip_voc21() -> str:
    """One word for the background, as Context's files have it too."""
    return "\n".join(["background", *VOC]) + "\n"


def published_queries(text: str, separator: str) -> tuple[list[str], list[int]]:
    """Query words and the line that each is in, as the published heads read a file."""
    words, owner = [], []
    for index, line in enumerate(text.splitlines()):
        words += line.split(separator)
        owner += [index] * len(line.split(separator))
    return words, owner
