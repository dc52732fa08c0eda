from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from examples.mini_pack import wheels


def test_versions_are_those_of_the_constraints() -> None:
    text = "# comment\nopen_clip_torch==3.3.0\nzipp==4.1.0 ; python_version < '3.15'\n"
    assert wheels.pinned(("open-clip-torch", "zipp", "other", "mine==2"), text) == [
        "open_clip_torch==3.3.0",
        "zipp==4.1.0",
        "other",
        "mine==2",
    ]


def test_the_repository_pins_all_that_is_needed() -> None:
    wanted = wheels.pinned(wheels.NEEDED, wheels.CONSTRAINTS.read_text(encoding="utf-8"))
    assert [name for name in wanted if "==" not in name] == []


@pytest.fixture
def fetched(monkeypatch: pytest.MonkeyPatch) -> list[list[str]]:
    asked: list[list[str]] = []

    def run(command: list[str], *, check: bool) -> subprocess.CompletedProcess[str]:
        asked.append(command)
        folder = Path(command[command.index("--dest") + 1])
        folder.mkdir(exist_ok=True)
        (folder / "a-1-py3-none-any.whl").write_bytes(b"x" * 2**20)
        return subprocess.CompletedProcess(command, int("broken" in command))

    monkeypatch.setattr(subprocess, "run", run)
    return asked


def test_the_sizes_are_told_and_too_much_is_refused(
    tmp_path: Path, fetched: list[list[str]], capsys: pytest.CaptureFixture[str]
) -> None:
    assert wheels.main([str(tmp_path / "w"), "--python", "3.13"]) == 0
    assert "1.0 MiB in" in capsys.readouterr().out
    assert fetched[0][fetched[0].index("--python-version") + 1] == "3.13"
    assert wheels.main([str(tmp_path / "w"), "--most", "0.5"]) == 1
    assert "more than 0.5 MiB" in capsys.readouterr().err
    assert wheels.main([str(tmp_path / "w"), "--also", "broken"]) == 1
    assert "could not fetch" in capsys.readouterr().err
