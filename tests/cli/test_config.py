"""Defaults for options from files: what goes before what, what is refused, and where each value is said to be from."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest
import typer

from ovseg_cli.cli.app import app
from ovseg_cli.cli.defaults import commands_with_defaults, project_file, user_file
from ovseg_cli.runs.manifest import read_manifest

ROOT = typer.main.get_command(app)


@pytest.fixture
def project(here):
    """Write the project's file."""

    def write(text):
        (here / "ovseg.toml").write_text(text, encoding="utf-8")
        return here / "ovseg.toml"

    return write


@pytest.fixture
def own():
    """Write the user's file."""

    def write(text):
        user_file().parent.mkdir(parents=True, exist_ok=True)
        user_file().write_text(text, encoding="utf-8")
        return user_file()

    return write


def values(result):
    return {row["option"]: (row["value"], row["from"]) for row in result.data}


# --------------------------------------------------------------------------- what goes before what


def test_typed_goes_before_the_environment_the_project_the_user_and_what_is_built_in(
    cli, photos, project, own, monkeypatch
):
    own('device = "cuda:7"\n[segment]\noutput = "of-user"\nlimit = 1\n')
    where = project('device = "cpu"\n[segment]\nmethod = "gem"\n')
    cli("add-class", "cat")
    shown = values(cli("config", "show", "--json"))
    assert shown["device"] == ("cpu", f"{where}, line 1")
    assert shown["segment.method"] == ("gem", f"{where}, line 3")
    assert shown["segment.limit"] == (1, f"{user_file()}, line 4")
    assert shown["segment.output"] == (str(user_file().parent / "of-user"), f"{user_file()}, line 3")
    assert shown["precision"] == ("auto", "default")
    assert shown["profile"] == ("mini", "OVSEG_PROFILE")
    data = cli("segment", photos, "--dry-run", "--json").data
    assert data["method"] == "gem"
    assert len(data["images"]) == 1
    data = cli("segment", photos, "--dry-run", "--json", "--method", "auto", "--limit", 5, "-o", "mine").data
    assert data["method"] == "prototype"
    assert len(data["images"]) == 2
    assert data["output"].endswith("work/mine")


def test_the_environment_goes_before_files(cli, project, monkeypatch):
    project('store = "of-file"\nprofile = "sd15"\n')
    assert cli("add-class", "cat", "--dry-run", "--json").data[0]["profile"] == "mini"
    assert "of-file" not in cli("list-classes").stdout
    monkeypatch.delenv("OVSEG_STORE")
    assert values(cli("config", "--json"))["store"][0].endswith("of-file")


@pytest.mark.parametrize("flags", [[], ["--no-quiet"]])
def test_flags_of_a_file_can_be_taken_back(cli, own, flags):
    own("quiet = true\noffline = true\n")
    cli("add-class", "cat")
    text = cli("list-classes", *flags).stdout
    assert (text == "cat\n") == (flags == [])
    assert cli(*flags, "list-classes").stdout == text


def test_json_goes_before_a_quiet_of_a_file_and_not_before_one_that_is_typed(cli, own):
    own("quiet = true\n")
    assert cli("list-classes", "--json").data == []
    assert cli("--json", "list-classes").data == []
    assert cli("list-classes", "--json", "-q").exit_code == 2


def test_an_overlay_of_a_file_can_be_taken_back(cli, photos, project, here):
    project("[segment]\noverlay = true\n")
    cli("add-class", "cat")
    cli("segment", photos, "-o", "with")
    cli("segment", photos, "-o", "without", "--no-overlay")
    assert (here / "with" / "overlay").is_dir()
    assert not (here / "without" / "overlay").exists()


def test_lists_are_replaced_as_a_whole(cli, photos, project):
    project('[segment]\nclasses = ["cat", "dog"]\nmethod = "gem"\n')
    assert cli("segment", photos, "--dry-run", "--json").data["classes"] == ["cat", "dog"]
    assert cli("segment", photos, "--dry-run", "--json", "-c", "bird").data["classes"] == ["bird"]
    project('[segment]\nclasses = "cat,dog"\nmethod = "gem"\n')
    assert cli("segment", photos, "--dry-run", "--json").data["classes"] == ["cat", "dog"]


def test_what_is_typed_puts_out_its_rival_in_a_file(cli, photos, project, here):
    project('[segment]\nclasses = ["cat"]\nmethod = "gem"\n')
    (here / "classes.txt").write_text("dog\n")
    assert cli("segment", photos, "--dry-run", "--json", "--class-file", "classes.txt").data["classes"] == ["dog"]


