"""Profiles of the user's own on the command line: written, listed, pulled, and used from end to end."""

from __future__ import annotations

import re
import shutil

import pytest

from ovseg_cli.profiles import PROFILES
from ovseg_cli.profiles.own import own_folder
from tests.cli.conftest import Result
from tests.mini import EXAMPLES, MINI_FOLDER


@pytest.fixture
def real(here):
    """Runs a command in this process with the real, bundled models."""
    from typer.testing import CliRunner

    from ovseg_cli.cli.app import app

    def run(*args):
        result = CliRunner().invoke(app, [str(arg) for arg in args], prog_name="ovseg")
        if result.exception is not None and not isinstance(result.exception, SystemExit):
            raise result.exception
        return Result(result.exit_code, result.stdout, result.stderr)

    return run


def change(file, *changes):
    text = file.read_text(encoding="utf-8")
    for pattern, new in changes:
        text, count = re.subn(pattern, new, text, flags=re.DOTALL)
        assert count
    file.write_text(text, encoding="utf-8")


def test_a_new_file_is_taken_at_once(cli, here):
    assert cli("profiles", "new", "my.toml", "--from", "mini", "-q").stdout == "my.toml\n"
    assert cli("--profile", "my.toml", "--store", "S", "add-class", "cat").exit_code == 0
    assert cli("--store", "S", "doctor", "--json").data["store"]["profile"] == "my"
    assert cli("profiles", "new", "my.toml").exit_code == 2
    assert cli("profiles", "new", "sd15.toml").exit_code == 2
    assert "Did you mean 'mini'?" in cli("profiles", "new", "x.toml", "--from", "minni").error
    assert not (here / "x.toml").exists()


def test_from_a_file_another_one_is_made(cli, here):
    cli("profiles", "new", "a.toml", "--from", "mini")
    change(here / "a.toml", (r"guidance = 4.0", "guidance = 5.5"))
    cli("profiles", "new", "b.toml", "--from", "a.toml")
    assert "guidance = 5.5" in (here / "b.toml").read_text()


def test_profiles_lists_those_of_the_folder_and_says_what_is_wrong_with_them(cli, here):
    own_folder().mkdir(parents=True)
    cli("profiles", "new", own_folder() / "mine.toml", "--from", "mini")
    (own_folder() / "bad.toml").write_text("[generator]\nsteps = 0\n")
    data = {item["name"]: item for item in cli("profiles", "--json").data}
    assert list(data) == [*PROFILES, "mine", "bad"]
    assert data["mine"]["ready"]
    assert data["mine"]["file"] == str(own_folder() / "mine.toml")
    assert data["mini"]["file"] is None
    assert "bad.toml" in data["bad"]["error"]
    text = cli("profiles").stdout
    assert re.search(r"mine +here", text)
    assert re.search(r"bad +cannot be", text)
    assert cli("profiles", "-q").stdout.split() == [*PROFILES, "mine"]
    # What is broken there is in nobody's way.
    assert cli("--profile", "mine", "--store", "S", "add-class", "cat").exit_code == 0
    assert cli("list-classes").exit_code == 0
    assert cli("doctor", "--json").data["profiles"]["mine"] == "ready"
    assert "bad.toml" in cli("doctor", "--json").data["profiles"]["bad"]


def test_a_file_in_the_environment(cli, here, monkeypatch):
    cli("profiles", "new", "my.toml", "--from", "mini")
    monkeypatch.setenv("OVSEG_PROFILE", "my.toml")
    cli("--store", "S", "add-class", "cat")
    assert cli("--store", "S", "doctor", "--json").data["store"]["profile"] == "my"


def test_a_file_in_the_projects_file(cli, here, monkeypatch):
    cli("profiles", "new", "my.toml", "--from", "mini")
    (here / "ovseg.toml").write_text('profile = "my.toml"\nstore = "S"\n')
    monkeypatch.delenv("OVSEG_PROFILE")
    monkeypatch.delenv("OVSEG_STORE")
    (here / "sub").mkdir()
    monkeypatch.chdir(here / "sub")
    cli("add-class", "cat")
    assert cli("doctor", "--json").data["store"]["profile"] == "my"
    assert (here / "S" / "ovseg.db").is_file()


