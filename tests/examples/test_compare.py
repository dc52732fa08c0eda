"""All methods side by side: the figures, the pictures, and what can go wrong."""

from __future__ import annotations

import json
import shutil
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
import pytest
from PIL import Image

import examples.compare.__main__ as command
from examples.compare.measure import Compared, Panel, choose_methods, enter
from examples.compare.sheet import comparison_sheet
from examples.compare.table import markdown
from examples.compare.truth import LEFT_OUT, Truth
from ovseg_cli.errors import ImageError, LabelError, UsageError
from ovseg_cli.evaluation.folder import evaluate_folders
from ovseg_cli.files.images import InputImage
from ovseg_cli.files.labels import LabelMap, write_label, write_labelmap
from ovseg_cli.methods.catalogue import METHODS, word_methods
from ovseg_cli.scorers.phrases import PhraseScorer
from ovseg_cli.segmentation.segmenter import Segmentation, Segmenter
from ovseg_cli.store import Store
from tests.mini import EXAMPLES, mini_class, mini_models

pytestmark = pytest.mark.slow

CLASSES = ("cat", "dog", "tree")
SCENES = ("scene_001", "scene_006")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two bundled pictures in a folder of their own."""
    folder = tmp_path_factory.mktemp("pictures")
    for scene in SCENES:
        shutil.copy(EXAMPLES / "images" / f"{scene}.jpg", folder)
    return folder


@pytest.fixture(autouse=True)
def one_set_of_models(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(command, "load_models", lambda *_, **__: mini_models())


def run(folder: Path, output: Path, *more: str) -> int:
    return command.main([str(folder), "--classes", ",".join(CLASSES), "-o", str(output), *more])


def figures(output: Path) -> dict[str, dict[str, Any]]:
    record = json.loads((output / "table.json").read_text(encoding="utf-8"))
    return {item["method"]: item for item in record["methods"]}


@pytest.fixture(scope="module")
def output(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The pictures under two methods."""
    output = tmp_path_factory.mktemp("comparison")
    assert run(folder, output, "--methods", "sclip,maskclip", "--gt", str(EXAMPLES / "labels"), "--speed") == 0
    return output


