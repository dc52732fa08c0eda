from __future__ import annotations

import csv
import json
import shutil

import numpy as np
import pytest
from PIL import Image

from ovseg_cli.errors import StoreReadOnlyError
from ovseg_cli.evaluation.report import ClassScore, Report
from ovseg_cli.evaluation.tables import as_markdown
from ovseg_cli.figures import figure_beside
from ovseg_cli.files.labels import LabelMap, write_label


@pytest.fixture
def segmented(cli, photos):
    cli("segment", "photos", "-c", "cat,dog")


def test_the_last_run_is_scored_and_named(cli, segmented, gt, here):
    result = cli("eval", "--gt", "labels")
    assert result.exit_code == 0
    assert str(here / "ovseg-out") in result.stderr
    assert "cat, dog" in result.stderr
    lines = {line.split()[0]: line.split()[1] for line in reversed(result.stdout.splitlines()) if line.strip()}
    assert lines["cat"] == "1.000"
    assert lines["mIoU"] == "1.000"
    assert "bird 12.5 %" in result.stdout


def test_json_holds_every_figure(cli, segmented, gt):
    data = cli("eval", "--gt", "labels", "--json").data
    assert {entry["name"]: entry["iou"] for entry in data["classes"]} == {"background": 1.0, "cat": 1.0, "dog": 1.0}
    assert data["miou"] == 1.0
    assert data["images"] == 2
    assert data["unasked"] == [{"name": "bird", "pixels": 32, "share": 0.125}]
    assert data["convention"]


def test_quiet_prints_the_miou(cli, segmented, gt):
    assert cli("eval", "--gt", "labels", "-q").stdout == "1.000\n"


def test_a_report_is_written(cli, segmented, gt, here):
    result = cli("eval", "--gt", "labels", "-o", "deep/report.json")
    assert "deep/report.json" in result.stdout
    assert json.loads((here / "deep" / "report.json").read_text())["miou"] == 1.0


def test_a_folder_of_predictions(cli, segmented, gt, here):
    shutil.move(here / "ovseg-out", here / "kept")
    for folder in ("kept", "kept/SegmentationClass"):
        result = cli("eval", "--gt", "labels", "--pred", folder, "--json")
        assert result.data["miou"] == 1.0
        assert "last run" not in result.stderr


def test_pictures_are_segmented_first(cli, photos, gt, here, own_world):
    result = cli("eval", "--gt", "labels", "--images", "photos", "-c", "cat,dog", "--json")
    assert result.data["miou"] == 1.0
    assert not (here / "ovseg-out").exists()
    assert cli("eval", "--gt", "labels").exit_code == 2, "such a run is not one to be scored again"


@pytest.mark.parametrize(("limit", "code"), [("0.99", 0), ("1.0", 0)])
def test_fail_under_that_is_met(cli, segmented, gt, limit, code):
    assert cli("eval", "--gt", "labels", "--fail-under", limit).exit_code == code


def test_fail_under_that_is_not_met(cli, segmented, gt, here):
    write_label(gt / "a.png", np.zeros((8, 16), int), LabelMap.from_classes(("dog", "cat", "bird")))
    result = cli("eval", "--gt", "labels", "--fail-under", "0.9", "--json")
    assert result.exit_code == 4
    assert "below --fail-under 0.9" in result.error
    assert result.data["miou"] < 0.9, "the report comes all the same"


def test_a_figure_beside_its_limit_has_enough_digits():
    assert figure_beside(0.47754, 0.4776) == ("0.4775", "0.4776")
    assert figure_beside(0.31, 0.5) == ("0.310", "0.5")
    assert figure_beside(0.1 + 0.2, 0.3) == ("0.30000000000000004", "0.3")


@pytest.mark.parametrize("fault", ["no label map", "other names", "other classes"])
def test_labels_are_looked_at_before_pictures_are_segmented(cli, photos, gt, monkeypatch, fault):
    if fault == "no label map":
        (gt / "labelmap.txt").unlink()
    elif fault == "other names":
        (gt / "a.png").rename(gt / "z.png")
        (gt / "sub" / "b.png").unlink()
    monkeypatch.setattr("ovseg_cli.cli.evaluate.run_with_progress", lambda *_, **__: pytest.fail("segmented first"))
    classes = "zebra" if fault == "other classes" else "cat"
    assert cli("eval", "--gt", "labels", "--images", "photos", "-c", classes).exit_code == 2


def test_classes_to_count(cli, segmented, gt):
    data = cli("eval", "--gt", "labels", "-c", "dog", "--no-background", "--json").data
    assert [entry["name"] for entry in data["classes"]] == ["dog"]


def test_a_profile_that_is_not_the_stores_does_not_matter_here(cli, segmented, gt):
    assert cli("eval", "--gt", "labels", "--profile", "sd15").exit_code == 0


def test_figures_that_cannot_be_recorded_are_shown_all_the_same(cli, segmented, gt, monkeypatch):
    def refuse(*_):
        raise StoreReadOnlyError("the store is read-only")

    monkeypatch.setattr("ovseg_cli.store.Store.record_evaluation", refuse)
    result = cli("eval", "--gt", "labels", "-q")
    assert (result.exit_code, result.stdout) == (0, "1.000\n")
    assert "not recorded: the store is read-only" in result.stderr


