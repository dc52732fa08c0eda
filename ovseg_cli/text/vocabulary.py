"""From class names to the words that are looked for. No torch here."""

from __future__ import annotations

import unicodedata
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from ovseg_cli.errors import UsageError
from ovseg_cli.names import ClassList, class_key, did_you_mean, shown_name


@dataclass(frozen=True, slots=True)
class Vocabulary:
    """The query words of a list of classes.

    Attributes:
        classes: Class names in label order; class i of them has number i + 1.
        words: All different: for each class its name and then its synonyms, and the background's words at the end.
        owner: The number of the class that each word stands for; 0 for the background.
        left_out: Synonyms and background words that are not used, because a class has the word already.
        notes: Sentences for people about what they may not expect.
    """

    classes: tuple[str, ...]
    words: tuple[str, ...]
    owner: tuple[int, ...]
    left_out: tuple[str, ...] = ()
    notes: tuple[str, ...] = field(default=(), compare=False)

    @property
    def channels(self) -> int:
        """How many scores a pixel has: one per class and the background's."""
        return len(self.classes) + 1

    def record(self) -> dict[str, Any]:
        """Everything that changes the scores, as JSON-able values."""
        return {"classes": list(self.classes), "words": list(self.words), "owner": list(self.owner)}


def make_vocabulary(
    classes: Sequence[str],
    *,
    synonyms: Mapping[str, Sequence[str]] | None = None,
    background: Sequence[str] = (),
) -> Vocabulary:
    """Gather the query words of classes. No word comes twice (upper and lower case make no difference).

    A class name goes before every synonym, synonyms of earlier classes before those of later ones, and all of them
    before the background's words: whatever comes again is left out. (In SCLIP's and ProxyCLIP's files of COCO-Object
    "bed" is a class and the background's as well, which halves its probability there.)

    Args:
        classes: Class names.
        synonyms: More words for some of the classes, by the class name in any case.
        background: Words for what is none of the classes.

    Raises:
        UsageError: No class, a class twice, synonyms of what is not a class, or a word that is no text.
    """
    names = ClassList(map(_clean, classes))
    if not names:
        raise UsageError("There is no class to look for. Name some.")
    of_class: list[list[str]] = [[] for _ in names]
    for name, others in (synonyms or {}).items():
        place = names.find(name)
        if place is None:
            raise UsageError(
                f"{shown_name(name)} has synonyms but is not among the classes: {names.listed()}."
                f"{did_you_mean(name, names)}"
            )
        of_class[place] += map(_clean, others)

    words: list[str] = []
    owner: list[int] = []
    left_out: list[str] = []
    notes: list[str] = []
    # By the key of a word, the number of the class that has it.
    taken = {class_key(name): number for number, name in enumerate(names, start=1)}
    for number, name in enumerate(names, start=1):
        fresh = [name]
        for word in of_class[number - 1]:
            first = taken.get(class_key(word))
            if first is None:
                taken[class_key(word)] = number
                fresh.append(word)
            else:
                left_out.append(word)
                whose = "is there already" if first == number else f"belongs to {shown_name(names[first - 1])}"
                notes.append(f"The synonym {shown_name(word)} of {shown_name(name)} is left out: it {whose}.")
        words += fresh
        owner += [number] * len(fresh)
    for word in map(_clean, background):
        if class_key(word) in taken:
            left_out.append(word)
            continue
        taken[class_key(word)] = 0
        words.append(word)
        owner.append(0)
    if len(names) == 1 and 0 not in owner:
        notes.append(
            f"Nothing competes with {shown_name(names[0])}, so all of a picture becomes it: add words or classes."
        )
    return Vocabulary(names.names, tuple(words), tuple(owner), tuple(left_out), tuple(notes))


def parse_synonyms(values: Sequence[str]) -> dict[str, tuple[str, ...]]:
    """Synonyms as they are typed: ``CLASS=WORD``, or several words with commas between them.

    Returns:
        The words of each class, in the order given; for `make_vocabulary`.

    Raises:
        UsageError: Without a class or a word.
    """
    found: dict[str, tuple[str, ...]] = {}
    for value in values:
        name, _, listed = value.partition("=")
        words = [word.strip() for word in listed.split(",")]
        if not name.strip() or not all(words):
            raise UsageError(f"A synonym is written CLASS=WORD, such as ship=boat; got {shown_name(value)}.")
        found[name.strip()] = (*found.get(name.strip(), ()), *words)
    return found


def merge_synonyms(*several: Mapping[str, Sequence[str]]) -> dict[str, tuple[str, ...]]:
    """Synonyms from several places, such as a class file and the command line, in that order."""
    merged: dict[str, tuple[str, ...]] = {}
    for synonyms in several:
        for name, words in synonyms.items():
            merged[name] = (*merged.get(name, ()), *words)
    return merged


def _clean(word: str) -> str:
    """A word in Unicode NFC, without outer spaces and with inner runs of spaces made one."""
    clean = unicodedata.normalize("NFC", " ".join(word.split()))
    if not clean:
        raise UsageError(f"A word for a class must not be empty; got {word!r}.")
    if any(unicodedata.category(character) == "Cs" for character in clean):
        raise UsageError(f"{shown_name(word)} is no text: type it in UTF-8.")
    return clean
