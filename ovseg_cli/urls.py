"""Places: a path on this computer, or a URL of a store that fsspec reaches, such as `s3://bucket/photos`.

A `Url` answers what a `Path` answers under the same names, so code that only reads and joins takes a `Place`; who needs
a real file takes a `Path`, and the type checker sees to it. A store has no folders, no links and no renaming: a folder
is there when something lies below it, and each object is put whole.
"""

from __future__ import annotations

import errno
import io
import json
import logging
import os
import posixpath
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from datetime import datetime
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any, Literal, NamedTuple, TypeAlias, cast
from urllib.parse import unquote

from ovseg_cli.errors import UsageError
from ovseg_cli.names import listed

if TYPE_CHECKING:
    from typing import IO

__all__ = [
    "Place",
    "Url",
    "absolute",
    "folder_of_all",
    "is_file",
    "is_folder",
    "is_there",
    "is_url",
    "listed_below",
    "place",
    "real",
    "redacted",
    "redacted_argument",
    "same_or_inside",
    "way",
]

log = logging.getLogger("ovseg_cli")

_URL = re.compile(r"([A-Za-z][A-Za-z0-9+.-]+)://(.*)", re.DOTALL)  # two letters at least: C:// is a drive
_SECRETS = re.compile(r"(\b[A-Za-z][A-Za-z0-9+.-]+)://([^\s/'\"]*@)?([^\s'\"]*)")
_WITHIN = re.compile(r"(?<![A-Za-z0-9+.-])([A-Za-z][A-Za-z0-9+.-]+)://(.*)", re.DOTALL)
_CHAIN = re.compile(r"([A-Za-z][A-Za-z0-9+.-]*)::.*://", re.DOTALL)
_LOCAL = ("file", "local")
_WEB = ("http", "https")
_PACKAGES = {"http": "aiohttp", "https": "aiohttp"}
_MOST_OF_A_REASON = 300
_ASKS_FIRST = ("s3", "s3a")
"""Where the library asks how long an object is before it gets it, which costs as much again, unless told from where."""
_PATTERN = frozenset("*?[]")

MOST_BYTES = 2**30
"""Of an object that is read: it is in memory as a whole."""

_CHECKSUMS = ("md5Hash", "Content-MD5", "ETag", "etag")
_TIMES = ("LastModified", "last_modified", "Last-Modified", "updated", "mtime", "created")
"""By what a listing tells another content, under the names that file systems give it."""


class Facts(NamedTuple):
    """What a listing says of a file: its bytes, None where it does not say, and what changes with its content."""

    size: int | None
    stamp: str


@dataclass(frozen=True, slots=True, eq=False)
class _Tree:
    """What lies below a URL.

    Attributes:
        root: Its path.
        files: By path below the root; the root itself is "".
        folders: Of each folder, by path below the root, what is in it: names, each with what it is.
    """

    root: str
    files: Mapping[str, Facts]
    folders: Mapping[str, Mapping[str, set[Literal["folder", "file"]]]]


