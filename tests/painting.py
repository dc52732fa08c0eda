"""A segmenter without networks or torch, for workers in processes of their own: they are there in a second."""

from __future__ import annotations

import os
import signal
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from ovseg_cli.errors import DiskFullError, ImageError
from ovseg_cli.files.labels import voc_colour
from ovseg_cli.runs.worker import ReadySegmenter
from tests import shelf  # noqa: F401  # known in workers too

DEADLY, UNLUCKY, FORBIDDEN, FULL, BUGGY, SLOW, LENGTHY = ((9, 9, n) for n in range(7))
"""Colours of the first pixel: what the painter does when it sees one."""


@dataclass
class Painted:
    ids: Any
    shares: dict[str, float]
    mean_scores: dict[str, float]
    method: str = "gem"
    kept: Any = None
    unfamiliar: Any = None
    margin: float | None = 0.125
    scores: Any = None


@dataclass
class Painter:
    """Takes a pixel for class i when it has exactly the i-th VOC colour; pictures with odd first pixels are trouble."""

    classes: tuple[str, ...]
    folder: Path
    settings: dict[str, Any] = field(default_factory=dict)

    def segment(self, image, *, classes=None):
        pixels = np.asarray(image)
        self.trouble(tuple(map(int, pixels[0, 0])))
        ids = np.zeros(pixels.shape[:2], np.uint16)
        for index in range(1, len(self.classes) + 1):
            ids[(pixels == voc_colour(index)).all(axis=-1)] = index
        labels = ("background", *self.classes)
        shares = {labels[i]: float((ids == i).mean()) for i in range(len(labels)) if (ids == i).any()}
        return Painted(ids, shares, dict.fromkeys(shares, 0.5))

    def segment_batch(self, images, *, classes=None):
        return [self.segment(image) for image in images]

    def trouble(self, first):
        marker = self.folder / "unlucky"
        if first == DEADLY or (first == UNLUCKY and not marker.exists()):
            marker.touch()
            os.kill(os.getpid(), signal.SIGKILL)
        if first == FORBIDDEN:
            raise ImageError("the picture has too many classes")
        if first == FULL:
            raise DiskFullError("No space left on the disk")
        if first == BUGGY:
            raise ZeroDivisionError("a bug")
        if first == LENGTHY:
            time.sleep(1)
        if first == SLOW:
            (self.folder / f"slow-{os.getpid()}").touch()
            time.sleep(30)


@dataclass(frozen=True)
class LoadPainter:
    """Loads it, as workers are told to; `dying` workers die while they load; one waits for all that are to be there."""

    classes: tuple[str, ...]
    folder: Path
    dying: bool = False
    together: int = 1

    def __call__(self, device):
        if self.dying:
            os.kill(os.getpid(), signal.SIGKILL)
        (self.folder / f"loaded-{os.getpid()}-{device.replace(':', '-')}").touch()
        while len(list(self.folder.glob("loaded-*"))) < self.together:
            time.sleep(0.02)
        settings = {"threads": os.environ.get("OMP_NUM_THREADS")}
        return ReadySegmenter(Painter(self.classes, self.folder, settings), device, "float32")
