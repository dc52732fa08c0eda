"""Finding the images that a command line names.

An input is an image file, a folder, a glob pattern, a text file that lists inputs, or ``-`` for such a
list on standard input; on this computer, or at a URL. Every image gets a *key*: its path below the deepest
folder that holds all the inputs, without the suffix. Outputs are named by keys, so the tree of the inputs is
mirrored.
"""

from __future__ import annotations

import codecs
import fnmatch
import logging
import os
import re
import sys
import unicodedata
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path, PurePosixPath
from typing import Literal, TypeVar, overload

from ovseg_cli.errors import NoInputError, UsageError
from ovseg_cli.files.formats import FORMAT_NAMES, IMAGE_SUFFIXES, OTHER_PICTURES, is_image_content, is_image_file
from ovseg_cli.files.layout import MANIFEST_NAME, MASK_FOLDER
from ovseg_cli.files.text import decoded, special_kind
from ovseg_cli.names import listed
from ovseg_cli.urls import (
    MOST_BYTES,
    Place,
    Url,
    is_file,
    is_folder,
    is_there,
    is_url,
    place,
    real,
    redacted_argument,
)

__all__ = [
    "InputImage",
    "discover",
    "expanded",
    "known_as",
    "natural_key",
    "picture_id",
    "walk_files",
    "without_picture_suffix",
]

_Answer = TypeVar("_Answer")

_logger = logging.getLogger("ovseg_cli")
RESULT_SUFFIXES = (".png", ".npz")
"""What is put after a picture's key to name its results."""

_MAGIC = re.compile(r"[*?\[]")
_LIST_SUFFIX = ".txt"
_WEB = ("http", "https")
_MOST_SINGLE = 16
"""From more files of one folder than so many, the folder is listed, in place of a question for each."""


@dataclass(frozen=True, slots=True)
class InputImage:
    """One image to work on.

    Attributes:
        path: Where it lies, as it was given.
        key: Its name in the outputs: a relative path without suffix, unique in one `discover` call.
        stamp: At a URL, what changes with its content, as the store tells it; None where the file is to be read for it.
    """

    path: Place
    key: PurePosixPath
    stamp: str | None = None

    @property
    def file(self) -> Path:
        """Where it lies on this computer.

        Raises:
            UsageError: It lies at a URL, and what is to be done needs a file.
        """
        if isinstance(self.path, Url):
            raise UsageError(f"{self.path} is a URL, and this takes pictures on this computer: copy them here first.")
        return self.path


def natural_key(text: str) -> tuple[tuple[tuple[int, int, str], ...], str]:
    """A sort key by which ``img2`` comes before ``img10``, whatever the case of the letters."""
    parts = re.split(r"(\d+)", text.casefold())
    return tuple((0, int(p), "") if p.isdecimal() else (1, 0, p) for p in parts if p), text


def without_picture_suffix(path: PurePosixPath) -> PurePosixPath:
    """A path without its suffix, if that is one of pictures: ``.2024-05-01`` is none."""
    return path.with_suffix("") if path.suffix.lower() in IMAGE_SUFFIXES else path


def picture_id(path: Place) -> str:
    """The one path by which a picture is known, however it was spelled.

    Absolute, without `..` and without links to folders. A link to a file stays: two names may stand for one picture on
    purpose. A URL is known without secrets.
    """
    if isinstance(path, Url):
        return str(path)
    return os.path.join(os.path.realpath(path.parent), path.name)


def known_as(path: str) -> str:
    """`picture_id` of what was written down by it."""
    return path if is_url(path) else picture_id(Path(path))


@overload
def expanded(path: Path) -> Path: ...
@overload
def expanded(path: str | Place) -> Place: ...
def expanded(path: str | Place) -> Place:
    """A path with the home folder in place of its leading ``~``, which shells leave alone within quotes.

    What lies under the very name comes first; the ``~`` of a user whom nobody knows stays. A URL is one.
    """
    path = place(path)
    if isinstance(path, Url):
        return path
    return Path(path if os.path.lexists(path) else os.path.expanduser(path))


