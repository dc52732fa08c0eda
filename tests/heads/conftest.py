from __future__ import annotations

import numpy as np
import pytest
from PIL import Image

from ovseg_cli.files.labels import LabelMap, write_label, write_labelmap

COLOURS = {"grass": (60, 160, 60), "cat": (240, 180, 60), "dog": (170, 110, 60), "car": (220, 40, 40)}
NAMES = ("grass", "cat", "dog", "car")


def paint_folder(folder, count=6, size=64, names=NAMES, shown=None, seed=0):
    """Pictures of coloured squares on grass, with labels; id i + 1 is name i."""
    random = np.random.default_rng(seed)
    images, labels = folder / "images", folder / "labels"
    images.mkdir(parents=True)
    labels.mkdir()
    labelmap = LabelMap.from_classes(names)
    write_labelmap(labels / "labelmap.txt", labelmap)
    things = [name for name in (shown or names) if name != "grass"]
    for number in range(count):
        picture = np.empty((size, size, 3), np.uint8)
        picture[:] = COLOURS["grass"]
        ids = np.full((size, size), names.index("grass") + 1)
        name = things[number % len(things)]
        side = size // 2
        top, left = random.integers(0, size - side, 2)
        picture[top : top + side, left : left + side] = COLOURS[name]
        ids[top : top + side, left : left + side] = names.index(name) + 1
        picture = np.clip(picture + random.normal(0, 6, picture.shape), 0, 255).astype(np.uint8)
        Image.fromarray(picture).save(images / f"p{number}.png")
        write_label(labels / f"p{number}.png", ids, labelmap)
    return folder


@pytest.fixture
def folder(tmp_path):
    return paint_folder(tmp_path / "data")
