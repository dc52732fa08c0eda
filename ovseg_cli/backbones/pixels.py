"""Pictures as tensors: the one currency that every backbone takes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.nn import functional as F

BAND_PIXELS = 2**20
"""Of a picture, converted to float at once while it is resized: 12 MB, whatever the size of the picture."""


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
    return _band(image, 0, picture_size(image)[0], device)


def to_working_tensor(image: Any, size: tuple[int, int], device: torch.device | str = "cpu") -> Tensor:
    """An RGB picture as a float tensor of another size: the same numbers as ``resize(to_tensor(image), size)``.

    The picture is converted in bands of rows, each of which is made narrower (or wider) at once, so that there is
    never a float copy of the whole: besides the picture this takes ``12 H width`` bytes, plus the answer and a constant
    that `BAND_PIXELS` sets. For 8000 x 6000 pixels shrunk to 597 x 448 these are 43 MB; a float copy would be 576 MB.

    Args:
        image: PIL image in mode RGB, or uint8 array (H, W, 3).
        size: (height, width) in pixels.
        device: Where the tensor is put.

    Returns:
        float32 (1, 3, height, width) in [0, 1].

    Raises:
        ValueError: Not an RGB picture of 8 bits per channel.
    """
    rows, columns = picture_size(image)
    if (rows, columns) == tuple(size):
        return to_tensor(image, device)
    # Antialiased interpolation is one pass along the rows and then one along the columns; these are the two.
    narrow = torch.empty(1, 3, rows, size[1], device=device)
    height = max(1, BAND_PIXELS // columns)
    for top in range(0, rows, height):
        bottom = min(top + height, rows)
        narrow[:, :, top:bottom] = _bicubic(_band(image, top, bottom, device), (bottom - top, size[1]))
    return _bicubic(narrow, size).clamp_(0, 1)


def _band(image: Any, top: int, bottom: int, device: torch.device | str) -> Tensor:
    """Rows `top` to `bottom` of an RGB picture as float32 (1, 3, bottom - top, W) in [0, 1], copied."""
    if isinstance(image, Image.Image):
        # The whole of a Pillow image as an array takes its memory twice more.
        rows = np.asarray(image.crop((0, top, image.width, bottom)))
    else:
        rows = np.asarray(image)[top:bottom]
    # Copied, because torch takes neither read-only arrays nor negative strides.
    tensor = torch.from_numpy(np.array(rows, order="C")).to(device).permute(2, 0, 1)[None]
    return tensor.to(torch.float32, memory_format=torch.contiguous_format).div_(255)


def resize(images: Tensor, size: tuple[int, int]) -> Tensor:
    """Resize pictures bicubically, with antialiasing when they shrink.

    Args:
        images: float (B, 3, H, W) in [0, 1].
        size: (height, width) in pixels.

    Returns:
        float (B, 3, height, width) in [0, 1]; the input itself when the size is already right.
    """
    if images.shape[-2:] == torch.Size(size):
        return images
    return _bicubic(images, size).clamp(0, 1)  # bicubic overshoots at edges


def _bicubic(images: Tensor, size: tuple[int, int]) -> Tensor:
    """Resize (B, 3, H, W) bicubically with antialiasing; values may leave [0, 1]."""
    if images.shape[-2:] == torch.Size(size):
        return images
    return F.interpolate(images, size, mode="bicubic", antialias=True, align_corners=False)


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
    return (images - images.new_tensor(mean).view(shape)) / images.new_tensor(std).view(shape)
