"""Writing files so that a reader sees either the old content or the whole new one, never a part.

Everything is written to a hidden temporary file in the target's own folder, flushed to the disk and
then renamed over the target. An exception, Ctrl-C included, removes the temporary file; that of a process
that was killed is removed by the next one that writes into the folder.

What goes to a URL is written to a temporary file of this computer, and put there as a whole.
"""

from __future__ import annotations

import contextlib
import errno
import json
import os
import re
import secrets
import shutil
import stat
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ovseg_cli.errors import DiskFullError, OutputError, OvsegError
from ovseg_cli.urls import Place, Url, place

if TYPE_CHECKING:
    from PIL import Image

__all__ = [
    "TEMPORARY_PREFIX",
    "atomic_folder",
    "atomic_path",
    "make_folder",
    "staged",
    "sweep_folders",
    "write_image",
    "write_json",
    "write_text",
]

TEMPORARY_PREFIX = ".ovseg-"
"""How the name of a temporary file begins. The dot keeps a leftover out of every folder listing."""

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None  # type: ignore[assignment]

_TEMPORARY = re.compile(rf"{re.escape(TEMPORARY_PREFIX)}[0-9a-f]{{16}}(\.[^.]+)?")
_swept: set[Path] = set()
_FOLDER_PARTS = (".new", ".old")

# EDQUOT is unknown on Windows.
_FULL = (errno.ENOSPC, getattr(errno, "EDQUOT", errno.ENOSPC))
_ADVICE = {
    errno.EACCES: "Check the permissions of the folder, or choose another place.",
    errno.EPERM: "Check the permissions of the folder, or choose another place.",
    errno.EROFS: "It lies on a read-only file system; choose another place.",
    errno.ENOTDIR: "A part of the path is a file where a folder is needed; choose another place.",
    errno.EEXIST: "A file of that name stands where a folder is needed; move it or choose another place.",
    errno.EISDIR: "A folder of that name is in the way; remove it or choose another name.",
    errno.ENAMETOOLONG: "The name is too long for this file system; choose a shorter one.",
}


_ADVICE_AT_URLS = {
    errno.EACCES: "Check the rights there, and which credentials this computer has for it.",
    errno.ENOENT: "Check its spelling, or make it first.",
    errno.EROFS: "Name a store such as s3://, or a folder.",
}


def _as_ovseg_error(error: OSError, target: Place) -> OvsegError:
    """Say what a failed write of `target` means for the person who asked for it."""
    if error.errno in _FULL and isinstance(target, Url) and error.filename != str(target):
        return DiskFullError(
            f"No space left for temporary files on this computer while writing {target}. Free some, or name another "
            "folder for them in TMPDIR, then run the same command again."
        )
    if error.errno in _FULL:
        return DiskFullError(
            f"No space left on the disk while writing {target}. "
            "Free some space or choose another place, then run the same command again."
        )
    if isinstance(target, Url):
        goes_on = "Check the network, then run the same command again: what is done stays done."
        advice = _ADVICE_AT_URLS.get(error.errno or 0, goes_on)
    else:
        advice = _ADVICE.get(error.errno or 0, "Check the disk, or choose another place.")
    return OutputError(f"Cannot write {target}: {error.strerror or error}. {advice}")


@contextlib.contextmanager
def _translated(target: Place, *own: Place) -> Iterator[None]:
    """Turn the OSErrors of writing `target` into ours, and let those about other files pass."""
    try:
        yield
    except BrokenPipeError:
        raise
    except OSError as error:
        foreign = error.filename is not None and not _is_about(os.fsdecode(error.filename), target, *own)
        # Without a number it is not the system that speaks (an image encoder, say).
        if error.errno is None or foreign:
            raise
        raise _as_ovseg_error(error, target) from error


def _is_about(name: str, *places: Place) -> bool:
    return any(name == str(one) if isinstance(one, Url) else Path(name) == one for one in places)