def discover(inputs: Sequence[str | Place], *, exclude: Place | None = None) -> list[InputImage]:
    """Find the images that `inputs` name, each once, in the order of the inputs.

    - A *file* is taken whatever its name; if it is no image, decoding will say so. The exception is a
      ``.txt`` file that holds text: a list with one input per line (blank lines and lines starting with
      ``#`` are skipped; relative paths start at the list's folder, else at the current one).
    - A *folder* is searched with all its subfolders in natural order, each once, whatever links lead there. Hidden
      files, other kinds of files and folders with results of earlier runs are passed over; pictures in formats that
      are not read, and what cannot be looked at, are told.
    - A *pattern* (``*``, ``?``, ``[...]`` and ``**`` for any depth) may match files and folders. A file
      of exactly that name comes first.
    - ``-`` reads a list from standard input.
    - In a list separated by NUL, as ``find -print0`` writes, names are taken letter by letter.
    - What lies at a *URL* is listed once, whatever is asked about it. Pictures are known by their suffix alone there.
      Of ``http://`` only files can be named, each for itself, which are looked at when they are read.

    Two images that differ only in their suffix (``x.jpg``, ``x.png``) keep it in their keys, and what is known as an
    image by its content alone keeps its whole name.

    Args:
        inputs: Paths, URLs, patterns, list files or ``-``.
        exclude: A folder whose files are never taken (where the outputs go).

    Returns:
        The images, without repetition.

    Raises:
        NoInputError: A named path is not there, a pattern matches nothing, or no image was found at all.
        UsageError: A URL names nothing that can be reached.
    """
    search = _Search(exclude=None if exclude is None else real(exclude))
    for item in inputs:
        search.add(item)
    if search.results and search.found:
        _logger.warning(
            "passed over %d folder(s) with results of an earlier run: %s", len(search.results), search.named_results()
        )
    if (pictures := search.unread_pictures()) and search.found:
        _logger.warning("left out %s: convert them first", pictures)
    if search.left_out and search.found:
        _logger.warning("left out %d named file(s) or folder(s) inside the output folder", search.left_out)
    if not search.found:
        raise NoInputError(search.explain(inputs))
    return _with_keys(search.found)


