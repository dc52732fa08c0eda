"""What is compared: the rows of the table, and what the paper's supplement says of each.

Every row is a `Setting`, and most differ from the default in one respect. Rows with equal settings are measured once.
The paper's figures are those of its supplement; tables that are only in the paper itself are not quoted.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Final, Literal

from ovseg_cli.profiles import Profile
from ovseg_cli.profiles.specs import PrefilterSpec
from ovseg_cli.prototypes.masks import MaskMethod
from ovseg_cli.segmentation.options import KINDS
from ovseg_cli.store.records import PrototypeKind

Clustering = Literal["euclidean", "spherical"]
Prefilter = PrefilterSpec | Literal["labels"]

StuffRule = Literal[
    "filter", "no filter", "background kept", "background kept, no filter", "all foregrounds", "no stuff parts"
]
"""What becomes of background prototypes when stuff is asked for too.

filter: Stuff has none; those of things go when they look like stuff (the method).
no filter: Stuff has none; those of things all stay (``--no-stuff-filter``).
background kept: Stuff keeps its own; those of things go when they look like stuff.
background kept, no filter: All stay.
all foregrounds: Stuff and things are not told apart: all go that look like any foreground prototype.
no stuff parts: As "filter", but stuff has no part prototypes.
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Making:
    """How prototypes are made from a support set.

    Attributes:
        mask_method: How the object is cut out.
        parts: K of k-means.
        kmeans: What k-means takes for distance.
    """

    mask_method: MaskMethod
    parts: int
    kmeans: Clustering


@dataclass(frozen=True, slots=True, kw_only=True)
class Setting:
    """All that decides a label map, but for the picture and the support set.

    Attributes:
        extractors: Names of those whose scores are averaged.
        making: How prototypes are made.
        kinds: Which kinds of prototypes are matched.
        stuff: None when only things are asked for; else stuff is asked for as well, under this rule.
        prefilter: How classes are filtered before; "labels" for a filter that is told which things are there, the best
            that any could be; None for not at all.
        refine: What is done to the fused scores.
    """

    extractors: tuple[str, ...]
    making: Making
    kinds: tuple[PrototypeKind, ...] = KINDS
    stuff: StuffRule | None = None
    prefilter: Prefilter | None = None
    refine: Literal["none", "pamr"] = "none"


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """One line of the table.

    Attributes:
        name: What it is called in its group.
        setting: What is measured.
        reference: What it is compared with, seed by seed.
        paper: The paper's mIoU in percent on PASCAL VOC / Context, or "".
    """

    name: str
    setting: Setting
    reference: Setting
    paper: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Group:
    """Rows that belong together.

    Attributes:
        title: Above the rows.
        note: What the paper says of all of them, or "".
        rows: At least one.
    """

    title: str
    note: str
    rows: tuple[Row, ...]


def groups(profile: Profile) -> Mapping[str, Group]:
    """Every group of rows by its name on the command line.

    Args:
        profile: Whose defaults are the reference; has extractors "sd", "clip", "dino" and "clip-token".
    """
    generator = profile.generator
    # Otsu is what the paper's supplement says; which masks a profile prefers is a row of its own.
    making = Making(mask_method="otsu", parts=generator.parts, kmeans=generator.kmeans)
    ensemble = Setting(extractors=tuple(spec.name for spec in profile.extractors), making=making)
    sd = replace(ensemble, extractors=("sd",))
    return {
        "extractors": _extractors(ensemble),
        "prefilter": _prefilter(ensemble, profile),
        "parts": _parts((sd, ensemble)),
        "kinds": _kinds((sd, ensemble)),
        "stuff": _stuff((sd, ensemble)),
        "masks": _masks((sd, ensemble)),
        "kmeans": _kmeans((sd, ensemble)),
        "refine": _refine(ensemble),
        "together": _together(ensemble, profile),
    }


GROUP_NAMES: Final = ("extractors", "prefilter", "parts", "kinds", "stuff", "masks", "kmeans", "refine", "together")


def _extractors(ensemble: Setting) -> Group:
    paper = {("sd",): "64.4 / 29.4", ("sd", "clip", "dino"): "66.3 ± 0.2 / 29.7 ± 0.3"}
    choices = (
        ("sd",),
        ("clip",),
        ("dino",),
        ("clip-token",),
        ("sd", "clip"),
        ("sd", "clip-token"),
        ("sd", "clip", "clip-token"),
        ("sd", "clip", "dino"),
    )
    return Group(
        title="Feature extractors",
        note="tables A.4, A.5",
        rows=tuple(
            Row(
                name=" + ".join(names),
                setting=replace(ensemble, extractors=names),
                reference=ensemble,
                paper=paper.get(names, ""),
            )
            for names in choices
        ),
    )


