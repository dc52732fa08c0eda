from __future__ import annotations

import sqlite3
from contextlib import closing
from pathlib import Path

import numpy as np
import pytest

from ovseg_cli.errors import StoreCorruptError
from ovseg_cli.store import Store
from tests.store.helpers import CLIP, SD, make_class


def execute(store: Store, statement: str) -> None:
    with closing(sqlite3.connect(store.path / "ovseg.db")) as connection:
        connection.execute(statement)
        connection.commit()


def test_a_sound_store(store: Store) -> None:
    health = store.health()
    assert health.ok
    assert (health.classes, health.supports, health.prototypes) == (1, 2, 16)
    assert health.problems == health.missing == health.orphans == ()
    assert health.nbytes == sum(path.stat().st_size for path in store.path.rglob("*") if path.is_file())
    assert {index.digest: index.status for index in health.indexes} == {CLIP: "missing", SD: "missing"}
    store.nearest(np.ones((1, 24), np.float32), CLIP, k=1)
    assert {index.digest: index.status for index in store.health().indexes} == {CLIP: "fresh", SD: "missing"}
    store.add_class(make_class("dog", 1))
    assert {index.digest: index.status for index in store.health().indexes} == {CLIP: "outdated", SD: "missing"}


def test_missing_files_are_named(store: Store) -> None:
    lost = store.supports("cat")[1].mask_path
    lost.unlink()
    health = store.health()
    assert health.missing == (lost,)
    assert not health.ok


def test_orphans_are_named_and_swept_by_the_next_writer(store: Store) -> None:
    orphan = store.path / "support" / "dog" / ("0" * 32)
    beside_cat = store.path / "support" / "cat" / ("1" * 32)
    strange = store.path / "support" / "dog" / "holiday pictures"
    for folder in (orphan, beside_cat, strange):
        folder.mkdir(parents=True)
        (folder / "000.png").write_bytes(b"half a pic")
    health = store.health()
    assert health.orphans == (beside_cat, orphan)
    assert health.ok
    store.add_class(make_class("bird", 1))
    assert store.health().orphans == ()
    assert not orphan.exists()
    assert (strange / "000.png").exists()


def test_a_sweep_that_fails_is_told_and_harms_nothing(
    store: Store, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def refuse(path: Path, missing_ok: bool = False) -> None:
        raise PermissionError(13, "Permission denied", str(path))

    monkeypatch.setattr(Path, "unlink", refuse)
    store.add_class(make_class("cat", 5), replace=True)
    assert "stay in" in caplog.text
    assert store.get_class("cat").seed == 5
    monkeypatch.undo()
    store.add_class(make_class("dog", 1))
    assert store.health().orphans == ()


@pytest.mark.parametrize(
    ("damage", "says"),
    [
        ("UPDATE prototype SET vector = x'00' WHERE id = 3", "does not have 24 numbers"),
        ("UPDATE prototype SET vector = zeroblob(48) WHERE id = 3", "not a finite direction"),
        ("UPDATE prototype SET category_id = 99 WHERE id = 3", "names a row of category"),
    ],
)
def test_damaged_rows(store: Store, damage: str, says: str) -> None:
    execute(store, damage)
    health = store.health()
    assert says in " ".join(health.problems)
    assert not health.ok


def test_damaged_vectors_are_not_used(store: Store) -> None:
    execute(store, "UPDATE prototype SET vector = x'00' WHERE id = 3")
    with pytest.raises(StoreCorruptError, match="--if-exists replace"):
        store.prototypes(None, CLIP)


@pytest.mark.parametrize("damage", ["text", "header", "half", "table", "json", "meta"])
def test_damaged_database(store: Store, damage: str) -> None:
    for number in range(6):
        store.add_class(make_class(f"class {number}", number))
    file = store.path / "ovseg.db"
    good = file.read_bytes()
    if damage == "text":
        file.write_text("this is not a database, and long enough to be seen as none " * 30)
    elif damage == "header":
        file.write_bytes(bytes(100) + good[100:])
    elif damage == "half":
        file.write_bytes(good[: len(good) // 2])
    elif damage == "table":
        execute(store, "DROP TABLE category")
    elif damage == "json":
        execute(store, "UPDATE category SET settings = '{'")
    else:
        execute(store, "DELETE FROM store_meta")
    with pytest.raises(StoreCorruptError) as caught:
        Store.open(store.path).classes()
    assert "backup" in str(caught.value)
    assert "\n" not in str(caught.value)