@dataclass
class _Search:
    """What has been found so far. `found` maps a picture's id to (path as given, root of its input)."""

    exclude: Place | None
    found: dict[str, tuple[Place, str]] = field(default_factory=dict)
    other: Counter[str] = field(default_factory=Counter)
    results: dict[str, Place] = field(default_factory=dict)
    left_out: int = 0
    told: set[Place] = field(default_factory=set)
    _listed: dict[Url, Url] = field(default_factory=dict)

    def __post_init__(self) -> None:
        found = None if self.exclude is None else _identity(self.exclude)
        self._excluded_identity = found or (-1, -1)  # which is no folder's

    def add(self, item: str | Place) -> None:
        """Take one input of the command line."""
        if str(item) == "-":
            self._add_list(_read_stdin(), "standard input", Path())
            return
        path = expanded(item)
        if path.suffix.lower() == _LIST_SUFFIX and self._is_list(path):
            try:
                data = path.read_bytes()
            except OSError as error:
                raise NoInputError(f"Cannot read the list {path}: {error.strerror}.") from error
            self._add_list(data, str(path), path.parent)
            return
        if isinstance(path, Url):
            self._add_url(path, str(item))
        else:
            self._add_path(path, str(path))

    @staticmethod
    def _is_list(path: Place) -> bool:
        if isinstance(path, Url):
            return path.scheme in _WEB or _asked(path.is_file, path)
        return os.path.isfile(path) and not is_image_content(path)

    def _add_url(self, url: Url, text: str) -> None:
        """Take a file, a folder or a pattern at a URL, which is listed."""
        if url.scheme in _WEB:
            if text.partition("?")[0].endswith("/") or _MAGIC.search(url.path.partition("/")[2]):
                raise NoInputError(
                    f"Folders at {url.scheme}:// cannot be listed, as {url} would have to be. Name each picture, or a "
                    "list of them."
                )
            self._take(url, _address(url.parent), named=True)
            return
        if _MAGIC.search(url.path) and not _asked(url.is_file, url):
            anchor, parts = _split_pattern(url)
            self._add_pattern(anchor, parts, str(url))
            return
        self._add_path(self._looked_at(url), str(url))

    def _looked_at(self, url: Url) -> Url:
        """A URL with what lies below it; that of a file with the file."""
        for folder in (url, url.parent):
            if folder in self._listed:
                return replace(url, tree=self._listed[folder].tree)
        return _asked(url.listed, url)

    def explain(self, inputs: Sequence[str | Place]) -> str:
        """Say what was looked at when nothing was found."""
        if not inputs:
            return "No input was given: name image files, folders, patterns, a list file or -."
        named = listed([redacted_argument(str(given)) for given in inputs], most=3)
        if self.left_out and not self.other:
            return f"All of {named} lies inside the output folder {self.exclude}; choose another --output."
        if self.results and not self.other:
            return (
                f"No image found in {named} but the results of an earlier run ({self.named_results()}), which are "
                "passed over; to take one of them as a picture, name the file itself."
            )
        text = f"No image found in {named} (readable formats: {FORMAT_NAMES})."
        if self.other:
            kinds = ", ".join(f"{count} {suffix or 'without suffix'}" for suffix, count in self.other.most_common(3))
            text += f" Other files there: {kinds}; convert them first if they are pictures."
        return text

    def unread_pictures(self) -> str:
        """The pictures in formats that are not read, by suffix, for a sentence; empty when there are none."""
        kinds = [(suffix, count) for suffix, count in self.other.most_common() if suffix in OTHER_PICTURES]
        return ", ".join(f"{count} {suffix}" for suffix, count in kinds)

    def named_results(self) -> str:
        """The folders with results that were passed over, for a sentence."""
        return listed([*map(str, self.results.values())])

    def _add_list(self, data: bytes, name: str, folder: Place) -> None:
        lines = [*_list_lines(data, name)]
        self._list_folders(url for _, line in lines if isinstance(url := _of_line(line, folder), Url))
        for number, line in lines:
            beside = _of_line(line, folder)
            if isinstance(beside, Url):
                try:
                    self._add_url(beside, line)
                except NoInputError as error:
                    raise NoInputError(f"{name}, line {number}: {error}") from error
                continue
            if isinstance(folder, Url) and folder.scheme in _WEB:
                raise NoInputError(
                    f"{name}, line {number}: {line!r} is a file of this computer, which a list of the web may not name."
                )
            spelled = expanded(Path(line))
            tried = (beside, spelled, *(map(_as_spelled_there, (beside, spelled))))
            path = next((p for p in tried if os.path.exists(p)), beside)
            if not os.path.lexists(path) and not _MAGIC.search(line):
                raise NoInputError(f"{name}, line {number}: {line!r} {_why_absent(path)}.")
            self._add_path(path, str(path))

    def _list_folders(self, urls: Iterable[Url]) -> None:
        """List the folders that many files are named of."""
        for folder, many in Counter(url.parent for url in urls if url.scheme not in _WEB).items():
            if many > _MOST_SINGLE:
                self._listed[folder] = _asked(folder.listed, folder)

    def _add_path(self, path: Place, text: str) -> None:
        """Take a file, a folder or a pattern."""
        if is_folder(path):
            self._add_folder(path, _address(path))
        elif path.exists() if isinstance(path, Url) else os.path.lexists(path):
            # Also a pipe or a broken link: the others go on, and opening it will say why it fails.
            self._take(path, os.path.dirname(_address(path)), named=True)
        elif _MAGIC.search(text):
            self._add_pattern(*_split_pattern(path), text)
        else:
            raise NoInputError(f"{text} {_why_absent(path)}. Name an image, a folder, a quoted pattern or a list.")

    def _add_folder(self, folder: Place, root: str) -> None:
        try:
            if isinstance(folder, Path):
                os.scandir(folder).close()
        except OSError as error:
            raise NoInputError(f"Cannot read the folder {folder}: {error.strerror}.") from error
        if self._is_excluded(folder):
            self.left_out += 1
            return
        if self._passes(folder):
            return
        before = len(self.found), len(self.results)
        for path in walk_files(folder, passes=self._passes, told=self.told):
            self._take(path, root)
        if (len(self.found), len(self.results)) == before:
            _logger.warning("the folder %s holds no image, or only images that were named before it", folder)

    def _add_pattern(self, anchor: Place, parts: tuple[str, ...], text: str) -> None:
        root = _address(anchor)
        if isinstance(anchor, Url):
            anchor = self._looked_at(anchor)
        matched = False
        seen: set[_Identity] = set()
        for path in (
            () if self._is_excluded(anchor) or self._passes(anchor) else _expand(anchor, parts, self._passes, self.told)
        ):
            matched = True
            if is_folder(path):
                if not self._is_excluded(path):
                    for inner in walk_files(path, passes=self._passes, seen=seen, told=self.told):
                        self._take(inner, root)
            elif not self._is_excluded(path):
                self._take(path, root)
        if not matched and not self.results:
            raise NoInputError(f"No file matches the pattern {text!r}.")

    def _take(self, path: Place, root: str, *, named: bool = False) -> None:
        """Keep one file: always if it was named, else if it is an image."""
        identity = picture_id(path)
        if identity in self.found:
            _check_same(path, self.found[identity][0])
            return
        if named and self._is_excluded(path):
            self.left_out += 1
        elif named or is_image_file(path):
            self.found[identity] = (path, root)
        else:
            self.other[path.suffix.lower()] += 1

    def _passes(self, folder: Place) -> bool:
        """Whether a folder met on the way is passed over: the output folder, or one with results of another run."""
        # What lies in the output folder is met through links only; real paths of all folders would take long.
        link = isinstance(folder, Path) and os.path.islink(folder)
        if self._is_excluded(folder) if link else _identity(folder) == self._excluded_identity:
            return True
        if is_file(folder / MANIFEST_NAME) and is_folder(folder / MASK_FOLDER):
            self.results.setdefault(str(real(folder)), folder)
            return True
        return False

    def _is_excluded(self, path: Place) -> bool:
        if self.exclude is None:
            return False
        there = real(path)
        return self.exclude in (there, *there.parents)


