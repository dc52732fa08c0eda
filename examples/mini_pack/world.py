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
from typing import Final, Protocol, TypeVar

import numpy as np
import numpy.typing as npt

from examples.mini_pack.captions import caption
from examples.mini_pack.glyphs import FloatArray, GlyphSet, Jitter, Sprite, Styles
from examples.mini_pack.textures import TextureBank
from examples.mini_pack.vocabulary import LABEL_IDS, STUFF, THINGS, Stuff, Thing, find_thing

LabelArray = npt.NDArray[np.uint8]

SCENE_STREAM: Final = 0
"""First word of the seed of training scenes; other renderers use other words and never repeat a scene."""

COUNT_SHARES: Final = (0.05, 0.68, 0.15, 0.07, 0.05)
"""How often a scene has no, one, two, three or four objects."""
_SIZE_SHARES: Final = {1: (0.42, 0.90), 2: (0.36, 0.52), 3: (0.24, 0.42), 4: (0.24, 0.42)}
"""Range of an object's longer side as a share of the scene's, by number of objects."""
_UNDER_SKY: Final = frozenset({"grass", "sand", "water", "snow", "road"})


class Extent(Protocol):
    """Anything with a size in pixels."""

    @property
    def width(self) -> int:
        """Width in pixels."""
        ...

    @property
    def height(self) -> int:
        """Height in pixels."""
        ...


SpriteT = TypeVar("SpriteT", bound=Extent)


class Stage(Protocol[SpriteT]):
    """Where `direct` builds a scene: a picture, or notes from which one is rendered later."""

    def ground(self, stuff: str, top: int, bottom: int, rng: np.random.Generator) -> None:
        """Cover the rows from `top` to `bottom` (exclusive) with a texture drawn from `rng`."""
        ...

    def sprite(self, thing: Thing, size: float, rng: np.random.Generator) -> SpriteT:
        """Draw an object whose longer side has about `size` pixels, varied by `rng`."""
        ...

    def paste(self, sprite: SpriteT, left: int, top: int, thing: Thing) -> None:
        """Put the object over what is there already."""
        ...


@dataclass(frozen=True, slots=True)
class Story:
    """What a scene shows, without its pixels; see `Scene` for the attributes."""

    captions: tuple[str, ...]
    things: tuple[Thing, ...]
    stuff: Stuff
    under_sky: bool


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


def texture_extent(size: int) -> int:
    """Side in pixels of the textures from which grounds for scenes of side `size` are cut.

    Raises:
        ValueError: If `size` is below 16.
    """
    if size < 16:
        raise ValueError(f"scenes need at least 16 pixels, got size={size!r}")
    return round(2.5 * size)


def direct(
    stage: Stage[SpriteT],
    size: int,
    seed: int,
    *,
    things: Sequence[str] | None = None,
    count: int | None = None,
    captions: int = 3,
    smallest: float = 1.0,
) -> Story:
    """Decide what a scene shows and build it on a stage, ground first, then object by object.

    Every renderer goes through here: equal arguments give the same scene on each stage that takes the same
    numbers from the generator it is handed.

    Args:
        stage: What the scene is built on.
        size: Side S of the scene in pixels.
        seed: Decides everything, together with the other arguments; not negative.
        things: Names or aliases to draw the objects from; None means all.
        count: Number of objects (0 to 4); None draws it (`COUNT_SHARES`).
        captions: Number of captions.
        smallest: Objects are made smaller by a factor between this and 1, each by its own; 1 draws nothing.

    Raises:
        ValueError: If `count` is not in 0..4, exceeds the number of things, or a name is unknown.
    """
    pool = THINGS if things is None else tuple(dict.fromkeys(find_thing(name) for name in things))
    rng = np.random.default_rng((SCENE_STREAM, seed))
    if count is None:
        count = min(int(rng.choice(len(COUNT_SHARES), p=COUNT_SHARES)), len(pool))
    if not 0 <= count < len(COUNT_SHARES) or count > len(pool):
        raise ValueError(f"a scene has 0 to 4 different objects out of {len(pool)}, got count={count!r}")
    stuff = STUFF[int(rng.integers(len(STUFF)))]
    under_sky = stuff.name in _UNDER_SKY and rng.random() < 0.3
    horizon = int(rng.integers(int(0.25 * size), int(0.6 * size) + 1)) if under_sky else 0
    stage.ground(stuff.name, horizon, size, rng)
    if under_sky:
        stage.ground("sky", 0, horizon, rng)
    chosen = tuple(pool[int(i)] for i in rng.choice(len(pool), count, replace=False))
    for thing, centre in zip(chosen, _centres(count, rng), strict=True):
        share = rng.uniform(*_SIZE_SHARES[count])
        if smallest < 1:
            share *= rng.uniform(smallest, 1)
        sprite = stage.sprite(thing, share * size, rng)
        left, top = _place(sprite, centre, size, rng)
        stage.paste(sprite, left, top, thing)
    texts = tuple(caption(chosen, stuff, under_sky, rng) for _ in range(captions))
    return Story(captions=texts, things=chosen, stuff=stuff, under_sky=under_sky)


