"""What was counted in single pictures, from which every figure over many of them follows.

A picture's record is its confusion matrix without the zeros: some dozen numbers, whatever its size and however many
classes there are. Their sum is the matrix of a data set; drawn anew with replacement, they are the bootstrap's.
"""

from __future__ import annotations

from array import array
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, overload

import numpy as np
import numpy.typing as npt

from ovseg_cli.evaluation.metrics import ratio
from ovseg_cli.files.label_names import is_background

__all__ = [
    "ClassCounts",
    "PictureCounts",
    "Pictures",
    "background_place",
    "picture_accuracy",
    "picture_class_iou",
    "picture_miou",
    "split_codes",
]

Indices = npt.NDArray[np.int32]
Pixels = npt.NDArray[np.int64]
PerClass = npt.NDArray[np.float64]


@dataclass(frozen=True, slots=True, eq=False)
class ClassCounts:
    """Pixels of the classes that occur in a picture, in ascending order of their indices.

    Attributes:
        classes: `(k,)` int32, the index of each; a class occurs in the truth, in the prediction, or in both.
        true: `(k,)` int64, its true pixels.
        predicted: `(k,)` int64, its predicted pixels.
        hit: `(k,)` int64, the pixels where both agree.
    """

    classes: Indices
    true: Pixels
    predicted: Pixels
    hit: Pixels


@dataclass(frozen=True, slots=True, eq=False)
class PictureCounts:
    """What was counted in one picture: the entries of its confusion matrix that are not 0.

    Attributes:
        key: The picture's path below its folder, without the suffix.
        true: `(m,)` int32, the true class index of each entry; entries ascend by true and then predicted class.
        predicted: `(m,)` int32, its predicted class index.
        pixels: `(m,)` int64, its pixels; at least 1.
        ignored: How many pixels were left out.
        boundary: The same three counts of each class within the bands along its outlines (see
            `ovseg_cli.evaluation.boundary`); None where they were not asked for. A class whose bands are both empty,
            as all its pixels are left out, does not occur.
    """

    key: str
    true: Indices
    predicted: Indices
    pixels: Pixels
    ignored: int = 0
    boundary: ClassCounts | None = None

    @property
    def scored(self) -> int:
        """How many pixels count."""
        return int(self.pixels.sum())

    def per_class(self) -> ClassCounts:
        """True, predicted and right pixels of each class that occurs."""
        classes, places = np.unique(np.concatenate([self.true, self.predicted]), return_inverse=True)
        rows, columns = places[: len(self.true)], places[len(self.true) :]
        true, predicted, hit = (np.zeros(len(classes), dtype=np.int64) for _ in range(3))
        np.add.at(true, rows, self.pixels)
        np.add.at(predicted, columns, self.pixels)
        right = rows == columns
        hit[rows[right]] = self.pixels[right]
        return ClassCounts(classes, true, predicted, hit)


def picture_class_iou(picture: PictureCounts, scored: slice = slice(None)) -> tuple[Indices, PerClass]:
    """Intersection over union in one picture, of the classes that occur there.

    Args:
        picture: Its record.
        scored: The class indices that are looked at, as in `ovseg_cli.evaluation.report.build_report`.

    Returns:
        The classes, `(k,)` int32, and their IoU, `(k,)` float64 in 0..1.
    """
    counts = picture.per_class()
    chosen = np.flatnonzero((counts.classes >= (scored.start or 0)) & (counts.classes < (scored.stop or np.inf)))
    union = counts.true + counts.predicted - counts.hit
    return counts.classes[chosen], (counts.hit / union)[chosen]


def picture_miou(picture: PictureCounts, scored: slice = slice(None)) -> float:
    """The mean IoU of one picture over the `scored` classes in its truth or prediction; NaN where none is.

    This mean says which pictures went wrong. The mean of it over pictures is not a data set's mIoU.
    """
    iou = picture_class_iou(picture, scored)[1]
    return float(iou.mean()) if iou.size else float("nan")


def picture_accuracy(picture: PictureCounts) -> float:
    """The share of one picture's pixels that are right; NaN where all of them are left out."""
    right = int(picture.pixels[picture.true == picture.predicted].sum())
    return float(ratio(np.array([right]), np.array([picture.scored]))[0])


def background_place(names: Sequence[str], scored: slice = slice(None)) -> int | None:
    """The index of the background among the `scored` classes; None where it is none of them."""
    return next((i for i in range(len(names))[scored] if is_background(names[i])), None)


