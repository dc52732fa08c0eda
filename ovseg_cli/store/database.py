"""The SQLite database of a store: connections, transactions, and what its errors mean."""

from __future__ import annotations

import json
import logging
import sqlite3
import threading
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any, Literal

from sqlalchemy import Connection, Engine, create_engine, event
from sqlalchemy.exc import DBAPIError
from sqlalchemy.orm import Session
from sqlalchemy.pool import NullPool

from ovseg_cli.errors import (
    OvsegError,
    StoreCorruptError,
    StoreError,
    StoreLockedError,
    StoreNotFoundError,
)
from ovseg_cli.store.disk import TEMPORARY_SUFFIX, disk_full, move_durably, read_only, refuse_links, takes_no_more
from ovseg_cli.store.tables import UnsoundValueError

logger = logging.getLogger(__name__)

SIDE_SUFFIXES = ("-journal", "-shm", "-wal")
"""What SQLite appends to the database's name for files of its own."""
_BUSY_SECONDS = 10.0
_BEGIN = "ovseg_begin"
_FIRST = "ovseg_first"

Mode = Literal["rwc", "rw", "ro"]


class Database:
    """Transactions on the database file of a store.

    No connection outlives its transaction. So nothing is shared by accident with a forked worker, and
    the last one to leave folds the write-ahead log into the database: a store at rest is one file that
    can be copied or put on a read-only medium.

    Args:
        file: The database file.
        mode: "rwc" creates the file, "rw" expects it, "ro" never writes.
    """

    def __init__(self, file: Path, mode: Mode) -> None:
        self.file = file
        self.mode = mode
        self._reading = threading.local()
        self._immutable = mode == "ro" and self._needs_immutable()
        self._reader: Engine = create_engine("sqlite://", creator=self._connect_to_read, poolclass=NullPool)
        writer = create_engine("sqlite://", creator=self._connect, poolclass=NullPool)
        for engine in (self._reader, writer):
            event.listen(engine, "begin", _begin)
        # IMMEDIATE: a transaction that began as a reader can fail to become a writer, whatever it waits.
        self._writer: Engine = writer.execution_options(**{_BEGIN: "BEGIN IMMEDIATE"})

    @contextmanager
    def read(self) -> Iterator[Session]:
        """Read one consistent state, however long it takes and whoever writes meanwhile.

        Inside such a block of the same thread, a further one reads the same state.

        Raises:
            StoreError: In its kinds; see `database_errors`.
        """
        outer: Session | None = getattr(self._reading, "session", None)
        if outer is not None:
            yield outer
            return
        with self.read_now() as session:
            self._reading.session = session
            try:
                yield session
            finally:
                self._reading.session = None

    @contextmanager
    def read_now(self) -> Iterator[Session]:
        """Read the newest state, also inside a block that reads an older one.

        Raises:
            StoreError: In its kinds; see `database_errors`.
        """
        with database_errors(self.file), Session(self._reader) as session:
            yield session

    @contextmanager
    def write(self, *, foreign_keys: bool = True, patient: bool = True) -> Iterator[Session]:
        """Change the database as a whole: everything at the end of the block, or nothing.

        Args:
            foreign_keys: Whether rows that others name cannot go without them. Off for migrations: SQLite changes a
                table by dropping it for a new one, and with foreign keys on, that deletes what hangs on its rows.
            patient: Whether to wait for a foreign program that holds the database.

        Raises:
            StoreError: In its kinds; see `database_errors`.
        """
        first = ("" if foreign_keys else "PRAGMA foreign_keys = OFF", "" if patient else "PRAGMA busy_timeout = 0")
        engine = self._writer.execution_options(**{_FIRST: tuple(filter(None, first))})
        with database_errors(self.file), Session(engine) as session, session.begin():
            yield session

    def use_write_ahead_log(self) -> None:
        """Let readers and a writer work at the same time; the file remembers it.

        Raises:
            StoreError: In its kinds; see `database_errors`.
        """
        with database_errors(self.file), closing(self._connect()) as connection:
            connection.execute("PRAGMA journal_mode = WAL")

    def vacuum(self) -> None:
        """Write the database anew without the room that deleted rows have left.

        Raises:
            StoreError: In its kinds; see `database_errors`.
        """
        with database_errors(self.file), closing(self._connect()) as connection:
            connection.execute("VACUUM")
            connection.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchall()

    def backup(self, target: Path) -> None:
        """Copy the database, with all that is committed, into a new file, which gets its name when it is whole.

        Args:
            target: The new file. Meanwhile it has `TEMPORARY_SUFFIX` behind its name.

        Raises:
            StoreError: In its kinds; see `database_errors`.
            OSError: If the file cannot be made.
        """
        temporary = target.with_name(target.name + TEMPORARY_SUFFIX)
        try:
            temporary.open("xb").close()  # a link of this name would be followed
            with (
                database_errors(self.file),
                closing(self._connect_to_read()) as source,
                closing(sqlite3.connect(temporary)) as copy,
            ):
                # Nobody else knows the copy, and half of one is thrown away: no journal need lie beside it.
                copy.execute("PRAGMA journal_mode = OFF")
                try:
                    source.backup(copy)
                except sqlite3.Error as error:
                    # It does not say which of the two files it was about; a full disk can only be the copy's.
                    if takes_no_more(target.parent):
                        raise disk_full(target.parent, "there is no room for the copy of the database") from error
                    raise
            move_durably(temporary, target)
        except BaseException:
            temporary.unlink(missing_ok=True)
            raise

    def _connect_to_read(self) -> sqlite3.Connection:
        """Connect, also on a full disk, which does not even give the memory that processes share to read."""
        try:
            return self._connect()
        except sqlite3.Error as error:
            if not _may_be_full(error) or not takes_no_more(self.file.parent):
                raise
        log = self.file.with_name(f"{self.file.name}-wal")
        if not log.exists() or log.stat().st_size == 0:
            return self._connect(immutable=True)  # the file alone is the whole truth, and nobody can begin to change it
        # What a writer that died has left in the log counts. Alone, SQLite needs no memory that others see.
        return self._connect(first="PRAGMA locking_mode = EXCLUSIVE")

    def _connect(self, *, immutable: bool = False, first: str = "") -> sqlite3.Connection:
        # SQLite follows links, and overwrites what it takes for its log or its shared memory even when it only reads.
        refuse_links(*(self.file.with_name(self.file.name + suffix) for suffix in ("", *SIDE_SUFFIXES)))
        unchanging = "&immutable=1" if immutable or self._immutable else ""
        uri = f"{self.file.absolute().as_uri()}?mode={self.mode}{unchanging}"
        # isolation_level None: sqlite3 would open transactions on its own, and not for DDL; we say when.
        connection = sqlite3.connect(uri, uri=True, timeout=_BUSY_SECONDS, isolation_level=None)
        try:
            connection.execute(first)
            connection.execute("PRAGMA foreign_keys = ON")
            # FULL, not the NORMAL that is usual with WAL: the files of a replaced class are deleted right
            # after the commit, so a commit that a power cut could take back would name files that are gone.
            # This is the first statement that reads the file, if only its header.
            connection.execute("PRAGMA synchronous = FULL")
        except BaseException:
            connection.close()
            raise
        return connection

    def _needs_immutable(self) -> bool:
        """Whether SQLite can read this file only when told that nobody changes it.

        Reading in WAL mode needs a shared-memory file beside the database, which a read-only folder
        does not take. Where no log is left over either, the database file alone is the whole truth;
        should a writer with more rights than ours come meanwhile, reading again gives the new state.
        """
        self._immutable = False
        try:
            with closing(self._connect()) as connection:
                connection.execute("SELECT count(*) FROM sqlite_master").fetchone()
        except sqlite3.Error as error:
            code = _primary_code(error)
            if code not in (sqlite3.SQLITE_CANTOPEN, sqlite3.SQLITE_READONLY):
                return False  # another trouble: the first transaction will meet it again and name it
            log = self.file.with_name(self.file.name + "-wal")
            return not log.exists() or log.stat().st_size == 0
        return False


