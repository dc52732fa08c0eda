"""What a process may lack: standard streams, somebody who reads them, a user with a name and a home."""

from __future__ import annotations

import getpass
import io
import os
import sys

_NO_HOME = "/nonexistent"  # what Debian and its kin write for users without a home


class Remarks(io.TextIOWrapper):
    """Standard error as a stream that never fails: a run must not die because nobody reads its remarks.

    From the first failure on (a closed pipe, a full disk), what is written goes nowhere.
    """

    def write(self, text: str) -> int:
        """Write what can be written."""
        try:
            return super().write(text)
        except OSError:
            silence(2)
            return len(text)

    def flush(self) -> None:
        """Flush what can be flushed."""
        try:
            super().flush()
        except OSError:
            silence(2)


def prepare() -> None:
    """Make up for what this process lacks, before anything is opened or looked up."""
    for number, name, mode in ((0, "stdin", "r"), (1, "stdout", "w"), (2, "stderr", "w")):
        if not _is_open(number):
            # Else the next file that is opened, the database say, would get this number and all that is printed.
            silence(number)
        if getattr(sys, name) is None:
            stream = os.fdopen(number, mode, encoding="utf-8", errors="replace", closefd=False)
            setattr(sys, name, stream)
    # A class name that the terminal's encoding lacks must not end the command.
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="replace")
    raw = io.BufferedWriter(io.FileIO(2, "w", closefd=False))
    sys.stderr = Remarks(raw, encoding=sys.stderr.encoding, errors="backslashreplace", line_buffering=True)
    if os.path.expanduser("~") == "~":
        # Neither HOME nor an entry for this user, as in many containers. Libraries that ask for the home while they are
        # imported would fail; so they get one that is not there.
        os.environ["HOME"] = _NO_HOME
    try:
        getpass.getuser()
    except (KeyError, OSError):  # torch asks for the name when it is imported, to make up a folder that is never made
        os.environ["USER"] = str(os.getuid())


def silence(number: int) -> None:
    """Point a standard stream at nothing.

    Args:
        number: its file descriptor.
    """
    nowhere = os.open(os.devnull, os.O_RDWR)
    if nowhere != number:
        os.dup2(nowhere, number)
        os.close(nowhere)


def _is_open(number: int) -> bool:
    try:
        os.fstat(number)
    except OSError:
        return False
    return True
