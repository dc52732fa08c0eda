"""Looking a store over: what `doctor` reports."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from sqlalchemy import func, select, text
from sqlalchemy.orm import Session

from ovseg_cli.errors import OvsegError
from ovseg_cli.places import DATABASE_NAME
from ovseg_cli.store import classes, digests, schema, support, vector_index
from ovseg_cli.store.database import SIDE_SUFFIXES, Database
from ovseg_cli.store.lock import write_lock
from ovseg_cli.store.tables import Category, Extractor, Prototype, SupportImage
from ovseg_cli.store.vector_index import IndexStatus, Stamp


@dataclass(frozen=True, slots=True, kw_only=True)
class IndexHealth:
    """State of one extractor's index file.

    Attributes:
        extractor: Short name of the extractor.
        digest: Digest of the extractor.
        path: The index file.
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
        orphans: Folders and files that no row names; the next writer sweeps them.
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
    indexes: tuple[IndexHealth, ...]

    @property
    def ok(self) -> bool:
        """Whether nothing is lost: orphans and a damaged index mend themselves, the rest does not."""
        return not self.problems and not self.missing and not self.damaged


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
        problems = tuple(_problems(session))
        counts = [_count(session, table) for table in (Category, Prototype, SupportImage)]
        numbers = session.scalars(select(Category.id).order_by(Category.id)).all()
        indexes, orphans = _indexes(session, store), find_orphans(session, store)
    files = [finding for number in numbers for finding in _file_problems(database, store, number)]
    if orphans or any(index.status == "damaged" for index in indexes):
        with _nobody_writes(store, 0.0 if read_only else lock_timeout) as sure, database.read() as session:
            indexes, orphans = _indexes(session, store), find_orphans(session, store) if sure or read_only else []
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
        state = vector_index.inspect_index(store, stamp, load=False)
        path = vector_index.index_path(store, row.digest)
        found.append(
            IndexHealth(extractor=row.name, digest=row.digest, path=path, status=state.status, reason=state.reason)
        )
    return found


def find_orphans(session: Session, store: Path) -> list[Path]:
    """Find what writers that died have left: folders and index files that no row names, and torn backups.

    Args:
        session: Reading session.
        store: The store's folder.
    """
    extractors = set(session.scalars(select(Extractor.digest)))
    return [
        *support.orphans(store, classes.generations(session)),
        *vector_index.leftovers(store, extractors),
        *schema.torn_backups(store),
    ]


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


def _problems(session: Session) -> Iterator[str]:
    for line in session.scalars(text("PRAGMA integrity_check")):
        if line != "ok":
            yield str(line)
    for table, row, parent, _ in session.execute(text("PRAGMA foreign_key_check")):
        yield f"row {row} of {table} names a row of {parent} that is not there"
    dims = {number: dim for number, dim in session.execute(select(Extractor.id, Extractor.dim))}
    for number, name, digest in session.execute(
        select(Category.id, Category.name, Category.content_digest).order_by(Category.id)
    ).all():
        if digests.class_digest(session.connection(), number) != digest:
            yield (
                f"class {name!r}: its rows in the database are not what was stored; put a backup in the store's place, "
                "or make the class anew with ovseg add-class --if-exists replace"
            )
        for extractor, dim in dims.items():
            blobs = [row.vector for row in classes.prototype_rows(session, extractor, [number])]
            try:
                classes.decode_vectors(blobs, dim)
            except OvsegError as error:
                yield f"class {name!r}: {error}"


def _file_problems(database: Database, store: Path, number: int) -> list[tuple[Path, bool]]:
    """Give the files of a class that are lost (False) or damaged (True).

    The files of a class are there from before the commit that names them until after the one that does not any more,
    and never change. So a class that is still of the same generation when a file was missed is truly without it.
    """
    while True:
        known = _files(database, store, number)
        found = [(path, path.is_file()) for path, digest in known.items() if not _holds(path, digest)]
        if not found or _files(database, store, number) == known:
            return found


def _files(database: Database, store: Path, number: int) -> dict[Path, str | None]:
    """Give the files of a class with their digests; none when the class is gone."""
    with database.read() as session:
        row = session.execute(select(Category.slug, Category.generation).where(Category.id == number)).one_or_none()
        if row is None:
            return {}
        folder = support.folder_of(store, (row.slug, row.generation))
        images = session.scalars(
            select(SupportImage).where(SupportImage.category_id == number).order_by(SupportImage.position)
        )
        return {folder / name: digest for image in images for name, digest in support.digests_of(image).items()}


def _holds(path: Path, digest: str | None) -> bool:
    """Whether a file is there, and is what was stored as far as that is known."""
    try:
        return path.is_file() and digest in (None, digests.file_digest(path))
    except OSError:
        return False
