"""How a picture is resized and cut up before networks see it. No torch here."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

MAX_ASPECT = 8
"""An image's long side becomes at most this many short sides, or a strip of 1 x 5000 pixels would fill the memory."""

Resampling = Literal["bicubic", "bilinear", "bilinear-float", "lanczos", "nearest"]
"""How a whole picture is resized: from 8 bits to 8 bits, as nearly all published code does it.

- "bicubic", "lanczos": Pillow's, which average over more pixels where a picture shrinks (antialiasing).
- "bilinear": OpenCV's, which takes the four nearest pixels however much a picture shrinks.
- "bilinear-float": torch's, which takes the same pixels and rounds nothing.
- "nearest": the pixel as it is, torch's choice of it.
"""


def short_side_size(
    height: int, width: int, short_side: int, long_side: int | None = None, *, cut: bool = False
) -> tuple[int, int]:
    """(height, width) of an image resized so that its shorter side has `short_side` pixels, rounded to the nearest.

    An image whose longer side would get more than `long_side` pixels is resized so that its longer side has that many
    instead. At least one pixel remains in each direction.

    Args:
        height: Of the image, in pixels.
        width: Of the image, in pixels.
        short_side: In pixels.
        long_side: In pixels; None for `MAX_ASPECT` short sides.
        cut: Whether a part of a pixel is cut off, as torchvision does it, in the place of rounding.
    """
    if cut:
        return _cut_size(height, width, short_side, MAX_ASPECT * short_side if long_side is None else long_side)
    scale = _scale(height, width, short_side, long_side)
    return max(1, int(height * scale + 0.5)), max(1, int(width * scale + 0.5))


def _cut_size(height: int, width: int, short_side: int, long_side: int) -> tuple[int, int]:
    """As torchvision's `resize` with `size` and `max_size` (`_compute_resized_output_size`)."""
    short, long = short_side, short_side * max(height, width) // min(height, width)
    if long > long_side:
        short, long = max(1, long_side * short // long), long_side
    return (short, long) if height <= width else (long, short)


def unsquashed_size(height: int, width: int, side: int, long_side: int) -> tuple[int, int]:
    """(height, width) at which a network sees a crop that is not squashed (OVDiff, `ViTFeats.resize`).

    Args:
        height: Of the crop, in pixels.
        width: Of the crop, in pixels.
        side: A crop that is no larger than this in both directions is seen as it is; of others, this becomes the short
            side.
        long_side: What the long side becomes at most.
    """
    if max(height, width) <= side:
        return height, width
    return _cut_size(height, width, side, long_side)


def whole_patches_size(
    height: int, width: int, short_side: int, patch: int, long_side: int | None = None
) -> tuple[int, int]:
    """The same with both sides rounded to whole patches at once, one at least (CLIPer, `CLIPer._resize`).

    Args:
        height: Of the image, in pixels.
        width: Of the image, in pixels.
        short_side: In pixels.
        patch: Side of a patch, in pixels.
        long_side: In pixels; None for `MAX_ASPECT` short sides.
    """
    scale = _scale(height, width, short_side, long_side)
    rows, columns = (max(1, int(length * scale / patch + 0.5)) for length in (height, width))
    return rows * patch, columns * patch


def _scale(height: int, width: int, short_side: int, long_side: int | None) -> float:
    longest = MAX_ASPECT * short_side if long_side is None else long_side
    return min(short_side / min(height, width), longest / max(height, width))


@dataclass(frozen=True, slots=True, kw_only=True)
class Geometry:
    """How a picture is resized and cut up.

    Attributes:
        short_side: The picture is resized so that its short side is this many pixels.
        long_side: Its long side becomes no longer than this; None for `MAX_ASPECT` short sides.
        resample: How it is resized.
        cut: Whether a part of a pixel of its long side is cut off; otherwise it is rounded.
        windows: (size, stride) of each sliding-window pass, in pixels of the resized picture; empty for none.
        whole_image: Whether the whole picture is one more crop.
    """

    short_side: int
    long_side: int | None = None
    resample: Resampling = "bicubic"
    cut: bool = False
    windows: tuple[tuple[int, int], ...] = ()
    whole_image: bool = False

    def __post_init__(self) -> None:
        if not self.windows and not self.whole_image:
            raise ValueError("without windows, the whole image must be looked at")

    @property
    def in_patches(self) -> bool:
        """Whether the picture is resized to whole patches of CLIP."""
        return False

    def working_size(self, height: int, width: int, patch: int = 1) -> tuple[int, int]:
        """(height, width) that a picture is resized to before it is cut up.

        Args:
            height: Of the picture, in pixels.
            width: Of the picture, in pixels.
            patch: Side of CLIP's patches, in pixels; looked at where the picture is to be `in_patches`.
        """
        return short_side_size(height, width, self.short_side, self.long_side, cut=self.cut)