@pytest.mark.slow
def test_what_is_not_pinned_runs_nowhere_but_in_pull(cli, here):
    cli("profiles", "new", "my.toml")
    change(here / "my.toml", (r'revision = "[0-9a-f]{40}"\n', ""))
    for args in (("add-class", "cat"), ("segment", EXAMPLES, "-c", "cat"), ("list-classes",)):
        cli("--store", "S", *args)
        error = cli("--profile", "my.toml", "--store", "T", "add-class", "cat").error
        assert re.match(r".*my.toml, line \d+: the weights 'diffusion' have no pinned revision yet", error)
        assert error.endswith(f"ovseg pull --profile {here / 'my.toml'}")
        assert not (here / "T").exists()
    result = cli("pull", "--profile", "my.toml")
    assert result.exit_code == 1
    assert "does not tell about" in result.error
    assert cli("pull", "--profile", "my.toml", "--offline").exit_code == 1


def test_a_changed_number_never_meets_old_prototypes(cli, here, monkeypatch):
    monkeypatch.delenv("OVSEG_PROFILE")
    cli("profiles", "new", "my.toml", "--from", "mini")
    cli("--profile", "my.toml", "--store", "S", "add-class", "cat")
    change(here / "my.toml", (r"timestep = 20\b", "timestep = 21"))
    result = cli("--profile", "my.toml", "--store", "S", "add-class", "dog")
    assert result.exit_code == 2
    assert "extractors[sd].timestep was 20, is 21" in result.error
    result = cli("--store", "S", "add-class", "dog")
    assert result.exit_code == 0
    assert "goes on with what its prototypes were made with" in " ".join(result.stderr.split())
    (here / "my.toml").unlink()
    assert "warning" not in cli("--store", "S", "add-class", "car").stderr


@pytest.mark.slow
def test_folders_of_ones_own_from_end_to_end(real, here):
    """The parts of the bundled models, copied to a folder that knows nothing of them being bundled."""
    shutil.copytree(MINI_FOLDER, here / "models")
    real("profiles", "new", "my.toml", "--from", "mini")
    change(
        here / "my.toml",
        (r'bundled = "mini/(\w+)"', r'folder = "models/\1"'),
        (r"\n\[domain\]\n.*", "\n"),  # what tells unfamiliar pictures is tied to the bundled CLIP
        (r"windows = \[\[128, 64\], \[96, 48\], \[64, 32\]\]", "windows = [[128, 64]]"),
        (r"\n(dim|grid) = \d+", ""),
    )
    names = [EXAMPLES / "images" / "scene_008.jpg"]
    made = real("--profile", "my.toml", "--store", "S", "add-class", "cat", "--count", 2, "--steps", 2)
    assert made.exit_code == 0, made.stderr
    done = real("--store", "S", "segment", *names, "-c", "cat", "-o", "own")
    assert done.exit_code == 0, done.stderr
    real("--profile", "mini", "--store", "M", "add-class", "cat", "--count", 2, "--steps", 2)
    real("--store", "M", "segment", *names, "-c", "cat", "-o", "mini", "--windows", "128/64", "--windows", "whole")
    own, mini = ((here / name / "SegmentationClass" / "scene_008.png").read_bytes() for name in ("own", "mini"))
    assert own == mini
    scored = real("eval", "--gt", EXAMPLES / "labels", "--pred", "own", "--json")
    assert scored.data["miou"] >= 0
    real("--store", "S", "export-class", "cat", "-o", "cat.ovclass")
    taken = real("--store", "T", "--profile", "my.toml", "import-class", "cat.ovclass")
    assert taken.exit_code == 0, taken.stderr
    assert "profile my" in taken.stderr
    shutil.rmtree(here / "models" / "clip")
    told = real("doctor", "--store", "S", "--json").data["store"]
    assert told["healthy"]
    [why] = told["lacks"]
    assert "models/clip is gone" in why
