"""Binary masks: a PNG for each class of each picture."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
from PIL import Image

from ovseg_cli.exports.base import Add, Exporter, Options, opened
from ovseg_cli.exports.source import Ids, Picture, Source
from ovseg_cli.names import slugify


class Masks(Exporter):
    """A folder for each class, named so that every file system can hold it; ``classes.json`` says whose it is.

    A mask is grey of 8 bits, 255 where the class is. Ids of one name are one class.
    """

    target = "masks"
    takes = ("empty",)

    @contextmanager
    def open(self, place: Path, source: Source, options: Options) -> Iterator[Add]:
        """See `Exporter.open`."""
        folders: dict[str, list[int]] = {}
        names: dict[str, str] = {}
        for label, name in source.classes:
            folders.setdefault(slugify(name), []).append(label)
            names.setdefault(slugify(name), name)
        with opened(place / "classes.json") as file:
            about = [{"folder": slug, "name": names[slug], "ids": labels} for slug, labels in folders.items()]
            file.write(json.dumps(about, ensure_ascii=False, indent=2) + "\n")
        yield lambda picture, ids: _write(place, folders, picture, ids, empty=options.empty)


def _write(place: Path, folders: dict[str, list[int]], picture: Picture, ids: Ids, *, empty: bool) -> None:
    present = set(np.unique(ids).tolist())
    for slug, labels in folders.items():
        if not empty and present.isdisjoint(labels):
            continue
        mask = np.isin(ids, labels)
        target = place / slug / f"{picture.key}.png"
        target.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(mask.astype(np.uint8) * 255).save(target)
