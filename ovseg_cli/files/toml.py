"""TOML files that people write: read with care, and with the line of every key, so that a message can name it."""

from __future__ import annotations

import bisect
import errno
import json
import os
import re
import stat
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ovseg_cli.errors import UsageError

MAX_BYTES = 2**20
"""What people write is far smaller."""

KeyPath = tuple[str | int, ...]
"""A place in a file: names of tables and keys, and the positions of elements of arrays."""

_AT = re.compile(r" ?\(at (?:line (\d+), column \d+|end of document)\)$")
_REASONS = {
    errno.ENOENT: "there is no such file",
    errno.ENOTDIR: "a part of the path is a file, not a folder",
    errno.ELOOP: "its links lead in a circle",
    errno.EACCES: "you may not read it",
    errno.ENAMETOOLONG: "the name is too long",
}


@dataclass(frozen=True, slots=True)
class TomlFile:
    """What a file says, and where.

    Attributes:
        path: The file, as it was named.
        data: What it says.
        lines: The line of each key, of each header, and of each element of an array, counted from 1.
    """

    path: Path
    data: dict[str, Any]
    lines: Mapping[KeyPath, int] = field(default_factory=dict)

    def line(self, *keys: str | int) -> int | None:
        """The line where this stands, or where the nearest thing around it does; None for the file as a whole."""
        for end in range(len(keys), 0, -1):
            if keys[:end] in self.lines:
                return self.lines[keys[:end]]
        return None

    def where(self, *keys: str | int) -> str:
        """The file and the line of a key, as messages begin with it."""
        line = self.line(*keys)
        return f"{self.path}" if line is None else f"{self.path}, line {line}"


def read_toml(path: Path, *, what: str) -> TomlFile:
    """Read a TOML file.

    Args:
        path: The file.
        what: What it is to be, for messages: "profile".

    Raises:
        UsageError: It is no file, cannot be read, or is no TOML; one line that names the file, and the line in it.
    """
    return parse_toml(_text_of(path, what), path, what=what)


def parse_toml(text: str, path: Path, *, what: str) -> TomlFile:
    """What a text says that stands in `path`.

    Raises:
        UsageError: It is no TOML.
    """
    text = text.replace("\r\n", "\n")
    try:
        data = tomllib.loads(text)
        return TomlFile(path, data, _Scanner(text).scan())
    except RecursionError:
        raise UsageError(f"The {what} {path} is nested too deeply to be one.") from None
    except ValueError as error:  # also of a number with thousands of digits, which is no error of TOML
        told = str(error)
        at = _AT.search(told)
        line = "" if at is None else f", line {at[1] or len(text.splitlines())}"
        raise UsageError(f"{path}{line}: this is no TOML: {_AT.sub('', told)[:200]}.") from None


def shown(value: Any) -> str:
    """A value of a file as a message shows it."""
    if isinstance(value, dict):
        return "a table"
    if isinstance(value, bool):
        return str(value).lower()
    text = json.dumps(value, ensure_ascii=True, default=str)
    return text if len(text) <= 60 else f"{text[:60]}…"


def _text_of(path: Path, what: str) -> str:
    def refused(why: str) -> UsageError:
        return UsageError(f"The {what} {path} cannot be read: {why}.")

    try:
        state = os.stat(path)
        if stat.S_ISDIR(state.st_mode):
            raise refused("it is a folder")
        if not stat.S_ISREG(state.st_mode):  # opening a pipe would wait for somebody who writes
            raise refused("it is no ordinary file")
        with open(path, "rb") as file:
            data = file.read(MAX_BYTES + 1)
    except ValueError:  # a name with a NUL
        raise refused("no file has such a name") from None
    except OSError as error:
        raise refused(_REASONS.get(error.errno or 0, str(error.strerror or error))) from None
    if len(data) > MAX_BYTES:
        raise refused(f"it is larger than {MAX_BYTES // 2**20} MB, which no {what} is")
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        raise UsageError(f"{path}, line {line}: this is no UTF-8. Save the file as UTF-8.") from None