def make_folder(folder: Place) -> None:
    """Create `folder` and its parents where they are missing; at a URL none is needed.

    Raises:
        OutputError: It cannot be created (permissions, a file in the way).
        DiskFullError: No space is left.
    """
    if isinstance(folder, Url):
        return
    with _translated(folder, *folder.parents):
        missing = [folder]
        # One by one: pathlib goes up by recursion, which ends at some thousand folders.
        while not os.path.isdir(missing[-1].parent) and missing[-1].parent != missing[-1]:
            missing.append(missing[-1].parent)
        for path in reversed(missing):
            path.mkdir(exist_ok=True)


@contextlib.contextmanager
def staged(folder: Place) -> Iterator[Path]:
    """Give a folder to write files into that belong into `folder`: itself, or a temporary one for what lies at a URL.

    What is in the latter when the block ends without an error is put there, several files at a time.

    Raises:
        OutputError: It cannot be put there.
    """
    if isinstance(folder, Path):
        yield folder
        return
    with tempfile.TemporaryDirectory(prefix="ovseg-") as temporary:
        yield Path(temporary)
        _put_all(Path(temporary), folder)


def _put_all(temporary: Path, folder: Url) -> list[str]:
    """Put the files of a folder below a URL, those at its top last; gives their names there."""
    names = [path.relative_to(temporary).as_posix() for path in temporary.rglob("*") if path.is_file()]
    names.sort(key=lambda name: ("/" not in name, name))
    with _translated(folder):
        for part in ([name for name in names if "/" in name], [name for name in names if "/" not in name]):
            if part:
                folder.put([(temporary / name, name) for name in part])
    return names


@contextlib.contextmanager
def atomic_path(target: str | Place) -> Iterator[Path]:
    """Give a temporary path to write to; it becomes `target` when the block ends without an error.

    The parent folder is created when it is missing. The temporary file lies in the same folder (a
    rename is atomic only within one file system), keeps the suffix of the target, and has the
    permissions that the umask asks for. A symbolic link is followed, so it stays a link. A target that
    is not a file or folder (a pipe, `/dev/stdout`) is written directly. What is to stand at a URL is put there whole.

    Args:
        target: Where the content shall stand.

    Yields:
        The path of an empty file to write to.

    Raises:
        DiskFullError: No space is left on the disk.
        OutputError: The folder cannot be written, or something stands in the way.
    """
    target = place(target)
    if isinstance(target, Url):
        with tempfile.TemporaryDirectory(prefix="ovseg-") as folder:
            local = Path(folder, f"file{target.suffix}")
            local.touch()
            with _translated(target, local):
                yield local
                target.put([(local, "")])
        return
    # os.path, unlike pathlib, answers False also for a name that is too long.
    if os.path.exists(target) and not os.path.isfile(target) and not os.path.isdir(target):
        with _translated(target):
            yield target
        return
    final = Path(os.path.realpath(target))
    make_folder(final.parent)
    _sweep(final.parent)
    temporary = final.with_name(f"{TEMPORARY_PREFIX}{secrets.token_hex(8)}{final.suffix}")
    with _translated(target, final, temporary):
        if final.is_dir():
            raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), str(final))
        try:
            with _own_file(temporary):
                yield temporary
                _flush(temporary)
                os.replace(temporary, final)
        except BaseException:
            temporary.unlink(missing_ok=True)
            raise


@contextlib.contextmanager
def atomic_folder(target: str | Place) -> Iterator[Path]:
    """Give a temporary folder to fill; it becomes `target` when the block ends without an error.

    A folder that stands there is taken away then. For the instant between there is none; if it ends there, both are
    left under hidden names. At a URL its files are put one after another, those at its top last, and then what else
    stood there is removed.

    Args:
        target: Where the folder shall stand.

    Yields:
        An empty folder beside it.

    Raises:
        DiskFullError: No space is left on the disk.
        OutputError: It cannot be written, or a file stands in the way.
    """
    target = place(target)
    if isinstance(target, Url):
        with tempfile.TemporaryDirectory(prefix="ovseg-") as folder, _translated(target):
            yield Path(folder)
            standing = [str(path.relative_to(target)) for path in target.listed().files()]
            put = set(_put_all(Path(folder), target))
            target.remove(name for name in standing if name not in put)
        return
    final = Path(os.path.realpath(target))
    make_folder(final.parent)
    temporary, old = (final.with_name(f"{TEMPORARY_PREFIX}{secrets.token_hex(8)}{part}") for part in _FOLDER_PARTS)
    with _translated(target, final, temporary, old):
        try:
            temporary.mkdir()
            yield temporary
            if hasattr(os, "sync"):  # once for all of its files, before the rename
                os.sync()
            if os.path.lexists(final):
                os.replace(final, old)
            os.replace(temporary, final)
        except BaseException:
            shutil.rmtree(temporary, ignore_errors=True)
            raise
        shutil.rmtree(old, ignore_errors=True)


