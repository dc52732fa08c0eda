"""Emoji glyphs as sprites: drawing a glyph, and varying it.

The glyphs of the vocabulary come from Noto Color Emoji (SIL Open Font License 1.1) and lie in the folder
`noto`, so that no font need be installed. Other artwork can take their place: a font file, or a folder of PNG
files whose names are code points, which is how emoji artwork is handed out. `Styles` draws from several artists'
glyphs: what only one of them does is no part of a class then.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Literal, Protocol

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageChops, ImageDraw, ImageFilter, ImageFont, ImageOps

FloatArray = npt.NDArray[np.float32]

NOTO: Final = Path(__file__).resolve().parent / "noto"
"""The glyphs of the vocabulary, as Noto Color Emoji holds them."""
TWEMOJI: Final = NOTO.parents[1] / "pictograms" / "twemoji"
"""The same glyphs by other artists; see the LICENSE there."""
STYLES: Final = {"noto": NOTO, "twemoji": TWEMOJI}
"""Artwork that is part of the repository, by name."""

Mixed = Literal["scene", "glyph"]
"""Whether all objects of a scene are by one artist, or each by its own."""

_STRIKE: Final = 109
"""The one pixel size in which Noto Color Emoji holds its bitmaps."""
_YIQ: Final = np.array([[0.299, 0.587, 0.114], [0.596, -0.274, -0.322], [0.211, -0.523, 0.312]])


_CODE_POINTS: Final = re.compile(r"(?:emoji_)?u?([0-9a-f]{2,6}(?:[-_][0-9a-f]{2,6})*)")
"""File names such as `1f431`, `2708-fe0f` and `emoji_u1f431`, in lower case."""
_EMOJI_STYLE: Final = "fe0f"
"""The code point that asks for the coloured form; some file names have it and some leave it out."""


class FontError(RuntimeError):
    """The artwork of the glyphs is missing, or it cannot be used."""


@dataclass(frozen=True, slots=True)
class Warp:
    """How far sprites of one glyph are bent out of shape, as if seen from another side.

    Attributes:
        stretch: Standard deviation of the logarithm of the change of width over height.
        shear: Standard deviation of the sideways lean, in widths per height.
    """

    stretch: float = 0.09
    shear: float = 0.07


@dataclass(frozen=True, slots=True)
class Jitter:
    """How far sprites of one glyph differ from each other.

    Attributes:
        mirror: Probability of mirroring the glyph.
        rotation: Standard deviation of the rotation in degrees.
        rotation_limit: Largest rotation in degrees.
        hue: Standard deviation of the hue rotation in radians.
        gain: Largest relative change of brightness.
        warp: How strongly to bend out of shape; None means not at all.
        inked: Probability of dark lines around the glyph and along the edges within it, as some artists draw them.
    """

    mirror: float = 0.2
    rotation: float = 6.0
    rotation_limit: float = 12.0
    hue: float = 0.06
    gain: float = 0.08
    warp: Warp | None = None
    inked: float = 0.0


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


class _Artwork(Protocol):
    """Where glyphs come from."""

    def draw(self, character: str) -> Image.Image | None:
        """Return an RGBA picture of any size, or None if there is no such glyph."""


class _Font:
    """A font file with colour bitmaps of 109 pixels, or with scalable colour layers."""

    def __init__(self, path: Path) -> None:
        try:
            # the basic layout engine draws the same on machines with and without libraqm
            self._font = ImageFont.truetype(str(path), _STRIKE, layout_engine=ImageFont.Layout.BASIC)
        except OSError as error:
            raise FontError(
                f"{path} cannot be used ({error}); give a font with colour bitmaps of {_STRIKE} pixels, such as "
                "NotoColorEmoji.ttf, or a folder of PNG files named by code point"
            ) from error

    def draw(self, character: str) -> Image.Image:
        canvas = Image.new("RGBA", (160, 160), (0, 0, 0, 0))
        ImageDraw.Draw(canvas).text((4, 4), character, font=self._font, embedded_color=True)
        return canvas


class _Folder:
    """A folder of PNG files such as `1f431.png`."""

    def __init__(self, path: Path) -> None:
        self._files: dict[str, Path] = {}
        for file in sorted(path.glob("*.png")):
            named = _CODE_POINTS.fullmatch(file.stem.lower())
            if named is not None:
                self._files[_key(re.split("[-_]", named[1]))] = file
        if not self._files:
            raise FontError(f"{path} holds no PNG files named by code point, such as 1f431.png for a cat")

    def draw(self, character: str) -> Image.Image | None:
        file = self._files.get(_key([f"{ord(letter):04x}" for letter in character]))
        if file is None:
            return None
        try:
            with Image.open(file) as picture:
                return picture.convert("RGBA")
        except OSError as error:
            raise FontError(f"{file} cannot be read ({error}); replace it") from error


def _key(points: list[str]) -> str:
    return "-".join(f"{int(point, 16):x}" for point in points if point != _EMOJI_STYLE)


class GlyphSet:
    """The glyphs of one emoji font, each drawn once at the font's own size."""

    def __init__(self, font: str | Path | None = None) -> None:
        """Open the artwork.

        Args:
            font: Path of the font file, or of a folder of PNG files named by code point (`1f431.png`; 72
                pixels or more are best); None takes the bundled glyphs (`NOTO`).

        Raises:
            FontError: If there is no such file or folder, the font holds no colour bitmaps of 109 pixels, or the
                folder holds no such files.
        """
        self.path = NOTO if font is None else Path(font)
        if not self.path.exists():
            raise FontError(
                f"{self.path} does not exist; give the path of a font file such as NotoColorEmoji.ttf, or of a "
                "folder of PNG files named by code point"
            )
        self._artwork: _Artwork = _Folder(self.path) if self.path.is_dir() else _Font(self.path)
        self._drawn: dict[str, Image.Image] = {}

    def glyph(self, character: str) -> Image.Image:
        """Return a glyph as an RGBA picture, cropped to its ink.

        Raises:
            FontError: If the font has no colour glyph for the character.
        """
        if character not in self._drawn:
            picture = self._artwork.draw(character)
            ink = None if picture is None else picture.getbbox()
            if picture is None or ink is None:
                points = "-".join(f"{ord(letter):x}" for letter in character)
                raise FontError(
                    f"{self.path} has no glyph for {character!r} ({points}); install a newer version of the font, "
                    "or use another"
                )
            self._drawn[character] = picture.crop(ink)
        return self._drawn[character]

    def sprite(
        self,
        character: str,
        size: float,
        rng: np.random.Generator,
        jitter: Jitter | None = None,
    ) -> Sprite:
        """Draw a varied sprite of a glyph.

        Args:
            character: The emoji.
            size: Length of the sprite's longer side in pixels.
            rng: Source of the variation.
            jitter: How strongly to vary; None means the defaults of `Jitter`. What it switches off draws nothing from
                `rng`.

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
        if jitter.warp is not None:
            picture = _warped(picture, jitter.warp, rng)
        if jitter.inked and rng.random() < jitter.inked:
            picture = _inked(picture, rng)
        angle = float(np.clip(rng.normal(0, jitter.rotation), -jitter.rotation_limit, jitter.rotation_limit))
        picture = picture.rotate(angle, Image.Resampling.BICUBIC, expand=True)
        picture = _resized(picture, size / max(picture.size), Image.Resampling.LANCZOS)
        pixels = np.asarray(picture, dtype=np.float32)
        gain = 1 + rng.uniform(-jitter.gain, jitter.gain)
        rgb = pixels[..., :3] @ _hue_rotation(rng.normal(0, jitter.hue)).T * np.float32(gain)
        return Sprite(rgb=np.clip(rgb, 0, 255), alpha=pixels[..., 3] / np.float32(255))


class Styles:
    """The glyphs of one or several artists, from which scenes are drawn."""

    def __init__(self, sets: Sequence[GlyphSet], mixed: Mixed = "glyph") -> None:
        """Take the sets.

        Args:
            sets: One or more.
            mixed: Whether every object is by an artist of its own ("glyph"), or all of a scene by one ("scene").

        Raises:
            ValueError: If there is no set, or `mixed` is something else.
        """
        if not sets:
            raise ValueError(f"name at least one style, such as {' or '.join(STYLES)}")
        if mixed not in ("scene", "glyph"):
            raise ValueError(f'styles are mixed per "scene" or per "glyph", got {mixed!r}')
        self.sets = tuple(sets)
        self.mixed = mixed

    @classmethod
    def of(cls, glyphs: GlyphSet | Styles) -> Styles:
        """Take one set of glyphs as the only style."""
        return glyphs if isinstance(glyphs, Styles) else cls([glyphs])

    @classmethod
    def named(cls, names: Sequence[str], mixed: Mixed = "glyph") -> Styles:
        """Open artwork by its names in `STYLES`, or by paths of fonts and folders.

        Raises:
            FontError: If one of them cannot be used.
            ValueError: If there is none, or `mixed` is neither "scene" nor "glyph".
        """
        return cls([GlyphSet(STYLES.get(name, Path(name))) for name in names], mixed)

    def chooser(self) -> Callable[[np.random.Generator], int]:
        """For one scene: what gives each of its objects the index of a set. With one set it draws nothing."""
        chosen: int | None = None

        def choose(rng: np.random.Generator) -> int:
            nonlocal chosen
            if chosen is None or self.mixed == "glyph":
                chosen = int(rng.integers(len(self.sets))) if len(self.sets) > 1 else 0
            return chosen

        return choose


def _resized(picture: Image.Image, factor: float, method: Image.Resampling) -> Image.Image:
    width, height = (max(4, round(side * factor)) for side in picture.size)
    return picture.resize((width, height), method, reducing_gap=2.0)


def _inked(picture: Image.Image, rng: np.random.Generator) -> Image.Image:
    """Draw dark lines around a picture and along the edges within it, 2 to 4 % of its longer side wide."""
    width = max(1, round(max(picture.size) * rng.uniform(0.02, 0.04)))
    shade = int(rng.integers(48))
    picture = ImageOps.expand(picture, width, (0, 0, 0, 0))
    alpha = picture.getchannel("A")
    spread = ImageFilter.MaxFilter(2 * width + 1)
    # edges of the colours on mid-grey: the outline is drawn around the glyph, not within it
    flat = Image.new("RGBA", picture.size, (128, 128, 128, 255))
    flat.alpha_composite(picture)
    edges = flat.convert("L").filter(ImageFilter.FIND_EDGES).point(lambda value: min(255, 3 * max(0, value - 24)))
    lines = ImageChops.multiply(edges.filter(ImageFilter.MaxFilter(2 * (width // 2) + 1)), alpha)
    picture.paste((shade, shade, shade), mask=lines)
    picture.putalpha(alpha)
    result = Image.new("RGBA", picture.size, (shade, shade, shade, 0))
    result.putalpha(alpha.filter(spread))
    result.alpha_composite(picture)
    return result


def _warped(picture: Image.Image, warp: Warp, rng: np.random.Generator) -> Image.Image:
    """Change a picture's proportions and let it lean; both are limited to two standard deviations."""
    stretch = math.exp(warp.stretch * float(np.clip(rng.normal(), -2, 2)))
    shear = warp.shear * float(np.clip(rng.normal(), -2, 2))
    width, height = picture.width * math.sqrt(stretch), picture.height / math.sqrt(stretch)
    lean = abs(shear) * height
    across, down = picture.width / width, picture.height / height
    # the affine map goes from a place in the result to one in the source; the foot stays where it is
    offset = -lean if shear > 0 else 0.0
    source = (across, across * shear, across * offset, 0.0, down, 0.0)
    result = picture.transform(
        (max(1, round(width + lean)), max(1, round(height))),
        Image.Transform.AFFINE,
        source,
        Image.Resampling.BICUBIC,
    )
    ink = result.getbbox()
    return result if ink is None else result.crop(ink)


def _hue_rotation(angle: float) -> FloatArray:
    """Matrix (3, 3) that turns RGB colours about the grey axis (a rotation of I and Q in YIQ)."""
    cosine, sine = math.cos(angle), math.sin(angle)
    turn = np.array([[1, 0, 0], [0, cosine, -sine], [0, sine, cosine]])
    return (np.linalg.inv(_YIQ) @ turn @ _YIQ).astype(np.float32)
