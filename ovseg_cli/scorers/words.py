"""Scorers of words: from crops to a score per word, and from fused scores to one per class.

A scorer makes scores of crops (`features`, `compare`), which are fused over windows, and of the fused ones what a label
map is made of (`combine`). The methods' formulas are pure functions in `ovseg_cli.methods`; scorers give them what they
need of a profile's models.
"""

from __future__ import annotations

import copy
import math
from abc import abstractmethod
from collections.abc import Callable, Collection, Hashable, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Literal, Self

from torch import Tensor

from ovseg_cli.labeling.decide import Enlargement, Head
from ovseg_cli.profiles.specs import DenseDefaults
from ovseg_cli.scorers.scorer import Picture, Scorer, Walk
from ovseg_cli.text.embedding import Reading, TextCache, embed_words
from ovseg_cli.text.vocabulary import Vocabulary

if TYPE_CHECKING:
    from ovseg_cli.models import Models


@dataclass(frozen=True, slots=True, eq=False)
class WordMaps:
    """What such a scorer makes of a picture, before it is enlarged to the label map.

    Attributes:
        values: float32 (K, h, w): what is enlarged.
        head: Of values that may have been refined and the label map's size (H, W): what makes class scores of them
            there.
        enlargement: How they are enlarged.
    """

    values: Tensor
    head: Callable[[Tensor, tuple[int, int]], Head]
    enlargement: Enlargement = "bilinear"


class WordScorer(Scorer):
    """A scorer that reads the words of a vocabulary, with or without other networks than CLIP.

    The class that a method's record names (`ovseg_cli.methods.catalogue.Method.scorer`) is one of these, and is made
    with these arguments.

    Args:
        models: The profile's models.
        vocabulary: The words.
        settings: Geometry, templates and scale.
        templates: Prompt templates that a word is put into.
        texts: Where text embeddings are kept.
        reading: Is told how far the reading of words is, and which of them were cut.
        background: Whether pixels may belong to none of the classes.

    Attributes:
        threshold: Class score below which a pixel is background, by the method's own settings; None for no such rule.
        vocabulary: The words.
    """

    threshold: float | None
    vocabulary: Vocabulary

    def __init__(
        self,
        models: Models,
        vocabulary: Vocabulary,
        settings: DenseDefaults,
        templates: Sequence[str],
        texts: TextCache | None = None,
        reading: Reading | None = None,
        *,
        background: bool = True,
    ) -> None:
        self._models = models
        self._settings = settings
        self._background = background
        self.vocabulary = vocabulary
        self.channels = self._count(vocabulary)
        self.threshold = settings.threshold if background else None
        self._read(templates, texts, reading)

    @abstractmethod
    def _read(self, templates: Sequence[str], texts: TextCache | None, reading: Reading | None) -> None:
        """Make of the words what pictures are compared with."""

    @staticmethod
    @abstractmethod
    def _count(vocabulary: Vocabulary) -> int:
        """How many scores a cell has."""

    @abstractmethod
    def combine(self, fused: Tensor, picture: Picture) -> WordMaps:
        """What the label map is made of.

        Args:
            fused: float32 (channels, h, w), fused over crops.
            picture: The picture that the crops were cut from.
        """

    @abstractmethod
    def only(self, classes: Sequence[int]) -> Self:
        """The same for some of the classes, which become channels 1, 2, ... in the order given."""


class EmbeddedWordScorer(WordScorer):
    """What scorers have in common for which each word is an embedding, and a channel of scores."""

    _text: Tensor
    """(W, ...), what each word is compared by."""

    @staticmethod
    def _count(vocabulary: Vocabulary) -> int:
        """How many scores a cell has."""
        return len(vocabulary.words)

    @property
    def words(self) -> tuple[str, ...]:
        """The words, in the order of the channels."""
        return self.vocabulary.words

    def only(self, classes: Sequence[int]) -> Self:
        """The same for some of the classes, with their words and the background's."""
        narrowed = copy.copy(self)
        narrowed.vocabulary, kept = narrow(self.vocabulary, classes)
        narrowed.channels = self._count(narrowed.vocabulary)
        narrowed._text = self._text[kept]
        return narrowed


class ClipWordScorer(EmbeddedWordScorer):
    """What scorers have in common that compare CLIP's patches with words."""

    def _read(self, templates: Sequence[str], texts: TextCache | None, reading: Reading | None) -> None:
        """Embed the words."""
        settings, clip = self._settings, self._models.profile.clip
        words = self.vocabulary.words
        self._text = embed_words(
            self._models.clip, words, templates, weights=clip.weights, cache=texts, reading=reading
        )
        self.sees = (
            self._looks(),
            settings.squash,
            settings.patches,
            settings.positions,
            settings.mean,
            settings.std,
        )

    @abstractmethod
    def _looks(self) -> Hashable:
        """What names the features of crops that CLIP sees in one way: equal only where these are the same."""

    def pixels(self, size: tuple[int, int]) -> int:
        """Those at which CLIP sees a crop."""
        return math.prod(self._shown(size))

    def _shown(self, size: tuple[int, int]) -> tuple[int, int]:
        """(height, width) at which CLIP sees crops of a size."""
        settings = self._settings
        if settings.squash is not None:
            return settings.squash, settings.squash
        return whole_patches(*size, self._models.clip.patch, settings.patches)

    def _walk(self, size: tuple[int, int], blocks: Collection[int], *, attention: bool = False) -> Walk:
        """A walk through some blocks, for crops of a size."""
        settings, clip = self._settings, self._models.profile.clip
        return Walk(
            self._shown(size),
            settings.positions,
            blocks,
            mean=settings.mean or clip.mean,
            std=settings.std or clip.std,
            patches="round" if settings.squash is not None or min(size) < self._models.clip.patch else settings.patches,
            attention=attention,
        )


def narrow(vocabulary: Vocabulary, classes: Sequence[int]) -> tuple[Vocabulary, list[int]]:
    """The vocabulary of some of the classes, by their places, and the places of their words and the background's."""
    number = {place + 1: new for new, place in enumerate(classes, start=1)} | {0: 0}
    kept = [i for i, owner in enumerate(vocabulary.owner) if owner in number]
    narrowed = replace(
        vocabulary,
        classes=tuple(vocabulary.classes[place] for place in classes),
        words=tuple(vocabulary.words[i] for i in kept),
        owner=tuple(number[vocabulary.owner[i]] for i in kept),
    )
    return narrowed, kept


def whole_patches(
    height: int, width: int, patch: int, how: Literal["round", "floor", "pad"] = "round"
) -> tuple[int, int]:
    """(height, width) in whole patches, one at least: the nearest number, those that fit in, or those that cover."""
    whole: dict[str, Callable[[float], int]] = {"round": round, "floor": math.floor, "pad": math.ceil}
    rows, columns = (max(1, whole[how](length / patch)) for length in (height, width))
    return rows * patch, columns * patch
