from __future__ import annotations

import sqlite3
from contextlib import closing
from pathlib import Path

import numpy as np
import pytest

from ovseg_cli.errors import StoreCorruptError, StoreError
from ovseg_cli.store import Store, sweep
from ovseg_cli.store import health as health_module
from tests.store import processes
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
    assert {index.digest: index.status for index in health.indexes} == {CLIP: "fresh", SD: "fresh"}
    store.add_class(make_class("dog", 1))
    assert {index.digest: index.status for index in store.health().indexes} == {CLIP: "fresh", SD: "fresh"}


def flip(file: Path, place: int, bit: int) -> None:
    data = bytearray(file.read_bytes())
    data[place] ^= 1 << bit
    file.write_bytes(data)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["000.png", "000.attribution.png", "001.mask.png"])
def test_every_bit_of_a_support_file_counts(store: Store, name: str) -> None:
    (file,) = (store.path / "support" / "cat").glob(f"*/{name}")
    sound = file.read_bytes()
    for place in range(0, len(sound), 9):
        flip(file, place, place % 8)
        health = store.health()
        assert health.damaged == (file,)
        assert not health.ok
        file.write_bytes(sound)
    assert store.health().ok


def test_every_bit_of_a_vector_counts(store: Store) -> None:
    """Also those that leave its length as it is: signs, and the last places."""
    with closing(sqlite3.connect(store.path / "ovseg.db")) as connection:
        ((vector,),) = connection.execute("SELECT vector FROM prototype WHERE id = 7").fetchall()
    for place in range(0, len(vector), 5):
        changed = bytearray(vector)
        changed[place] ^= 1 << place % 8
        execute(store, f"UPDATE prototype SET vector = x'{changed.hex()}' WHERE id = 7")
        assert "class 'cat': its rows in the database are not what was stored" in store.health().problems[0]
        with pytest.raises(StoreCorruptError, match=r"class 'cat' is damaged.*--if-exists replace"):
            store.read_class("cat")
    execute(store, f"UPDATE prototype SET vector = x'{vector.hex()}' WHERE id = 7")
    assert store.health().ok


@pytest.mark.parametrize(
    "change",
    [
        "category SET seed = seed + 1",
        "category SET name = 'car'",
        "category SET settings = '{}'",
        "category SET content_digest = NULL",
        "support_image SET seed = NULL",
        "support_image SET mask_digest = image_digest",
        "extractor SET spec = '{}'",
        "prototype SET norm = norm * 2",
        "prototype SET role = 'fg'",
        "prototype SET extractor_id = 3 - extractor_id WHERE kind = 'mean'",
    ],
)
def test_every_row_of_a_class_counts(store: Store, change: str) -> None:
    execute(store, f"UPDATE {change}")
    assert any("not what was stored" in problem for problem in store.health().problems)


@pytest.mark.slow
def test_bits_of_the_database_file(store: Store) -> None:
    """Wherever a bit of the file turns: either it says nothing of the store, or doctor finds it."""
    step = 1009
    file = store.path / "ovseg.db"
    expected = store.read_class("cat")
    sound = file.read_bytes()
    found = 0
    for place in range(100, len(sound), step):
        flip(file, place, place % 8)
        try:
            with Store.open(store.path) as damaged:
                healthy = damaged.health().ok
                found += not healthy
                if healthy:
                    read = damaged.read_class("cat")
                    for one, other in zip(read.prototypes, expected.prototypes, strict=True):
                        np.testing.assert_array_equal(one.half, other.half)
                        assert (one.role, one.kind, one.support) == (other.role, other.kind, other.support)
        except StoreError:
            found += 1
        for suffix in ("-wal", "-shm"):
            (store.path / f"ovseg.db{suffix}").unlink(missing_ok=True)
        file.write_bytes(sound)
    assert found > 3


def test_a_vector_that_is_not_of_length_1_is_not_used(store: Store) -> None:
    vector = (store.prototypes(["cat"], CLIP).vectors[0] * 1.1).astype("<f2").tobytes()
    execute(store, f"UPDATE prototype SET vector = x'{vector.hex()}' WHERE id = 3")
    for use in (
        lambda: store.prototypes(["cat"], CLIP),
        lambda: store.nearest(np.ones((1, 24), np.float32), CLIP, k=1),
    ):
        with pytest.raises(StoreCorruptError, match=r"not a direction of length 1.*--if-exists replace"):
            use()


@pytest.mark.slow
def test_nothing_is_accused_while_others_write(store: Store) -> None:
    """A class that is replaced between the look at its row and the look at its files, again and again."""
    writers = [processes.start("churn", store.path, name) for name in ("dog", "bird")]
    try:
        for writer in writers:
            assert writer.stdout is not None
            assert writer.stdout.readline() == "going\n", writer.communicate()
        for _ in range(8):
            health = Store.open(store.path).health()
            assert health.ok, health
            assert health.orphans == ()
        assert all(writer.poll() is None for writer in writers)
    finally:
        for writer in writers:
            writer.kill()
            writer.communicate()


@pytest.mark.parametrize("then", ["replaced", "removed"])
def test_files_that_go_while_they_are_looked_at(store: Store, monkeypatch: pytest.MonkeyPatch, then: str) -> None:
    """The same in slow motion."""
    look, done = health_module._holds, []

    def slow(path: Path, digest: str | None) -> bool:
        if not done:
            done.append(path)
            other = Store.open(store.path)
            other.remove_classes(["cat"])
            if then == "replaced":
                other.add_class(make_class("cat", 3))
        return look(path, digest)

    monkeypatch.setattr(health_module, "_holds", slow)
    health = store.health()
    assert done
    assert health.ok, health


def test_missing_files_are_named(store: Store) -> None:
    lost = store.supports("cat")[1].mask_path
    lost.unlink()
    health = store.health()
    assert health.missing == (lost,)
    assert not health.ok


@pytest.mark.parametrize("by", ["the next writer after one that died", "a repair"])
def test_orphans_are_named_and_swept(store: Store, by: str) -> None:
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
    assert store.health().orphans == (beside_cat, orphan), "no writer looks at all folders without a reason"
    if by == "a repair":
        assert set(store.repair().removed) == {beside_cat, orphan}
    else:
        sweep.mark(store.path)
        store.add_class(make_class("fish", 2))
        assert not sweep.is_marked(store.path)
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
        ("UPDATE prototype SET vector = zeroblob(48) WHERE id = 3", "not a direction of length 1"),
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


@pytest.mark.slow
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
