"""The pictures in the repository. Nothing here needs the emoji font."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
from PIL import Image

import examples.pictograms
from examples.mini_pack.vocabulary import LABEL_IDS, LABEL_NAMES, STUFF_NAMES, THING_NAMES
from examples.pictograms.render import FOCUS, label_map
from ovseg_cli.files.labels import read_label, read_labelmap

FOLDER = Path(examples.pictograms.__file__).parent
IMAGES = sorted((FOLDER / "images").iterdir())
STUFF_IDS = [LABEL_IDS[name] for name in STUFF_NAMES]


def label_of(image: Path) -> npt.NDArray[np.int32]:
    return read_label(FOLDER / "labels" / f"{image.stem}.png")


def test_pictures_and_labels_pair_up() -> None:
    assert len(IMAGES) == 20
    assert {path.suffix for path in IMAGES} == {".jpg"}
    labels = {path.stem for path in (FOLDER / "labels").glob("*.png")}
    assert labels == {path.stem for path in IMAGES}


def test_the_set_is_small() -> None:
    files = [*IMAGES, *(FOLDER / "labels").iterdir()]
    assert sum(path.stat().st_size for path in files) < 1_500_000


@pytest.mark.parametrize("image", IMAGES, ids=lambda path: path.stem)
def test_each_label_fits_its_picture(image: Path) -> None:
    with Image.open(image) as picture, Image.open(FOLDER / "labels" / f"{image.stem}.png") as label:
        assert picture.size == label.size == (256, 192)
        assert picture.mode == "RGB"
        assert label.mode == "P"
        ids = np.asarray(label)
    np.testing.assert_array_equal(ids, label_of(image))
    present = set(np.unique(ids).tolist())
    assert present <= set(range(1, len(LABEL_NAMES)))
    assert len(present.intersection(STUFF_IDS)) >= 2
    assert len(present.difference(STUFF_IDS)) <= 4


def test_the_label_map_is_that_of_the_renderer() -> None:
    stored = read_labelmap(FOLDER / "labels" / "labelmap.txt")
    assert stored == label_map()
    assert len(stored.names) == 1 + len(THING_NAMES) + len(STUFF_NAMES)
    assert set(FOCUS) <= set(stored.names)


def test_palette_colours_are_those_of_the_label_map() -> None:
    colours = label_map().colours
    with Image.open(FOLDER / "labels" / f"{IMAGES[0].stem}.png") as label:
        palette = label.getpalette()
        assert palette is not None
        for index in np.unique(np.asarray(label)).tolist():
            assert tuple(palette[3 * index : 3 * index + 3]) == tuple(colours[index])


def test_every_class_of_the_demo_is_in_at_least_five_pictures() -> None:
    names = label_map().names
    counts = Counter(names[i] for image in IMAGES for i in np.unique(label_of(image)).tolist())
    assert {name: counts[name] for name in FOCUS if counts[name] < 5} == {}
    assert all(counts[name] for name in STUFF_NAMES)
    others = set(counts) - set(FOCUS) - set(STUFF_NAMES)
    assert len(others) >= 3


def test_some_pictures_have_no_class_of_the_demo() -> None:
    names = label_map().names
    free = [image for image in IMAGES if not {names[i] for i in np.unique(label_of(image))}.intersection(FOCUS)]
    assert len(free) >= 1


@pytest.mark.parametrize(
    ("name", "strongest"), [("grass", 1), ("tree", 1), ("water", 2), ("sky", 2), ("apple", 0), ("car", 0)]
)
def test_labelled_pixels_have_the_colour_of_their_class(name: str, strongest: int) -> None:
    pixels = []
    for image in IMAGES:
        with Image.open(image) as picture:
            pixels.append(np.asarray(picture)[label_of(image) == LABEL_IDS[name]])
    found = np.concatenate(pixels).mean(0)
    assert found.argmax() == strongest
