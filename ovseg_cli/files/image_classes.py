"""Files of image-level labels: which classes each picture shows, one picture per line.

::

    # comment
    street/0001.jpg: person; car
    street/0002.jpg: car
    street/0003.jpg:

What stands before the last colon of a line names a picture by the end of its path: from the input folder on
("street/0001.jpg"), more of it, or the file name where that is unique; with or without the suffix. Classes are
separated by semicolons or commas. A picture without any shows none of them.
"""

from __future__ import annotations

import hashlib
import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path, PurePosixPath

from ovseg_cli.errors import ClassNameError, UsageError
from ovseg_cli.files.discovery import InputImage, natural_key
from ovseg_cli.files.text import read_text
from ovseg_cli.names import ClassList, did_you_mean, listed, normalise_class_name, shown_name
from ovseg_cli.urls import absolute

_MOST_NAMED = 3


@dataclass(frozen=True, slots=True)
class ImageLine:
    """What one line says.

    Attributes:
        number: Of the line in the file, counted from 1.
        picture: Names a picture, see `ImageClasses.match`.
        classes: The classes that it shows; empty for none.
    """

    number: int
    picture: str
    classes: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class ImageMatches:
    """The lines of a file beside the pictures of a run.

    Attributes:
        lines: For each picture the line that names it; None where none does.
        strays: The lines that name no picture, in the order of the file.
    """

    lines: tuple[ImageLine | None, ...]
    strays: tuple[ImageLine, ...]


@dataclass(frozen=True, slots=True)
class ImageClasses:
    """A file of image-level labels.

    Attributes:
        path: The file.
        digest: SHA-256 of its text in UTF-8, without a byte order mark and with line feeds.
        lines: What it says, in its order.
    """

    path: Path
    digest: str
    lines: tuple[ImageLine, ...]

    @property
    def classes(self) -> tuple[str, ...]:
        """All classes of the file, each once, in natural order: so it does not matter in which order lines stand."""
        return tuple(sorted(ClassList.distinct(name for line in self.lines for name in line.classes), key=natural_key))

    def line_of(self, name: str) -> int:
        """The number of the first line that has this class, which one of them must have."""
        return next(line.number for line in self.lines if name in ClassList(line.classes))

    def among(self, classes: Sequence[str]) -> ImageClasses:
        """The same, with each picture's classes in the spelling and the order of these.

        Raises:
            UsageError: A line has another class.
        """
        known = ClassList(classes)
        lines = []
        for line in self.lines:
            for name in known.lacking(line.classes):
                raise UsageError(
                    f"{self.path}, line {line.number}: {shown_name(name)} is not among the classes of this run "
                    f"({known.listed()}).{did_you_mean(name, known)} Name it with --classes too, or take it out of "
                    "the file."
                )
            lines.append(replace(line, classes=known.only(line.classes).names))
        return replace(self, lines=tuple(lines))

    def match(self, images: Sequence[InputImage]) -> ImageMatches:
        """Find out which picture each line names.

        The path below the folder that all inputs share comes first, with its suffix or without; then the end of any
        picture's path. Composed and decomposed letters are the same (file systems change the one into the other).

        Args:
            images: All pictures of a run.

        Raises:
            UsageError: A line names several pictures, several lines name one, or no line names any.
        """
        known = _Names(images)
        owners: dict[int, ImageLine] = {}
        strays = []
        for line in self.lines:
            found = known.named(line.picture)
            if not found:
                strays.append(line)
                continue
            if len(found) > 1:
                several = listed([str(images[i].path) for i in found], most=_MOST_NAMED)
                raise UsageError(
                    f"{self.path}, line {line.number}: {line.picture!r} may be {several}. Write more of the path, or "
                    "the suffix."
                )
            earlier = owners.setdefault(found[0], line)
            if earlier is not line:
                raise UsageError(
                    f"{self.path}, line {line.number}: {images[found[0]].path} is in line {earlier.number} already; "
                    "join the two."
                )
        if not owners:
            raise UsageError(
                f"{self.path} names no picture of this run. Lines are written PICTURE: CLASS; CLASS with the "
                f"picture's path in the input folder, such as {_relative(images[0])}: cat; dog"
            )
        return ImageMatches(tuple(owners.get(i) for i in range(len(images))), tuple(strays))


