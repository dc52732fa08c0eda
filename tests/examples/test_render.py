from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from examples.mini_pack.glyphs import GlyphSet
from examples.mini_pack.vocabulary import LABEL_IDS, LABEL_NAMES, find_thing
from examples.pictograms import render
from examples.pictograms.scenes import Part, render_set
from ovseg_cli.cli.demo import DEMO_CLASSES
from ovseg_cli.files.labels import read_label, read_labelmap

PARTS = (Part(4, render.FOCUS),)


@pytest.fixture(scope="module")
def folder(glyphs: GlyphSet, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("pictograms") / "a set"
    render.render_folder(out, PARTS, seed=3, font=glyphs.path)
    return out


def test_the_folder_holds_pairs_and_a_label_map(folder: Path) -> None:
    assert [path.name for path in sorted((folder / "images").iterdir())] == [
        f"scene_{index:03d}.jpg" for index in range(4)
    ]
    assert [path.name for path in sorted((folder / "labels").iterdir())] == [
        "labelmap.txt",
        *(f"scene_{index:03d}.png" for index in range(4)),
    ]


def test_files_hold_what_was_rendered(folder: Path, glyphs: GlyphSet) -> None:
    labelmap = read_labelmap(folder / "labels" / "labelmap.txt")
    for index, picture in enumerate(render_set(glyphs, PARTS, 3)):
        stored = read_label(folder / "labels" / f"scene_{index:03d}.png", labelmap)
        np.testing.assert_array_equal(stored, picture.labels)
        with Image.open(folder / "images" / f"scene_{index:03d}.jpg") as image:
            error = np.abs(np.asarray(image, dtype=float) - picture.image)
        assert error.mean() < 4


def test_the_label_map_calls_the_doughnut_by_the_name_of_the_demo(folder: Path) -> None:
    lines = (folder / "labels" / "labelmap.txt").read_text(encoding="utf-8").splitlines()
    names = [line.split(":")[0] for line in lines if not line.startswith("#")]
    assert names[0] == "background"
    assert names[LABEL_IDS["doughnut"]] == "chocolate glazed donut"
    assert "doughnut" not in names
    assert {names[i] for i in (LABEL_IDS["cat"], LABEL_IDS["brick wall"])} == {"cat", "brick wall"}


def test_equal_seeds_write_equal_bytes(folder: Path, glyphs: GlyphSet, tmp_path: Path) -> None:
    render.render_folder(tmp_path, PARTS, seed=3, font=glyphs.path)
    for path in folder.rglob("*.*"):
        assert path.read_bytes() == (tmp_path / path.relative_to(folder)).read_bytes()


@pytest.mark.slow
def test_it_runs_as_a_script_from_anywhere(glyphs: GlyphSet, tmp_path: Path) -> None:
    arguments = ["--out", "set", "--count", "2", "--seed", "9", "--size", "130x100", "--font", str(glyphs.path)]
    arguments += ["--classes", "cat, dog,car,donut"]
    done = subprocess.run(
        [sys.executable, render.__file__, *arguments], cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("2 pictures in set\n")
    with Image.open(tmp_path / "set" / "images" / "scene_001.jpg") as image:
        assert image.size == (130, 100)


def test_the_focus_classes_are_twenty_and_begin_with_those_of_the_demo() -> None:
    assert render.FOCUS[: len(render.DEMO)] == render.DEMO == DEMO_CLASSES
    assert len({find_thing(name).name for name in render.FOCUS}) == 20
    for name in ("bus", "horse", "banana", "bicycle", "airplane"):
        assert name in render.FOCUS


def test_presets_are_sets_of_their_own(glyphs: GlyphSet) -> None:
    presets = render.PRESETS
    assert {name: preset.count for name, preset in presets.items()} == {"bundled": 64, "large": 1000, "transfer": 200}
    assert len({preset.seed for preset in presets.values()}) == len(presets)
    assert {name for name, preset in presets.items() if preset.font is not None} == {"transfer"}


def rendered(folder: Path) -> list[bytes]:
    return [path.read_bytes() for path in sorted(folder.rglob("*.*"))]


def test_options_replace_what_a_preset_says(glyphs: GlyphSet, tmp_path: Path) -> None:
    small = ["--count", "2", "--size", "128x96"]
    assert render.main(["--out", str(tmp_path / "a"), "--preset", "large", "--font", str(glyphs.path), *small]) == 0
    preset = render.PRESETS["large"]
    render.render_folder(tmp_path / "b", [Part(2, render.FOCUS)], seed=preset.seed, size=(128, 96), font=glyphs.path)
    assert rendered(tmp_path / "a") == rendered(tmp_path / "b")
    other = ["--preset", "large", "--font", str(glyphs.path), "--seed", "5", "--classes", "cat,dog,car,bus"]
    assert render.main(["--out", str(tmp_path / "c"), *other, *small]) == 0
    assert rendered(tmp_path / "c") != rendered(tmp_path / "a")


def test_the_transfer_set_has_the_same_classes(tmp_path: Path) -> None:
    options = ["--preset", "transfer", "--count", "3", "--size", "128x96"]
    assert render.main(["--out", str(tmp_path), *options]) == 0
    labels = {label for path in tmp_path.glob("labels/*.png") for label in np.unique(read_label(path)).tolist()}
    assert {LABEL_NAMES[label] for label in labels} & {find_thing(name).name for name in render.FOCUS}


def test_pictures_are_never_mixed_with_older_ones(
    folder: Path, glyphs: GlyphSet, capsys: pytest.CaptureFixture[str]
) -> None:
    before = sorted(folder.rglob("*"))
    assert render.main(["--out", str(folder), "--count", "1", "--font", str(glyphs.path)]) == 1
    assert "images already exists" in capsys.readouterr().err
    assert sorted(folder.rglob("*")) == before


def test_a_missing_font_is_told_and_nothing_is_written(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert render.main(["--out", str(tmp_path / "set"), "--font", str(tmp_path / "absent.ttf")]) == 1
    assert "absent.ttf does not exist" in capsys.readouterr().err
    assert not (tmp_path / "set").exists()


@pytest.mark.parametrize("wrong", [["--size", "256"], ["--size", "axb"], ["--count", "-1"], ["--seed", "one"], []])
def test_bad_options_are_usage_errors(wrong: list[str], tmp_path: Path) -> None:
    given = ["--out", str(tmp_path / "set"), *wrong] if wrong else []
    with pytest.raises(SystemExit) as stopped:
        render.main(given)
    assert stopped.value.code == 2
