"""Pictures as tensors: the one currency that every backbone takes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Any, Final, Literal

import numpy as np
import numpy.typing as npt
import torch
from PIL import Image
from torch import Tensor
from torch.nn import functional as F

from ovseg_cli.devices import constant, put
from ovseg_cli.profiles.geometry import Resampling

BAND_PIXELS = 2**20
"""Of a picture, taken up at once while it is resized from array to array, whatever the size of the picture."""

PILLOW: Final[Mapping[str, Image.Resampling]] = MappingProxyType(
    {"bicubic": Image.Resampling.BICUBIC, "lanczos": Image.Resampling.LANCZOS}
)
"""Ways of resizing that are Pillow's."""


def picture_size(image: Any) -> tuple[int, int]:
    """(height, width) of an RGB picture.

    Args:
        image: PIL image in mode RGB, or uint8 array (H, W, 3).

    Raises:
        ValueError: Not an RGB picture of 8 bits per channel.
    """
    if isinstance(image, Image.Image):
        if image.mode == "RGB" and image.width and image.height:
            return image.height, image.width
        raise ValueError(f"an RGB image is wanted, got {image.width}x{image.height} in mode {image.mode}")
    array = np.asarray(image)
    if array.ndim != 3 or array.shape[2] != 3 or array.dtype != np.uint8 or not array.size:
        raise ValueError(f"an RGB image of shape (H, W, 3) and dtype uint8 is wanted, got {array.shape} {array.dtype}")
    return array.shape[0], array.shape[1]


def to_tensor(image: Any, device: torch.device | str = "cpu") -> Tensor:
    """An RGB picture as a float tensor.

    Args:
        image: PIL image in mode RGB, or uint8 array (H, W, 3).
        device: Where the tensor is put.

    Returns:
        float32 (1, 3, H, W) in [0, 1].

    Raises:
        ValueError: Not an RGB picture of 8 bits per channel.
    """
    rows = _rows(image, 0, picture_size(image)[0])
    # Copied, because torch takes neither read-only arrays nor negative strides.
    tensor = put(torch.from_numpy(np.array(rows, order="C")), device).permute(2, 0, 1)[None]
    return tensor.to(torch.float32, memory_format=torch.contiguous_format).div_(255)


def to_working_tensor(
    image: Any,
    size: tuple[int, int],
    device: torch.device | str = "cpu",
    resample: Resampling = "bicubic",
) -> Tensor:
    """An RGB picture as a float tensor of another size.

    But for "bilinear-float", it is resized in 8 bits and then converted: what networks see is rounded to whole grey
    values, as in nearly all published code. There is never a float copy of the picture as it came, and never a second
    copy of an image of Pillow's.

    Args:
        image: PIL image in mode RGB, or uint8 array (H, W, 3).
        size: (height, width) in pixels.
        device: Where the tensor is put.
        resample: How it is resized.

    Returns:
        float32 (1, 3, height, width) in [0, 1].

    Raises:
        ValueError: Not an RGB picture of 8 bits per channel.
    """
    if picture_size(image) == tuple(size):
        return to_tensor(image, device)
    if resample in PILLOW:
        picture = image if isinstance(image, Image.Image) else Image.fromarray(np.ascontiguousarray(image))
        return to_tensor(picture.resize((size[1], size[0]), PILLOW[resample]), device)
    if resample == "bilinear-float":
        unrounded = put(torch.from_numpy(_bilinear_float(image, size)), device).permute(2, 0, 1)[None]
        return unrounded.contiguous().div_(255)
    return to_tensor(_nearest(image, size) if resample == "nearest" else _bilinear(image, size), device)


def _nearest(image: Any, size: tuple[int, int]) -> npt.NDArray[np.uint8]:
    """The pixels that torch's interpolation in mode "nearest" takes, uint8 (height, width, 3)."""

    def places(length: int, wanted: int) -> npt.NDArray[np.int64]:
        found = (np.arange(wanted, dtype=np.float32) * np.float32(length / wanted)).astype(np.int64)
        return np.minimum(found, length - 1)

    rows, columns = picture_size(image)
    down, across = places(rows, size[0]), places(columns, size[1])
    smaller = np.empty((*size, 3), np.uint8)
    for start, stop in _bands(size[0], columns):
        top, bottom = int(down[start]), int(down[stop - 1]) + 1
        smaller[start:stop] = _rows(image, top, bottom)[down[start:stop] - top][:, across]
    return smaller