@dataclass(frozen=True, slots=True)
class Url:
    """A file or folder in a store.

    Attributes:
        scheme: Before `://`, in small letters.
        path: What follows, without what may be a secret.
        user: User and password, with the `@`: never shown.
        query: From `?` on, at http: it may hold a signature, so it is never shown either.
        tree: What `listed` has found; questions about what lies there are answered by it, and not by the store.
    """

    scheme: str
    path: str
    user: str = field(default="", compare=False, repr=False)
    query: str = field(default="", compare=False, repr=False)
    tree: _Tree | None = field(default=None, compare=False, repr=False)

    def __str__(self) -> str:
        return f"{self.scheme}://{self.path}"

    def __reduce__(self) -> tuple[Any, ...]:
        """Whoever gets it asks the store, but for what was listed of a file itself."""
        return Url, (self.scheme, self.path, self.user, self.query, self.alone().tree)

    @property
    def store(self) -> tuple[str, str]:
        """The scheme and the bucket or host."""
        return self.scheme, self.path.partition("/")[0]

    # ------------------------------------------------------------------ names, as a `Path` has them

    @property
    def name(self) -> str:
        """What follows the last slash."""
        return self.path.rpartition("/")[2]

    @property
    def stem(self) -> str:
        """The name without its suffix."""
        return PurePosixPath(self.name).stem

    @property
    def suffix(self) -> str:
        """From the last dot of the name on."""
        return PurePosixPath(self.name).suffix

    @property
    def parent(self) -> Url:
        """The folder that it is in; of a bucket, the bucket."""
        return replace(self, path=self.path.rpartition("/")[0] or self.path, query="")

    @property
    def parents(self) -> tuple[Url, ...]:
        """All folders that it is in, the nearest first."""
        parts = self.path.split("/")
        return tuple(replace(self, path="/".join(parts[:i]), query="") for i in range(len(parts) - 1, 0, -1))

    def __truediv__(self, name: str | PurePosixPath) -> Url:
        return replace(self, path=f"{self.path}/{name}", query="")

    def with_name(self, name: str) -> Url:
        """Another one in the same folder."""
        return self.parent / name

    def relative_to(self, other: Url) -> PurePosixPath:
        """The way from a folder that it lies in."""
        return PurePosixPath(posixpath.relpath(self.path, other.path))

    def plain(self) -> Url:
        """The same without what was listed."""
        return replace(self, tree=None)

    def alone(self) -> Url:
        """The same with what was listed of the file itself, and of no other."""
        known = None if self.tree is None else self.tree.files.get(self._below() or "")
        return replace(self, tree=None if known is None else _Tree(self.path, {"": known}, {}))

    def is_absolute(self) -> bool:
        """It is."""
        return True

    def absolute(self) -> Url:
        """It is."""
        return self

    def resolve(self) -> Url:
        """There are no links."""
        return self

    def as_posix(self) -> str:
        """As it is shown."""
        return str(self)

    # ------------------------------------------------------------------ what is there

    def listed(self, folders: Sequence[str] = ("",)) -> Url:
        """The same, with all that lies below it, listed at once.

        Args:
            folders: Below which of its folders; others count as empty.

        Raises:
            OSError: The store cannot be asked. That nothing lies there is no error.
            UsageError: There is no such store, or no package for it.
        """
        files: dict[str, Facts] = {}
        below: dict[str, dict[str, set[Literal["folder", "file"]]]] = {}
        with self._asked() as (system, path):
            prefix = f"{path.rstrip('/')}/"
            for folder in folders:
                for name, about in self._found(system, f"{prefix}{folder}".rstrip("/")).items():
                    if about.get("type", "file") == "file" and not name.endswith("/"):  # else an empty folder's object
                        files["" if f"{name}/" == prefix else name.removeprefix(prefix)] = _facts(about)
        odd = [name for name in files if name and {"", ".", ".."} & set(name.split("/"))]
        for name in odd:
            del files[name]
        if odd:
            log.warning("passed over %s/%s: no file can have such a name", self, listed(odd, most=1))
        for name in files:
            folder, kind = name, "file"
            while folder:
                parent, _, last = folder.rpartition("/")
                inside = below.setdefault(parent, {})
                known = kind in inside.setdefault(last, set())
                inside[last].add(kind)  # type: ignore[arg-type]
                if known:
                    break
                folder, kind = parent, "folder"
        return replace(self, tree=_Tree(self.path, files, below))

    def _found(self, system: Any, path: str) -> Mapping[str, Mapping[str, Any]]:
        """What a listing gives; nothing for a folder that is not there."""
        how = _strictly(system)
        try:
            return cast("Mapping[str, Mapping[str, Any]]", system.find(path, detail=True, **how))
        except (FileNotFoundError, NotADirectoryError):
            bucket = system._strip_protocol(f"{self.scheme}://{self.path.partition('/')[0]}")
            if not how and not system.exists(bucket):
                raise
            return {}

    def _below(self) -> str | None:
        """The way to it in the tree; None where nothing was listed."""
        return None if self.tree is None else self.path[len(self.tree.root) :].lstrip("/")

    def is_file(self) -> bool:
        """Whether an object lies there."""
        if self.tree is not None:
            return self._below() in self.tree.files
        try:
            with self._asked() as (system, path):
                return bool(system.info(path)["type"] == "file")
        except (FileNotFoundError, NotADirectoryError):
            return False

    def is_dir(self) -> bool:
        """Whether anything lies below it."""
        if self.tree is not None:
            return self._below() in self.tree.folders
        with self._asked() as (system, path):
            return bool(system.isdir(path))

    def exists(self) -> bool:
        """Whether it is either."""
        return self.is_file() or self.is_dir()

    def facts(self) -> Facts | None:
        """What is known of the object; None where there is none.

        Raises:
            OSError: The store cannot be asked.
        """
        if self.tree is not None:
            return self.tree.files.get(self._below() or "")
        try:
            with self._asked() as (system, path):
                about = system.info(path)
        except (FileNotFoundError, NotADirectoryError):
            return None
        return _facts(about) if about.get("type", "file") == "file" else None

    def entries(self) -> Iterator[tuple[Url, Literal["folder", "file"]]]:
        """What is in it, of one that is `listed`."""
        inside = {} if self.tree is None else self.tree.folders.get(self._below() or "", {})
        for name, kinds in inside.items():
            for kind in kinds:
                yield self / name, kind

    def files(self) -> Iterator[Url]:
        """Every file below it, of one that is listed at its root."""
        return (self / name if name else self for name in ({} if self.tree is None else self.tree.files))

    # ------------------------------------------------------------------ contents

    def read_bytes(self) -> bytes:
        """All of it.

        Raises:
            OSError: It is not there, cannot be read, or is larger than `MOST_BYTES`.
        """
        known = None if self.tree is None else self.facts()
        if known is not None and (known.size or 0) > MOST_BYTES:
            raise self._too_large()
        with self._asked(anew=False) as (system, path):
            if self.scheme in _WEB:
                content = _first_bytes(system, path, MOST_BYTES + 1)
            else:
                content = self._all_bytes(system, path)
        if len(content) > MOST_BYTES:
            raise self._too_large()
        return content

    def _all_bytes(self, system: Any, path: str) -> bytes:
        if self.scheme in _ASKS_FIRST:
            try:
                return bytes(system.cat_file(path, start=0))
            except FileNotFoundError:
                raise
            except OSError:  # an empty object has no range; what else it is shows without one
                pass
        return bytes(system.cat_file(path))

    def _too_large(self) -> OSError:
        most = f"it has more than {MOST_BYTES >> 20:,} MB, which is the most that is read from a URL"
        return OSError(errno.EFBIG, f"{most}; copy it to this computer first", str(self))

    def read_all(self, names: Sequence[str]) -> list[bytes]:
        """The contents of objects below it, several read at a time where the store's library can.

        Raises:
            OSError: One is not there, or cannot be read.
        """
        if len(names) < 2 or set(self.path) & _PATTERN:  # lists are taken for patterns
            return [(self / name).read_bytes() for name in names]
        with self._asked(anew=False) as (system, path):
            paths = [f"{path}/{name}" for name in names]
            found = system.cat(paths)
            return [found[one] for one in paths]

    def read_text(self, encoding: str = "utf-8") -> str:
        """All of it, as text."""
        return self.read_bytes().decode(encoding)

    def open(self, mode: Literal["rb"] = "rb") -> IO[bytes]:
        """All of it, as a file in memory."""
        return io.BytesIO(self.read_bytes())

    def put(self, files: Sequence[tuple[Path, str]]) -> None:
        """Put files below it, each whole, and several at a time where the store's library can.

        Args:
            files: Each with its name below this one; "" for this one itself.

        Raises:
            OSError: One cannot be written.
        """
        if self.scheme in _WEB:
            raise OSError(errno.EROFS, "nothing can be written there", str(self))
        with self._asked(anew=False) as (system, path):
            targets = [f"{path}/{name}" if name else path for _, name in files]
            if len(files) == 1:
                system.put_file(str(files[0][0]), targets[0])
            else:
                system.put([str(file) for file, _ in files], targets)

    def put_bytes(self, content: bytes) -> None:
        """Put a few bytes.

        Raises:
            OSError: They cannot be written.
        """
        with self._asked(anew=False) as (system, path):
            system.pipe_file(path, content)

    def create(self, content: bytes) -> bool:
        """Put a few bytes unless something is there already; says whether they were put.

        Where the store cannot do that in one step, two who come at once may both believe that they did.

        Raises:
            OSError: They cannot be written.
        """
        if self.scheme in _WEB:
            raise OSError(errno.EROFS, "nothing can be written there", str(self))
        if self.is_file():
            return False
        try:
            with self._asked() as (system, path):
                try:
                    system.pipe_file(path, content, mode="create")
                except (TypeError, NotImplementedError):  # no such way
                    system.pipe_file(path, content)
        except OSError:
            if self.is_file():
                return False
            raise
        return True

    def unlink(self, missing_ok: bool = False) -> None:
        """Remove the object.

        Raises:
            OSError: It cannot be removed, or is not there.
        """
        try:
            with self._asked(anew=False) as (system, path):
                system.rm_file(path)
        except FileNotFoundError:
            if not missing_ok:
                raise

    def remove(self, names: Iterable[str]) -> None:
        """Remove objects below it, many at a time; those that are not there already are none to speak of.

        Raises:
            OSError: One cannot be removed.
        """
        plain: list[str] = []
        odd: list[str] = []
        for name in names:
            # Lists are taken for patterns: `a[1].png` would be another file.
            (odd if set(f"{self.path}/{name}") & _PATTERN else plain).append(name)
        with self._asked(anew=False) as (system, path):
            if len(plain) > 1:
                try:
                    system.rm([f"{path}/{name}" for name in plain])
                    plain = []
                except FileNotFoundError:
                    pass
        for name in (*plain, *odd):
            (self / name).unlink(missing_ok=True)

    # ------------------------------------------------------------------ the library

    @contextmanager
    def _asked(self, *, anew: bool = True) -> Iterator[tuple[Any, str]]:
        """The file system, and what the URL is called there; whatever goes wrong becomes an `OSError` in plain words.

        Args:
            anew: Whether what the library remembers of earlier listings is forgotten first.
        """
        try:
            system = _system_of(self)
            path = system._strip_protocol(f"{self.scheme}://{self.user}{self.path}{self.query}")
            if anew:
                system.invalidate_cache()
            yield system, path
        except UsageError:
            raise
        except Exception as error:
            # Not `from error`: its text may hold what is in `user` and `query`.
            raise self._in_plain_words(error) from None

    def _in_plain_words(self, error: Exception) -> Exception:
        if isinstance(error, ImportError):
            package = _package_of(self.scheme) or str(error)
            return UsageError(
                f"{self.scheme}:// needs the package {package}, which is not installed: pip install {package}"
            )
        reason = _reason(error)
        for secret in (self.user.rstrip("@"), self.query.lstrip("?")):
            reason = reason.replace(secret, "...") if secret else reason
        if isinstance(error, PermissionError):
            return OSError(errno.EACCES, f"no rights ({reason})", str(self))
        if isinstance(error, FileNotFoundError):
            gone = "there is no such bucket" if "bucket" in reason.lower() else "it does not exist"
            return OSError(errno.ENOENT, gone, str(self))
        number = error.errno if isinstance(error, OSError) else None
        return OSError(number or errno.EIO, reason, str(self))


