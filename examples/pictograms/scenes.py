"""Scenes that are composed like photographs: ground, backdrop, and objects at different depths.

A picture is a stack of stuff regions (a layout) on which objects stand. Objects further down are nearer,
hence larger, and hide what is behind them. Labels are exact, as everywhere in the pictogram world: stuff
regions and objects both claim a pixel where their alpha is above one half.

Nothing is drawn as in training: every texture is painted for its picture alone and at another scale, glyphs
are stretched, sheared, coloured and lit differently, cut off by the border, and hidden by each other.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
import numpy.typing as npt
from scipy.ndimage import gaussian_filter, gaussian_filter1d

from examples.mini_pack.glyphs import FloatArray, GlyphSet, Jitter, Sprite, Warp
from examples.mini_pack.textures import paint
from examples.mini_pack.vocabulary import LABEL_IDS, THING_NAMES, find_thing
from examples.mini_pack.world import LabelArray, paste

PICTURE_STREAM: Final = 1
"""First word of the seed of every picture; training scenes use another one (`world.SCENE_STREAM`)."""

LAYOUTS: Final[tuple[tuple[str, ...], ...]] = (
    ("sky", "grass"),
    ("sky", "sand"),
    ("sky", "snow"),
    ("sky", "road"),
    ("sky", "water", "sand"),
    ("sky", "water", "grass"),
    ("sky", "water", "wood"),
    ("sky", "water", "snow"),
    ("sky", "grass", "road"),
    ("sky", "snow", "road"),
    ("sky", "brick wall", "road"),
    ("sky", "brick wall", "grass"),
    ("brick wall", "road"),
    ("brick wall", "wood"),
    ("brick wall", "grass"),
    ("brick wall", "sand"),
)
"""Stuff regions from top to bottom; the lowest one is always ground that carries objects."""

JITTER: Final = Jitter(mirror=0.4, rotation=4.0, rotation_limit=10.0, hue=0.08, gain=0.12, warp=Warp())
"""Objects lean less than the loose glyphs of the training scenes, as they stand; their colours and proportions vary
more."""

SMALLEST: Final = 24
LARGEST: Final = 150
"""Bounds of an object's longer side in pixels."""

_AIRBORNE: Final = frozenset({"airplane", "balloon", "bird"})
_AFLOAT: Final = frozenset({"boat", "fish"})
_BACKDROP: Final = frozenset({"sky", "brick wall", "water"})
_STRAIGHT: Final = frozenset({"water", "road", "wood", "brick wall"})
"""Stuff whose upper edge is a straight line; that of the others undulates."""

_LARGE: Final = frozenset({"house", "tree", "bus", "train", "elephant", "boat", "car"})
_SMALL: Final = frozenset(
    {"doughnut", "apple", "strawberry", "mushroom", "cup", "flower", "bird", "frog", "camera", "book"}
)

_VISIBLE: Final = 0.55
"""Least share of every object that is neither hidden by others nor cut off by the border."""
_EDGE_SHARES: Final = {2: ((0.36, 0.56),), 3: ((0.22, 0.34), (0.50, 0.64))}
"""Where the regions below the first begin, as ranges of shares of the height, by number of regions."""
_LONELY: Final = 0.1
"""Share of the pictures of a set in which no focus class appears."""
_FOCUS_COUNTS: Final = {1: 0.05, 2: 0.20, 3: 0.50, 4: 0.25}
_DISTRACTOR: Final = 0.4
"""How often a picture with room for another object gets one that is no focus class."""
_ATTEMPTS: Final = 100
"""Arrangements tried per picture; a few are enough at the usual sizes."""


_HAZE: Final = (205.0, 218.0, 232.0)
"""What distant objects fade into."""


@dataclass(frozen=True, slots=True)
class Part:
    """A run of pictures in a set.

    Attributes:
        count: Number of pictures.
        focus: Names or aliases of the classes that they are about, four or more.
    """

    count: int
    focus: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Picture:
    """A rendered picture.

    Attributes:
        image: uint8 array (H, W, 3), RGB.
        labels: uint8 array (H, W) of label ids (`vocabulary.LABEL_IDS`); no pixel is background.
        things: Names of the objects.
        layout: Names of the stuff regions from top to bottom.
    """

    image: npt.NDArray[np.uint8]
    labels: LabelArray
    things: tuple[str, ...]
    layout: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class _Placed:
    name: str
    sprite: Sprite
    left: int
    top: int
    grounded: bool
    nearness: float

    @property
    def bottom(self) -> int:
        return self.top + self.sprite.height


