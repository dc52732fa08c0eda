from __future__ import annotations

import json

import numpy as np
import pytest
from PIL import Image

from tests.runs.conftest import paint


@pytest.fixture
def tag(here):
    """Writes a file of image classes."""

    def write(text, name="tags.txt"):
        (here / name).write_text(text)
        return name

    return write


def labels(path):
    with Image.open(path) as image:
        return np.unique(np.asarray(image)).tolist()


def journal(here, folder="ovseg-out"):
    lines = (here / folder / "predictions.jsonl").read_text().splitlines()
    return {entry["output"].rpartition("/")[2]: entry for entry in map(json.loads, lines)}


def test_each_picture_is_searched_for_its_own_classes(cli, photos, here, tag):
    result = cli("segment", "photos", "-c", "cat,dog", "--image-classes", tag("a.png: dog\nsub/b.png: cat"))
    assert result.exit_code == 0
    assert labels(here / "ovseg-out/SegmentationClass/a.png") == [0]
    assert labels(here / "ovseg-out/SegmentationClass/sub/b.png") == [0, 1]
    assert "(gem, classes given for 2 of 2)" in result.stdout
    assert {name: (e["kept"], e["kept_by"]) for name, e in journal(here).items()} == {
        "a.png": ({"dog": None}, "image-classes"),
        "b.png": ({"cat": None}, "image-classes"),
    }


@pytest.mark.slow
@pytest.mark.parametrize("method", ["prototype", "gem", "aggsd", "hybrid"])
def test_with_every_kind_of_method_in_the_pre_filters_place(cli, photos, here, tag, method):
    cli("add-class", "cat", "dog")
    args = ["segment", "photos", "--method", method, "--prefilter", "--image-classes", tag("a: cat\nb: dog"), "--json"]
    data = cli(*args).data
    assert (data["method"], data["given"], data["images"]) == (method, 2, 2)
    assert {entry["kept_by"] for entry in journal(here).values()} == {"image-classes"}


class TestClasses:
    def test_without_classes_they_are_those_of_the_file(self, cli, photos, here, tag):
        cli("add-class", "bird", "Cat")
        result = cli("segment", "photos", "--image-classes", tag("b: dog; cat\na: cat"))
        assert "note: looking for the 2 classes of tags.txt: Cat, dog" in result.stderr
        manifest = json.loads((here / "ovseg-out/run.json").read_text())
        assert [entry["name"] for entry in manifest["classes"]] == ["Cat", "dog"], "as the store spells them"

    def test_a_class_file_may_name_them(self, cli, photos, here, tag):
        (here / "classes.txt").write_text("dog; puppy\ncat\n")
        args = ["segment", "photos", "--class-file", "classes.txt", "--image-classes", tag("b: CAT\na: dog"), "--json"]
        assert [entry["name"] for entry in cli(*args).data["classes"]] == ["dog", "cat"]

    def test_a_class_that_is_not_looked_for_names_its_line(self, cli, photos, here, tag):
        result = cli("segment", "photos", "-c", "dog", "--image-classes", tag("a: dog\nb: cat"))
        assert result.exit_code == 2
        assert "tags.txt, line 2: 'cat' is not among the classes of this run (dog)" in result.error
        assert "--classes" in result.error
        assert not (here / "ovseg-out").exists()

    def test_a_class_without_prototypes_names_its_line(self, cli, photos, tag):
        cli("add-class", "dog")
        result = cli("segment", "photos", "--method", "prototype", "--image-classes", tag("a: dog\nb: dogg"))
        assert result.exit_code == 2
        assert "tags.txt, line 2: " in result.error
        assert "Did you mean 'dog'?" in result.error

    def test_a_file_without_any_wants_classes(self, cli, photos, tag):
        name = tag("a:\nb:")
        result = cli("segment", "photos", "--image-classes", name)
        assert result.exit_code == 2
        assert "tags.txt names no class" in result.error
        assert cli("segment", "photos", "-c", "cat", "--image-classes", name).exit_code == 0

    def test_no_class_and_no_background_are_refused(self, cli, photos, tag):
        result = cli("segment", "photos", "-c", "cat", "--no-background", "--image-classes", tag("a: cat\nb:"))
        assert result.exit_code == 2
        assert "line 2: 'b' shows no class" in result.error

    @pytest.mark.parametrize(
        ("text", "words"), [("a.png cat", "line 1"), (None, "does not exist"), ("z: cat", "names")]
    )
    def test_a_file_that_is_wrong(self, cli, photos, here, tag, text, words):
        name = "none.txt" if text is None else tag(text)
        result = cli("segment", "photos", "--image-classes", name)
        assert result.exit_code == 2
        assert words in result.error
        assert not (here / "ovseg-out").exists()