def _begin(connection: Connection) -> None:
    options = connection.get_execution_options()
    for statement in options.get(_FIRST, ()):  # what SQLite takes only outside a transaction
        connection.exec_driver_sql(statement)
    connection.exec_driver_sql(options.get(_BEGIN, "BEGIN"))


def _primary_code(error: BaseException | None) -> int:
    """Give SQLite's primary result code, without the detail in the upper bits; -1 if there is none."""
    code: Any = getattr(error, "sqlite_errorcode", None)
    return -1 if code is None else int(code) & 0xFF


def _may_be_full(error: BaseException) -> bool:
    """Whether SQLite might mean that it found no room: it says so only where it writes data, and not of other files."""
    shared_memory = (sqlite3.SQLITE_IOERR_SHMSIZE, sqlite3.SQLITE_IOERR_SHMOPEN, sqlite3.SQLITE_IOERR_SHMMAP)
    return (
        _primary_code(error) in (sqlite3.SQLITE_CANTOPEN, sqlite3.SQLITE_FULL)
        or getattr(error, "sqlite_errorcode", None) in shared_memory
    )


@contextmanager
def database_errors(file: Path) -> Iterator[None]:
    """Turn the errors of SQLite and SQLAlchemy into the matching ovseg error.

    Args:
        file: The database file, for the message.

    Raises:
        DiskFullError: The disk is full.
        StoreReadOnlyError: The database cannot be written.
        StoreLockedError: Another program holds the database.
        StoreCorruptError: The file is damaged, is no database, or lacks tables or sound values.
        StoreError: Anything else that the database refuses.
    """
    try:
        yield
    except DBAPIError as error:
        raise _translate(file, error.orig or error) from error
    except sqlite3.Error as error:
        raise _translate(file, error) from error
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise corrupt(file, "a value in it cannot be read") from error
    except UnsoundValueError as error:
        raise corrupt(file, error) from error


