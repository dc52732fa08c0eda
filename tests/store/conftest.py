from __future__ import annotations

import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from ovseg_cli.store import Store
from tests.store.helpers import FakeProfile, make_class


@pytest.fixture
def ready_made_schema() -> None:
    """Here, new stores are made by the migrations."""


@pytest.fixture(scope="session")
def template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A store with a cat, made once: most tests start from a copy."""
    path = tmp_path_factory.mktemp("template") / "store"
    with Store.open(path, profile=FakeProfile()) as store:
        store.add_class(make_class("cat", 0))
    return path


@pytest.fixture
def store_path(template: Path, tmp_path: Path) -> Path:
    """A store with a cat, of this test's own, in a folder that is hard to spell."""
    return Path(shutil.copytree(template, tmp_path / "my störe #1 100%?"))


@pytest.fixture
def store(store_path: Path) -> Store:
    return Store.open(store_path)


@pytest.fixture
def resolved(monkeypatch: pytest.MonkeyPatch) -> list[str | None]:
    """What was asked of the profile registry, for which a stand-in answers."""
    asked: list[str | None] = []

    def resolve_profile(name: str | None) -> Any:
        asked.append(name)
        return FakeProfile(name=name or "mini")

    monkeypatch.setitem(sys.modules, "ovseg_cli.profiles", SimpleNamespace(resolve_profile=resolve_profile))
    return asked


@pytest.fixture
def small_disk(tmp_path: Path, template: Path) -> Iterator[Path]:
    """A copy of the store on a disk of its own, of 4 MB."""
    place = tmp_path / "disk"
    place.mkdir()
    mounted = (
        shutil.which("mount") is not None
        and not subprocess.run(
            ["mount", "-t", "tmpfs", "-o", "size=4m", "tmpfs", str(place)], capture_output=True
        ).returncode
    )
    if not mounted:
        pytest.skip("may not mount a small disk here")
    try:
        yield Path(shutil.copytree(template, place / "store"))
    finally:
        subprocess.run(["umount", str(place)], check=True)
