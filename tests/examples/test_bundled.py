"""The pictures in the repository. Only what compares them with the renderer needs the emoji font."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
from PIL import Image

import examples.pictograms
from examples.mini_pack.glyphs import GlyphSet
from examples.mini_pack.vocabulary import LABEL_IDS, LABEL_NAMES, STUFF_NAMES, THING_NAMES, THINGS
from examples.pictograms.render import DEMO, FOCUS, PRESETS, TWEMOJI, label_map
from examples.pictograms.scenes import render_set
from ovseg_cli.files.labels import read_label, read_labelmap

FOLDER = Path(examples.pictograms.__file__).parent
IMAGES = sorted((FOLDER / "images").iterdir())
DEMO_IMAGES = IMAGES[:20]
STUFF_IDS = [LABEL_IDS[name] for name in STUFF_NAMES]


def label_of(image: Path) -> npt.NDArray[np.int32]:
    return read_label(FOLDER / "labels" / f"{image.stem}.png")


def test_pictures_and_labels_pair_up() -> None:
    assert len(IMAGES) == PRESETS["bundled"].count >= 60
    assert {path.suffix for path in IMAGES} == {".jpg"}
    labels = {path.stem for path in (FOLDER / "labels").glob("*.png")}
    assert labels == {path.stem for path in IMAGES}


def test_the_set_is_small() -> None:
    files = [*IMAGES, *(FOLDER / "labels").iterdir()]
    assert sum(path.stat().st_size for path in files) < 1_600_000


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
    made = label_map()
    assert (stored.names, stored.ids, stored.colours) == (made.names, made.ids, made.colours)
    assert len(stored.names) == 1 + len(THING_NAMES) + len(STUFF_NAMES)
    assert set(FOCUS) <= set(stored.names)


def test_palette_colours_are_those_of_the_label_map() -> None:
    colours = label_map().colours
    with Image.open(FOLDER / "labels" / f"{IMAGES[0].stem}.png") as label:
        palette = label.getpalette()
        assert palette is not None
        for index in np.unique(np.asarray(label)).tolist():
            assert tuple(palette[3 * index : 3 * index + 3]) == tuple(colours[index])


def names_in(image: Path) -> set[str]:
    names = label_map().names
    return {names[i] for i in np.unique(label_of(image)).tolist()}


def test_every_class_is_in_several_pictures() -> None:
    counts = Counter(name for image in IMAGES for name in names_in(image))
    assert {name: counts[name] for name in FOCUS if counts[name] < 5} == {}
    assert {name: counts[name] for name in STUFF_NAMES if counts[name] < 5} == {}
    others = set(counts) - set(FOCUS) - set(STUFF_NAMES)
    assert len(others) >= 8


def test_every_class_of_the_demo_is_in_several_of_its_pictures() -> None:
    counts = Counter(name for image in DEMO_IMAGES for name in names_in(image))
    assert {name: counts[name] for name in DEMO if counts[name] < 4} == {}


def test_some_pictures_have_none_of_the_classes() -> None:
    assert sum(not names_in(image).intersection(FOCUS) for image in IMAGES) >= 4
    assert sum(not names_in(image).intersection(DEMO) for image in DEMO_IMAGES) >= 1


def test_the_pictures_are_those_of_the_renderer(glyphs: GlyphSet) -> None:
    preset = PRESETS["bundled"]
    rendered = render_set(glyphs, preset.parts, preset.seed)
    for image, picture in zip(IMAGES[:4], rendered, strict=False):
        # versions of the font and of libraries differ by some pixels at outlines
        assert np.mean(label_of(image) == picture.labels) > 0.98
        with Image.open(image) as stored:
            assert np.abs(np.asarray(stored, dtype=float) - picture.image).mean() < 6


def test_the_second_artwork_has_every_glyph_and_its_licence() -> None:
    drawn = GlyphSet(TWEMOJI)
    for thing in THINGS:
        assert max(drawn.glyph(thing.glyph).size) >= 100, thing.name
    files = sorted(TWEMOJI.iterdir())
    assert len(files) == len(THINGS) + 1
    assert sum(file.stat().st_size for file in files) < 250_000
    assert "CC-BY 4.0" in (TWEMOJI / "LICENSE").read_text(encoding="utf-8")


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


def test_the_class_file_of_make_methods_has_the_classes_that_the_pictures_are_about() -> None:
    assert tuple((FOLDER / "classes.txt").read_text(encoding="utf-8").splitlines()) == FOCUS
