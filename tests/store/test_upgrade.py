"""Stores made by earlier schema revisions: one of each as it was written then, and some made by their migrations."""

from __future__ import annotations

import errno
import json
import os
import sqlite3
import zipfile
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from sqlalchemy import create_engine
from sqlalchemy.pool import NullPool

from ovseg_cli.errors import DiskFullError, StoreReadOnlyError
from ovseg_cli.names import slugify
from ovseg_cli.store import ClassRecord, Store, schema, support
from tests.store.helpers import CLIP, SD, assert_whole, make_class, unit

GENERATIONS = {"cat": "ab" * 16, "dog": "cd" * 16}
NEW_COLUMNS = ("content_digest", "image_digest", "attribution_digest", "mask_digest")
FROZEN = Path(__file__).parent / "frozen"


def migrate(connection: Any, revision: str) -> None:
    from alembic import command
    from alembic.config import Config

    config = Config()
    config.set_main_option("script_location", str(schema.migrations_path()).replace("%", "%%"))
    config.set_main_option("path_separator", "os")
    config.attributes["connection"] = connection
    command.upgrade(config, revision)


def insert(connection: sqlite3.Connection, table: str, **values: Any) -> int:
    marks = ", ".join("?" * len(values))
    cursor = connection.execute(f"INSERT INTO {table} ({', '.join(values)}) VALUES ({marks})", tuple(values.values()))
    return cursor.lastrowid or 0


def insert_class(connection: sqlite3.Connection, store: Path, record: ClassRecord, extractors: dict[str, int]) -> None:
    """Rows and files of a class, as version 0.1 of ovseg wrote them."""
    generation = GENERATIONS[record.name]
    number = insert(
        connection,
        "category",
        name=record.name,
        key=record.name,
        slug=slugify(record.name),
        generation=generation,
        kind=record.kind,
        kind_source=record.kind_source,
        created_at="2025-03-04 05:06:07.000008",
        seed=record.seed,
        settings=json.dumps(record.settings),
        rejected=record.rejected,
        file_bytes=123,
    )
    support.stage(store, (slugify(record.name), generation), support.encode(record.supports))
    images = {
        item.position: insert(
            connection,
            "support_image",
            category_id=number,
            position=item.position,
            seed=item.seed,
            prompt=item.prompt,
            width=item.image.shape[1],
            height=item.image.shape[0],
        )
        for item in record.supports
    }
    for item in record.prototypes:
        insert(
            connection,
            "prototype",
            category_id=number,
            extractor_id=extractors[item.extractor],
            support_id=None if item.support is None else images[item.support],
            role=item.role,
            kind=item.kind,
            vector=unit(item.vector).astype("<f2").tobytes(),
            norm=float(np.linalg.norm(item.vector.astype(np.float64))),
            pixels=item.pixels,
        )


@pytest.fixture
def first(tmp_path: Path) -> Path:
    """A store of revision 0001: a cat, a dog, a class that was removed, a run and an evaluation."""
    store = tmp_path / "old störe"
    store.mkdir()
    file = store / "ovseg.db"
    engine = create_engine("sqlite://", creator=lambda: sqlite3.connect(file), poolclass=NullPool)
    with engine.begin() as connection:
        migrate(connection, "0001")
    with closing(sqlite3.connect(file)) as connection:
        connection.execute("PRAGMA journal_mode = WAL")
        insert(
            connection,
            "store_meta",
            id=1,
            profile_name="mini",
            profile_digest="d" * 64,
            profile_record=json.dumps({"name": "mini"}),
            vector_revision=3,
            vector_token="e" * 32,
            created_at="2025-03-04 05:06:07.000008",
            created_by="0.1",
        )
        extractors = {
            digest: insert(connection, "extractor", digest=digest, name=name, dim=dim, spec='{"layers": ["a"]}')
            for digest, name, dim in ((CLIP, "clip", 24), (SD, "sd", 40))
        }
        insert_class(connection, store, make_class("cat", 0), extractors)
        insert_class(connection, store, make_class("dog", 1), extractors)
        connection.execute(
            "INSERT INTO category SELECT 9, 'gone', 'gone', 'gone', 'ef', kind, kind_source, created_at, seed, "
            "settings, rejected, file_bytes FROM category WHERE name = 'cat'"
        )
        connection.execute("DELETE FROM category WHERE id = 9")
        run = insert(
            connection,
            "run",
            id="a" * 32,
            command="segment",
            argv="[]",
            method="gem",
            classes='["cat"]',
            background=1,
            output="/x",
            inputs='["y"]',
            started_at="2025-03-04 05:06:07.000008",
            status="finished",
            settings="{}",
        )
        insert(connection, "run_item", run_number=run, source="y/1.png", status="done")
        insert(
            connection, "evaluation", run_number=run, created_at="2025-03-04 05:06:07.000008", report='{"miou": 0.5}'
        )
        connection.commit()
    return store