class TestRun:
    def test_there_is_one_picture_for_each(self, output: Path):
        assert sorted(path.name for path in output.glob("*.png")) == [f"{scene}.png" for scene in SCENES]
        with Image.open(output / "scene_001.png") as sheet:
            assert sheet.mode == "RGB"
            assert sheet.width > 2 * 320

    def test_the_mean_iou_is_that_of_the_evaluation_of_folders(self, folder: Path, output: Path, tmp_path: Path):
        """With classes that are in the pictures and were not asked for."""
        labels = LabelMap.from_classes(CLASSES)
        with Store.open(tmp_path / "store", profile="mini") as store:
            segmenter = Segmenter(mini_models(), store, CLASSES, method="sclip")
        for scene in SCENES:
            with Image.open(folder / f"{scene}.jpg") as image:
                write_label(tmp_path / "labels" / f"{scene}.png", segmenter.segment(image.convert("RGB")).ids, labels)
        report = evaluate_folders(EXAMPLES / "labels", tmp_path / "labels", prediction_labels=labels)
        found = figures(output)["sclip"]
        assert found["miou"] == report.miou
        assert found["iou"] == {score.name: score.iou for score in report.classes}

    def test_every_method_has_its_speed_and_its_pictures(self, output: Path):
        found = figures(output)
        assert list(found) == ["sclip", "maskclip"]
        for item in found.values():
            assert item["images_per_second"] > 0
            assert item["pictures"] == item["scored"] == 2
            assert item["failures"] == []

    def test_the_table_begins_with_the_best(self, output: Path):
        found = figures(output)
        lines = (output / "table.md").read_text(encoding="utf-8").splitlines()
        first = lines[2].split("|")[1].strip()
        assert first == max(found, key=lambda name: found[name]["miou"])
        assert f"{100 * found[first]['miou']:.1f}" in lines[2]
        assert len({len(line) for line in lines[:4]}) == 1

    def test_methods_that_share_their_walks_have_the_same_answers_and_no_speed(
        self, folder: Path, output: Path, tmp_path: Path
    ):
        assert run(folder, tmp_path, "--methods", "sclip,maskclip", "--gt", str(EXAMPLES / "labels")) == 0
        for method, alone in figures(output).items():
            together = figures(tmp_path)[method]
            assert together["images_per_second"] is None
            assert together["pictures"] == 2
            assert together["iou"] == pytest.approx(alone["iou"], abs=1e-3)
        text = (tmp_path / "table.md").read_text(encoding="utf-8")
        assert "images/s" not in text
        assert "All methods together" in text

    def test_methods_are_told_what_is_in_a_picture(self, folder: Path, output: Path, tmp_path: Path):
        """Neither picture shows all of the three: what is absent from both is found in none."""
        truth = Truth(EXAMPLES / "labels", CLASSES)
        shown = {scene: set(np.unique(truth.read(scene))) - {0} for scene in SCENES}
        assert run(folder, tmp_path, "--methods", "sclip", "--gt", str(EXAMPLES / "labels"), "--known") == 0
        assert figures(tmp_path)["sclip"]["miou"] > figures(output)["sclip"]["miou"]
        absent = set(range(1, 4)) - set().union(*shown.values())
        for number in absent:
            assert figures(tmp_path)["sclip"]["iou"][CLASSES[number - 1]] is None
        assert "told which of the classes" in (tmp_path / "table.md").read_text(encoding="utf-8")

    def test_without_ground_truth_there_is_no_mean_iou(self, folder: Path, tmp_path: Path):
        assert run(folder, tmp_path / "out", "--methods", "sclip", "--limit", "1") == 0
        assert [path.name for path in (tmp_path / "out").glob("*.png")] == ["scene_001.png"]
        assert "mIoU" not in (tmp_path / "out" / "table.md").read_text(encoding="utf-8")
        assert figures(tmp_path / "out")["sclip"]["miou"] is None


