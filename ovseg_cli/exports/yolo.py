"""YOLO's polygons, as Ultralytics reads them for segmentation."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import numpy.typing as npt

from ovseg_cli.errors import UsageError
from ovseg_cli.exports.base import Add, Exporter, Options, Region, opened, regions
from ovseg_cli.exports.outlines import outlines
from ovseg_cli.exports.source import Ids, Picture, Source
from ovseg_cli.files.images import picture_bytes
from ovseg_cli.names import listed
from ovseg_cli.urls import Place, Url

_INTO_PIXEL = 0.25
"""Added to a pixel's place: who cuts numbers off (Ultralytics) finds the pixel, and who rounds them (supervision)."""
_SMALLEST = np.array([[0.1, 0.1], [0.4, 0.1], [0.25, 0.4]])
"""A triangle within one pixel: shorter lines are no polygons to readers, and boxes without area are thrown away."""


class Yolo(Exporter):
    """A data set: ``data.yaml``, ``labels/`` and, where the pictures are known, ``images/`` with links to them.

    A file has a line for each connected part of a class. Holes are joined to the outline by bridges, so that OpenCV's
    `fillPoly` gives the label map back. Classes count from 0 in the order of their ids, which ``data.yaml`` notes.
    """

    target = "yolo"
    takes = ("copy",)

    def check(self, source: Source) -> None:
        """See `Exporter.check`.

        Raises:
            UsageError: Nothing says where some of the pictures are, without which nobody can train.
        """
        without = [picture.name for picture in source.pictures if picture.path is None]
        if without:
            raise UsageError(
                f"A YOLO data set holds the pictures, and {listed(without, most=2)} cannot be found. Name their folder "
                "with --images DIR."
            )

    @contextmanager
    def open(self, place: Path, source: Source, options: Options) -> Iterator[Add]:
        """See `Exporter.open`."""
        numbers = {label: number for number, (label, _) in enumerate(source.classes)}

        def add(picture: Picture, ids: Ids) -> None:
            height, width = ids.shape
            digits = len(str(max(height, width))) + 2  # a hundredth of a pixel
            with opened(place / "labels" / f"{picture.key}.txt") as file:
                for region in regions(ids, source):
                    for polygon in _polygons(region):
                        shares = (polygon / (width, height)).reshape(-1)
                        line = " ".join([f"{share:.{digits}f}" for share in shares.tolist()])
                        file.write(f"{numbers[region.label]} {line}\n")
            if picture.path is not None:
                _place(picture.path, place / "images" / f"{picture.key}{picture.path.suffix}", copy=options.copy)

        yield add
        (place / "images").mkdir(exist_ok=True)
        with opened(place / "data.yaml") as file:
            file.write("# paths are relative to this file\ntrain: images\nval: images\nnames:\n")
            for label, name in source.classes:
                file.write(f"  {numbers[label]}: {json.dumps(name, ensure_ascii=False)}  # id {label}\n")
            if not source.classes:
                file.write("  {}\n")


def _polygons(region: Region) -> Iterator[npt.NDArray[np.float64]]:
    """Corners (N, 2), N at least 3, of each connected part."""
    for corners in outlines(region.mask):
        places = (corners + np.array([region.left, region.top])).astype(np.float64)
        if len(places) == 1:
            yield places + _SMALLEST
        elif len(places) == 2:
            yield places[[0, 0, 1]] + _SMALLEST
        else:
            yield places + _INTO_PIXEL


def _place(picture: Place, target: Path, *, copy: bool) -> None:
    """Put a picture into the data set: a link to it, or a copy where that is asked for or links cannot be made."""
    target.parent.mkdir(parents=True, exist_ok=True)
    if isinstance(picture, Url):
        target.write_bytes(picture_bytes(picture))
        return
    if not copy:
        try:
            target.symlink_to(os.path.abspath(picture))
        except (OSError, NotImplementedError):
            pass
        else:
            return
    shutil.copyfile(picture, target)