def test_a_project_is_found_from_below_up_to_its_repository(cli, project, here, monkeypatch):
    file = project('device = "cpu"\n')
    below = here / "a" / "b"
    below.mkdir(parents=True)
    monkeypatch.chdir(below)
    assert project_file() == file
    (here / "a" / ".git").mkdir()
    assert project_file() is None
    (here / "a" / "ovseg.toml").write_text("")
    assert project_file() == here / "a" / "ovseg.toml"


def test_the_search_ends_at_home(here, project, monkeypatch):
    project("")
    home = here / "home"
    (home / "sub").mkdir(parents=True)
    monkeypatch.setenv("HOME", str(home))
    monkeypatch.chdir(home / "sub")
    assert project_file() is None


def test_one_file_can_take_the_place_of_both(cli, project, own, here, monkeypatch):
    project('device = "cuda:1"')
    own('precision = "float16"')
    (here / "other.toml").write_text('device = "cuda:2"')
    monkeypatch.setenv("OVSEG_CONFIG", str(here / "other.toml"))
    shown = values(cli("config", "--json"))
    assert (shown["device"][0], shown["precision"][1]) == ("cuda:2", "default")
    monkeypatch.setenv("OVSEG_CONFIG", os.devnull)
    assert values(cli("config", "--json"))["device"] == ("auto", "default")


# --------------------------------------------------------------------------- a project of somebody else


@pytest.mark.slow
@pytest.mark.parametrize("path", ["../x", "/etc/x", "~/x", "sub/../../x", "link/x"])
@pytest.mark.parametrize(
    "option", ['store = "{}"', '[segment]\noutput = "{}"', '[eval]\ngt = "{}"', 'profile = "{}.toml"']
)
def test_no_path_leads_out_of_a_project(cli, project, own, here, tmp_path, path, option):
    (here / "link").symlink_to(tmp_path)
    project(option.format(path))
    result = cli("list-classes")
    assert result.exit_code == 2
    assert "leads out of the project's folder" in result.error
    assert f"ovseg.toml, line {option.count(chr(10)) + 1}: " in result.error
    (here / "ovseg.toml").unlink()
    own(option.format(path))
    assert cli("config").exit_code == 0


def test_paths_of_a_project_begin_at_its_file(cli, project, here, monkeypatch):
    project('[segment]\noutput = "results/a"\n')
    (here / "sub").mkdir()
    monkeypatch.chdir(here / "sub")
    assert values(cli("config", "--json"))["segment.output"][0] == str(here / "results" / "a")


def test_what_a_project_sets_is_told_where_it_counts(cli, photos, project):
    file = project('device = "cpu"\n[segment]\nmethod = "gem"\n[eval]\nignore = 3\n')
    told = cli("segment", photos, "-c", "cat", "--dry-run").stderr
    assert f"note: {file} sets device, segment.method" in " ".join(told.split())
    assert "eval" not in told
    told = cli("segment", photos, "-c", "cat", "--dry-run", "--method", "gem", "--device", "cpu").stderr
    assert "sets" not in told
    assert cli("list-classes", "-q").stderr == ""


def test_a_project_file_of_another_user_is_left_alone(cli, project, monkeypatch):
    project('device = "cuda:1"')
    monkeypatch.setattr(os, "geteuid", lambda: os.getuid() + 1)
    if os.getuid() == 0:  # what root has written is trusted
        os.chown("ovseg.toml", 12345, 12345)
    result = cli("config", "--json")
    assert values(result)["device"] == ("auto", "default")
    assert "belongs to another user and is left alone" in " ".join(cli("list-classes").stderr.split())


# --------------------------------------------------------------------------- what is wrong

WRONG = [
    ('device = "gpu"', "line 1: device: got 'gpu'; choose auto, cpu, mps, cuda or cuda:N."),
    ("device = 1", "line 1: device must be a text in quotes, got 1."),
    ('offline = "yes"', 'line 1: offline must be true or false, got "yes".'),
    ('\ndevise = "cpu"', "line 2: There is no option 'devise' that a file can set. Did you mean 'device'?"),
    ("json = true", "line 1: json cannot be set in a file: it is said on the command line, each time."),
    ("[segment]\noverwrite = true", "line 2: overwrite cannot be set in a file"),
    ('[add-class]\nif-exists = "replace"', "line 2: if-exists cannot be set in a file"),
    ("[remove-class]\nyes = true", "no command 'remove-class' with options that a file can set."),
    ("[segment]\nshort_side = 4", "line 2: there is no option 'short_side'. It is written 'short-side'."),
    ("[segment]\nshort-side = 4.5", "line 2: segment.short-side must be a whole number, got 4.5."),
    ("segment = 1", "line 1: segment is a command: its options stand in a table of their own, under [segment]."),
    ("[segment]\nthreshold = 2", "line 2: segment.threshold: Input should be less than or equal to 1"),
    ('[segment]\nrefine = "pam"', "line 2: segment.refine: Value error, 'pam' is not one of 'none', 'pamr'."),
    ("[segment]\nclasses = [1]", "line 2: segment.classes must be a text in quotes, got 1."),
    ('[segment]\ndevice = "cpu"', "line 2: device is an option of all commands: it stands at the beginning"),
    ("overlay = true", "line 1: overlay is an option of segment: put it under [segment]."),
    (
        "[segmnt]\nx = 1",
        "line 1: there is no command 'segmnt' with options that a file can set. Did you mean 'segment'?",
    ),
    ("[segment]\ninput = 'x'", "line 2: segment has no option 'input'"),
    ('store = ""', "line 1: store: is empty; name a folder."),
    ("x = = 1", "line 1: this is no TOML"),
]


