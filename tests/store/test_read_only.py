"""A store that cannot be written can be read, and says what is the matter when it is to be written."""

from __future__ import annotations

import errno
import os
import shutil
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from sqlalchemy import text

from ovseg_cli.errors import StoreReadOnlyError
from ovseg_cli.store import RunRecord, Store, support
from tests.store import processes
from tests.store.helpers import CLIP, assert_whole, make_class

NOBODY = 65534


@pytest.fixture
def read_only(store_path: Path, monkeypatch: pytest.MonkeyPatch) -> Store:
    """A store whose folder seems not writable: SQLite then really opens it for reading only, even for root."""
    monkeypatch.setattr("ovseg_cli.store.store.is_writable", lambda *paths: False)
    return Store.open(store_path)


def contents(path: Path) -> dict[str, bytes]:
    return {
        str(file.relative_to(path)): file.read_bytes()
        for file in path.rglob("*")
        if file.is_file() and not file.name.endswith(("-shm", "-wal"))
    }


def test_reading_works(read_only: Store, template: Path) -> None:
    assert read_only.read_only
    assert_whole(read_only, make_class("cat", 0))
    assert read_only.last_run() is None
    assert read_only.health().ok
    assert read_only.health().read_only
    scores, _ = read_only.nearest(np.ones((2, 24), np.float32), CLIP, k=2)
    assert np.isfinite(scores).all()
    assert contents(read_only.path) == contents(template)


def test_writing_is_refused_before_any_work(read_only: Store, template: Path, tmp_path: Path) -> None:
    run = RunRecord(
        id="a" * 32, argv=(), method="gem", classes=("cat",), background=True, output=tmp_path, inputs=("x",)
    )
    for write in (
        lambda: read_only.add_class(make_class("dog", 1)),
        lambda: read_only.remove_classes(["cat"]),
        lambda: read_only.note_run(run),
        lambda: read_only.record_evaluation(None, {}),
    ):
        with pytest.raises(StoreReadOnlyError, match=r"cannot be written.*--store or OVSEG_STORE"):
            write()
    assert contents(read_only.path) == contents(template)


def test_the_database_itself_refuses(read_only: Store) -> None:
    """What SQLite says about a read-only database is understood as well."""
    with pytest.raises(StoreReadOnlyError, match="no write permission"), read_only._database.write() as session:
        session.execute(text("DELETE FROM category"))


@pytest.mark.parametrize("code", [errno.EROFS, errno.EACCES, errno.EPERM])
def test_found_out_only_when_writing(store: Store, monkeypatch: pytest.MonkeyPatch, code: int) -> None:
    def refuse(*args: object) -> None:
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr(support, "write_new", refuse)
    with pytest.raises(StoreReadOnlyError, match=os.strerror(code)):
        store.add_class(make_class("dog", 1))
    assert store.class_names() == ["cat"]


@pytest.fixture
def locked_folder(template: Path) -> Iterator[Path]:
    """A store without write permission, in a place that other users may enter."""
    with tempfile.TemporaryDirectory() as place:
        os.chmod(place, 0o755)
        path = Path(place, "store")
        shutil.copytree(template, path)
        for item in [path, *path.rglob("*")]:
            item.chmod(0o555 if item.is_dir() else 0o444)
        yield path
        for item in [path, *path.rglob("*")]:
            if item.is_dir():
                item.chmod(0o755)


@pytest.mark.slow
@pytest.mark.skipif(sys.platform == "win32", reason="needs POSIX permissions")
def test_a_user_without_write_permission(locked_folder: Path, store_path: Path, template: Path) -> None:
    said = processes.run("read_without_rights", locked_folder, store_path, NOBODY).splitlines()
    assert said[0] == "True ['cat']"
    assert said[1] == "(1, 1)"
    assert f"The store {locked_folder} cannot be written" in said[2]
    assert f"The store {locked_folder / 'below'} cannot be written (Permission denied)" in said[3]
    assert contents(locked_folder) == contents(template)
