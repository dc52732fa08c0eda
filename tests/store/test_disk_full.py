"""A full disk is said in one sentence, and the store is as it was."""

from __future__ import annotations

import errno
import os
import sqlite3
import sys
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from ovseg_cli.errors import DiskFullError, StoreError
from ovseg_cli.store import Store, disk, support
from ovseg_cli.store.database import Database
from tests.store import processes
from tests.store.helpers import CLIP, SD, FakeProfile, assert_whole, fill, make_class


def assert_as_before(store: Store) -> None:
    assert store.class_names() == ["cat"]
    assert_whole(store, make_class("cat", 0))
    health = store.health()
    assert health.ok
    assert health.orphans == ()
    assert len(list((store.path / "support").glob("*/*"))) == 1


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EFBIG, errno.EDQUOT])
@pytest.mark.parametrize("after", [0, 3])
def test_while_writing_files(store: Store, monkeypatch: pytest.MonkeyPatch, code: int, after: int) -> None:
    left = after

    def write_new(path: Path, data: bytes) -> None:
        nonlocal left
        if left == 0:
            path.write_bytes(data[:10])
            raise OSError(code, os.strerror(code), str(path))
        left -= 1
        disk.write_new(path, data)

    monkeypatch.setattr(support, "write_new", write_new)
    for name in ("dog", "cat"):
        left = after
        with pytest.raises(DiskFullError, match="free some space and run the command again"):
            store.add_class(make_class(name, 1), replace=True)
        assert_as_before(store)


def test_while_writing_the_database(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    """SQLite itself says that it is full: the database may not grow by a page."""
    connect = Database._connect

    def small(self: Database, **how: Any) -> sqlite3.Connection:
        connection = connect(self, **how)
        connection.execute("PRAGMA max_page_count = 1")  # means: as many as there are
        return connection

    monkeypatch.setattr(Database, "_connect", small)
    store = Store.open(store.path)
    with pytest.raises(DiskFullError, match="there is no room for the database"):
        store.add_class(replace(make_class("dog", 1), settings={"note": "x" * 200_000}))
    monkeypatch.undo()
    assert_as_before(Store.open(store.path))


@pytest.mark.skipif(sys.platform == "win32", reason="needs limits of file sizes")
@pytest.mark.parametrize(
    ("most", "side", "note", "says"),
    [
        (40_000, 200, 0, "DiskFullError: The disk of the store"),  # a picture is too large
        (40_000, 8, 50_000, "StoreError: The disk refused"),  # all files fit, the write-ahead log does not
        (1_000, 8, 0, "DiskFullError: The disk of the store"),  # not even reading can begin
    ],
)
def test_the_system_refuses_to_write(store_path: Path, most: int, side: int, note: int, says: str) -> None:
    assert processes.run("add_with_small_files", store_path, most, side, note).startswith(says)
    assert_as_before(Store.open(store_path))


def test_reading_on_a_disk_that_is_really_full(small_disk: Path) -> None:
    fill(small_disk)
    with Store.open(small_disk) as store:
        assert store.class_names() == ["cat"]
        assert_whole(store, make_class("cat", 0))
        assert store.read_class("cat").seed == 0
        assert store.health().ok
        assert np.isfinite(store.nearest(np.ones((1, 24), np.float32), CLIP, k=2)[0]).all()
        with pytest.raises(DiskFullError, match="free some space"):
            store.add_class(make_class("dog", 1))
    (small_disk.parent / "filler").unlink()
    assert_as_before(Store.open(small_disk))


def test_reading_what_is_only_in_the_log(small_disk: Path) -> None:
    """A writer that died has left its last commit in the write-ahead log."""
    with closing(sqlite3.connect(small_disk / "ovseg.db")) as connection:
        connection.execute("UPDATE category SET rejected = 77")
        connection.commit()
        copies = {name: (small_disk / name).read_bytes() for name in ("ovseg.db", "ovseg.db-wal")}
    for name, data in copies.items():
        (small_disk / name).write_bytes(data)
    assert copies["ovseg.db-wal"]
    fill(small_disk)
    assert Store.open(small_disk).get_class("cat").rejected == 77
    assert Store.open(small_disk).get_class("cat").rejected == 77


def test_removing_on_a_disk_that_is_really_full(small_disk: Path) -> None:
    store = Store.open(small_disk)
    store.add_classes(make_class(f"class {number}", number) for number in range(30))
    for digest in (CLIP, SD):
        store.nearest(np.ones((1, {CLIP: 24, SD: 40}[digest]), np.float32), digest, k=1)
    (small_disk / "index" / f"{'a' * 16}.faiss").write_bytes(bytes(300_000))
    fill(small_disk)
    store = Store.open(small_disk)
    assert [info.name for info in store.remove_classes(["class 3", "class 4"])] == ["class 3", "class 4"]
    assert store.health().ok
    assert len(store.class_names()) == 29


def test_removing_without_anything_to_make_room_with(small_disk: Path) -> None:
    fill(small_disk)
    with pytest.raises(DiskFullError, match="free some space"):
        Store.open(small_disk).remove_classes(["cat"])
    (small_disk.parent / "filler").unlink()
    assert_as_before(Store.open(small_disk))
    Store.open(small_disk).remove_classes(["cat"])


def test_while_creating(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(self: Path, *args: Any, **kwargs: Any) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(Path, "mkdir", refuse)
    with pytest.raises(DiskFullError):
        Store.open(tmp_path / "new", profile=FakeProfile())


def test_other_troubles_keep_their_name(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(path: Path, data: bytes) -> None:
        raise OSError(errno.EIO, os.strerror(errno.EIO), str(path))

    monkeypatch.setattr(support, "write_new", refuse)
    with pytest.raises(StoreError, match=r"Input/output error on .*000.png"):
        store.add_class(make_class("dog", 1))
    assert_as_before(store)
