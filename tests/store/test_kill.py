"""After a kill at any instant the store opens, and holds the whole class or nothing of it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.store import kill_driver

pytestmark = pytest.mark.skipif(not hasattr(os, "fork"), reason="kills are tried out in forked processes")


def drive(template: Path, scratch: Path, action: str, mode: str, step: int = 1) -> dict[str, list[int]]:
    root = Path(__file__).resolve().parent.parent.parent
    done = subprocess.run(
        [sys.executable, "-m", kill_driver.__name__, str(template), str(scratch / "s"), action, mode, str(step)],
        cwd=root,
        env={**os.environ, "OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def some(*each: tuple[str, int]) -> list[object]:
    """The first of them, and the others in the slow tests."""
    return [each[0], *(pytest.param(*one, marks=pytest.mark.slow) for one in each[1:])]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("action", "step"), some(("add", 4), ("replace", 3), ("several", 5), ("remove", 4), ("create", 3))
)
def test_killed_at_any_line(template: Path, tmp_path: Path, action: str, step: int) -> None:
    result = drive(template, tmp_path, action, "lines", step)
    before, after, *_ = result["states"]
    assert result["killed"] == before + after
    # The kills must have fallen on both sides of the commit, or the test would say nothing.
    assert before > 3
    assert after > 3
    if action in ("add", "replace"):
        assert result["orphans"] > 5


@pytest.mark.slow
@pytest.mark.parametrize(("action", "step"), [("rename", 3), ("swap", 5)])
def test_care_killed_at_any_line(template: Path, tmp_path: Path, action: str, step: int) -> None:
    result = drive(template, tmp_path, action, "lines", step)
    before, after, *_ = result["states"]
    assert result["killed"] == before + after
    assert before > 3
    assert after > 3


@pytest.mark.slow
@pytest.mark.parametrize(("action", "step"), [("backup", 2), ("vacuum", 1), ("reindex", 4), ("repair", 1)])
def test_what_changes_no_class_killed_at_any_line(template: Path, tmp_path: Path, action: str, step: int) -> None:
    result = drive(template, tmp_path, action, "lines", step)
    assert result["killed"] == sum(result["states"]) > 3


@pytest.mark.slow
@pytest.mark.parametrize(("action", "step"), [("add", 4), ("replace", 4), ("rename", 6), ("swap", 8)])
def test_interrupted_at_any_line(template: Path, tmp_path: Path, action: str, step: int) -> None:
    result = drive(template, tmp_path, action, "interrupt", step)
    before, after, *_ = result["states"]
    assert result["killed"] == before + after
    assert before > 3
    assert after > 3


@pytest.mark.slow
@pytest.mark.parametrize("action", ["add", "replace"])
def test_killed_in_the_middle_of_a_file(template: Path, tmp_path: Path, action: str) -> None:
    result = drive(template, tmp_path, action, "half-files")
    assert result["killed"] == result["states"][0] == 6


@pytest.mark.slow
def test_killed_at_some_time(template: Path, tmp_path: Path) -> None:
    result = drive(template, tmp_path, "any", "random")
    # The driver fails on any store that is neither whole nor as before. How the deaths spread over the allowed states
    # depends on the machine's speed.
    assert result["killed"] == sum(result["states"]) == 30