def read_image_classes(path: str | Path) -> ImageClasses:
    """Read a file of image-level labels. Blank lines and lines that begin with ``#`` are skipped.

    Args:
        path: A UTF-8 text file, with or without a byte order mark; lines may end as on any system.

    Returns:
        Its lines, at least one, with the names of classes as they are stored.

    Raises:
        UsageError: The file is missing, not text, or empty; or a line has no colon, or no picture before it.
        ClassNameError: A line has a name that no class can have. Both name the file and the line.
    """
    path = Path(path)
    text = read_text(path, "file of image classes", UsageError)
    lines = []
    # Only line feeds end lines: str.splitlines knows ten more.
    for number, line in enumerate(text.split("\n"), start=1):
        if line.strip() and not line.lstrip().startswith("#"):
            lines.append(_parsed(path, number, line.strip()))
    if not lines:
        raise UsageError(f"{path} names no picture; write one per line, such as: photo.jpg: cat; dog")
    return ImageClasses(path, hashlib.sha256(text.encode()).hexdigest(), tuple(lines))


def _parsed(path: Path, number: int, line: str) -> ImageLine:
    # The last colon: times and drives put colons into paths, and hardly anything puts one into the name of a class.
    picture, colon, listed = line.rpartition(":")
    if not colon or not picture.strip():
        raise UsageError(f"{path}, line {number}: {shown_name(line)} is not written PICTURE: CLASS; CLASS.")
    names: list[str] = []
    for word in listed.replace(",", ";").split(";"):
        if word.strip():
            try:
                names.append(normalise_class_name(word, stored=False))
            except ClassNameError as error:
                raise ClassNameError(f"{path}, line {number}: {error}") from error
    return ImageLine(number, picture.strip(), ClassList.distinct(names).names)


class _Names:
    """Pictures by what they may be called."""

    def __init__(self, images: Sequence[InputImage]) -> None:
        self._whole = [_parts(str(absolute(image.path))) for image in images]
        relative = [_parts(str(_relative(image))) for image in images]
        self._relative: dict[tuple[str, ...], list[int]] = {}
        self._stems: dict[tuple[str, ...], list[int]] = {}
        self._by_name: dict[str, list[int]] = {}
        for i, parts in enumerate(relative):
            self._relative.setdefault(parts, []).append(i)
            self._stems.setdefault(_without_suffix(parts), []).append(i)
            # A name without suffix is its own stem, and is still one picture.
            for name in {parts[-1], _without_suffix(parts)[-1]}:
                self._by_name.setdefault(name, []).append(i)

    def named(self, picture: str) -> list[int]:
        """The pictures that a line may mean, by the nearest of the ways to name one."""
        parts = _parts(picture)
        if not parts:
            return []
        return self._relative.get(parts) or self._stems.get(parts) or self._ending(parts)

    def _ending(self, parts: tuple[str, ...]) -> list[int]:
        near = self._by_name.get(parts[-1], [])
        ends = [i for i in near if self._whole[i][-len(parts) :] == parts]
        return ends or [i for i in near if _without_suffix(self._whole[i])[-len(parts) :] == parts]


def _parts(path: str) -> tuple[str, ...]:
    """A path part by part, in one normal form, whichever system wrote it."""
    return PurePosixPath(unicodedata.normalize("NFC", path).replace("\\", "/")).parts


def _without_suffix(parts: tuple[str, ...]) -> tuple[str, ...]:
    return *parts[:-1], PurePosixPath(parts[-1]).stem


def _relative(image: InputImage) -> PurePosixPath:
    """The path of a picture below the folder that all inputs share, with its suffix."""
    return image.key.with_name(image.path.name)