def sweep_folders(folder: Place) -> None:
    """Remove what killed writers of `atomic_folder` have left in a folder; to be asked by its only writer.

    Args:
        folder: Where to look; it need not be there.
    """
    if isinstance(folder, Url):
        return  # they are on the computer of the writer
    for path in folder.glob(f"{TEMPORARY_PREFIX}*"):
        if _TEMPORARY.fullmatch(path.name) and path.suffix in _FOLDER_PARTS and not path.is_symlink():
            shutil.rmtree(path, ignore_errors=True)


@contextlib.contextmanager
def _own_file(path: Path) -> Iterator[None]:
    """Make a file, and hold a lock on it: whoever gets the lock of such a file knows that its writer is dead."""
    while True:
        # Unlike tempfile.mkstemp, which makes private files, this respects the umask.
        descriptor = os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o666)
        if fcntl is None:  # an open file cannot be renamed there
            os.close(descriptor)
            yield
            return
        try:
            with contextlib.suppress(
                OSError
            ):  # a file system without locks: nobody gets one there, so nothing is swept
                fcntl.flock(descriptor, fcntl.LOCK_EX)
            if os.fstat(descriptor).st_nlink == 0:  # swept in the instant before it was locked
                continue
            yield
            return
        finally:
            os.close(descriptor)


def _sweep(folder: Path) -> None:
    """Remove temporary files whose writer was killed; once per folder and process."""
    if fcntl is None or folder in _swept:
        return
    _swept.add(folder)
    with contextlib.suppress(OSError):
        for name in filter(_TEMPORARY.fullmatch, os.listdir(folder)):
            with contextlib.suppress(OSError):
                _remove_abandoned(folder / name)


def _remove_abandoned(path: Path) -> None:
    """Remove a temporary file unless somebody writes it.

    Raises:
        OSError: It is written, or is no file (a link is none).
    """
    descriptor = os.open(path, os.O_RDWR | os.O_NOFOLLOW | os.O_NONBLOCK)
    try:
        if stat.S_ISREG(os.fstat(descriptor).st_mode):
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            path.unlink()
    finally:
        os.close(descriptor)


def _flush(path: Path) -> None:
    """Wait until the content is on the disk: a rename may otherwise reach it before the bytes do."""
    descriptor = os.open(path, os.O_RDWR)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def write_text(target: str | Place, text: str) -> None:
    r"""Write `text` as UTF-8 with its line ends as they are.

    File names that are not valid Unicode (Python's surrogate escapes) appear as ``\udcXX``, which in
    JSON is the same character's escape, so that no odd file name can stop a report.

    Raises:
        DiskFullError: No space is left on the disk.
        OutputError: The file cannot be written.
    """
    with atomic_path(target) as path:
        path.write_bytes(text.encode("utf-8", "backslashreplace"))


def write_json(target: str | Place, data: Any) -> None:
    """Write `data` as indented JSON with a final newline, in the order of its keys.

    Raises:
        ValueError: `data` holds NaN or infinity, which JSON does not know.
        TypeError: `data` holds something that JSON cannot express.
        DiskFullError: No space is left on the disk.
        OutputError: The file cannot be written.
    """
    write_text(target, json.dumps(data, ensure_ascii=False, allow_nan=False, indent=2) + "\n")


def write_image(target: str | Place, image: Image.Image, **options: Any) -> None:
    """Save `image` in the format that the suffix of `target` names.

    Args:
        target: The file to write.
        image: The picture.
        **options: Handed to `PIL.Image.Image.save` (`quality`, `compress_level` ...).

    Raises:
        ValueError: The suffix names no format that Pillow writes.
        DiskFullError: No space is left on the disk.
        OutputError: The file cannot be written.
    """
    with atomic_path(target) as path:
        image.save(path, **options)
