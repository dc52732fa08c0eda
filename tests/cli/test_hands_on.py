"""What an hour of hands-on use found."""

from __future__ import annotations

import json
import os
import signal
import time

import numpy as np
import pytest

from ovseg_cli.files.labels import write_label, write_labelmap
from ovseg_cli.runs.segment import labelmap_of
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

    def test_a_tilde_is_the_home_folder(self, cli, photos, monkeypatch, here):
        monkeypatch.setenv("HOME", str(here))
        assert cli("segment", "~/photos", "-c", "cat").exit_code == 0

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
        assert json.loads((here / "ovseg-out" / "run.json").read_text())["status"] == "interrupted"


def test_a_gate_does_not_pass_on_what_is_missing(cli, photos, here):
    labels = labelmap_of(("cat", "dog"))
    write_labelmap(here / "labels" / "labelmap.txt", labels)
    cli("segment", "photos", "-c", "cat,dog")
    for name in ("a", "b"):
        write_label(here / "labels" / f"{name}.png", np.array([[1] * 8 + [0] * 8] * 8), labels)
    assert cli("eval", "--gt", "labels").exit_code == 0
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