def _of_line(line: str, folder: Place) -> Place:
    """What a line of a list names, before it is looked for: a URL, or a path beside the list."""
    found = place(line) if is_url(line) else Path(line)
    if isinstance(found, Url):
        return found
    if isinstance(folder, Path):
        return folder / found
    return found if found.is_absolute() else folder / line


def _asked(question: Callable[[], _Answer], url: Url) -> _Answer:
    """What a store answers.

    Raises:
        NoInputError: It does not.
    """
    try:
        return question()
    except OSError as error:
        raise NoInputError(f"Cannot read {url}: {error.strerror}.") from error


def _check_same(path: Place, before: Place) -> None:
    """Refuse to take two for one that differ in what is not written down.

    Raises:
        NoInputError: They do.
    """
    if isinstance(path, Url) and isinstance(before, Url) and (path.user, path.query) != (before.user, before.query):
        raise NoInputError(
            f"{path} is named twice, with other things behind its ? or before its @. These may be secrets, so pictures "
            "are not told apart by them: name one of the two."
        )


_Identity = tuple[int | str, int | str]


@overload
def walk_files(
    folder: Path,
    *,
    passes: Callable[[Place], bool] | None = None,
    seen: set[_Identity] | None = None,
    told: set[Place] | None = None,
) -> Iterator[Path]: ...
@overload
def walk_files(
    folder: Place,
    *,
    passes: Callable[[Place], bool] | None = None,
    seen: set[_Identity] | None = None,
    told: set[Place] | None = None,
) -> Iterator[Place]: ...
def walk_files(
    folder: Place,
    *,
    passes: Callable[[Place], bool] | None = None,
    seen: set[_Identity] | None = None,
    told: set[Place] | None = None,
) -> Iterator[Place]:
    """Yield the visible files of a folder and its subfolders in natural order.

    Links to folders are followed, but no folder is visited twice. A file that cannot be looked at is yielded where its
    name is that of a picture, so that who opens it learns why; else, and where it is no regular file, it is told.

    Args:
        folder: Where to start; it may itself be hidden. A URL is one that is listed.
        passes: Says which subfolders are passed over; None for none.
        seen: The folders visited already, which grows.
        told: What was told already, which grows.

    Yields:
        Paths that begin with `folder`.
    """
    seen = set() if seen is None else seen
    told = set() if told is None else told
    first: tuple[Place, _Kind] = (folder, "folder")
    waiting: list[Iterator[tuple[Place, _Kind]]] = [iter([first])]
    while waiting:
        path, kind = next(waiting[-1], (None, "file"))
        if path is None:
            waiting.pop()
        elif kind == "file":
            yield path
        elif path is folder or passes is None or not passes(path):
            identity = _identity(path)
            if identity is None or identity not in seen:
                seen.update(() if identity is None else (identity,))
                waiting.append(iter(_entries(path, told)))


