"""What every format of export has in common."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, ClassVar

import numpy as np
import numpy.typing as npt

from ovseg_cli.exports.source import Ids, Picture, Source

__all__ = ["Add", "Exporter", "Options", "Region", "opened", "regions"]

Add = Callable[[Picture, Ids], None]
"""Takes one picture with its label map, (H, W)."""

_TOUCHING = np.ones((3, 3), dtype=np.bool_)


@dataclass(frozen=True, slots=True, kw_only=True)
class Options:
    """How it is exported, as far as a format has the choice.

    Attributes:
        parts: Whether each connected part of a class is an object, rather than all of the class in a picture.
        copy: Whether pictures are copied, rather than linked to.
        empty: Whether there is a file for each class also where a picture does not show it.
    """

    parts: bool = False
    copy: bool = False
    empty: bool = False


class Exporter(ABC):
    """One format.

    Attributes:
        target: What its file or folder is called where nobody names it.
        folder: Whether it is a folder.
        takes: The fields of `Options` that change what it writes.
        version: Raised when the same label maps give other files than before.
    """

    target: ClassVar[str]
    folder: ClassVar[bool] = True
    takes: ClassVar[tuple[str, ...]] = ()
    version: ClassVar[int] = 1

    def ready(self) -> None:
        """Refuse where a library is missing.

        Raises:
            UsageError: So it is.
        """
        return

    def check(self, source: Source) -> None:
        """Refuse what cannot be exported, before anything is written.

        Raises:
            UsageError: So it is.
        """
        return

    @abstractmethod
    def open(self, place: Path, source: Source, options: Options) -> AbstractContextManager[Add]:
        """Begin to write; the files are complete when the block ends.

        Args:
            place: The file, or the folder, which is there and empty.
            source: What is exported.
            options: How.
        """


@dataclass(frozen=True, slots=True, eq=False)
class Region:
    """Pixels of one class, cut out of a label map.

    Attributes:
        label: The id of the class.
        top: First row.
        left: First column.
        mask: bool (h, w), without empty rows and columns at its borders.
    """

    label: int
    top: int
    left: int
    mask: npt.NDArray[np.bool_]

    @property
    def area(self) -> int:
        """How many pixels."""
        return int(np.count_nonzero(self.mask))

    @property
    def box(self) -> list[int]:
        """Left, top, width and height."""
        return [self.left, self.top, self.mask.shape[1], self.mask.shape[0]]

    def within(self, size: tuple[int, int]) -> npt.NDArray[np.bool_]:
        """The mask in a picture of (height, width)."""
        whole = np.zeros(size, dtype=np.bool_)
        whole[self.top : self.top + self.mask.shape[0], self.left : self.left + self.mask.shape[1]] = self.mask
        return whole


def regions(ids: Ids, source: Source, *, parts: bool = False) -> Iterator[Region]:
    """The classes of a label map, in the order of their ids.

    Args:
        ids: (H, W).
        source: Says which ids are classes.
        parts: Whether each connected part comes by itself; pixels that touch at a corner are connected.
    """
    from scipy import ndimage

    classes = {i for i, _ in source.classes}
    shifted = ids.astype(np.int32) + 1  # 0 is nothing to what finds boxes, and may be a class
    for label, box in enumerate(ndimage.find_objects(shifted)):
        if box is None or label not in classes:
            continue
        mask = shifted[box] == label + 1
        rows, columns = box
        if not parts:
            yield Region(label, rows.start, columns.start, mask)
            continue
        numbered, _ = ndimage.label(mask, structure=_TOUCHING)
        for number, inner in enumerate(ndimage.find_objects(numbered), start=1):
            down, right = inner
            yield Region(label, rows.start + down.start, columns.start + right.start, numbered[inner] == number)


@contextmanager
def opened(path: Path) -> Iterator[IO[str]]:
    """Open a text file for writing, as UTF-8 whatever names are made of (see `ovseg_cli.atomic.write_text`)."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", encoding="utf-8", errors="backslashreplace", newline="\n") as file:
        yield file
