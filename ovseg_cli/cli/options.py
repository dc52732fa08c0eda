"""Options that several commands share, defined once."""

from __future__ import annotations

import functools
import inspect
import typing
from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from ovseg_cli.cli.complete import complete_classes, complete_method
from ovseg_cli.errors import UsageError

if TYPE_CHECKING:
    from ovseg_cli.segmentation.options import SegmentOptions

WITH_PROTOTYPES = "With prototypes"
WITH_WORDS = "With words"
PICTURES = "How pictures are worked at"
RUNNING = "Running"


class PlaceText(str):
    """What is typed for a file or folder that may be a URL: `expanded` says what it names."""

    __slots__ = ()


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

DrawsOpt = Annotated[
    int,
    typer.Option(
        "--bootstrap",
        min=0,
        max=1_000_000,
        metavar="N",
        help="Bootstrap draws of pictures for the intervals; 0: none.",
    ),
]

DrawsSeedOpt = Annotated[int, typer.Option("--seed", min=0, metavar="N", help="Of the bootstrap's draws.")]

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

ExactOpt = Annotated[
    bool | None,
    typer.Option(
        "--exact",
        rich_help_panel=WITH_PROTOTYPES,
        help="Compare all of very many classes with every picture, not only those that the search index finds.",
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
        "(self-attention, sam). (default: the profile's)",
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

MethodOpt = Annotated[
    str,
    typer.Option(
        "--method",
        metavar="METHOD",
        autocompletion=complete_method,
        help="prototype, hybrid, a method that reads words (gem, sclip, cliper, ...: see ovseg methods), or auto: "
        "prototypes if all classes have them, hybrid if some have, else the profile's best.",
    ),
]

ClassFileOpt = Annotated[
    Path | None,
    typer.Option(
        "--class-file",
        metavar="FILE",
        help="Classes to look for, one per line, with synonyms behind semicolons.",
        show_default=False,
    ),
]

BackgroundLineOpt = Annotated[
    Literal["named", "first"],
    typer.Option(
        "--background-line",
        rich_help_panel=WITH_WORDS,
        help="Which line of the class file lists words for none of the classes: one that begins with background, "
        "or the first, as in published files of Pascal VOC.",
    ),
]

ImageClassesOpt = Annotated[
    Path | None,
    typer.Option(
        "--image-classes",
        metavar="FILE",
        help="Which classes each picture shows, in the pre-filter's place: one picture per line, "
        "sub/photo.jpg: cat; dog",
        show_default=False,
    ),
]

SynonymsOpt = Annotated[
    list[str] | None,
    typer.Option(
        "--synonym",
        metavar="CLASS=WORD",
        rich_help_panel=WITH_WORDS,
        help="With words: another word for a class; may be given several times.",
        show_default=False,
    ),
]

SettingsOpt = Annotated[
    str | None,
    typer.Option(
        "--settings",
        rich_help_panel=WITH_WORDS,
        metavar="DATASET",
        help="With words: the method's published settings for voc21, voc20, context60, context59, coco-object, "
        "coco-stuff, ade150 or cityscapes, as far as it has them (ovseg methods NAME); other options take the place of "
        "single ones. Not with mini, which has settings of its own. (default: voc21, or voc20 with --no-background)",
        show_default=False,
    ),
]

TemplatesOpt = Annotated[
    Literal["single", "short", "car", "imagenet", "imagenet-scene"] | None,
    typer.Option(
        "--templates",
        rich_help_panel=WITH_WORDS,
        help="With words: the prompts that each is read in: 1, 7, 15, 80 or 85. (default: the method's)",
        show_default=False,
    ),
]

WordsOpt = Annotated[
    str | None,
    typer.Option(
        "--words",
        metavar="METHOD",
        autocompletion=complete_method,
        rich_help_panel=WITH_WORDS,
        help="With hybrid: the method that reads words, such as head:FILE. (default: the profile's best)",
        show_default=False,
    ),
]

LogitScaleOpt = Annotated[
    float | None,
    typer.Option(
        "--logit-scale",
        metavar="X",
        rich_help_panel=WITH_WORDS,
        help="With words: how sharply they compete. (default: the method's)",
        show_default=False,
    ),
]

ShortSideOpt = Annotated[
    int | None,
    typer.Option(
        "--short-side",
        metavar="N",
        rich_help_panel=PICTURES,
        help="Pixels of the short side that pictures are worked at. (default: the method's)",
        show_default=False,
    ),
]

WindowsOpt = Annotated[
    list[str] | None,
    typer.Option(
        "--windows",
        metavar="SIZE/STRIDE",
        rich_help_panel=PICTURES,
        help="Sliding windows of that size in pixels, or whole; may be given several times. (default: the method's)",
        show_default=False,
    ),
]

BatchOpt = Annotated[
    int | None,
    typer.Option(
        "--batch",
        min=1,
        max=1024,
        metavar="N",
        rich_help_panel=RUNNING,
        help="Pictures of one size that are segmented together. (default: 8 on a GPU, 1 on a CPU)",
        show_default=False,
    ),
]

WorkersOpt = Annotated[
    int | None,
    typer.Option(
        "--workers",
        min=1,
        max=1024,
        metavar="N",
        rich_help_panel=RUNNING,
        help="Share the pictures among N processes, which share the cores. (default: one, or one for each device)",
        show_default=False,
    ),
]

DevicesOpt = Annotated[
    str | None,
    typer.Option(
        "--devices",
        metavar="LIST",
        rich_help_panel=RUNNING,
        help="Share the pictures among GPUs of this computer: their numbers with commas between them, or all.",
        show_default=False,
    ),
]

EngineOpt = Annotated[
    Literal["local", "ray"],
    typer.Option("--engine", rich_help_panel=RUNNING, help="Who does the work: this computer, or a cluster of Ray."),
]

RayAddressOpt = Annotated[
    str | None,
    typer.Option(
        "--ray-address",
        metavar="ADDRESS",
        rich_help_panel=RUNNING,
        help="Where the cluster is. (default: RAY_ADDRESS, else a small cluster on this computer)",
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

DatasetOpt = Annotated[
    str | None,
    typer.Option(
        "--dataset",
        metavar="NAME",
        help="A published data set in place of --gt: voc21, voc20, voc20b, context60, context59, context459, "
        "coco-object, coco-stuff, coco-stuff27, ade150, ade847, cityscapes; NAME:PAPER for that paper's class names.",
        show_default=False,
    ),
]

RootOpt = Annotated[
    Path | None,
    typer.Option("--root", metavar="DIR", help="Where that data set was unpacked.", show_default=False),
]

SplitOpt = Annotated[
    str | None,
    typer.Option(
        "--split",
        metavar="NAME|FILE",
        help="Its part (default: val); or a file that lists the pictures that count, one a line.",
        show_default=False,
    ),
]

GtSuffixOpt = Annotated[
    str,
    typer.Option(
        "--gt-suffix",
        metavar="TEXT",
        help="How label files end beyond the pictures' names: _gtFine_labelIds.png.",
        show_default=False,
    ),
]

IgnoreOpt = Annotated[
    list[int] | None,
    typer.Option(
        "--ignore",
        min=-1,
        max=65535,
        metavar="ID",
        help="Label of pixels that do not count; -1: none; may be repeated. (default: 255)",
        show_default=False,
    ),
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


@dataclass(frozen=True, slots=True, kw_only=True)
class Query:
    """What is looked for in images, and how: what the options say that `with_query` gives a command.

    Attributes:
        classes: Class names as typed, or those of the class file; none when nobody named any.
        methods: What `--method` says: one, or several with commas between.
        options: What else decides label maps.
        background: What `--background` or `--no-background` says; None where neither is given.
        given: The options that were given, as typed.
        notes: Sentences for people about what they may not expect.
    """

    classes: tuple[str, ...]
    methods: tuple[str, ...]
    options: SegmentOptions
    background: bool | None
    given: tuple[str, ...]
    notes: tuple[str, ...]

    @property
    def method(self) -> str:
        """The one method.

        Raises:
            UsageError: There are several.
        """
        if len(self.methods) > 1:
            raise UsageError(
                f"One --method is wanted here, got {', '.join(self.methods)}. Several are run together by ovseg "
                "benchmark, and by ovseg eval --images."
            )
        return self.methods[0]


def _query(
    classes: ClassesOpt = None,
    class_file: ClassFileOpt = None,
    method: MethodOpt = "auto",
    background: BackgroundOpt = None,
    threshold: ThresholdOpt = None,
    prefilter: PrefilterOpt = None,
    stuff_filter: StuffFilterOpt = None,
    exact: ExactOpt = None,
    extractors: ExtractorsOpt = None,
    prototypes: PrototypesOpt = None,
    settings: SettingsOpt = None,
    synonyms: SynonymsOpt = None,
    background_line: BackgroundLineOpt = "named",
    templates: TemplatesOpt = None,
    logit_scale: LogitScaleOpt = None,
    words: WordsOpt = None,
    short_side: ShortSideOpt = None,
    windows: WindowsOpt = None,
    refine: RefineOpt = None,
) -> Query:
    """What these options say; its parameters are those of every command that segments.

    Raises:
        UsageError: Something that cannot be.
    """
    from ovseg_cli.methods.catalogue import check_method
    from ovseg_cli.segmentation.options import SegmentOptions, parse_windows
    from ovseg_cli.text.vocabulary import merge_synonyms, parse_synonyms

    values = dict(locals())
    methods = tuple(name.strip() for name in method.split(","))
    for name in methods:
        check_method(name)
    if len(set(methods)) < len(methods) or ("auto" in methods and len(methods) > 1):
        raise UsageError(f"--method takes each method once, and auto by itself; got {method!r}.")
    if words is not None:
        check_method(words)
    names = split_names(classes)
    listed, notes = None, []
    if background_line != "named" and class_file is None:
        raise UsageError("--background-line belongs to --class-file: name the file too.")
    if class_file is not None:
        if names:
            raise UsageError("--class-file and --classes exclude each other: name the classes in one place.")
        from ovseg_cli.files.class_file import read_class_file
        from ovseg_cli.names import is_background

        listed = read_class_file(class_file, first_is_background=background_line == "first")
        names = listed.classes
        if listed.background is not None and all(map(is_background, listed.background)):
            notes.append(
                f"{class_file} has a line {listed.background[0]!r} without words, so that one word stands for what is "
                "none of the classes, in place of the profile's own. Leave the line out to keep those."
            )
    merged = merge_synonyms({} if listed is None else listed.synonyms, parse_synonyms(synonyms or []))
    return Query(
        classes=names,
        methods=methods,
        options=SegmentOptions(
            background=background is not False,
            threshold=threshold,
            prefilter=prefilter,
            extractors=split_names(extractors) or None,
            prototypes=split_names(prototypes) or None,  # type: ignore[arg-type]  # checked by the class itself
            stuff_filter=stuff_filter,
            exact=exact,
            refine=refine,
            settings=settings,
            templates=templates,
            logit_scale=logit_scale,
            words=words,
            short_side=short_side,
            windows=parse_windows(windows or []),
            synonyms=tuple(merged.items()),
            background_words=None if listed is None else listed.background,
        ),
        background=background,
        given=_given(values),
        notes=tuple(notes),
    )


def _given(values: Mapping[str, Any]) -> tuple[str, ...]:
    """Which options were given, as typed."""
    found = []
    for name, parameter in inspect.signature(_query).parameters.items():
        value = values.get(name)
        if value == parameter.default or value == []:
            continue
        flag = {"synonyms": "--synonym"}.get(name, f"--{name.replace('_', '-')}")
        found.append(flag if value is not False else f"--no-{name.replace('_', '-')}")
    return tuple(found)


def with_query(function: Callable[..., None], *, without: Collection[str] = ()) -> Callable[..., None]:
    """Give a command's body the options that say what to look for, in the place of its parameter `query`.

    Args:
        function: The body.
        without: Parameters of `_query` that the command has no option for; they keep their defaults.
    """
    hints = typing.get_type_hints(_query, include_extras=True)
    asking = [
        parameter.replace(annotation=hints[name])
        for name, parameter in inspect.signature(_query).parameters.items()
        if name not in without
    ]
    own = typing.get_type_hints(function, include_extras=True)
    parameters: list[inspect.Parameter] = []
    for name, parameter in inspect.signature(function).parameters.items():
        parameters += asking if name == "query" else [parameter.replace(annotation=own[name])]

    @functools.wraps(function)
    def body(common: Any, **values: Any) -> None:
        query = _query(**{parameter.name: values.pop(parameter.name) for parameter in asking})
        function(common, query=query, **values)

    # Typed values with defaults may stand before others: the command line takes all of them by name.
    typed = [p.replace(kind=inspect.Parameter.KEYWORD_ONLY) for p in parameters[1:]]
    body.__signature__ = inspect.Signature([parameters[0], *typed])  # type: ignore[attr-defined]
    body.__annotations__ = {parameter.name: parameter.annotation for parameter in parameters}
    return body