def _centres(count: int, rng: np.random.Generator) -> list[tuple[float, float] | None]:
    """Where objects stand, as shares (x, y) of the side: anywhere, side by side, or one per quarter."""
    if count < 2:
        return [None] * count
    if count == 2:
        return [(x + rng.uniform(-0.05, 0.05), 0.5 + rng.uniform(-0.22, 0.22)) for x in (0.27, 0.73)]
    quarters = [(x, y) for x in (0.26, 0.74) for y in (0.28, 0.74)]
    return [
        (quarters[i][0] + rng.uniform(-0.06, 0.06), quarters[i][1] + rng.uniform(-0.06, 0.06))
        for i in rng.permutation(len(quarters))[:count].tolist()
    ]


def _place(sprite: Extent, centre: tuple[float, float] | None, size: int, rng: np.random.Generator) -> tuple[int, int]:
    """Left and upper edge of a sprite; without a centre it stands anywhere inside."""
    if centre is None:
        left = rng.uniform(0, max(0, size - sprite.width))
        top = rng.uniform(0, max(0, size - sprite.height))
    else:
        left = centre[0] * size - sprite.width / 2
        top = centre[1] * size - sprite.height / 2
    return round(left), round(top)


class _Canvas:
    """The stage of `World`: every part is painted at once."""

    def __init__(self, size: int, styles: Styles, bank: TextureBank, jitter: Jitter) -> None:
        self.picture = np.empty((size, size, 3), np.float32)
        self.labels = np.empty((size, size), np.uint8)
        self._sets, self._choose = styles.sets, styles.chooser()
        self._bank, self._jitter = bank, jitter

    def ground(self, stuff: str, top: int, bottom: int, rng: np.random.Generator) -> None:
        self.picture[top:bottom] = self._bank.cut(stuff, rng, bottom - top, len(self.picture))
        self.labels[top:bottom] = LABEL_IDS[stuff]

    def sprite(self, thing: Thing, size: float, rng: np.random.Generator) -> Sprite:
        return self._sets[self._choose(rng)].sprite(thing.glyph, size, rng, self._jitter)

    def paste(self, sprite: Sprite, left: int, top: int, thing: Thing) -> None:
        paste(self.picture, self.labels, sprite, left, top, LABEL_IDS[thing.name])


class World:
    """Renders training scenes from one set of glyphs and one bank of textures."""

    def __init__(
        self,
        glyphs: GlyphSet | Styles,
        *,
        size: int = 64,
        bank_seed: int = 7,
        variants: int = 24,
        jitter: Jitter | None = None,
        smallest: float = 1.0,
    ) -> None:
        """Paint the textures.

        Args:
            glyphs: Where sprites come from: one artist's glyphs or several.
            size: Side S of the scenes in pixels.
            bank_seed: Seed of the textures; another one gives textures that share nothing with these.
            variants: Textures per stuff class.
            jitter: How strongly sprites vary; None means the defaults of `Jitter`.
            smallest: See `direct`.

        Raises:
            ValueError: If `size` is below 16.
        """
        self.size = size
        self.smallest = smallest
        self.styles = Styles.of(glyphs)
        self.jitter = jitter or Jitter()
        self.bank = TextureBank(bank_seed, variants=variants, extent=texture_extent(size), scale=size / 64)

    def scene(
        self, seed: int, *, things: Sequence[str] | None = None, count: int | None = None, captions: int = 3
    ) -> Scene:
        """Render one scene.

        Args:
            seed: Decides everything, together with the other arguments; not negative.
            things: Names or aliases to draw the objects from; None means all.
            count: Number of objects (0 to 4); None draws it (`COUNT_SHARES`).
            captions: Number of captions.

        Raises:
            ValueError: If `count` is not in 0..4, exceeds the number of things, or a name is unknown.
        """
        canvas = _Canvas(self.size, self.styles, self.bank, self.jitter)
        story = direct(canvas, self.size, seed, things=things, count=count, captions=captions, smallest=self.smallest)
        return Scene(
            image=np.clip(canvas.picture, 0, 255).astype(np.uint8),
            labels=canvas.labels,
            captions=story.captions,
            things=story.things,
            stuff=story.stuff,
            under_sky=story.under_sky,
        )
