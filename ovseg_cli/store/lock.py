"""One writer at a time, across processes."""

from __future__ import annotations

import json
import logging
import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from filelock import FileLock, Timeout

from ovseg_cli.errors import StoreLockedError
from ovseg_cli.store.disk import refuse_links

logger = logging.getLogger(__name__)

LOCK_NAME = "write.lock"
OWNER_NAME = "write.owner"
PATIENCE = 1.0
"""Seconds to wait for another writer before saying so."""


@contextmanager
def write_lock(store: Path, timeout: float) -> Iterator[None]:
    """Hold the store's write lock; the system frees it when the process dies, however it dies.

    Args:
        store: The store's folder.
        timeout: Seconds to wait for another writer; 0 tries once. After `PATIENCE` seconds one
            warning tells that we wait.

    Raises:
        StoreLockedError: If another process still writes after `timeout` seconds.
        StoreError: If one of the lock's two files is a link.
        OSError: If the lock file cannot be made.
    """
    owner = store / OWNER_NAME
    refuse_links(store / LOCK_NAME, owner)
    lock = FileLock(store / LOCK_NAME)
    _acquire(lock, store, timeout)
    try:
        # Only a courtesy to those who wait: a disk too full for it will say so at the real data. Always a new file:
        # what a writer that died has left may have another name too, and is not written into.
        with suppress(OSError):
            owner.unlink(missing_ok=True)
            with owner.open("x", encoding="utf-8") as file:
                json.dump({"pid": os.getpid(), "host": socket.gethostname()}, file)
        yield
    finally:
        with suppress(OSError):
            owner.unlink(missing_ok=True)
        lock.release()


def _acquire(lock: FileLock, store: Path, timeout: float) -> None:
    patience = min(PATIENCE, timeout)
    try:
        lock.acquire(timeout=patience)
        return
    except Timeout:
        pass
    if timeout > patience:
        logger.warning("waiting for another ovseg process%s that is writing to %s", _describe_owner(store), store)
        with suppress(Timeout):
            lock.acquire(timeout=timeout - patience)
            return
    raise StoreLockedError(
        f"Another ovseg process{_describe_owner(store)} has been writing to {store} for more than {timeout:g} s: "
        "wait until it is done, then run the command again"
    )


def _describe_owner(store: Path) -> str:
    """Give " (pid 123)" when the holder left its number and, as far as we can see, still lives."""
    try:
        owner = json.loads((store / OWNER_NAME).read_text(encoding="utf-8"))
        pid, host = int(owner["pid"]), str(owner["host"])
    except (OSError, ValueError, KeyError, TypeError):
        return ""
    if host != socket.gethostname():
        return f" (pid {pid} on {host})"
    return f" (pid {pid})" if _lives(pid) else ""


def _lives(pid: int) -> bool:
    if os.name == "nt":  # os.kill would end the process there, whatever the signal
        return True
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except (PermissionError, OverflowError):
        pass
    return True
