"""The loop that counts pairs of label maps, for whatever they are and wherever they come from."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Protocol, Self, TypeVar

import numpy as np
import numpy.typing as npt

from ovseg_cli.evaluation.pictures import PictureCounts, Pictures, Pixels, split_codes
from ovseg_cli.evaluation.workers import counted_by_processes, sensible_workers
from ovseg_cli.files.tally import tally_pairs

__all__ = ["PairCounter", "check_classes", "count_pair", "picture_of", "score_pairs"]

Pair = TypeVar("Pair", contravariant=True)
Item = TypeVar("Item")


class PairCounter(Protocol[Pair]):
    """Reads and counts one pair of label maps after another, and keeps account of their oddities.

    Copies of it work side by side, so it holds no open file and can be pickled.
    """

    def count(self, pair: Pair) -> PictureCounts:
        """Read a pair and count it (see `count_pair`, and `picture_of` for ids that have still to be mapped)."""
        ...

    def absorb(self, other: Self) -> None:
        """Add the account of a copy that counted other pairs."""
        ...


def score_pairs(
    pairs: Sequence[Item],
    counter: PairCounter[Item],
    pictures: Pictures,
    *,
    workers: int | None = None,
    listener: Callable[[PictureCounts], None] | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> None:
    """Count pairs of label maps, one picture in memory at a time for each worker.

    Args:
        pairs: What `counter` can read, such as paths.
        counter: Reads and counts one of them. After the call it has the account of all of them.
        pictures: Takes the records, in the order of `pairs`.
        workers: How many processes share the work; None chooses by the number of pairs and of the processor's cores.
            The outcome is the same.
        listener: Told each picture's record, in the order of `pairs`.
        progress: Called with (pairs done, pairs in all).
    """
    for done, picture in enumerate(_counted(pairs, counter, workers), start=1):
        pictures.append(picture)
        if listener is not None:
            listener(picture)
        if progress is not None:
            progress(done, len(pairs))


def _counted(pairs: Sequence[Item], counter: PairCounter[Item], workers: int | None) -> Iterator[PictureCounts]:
    workers = sensible_workers(len(pairs)) if workers is None else workers
    return map(counter.count, pairs) if workers < 2 else counted_by_processes(pairs, counter, workers)


def check_classes(num_classes: int, ignore: int | None) -> None:
    """Refuse a number of classes, or a value to leave out, with which nothing can be counted.

    Raises:
        ValueError: There is no class, or the value is the index of one.
    """
    if num_classes < 1:
        raise ValueError(f"a confusion matrix needs at least one class, got {num_classes!r}")
    if ignore is not None and 0 <= ignore < num_classes:
        raise ValueError(f"the ignore value {ignore} is one of the {num_classes} class indices")


def count_pair(
    true: npt.NDArray[np.integer],
    predicted: npt.NDArray[np.integer],
    *,
    num_classes: int,
    key: str = "",
    ignore: int | None = None,
) -> PictureCounts:
    """Count the pixels of one picture, of which both label maps hold class indices.

    Args:
        true: The true class indices; any shape, usually `(H, W)`.
        predicted: The predicted class indices, likewise; whatever stands at pixels that are left out does not matter.
        num_classes: The number C of classes, whose indices are 0..C-1.
        key: What the picture is called.
        ignore: Pixels with this true value are left out.

    Returns:
        The picture's record.

    Raises:
        ValueError: The shapes differ, the arrays are not of integers, or a pixel that counts has an index outside
            0..C-1.
    """
    true, predicted = np.asarray(true), np.asarray(predicted)
    if true.shape != predicted.shape:
        raise ValueError(f"ground truth {true.shape} and prediction {predicted.shape} differ in shape")
    for name, array in (("ground truth", true), ("prediction", predicted)):
        if array.dtype != bool and not np.issubdtype(array.dtype, np.integer):
            raise ValueError(f"the {name} must hold integers, got {array.dtype}")
    size = true.size
    if ignore is not None:
        counted = true != ignore
        true, predicted = true[counted], predicted[counted]
    for name, array in (("ground truth", true), ("prediction", predicted)):
        if array.size and not 0 <= int(array.min()) <= int(array.max()) < num_classes:
            limits = f"{array.min()} to {array.max()}, outside 0..{num_classes - 1}"
            raise ValueError(f"the {name} holds indices from {limits}")
    rows, columns, pixels = tally_pairs(true, predicted)
    return PictureCounts(key, rows.astype(np.int32), columns.astype(np.int32), pixels, size - true.size)


def picture_of(
    key: str, true: npt.NDArray[np.integer], predicted: npt.NDArray[np.integer], pixels: Pixels, *, ignore: int
) -> PictureCounts:
    """A record of counts whose values are class indices.

    Args:
        key: What the picture is called.
        true: `(m,)` true class indices.
        predicted: `(m,)` predicted class indices; the same two may occur together several times.
        pixels: `(m,)`, how many pixels have both.
        ignore: Pixels with this true index are left out; it may be negative.
    """
    kept = true != ignore
    codes, places = np.unique(true[kept].astype(np.int64) << 32 | predicted[kept], return_inverse=True)
    sums = np.zeros(len(codes), dtype=np.int64)
    np.add.at(sums, places, pixels[kept])
    return PictureCounts(key, *split_codes(codes), sums, int(pixels[~kept].sum()))
