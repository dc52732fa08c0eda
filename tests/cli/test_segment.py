from __future__ import annotations

import json

import numpy as np
import pytest
from PIL import Image

from tests import doubles
from tests.runs.conftest import paint


def mask(path):
    with Image.open(path) as image:
        return np.asarray(image)


def test_the_classes_of_the_command_line(cli, photos, here):
    result = cli("segment", "photos", "--classes", "cat,dog")
    assert result.exit_code == 0
    assert mask(here / "ovseg-out/SegmentationClass/sub/b.png")[0].tolist() == [2] * 8 + [1] * 8
    assert "Segmented 2 pictures" in result.stdout
    assert "ovseg-out/SegmentationClass" in result.stdout


@pytest.mark.parametrize(
    "args",
    [["-c", "cat,dog"], ["-c", "cat", "-c", "dog"], ["--classes", " cat , dog "], ["-c", "cat,dog", "-c", "cat"]],
)
def test_classes_come_with_commas_and_repeated(cli, photos, args):
    assert [c["name"] for c in cli("segment", "photos", *args, "--json").data["classes"]] == ["cat", "dog"]


def test_without_classes_the_whole_store_is_looked_for(cli, photos, here):
    cli("add-class", "cat", "dog")
    data = cli("segment", "photos", "--json").data
    assert data["method"] == "prototype"
    assert [c["name"] for c in data["classes"]] == ["cat", "dog"]


def test_names_take_the_spelling_of_the_store(cli, photos):
    cli("add-class", "Cat")
    assert [c["name"] for c in cli("segment", "photos", "-c", "cat", "--json").data["classes"]] == ["Cat"]


def test_the_json_counts_and_lists(cli, photos):
    (photos / "bad.png").write_bytes(b"nothing of a picture")
    result = cli("segment", "photos", "-c", "cat,dog", "--json")
    assert result.exit_code == 3
    data = result.data
    assert (data["images"], data["done"], data["skipped"], data["failed"]) == (3, 2, 0, 1)
    assert [failure["path"] for failure in data["failures"]] == ["photos/bad.png"]
    assert data["classes"] == [
        {"name": "cat", "images": 2, "share": 0.5},
        {"name": "dog", "images": 1, "share": 0.25},
    ]


def test_quiet_prints_where(cli, photos, here):
    result = cli("segment", "photos", "-c", "cat", "-q")
    assert result.stdout == f"{here / 'ovseg-out'}\n"


def test_a_damaged_picture_is_reported_and_the_rest_goes_on(cli, photos, here):
    (photos / "a.png").write_bytes((photos / "a.png").read_bytes()[:45])
    result = cli("segment", "photos", "-c", "cat,dog")
    assert result.exit_code == 3
    assert [line for line in result.stderr.splitlines() if line.startswith("warning:") and "a.png" in line]
    assert "1 failed" in result.stdout
    assert (here / "ovseg-out/SegmentationClass/sub/b.png").is_file()


def test_fail_fast(cli, photos):
    (photos / "a.png").write_bytes(b"")
    result = cli("segment", "photos", "-c", "cat", "--fail-fast", "--json")
    assert result.exit_code == 3
    assert (result.data["done"], result.data["remaining"]) == (0, 1)


