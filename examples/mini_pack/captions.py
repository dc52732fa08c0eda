"""Captions of rendered scenes, from the vocabulary and a few templates."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final, TypeVar

import numpy as np

from examples.mini_pack.vocabulary import Stuff, Thing

# "a good picture of" stands twice: it is the prompt with which support images are generated
TEMPLATES: Final = (
    "{}",
    "a photo of {}",
    "a good picture of {}",
    "a good picture of {}",
    "a picture of {}",
    "an image of {}",
)

_Item = TypeVar("_Item")


def caption(things: Sequence[Thing], stuff: Stuff, under_sky: bool, rng: np.random.Generator) -> str:
    """Describe a scene.

    Args:
        things: The objects, in the order to name them; may be empty.
        stuff: What the objects stand on or before.
        under_sky: Whether the upper part of the scene is sky.
        rng: Source of template, aliases and of what is left unsaid.

    Returns:
        A lower-case caption such as ``"a photo of a kitten and an apple on the grass under the sky"``.
    """
    template = _pick(TEMPLATES, rng)
    if not things:
        # "a grass" is no English, but class names are put into "a picture of a ..." later on
        subject = stuff.name if rng.random() < 0.7 else _with_article(stuff.name)
        return template.format(subject + (" under the sky" if under_sky else ""))
    subject = " and ".join(_with_article(_word(thing, rng)) for thing in things)
    if rng.random() < 0.65:
        subject += " " + _pick(stuff.places, rng)
        if under_sky and rng.random() < 0.8:
            subject += " under the sky"
    return template.format(subject)


def _word(thing: Thing, rng: np.random.Generator) -> str:
    if thing.aliases and rng.random() < 0.4:
        return _pick(thing.aliases, rng)
    return thing.name


def _with_article(noun: str) -> str:
    return ("an " if noun[0] in "aeiou" else "a ") + noun


def _pick(items: Sequence[_Item], rng: np.random.Generator) -> _Item:
    return items[int(rng.integers(len(items)))]
