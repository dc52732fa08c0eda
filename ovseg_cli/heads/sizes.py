"""The sizes and choices of heads, as JSON-able values. No torch here: they stand in the header of a head's file."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from typing import Any, Final, Literal, Self, get_args

from ovseg_cli.errors import UsageError

HeadKind = Literal["catseg", "dedos"]
Tuned = Literal["none", "visual", "both"]
"""Whose query and value projections are trained: nobody's, those of CLIP's vision tower, or of both towers."""


@dataclass(frozen=True, slots=True, kw_only=True)
class CostSizes:
    """Sizes of CAT-Seg's cost aggregation; the defaults are the published ones.

    Attributes:
        hidden: Channels of a class's map.
        heads: Attention heads, of windows and of classes.
        layers: Layers, each of two window blocks and one block over the classes.
        window: Side of an attention window, in patches; a smaller grid is one window.
        guidance: Channels of the projected guidance, of the picture and of the texts.
        pool: Maps are averaged over squares of this side before classes attend to each other, in training only.
        hooks: Channels of CLIP's earlier maps after their deconvolution, twice and four times as fine as its own.
        decoder: Channels after each step of the decoder.
        decoder_guidance: Of these, those that come from CLIP's earlier maps.
        pad: Classes are filled up to this number with a learnt one, and of more only the best are looked at; 0 for
            neither.
        prompts: Texts per name that are kept apart.
        best: Names that are looked at in a crop when pictures are segmented: those of the highest cosine at any patch,
            as SED's early rejection has it; 0 for all, as published.
    """

    hidden: int = 128
    heads: int = 4
    layers: int = 2
    window: int = 12
    guidance: int = 128
    pool: int = 2
    hooks: tuple[int, int] = (256, 128)
    decoder: tuple[int, int] = (64, 32)
    decoder_guidance: tuple[int, int] = (32, 16)
    pad: int = 256
    prompts: int = 1
    best: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class DedosSizes:
    """Sizes and switches of DEDOS; the defaults are those of the paper at full size where it states them.

    The rows of its table 3 are these switches: I is all of them off, each later row turns on one more.

    Attributes:
        queries: (n1, n2), whose product is the number of queries.
        channels: (c1, c2), whose product is the width of a query.
        injection: Whether queries read the frozen UNet's features (equations 3 to 5).
        timesteps: Where the UNet is asked, in the order of denoising: the largest first.
        kronecker: Whether queries are Kronecker products (equation 6); otherwise a plain matrix for each timestep.
        consistency: Weight of equation 12 in the loss; 0 leaves it out.
        text: Blocks of text aggregation; 0 leaves it out.
        drop: How often a batch is trained without injection, so that inference may do without.
        keep: Share of a picture's tokens that an injection layer sees in training (the mask of equation 4).
        at_inference: What stands for queries when pictures are segmented: the raw ones, the running mean of the
            injected ones, or those of the picture itself, for which the diffusion model is loaded.
        taps: Names of the UNet's blocks whose outputs are read.
        tap_channels: Their channels.
        injection_heads: Attention heads of an injection layer.
        refine: Whether CLIP's tokens are refined by the queries (equations 13 and 14).
        cost: Whether the cost aggregation runs beside the mask decoder.
        decoder_layers: Layers of the mask decoder.
        decoder_heads: Attention heads of both decoders.
        encoder_layers: Deformable layers of the pixel decoder.
        feedforward: Hidden channels of the decoders' feed-forward parts: of the pixel decoder, of the mask decoder.
        points: Pixels at which a mask is compared with the truth.
    """

    queries: tuple[int, int] = (10, 10)
    channels: tuple[int, int] = (16, 16)
    injection: bool = True
    timesteps: tuple[int, ...] = (200, 100, 50)
    kronecker: bool = True
    consistency: float = 1.0
    text: int = 2
    drop: float = 0.5
    keep: float = 0.7
    at_inference: Literal["raw", "mean", "image"] = "raw"
    taps: tuple[str, ...] = ()
    tap_channels: tuple[int, ...] = ()
    injection_heads: int = 8
    refine: bool = True
    cost: bool = True
    decoder_layers: int = 9
    decoder_heads: int = 8
    encoder_layers: int = 6
    feedforward: tuple[int, int] = (1024, 2048)
    points: int = 12544

    @property
    def count(self) -> int:
        """How many queries there are."""
        return self.queries[0] * self.queries[1]

    @property
    def width(self) -> int:
        """How wide a query is."""
        return self.channels[0] * self.channels[1]


@dataclass(frozen=True, slots=True, kw_only=True)
class ClipSizes:
    """What a head has to know of the CLIP that it stands on.

    Attributes:
        width: Channels of the vision tower's tokens.
        embed: Channels of the space shared with texts.
        depth: Blocks of the vision tower.
        patch: Side of a patch, in pixels.
        input_size: Side of the square at which it sees a crop, in pixels.
    """

    width: int
    embed: int
    depth: int
    patch: int
    input_size: int

    @property
    def grid(self) -> int:
        """Patches per side."""
        return self.input_size // self.patch

    @property
    def hooks(self) -> tuple[int, int]:
        """The two blocks whose outputs are read on the way: after a third and two thirds of the tower, as published.

        Of 12 blocks these are 3 and 7, of 24 they are 7 and 15.
        """
        return self.depth // 3 - 1, 2 * self.depth // 3 - 1


@dataclass(frozen=True, slots=True, kw_only=True)
class HeadSpec:
    """Everything that a head is built from.

    Attributes:
        kind: Which head.
        clip: The CLIP below it.
        tuned: Whose projections were trained.
        cost: Sizes of the cost aggregation.
        dedos: Sizes and switches of DEDOS; None for CAT-Seg.
    """

    kind: HeadKind
    clip: ClipSizes
    tuned: Tuned = "visual"
    cost: CostSizes = field(default_factory=CostSizes)
    dedos: DedosSizes | None = None

    def record(self) -> dict[str, Any]:
        """As JSON-able values."""
        return asdict(self)

    @classmethod
    def from_record(cls, record: Mapping[str, Any]) -> Self:
        """Read `record` back.

        Raises:
            UsageError: It is of another version.
            ValueError: It has a kind or a size that no head has.
        """
        if record["kind"] not in get_args(HeadKind) or record["tuned"] not in get_args(Tuned):
            raise ValueError(f"{record['kind']!r} or {record['tuned']!r} is unknown")
        dedos = record.get("dedos")
        if (record["kind"] == "dedos") != (dedos is not None):
            raise ValueError("sizes of DEDOS belong to a head of DEDOS")
        return cls(
            kind=record["kind"],
            clip=made(ClipSizes, record["clip"]),
            tuned=record["tuned"],
            cost=made(CostSizes, record["cost"]),
            dedos=None if dedos is None else made(DedosSizes, dedos),
        )


def made(kind: type[Any], record: Mapping[str, Any]) -> Any:
    """A dataclass of JSON-able values, lists as tuples.

    Raises:
        UsageError: A value is unknown to this version.
        ValueError: A number that no head has.
    """
    known = {each.name for each in fields(kind)}
    if strange := [name for name in record if name not in known]:
        raise UsageError(f"The head was made by another version of ovseg: it has a setting {strange[0]!r}. Update it.")
    for name, value in record.items():
        most = _MOST_BLOCKS if name in _BLOCKS else _MOST
        for number in value if isinstance(value, list) else [value]:
            if type(number) is int and not (name not in _MAY_BE_NONE) <= number <= most:
                raise ValueError(f"{name} is {number}")
    return kind(**{name: tuple(value) if isinstance(value, list) else value for name, value in record.items()})


_MOST: Final = 2**16
_MOST_BLOCKS: Final = 256
_BLOCKS: Final = frozenset({"layers", "depth", "text", "decoder_layers", "encoder_layers"})
"""What is built one after another, so that a header's word alone could take forever."""
_MAY_BE_NONE: Final = frozenset({"pad", "best", "text", "timesteps", "consistency", "drop", "keep"})
"""What may be 0."""