class TestMethods:
    def test_auto_says_once_that_it_does_without_prototypes(self, cli, photos, here):
        cli("add-class", "cat")
        result = cli("segment", "photos", "-c", "cat,dog")
        notes = [line for line in result.stderr.splitlines() if "GEM" in line]
        assert len(notes) == 1
        assert "no prototypes for dog: they are found by their names" in notes[0]
        assert "ovseg add-class dog" in notes[0]
        lines = (here / "ovseg-out/predictions.jsonl").read_text().splitlines()
        assert {json.loads(line)["method"] for line in lines} == {"hybrid"}
        (note,) = [n for n in cli("segment", "photos", "-c", "dog", "-o", "b").stderr.splitlines() if "GEM" in n]
        assert "all classes are segmented with GEM" in note
        assert json.loads((here / "ovseg-out/run.json").read_text())["method"]["asked"] == "auto"

    def test_auto_with_prototypes_has_nothing_to_say(self, cli, photos):
        cli("add-class", "cat")
        assert "note:" not in cli("segment", "photos", "-c", "cat").stderr

    def test_gem_that_was_asked_for_has_nothing_to_say(self, cli, photos):
        assert "note:" not in cli("segment", "photos", "-c", "cat", "--method", "gem").stderr

    def test_prototype_with_an_unknown_class_suggests_the_nearest(self, cli, photos, here):
        cli("add-class", "donut")
        result = cli("segment", "photos", "-c", "donat", "--method", "prototype")
        assert result.exit_code == 2
        assert "Did you mean 'donut'?" in result.error
        assert not (here / "ovseg-out").exists()

    def test_after_making_the_class_the_folder_wants_overwrite(self, cli, photos):
        cli("segment", "photos", "-c", "cat")
        cli("add-class", "cat")
        result = cli("segment", "photos", "-c", "cat")
        assert result.exit_code == 2
        assert "--overwrite" in result.error
        assert cli("segment", "photos", "-c", "cat", "--overwrite", "--json").data["method"] == "prototype"


class TestPrefilter:
    def test_the_run_and_each_picture_say_what_was_kept(self, cli, photos, here):
        cli("add-class", "cat", "dog")
        result = cli("segment", "photos", "--prefilter", "--json")
        assert result.data["prefilter"] is True
        manifest = json.loads((here / "ovseg-out/run.json").read_text())
        assert manifest["prefilter"] is True
        assert manifest["settings"]["prefilter"]["limit"] == 6
        lines = (here / "ovseg-out/predictions.jsonl").read_text().splitlines()
        assert [json.loads(line)["kept"] for line in lines] == [{"cat": 0.25, "dog": 0.25}] * 2

    def test_it_can_be_left_out(self, cli, photos, here):
        cli("add-class", "cat")
        assert cli("segment", "photos", "--no-prefilter", "--json").data["prefilter"] is False
        line = (here / "ovseg-out/predictions.jsonl").read_text().splitlines()[0]
        assert json.loads(line)["kept"] is None

    def test_masks_with_and_without_it_are_not_taken_for_each_other(self, cli, photos):
        cli("add-class", "cat")
        cli("segment", "photos", "--no-prefilter")
        result = cli("segment", "photos")
        assert "made again" in result.stderr
        assert "(prototype, pre-filtered)" in result.stdout
        assert "2 already done" in cli("segment", "photos", "--prefilter").stdout
        again = cli("segment", "photos", "--no-prefilter", "--dry-run", "--json").data
        assert again["images"][0]["action"] == "segment"

    def test_gem_is_filtered_only_when_asked(self, cli, photos):
        assert cli("segment", "photos", "-c", "cat", "--method", "gem", "--json").data["prefilter"] is False
        asked = cli("segment", "photos", "-c", "cat", "--method", "gem", "--prefilter", "-o", "b", "--json")
        assert asked.data["prefilter"] is True


class TestAgain:
    def test_the_second_time_loads_nothing(self, cli, photos):
        cli("segment", "photos", "-c", "cat")
        before = doubles.FakeModels.loaded
        result = cli("segment", "photos", "-c", "cat")
        assert result.exit_code == 0
        assert "2 already done" in result.stdout
        assert doubles.FakeModels.loaded == before

    def test_a_class_made_anew_makes_its_masks_anew(self, cli, photos):
        cli("add-class", "cat")
        cli("segment", "photos")
        cli("add-class", "cat", "--if-exists", "replace", "--seed", 9)
        result = cli("segment", "photos", "--json")
        assert (result.data["done"], result.data["skipped"]) == (2, 0)
        assert "made again" in result.stderr

    def test_another_class_does_not(self, cli, photos):
        cli("add-class", "cat")
        cli("segment", "photos", "-c", "cat")
        cli("add-class", "dog")
        assert cli("segment", "photos", "-c", "cat", "--json").data["skipped"] == 2

    def test_other_classes_need_overwrite_or_another_folder(self, cli, photos):
        cli("segment", "photos", "-c", "cat,dog")
        result = cli("segment", "photos", "-c", "dog,cat")
        assert result.exit_code == 2
        assert "--overwrite" in result.error
        assert "-o" in result.error
        assert cli("segment", "photos", "-c", "dog,cat", "-o", "other").exit_code == 0
        assert cli("segment", "photos", "-c", "dog,cat", "--overwrite").exit_code == 0


