"""How heads are trained when nobody says otherwise. No torch here."""

from __future__ import annotations

from dataclasses import asdict, dataclass, replace
from typing import Any, Literal, get_args

from ovseg_cli.errors import UsageError
from ovseg_cli.heads.sizes import ClipSizes, CostSizes, DedosSizes, HeadKind, HeadSpec, Tuned
from ovseg_cli.profiles.specs import Profile

Preset = Literal["auto", "fast", "dense", "published"]
Row = Literal["C", "I", "II", "III", "IV", "V", "V-raw", "V-mean", "V-image", "V-free"]

ROWS: tuple[str, ...] = get_args(Row)
"""Rows of DEDOS's table 3 and the controls beside them; see `dedos_row`."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """How long and how fast a head learns, and on what crops.

    Attributes:
        seed: Of initial weights, crops and everything else that is drawn.
        minutes: Time after which the training is at its end; None for no limit.
        steps: Steps after which it is; None for no limit. One of both is given.
        batch: Crops in a step.
        lr: Largest learning rate of the head.
        clip_lr: That of CLIP's projections.
        warmup: Steps over which both rise.
        decay: Weight decay of AdamW, on matrices and kernels of convolutions.
        clip_norm: The gradient's norm is cut off here.
        average: Largest decay of the moving average of the weights, which is what is kept.
        crop: Side of a crop in pixels.
        zoom: The short side of a picture becomes so many crops long.
        colour: See `Augmentation`.
        names: Names that compete in a crop; None for all.
    """

    seed: int = 0
    minutes: float | None = 25.0
    steps: int | None = None
    batch: int = 16
    lr: float = 1e-3
    clip_lr: float = 1e-5
    warmup: int = 100
    decay: float = 0.05
    clip_norm: float = 0.1
    average: float = 0.99
    crop: int = 64
    zoom: tuple[float, float] = (1.0, 2.0)
    colour: float = 0.3
    names: int | None = 12

    def __post_init__(self) -> None:
        if self.minutes is None and self.steps is None:
            raise UsageError("Say how long the head is trained: --minutes X, --steps N, or both.")
        for name in ("minutes", "steps", "batch", "lr", "crop"):
            value = getattr(self, name)
            if value is not None and not value > 0:
                raise UsageError(f"--{name} must be above 0, got {value}.")
        if self.names is not None and self.names < 2:
            raise UsageError(f"At least two names have to compete in a crop, got {self.names}.")

    def record(self) -> dict[str, Any]:
        """As JSON-able values."""
        return asdict(self)


def choose_preset(preset: Preset, profile: Profile) -> Preset:
    """What "auto" comes to: the published sizes for models of the published sizes, and small ones for small models."""
    if preset != "auto":
        return preset
    return "published" if profile.clip.dense is None else "fast"


def make_spec(
    kind: HeadKind, clip: ClipSizes, preset: Preset, *, tuned: Tuned | None = None, dedos: DedosSizes | None = None
) -> HeadSpec:
    """What a head is built from.

    Args:
        kind: Which head.
        clip: The CLIP below it; its input size is the one for the published heads.
        preset: "fast" and "dense" for small models and few minutes, "published" for the papers' sizes.
        tuned: Whose projections are trained; None for the preset's: of both towers at the published size, as published,
            and of the vision tower otherwise.
        dedos: Sizes and switches of DEDOS; None for the preset's.
    """
    cost = CostSizes()
    if preset != "published":
        half = clip.grid // 2 if clip.grid % 2 == 0 else clip.grid
        cost = CostSizes(
            hidden=32,
            guidance=32,
            window=min(12, half),  # as published: two windows a side
            hooks=(32, 16),
            decoder=(16, 16),
            decoder_guidance=(8, 8),
            pad=0,
            best=20,
        )
    return HeadSpec(
        kind=kind,
        clip=clip,
        tuned=tuned or ("both" if preset == "published" else "visual"),
        cost=cost,
        dedos=(dedos or dedos_sizes(preset)) if kind == "dedos" else None,
    )


def dedos_sizes(preset: Preset) -> DedosSizes:
    """The sizes of DEDOS: the paper's, or small ones."""
    if preset == "published":
        return DedosSizes()
    return DedosSizes(
        queries=(6, 6),
        channels=(8, 8),
        injection_heads=4,
        decoder_layers=3,
        decoder_heads=4,
        encoder_layers=1,
        feedforward=(128, 256),
        points=256,
    )


def dedos_row(sizes: DedosSizes, row: str) -> DedosSizes:
    """The switches of a row of table 3, or of a control.

    I: CLIP, mask decoder and cost aggregation, with plain queries. II: queries that read the UNet at one timestep, and
    refine CLIP. III: Kronecker products at three timesteps. IV: the consistency loss. V: text aggregation. V-raw,
    V-mean and V-image are V with another reading of inference without diffusion; V-free is V with plain queries that
    never see the UNet.

    Raises:
        UsageError: There is no such row, or it is C, which is CAT-Seg.
    """
    bare = replace(sizes, injection=False, kronecker=False, consistency=0.0, text=0, refine=False)
    second = replace(bare, injection=True, refine=True, timesteps=(100,))
    third = replace(second, kronecker=True, timesteps=sizes.timesteps)
    fourth = replace(third, consistency=sizes.consistency or 1.0)
    fifth = replace(fourth, text=sizes.text or 2)
    rows = {
        "I": bare,
        "II": second,
        "III": third,
        "IV": fourth,
        "V": fifth,
        "V-raw": replace(fifth, at_inference="raw"),
        "V-mean": replace(fifth, at_inference="mean"),
        "V-image": replace(fifth, at_inference="image"),
        "V-free": replace(fifth, injection=False, kronecker=False, consistency=0.0),
    }
    if row not in rows:
        raise UsageError(f"There is no row {row!r} of DEDOS's table. Take one of {', '.join(rows)}.")
    return rows[row]


def make_plan(preset: Preset, clip: ClipSizes, **changes: Any) -> Plan:
    """How a head is trained: CAT-Seg's published schedule at its size, or one that is for minutes.

    Args:
        preset: Not "auto".
        clip: The CLIP below the head.
        **changes: Fields of `Plan` in the place of the preset's; None leaves them.
    """
    if preset == "published":
        plan = Plan(
            minutes=None,
            steps=80_000,
            batch=4,
            lr=2e-4,
            clip_lr=2e-6,
            warmup=0,
            decay=1e-4,
            clip_norm=0.01,
            average=0.0,
            crop=384,
            zoom=(1.0, 1.0),
            names=None,
        )
    else:
        plan = Plan(crop=clip.input_size)
    given = {name: value for name, value in changes.items() if value is not None}
    if "steps" in given and "minutes" not in given:
        given["minutes"] = None
    if "minutes" in given and "steps" not in given:
        given["steps"] = None
    return replace(plan, **given)
