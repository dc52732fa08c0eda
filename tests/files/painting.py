"""Label images as other tools paint them."""

from __future__ import annotations

import numpy as np

from ovseg_cli.files.labels import LabelMap, voc_colour


def in_colours(ids: np.ndarray, labelmap: LabelMap) -> np.ndarray:
    """Ids (H, W) in the colours of a label map: (H, W, 3) uint8."""
    return np.array([[labelmap.colour_of(int(index)) for index in row] for row in ids], dtype=np.uint8)


def voc_palette(count: int = 256) -> bytes:
    """The first colours of VOC, as a palette holds them."""
    return bytes(channel for index in range(count) for channel in voc_colour(index))
