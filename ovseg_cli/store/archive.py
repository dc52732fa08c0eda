"""A zip archive as a plain container: written the same way every time, and read without trusting a byte of it.

Members are stored, not compressed: pictures are compressed already and vectors hardly can be. So no member is larger
than the file that it comes in, and there is nothing that could blow up while it is unpacked. Nothing is ever
unpacked to the disk either; names only tell the members apart.
"""

from __future__ import annotations

import stat
import struct
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType
from typing import BinaryIO, Self

from ovseg_cli.atomic import atomic_path
from ovseg_cli.errors import BundleError
from ovseg_cli.files.text import special_kind

MAX_BYTES = 2**31 - 1
"""Largest archive: what fits without the Zip64 extension."""

MAX_MEMBERS = 60_000
"""Most members; the plain format has room for 65535."""

_MAX_DIRECTORY = 8 * 2**20  # bytes of the list of members, which is read as a whole
_END = struct.Struct("<4s4H2LH")  # the end record of an archive without a comment
_ZIP64_LOCATOR = b"PK\x06\x07"
_ZIP64_LOCATOR_SIZE = 20
_ENCRYPTED = 0x1


class ArchiveWriter:
    """Takes members one by one; make one with `write_archive`."""

    def __init__(self, archive: zipfile.ZipFile, path: Path) -> None:
        self._archive = archive
        self._path = path
        self._members = self._nbytes = 0

    def add(self, name: str, data: bytes) -> None:
        """Write a member.

        Raises:
            BundleError: If the archive would get larger than `MAX_BYTES`, or more members than `MAX_MEMBERS`.
            OSError: If the disk refuses.
        """
        self._members += 1
        self._nbytes += len(data) + 256  # its headers with room to spare
        if self._members > MAX_MEMBERS or self._nbytes > MAX_BYTES:
            raise BundleError(
                f"{self._path} would hold more than {MAX_MEMBERS} members or {MAX_BYTES / 1e9:.1f} GB: "
                "put the classes into several files, or scale the support images down further"
            )
        # A fixed time, system and mode: the same content gives the same bytes.
        entry = zipfile.ZipInfo(name, (1980, 1, 1, 0, 0, 0))
        entry.create_system = 3
        entry.external_attr = (stat.S_IFREG | 0o644) << 16
        self._archive.writestr(entry, data)


@contextmanager
def write_archive(path: Path) -> Iterator[ArchiveWriter]:
    """Write an archive as a whole: it is in place at the end of the block, or not at all.

    Raises:
        DiskFullError: If no space is left.
        OutputError: If the file cannot be written.
    """
    with (
        atomic_path(path) as temporary,
        zipfile.ZipFile(temporary, "w", zipfile.ZIP_STORED, allowZip64=False) as archive,
    ):
        yield ArchiveWriter(archive, path)


class ArchiveReader:
    """An archive from anywhere, open for reading; best in a `with` statement.

    Args:
        path: The file.

    Raises:
        BundleError: If it is not there, not a zip archive, truncated, encrypted, compressed, too large, or has
            members that are no plain files or share a name.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        if (kind := special_kind(path)) is not None:
            raise BundleError(f"{path} is {kind}; save it as a file")
        try:
            self._file: BinaryIO = path.open("rb")
        except OSError as error:
            raise BundleError(f"{path} cannot be read: {error.strerror}; check the path") from error
        try:
            self._check_end()
            self._archive = zipfile.ZipFile(self._file)
            self._entries = self._checked_entries()
        except BaseException as error:
            self._file.close()
            if isinstance(error, _DAMAGE):
                raise self._unfit(f"it is damaged or no zip archive: {error}") from error
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Let go of the file."""
        self._archive.close()
        self._file.close()

    @property
    def names(self) -> frozenset[str]:
        """The names of all members."""
        return frozenset(self._entries)

    def size(self, name: str) -> int:
        """Bytes of a member as the archive declares them."""
        return self._entries[name].file_size

    def read(self, name: str, most: int) -> bytes:
        """Read a member.

        Args:
            name: One of `names`.
            most: How many bytes it may have.

        Raises:
            BundleError: If it is larger or damaged.
        """
        if self.size(name) > most:
            raise self._unfit(f"{name!r} has {self.size(name)} bytes, and at most {most} are allowed")
        try:
            return self._archive.read(name)
        except _DAMAGE as error:
            raise self._unfit(f"{name!r} is damaged: {error}") from error

    def _check_end(self) -> None:
        """Look at the end record before `zipfile` does, which reads a list of members of any length."""
        length = self._file.seek(0, 2)
        if length < _END.size:
            raise self._unfit("it is too short to be a zip archive")
        self._file.seek(max(0, length - _END.size - _ZIP64_LOCATOR_SIZE))
        tail = self._file.read()
        signature, *_, members, directory, _start, comment = _END.unpack(tail[-_END.size :])
        if signature != b"PK\x05\x06" or comment:
            raise self._unfit("it is no zip archive, or its end is missing")
        if tail.startswith(_ZIP64_LOCATOR) or length > MAX_BYTES:
            raise self._unfit(f"it is larger than {MAX_BYTES / 1e9:.1f} GB, or says so")
        if members > MAX_MEMBERS or directory > _MAX_DIRECTORY:
            raise self._unfit(f"it has more than {MAX_MEMBERS} members")

    def _checked_entries(self) -> dict[str, zipfile.ZipInfo]:
        entries: dict[str, zipfile.ZipInfo] = {}
        for entry in self._archive.infolist():
            kind = stat.S_IFMT(entry.external_attr >> 16)
            # `orig_filename` is the name before zipfile cuts it at a NUL or turns backslashes.
            name = entry.orig_filename
            if entry.flag_bits & _ENCRYPTED:
                raise self._unfit("it is encrypted")
            if entry.compress_type != zipfile.ZIP_STORED or entry.compress_size != entry.file_size:
                raise self._unfit("it is compressed, which `ovseg export-class` never does")
            if entry.is_dir() or kind not in (0, stat.S_IFREG) or name != entry.filename:
                raise self._unfit(f"{name!r} is not a plain file")
            if name in entries:
                raise self._unfit(f"it has two members {name!r}")
            entries[name] = entry
        if len(entries) > MAX_MEMBERS or sum(entry.file_size for entry in entries.values()) > MAX_BYTES:
            raise self._unfit("its members overlap, or there are too many")
        return entries

    def _unfit(self, reason: str) -> BundleError:
        return unfit(self.path, reason)


def unfit(path: Path, reason: str) -> BundleError:
    """Make the error for a file that nothing is taken from."""
    return BundleError(
        f"{path} cannot be imported, and nothing of it was ({reason}): export the classes again with "
        "`ovseg export-class`, or ask for another copy of the file"
    )


# What zipfile raises about archives that are not as they should be, the disk's own errors included.
_DAMAGE = (
    zipfile.BadZipFile,
    OSError,
    EOFError,
    ValueError,
    NotImplementedError,
    RuntimeError,
    struct.error,
    IndexError,
    KeyError,
    OverflowError,
    MemoryError,
)
