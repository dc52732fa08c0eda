"""What a run is asked for, and what that comes to with a store and a profile: one value, made once. No torch here."""

from __future__ import annotations

import json
import shlex
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Protocol, TypeVar

from ovseg_cli.errors import ProfileMismatchError, UnknownClassError, UsageError
from ovseg_cli.heads.record import read_record
from ovseg_cli.heads.registered import PREFIX, head_path
from ovseg_cli.methods.catalogue import METHODS, Method, check_method
from ovseg_cli.methods.region_names import REGION_NAMES
from ovseg_cli.methods.settings import dense_settings, templates_for
from ovseg_cli.names import MAX_NAME_LENGTH, ClassList, check_names, did_you_mean, listed_names, shown_name
from ovseg_cli.precision import Precision
from ovseg_cli.profiles import ExtractorSpec, Profile
from ovseg_cli.profiles.specs import DenseDefaults, InferenceSpec, PrefilterSpec, digest_of
from ovseg_cli.prototypes.kinds import listed_kind
from ovseg_cli.segmentation.options import KINDS, SegmentOptions
from ovseg_cli.text.vocabulary import Vocabulary, make_vocabulary

if TYPE_CHECKING:
    from ovseg_cli.store.records import ClassInfo, PrototypeBlock, PrototypeKind

ANSWER_VERSION = 5
"""Raised when the same inputs give another label map than before, so that old results are not taken for new ones."""

_OWN_PROMPT = "the diffusion model reads class names in a prompt of its own"


