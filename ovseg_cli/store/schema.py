"""The schema of a store: where its migrations are, which revision a database has, how it gets to ours."""

from __future__ import annotations

import logging
import re
from datetime import UTC, datetime
from pathlib import Path

from sqlalchemy import Connection, inspect, text

from ovseg_cli.errors import StoreError, StoreVersionError
from ovseg_cli.store.database import Database, corrupt
from ovseg_cli.store.disk import TEMPORARY_SUFFIX, is_link, listed

logger = logging.getLogger(__name__)

REVISIONS: tuple[str, ...] = ("0001", "0002", "0003", "0004")
"""Every schema revision, oldest first. Written out so that opening a store need not load Alembic."""


_TORN_BACKUP = re.compile(rf"ovseg-[0-9]{{4}}-[0-9]{{8}}T[0-9]{{12}}\.db{re.escape(TEMPORARY_SUFFIX)}")


def torn_backups(store: Path) -> list[Path]:
    """Find backups of upgrades that were killed before the copy was whole.

    Args:
        store: The store's folder.

    Returns:
        Paths, sorted; links are left alone.
    """
    return [path for path in listed(store) if _TORN_BACKUP.fullmatch(path.name) and not is_link(path)]


def migrations_path() -> Path:
    """Find the migrations: inside the installed package, or beside it in a checkout.

    Returns:
        The folder that holds `env.py`.

    Raises:
        StoreError: If neither is there.
    """
    package = Path(__file__).resolve().parent.parent
    for folder in (package / "_migrations", package.parent / "migrations"):
        if (folder / "env.py").is_file():
            return folder
    raise StoreError(f"The database migrations are missing beside {package}: install ovseg again")


def database_revision(connection: Connection, file: Path) -> str | None:
    """Read which schema revision a database has.

    Args:
        connection: Connection to the database.
        file: The database file, for messages.

    Returns:
        The revision, or None for a database without any table (its creation was interrupted).

    Raises:
        StoreCorruptError: If the database has tables, but not those of a store.
    """
    tables = inspect(connection).get_table_names()
    if not tables:
        return None
    if "alembic_version" not in tables:
        raise corrupt(file, "it has tables, but no schema revision")
    revisions = connection.execute(text("SELECT version_num FROM alembic_version")).scalars().all()
    if len(revisions) != 1:
        raise corrupt(file, f"it has {len(revisions)} schema revisions")
    return str(revisions[0])


def is_current(revision: str, store: Path) -> bool:
    """Whether a database of this revision can be used as it is.

    Args:
        revision: Revision of the database.
        store: The store's folder, for the message.

    Returns:
        True for our own revision, False for an older one that `upgrade` can bring forward.

    Raises:
        StoreVersionError: If the revision is not one that this version knows.
    """
    if revision not in REVISIONS:
        raise StoreVersionError(
            f"The store {store} was made by a newer ovseg (schema {revision}, this version knows up to "
            f"{REVISIONS[-1]}): update ovseg, or choose another store with --store"
        )
    return revision == REVISIONS[-1]


def upgrade(connection: Connection) -> None:
    """Bring a database to our revision, within the transaction that the connection is in.

    Args:
        connection: Connection in a writing transaction that was begun without foreign keys (see
            `Database.write`); an empty database gets all tables.
    """
    from alembic import command
    from alembic.config import Config

    config = Config()
    config.set_main_option("script_location", str(migrations_path()).replace("%", "%%"))
    config.set_main_option("path_separator", "os")
    config.attributes["connection"] = connection
    command.upgrade(config, REVISIONS[-1])


def upgrade_with_backup(database: Database) -> None:
    """Bring an older database to our revision, after a copy of it was put beside it.

    Args:
        database: Writable database; the caller holds the write lock.

    Raises:
        StoreError: If the copy or the upgrade fails; the database is then as it was.
    """
    store = database.file.parent
    with database.read() as session:
        revision = database_revision(session.connection(), database.file)
    if revision is None or is_current(revision, store):
        return  # another process was faster
    backup = database.file.with_name(f"ovseg-{revision}-{datetime.now(UTC):%Y%m%dT%H%M%S%f}.db")
    database.backup(backup)
    with database.write(foreign_keys=False) as session:
        upgrade(session.connection())
    logger.warning(
        "The store %s was brought from schema %s to %s; the database as it was is kept in %s",
        store,
        revision,
        REVISIONS[-1],
        backup.name,
    )
