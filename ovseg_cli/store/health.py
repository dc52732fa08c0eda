"""Looking a store over: what `doctor` reports."""

from __future__ import annotations

import logging
import os
import stat
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from sqlalchemy import func, select, text
from sqlalchemy.orm import Session

from ovseg_cli.errors import OvsegError
from ovseg_cli.places import DATABASE_NAME
from ovseg_cli.store import classes, digests, support, sweep, vector_index
from ovseg_cli.store.database import SIDE_SUFFIXES, Database
from ovseg_cli.store.disk import is_link
from ovseg_cli.store.lock import write_lock
from ovseg_cli.store.tables import Category, Extractor, Prototype, SupportImage
from ovseg_cli.store.vector_index import IndexStatus, Stamp

logger = logging.getLogger(__name__)

_AT_ONCE = 100  # classes whose files are looked up together


@dataclass(frozen=True, slots=True, kw_only=True)
class IndexHealth:
    """State of one extractor's index file.

    Attributes:
        extractor: Short name of the extractor.
        digest: Digest of the extractor.
        path: Its catalogue.
        status: "fresh", "outdated" or "missing" (both made anew at the next search) or "damaged" (too,
            but something went wrong).
        reason: Why it is not fresh, else "".
    """

    extractor: str
    digest: str
    path: Path
    status: IndexStatus
    reason: str


@dataclass(frozen=True, slots=True, kw_only=True)
class StoreHealth:
    """What was found when a store was looked over.

    Attributes:
        path: The store's folder.
        read_only: Whether it can only be read.
        classes: Number of classes.
        prototypes: Number of prototypes.
        supports: Number of support images.
        nbytes: Bytes of all files in the folder, the database among them.
        problems: What is wrong in the database, one sentence each; empty when it is sound.
        missing: Files that rows name and that are not there.
        damaged: Files that are not what was stored.
        orphans: Folders and files that no row names; a repair takes them away, or a writer after one that died.
        interrupted: Whether a writer died in the middle of a change, so that the next one takes its leftovers away.
        indexes: State of the index file of each extractor.
    """

    path: Path
    read_only: bool
    classes: int
    prototypes: int
    supports: int
    nbytes: int
    problems: tuple[str, ...]
    missing: tuple[Path, ...]
    damaged: tuple[Path, ...]
    orphans: tuple[Path, ...]
    interrupted: bool
    indexes: tuple[IndexHealth, ...]

    @property
    def ok(self) -> bool:
        """Whether nothing is lost: orphans and a damaged index mend themselves, the rest does not."""
        return not self.problems and not self.missing and not self.damaged


@dataclass(frozen=True, slots=True, kw_only=True)
class Repair:
    """What a repair has done.

    Attributes:
        removed: Leftovers that it took away.
        indexes: Names of the extractors whose index it brought up to date.
    """

    removed: tuple[Path, ...]
    indexes: tuple[str, ...]


def examine(database: Database, store: Path, *, read_only: bool, lock_timeout: float) -> StoreHealth:
    """Look a store over; reads the whole database and all support files, piece by piece, and changes nothing.

    Others may change the store meanwhile. What is in the database is judged in one consistent state. A file's class is
    looked up again before the file counts as lost or damaged, and what looks like a leftover, or an index that does not
    fit, is looked at again while nobody writes.

    Args:
        database: The store's database.
        store: The store's folder.
        read_only: Whether the store can only be read.
        lock_timeout: Seconds to wait for another process that is writing.

    Returns:
        What was found.
    """
    with database.read() as session:
        problems = (*_links(store), *_problems(session))
        counts = [_count(session, table) for table in (Category, Prototype, SupportImage)]
        numbers = session.scalars(select(Category.id).order_by(Category.id)).all()
        indexes, orphans = _indexes(session, store), sweep.find_orphans(session, store)
    parts = (numbers[start : start + _AT_ONCE] for start in range(0, len(numbers), _AT_ONCE))
    files = [finding for part in parts for finding in _file_problems(database, store, part)]
    if orphans or any(index.status == "damaged" for index in indexes):
        with _nobody_writes(store, 0.0 if read_only else lock_timeout) as sure, database.read() as session:
            indexes, orphans = _indexes(session, store), sweep.find_orphans(session, store) if sure or read_only else []
    return StoreHealth(
        path=store,
        read_only=read_only,
        classes=counts[0],
        prototypes=counts[1],
        supports=counts[2],
        nbytes=_size(store),
        problems=problems,
        missing=tuple(path for path, damaged in files if not damaged),
        damaged=tuple(path for path, damaged in files if damaged),
        orphans=tuple(orphans),
        interrupted=bool(orphans) and sweep.is_marked(store),
        indexes=tuple(indexes),
    )


@contextmanager
def _nobody_writes(store: Path, timeout: float) -> Iterator[bool]:
    """Keep writers out, and say whether that worked."""
    with ExitStack() as stack:
        try:
            stack.enter_context(write_lock(store, timeout))
        except (OvsegError, OSError):
            yield False
        else:
            yield True


