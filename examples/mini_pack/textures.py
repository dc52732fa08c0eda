"""Procedural textures of the stuff classes, and a bank to cut them from quickly.

All textures are smooth on purpose: a small autoencoder cannot learn noise of single pixels. Lengths and
colours are given for a picture of 64 pixels; `scale` stretches the lengths for larger ones.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

import numpy as np
import numpy.typing as npt
from PIL import Image
from scipy.ndimage import gaussian_filter

from examples.mini_pack.vocabulary import STUFF_NAMES

BANK_STREAM: Final = 2
"""First word of the seed of texture banks; see `world.SCENE_STREAM`."""

FloatArray = npt.NDArray[np.float32]
Painter = Callable[[np.random.Generator, int, int, float], FloatArray]


def paint(name: str, rng: np.random.Generator, height: int, width: int, scale: float = 1.0) -> FloatArray:
    """Paint one sample of a stuff class.

    Args:
        name: A name from `STUFF_NAMES`.
        rng: Source of everything random in the texture (colours included).
        height: Height in pixels.
        width: Width in pixels.
        scale: Factor on all lengths; 1 suits pictures of 64 pixels.

    Returns:
        float32 array (height, width, 3), RGB in 0..255.

    Raises:
        ValueError: If `name` is no stuff class or `scale` is not positive.
    """
    if name not in _PAINTERS:
        raise ValueError(f"no texture is called {name!r}; there are: {', '.join(_PAINTERS)}")
    if not scale > 0:
        raise ValueError(f"scale must be positive, got {scale!r}")
    return np.clip(_PAINTERS[name](rng, height, width, scale), 0, 255).astype(np.float32)


class TextureBank:
    """Textures painted once, from which random pieces are cut.

    Painting costs tens of milliseconds, cutting some microseconds: training draws thousands of scenes
    per second. Two banks of different seeds share no texture, so that held-out scenes can have their own.
    """

    SKY_SHARE: Final = 5 / 8
    """Share of a sky's height that every piece spans, so that each piece keeps the colour gradient."""

    def __init__(self, seed: int, *, variants: int = 24, extent: int = 160, scale: float = 1.0) -> None:
        """Paint the bank.

        Args:
            seed: Seed of all textures.
            variants: Textures per stuff class.
            extent: Side of each texture in pixels; no piece can be larger.
            scale: Factor on all lengths (see `paint`).
        """
        rng = np.random.default_rng((BANK_STREAM, seed))
        self.extent = extent
        self._textures = {
            name: [paint(name, rng, extent, extent, scale).astype(np.uint8) for _ in range(variants)]
            for name in STUFF_NAMES
        }

    def cut(self, name: str, rng: np.random.Generator, height: int, width: int) -> FloatArray:
        """Cut a random piece: place, mirroring and brightness are drawn from `rng`.

        Returns:
            float32 array (height, width, 3), RGB in 0..255.

        Raises:
            ValueError: If the piece is larger than the textures.
        """
        if max(height, width) > self.extent:
            raise ValueError(f"a piece of {width}x{height} does not fit into textures of {self.extent} pixels")
        variants = self._textures[name]
        texture = variants[rng.integers(len(variants))]
        rows = max(height, round(self.SKY_SHARE * self.extent)) if name == "sky" else height
        top = rng.integers(self.extent - rows + 1)
        left = rng.integers(self.extent - width + 1)
        piece = texture[top : top + rows, left : left + width]
        if rows != height:
            piece = np.asarray(Image.fromarray(piece).resize((width, height), Image.Resampling.BILINEAR))
        if rng.random() < 0.5:
            piece = piece[:, ::-1]
        gain = 1 + rng.uniform(-0.1, 0.1)
        return np.clip(piece.astype(np.float32) * np.float32(gain), 0, 255)


def _noise(rng: np.random.Generator, height: int, width: int, sigma: float, stretch: float = 1.0) -> FloatArray:
    """Smooth noise of unit deviation; `stretch` > 1 draws it out along x, < 1 along y."""
    sigmas = (sigma, sigma * stretch) if stretch >= 1 else (sigma / stretch, sigma)
    noise = gaussian_filter(rng.standard_normal((height, width), dtype=np.float32), sigmas, mode="wrap")
    return np.asarray(noise / (noise.std() + 1e-6), dtype=np.float32)


def _colour(rng: np.random.Generator, rgb: tuple[float, ...], jitter: tuple[float, ...]) -> FloatArray:
    """A colour with an independent uniform jitter per channel."""
    return np.asarray(rgb, dtype=np.float32) + rng.uniform(-1, 1, 3).astype(np.float32) * np.asarray(
        jitter, dtype=np.float32
    )


def _shade(field: FloatArray, *rgb: float) -> FloatArray:
    """Spread a scalar field (H, W) over three channels (H, W, 3) with one amplitude each."""
    return field[..., None] * np.asarray(rgb, dtype=np.float32)


def _grid(height: int, width: int) -> tuple[FloatArray, FloatArray]:
    y, x = np.mgrid[0:height, 0:width].astype(np.float32)
    return y, x


def _grass(rng: np.random.Generator, height: int, width: int, scale: float) -> FloatArray:
    tufts = 0.5 * _noise(rng, height, width, 5 * scale)
    blades = 0.6 * _noise(rng, height, width, 2.2 * scale, 0.5)
    return _colour(rng, (60, 135, 45), (20, 20, 15)) + _shade(tufts + blades, 16, 24, 12)


