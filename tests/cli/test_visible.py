"""No name from a file, a label map or a store acts on the terminal that shows it."""

from __future__ import annotations

import doctest
import io
import json
import os
import pty
import re
import sqlite3
import subprocess
import sys

import pytest

from ovseg_cli.cli import visible as module
from ovseg_cli.cli.output import Output, SafeConsole, dump_json, fields, table
from ovseg_cli.cli.visible import visible
from tests.cli.conftest import REPOSITORY
from tests.runs.conftest import paint

TITLE = "\x1b]0;owned\x07"
EVIL = f"a{TITLE}\x9b31m\u202eb\nerror: fake\u2066"
ACTING = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u061c\u200e\u200f\u202a-\u202e\u2066-\u2069]")


def test_examples_in_docstrings():
    assert doctest.testmod(module).failed == 0


def test_other_scripts_and_emoji_stay():
    for text in ("猫 כלב قطة", "👩‍👩‍👧", "é", "tab\u00a0space", "\u200d"):
        assert visible(text) == text


def test_a_shown_text_is_one_line_unless_it_may_be_more():
    assert visible("a\nb") == "a\\nb"
    assert visible("a\nb\x1b", lines=True) == "a\nb\\x1b"


class TestOutput:
    @pytest.fixture
    def out(self, monkeypatch):
        out = Output()
        for name in ("stdout", "stderr"):
            console = SafeConsole(file=io.StringIO(), force_terminal=True, width=200, color_system=None)
            setattr(out, name, console)
        return out

    @pytest.mark.parametrize("say", ["line", "hint", "note", "warning", "error"])
    def test_sentences_are_single_lines(self, out, say):
        getattr(out, say)(EVIL)
        text = out.stdout.file.getvalue() + out.stderr.file.getvalue()
        assert not ACTING.search(text)
        assert text.count("\n") == 1
        assert "\\x1b]0;owned\\x07\\x9b31m\\u202eb" in text

    def test_parts_and_tables(self, out):
        out.line((EVIL, "bold"), " and ", EVIL)
        out.show(table((("class"), "left"), rows=[(EVIL,)]))
        out.show(fields([(EVIL, EVIL)]))
        assert not ACTING.search(out.stdout.file.getvalue())

    def test_whatever_else_a_console_prints(self, out):
        out.stdout.print(EVIL)
        assert not ACTING.search(out.stdout.file.getvalue())

    def test_progress_keeps_its_own_codes_only(self, out):
        with out.progress() as bars:
            bars.start(EVIL, total=3)
        text = out.stderr.file.getvalue()
        assert "\x1b[" in text
        assert "\x1b]0;" not in text
        assert "\x9b" not in text


def test_json_means_the_same_and_does_not_act():
    text = dump_json({"name": EVIL})
    assert json.loads(text) == {"name": EVIL}
    assert not ACTING.search(text)


@pytest.mark.slow
def test_bare_values_are_byte_true_for_programs(here):
    name = os.fsdecode(b"caf\xe9" + TITLE.encode())
    paint(here / "photos" / f"{name}.png", 1)
    done = subprocess.run(
        [sys.executable, "-m", "tests.doubles", "segment", "photos", "-c", "cat", "--dry-run", "-q"],
        env=os.environ | {"PYTHONPATH": str(REPOSITORY), "OVSEG_PROFILE": "mini"},
        capture_output=True,
        check=True,
    )
    assert done.stdout == b"photos/" + os.fsencode(name) + b".png\n"


@pytest.mark.slow
def test_bare_values_are_visible_on_a_terminal(here):
    paint(here / "photos" / f"a{TITLE}.png", 1)
    master, slave = pty.openpty()
    subprocess.run(
        [sys.executable, "-m", "tests.doubles", "segment", "photos", "-c", "cat", "--dry-run", "-q"],
        env=os.environ | {"PYTHONPATH": str(REPOSITORY), "OVSEG_PROFILE": "mini"},
        stdout=slave,
        stderr=subprocess.DEVNULL,
        check=True,
    )
    os.close(slave)
    shown = os.read(master, 10_000)
    os.close(master)
    assert shown == b"photos/a\\x1b]0;owned\\x07.png\r\n"


def test_names_of_files_classes_and_rows_of_a_store(cli, here, own_world):
    paint(here / "photos" / f"a{TITLE}.png", 1)
    (here / "photos" / f"b{TITLE}\x9b.png").write_bytes(b"no picture")
    cli("add-class", "cat")
    with sqlite3.connect(own_world / "store" / "ovseg.db") as database:
        database.execute("update category set name = ?", (f"cat{TITLE}",))
    database.close()
    labelmap = here / "labelmap.txt"
    labelmap.write_text(f"background:0,0,0::\ncat{TITLE}\u202e:128,0,0::\n", encoding="utf-8")
    for args in (
        ("segment", "photos", "-c", "dog"),
        ("segment", "photos", "-c", "dog", "--dry-run"),
        ("segment", f"nowhere{TITLE}", "-c", "dog"),
        ("segment", "photos", f"--no{TITLE}"),
        (f"no{TITLE}",),
        ("list-classes",),
        ("eval", "--gt", "photos", "--pred", "photos", "--label-map", "labelmap.txt"),
    ):
        result = cli(*args)
        assert not ACTING.search(result.stdout + result.stderr), args