class _Column:
    """Lists of int64 of single pictures, end to end in one array of machine integers."""

    def __init__(self) -> None:
        self.ends = array("q")
        self.values = array("q")

    def append(self, values: npt.NDArray[np.integer]) -> None:
        self.values.frombytes(values.astype(np.int64).tobytes())
        self.ends.append(len(self.values))

    def extend(self, other: _Column) -> None:
        begin = len(self.values)
        self.values.extend(other.values)
        self.ends.extend(begin + end for end in other.ends)

    def __getitem__(self, place: int) -> Pixels:
        begin = self.ends[place - 1] if place else 0
        return np.array(self.values[begin : self.ends[place]], dtype=np.int64)

    def whole(self) -> tuple[Pixels, Pixels]:
        """Every value, and the place of the list that it is from."""
        ends = np.array(self.ends, dtype=np.int64)
        return np.array(self.values, dtype=np.int64), np.repeat(np.arange(len(ends)), np.diff(ends, prepend=0))


class Pictures(Sequence[PictureCounts]):
    """The records of many pictures, packed: some hundred bytes each.

    Example:
        >>> pictures = Pictures(["background", "cat"])
        >>> pictures.append(count_pair(np.array([[0, 1]]), np.array([[0, 0]]), key="a"))
        >>> pictures.matrix().tolist(), pictures[0].key
        ([[1, 0], [1, 0]], 'a')

    Args:
        names: The names of the class indices 0, 1, 2 ...
        pictures: The records to begin with.
        scored: The class indices that means cover; None for all. Answers of the others are still wrong ones.

    Attributes:
        names: As given.
        scored: Likewise, as a slice with numbers.
        keys: The pictures' keys, in order.
    """

    def __init__(
        self, names: Sequence[str], pictures: Iterable[PictureCounts] = (), *, scored: slice | None = None
    ) -> None:
        self.names = tuple(names)
        self.scored = slice(*(scored or slice(None)).indices(len(self.names))[:2])
        self.keys: list[str] = []
        self._ignored = array("q")
        self._entries = _Column()  # true << 32 | predicted, pixels, and so on in turn
        self._boundary: _Column | None = None  # class, true, predicted, hit, and so on in turn
        for picture in pictures:
            self.append(picture)

    def append(self, picture: PictureCounts) -> None:
        """Add one record.

        Raises:
            ValueError: It has boundary counts and those before have none, or the other way round.
        """
        if not self.keys and picture.boundary is not None:
            self._boundary = _Column()
        if (self._boundary is None) != (picture.boundary is None):
            raise ValueError(f"{picture.key}: either all records have boundary counts or none has")
        self.keys.append(picture.key)
        self._ignored.append(picture.ignored)
        codes = picture.true.astype(np.int64) << 32 | picture.predicted
        self._entries.append(np.stack([codes, picture.pixels], axis=1).ravel())
        if self._boundary is not None and (bands := picture.boundary) is not None:
            self._boundary.append(np.stack([bands.classes, bands.true, bands.predicted, bands.hit], axis=1).ravel())

    def extend(self, other: Pictures) -> None:
        """Add the records of another collection, which must have boundary counts where this one has.

        Raises:
            ValueError: Only one of the two has them.
        """
        if not other.keys:
            return
        if not self.keys and other._boundary is not None:
            self._boundary = _Column()
        if (self._boundary is None) != (other._boundary is None):
            raise ValueError("either all records have boundary counts or none has")
        self.keys.extend(other.keys)
        self._ignored.extend(other._ignored)
        self._entries.extend(other._entries)
        if self._boundary is not None and other._boundary is not None:
            self._boundary.extend(other._boundary)

    @overload
    def __getitem__(self, place: int) -> PictureCounts: ...
    @overload
    def __getitem__(self, place: slice) -> Pictures: ...
    def __getitem__(self, place: int | slice) -> PictureCounts | Pictures:
        if isinstance(place, slice):
            return Pictures(self.names, (self[i] for i in range(len(self))[place]), scored=self.scored)
        place = range(len(self))[place]
        codes, pixels = self._entries[place].reshape(-1, 2).T
        bands = None
        if self._boundary is not None:
            classes, *counts = self._boundary[place].reshape(-1, 4).T
            bands = ClassCounts(classes.astype(np.int32), *counts)
        true, predicted = split_codes(codes)
        return PictureCounts(self.keys[place], true, predicted, pixels, self._ignored[place], bands)

    def __iter__(self) -> Iterator[PictureCounts]:
        return (self[i] for i in range(len(self)))

    def __len__(self) -> int:
        return len(self.keys)

    def __repr__(self) -> str:
        return f"Pictures({len(self)} records of {len(self.names)} classes)"

    @property
    def background(self) -> int | None:
        """The index of the background, where it is one of the scored classes."""
        return background_place(self.names, self.scored)

    @property
    def ignored(self) -> int:
        """How many pixels were left out in all."""
        return sum(self._ignored)

    @property
    def nbytes(self) -> int:
        """Bytes of the packed numbers, without the keys."""
        columns = [self._entries, *([] if self._boundary is None else [self._boundary])]
        arrays = [self._ignored, *(part for column in columns for part in (column.ends, column.values))]
        return sum(len(part) * part.itemsize for part in arrays)

    def entries(self) -> tuple[Pixels, Indices, Indices, Pixels]:
        """All entries of all records, in order.

        Returns:
            Four arrays of one length: the place of the record (int64), the true and the predicted class index (int32),
            the pixels (int64).
        """
        values, owner = self._entries.whole()
        codes, pixels = values.reshape(-1, 2).T
        return (owner[::2], *split_codes(codes), pixels)

    def boundary_entries(self) -> tuple[Pixels, ClassCounts] | None:
        """All boundary counts of all records, in order: the place of the record, `(n,)`, and the counts; or None."""
        if self._boundary is None:
            return None
        values, owner = self._boundary.whole()
        classes, *counts = values.reshape(-1, 4).T
        return owner[::4], ClassCounts(classes.astype(np.int32), *counts)

    def matrix(self) -> Pixels:
        """The confusion matrix over all pictures, `(C, C)` int64 of the C `names`, ground truth in rows."""
        _, true, predicted, pixels = self.entries()
        matrix = np.zeros((len(self.names),) * 2, dtype=np.int64)
        np.add.at(matrix, (true, predicted), pixels)
        return matrix

    def bands(self) -> Pixels | None:
        """True, predicted and right pixels along the outlines of the C `names` in all: `(3, C)`; or None."""
        found = self.boundary_entries()
        if found is None:
            return None
        _, counts = found
        totals = np.zeros((3, len(self.names)), dtype=np.int64)
        for row, pixels in zip(totals, (counts.true, counts.predicted, counts.hit), strict=True):
            np.add.at(row, counts.classes, pixels)
        return totals

    def to_dict(self) -> dict[str, Any]:
        """The records as JSON-able data, from which `from_dict` makes them again.

        `entries` holds one list per picture: true class, predicted class, pixels, and so on in turn.
        """
        data: dict[str, Any] = {"names": list(self.names), "scored": [self.scored.start, self.scored.stop]}
        data |= {"keys": self.keys, "ignored": self._ignored.tolist()}
        data["entries"] = [
            np.stack([picture.true, picture.predicted, picture.pixels], axis=1).ravel().tolist() for picture in self
        ]
        if self._boundary is not None:
            data["boundary"] = [self._boundary[i].tolist() for i in range(len(self))]
        return data

    @classmethod
    def from_dict(cls, data: dict[str, Any]) -> Pictures:
        """Records from the data of `to_dict`.

        Raises:
            ValueError: The data have another form.
        """
        try:
            pictures = cls([str(name) for name in data["names"]], scored=slice(*data["scored"]))
            bands = data.get("boundary", [None] * len(data["keys"]))
            for key, ignored, entries, band in zip(data["keys"], data["ignored"], data["entries"], bands, strict=True):
                true, predicted, pixels = np.array(entries, dtype=np.int64).reshape(-1, 3).T
                counts = None
                if band is not None:
                    classes, *numbers = np.array(band, dtype=np.int64).reshape(-1, 4).T
                    counts = ClassCounts(classes.astype(np.int32), *numbers)
                ids = true.astype(np.int32), predicted.astype(np.int32)
                pictures.append(PictureCounts(str(key), *ids, pixels, int(ignored), counts))
        except (KeyError, TypeError) as error:
            raise ValueError(f"not the records of pictures: {error}") from error
        return pictures


def split_codes(codes: Pixels) -> tuple[Indices, Indices]:
    """True and predicted class indices, int32 each, of numbers `true << 32 | predicted`."""
    return (codes >> 32).astype(np.int32), (codes & 0xFFFFFFFF).astype(np.int32)