def _prefilter(ensemble: Setting, profile: Profile) -> Group:
    spec = profile.prefilter
    rules: dict[str, Prefilter | None] = {"off": None}
    if spec is not None:
        published = replace(spec, margin=0.0, background=False)
        rules["on, as published"] = replace(published, crops=(1,))
        rules["on, as published, for every crop"] = published
        rules["on, as in the profile"] = spec
    rules["on, told by the labels"] = "labels"
    paper = {"off": "56.2 / –", "on, as published": "66.4 / –"}
    rows = [
        Row(
            name=name,
            setting=replace(ensemble, prefilter=prefilter),
            reference=ensemble,
            paper=paper.get(name, ""),
        )
        for name, prefilter in rules.items()
    ]
    return Group(title="Class pre-filter", note="table A.2, by sd + clip + dino", rows=tuple(rows))


def _parts(bases: Sequence[Setting]) -> Group:
    paper = {8: "63.8 / 29.2", 16: "64.0 / 29.3", 32: "64.4 / 29.4", 64: "64.3 / 28.0"}
    return Group(
        title="Number of parts K",
        note="table A.5, by sd",
        rows=tuple(
            Row(
                name=f"{_called(base)}: K = {parts}",
                setting=replace(base, making=replace(base.making, parts=parts)),
                reference=base,
                paper=figure if base.extractors == ("sd",) else "",
            )
            for base in bases
            for parts, figure in paper.items()
        ),
    )


def _kinds(bases: Sequence[Setting]) -> Group:
    subsets: tuple[tuple[PrototypeKind, ...], ...] = (
        ("mean", "instance", "part"),
        ("mean", "instance"),
        ("mean", "part"),
        ("instance", "part"),
        ("mean",),
        ("instance",),
        ("part",),
    )
    return Group(
        title="Kinds of prototypes",
        note="table A.7, by sd; its six lower rows are 60.0 to 63.7 / 28.4 to 29.4",
        rows=tuple(
            Row(
                name=f"{_called(base)}: {' + '.join(kinds)}",
                setting=replace(base, kinds=kinds),
                reference=base,
                paper="64.4 / 29.4" if kinds == KINDS and base.extractors == ("sd",) else "",
            )
            for base in bases
            for kinds in subsets
        ),
    )


def _stuff(bases: Sequence[Setting]) -> Group:
    rules: dict[StuffRule, str] = {
        "filter": "– / 29.4",
        "background kept": "– / 29.1",
        "all foregrounds": "– / 27.6",
        "no stuff parts": "– / 28.0",
        "no filter": "",
        "background kept, no filter": "",
    }
    return Group(
        title="Stuff filter, with eight classes of stuff",
        note="supplement A.2, by sd",
        rows=tuple(
            Row(
                name=f"{_called(base)}: {rule}",
                setting=replace(base, stuff=rule),
                reference=replace(base, stuff="filter"),
                paper=figure if base.extractors == ("sd",) else "",
            )
            for base in bases
            for rule, figure in rules.items()
        ),
    )


def _masks(bases: Sequence[Setting]) -> Group:
    methods: tuple[MaskMethod, ...] = ("otsu", "fixed", "self-attention")
    return Group(
        title="Masks of the support images",
        note="supplement A.1, VOC: CutLER 66.3, SAM 67.1, Grounded SAM 68.5",
        rows=tuple(
            Row(
                name=f"{_called(base)}: {method}",
                setting=replace(base, making=replace(base.making, mask_method=method)),
                reference=base,
            )
            for base in bases
            for method in methods
        ),
    )


def _kmeans(bases: Sequence[Setting]) -> Group:
    choices: tuple[Clustering, ...] = ("euclidean", "spherical")
    selected: dict[str, tuple[PrototypeKind, ...]] = {"": KINDS, ", parts alone": ("part",)}
    return Group(
        title="Distance of k-means",
        note="Euclidean",
        rows=tuple(
            Row(
                name=f"{_called(base)}{among}: {kmeans}",
                setting=replace(base, kinds=kinds, making=replace(base.making, kmeans=kmeans)),
                reference=replace(base, kinds=kinds),
            )
            for base in bases
            for among, kinds in selected.items()
            for kmeans in choices
        ),
    )


def _refine(ensemble: Setting) -> Group:
    return Group(
        title="Refinement",
        note="",
        rows=(
            Row(name="none", setting=ensemble, reference=ensemble),
            Row(name="PAMR", setting=replace(ensemble, refine="pamr"), reference=ensemble),
        ),
    )


def _together(ensemble: Setting, profile: Profile) -> Group:
    methods: tuple[MaskMethod, ...] = ("otsu", "fixed", "self-attention")
    return Group(
        title="Masks, with the profile's pre-filter and PAMR",
        note="",
        rows=tuple(
            Row(
                name=f"{method} + pre-filter + PAMR",
                setting=replace(
                    ensemble,
                    making=replace(ensemble.making, mask_method=method),
                    prefilter=profile.prefilter,
                    refine="pamr",
                ),
                reference=ensemble,
            )
            for method in methods
        ),
    )


def _called(setting: Setting) -> str:
    return " + ".join(setting.extractors)
