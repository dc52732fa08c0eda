"""What a run is asked for and what that comes to: method, options, extractors, windows, words. Loads no model."""

from __future__ import annotations

import difflib
import json
import math
import shlex
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import TYPE_CHECKING, Any, Literal, TypeVar, get_args

from ovseg_cli.errors import ProfileMismatchError, UnknownClassError, UsageError
from ovseg_cli.methods.catalogue import METHODS as KNOWN_METHODS
from ovseg_cli.methods.words import Vocabulary, make_vocabulary
from ovseg_cli.precision import Precision
from ovseg_cli.profiles import ExtractorSpec, Profile, get_profile
from ovseg_cli.profiles.prompts import TEMPLATE_SETS, TemplateSet
from ovseg_cli.profiles.specs import DenseDefaults, InferenceSpec, PrefilterSpec, digest_of
from ovseg_cli.prototypes.kinds import listed_kind
from ovseg_cli.store.names import MAX_NAME_LENGTH, class_key, listed_names, shown_name
from ovseg_cli.store.records import PrototypeKind

if TYPE_CHECKING:
    from ovseg_cli.store.records import ClassInfo
    from ovseg_cli.store.store import Store

METHODS = tuple(KNOWN_METHODS)
KINDS: tuple[PrototypeKind, ...] = get_args(PrototypeKind)
REFINEMENTS = ("none", "pamr")
NAME_READERS = ("aggsd", "diffsegmenter")
"""Methods that read class names by the generator's text encoder, in a fixed prompt."""

_OWN_PROMPT = "the diffusion model reads class names in a prompt of its own"

SETTINGS = ("voc21", "voc20", "context60", "context59", "coco-object", "coco-stuff", "ade150", "cityscapes")
"""Data sets for which settings are published; which of them a method has, `ovseg methods NAME` shows."""

