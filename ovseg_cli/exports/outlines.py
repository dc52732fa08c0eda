"""Outlines of masks as polygons that give the mask back when they are filled.

A polygon here goes through the middles of pixels of the mask, as those that OpenCV finds and fills do: a pixel belongs
to it when its middle lies inside or on a line. Holes are joined to the outline by bridges, which lie in the mask.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

__all__ = ["outlines"]

# The sides of a pixel, and where one goes along them with the pixel at one's right: top, right, bottom, left.
_AHEAD = ((0, 1), (1, 0), (0, -1), (-1, 0))
_OUT = ((-1, 0), (0, 1), (1, 0), (0, -1))
_TOP, _BOTTOM, _LEFT = 0, 2, 3

Way = npt.NDArray[np.int64]
"""(N, 2): x and y of pixels in order."""


def outlines(mask: npt.NDArray[np.bool_]) -> list[npt.NDArray[np.int64]]:
    """One polygon for each connected part of a mask, where pixels that touch at a corner are connected.

    Args:
        mask: bool (H, W).

    Returns:
        Each int64 (N, 2): x and y of pixels. A line that is as wide as a pixel is walked along twice; a single pixel is
        one corner.
    """
    inside = np.pad(mask, 1)
    loops = _Loops(inside)
    return [_bare(corners) - 1 for corners in _joined(inside, loops)]


class _Loops:
    """The borders of a mask, each a ring of sides of pixels.

    Attributes:
        y: Row of each side's pixel.
        x: Its column.
        side: Which of its sides.
        number: (4, H, W): the place of a side among all of them, -1 for none.
        rings: Places of sides in their order, (N,) for each ring.
    """

    def __init__(self, inside: npt.NDArray[np.bool_]) -> None:
        sides = [inside & ~np.roll(inside, (-down, -right), axis=(0, 1)) for down, right in _OUT]
        self.side, self.y, self.x = np.nonzero(np.stack(sides))
        self.number = np.full((4, *inside.shape), -1, dtype=np.int64)
        self.number[self.side, self.y, self.x] = np.arange(len(self.y))
        after = np.empty(len(self.y), dtype=np.int64)
        for d in range(4):
            own = np.flatnonzero(self.side == d)
            y, x = self.y[own], self.x[own]
            ahead = y + _AHEAD[d][0], x + _AHEAD[d][1]
            beyond = ahead[0] + _OUT[d][0], ahead[1] + _OUT[d][1]
            turn = self.number[(d + 1) % 4, y, x]
            straight = self.number[d, *ahead]
            across = self.number[(d + 3) % 4, *beyond]
            after[own] = np.where(inside[beyond], across, np.where(inside[ahead], straight, turn))
        self.rings = [np.array(ring, dtype=np.int64) for ring in _rings(after.tolist())]


def _rings(after: list[int]) -> list[list[int]]:
    """The cycles of a permutation."""
    rings = []
    seen = bytearray(len(after))
    for start in range(len(after)):
        if seen[start]:
            continue
        ring, place = [], start
        while not seen[place]:
            seen[place] = 1
            ring.append(place)
            place = after[place]
        rings.append(ring)
    return rings


def _joined(inside: npt.NDArray[np.bool_], loops: _Loops) -> list[Way]:
    """Outer rings with their holes, each as (x, y) of pixels in order."""
    outer: list[int] = []
    holes: list[int] = []
    for number, ring in enumerate(loops.rings):
        level = loops.y[ring] + (loops.side[ring] == _BOTTOM)
        across = (loops.side[ring] == _TOP) | (loops.side[ring] == _BOTTOM)
        highest = ring[across][level[across].argmin()]
        (outer if loops.side[highest] == _TOP else holes).append(number)
    # A hole hangs on what lies to the left of its leftmost pixel, and that begins further left: so from the right on.
    leftmost = {number: int(loops.x[loops.rings[number]].argmin()) for number in holes}
    hanging: dict[int, list[Way]] = {}
    for number in sorted(holes, key=lambda number: -int(loops.x[loops.rings[number][leftmost[number]]])):
        # Round from the leftmost pixel to it.
        ring = np.roll(loops.rings[number], -leftmost[number])
        y, x = int(loops.y[ring[0]]), int(loops.x[ring[0]])
        while inside[y, x - 1]:
            x -= 1
        way = _walk(loops, ring, hanging)
        hanging.setdefault(int(loops.number[_LEFT, y, x]), []).append(np.concatenate([way, way[:1]]))
    return [_walk(loops, loops.rings[number], hanging) for number in outer]


def _walk(loops: _Loops, ring: npt.NDArray[np.int64], hanging: dict[int, list[Way]]) -> Way:
    """The pixels along a ring, with the holes that hang on it."""
    path: Way = np.stack([loops.x[ring], loops.y[ring]], axis=1)
    if not hanging or hanging.keys().isdisjoint(ring.tolist()):
        return path
    parts, begin = [], 0
    for step, place in enumerate(ring.tolist()):
        for hole in hanging.pop(place, []):
            here = path[step : step + 1]
            parts += [path[begin : step + 1], hole, here]
            begin = step + 1
    return np.concatenate([*parts, path[begin:]])


def _bare(corners: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
    """A closed way without what does not change it: pixels twice, and those in the middle of a straight line."""
    moved = (corners != np.roll(corners, 1, axis=0)).any(axis=1)
    if not moved.any():
        return corners[:1]
    corners = corners[moved]
    before, behind = corners - np.roll(corners, 1, axis=0), np.roll(corners, -1, axis=0) - corners
    turning = before[:, 0] * behind[:, 1] != before[:, 1] * behind[:, 0]
    return corners[turning | ((before * behind).sum(axis=1) < 0)]
