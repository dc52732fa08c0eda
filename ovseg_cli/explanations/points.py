"""The scores that decide at single pixels, and which pixels of a picture are worth an explanation."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt
import torch
from skimage.measure import label as connected_regions
from torch import Tensor

if TYPE_CHECKING:
    from ovseg_cli.segmentation.segmenter import ScoreMaps

MOST_POINTS = 12
"""Classes of a picture that are explained when no points are named, the largest first."""

GRID = 512
"""Rows and columns of pixels, at most, that are looked at to choose points."""

MAX_CELLS = 4_000_000
"""Scores enlarged at once while points are chosen: 16 MB in float32."""

NEAR = 0.01
"""Pixels that are less than this behind the furthest one are as good, when a point is chosen."""


def scores_at(scored: ScoreMaps, rows: Sequence[int], columns: Sequence[int], *, background: bool) -> Tensor:
    """The scores that decide, at some rows and columns of a picture.

    Args:
        scored: The picture.
        rows: R places from the top.
        columns: K places from the left.
        background: Whether the background takes part, which makes negative scores count as 0 (see `decide`).

    Returns:
        float32 (C + 1, R, K).
    """
    scores = enlarged(scored.values, scored.size, rows, columns)
    if scored.head is not None:
        scores = scored.head.apply(scores)
    return scores.clamp(min=0) if background else scores


def enlarged(scores: Tensor, size: tuple[int, int], rows: Sequence[int], columns: Sequence[int]) -> Tensor:
    """Scores enlarged bilinearly, where they are wanted alone.

    Args:
        scores: float32 (channels, h, w).
        size: (H, W) of the picture.
        rows: R places from the top of the picture.
        columns: K places from its left.

    Returns:
        float32 (channels, R, K).
    """

    def sources(length: int, wanted: int, places: Sequence[int]) -> tuple[Tensor, Tensor, Tensor]:
        place = torch.tensor(places, dtype=torch.float32, device=scores.device)
        source = ((place + 0.5) * (length / wanted) - 0.5).clamp(min=0)
        first = source.floor().long().clamp(max=length - 1)
        return first, (first + 1).clamp(max=length - 1), source - first

    upper, lower, down = sources(scores.shape[1], size[0], rows)
    left, right, across = sources(scores.shape[2], size[1], columns)

    def at(row: Tensor, column: Tensor) -> Tensor:
        return scores[:, row][:, :, column]

    top = at(upper, left) * (1 - across) + at(upper, right) * across
    bottom = at(lower, left) * (1 - across) + at(lower, right) * across
    return top * (1 - down[:, None]) + bottom * down[:, None]


def choose_points(scored: ScoreMaps, ids: npt.NDArray[np.uint16], *, background: bool = True) -> list[tuple[int, int]]:
    """One pixel for each class that is there: in its largest region, where it is furthest ahead of the runner-up.

    Of several such pixels (less than `NEAR` behind), the one nearest to the middle of the region.

    Of more than `MOST_POINTS` classes, those that cover most of the picture. Where there is no class at all, the pixel
    of the background at which a class comes nearest. Of large pictures every n-th pixel is looked at, `GRID` in each
    direction, so that memory does not grow with the picture.

    Args:
        scored: The picture.
        ids: uint16 (H, W), its label map.
        background: Whether the background could win.

    Returns:
        (x, y) of each, in the order of the classes.
    """
    height, width = ids.shape
    rows, columns = (_spread(length) for length in (height, width))
    seen = ids[np.ix_(rows, columns)]
    margins = _margins(scored, seen, rows, columns, background=background)
    counts = _counts(ids)
    present = [int(i) for i in np.flatnonzero(counts) if i > 0]
    if not present:
        place = np.unravel_index(int(margins.argmin()), margins.shape)
        return [(int(columns[place[1]]), int(rows[place[0]]))]
    largest = sorted(present, key=lambda i: -counts[i])[:MOST_POINTS]
    points = []
    for index in sorted(largest):
        regions = connected_regions(seen == index, connectivity=1)
        sizes = np.bincount(regions.reshape(-1))
        if len(sizes) == 1:  # so small that it lies between the pixels that were looked at
            y, x = divmod(int((ids == index).argmax()), width)
        else:
            inside = np.argwhere(regions == 1 + int(sizes[1:].argmax()))
            ahead = margins[inside[:, 0], inside[:, 1]]
            best = inside[ahead >= ahead.max() - NEAR]
            r, c = best[np.square(best - inside.mean(axis=0)).sum(axis=1).argmin()]
            y, x = int(rows[r]), int(columns[c])
        points.append((x, y))
    return points


def _counts(ids: npt.NDArray[np.uint16]) -> npt.NDArray[np.int64]:
    """How many pixels each id has; in strips, because each id takes 8 bytes while it is counted."""
    counts = np.zeros(int(ids.max()) + 1, dtype=np.int64)
    strip = max(1, MAX_CELLS // ids.shape[1])
    for start in range(0, len(ids), strip):
        counts += np.bincount(ids[start : start + strip].reshape(-1), minlength=len(counts))
    return counts


def _spread(length: int) -> npt.NDArray[np.int64]:
    """At most `GRID` places, evenly spread."""
    count = min(length, GRID)
    return ((np.arange(count) + 0.5) * (length / count)).astype(np.int64)


def _margins(
    scored: ScoreMaps,
    seen: npt.NDArray[np.uint16],
    rows: npt.NDArray[np.int64],
    columns: npt.NDArray[np.int64],
    *,
    background: bool,
) -> npt.NDArray[np.float32]:
    """How far each pixel's label is ahead of the best other one, float32 of the shape of `seen`."""
    channel_of = np.zeros(max(scored.classes, default=0) + 2, dtype=np.int64)
    for channel, place in enumerate(scored.classes, start=1):
        channel_of[place + 1] = channel
    margins = np.zeros(seen.shape, dtype=np.float32)
    channels = max(len(scored.classes) + 1, len(scored.values))
    strip = max(1, MAX_CELLS // (channels * len(columns)))
    for start in range(0, len(rows), strip):
        part = slice(start, start + strip)
        scores = scores_at(scored, rows[part].tolist(), columns.tolist(), background=background)
        own = torch.from_numpy(channel_of[seen[part]]).to(scores.device)[None]
        ahead = scores.gather(0, own)[0]
        others = scores.scatter(0, own, -torch.inf)
        best = (others if background else others[1:]).amax(dim=0)
        # Nothing else takes part: the label's own score says where it is surest.
        margins[part] = torch.where(best.isinf(), ahead, ahead - best).cpu().numpy()
    return margins
