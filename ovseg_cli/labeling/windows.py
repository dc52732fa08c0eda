"""Cutting an image into overlapping crops, and putting the crops' scores together again."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

import torch
from torch import Tensor
from torch.nn import functional as F

from ovseg_cli.devices import portion, put


@dataclass(frozen=True, slots=True)
class Crop:
    """A rectangle in pixels: rows top to top + height, columns left to left + width."""

    top: int
    left: int
    height: int
    width: int

    def cut(self, images: Tensor) -> Tensor:
        """The rectangle of (..., H, W)."""
        return images[..., self.top : self.top + self.height, self.left : self.left + self.width]


def sliding_crops(height: int, width: int, size: int, stride: int) -> list[Crop]:
    """Windows that cover an image; the last of each row and column is moved back to end at the border.

    An image smaller than the window gives crops as small as the image.
    """

    def starts(length: int) -> list[int]:
        last = max(length - size, 0)
        return [*range(0, last, stride), last]

    h, w = min(size, height), min(size, width)
    return [Crop(top, left, h, w) for top in starts(height) for left in starts(width)]


def all_crops(height: int, width: int, windows: Sequence[tuple[int, int]], *, whole_image: bool) -> list[Crop]:
    """Every crop of an image, without repeats: each sliding-window pass, and the whole image (OVDiff, inference)."""
    crops = [crop for size, stride in windows for crop in sliding_crops(height, width, size, stride)]
    if whole_image:
        crops.append(Crop(0, 0, height, width))
    return list(dict.fromkeys(crops))


MAX_CELLS = 2_000_000
"""Scores of crops enlarged at once on a CPU (crops x classes x rows x columns): 8 MB in float32, whatever the number of
classes."""


def enlarge_crops(scores: Tensor, size: tuple[int, int]) -> Tensor:
    """Scores of crops of one size, enlarged bilinearly to it where there is room for all of them at once.

    Args:
        scores: float (B, C, h, w).
        size: (height, width) of the crops.

    Returns:
        float (B, C, height, width), or what was given; `ScoreCanvas.add` takes either.
    """
    if scores.shape[0] * scores.shape[1] * size[0] * size[1] > portion(scores.device, MAX_CELLS):
        return scores
    return F.interpolate(scores, size, mode="bilinear", align_corners=False)


class ScoreCanvas:
    """Sums the crops' scores where they lie, and divides by how many covered each pixel.

    Takes ``4 H W (C + 1)`` bytes, and no second copy of them.

    Args:
        channels: C, scores per pixel.
        height: Of the image that the crops were cut from.
        width: Of the same.
        device: Where the sums are kept.
        enlarge: Whether scores are enlarged to the image. Otherwise one crop, the whole image, is added, and its scores
            stay on their own grid: what is enlarged later is enlarged once.
    """

    def __init__(
        self, channels: int, height: int, width: int, device: torch.device | str, *, enlarge: bool = True
    ) -> None:
        self._size = (height, width) if enlarge else None
        height, width = (height, width) if enlarge else (1, 1)
        self._sum = torch.zeros(channels, height, width, device=device)
        self._crops: list[Crop] = []

    @property
    def enlarges(self) -> bool:
        """Whether scores are enlarged to the image."""
        return self._size is not None

    def add(self, crop: Crop, scores: Tensor) -> None:
        """Add one crop's scores, float (C, h, w) of any resolution: enlarged bilinearly to the crop."""
        self._crops.append(crop)
        if self._size is None:
            self._sum = self._sum + scores
            return
        size = (crop.height, crop.width)
        total = crop.cut(self._sum)
        if scores.shape[1:] == size:
            total.add_(scores)
            return
        chunk = max(1, portion(scores.device, MAX_CELLS) // (crop.height * crop.width))
        for part, some in zip(scores.split(chunk), total.split(chunk), strict=True):
            some.add_(F.interpolate(part[None], size, mode="bilinear", align_corners=False)[0])

    def mean(self) -> Tensor:
        """Mean scores, float32 (C, H, W). They take the place of the sums: nothing can be added afterwards."""
        if self._size is None:
            return self._sum.div_(len(self._crops))
        return self._sum.div_(_cover(tuple(self._crops), self._size, self._sum.device))


@lru_cache(maxsize=1)
def _cover(crops: tuple[Crop, ...], size: tuple[int, int], device: torch.device) -> Tensor:
    """How many crops cover each pixel, float32 (H, W): the same for all pictures of a size."""
    with torch.inference_mode(mode=False):
        count = torch.zeros(size)
        for crop in crops:
            crop.cut(count).add_(1)
        return put(count, device)
