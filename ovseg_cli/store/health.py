"""Looking a store over: what `doctor` reports."""

from __future__ import annotations

import stat
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from sqlalchemy import func, select, text
from sqlalchemy.orm import Session

from ovseg_cli.errors import OvsegError
from ovseg_cli.places import DATABASE_NAME
from ovseg_cli.store import classes, support, vector_index
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
    orphans: tuple[Path, ...]
    indexes: tuple[IndexHealth, ...]

    @property
    def ok(self) -> bool:
        """Whether nothing is lost: orphans and a damaged index mend themselves, the rest does not."""
        return not self.problems and not self.missing


def examine(session: Session, store: Path, *, read_only: bool) -> StoreHealth:
    """Look a store over; reads the whole database, changes nothing.

    Args:
        session: Reading session.
        store: The store's folder.
        read_only: Whether the store can only be read.

    Returns:
        What was found.
    """
    meta = classes.meta(session)
    extractors = session.scalars(select(Extractor).order_by(Extractor.id)).all()
    indexes = []
    for row in extractors:
        stamp = Stamp(extractor=row.digest, revision=meta.vector_revision, token=meta.vector_token)
        state = vector_index.inspect_index(store, stamp)
        indexes.append(
            IndexHealth(
                extractor=row.name,
                digest=row.digest,
                path=vector_index.index_path(store, row.digest),
                status=state.status,
                reason=state.reason,
            )
        )
    return StoreHealth(
        path=store,
        read_only=read_only,
        classes=_count(session, Category),
        prototypes=_count(session, Prototype),
        supports=_count(session, SupportImage),
        nbytes=_size(store),
        problems=tuple(_problems(session)),
        missing=tuple(_missing(session, store)),
        orphans=tuple(find_orphans(session, store)),
        indexes=tuple(indexes),
    )


def find_orphans(session: Session, store: Path) -> list[Path]:
    """Find what writers that died have left: generation folders and index files that no row names.

    Args:
        session: Reading session.
        store: The store's folder.
    """
    digests = set(session.scalars(select(Extractor.digest)))
    return [
        *support.orphans(store, classes.generations(session)),
        *vector_index.leftovers(store, digests),
    ]


def _count(session: Session, table: type[Category | Prototype | SupportImage]) -> int:
    return session.scalar(select(func.count()).select_from(table)) or 0


def _size(store: Path) -> int:
    total = 0
    passing = {store / f"{DATABASE_NAME}{suffix}" for suffix in ("-shm", "-wal")}  # there while it is open
    for path in set(store.rglob("*")) - passing:
        with suppress(FileNotFoundError):  # a writer may be at work while we count
            status = path.lstat()
            total += status.st_size if stat.S_ISREG(status.st_mode) else 0
    return total


def _problems(session: Session) -> Iterator[str]:
    for line in session.scalars(text("PRAGMA integrity_check")):
        if line != "ok":
            yield str(line)
    for table, row, parent, _ in session.execute(text("PRAGMA foreign_key_check")):
        yield f"row {row} of {table} names a row of {parent} that is not there"
    for extractor_id, dim, name in session.execute(select(Extractor.id, Extractor.dim, Extractor.name)):
        blobs = session.scalars(select(Prototype.vector).where(Prototype.extractor_id == extractor_id)).all()
        try:
            classes.decode_vectors(blobs, dim)
        except OvsegError as error:
            yield f"extractor {name}: {error}"


def _missing(session: Session, store: Path) -> Iterator[Path]:
    for row in session.scalars(select(Category).order_by(Category.id)):
        for item in classes.stored_supports(session, store, row):
            for path in (item.image_path, item.attribution_path, item.mask_path):
                if not path.is_file():
                    yield path