class TestFailures:
    def test_a_method_that_fails_on_a_picture_is_left_out_there(
        self, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
    ):
        really = Segmenter.segment
        seen: list[str] = []

        def segment(self: Segmenter, image: Image.Image, classes: list[str] | None = None) -> Segmentation:
            seen.append(self.method)
            if self.method == "gem" and seen.count("gem") == 2:  # the first is the warm-up
                raise ImageError("The prompt is too long.")
            return really(self, image, classes)

        monkeypatch.setattr(Segmenter, "segment", segment)
        truth = str(EXAMPLES / "labels")
        assert run(folder, tmp_path, "--methods", "sclip,gem", "--gt", truth, "--speed") == 0
        found = figures(tmp_path)
        assert found["gem"]["failures"] == [{"picture": "scene_001", "reason": "The prompt is too long."}]
        assert (found["gem"]["pictures"], found["sclip"]["pictures"]) == (1, 2)
        assert found["gem"]["miou"] is not None
        assert "gem fails on scene_001: The prompt is too long." in capsys.readouterr().err
        assert len(list(tmp_path.glob("*.png"))) == 2

    def test_what_fails_together_is_tried_by_itself(
        self, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
    ):
        def refuse(*_: object) -> None:
            raise ImageError("The prompt is too long.")

        monkeypatch.setattr(PhraseScorer, "compare", refuse)
        assert run(folder, tmp_path, "--methods", "sclip,aggsd", "--limit", "1") == 0
        found = figures(tmp_path)
        assert (found["sclip"]["pictures"], found["aggsd"]["pictures"]) == (1, 0)
        assert found["aggsd"]["failures"] == [{"picture": "scene_001", "reason": "The prompt is too long."}]
        assert "aggsd fails on scene_001" in capsys.readouterr().err

    def test_a_picture_that_cannot_be_read_is_passed_over(
        self, folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ):
        mixed = tmp_path / "mixed"
        shutil.copytree(folder, mixed)
        (mixed / "broken.jpg").write_bytes(b"")
        assert run(mixed, tmp_path / "out", "--methods", "sclip") == 0
        assert "broken is passed over" in capsys.readouterr().err
        assert figures(tmp_path / "out")["sclip"]["pictures"] == 2

    @pytest.mark.parametrize(
        ("more", "message"),
        [
            (["--methods", "gem,clipp"], "Unknown method 'clipp'"),
            (["--methods", "gem,gem"], "given twice"),
            (["--methods", "prototype"], "no class 'cat'"),
            (["--store", "nowhere"], "nowhere"),
            (["--gt", "nowhere"], "does not exist"),
            (["--known"], "name it with --gt"),
        ],
    )
    def test_bad_input_is_told(
        self, folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], more: list[str], message: str
    ):
        assert run(folder, tmp_path / "out", *more) == 1
        error = capsys.readouterr().err
        assert error.startswith("error: ")
        assert message in error
        assert not (tmp_path / "out").exists()

    def test_a_folder_without_pictures(self, tmp_path: Path, capsys: pytest.CaptureFixture[str]):
        (tmp_path / "empty").mkdir()
        assert run(tmp_path / "empty", tmp_path / "out") == 1
        assert "error: No image" in capsys.readouterr().err

    def test_pictures_of_which_none_can_be_read(self, tmp_path: Path, capsys: pytest.CaptureFixture[str]):
        (tmp_path / "in").mkdir()
        (tmp_path / "in" / "broken.jpg").write_bytes(b"")
        assert run(tmp_path / "in", tmp_path / "out", "--methods", "sclip") == 1
        assert "None of the pictures" in capsys.readouterr().err

    def test_ground_truth_of_other_pictures(self, folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]):
        labels = LabelMap.from_classes(CLASSES)
        write_label(tmp_path / "gt" / "other.png", np.zeros((4, 4), np.uint16), labels)
        write_labelmap(tmp_path / "gt" / "labelmap.txt", labels)
        assert run(folder, tmp_path / "out", "--gt", str(tmp_path / "gt")) == 1
        assert "same names" in capsys.readouterr().err

    def test_ground_truth_of_another_size(self, folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]):
        labels = LabelMap.from_classes(CLASSES)
        write_label(tmp_path / "gt" / "scene_001.png", np.zeros((4, 5), np.uint16), labels)
        write_labelmap(tmp_path / "gt" / "labelmap.txt", labels)
        assert run(folder, tmp_path / "out", "--methods", "sclip", "--gt", str(tmp_path / "gt")) == 1
        assert "is 5x4, the picture 256x192" in capsys.readouterr().err