def render_set(
    glyphs: GlyphSet,
    parts: Sequence[Part],
    seed: int,
    *,
    width: int = 256,
    height: int = 192,
) -> Iterator[Picture]:
    """Render a set of pictures.

    The focus classes of a part appear about equally often in it; one picture in ten has none of them, and
    others of the vocabulary stand among them as distractors.

    Args:
        glyphs: Where the objects come from.
        parts: How many pictures of which classes, in order.
        seed: Decides the whole set, together with the other arguments; not negative.
        width: Width of the pictures in pixels.
        height: Height of the pictures in pixels.

    Yields:
        The pictures, one after another.

    Raises:
        ValueError: If a name is unknown, there are fewer than four focus classes, or a picture is
            smaller than 128x96.
    """
    classes = [_names_of(part) for part in parts]
    if width < 128 or height < 96:
        raise ValueError(f"pictures need at least 128x96 pixels, got {width}x{height}")
    # numpy pads short seeds with zeros: (stream, 0, seed) must not be the seed of a picture
    planner = np.random.default_rng((PICTURE_STREAM, 0, seed))
    layouts: list[tuple[str, ...]] = []
    casts = [things for part, names in zip(parts, classes, strict=True) for things in _cast(part.count, names, planner)]
    for index, things in enumerate(casts):
        layout = _next_layout(layouts, things, planner)
        rng = np.random.default_rng((PICTURE_STREAM, index + 1, seed))
        yield compose(glyphs, things, layout, rng, width=width, height=height)


def _names_of(part: Part) -> tuple[str, ...]:
    """Canonical names of a part's focus classes."""
    names = tuple(dict.fromkeys(find_thing(word).name for word in part.focus))
    if len(names) < max(_FOCUS_COUNTS):
        raise ValueError(f"a set needs at least {max(_FOCUS_COUNTS)} different classes, got {list(names)}")
    return names


def _cast(count: int, focus: tuple[str, ...], rng: np.random.Generator) -> list[tuple[str, ...]]:
    """Decide which objects each picture of a part gets."""
    others = [name for name in THING_NAMES if name not in focus]
    lonely = set(rng.choice(count, round(_LONELY * count), replace=False).tolist()) if count else set()
    deck: list[str] = []
    casts = []
    for index in range(count):
        if index in lonely:
            size = min(int(rng.integers(0, 3)), len(others))
            casts.append(tuple(rng.choice(others, size, replace=False).tolist()) if size else ())
            continue
        size = int(rng.choice(list(_FOCUS_COUNTS), p=list(_FOCUS_COUNTS.values())))
        things = _draw(deck, focus, size, rng)
        if others and size < max(_FOCUS_COUNTS) and rng.random() < _DISTRACTOR:
            things.append(str(rng.choice(others)))
        casts.append(tuple(things))
    return casts


def _draw(deck: list[str], names: tuple[str, ...], count: int, rng: np.random.Generator) -> list[str]:
    """Draw different names from a deck that holds each name once and is renewed when it runs out."""
    drawn: list[str] = []
    while len(drawn) < count:
        if not any(name not in drawn for name in deck):
            deck.extend(rng.permutation(names).tolist())
        drawn.append(deck.pop(next(i for i, name in enumerate(deck) if name not in drawn)))
    return drawn


def _next_layout(deck: list[tuple[str, ...]], things: Sequence[str], rng: np.random.Generator) -> tuple[str, ...]:
    """Draw a layout that has sky for what flies and water for what swims, from a deck as above."""
    needed = set()
    if _AIRBORNE.intersection(things):
        needed.add("sky")
    if _AFLOAT.intersection(things):
        needed.add("water")
    if not any(needed.issubset(layout) for layout in deck):
        deck.extend(LAYOUTS[int(i)] for i in rng.permutation(len(LAYOUTS)))
    return deck.pop(next(i for i, layout in enumerate(deck) if needed.issubset(layout)))