ANSWER_VERSION = 5
"""Raised when the same inputs give another label map than before, so that old results are not taken for new ones."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SegmentOptions:
    """What decides a label map besides the picture, the classes and the method.

    Attributes:
        background: Whether pixels may belong to none of the classes.
        threshold: A class whose score is below this gives way to the background; None for the method's own rule.
        prefilter: Whether CLIP first rules out classes that the picture does not show; None for the default of the
            method and the profile.
        extractors: With prototypes: names of the feature extractors whose scores are averaged; None for the
            profile's default ensemble.
        prototypes: With prototypes: which kinds are matched; None for all of them.
        stuff_filter: With prototypes: whether background prototypes of things that look like stuff are left out
            (OVDiff, stuff filter); None for yes.
        refine: What is done to the scores: "none", or "pamr" (pixel-adaptive mask refinement); None for the method's
            own, which for most is nothing.
        settings: With words: the data set whose published settings the method is run with; None for the method's usual
            ones. The other options take the place of single ones.
        short_side: The picture is resized so that its short side is this many pixels; None for the method's own.
        windows: (size, stride) of each sliding-window pass in pixels of the resized picture, and (0, 0) for the whole
            picture; None for the method's own.
        templates: With words: the published set of prompt templates that they are put into; None for the method's.
        logit_scale: With words: factor on cosines before the softmax; None for the method's.
        synonyms: With words: more words for some classes, as (class name, words) pairs.
        background_words: With words: words for what is none of the classes; None for the method's.

    Raises:
        UsageError: A value that cannot be.
    """

    background: bool = True
    threshold: float | None = None
    prefilter: bool | None = None
    extractors: tuple[str, ...] | None = None
    prototypes: tuple[PrototypeKind, ...] | None = None
    stuff_filter: bool | None = None
    refine: Literal["none", "pamr"] | None = None
    settings: str | None = None
    short_side: int | None = None
    windows: tuple[tuple[int, int], ...] | None = None
    templates: TemplateSet | None = None
    logit_scale: float | None = None
    synonyms: tuple[tuple[str, tuple[str, ...]], ...] = ()
    background_words: tuple[str, ...] | None = None

    def __post_init__(self) -> None:
        if self.threshold is not None and not self.background:
            raise UsageError("--threshold needs the background: leave out --no-background, or the threshold.")
        for kind in self.prototypes or ():
            if kind not in KINDS:
                raise UsageError(f"Unknown kind of prototype {kind!r}. Kinds: {', '.join(KINDS)}.")
        if self.prototypes is not None and len(set(self.prototypes)) != max(1, len(self.prototypes)):
            raise UsageError(f"--prototypes takes each kind once: {', '.join(KINDS)}.")
        if self.refine is not None and self.refine not in REFINEMENTS:
            raise UsageError(f"Unknown refinement {self.refine!r}. Refinements: {', '.join(REFINEMENTS)}.")
        if self.settings is not None and self.settings not in SETTINGS:
            raise UsageError(f"Unknown settings {self.settings!r}. Data sets: {', '.join(SETTINGS)}.")
        if self.templates is not None and self.templates not in TEMPLATE_SETS:
            raise UsageError(f"Unknown set of prompt templates {self.templates!r}. Sets: {', '.join(TEMPLATE_SETS)}.")
        self._check_numbers()

    def _check_numbers(self) -> None:
        if self.threshold is not None and not math.isfinite(self.threshold):
            raise UsageError(f"--threshold must be a number, got {self.threshold}.")
        if self.short_side is not None and not 16 <= self.short_side <= 4096:
            raise UsageError(f"--short-side must be between 16 and 4096 pixels, got {self.short_side}.")
        if self.logit_scale is not None and not 0 < self.logit_scale <= 10_000:
            raise UsageError(f"--logit-scale must be above 0 and at most 10000, got {self.logit_scale:g}.")
        if self.windows == ():
            raise UsageError("--windows wants at least one SIZE/STRIDE, or whole.")
        for size, stride in self.windows or ():
            if (size, stride) != (0, 0) and not 1 <= stride <= size <= 4096:
                raise UsageError(f"A window is SIZE/STRIDE with 1 <= STRIDE <= SIZE <= 4096, got {size}/{stride}.")

    def record(self) -> dict[str, Any]:
        """The options as JSON-able values."""
        return dict(json.loads(json.dumps(asdict(self))))

    @classmethod
    def from_record(cls, record: Mapping[str, Any]) -> SegmentOptions:
        """The options of such a record; what this version does not know is an error.

        Raises:
            UsageError: The record was not made by `record`.
        """

        def frozen(value: Any) -> Any:
            return tuple(frozen(item) for item in value) if isinstance(value, list) else value

        try:
            return cls(**{name: frozen(value) for name, value in record.items()})
        except TypeError as error:
            raise UsageError(f"These options were written by another version of ovseg: {error}.") from error


def parse_windows(values: Sequence[str]) -> tuple[tuple[int, int], ...] | None:
    """Windows as they are typed: "448/224" or "whole", several with commas between them; None for none.

    Raises:
        UsageError: Something else.
    """
    windows = []
    for value in (part.strip() for typed in values for part in typed.split(",")):
        size, slash, stride = value.partition("/")
        if value == "whole":
            windows.append((0, 0))
        elif slash and size.isdecimal() and stride.isdecimal():
            if int(size) == 0:  # which stands for the whole picture elsewhere
                raise UsageError(f"A window is SIZE/STRIDE with 1 <= STRIDE <= SIZE <= 4096, got {value}.")
            windows.append((int(size), int(stride)))
        else:
            raise UsageError(f"A window is written SIZE/STRIDE, such as 448/224, or whole; got {value!r}.")
    return tuple(windows) or None


@dataclass(frozen=True, slots=True)
class MethodChoice:
    """Which method segments, and why.

    Attributes:
        method: One of `METHODS`.
        asked: What the user asked for ("auto" or a method).
        missing: Classes without prototypes.
        reason: One sentence for people.
    """

    method: str
    asked: str
    missing: tuple[str, ...]
    reason: str


def resolve_method(store: Store, classes: Sequence[str], method: str = "auto") -> MethodChoice:
    """Which method to use; loads no model.

    "auto" takes prototypes when every class has them, prototypes and words together ("hybrid") when some have them,
    and the best dense method of the store's profile when none has.

    Raises:
        UnknownClassError: "prototype" was asked for and a class has no prototypes.
        UsageError: No such method, no class, or a class twice.
    """
    check_method(method)
    if not classes:
        raise UsageError('No classes to segment. Name some with --classes, or add one: ovseg add-class "cat".')
    for name, times in Counter(class_key(name) for name in classes).items():
        if times > 1:
            raise UsageError(f"The class {shown_name(name)} is given twice.")
    missing = tuple(name for name in classes if not store.has_class(name))
    if method == "prototype" and missing:
        raise UnknownClassError(_unknown_message(missing[0], store.class_names()))
    if method != "auto":
        return MethodChoice(method, method, missing, "asked for")
    if not missing:
        return MethodChoice("prototype", method, (), "every class has prototypes")
    reason = f"no prototypes for {listed_names(missing)}"
    best = "hybrid" if len(missing) < len(classes) else get_profile(store.profile_name).clip.best
    return MethodChoice(best, method, missing, reason)


def check_method(method: str) -> None:
    """Refuse a method that there is not.

    Raises:
        UsageError: It is neither "auto" nor one of `METHODS`.
    """
    if method not in ("auto", *METHODS):
        raise UsageError(f"Unknown method {method!r}. Methods: auto, {', '.join(METHODS)}.")


def _unknown_message(name: str, known: Sequence[str]) -> str:
    close = difflib.get_close_matches(name.casefold(), [k.casefold() for k in known], n=1)
    hint = next((f" Did you mean {k!r}?" for k in known if close and k.casefold() == close[0]), "")
    if len(name) > MAX_NAME_LENGTH:
        return f"The store has no class {shown_name(name)}, nor can it: such a name is too long. Use --method auto."
    return f'The store has no class {name!r}.{hint} Add it with: ovseg add-class "{name}" (or use --method auto).'


@dataclass(frozen=True, slots=True, kw_only=True)
class Resolved:
    """`SegmentOptions` with the defaults of a profile and the classes of a store filled in.

    Attributes:
        prefilter: How classes are filtered before they compete; None for not at all.
        stuff: Which of the asked classes are stuff, as the store spells them.
        unfiltered: Which of them the pre-filter always keeps: these, and what the word list calls stuff among those
            without prototypes.
        known: Classes with prototypes that take part, in the order asked; empty for a method without prototypes.
        extractors: Whose scores are averaged; likewise.
        prototypes: Which kinds are matched; likewise.
        stuff_similarity: Cosine to a stuff prototype from which a thing's background prototype is left out; None for
            no stuff filter, which is also the case when no class is stuff.
        inference: How the picture is cut up for prototypes; None without.
        dense: The dense method that reads words; None for prototypes alone.
        dense_settings: What it is run with.
        vocabulary: Its words.
        refine: What is done to the scores.
        notes: Sentences for people about what they may not expect.
    """

    prefilter: PrefilterSpec | None = None
    stuff: tuple[str, ...] = ()
    unfiltered: tuple[str, ...] = ()
    known: tuple[str, ...] = ()
    extractors: tuple[ExtractorSpec, ...] = ()
    prototypes: tuple[PrototypeKind, ...] = ()
    stuff_similarity: float | None = None
    inference: InferenceSpec | None = None
    dense: str | None = None
    dense_settings: DenseDefaults | None = None
    vocabulary: Vocabulary | None = None
    refine: Literal["none", "pamr"] = "none"
    notes: tuple[str, ...] = ()


def resolve_options(
    store: Store, profile: Profile, classes: Sequence[str], choice: MethodChoice, options: SegmentOptions
) -> Resolved:
    """What the options come to for these classes; loads no model.

    Args:
        store: Knows the classes' kinds and extractors.
        profile: Says what happens when nobody says.
        classes: Class names.
        choice: The method; options that it does not have are refused.
        options: What the user asked for.

    Raises:
        UsageError: An option that the method or the profile does not have.
        ProfileMismatchError: A class has no prototypes by one of the extractors.
    """
    with_prototypes = choice.method in ("prototype", "hybrid")
    with_words = choice.method != "prototype"
    _refuse_foreign(choice, options, with_prototypes=with_prototypes, with_words=with_words)
    # With prototypes alone, a class that is gone meanwhile is an error.
    named = [name for name in classes if with_prototypes and (not with_words or store.has_class(name))]
    infos = [store.get_class(name) for name in named]
    stuff = tuple(info.name for info in infos if info.kind == "stuff")
    resolved = Resolved(
        prefilter=_resolve_prefilter(profile, choice, options),
        stuff=stuff,
        unfiltered=(*stuff, *_listed_stuff(classes, infos, choice)),
    )
    if with_prototypes:
        resolved = replace(
            resolved,
            known=tuple(info.name for info in infos),
            extractors=_resolve_extractors(profile, infos, options.extractors),
            prototypes=KINDS if options.prototypes is None else tuple(k for k in KINDS if k in options.prototypes),
            stuff_similarity=profile.inference.stuff_similarity
            if stuff and options.stuff_filter is not False
            else None,
            inference=_with_geometry(profile.inference, options),
        )
    if with_words:
        from ovseg_cli.dense import dense_settings  # brings torch

        dense = profile.clip.best if choice.method == "hybrid" else choice.method
        settings = dense_settings(profile, dense, options.settings, background=options.background)
        words = settings.background_words
        if options.background_words is not None and options.background:
            words = options.background_words
        scale = settings.logit_scale if options.logit_scale is None else options.logit_scale
        vocabulary = make_vocabulary(classes, synonyms=dict(options.synonyms), background=words)
        resolved = replace(
            resolved,
            dense=dense,
            dense_settings=replace(_with_geometry(settings, options), logit_scale=scale, background_words=words),
            vocabulary=vocabulary,
            refine="none" if with_prototypes else settings.refine,
            notes=vocabulary.notes,
        )
    if options.refine is not None:
        resolved = replace(resolved, refine=options.refine)
    return replace(resolved, notes=(*resolved.notes, *_notes(resolved, classes, choice, options)))


def _notes(resolved: Resolved, classes: Sequence[str], choice: MethodChoice, options: SegmentOptions) -> Iterator[str]:
    """What people may not expect, besides what the vocabulary says."""
    told = resolved.vocabulary is not None and 0 not in resolved.vocabulary.owner  # by the vocabulary
    if len(classes) == 1 and not options.background and not told:
        yield f"Nothing competes with {shown_name(classes[0])}, so all of a picture becomes it: add classes."
    if options.background_words and not options.background:
        yield "The class file's words for the background are not used, as no pixel may belong to it (--no-background)."
    elif options.background_words and choice.method in ("prototype", *NAME_READERS):
        why = "prototypes are matched without words" if choice.method == "prototype" else _OWN_PROMPT
        yield f"The class file's words for the background are not used: with {choice.method}, {why}."
    if resolved.vocabulary is not None and options.background and not resolved.known:
        yield from _notes_of_background(resolved, choice, options)


def _listed_stuff(classes: Sequence[str], infos: Sequence[ClassInfo], choice: MethodChoice) -> Iterator[str]:
    """Classes without prototypes that the word list calls stuff.

    Methods that find every class somewhere are left out: they would paint all of it into every picture.
    """
    known = {class_key(info.name) for info in infos}
    if KNOWN_METHODS[choice.method].background != "own":
        yield from (name for name in classes if class_key(name) not in known and listed_kind(name) == "stuff")


def _notes_of_background(resolved: Resolved, choice: MethodChoice, options: SegmentOptions) -> Iterator[str]:
    """Where by the settings no pixel, or hardly one, can become background."""
    info, settings, vocabulary = KNOWN_METHODS[choice.method], resolved.dense_settings, resolved.vocabulary
    if settings is None or vocabulary is None or 0 in vocabulary.owner:
        return
    threshold = settings.threshold if options.threshold is None else options.threshold
    remedy = "give words for it (a line background; sky; wall in a --class-file), or a --threshold"
    if info.background == "words" and not threshold:
        yield f"The published settings of {info.title} know no background, so every pixel gets a class: {remedy}."
    elif info.background == "doubt" and not threshold and len(vocabulary.words) <= 10:
        yield (
            f"The background of {info.title} begins where every class is less probable than 0.1, which of ten classes "
            f"or fewer one never is: {remedy}."
        )


def _refuse_foreign(choice: MethodChoice, options: SegmentOptions, *, with_prototypes: bool, with_words: bool) -> None:
    """Raise for an option that the method does not have."""
    of_prototypes: dict[str, Any] = {
        "--extractors": options.extractors,
        "--prototypes": options.prototypes,
        "--stuff-filter": options.stuff_filter,
    }
    for name, value in of_prototypes.items():
        if value and not with_prototypes and choice.asked == choice.method:
            raise UsageError(
                f"{name} works on prototypes, not with {choice.method}. Leave it out, or use --method prototype."
            )
        if value and not with_prototypes:
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
        if choice.method in NAME_READERS:
            raise UsageError(f"With {choice.method}, {_OWN_PROMPT}, so {what} would have no effect: {remedy}.")
        if not with_words:
            why = "" if choice.asked == choice.method else f" ({choice.reason})"
            raise UsageError(
                f"Prototypes are matched without words{why}, so {what} would have no effect: {remedy}, or name a "
                "--method that reads words, such as gem."
            )


def _resolve_prefilter(profile: Profile, choice: MethodChoice, options: SegmentOptions) -> PrefilterSpec | None:
    spec = profile.prefilter
    if spec is None:
        if options.prefilter:
            raise UsageError(f"The profile {profile.name!r} has no pre-filter. Leave out --prefilter.")
        return None
    default = spec.default and KNOWN_METHODS[choice.method].prefilter
    return spec if (default if options.prefilter is None else options.prefilter) else None


Settings = TypeVar("Settings", InferenceSpec, DenseDefaults)


def _with_geometry(settings: Settings, options: SegmentOptions) -> Settings:
    """The settings with the user's short side and windows in the place of their own."""
    if options.short_side is not None:
        settings = replace(settings, short_side=options.short_side)
    if options.windows is not None:
        windows = tuple(window for window in options.windows if window != (0, 0))
        settings = replace(settings, windows=windows, whole_image=(0, 0) in options.windows)
    return settings


