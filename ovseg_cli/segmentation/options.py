"""What decides a label map besides the image, the classes and the method. No torch here."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal, get_args

from ovseg_cli.errors import UsageError
from ovseg_cli.names import unknown_choice
from ovseg_cli.profiles.prompts import TEMPLATE_SETS, TemplateSet
from ovseg_cli.store.records import PrototypeKind

KINDS: tuple[PrototypeKind, ...] = get_args(PrototypeKind)
REFINEMENTS = ("none", "pamr")

SETTINGS = ("voc21", "voc20", "context60", "context59", "coco-object", "coco-stuff", "ade150", "cityscapes")
"""Data sets for which settings are published; which of them a method has, `ovseg methods NAME` shows."""


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
        exact: With prototypes of very many classes: whether all of them are compared with every picture, instead of
            those that the store's search index finds; None for not.
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
        words: With hybrid: the method that reads words, a trained head perhaps; None for the profile's best.

    Raises:
        UsageError: A value that cannot be.
    """

    background: bool = True
    threshold: float | None = None
    prefilter: bool | None = None
    extractors: tuple[str, ...] | None = None
    prototypes: tuple[PrototypeKind, ...] | None = None
    stuff_filter: bool | None = None
    exact: bool | None = None
    refine: Literal["none", "pamr"] | None = None
    settings: str | None = None
    short_side: int | None = None
    windows: tuple[tuple[int, int], ...] | None = None
    templates: TemplateSet | None = None
    logit_scale: float | None = None
    synonyms: tuple[tuple[str, tuple[str, ...]], ...] = ()
    background_words: tuple[str, ...] | None = None
    words: str | None = None

    def __post_init__(self) -> None:
        self._check_kinds()
        if self.threshold is not None and not self.background:
            raise UsageError("--threshold needs the background: leave out --no-background, or the threshold.")
        for kind in self.prototypes or ():
            if kind not in KINDS:
                raise unknown_choice("kind of prototype", kind, KINDS, heading="Kinds")
        if self.prototypes is not None and len(set(self.prototypes)) != max(1, len(self.prototypes)):
            raise UsageError(f"--prototypes takes each kind once: {', '.join(KINDS)}.")
        if self.refine is not None and self.refine not in REFINEMENTS:
            raise unknown_choice("refinement", self.refine, REFINEMENTS, heading="Refinements")
        if self.settings is not None and self.settings not in SETTINGS:
            raise unknown_choice("settings", self.settings, SETTINGS, heading="Data sets")
        if self.templates is not None and self.templates not in TEMPLATE_SETS:
            raise unknown_choice("set of prompt templates", self.templates, TEMPLATE_SETS, heading="Sets")
        self._check_numbers()

    def _check_kinds(self) -> None:
        for name in ("background", "prefilter", "stuff_filter", "exact"):
            value = getattr(self, name)
            if not isinstance(value, bool) and (value is not None or name == "background"):
                raise UsageError(f"{name} must be True or False, got {value!r}.")
        for name in ("extractors", "prototypes", "background_words"):
            value = getattr(self, name)
            if value is not None and not (isinstance(value, tuple) and all(isinstance(one, str) for one in value)):
                raise UsageError(f"{name} must be a tuple of words, got {value!r}.")
        if self.windows is not None and not (isinstance(self.windows, tuple) and all(map(_is_pair, self.windows))):
            raise UsageError(f"windows must be (size, stride) pairs of whole numbers, got {self.windows!r}.")

    def _check_numbers(self) -> None:
        for name in ("threshold", "logit_scale", "short_side"):
            value, wanted = getattr(self, name), int if name == "short_side" else (int, float)
            if value is not None and (isinstance(value, bool) or not isinstance(value, wanted)):
                raise UsageError(f"{name} must be a{' whole' if wanted is int else ''} number, got {value!r}.")
        if not isinstance(self.synonyms, tuple) or not all(map(_are_synonyms, self.synonyms)):
            raise UsageError(f"synonyms must be (class name, words) pairs with tuples of words, got {self.synonyms!r}.")
        if self.threshold is not None and not math.isfinite(self.threshold):
            raise UsageError(f"--threshold must be a number, got {self.threshold}.")
        if self.short_side is not None and not 16 <= self.short_side <= 4096:
            raise UsageError(f"--short-side must be between 16 and 4096 pixels, got {self.short_side}.")
        if self.logit_scale is not None and not 0 < self.logit_scale <= 10_000:
            raise UsageError(f"--logit-scale must be above 0 and at most 10000, got {self.logit_scale:g}.")
        if self.windows == ():
            raise UsageError("--windows wants at least one SIZE/STRIDE, or whole.")
        if len(set(self.windows or ())) < len(self.windows or ()):
            raise UsageError("--windows takes each SIZE/STRIDE once, and whole once.")
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


def _is_pair(value: object) -> bool:
    return isinstance(value, tuple) and len(value) == 2 and all(isinstance(length, int) for length in value)


def _are_synonyms(value: object) -> bool:
    return (
        isinstance(value, tuple)
        and len(value) == 2
        and isinstance(value[0], str)
        and isinstance(value[1], tuple)
        and all(isinstance(word, str) for word in value[1])
    )


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
        elif slash and value.isascii() and size.isdecimal() and stride.isdecimal():
            if int(size) == 0:  # which stands for the whole picture elsewhere
                raise UsageError(f"A window is SIZE/STRIDE with 1 <= STRIDE <= SIZE <= 4096, got {value}.")
            windows.append((int(size), int(stride)))
        else:
            raise UsageError(f"A window is written SIZE/STRIDE, such as 448/224, or whole; got {value!r}.")
    return tuple(windows) or None