def compose(
    glyphs: GlyphSet,
    things: Sequence[str],
    layout: tuple[str, ...],
    rng: np.random.Generator,
    *,
    width: int = 256,
    height: int = 192,
) -> Picture:
    """Render one picture with the given objects.

    Args:
        glyphs: Where the objects come from.
        things: Canonical names of the objects.
        layout: One of `LAYOUTS`; needs sky for what flies and water for what swims.
        rng: Decides everything else.
        width: Width in pixels.
        height: Height in pixels.

    Returns:
        The picture. At least 55 % of each object can be seen.

    Raises:
        ValueError: If a name is unknown, or the layout has no place for an object.
        RuntimeError: If no arrangement was found, as happens with too many objects for the size.
    """
    edges = _edges(layout, height, rng)
    for _ in range(_ATTEMPTS):
        placed = [_place(glyphs, name, layout, edges, width, rng) for name in things]
        placed.sort(key=lambda item: item.bottom)
        if _all_visible(placed, width, height):
            break
    else:
        raise RuntimeError(f"found no place for {len(things)} objects in {width}x{height} pixels")
    canvas, labels = _ground(layout, edges, width, rng)
    light = float(rng.uniform(-1, 1))
    for item in placed:
        if item.grounded:
            _cast_shadow(canvas, item, light)
        paste(canvas, labels, _lit(item, light), item.left, item.top, LABEL_IDS[item.name])
    return Picture(
        image=_photograph(canvas, light, rng),
        labels=labels,
        things=tuple(item.name for item in placed),
        layout=layout,
    )


def _edges(layout: tuple[str, ...], height: int, rng: np.random.Generator) -> tuple[int, ...]:
    """Row where each region begins, and the picture's height at the end."""
    shares = [rng.uniform(low, high) for low, high in _EDGE_SHARES[len(layout)]]
    return (0, *(round(share * height) for share in shares), height)


