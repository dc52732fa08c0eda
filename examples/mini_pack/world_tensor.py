"""The scenes of `World` rendered in batches by tensor code, on any torch device.

`TensorWorld` splits a scene in two steps. The plan (which things and textures, where, how large, how varied)
is drawn on the CPU from the same random numbers as `World.scene`: scene n is the same scene in both renderers,
with the same captions. The picture is then put together on the device for a whole batch: textures are cut
from an uploaded bank, and each object is one affine lookup in an atlas of glyphs.

    >>> world = TensorWorld(GlyphSet(), device="cuda")     # doctest: +SKIP
    >>> batch = world.scenes(0, 256)                       # doctest: +SKIP
    >>> batch.images.shape, batch.labels.shape             # doctest: +SKIP
    (torch.Size([256, 64, 64, 3]), torch.Size([256, 64, 64]))

Grounds are equal to the last bit. Objects differ from those of `World` by how they are filtered: pillow resizes,
rotates and resizes again in 8 bits, the atlas holds each glyph in several sizes (a mip map: Williams, "Pyramidal
Parametrics", SIGGRAPH 1983) and is read once, bicubically, at the nearest size that is large enough.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor

from examples.mini_pack.glyphs import GlyphSet, Jitter, Styles, _hue_rotation
from examples.mini_pack.textures import TextureBank
from examples.mini_pack.vocabulary import LABEL_IDS, STUFF_NAMES, THINGS, Thing
from examples.mini_pack.world import Story, direct, texture_extent

_STEP: Final = math.sqrt(2)
"""Ratio of neighbouring sizes in the atlas; what is left to the bicubic lookup is a shrinkage below this."""
_LEVELS: Final = 6
"""Sizes in the atlas: from the scene's side to below 0.2 of it; objects have 0.24 to 0.9."""
_GUTTER: Final = 3
"""Empty pixels around each glyph: a bicubic lookup reads up to two pixels away."""
_RESIZE_BITS: Final = 22
"""Fractional bits of the filter weights with which pillow resizes pictures of 8 bits per channel."""

FloatArray = npt.NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class Piece:
    """A random piece of a texture, as `TextureBank.cut` draws it.

    Attributes:
        stuff: Name of the stuff class.
        variant: Index of the texture among those of the class.
        top: First row of the piece in the texture.
        left: First column.
        mirrored: Whether it is flipped from left to right.
        gain: Factor on its brightness.
        first: First row of the scene that it covers.
        last: Row after the last one.
    """

    stuff: str
    variant: int
    top: int
    left: int
    mirrored: bool
    gain: float
    first: int
    last: int


@dataclass(frozen=True, slots=True)
class Outline:
    """A varied object, as `GlyphSet.sprite` draws it, without its pixels.

    Attributes:
        width: Width of the sprite in pixels.
        height: Height of the sprite in pixels.
        lookup: The row-major affine map (a, b, c, d, e, f) from a point of the sprite to one of the
            glyph as the font draws it, both in pixels from the upper left corner.
        hue: Angle in radians by which colours are turned about the grey axis.
        gain: Factor on the brightness.
        style: Which of the sets of glyphs it is from.
    """

    width: int
    height: int
    lookup: tuple[float, ...]
    hue: float
    gain: float
    style: int = 0


@dataclass(frozen=True, slots=True)
class Plan:
    """Everything about a scene but its pixels; plans can be pickled.

    Attributes:
        pieces: The grounds.
        objects: Outline, left edge and upper edge of each of the story's things, in drawing order.
        story: What the scene shows.
    """

    pieces: tuple[Piece, ...]
    objects: tuple[tuple[Outline, int, int], ...]
    story: Story


@dataclass(frozen=True, slots=True)
class SceneBatch:
    """Rendered scenes.

    Attributes:
        images: uint8 tensor (B, S, S, 3), RGB.
        labels: uint8 tensor (B, S, S) of label ids (`LABEL_IDS`); no pixel is background.
        counts: uint8 tensor (B,), number of objects.
        captions: Captions of each scene.
    """

    images: Tensor
    labels: Tensor
    counts: Tensor
    captions: tuple[tuple[str, ...], ...]


