"""COCO's JSON of instances, with run-length codes."""

from __future__ import annotations

import json
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.metadata import version
from itertools import count
from pathlib import Path
from typing import IO, Any

from ovseg_cli.exports.base import Add, Exporter, Options, opened, regions
from ovseg_cli.exports.run_lengths import coco_code
from ovseg_cli.exports.source import Ids, Picture, Source

_MOST_IN_MEMORY = 2**23


class Coco(Exporter):
    """One file. Categories have the ids of the label map; pixels of no annotation are the background, or left out.

    Pictures go to the file one by one, so that memory does not grow with their number.
    """

    target = "coco.json"
    folder = False
    takes = ("parts",)

    @contextmanager
    def open(self, place: Path, source: Source, options: Options) -> Iterator[Add]:
        """See `Exporter.open`."""
        with (
            opened(place) as file,
            tempfile.SpooledTemporaryFile(
                _MOST_IN_MEMORY, "w+", encoding="utf-8", errors="backslashreplace", newline="\n"
            ) as images,
        ):
            file.write(f'{{"info": {_line({"description": "Label maps by ovseg", "version": version("ovseg")})},\n')
            categories = [{"id": i, "name": name} for i, name in source.classes]
            file.write(f'"categories": {_line(categories)},\n"annotations": [')
            numbers, annotations = count(1), _Items(file)
            pictures = _Items(images)

            def add(picture: Picture, ids: Ids) -> None:
                number = pictures.written + 1
                height, width = ids.shape
                found = [
                    {
                        "image_id": number,
                        "category_id": region.label,
                        "iscrowd": 0,
                        "area": region.area,
                        "bbox": region.box,
                        "segmentation": coco_code(region.mask, region.top, region.left, (height, width)),
                    }
                    for region in regions(ids, source, parts=options.parts)
                ]
                for annotation in found:
                    annotations.add({"id": next(numbers), **annotation})
                pictures.add({"id": number, "file_name": picture.name, "width": width, "height": height})

            yield add
            file.write('\n],\n"images": [')
            images.seek(0)
            shutil.copyfileobj(images, file)
            file.write("\n]}\n")


class _Items:
    """Writes the items of a JSON list, one on each line."""

    def __init__(self, file: IO[str]) -> None:
        self._file = file
        self.written = 0

    def add(self, item: Any) -> None:
        """Write one."""
        self._file.write(f"{',' if self.written else ''}\n{_line(item)}")
        self.written += 1


def _line(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False, allow_nan=False)
