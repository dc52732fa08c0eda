"""What was stored, as digests: so that bits that the disk has turned since are found, wherever they are.

SQLite and the file system keep bytes, and notice few of those that change under them. Every class has a digest of all
its rows, and every support file one of its content.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from sqlalchemy import Connection

_OWN_COLUMN = "content_digest"
_ROWS_OF_A_CLASS = (
    "SELECT * FROM category WHERE id = :id",
    "SELECT * FROM extractor WHERE id IN (SELECT extractor_id FROM prototype WHERE category_id = :id) ORDER BY id",
    "SELECT * FROM support_image WHERE category_id = :id ORDER BY position",
    "SELECT * FROM prototype WHERE category_id = :id ORDER BY extractor_id, id",
)
"""All that a class is in the database, each in the order of an index, so that nothing is read in vain."""


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
            digest.update(_line([{"bytes": len(item)} if isinstance(item, bytes) else item for item in values]))
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

    def tables() -> Iterable[tuple[Sequence[str], Iterable[Sequence[Any]]]]:
        for statement in _ROWS_OF_A_CLASS:
            result = connection.exec_driver_sql(statement, {"id": category_id})
            columns = list(result.keys())
            kept = [place for place, name in enumerate(columns) if name != _OWN_COLUMN]
            yield [columns[place] for place in kept], ([row[place] for place in kept] for row in result)

    return rows_digest(tables())


def _line(values: list[Any]) -> bytes:
    return json.dumps(values).encode() + b"\n"