def _sand(rng: np.random.Generator, height: int, width: int, scale: float) -> FloatArray:
    y, _ = _grid(height, width)
    bend = 4 * scale * _noise(rng, height, width, 14 * scale)
    ripples = np.sin((y + bend) / (rng.uniform(3, 5) * scale))
    grain = _noise(rng, height, width, 1.3 * scale)
    return _colour(rng, (218, 188, 130), (12, 12, 15)) + _shade(0.5 * ripples + 0.25 * grain, 13, 13, 13)


def _water(rng: np.random.Generator, height: int, width: int, scale: float) -> FloatArray:
    y, x = _grid(height, width)
    swell = 3 * scale * np.sin(x / (rng.uniform(5, 9) * scale))
    bend = 3 * scale * _noise(rng, height, width, 9 * scale)
    waves = np.sin((y + swell + bend) / (rng.uniform(1.8, 3.0) * scale))
    glitter = _noise(rng, height, width, 1.3 * scale, 3)
    return _colour(rng, (30, 105, 170), (15, 25, 25)) + _shade(0.8 * waves + 0.3 * glitter, 18, 22, 20)


def _sky(rng: np.random.Generator, height: int, width: int, scale: float) -> FloatArray:
    fall = np.linspace(0, 1, height, dtype=np.float32)[:, None].repeat(width, axis=1)
    blue = _colour(rng, (95, 165, 238), (20, 20, 12)) + _shade(fall, 60, 40, 10)
    billows = 0.6 * _noise(rng, height, width, 14 * scale, 2) + 0.25 * _noise(rng, height, width, 5 * scale, 2)
    clouds = 0.85 * np.clip(billows - rng.uniform(0.1, 0.7), 0, 1)[..., None]
    return np.asarray(blue * (1 - clouds) + 255 * clouds, dtype=np.float32)


def _snow(rng: np.random.Generator, height: int, width: int, scale: float) -> FloatArray:
    drifts = 0.7 * _noise(rng, height, width, 8 * scale)
    grain = 0.15 * _noise(rng, height, width, 1.3 * scale)
    return _colour(rng, (236, 241, 250), (8, 8, 0)) + _shade(drifts + grain, 8, 7, 5)


def _brick_wall(rng: np.random.Generator, height: int, width: int, scale: float) -> FloatArray:
    units = int(rng.integers(7, 11))
    course = max(3, round(units * scale))
    length = max(6, round((2 * units + int(rng.integers(0, 5))) * scale))
    joint = max(1, round(scale))
    wall = np.empty((height, width, 3), np.float32)
    wall[:] = _colour(rng, (200, 192, 180), (20, 20, 20))
    brick = _colour(rng, (165, 72, 52), (25, 18, 15))
    for row in range(height // course + 1):
        top = row * course
        shift = length // 2 if row % 2 else 0
        for left in range(shift - length, width, length):
            colour = brick + rng.normal(0, 7, 3).astype(np.float32)
            wall[top : top + course - joint, max(0, left) : max(0, left + length - joint)] = colour
    return wall + _shade(_noise(rng, height, width, 1.2 * scale), 3, 3, 3)


def _wood(rng: np.random.Generator, height: int, width: int, scale: float) -> FloatArray:
    if rng.random() < 0.15:
        return _planks(rng, width, height, scale).transpose(1, 0, 2)
    return _planks(rng, height, width, scale)


def _planks(rng: np.random.Generator, height: int, width: int, scale: float) -> FloatArray:
    y, _ = _grid(height, width)
    fibres = 8 * _noise(rng, height, width, 1.2 * scale, 10)
    bend = 5 * scale * _noise(rng, height, width, 20 * scale, 3)
    rings = 5 * np.sin((y + bend) / (2.3 * scale))
    planks = _colour(rng, (160, 108, 62), (25, 18, 15)) + _shade(fibres + rings, 1.0, 0.85, 0.6)
    board = max(4, round(int(rng.integers(16, 26)) * scale))
    gap = max(1, round(scale))
    for top in range(0, height, board):
        planks[top : top + gap] *= 0.55
        planks[top : top + board] += rng.normal(0, 7)
    return planks


def _road(rng: np.random.Generator, height: int, width: int, scale: float) -> FloatArray:
    grey = np.float32(84 + rng.uniform(-14, 14))
    grain = 4 * _noise(rng, height, width, 1.3 * scale) + 5 * _noise(rng, height, width, 9 * scale)
    road = grey + _shade(grain, 1, 1, 1)
    dash = round(int(rng.integers(14, 22)) * scale)
    stroke = max(1, round(4 * scale))
    for top in range(round(int(rng.integers(0, 12)) * scale), height, round(52 * scale)):
        for left in range(0, width, 2 * dash):
            paint_colour = np.asarray((235, 225, 190), dtype=np.float32) + np.float32(rng.normal(0, 6))
            road[top : top + stroke, left : left + dash] = paint_colour
    return road


_PAINTERS: Final[dict[str, Painter]] = {
    "grass": _grass,
    "sand": _sand,
    "water": _water,
    "sky": _sky,
    "snow": _snow,
    "brick wall": _brick_wall,
    "wood": _wood,
    "road": _road,
}