class Planner:
    """Draws plans; needs neither torch nor textures, so that several processes can do it cheaply."""

    def __init__(
        self, glyphs: GlyphSet | Styles, *, size: int = 64, variants: int = 24, jitter: Jitter | None = None
    ) -> None:
        """Look up the sizes of the glyphs.

        Args:
            glyphs: Where sprites come from: one artist's glyphs or several.
            size: Side S of the scenes in pixels.
            variants: Textures per stuff class.
            jitter: How strongly sprites vary; None means the defaults of `Jitter`.

        Raises:
            ValueError: If `size` is below 16, or `jitter` bends glyphs or draws lines, which is not one lookup.
        """
        self.size = size
        self.variants = variants
        self.extent = texture_extent(size)
        self.jitter = jitter or Jitter()
        if self.jitter.warp is not None or self.jitter.inked:
            raise ValueError("tensors render no warped or inked glyphs; render in processes on the CPU instead")
        self.styles = Styles.of(glyphs)
        self.glyph_sizes = [
            {thing.name: glyphs.glyph(thing.glyph).size for thing in THINGS} for glyphs in self.styles.sets
        ]

    def plan(
        self, seed: int, *, things: Sequence[str] | None = None, count: int | None = None, captions: int = 3
    ) -> Plan:
        """Draw the plan of one scene; the arguments are those of `World.scene`."""
        notes = _Notes(self)
        story = direct(notes, self.size, seed, things=things, count=count, captions=captions)
        return Plan(pieces=tuple(notes.pieces), objects=tuple(notes.objects), story=story)


class _Notes:
    """The stage of `Planner`: takes the random numbers that `World` takes, and writes down what they mean."""

    def __init__(self, planner: Planner) -> None:
        self.pieces: list[Piece] = []
        self.objects: list[tuple[Outline, int, int]] = []
        self._planner = planner
        self._choose = planner.styles.chooser()

    def ground(self, stuff: str, top: int, bottom: int, rng: np.random.Generator) -> None:
        planner = self._planner
        rows = _piece_rows(stuff, bottom - top, planner.extent)
        piece = Piece(
            stuff=stuff,
            variant=int(rng.integers(planner.variants)),
            top=int(rng.integers(planner.extent - rows + 1)),
            left=int(rng.integers(planner.extent - planner.size + 1)),
            mirrored=rng.random() < 0.5,
            gain=1 + rng.uniform(-0.1, 0.1),
            first=top,
            last=bottom,
        )
        self.pieces.append(piece)

    def sprite(self, thing: Thing, size: float, rng: np.random.Generator) -> Outline:
        jitter = self._planner.jitter
        style = self._choose(rng)
        mirrored = rng.random() < jitter.mirror
        limit = jitter.rotation_limit
        angle = min(max(rng.normal(0, jitter.rotation), -limit), limit)
        gain = 1 + rng.uniform(-jitter.gain, jitter.gain)
        hue = rng.normal(0, jitter.hue)
        width, height, lookup = _follow(self._planner.glyph_sizes[style][thing.name], size, mirrored, angle)
        return Outline(width=width, height=height, lookup=lookup, hue=hue, gain=gain, style=style)

    def paste(self, sprite: Outline, left: int, top: int, thing: Thing) -> None:
        self.objects.append((sprite, left, top))


def _piece_rows(stuff: str, height: int, extent: int) -> int:
    """Rows of the texture that a piece of the given height shows."""
    return max(height, round(TextureBank.SKY_SHARE * extent)) if stuff == "sky" else height


def _follow(glyph: tuple[int, int], size: float, mirrored: bool, angle: float) -> tuple[int, int, tuple[float, ...]]:
    """Follow a glyph of (width, height) pixels through `GlyphSet.sprite`.

    Returns:
        Width and height of the sprite, and the affine map from its points to those of the glyph.
    """
    width, height = glyph
    shrink = size / max(glyph)
    if shrink < 0.5:
        width, height = _scaled(glyph, 2 * shrink)
    # to 15 digits, as `Image.rotate` does: half and quarter turns have no remainder that would enlarge the canvas
    cosine, sine = (round(of(math.radians(angle)), 15) for of in (math.cos, math.sin))
    if cosine == 0:
        turned_width, turned_height = height, width
    else:
        turned_width = _expanded(width, width * abs(cosine) + height * abs(sine))
        turned_height = _expanded(height, width * abs(sine) + height * abs(cosine))
    final_width, final_height = _scaled((turned_width, turned_height), size / max(turned_width, turned_height))
    to_glyph_x, to_glyph_y = glyph[0] / width, glyph[1] / height
    grow_x, grow_y = turned_width / final_width, turned_height / final_height
    a, b = cosine * grow_x * to_glyph_x, -sine * grow_y * to_glyph_x
    d, e = sine * grow_x * to_glyph_y, cosine * grow_y * to_glyph_y
    # centres map to centres
    c = glyph[0] / 2 - (a * final_width + b * final_height) / 2
    f = glyph[1] / 2 - (d * final_width + e * final_height) / 2
    if mirrored:
        a, b, c = -a, -b, glyph[0] - c
    return final_width, final_height, (a, b, c, d, e, f)


