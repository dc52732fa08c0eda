"""Renaming, merging, backups, repairs: whole or not at all, on full disks, read-only disks, and while others write."""

from __future__ import annotations

import errno
import os
import shutil
import sqlite3
from collections.abc import Callable
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from ovseg_cli.errors import (
    ClassChangedError,
    ClassExistsError,
    DiskFullError,
    OvsegError,
    StoreCorruptError,
    StoreError,
    StoreReadOnlyError,
    UnknownClassError,
)
from ovseg_cli.store import ClassRecord, Store, copying, database, support, sweep
from tests.store import processes
from tests.store.helpers import CLIP, FakeProfile, assert_whole, fill, make_class


def renamed_cat(name: str) -> ClassRecord:
    return replace(make_class("cat", 0), name=name)


QUERIES = np.random.default_rng(3).normal(size=(5, 24)).astype(np.float32)
BOTH = make_class("both", 4, supports=3)


def generations(store: Store, *names: str) -> dict[str, str]:
    return {name: store.get_class(name).generation for name in names}


def state(store: Store) -> tuple[object, ...]:
    """All that can be seen of a store's classes."""
    with closing(sqlite3.connect(store.path / "ovseg.db")) as connection:
        rows = [connection.execute(f"SELECT * FROM {table} ORDER BY id").fetchall() for table in TABLES]
    files = {str(path): path.read_bytes() for path in (store.path / "support").rglob("*") if path.is_file()}
    return (*rows, files)


TABLES = ("category", "support_image", "prototype", "extractor")


class TestRename:
    def test_vectors_and_index_stay(self, store: Store) -> None:
        store.add_class(make_class("dog", 1))
        before, found = store.get_class("cat"), store.nearest(QUERIES, CLIP, k=4)
        renamed = store.rename_class("Cat", "León")
        assert (renamed.id, renamed.generation, renamed.name) == (before.id, before.generation, "León")
        assert_whole(store, renamed_cat("León"))
        for opened in (store, Store.open(store.path)):
            np.testing.assert_array_equal(opened.nearest(QUERIES, CLIP, k=4)[1], found[1])
        health = store.health()
        assert health.ok
        assert health.orphans == ()
        assert [index.status for index in health.indexes] == ["fresh", "fresh"]
        store.add_class(make_class("cat", 9))
        assert store.class_names() == ["León", "dog", "cat"]

    def test_refusals(self, store: Store) -> None:
        store.add_class(make_class("dog", 1))
        before = state(store)
        with pytest.raises(ClassExistsError):
            store.rename_class("cat", "DOG")
        with pytest.raises(UnknownClassError):
            store.rename_class("cow", "bull")
        assert state(store) == before
        assert store.rename_class("dog", "Dog").name == "Dog"

    def test_damage_is_not_signed_anew(self, store: Store) -> None:
        with closing(sqlite3.connect(store.path / "ovseg.db")) as connection:
            connection.execute("UPDATE prototype SET norm = norm * 2 WHERE id = 3")
            connection.commit()
        with pytest.raises(StoreCorruptError, match="'cat' is damaged"):
            store.rename_class("cat", "lion")
        assert store.class_names() == ["cat"]
        assert store.health().orphans == ()

    def test_what_an_earlier_try_has_left(self, store: Store) -> None:
        """A writer died after it had written some of the files."""
        half = store.path / "support" / "lion" / store.get_class("cat").generation
        half.mkdir(parents=True)
        (half / "000.png").write_bytes(b"half")
        sweep.mark(store.path)
        store.rename_class("cat", "lion")
        assert_whole(store, renamed_cat("lion"))
        assert store.health().orphans == ()


class TestSwap:
    @pytest.mark.parametrize("name", ["both", "cat", "DOG"])
    def test_the_others_go(self, store: Store, name: str) -> None:
        store.add_classes([make_class("dog", 1), make_class("bird", 2)])
        store.swap_classes(replace(BOTH, name=name), generations(store, "cat", "dog"))
        assert sorted(store.class_names()) == sorted([name, "bird"])
        assert_whole(store, replace(BOTH, name=name))
        health = store.health()
        assert health.ok
        assert health.orphans == ()
        assert [index.status for index in health.indexes] == ["fresh", "fresh"]

    def test_others_changed_meanwhile(self, store: Store) -> None:
        store.add_classes([make_class("dog", 1), make_class("bird", 2)])
        read = generations(store, "cat", "dog")
        store.add_class(make_class("dog", 3), replace=True)
        before = state(store)
        with pytest.raises(ClassChangedError):
            store.swap_classes(BOTH, read)
        with pytest.raises(ClassExistsError):
            store.swap_classes(make_class("bird", 4), generations(store, "cat", "dog"))
        assert state(store) == before
        assert store.health().orphans == ()


