"""`ovseg explain`, and `ovseg segment --explain`."""

from __future__ import annotations

import json

import numpy as np
import pytest
from PIL import Image
from typer.testing import CliRunner

import ovseg_cli.explanations
from ovseg_cli.cli.app import app
from ovseg_cli.prototypes.build import SupportSettings, build_class
from ovseg_cli.store import Store
from tests.doubles import PaintSegmenter
from tests.mini import EXAMPLES, example_labels, mini_models
from tests.runs.conftest import paint
from tests.test_explain import SCENE, own_picture, scenes_with

pytestmark = pytest.mark.usefixtures("shared_models")

PICTURE = EXAMPLES / "images" / f"scene_{SCENE:03d}.jpg"


def ovseg(*args, code=0):
    """A command with the bundled models."""
    result = CliRunner().invoke(app, ["--offline", *map(str, args)], prog_name="ovseg")
    assert result.exit_code == code, result.output
    return result


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """A folder with a store of two classes, made from example pictures for one extractor."""
    folder = tmp_path_factory.mktemp("explain-cli")
    settings = SupportSettings(parts=4, extractors=("clip",))
    with Store.open(folder / "store", profile="mini") as store:
        for name in ("cat", "apple"):
            pictures = [own_picture(scene, name) for scene in scenes_with(name, 2)]
            store.add_class(build_class(mini_models(), name, settings, pictures=pictures))
    return folder


@pytest.fixture
def call(made, here):
    def run(*args, code=0):
        return ovseg("--store", made / "store", *args, code=code)

    return run


@pytest.fixture(scope="module")
def segmented(made):
    """An output folder of the picture."""
    ovseg("--store", made / "store", "segment", PICTURE, "--extractors", "clip", "-o", made / "out", "--threshold", 0.3)
    return made / "out"


class TestPoints:
    @pytest.mark.slow
    def test_a_pixel_is_explained_in_words_data_and_a_picture(self, call, here):
        points = ("--at", "220,120", "--at", "5, 5")
        told = call("explain", PICTURE, "--extractors", "clip", *points).stdout
        assert "220,120  cat " in told
        assert "clip: " in told
        assert "from your picture" not in told
        data = json.loads(call("explain", PICTURE, "--extractors", "clip", *points, "--json").stdout)
        assert [(p["x"], p["y"]) for p in data["points"]] == [(220, 120), (5, 5)]
        assert data["points"][0]["label"] == "cat"
        assert data["size"] == [256, 192]
        assert data["method"] == "prototype"
        assert "label_in_run" not in data["points"][0]
        sheet = here / f"{PICTURE.stem}-explain.png"
        assert data["picture"] == sheet.name
        with Image.open(sheet) as image:
            assert image.width > 800
        assert f"look at {sheet.name}" in told

    def test_without_points_each_class_found_is_explained(self, call, here):
        data = json.loads(call("explain", PICTURE, "--extractors", "clip", "-o", "why.jpg", "--json").stdout)
        assert [p["label"] for p in data["points"]] == ["cat", "apple"]
        assert (here / "why.jpg").is_file()

    def test_quiet_prints_the_picture(self, call):
        assert call("explain", PICTURE, "--extractors", "clip", "-q").stdout == f"{PICTURE.stem}-explain.png\n"

    @pytest.mark.slow
    def test_by_gem_the_words_are_told(self, call):
        told = call("explain", PICTURE, "--method", "gem", "-c", "cat,apple", "--at", "220,120").stdout
        assert "uses no prototypes" in told
        assert "The most probable words here: cat " in told

    @pytest.mark.slow
    def test_auto_without_prototypes_says_what_is_explained(self, call):
        result = call("explain", PICTURE, "-c", "zebra", "--at", "220,120")
        assert "no prototypes for zebra: explained is gem" in result.stderr

    def test_a_method_that_cannot_be_explained_is_refused_with_why_it_was_taken(self, call):
        told = call("explain", PICTURE, "-c", "cat,zebra", code=2).stderr
        assert "hybrid, which was taken because of no prototypes for zebra, cannot be taken apart" in told

    @pytest.mark.slow
    def test_what_may_not_be_expected_is_told(self, call):
        result = call("explain", PICTURE, "--at", "30,30", "-c", "cat", "--method", "gem", "--no-background")
        assert "Nothing competes with 'cat'" in result.stderr

    @pytest.mark.slow
    def test_the_label_is_that_of_segment(self, call, segmented):
        ids = np.asarray(Image.open(segmented / "SegmentationClass" / f"{PICTURE.stem}.png"))
        at = [(x, y) for y in range(10, 192, 60) for x in range(10, 256, 60)]
        args = [part for x, y in at for part in ("--at", f"{x},{y}")]
        data = json.loads(call("explain", PICTURE, "--extractors", "clip", "--threshold", 0.3, *args, "--json").stdout)
        assert [p["label"] for p in data["points"]] == [("background", "cat", "apple")[ids[y, x]] for x, y in at]


