"""A backup: a store as it is at one moment in a folder of its own, made while others may write."""

from __future__ import annotations

import os
import shutil
import uuid
from pathlib import Path

from sqlalchemy import select

from ovseg_cli.errors import StoreCorruptError, StoreError
from ovseg_cli.places import DATABASE_NAME
from ovseg_cli.store import digests, support
from ovseg_cli.store.database import Database
from ovseg_cli.store.disk import TEMPORARY_SUFFIX, is_link, os_errors, sync_folder, write_new
from ovseg_cli.store.lock import write_lock
from ovseg_cli.store.tables import Category, SupportImage

_ATTEMPTS = 20


def copy_store(database: Database, store: Path, target: str | Path, *, lock_timeout: float) -> Path:
    """Copy a store; see `Store.backup`.

    The database is copied by SQLite itself, of one moment. A class's files stay until after the commit that replaces
    it, so those that the copy names are there, unless the class was changed between the two copies: then both begin
    again, the last time while writers are kept out.

    Args:
        database: The store's database.
        store: The store's folder.
        target: The new folder.
        lock_timeout: Seconds to wait for another process that is writing.
    """
    folder = Path(os.path.abspath(os.path.expanduser(target)))
    real, own = Path(os.path.realpath(folder)), Path(os.path.realpath(store))
    if real == own or own in real.parents:
        raise StoreError(f"A backup in the store itself would be lost with it: choose another folder than {folder}")
    with os_errors(folder):
        if is_link(folder) or (folder.exists() and (not folder.is_dir() or any(folder.iterdir()))):
            raise StoreError(f"{folder} is there already, and a backup overwrites nothing: choose another folder")
        folder.parent.mkdir(parents=True, exist_ok=True)
        # Under a passing name until it is whole, so that half a backup is never taken for one.
        passing = folder.with_name(f"{folder.name}.{uuid.uuid4().hex[:8]}{TEMPORARY_SUFFIX}")
        try:
            for attempt in range(_ATTEMPTS):
                passing.mkdir()
                if attempt + 1 < _ATTEMPTS:
                    lost = _copy(database, store, passing)
                else:
                    with write_lock(store, lock_timeout):
                        lost = _copy(database, store, passing)
                if lost is None:
                    break
                if not _was_changed(database, lost):
                    raise StoreCorruptError(
                        f"{lost} is missing or not what was stored, and a backup that is not whole is none: "
                        "`ovseg store check` names all that is damaged"
                    )
                shutil.rmtree(passing)
            sync_folder(passing)
            os.replace(passing, folder)  # an empty folder gives way
            sync_folder(folder.parent)
        except BaseException:
            shutil.rmtree(passing, ignore_errors=True)
            raise
    return folder


def _copy(database: Database, store: Path, folder: Path) -> Path | None:
    """Copy the database, then the files that the copy names; give one that could not be had, if there is any."""
    database.backup(folder / DATABASE_NAME)
    copied = Database(folder / DATABASE_NAME, "rw")
    copied.use_write_ahead_log()
    with copied.read() as session:
        query = select(Category.slug, Category.generation, SupportImage).join(
            SupportImage, SupportImage.category_id == Category.id
        )
        for slug, generation, image in session.execute(query, execution_options={"yield_per": 100}):
            source = support.folder_of(store, (slug, generation))
            target = support.folder_of(folder, (slug, generation))
            target.mkdir(parents=True, exist_ok=True)
            for name, digest in support.digests_of(image).items():
                try:
                    data = (source / name).read_bytes()
                except FileNotFoundError:
                    return source / name
                if digest not in (None, digests.bytes_digest(data)):
                    return source / name
                write_new(target / name, data)
    return None


def _was_changed(database: Database, lost: Path) -> bool:
    """Whether the store does not hold the class any more that a copied database names a file of."""
    with database.read() as session:
        slug, generation = lost.parent.parent.name, lost.parent.name
        query = select(Category.id).where(Category.slug == slug, Category.generation == generation)
        return session.scalars(query).first() is None
