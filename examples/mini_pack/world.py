"""The pictogram world: emoji glyphs on procedural textures, with exact masks and captions.

`World.scene` renders the small scenes that models are trained on. `paste` is the one place where an object
enters a picture and its label map, so that larger pictures (see `examples/pictograms`) follow the same
rule: a pixel belongs to an object where the object's alpha is above one half.

    >>> world = World(GlyphSet())                     # doctest: +SKIP
    >>> scene = world.scene(seed=0)                   # doctest: +SKIP
    >>> scene.image.shape, scene.labels.shape         # doctest: +SKIP
    ((64, 64, 3), (64, 64))

Equal seeds give equal scenes with the same versions of the font, numpy, scipy and pillow.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
import numpy.typing as npt

from examples.mini_pack.captions import caption
from examples.mini_pack.glyphs import FloatArray, GlyphSet, Jitter, Sprite
from examples.mini_pack.textures import TextureBank
from examples.mini_pack.vocabulary import LABEL_IDS, STUFF, THINGS, Stuff, Thing, find_thing

LabelArray = npt.NDArray[np.uint8]

SCENE_STREAM: Final = 0
"""First word of the seed of training scenes; other renderers use other words and never repeat a scene."""

_COUNT_SHARES: Final = (0.06, 0.78, 0.16)
"""How often a scene has no, one or two objects."""
_UNDER_SKY: Final = frozenset({"grass", "sand", "water", "snow", "road"})


@dataclass(frozen=True, slots=True)
class Scene:
    """A rendered training scene.

    Attributes:
        image: uint8 array (S, S, 3), RGB.
        labels: uint8 array (S, S) of label ids (`LABEL_IDS`); no pixel is background.
        captions: Descriptions of the scene, all true, none complete.
        things: The objects, in drawing order.
        stuff: What the objects stand on or before.
        under_sky: Whether the upper part is sky.
    """

    image: npt.NDArray[np.uint8]
    labels: LabelArray
    captions: tuple[str, ...]
    things: tuple[Thing, ...]
    stuff: Stuff
    under_sky: bool


def paste(canvas: FloatArray, labels: LabelArray, sprite: Sprite, left: int, top: int, label: int) -> None:
    """Blend a sprite into a picture and write its label, both in place.

    Args:
        canvas: float32 array (H, W, 3), RGB in 0..255.
        labels: uint8 array (H, W) of label ids.
        sprite: What to paste; the part outside the picture is cut off.
        left: Column of the sprite's left edge; may be negative.
        top: Row of the sprite's upper edge; may be negative.
        label: Id given to every pixel where the sprite's alpha is above 0.5.
    """
    height, width = labels.shape
    rows = slice(max(0, top), max(0, min(height, top + sprite.height)))
    columns = slice(max(0, left), max(0, min(width, left + sprite.width)))
    cut = np.s_[rows.start - top : rows.stop - top, columns.start - left : columns.stop - left]
    if rows.start >= rows.stop or columns.start >= columns.stop:
        return
    alpha = sprite.alpha[cut]
    canvas[rows, columns] += (sprite.rgb[cut] - canvas[rows, columns]) * alpha[..., None]
    labels[rows, columns][alpha > 0.5] = label


class World:
    """Renders training scenes from one set of glyphs and one bank of textures."""

    def __init__(
        self,
        glyphs: GlyphSet,
        *,
        size: int = 64,
        bank_seed: int = 7,
        variants: int = 24,
        jitter: Jitter | None = None,
    ) -> None:
        """Paint the textures.

        Args:
            glyphs: Where sprites come from.
            size: Side S of the scenes in pixels.
            bank_seed: Seed of the textures; another one gives textures that share nothing with these.
            variants: Textures per stuff class.
            jitter: How strongly sprites vary; None means the defaults of `Jitter`.

        Raises:
            ValueError: If `size` is below 16.
        """
        if size < 16:
            raise ValueError(f"scenes need at least 16 pixels, got size={size!r}")
        self.size = size
        self.glyphs = glyphs
        self.jitter = jitter or Jitter()
        self.bank = TextureBank(bank_seed, variants=variants, extent=round(2.5 * size), scale=size / 64)

    def scene(
        self, seed: int, *, things: Sequence[str] | None = None, count: int | None = None, captions: int = 3
    ) -> Scene:
        """Render one scene.

        Args:
            seed: Decides everything, together with the other arguments; not negative.
            things: Names or aliases to draw the objects from; None means all.
            count: Number of objects (0, 1 or 2); None draws it.
            captions: Number of captions.

        Raises:
            ValueError: If `count` is not 0, 1 or 2, exceeds the number of things, or a name is unknown.
        """
        pool = THINGS if things is None else tuple(dict.fromkeys(find_thing(name) for name in things))
        rng = np.random.default_rng((SCENE_STREAM, seed))
        if count is None:
            count = min(int(rng.choice(len(_COUNT_SHARES), p=_COUNT_SHARES)), len(pool))
        if not 0 <= count < len(_COUNT_SHARES) or count > len(pool):
            raise ValueError(f"a scene has 0 to 2 different objects out of {len(pool)}, got count={count!r}")
        stuff = STUFF[int(rng.integers(len(STUFF)))]
        under_sky = stuff.name in _UNDER_SKY and rng.random() < 0.3
        canvas, labels = self._ground(stuff, under_sky, rng)
        chosen = tuple(pool[int(i)] for i in rng.choice(len(pool), count, replace=False))
        for position, thing in enumerate(chosen):
            share = rng.uniform(0.42, 0.90) if count == 1 else rng.uniform(0.36, 0.52)
            sprite = self.glyphs.sprite(thing.glyph, share * self.size, rng, self.jitter)
            left, top = self._place(sprite, position if count > 1 else None, rng)
            paste(canvas, labels, sprite, left, top, LABEL_IDS[thing.name])
        return Scene(
            image=np.clip(canvas, 0, 255).astype(np.uint8),
            labels=labels,
            captions=tuple(caption(chosen, stuff, under_sky, rng) for _ in range(captions)),
            things=chosen,
            stuff=stuff,
            under_sky=under_sky,
        )

    def _ground(self, stuff: Stuff, under_sky: bool, rng: np.random.Generator) -> tuple[FloatArray, LabelArray]:
        size = self.size
        horizon = int(rng.integers(int(0.25 * size), int(0.6 * size) + 1)) if under_sky else 0
        canvas = np.empty((size, size, 3), np.float32)
        canvas[horizon:] = self.bank.cut(stuff.name, rng, size - horizon, size)
        labels = np.full((size, size), LABEL_IDS[stuff.name], np.uint8)
        if under_sky:
            canvas[:horizon] = self.bank.cut("sky", rng, horizon, size)
            labels[:horizon] = LABEL_IDS["sky"]
        return canvas, labels

    def _place(self, sprite: Sprite, position: int | None, rng: np.random.Generator) -> tuple[int, int]:
        """Left and upper edge: anywhere for a single object, side by side (position 0, 1) for two."""
        size = self.size
        if position is None:
            left = rng.uniform(0, max(0, size - sprite.width))
            top = rng.uniform(0, max(0, size - sprite.height))
        else:
            left = ((0.27, 0.73)[position] + rng.uniform(-0.05, 0.05)) * size - sprite.width / 2
            top = (0.5 + rng.uniform(-0.22, 0.22)) * size - sprite.height / 2
        return round(left), round(top)