class PrototypeSource(Protocol):
    """What a recipe needs to know of classes and their prototypes; a `Store` is one."""

    @property
    def path(self) -> Path | None:
        """The store's folder; None for one without, whose prototypes are all read at once."""

    def snapshot(self) -> AbstractContextManager[None]:
        """Let everything that is read inside the block be of one moment."""

    def has_class(self, name: str) -> bool:
        """Whether there is a class of this name, whatever its case."""

    def class_names(self) -> list[str]:
        """The names of all classes."""

    def get_classes(self, names: Sequence[str]) -> list[ClassInfo]:
        """Some classes, in the order of the names."""

    def prototypes(self, names: Sequence[str] | None, extractor: str) -> PrototypeBlock:
        """The prototypes of classes by the extractor of a digest."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ShortlistSpec:
    """How the classes that a picture can show are found among many.

    Attributes:
        most_exact: Of up to so many classes all are compared: a search takes as long.
        queries: Cells of a picture that classes are searched for by, at most, for each extractor.
        prototypes: Foreground prototypes that are found for each.
        background: Background prototypes that are found for every cell that is surveyed: the best of very many counts,
            to whatever class it belongs, which is another one in each cell.
        margin: A class is taken if its cosine is below the best one, the background's too, by no more than this.
        classes: So many are taken for each cell at most.
        most: Classes that are taken for a picture, at most.
    """

    most_exact: int = 128
    queries: int = 256
    prototypes: int = 64
    background: int = 2
    margin: float = 0.1
    classes: int = 8
    most: int = 512


SHORTLIST = ShortlistSpec()

_FEW = 100  # classes that are looked up one by one


@dataclass(frozen=True, slots=True)
class Choice:
    """Which method segments, and why.

    Attributes:
        method: One of `ovseg_cli.methods.catalogue.METHODS`.
        asked: What the user asked for ("auto" or a method).
        missing: Classes without prototypes.
        reason: One sentence for people.
    """

    method: str
    asked: str
    missing: tuple[str, ...]
    reason: str


def choose_method(store: PrototypeSource, profile: Profile, classes: Sequence[str], method: str = "auto") -> Choice:
    """Which method to use; loads no model.

    "auto" takes prototypes when every class has them, prototypes and words together ("hybrid") when some have them,
    and the best dense method of the profile when none has.

    Raises:
        UnknownClassError: "prototype" was asked for and a class has no prototypes.
        UsageError: No such method, no class, or a class twice.
    """
    check_method(method)
    if method != "auto" and METHODS[method].finds_regions:
        if tuple(classes) != REGION_NAMES:
            raise UsageError(f"{METHODS[method].title} finds regions without names: leave out the classes.")
        return Choice(method, method, (), "asked for")
    if method.startswith(PREFIX):  # whatever it is called: a folder's run goes on with the same file
        method = f"{PREFIX}{head_path(method)}"
    if not classes:
        raise UsageError('No classes to segment. Name some with --classes, or add one: ovseg add-class "cat".')
    missing = _without_prototypes(store, classes)
    if method != "auto" and METHODS[method].reads == "prototypes" and missing:
        raise UnknownClassError(_unknown_message(missing[0], store.class_names()))
    if method != "auto":
        return Choice(method, method, missing, "asked for")
    if not missing:
        return Choice("prototype", method, (), "every class has prototypes")
    reason = f"no prototypes for {listed_names(missing)}"
    best = "hybrid" if len(missing) < len(classes) else profile.clip.best
    return Choice(best, method, missing, reason)


def _without_prototypes(store: PrototypeSource, classes: Sequence[str]) -> tuple[str, ...]:
    """Those of the classes that a store does not have."""
    names = ClassList(classes)
    if len(names) > _FEW:
        return ClassList.distinct(store.class_names()).lacking(names)
    return tuple(name for name in names if not store.has_class(name))


def _unknown_message(name: str, known: Sequence[str]) -> str:
    if len(name) > MAX_NAME_LENGTH:
        return f"The store has no class {shown_name(name)}, nor can it: such a name is too long. Use --method auto."
    hint = did_you_mean(name, known)
    return f'The store has no class {name!r}.{hint} Add it with: ovseg add-class "{name}" (or use --method auto).'


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class PrototypePart:
    """What a recipe matches of the store.

    Attributes:
        classes: Classes with prototypes that take part, in the order asked, as the store spells them.
        generations: Of each, which making of it; another one has other prototypes.
        extractors: Whose scores are averaged.
        blocks: For each extractor the classes' prototypes; empty in a recipe that only plans, and for so many classes
            that prototypes are read picture by picture.
        store: The folder of the store that they are then read from; None where they are in `blocks`.
        shortlist: How the classes that a picture can show are then found.
        kinds: Which kinds are matched.
        stuff: Which of the classes are stuff.
        stuff_similarity: Cosine to a stuff prototype from which a thing's background prototype is left out; None for
            no stuff filter, which is also the case when no class is stuff.
        geometry: How the image is cut up.
    """

    classes: tuple[str, ...]
    generations: tuple[str, ...]
    extractors: tuple[ExtractorSpec, ...]
    blocks: tuple[PrototypeBlock, ...]
    store: Path | None = None
    shortlist: ShortlistSpec | None = None
    kinds: tuple[PrototypeKind, ...]
    stuff: tuple[str, ...]
    stuff_similarity: float | None
    geometry: InferenceSpec


@dataclass(frozen=True, slots=True, kw_only=True)
class WordPart:
    """What a recipe reads in words.

    Attributes:
        method: The method that reads them.
        settings: What it is run with.
        vocabulary: The words.
        templates: Prompt templates that each is put into.
    """

    method: str
    settings: DenseDefaults
    vocabulary: Vocabulary
    templates: tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class FilterPart:
    """How a recipe filters classes before they compete.

    Attributes:
        spec: The filter's settings.
        stuff: Classes that it always keeps: those that the store calls stuff, and among those without prototypes what
            the word list calls so.
    """

    spec: PrefilterSpec
    stuff: tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Recipe:
    """Everything that decides label maps, except the images: frozen, and complete without a store.

    Of very many classes the prototypes stay in their store (`PrototypePart.store`), which then has to be at hand.

    It can be pickled, so that workers in other processes and on other machines segment by it. Two recipes with one
    digest give the same label maps.

    Attributes:
        classes: Class names in label order.
        choice: Which method, and why.
        options: What was asked for.
        profile: The models.
        precision: What the networks compute in, as asked for.
        prototypes: What is matched of the store; None for words alone.
        words: What is read in words; None for prototypes alone.
        prefilter: How classes are filtered before they compete; None for not at all.
        refine: What is done to the scores.
        settings: Everything that changes the answer, as JSON-able values.
        notes: Sentences for people about what they may not expect.
    """

    classes: tuple[str, ...]
    choice: Choice
    options: SegmentOptions
    profile: Profile
    precision: Precision
    prototypes: PrototypePart | None
    words: WordPart | None
    prefilter: FilterPart | None
    refine: Literal["none", "pamr"]
    settings: dict[str, Any]
    notes: tuple[str, ...]

    @property
    def method(self) -> str:
        """The method that segments."""
        return self.choice.method

    @property
    def digest(self) -> str:
        """SHA-256 (hex) of `settings`."""
        return digest_of(self.settings)


def make_recipe(
    store: PrototypeSource,
    profile: Profile,
    classes: Sequence[str],
    *,
    method: Choice | str = "auto",
    options: SegmentOptions | None = None,
    precision: Precision = "auto",
    planning: bool = False,
) -> Recipe:
    """What a request comes to; loads no model.

    The store is read as it is at one moment, whoever writes to it meanwhile.

    Args:
        store: Knows the classes, their kinds and their prototypes.
        profile: Says what happens when nobody says.
        classes: Class names in label order.
        method: "auto", one of `ovseg_cli.methods.catalogue.METHODS`, or what `choose_method` said.
        options: What else was asked for; what the method does not have is refused.
        precision: What the networks are to compute in.
        planning: Whether nothing is going to be segmented, so that the prototypes themselves are not read.

    Raises:
        UsageError: `classes` is no list of names; no class, or one twice; no such method; or an option that the
            method or the profile does not have.
        UnknownClassError: The method matches prototypes, and a class has none.
        ProfileMismatchError: A class has no prototypes by one of the extractors.
    """
    check_names("classes", classes)
    options = options or SegmentOptions()
    with store.snapshot():
        choice = choose_method(store, profile, classes, method) if isinstance(method, str) else method
        info = METHODS[choice.method]
        _refuse_foreign(choice, options)
        # With prototypes alone, a class that is gone meanwhile is an error.
        named = list(classes) if info.matches_prototypes else []
        if named and info.reads != "prototypes":
            gone = set(_without_prototypes(store, classes))
            named = [name for name in classes if name not in gone]
        infos = store.get_classes(named) if named else []
        prototypes = None
        if info.matches_prototypes:
            prototypes = _prototype_part(store, profile, infos, options, planning=planning)
    words = None if info.reads == "prototypes" else _word_part(profile, classes, choice, options)
    stuff = tuple(known.name for known in infos if known.kind == "stuff")
    prefilter = _prefilter_part(profile, choice, options, (*stuff, *_listed_stuff(classes, infos, choice)))
    refine = options.refine or ("none" if words is None or info.matches_prototypes else words.settings.refine)
    recipe = Recipe(
        classes=tuple(classes),
        choice=choice,
        options=options,
        profile=profile,
        precision=precision,
        prototypes=prototypes,
        words=words,
        prefilter=prefilter,
        refine=refine,
        settings={},
        notes=(),
    )
    told = () if words is None else words.vocabulary.notes
    return replace(recipe, settings=_settings(recipe), notes=(*told, *_notes(recipe)))


def _prototype_part(
    store: PrototypeSource, profile: Profile, infos: Sequence[ClassInfo], options: SegmentOptions, *, planning: bool
) -> PrototypePart:
    """What is matched of the store."""
    names = tuple(info.name for info in infos)
    extractors = _extractors(profile, infos, options.extractors)
    stuff = tuple(info.name for info in infos if info.kind == "stuff")
    stays = len(names) > SHORTLIST.most_exact and options.exact is not True and store.path is not None
    return PrototypePart(
        classes=names,
        generations=tuple(info.generation for info in infos),
        extractors=extractors,
        blocks=() if planning or stays else tuple(store.prototypes(names, spec.digest) for spec in extractors),
        store=store.path if stays else None,
        shortlist=SHORTLIST if stays else None,
        kinds=KINDS if options.prototypes is None else tuple(kind for kind in KINDS if kind in options.prototypes),
        stuff=stuff,
        stuff_similarity=profile.inference.stuff_similarity if stuff and options.stuff_filter is not False else None,
        geometry=_with_geometry(profile.inference, options),
    )


def _word_part(profile: Profile, classes: Sequence[str], choice: Choice, options: SegmentOptions) -> WordPart:
    """What is read in words."""
    found = choice.method
    method = (options.words or profile.clip.best) if METHODS[found].matches_prototypes else found
    info = METHODS[method]
    if options.words is not None and not info.reads == "words":
        raise UsageError(f"--words takes a method that CLIP reads words by, and {method} is none. Take gem, or a head.")
    if "proxy" in info.networks and profile.proxy_extractor is None:
        raise UsageError(
            f"{info.title} needs a self-supervised network, and the profile {profile.name!r} names none. "
            "Take another --method or --profile."
        )
    if info.trained:
        path = head_path(method)
        read_record(path).check_profile(profile, path)
    settings = dense_settings(profile, method, options.settings, background=options.background)
    words = settings.background_words
    if options.background_words is not None and options.background:
        words = options.background_words
    scale = settings.logit_scale if options.logit_scale is None else options.logit_scale
    return WordPart(
        method=method,
        settings=replace(_with_geometry(settings, options), logit_scale=scale, background_words=words),
        vocabulary=make_vocabulary(classes, synonyms=dict(options.synonyms), background=words),
        templates=(() if options.templates else info.templates) or templates_for(profile, settings, options.templates),
    )


def _prefilter_part(
    profile: Profile, choice: Choice, options: SegmentOptions, stuff: tuple[str, ...]
) -> FilterPart | None:
    """How classes are filtered; None for not at all."""
    spec = profile.prefilter
    if spec is None:
        if options.prefilter:
            raise UsageError(f"The profile {profile.name!r} has no pre-filter. Leave out --prefilter.")
        return None
    wanted = options.prefilter
    if wanted is None:
        wanted = spec.default and METHODS[choice.method].prefilter
    return FilterPart(spec=spec, stuff=stuff) if wanted else None


def _listed_stuff(classes: Sequence[str], infos: Sequence[ClassInfo], choice: Choice) -> Iterator[str]:
    """Classes without prototypes that the word list calls stuff.

    Methods that find every class somewhere are left out: they would paint all of it into every picture.
    """
    known = ClassList.distinct(info.name for info in infos)
    if METHODS[choice.method].background != "own":
        yield from (name for name in known.lacking(classes) if listed_kind(name) == "stuff")


Settings = TypeVar("Settings", InferenceSpec, DenseDefaults)


def _with_geometry(settings: Settings, options: SegmentOptions) -> Settings:
    """The settings with the user's short side and windows in the place of their own."""
    if options.short_side is not None:
        settings = replace(settings, short_side=options.short_side)
    if options.windows is not None:
        windows = tuple(window for window in options.windows if window != (0, 0))
        settings = replace(settings, windows=windows, whole_image=(0, 0) in options.windows)
    return settings


