"""All facts of every method, for people and for the program. Nothing heavy is imported here.

A method is one record (`Method`) and the class that its `scorer` names, which is imported when the method is run. What
the command line, the help texts, the explanations and the documentation say of methods follows from the records.

Other packages add methods under the entry-point group `ovseg.methods`: the entry's name is the method's, and it points
to a record. A record's module is imported to list the methods, so it should bring no torch; the scorer's may.
"""

from __future__ import annotations

import logging
import re
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import redirect_stdout
from dataclasses import dataclass, field
from functools import partial
from importlib import import_module, metadata
from types import MappingProxyType
from typing import Any, Literal, get_args, get_type_hints

from ovseg_cli.errors import MethodError, UsageError
from ovseg_cli.heads.registered import PREFIX, head_path
from ovseg_cli.methods import published
from ovseg_cli.names import unknown_choice
from ovseg_cli.profiles.specs import DenseDefaults, Profile

GROUP = "ovseg.methods"
"""The entry-point group of methods from other packages."""

_NAME = re.compile(r"[a-z0-9]+(-[a-z0-9]+)*")

log = logging.getLogger("ovseg_cli")


@dataclass(frozen=True, slots=True, kw_only=True)
class Method:
    """What is to be known of a method before it is run.

    Attributes:
        title: Its name as its authors write it.
        source: The paper.
        gist: How it works, in half a sentence.
        reads: What pictures are compared with: prototypes of the store ("prototypes"); words, by CLIP ("words");
            prototypes of the classes that have some and words for the others ("both"); class names, by the diffusion
            model in a prompt of the method's own ("names"); nothing at all, so that its regions have numbers for names,
            and figures need the truth to name them ("regions").
        networks: What it needs of a profile besides its extractors: CLIP ("clip"), the diffusion model ("generator"),
            and a self-supervised network that lends its features ("proxy").
        scorer: "module:class", the class a `ovseg_cli.scorers.words.WordScorer`; empty for methods that read
            prototypes.
        settings: Published settings by data set, for ViT-B/16. Those of "voc21" are taken where nobody names a data
            set, without background those of "voc20" or "context59", and where there is none of them, the first.
        settings_large: The same for ViT-L/14; empty where they are the same.
        background: How pixels become background: by background prototypes ("prototypes"); by words for it and by a
            threshold on probabilities ("words"); where in addition no class is probable ("doubt"); by a map or a
            score of its own ("own").
        prefilter: Whether the class pre-filter is part of it, so that it is on unless the profile or the user says no.
        explained: Whether `ovseg explain` can take its scores apart: those of prototypes, and of words those whose
            scorer is a `ovseg_cli.scorers.tokens.TokenScorer`.
        kind: What it has learned segments from, as tables say it: nothing ("training-free": its networks have seen
            pictures with texts, or pictures alone), texts ("text-supervised"), masks ("mask-supervised"), or the very
            truth that it is scored by ("oracle").
        trained: Of a trained head the digest of its file; empty for methods that need no training. Its settings are its
            own with every profile, as it knows how its pictures were cut.
        templates: Prompt templates that it was trained with; empty for those of its settings.
    """

    title: str
    source: str
    gist: str
    reads: Literal["prototypes", "words", "both", "names", "regions"] = "words"
    networks: tuple[Literal["clip", "generator", "proxy"], ...] = ("clip",)
    scorer: str = ""
    settings: Mapping[str, DenseDefaults] = field(default_factory=dict)
    settings_large: Mapping[str, DenseDefaults] = field(default_factory=dict)
    background: Literal["prototypes", "words", "doubt", "own"] = "words"
    prefilter: bool = False
    explained: bool = False
    kind: Literal["training-free", "text-supervised", "mask-supervised", "oracle"] = "training-free"
    trained: str = ""
    templates: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        for name in ("reads", "background", "kind"):
            value, known = getattr(self, name), get_args(get_type_hints(Method)[name])
            if value not in known:
                raise ValueError(f"{self.title}: {name} is one of {', '.join(known)}, got {value!r}")
        if any(not text.isprintable() for text in (self.title, self.source, self.gist)):
            raise ValueError(f"{self.title!r}: title, source and gist are lines of text")
        if self.reads not in ("prototypes", "both") and not (self.scorer and self.settings):
            raise ValueError(f"{self.title} reads {self.reads}, so it needs a scorer and settings")

    @property
    def reads_words(self) -> bool:
        """Whether it needs nothing of the store, and names its regions."""
        return self.reads in ("words", "names")

    @property
    def finds_regions(self) -> bool:
        """Whether its regions have no names; see `ovseg_cli.methods.diffseg.REGION_NAMES`."""
        return self.reads == "regions"

    @property
    def matches_prototypes(self) -> bool:
        """Whether it looks for prototypes in the store."""
        return self.reads in ("prototypes", "both")

    def rows(self, *, large: bool = False) -> Mapping[str, DenseDefaults]:
        """Its published settings by data set, for a size of CLIP."""
        return self.settings_large if large and self.settings_large else self.settings