def _scaled(sides: tuple[int, int], factor: float) -> tuple[int, int]:
    return max(4, round(sides[0] * factor)), max(4, round(sides[1] * factor))


def _expanded(side: int, span: float) -> int:
    """Side of the canvas that `Image.rotate` expands to: the pixels, counted from the old edge, that `span` touches."""
    return math.ceil((side + span) / 2) - math.floor((side - span) / 2)


class _Atlas:
    """All glyphs in several sizes in one tensor, colours multiplied by alpha."""

    def __init__(self, styles: Styles, size: int, device: torch.device) -> None:
        pictures = [glyphs.glyph(thing.glyph) for glyphs in styles.sets for thing in THINGS]
        # no object is larger than the scene
        self._largest = min(1.0, size / max(max(picture.size) for picture in pictures))
        cells: list[tuple[FloatArray, int, int]] = []
        boxes = np.empty((len(pictures), _LEVELS, 6))
        top = _GUTTER
        width = sum(math.ceil(picture.width * self._largest) + 4 + _GUTTER for picture in pictures) + _GUTTER
        for level in range(_LEVELS):
            left = _GUTTER
            height = 0
            for index, picture in enumerate(pictures):
                small = picture.resize(_scaled(picture.size, self._largest * _STEP**-level), Image.Resampling.LANCZOS)
                cells.append((_premultiplied(small), top, left))
                boxes[index, level] = (
                    left,
                    top,
                    small.width,
                    small.height,
                    small.width / picture.width,
                    small.height / picture.height,
                )
                left += small.width + _GUTTER
                height = max(height, small.height)
            top += height + _GUTTER
        atlas = np.zeros((4, top, width), np.float32)
        for cell, row, column in cells:
            atlas[:, row : row + cell.shape[1], column : column + cell.shape[2]] = cell
        self.boxes = boxes
        """(styles * things, levels, 6): left, top, width, height of each picture, and its size by the glyph's."""
        self._pixels = torch.from_numpy(atlas).to(device)

    def level(self, shrinkage: float) -> int:
        """The smallest size that is at least the asked one, for so many glyph pixels per pixel of the scene."""
        return min(max(0, math.floor(math.log(shrinkage * self._largest, _STEP))), _LEVELS - 1)

    def read(self, x: Tensor, y: Tensor) -> Tensor:
        """Look up points, in pixels from the atlas' upper left corner.

        Args:
            x: float32 tensor (N, S, S).
            y: float32 tensor (N, S, S).

        Returns:
            float32 tensor (4, N, S, S): RGB in 0..255 times alpha, and alpha in 0..1.
        """
        _, height, width = self._pixels.shape
        grid = torch.stack((x * (2 / width) - 1, y * (2 / height) - 1), -1).flatten(0, 1)
        found = F.grid_sample(self._pixels[None], grid[None], "bicubic", "zeros", align_corners=False)
        return found.view(4, *x.shape)


def _premultiplied(picture: Image.Image) -> FloatArray:
    """(4, h, w): RGB in 0..255 times alpha, and alpha in 0..1."""
    pixels = np.asarray(picture, np.float32).transpose(2, 0, 1)
    alpha = pixels[3:] / np.float32(255)
    return np.concatenate((pixels[:3] * alpha, alpha))