def rows(file: Path) -> dict[str, list[tuple[Any, ...]]]:
    """Everything in a database by table, but for what the upgrade is meant to change."""
    with closing(sqlite3.connect(file)) as connection:
        names = [name for (name,) in connection.execute("SELECT name FROM sqlite_master WHERE type = 'table'")]
        found = {}
        for name in names:
            columns = [column for _, column, *_ in connection.execute(f"PRAGMA table_info({name})")]
            kept = ", ".join(column for column in columns if column not in NEW_COLUMNS)
            found[name] = sorted(map(repr, connection.execute(f"SELECT {kept} FROM {name}")))
    del found["alembic_version"]
    found.pop("text_embedding", None)
    found["sqlite_sequence"] = [row for row in found["sqlite_sequence"] if "text_embedding" not in row]
    return found


def test_first_revision_upgrades_with_all_its_data(first: Path) -> None:
    before = rows(first / "ovseg.db")
    with Store.open(first) as store:
        assert rows(first / "ovseg.db") == before
        assert store.class_names() == ["cat", "dog"]
        for name, seed in (("cat", 0), ("dog", 1)):
            assert_whole(store, make_class(name, seed))
            assert store.get_class(name).generation == GENERATIONS[name]
            assert store.get_class(name).kind_source == "default"
        assert store.vector_revision == 3
        assert store.runs()[0].counts["done"] == 1
        assert store.health().ok
        assert store.read_class("dog").seed == 1
        # What the new revision is for works.
        store.keep_texts("model", {"a cat": np.ones(3, np.float32)})
        assert list(store.cached_texts("model", ["a cat"])) == ["a cat"]
        record = make_class("bird", 2)
        changed = {field: getattr(record, field) for field in record.__slots__} | {"kind_source": "clip"}
        info = store.add_class(ClassRecord(**changed))
        assert info.kind_source == "clip"
        assert info.id == 10, "an id that a removed class had is not given again"
        store.remove_classes(["dog"])
        assert store.health().ok
    (backup,) = first.glob("ovseg-0001-*.db")
    assert rows(backup) == before


@pytest.fixture(params=schema.REVISIONS)
def frozen(request: pytest.FixtureRequest, tmp_path: Path) -> tuple[str, Path]:
    """A store as ovseg wrote it when a revision was the newest: a cat and a dog, a run and an evaluation.

    For a new revision: make a store so, and put its folder without `write.lock` into `frozen/<revision>.zip`.
    """
    with zipfile.ZipFile(FROZEN / f"{request.param}.zip") as archive:
        archive.extractall(tmp_path / "frozen störe")
    return request.param, tmp_path / "frozen störe"


@pytest.mark.slow
def test_every_revision_that_was_released_opens(frozen: tuple[str, Path]) -> None:
    revision, path = frozen
    before = rows(path / "ovseg.db")
    with Store.open(path) as store:
        assert rows(path / "ovseg.db") == before
        for name, seed in (("cat", 0), ("dog", 1)):
            assert_whole(store, make_class(name, seed))
            assert store.read_class(name).seed == seed
        assert store.runs()[0].counts["done"] == 1
        assert store.health().ok
        store.remove_classes(["cat"])
        store.add_class(make_class("bird", 2))
        assert store.health().ok
        assert store.health().orphans == ()
    backups = list(path.glob("ovseg-*.db"))
    assert len(backups) == (revision != schema.REVISIONS[-1])
    assert all(rows(backup) == before for backup in backups)