class TestRun:
    def test_everything_is_taken_from_the_run(self, call, segmented):
        result = call("explain", PICTURE, "--run", segmented, "--at", "220,120", "--json")
        data = json.loads(result.stdout)
        assert data["threshold"] == 0.3
        assert data["classes"] == ["cat", "apple"]
        [point] = data["points"]
        assert {m["extractor"] for m in point["matches"]} == {"clip"}
        assert point["label_in_run"] == point["label"] == "cat"
        assert "note" not in result.stderr

    @pytest.mark.parametrize("given", ["--classes=cat", "--threshold=0.2", "--refine=pamr", "--no-background"])
    def test_nothing_else_may_be_given_beside_it(self, call, segmented, given):
        error = call("explain", PICTURE, "--run", segmented, given, code=2).stderr
        assert "--run takes everything from that folder: leave out --" in error

    def test_a_class_made_anew_and_a_label_that_changed_are_told(self, made, segmented, call, tmp_path):
        mask = segmented / "SegmentationClass" / f"{PICTURE.stem}.png"
        before, manifest = mask.read_bytes(), json.loads((segmented / "run.json").read_text())
        manifest["settings"]["prototypes"][0][1] = "0" * 32
        out = tmp_path / "out"
        (out / "SegmentationClass").mkdir(parents=True)
        (out / "run.json").write_text(json.dumps(manifest))
        (out / "predictions.jsonl").write_bytes((segmented / "predictions.jsonl").read_bytes())
        (out / "labelmap.txt").write_bytes((segmented / "labelmap.txt").read_bytes())
        Image.fromarray(np.full((192, 256), 2, np.uint8)).save(out / "SegmentationClass" / mask.name)
        result = call("explain", PICTURE, "--run", out, "--at", "220,120")
        assert "made anew since that run, so that its answer may have been another: cat" in result.stderr
        assert "says apple, and now it is cat" in " ".join(result.stderr.split())
        assert mask.read_bytes() == before

    def test_a_picture_that_the_run_did_not_have_is_told(self, call, segmented):
        other = EXAMPLES / "images" / "scene_002.jpg"
        result = call("explain", other, "--run", segmented, "--at", "3,3", "--json")
        assert "has no label map of" in " ".join(result.stderr.split())
        assert json.loads(result.stdout)["points"][0]["label_in_run"] is None

    @pytest.mark.slow
    def test_another_store_is_told(self, segmented, made, here):
        with Store.open(here / "other", profile="mini") as store, Store.open(made / "store") as source:
            for name in ("cat", "apple"):
                store.add_class(source.read_class(name))
        result = ovseg("--store", here / "other", "explain", PICTURE, "--run", segmented, "--at", "3,3")
        assert "that run used the store" in result.stderr
        assert "made anew since that run" in result.stderr

    @pytest.mark.slow
    @pytest.mark.parametrize(("given", "label"), [("apple", "apple"), ("", "background")])
    def test_the_classes_that_were_given_for_the_picture_hold(self, call, here, given, label):
        (here / "tags.txt").write_text(f"{PICTURE.name}: {given}")
        how = ("-c", "cat,apple", "--no-prefilter", "--extractors", "clip", "--image-classes", "tags.txt", "--explain")
        call("segment", PICTURE, *how)
        assert (here / "ovseg-out" / "explain" / f"{PICTURE.stem}.png").is_file()
        ids = np.asarray(Image.open(here / "ovseg-out" / "SegmentationClass" / f"{PICTURE.stem}.png"))
        assert set(np.unique(ids)) <= ({0, 2} if given else {0})
        result = call("explain", PICTURE, "--run", "ovseg-out", "--at", "220,120", "--json")
        [point] = json.loads(result.stdout)["points"]
        assert point["label_in_run"] == point["label"] in (label, "background")
        assert "note" not in result.stderr

    def test_a_folder_that_is_no_run_is_refused(self, call, here):
        assert "is no output folder of ovseg segment" in call("explain", PICTURE, "--run", here, code=2).stderr


