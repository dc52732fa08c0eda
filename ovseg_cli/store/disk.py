"""Durable files and folders, and what the operating system's errors mean for a store."""

from __future__ import annotations

import errno
import os
import secrets
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from ovseg_cli.errors import DiskFullError, StoreError, StoreReadOnlyError

# EFBIG is what a file-size limit gives, EDQUOT a quota: for the user both are a disk that takes no more.
_FULL = frozenset({errno.ENOSPC, errno.EFBIG, getattr(errno, "EDQUOT", errno.ENOSPC)})
_DENIED = frozenset({errno.EACCES, errno.EPERM, errno.EROFS})
TEMPORARY_SUFFIX = ".tmp"
_PROBE_BYTES = 65536  # as much as SQLite takes for the first steps of a transaction


def disk_full(store: Path, reason: object) -> DiskFullError:
    """Make the error for a disk that takes no more.

    Args:
        store: The store's folder.
        reason: What the system or the database said.
    """
    return DiskFullError(
        f"The disk of the store {store} takes no more data ({reason}); nothing of this was stored: "
        "free some space and run the command again"
    )


def read_only(store: Path, reason: object) -> StoreReadOnlyError:
    """Make the error for a store that cannot be written.

    Args:
        store: The store's folder.
        reason: What the system or the database said.
    """
    return StoreReadOnlyError(
        f"The store {store} cannot be written ({reason}): "
        "make the folder writable, or choose another one with --store or OVSEG_STORE"
    )


def is_link(path: Path) -> bool:
    """Whether a path leads somewhere else: a symbolic link, or a junction of Windows."""
    return path.is_symlink() or (os.name == "nt" and getattr(os.path, "isjunction", bool)(path))


def refuse_links(*paths: Path) -> None:
    """Raise when one of the store's own files or folders is a link: what is changed must lie in the store.

    Raises:
        StoreError: If a path is a link; its target is left alone.
    """
    for path in paths:
        if is_link(path):
            raise StoreError(
                f"{path} is a link, and ovseg changes nothing outside the store's folder: put what it leads to in its "
                "place (a store as a whole may lie behind a link), or choose another store with --store"
            )


def listed(folder: Path) -> list[Path]:
    """Give what lies in a folder, sorted; nothing where there is no folder, or a link in its place."""
    if is_link(folder):
        return []
    with suppress(FileNotFoundError, NotADirectoryError), os.scandir(folder) as entries:
        return sorted(folder / entry.name for entry in entries)
    return []


@contextmanager
def os_errors(store: Path) -> Iterator[None]:
    """Turn `OSError` into the matching ovseg error.

    Args:
        store: The store's folder, for the message.

    Raises:
        DiskFullError: No space, over quota or over a file-size limit.
        StoreReadOnlyError: No permission, or a read-only file system.
        StoreError: Any other refusal.
    """
    try:
        yield
    except OSError as error:
        reason = error.strerror or error
        if error.errno in _FULL:
            raise disk_full(store, reason) from error
        if error.errno in _DENIED:
            raise read_only(store, reason) from error
        named = f" on {error.filename}" if error.filename else ""
        raise StoreError(f"The store {store} cannot be used: {reason}{named}") from error


def write_new(path: Path, data: bytes) -> None:
    """Write a file that does not exist yet, and wait until the disk has it."""
    with path.open("xb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())


def replace_file(path: Path, data: bytes) -> None:
    """Put a file into place as a whole: whoever reads it sees the old bytes or the new ones."""
    temporary = path.with_name(f"{path.name}.{os.getpid()}{TEMPORARY_SUFFIX}")
    try:
        temporary.unlink(missing_ok=True)
        write_new(temporary, data)
        os.replace(temporary, path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    sync_folder(path.parent)


def move_durably(path: Path, target: Path) -> None:
    """Give a file its final name, once the disk has its content."""
    descriptor = os.open(path, os.O_RDWR)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
    os.replace(path, target)
    sync_folder(target.parent)


def sync_folder(folder: Path) -> None:
    """Wait until the disk has the folder's entries (Windows does so by itself, and refuses to be asked)."""
    if os.name == "nt":
        return
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def takes_no_more(folder: Path) -> bool:
    """Whether the disk has no room for a small file, tried out: SQLite does not say why it cannot open one."""
    probe = folder / f".ovseg-{secrets.token_hex(8)}"
    try:
        write_new(probe, bytes(_PROBE_BYTES))
    except OSError as error:
        return error.errno in _FULL
    finally:
        with suppress(OSError):
            probe.unlink(missing_ok=True)
    return False


def is_writable(folder: Path, *files: Path) -> bool:
    """Whether the folder takes new files and the files in it can be changed, as far as the system says."""
    return os.access(folder, os.W_OK | os.X_OK) and all(os.access(file, os.W_OK) for file in files)
