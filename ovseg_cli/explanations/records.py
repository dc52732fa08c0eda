"""What an explanation says."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

import numpy as np
import numpy.typing as npt

from ovseg_cli.store.records import PrototypeKind, Role

Rule = Literal["best", "threshold", "nothing"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Standing:
    """A label that could have won a pixel (or a word, with GEM), and its score there."""

    label: str
    score: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Word(Standing):
    """A word of GEM and its probability at a pixel.

    Attributes:
        background: Whether it stands for the background, and not for a class.
    """

    background: bool


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Region:
    """Where a support image matches a prototype; a large image is shown smaller.

    Attributes:
        image: uint8 (H, W, 3), RGB: the support image.
        mask: bool (H, W): the object for a foreground prototype, what was taken as its background for another.
        similarity: float32 (H, W) in [-1, 1]: the prototype's cosine with the image's features.
    """

    image: npt.NDArray[np.uint8]
    mask: npt.NDArray[np.bool_]
    similarity: npt.NDArray[np.float32]


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Source:
    """A stored prototype, and where it comes from.

    Attributes:
        id: Database id.
        class_name: The class that it belongs to.
        role: "fg" for the object, "bg" for what surrounds it in its support images.
        kind: "mean", "instance" or "part".
        number: Which one of this kind, from 1, in the order in which they are stored.
        of: How many of this kind there are, for this class, role and extractor.
        pixels: How many feature cells were pooled.
        support: Position of the support image; None if none is known.
        found_by: Why this support image: "own" (an instance is pooled from it alone), "most pixels" (most of a part's
            cells are from it), "most alike" (of all images, its instance prototype is nearest; for a mean).
        seed: Seed of that image; None for a picture that was not generated.
        region: Where that image matches; None when there is none or it cannot be read.
    """

    id: int
    class_name: str
    role: Role
    kind: PrototypeKind
    number: int
    of: int
    pixels: int
    support: int | None = None
    found_by: Literal["own", "most pixels", "most alike"] | None = None
    seed: int | None = None
    region: Region | None = field(default=None, repr=False)


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Match:
    """What one extractor says for one label at a pixel.

    Attributes:
        label: The label.
        extractor: Name of the extractor.
        score: The label's score by this extractor alone: the mean of its best cosines. The mean over the extractors
            is what decided, but for refinement and for negative scores counting as 0.
        cosine: Of the winning prototype: its mean cosine, over the crops that cover the pixel and there over the cells
            that the pixel's score comes from, with the weights that they have in that score.
        share: In how much of that (by weight) this prototype is the label's best; elsewhere others are.
        source: The winning prototype: that of the highest mean cosine.
    """

    label: str
    extractor: str
    score: float
    cosine: float
    share: float
    source: Source


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Explanation:
    """Why a pixel has its label.

    Attributes:
        x: Column in the upright picture, from 0.
        y: Row.
        label: The pixel's label; "background" for none of the classes.
        method: "prototype", or the method that compares words.
        rule: "best" (it has the best score), "threshold" (a class has, but one below the threshold, so that the
            background takes its place) or "nothing" (no score is above 0, so that the background wins).
        threshold: The threshold, if there is one.
        background: Whether the background took part.
        standings: All labels that took part with the scores that decided: first the pixel's own, then the others from
            the best to the worst. Cosines for prototypes, probabilities for GEM.
        matches: With prototypes: what each extractor says for the label, for the runner-up, and for the background.
        words: With GEM: the most probable words.
        ruled_out: Classes that took no part in this picture.
        named: Whether that is because the picture's classes were named, instead of being left to the pre-filter.
        refined: Whether the scores were refined along the picture's edges after they were put together.
        stuff_filter: Cosine from which background prototypes that look like stuff were left out; None for no such
            filter.
    """

    x: int
    y: int
    label: str
    method: str
    rule: Rule = "best"
    threshold: float | None = None
    background: bool = True
    standings: tuple[Standing, ...]
    matches: tuple[Match, ...] = ()
    words: tuple[Word, ...] = ()
    ruled_out: tuple[str, ...] = ()
    named: bool = False
    refined: bool = False
    stuff_filter: float | None = None

    @property
    def score(self) -> float:
        """The score of the label."""
        return self.standings[0].score

    @property
    def runner_up(self) -> Standing | None:
        """The best of the other labels; None when nothing else took part."""
        return self.standings[1] if len(self.standings) > 1 else None

    def matches_of(self, label: str) -> tuple[Match, ...]:
        """What each extractor says for a label."""
        return tuple(match for match in self.matches if match.label == label)

    def score_of(self, label: str) -> float | None:
        """The score of a label; None if it took no part."""
        return next((s.score for s in self.standings if s.label == label), None)