class TestBadInput:
    """None of these loads a model."""

    @pytest.mark.parametrize("at", ["120", "1,2,3", "a,b", "", "1.5,2"])
    def test_a_pixel_is_two_whole_numbers(self, cli, photos, at):
        result = cli("explain", photos / "a.png", "--at", at)
        assert result.exit_code == 2
        assert f"got {at!r}" in result.error

    def test_a_pixel_outside_is_told_the_size(self, cli, photos):
        result = cli("explain", photos / "a.png", "-c", "cat", "--at", "16,0")
        assert result.exit_code == 2
        assert "16 pixels wide and 8 high" in result.error

    def test_the_picture_is_not_overwritten(self, cli, photos, here):
        before = (photos / "a.png").read_bytes()
        (here / "link.png").symlink_to(photos / "a.png")
        for target in (photos / "a.png", here / "link.png"):
            result = cli("explain", photos / "a.png", "-o", target)
            assert result.exit_code == 2
            assert "is the picture itself" in result.error
        assert (photos / "a.png").read_bytes() == before

    def test_the_output_is_a_picture(self, cli, photos):
        assert "names a picture" in cli("explain", photos / "a.png", "-o", "why.txt").error

    def test_a_picture_that_is_not_there(self, cli, here):
        result = cli("explain", here / "no.png")
        assert (result.exit_code, "does not exist" in result.error) == (2, True)

    def test_an_empty_store_has_nothing_to_look_for(self, cli, photos):
        assert "has no classes yet" in cli("explain", photos / "a.png").error


# ---------------------------------------------------------------------- segment --explain


class PaintExplainer:
    """Segments as the stand-in does, and explains nothing."""

    calls = 0

    def __init__(self, segmenter, store):
        assert isinstance(segmenter, PaintSegmenter)
        self.segmenter = segmenter

    def explain(self, image, points=None, classes=None):
        type(self).calls += 1
        return self.segmenter.segment(image, classes), []


