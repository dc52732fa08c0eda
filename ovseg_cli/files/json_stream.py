"""Walking through a large JSON file, a piece at a time: what lies in its lists is seen one by one, and kept nowhere."""

from __future__ import annotations

import json
import re
from collections.abc import Collection, Iterator
from pathlib import Path
from typing import Any, BinaryIO

from ovseg_cli.errors import LabelError

__all__ = ["Entry", "json_entries", "why_unreadable"]

Entry = tuple[str, Any, int, int]
"""A key of the outer object, an item of its list (its value, where that is no list; None for a list without items), and
the item's first byte and the one behind its last."""

_PIECE = 4 << 20
_BLANKS = re.compile(r"[ \t\n\r]*")
_STRING = r'"[^"\\]*+(?:\\.[^"\\]*+)*+"'
_FLAT = rf'\{{[^{{}}"]*+(?:{_STRING}[^{{}}"]*+)*+\}}'
_OBJECT = re.compile(rf'\{{[^{{}}"]*+(?:(?:{_STRING}|{_FLAT})[^{{}}"]*+)*+\}}', re.DOTALL)


def json_entries(path: Path, *, as_text: Collection[str] = ()) -> Iterator[Entry]:
    """Yield what an object in a JSON file holds, the items of lists one by one.

    Args:
        path: A file in UTF-8.
        as_text: The keys of lists of which items are objects that stay text where they are not deeply nested, each byte
            a character. That is several times as fast.

    Raises:
        LabelError: The file is missing, or no object in JSON.
    """
    try:
        with path.open("rb") as file:
            yield from _Walk(path, file, as_text).entries()
    except FileNotFoundError as error:
        raise LabelError(f"{path} does not exist.") from error
    except OSError as error:
        raise LabelError(f"{path} cannot be read: {error.strerror}.") from error


class _Walk:
    """A window of the file that moves on. Every byte is a character, so places in the text are places in the file."""

    def __init__(self, path: Path, file: BinaryIO, as_text: Collection[str]) -> None:
        self.path, self.file, self.as_text = path, file, as_text
        self.text = file.read(_PIECE).decode("latin-1").removeprefix("\xef\xbb\xbf")
        self.start = file.tell() - len(self.text)  # of the window in the file
        self.at = 0
        self.decoder = json.JSONDecoder()

    def entries(self) -> Iterator[Entry]:
        if "\0" in self.text[:4] or self.text.startswith(("\xff\xfe", "\xfe\xff")):  # UTF-16 or UTF-32
            raise LabelError(f"{self.path} is not UTF-8 text; save it as UTF-8.")
        if not self._take("{"):
            raise self._no_object()
        if self._take("}"):
            self._expect_end()
            return
        while True:
            key, _, _ = self._value()
            if not isinstance(key, str):
                raise self._broken()
            self._expect(":")
            if self._take("["):
                yield from self._items(key)
            else:
                yield (key, *self._value())
            if not self._take(","):
                break
        self._expect("}")
        self._expect_end()

    def _items(self, key: str) -> Iterator[Entry]:
        if self._take("]"):
            yield key, None, self.start + self.at, self.start + self.at
            return
        while True:
            yield (key, *((key in self.as_text and self._object_text()) or self._value()))
            if not self._take(","):
                break
        self._expect("]")

    def _more(self) -> bool:
        """Move the window on to the present place, and make it larger; whether there was more."""
        self.text, self.start, self.at = self.text[self.at :], self.start + self.at, 0
        piece = self.file.read(max(_PIECE, len(self.text)))
        self.text += piece.decode("latin-1")
        return bool(piece)

    def _skip_blanks(self) -> None:
        while True:
            self.at = _BLANKS.match(self.text, self.at).end()  # type: ignore[union-attr]
            if self.at < len(self.text) or not self._more():
                return

    def _take(self, mark: str) -> bool:
        self._skip_blanks()
        if not self.text.startswith(mark, self.at):
            return False
        self.at += 1
        return True

    def _expect(self, mark: str) -> None:
        if not self._take(mark):
            raise self._broken()

    def _expect_end(self) -> None:
        self._skip_blanks()
        if self.at < len(self.text):
            raise self._broken()

    def _value(self) -> tuple[Any, int, int]:
        self._skip_blanks()
        while True:
            try:
                value, end = self.decoder.raw_decode(self.text, self.at)
            except RecursionError as error:
                raise self._broken() from error
            except ValueError as error:
                if not isinstance(error, json.JSONDecodeError):
                    place = self.start + self.at
                    raise LabelError(f"{self.path}: what begins at byte {place} {why_unreadable(error)}.") from error
                if not self._more():
                    raise self._broken() from error
                continue
            if end == len(self.text) and self._more():
                continue  # a number may go on
            first, self.at = self.at, end
            text = self.text[first:end]
            if not text.isascii():
                value = self._in_full(text)
            return value, self.start + first, self.start + end

    def _object_text(self) -> tuple[str, int, int] | None:
        """An object as text; None where it does not end in the window, or is too deep."""
        self._skip_blanks()
        match = _OBJECT.match(self.text, self.at)
        if match is None:
            return None
        self.at = match.end()
        return match[0], self.start + match.start(), self.start + match.end()

    def _in_full(self, text: str) -> Any:
        """A value that holds letters of more than a byte."""
        try:
            return json.loads(text.encode("latin-1"))
        except (UnicodeDecodeError, json.JSONDecodeError) as error:
            raise LabelError(f"{self.path} is not UTF-8 text; save it as UTF-8.") from error

    def _no_object(self) -> LabelError:
        """What is wrong with a file that does not begin with an object."""
        if self.text.startswith("[", self.at):
            what = "a list"  # it may be large, so it is not read to its end
        else:
            value, _, _ = self._value()
            self._expect_end()
            what = "a text" if isinstance(value, str) else "a number" if type(value) in (int, float) else "a mere word"
        return LabelError(
            f"{self.path} is no COCO file: it holds {what}, not an object with 'images' and 'annotations'."
        )

    def _broken(self) -> LabelError:
        return LabelError(f"{self.path} is no complete JSON file: it cannot be read at byte {self.start + self.at}.")


def why_unreadable(error: ValueError | RecursionError) -> str:
    """What is wrong with a value, of what `json` raises about it."""
    if isinstance(error, UnicodeDecodeError):
        return "is not UTF-8 text; save the file as UTF-8"
    if isinstance(error, json.JSONDecodeError):
        return "is no valid JSON"
    return "is nested too deeply" if isinstance(error, RecursionError) else "has a number of too many digits"