Place: TypeAlias = Path | Url


def _system_of(url: Url) -> Any:
    """The file system of a URL; fsspec keeps those that it has made.

    Raises:
        UsageError: Nobody knows the scheme.
        ImportError: Its package is not installed.
    """
    import fsspec

    try:
        kind = fsspec.get_filesystem_class(url.scheme)
    except ValueError:
        raise UsageError(
            f"Nothing is known of {url.scheme}://, so {url} cannot be reached. Known are s3://, gs://, az:// and the "
            "other schemes of fsspec."
        ) from None
    return fsspec.filesystem(url.scheme, **kind._get_kwargs_from_urls(f"{url.scheme}://{url.user}{url.path}"))


def _package_of(scheme: str) -> str | None:
    """The package that reaches a scheme."""
    from fsspec.registry import known_implementations

    package = str(known_implementations.get(scheme, {}).get("class", "")).partition(".")[0]
    return _PACKAGES.get(scheme) or (package if package != "fsspec" else None) or None


def _strictly(system: Any) -> dict[str, Any]:
    """What keeps fsspec's own way of listing from passing over what it cannot list."""
    from fsspec.asyn import AsyncFileSystem
    from fsspec.spec import AbstractFileSystem

    kind = type(system)
    own = kind._find if isinstance(system, AsyncFileSystem) else kind.find
    usual = AsyncFileSystem._find if isinstance(system, AsyncFileSystem) else AbstractFileSystem.find
    return {"on_error": "raise"} if own is usual else {}