_TOKENS = "ovseg_cli.scorers.tokens:"
_LE = "Le, EPFL 2023"
_DIFFUSION: tuple[Literal["clip", "generator"], ...] = ("clip", "generator")

_OWN: Mapping[str, Method] = MappingProxyType(
    {
        "prototype": Method(
            title="OVDiff",
            source="Karazija et al., ECCV 2024",
            gist="nearest prototype of the store",
            reads="prototypes",
            background="prototypes",
            prefilter=True,
            explained=True,
        ),
        "hybrid": Method(
            title="hybrid",
            source="ours",
            gist="prototypes and a dense CLIP method together, for any mix of classes with and without prototypes",
            reads="both",
            background="prototypes",
            prefilter=True,
        ),
        "maskclip": Method(
            title="MaskCLIP",
            source="Zhou et al., ECCV 2022",
            gist="each patch keeps its own value in CLIP's last block",
            scorer=_TOKENS + "MaskClip",
            settings=published.MASKCLIP,
            explained=True,
        ),
        "clipsurgery": Method(
            title="CLIP Surgery",
            source="Li et al., Pattern Recognition 2025",
            gist="value-value attention in a second stream over the last blocks",
            scorer=_TOKENS + "ClipSurgery",
            settings=published.CLIP_SURGERY,
            explained=True,
        ),
        "sclip": Method(
            title="SCLIP",
            source="Wang et al., ECCV 2024",
            gist="query-query and key-key attention in the last block",
            scorer=_TOKENS + "Sclip",
            settings=published.SCLIP,
            explained=True,
        ),
        "clearclip": Method(
            title="ClearCLIP",
            source="Lan et al., ECCV 2024",
            gist="query-query attention, without residual and feed-forward part",
            scorer=_TOKENS + "ClearClip",
            settings=published.CLEARCLIP,
            explained=True,
        ),
        "naclip": Method(
            title="NACLIP",
            source="Hajimiri et al., WACV 2025",
            gist="key-key attention that favours a patch's neighbours",
            scorer=_TOKENS + "Naclip",
            settings=published.NACLIP,
            explained=True,
        ),
        "gem": Method(
            title="GEM",
            source="Bousselham et al., CVPR 2024",
            gist="self-self attention in a second stream over the last blocks",
            scorer=_TOKENS + "Gem",
            settings=published.GEM,
            explained=True,
        ),
        "proxyclip": Method(
            title="ProxyCLIP",
            source="Lan et al., ECCV 2024",
            gist="the affinity of DINO's features as CLIP's last attention",
            networks=("clip", "proxy"),
            scorer=_TOKENS + "ProxyClip",
            settings=published.PROXYCLIP,
            explained=True,
        ),
        "cliper-coarse": Method(
            title="CLIPer without refinement",
            source="Sun et al., ICCV 2025",
            gist="early layers' embeddings and attention through the last block",
            scorer="ovseg_cli.scorers.cliper:CoarseCliper",
            settings=published.CLIPER,
            settings_large=published.CLIPER_LARGE,
        ),
        "cliper": Method(
            title="CLIPer",
            source="Sun et al., ICCV 2025",
            gist="CLIP's early layers, sharpened by the diffusion model's self-attention",
            networks=_DIFFUSION,
            scorer="ovseg_cli.scorers.cliper:Cliper",
            settings=published.CLIPER,
            settings_large=published.CLIPER_LARGE,
        ),
        "agggem": Method(
            title="AggGEM",
            source=_LE,
            gist="GEM's maps spread by the diffusion model's self-attention",
            networks=_DIFFUSION,
            scorer="ovseg_cli.scorers.spread:AggGem",
            settings=published.LANGSEG,
            background="doubt",
        ),
        "diffsegclust": Method(
            title="DiffSegClust",
            source=_LE,
            gist="DiffSeg's regions, labelled by GEM",
            networks=_DIFFUSION,
            scorer="ovseg_cli.scorers.spread:DiffSegClust",
            settings=published.LANGSEG,
            background="doubt",
        ),
        "specclust": Method(
            title="SpecClust",
            source=_LE,
            gist="spectral clusters of self-attention, labelled by GEM",
            networks=_DIFFUSION,
            scorer="ovseg_cli.scorers.spread:SpecClust",
            settings=published.LANGSEG,
            background="doubt",
        ),
        "aggsd": Method(
            title="AggSD",
            source=_LE,
            gist="the diffusion model's own cross-attention for the picture's classes",
            reads="names",
            networks=("generator",),
            scorer="ovseg_cli.scorers.phrases:AggSd",
            settings=published.AGGSD,
            background="own",
            prefilter=True,
        ),
        "diffsegmenter": Method(
            title="DiffSegmenter",
            source="Wang et al., arXiv 2309.02773",
            gist="cross-attention for one class at a time, completed by self-attention",
            reads="names",
            networks=("generator",),
            scorer="ovseg_cli.scorers.phrases:DiffSegmenter",
            settings=published.DIFFSEGMENTER,
            background="own",
            prefilter=True,
        ),
        "diffseg": Method(
            kind="oracle",
            title="DiffSeg",
            source="Tian et al., CVPR 2024",
            gist="regions of the diffusion model's self-attention, without names; scored as an oracle",
            reads="regions",
            networks=("generator",),
            scorer="ovseg_cli.scorers.regions:DiffSeg",
            settings=published.DIFFSEG,
            background="own",
        ),
    }
)


