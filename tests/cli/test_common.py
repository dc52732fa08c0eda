from __future__ import annotations

import shlex
import subprocess
import sys

import pytest

from ovseg_cli.cli.common import Globals
from ovseg_cli.cli.signals import Terminated
from ovseg_cli.errors import UsageError
from tests.cli.conftest import Process


@pytest.mark.parametrize("args", [("--json", "list-classes"), ("list-classes", "--json")])
def test_global_options_work_before_and_after_the_command(cli, args):
    assert cli(*args).data == []


def test_what_stands_later_wins():
    before, after = Globals(device="cpu", json=True, verbose=2), Globals(device="mps", verbose=1)
    assert before.merged(after) == Globals(device="mps", json=True, verbose=2)


def test_the_store_is_found_by_option_before_after_and_environment(cli, here, monkeypatch):
    for args in (["--store", "one", "add-class", "cat"], ["add-class", "cat", "--store", "two"]):
        assert cli(*args).exit_code == 0
    monkeypatch.setenv("OVSEG_STORE", str(here / "three"))
    cli("add-class", "dog")
    assert {name: (here / name / "ovseg.db").is_file() for name in ("one", "two", "three")} == {
        "one": True,
        "two": True,
        "three": True,
    }
    assert [c["name"] for c in cli("--store", "one", "list-classes", "--json").data] == ["cat"], "option beats variable"


@pytest.mark.parametrize(
    "args",
    [
        ("list-classes", "--device", "gpu"),
        ("--device", "cuda:x", "list-classes"),
        ("list-classes", "--json", "-q"),
        ("list-clases",),
        ("segment",),
        ("segment", "x", "--method", "magic"),
        ("segment", "x", "--limit", "0"),
        ("segment", "x", "--threshold", "1.5"),
        ("segment", "x", "--threshold", "nan"),
        ("add-class",),
        ("add-class", "cat", "--count", "0"),
        ("add-class", "cat", "--if-exists", "maybe"),
        ("eval",),
        ("eval", "--gt", "x", "--fail-under", "45"),
    ],
)
def test_bad_usage_is_code_2(cli, args):
    result = cli(*args)
    assert result.exit_code == 2
    assert result.stdout == "" or "--json" in args
    assert "error" in result.stderr.casefold()


def test_a_command_that_does_not_exist_brings_a_suggestion(cli):
    assert "list-classes" in cli("list-clases").stderr


def test_errors_are_one_line_whatever_the_terminal_is(cli, monkeypatch):
    monkeypatch.setenv("COLUMNS", "40")
    result = cli("segment", "nowhere", "-c", "cat")
    assert result.exit_code == 2
    assert "nowhere does not exist" in result.error


def fail_with(monkeypatch, error):
    def refuse(*_, **further):
        raise error

    monkeypatch.setattr("ovseg_cli.cli.common.Common.find_store", refuse)


def test_markup_in_a_message_is_shown_as_it_is(cli, monkeypatch):
    fail_with(monkeypatch, UsageError("got '[red]x[/red]' and [bold"))
    assert cli("list-classes").error == "got '[red]x[/red]' and [bold"


def test_an_unexpected_error_is_one_line_too(cli, monkeypatch):
    fail_with(monkeypatch, ZeroDivisionError("division\nby zero"))
    result = cli("list-classes")
    assert result.exit_code == 1
    assert result.error.startswith("unexpected ZeroDivisionError: division by zero. Set OVSEG_DEBUG=1")
    assert "Traceback" not in result.stderr


@pytest.mark.parametrize(("error", "code"), [(UsageError("no"), 2), (ZeroDivisionError("no"), 1)])
def test_debug_tells_where(cli, monkeypatch, error, code):
    monkeypatch.setenv("OVSEG_DEBUG", "1")
    fail_with(monkeypatch, error)
    result = cli("list-classes")
    assert result.exit_code == code
    assert "Traceback" in result.stderr
    assert "in refuse" in result.stderr


def test_ctrl_c_is_130(cli, monkeypatch):
    fail_with(monkeypatch, KeyboardInterrupt())
    result = cli("list-classes")
    assert (result.exit_code, result.error) == (130, "interrupted")


class TestClosedPipe:
    @pytest.mark.slow
    @pytest.mark.parametrize("args", [["list-classes", "--json"], ["list-classes"], ["--help"], ["profiles"]])
    def test_is_a_quiet_success(self, cli, here, args):
        if args[0] == "list-classes":
            cli("add-class", *(f"class {i}" for i in range(3)))
        process = Process(*args)
        process.popen.stdout.close()
        process.popen.stdout = None
        result = process.result()
        assert result.stderr == ""
        assert result.exit_code == 0

    @pytest.mark.slow
    def test_behind_head(self, here):
        process = Process("profiles", "--json")
        head = subprocess.run(
            ["head", "-n", "1"], stdin=process.popen.stdout, capture_output=True, text=True, check=True
        )
        process.popen.stdout.close()
        process.popen.stdout = None
        assert head.stdout == "[\n"
        assert (process.result().exit_code, process.result().stderr) == (0, "")


