from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from ovseg_cli.files.labels import voc_colour
from ovseg_cli.profiles import get_profile
from ovseg_cli.runs.request import Request
from ovseg_cli.runs.worker import ReadySegmenter
from ovseg_cli.store import Store
from tests.doubles import FakeModels, PaintSegmenter


@pytest.fixture
def store(tmp_path):
    with Store.open(tmp_path / "store", profile="mini") as opened:
        yield opened


@pytest.fixture
def profile():
    return get_profile("mini")


def paint(path: Path, *ids: int, size: int = 8) -> Path:
    """A picture of vertical stripes in VOC colours, one stripe per id (0 is black)."""
    path.parent.mkdir(parents=True, exist_ok=True)
    stripes = [np.full((size, size, 3), voc_colour(i), np.uint8) for i in ids]
    Image.fromarray(np.concatenate(stripes, axis=1)).save(path)
    return path


def nine_pictures(folder: Path) -> Path:
    """Pictures 1 to 9: five of one size, three of another, and one of the first again; and a place for marks."""
    (folder / "marks").mkdir()
    for i in range(1, 10):
        paint(folder / "photos" / f"{i}.png", *((1, 2) if i in (6, 7, 8) else (i % 3,)))
    return folder / "photos"


def request(*classes: str, **changes) -> Request:
    values = {"classes": classes or ("cat", "dog"), "method": "gem", "asked": "auto", "digest": "d" * 64}
    return Request(**(values | changes))


class Factory:
    """Makes a paint segmenter; counts how often, and can be told to fail at a picture."""

    def __init__(self, store, profile, wanted: Request) -> None:
        self.made = 0
        self.segmented = 0
        self.batches: list[int] = []
        self.fail_at: dict[int, BaseException] = {}
        self.device = "cpu"
        self._parts = (store, profile, wanted)

    def __call__(self) -> ReadySegmenter:
        self.made += 1
        store, profile, wanted = self._parts
        outer = self

        class Counting(PaintSegmenter):
            def segment(self, image, classes=None):
                outer.segmented += 1
                if outer.segmented in outer.fail_at:
                    raise outer.fail_at[outer.segmented]
                return super().segment(image, classes)

            def segment_batch(self, images, classes=None):
                outer.batches.append(len(images))
                return super().segment_batch(images, classes)

        segmenter = Counting(FakeModels(profile), store, wanted.classes, method=wanted.method, options=wanted.options)
        segmenter.keep_scores = wanted.probabilities
        return ReadySegmenter(segmenter, self.device, "float32")