def test_what_an_upgrade_found_is_guarded_from_then_on(frozen: tuple[str, Path]) -> None:
    _, path = frozen
    with Store.open(path) as store:
        pictures = [store.supports("dog")[1].mask_path, store.supports("cat")[0].image_path]
        for picture in pictures:
            data = bytearray(picture.read_bytes())
            data[-20] ^= 1
            picture.write_bytes(data)
        with closing(sqlite3.connect(path / "ovseg.db")) as connection:
            connection.execute("UPDATE prototype SET pixels = 6 WHERE id = (SELECT max(id) FROM prototype)")
            connection.commit()
        health = store.health()
        assert set(health.damaged) == set(pictures)
        (problem,) = health.problems
        assert "class 'dog'" in problem


def test_a_file_that_was_lost_before_there_were_digests(first: Path) -> None:
    lost = first / "support" / "cat" / GENERATIONS["cat"] / "001.mask.png"
    data = lost.read_bytes()
    lost.unlink()
    with Store.open(first) as store:
        assert store.health().missing == (lost,)
        lost.write_bytes(data)
        assert store.health().ok
        assert store.read_class("cat").seed == 0


def test_children_of_a_class_still_go_with_it(first: Path) -> None:
    """The foreign keys name the rebuilt table, and are enforced again after the upgrade."""
    with Store.open(first) as store:
        store.remove_classes(["cat", "dog"])
    left = rows(first / "ovseg.db")
    assert left["support_image"] == left["prototype"] == left["extractor"] == []


@pytest.mark.skipif(not hasattr(os, "fork"), reason="the death is tried out in a forked process")
def test_a_backup_has_its_name_only_when_it_is_whole(first: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As a kill leaves it: the copy was written, and nothing came after."""

    def die(path: Path, target: Path) -> None:
        os._exit(9)

    monkeypatch.setattr("ovseg_cli.store.database.move_durably", die)
    child = os.fork()
    if child == 0:
        Store.open(first)
        os._exit(0)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 9
    monkeypatch.undo()
    assert list(first.glob("ovseg-0001-*.db")) == []
    (torn,) = first.glob("ovseg-0001-*")
    foreign = first / "ovseg-0001-notes.db.tmp"
    foreign.write_text("mine")
    with Store.open(first) as store:
        assert store.health().orphans == (torn,)
        store.remove_classes(["dog"])
        assert store.health().orphans == ()
    assert not torn.exists()
    assert foreign.exists()
    assert len(list(first.glob("ovseg-0001-*.db"))) == 1


def test_a_failed_backup_leaves_nothing(first: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(path: Path, target: Path) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr("ovseg_cli.store.database.move_durably", full)
    with pytest.raises(DiskFullError):
        Store.open(first)
    assert list(first.glob("ovseg-*")) == []
    monkeypatch.undo()
    assert Store.open(first).class_names() == ["cat", "dog"]


def test_a_read_only_store_of_the_first_revision(first: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ovseg_cli.store.store.is_writable", lambda *paths: False)
    with pytest.raises(StoreReadOnlyError, match="has to be upgraded"):
        Store.open(first)


def test_the_migration_refuses_to_run_where_it_would_delete(first: Path) -> None:
    before = rows(first / "ovseg.db")

    def connect() -> sqlite3.Connection:
        connection = sqlite3.connect(first / "ovseg.db")
        connection.execute("PRAGMA foreign_keys = ON")
        return connection

    engine = create_engine("sqlite://", creator=connect, poolclass=NullPool)
    with pytest.raises(RuntimeError, match="foreign keys off"), engine.begin() as connection:
        migrate(connection, "0002")
    assert rows(first / "ovseg.db") == before


def test_going_back_keeps_the_classes(first: Path) -> None:
    from alembic import command
    from alembic.config import Config

    before = rows(first / "ovseg.db")
    with Store.open(first) as store:
        store.keep_texts("model", {"a cat": np.ones(3, np.float32)})
    with closing(sqlite3.connect(first / "ovseg.db")) as connection:
        connection.execute("UPDATE category SET kind_source = 'list'")
        connection.commit()
    config = Config()
    config.set_main_option("script_location", str(schema.migrations_path()).replace("%", "%%"))
    engine = create_engine("sqlite://", creator=lambda: sqlite3.connect(first / "ovseg.db"), poolclass=NullPool)
    with engine.begin() as connection:
        config.attributes["connection"] = connection
        command.downgrade(config, "0001")
    after = rows(first / "ovseg.db")
    # The sequence of the dropped table goes with it; all else is as it was.
    assert after == before
