"""Small copies of pictures and of their label maps, each of no more than so many bytes, whatever is in them."""

from __future__ import annotations

import io
from collections.abc import Sequence
from typing import Final

import numpy as np
import numpy.typing as npt
from PIL import Image

from ovseg_cli.drawing.difference import shrunk_ids
from ovseg_cli.drawing.ink import bright, fitted_size, inner_edge
from ovseg_cli.files.labels import Colour

MOST_CLASSES: Final = 127
"""Classes that a small label map can hold: an index for the inside and one for the edge of each, in 8 bits."""

_QUALITIES: Final = (78, 60, 40, 25)


def small_picture(image: Image.Image, size: tuple[int, int], most: int) -> bytes:
    """A picture as a small JPEG.

    Args:
        image: RGB.
        size: (width, height) that it is to have; halved where the bytes do not suffice.
        most: Bytes, at most.
    """
    while True:
        small = image if image.size == size else image.resize(size, Image.Resampling.LANCZOS, reducing_gap=2.0)
        for quality in _QUALITIES:
            stream = io.BytesIO()
            small.save(stream, "JPEG", quality=quality, optimize=True)
            if stream.tell() <= most or max(size) == 1:
                return stream.getvalue()
        size = fitted_size(size, max(1, max(size) // 2))


def small_labels(
    ids: npt.NDArray[np.integer], colours: Sequence[Colour], side: int, most: int
) -> tuple[bytes, tuple[int, ...]]:
    """A label map as a small PNG whose palette says what is drawn: a page may write another into it.

    Index 0 is where nothing is drawn. The inside of the i-th class has the index 2 i + 1, its edge 2 i + 2.

    Args:
        ids: `(H, W)`; 0 is the background.
        colours: Of each class, by id - 1; other ids are not drawn.
        side: Pixels of the longer side, at most; halved where the bytes do not suffice.
        most: Bytes, at most.

    Returns:
        The file, and the ids of the classes in it: the largest, where there are more than `MOST_CLASSES`.
    """
    while True:
        small = shrunk_ids(ids, side)
        numbers = np.bincount(small.ravel())
        order = np.argsort(-numbers, kind="stable").tolist()
        drawn = [at for at in order if 0 < at <= len(colours) and numbers[at]][:MOST_CLASSES]
        index = np.zeros(len(numbers), np.uint8)
        index[drawn] = 2 * np.arange(len(drawn)) + 1
        indices = index[small]
        indices += (indices > 0) & inner_edge(small, 1)
        image = Image.fromarray(indices)
        palette = [(0, 0, 0)]
        for at in drawn:
            colour = colours[at - 1]
            red, green, blue = bright(colour).tolist()
            palette += [colour, (red, green, blue)]
        image.putpalette([part for colour in palette for part in colour])
        stream = io.BytesIO()
        image.save(stream, "PNG", transparency=bytes([0, *[255] * (2 * len(drawn))]))
        if stream.tell() <= most or side == 1:
            return stream.getvalue(), tuple(drawn)
        side = max(1, side // 2)
