"""Folders in which something is wrong: it is told, and everything else is done."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import time
import unicodedata
from pathlib import Path

import numpy as np
import pytest

from ovseg_cli.files.labels import LabelMap, write_label, write_labelmap
from ovseg_cli.runs.journal import read_journal
from tests.files.test_images import png_of_size
from tests.runs.conftest import paint


def failures(result) -> dict[str, str]:
    return {Path(failure["path"]).name: failure["reason"] for failure in result.data["failures"]}


@pytest.mark.parametrize("name", ["self.jpg", "dead.jpg"])
def test_a_link_that_leads_nowhere_fails_alone(cli, photos, name):
    (photos / name).symlink_to(name if name == "self.jpg" else "nowhere.jpg")
    result = cli("segment", "photos", f"photos/{name}", "-c", "cat", "--json")
    assert result.exit_code == 3
    assert result.data["done"] == 2
    assert list(failures(result)) == [name]
    assert any(words in failures(result)[name] for words in ("symbolic links", "does not exist"))


def test_a_name_too_long_for_its_label_map_fails_alone(cli, photos):
    name = "x" * 252 + ".j"  # with .png behind it, 258 bytes
    shutil.copy(photos / "a.png", photos / name)
    for _ in range(2):
        result = cli("segment", "photos", "-c", "cat", "--json")
        assert result.exit_code == 3
        assert result.data["done"] + result.data["skipped"] == 2
        assert "too long a name" in failures(result)[name]


def test_folders_that_all_link_to_each_other_are_visited_once(cli, here, photos):
    folders = [here / "many" / f"f{i}" for i in range(14)]
    for folder in folders:
        folder.mkdir(parents=True)
        for other in folders:
            if other is not folder:
                (folder / other.name).symlink_to(other)
        shutil.copy(photos / "a.png", folder / "a.png")
    started = time.perf_counter()
    for given in ("many", "many/**/*.png"):
        result = cli("segment", given, "-c", "cat", "--dry-run", "--json")
        assert len(result.data["images"]) == 14
    assert time.perf_counter() - started < 30, "there are 14! ways through these links"


def test_a_picture_of_one_column_and_many_millions_of_rows_fails_alone(cli, photos):
    (photos / "tall.png").write_bytes(png_of_size(1, 178_000_000))
    (photos / "short.png").write_bytes(png_of_size(1000, 170_000))
    result = cli("segment", "photos", "-c", "cat", "--json")
    assert result.exit_code == 3
    assert result.data["done"] == 2
    assert "a side may have 1000000" in failures(result)["tall.png"]
    assert "too short for the 1000 x 170000 pixels" in failures(result)["short.png"]


@pytest.mark.parametrize(
    "command",
    [
        ("segment", "photos", "--class-file", "pipe"),
        ("segment", "photos", "--image-classes", "pipe"),
        ("segment", "pipe", "-c", "cat"),
        ("segment", "pipe.txt", "-c", "cat"),
        ("segment", "list.txt", "-c", "cat"),
        ("import-class", "pipe"),
        ("eval", "--gt", "photos", "--pred", "photos", "--label-map", "pipe"),
        ("explain", "pipe", "-c", "cat", "--at", "1,1"),
    ],
    ids=lambda command: " ".join(command[:3]),
)
def test_a_pipe_is_told_and_never_opened(cli, photos, here, command):
    for name in ("pipe", "pipe.txt"):
        os.mkfifo(here / name)
    (here / "list.txt").write_text("pipe\n")
    result = cli(*command)  # would wait forever for someone to write
    assert result.exit_code != 0
    assert "is a pipe" in result.stderr


def test_pictures_in_formats_that_are_not_read_are_told_beside_others(cli, photos):
    for name in ("IMG_2.HEIC", "IMG_3.heic", "scan.jp2", "notes.md"):
        (photos / name).write_bytes(b"\0" * 16)
    result = cli("segment", "photos", "-c", "cat", "--dry-run")
    assert "left out 2 .heic, 1 .jp2: convert them first" in result.stderr
    assert ".md" not in result.stderr


class TestNamesThatAreNoUnicode:
    NAME = os.fsdecode(b"caf\xe9.png")

    @pytest.fixture
    def odd(self, photos):
        shutil.copy(photos / "a.png", photos / self.NAME)
        return photos

    def test_json_stays_json(self, cli, odd):
        assert cli("segment", "photos", "-c", "cat", "--json").exit_code == 0
        result = cli("segment", "photos", "-c", "cat", "--dry-run", "--json")
        assert f"photos/{self.NAME}" in [item["path"] for item in result.data["images"]]
        assert "\\udce9" in result.stdout

    def test_the_journal_knows_them(self, cli, odd, here):
        cli("segment", "photos", "-c", "cat")
        assert any(path.endswith(self.NAME) for path in read_journal(here / "ovseg-out"))
        assert cli("segment", "photos", "-c", "cat", "--json").data["skipped"] == 3

    @pytest.mark.slow
    @pytest.mark.parametrize(("quiet", "name"), [([], rb"photos/caf\xe9.png"), (["-q"], b"photos/caf\xe9.png")])
    def test_a_strict_terminal_sees_them_and_a_pipe_gets_the_bytes(self, odd, here, quiet, name):
        command = [sys.executable, "-m", "ovseg_cli", "segment", "photos", "-c", "cat", "--method", "gem"]
        environment = os.environ | {"PYTHONIOENCODING": "utf-8:strict", "OVSEG_PROFILE": "mini"}
        done = subprocess.run([*command, "--dry-run", *quiet], capture_output=True, env=environment, cwd=here)
        assert done.returncode == 0, done.stderr
        assert name in done.stdout


class TestNamesInTwoForms:
    COMPOSED = "caf\u00e9"
    DECOMPOSED = unicodedata.normalize("NFD", COMPOSED)

    def test_labels_find_their_label_maps(self, cli, here):
        paint(here / "photos" / f"{self.COMPOSED}.png", 1, 0)
        labels = LabelMap.from_classes(("cat",))
        write_labelmap(here / "labels" / "labelmap.txt", labels)
        ids = [[1] * 8 + [0] * 8] * 8
        write_label(here / "labels" / f"{self.DECOMPOSED}.png", np.array(ids), labels)
        result = cli("eval", "--images", "photos", "--gt", "labels", "-c", "cat", "--json")
        assert (result.data["images"], result.data["missing"], result.data["miou"]) == (1, [], 1.0)

    def test_lists_find_their_pictures(self, cli, here):
        paint(here / f"{self.DECOMPOSED} x" / f"{self.DECOMPOSED}.png", 1)
        (here / "list.txt").write_text(f"{self.COMPOSED} x/{self.COMPOSED}.png\n")
        result = cli("segment", "list.txt", "-c", "cat", "--dry-run", "--json")
        assert [Path(item["path"]).name for item in result.data["images"]] == [f"{self.DECOMPOSED}.png"]
