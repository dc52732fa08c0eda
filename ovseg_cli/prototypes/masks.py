"""Attribution maps to foreground and background masks (OVDiff, supplement C.5 and the published code)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[np.float32]
Mask = npt.NDArray[np.bool_]

FIXED_LOW, FIXED_HIGH = 0.2, 0.5
"""Background below, foreground above: the paper's fixed thresholds."""


@dataclass(frozen=True, slots=True)
class Thresholds:
    """Where foreground and background begin on a normalised attribution map.

    Attributes:
        low: Background is below.
        high: Foreground is above.
        method: "otsu", or "fixed" when the maps have too few levels for Otsu.
    """

    low: float
    high: float
    method: Literal["otsu", "fixed"]


def minmax(maps: Array) -> Array:
    """Each map stretched to [0, 1] on its own; a constant map becomes 0.

    Args:
        maps: float (N, h, w).

    Returns:
        float32 (N, h, w).
    """
    low = maps.min(axis=(1, 2), keepdims=True)
    span = maps.max(axis=(1, 2), keepdims=True) - low
    return np.divide(maps - low, span, out=np.zeros_like(maps, dtype=np.float32), where=span > 0).astype(np.float32)


def normalise_attribution(maps: Array, size: int) -> Array:
    """Attribution maps in [0, 1] at image size: min-max on the grid, bilinear enlargement, min-max again.

    Args:
        maps: float (N, g, g), raw attention.
        size: Side of the images in pixels.

    Returns:
        float32 (N, size, size) in [0, 1].
    """
    import torch
    from torch.nn import functional as F

    grid = torch.from_numpy(minmax(maps))[:, None]
    enlarged = F.interpolate(grid, (size, size), mode="bilinear", align_corners=False)[:, 0]
    return minmax(enlarged.numpy())


def class_thresholds(maps: Array) -> Thresholds:
    """Adaptive thresholds for one class: three-class Otsu over all its maps together.

    Falls back to the fixed pair (0.2, 0.5) when the maps have fewer distinct levels than Otsu needs.

    Args:
        maps: float (N, g, g), each already in [0, 1].
    """
    from skimage.filters import threshold_multiotsu

    try:
        low, high = threshold_multiotsu(maps.ravel(), classes=3)  # flat: three dimensions could look like colours
    except ValueError:
        return Thresholds(FIXED_LOW, FIXED_HIGH, "fixed")
    return Thresholds(float(low), float(high), "otsu")


def masks_from_attribution(maps: Array, thresholds: Thresholds) -> tuple[Mask, Mask]:
    """Foreground and background masks; what lies between the thresholds belongs to neither.

    Args:
        maps: float (N, H, W) in [0, 1].
        thresholds: From `class_thresholds`.

    Returns:
        (foreground, background), each bool (N, H, W).
    """
    return maps > thresholds.high, maps < thresholds.low
