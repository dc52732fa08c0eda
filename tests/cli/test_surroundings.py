"""Processes that lack something: a home, a name, a folder, streams, somebody who reads."""

from __future__ import annotations

import os
import shlex
import subprocess
import sys
from pathlib import Path

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


@pytest.fixture
def hostile(here):
    """A folder with pictures, that somebody else has packed."""
    paint(here / "pictures" / "a.png", 1, size=32)
    paint(here / "pictures" / "b.png", 2, size=32)
    for name in ("json", "pickle", "logging", "subprocess", "multiprocessing", "ctypes", "numpy", "torch", "ray"):
        (here / f"{name}.py").write_text(f"open('code-of-{name}', 'w').close()\nraise SystemExit('not this one')\n")

    def run(*args):
        script = Path(sys.executable).with_name("ovseg")  # with `-m`, the command itself would look into the folder
        env = {**os.environ, "PYTHONPATH": str(REPOSITORY)}
        done = subprocess.run([script, *map(str, args)], capture_output=True, text=True, env=env)
        assert sorted(path.name for path in here.glob("code-of-*")) == []
        return done

    return run


SEGMENT = ("--profile", "mini", "segment", "pictures", "-c", "cat,dog", "--method", "gem", "-o", "out")


@pytest.mark.slow
@pytest.mark.parametrize("workers", [("--workers", "2"), ("--engine", "ray", "--workers", "1")], ids=["own", "ray"])
def test_workers_take_no_code_from_the_current_folder(hostile, here, workers):
    done = hostile(*SEGMENT, *workers)
    assert done.returncode == 0, done.stderr
    assert len(list((here / "out" / "SegmentationClass").glob("*.png"))) == 2


@pytest.mark.slow
def test_processes_that_time_a_method_take_no_code_from_the_current_folder(hostile, here):
    paint(here / "labels" / "a.png", 1, size=32)
    (here / "labels" / "labelmap.txt").write_text("background:0,0,0::\ncat:128,0,0::\n")
    done = hostile(
        *(
            "--profile",
            "mini",
            "benchmark",
            "--images",
            "pictures",
            "--gt",
            "labels",
            "--methods",
            "gem",
            "--timed",
            "1",
        )
    )
    assert done.returncode == 0, done.stderr


def test_processes_that_count_take_no_code_from_the_current_folder(hostile, here):
    code = (
        "from tests.evaluation.test_workers import Numbers\n"
        "from ovseg_cli.evaluation.workers import counted_by_processes\n"
        "print(len(list(counted_by_processes([1, 2, 3], Numbers(), 2))))\n"
    )
    env = {**os.environ, "PYTHONPATH": str(REPOSITORY)}
    done = subprocess.run([sys.executable, "-P", "-c", code], capture_output=True, text=True, env=env)
    assert (done.returncode, done.stdout) == (0, "3\n"), done.stderr
    assert list(here.glob("code-of-*")) == []