_Kind = Literal["folder", "file"]


def _identity(folder: Place) -> _Identity | None:
    """What tells a folder from all others, whatever path leads there; None when it cannot be looked at."""
    if isinstance(folder, Url):
        return folder.scheme, folder.path
    try:
        status = os.stat(folder)
    except (OSError, ValueError):
        return None
    return status.st_dev, status.st_ino


def _entries(folder: Place, told: set[Place]) -> list[tuple[Place, _Kind]]:
    """The folders and files in a folder in natural order, hidden ones left out; what is neither is told once."""
    if isinstance(folder, Url):
        inside = [(path, kind) for path, kind in folder.entries() if not path.name.startswith(".")]
        return sorted(inside, key=lambda entry: natural_key(entry[0].name))
    try:
        with os.scandir(folder) as entries:
            visible = [entry for entry in entries if not entry.name.startswith(".")]
    except OSError as error:
        _tell(folder, told, f"cannot read the folder {folder}: {error.strerror}")
        return []
    found: list[tuple[Place, _Kind]] = []
    for entry in sorted(visible, key=lambda entry: natural_key(entry.name)):
        path = folder / entry.name
        try:
            if entry.is_dir():
                found.append((path, "folder"))
            elif entry.is_file():
                found.append((path, "file"))
            elif (kind := special_kind(path)) is not None:
                _tell(path, told, f"passed over {path}, which is {kind}")
            else:
                _tell(path, told, f"passed over {path}, a link to what is not there")
        except OSError as error:
            if path.suffix.lower() in IMAGE_SUFFIXES:
                found.append((path, "file"))
            else:
                _tell(path, told, f"passed over {path}: {error.strerror}")
    return found


def _tell(path: Place, told: set[Place], text: str) -> None:
    if path not in told:
        told.add(path)
        _logger.warning("%s", text)


def _why_absent(path: Place) -> str:
    """Why nothing was found under a path."""
    try:
        if isinstance(path, Path):
            os.lstat(path)
    except (PermissionError, NotADirectoryError) as error:
        return f"cannot be read: {error.strerror}"
    except (OSError, ValueError):
        pass
    return "does not exist"


def _read_stdin() -> bytes:
    return sys.stdin.buffer.read()


def _list_lines(data: bytes, name: str) -> Iterator[tuple[int, str]]:
    """Yield (line number, entry) of a list; undecodable bytes survive as in file names.

    Raises:
        NoInputError: It is in an encoding of two bytes a letter, and does not say which.
    """
    halves = (
        data[:2] not in (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE) and len(data) > 7 and not data[1::2].strip(b"\0")
    )
    try:
        text = decoded(data, "surrogateescape")
    except UnicodeDecodeError:
        halves = True
    if halves:
        raise NoInputError(f"The list {name} is not UTF-8 text; save it as UTF-8.")
    literal = "\0" in text
    for number, line in enumerate(text.split("\0" if literal else "\n"), start=1):
        entry = line if literal else line.strip()
        if entry and (literal or not entry.startswith("#")):
            yield number, entry


def _as_spelled_there(path: Path) -> Path:
    """A path with composed or decomposed letters as the names on the disk have them, where they are there at all."""
    if str(path).isascii():
        return path
    found = Path(path.anchor)
    for part in path.parts[1 if path.anchor else 0 :]:
        if not os.path.lexists(found / part):
            composed = unicodedata.normalize("NFC", part)
            try:
                names = [name for name in os.listdir(found) if unicodedata.normalize("NFC", name) == composed]
            except OSError:
                return path
            part = names[0] if len(names) == 1 else part
        found /= part
    return found


