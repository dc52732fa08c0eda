"""Label Studio's tasks with predictions by its brush."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.metadata import version
from pathlib import Path
from urllib.parse import quote
from xml.sax.saxutils import quoteattr

from ovseg_cli.exports.base import Add, Exporter, Options, opened, regions
from ovseg_cli.exports.run_lengths import brush_code
from ovseg_cli.exports.source import Ids, Picture, Source

_FROM, _TO = "label", "image"
_SERVED = "/data/local-files/?d="
"""Where Label Studio serves files of its document root."""


class LabelStudio(Exporter):
    """``tasks.json`` to import, and ``labeling.xml``, the labelling interface that fits it."""

    target = "label-studio"
    takes = ("parts",)

    @contextmanager
    def open(self, place: Path, source: Source, options: Options) -> Iterator[Add]:
        """See `Exporter.open`."""
        names = dict(source.classes)
        with opened(place / "labeling.xml") as file:
            file.write(f'<View>\n  <Image name="{_TO}" value="$image" zoom="true"/>\n')
            file.write(f'  <BrushLabels name="{_FROM}" toName="{_TO}">\n')
            for i, _, (red, green, blue) in source.labels:
                if i in names:
                    colour = f"#{red:02x}{green:02x}{blue:02x}"
                    file.write(f'    <Label value={quoteattr(names[i])} background="{colour}"/>\n')
            file.write("  </BrushLabels>\n</View>\n")
        model = f"ovseg {version('ovseg')}" + (f" {source.method}" if source.method else "")
        with opened(place / "tasks.json") as file:
            file.write("[")
            first = True

            def add(picture: Picture, ids: Ids) -> None:
                nonlocal first
                height, width = ids.shape
                results = [
                    {
                        "id": f"{number}",
                        "from_name": _FROM,
                        "to_name": _TO,
                        "type": "brushlabels",
                        "original_width": width,
                        "original_height": height,
                        "image_rotation": 0,
                        "value": {
                            "format": "rle",
                            "rle": list(brush_code(region.within((height, width)))),
                            "brushlabels": [names[region.label]],
                        },
                    }
                    for number, region in enumerate(regions(ids, source, parts=options.parts), start=1)
                ]
                address = _SERVED + quote(picture.name, errors="surrogateescape")
                task = {"data": {_TO: address}, "predictions": [{"model_version": model, "result": results}]}
                file.write(f"{'' if first else ','}\n{json.dumps(task, ensure_ascii=False)}")
                first = False

            yield add
            file.write("\n]\n")
