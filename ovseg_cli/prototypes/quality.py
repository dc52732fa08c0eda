"""Which generated images are no use as support images."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

BLANK_DEVIATION = 4.0
"""Grey levels: an image whose pixels deviate less than this from their mean is blank (black, or a flat colour)."""

CONSTANT_DEVIATION = 1.0
"""The same for stuff: below this there is not even a texture."""

FLAT_CONTRAST = 0.5
"""(max - min) / max of the raw attribution map; below this the phrase attends everywhere alike."""

WEAK_PEAK = 0.4
"""An attribution peak below this fraction of the class's median peak: the object did not appear."""


def find_degenerate(
    images: Sequence[npt.NDArray[np.uint8]] | npt.NDArray[np.uint8],
    attribution: npt.NDArray[np.float32],
    *,
    median_peak: float,
    stuff: bool = False,
) -> list[str | None]:
    """Why each image cannot be used, or None when it can.

    Diffusion models sometimes give black images (half-precision overflow), flat colours, or a scene without
    the object; the last shows as an attribution map without contrast, or much weaker than its siblings'.

    Args:
        images: N images, each uint8 (H, W, 3); of one size or of several.
        attribution: float (N, g, g), raw attention of the class phrase.
        median_peak: Median over the class of the maps' maxima.
        stuff: Whether the class is stuff, which may fill a picture evenly: then nothing in it draws more attention
            than the rest, and sand or sky is as flat as a picture can be without being blank.

    Returns:
        One of "blank image", "not finite", "flat attention", "weak attention", or None, per image.
    """
    reasons: list[str | None] = []
    for image, attention in zip(images, attribution, strict=True):
        peak = float(attention.max())
        if not np.isfinite(attention).all():
            reasons.append("not finite")
        elif image.std(axis=(0, 1)).max() < (CONSTANT_DEVIATION if stuff else BLANK_DEVIATION):
            reasons.append("blank image")
        elif not stuff and (peak <= 0 or (peak - float(attention.min())) / peak < FLAT_CONTRAST):
            reasons.append("flat attention")
        elif peak < WEAK_PEAK * median_peak:
            reasons.append("weak attention")
        else:
            reasons.append(None)
    return reasons