def _split_pattern(pattern: Place) -> tuple[Place, tuple[str, ...]]:
    """Split a pattern into its fixed folder and the parts that remain to be matched."""
    parts = tuple(pattern.path.split("/")) if isinstance(pattern, Url) else pattern.parts
    first = next(i for i, part in enumerate(parts) if _MAGIC.search(part))
    if isinstance(pattern, Url):
        if first == 0:
            raise NoInputError(f"{pattern}: the name of a bucket cannot be a pattern. Write it out.")
        return replace(pattern, path="/".join(parts[:first])), parts[first:]
    return Path(*parts[:first]), parts[first:]


def _expand(
    anchor: Place, pattern: tuple[str, ...], passes: Callable[[Place], bool], told: set[Place]
) -> Iterator[Place]:
    """Match a pattern part by part.

    Unlike `glob`, no folder is searched twice for the same: ``**`` would otherwise run through loops of links until
    the system gives up.
    """
    seen: set[tuple[_Identity, tuple[str, ...]]] = set()
    waiting = [(anchor, pattern)]
    while waiting:
        folder, parts = waiting.pop()
        if not parts:
            yield folder
            continue
        identity = _identity(folder)
        if identity is None or (identity, parts) in seen or not is_folder(folder):
            continue
        seen.add((identity, parts))
        here, rest = parts[0], parts[1:]
        if here == "**":
            inner = [path for path, kind in _entries(folder, told) if kind == "folder" and not passes(path)]
            following = [(folder, rest), *((path, parts) for path in inner)]
        elif _MAGIC.search(here):
            following = [
                (path, rest)
                for path, kind in _entries(folder, told)
                if fnmatch.fnmatch(path.name, here) and not (kind == "folder" and passes(path))
            ]
        else:
            following = [(folder / here, rest)] if is_there(folder / here) else []
        waiting.extend(reversed(following))


def _with_keys(found: dict[str, tuple[Place, str]]) -> list[InputImage]:
    """Name every image by its path below the folder that all inputs share."""
    base = _common_folder({root for _, root in found.values()})
    relative = [_below(base, _address(path)) for path, _ in found.values()]
    keys = _unique_keys(relative)
    return [_named(path, key) for (path, _), key in zip(found.values(), keys, strict=True)]


def _named(path: Place, key: PurePosixPath) -> InputImage:
    if isinstance(path, Path):
        return InputImage(path, key)
    facts = path.facts() if path.tree is not None else None
    if facts is not None and (facts.size or 0) > MOST_BYTES:
        return InputImage(path.alone(), key, facts.stamp)  # so that whoever reads it knows
    return InputImage(path.plain(), key, "" if facts is None else facts.stamp)


def _address(given: Place) -> str:
    """An absolute path; URLs have some too, below the names of their schemes."""
    return f"/{given.scheme}/{given.path.lstrip('/')}" if isinstance(given, Url) else os.path.abspath(given)


def _common_folder(folders: Iterable[str]) -> str | None:
    try:
        return os.path.commonpath(list(folders))
    except ValueError:  # different drives
        return None


def _below(base: str | None, absolute: str) -> PurePosixPath:
    if base is not None:
        return PurePosixPath(Path(os.path.relpath(absolute, base)).as_posix())
    path = Path(absolute)
    return PurePosixPath(path.drive.strip(":\\/") or "root", *path.parts[1:])


def _unique_keys(paths: Sequence[PurePosixPath]) -> list[PurePosixPath]:
    """Cut the suffixes, except where two keys would then be equal, or a result be called as another's folder.

    Keys that differ in case only count as equal: they would name one file on macOS and Windows. A key with
    its suffix can meet another without (``x.jpg`` and ``x.jpg.png``), hence the loop; whole names are
    unique, so it ends.
    """
    whole = [False] * len(paths)
    own = {path.parent for path in paths}
    folders = {str(folder).casefold() for one in own for folder in (one, *one.parents)}
    while True:
        keys = [path if keep else without_picture_suffix(path) for path, keep in zip(paths, whole, strict=True)]
        counts = Counter(str(key).casefold() for key in keys)
        clashing = [
            not keep and (counts[name] > 1 or any(name + suffix in folders for suffix in RESULT_SUFFIXES))
            for name, keep in zip((str(key).casefold() for key in keys), whole, strict=True)
        ]
        if not any(clashing):
            return keys
        whole = [keep or clash for keep, clash in zip(whole, clashing, strict=True)]
