"""What our pictures have in common: the colours of paper and ink, edges of regions, and how a picture is fitted in."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
from PIL import Image

from ovseg_cli.files.labels import Colour

RGB = npt.NDArray[np.uint8]
Mask = npt.NDArray[np.bool_]

PAPER: Colour = (250, 250, 248)
INK: Colour = (32, 33, 36)
FAINT: Colour = (112, 116, 122)
RULE: Colour = (222, 222, 218)
EMPTY: Colour = (236, 236, 232)
"""Where something could stand and nothing does."""

OUTLINE: Colour = (255, 45, 120)
"""The line around what counts in a support image."""
DIM = 0.28
"""How bright remains what does not count there."""


def inner_edge(ids: npt.NDArray[np.integer], width: int) -> Mask:
    """Pixels less than `width` steps (up, down, left, right) away from another id: `(H, W)` bool."""
    edge = np.zeros(ids.shape, dtype=bool)
    for step in range(1, width + 1):
        vertical, horizontal = ids[step:] != ids[:-step], ids[:, step:] != ids[:, :-step]
        edge[step:] |= vertical
        edge[:-step] |= vertical
        edge[:, step:] |= horizontal
        edge[:, :-step] |= horizontal
    return edge


def bright(colour: Colour) -> npt.NDArray[np.uint8]:
    """A lighter colour of the same hue, uint8 (3,): those of VOC are dark, and a line has to stand out."""
    return np.rint(np.array(colour, dtype=np.float32) * 0.45 + 255 * 0.55).astype(np.uint8)


def fitted_size(size: tuple[int, int], side: float) -> tuple[int, int]:
    """The (width, height) of a picture whose longer side becomes `side`; no side is less than a pixel."""
    scale = side / max(size)
    return max(1, round(size[0] * scale)), max(1, round(size[1] * scale))


def fitted_mask(mask: Mask, size: tuple[int, int]) -> Mask:
    """A mask `(H, W)` at another (width, height), by the nearest pixel."""
    picture = Image.fromarray(np.ascontiguousarray(mask, dtype=np.uint8))
    return np.asarray(picture.resize(size, Image.Resampling.NEAREST)) > 0


def paste_centred(sheet: Image.Image, picture: Image.Image, corner: tuple[int, int], tile: int) -> None:
    """Paste a picture into the middle of a square of side `tile`, whose top-left corner stands at `corner`."""
    sheet.paste(picture, (corner[0] + (tile - picture.width) // 2, corner[1] + (tile - picture.height) // 2))
