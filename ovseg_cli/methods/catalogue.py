"""The methods by name, for people and for the command line. Nothing heavy is imported here."""

from __future__ import annotations

from dataclasses import dataclass
from types import MappingProxyType
from typing import Literal

from ovseg_cli.errors import UsageError


@dataclass(frozen=True, slots=True, kw_only=True)
class MethodInfo:
    """What people should know of a method.

    Attributes:
        title: Its name as its authors write it.
        source: The paper.
        gist: How it works, in half a sentence.
        prefilter: Whether the class pre-filter is part of it, so that it is on unless the profile or the user says no.
        explained: Whether `ovseg explain` can take its scores apart.
        background: How pixels become background: by background prototypes ("prototypes"); by words for it and by a
            threshold on probabilities ("words"); where in addition no class is probable ("doubt"); by a map or a
            score of its own ("own").
    """

    title: str
    source: str
    gist: str
    prefilter: bool = False
    explained: bool = False
    background: Literal["prototypes", "words", "doubt", "own"] = "words"


METHODS = MappingProxyType(
    {
        "prototype": MethodInfo(
            explained=True,
            background="prototypes",
            title="OVDiff",
            source="Karazija et al., ECCV 2024",
            gist="nearest prototype of the store",
            prefilter=True,
        ),
        "hybrid": MethodInfo(
            background="prototypes",
            title="hybrid",
            source="ours",
            gist="prototypes and a dense CLIP method together, for any mix of classes with and without prototypes",
            prefilter=True,
        ),
        "maskclip": MethodInfo(
            explained=True,
            title="MaskCLIP",
            source="Zhou et al., ECCV 2022",
            gist="each patch keeps its own value in CLIP's last block",
        ),
        "clipsurgery": MethodInfo(
            explained=True,
            title="CLIP Surgery",
            source="Li et al., Pattern Recognition 2025",
            gist="value-value attention in a second stream over the last blocks",
        ),
        "sclip": MethodInfo(
            explained=True,
            title="SCLIP",
            source="Wang et al., ECCV 2024",
            gist="query-query and key-key attention in the last block",
        ),
        "clearclip": MethodInfo(
            explained=True,
            title="ClearCLIP",
            source="Lan et al., ECCV 2024",
            gist="query-query attention, without residual and feed-forward part",
        ),
        "naclip": MethodInfo(
            explained=True,
            title="NACLIP",
            source="Hajimiri et al., WACV 2025",
            gist="key-key attention that favours a patch's neighbours",
        ),
        "gem": MethodInfo(
            explained=True,
            title="GEM",
            source="Bousselham et al., CVPR 2024",
            gist="self-self attention in a second stream over the last blocks",
        ),
        "proxyclip": MethodInfo(
            explained=True,
            title="ProxyCLIP",
            source="Lan et al., ECCV 2024",
            gist="the affinity of DINO's features as CLIP's last attention",
        ),
        "cliper-coarse": MethodInfo(
            title="CLIPer without refinement",
            source="Sun et al., ICCV 2025",
            gist="early layers' embeddings and attention through the last block",
        ),
        "cliper": MethodInfo(
            title="CLIPer",
            source="Sun et al., ICCV 2025",
            gist="the same, sharpened by the diffusion model's self-attention",
        ),
        "agggem": MethodInfo(
            background="doubt",
            title="AggGEM",
            source="Le, EPFL 2023",
            gist="GEM's maps spread by the diffusion model's self-attention",
        ),
        "diffsegclust": MethodInfo(
            background="doubt", title="DiffSegClust", source="Le, EPFL 2023", gist="DiffSeg's regions, labelled by GEM"
        ),
        "specclust": MethodInfo(
            background="doubt",
            title="SpecClust",
            source="Le, EPFL 2023",
            gist="spectral clusters of self-attention, labelled by GEM",
        ),
        "aggsd": MethodInfo(
            background="own",
            title="AggSD",
            source="Le, EPFL 2023",
            gist="the diffusion model's own cross-attention for the picture's classes",
            prefilter=True,
        ),
        "diffsegmenter": MethodInfo(
            background="own",
            title="DiffSegmenter",
            source="Wang et al., arXiv 2309.02773",
            gist="cross-attention for one class at a time, completed by self-attention",
            prefilter=True,
        ),
    }
)
"""Every method by name."""

DENSE_METHODS = tuple(name for name in METHODS if name not in ("prototype", "hybrid"))
"""Methods that need words only."""


def check_explained(method: str, why: str = "") -> None:
    """Refuse a method whose scores cannot be taken apart.

    Args:
        method: Its name.
        why: Why it was taken, for the message; empty where it was asked for.

    Raises:
        UsageError: It is such a method.
    """
    if not METHODS[method].explained:
        able = ", ".join(name for name, info in METHODS.items() if info.explained)
        because = f", which was taken because of {why}," if why else ""
        raise UsageError(
            f"The scores of {method}{because} cannot be taken apart. Explained can be: {able}; "
            "segment with one of these as --method."
        )