class TestErrors:
    def test_without_any_run(self, cli, gt):
        result = cli("eval", "--gt", "labels")
        assert result.exit_code == 2
        assert "--pred" in result.error
        assert "--images" in result.error

    def test_with_a_store_but_without_any_run(self, cli, gt):
        cli("add-class", "cat")
        assert cli("eval", "--gt", "labels").exit_code == 2

    def test_no_ground_truth(self, cli, segmented):
        result = cli("eval", "--gt", "nowhere")
        assert result.exit_code == 2
        assert "nowhere" in result.error

    def test_two_sources(self, cli, gt):
        result = cli("eval", "--gt", "labels", "--pred", "a", "--images", "b")
        assert result.exit_code == 2
        assert "exclude each other" in result.error

    def test_rgb_labels_without_a_map(self, cli, segmented, gt):
        (gt / "labelmap.txt").write_text("0: background\n1: dog\n2: cat\n")
        for path in gt.rglob("*.png"):
            with Image.open(path) as image:
                colours = image.convert("RGB").point(lambda value: value // 2)
            colours.save(path)
        result = cli("eval", "--gt", "labels")
        assert result.exit_code == 2
        assert "colour" in result.error

    def test_no_label_map_at_all(self, cli, segmented, gt):
        (gt / "labelmap.txt").unlink()
        result = cli("eval", "--gt", "labels")
        assert result.exit_code == 2
        assert "--label-map" in result.error

    def test_the_label_map_by_hand(self, cli, segmented, gt, here):
        (gt / "labelmap.txt").rename(here / "names.txt")
        assert cli("eval", "--gt", "labels", "--label-map", "names.txt", "-q").stdout == "1.000\n"

    def test_sizes_that_differ(self, cli, segmented, gt):
        write_label(gt / "a.png", np.zeros((4, 4), int), LabelMap.from_classes(("dog", "cat", "bird")))
        result = cli("eval", "--gt", "labels")
        assert result.exit_code == 2
        assert "4x4" in result.error

    def test_missing_files_are_code_3_and_extra_ones_are_warnings(self, cli, segmented, gt):
        (gt / "a.png").rename(gt / "z.png")
        result = cli("eval", "--gt", "labels")
        assert result.exit_code == 3
        assert "mIoU" in result.stdout, "the figures are there all the same"
        assert result.error.startswith("1 of 2 labelled pictures have no prediction and are left out")
        warnings = [line for line in result.stderr.splitlines() if line.startswith("warning:")]
        assert any("z" in line for line in warnings)
        assert any("no ground truth: a" in line for line in warnings)

    def test_nothing_to_pair(self, cli, segmented, gt):
        (gt / "a.png").rename(gt / "z.png")
        (gt / "sub" / "b.png").unlink()
        assert cli("eval", "--gt", "labels").exit_code == 2

    def test_none_of_the_pictures_can_be_read(self, cli, photos, gt):
        for path in photos.rglob("*.png"):
            path.write_bytes(b"")
        result = cli("eval", "--gt", "labels", "--images", "photos", "-c", "cat")
        assert result.exit_code == 2
        assert "None of the pictures" in result.error

    def test_a_run_that_was_cut_is_pointed_out(self, cli, photos, gt):
        (photos / "a.png").write_bytes(b"")
        cli("segment", "photos", "-c", "cat,dog", "--fail-fast")
        result = cli("eval", "--gt", "labels")
        assert result.exit_code == 2 or "did not come to its end" in result.stderr


class TestForms:
    def test_csv(self, cli, segmented, gt, here):
        result = cli("eval", "--gt", "labels", "-o", "report.csv", "--json")
        every = list(csv.DictReader((here / "report.csv").open()))
        rows = [row for row in every if row["kind"] in ("class", "overall")]
        assert [row["name"] for row in rows] == [*(c["name"] for c in result.data["classes"]), "mean"]
        assert [row["kind"] for row in rows] == ["class"] * (len(rows) - 1) + ["overall"]
        assert float(rows[-1]["iou"]) == result.data["miou"]
        assert float(rows[-1]["pixel_accuracy"]) == result.data["pixel_accuracy"]
        for row, score in zip(rows, result.data["classes"], strict=False):
            assert row["iou"] == ("" if score["iou"] is None else str(score["iou"]))
            assert int(row["truth_pixels"]) == score["gt_pixels"]
        figures = [row for row in every if row["kind"] == "figure"]
        assert [(row["name"], row["background"], row["convention"]) for row in figures] == [
            (figure["key"], figure["background"], figure["convention"]) for figure in result.data["figures"]
        ]
        assert all(row["value"] == str(f["value"]) for row, f in zip(figures, result.data["figures"], strict=True))

    def test_markdown(self, cli, segmented, gt, here):
        result = cli("eval", "--gt", "labels", "-o", "REPORT.MD", "-q")
        lines = (here / "REPORT.MD").read_text().splitlines()
        assert lines[0] == "| class | IoU | truth | predicted |"
        assert all(line.count("|") == 5 for line in lines[: lines.index("")])
        assert f"**mIoU {result.stdout.strip()}**" in (here / "REPORT.MD").read_text()

    def test_what_stands_in_a_name_stays_in_its_cell(self):
        report = Report(
            classes=(
                ClassScore(
                    name="a|b*",
                    iou=None,
                    precision=None,
                    recall=None,
                    gt_pixels=0,
                    predicted_pixels=0,
                    gt_share=0.0,
                    predicted_share=0.0,
                ),
            ),
            miou=None,
            miou_present=None,
            pixel_accuracy=None,
            mean_accuracy=None,
            frequency_weighted_iou=None,
            images=1,
            pixels=0,
            ignored_pixels=0,
            background=True,
        )
        assert "| a\\|b\\* | – | 0.0 % | 0.0 % |" in as_markdown(report)

    def test_other_forms_are_refused_before_anything_is_scored(self, cli, segmented, gt, here):
        result = cli("eval", "--gt", "labels", "-o", "report.xlsx")
        assert result.exit_code == 2
        assert ".json, .csv or .md" in result.error
        assert result.stdout == ""
        assert not (here / "report.xlsx").exists()