class Catalogue(Mapping[str, Method]):
    """Methods by name: ovseg's own, and those of other packages, which are looked for when they are first needed.

    Trained heads are methods too, by the names of their files (``head:FILE``); they are in no list.
    """

    def __init__(self, own: Mapping[str, Method]) -> None:
        self._own = own
        self._others: dict[str, tuple[Method, str]] | None = None

    def __getitem__(self, name: str) -> Method:
        if name.startswith(PREFIX):
            return _head(name)
        return self._own[name] if name in self._own else self._found()[name][0]

    def __iter__(self) -> Iterator[str]:
        return iter((*self._own, *self._found()))

    def __len__(self) -> int:
        return len(self._own) + len(self._found())

    def origin(self, name: str) -> str | None:
        """The package and version that a method comes from; None for ovseg's own."""
        return None if name in self._own or name.startswith(PREFIX) else self._found()[name][1]

    def _found(self) -> Mapping[str, tuple[Method, str]]:
        if self._others is None:
            self._others = {}
            for entry in sorted(metadata.entry_points(group=GROUP), key=lambda entry: entry.name):
                found = self._load(entry)
                if found is not None:
                    self._others[entry.name] = (found, _version_of(entry))
        return self._others

    def _load(self, entry: metadata.EntryPoint) -> Method | None:
        """The record of an entry point; None, with a warning, where it cannot be taken: the others work without it."""
        reason = None
        if entry.name in self._own or entry.name in (self._others or ()) or entry.name == "auto":
            reason = "there is another method of this name"
        elif not _NAME.fullmatch(entry.name):
            reason = "a name is in lower case, of letters, digits and hyphens"
        else:
            try:
                with redirect_stdout(sys.stderr):  # data goes to stdout
                    found = entry.load()
            except (Exception, SystemExit) as error:  # whatever somebody's module does when it is imported
                reason = f"{type(error).__name__}: {error}"
            else:
                if isinstance(found, Method):
                    return found
                reason = f"{entry.value} is no ovseg_cli.methods.catalogue.Method"
        log.warning("The method %r of %s is left out: %s.", entry.name, _version_of(entry), reason)
        return None


