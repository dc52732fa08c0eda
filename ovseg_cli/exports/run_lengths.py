"""Run-length codes of masks, as COCO, CVAT and Label Studio have them."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

__all__ = ["brush_code", "coco_code", "run_lengths"]

_LONGEST = 1 << 16  # of one run in a brush's code
_WORD_BITS = 8
_SIZES = (3, 4, 8, 16)
"""How many bits a brush's code may have for the length of a run."""
_CHANNELS = 4


def run_lengths(mask: npt.NDArray[np.bool_]) -> npt.NDArray[np.int64]:
    """Lengths of the runs of a mask that is read row by row: of False, of True, of False ...; the first may be 0.

    >>> run_lengths(np.array([[True, True], [False, True]])).tolist()
    [0, 2, 1, 1]
    """
    flat = mask.reshape(-1)
    borders = np.flatnonzero(flat[1:] != flat[:-1]) + 1
    ends = np.concatenate([[0], borders, [flat.size]]) if flat.size else np.zeros(1, dtype=np.int64)
    lengths = np.diff(ends)
    return np.concatenate([[0], lengths]) if flat.size and flat[0] else lengths


def coco_code(mask: npt.NDArray[np.bool_], top: int, left: int, size: tuple[int, int]) -> dict[str, Any]:
    """The compressed code of COCO of a mask that lies somewhere in a picture.

    Args:
        mask: bool (h, w).
        top: Its first row in the picture.
        left: Its first column there.
        size: (H, W) of the picture.

    Returns:
        ``size`` and ``counts``, which is text.
    """
    from pycocotools import mask as coco

    height, width = size
    columns = np.zeros((mask.shape[1], height), dtype=np.bool_)  # COCO reads column by column
    columns[:, top : top + mask.shape[0]] = mask.T
    runs = run_lengths(columns)
    after = (width - left - mask.shape[1]) * height
    runs[0] += left * height
    if len(runs) % 2:
        runs[-1] += after
    else:
        runs = np.append(runs, after)
    code = coco.frPyObjects({"size": [height, width], "counts": runs.tolist()}, height, width)
    return {"size": [height, width], "counts": code["counts"].decode("ascii")}


def brush_code(mask: npt.NDArray[np.bool_]) -> bytes:
    """A mask as Label Studio's brush has it: its picture of four channels, 255 where the mask is.

    The code begins with how many values there are (32 bits), the bits of a value (5, less one) and four sizes (4 bits
    each, less one). Each run then has a 1, which of the sizes its length has (2 bits), the length less one, and the
    value.

    Args:
        mask: bool (H, W).
    """
    lengths = run_lengths(mask) * _CHANNELS
    values = np.zeros(len(lengths), dtype=np.int64)
    values[1::2] = 255
    lengths, values = lengths[lengths > 0], values[lengths > 0]
    parts = -(-lengths // _LONGEST)
    values = np.repeat(values, parts)
    last = np.cumsum(parts) - 1
    pieces = np.full(len(values), _LONGEST, dtype=np.int64)
    pieces[last] = lengths - (parts - 1) * _LONGEST
    kinds = np.searchsorted(np.array([1 << size for size in _SIZES]), pieces)
    sizes = np.array(_SIZES)[kinds]
    # Each code as one number, as wide as its bits; the wide form has them at the right.
    codes = (((4 + kinds) << sizes | (pieces - 1)) << _WORD_BITS) | values
    bits = 3 + sizes + _WORD_BITS
    widest = 3 + max(_SIZES) + _WORD_BITS
    places = np.arange(widest - 1, -1, -1)
    wide = (codes[:, None] >> places & 1).astype(np.uint8)
    head = f"{mask.size * _CHANNELS:032b}{_WORD_BITS - 1:05b}{''.join(f'{size - 1:04b}' for size in _SIZES)}"
    stream = np.concatenate([np.array([*map(int, head)], dtype=np.uint8), wide[places < bits[:, None]]])
    return np.packbits(stream).tobytes()