class TensorWorld:
    """Renders batches of training scenes on a torch device."""

    def __init__(
        self,
        glyphs: GlyphSet | Styles,
        *,
        size: int = 64,
        bank_seed: int = 7,
        variants: int = 24,
        jitter: Jitter | None = None,
        device: torch.device | str = "cpu",
    ) -> None:
        """Paint the textures, draw the atlas, and upload both.

        Args:
            glyphs: Where sprites come from: one artist's glyphs or several.
            size: Side S of the scenes in pixels.
            bank_seed: Seed of the textures; another one gives textures that share nothing with these.
            variants: Textures per stuff class.
            jitter: How strongly sprites vary; None means the defaults of `Jitter`.
            device: Where scenes are rendered.

        Raises:
            ValueError: As `Planner` does.
        """
        self.device = torch.device(device)
        self.planner = Planner(glyphs, size=size, variants=variants, jitter=jitter)
        self._atlas = _Atlas(self.planner.styles, size, self.device)
        # the pieces are cut on the device, so the whole textures are needed
        bank = TextureBank(bank_seed, variants=variants, extent=self.planner.extent, scale=size / 64)
        textures = np.stack([texture for name in STUFF_NAMES for texture in bank._textures[name]])
        self._textures = torch.from_numpy(textures).to(self.device)
        self._sky_filters: dict[int, Tensor] = {}
        self._steps = torch.arange(size, device=self.device)

    def scenes(
        self,
        first_seed: int,
        number: int,
        *,
        things: Sequence[str] | None = None,
        count: int | None = None,
        captions: int = 3,
    ) -> SceneBatch:
        """Render the scenes of the seeds `first_seed` ... `first_seed` + `number` - 1.

        Args:
            first_seed: Seed of the first scene; not negative.
            number: Number of scenes B, at least 1.
            things: Names or aliases to draw the objects from; None means all.
            count: Number of objects in every scene (0 to 4); None draws it for each.
            captions: Captions per scene.

        Raises:
            ValueError: If `number` is below 1, or as `World.scene` does.
        """
        seeds = range(first_seed, first_seed + number)
        return self.render([self.planner.plan(seed, things=things, count=count, captions=captions) for seed in seeds])

    @torch.no_grad()
    def render(self, plans: Sequence[Plan]) -> SceneBatch:
        """Render planned scenes; each scene is the same in any batch.

        Args:
            plans: Plans of a planner with the same glyphs, size and number of textures.

        Raises:
            ValueError: If there is no plan.
        """
        if not plans:
            raise ValueError("there is nothing to render: no plan was given")
        canvas, labels = self._grounds(plans)
        self._paste_all(canvas, labels, plans)
        return SceneBatch(
            images=canvas.clamp_(0, 255).to(torch.uint8).permute(1, 2, 3, 0).contiguous(),
            labels=labels,
            counts=self._upload([len(plan.objects) for plan in plans], torch.uint8),
            captions=tuple(plan.story.captions for plan in plans),
        )

    def _grounds(self, plans: Sequence[Plan]) -> tuple[Tensor, Tensor]:
        """Canvas (3, B, S, S) and labels (B, S, S) of the scenes without their objects."""
        size = self.planner.size
        canvas = torch.zeros((3, len(plans), size, size), device=self.device)
        labels = torch.zeros((len(plans), size, size), dtype=torch.uint8, device=self.device)
        for is_sky in (False, True):
            owners = [i for i, plan in enumerate(plans) for piece in plan.pieces if (piece.stuff == "sky") == is_sky]
            pieces = [piece for plan in plans for piece in plan.pieces if (piece.stuff == "sky") == is_sky]
            if not pieces:
                continue
            where = self._upload(owners)
            first, last = self._columns(piece.first for piece in pieces), self._columns(piece.last for piece in pieces)
            row = self._steps[None, :]
            covered = (row >= first) & (row < last)
            pixels = self._skies(pieces) if is_sky else self._cuts(pieces, (row - first).clamp_min(0))
            gains = torch.tensor([piece.gain for piece in pieces], dtype=torch.float32, device=self.device)
            pixels = (pixels * gains[:, None, None, None]).clamp_(0, 255).permute(3, 0, 1, 2)
            ids = self._upload([LABEL_IDS[piece.stuff] for piece in pieces], torch.uint8)
            canvas[:, where] = torch.where(covered[None, :, :, None], pixels, canvas[:, where])
            labels[where] = torch.where(covered[:, :, None], ids[:, None, None], labels[where])
        return canvas, labels

    def _cuts(self, pieces: Sequence[Piece], rows: Tensor) -> Tensor:
        """Rows (N, R), counted from each piece's upper edge, of pieces of the textures: uint8 (N, R, S, 3)."""
        size = self.planner.size
        index = self._columns(
            STUFF_NAMES.index(piece.stuff) * self.planner.variants + piece.variant for piece in pieces
        )
        start = self._columns(piece.left + (size - 1 if piece.mirrored else 0) for piece in pieces)
        step = self._columns(-1 if piece.mirrored else 1 for piece in pieces)
        rows = rows + self._columns(piece.top for piece in pieces)
        columns = start + step * self._steps
        return self._textures[index[:, :, None], rows[:, :, None], columns[:, None, :]]

    def _skies(self, pieces: Sequence[Piece]) -> Tensor:
        """Pieces of sky squeezed into the first rows of a scene, as integers in float32 (N, S, S, 3)."""
        size = self.planner.size
        rows = _piece_rows("sky", size, self.planner.extent)
        strips = self._cuts(pieces, torch.arange(rows, device=self.device)[None])
        filters = torch.stack([self._sky_filter(piece.last, rows) for piece in pieces])
        # sums of integers below 2^53: exact in float64 in any order, so the same on every device
        sums = filters @ strips.flatten(2).double()
        return (
            ((sums + 2 ** (_RESIZE_BITS - 1)) / 2**_RESIZE_BITS).floor().clamp(0, 255).float().view(-1, size, size, 3)
        )

    def _sky_filter(self, height: int, rows: int) -> Tensor:
        """Integer weights (S, rows), as float64, of `Image.resize` from `rows` to `height` rows; zeros below."""
        if height not in self._sky_filters:
            scale = rows / height
            centres = (np.arange(height)[:, None] + 0.5) * scale
            weights = np.clip(1 - np.abs((np.arange(rows) + 0.5 - centres) / scale), 0, None)
            weights /= weights.sum(1, keepdims=True)
            padded = np.zeros((self.planner.size, rows))
            padded[:height] = np.floor(weights * 2**_RESIZE_BITS + 0.5)
            self._sky_filters[height] = torch.from_numpy(padded).to(self.device)
        return self._sky_filters[height]

    def _paste_all(self, canvas: Tensor, labels: Tensor, plans: Sequence[Plan]) -> None:
        """Blend the objects into `canvas` and write their labels, both in place."""
        # sorted by place in the drawing order, objects of one turn are in different scenes and stand together
        turns = [
            [(scene, plan, turn) for scene, plan in enumerate(plans) if len(plan.objects) > turn]
            for turn in range(max(len(plan.objects) for plan in plans))
        ]
        flat = [(plan.story.things[turn], *plan.objects[turn]) for group in turns for _, plan, turn in group]
        if not flat:
            return
        rgb, alpha = self._objects(flat)
        ids = self._upload([LABEL_IDS[thing.name] for thing, *_ in flat], torch.uint8)
        start = 0
        for group in turns:
            these = slice(start, start + len(group))
            start = these.stop
            where = self._upload([scene for scene, *_ in group])
            below = canvas[:, where]
            canvas[:, where] = below + rgb[:, these] - below * alpha[these]
            labels[where] = torch.where(alpha[these] > 0.5, ids[these, None, None], labels[where])

    def _objects(self, objects: Sequence[tuple[Thing, Outline, int, int]]) -> tuple[Tensor, Tensor]:
        """Objects on scenes of their own: RGB times alpha (3, N, S, S) in 0..255, and alpha (N, S, S)."""
        lookups = np.empty((len(objects), 6), np.float32)
        limits = np.empty((len(objects), 4), np.float32)
        colours = np.empty((len(objects), 3, 3), np.float32)
        for i, (thing, outline, left, top) in enumerate(objects):
            a, b, c, d, e, f = outline.lookup
            level = self._atlas.level(math.sqrt(abs(a * e - b * d)))
            x, y, width, height, zoom_x, zoom_y = self._atlas.boxes[
                outline.style * len(THINGS) + THINGS.index(thing), level
            ]
            c, f = c - a * left - b * top, f - d * left - e * top
            lookups[i] = (a * zoom_x, b * zoom_x, c * zoom_x + x, d * zoom_y, e * zoom_y, f * zoom_y + y)
            # points further out than this see nothing but the gutter
            reach = _GUTTER - 1.5
            limits[i] = (x - reach, x + width + reach, y - reach, y + height + reach)
            colours[i] = _hue_rotation(outline.hue) * np.float32(outline.gain)
        a, b, c, d, e, f = (v[:, None, None] for v in torch.from_numpy(lookups).to(self.device).unbind(1))
        left, right, top, bottom = (v[:, None, None] for v in torch.from_numpy(limits).to(self.device).unbind(1))
        across = (self._steps + 0.5)[None, None, :]
        down = (self._steps + 0.5)[None, :, None]
        x = (a * across + (b * down + c)).clamp(left, right)
        y = (d * across + (e * down + f)).clamp(top, bottom)
        found = self._atlas.read(x, y)
        alpha = found[3].clamp_(0, 1)
        turn = torch.from_numpy(colours).to(self.device)[..., None, None]
        # written out, not as a matrix product, whose rounding may depend on the size of the batch
        rgb = torch.stack([sum(turn[:, i, k] * found[k] for k in range(3)) for i in range(3)])
        return torch.minimum(rgb.clamp_min_(0), 255 * alpha), alpha

    def _upload(self, values: Sequence[int], dtype: torch.dtype = torch.int64) -> Tensor:
        return torch.tensor(values, dtype=dtype, device=self.device)

    def _columns(self, values: Iterable[int]) -> Tensor:
        """Integers as an int64 tensor (N, 1)."""
        return self._upload(list(values))[:, None]
