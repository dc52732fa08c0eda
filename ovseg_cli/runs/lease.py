"""Who is the only writer of an output folder at a URL, where no file can be locked.

The owner puts an object that nobody else has put before, and renews it from time to time. Who finds one that is
renewed stays out; one that is not is of a dead owner, and taken over. An owner that was taken for dead, as its network
was, finds that out when it renews, and writes no more. That is as sure as the store's way to put what is not there yet:
where it has none, two who begin in the same moment may both believe that they own the folder.
"""

from __future__ import annotations

import contextlib
import json
import logging
import os
import socket
import threading
import time
import uuid
from collections.abc import Iterator

from ovseg_cli.errors import OutputError
from ovseg_cli.files.layout import LOCK_NAME
from ovseg_cli.urls import Place, Url

RENEWAL = 10.0
"""Seconds from one renewal to the next."""

PATIENCE = 45.0
"""Seconds without one after which the owner counts as dead."""

log = logging.getLogger("ovseg_cli")

_held: dict[Url, _Lease] = {}


@contextlib.contextmanager
def leased(output: Url) -> Iterator[None]:
    """Keep others out of a folder.

    Raises:
        OutputError: another process is writing to it, or it cannot be written.
    """
    lease = _Lease(output)
    try:
        lease.take()
    except OSError as error:
        raise OutputError(
            f"Cannot write {output}: {error.strerror}. Check its spelling and the rights there, or choose another "
            "place with -o."
        ) from error
    _held[output] = lease
    try:
        yield
    finally:
        del _held[output]
        lease.release()


def check_held(output: Place) -> None:
    """Find out whether this process still owns a folder that it has leased.

    Raises:
        OutputError: another one has taken it over.
    """
    lease = _held.get(output) if isinstance(output, Url) else None
    if lease is not None and lease.lost:
        raise _taken(output)


class _Lease:
    """A place in an output folder.

    Attributes:
        lost: Whether another process has taken it.
    """

    def __init__(self, output: Url) -> None:
        self._output = output
        self._lock = output / LOCK_NAME
        self._id = uuid.uuid4().hex
        self._beats = 0
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._renew, name="ovseg-lease", daemon=True)
        self.lost = False

    def take(self) -> None:
        """Become the owner; where the last one was killed, wait until that is certain.

        Raises:
            OutputError: There is a living one.
            OSError: The store cannot be written.
        """
        if not self._lock.create(self._content()):
            if self._waits_in_vain():
                self._lock.unlink(missing_ok=True)
            if not self._lock.create(self._content()):
                raise _taken(self._output)
        self._thread.start()

    def _waits_in_vain(self) -> bool:
        """Whether the lock was not renewed for so long that its owner must be dead; False as soon as it is gone."""
        before, until = self._read(), time.monotonic() + PATIENCE
        log.warning(
            "%s is held by a run that goes on or was killed; looking for up to %g seconds which", self._output, PATIENCE
        )
        while time.monotonic() < until:
            time.sleep(min(1.0, PATIENCE / 10))
            now = self._read()
            if now is None:
                return False
            if now != before:
                raise _taken(self._output)
        return True

    def _read(self) -> bytes | None:
        try:
            return self._lock.read_bytes()
        except FileNotFoundError:
            return None

    def _content(self) -> bytes:
        self._beats += 1
        about = {"id": self._id, "host": socket.gethostname(), "process": os.getpid(), "renewed": self._beats}
        return json.dumps(about).encode()

    def _is_ours(self) -> bool:
        return self._id.encode() in (self._read() or b"")

    def _renew(self) -> None:
        while not self._over.wait(RENEWAL):
            with contextlib.suppress(OSError):  # the network may come back
                if not self._is_ours():
                    self.lost = True
                    return
                self._lock.put_bytes(self._content())

    def release(self) -> None:
        """Let others in."""
        self._over.set()
        self._thread.join()
        with contextlib.suppress(OSError):
            if not self.lost and self._is_ours():
                self._lock.unlink(missing_ok=True)


def _taken(output: Place) -> OutputError:
    return OutputError(f"Another ovseg process is writing to {output}. Wait for it, or choose another folder with -o.")
