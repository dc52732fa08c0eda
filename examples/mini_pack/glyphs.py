"""Emoji glyphs as sprites: finding the font, drawing a glyph, and varying it.

The glyphs come from Noto Color Emoji (SIL Open Font License 1.1).
"""

from __future__ import annotations

import math
import os
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageDraw, ImageFont

FloatArray = npt.NDArray[np.float32]

FONT_ENVIRONMENT: Final = "OVSEG_EMOJI_FONT"
FONT_FAMILY: Final = "Noto Color Emoji"

_DEBIAN_FONT: Final = Path("/usr/share/fonts/truetype/noto/NotoColorEmoji.ttf")
_STRIKE: Final = 109
"""The one pixel size in which Noto Color Emoji holds its bitmaps."""
_YIQ: Final = np.array([[0.299, 0.587, 0.114], [0.596, -0.274, -0.322], [0.211, -0.523, 0.312]])


class FontError(RuntimeError):
    """The emoji font is missing, or it is not one that can be used."""


@dataclass(frozen=True, slots=True)
class Jitter:
    """How far sprites of one glyph differ from each other.

    Attributes:
        mirror: Probability of mirroring the glyph.
        rotation: Standard deviation of the rotation in degrees.
        rotation_limit: Largest rotation in degrees.
        hue: Standard deviation of the hue rotation in radians.
        gain: Largest relative change of brightness.
    """

    mirror: float = 0.2
    rotation: float = 6.0
    rotation_limit: float = 12.0
    hue: float = 0.06
    gain: float = 0.08


@dataclass(frozen=True, slots=True)
class Sprite:
    """A picture to paste: float32 `rgb` (h, w, 3) in 0..255 and float32 `alpha` (h, w) in 0..1."""

    rgb: FloatArray
    alpha: FloatArray

    @property
    def height(self) -> int:
        """Height in pixels."""
        return int(self.alpha.shape[0])

    @property
    def width(self) -> int:
        """Width in pixels."""
        return int(self.alpha.shape[1])


def find_font(path: str | Path | None = None) -> Path:
    """Find Noto Color Emoji.

    Looked up in this order: `path`, the environment variable ``OVSEG_EMOJI_FONT``, fontconfig
    (``fc-match``), the place where Debian and Ubuntu install the font.

    Args:
        path: The font file, if the caller knows it.

    Returns:
        The path of the font file, which exists.

    Raises:
        FontError: If there is no such file, or the font is not installed.
    """
    for source, given in (("", path), (f"{FONT_ENVIRONMENT}=", os.environ.get(FONT_ENVIRONMENT))):
        if given:
            if not Path(given).is_file():
                raise FontError(f"{source}{given} is not a file; give the path of NotoColorEmoji.ttf")
            return Path(given)
    found = _ask_fontconfig()
    if found is not None:
        return found
    if _DEBIAN_FONT.is_file():
        return _DEBIAN_FONT
    raise FontError(
        f"the font {FONT_FAMILY} is not installed; install it (Debian and Ubuntu: "
        f"apt install fonts-noto-color-emoji) or set {FONT_ENVIRONMENT} to the path of NotoColorEmoji.ttf"
    )


def _ask_fontconfig() -> Path | None:
    program = shutil.which("fc-match")
    if program is None:
        return None
    answer = subprocess.run(
        [program, "--format=%{family}\n%{file}", FONT_FAMILY],
        capture_output=True,
        text=True,
        check=False,
        timeout=30,
    )
    family, _, file = answer.stdout.partition("\n")
    # fontconfig never says "not found", it offers the nearest font: only the asked family will do
    if answer.returncode != 0 or FONT_FAMILY not in family.split(",") or not Path(file).is_file():
        return None
    return Path(file)


class GlyphSet:
    """The glyphs of one emoji font, each drawn once at the font's own size."""

    def __init__(self, font: str | Path | None = None) -> None:
        """Open the font.

        Args:
            font: Path of the font file; None looks it up (see `find_font`).

        Raises:
            FontError: If the font is missing, or holds no colour bitmaps of 109 pixels.
        """
        self.path = find_font(font)
        try:
            # the basic layout engine draws the same on machines with and without libraqm
            self._font = ImageFont.truetype(str(self.path), _STRIKE, layout_engine=ImageFont.Layout.BASIC)
        except OSError as error:
            raise FontError(
                f"{self.path} cannot be used ({error}); the bitmap version of {FONT_FAMILY} is needed, as "
                "in the Debian package fonts-noto-color-emoji"
            ) from error
        self._drawn: dict[str, Image.Image] = {}

    def glyph(self, character: str) -> Image.Image:
        """Return a glyph as an RGBA picture, cropped to its ink.

        Raises:
            FontError: If the font has no colour glyph for the character.
        """
        if character not in self._drawn:
            canvas = Image.new("RGBA", (160, 160), (0, 0, 0, 0))
            ImageDraw.Draw(canvas).text((4, 4), character, font=self._font, embedded_color=True)
            ink = canvas.getbbox()
            if ink is None:
                raise FontError(f"{self.path} has no glyph for {character!r}; install a newer {FONT_FAMILY}")
            self._drawn[character] = canvas.crop(ink)
        return self._drawn[character]

    def sprite(self, character: str, size: float, rng: np.random.Generator, jitter: Jitter | None = None) -> Sprite:
        """Draw a varied sprite of a glyph.

        Args:
            character: The emoji.
            size: Length of the sprite's longer side in pixels.
            rng: Source of the variation.
            jitter: How strongly to vary; None means the defaults of `Jitter`.

        Returns:
            The sprite; its longer side is ``round(size)``, at least 4 pixels.
        """
        jitter = jitter or Jitter()
        picture = self.glyph(character)
        if rng.random() < jitter.mirror:
            picture = picture.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
        # rotating at twice the final size is as good as at full size and far cheaper for small sprites
        shrink = size / max(picture.size)
        if shrink < 0.5:
            picture = _resized(picture, 2 * shrink, Image.Resampling.BILINEAR)
        angle = float(np.clip(rng.normal(0, jitter.rotation), -jitter.rotation_limit, jitter.rotation_limit))
        picture = picture.rotate(angle, Image.Resampling.BICUBIC, expand=True)
        picture = _resized(picture, size / max(picture.size), Image.Resampling.LANCZOS)
        pixels = np.asarray(picture, dtype=np.float32)
        gain = 1 + rng.uniform(-jitter.gain, jitter.gain)
        rgb = pixels[..., :3] @ _hue_rotation(rng.normal(0, jitter.hue)).T * np.float32(gain)
        return Sprite(rgb=np.clip(rgb, 0, 255), alpha=pixels[..., 3] / np.float32(255))


def _resized(picture: Image.Image, factor: float, method: Image.Resampling) -> Image.Image:
    width, height = (max(4, round(side * factor)) for side in picture.size)
    return picture.resize((width, height), method, reducing_gap=2.0)


def _hue_rotation(angle: float) -> FloatArray:
    """Matrix (3, 3) that turns RGB colours about the grey axis (a rotation of I and Q in YIQ)."""
    cosine, sine = math.cos(angle), math.sin(angle)
    turn = np.array([[1, 0, 0], [0, cosine, -sine], [0, sine, cosine]])
    return (np.linalg.inv(_YIQ) @ turn @ _YIQ).astype(np.float32)