def _ground(
    layout: tuple[str, ...], edges: tuple[int, ...], width: int, rng: np.random.Generator
) -> tuple[FloatArray, LabelArray]:
    """Paint the stuff regions from the back to the front."""
    height = edges[-1]
    canvas = np.zeros((height, width, 3), np.float32)
    labels = np.zeros((height, width), np.uint8)
    for position, (name, start, end) in enumerate(zip(layout, edges, edges[1:], strict=False)):
        outline = _outline(name, width, height, rng) if position else np.zeros(width, np.float32)
        # the region reaches a little below its end, for the next one's edge goes up and down
        first = max(0, int(np.floor(start + outline.min())))
        last = min(height, end + height // 10)
        texture = paint(name, rng, last - first, width, scale=rng.uniform(1.2, 1.7))
        if position and name != "water":
            # ground gets paler with distance
            texture += np.linspace(10, -6, last - first, dtype=np.float32)[:, None, None]
        rows = np.arange(first, last, dtype=np.float32)[:, None]
        alpha = np.clip(rows + 0.5 - (start + outline), 0, 1) if position else np.ones((last, width), np.float32)
        sprite = Sprite(rgb=texture, alpha=alpha.astype(np.float32))
        paste(canvas, labels, sprite, 0, first, LABEL_IDS[name])
    return canvas, labels


def _outline(name: str, width: int, height: int, rng: np.random.Generator) -> FloatArray:
    """Deviation of a region's upper edge from its mean row, per column."""
    if name in _STRAIGHT:
        return np.zeros(width, np.float32)
    noise = gaussian_filter1d(rng.standard_normal(width), width / 10, mode="reflect")
    wave = noise / max(float(np.abs(noise).max()), 1e-6)
    return np.asarray(wave * rng.uniform(0.015, 0.05) * height, dtype=np.float32)


def _place(
    glyphs: GlyphSet,
    name: str,
    layout: tuple[str, ...],
    edges: tuple[int, ...],
    width: int,
    rng: np.random.Generator,
) -> _Placed:
    """Draw a size and a place for one object."""
    height = edges[-1]
    unit = min(height, 0.75 * width) / 192
    region = _region_for(name, layout, edges, rng)
    start, end = edges[region], edges[region + 1]
    grounded = layout[region] not in _BACKDROP
    if layout[region] == "sky":
        bottom = rng.uniform(0.7, 1.1) * end
        size = rng.uniform(28, 72)
        depth = (size - 28) / 44
    else:
        # what stands in front may be cut off by the lower border
        bottom = rng.uniform(start + 0.2 * (end - start), 1.06 * height if region + 2 == len(edges) else end)
        depth = min(1.0, (bottom - edges[1]) / (height - edges[1]))
        size = (26 + 72 * depth) * rng.uniform(0.7, 1.3)
        size *= 1.3 if name in _LARGE else 0.85 if name in _SMALL else 1.0
    size = float(np.clip(size * unit, SMALLEST, LARGEST))
    sprite = glyphs.sprite(find_thing(name).glyph, size, rng, JITTER)
    centre = rng.uniform(0.06, 0.94) * width
    return _Placed(
        name=name,
        sprite=sprite,
        left=round(centre - sprite.width / 2),
        top=round(bottom - sprite.height),
        grounded=grounded,
        nearness=depth,
    )


def _region_for(name: str, layout: tuple[str, ...], edges: tuple[int, ...], rng: np.random.Generator) -> int:
    """Index of the region that an object belongs to."""
    if name in _AIRBORNE:
        return layout.index("sky")
    if name in _AFLOAT:
        return layout.index("water")
    ground = [index for index, stuff in enumerate(layout) if stuff not in _BACKDROP]
    if not ground:
        raise ValueError(f"nothing can stand in the layout {layout}")
    areas = np.array([edges[index + 1] - edges[index] for index in ground], dtype=float)
    return ground[int(rng.choice(len(ground), p=areas / areas.sum()))]


def _all_visible(placed: Sequence[_Placed], width: int, height: int) -> bool:
    """Whether enough of every object can be seen, for objects in drawing order."""
    canvas = np.zeros((height, width, 3), np.float32)
    labels = np.zeros((height, width), np.uint8)
    for number, item in enumerate(placed, start=1):
        paste(canvas, labels, item.sprite, item.left, item.top, number)
    seen = np.bincount(labels.ravel(), minlength=len(placed) + 1)[1:]
    return all(
        share >= _VISIBLE * np.count_nonzero(item.sprite.alpha > 0.5) for share, item in zip(seen, placed, strict=True)
    )


def _cast_shadow(canvas: FloatArray, item: _Placed, light: float) -> None:
    """Darken the ground softly where an object touches it and on the side away from the light, in place."""
    height, width = canvas.shape[:2]
    y, x = np.mgrid[0:height, 0:width].astype(np.float32)
    contact = item.bottom - 0.03 * item.sprite.height
    centre = item.left + (0.5 - 0.14 * light) * item.sprite.width
    across = (x - centre) / ((0.46 + 0.10 * abs(light)) * item.sprite.width)
    along = (y - contact) / (0.07 * item.sprite.height + 1)
    spot = (across**2 + along**2 < 1).astype(np.float32)
    shadow = gaussian_filter(spot, (0.02 * item.sprite.height + 0.5, 0.05 * item.sprite.width + 0.5))
    canvas *= 1 - 0.42 * shadow[..., None]


def _lit(item: _Placed, light: float) -> Sprite:
    """Light an object from one side and above, and let distance take its contrast.

    Args:
        item: The object.
        light: Where the light comes from, -1 (left) to 1 (right).

    Returns:
        Its sprite, shaded; the outline stays.
    """
    sprite = item.sprite
    across = np.linspace(-1, 1, sprite.width, dtype=np.float32)[None, :]
    down = np.linspace(-1, 1, sprite.height, dtype=np.float32)[:, None]
    shade = 1 + np.float32(0.14 * light) * across - np.float32(0.08) * down
    haze = np.float32(0.22 * (1 - item.nearness))
    rgb = sprite.rgb * shade[..., None] * (1 - haze) + haze * np.asarray(_HAZE, dtype=np.float32)
    return Sprite(rgb=np.clip(rgb, 0, 255), alpha=sprite.alpha)


def _photograph(canvas: FloatArray, light: float, rng: np.random.Generator) -> npt.NDArray[np.uint8]:
    """Do to the whole picture what a camera does: exposure, tint, vignette, a little blur and grain."""
    height, width = canvas.shape[:2]
    across = np.linspace(-1, 1, width, dtype=np.float32)[None, :]
    down = np.linspace(-1, 1, height, dtype=np.float32)[:, None]
    brightness = rng.uniform(0.84, 1.1) * (1 + 0.07 * light * across)
    brightness = brightness * (1 - rng.uniform(0.02, 0.12) * (across**2 + down**2))
    tint = 1 + rng.uniform(-0.05, 0.05, 3)
    blur = rng.uniform(0.2, 0.6)
    picture = gaussian_filter(canvas, (blur, blur, 0)) * brightness[..., None] * tint
    picture += rng.uniform(0.5, 1.8) * rng.standard_normal((height, width, 1))
    return np.clip(picture, 0, 255).round().astype(np.uint8)
