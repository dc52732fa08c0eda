"""What writers leave behind: how the next one knows that one died in the middle, and which files are to go.

A writer makes a mark before its first file and takes it away after its last one. So a change looks only at the folders
that it touched itself, however many others there are, and after a death, which leaves the mark, all are looked at.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass, field
from pathlib import Path

from filelock import FileLock, Timeout
from sqlalchemy import select
from sqlalchemy.orm import Session

from ovseg_cli.store import classes, schema, support, vector_index
from ovseg_cli.store.disk import refuse_links, sync_folder, write_new
from ovseg_cli.store.tables import Extractor

MARK = "write.pending"
BUILD_LOCK = "index.lock"
"""Held while an index is made without the write lock, so that nobody takes its unfinished files for a dead writer's."""

_MANY = 1_000
"""Folders that are looked up one by one; for more, all are looked at."""


@dataclass(slots=True)
class Change:
    """A change of classes under way.

    Attributes:
        all_folders: Whether a writer before died in the middle, so that any folder may be one of its leftovers.
        folders: Where this change wrote files, or took classes away that had theirs there.
        came: Classes that are new or made anew: generation to row id.
        went: Generations that are not in the store any more.
        token: The store's vector token before.
        committed: Whether it is done, so that the indexes are to follow.
    """

    all_folders: bool
    folders: list[support.Generation] = field(default_factory=list)
    came: dict[str, int] = field(default_factory=dict)
    went: list[str] = field(default_factory=list)
    token: str = ""
    committed: bool = False


def begin(store: Path) -> Change:
    """Make the mark; the caller holds the write lock.

    Raises:
        StoreError: If the mark is a link.
        OSError: If the disk refuses.
    """
    died = is_marked(store)
    mark(store)
    return Change(all_folders=died)


def mark(store: Path) -> None:
    """Let the next change look at all folders, unless the mark is taken away before."""
    path = store / MARK
    refuse_links(path)
    if not path.exists():
        write_new(path, b"")
        sync_folder(store)


def is_marked(store: Path) -> bool:
    """Whether a writer is at work, or died in the middle."""
    return (store / MARK).exists()


def end(session: Session, store: Path, change: Change) -> None:
    """Delete what no row names any more, then the mark.

    Raises:
        OSError: If something cannot be deleted; the mark stays.
    """
    folders = None if change.all_folders or len(change.folders) > _MANY else change.folders
    remove(find_orphans(session, store, folders))
    (store / MARK).unlink(missing_ok=True)


def remove(paths: Collection[Path]) -> None:
    """Delete what `find_orphans` found, and wait until the disk knows.

    Raises:
        OSError: If something cannot be deleted.
    """
    for path in paths:
        if path.is_dir():
            support.remove(path)
        else:
            path.unlink(missing_ok=True)
    for folder in {path.parent for path in paths}:
        while not folder.exists():
            folder = folder.parent
        sync_folder(folder)


def find_orphans(session: Session, store: Path, folders: Collection[support.Generation] | None = None) -> list[Path]:
    """Find what writers that died have left: folders and index files that no row names, and torn backups.

    Args:
        session: Reading session.
        store: The store's folder.
        folders: Where to look for folders of classes; None for everywhere.
    """
    extractors = set(session.scalars(select(Extractor.digest)))
    if folders is None:
        found = support.orphans(store, classes.generations(session))
    else:
        found = support.orphans(store, classes.generations(session, [each for _, each in folders]), folders)
    return [
        *found,
        *vector_index.leftovers(store, extractors, building=is_building(store)),
        *schema.torn_backups(store),
    ]


def is_building(store: Path) -> bool:
    """Whether a living process makes an index just now."""
    lock = store / BUILD_LOCK
    if not lock.exists():
        return False
    refuse_links(lock)
    try:
        with FileLock(lock).acquire(timeout=0):
            return False
    except Timeout:
        return True
    except OSError:  # a store that can only be read
        return False
