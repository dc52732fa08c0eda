"""Options that several commands share, defined once."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Annotated, Literal

import typer

ClassesOpt = Annotated[
    list[str] | None,
    typer.Option(
        "--classes",
        "-c",
        metavar="NAMES",
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
        help="With prototypes: whether CLIP first rules out classes that a picture does not show. "
        "(default: the profile's)",
        show_default=False,
    ),
]

StuffFilterOpt = Annotated[
    bool | None,
    typer.Option(
        "--stuff-filter/--no-stuff-filter",
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
        help="Which prototypes are matched: mean, instance, part. (default: all)",
        show_default=False,
    ),
]

RefineOpt = Annotated[
    Literal["none", "pamr"],
    typer.Option("--refine", help="Let the scores follow the picture's edges: pamr (Araslanov and Roth, 2020)."),
]

CountOpt = Annotated[
    int | None,
    typer.Option(
        "--count", min=1, metavar="N", help="Support images per class. (default: the profile's)", show_default=False
    ),
]

DryRunOpt = Annotated[bool, typer.Option("--dry-run", help="Say what would be done, and do nothing.")]

LabelMapOpt = Annotated[
    Path | None,
    typer.Option(
        "--label-map",
        metavar="FILE",
        help="What the ids (or colours) of the labels mean: lines like `name:R,G,B::`. "
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
