"""`predictions.jsonl`: one line per image, written as the run goes on, readable after a kill at any instant.

At a URL nothing can be appended. What a run notes there goes into parts of some hundred lines, each put whole again and
again until it is full; they are read together with the journal, and become part of it at the end.
"""

from __future__ import annotations

import errno
import hashlib
import json
import logging
import math
import os
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict, dataclass, field, fields, replace
from pathlib import Path
from types import TracebackType
from typing import IO, Any, Literal, Protocol

from ovseg_cli.atomic import write_text
from ovseg_cli.errors import DiskFullError, OutputError, OvsegError
from ovseg_cli.files.discovery import known_as
from ovseg_cli.files.layout import JOURNAL_NAME, JOURNAL_PARTS, PICTURE_FOLDERS
from ovseg_cli.names import listed
from ovseg_cli.runs.lease import check_held
from ovseg_cli.urls import Place, Url, is_url, listed_below

PART_SECONDS = 5.0
"""What was noted at a URL waits no longer than so, as long as pictures go on."""

PART_LINES = 256
"""A part has so many lines at most."""

log = logging.getLogger("ovseg_cli")


@dataclass(frozen=True, slots=True, kw_only=True)
class Entry:
    """What is known about one image of an output folder.

    Attributes:
        path: the picture, as `picture_id` gives it.
        output: the label map, relative to the output folder with `/`; None when there is none.
        overlay: the picture with its labels drawn on it, likewise.
        explain: a picture that says why these labels, likewise.
        probabilities: the scores of the labels, likewise.
        size: `[width, height]` of the upright picture; None when it could not be read.
        status: `done`, or `failed` (and then tried again by the next run).
        method: what labelled it.
        shares: share of the picture's pixels per class, in [0, 1], for the classes that are there.
        scores: mean score per class, for the classes that are there.
        kept: the classes that took part: those that the pre-filter left, each with its cosine to the picture (None for
            stuff, which is not filtered), or those that the user's file names (each with None); None for all.
        kept_by: what decided so, `prefilter` or `image-classes`; None where nothing did.
        unfamiliar: whether the picture looks like nothing that the models were trained on; None where they know
            photographs, and where there is no label map.
        margin: how far the scores of a pixel are from giving it another label, mean over the pixels (see
            `ovseg_cli.labeling.decide.decide`): the smaller, the less certain, among pictures of one method. None where
            there is only one label to give, and in entries of earlier versions.
        ms: milliseconds from the file to its label map; in a batch, an equal share of what its pictures took together.
        error: why it failed.
        key: changes with the picture and with everything that decides its label map (see `plan.resume_key`).
        nbytes: size of the label map's file as it was written; None in entries of earlier versions.
        digest: SHA-256 (hex) of it, likewise.
    """

    path: str
    output: str | None = None
    overlay: str | None = None
    explain: str | None = None
    probabilities: str | None = None
    size: tuple[int, int] | None = None
    status: Literal["done", "failed"]
    method: str | None = None
    shares: dict[str, float] = field(default_factory=dict)
    scores: dict[str, float] = field(default_factory=dict)
    kept: dict[str, float | None] | None = None
    kept_by: Literal["prefilter", "image-classes"] | None = None
    unfamiliar: bool | None = None
    margin: float | None = None
    ms: float | None = None
    error: str | None = None
    key: str
    nbytes: int | None = None
    digest: str | None = None

    @property
    def drawings(self) -> tuple[str, ...]:
        """Files beside the label map that were made with it."""
        return tuple(name for name in (self.overlay, self.explain, self.probabilities) if name is not None)

    def to_line(self) -> str:
        """The entry as one line of JSON, without the line break."""
        return json.dumps(asdict(self), ensure_ascii=False, allow_nan=False)

    @classmethod
    def from_line(cls, line: str) -> Entry:
        """Read `to_line` back; fields that this version does not know are dropped.

        Raises:
            ValueError: the line is no such entry.
        """
        data: Any = json.loads(line)
        if not isinstance(data, dict):
            raise ValueError(f"a journal line must be a JSON object, got {type(data).__name__}")
        known = {f.name for f in fields(cls)}
        for name, value in data.items():
            if name in known and not _CHECKS[name](value):
                raise ValueError(f"{name} cannot be {str(value)[:60]!r}")
        try:
            return cls(**{name: value for name, value in data.items() if name in known})
        except TypeError as error:
            raise ValueError(str(error)) from error


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def _is_count(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and 0 <= value < 2**63


def _is_path(value: Any) -> bool:
    """Whether a file can have this name; the system would refuse others with an error of its own."""
    if not isinstance(value, str) or "\0" in value:
        return False
    if is_url(value):  # a store's names may be as long as it likes
        return True
    parts = value.encode("utf-8", "surrogatepass").replace(b"\\", b"/").split(b"/")
    return 0 < len(value) < 4096 and max(map(len, parts)) <= 255


def _is_size(value: Any) -> bool:
    return isinstance(value, list) and len(value) == 2 and all(map(_is_count, value))


def _are_shares(value: Any) -> bool:
    return isinstance(value, dict) and all(map(_is_number, value.values()))


def _are_kept(value: Any) -> bool:
    return isinstance(value, dict) and all(score is None or _is_number(score) for score in value.values())


def _is_text(value: Any) -> bool:
    return isinstance(value, str)


def _or_none(check: Callable[[Any], bool]) -> Callable[[Any], bool]:
    return lambda value: value is None or check(value)


_CHECKS: Mapping[str, Callable[[Any], bool]] = {
    "path": _is_path,
    "output": _or_none(_is_path),
    "overlay": _or_none(_is_path),
    "explain": _or_none(_is_path),
    "probabilities": _or_none(_is_path),
    "size": _or_none(_is_size),
    "status": lambda value: value in ("done", "failed"),
    "method": _or_none(_is_text),
    "shares": _are_shares,
    "scores": _are_shares,
    "kept": _or_none(_are_kept),
    "kept_by": lambda value: value in (None, "prefilter", "image-classes"),
    "unfamiliar": lambda value: value is None or isinstance(value, bool),
    "margin": _or_none(_is_number),
    "ms": _or_none(_is_number),
    "error": _or_none(_is_text),
    "key": _is_text,
    "nbytes": _or_none(_is_count),
    "digest": _or_none(_is_text),
}
"""What each field of an entry may be, as JSON gives it."""


def written(path: Path) -> tuple[int, str]:
    """Size and SHA-256 (hex) of a file, for `Entry.nbytes` and `Entry.digest`.

    Raises:
        OSError: it cannot be read.
    """
    with path.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
        return file.tell(), digest


def is_intact(entry: Entry, output: Place) -> bool:
    """Whether the label map of an entry is there, as it was written as far as the entry says.

    At a URL its size has to do: to read all that is there takes as long as to make it again.
    """
    if entry.output is None:
        return False
    path = output / entry.output
    if isinstance(path, Url):
        facts = path.facts()
        return facts is not None and entry.nbytes in (None, facts.size)
    try:
        if not path.is_file() or entry.nbytes not in (None, path.stat().st_size):
            return False
        return entry.digest is None or entry.digest == written(path)[1]
    except OSError:
        return False


def standing_in(output: Place) -> Place:
    """An output folder that is asked about the files of all pictures: at a URL these are listed once.

    Raises:
        OutputError: the store does not answer.
    """
    try:
        return listed_below(output, *PICTURE_FOLDERS)
    except OSError as error:
        raise OutputError(f"Cannot read {output}: {error.strerror}.") from error


def read_journal(output: Place) -> dict[str, Entry]:
    """The entries of an output folder by the picture's `picture_id`; later lines win.

    A last line without its end is what a kill leaves behind: that picture counts as not done. So does that of a line
    that is damaged, which is told.

    Raises:
        OutputError: the file is there and cannot be read.
    """
    path = output / JOURNAL_NAME
    try:
        content = path.read_bytes() if isinstance(path, Path) else _at_url(path)
    except FileNotFoundError:
        return {}
    except OSError as error:
        raise OutputError(f"Cannot read {path}: {error.strerror}.") from error
    lines = content.split(b"\n")
    entries: dict[str, Entry] = {}
    damaged: list[str] = []
    for number, line in enumerate(lines[:-1], start=1):  # what follows the last line break is torn, or nothing
        if not line.strip():
            continue
        try:
            entry = Entry.from_line(line.decode())
            path_now = known_as(entry.path)
        except (ValueError, RecursionError) as error:
            damaged.append(f"line {number}: {str(error)[:200]}")
            continue
        entries[path_now] = replace(entry, path=path_now)
    if damaged:
        some = listed(damaged, most=1)
        log.warning("%s is damaged (%s). The pictures of these lines count as not done.", path, some)
    return entries


def _at_url(path: Url) -> bytes:
    """A journal with its parts, in their order; nothing where there is none.

    Raises:
        OSError: It cannot be read.
    """
    folder = path.parent.plain()
    for last in (False, True):
        parts = sorted(part.name for part in (folder / JOURNAL_PARTS).listed().files())
        whole = [JOURNAL_NAME] if (folder / JOURNAL_NAME).is_file() else []
        try:
            return b"".join(folder.read_all([*whole, *(f"{JOURNAL_PARTS}/{name}" for name in parts)]))
        except FileNotFoundError:
            if last:  # else its run has ended in this moment, and the parts are in the journal now
                raise
    return b""


class _Lines(Protocol):
    """Takes lines of a journal."""

    def add(self, line: str) -> None:
        """Append one."""

    def close(self) -> None:
        """See to it that all are kept."""


class Journal:
    """Appends entries to `predictions.jsonl`; each is on its way to the disk before `add` returns.

    At a URL that takes some seconds more: see `PART_SECONDS`.

    Args:
        output: the output folder.
        kept: entries of earlier runs that still hold. The file is replaced by them in one step.

    Raises:
        OutputError: the folder cannot be written.
        DiskFullError: there is no space left.
    """

    def __init__(self, output: Place, kept: Iterable[Entry]) -> None:
        write_journal(output, kept)
        self._lines: _Lines = _Parts(output) if isinstance(output, Url) else _File(output / JOURNAL_NAME)

    def add(self, entry: Entry) -> None:
        """Append one entry.

        Raises:
            DiskFullError: there is no space left.
            OutputError: it cannot be put where it belongs.
        """
        self._lines.add(entry.to_line() + "\n")

    def __enter__(self) -> Journal:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._lines.close()


class _File:
    """The file of a journal on a disk."""

    def __init__(self, path: Path) -> None:
        self._path = path
        try:
            self._file: IO[str] = path.open("a", encoding="utf-8", errors="backslashreplace", newline="\n")
        except OSError as error:
            raise _cannot_append(path, error) from error

    def add(self, line: str) -> None:
        try:
            self._file.write(line)
            self._file.flush()
        except OSError as error:
            raise _cannot_append(self._path, error) from error

    def close(self) -> None:
        try:
            os.fsync(self._file.fileno())
        finally:
            self._file.close()


class _Parts:
    """The parts of a journal at a URL."""

    def __init__(self, output: Url) -> None:
        self._output = output
        self._number = 1
        self._lines: list[str] = []
        self._waiting = 0
        self._put_at = time.monotonic()

    def add(self, line: str) -> None:
        self._lines.append(line)
        self._waiting += 1
        if len(self._lines) >= PART_LINES or time.monotonic() - self._put_at >= PART_SECONDS:
            self._put()

    def close(self) -> None:
        if self._waiting:
            self._put()

    def _put(self) -> None:
        check_held(self._output)
        write_text(self._output / JOURNAL_PARTS / f"{self._number:06}.jsonl", "".join(self._lines))
        self._waiting, self._put_at = 0, time.monotonic()
        if len(self._lines) >= PART_LINES:
            self._number, self._lines = self._number + 1, []


def write_journal(output: Place, entries: Iterable[Entry]) -> None:
    """Replace the journal by `entries` in one step; parts that there were are in it, or hold no more."""
    if isinstance(output, Url):
        check_held(output)
    write_text(output / JOURNAL_NAME, "".join(entry.to_line() + "\n" for entry in entries))
    if isinstance(output, Url):
        parts = output / JOURNAL_PARTS
        try:
            parts.remove([part.name for part in parts.listed().files()])
        except OSError as error:
            raise OutputError(f"Cannot write {parts}: {error.strerror}.") from error


def _cannot_append(path: Path, error: OSError) -> OvsegError:
    if error.errno in {errno.ENOSPC, errno.EDQUOT}:
        return DiskFullError(
            f"No space left on the disk while writing {path}. "
            "Free some space, then run the same command again: what is done stays done."
        )
    return OutputError(f"Cannot write {path}: {error.strerror}.")