class TestPictures:
    def test_those_that_the_file_leaves_out_are_told(self, cli, photos, tag):
        for i in range(7):
            paint(photos / f"p{i}.png", 1)
        cli("add-class", "cat", "dog")
        name = tag("a: cat\nb: dog")
        result = cli("segment", "photos", "--image-classes", name)
        (note,) = [line for line in result.stderr.splitlines() if "does not name" in line]
        assert "7 pictures, where the pre-filter decides: photos/p0.png, photos/p1.png" in note
        assert "p4.png and 2 more" in note
        assert "(prototype, classes given for 2 of 9, pre-filtered)" in result.stdout
        result = cli("segment", "photos", "--image-classes", name, "--no-prefilter", "-o", "b")
        assert "7 pictures, where all classes are looked for" in result.stderr

    def test_lines_of_other_pictures_are_told(self, cli, photos, tag):
        result = cli("segment", "photos/a.png", "--image-classes", tag("a: cat\nz/b: dog\ny: cat"))
        assert "note: 2 lines of tags.txt name no picture of this run: z/b (line 2), y (line 3)" in result.stderr

    def test_a_file_that_fits_has_little_to_say(self, cli, photos, tag):
        result = cli("segment", "photos", "-c", "cat", "--method", "gem", "--image-classes", tag("a: cat\nb: cat"))
        assert "note:" not in result.stderr

    def test_a_dry_run_shows_whose_classes_are_known(self, cli, photos, tag):
        args = ["segment", "photos", "-c", "cat,dog", "--image-classes", tag("a: dog; cat"), "--dry-run"]
        assert "a.png: would segment (cat, dog)" in cli(*args).stdout
        assert [image["classes"] for image in cli(*args, "--json").data["images"]] == [["cat", "dog"], None]

    def test_a_line_that_changes_makes_its_picture_again(self, cli, photos, tag):
        args = ["segment", "photos", "-c", "cat,dog", "--json", "--image-classes"]
        cli(*args, tag("a: cat\nb: dog"))
        data = cli(*args, tag("b: cat; dog\na: cat", "other.txt")).data
        assert (data["done"], data["skipped"]) == (1, 1)


def test_eval_scores_such_a_run(cli, photos, here, tag):
    (here / "gt").mkdir()
    paint_labels = np.zeros((8, 16), np.uint8)
    paint_labels[:, :8] = 1
    Image.fromarray(paint_labels).save(here / "gt" / "a.png")
    (here / "gt" / "labelmap.txt").write_text("background:0,0,0::\ncat:128,0,0::\n")
    cli("segment", "photos/a.png", "-c", "cat,dog", "--image-classes", tag("a: cat"))
    assert cli("eval", "--gt", "gt", "--json").data["miou"] == 1.0


class TestBatch:
    def test_the_manifest_says_how_many_go_together(self, cli, photos, here):
        paint(photos / "b.png", 2, 1)
        assert cli("segment", "photos", "-c", "cat,dog", "--batch", 2).exit_code == 0
        assert json.loads((here / "ovseg-out/run.json").read_text())["batch"] == 2
        cli("segment", "photos", "-c", "cat,dog", "-o", "b")
        assert json.loads((here / "b/run.json").read_text())["batch"] == 1

    @pytest.mark.parametrize("given", ["0", "-1", "two"])
    def test_it_is_a_number_from_1(self, cli, photos, given):
        assert cli("segment", "photos", "-c", "cat", "--batch", given).exit_code == 2