def _extractors(profile: Profile, infos: Sequence[ClassInfo], asked: Sequence[str] | None) -> tuple[ExtractorSpec, ...]:
    wanted = profile.pick_extractors(asked)
    for info in infos:
        lacking = [spec.name for spec in wanted if spec.digest not in info.extractors]
        if not lacking:
            continue
        has = [spec.name for spec in profile.known_extractors if spec.digest in info.extractors]
        names = [spec.name for spec in wanted]
        again = f"ovseg add-class {shlex.quote(info.name)} --if-exists replace"
        again += "" if asked is None else f" --extractors {','.join(names)}"
        use = f" segment with --extractors {','.join(has)}, or" if has else ""
        raise ProfileMismatchError(
            f"The class {info.name!r} has no prototypes by the feature extractor {lacking[0]!r} of the profile "
            f"{profile.name!r} as it is now (another version of ovseg may bring other weights or settings):{use} "
            f"make the class anew with {again}, or segment by words with --method {profile.clip.best}"
        )
    return wanted


def _refuse_foreign(choice: Choice, options: SegmentOptions) -> None:
    """Raise for an option that the method does not have."""
    method = METHODS[choice.method]
    if options.words is not None and method.reads != "both":
        raise UsageError(
            f"--words says how hybrid reads words, and {choice.method} segments ({choice.reason}). Leave it out, or "
            "use --method hybrid."
        )
    of_prototypes: dict[str, Any] = {
        "--extractors": options.extractors,
        "--prototypes": options.prototypes,
        "--stuff-filter": options.stuff_filter,
        "--exact": options.exact,
    }
    for name, value in of_prototypes.items():
        if value is not None and not method.matches_prototypes and choice.asked == choice.method:
            raise UsageError(
                f"{name} works on prototypes, not with {choice.method}. Leave it out, or use --method prototype."
            )
        if value is not None and not method.matches_prototypes:
            raise UsageError(
                f"{name} works on prototypes, and there are {choice.reason}. "
                f"Make them with ovseg add-class, or leave out {name}."
            )
    of_words = {
        "--settings": options.settings is not None,
        "--templates": bool(options.templates),
        "--logit-scale": options.logit_scale is not None,
    }
    useless = [(name, f"leave out {name}") for name, given in of_words.items() if given]
    for name, words in options.synonyms:
        synonyms = f"synonyms ({shown_name(name)}: {listed_names(words)})"
        useless.append((synonyms, "take them out of the class file, or leave out --synonym"))
    for what, remedy in useless[:1]:
        if method.finds_regions:
            raise UsageError(f"{choice.method} finds regions without names, so {what} would have no effect: {remedy}.")
        if method.reads == "names":
            raise UsageError(f"With {choice.method}, {_OWN_PROMPT}, so {what} would have no effect: {remedy}.")
        if method.reads == "prototypes":
            why = "" if choice.asked == choice.method else f" ({choice.reason})"
            raise UsageError(
                f"Prototypes are matched without words{why}, so {what} would have no effect: {remedy}, or name a "
                "--method that reads words, such as gem."
            )


