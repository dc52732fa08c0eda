from __future__ import annotations

import numpy as np
import pytest

from ovseg_cli.cli.demo import DEMO_CLASSES, DEMO_PICTURES, bundled_pictures
from ovseg_cli.errors import NoInputError
from ovseg_cli.files.labels import LabelMap, write_label, write_labelmap
from tests import doubles
from tests.runs.conftest import paint


@pytest.fixture
def pictures(here):
    labels = LabelMap.from_classes(DEMO_CLASSES)
    write_labelmap(here / "mine" / "labels" / "labelmap.txt", labels)
    paint(here / "mine" / "images" / "x.png", 1, 2)
    write_label(here / "mine" / "labels" / "x.png", np.repeat([[1] * 8 + [2] * 8], 8, axis=0), labels)
    return here / "mine" / "images"


def test_the_bundled_pictures_are_more_than_the_demo_takes():
    assert len(list(bundled_pictures().iterdir())) > DEMO_PICTURES == 20


def test_the_demo_shows_at_least_six_classes():
    assert {"chocolate glazed donut", "cat", "dog"} < set(DEMO_CLASSES)
    assert len(DEMO_CLASSES) >= 6


@pytest.mark.slow
def test_everything_is_made_and_named(cli, pictures, here):
    result = cli("demo", "--images", pictures)
    assert result.exit_code == 0, result.stderr
    for words in (
        "Making 10 classes",
        "mIoU 1.000",
        "ovseg-demo/contact-sheet.png",
        "ovseg-demo/ovseg-out/report.html",
    ):
        assert words in result.stdout
    assert (here / "ovseg-demo" / "contact-sheet.png").is_file()
    assert (here / "ovseg-demo" / "ovseg-out" / "overlay" / "x.png").is_file()
    assert "x.png" in (here / "ovseg-demo" / "ovseg-out" / "report.html").read_text()


@pytest.mark.slow
def test_the_second_time_everything_is_there(cli, pictures, here):
    cli("demo", "--images", pictures)
    sheet = (here / "ovseg-demo" / "contact-sheet.png").stat().st_mtime_ns
    before = doubles.FakeModels.loaded
    result = cli("demo", "--images", pictures)
    assert result.exit_code == 0
    assert "All 10 classes are there already" in result.stdout
    assert "mIoU 1.000" in result.stdout
    assert doubles.FakeModels.loaded == before
    assert (here / "ovseg-demo" / "contact-sheet.png").stat().st_mtime_ns == sheet


@pytest.mark.slow
def test_json(cli, pictures):
    data = cli("demo", "--images", pictures, "--json").data
    assert [entry["name"] for entry in data["classes"]] == list(DEMO_CLASSES)
    assert data["report"]["miou"] == 1.0
    assert data["run"]["done"] == 1
    assert data["files"]["contact_sheet"] == "ovseg-demo/contact-sheet.png"


@pytest.mark.slow
def test_it_leaves_the_own_store_alone(cli, pictures, own_world):
    cli("demo", "--images", pictures)
    assert not (own_world / "store").exists()


def test_in_a_checkout_the_bundled_pictures_are_found(here):
    assert (bundled_pictures().parent / "labels" / "labelmap.txt").is_file()


def test_without_them_it_says_what_to_do(cli, here, monkeypatch):
    monkeypatch.setattr("ovseg_cli.cli.demo._BUNDLED", here / "nowhere")
    with pytest.raises(NoInputError):
        bundled_pictures()
    result = cli("demo")
    assert result.exit_code == 2
    assert "--images" in result.error
    assert not (here / "ovseg-demo").exists()


def bundle(here, monkeypatch, count):
    """A folder of `count` small pictures in the place of the bundled ones."""
    folder = here / "bundle"
    labels = LabelMap.from_classes(DEMO_CLASSES)
    write_labelmap(folder / "labels" / "labelmap.txt", labels)
    for index in range(count):
        paint(folder / "images" / f"scene_{index:03d}.png", 1, 2)
        write_label(folder / "labels" / f"scene_{index:03d}.png", np.repeat([[1] * 8 + [2] * 8], 8, axis=0), labels)
    monkeypatch.setattr("ovseg_cli.cli.demo._BUNDLED", folder)
    return folder


def test_of_many_bundled_pictures_the_first_are_taken(cli, here, monkeypatch):
    monkeypatch.setattr("ovseg_cli.cli.demo.DEMO_PICTURES", 2)
    folder = bundle(here, monkeypatch, 5)
    result = cli("demo")
    assert result.exit_code == 0, result.stderr
    assert "Segmenting the first 2 of the 5 pictures in " in result.stdout
    made = sorted(path.stem for path in (here / "ovseg-demo" / "ovseg-out" / "overlay").iterdir())
    assert made == ["scene_000", "scene_001"]
    assert "mIoU 1.000" in result.stdout
    assert "no prediction" not in result.stdout + result.stderr
    assert "fwIoU" not in result.stdout  # stands on the page
    assert "fwIoU" in (here / "ovseg-demo" / "evaluation.html").read_text()
    assert "ovseg-demo/evaluation.html" in result.stdout
    data = cli("demo", "--json").data
    assert data["report"]["missing"] == ["scene_002", "scene_003", "scene_004"]
    everything = cli("demo", "--images", folder / "images", "--dir", "all", "--json").data
    assert everything["run"]["done"] == 5


@pytest.mark.slow
def test_of_few_bundled_pictures_all_are_taken(cli, here, monkeypatch):
    bundle(here, monkeypatch, 2)
    result = cli("demo")
    assert result.exit_code == 0, result.stderr
    assert "the first" not in result.stdout
    assert "mIoU 1.000" in result.stdout


@pytest.mark.slow
def test_without_labels_nothing_is_scored(cli, here):
    paint(here / "alone" / "x.png", 1)
    result = cli("demo", "--images", "alone")
    assert result.exit_code == 0
    assert "nothing is scored" in result.stderr
    assert "mIoU" not in result.stdout
    assert "evaluation.html" not in result.stdout
