"""Pictures as tensors: the one currency that every backbone takes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F


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
    array = np.asarray(image)
    if array.ndim != 3 or array.shape[2] != 3 or array.dtype != np.uint8 or not array.size:
        raise ValueError(f"an RGB image of shape (H, W, 3) and dtype uint8 is wanted, got {array.shape} {array.dtype}")
    tensor = torch.from_numpy(np.array(array, order="C")).to(device)
    return tensor.permute(2, 0, 1)[None].to(torch.float32) / 255


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
    resized = F.interpolate(images, size, mode="bicubic", antialias=True, align_corners=False)
    return resized.clamp(0, 1)  # bicubic overshoots at edges


def squash(images: Tensor, side: int, mean: Sequence[float], std: Sequence[float]) -> Tensor:
    """Resize pictures to a square, whatever their aspect, and normalise them.

    Args:
        images: float (B, 3, H, W) in [0, 1].
        side: Side of the square in pixels.
        mean: Per-channel mean.
        std: Per-channel standard deviation.

    Returns:
        float (B, 3, side, side).
    """
    images = resize(images, (side, side))
    shape = (1, 3, 1, 1)
    return (images - images.new_tensor(mean).view(shape)) / images.new_tensor(std).view(shape)
