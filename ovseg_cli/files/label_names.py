"""What labels are called and painted: the names and colours of ids, and the palette of Pascal VOC."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from functools import cached_property

import numpy as np
import numpy.typing as npt

from ovseg_cli.errors import LabelError
from ovseg_cli.names import BACKGROUND, class_key, is_background, repeated

__all__ = [
    "BACKGROUND",
    "HASH_NOTE",
    "IGNORE",
    "MAX_ID",
    "Colour",
    "LabelMap",
    "is_background",
    "is_void",
    "voc_colour",
]

Colour = tuple[int, int, int]

IGNORE = 255
"""The id of pixels that count neither for nor against (VOC's "void")."""

MAX_ID = 65535
"""The largest id: what a 16-bit PNG holds."""

HASH_NOTE = "# a line with a colour is a class, also where it begins with #"
"""Stands in a label map that has such a class: elsewhere these lines are comments."""

_VOID_NAMES = frozenset(
    {"void", "ignore", "ignored", "ignore label", "ignore region", "unlabeled", "unlabelled", "not labeled"}
    | {"not labelled", "no label", "no data", "nodata", "don't care", "dont care"}
)


def voc_colour(index: int) -> Colour:
    """The colour of an id in Pascal VOC: its bits, dealt to red, green and blue from the top down.

    Args:
        index: The id, 0..2**24 - 1; each has a colour of its own.

    Returns:
        (red, green, blue), each 0..255.

    Raises:
        ValueError: `index` is out of range.
    """
    if not 0 <= index < 1 << 24:
        raise ValueError(f"a label id must lie in 0..{(1 << 24) - 1}, got {index!r}")
    red = green = blue = 0
    for shift in range(7, -1, -1):
        red |= (index & 1) << shift
        green |= (index >> 1 & 1) << shift
        blue |= (index >> 2 & 1) << shift
        index >>= 3
    return red, green, blue


def is_void(name: str) -> bool:
    """Whether a label name means "does not count": ``void``, ``ignore``, ``unlabeled`` and their like, in any dress."""
    bare = class_key(name).replace("_", " ").replace("-", " ").replace("\N{RIGHT SINGLE QUOTATION MARK}", "'")
    return " ".join(bare.strip(" <>[](){}").split()) in _VOID_NAMES


@dataclass(frozen=True)
class LabelMap:
    """Names and colours of label ids.

    Attributes:
        names: The name of each id. Several ids may have one name, and are then one class.
        ids: The ids, 0..65535, distinct.
        colours: The colour of each id; left out, the VOC colours of the ids.
        guessed: The ids whose colour nobody gave, so that it is VOC's; left out, all of them without `colours`, and
            none with.
    """

    names: tuple[str, ...]
    ids: tuple[int, ...]
    colours: tuple[Colour, ...] = field(default=())
    guessed: frozenset[int] = field(default=frozenset())

    def __post_init__(self) -> None:
        if not self.colours:
            object.__setattr__(self, "colours", tuple(voc_colour(i) for i in self.ids))
            object.__setattr__(self, "guessed", frozenset(self.ids))
        if not len(self.names) == len(self.ids) == len(self.colours):
            sizes = f"{len(self.names)} names, {len(self.ids)} ids, {len(self.colours)} colours"
            raise ValueError(f"a label map needs one id and colour per name, got {sizes}")
        if len(set(self.ids)) != len(self.ids):
            double = next(i for i in self.ids if self.ids.count(i) > 1)
            raise LabelError(f"A label map cannot give the id {double} to two names.")
        if bad := [i for i in self.ids if not 0 <= i <= MAX_ID]:
            raise LabelError(f"A label id must lie in 0..{MAX_ID}, got {bad[0]}.")

    @classmethod
    def from_classes(cls, classes: Sequence[str]) -> LabelMap:
        """The map of a run: id 0 is the background, class i of `classes` has id i + 1.

        Raises:
            LabelError: A class is called "background", or two are the same name.
        """
        if taken := [name for name in classes if is_background(name)]:
            raise LabelError(f"{taken[0]!r} is the name of label 0 already; leave it out of the classes.")
        if twice := repeated(classes):
            raise LabelError(f"Classes cannot be called both {twice[0]!r} and {twice[1]!r}: one name, one class.")
        ids = tuple(range(len(classes) + 1))
        return cls((BACKGROUND, *classes), ids, tuple(voc_colour(i) for i in ids))

    @cached_property
    def _by_key(self) -> dict[str, tuple[int, ...]]:
        ids: dict[str, tuple[int, ...]] = {}
        for name, i in zip(self.names, self.ids, strict=True):
            ids[class_key(name)] = (*ids.get(class_key(name), ()), i)
        return ids

    @cached_property
    def _by_id(self) -> dict[int, int]:
        return {i: position for position, i in enumerate(self.ids)}

    def __len__(self) -> int:
        return len(self.names)

    def __iter__(self) -> Iterator[tuple[int, str, Colour]]:
        """Yield (id, name, colour)."""
        return iter(zip(self.ids, self.names, self.colours, strict=True))

    def ids_of(self, name: str) -> tuple[int, ...]:
        """The ids of a name (case and Unicode form do not matter); none when the map does not hold it."""
        return self._by_key.get(class_key(name), ())

    def id_of(self, name: str) -> int | None:
        """The first id of a name (case and Unicode form do not matter), or None."""
        return next(iter(self.ids_of(name)), None)

    def name_of(self, index: int) -> str | None:
        """The name of an id, or None."""
        position = self._by_id.get(index)
        return None if position is None else self.names[position]

    def colour_of(self, index: int) -> Colour:
        """The colour of an id; the VOC colour if the map does not hold it."""
        position = self._by_id.get(index)
        return voc_colour(index) if position is None else self.colours[position]

    @cached_property
    def given_colours(self) -> dict[Colour, tuple[int, ...]]:
        """The ids of each colour that somebody gave; empty for a map of names only."""
        ids: dict[Colour, tuple[int, ...]] = {}
        for i, _, colour in self:
            if i not in self.guessed:
                ids[colour] = (*ids.get(colour, ()), i)
        return ids

    @property
    def max_id(self) -> int:
        """The largest id, or 0 for an empty map."""
        return max(self.ids, default=0)

    @property
    def background_id(self) -> int | None:
        """The id of the name that `is_background`, or None."""
        return next((i for i, name, _ in self if is_background(name)), None)

    def palette(self) -> npt.NDArray[np.uint8]:
        """`(256, 3)` uint8: this map's colours for its ids below 256, VOC's for the others."""
        return np.array([self.colour_of(i) for i in range(256)], dtype=np.uint8)
