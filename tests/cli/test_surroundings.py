"""Processes that lack something: a home, a name, a folder, streams, somebody who reads."""

from __future__ import annotations

import os
import shlex
import subprocess
import sys

import pytest

from ovseg_cli.errors import NoDefaultStoreError
from ovseg_cli.profiles import PROFILES
from ovseg_cli.store import default_store_path
from tests.cli.conftest import REPOSITORY, Process
from tests.runs.conftest import paint

HOMELESS = ("HOME", "XDG_DATA_HOME", "XDG_CACHE_HOME", "XDG_CONFIG_HOME", "OVSEG_STORE", "USER", "LOGNAME")


@pytest.fixture
def homeless(monkeypatch, here):
    """A user whom the system does not know, without a home: what `docker run --user 12345` gives."""
    site = here / "site"
    site.mkdir()
    # Runs in every Python that starts with this folder on its path.
    (site / "sitecustomize.py").write_text(
        "import pwd\ndef nobody(key):\n    raise KeyError(f'uid not found: {key}')\npwd.getpwuid = nobody\n"
    )
    for name in HOMELESS:
        monkeypatch.delenv(name, raising=False)

    def run(*args):
        return Process(*args, env={"PYTHONPATH": f"{site}{os.pathsep}{REPOSITORY}"}).result()

    return run


def score(folder):
    """The arguments of an `eval` that needs no store."""
    for kind in ("gt", "pred"):
        paint(folder / kind / "a.png", 1, 0)
        (folder / kind / "labelmap.txt").write_text("background:0,0,0::\ncat:128,0,0::\n")
    return "eval", "--gt", folder / "gt", "--pred", folder / "pred", "-q"


class TestWithoutAHome:
    @pytest.mark.slow
    def test_what_needs_a_store_says_to_name_one(self, homeless):
        for command in (("list-classes",), ("add-class", "cat")):
            result = homeless(*command)
            assert result.exit_code == 1
            assert "no home folder" in result.error
            assert "--store DIR" in result.error

    @pytest.mark.slow
    def test_what_needs_none_works_and_says_nothing_of_it(self, homeless, here):
        result = homeless(*score(here))
        assert (result.exit_code, result.stdout, result.stderr) == (0, "1.000\n", "")
        assert homeless("profiles", "-q").stdout == "".join(f"{name}\n" for name in PROFILES)

    @pytest.mark.slow
    def test_doctor_says_what_is_lacking(self, homeless):
        result = homeless("doctor")
        assert result.exit_code == 0
        assert "no home for the default one" in result.stdout

    @pytest.mark.slow
    def test_with_a_store_everything_works(self, homeless, photos):
        assert homeless("--store", "own", "add-class", "cat").exit_code == 0
        assert homeless("--store", "own", "segment", "photos", "-c", "cat", "-q").exit_code == 0

    def test_in_python_too(self, monkeypatch):
        for name in HOMELESS:
            monkeypatch.delenv(name, raising=False)
        monkeypatch.setattr("pwd.getpwuid", lambda _: {}["nobody"])
        with pytest.raises(NoDefaultStoreError, match="--store DIR"):
            default_store_path()

    def test_a_home_that_is_not_there_is_none(self, monkeypatch, tmp_path):
        monkeypatch.delenv("OVSEG_STORE")
        monkeypatch.delenv("XDG_DATA_HOME")
        monkeypatch.setenv("HOME", str(tmp_path / "gone"))
        with pytest.raises(NoDefaultStoreError):
            default_store_path()

    def test_the_home_of_a_user_whom_nobody_knows(self, cli, here):
        result = cli("--store", "~nobody-at-all/store", "add-class", "cat", "-q")
        assert result.exit_code == 0, result.stderr
        assert (here / "~nobody-at-all" / "store" / "ovseg.db").is_file()


def test_a_folder_that_was_removed_is_one_ordinary_error(here):
    gone = here / "gone"
    gone.mkdir()
    command = shlex.join([sys.executable, "-m", "ovseg_cli", "segment", "x.png", "-c", "cat"])
    done = subprocess.run(
        ["sh", "-c", f"rmdir {shlex.quote(str(gone))}; {command}"],
        cwd=gone,
        env=os.environ | {"PYTHONPATH": str(REPOSITORY)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 1
    assert "error: The current folder is gone. Change to one that is there" in done.stderr


ALL = "<&- >&- 2>&-"


@pytest.mark.slow
@pytest.mark.parametrize(
    ("args", "code", "closed"),
    [
        *(("profiles -q", 0, one) for one in (">&-", "2>&-", ALL)),
        *(("segment - -c cat", 2, one) for one in ("<&-", "2>&-", ALL)),
        ("--help", 0, ">&-"),
        ("--help", 0, ALL),
        ("list-classes", 0, ALL),
        ("segment x", 2, ALL),
    ],
)
def test_closed_streams(here, args, code, closed):
    command = f"{shlex.quote(sys.executable)} -m ovseg_cli {args} {closed}"
    done = subprocess.run(
        ["sh", "-c", command],
        env=os.environ | {"PYTHONPATH": str(REPOSITORY)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == code, done.stderr
    assert "Traceback" not in done.stderr
    assert "unexpected" not in done.stderr


def test_what_is_opened_later_never_takes_the_number_of_a_closed_stream(here):
    code = (
        "import os\nfrom ovseg_cli.cli import surroundings\nsurroundings.prepare()\n"
        "own = os.open('own', os.O_CREAT | os.O_RDWR)\nprint('for people')\nassert own > 2\n"
    )
    done = subprocess.run(
        ["sh", "-c", f'{shlex.quote(sys.executable)} -c "$CODE" <&- >&- 2>&-'],
        env=os.environ | {"PYTHONPATH": str(REPOSITORY), "CODE": code},
        check=False,
    )
    assert done.returncode == 0
    assert (here / "own").read_text() == ""


@pytest.mark.slow
def test_a_run_goes_on_when_nobody_reads_its_remarks(here):
    for number in range(6):
        paint(here / "photos" / f"{number}.png", 1)
    process = Process("segment", "photos", "-c", "cat", "-v", stdout=subprocess.DEVNULL)
    process.popen.stderr.close()
    assert process.popen.wait(timeout=120) == 0
    assert len(list((here / "ovseg-out" / "SegmentationClass").iterdir())) == 6


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="needs /dev/full")
def test_remarks_that_do_not_fit_on_the_disk_are_dropped():
    code = (
        "import sys\nfrom ovseg_cli.cli import surroundings\nsurroundings.prepare()\n"
        "for _ in range(3):\n    print('a remark', file=sys.stderr, flush=True)\nprint('done')\n"
    )
    with open("/dev/full", "w") as full:
        done = subprocess.run([sys.executable, "-c", code], stdout=subprocess.PIPE, stderr=full, text=True, check=False)
    assert (done.returncode, done.stdout) == (0, "done\n")
