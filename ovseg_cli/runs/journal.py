"""`predictions.jsonl`: one line per image, written as the run goes on, readable after a kill at any instant."""

from __future__ import annotations

import errno
import json
import os
from collections.abc import Iterable
from dataclasses import asdict, dataclass, field, fields, replace
from pathlib import Path
from types import TracebackType
from typing import IO, Any, Literal

from ovseg_cli.errors import DiskFullError, OutputError, OvsegError
from ovseg_cli.files.atomic import write_text
from ovseg_cli.files.discovery import picture_id

JOURNAL_NAME = "predictions.jsonl"


@dataclass(frozen=True, slots=True, kw_only=True)
class Entry:
    """What is known about one image of an output folder.

    Attributes:
        path: the picture, as `picture_id` gives it.
        output: the label map, relative to the output folder with `/`; None when there is none.
        overlay: the picture with its labels drawn on it, likewise.
        explain: a picture that says why these labels, likewise.
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
        ms: milliseconds from the file to its label map; in a batch, an equal share of what its pictures took together.
        error: why it failed.
        key: changes with the picture and with everything that decides its label map (see `plan.resume_key`).
    """

    path: str
    output: str | None = None
    overlay: str | None = None
    explain: str | None = None
    size: tuple[int, int] | None = None
    status: Literal["done", "failed"]
    method: str | None = None
    shares: dict[str, float] = field(default_factory=dict)
    scores: dict[str, float] = field(default_factory=dict)
    kept: dict[str, float | None] | None = None
    kept_by: Literal["prefilter", "image-classes"] | None = None
    unfamiliar: bool | None = None
    ms: float | None = None
    error: str | None = None
    key: str

    @property
    def drawings(self) -> tuple[str, ...]:
        """Files beside the label map that show it."""
        return tuple(name for name in (self.overlay, self.explain) if name is not None)

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
        try:
            entry = cls(**{name: value for name, value in data.items() if name in known})
        except TypeError as error:
            raise ValueError(str(error)) from error
        if entry.status not in {"done", "failed"} or not isinstance(entry.path, str):
            raise ValueError(f"got status {entry.status!r} and path {entry.path!r}")
        return entry


def read_journal(output: Path) -> dict[str, Entry]:
    """The entries of an output folder by the picture's `picture_id`; later lines win.

    A last line without its end is what a kill leaves behind: that picture counts as not done.

    Raises:
        OutputError: the file is there and cannot be read, or an earlier line is damaged.
    """
    path = output / JOURNAL_NAME
    try:
        lines = path.read_bytes().split(b"\n")
    except FileNotFoundError:
        return {}
    except OSError as error:
        raise OutputError(f"Cannot read {path}: {error.strerror}.") from error
    entries: dict[str, Entry] = {}
    for number, line in enumerate(lines[:-1], start=1):  # what follows the last line break is torn, or nothing
        if not line.strip():
            continue
        try:
            entry = Entry.from_line(line.decode())
        except ValueError as error:
            raise OutputError(
                f"{path} is damaged in line {number} ({error}). Choose another folder with -o, "
                "or start this one afresh with --overwrite."
            ) from error
        path_now = picture_id(Path(entry.path))
        entries[path_now] = replace(entry, path=path_now)
    return entries


class Journal:
    """Appends entries to `predictions.jsonl`; each is on its way to the disk before `add` returns.

    Args:
        output: the output folder.
        kept: entries of earlier runs that still hold. The file is replaced by them in one step.

    Raises:
        OutputError: the folder cannot be written.
        DiskFullError: there is no space left.
    """

    def __init__(self, output: Path, kept: Iterable[Entry]) -> None:
        self.path = output / JOURNAL_NAME
        write_journal(output, kept)
        try:
            self._file: IO[str] = self.path.open("a", encoding="utf-8", errors="backslashreplace", newline="\n")
        except OSError as error:
            raise _cannot_append(self.path, error) from error

    def add(self, entry: Entry) -> None:
        """Append one entry.

        Raises:
            DiskFullError: there is no space left.
        """
        try:
            self._file.write(entry.to_line() + "\n")
            self._file.flush()
        except OSError as error:
            raise _cannot_append(self.path, error) from error

    def __enter__(self) -> Journal:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            os.fsync(self._file.fileno())
        finally:
            self._file.close()


def write_journal(output: Path, entries: Iterable[Entry]) -> None:
    """Replace the journal by `entries` in one step."""
    write_text(output / JOURNAL_NAME, "".join(entry.to_line() + "\n" for entry in entries))


def _cannot_append(path: Path, error: OSError) -> OvsegError:
    if error.errno in {errno.ENOSPC, errno.EDQUOT}:
        return DiskFullError(
            f"No space left on the disk while writing {path}. "
            "Free some space, then run the same command again: what is done stays done."
        )
    return OutputError(f"Cannot write {path}: {error.strerror}.")
