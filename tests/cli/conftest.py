from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from typer.testing import CliRunner

from ovseg_cli.cli.app import app
from ovseg_cli.files.labels import LabelMap, write_label, write_labelmap
from tests import doubles
from tests.mini import mini_models
from tests.runs.conftest import paint

REPOSITORY = Path(__file__).resolve().parents[2]


@dataclass
class Result:
    """What a command did."""

    exit_code: int
    stdout: str
    stderr: str

    @property
    def data(self) -> Any:
        return json.loads(self.stdout)

    @property
    def error(self) -> str:
        """The one line that says why it stopped."""
        lines = [line for line in self.stderr.splitlines() if line.startswith("error: ")]
        assert len(lines) == 1, self.stderr
        return lines[0].removeprefix("error: ")


@pytest.fixture
def here(tmp_path, monkeypatch):
    """An empty current folder."""
    folder = tmp_path / "work"
    folder.mkdir()
    monkeypatch.chdir(folder)
    return folder


@pytest.fixture
def cli(here, monkeypatch):
    """Runs a command in this process, with the stand-ins for the networks and the bundled profile."""
    doubles.install(monkeypatch.setattr, monkeypatch.setitem)
    monkeypatch.setenv("OVSEG_PROFILE", "mini")

    def run(*args: object, stdin: str | None = None) -> Result:
        result = CliRunner().invoke(app, [str(arg) for arg in args], input=stdin, prog_name="ovseg")
        if result.exception is not None and not isinstance(result.exception, SystemExit):
            raise result.exception
        return Result(result.exit_code, result.stdout, result.stderr)

    return run


@pytest.fixture(scope="module")
def shared_models():
    """The bundled models, loaded once for all commands."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("ovseg_cli.models.load_models", lambda *_, **__: mini_models())
        yield


@pytest.fixture
def photos(here):
    """Two pictures: a is half cat, half background; sub/b is half dog, half cat."""
    paint(here / "photos" / "a.png", 1, 0)
    paint(here / "photos" / "sub" / "b.png", 2, 1)
    return here / "photos"


def heed_ctrl_c() -> None:
    """Undo what a shell does to background jobs, for a child process."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)


class Process:
    """The command as a process of its own; with the stand-ins, which take seconds to import, where it needs them."""

    def __init__(self, *args: object, **options: Any) -> None:
        environment = os.environ | {"PYTHONPATH": str(REPOSITORY), "OVSEG_PROFILE": "mini"}
        program = ("-m", "tests.doubles" if {"add-class", "segment"} & set(args) else "ovseg_cli")
        self.popen = subprocess.Popen(
            [sys.executable, *program, *map(str, args)],
            stdout=options.pop("stdout", subprocess.PIPE),
            stderr=subprocess.PIPE,
            text=True,
            env=environment | options.pop("env", {}),
            # A shell starts background jobs with Ctrl-C ignored, which children inherit; a person's terminal does not.
            preexec_fn=heed_ctrl_c,
            **options,
        )

    def result(self, timeout: float = 60) -> Result:
        stdout, stderr = self.popen.communicate(timeout=timeout)
        return Result(self.popen.returncode, stdout or "", stderr)

    def interrupt_when(self, ready: Path, timeout: float = 60) -> Result:
        """Send Ctrl-C as soon as the file is there."""
        limit = time.monotonic() + timeout
        while not ready.exists():
            assert self.popen.poll() is None, self.popen.communicate()
            assert time.monotonic() < limit
            time.sleep(0.02)
        self.popen.send_signal(signal.SIGINT)
        return self.result()


@pytest.fixture
def gt(here):
    """Truth in ids of its own: dog 1, cat 2, bird 3. The stand-in is right but for the bird, which is a quarter."""
    labels = LabelMap.from_classes(("dog", "cat", "bird"))
    folder = here / "labels"
    write_labelmap(folder / "labelmap.txt", labels)
    a = np.repeat([[2] * 8 + [0] * 4 + [3] * 4], 8, axis=0)
    b = np.repeat([[1] * 8 + [2] * 8], 8, axis=0)
    write_label(folder / "a.png", a, labels)
    write_label(folder / "sub" / "b.png", b, labels)
    return folder