class _Scanner:
    """Finds the lines of the keys in a text that `tomllib` has already understood.

    Args:
        text: With line ends of one character.
    """

    def __init__(self, text: str) -> None:
        self._text = text
        self._at = 0
        self._ends = [match.start() for match in re.finditer("\n", text)]
        self._lines: dict[KeyPath, int] = {}
        self._last: dict[KeyPath, int] = {}
        """Of each array of tables, the position of the latest one."""

    def scan(self) -> dict[KeyPath, int]:
        """The line of each key path."""
        prefix: KeyPath = ()
        while self._skip("\n"):
            if self._text.startswith("[[", self._at):
                prefix = self._header(2)
            elif self._peek() == "[":
                prefix = self._header(1)
            else:
                self._pair(prefix)
        return self._lines

    def _header(self, brackets: int) -> KeyPath:
        line = self._line()
        self._at += brackets
        names = self._key()
        path: KeyPath = ()
        for name in names[:-1]:
            path = self._inside((*path, name))
        path = (*path, names[-1])
        if brackets == 2:
            self._last[path] = self._last.get(path, -1) + 1
            self._lines.setdefault(path, line)
        path = self._inside(path)
        self._lines.setdefault(path, line)
        self._at += brackets
        return path

    def _inside(self, path: KeyPath) -> KeyPath:
        """The table that a header means by a name: of an array of tables, the latest."""
        return (*path, self._last[path]) if path in self._last else path

    def _pair(self, prefix: KeyPath) -> None:
        line = self._line()
        path = prefix
        for name in self._key():
            path = (*path, name)
            self._lines.setdefault(path, line)
        self._at += 1  # the sign between key and value
        self._value(path)

    def _key(self) -> list[str]:
        """The parts of a dotted key; stops at what follows it."""
        names = []
        while True:
            self._skip("")
            if self._peek() in "\"'":
                start = self._at
                self._string()
                names.append(tomllib.loads(f"key = {self._text[start : self._at]}")["key"])
            else:
                start = self._at
                while self._peek() not in ("", *" \t.=]\n"):
                    self._at += 1
                names.append(self._text[start : self._at])
            self._skip("")
            if self._peek() != ".":
                return names
            self._at += 1

    def _value(self, path: KeyPath) -> None:
        self._skip("")
        first = self._peek()
        if first in "\"'":
            self._string()
        elif first == "[":
            self._at += 1
            number = 0
            while self._skip("\n,") and self._peek() != "]":
                self._lines.setdefault((*path, number), self._line())
                self._value((*path, number))
                number += 1
            self._at += 1
        elif first == "{":
            self._at += 1
            while self._skip("\n,") and self._peek() != "}":
                self._pair(path)
            self._at += 1
        else:
            while self._at < len(self._text) and self._peek() not in ",]}\n#":
                self._at += 1

    def _string(self) -> None:
        quote = self._peek()
        around = quote * 3 if self._text.startswith(quote * 3, self._at) else quote
        self._at += len(around)
        while not self._text.startswith(around, self._at):
            self._at += 2 if quote == '"' and self._peek() == "\\" else 1
        self._at += len(around)
        if len(around) == 3:  # up to two quotes may stand before the closing three
            while self._peek() == quote:
                self._at += 1

    def _skip(self, more: str) -> bool:
        """Pass by blanks, comments and the characters of `more`; False at the end."""
        while self._at < len(self._text):
            if more and self._peek() == "#":
                self._at = self._text.find("\n", self._at) % (len(self._text) + 1)
            elif self._peek() in " \t" + more:
                self._at += 1
            else:
                return True
        return False

    def _peek(self) -> str:
        return self._text[self._at : self._at + 1]

    def _line(self) -> int:
        return bisect.bisect_left(self._ends, self._at) + 1
