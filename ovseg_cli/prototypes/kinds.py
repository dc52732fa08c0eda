"""Whether a class is a thing or stuff: from a bundled word list, else from CLIP's sense of which words are alike.

OVDiff asked a chat model, which was right for 89 % of COCO-Stuff's categories and changed the result by less than its
spread (supplement C.4). A list is right for what it lists, and gives the same answer tomorrow.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Callable, Mapping, Sequence
from functools import cache
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Final, TypeAlias

from ovseg_cli.store.records import ClassKind, KindSource

if TYPE_CHECKING:
    from torch import Tensor

Embed: TypeAlias = "Callable[[Sequence[str], Sequence[str]], Tensor]"
"""C names and prompt templates to float32 (C, E), each of norm 1: `ClipBackbone.embed_text`, or one that remembers."""

WORD_LIST: Final = Path(__file__).with_name("things_and_stuff.txt")

NEIGHBOURS: Final = 7
"""Listed words that have a say in the kind of a word that is not listed."""

_PROMPT: Final = "a photo of {article} {name}"
_ARTICLES: Final = frozenset({"a", "an", "the"})
_PREPOSITION: Final = re.compile(
    "above|against|among|at|behind|below|beside|between|by|for|from|in|inside|near|of|on|onto|over|through|to|under|"
    "underneath|with|without"
)
_QUANTITY: Final = re.compile(
    "(bunch|couple|crowd|flock|group|heap|herd|kind|lot|pack|pair|patch|piece|pile|row|set|slice|stack|type)s?"
)
_SOURCES: Final = MappingProxyType(
    {
        "user": "as you said",
        "list": "by the word list",
        "clip": "by the listed words that CLIP finds most alike",
        "default": "by default",
    }
)


def resolve_kind(name: str, embed: Embed | None) -> tuple[ClassKind, KindSource]:
    """Whether a class is a thing or stuff, and how that is known.

    A name that is not listed takes the kind of the listed words whose texts CLIP embeds most like it: the `NEIGHBOURS`
    nearest ones vote, each with its cosine.

    Args:
        name: A class name.
        embed: How CLIP embeds texts, for names that are not listed; without it, they are things.
    """
    listed = listed_kind(name)
    if listed is not None:
        return listed, "list"
    if embed is None:
        return "thing", "default"
    return similar_kind(name, embed, listed_words()), "clip"


def listed_kind(name: str) -> ClassKind | None:
    """What the word list says of a name, None when it says nothing.

    The whole name is looked up first. Else its head noun decides, which in English comes last, or before the first
    preposition: of its endings the longest that is listed counts. So a "chocolate glazed donut" is a donut, a "grass
    snake" a snake and "wet grass" grass; a "house of stone" is a house, and a "slice of bread" bread.

    Args:
        name: A class name in any case, with spaces, hyphens or underscores, in the singular or the plural.
    """
    known = listed_words()
    words = _words(name)
    for phrase in (words, *_endings(_head(words))):
        for form in _singulars(phrase):
            if form in known:
                return known[form]
    return None


def similar_kind(name: str, embed: Embed, known: Mapping[str, ClassKind]) -> ClassKind:
    """The kind of those known words whose texts CLIP embeds most like a name.

    Args:
        name: A class name.
        embed: How CLIP embeds texts.
        known: Words with their kinds, at least one.
    """
    words = list(known)
    vectors = embed([name, *words], [_PROMPT])
    cosines = (vectors[1:] @ vectors[0]).cpu()
    best = cosines.topk(min(NEIGHBOURS, len(words)))
    votes: dict[ClassKind, float] = {"thing": 0.0, "stuff": 0.0}
    for cosine, place in zip(best.values.tolist(), best.indices.tolist(), strict=True):
        votes[known[words[place]]] += max(cosine, 0.0)
    return "stuff" if votes["stuff"] > votes["thing"] else "thing"


@cache
def listed_words() -> Mapping[str, ClassKind]:
    """Every listed word or phrase, in the form in which names are looked up, with its kind."""
    kinds: dict[str, ClassKind] = {}
    kind: ClassKind = "thing"
    for line in WORD_LIST.read_text(encoding="utf-8").splitlines():
        if line.startswith("["):
            kind = "stuff" if line == "[stuff]" else "thing"
        elif line and not line.startswith("#"):
            kinds.update((" ".join(_words(word)), kind) for word in line.split(","))
    return MappingProxyType(kinds)


def describe_source(source: KindSource) -> str:
    """How the kind of a class is known, for people: "thing (by the word list)"."""
    return _SOURCES[source]


def _words(name: str) -> tuple[str, ...]:
    """The words of a name without case, punctuation and a leading article."""
    words = re.findall(r"[\w']+", unicodedata.normalize("NFKC", name).casefold().replace("_", " "))
    return tuple(words[1:] if len(words) > 1 and words[0] in _ARTICLES else words)


def _head(words: tuple[str, ...]) -> tuple[str, ...]:
    """What comes before the first preposition; behind "of" where the word before it only says how much."""
    for place, word in enumerate(words[1:], start=1):
        if _PREPOSITION.fullmatch(word):
            amount = word == "of" and _QUANTITY.fullmatch(words[place - 1])
            return _head(words[place + 1 :]) if amount else words[:place]
    return words


def _endings(words: tuple[str, ...]) -> list[tuple[str, ...]]:
    return [words[start:] for start in range(len(words))]


def _singulars(phrase: tuple[str, ...]) -> list[str]:
    """A phrase as it is, and with its last word as if that were a plural."""
    text = " ".join(phrase)
    forms = [text]
    for plural, singulars in (("s", ("",)), ("ies", ("y",)), ("es", ("",)), ("ves", ("f", "fe"))):
        if text.endswith(plural) and not text.endswith("ss"):
            forms += [text.removesuffix(plural) + singular for singular in singulars]
    return forms
