"""Options that several commands share, defined once."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from ovseg_cli.cli.complete import complete_classes

if TYPE_CHECKING:
    from ovseg_cli.choices import SegmentOptions
    from ovseg_cli.files.class_file import ClassFile

WITH_PROTOTYPES = "With prototypes"
WITH_WORDS = "With words"
PICTURES = "How pictures are worked at"
RUNNING = "Running"

ClassesOpt = Annotated[
    list[str] | None,
    typer.Option(
        "--classes",
        "-c",
        metavar="NAMES",
        autocompletion=complete_classes,
        help="Class names, separated by commas; may be given several times.",
        show_default=False,
    ),
]

BackgroundOpt = Annotated[
    bool | None,
    typer.Option(
        "--background/--no-background",
        help="Whether pixels may belong to none of the classes. (default: they may)",
        show_default=False,
    ),
]

PrefilterOpt = Annotated[
    bool | None,
    typer.Option(
        "--prefilter/--no-prefilter",
        rich_help_panel=WITH_PROTOTYPES,
        help="With prototypes: whether CLIP first rules out classes that a picture does not show. "
        "(default: the profile's)",
        show_default=False,
    ),
]

ThresholdOpt = Annotated[
    float | None,
    typer.Option(
        "--threshold",
        min=0.0,
        max=1.0,
        metavar="X",
        help="Score below which a pixel is background. (default: the method's own)",
        show_default=False,
    ),
]

StuffFilterOpt = Annotated[
    bool | None,
    typer.Option(
        "--stuff-filter/--no-stuff-filter",
        rich_help_panel=WITH_PROTOTYPES,
        help="With prototypes: whether what looks like stuff is left out of the background of things. "
        "(default: it is, when stuff is asked for)",
        show_default=False,
    ),
]

ExtractorsOpt = Annotated[
    list[str] | None,
    typer.Option(
        "--extractors",
        metavar="NAMES",
        rich_help_panel=WITH_PROTOTYPES,
        help="Feature extractors, separated by commas: see ovseg profiles. (default: the profile's)",
        show_default=False,
    ),
]

MaskMethodOpt = Annotated[
    Literal["otsu", "fixed", "self-attention", "sam"] | None,
    typer.Option(
        "--mask-method",
        help="How the object is cut out of its attention map: thresholds (otsu, fixed), or regions that it picks "
        "(self-attention, sam). (default: otsu)",
        show_default=False,
    ),
]

PrototypesOpt = Annotated[
    list[str] | None,
    typer.Option(
        "--prototypes",
        metavar="KINDS",
        rich_help_panel=WITH_PROTOTYPES,
        help="Which prototypes are matched: mean, instance, part. (default: all)",
        show_default=False,
    ),
]

RefineOpt = Annotated[
    Literal["none", "pamr"] | None,
    typer.Option(
        "--refine",
        rich_help_panel=PICTURES,
        help="Let the scores follow the picture's edges: pamr (Araslanov and Roth, 2020). "
        "(default: the method's, pamr with naclip and none elsewhere)",
        show_default=False,
    ),
]

CountOpt = Annotated[
    int | None,
    typer.Option(
        "--count", min=1, metavar="N", help="Support images per class. (default: the profile's)", show_default=False
    ),
]

DryRunOpt = Annotated[
    bool, typer.Option("--dry-run", rich_help_panel=RUNNING, help="Say what would be done, and do nothing.")
]

LabelMapOpt = Annotated[
    Path | None,
    typer.Option(
        "--label-map",
        metavar="FILE",
        help="What the ids (or colours) of the labels mean: lines like `name:R,G,B::`, a table, YAML ... "
        "(default: labelmap.txt in the labels' folder or beside it)",
        show_default=False,
    ),
]


def split_names(values: Iterable[str] | None) -> tuple[str, ...]:
    """Split `cat,dog` at its commas; blanks around a name and repeated names fall away.

    An empty item (`cat,,dog`) stays, so that whoever checks the names can refuse it.

    >>> split_names(["cat, dog", "bird"])
    ('cat', 'dog', 'bird')
    """
    names = [name.strip() for value in values or () for name in value.split(",")]
    return tuple(dict.fromkeys(names))


def segment_options(
    *,
    background: bool | None,
    threshold: float | None,
    prefilter: bool | None,
    extractors: Iterable[str] | None,
    prototypes: Iterable[str] | None,
    stuff_filter: bool | None,
    refine: Literal["none", "pamr"] | None,
    settings: str | None = None,
    templates: Literal["single", "short", "car", "imagenet", "imagenet-scene"] | None = None,
    logit_scale: float | None = None,
    short_side: int | None = None,
    windows: list[str] | None = None,
    synonyms: list[str] | None = None,
    listed: ClassFile | None = None,
) -> SegmentOptions:
    """What was typed, as what decides label maps.

    Args:
        background: `BackgroundOpt`.
        threshold: Class score below which a pixel is background.
        prefilter: `PrefilterOpt`.
        extractors: `ExtractorsOpt`.
        prototypes: `PrototypesOpt`.
        stuff_filter: `StuffFilterOpt`.
        refine: `RefineOpt`.
        settings: Data set whose published settings are taken.
        templates: Set of prompt templates.
        logit_scale: Factor on cosines.
        short_side: In pixels.
        windows: Each SIZE/STRIDE or whole.
        synonyms: Each CLASS=WORD.
        listed: A class file with more synonyms, and perhaps words for the background.

    Raises:
        UsageError: Something that cannot be.
    """
    from ovseg_cli.choices import SegmentOptions, parse_windows
    from ovseg_cli.methods.words import merge_synonyms, parse_synonyms

    merged = merge_synonyms({} if listed is None else listed.synonyms, parse_synonyms(synonyms or []))
    return SegmentOptions(
        background=background is not False,
        threshold=threshold,
        prefilter=prefilter,
        extractors=split_names(extractors) or None,
        prototypes=split_names(prototypes) or None,  # type: ignore[arg-type]  # checked by the class itself
        stuff_filter=stuff_filter,
        refine=refine,
        settings=settings,
        templates=templates,
        logit_scale=logit_scale,
        short_side=short_side,
        windows=parse_windows(windows or []),
        synonyms=tuple(merged.items()),
        background_words=None if listed is None else listed.background,
    )
