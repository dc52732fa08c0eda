"""Made-up inputs of the pieces that need no network: attention maps, proposals, features, prototypes."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torch.nn import functional as F

from tests.parity.inputs import Floats, noise, picture, uniform

Mask = npt.NDArray[np.bool_]

SIZE = 512
GRID = 64

# --------------------------------------------------------------------------- attention and proposals


def attention_maps() -> Floats:
    """Raw attention maps of four pictures: a bright blob each, on an uneven ground; float32 (4, 64, 64)."""
    rows, columns = np.mgrid[0:GRID, 0:GRID].astype(np.float32)
    maps = []
    for number, (y, x, radius) in enumerate(((20, 24, 10), (40, 30, 14), (30, 44, 7), (34, 30, 18))):
        blob = np.exp(-((rows - y) ** 2 + (columns - x) ** 2) / (2 * radius**2))
        ground = uniform(f"attention/{number}", (1, 1, 6, 6))
        smooth = F.interpolate(torch.from_numpy(ground), (GRID, GRID), mode="bicubic")[0, 0].clamp(0, 1).numpy()
        maps.append(0.01 + 0.02 * blob + 0.008 * smooth)
    return np.stack(maps).astype(np.float32)


def _disc(y: float, x: float, radius: float) -> Mask:
    rows, columns = np.mgrid[0:SIZE, 0:SIZE]
    return (rows - y) ** 2 + (columns - x) ** 2 <= radius**2


def _box(top: int, left: int, bottom: int, right: int) -> Mask:
    mask = np.zeros((SIZE, SIZE), bool)
    mask[top:bottom, left:right] = True
    return mask


def proposals(number: int) -> Mask:
    """Regions that a proposer found in picture `number`, bool (R, 512, 512).

    0: apart from each other. 1: overlapping and nested. 2: none. 3: the object is found in two parts, and a border.
    """
    regions = {
        0: [_disc(160, 190, 80), _box(330, 300, 470, 500), _disc(420, 90, 50)],
        1: [_box(200, 120, 440, 380), _disc(320, 240, 110), _disc(300, 260, 40), _box(20, 20, 120, 500)],
        2: [],
        3: [_box(130, 100, 272, 380), _box(272, 100, 430, 380), _box(0, 0, 512, 24)],
    }[number]
    return np.stack(regions) if regions else np.zeros((0, SIZE, SIZE), bool)


# --------------------------------------------------------------------------- pooling

GROUPS = 4


def pooled_features(number: int, channels: int) -> Floats:
    """Features of support picture `number`: four kinds of cells, far apart; float32 (channels, 64, 64)."""
    kinds = noise("pooling/kinds", (GROUPS, channels))
    kind = (uniform(f"pooling/{number}/kind", (GRID, GRID)) * GROUPS).astype(np.int64)
    return (kinds[kind].transpose(2, 0, 1) + 0.05 * noise(f"pooling/{number}/cells", (channels, GRID, GRID))).astype(
        np.float32
    )


def pooled_masks(number: int) -> tuple[Mask, Mask]:
    """Foreground and background at 512 x 512; edges that are no multiples of a cell; picture 2 has no foreground."""
    foreground = _disc(230 + 17 * number, 241 - 30 * number, 71.3 + 20 * number)
    background = ~_disc(230 + 17 * number, 241 - 30 * number, 150) & _box(5, 9, 470 - 31 * number, 501)
    return (foreground & (number != 2)), background


# --------------------------------------------------------------------------- inference


@dataclass(frozen=True)
class Shelf:
    """Prototypes of one class for one extractor; each float32 (n, D), not of unit norm."""

    mean: Floats
    instance: Floats
    part: Floats


CLASSES = ("cat", "dog", "grass")
"""grass is stuff in the published list."""


def shelf(extractor: str, name: str, role: str, channels: int) -> Shelf:
    """The prototypes of one role of one class; some of the backgrounds of the things look like grass."""
    key = f"inference/{extractor}/{name}/{role}"
    scale = 3.0
    part = noise(f"{key}/part", (4, channels)) * scale
    if role == "bg" and name != "grass":
        grass = noise(f"inference/{extractor}/grass/fg/part", (4, channels)) * scale
        part[0] = grass[0] + 0.4 * part[0]  # cosine above 0.85
        part[1] = grass[1] + 0.8 * part[1]  # below
    return Shelf(noise(f"{key}/mean", (1, channels)) * scale, noise(f"{key}/instance", (3, channels)) * scale, part)


def colour_features(crops: Tensor, extractor: str, channels: int, grid: int) -> Tensor:
    """Features that depend on mean colours: float (B, 3, h, w) to (B, channels, grid, grid)."""
    pooled = F.adaptive_avg_pool2d(crops, (grid, grid)) - 0.5
    mixed = torch.einsum("dc,bchw->bdhw", torch.from_numpy(noise(f"colours/{extractor}", (channels, 3))) * 4, pooled)
    return torch.tanh(mixed)


def photo() -> npt.NDArray[np.uint8]:
    """A photograph whose short side is already 448, so that neither side resizes it."""
    return picture("inference", 448, 597)


UNET_LAYERS = (
    (320, 64),
    (1280, 8),
    (1280, 16),
    (1280, 16),
    (1280, 16),
    (640, 32),
    (640, 32),
    (640, 32),
    (320, 64),
)
"""Channels and side of the nine layers that are read from Stable Diffusion 1.5."""


def unet_maps() -> list[Tensor]:
    """Features of nine layers at their own resolution, float32 (1, C, g, g), of different strengths."""
    return [
        torch.from_numpy(noise(f"layers/{i}", (1, channels, side, side))) * (0.5 + i / 4)
        for i, (channels, side) in enumerate(UNET_LAYERS)
    ]
