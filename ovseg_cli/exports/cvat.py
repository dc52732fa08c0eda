"""CVAT's own XML, "CVAT for images 1.1", with masks."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import count
from pathlib import Path
from xml.sax.saxutils import escape, quoteattr

from ovseg_cli.exports.base import Add, Exporter, Options, Region, opened, regions
from ovseg_cli.exports.run_lengths import run_lengths
from ovseg_cli.exports.source import Ids, Picture, Source

_UNSHOWN = {code: "\N{REPLACEMENT CHARACTER}" for code in (*range(9), 11, 12, *range(14, 32), *range(0xD800, 0xE000))}
"""What XML cannot hold."""


class Cvat(Exporter):
    """``annotations.xml``, and ``labels.json`` for the labels of a new task (its tab "Raw").

    Beside "Segmentation mask 1.1" this holds any number of classes with any names, and pictures in subfolders.
    """

    target = "cvat"
    takes = ("parts",)

    @contextmanager
    def open(self, place: Path, source: Source, options: Options) -> Iterator[Add]:
        """See `Exporter.open`."""
        names = dict(source.classes)
        labels = [
            {"name": names[i], "color": f"#{red:02x}{green:02x}{blue:02x}", "type": "mask", "attributes": []}
            for i, _, (red, green, blue) in source.labels
            if i in names
        ]
        with opened(place / "labels.json") as file:
            file.write(json.dumps(labels, ensure_ascii=False, indent=2) + "\n")
        numbers = count()
        with opened(place / "annotations.xml") as file:
            file.write('<?xml version="1.0" encoding="utf-8"?>\n<annotations>\n<version>1.1</version>\n')
            file.write("<meta><task><labels>\n")
            for label in labels:
                name, colour = escape(_text(label["name"])), label["color"]
                file.write(f"<label><name>{name}</name><color>{colour}</color><type>mask</type>")
                file.write("<attributes></attributes></label>\n")
            file.write("</labels></task></meta>\n")

            def add(picture: Picture, ids: Ids) -> None:
                found = [_element(region, names) for region in regions(ids, source, parts=options.parts)]
                height, width = ids.shape
                name = quoteattr(_text(picture.name))
                file.write(f'<image id="{next(numbers)}" name={name} width="{width}" height="{height}">\n')
                file.writelines([*found, "</image>\n"])

            yield add
            file.write("</annotations>\n")


def _text(name: object) -> str:
    return str(name).translate(_UNSHOWN)


def _element(region: Region, names: dict[int, str]) -> str:
    """One mask."""
    left, top, width, height = region.box
    runs = ", ".join(map(str, run_lengths(region.mask).tolist()))
    return (
        f'<mask label={quoteattr(_text(names[region.label]))} source="auto" occluded="0" rle="{runs}" left="{left}" '
        f'top="{top}" width="{width}" height="{height}" z_order="0"></mask>\n'
    )