def _bilinear(image: Any, size: tuple[int, int]) -> npt.NDArray[np.uint8]:
    """A picture resized as OpenCV resizes with INTER_LINEAR, in its fixed-point numbers; uint8 (height, width, 3)."""

    def sources(length: int, wanted: int) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64], npt.NDArray[np.int32]]:
        place = ((np.arange(wanted) + 0.5) * (length / wanted) - 0.5).astype(np.float32)
        first = np.floor(place)
        share = place - first
        share[(first < 0) | (first >= length - 1)] = 0
        first = np.clip(first, 0, length - 1).astype(np.int64)
        return first, np.minimum(first + 1, length - 1), np.rint(share * 2048).astype(np.int32)

    rows, columns = picture_size(image)
    upper, lower, down = sources(rows, size[0])
    left, right, across = sources(columns, size[1])
    across = across[:, None]

    def narrow(band: npt.NDArray[np.uint8]) -> npt.NDArray[np.int32]:
        return (band[:, left] * (2048 - across) + band[:, right] * across) >> 4

    resized = np.empty((*size, 3), np.uint8)
    for start, stop in _bands(size[0], columns):
        top, bottom = int(upper[start]), int(lower[stop - 1]) + 1
        band = _rows(image, top, bottom)
        share = down[start:stop, None, None]
        above, below = narrow(band[upper[start:stop] - top]), narrow(band[lower[start:stop] - top])
        resized[start:stop] = ((((2048 - share) * above) >> 16) + ((share * below) >> 16) + 2) >> 2
    return resized


def _bilinear_float(image: Any, size: tuple[int, int]) -> npt.NDArray[np.float32]:
    """A picture resized as torch resizes in mode "bilinear", float32 (height, width, 3) in [0, 255]."""

    def sources(
        length: int, wanted: int
    ) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64], npt.NDArray[np.float32]]:
        place = ((np.arange(wanted) + 0.5) * (length / wanted) - 0.5).clip(0).astype(np.float32)
        first = np.minimum(place.astype(np.int64), length - 1)
        return first, np.minimum(first + 1, length - 1), (place - first).astype(np.float32)

    rows, columns = picture_size(image)
    upper, lower, down = sources(rows, size[0])
    left, right, across = sources(columns, size[1])
    across = across[:, None]
    resized = np.empty((*size, 3), np.float32)
    for start, stop in _bands(size[0], columns):
        top, bottom = int(upper[start]), int(lower[stop - 1]) + 1
        band = _rows(image, top, bottom).astype(np.float32)
        narrow = band[:, left] * (1 - across) + band[:, right] * across
        share = down[start:stop, None, None]
        resized[start:stop] = narrow[upper[start:stop] - top] * (1 - share) + narrow[lower[start:stop] - top] * share
    return resized


def _bands(height: int, columns: int) -> list[tuple[int, int]]:
    """Rows of an answer that are made together, when each takes up a row of so many columns."""
    step = max(1, BAND_PIXELS // columns)
    return [(start, min(start + step, height)) for start in range(0, height, step)]


def _rows(image: Any, top: int, bottom: int) -> npt.NDArray[np.uint8]:
    """Rows `top` to `bottom` of an RGB picture, uint8 (bottom - top, W, 3)."""
    if isinstance(image, Image.Image):
        # The whole of a Pillow image as an array takes its memory twice more.
        return np.asarray(image.crop((0, top, image.width, bottom)))
    return np.asarray(image)[top:bottom]


def resize(images: Tensor, size: tuple[int, int], resample: Literal["bicubic", "bilinear"] = "bicubic") -> Tensor:
    """Resize pictures.

    Args:
        images: float (B, 3, H, W) in [0, 1].
        size: (height, width) in pixels.
        resample: "bicubic", with antialiasing when they shrink, or "bilinear" without.

    Returns:
        float (B, 3, height, width) in [0, 1]; the input itself when the size is already right.
    """
    if images.shape[-2:] == torch.Size(size):
        return images
    if resample == "bilinear":
        return F.interpolate(images, size, mode="bilinear", align_corners=False)
    wanted = F.interpolate(images, size, mode="bicubic", antialias=True, align_corners=False)
    return wanted.clamp(0, 1)  # bicubic overshoots at edges


def squash(images: Tensor, size: int | tuple[int, int], mean: Sequence[float], std: Sequence[float]) -> Tensor:
    """Resize pictures to a square or another size, whatever their aspect, and normalise them.

    Args:
        images: float (B, 3, H, W) in [0, 1].
        size: Side of the square, or (height, width), in pixels.
        mean: Per-channel mean.
        std: Per-channel standard deviation.

    Returns:
        float (B, 3, height, width).
    """
    images = resize(images, (size, size) if isinstance(size, int) else size)
    shape = (1, 3, 1, 1)
    middle, spread = (constant(tuple(each), images.device, images.dtype).view(shape) for each in (mean, std))
    return (images - middle) / spread
