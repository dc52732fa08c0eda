"""Counting the values of label maps, most of whose pixels are like the one before.

A label map of a photograph changes at one pixel in fifty or so. Where it does is found by comparing neighbours, which
takes a fraction of the time of counting every pixel, and no memory to speak of.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

__all__ = ["tally", "tally_pairs"]

Values = npt.NDArray[np.integer]
Counts = npt.NDArray[np.int64]

_COUNTERS_PER_RUN = 16
"""Sorting the runs is faster than a counter for every possible value where there are more of these than so."""

_NOISE = 8
"""With more changes than one in so many places, the places are counted one by one."""

_PIECE = 1 << 15
"""Places that are counted at once: what is made of them stays in the processor's cache."""


def tally(values: Values) -> tuple[Counts, Counts]:
    """Which values an array has, and how often.

    Args:
        values: Integers; any shape.

    Returns:
        The values in ascending order and their counts, `(m,)` int64 each.
    """
    flat = values.ravel()
    changes = np.not_equal(flat[1:], flat[:-1])
    if _is_noise(changes) and 0 <= flat.min() <= flat.max() < flat.size:
        return _one_by_one(flat)
    starts, lengths = _runs(changes, flat.size)
    return _summed(flat[starts].astype(np.int64), lengths)


def tally_pairs(first: Values, second: Values) -> tuple[Counts, Counts, Counts]:
    """Which pairs of values two arrays have at the same places, and how often.

    Args:
        first: Integers from 0 to 2**31 - 1, or truth values; any shape.
        second: Likewise, of the same shape.

    Returns:
        The first values, the second values and the counts, `(m,)` int64 each; in ascending order of the first and then
        the second.
    """
    one, two = first.ravel(), second.ravel()
    changes = np.not_equal(one[1:], one[:-1])
    changes |= np.not_equal(two[1:], two[:-1])
    width = int(two.max(initial=0)) + 1
    if _is_noise(changes) and (int(one.max(initial=0)) + 1) * width < one.size:
        codes, counts = _one_by_one(one, two, width)
    else:
        starts, lengths = _runs(changes, one.size)
        codes, counts = _summed(one[starts].astype(np.int64) * width + two[starts], lengths)
    return codes // width, codes % width, counts


def _is_noise(changes: npt.NDArray[np.bool_]) -> bool:
    return changes.size < _NOISE * int(np.count_nonzero(changes))


def _one_by_one(first: Values, second: Values | None = None, width: int = 1) -> tuple[Counts, Counts]:
    """`first`, or `first * width + second`, in ascending order, and how often each occurs; all are small."""
    bins = (int(first.max()) + 1) * width
    counts = np.zeros(bins, dtype=np.int64)
    for begin in range(0, first.size, _PIECE):
        codes = first[begin : begin + _PIECE].astype(np.int64)
        if second is not None:
            codes *= width
            codes += second[begin : begin + _PIECE]
        counts += np.bincount(codes, minlength=bins)
    found = np.flatnonzero(counts)
    return found, counts[found]


def _runs(changes: npt.NDArray[np.bool_], size: int) -> tuple[Counts, Counts]:
    """Where runs of one value begin, and how long they are."""
    starts = np.concatenate([np.zeros(min(size, 1), dtype=np.int64), np.flatnonzero(changes) + 1])
    return starts, np.diff(starts, append=size)


def _summed(codes: Counts, lengths: Counts) -> tuple[Counts, Counts]:
    """Each code once, in ascending order, with the sum of its lengths."""
    if codes.size and codes.min() >= 0 and codes.max() < _COUNTERS_PER_RUN * codes.size:
        sums = np.bincount(codes, weights=lengths)  # float64, exact below 2**53
        found = np.flatnonzero(sums)
        return found, sums[found].astype(np.int64)
    found, places = np.unique(codes, return_inverse=True)
    sums = np.zeros(len(found), dtype=np.int64)
    np.add.at(sums, places, lengths)
    return found, sums