class TestInputs:
    def test_a_list_on_stdin(self, cli, photos):
        data = cli("segment", "-", "-c", "cat", "--json", stdin="photos/a.png\nphotos/sub/b.png\n").data
        assert data["done"] == 2

    def test_a_pattern(self, cli, photos):
        assert cli("segment", "photos/**/*.png", "-c", "cat", "--json").data["done"] == 2

    def test_the_output_folder_inside_the_input_is_not_read(self, cli, photos, here):
        for expected in (2, 0):
            data = cli("segment", ".", "-c", "cat", "--overlay", "--json").data
            assert (data["images"], data["done"]) == (2, expected)

    @pytest.mark.parametrize("output", ["photos", "."])
    def test_the_output_over_the_input_is_refused(self, cli, photos, output):
        result = cli("segment", "photos", "-c", "cat", "-o", output)
        assert result.exit_code == 2
        assert "-o" in result.error

    @pytest.mark.parametrize(
        ("given", "words"), [("nowhere", "does not exist"), ("empty", "No image"), ("*.tif", "No file matches")]
    )
    def test_no_images_are_told(self, cli, here, given, words):
        (here / "empty").mkdir()
        (here / "empty" / "notes.doc").touch()
        result = cli("segment", given, "-c", "cat")
        assert result.exit_code == 2
        assert words in result.error
        assert not (here / "ovseg-out").exists()

    def test_a_grey_and_a_palette_and_a_16_bit_picture(self, cli, here):
        grey = Image.new("L", (9, 5), 90)
        (here / "in").mkdir()
        grey.save(here / "in" / "grey.png")
        grey.convert("P").save(here / "in" / "palette.gif")
        Image.fromarray(np.full((5, 9), 40000, np.uint16)).save(here / "in" / "deep.tif")
        Image.new("RGBA", (9, 5), (1, 2, 3, 100)).save(here / "in" / "clear.webp")
        assert cli("segment", "in", "-c", "cat", "--json").data["done"] == 4
        for name in ("grey", "palette", "deep", "clear"):
            assert mask(here / f"ovseg-out/SegmentationClass/{name}.png").shape == (5, 9)

    def test_pictures_of_one_name_keep_their_suffixes(self, cli, here):
        paint(here / "in" / "x.png", 1)
        paint(here / "in" / "x.bmp", 2)
        cli("segment", "in", "-c", "cat,dog")
        assert mask(here / "ovseg-out/SegmentationClass/x.png.png")[0, 0] == 1
        assert mask(here / "ovseg-out/SegmentationClass/x.bmp.png")[0, 0] == 2


class TestOptions:
    def test_an_empty_store_without_classes(self, cli, photos):
        result = cli("segment", "photos")
        assert result.exit_code == 2
        assert "--classes" in result.error
        assert "ovseg add-class" in result.error

    @pytest.mark.parametrize("names", ["cat,,dog", ",", "a/b", "cat,background"])
    def test_bad_class_names(self, cli, photos, names):
        assert cli("segment", "photos", "-c", names).exit_code == 2

    def test_overlay(self, cli, photos, here):
        result = cli("segment", "photos", "-c", "cat", "--overlay")
        assert "ovseg-out/overlay" in result.stdout
        assert (here / "ovseg-out/overlay/sub/b.png").is_file()

    def test_no_background_is_noted(self, cli, photos, here):
        cli("segment", "photos", "-c", "cat", "--no-background")
        assert json.loads((here / "ovseg-out/run.json").read_text())["background"] is False

    def test_a_threshold_needs_the_background(self, cli, photos):
        result = cli("segment", "photos", "-c", "cat", "--no-background", "--threshold", "0.5")
        assert result.exit_code == 2
        assert "--threshold" in result.error

    def test_limit(self, cli, photos):
        assert cli("segment", "photos", "-c", "cat", "--limit", "1", "--json").data["images"] == 1

    def test_dry_run_writes_nothing(self, cli, photos, here):
        result = cli("segment", "photos", "-c", "cat,dog", "--dry-run")
        assert result.exit_code == 0
        assert "2 pictures to segment with gem" in result.stdout
        assert not (here / "ovseg-out").exists()
        data = cli("segment", "photos", "-c", "cat", "--dry-run", "--json").data
        assert [image["action"] for image in data["images"]] == ["segment", "segment"]

    def test_dry_run_of_an_overwrite_names_what_would_go(self, cli, photos):
        cli("segment", "photos", "-c", "cat")
        data = cli("segment", "photos/a.png", "-c", "dog", "--overwrite", "--dry-run", "--json").data
        assert sorted(data["removed"]) == ["SegmentationClass/a.png", "SegmentationClass/sub/b.png"]