def _first_bytes(system: Any, path: str, most: int) -> bytes:
    """The beginning of what a web server sends: nobody but the server knows how much that is, or whether it ends."""
    parts: list[bytes] = []
    # A size that is given, whatever it is, saves asking for it.
    with system.open(path, "rb", block_size=0, size=1) as stream:
        while most > 0 and (part := stream.read(min(most, 2**20))):
            parts.append(part)
            most -= len(part)
    return b"".join(parts)


def _facts(about: Mapping[str, Any]) -> Facts:
    size = about.get("size")
    checksum = next((about[name] for name in _CHECKSUMS if about.get(name)), None)
    time = next((about[name] for name in _TIMES if about.get(name)), None)
    time = time.timestamp() if isinstance(time, datetime) else time  # listings and questions differ in the form
    return Facts(size, json.dumps([size, str(time if checksum is None else checksum)]))


def _reason(error: Exception) -> str:
    """What an error says, in one line and without secrets."""
    text = str(error) if isinstance(error, OSError) and error.errno is None else getattr(error, "strerror", None)
    first = next(iter(str(text or error).strip().splitlines()), "")
    said = redacted(first)[:_MOST_OF_A_REASON].rstrip(".")
    if isinstance(error, OSError) and said:
        return said
    return f"{type(error).__name__}: {said}" if said else type(error).__name__