class TestSegment:
    @pytest.fixture(autouse=True)
    def stand_in(self, cli, monkeypatch):
        monkeypatch.setattr(PaintExplainer, "calls", 0)
        monkeypatch.setattr(PaintSegmenter, "calls", 0)
        monkeypatch.setattr(ovseg_cli.explanations, "Explainer", PaintExplainer)

    def entries(self, here):
        lines = (here / "ovseg-out" / "predictions.jsonl").read_text().splitlines()
        return {entry["output"]: entry for entry in map(json.loads, lines)}

    def drawn(self, here, kind="explain"):
        return sorted(p.relative_to(here / "ovseg-out").as_posix() for p in (here / "ovseg-out" / kind).rglob("*.png"))

    def test_each_picture_gets_an_explanation_and_goes_through_once(self, cli, photos, here):
        result = cli("segment", photos, "-c", "cat,dog", "--explain")
        assert result.exit_code == 0
        assert "ovseg-out/explain" in result.stdout
        assert self.drawn(here) == ["explain/a.png", "explain/sub/b.png"]
        assert PaintSegmenter.calls == PaintExplainer.calls == 2
        assert self.entries(here)["SegmentationClass/a.png"]["explain"] == "explain/a.png"

    def test_a_second_run_has_nothing_to_do(self, cli, photos, here):
        cli("segment", photos, "-c", "cat,dog", "--explain")
        again = cli("segment", photos, "-c", "cat,dog", "--explain", "--json")
        assert (again.data["done"], again.data["skipped"], PaintExplainer.calls) == (0, 2, 2)

    def test_label_maps_that_are_there_are_explained_and_left_alone(self, cli, photos, here):
        cli("segment", photos, "-c", "cat,dog")
        masks = {p: (p.stat().st_mtime_ns, p.read_bytes()) for p in (here / "ovseg-out").rglob("Seg*/**/*.png")}
        assert len(masks) == 2
        plan = cli("segment", photos, "-c", "cat,dog", "--explain", "--dry-run", "--json")
        assert {image["action"] for image in plan.data["images"]} == {"explain"}
        result = cli("segment", photos, "-c", "cat,dog", "--explain", "--overlay", "--json")
        assert (result.data["done"], result.data["skipped"]) == (0, 2)
        assert {p: (p.stat().st_mtime_ns, p.read_bytes()) for p in masks} == masks
        assert len(self.drawn(here)) == len(self.drawn(here, "overlay")) == 2
        assert "made again" not in result.stderr

    def test_one_that_is_missing_is_made_alone(self, cli, photos, here):
        cli("segment", photos, "-c", "cat,dog", "--explain")
        (here / "ovseg-out" / "explain" / "a.png").unlink()
        cli("segment", photos, "-c", "cat,dog", "--explain")
        assert PaintExplainer.calls == 3
        assert len(self.drawn(here)) == 2

    def test_a_run_without_keeps_those_that_still_fit(self, cli, photos, here):
        cli("segment", photos, "-c", "cat,dog", "--explain")
        cli("segment", photos, "-c", "cat,dog", "--overlay")
        assert len(self.drawn(here)) == 2
        assert self.entries(here)["SegmentationClass/a.png"]["explain"] == "explain/a.png"

    def test_one_of_a_label_map_that_is_made_again_goes(self, cli, photos, here):
        cli("segment", photos, "-c", "cat,dog", "--explain")
        paint(photos / "a.png", 2, 0)
        cli("segment", photos, "-c", "cat,dog")
        assert self.drawn(here) == ["explain/sub/b.png"]
        assert self.entries(here)["SegmentationClass/a.png"]["explain"] is None

    def test_it_is_of_the_classes_that_are_given_for_the_picture(self, cli, photos, here):
        (here / "tags.txt").write_text("a: dog\nb: dog")
        cli("segment", photos, "-c", "cat,dog", "--explain", "--image-classes", "tags.txt")
        kept = {entry["output"]: entry["kept"] for entry in self.entries(here).values()}
        assert kept == {"SegmentationClass/a.png": {"dog": None}, "SegmentationClass/sub/b.png": {"dog": None}}

    def test_other_classes_leave_none_behind(self, cli, photos, here):
        cli("segment", photos, "-c", "cat,dog", "--explain")
        cli("segment", photos, "-c", "dog,cat", "--overwrite")
        assert self.drawn(here) == []

    def test_that_of_a_picture_that_is_damaged_now_goes(self, cli, photos, here):
        cli("segment", photos, "-c", "cat,dog", "--explain")
        (photos / "a.png").write_bytes(b"nonsense")
        assert cli("segment", photos, "-c", "cat,dog", "--explain").exit_code == 3
        assert self.drawn(here) == ["explain/sub/b.png"]


def test_with_the_bundled_models_each_class_has_a_row(call, here, monkeypatch):
    call("segment", PICTURE, "--extractors", "clip", "--explain")
    with Image.open(here / "ovseg-out" / "explain" / f"{PICTURE.stem}.png") as sheet:
        assert sheet.height > 2 * 250
    labels = np.asarray(Image.open(here / "ovseg-out" / "SegmentationClass" / f"{PICTURE.stem}.png"))
    assert labels.shape == example_labels(SCENE).shape
