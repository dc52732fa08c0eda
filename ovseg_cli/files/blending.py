"""Label maps that were resized or smoothed, told by their edges."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

__all__ = ["looks_blended"]

_BLENDED = 0.2  # share of the edges that pass through ids in between
_FLAT = 0.5  # share of a label map that is areas; noise has less
_VARIED = 3  # different ids in between
_LOOKED_AT = (512, 768)  # rows and columns in the middle: enough to tell


def looks_blended(ids: npt.NDArray[np.integer]) -> bool:
    """Whether a label map was resized or smoothed: its edges pass through ids that lie between those on both sides.

    A hard edge has no such ids, a line of one class between two others has always the same, and noise has no areas.

    Args:
        ids: `(H, W)`.
    """
    if ids.ndim != 2 or min(ids.shape) < 3:
        return False
    top, start = (max(0, (side - most) // 2) for side, most in zip(ids.shape, _LOOKED_AT, strict=True))
    values = ids[top : top + _LOOKED_AT[0], start : start + _LOOKED_AT[1]].astype(np.int32)
    edges = between = flat = triples = 0
    seen: set[int] = set()
    for left, middle, right in (
        (values[:, :-2], values[:, 1:-1], values[:, 2:]),
        (values[:-2], values[1:-1], values[2:]),
    ):
        strict = ((left < middle) & (middle < right)) | ((left > middle) & (middle > right))
        edges += int((left != right).sum())
        between += int(strict.sum())
        flat += int(((left == middle) & (middle == right)).sum())
        triples += left.size
        seen |= set(middle[strict].tolist())
    return edges > 0 and between >= _BLENDED * edges and flat >= _FLAT * triples and len(seen) >= _VARIED