def is_url(text: str) -> bool:
    """Whether a text is meant as a URL, of whatever scheme."""
    return _URL.fullmatch(text) is not None


def place(text: str | Place) -> Place:
    """What a text names. `file://` is a path of this computer; so is what lies there under the very name.

    Raises:
        UsageError: It is a URL that can name nothing.
    """
    if not isinstance(text, str):
        return text
    found = _URL.fullmatch(text)
    if found is None:
        if (chain := _CHAIN.match(text)) and not os.path.lexists(text):
            raise UsageError(f"URLs that are joined by ::, as after {chain[1]}, are not taken: name one URL alone.")
        return Path(text)
    scheme, rest = found[1].lower(), found[2]
    if scheme in _LOCAL:
        path = rest.removeprefix("localhost/") if rest.startswith("localhost/") else rest
        path = path if path.startswith("/") or path == rest else f"/{path}"
        return Path(path if os.path.lexists(path) else unquote(path))
    if not _is_known(scheme) and os.path.lexists(text):
        return Path(text)
    user, path, query = _parts(scheme, rest)
    path = path.rstrip("/")
    if not path:
        raise UsageError(f"{scheme}:// names no place: a bucket or folder has to follow.")
    if {".", ".."} & set(path.split("/")):
        raise UsageError(f"{scheme}://{path} has . or .. in it, which mean nothing in a store: write the whole path.")
    return Url(scheme, path, user, query)


