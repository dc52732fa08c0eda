"""Pictures that the bundled models know nothing of are told, run after run."""

from __future__ import annotations

import json
import shutil

import pytest
from PIL import Image
from skimage import data

from tests.cli.test_end_to_end import PICTOGRAMS, ovseg

pytestmark = pytest.mark.usefixtures("shared_models")

TOLD = "warning: 1 of 2 pictures looks like nothing that the models were trained on (44 pictograms"


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    return tmp_path_factory.mktemp("unfamiliar") / "store"


@pytest.fixture
def pictures(here):
    """A photograph and a bundled picture."""
    (here / "photos").mkdir()
    Image.fromarray(data.astronaut()).save(here / "photos" / "astronaut.png")
    shutil.copy(PICTOGRAMS / "images" / "scene_003.jpg", here / "photos" / "scene.jpg")
    return here / "photos"


@pytest.fixture
def run(store, pictures):
    def go(*args, command="segment", code=0):
        return ovseg("--store", store, "--offline", "--profile", "mini", command, *args, code=code)

    return go


@pytest.mark.slow
def test_every_run_tells_them(run, here):
    line = ("photos", "-c", "cat,dog", "--method", "maskclip")
    for again in range(2):
        result = run(*line)
        assert ("2 already done" in result.stdout) is bool(again)
        assert TOLD in result.stderr
        assert result.stderr.count("nothing that the models") == 1
        assert "so its label map means little" in result.stderr
        assert "ovseg pull --profile sd15" in result.stderr
        rows = [json.loads(row) for row in (here / "ovseg-out" / "predictions.jsonl").read_text().splitlines()]
        assert [row["unfamiliar"] for row in rows] == [True, False]
        assert json.loads((here / "ovseg-out" / "run.json").read_text())["unfamiliar"] == 1
        assert json.loads(run(*line, "--json").stdout)["unfamiliar"] == 1


def test_known_pictures_are_not_told(run):
    result = run("photos/scene.jpg", "-c", "cat", "--method", "maskclip", "--json")
    assert json.loads(result.stdout)["unfamiliar"] == 0
    assert "nothing that the models" not in result.stderr


@pytest.mark.slow
def test_eval_of_pictures_tells_them_too(run, here):
    labels = here / "labels"
    labels.mkdir()
    for name in ("scene_003.png", "labelmap.txt"):
        shutil.copy(PICTOGRAMS / "labels" / name, labels / name.replace("scene_003", "scene"))
    shutil.copy(labels / "scene.png", labels / "astronaut.png")
    Image.open(labels / "scene.png").resize((512, 512)).save(labels / "astronaut.png")
    assert TOLD in run("--gt", labels, "--images", "photos", "-c", "cat", command="eval").stderr


def test_explain_tells_the_one_picture(run):
    line = ("photos/astronaut.png", "-c", "cat", "--method", "maskclip", "--at", "9,9", "--json")
    result = run(*line, command="explain")
    assert "warning: the picture looks like nothing that the models were trained on" in result.stderr
    assert json.loads(result.stdout)["unfamiliar"] is True


@pytest.mark.slow
def test_own_pictures_of_a_class_are_told(run):
    result = run("astronaut", "--from-images", "photos", command="add-class")
    assert TOLD in result.stderr
    assert "what is learned from such pictures means little" in result.stderr