def _notes(recipe: Recipe) -> Iterator[str]:
    """What people may not expect, besides what the vocabulary says."""
    classes, options, words, method = recipe.classes, recipe.options, recipe.words, METHODS[recipe.method]
    if recipe.prototypes is not None and recipe.prototypes.shortlist is not None:
        found = (
            "finds those that the picture can show"
            if recipe.prefilter is None
            else ("finds those that the picture can show, where the pre-filter leaves many")
        )
        yield (
            f"{len(recipe.prototypes.classes):,} classes have prototypes: for each picture the store's search index "
            f"{found}, and only these are compared exactly. --exact compares all."
        )
    told = words is not None and 0 not in words.vocabulary.owner  # by the vocabulary
    if len(classes) == 1 and not options.background and not told:
        yield f"Nothing competes with {shown_name(classes[0])}, so all of a picture becomes it: add classes."
    if options.background_words and not options.background:
        yield "The class file's words for the background are not used, as no pixel may belong to it (--no-background)."
    elif options.background_words and method.reads in ("prototypes", "names"):
        why = "prototypes are matched without words" if method.reads == "prototypes" else _OWN_PROMPT
        yield f"The class file's words for the background are not used: with {recipe.method}, {why}."
    if words is not None and options.background and not (recipe.prototypes and recipe.prototypes.classes):
        yield from _notes_of_background(method, words, options)