@pytest.mark.parametrize(("text", "told"), WRONG, ids=[told for _, told in WRONG])
def test_what_is_wrong_is_told_with_its_line(cli, project, text, told):
    file = project(text)
    result = cli("list-classes")
    assert result.exit_code == 2
    assert result.error.startswith(str(file))
    assert told in result.error
    assert cli("list-classes", "--json").data["exit_code"] == 2
    # What helps to repair it works all the same.
    assert cli("config", "show").error == result.error
    assert cli("config", "path").exit_code == 0
    assert cli("segment", "--help").exit_code == 0
    assert cli("--version").exit_code == 0


def test_a_value_that_a_command_refuses_is_said_to_be_from_the_file(cli, photos, project):
    file = project('[segment]\nmethod = "gemm"\n')
    error = cli("segment", photos, "-c", "cat").error
    assert "Unknown method 'gemm'" in error
    assert error.endswith(f"(segment.method is set in {file}, line 2)")
    assert "is set in" not in cli("segment", photos, "-c", "cat", "--method", "semm").error


# --------------------------------------------------------------------------- config


def test_where_the_files_are(cli, here, own):
    data = cli("config", "path", "--json").data
    assert data["project"] == {"path": str(here / "ovseg.toml"), "exists": False}
    assert data["user"] == {"path": str(user_file()), "exists": False}
    assert data["profiles"]["path"] == str(user_file().parent / "profiles")
    own("")
    assert cli("config", "path", "--json").data["user"]["exists"]
    assert cli("config", "path", "-q").stdout.splitlines()[1] == str(user_file())


@pytest.mark.slow
@pytest.mark.parametrize("flags", [[], ["--user"]])
def test_a_new_file_is_sound_with_and_without_its_marks(cli, here, flags):
    file = Path(cli("config", "new", *flags, "-q").stdout.strip())
    assert file == (user_file() if flags else here / "ovseg.toml")
    assert all(row["from"] in ("default", "OVSEG_STORE", "OVSEG_PROFILE") for row in cli("config", "--json").data)
    text = file.read_text(encoding="utf-8")
    for command, options in commands_with_defaults(ROOT).items():
        section = text.partition(f"[{command}]\n" if command else "\n\n")[2].partition("\n[")[0]
        assert [line.split()[1] for line in section.splitlines() if line.startswith("# ")] == list(options)
    assert cli("config", "new", *flags).exit_code == 2


def test_options_that_a_file_can_set_can_be_taken_back_on_the_command_line():
    for command, options in commands_with_defaults(ROOT).items():
        for key, parameter in options.items():
            assert parameter.secondary_opts or not parameter.is_flag, (command, key)
    assert {"store", "profile", "device", "precision", "offline", "quiet"} == set(commands_with_defaults(ROOT)[""])
    assert {"output", "overlay", "method", "threshold", "classes"} < set(commands_with_defaults(ROOT)["segment"])


def test_the_record_of_a_run_says_what_came_from_a_file(cli, photos, project, here):
    file = project('device = "cpu"\n[segment]\noutput = "out"\nthreshold = 0.25\n')
    cli("add-class", "cat")
    cli("segment", photos, "-c", "cat", "--threshold", 0.5)
    manifest = read_manifest(here / "out")
    assert manifest.configured == {
        "device": {"value": "cpu", "from": f"{file}, line 1"},
        "segment.output": {"value": str(here / "out"), "from": f"{file}, line 3"},
    }
    assert manifest.options["threshold"] == 0.5
    assert json.loads((here / "out" / "run.json").read_text())["configured"]


def test_completion_knows_the_store_of_a_file(cli, project, monkeypatch, here):
    cli("--store", "S", "add-class", "cat")
    project('store = "S"\n')
    monkeypatch.delenv("OVSEG_STORE")
    monkeypatch.setenv("_OVSEG_COMPLETE", "complete_bash")
    monkeypatch.setenv("COMP_WORDS", "ovseg show-class ca")
    monkeypatch.setenv("COMP_CWORD", "2")
    assert "cat" in cli().stdout