class TestTheRequestFirst:
    """What is wrong with the request itself is told before anything is said of stores, or made."""

    def test_an_input_that_does_not_exist(self, cli, own_world, monkeypatch):
        monkeypatch.delenv("OVSEG_PROFILE")
        said = {
            ("segment", "nowhere"): "nowhere does not exist",
            ("segment", "nowhere", "-c", "cat", "--class-file", "neither"): "--class-file and --classes exclude",
        }
        for args, begins in said.items():
            result = cli(*args)
            assert result.exit_code == 2
            assert result.stderr.splitlines() == [f"error: {result.error}"]
            assert result.error.startswith(begins)
        assert not (own_world / "store").exists()

    def test_the_same_of_pictures_to_score(self, cli, here, own_world):
        (here / "labels").mkdir()
        result = cli("eval", "--gt", "labels", "--images", "nowhere", "-c", "cat")
        assert result.error.startswith("nowhere does not exist")
        assert not (own_world / "store").exists()


def test_a_dry_run_makes_no_store(cli, photos, here, own_world):
    result = cli("segment", "photos", "-c", "cat", "--dry-run", "-q")
    assert result.exit_code == 0
    assert result.stdout == "photos/a.png\nphotos/sub/b.png\n"
    assert not (own_world / "store").exists()
    assert not (here / "ovseg-out").exists()
    without = cli("segment", "photos", "--dry-run")
    assert without.exit_code == 2
    assert without.error.startswith("The store has no classes yet")


class TestBackgroundOfAClassFile:
    def test_a_line_without_words_is_told(self, cli, photos, here):
        (here / "names.txt").write_text("background\ncat; kitten\n")
        result = cli("segment", "photos", "--class-file", "names.txt", "--dry-run")
        assert "note: names.txt has a line 'background' without words" in result.stderr
        (here / "names.txt").write_text("background; sky\ncat; kitten\n")
        assert "without words" not in cli("segment", "photos", "--class-file", "names.txt", "--dry-run").stderr

    def test_the_first_line_may_be_it(self, cli, photos, here):
        (here / "names.txt").write_text("sky, wall\ncat\ndog\n")
        first = cli("segment", "photos", "--class-file", "names.txt", "--background-line", "first", "--json")
        assert [c["name"] for c in first.data["classes"]] == ["cat", "dog"]
        options = json.loads((here / "ovseg-out" / "run.json").read_text())["options"]
        assert options["background_words"] == ["sky", "wall"]

    def test_it_belongs_to_a_class_file(self, cli, photos):
        result = cli("segment", "photos", "-c", "cat", "--background-line", "first")
        assert result.exit_code == 2
        assert "--class-file" in result.error


def test_the_help_comes_in_groups(cli):
    text = cli("segment", "--help").stdout
    places = [text.index(f" {title} ") for title in ("Options", "With prototypes", "With words", "Running")]
    assert all(place > 0 for place in places)
    assert text.index("--synonym") > text.index(" With words ")
    assert text.index("--fail-fast") > text.index(" Running ")
