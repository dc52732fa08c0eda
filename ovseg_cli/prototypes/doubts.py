"""Names that may be slips: no word that ovseg knows, and spelt nearly like one."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Final

from ovseg_cli.names import ClassList, class_key
from ovseg_cli.prototypes.kinds import listed_kind, listed_words

if TYPE_CHECKING:
    from ovseg_cli.backbones.clip import ClipBackbone

MOST: Final = 3
"""Words that a doubt names at most."""

_SHORT = 5  # letters up to which one wrong letter makes a name doubtful, and beyond which two do
_ALIKE: Final = frozenset(map(frozenset, ("ck", "cs", "sz", "fv", "vw", "iy", "gj", "dt", "bp", "ae", "ei", "ou")))
_PROMPT: Final = "a photo of a {name}"


def near_words(name: str, stored: Iterable[str], clip: ClipBackbone | None) -> tuple[str, ...]:
    """Words that a name may be a slip of, the likeliest first; none when it is a word that is known.

    A generator draws something for any name, so that a slip costs minutes, and is seen in the results at the earliest.

    Args:
        name: The name of a class to be made.
        stored: Names of the classes that there are.
        clip: Says which of several words that are equally near in spelling is meant most likely.
    """
    key = class_key(name)
    others = ClassList.distinct(stored)
    if name in others or listed_kind(name) is not None:
        return ()
    most = 1 if len(key) <= _SHORT else 2
    known = {**{word: word for word in listed_words()}, **{class_key(other): other for other in others}}
    slips = {word: slip for word in known if (slip := edit_distance(key, word, most)) <= most}
    cosines: dict[str, float] = {}
    if clip is not None and len(slips) > 1:
        vectors = clip.embed_text([key, *slips], [_PROMPT])
        cosines = dict(zip(slips, (vectors[1:] @ vectors[0]).tolist(), strict=True))
    near = sorted(slips, key=lambda word: (slips[word], -cosines.get(word, 0.0)))
    return tuple(known[word] for word in near[:MOST])


def edit_distance(one: str, other: str, most: int) -> float:
    """How many letters have to be put in, left out, changed or swapped with their neighbour, counted up to `most` + 1.

    A letter for another that may sound the same counts half.

    >>> edit_distance("kat", "cat", 2), edit_distance("gaint", "giant", 2), edit_distance("cat", "elephant", 2)
    (0.5, 1, 3)
    """
    if abs(len(one) - len(other)) > most:
        return most + 1
    before: list[float] = []
    row: list[float] = list(range(len(other) + 1))
    for i, letter in enumerate(one, start=1):
        last, before = before, row
        row = [i]
        for j, opposite in enumerate(other, start=1):
            change = 0 if letter == opposite else 0.5 if frozenset((letter, opposite)) in _ALIKE else 1
            cost = min(before[j] + 1, row[j - 1] + 1, before[j - 1] + change)
            if i > 1 and j > 1 and letter == other[j - 2] and one[i - 2] == opposite:
                cost = min(cost, last[j - 2] + 1)
            row.append(cost)
        if min(row) > most:
            return most + 1
    return min(row[-1], most + 1)
