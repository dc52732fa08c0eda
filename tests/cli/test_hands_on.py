"""What an hour of hands-on use found."""

from __future__ import annotations

import json
import os
import signal
import sqlite3
import time

import numpy as np
import pytest

from ovseg_cli.files.labels import LabelMap, write_label, write_labelmap
from tests.cli.conftest import Process
from tests.runs.conftest import paint


def entries(folder):
    return {line["path"]: line for line in map(json.loads, (folder / "predictions.jsonl").read_text().splitlines())}


class TestSegment:
    def test_overlays_stay_when_they_are_not_asked_for_again(self, cli, photos, here):
        cli("segment", "photos", "-c", "cat,dog", "--overlay")
        drawn = sorted((here / "ovseg-out" / "overlay").rglob("*.png"))
        assert len(drawn) == 2
        cli("segment", "photos", "-c", "cat,dog")
        assert sorted((here / "ovseg-out" / "overlay").rglob("*.png")) == drawn
        assert all(entry["overlay"] for entry in entries(here / "ovseg-out").values())

    def test_an_overlay_goes_when_its_picture_changed(self, cli, photos, here):
        cli("segment", "photos", "-c", "cat,dog", "--overlay")
        paint(photos / "a.png", 2, 2)
        os.utime(photos / "a.png", ns=(1, 1))
        cli("segment", "photos", "-c", "cat,dog")
        assert not (here / "ovseg-out" / "overlay" / "a.png").exists()
        assert (here / "ovseg-out" / "overlay" / "sub" / "b.png").exists()

    @pytest.mark.parametrize("inputs", [("photos",), ("photos/**/*.png",), ("photos/*",)])
    def test_results_of_another_run_are_no_pictures(self, cli, photos, here, inputs):
        cli("segment", "photos", "-c", "cat", "-o", "photos/out")
        result = cli("segment", *inputs, "-c", "dog", "-o", "dogs")
        assert result.exit_code == 0
        assert len(entries(here / "dogs")) == 2
        assert result.stderr.count("results of an earlier run") == 1

    def test_the_results_of_many_runs_make_one_warning(self, cli, photos):
        for name in ("one", "two"):
            cli("segment", "photos/a.png", "-c", "cat", "-o", f"photos/{name}")
        warnings = [line for line in cli("segment", "photos", "-c", "cat").stderr.splitlines() if "warning:" in line]
        assert len(warnings) == 1
        assert "2 folder(s)" in warnings[0]
        assert "photos/one, photos/two" in warnings[0]

    @pytest.mark.parametrize("inputs", ["photos/out", "photos/out/**/*.png"])
    def test_results_alone_are_no_input(self, cli, photos, here, inputs):
        cli("segment", "photos", "-c", "cat", "-o", "photos/out")
        result = cli("segment", inputs, "-c", "dog", "-o", "dogs")
        assert result.exit_code == 2
        assert "results of an earlier run (photos/out)" in result.error

    def test_a_named_result_is_a_picture_all_the_same(self, cli, photos, here):
        cli("segment", "photos", "-c", "cat", "-o", "photos/out", "--overlay")
        assert cli("segment", "photos/out/overlay/a.png", "-c", "dog", "-o", "dogs").exit_code == 0
        assert len(entries(here / "dogs")) == 1

    def test_a_picture_is_the_same_however_its_path_is_spelled(self, cli, photos, here, monkeypatch):
        cli("segment", "photos", "-c", "cat,dog", "-o", "out")
        (here / "link").symlink_to(photos)
        (here / "elsewhere").mkdir()
        monkeypatch.chdir(here / "elsewhere")
        for spelling in (photos, here / "link", "../photos", f"{photos}/../photos"):
            result = cli("segment", spelling, "-c", "cat,dog", "-o", here / "out", "--json")
            assert result.exit_code == 0, result.stderr
        assert len(entries(here / "out")) == 2

    def test_a_picture_that_a_link_leads_to_again_is_one_picture(self, cli, photos, here):
        (photos / "zlink").symlink_to(photos / "sub")
        assert cli("segment", "photos", "-c", "cat,dog", "--json").data["images"] == 2
        assert cli("segment", "photos", "-c", "cat,dog", "--json").data["skipped"] == 2

    def test_a_journal_with_other_spellings_is_understood(self, cli, photos, here):
        cli("segment", "photos", "-c", "cat,dog")
        journal = here / "ovseg-out" / "predictions.jsonl"
        journal.write_text(journal.read_text().replace(f"{here}/photos", f"{here}/photos/../photos"))
        data = cli("segment", "photos", "-c", "cat,dog", "--json").data
        assert data["skipped"] == 2
        assert [entry["images"] for entry in data["classes"]] == [2, 1]
        assert set(entries(here / "ovseg-out")) == {str(photos / "a.png"), str(photos / "sub" / "b.png")}

    def test_the_drawing_of_a_picture_whose_place_another_takes_goes(self, cli, photos, here):
        cli("segment", "photos/a.png", "-c", "cat", "--overlay")
        paint(here / "more" / "a.png", 2)
        cli("segment", "more", "-c", "cat", "--overwrite")
        assert not (here / "ovseg-out" / "overlay" / "a.png").exists()

    def test_the_note_names_every_missing_class_and_near_misses(self, cli, photos):
        cli("add-class", "cat")
        note = cli("segment", "photos", "-c", "cats,chocolate donut").stderr
        assert "ovseg add-class cats 'chocolate donut'" in note
        assert "Did you mean 'cat' (for 'cats')?" in note

    def test_an_unfinished_label_map_is_not_called_changed(self, cli, photos, here):
        cli("segment", "photos", "-c", "cat,dog")
        journal = here / "ovseg-out" / "predictions.jsonl"
        first, _ = journal.read_text().splitlines()
        journal.write_text(first + "\n")
        assert "made again" not in cli("segment", "photos", "-c", "cat,dog").stderr

    def test_a_name_with_a_line_break_is_left_out_of_the_list(self, cli, photos, here):
        paint(photos / "two\nlines.png", 1, 0)
        result = cli("segment", "photos", "-c", "cat")
        assert result.exit_code == 0
        assert "left out of ImageSets" in result.stderr
        listed = (here / "ovseg-out" / "ImageSets" / "Segmentation" / "default.txt").read_text()
        assert listed == "a\nsub/b\n"

    def test_a_name_that_ends_in_a_line_break_is_left_out_too(self, cli, photos, here):
        paint(photos / "a\n.png", 1, 0)
        cli("segment", "photos", "-c", "cat")
        assert (here / "ovseg-out" / "ImageSets" / "Segmentation" / "default.txt").read_text() == "a\nsub/b\n"

    def test_a_name_that_looks_like_an_option_can_be_added_as_noted(self, cli, photos):
        assert "ovseg add-class -- -weird cat" in cli("segment", "photos", "-c", "-weird,cat").stderr

    def test_nothing_is_said_of_masks_that_are_not_there(self, cli, here):
        (here / "bad.png").write_bytes(b"")
        assert "SegmentationClass" not in cli("segment", "bad.png", "-c", "cat").stdout

    @pytest.mark.slow
    def test_without_a_terminal_a_line_is_printed_at_each_tenth(self, cli, here):
        for number in range(40):
            paint(here / "many" / f"{number}.png", 1)
        lines = cli("segment", "many", "-c", "cat", "--method", "gem").stderr.splitlines()
        assert [line.partition(" (")[0] for line in lines] == [f"{n} of 40 pictures" for n in range(4, 40, 4)]
        assert cli("segment", "many", "-c", "cat", "--method", "gem").stderr == "", "nothing was to be done"
        for flag in ("-q", "--json"):
            assert cli("segment", "many", "-c", "cat", "--method", "gem", "--overwrite", flag).stderr == ""

    def test_a_tilde_is_the_home_folder(self, cli, photos, monkeypatch, here):
        monkeypatch.setenv("HOME", str(here))
        monkeypatch.chdir(photos)
        assert cli("segment", "~/photos", "-c", "cat", "-o", "~/out").exit_code == 0
        assert (here / "out" / "run.json").is_file()
        (here / "list.txt").write_text("~/photos/a.png\n")
        assert cli("segment", "~/list.txt", "-c", "cat", "-o", "~/out", "--json").data["skipped"] == 1
        labels = here / "labels" / "a.png"
        write_label(labels, np.ones((8, 16), int), LabelMap.from_classes(("cat",)))
        write_labelmap(here / "names.txt", LabelMap.from_classes(("cat",)))
        for source in ("--pred=~/out", "--images=~/photos"):
            result = cli("eval", "--gt=~/labels", source, "--label-map=~/names.txt", "-c", "cat", "-o", "~/report.json")
            assert result.exit_code == 0, result.stderr
            (here / "report.json").unlink()
        assert cli("--store", "~/mine", "add-class", "dog").exit_code == 0
        assert (here / "mine" / "ovseg.db").is_file()
        assert not (photos / "~").exists()

    @pytest.mark.parametrize("args", [("~nobody-here/x",), ("photos", "-o", "~nobody-here/out")])
    def test_the_tilde_of_an_unknown_user_is_an_ordinary_name(self, cli, photos, args):
        assert "unexpected" not in cli("segment", *args, "-c", "cat").stderr

    @pytest.mark.slow
    def test_sigterm_ends_like_ctrl_c(self, photos, here):
        for number in range(200):
            paint(here / "photos" / "many" / f"{number}.png", 1, 0)
        running = Process("segment", "photos", "-c", "cat")
        limit = time.monotonic() + 60
        while not list((here / "ovseg-out" / "SegmentationClass").rglob("*.png")):
            assert running.popen.poll() is None, running.popen.communicate()
            assert time.monotonic() < limit
            time.sleep(0.02)
        running.popen.send_signal(signal.SIGTERM)
        result = running.result()
        assert result.exit_code == 143
        assert result.error == "terminated"
        assert json.loads((here / "ovseg-out" / "run.json").read_text())["status"] == "interrupted"