def _indexes(session: Session, store: Path) -> list[IndexHealth]:
    meta = classes.meta(session)
    found = []
    for row in session.scalars(select(Extractor).order_by(Extractor.id)):
        stamp = Stamp(extractor=row.digest, revision=meta.vector_revision, token=meta.vector_token)
        state = vector_index.inspect_index(store, stamp, thorough=True)
        path = vector_index.catalogue_path(store, row.digest)
        found.append(
            IndexHealth(extractor=row.name, digest=row.digest, path=path, status=state.status, reason=state.reason)
        )
    return found


def _count(session: Session, table: type[Category | Prototype | SupportImage]) -> int:
    return session.scalar(select(func.count()).select_from(table)) or 0


def _size(store: Path) -> int:
    total = 0
    passing = {f"{DATABASE_NAME}{suffix}" for suffix in SIDE_SUFFIXES}  # there while it is open
    for folder, _, names in os.walk(store):  # does not mind what a writer takes away meanwhile
        for name in names:
            with suppress(FileNotFoundError):
                status = os.lstat(os.path.join(folder, name))
                total += status.st_size if stat.S_ISREG(status.st_mode) and name not in passing else 0
    return total


def _links(store: Path) -> Iterator[str]:
    for folder in (store / support.FOLDER, store / vector_index.FOLDER):
        if is_link(folder):
            yield f"{folder} is a link, and ovseg changes nothing outside of the store; put the folder itself there"


def _problems(session: Session) -> Iterator[str]:
    lines = [str(line) for line in session.scalars(text("PRAGMA integrity_check")) if line != "ok"]
    if lines:
        logger.debug("the database is damaged: %s", "; ".join(lines))
        yield f"the database file is damaged ({len(lines)} findings); put a backup in its place"
    for table, row, parent, _ in session.execute(text("PRAGMA foreign_key_check")):
        yield f"row {row} of {table} names a row of {parent} that is not there; put a backup in the database's place"
    dims = {number: dim for number, dim in session.execute(select(Extractor.id, Extractor.dim))}
    connection = session.connection()
    for number, name, digest in session.execute(
        select(Category.id, Category.name, Category.content_digest).order_by(Category.id)
    ).all():
        tables = digests.class_rows(connection, number)
        if digests.rows_digest(tables.values()) != digest:
            yield (
                f"class {name!r}: its rows in the database are not what was stored; put a backup in the store's place, "
                "or make the class anew with ovseg add-class --if-exists replace"
            )
        columns, rows = tables["prototype"]
        if not {"extractor_id", "vector"}.issubset(columns):
            continue  # the names of columns are damaged, so that the digest was another
        made_by, vector = columns.index("extractor_id"), columns.index("vector")
        try:
            for extractor, dim in dims.items():
                classes.decode_halves([row[vector] for row in rows if row[made_by] == extractor], dim)
        except OvsegError as error:
            yield f"class {name!r}: {error}"


def _file_problems(database: Database, store: Path, numbers: Sequence[int]) -> list[tuple[Path, bool]]:
    """Give the files of classes that are lost (False) or damaged (True).

    The files of a class are there from before the commit that names them until after the one that does not any more,
    and never change. So a class that is still of the same generation when a file was missed is truly without it.
    """
    found = []
    doubtful = numbers
    while doubtful:
        known = _files(database, store, doubtful)
        bad = {
            number: [(path, path.is_file()) for path, digest in files.items() if not _holds(path, digest)]
            for number, files in known.items()
        }
        again = _files(database, store, [number for number, problems in bad.items() if problems])
        found += [problem for number, files in again.items() if files == known[number] for problem in bad[number]]
        doubtful = [number for number, files in again.items() if files != known[number]]
    return found


def _files(database: Database, store: Path, numbers: Sequence[int]) -> dict[int, dict[Path, str | None]]:
    """Give the files of classes with their digests; classes that are gone are left out."""
    if not numbers:
        return {}
    found: dict[int, dict[Path, str | None]] = {}
    with database.read() as session:
        query = select(Category.id, Category.slug, Category.generation).where(Category.id.in_(numbers))
        folders = {row.id: support.folder_of(store, (row.slug, row.generation)) for row in session.execute(query)}
        images = session.scalars(
            select(SupportImage)
            .where(SupportImage.category_id.in_(numbers))
            .order_by(SupportImage.category_id, SupportImage.position)
        )
        found = {number: {} for number in folders}
        for image in images:
            for name, digest in support.digests_of(image).items():
                found[image.category_id][folders[image.category_id] / name] = digest
    return found


def _holds(path: Path, digest: str | None) -> bool:
    """Whether a file is there, and is what was stored as far as that is known."""
    try:
        return path.is_file() and digest in (None, digests.file_digest(path))
    except OSError:
        return False
