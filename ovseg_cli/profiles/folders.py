"""Weights in a folder of the user's own: a hash over what is in it is their revision."""

from __future__ import annotations

import fnmatch
import hashlib
import json
import os
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from ovseg_cli.atomic import write_json
from ovseg_cli.errors import OvsegError, WeightsError

_MOST_FILES = 2000
_MOST_KEPT = 1000


def files_in(folder: Path, patterns: Sequence[str]) -> list[Path]:
    """The files of a folder that patterns name, sorted; patterns are the hub client's, whose ``*`` passes over ``/``.

    Raises:
        WeightsError: There are more files than any model has, or the folder cannot be read.
    """
    found, seen = [], 0
    try:
        for place, _, names in os.walk(folder):
            seen += len(names) + 1
            if seen > _MOST_FILES:
                raise WeightsError(
                    f"The folder {folder} holds more than {_MOST_FILES} files. Name the model's own folder."
                )
            for name in names:
                path = Path(place, name)
                relative = path.relative_to(folder).as_posix()
                if any(fnmatch.fnmatchcase(relative, pattern) for pattern in patterns) and path.is_file():
                    found.append(path)
    except OSError as error:
        raise WeightsError(f"The folder {folder} cannot be read: {error.strerror or error}.") from error
    return sorted(found, key=lambda path: path.relative_to(folder).as_posix())


def folder_revision(folder: Path, patterns: Sequence[str]) -> str:
    """A hash over the names and contents of the files that count.

    Gigabytes take seconds, so that the hash of a file is kept in the user's cache folder, by the file's time, size and
    place on the disk.

    Args:
        folder: The folder.
        patterns: Of the files that count.

    Raises:
        WeightsError: The folder cannot be read.
    """
    known = _Known(folder)
    digest = hashlib.sha256()
    for path in files_in(folder, patterns):
        digest.update(path.relative_to(folder).as_posix().encode("utf-8", "surrogateescape") + b"\0")
        digest.update(known.digest(path).encode())
    known.keep()
    return f"sha256:{digest.hexdigest()}"


class _Known:
    """Hashes of a folder's files, kept from one command to the next."""

    def __init__(self, folder: Path) -> None:
        import platformdirs

        self._file: Path | None = None
        with suppress(RuntimeError):  # a user without a home
            cache = Path(platformdirs.user_cache_dir("ovseg", appauthor=False))
            place = hashlib.sha256(os.fsencode(os.path.abspath(folder))).hexdigest()[:32]
            self._file = cache / "folders" / f"{place}.json"
        self._kept: dict[str, Any] = {}
        self._changed = False
        if self._file is not None:
            with suppress(OSError, ValueError, RecursionError):
                kept = json.loads(self._file.read_text(encoding="utf-8"))
                self._kept = kept if isinstance(kept, dict) else {}

    def digest(self, path: Path) -> str:
        """SHA-256 (hex) of a file."""
        try:
            state = path.stat()
            stamp = [state.st_size, state.st_mtime_ns, state.st_ctime_ns, state.st_ino, state.st_dev]
            key = os.path.realpath(path)
            kept = self._kept.get(key)
            if isinstance(kept, dict) and kept.get("stamp") == stamp and isinstance(kept.get("sha256"), str):
                return str(kept["sha256"])
            with path.open("rb") as file:
                found = hashlib.file_digest(file, "sha256").hexdigest()
        except OSError as error:
            raise WeightsError(f"{path} cannot be read: {error.strerror or error}.") from error
        self._kept[key] = {"stamp": stamp, "sha256": found}
        self._changed = True
        return found

    def keep(self) -> None:
        """Write down what is new; where nothing can be written, it is hashed again the next time."""
        if self._changed and self._file is not None:
            with suppress(OvsegError, OSError, ValueError):
                write_json(self._file, dict(list(self._kept.items())[-_MOST_KEPT:]))