class TestMethods:
    def test_by_default_all_that_read_words_and_prototypes_where_there_are_some(self, tmp_path: Path):
        with Store.open(tmp_path / "store", profile="mini") as store:
            assert choose_methods(store, CLASSES) == word_methods()
            store.add_class(mini_class("cat"))
            assert choose_methods(store, CLASSES) == ("hybrid", *word_methods())
            assert choose_methods(store, ["cat"]) == ("prototype", "hybrid", *word_methods())

    def test_what_cannot_run_is_left_out_unless_it_was_named(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
        really = Segmenter.__init__

        def without_proxy(self: Segmenter, *args: Any, method: str, **more: Any) -> None:
            if method == "proxyclip":
                raise UsageError("The profile names no network for it.")
            really(self, *args, method=method, **more)

        monkeypatch.setattr(Segmenter, "__init__", without_proxy)
        told: list[str] = []
        with Store.open(tmp_path / "store", profile="mini") as store:
            entered = enter(mini_models(), store, CLASSES, None, told.append)
            with pytest.raises(UsageError, match="names no network"):
                enter(mini_models(), store, CLASSES, ["proxyclip"], told.append)
        assert [item.segmenter.method for item in entered] == [name for name in word_methods() if name != "proxyclip"]
        assert told == ["proxyclip is left out: The profile names no network for it."]
        assert "|        0 |" in markdown(entered, [])  # nothing was measured yet


class TestTruth:
    def test_ids_become_numbers_of_the_classes(self, tmp_path: Path):
        (tmp_path / "labelmap.txt").write_text("0: background\n3: Cat\n5: void\n9: bus\n", encoding="utf-8")
        ids = np.array([[0, 3, 5], [9, 255, 3]], np.uint8)
        (tmp_path / "sub").mkdir()
        Image.fromarray(ids).save(tmp_path / "sub" / "a.png")
        truth = Truth(tmp_path, ["dog", "cat"])
        assert "sub/a" in truth
        assert "a" not in truth
        np.testing.assert_array_equal(truth.read("sub/a"), [[0, 2, LEFT_OUT], [0, LEFT_OUT, 2]])

    def test_an_id_without_a_name_and_a_folder_without_names(self, tmp_path: Path):
        Image.fromarray(np.full((2, 2), 7, np.uint8)).save(tmp_path / "a.png")
        with pytest.raises(LabelError, match="Nothing names the label ids"):
            Truth(tmp_path, CLASSES)
        (tmp_path / "labelmap.txt").write_text("0: background\n", encoding="utf-8")
        with pytest.raises(LabelError, match="holds the id 7"):
            Truth(tmp_path, CLASSES).read("a")


class TestSheet:
    LABELS = LabelMap.from_classes(CLASSES)

    def sheet(self, width: int, height: int, *panels: Panel, truth: np.ndarray | None = None) -> np.ndarray:
        image = Image.new("RGB", (width, height), (200, 60, 60))
        source = InputImage(Path("a.png"), PurePosixPath("a"))
        return np.asarray(comparison_sheet(Compared(source, image, truth, panels), self.LABELS))

    def test_a_class_has_its_colour_and_the_background_none(self):
        whole = Panel("gem", np.full((24, 32), 2, np.uint16), miou=0.5)
        bare = Panel("sclip", np.zeros((24, 32), np.uint16), miou=0.25)
        colour = self.LABELS.colour_of(2)
        grey = (200 + 60 + 60) / 3
        mixed = [round(0.4 * grey + 0.6 * channel) for channel in colour]
        pixels = self.sheet(32, 24, whole, bare).reshape(-1, 3)
        painted = (pixels == mixed).all(axis=1).sum()
        assert painted == 320 * 240
        assert (pixels == round(0.45 * grey + 0.55 * 255)).all(axis=1).sum() == 320 * 240

    def test_a_grey_class_is_striped(self):
        """It lies on a grey picture."""
        names = LabelMap.from_classes([f"class {number}" for number in range(1, 8)])
        assert len(set(names.colour_of(7))) == 1
        source = InputImage(Path("a.png"), PurePosixPath("a"))
        panel = Panel("gem", np.full((24, 32), 7, np.uint16))
        sheet = comparison_sheet(Compared(source, Image.new("RGB", (32, 24), (200, 60, 60)), None, (panel,)), names)
        plain = 0.4 * (200 + 60 + 60) / 3 + 0.6 * names.colour_of(7)[0]
        pixels = np.asarray(sheet).reshape(-1, 3)
        shares = [(pixels == round(grey)).all(axis=1).sum() / (320 * 240) for grey in (plain, 0.4 * plain)]
        np.testing.assert_allclose(shares, 0.5, atol=0.02)

    def test_a_failure_takes_its_place(self):
        failed = Panel("aggsd", None, error="AggSD: The prompt is longer than the 77 tokens of the model. " * 9)
        done = Panel("gem", np.zeros((24, 32), np.uint16))
        with_it, without = self.sheet(32, 24, done, failed), self.sheet(32, 24, done)
        assert with_it.size > without.size

    @pytest.mark.parametrize("size", [(1, 400), (400, 1), (1, 1), (64, 48)])
    def test_any_shape_and_every_method(self, size: tuple[int, int]):
        width, height = size
        truth = np.full((height, width), LEFT_OUT, np.int32)
        panels = [Panel(name, np.full((height, width), 1, np.uint16)) for name in METHODS]
        sheet = self.sheet(width, height, *panels, truth=truth)
        assert max(sheet.shape) < 4000
