from __future__ import annotations

import doctest
import io
import json

import pytest
from rich.console import Console

from ovseg_cli.cli import options, output
from ovseg_cli.cli.output import Output, dump_json, table


@pytest.mark.parametrize("module", [output, options])
def test_examples_in_docstrings(module):
    found = doctest.testmod(module)
    assert found.attempted > 0
    assert found.failed == 0


def test_tables_show_names_as_they_are():
    console = Console(width=60, record=True, file=io.StringIO())
    console.print(table(("class", "left"), ("n", "right"), rows=[("[red]cat[/red]", "1"), ("猫", "23")]))
    lines = console.export_text().splitlines()
    assert lines[1].split() == ["[red]cat[/red]", "1"]
    assert lines[2].split() == ["猫", "23"]


def test_long_names_fold_and_figures_stay_whole():
    console = Console(width=30, record=True, file=io.StringIO())
    console.print(table(("class", "left"), ("pixels", "right"), rows=[("w" * 60, "12.3 %")]))
    text = console.export_text()
    assert text.count("w") == 60
    assert "12.3 %" in text


def test_json_escapes_only_where_it_must():
    assert json.loads(dump_json({"猫": 1}, "ascii")) == {"猫": 1}
    assert "猫" in dump_json({"猫": 1}, "utf-8")
    assert "猫" not in dump_json({"猫": 1}, "ascii")
    with pytest.raises(ValueError, match="JSON"):
        dump_json(float("nan"))


def test_only_the_result_reaches_stdout(capsys):
    for mode, expected in (("human", "hello\n"), ("json", "1\n"), ("quiet", "a\nb\n")):
        out = Output(mode=mode)
        out.hint("h")
        out.note("n")
        out.warning("w")
        out.error("e")
        out.result(1, human=lambda out=out: out.line("hello"), quiet=["a", "b"])
        captured = capsys.readouterr()
        assert captured.out == expected
        assert captured.err == ("h\n" if mode == "human" else "") + "note: n\nwarning: w\nerror: e\n"


@pytest.mark.parametrize("mode", ["human", "json", "quiet"])
def test_no_progress_without_a_terminal(capsys, mode):
    with Output(mode=mode).progress() as bars:
        bar = bars.start("working", total=3)
        bars.update(bar, done=2)
        bars.remove(bar)
    captured = capsys.readouterr()
    assert captured.out + captured.err == ""


def test_progress_on_a_terminal_says_how_far_and_how_long(monkeypatch):
    out = Output()
    out.stderr = Console(force_terminal=True, width=80, record=True, file=io.StringIO(), legacy_windows=False)
    with out.progress() as bars:
        unknown = bars.start("loading")
        bars.remove(unknown)
        bar = bars.start("cat: generating", total=16)
        clock = iter(range(0, 1000, 2))
        bars._bars.get_time = lambda: float(next(clock))
        bars.update(bar, done=4)
        bars.update(bar, done=8)
        bars._bars.refresh()
        text = out.stderr.export_text()
    assert "cat: generating" in text
    assert " 8/16" in text
    assert " left" in text


def test_what_is_printed_while_a_bar_is_shown_stands_on_lines_of_its_own():
    out, screen = Output(), io.StringIO()
    out.stderr = Console(force_terminal=True, width=80, file=screen, legacy_windows=False)
    out.stdout = Console(width=80, file=screen)
    with out.progress() as bars:
        bars.start("cat", total=16)
        out.line("dog: done")
        bars.start("bird", total=16)
    before, _, after = screen.getvalue().partition("dog: done\n")
    assert before.endswith("\x1b[2K"), "the line of the bar is cleared first"
    assert "cat" in after, "and the bar comes back below"
