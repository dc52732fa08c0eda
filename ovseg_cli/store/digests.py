"""What was stored, as digests: so that bits that the disk has turned since are found, wherever they are.

SQLite and the file system keep bytes, and notice few of those that change under them. Every class has a digest of all
its rows, and every support file one of its content.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Callable, Iterable, Sequence
from json.encoder import encode_basestring_ascii
from pathlib import Path
from typing import Any

from sqlalchemy import Connection

_OWN_COLUMN = "content_digest"
_ROWS_OF_A_CLASS = {
    "category": "SELECT * FROM category WHERE id = :id",
    "extractor": (
        "SELECT * FROM extractor WHERE id IN (SELECT extractor_id FROM prototype WHERE category_id = :id) ORDER BY id"
    ),
    "support_image": "SELECT * FROM support_image WHERE category_id = :id ORDER BY position",
    "prototype": "SELECT * FROM prototype WHERE category_id = :id ORDER BY extractor_id, id",
}
"""All that a class is in the database, each found by an index."""

Rows = tuple[list[str], list[tuple[Any, ...]]]
"""Names of columns, and rows with a value for each."""


def bytes_digest(data: bytes) -> str:
    """Give the SHA-256 (hex) of some bytes."""
    return hashlib.sha256(data).hexdigest()


def file_digest(path: Path) -> str:
    """Give the SHA-256 (hex) of a file, read piece by piece.

    Raises:
        OSError: If it cannot be read.
    """
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def rows_digest(tables: Iterable[tuple[Sequence[str], Iterable[Sequence[Any]]]]) -> str:
    """Give the SHA-256 (hex) of rows. How it is made can never change: stores keep it.

    Args:
        tables: Names of columns in any order, and rows with a value for each: what SQLite keeps in a cell.
    """
    digest = hashlib.sha256()
    for columns, rows in tables:
        order = sorted(range(len(columns)), key=columns.__getitem__)
        digest.update(_line([columns[place] for place in order]))
        for row in rows:
            values = [row[place] for place in order]
            digest.update(_line(values))
            for item in values:
                if isinstance(item, bytes):
                    digest.update(item)
    return digest.hexdigest()


def class_digest(connection: Connection, category_id: int) -> str:
    """Give the digest of all that the database holds of a class: every column of all its rows but the digest itself.

    A migration that changes one of these tables has to compute the digests of all classes anew.

    Args:
        connection: Connection in the transaction that wrote the rows, or in a later one.
        category_id: The class.
    """
    return rows_digest(class_rows(connection, category_id).values())


def class_rows(connection: Connection, category_id: int) -> dict[str, Rows]:
    """Read all that the database holds of a class but for its digest, by table."""
    driver: Any = connection.connection.driver_connection  # without what SQLAlchemy does for each row
    found: dict[str, Rows] = {}
    for table, statement in _ROWS_OF_A_CLASS.items():
        cursor = driver.execute(statement, {"id": category_id})
        columns, rows = [column[0] for column in cursor.description], cursor.fetchall()
        if _OWN_COLUMN in columns:
            own = columns.index(_OWN_COLUMN)
            columns, rows = [*columns[:own], *columns[own + 1 :]], [(*row[:own], *row[own + 1 :]) for row in rows]
        found[table] = (columns, rows)
    return found


def _line(values: list[Any]) -> bytes:
    """What `json.dumps` makes of values, several times as fast: a store has millions of rows."""
    return f"[{', '.join([_WRITERS.get(type(item), json.dumps)(item) for item in values])}]\n".encode()


def _of_float(value: float) -> str:
    return float.__repr__(value) if math.isfinite(value) else json.dumps(value)


_WRITERS: dict[type, Callable[[Any], str]] = {
    int: int.__repr__,
    float: _of_float,
    str: encode_basestring_ascii,
    bytes: lambda item: f'{{"bytes": {len(item)}}}',
}
