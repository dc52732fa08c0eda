"""Everything that exists in the pictogram world: its objects, its textures and their label ids.

This is the only place that lists names. Captions, masks and label maps are all derived from it.
"""

from __future__ import annotations

from dataclasses import dataclass

BACKGROUND = "background"
"""Name of label id 0. Rendered scenes never contain it: every pixel is an object or stuff."""


@dataclass(frozen=True, slots=True)
class Thing:
    """An object class: one emoji glyph with the words that mean it."""

    name: str
    glyph: str
    aliases: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Stuff:
    """A texture class, with the phrases that place an object on or before it."""

    name: str
    places: tuple[str, ...]


THINGS: tuple[Thing, ...] = (
    Thing("cat", "🐱", ("kitten",)),
    Thing("dog", "🐶", ("puppy",)),
    Thing("doughnut", "🍩", ("donut", "chocolate glazed donut")),
    Thing("car", "🚗", ("automobile",)),
    Thing("tree", "🌳"),
    Thing("bus", "🚌"),
    Thing("apple", "🍎"),
    Thing("banana", "🍌"),
    Thing("pizza", "🍕"),
    Thing("house", "🏠", ("home",)),
    Thing("horse", "🐴", ("pony",)),
    Thing("cow", "🐮"),
    Thing("sheep", "🐑", ("lamb",)),
    Thing("bird", "🐦"),
    Thing("fish", "🐟"),
    Thing("bicycle", "🚲", ("bike",)),
    Thing("airplane", "✈", ("aeroplane", "plane")),
    Thing("boat", "⛵", ("ship", "sailboat")),
    Thing("train", "🚆"),
    Thing("clock", "🕒"),
    Thing("umbrella", "☂"),
    Thing("soccer ball", "⚽", ("football",)),
    Thing("flower", "🌸"),
    Thing("mushroom", "🍄"),
    Thing("elephant", "🐘"),
    Thing("zebra", "🦓"),
    Thing("bear", "🐻"),
    Thing("penguin", "🐧"),
    Thing("rabbit", "🐰", ("bunny",)),
    Thing("lion", "🦁"),
    Thing("frog", "🐸"),
    Thing("strawberry", "🍓"),
    Thing("balloon", "🎈"),
    Thing("cup", "☕", ("mug",)),
    Thing("pig", "🐷"),
    Thing("panda", "🐼"),
    Thing("monkey", "🐵"),
    Thing("hamburger", "🍔", ("burger",)),
    Thing("book", "📕"),
    Thing("gift", "🎁"),
    Thing("camera", "📷"),
    Thing("watermelon", "🍉"),
    Thing("robot", "🤖"),
    Thing("snowman", "⛄"),
)

STUFF: tuple[Stuff, ...] = (
    Stuff("grass", ("on grass", "on the grass")),
    Stuff("sand", ("on sand", "on the sand")),
    Stuff("water", ("in water", "on the water")),
    Stuff("sky", ("in the sky",)),
    Stuff("snow", ("in the snow", "on snow")),
    Stuff("brick wall", ("in front of a brick wall",)),
    Stuff("wood", ("on wood", "on a wood floor")),
    Stuff("road", ("on the road", "on a road")),
)

THING_NAMES: tuple[str, ...] = tuple(thing.name for thing in THINGS)
STUFF_NAMES: tuple[str, ...] = tuple(stuff.name for stuff in STUFF)

LABEL_NAMES: tuple[str, ...] = (BACKGROUND, *THING_NAMES, *STUFF_NAMES)
"""Name of each label id: 0 background, then the objects, then the stuff."""

LABEL_IDS: dict[str, int] = {name: label for label, name in enumerate(LABEL_NAMES)}
"""Label id of each canonical name."""

_THINGS_BY_WORD: dict[str, Thing] = {word: thing for thing in THINGS for word in (thing.name, *thing.aliases)}


def find_thing(word: str) -> Thing:
    """Return the object class that a name or an alias means.

    Args:
        word: A canonical name or an alias, for example ``"kitten"``.

    Raises:
        ValueError: If no object is called so.
    """
    try:
        return _THINGS_BY_WORD[word]
    except KeyError:
        known = ", ".join(THING_NAMES)
        raise ValueError(f"no object is called {word!r}; the pictogram world has: {known}") from None
