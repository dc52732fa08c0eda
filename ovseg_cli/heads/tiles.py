"""CAT-Seg's published way of looking at a picture: overlapping windows of a square, and all of it once more."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F


@dataclass(frozen=True, slots=True)
class Tiles:
    """How a square picture is cut.

    Attributes:
        side: Of the square that a picture is squashed to, in pixels.
        window: Side of a window.
        stride: From one window to the next; windows end where the square does.
    """

    side: int
    window: int
    stride: int

    def __post_init__(self) -> None:
        if not 0 < self.stride <= self.window <= self.side or (self.side - self.window) % self.stride:
            raise ValueError(f"windows of {self.window} every {self.stride} pixels do not cover {self.side}")


PUBLISHED_TILES = Tiles(side=640, window=384, stride=256)
"""The overlap of a third that the paper tells of is ``int(384 * (1 - 0.333))`` pixels of stride."""


def cut(square: Tensor, tiles: Tiles, overview: Tensor | None = None) -> Tensor:
    """The windows of pictures, and last each picture as a whole in the size of a window.

    Args:
        square: float (B, 3, side, side).
        tiles: How they are cut.
        overview: float (B, 3, window, window): the whole pictures where they are at hand in that size. The published
            code makes them of the file's pixels, without the square in between.

    Returns:
        (B, n + 1, 3, window, window).
    """
    rows = square.unfold(2, tiles.window, tiles.stride).unfold(3, tiles.window, tiles.stride)
    windows = rows.permute(0, 2, 3, 1, 4, 5).flatten(1, 2)
    if overview is None:
        overview = F.interpolate(square, (tiles.window, tiles.window), mode="bilinear", align_corners=False)
    return torch.cat([windows, overview[:, None]], dim=1)


def fuse(logits: Tensor, tiles: Tiles) -> Tensor:
    """Probabilities of pictures from logits of their tiles: the mean of the windows' mean and of the whole's.

    Logits are enlarged to the window before they become probabilities.

    Args:
        logits: (B, n + 1, T, h, w), in the order of `cut`.
        tiles: How they were cut.

    Returns:
        (B, T, side, side).
    """
    batch, count, names = logits.shape[:3]
    side, window = (tiles.side, tiles.side), tiles.window

    def enlarged(place: int) -> Tensor:
        maps = F.interpolate(logits[:, place], (window, window), mode="bilinear", align_corners=False)
        return maps.sigmoid()

    total = logits.new_zeros(batch, names, *side)
    covered = logits.new_zeros(side)
    starts = range(0, tiles.side - window + 1, tiles.stride)
    for place, (top, left) in enumerate((top, left) for top in starts for left in starts):
        box = (..., slice(top, top + window), slice(left, left + window))
        total[box] += enlarged(place)
        covered[box] += 1
    whole = F.interpolate(enlarged(count - 1), side, mode="bilinear", align_corners=False)
    return (total / covered + whole) / 2
