"""What SQLite reads for a few classes of a large store: their rows, found by an index, and nothing beside them."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable
from contextlib import closing
from typing import Any

import pytest

from ovseg_cli.store import Store
from ovseg_cli.store.database import Database
from tests.store.helpers import CLIP, make_class

USES: dict[str, Callable[[Store], object]] = {
    "prototypes of one": lambda store: store.prototypes(["cat"], CLIP),
    "prototypes of two": lambda store: store.prototypes(["dog", "cat"], CLIP),
    "prototypes of many": lambda store: store.prototypes([f"class {number}" for number in range(40)], CLIP),
    "read_class": lambda store: store.read_class("cat"),
    "get_class": lambda store: store.get_class("cat"),
    "supports": lambda store: store.supports("cat"),
    "add_class": lambda store: store.add_class(make_class("bird", 5)),
    "replace": lambda store: store.add_class(make_class("cat", 5), replace=True),
    "remove_classes": lambda store: store.remove_classes(["cat", "dog"]),
}


@pytest.fixture
def statements(store: Store, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """All statements on the store from now on, with their values in place."""
    store.add_classes(make_class(f"class {number}", number, supports=0) for number in range(40))
    store.add_class(make_class("dog", 1))
    seen: list[str] = []
    connect = Database._connect

    def traced(self: Database, **how: Any) -> sqlite3.Connection:
        connection = connect(self, **how)
        connection.set_trace_callback(seen.append)
        return connection

    monkeypatch.setattr(Database, "_connect", traced)
    return seen


def walks(store: Store, statement: str, tables: tuple[str, ...]) -> list[str]:
    """The steps of a statement's plan that go through more than one class of these tables."""
    with closing(sqlite3.connect(store.path / "ovseg.db")) as connection:
        steps = [row[3] for row in connection.execute(f"EXPLAIN QUERY PLAN {statement}")]
    named = tuple(f"{how} {table}" for how in ("SCAN", "SEARCH") for table in tables)
    mine = [step for step in steps if step.startswith(named)]
    by_class_or_row = ("(category_id=?", "(rowid=?)", "(id=?)")
    return [step for step in mine if not any(found in step for found in by_class_or_row)]


@pytest.mark.parametrize("use", USES)
def test_a_class_is_read_without_the_others(store: Store, statements: list[str], use: str) -> None:
    USES[use](Store.open(store.path))
    checked = [line for line in statements if line.lstrip().upper().startswith(("SELECT", "UPDATE", "DELETE"))]
    assert checked
    for statement in checked:
        if "prototype.extractor_id = extractor.id" in statement:
            continue  # whether an extractor is still used: looked up by its own index
        assert walks(store, statement, ("prototype", "support_image")) == [], statement