def _head(name: str) -> Method:
    """The record of a trained head.

    Raises:
        UsageError: There is none of this name, or the file is no head.
    """
    from ovseg_cli.heads.record import file_digest, read_record  # not needed for the command line's help

    path = head_path(name)
    found = read_record(path)
    dedos = found.spec.kind == "dedos"
    networks: tuple[Literal["clip", "generator"], ...] = ("clip",)
    if found.spec.dedos is not None and found.spec.dedos.at_inference == "image" and found.spec.dedos.injection:
        networks = _DIFFUSION
    return Method(
        title=f"{'DEDOS' if dedos else 'CAT-Seg'} ({found.name})",
        source="Li et al., ICCV 2025" if dedos else "Cho et al., CVPR 2024",
        gist=f"a head that was trained on {len(found.base)} names",
        networks=networks,
        scorer="ovseg_cli.scorers.heads:HeadScorer",
        settings={"trained": found.settings},
        kind="mask-supervised",
        trained=file_digest(path),
        templates=found.templates,
    )


def _version_of(entry: metadata.EntryPoint) -> str:
    return "an unknown package" if entry.dist is None else f"{entry.dist.name} {entry.dist.version}"


METHODS = Catalogue(_OWN)
"""Every method by name."""


def word_methods() -> tuple[str, ...]:
    """Names of the methods that need words only."""
    return tuple(name for name, method in METHODS.items() if method.reads_words)


def naming_methods() -> tuple[str, ...]:
    """Names of the methods that find classes, which are all but those whose regions have no names."""
    return tuple(name for name, method in METHODS.items() if not method.finds_regions)


def methods_of(profile: Profile) -> tuple[str, ...]:
    """Names of the methods that a profile has all networks for."""
    has = {"clip", "generator"} | ({"proxy"} if profile.proxy_extractor is not None else set())
    return tuple(name for name, method in METHODS.items() if has.issuperset(method.networks))


def check_method(name: str) -> None:
    """Refuse a method that there is not.

    Raises:
        UsageError: It is neither "auto" nor one of `METHODS`.
    """
    if name != "auto" and name not in METHODS:
        raise unknown_choice("method", name, ("auto", *METHODS), heading="Methods")


def check_explained(name: str, why: str = "") -> None:
    """Refuse a method whose scores cannot be taken apart.

    Args:
        name: Its name.
        why: Why it was taken, for the message; empty where it was asked for.

    Raises:
        UsageError: It is such a method.
    """
    if not METHODS[name].explained:
        because = f", which was taken because of {why}," if why else ""
        raise UsageError(
            f"The scores of {name}{because} cannot be taken apart. Explained can be: "
            f"{', '.join(explained_methods())}; segment with one of these as --method."
        )


def explained_methods() -> tuple[str, ...]:
    """Names of the methods whose scores `ovseg explain` can take apart."""
    return tuple(name for name, method in METHODS.items() if method.explained)


def scorer_of(name: str) -> Callable[..., Any]:
    """The class that makes scores by a method.

    Raises:
        MethodError: The record names none, or one that cannot be imported.
    """
    method = METHODS[name]
    module, _, attribute = method.scorer.partition(":")
    try:
        found = getattr(import_module(module), attribute)
        return partial(found, head=head_path(name), digest=method.trained) if method.trained else found
    except (ImportError, AttributeError, ValueError) as error:
        whose = METHODS.origin(name) or "ovseg"
        raise MethodError(
            f"The method {name!r} of {whose} cannot be run: its scorer {METHODS[name].scorer!r} cannot be imported "
            f"({error}). Install the package anew, or take another --method."
        ) from error