def _resolve_extractors(
    profile: Profile, infos: Sequence[ClassInfo], asked: Sequence[str] | None
) -> tuple[ExtractorSpec, ...]:
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
            f"{profile.name!r} as it is now:{use} make the class anew with {again}"
        )
    return wanted


def plan_settings(
    store: Store,
    profile: Profile,
    classes: Sequence[str],
    choice: MethodChoice,
    options: SegmentOptions,
    resolved: Resolved,
    precision: Precision = "auto",
) -> dict[str, Any]:
    """Everything that changes the answer, as JSON-able values."""
    settings: dict[str, Any] = {
        "answer_version": ANSWER_VERSION,
        "method": choice.method,
        "classes": list(classes),
        "background": options.background,
        "threshold": options.threshold,
        "refine": resolved.refine,
    }
    if resolved.inference is not None:
        settings["inference"] = asdict(resolved.inference)
        settings["extractors"] = {spec.name: spec.digest for spec in resolved.extractors}
        settings["prototype_kinds"] = list(resolved.prototypes)
        settings["prototypes"] = [[info.name, info.generation] for info in map(store.get_class, resolved.known)]
        settings["stuff_filter"] = resolved.stuff_similarity
    if resolved.vocabulary is not None and resolved.dense_settings is not None:
        settings["dense"] = {"method": resolved.dense, **asdict(resolved.dense_settings)}
        settings["templates"] = options.templates
        settings["words"] = resolved.vocabulary.record()
        record = profile.record()
        settings["networks"] = {part: record[part] for part in ("clip", "generator", "regions", "proxy")}
        settings["extractors_known"] = {spec.name: spec.digest for spec in profile.known_extractors}
    if choice.method == "hybrid":
        settings["hybrid"] = asdict(profile.hybrid)
    if resolved.prefilter is not None:
        weights = profile.clip.weights
        settings["prefilter"] = {
            **resolved.prefilter.record(),
            "model": weights.model_id,
            "revision": weights.revision,
            "mean": list(profile.clip.mean),
            "std": list(profile.clip.std),
            "stuff": list(resolved.unfiltered),
        }
    if profile.domain is not None:  # part of the answer: whether the models know such pictures
        settings["domain"] = profile.domain.weights.revision
    if precision != "auto":  # what "auto" comes to is a matter of the device, and devices differ by rounding alone
        settings["precision"] = precision
    return dict(json.loads(json.dumps(settings)))


def plan_digest(
    store: Store,
    profile: Profile,
    classes: Sequence[str],
    choice: MethodChoice,
    options: SegmentOptions,
    precision: Precision = "auto",
) -> str:
    """The digest of everything that changes the answer; loads no model.

    Raises:
        UsageError: See `resolve_options`.
        ProfileMismatchError: Likewise.
    """
    resolved = resolve_options(store, profile, classes, choice, options)
    return digest_of(plan_settings(store, profile, classes, choice, options, resolved, precision))