def test_a_gate_does_not_pass_on_what_is_missing(cli, photos, here):
    labels = LabelMap.from_classes(("cat", "dog"))
    write_labelmap(here / "labels" / "labelmap.txt", labels)
    cli("segment", "photos", "-c", "cat,dog")
    for name in ("a", "b"):
        write_label(here / "labels" / f"{name}.png", np.array([[1] * 8 + [0] * 8] * 8), labels)
    assert cli("eval", "--gt", "labels").exit_code == 3
    result = cli("eval", "--gt", "labels", "--fail-under", "0.1")
    assert result.exit_code == 4
    assert "1 labelled picture without a prediction" in result.stderr


def test_a_contact_sheet_needs_the_suffix_of_a_picture(cli):
    cli("add-class", "cat")
    for name in ("sheet.xyz", "sheet"):
        result = cli("show-class", "cat", "--contact-sheet", name)
        assert result.exit_code == 2
        assert ".png" in result.error


def test_the_demo_looks_at_its_pictures_first(cli, here):
    result = cli("demo", "--images", "nowhere")
    assert result.exit_code == 2
    assert not (here / "ovseg-demo" / "store").exists()


def test_an_empty_store_option_is_refused(cli, here):
    assert cli("--store", "", "list-classes").exit_code == 2
    assert cli("list-classes", "--store", "").exit_code == 2
    assert list(here.iterdir()) == []