def test_library_warnings_are_for_verbose_only(cli, monkeypatch):
    import warnings

    def warn(self):
        warnings.warn("a library's remark", FutureWarning, stacklevel=1)

    monkeypatch.setattr("ovseg_cli.cli.common.Common.find_store", warn)
    assert "remark" not in cli("list-classes").stderr


class TestErrorsAsJson:
    """With --json, a command that fails says why in one document too."""

    @pytest.mark.parametrize("args", [("segment", "nowhere", "--json"), ("--json", "segment", "nowhere")])
    def test_what_was_asked(self, cli, args):
        result = cli(*args)
        assert result.exit_code == 2
        assert result.data == {
            "error": "nowhere does not exist. Name an image, a folder, a quoted pattern or a list.",
            "hint": "Name an image, a folder, a quoted pattern or a list.",
            "exit_code": 2,
        }
        assert result.error == result.data["error"], "people read it on stderr"

    @pytest.mark.parametrize("args", [("segment", "x", "--nope"), ("list-clases",), ("segment",), ("--store",)])
    def test_what_was_typed(self, cli, args):
        result = cli("--json", *args)
        assert result.exit_code == 2
        assert result.data["exit_code"] == 2
        assert result.data["error"]

    @pytest.mark.parametrize(
        ("error", "code"), [(ZeroDivisionError("no"), 1), (KeyboardInterrupt(), 130), (Terminated(), 143)]
    )
    def test_what_happened(self, cli, monkeypatch, error, code):
        fail_with(monkeypatch, error)
        result = cli("list-classes", "--json")
        assert (result.exit_code, result.data["exit_code"]) == (code, code)

    def test_a_result_stays_the_only_document(self, cli, photos):
        (photos / "bad.jpg").write_bytes(b"cut")
        result = cli("segment", "photos", "-c", "cat", "--json")
        assert result.exit_code == 3
        assert result.data["failed"] == 1


@pytest.mark.parametrize("option", ["--gt", "--pred", "--images", "-o", "--report"])
def test_one_value_means_one(cli, option):
    result = cli("eval", "--gt", "a", option, "1", option, "2")
    assert result.exit_code == 2
    assert "is given more than once" in result.stderr


def test_several_values_may_be_several_and_global_options_may_be_overridden(cli, photos):
    result = cli("--store", "a", "segment", "photos", "-c", "cat", "-c", "dog", "--store", "b", "--store", "c")
    assert result.exit_code == 0, result.stderr


class TestCompletion:
    @pytest.fixture
    def complete(self, cli, here):
        def offered(*words):
            process = Process(
                env={
                    "_OVSEG_COMPLETE": "complete_bash",
                    "COMP_WORDS": shlex.join(words) if words[-1] else shlex.join(words[:-1]) + " ",
                    "COMP_CWORD": str(len(words) - 1),
                },
            )
            return process.result().stdout.split()

        return offered

    @pytest.mark.slow
    def test_classes_of_the_store_that_is_named(self, cli, complete):
        cli("add-class", "cat", "dog", "donkey")
        cli("--store", "other", "add-class", "doormat")
        assert complete("ovseg", "show-class", "do") == ["dog", "donkey"]
        assert complete("ovseg", "segment", "x", "--classes", "cat,do") == ["cat,dog", "cat,donkey"]
        assert complete("ovseg", "segment", "x", "--classes", "DOG,do") == ["DOG,donkey"]
        assert complete("ovseg", "--store", "other", "show-class", "") == ["doormat"]
        assert complete("ovseg", "--store", "nowhere", "show-class", "") == []

    @pytest.mark.slow
    def test_methods_and_profiles(self, complete):
        assert complete("ovseg", "segment", "x", "--method", "clip") == ["clipsurgery", "cliper-coarse", "cliper"]
        assert complete("ovseg", "--profile", "s") == ["sd15"]

    def test_nothing_heavy_is_loaded_for_it(self, cli):
        cli("add-class", "cat")
        code = (
            "import sys, types\nfrom ovseg_cli.cli import complete\n"
            "ctx = types.SimpleNamespace(params={}, parent=None)\n"
            "assert complete.complete_class(ctx, '') == ['cat'] and complete.complete_profile('m') == ['mini']\n"
            "print([m for m in ('torch', 'numpy', 'sqlalchemy', 'faiss') if m in sys.modules])\n"
        )
        done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
        assert done.stdout == "[]\n"