def _notes_of_background(method: Method, words: WordPart, options: SegmentOptions) -> Iterator[str]:
    """Where by the settings no pixel, or hardly one, can become background."""
    if 0 in words.vocabulary.owner:
        return
    threshold = words.settings.threshold if options.threshold is None else options.threshold
    remedy = "give words for it (a line background; sky; wall in a --class-file), or a --threshold"
    if method.background == "words" and not threshold:
        yield f"The published settings of {method.title} know no background, so every pixel gets a class: {remedy}."
    elif method.background == "doubt" and not threshold and len(words.vocabulary.words) <= 10:
        yield (
            f"The background of {method.title} begins where every class is less probable than 0.1, which of ten "
            f"classes or fewer one never is: {remedy}."
        )


def _settings(recipe: Recipe) -> dict[str, Any]:
    """Everything that changes the answer, as JSON-able values."""
    profile, options = recipe.profile, recipe.options
    prototypes, words, prefilter = recipe.prototypes, recipe.words, recipe.prefilter
    settings: dict[str, Any] = {
        "answer_version": ANSWER_VERSION,
        "method": recipe.method,
        "classes": list(recipe.classes),
        "background": options.background,
        "threshold": options.threshold,
        "refine": recipe.refine,
    }
    if prototypes is not None:
        settings["inference"] = asdict(prototypes.geometry)
        settings["extractors"] = {spec.name: spec.digest for spec in prototypes.extractors}
        settings["prototype_kinds"] = list(prototypes.kinds)
        settings["prototypes"] = [list(each) for each in zip(prototypes.classes, prototypes.generations, strict=True)]
        settings["stuff_filter"] = prototypes.stuff_similarity
        if prototypes.shortlist is not None:
            settings["shortlist"] = asdict(prototypes.shortlist)
    if words is not None:
        settings["dense"] = {"method": words.method, **asdict(words.settings)}
        settings["templates"] = options.templates
        if trained := METHODS[words.method].trained:  # what it is called, and where it lies, changes no answer
            settings["head"] = trained
            settings["dense"]["method"] = "head"
            settings["method"] = settings["method"] if recipe.method != words.method else "head"
        settings["words"] = words.vocabulary.record()
        record = profile.record()
        settings["networks"] = {part: record[part] for part in ("clip", "generator", "regions", "proxy")}
        settings["extractors_known"] = {spec.name: spec.digest for spec in profile.known_extractors}
    origin = METHODS.origin(recipe.method) or (None if words is None else METHODS.origin(words.method))
    if origin is not None:
        settings["package"] = origin
    if prototypes is not None and words is not None:
        settings["hybrid"] = asdict(profile.hybrid)
    if prefilter is not None:
        weights = profile.clip.weights
        settings["prefilter"] = {
            **prefilter.spec.record(),
            "model": weights.identity,
            "revision": weights.revision,
            "mean": list(profile.clip.mean),
            "std": list(profile.clip.std),
            "stuff": list(prefilter.stuff),
        }
    if profile.domain is not None:  # part of the answer: whether the models know such images
        settings["domain"] = profile.domain.weights.revision
    if recipe.precision != "auto":  # what "auto" comes to is a matter of the device: devices differ by rounding alone
        settings["precision"] = recipe.precision
    return dict(json.loads(json.dumps(settings)))