def test_add_class_without_a_terminal_says_which_class_is_begun(cli):
    assert cli("add-class", "cat", "dog").stderr.splitlines() == ["making cat (1 of 2)", "making dog (2 of 2)"]
    for flag in ("-q", "--json"):
        assert cli("add-class", "bird", "--if-exists", "replace", flag).stderr == ""


def test_the_demo_looks_for_labels_that_were_named(cli, here, photos):
    result = cli("demo", "--images", "photos", "--gt", "nowhere")
    assert result.exit_code == 2
    assert "--gt" in result.error
    assert not (here / "ovseg-demo").exists()


@pytest.mark.slow
def test_the_demo_says_its_own_options(cli, here, photos):
    assert cli("demo", "--images", "photos").exit_code == 0
    paint(here / "more" / "a.png", 1)
    result = cli("demo", "--images", "more", "--count", "3")
    assert result.exit_code == 2
    assert "--dir" in result.error
    assert "--count" in result.stderr


class TestLabels:
    def test_a_folder_without_labels_is_told_before_its_label_map(self, cli, photos, here):
        cli("segment", "photos", "-c", "cat")
        (here / "empty").mkdir()
        assert "No label image in empty" in cli("eval", "--gt", "empty").error

    def test_colours_without_a_map_are_told(self, cli, photos, here):
        cli("segment", "photos", "-c", "cat")
        paint(here / "labels" / "a.png", 1, 0)
        error = cli("eval", "--gt", "labels").error
        for words in ("RGB", "a.png", "--label-map", "colour"):
            assert words in error


def test_doctor_tells_a_newer_store_from_a_damaged_one(cli, here, own_world, monkeypatch):
    monkeypatch.setattr("ovseg_cli.cli.doctor._devices", lambda: {})
    cli("add-class", "cat", "--store", "mine")
    with sqlite3.connect(here / "mine" / "ovseg.db") as database:
        database.execute("update alembic_version set version_num = '9999'")
    database.close()
    result = cli("doctor", "--store", "mine", "--json")
    assert result.exit_code == 1
    assert result.data["store"]["path"] == str(here / "mine")
    assert "newer" in result.error
    assert "damaged" not in result.error
    assert cli("doctor", "--store", "mine", "-q").stdout == "of another version\n"


@pytest.mark.parametrize("args", [[], ["segment"]])
def test_help_names_no_type_of_flags(cli, args):
    assert "<bool>" not in cli(*args, "--help").stdout