def _parts(scheme: str, rest: str) -> tuple[str, str, str]:
    """What follows `://`, in three: a user with the `@` where that is a secret, the path, and what is asked for."""
    query = ""
    if scheme in _WEB:
        rest, mark, query = rest.partition("?")
        query = f"{mark}{query}"
    first = rest.partition("/")[0]
    user, at, _ = first.rpartition("@")
    if not at and not first.startswith("[") and not first.rpartition(":")[2].isdecimal() and ":" in first:
        user, at, _ = rest.partition("@")  # a password with a slash in it
        user = user if at else ""
    # A name alone is part of an address in some stores (container@account): nothing to hide.
    if not at or not (scheme in _WEB or ":" in user):
        return "", rest, query
    return f"{user}@", rest[len(user) + 1 :], query


def _is_known(scheme: str) -> bool:
    from fsspec.registry import known_implementations, registry

    return scheme in known_implementations or scheme in registry


def redacted_argument(text: str) -> str:
    """What was typed, without the secrets of a URL in it, which may be all that follows `://`."""
    found = _WITHIN.search(text)
    if found is None or found[1].lower() in _LOCAL:
        return text
    return f"{text[: found.start()]}{found[1]}://{_parts(found[1].lower(), found[2])[1]}"


def redacted(text: str) -> str:
    """A sentence without the secrets of the URLs in it: users with passwords, and what follows `?` at http.

    Nobody knows where in a sentence a URL ends that has blanks in it: what was typed is for `redacted_argument`.
    """

    def without(found: re.Match[str]) -> str:
        scheme, user, rest = found[1], found[2] or "", found[3]
        web = scheme.lower() in _WEB
        if web:
            rest = rest.partition("?")[0]
        return f"{scheme}://{'' if web or ':' in user else user}{rest}"

    return _SECRETS.sub(without, text)


def absolute(given: Place) -> Place:
    """A place whatever the current folder is: without `..`, and with links as they are."""
    return given if isinstance(given, Url) else Path(os.path.abspath(given))


def is_folder(given: Place) -> bool:
    """Whether a folder lies there; unlike pathlib, os.path answers also for a name that is too long."""
    return given.is_dir() if isinstance(given, Url) else os.path.isdir(given)


def is_file(given: Place) -> bool:
    """Whether a file lies there."""
    return given.is_file() if isinstance(given, Url) else os.path.isfile(given)


def is_there(given: Place) -> bool:
    """Whether anything lies there; a link to nothing is nothing."""
    return given.exists() if isinstance(given, Url) else os.path.exists(given)


def listed_below(folder: Place, *folders: str) -> Place:
    """A folder that is to be asked much, about some of its folders or all: what lies at a URL is listed once."""
    return folder.listed(folders or ("",)) if isinstance(folder, Url) else folder


def way(folder: Place, to: Place) -> str:
    """The way from a folder to another place, with `/`.

    Raises:
        ValueError: There is none: they are on two drives, or in two stores.
    """
    if isinstance(folder, Path) and isinstance(to, Path):
        return Path(os.path.relpath(to, folder)).as_posix()
    if isinstance(folder, Url) and isinstance(to, Url) and folder.store == to.store:
        return posixpath.relpath(to.path, folder.path)
    raise ValueError(f"there is no way from {folder} to {to}")


def folder_of_all(folders: Sequence[Place]) -> Place | None:
    """The deepest folder that holds all of these, which are absolute; None where there is none."""
    paths = [folder for folder in folders if isinstance(folder, Path)]
    urls = [folder for folder in folders if isinstance(folder, Url)]
    try:
        if paths and not urls:
            return Path(os.path.commonpath(paths))
    except ValueError:  # on several drives
        return None
    if paths or len({url.store for url in urls}) != 1:
        return None
    return replace(urls[0], path=posixpath.commonpath([url.path for url in urls]))


def real(given: Place) -> Place:
    """A place by the way that no link is on."""
    return given if isinstance(given, Url) else Path(os.path.realpath(given))


def same_or_inside(inner: Place, outer: Place) -> bool:
    """Whether a place is another one, or lies in it, whatever links lead there."""
    return real(outer) in (real(inner), *real(inner).parents)