def corrupt(file: Path, reason: object) -> StoreCorruptError:
    """Make the error for a database that cannot be trusted.

    Args:
        file: The database file.
        reason: What is wrong with it.
    """
    return StoreCorruptError(
        f"The database {file} is damaged or is not an ovseg store ({reason}): put a backup in its place, "
        "or move the folder away and add the classes again"
    )


def _translate(file: Path, error: BaseException) -> OvsegError:
    """The error of ours for one of SQLite's, whose own words say nothing to people: they go to the log."""
    code = _primary_code(error)
    logger.debug("SQLite says of %s: %s (code %s)", file, error, getattr(error, "sqlite_errorcode", "none"))
    if code == sqlite3.SQLITE_FULL or (_may_be_full(error) and takes_no_more(file.parent)):
        return disk_full(file.parent, "there is no room for the database")
    if code == sqlite3.SQLITE_IOERR:
        return StoreError(
            f"The disk refused to read or write the database {file}; the store is as it was before: "
            "look whether the disk is over its quota or failing"
        )
    if code in (sqlite3.SQLITE_READONLY, sqlite3.SQLITE_PERM, sqlite3.SQLITE_AUTH):
        return read_only(file.parent, "its database has no write permission")
    if code in (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED):
        return StoreLockedError(f"Another program holds the database {file}: close it, then run the command again")
    if code == sqlite3.SQLITE_CANTOPEN:
        if not file.exists():
            return StoreNotFoundError(f"The database {file} is gone: check --store or OVSEG_STORE")
        return read_only(file.parent, "the files beside its database cannot be made")
    if code == sqlite3.SQLITE_NOTADB:
        return corrupt(file, "it is no database, or is encrypted")
    # SQLITE_ERROR is a missing table or column: the schema is not the one that the revision promises.
    if code in (sqlite3.SQLITE_ERROR, sqlite3.SQLITE_FORMAT):
        return corrupt(file, "it lacks what a store has")
    if code == sqlite3.SQLITE_CORRUPT:
        return corrupt(file, "its pages do not fit together")
    if code == -1 and "decode" in str(error):  # Python alone, without a code, says that a text is no UTF-8
        return corrupt(file, "a text in it cannot be read")
    return StoreError(f"The database {file} cannot be used just now; check the disk and run `ovseg store check`")