def test_backup_of_a_store_that_changes_meanwhile(
    store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A class is replaced between the copy of the database and that of its files: both begin again."""
    copy, done = copying._copy, []

    def slow(source: object, folder: Path, target: Path) -> Path | None:
        backup = database.Database.backup

        def and_replace(self: database.Database, path: Path) -> None:
            backup(self, path)
            if not done:
                done.append(1)
                Store.open(store.path).add_class(make_class("cat", 8), replace=True)

        monkeypatch.setattr(database.Database, "backup", and_replace)
        return copy(source, folder, target)  # type: ignore[arg-type]

    monkeypatch.setattr(copying, "_copy", slow)
    with Store.open(store.backup(tmp_path / "copy")) as copied:
        assert done
        assert_whole(copied, make_class("cat", 8))
        assert copied.health().ok
    assert [path.name for path in tmp_path.glob("copy*")] == ["copy"]


WRITES: dict[str, Callable[[Store], object]] = {
    "rename": lambda store: store.rename_class("cat", "lion"),
    "swap": lambda store: store.swap_classes(BOTH, generations(store, "cat")),
    "repair": lambda store: store.repair(),
    "reindex": lambda store: store.reindex(),
    "vacuum": lambda store: store.vacuum(),
}


@pytest.mark.parametrize("write", WRITES)
def test_a_read_only_store(store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, write: str) -> None:
    before = state(store)
    monkeypatch.setattr("ovseg_cli.store.store.is_writable", lambda *paths: False)
    opened = Store.open(store.path)
    with pytest.raises(StoreReadOnlyError, match=r"cannot be written.*--store or OVSEG_STORE"):
        WRITES[write](opened)
    assert state(store) == before
    copied = opened.backup(tmp_path / "copy")
    monkeypatch.undo()
    assert_whole(Store.open(copied), make_class("cat", 0))


@pytest.mark.parametrize("after", [0, 2, 4])
@pytest.mark.parametrize("write", ["rename", "swap"])
def test_a_disk_that_is_full_after_some_files(
    store: Store, monkeypatch: pytest.MonkeyPatch, write: str, after: int
) -> None:
    before, left = state(store), after

    def write_new(path: Path, data: bytes) -> None:
        nonlocal left
        left -= 1
        if left < 0:
            path.write_bytes(data[:10])
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(path))
        path.write_bytes(data)

    monkeypatch.setattr(support, "write_new", write_new)
    with pytest.raises(DiskFullError, match="free some space and run the command again"):
        WRITES[write](store)
    assert state(store) == before
    assert store.health().orphans == ()
    assert not sweep.is_marked(store.path)


def test_a_backup_on_a_disk_that_is_full(store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(path: Path, data: bytes) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(path))

    monkeypatch.setattr(copying, "write_new", full)
    with pytest.raises(DiskFullError):
        store.backup(tmp_path / "copy")
    assert list(tmp_path.glob("copy*")) == []
    assert store.health().ok


def test_on_a_disk_that_is_really_full(small_disk: Path) -> None:
    (small_disk / "support" / "dog" / ("0" * 32)).mkdir(parents=True)
    (small_disk / "support" / "dog" / ("0" * 32) / "000.png").write_bytes(bytes(20_000))
    store = Store.open(small_disk)
    before = state(store)
    fill(small_disk)
    for write in ("rename", "swap"):
        with pytest.raises(DiskFullError):
            WRITES[write](store)
    with pytest.raises(DiskFullError):
        store.backup(small_disk.parent / "copy")
    (small_disk.parent / "filler").unlink()
    assert state(store) == before
    fill(small_disk)
    assert [path.name for path in store.repair().removed] == ["0" * 32], "taking away needs no room"
    assert store.health().ok
    assert list(small_disk.parent.glob("copy*")) == []


@pytest.mark.parametrize("code", range(1, 29))
def test_no_words_of_the_database_reach_a_person(tmp_path: Path, code: int) -> None:
    (tmp_path / "ovseg.db").touch()
    for kind in (sqlite3.OperationalError, sqlite3.DatabaseError):
        error = kind("words of the database")
        error.sqlite_errorcode = code  # type: ignore[attr-defined]
        with pytest.raises(OvsegError) as caught, database.database_errors(tmp_path / "ovseg.db"):
            raise error
        assert "words of the database" not in str(caught.value)
        assert "\n" not in str(caught.value)


def test_what_is_damaged_is_said_in_our_words(store: Store) -> None:
    for number in range(8):
        store.add_class(make_class(f"class {number}", number))
    file = store.path / "ovseg.db"
    sound, told = file.read_bytes(), 0
    for page in range(2, len(sound) // 4096, 3):
        data = bytearray(sound)
        data[page * 4096 : page * 4096 + 8] = bytes(range(8))
        file.write_bytes(data)
        for suffix in ("-wal", "-shm"):
            file.with_name(file.name + suffix).unlink(missing_ok=True)
        try:
            texts = list(Store.open(store.path).health().problems)
        except StoreError as error:
            texts = [str(error)]
        told += bool(texts)
        for text in texts:
            assert not any(word in text.lower() for word in ("malformed", "btree", "tree ", "sqlite", "sqlalche.me"))
    assert told > 5


@pytest.mark.slow
def test_eight_at_once(store: Store, tmp_path: Path) -> None:
    """Writers, readers and all kinds of care on one store: nothing is lost, and every backup is whole."""
    store.add_class(make_class("stays", 5))
    work = ["churn left", "churn right", "rename", "swap", "backup", "care", "check", "search"]
    others = [processes.start("tend", store.path, tmp_path, "2", *each.split()) for each in work]
    said = [other.communicate(timeout=500) for other in others]
    for each, other, (output, errors) in zip(work, others, said, strict=True):
        unexpected = [line for line in errors.splitlines() if "waiting for another ovseg process" not in line]
        assert (other.returncode, unexpected) == (0, []), each
        assert int(output) >= 1, each
    with Store.open(store.path) as after:
        health = after.health()
        assert health.ok
        assert health.orphans == ()
        assert sorted(after.class_names()) == ["cat", "left", "merged", "renamed", "right", "stays"]
        for name, seed in (("cat", 0), ("stays", 5), ("renamed", 6)):
            assert_whole(after, make_class(name, seed))
        block = after.prototypes(None, CLIP)
        np.testing.assert_allclose(after.nearest(block.vectors[block.role_is_fg], CLIP, k=1)[0], 1, atol=1e-5)
    for copy in tmp_path.glob("backup-*"):
        with Store.open(copy, profile=FakeProfile()) as copied:
            assert copied.health().ok
            assert_whole(copied, make_class("stays", 5))
        shutil.rmtree(copy)
