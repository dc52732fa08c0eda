"""Memory that does not suffice: what says so, and how much goes through the models at once from then on."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Easing:
    """What goes through the models at once since something did not fit.

    Attributes:
        size: `(width, height)` of the picture that did not fit; pictures with fewer pixels are not concerned.
        images: How many pictures go together, at most; None where that is as it was.
        crops: How many crops of a picture go through a network together, at most; None likewise.
    """

    size: tuple[int, int]
    images: int | None = None
    crops: int | None = None

    def __str__(self) -> str:
        width, height = self.size
        what, number = ("pictures", self.images) if self.images is not None else ("crops of a picture", self.crops)
        which = f"of {width} x {height} pixels and more"
        if number == 1:
            return f"out of memory: {what} {which} go one by one through the models from now on"
        return f"out of memory: at most {number} {what} {which} go together through the models from now on"


class Room:
    """How much fits at once, as experience has it.

    Attributes:
        eased: The last easing that nobody was told of; None when there is none.
    """

    def __init__(self) -> None:
        self.eased: Easing | None = None
        self._images: dict[int, int] = {}  # by pixels of the picture that did not fit
        self._crops: dict[int, int] = {}

    def images(self, size: tuple[int, int], most: int) -> int:
        """How many pictures of a size go together, `most` if nothing was too much."""
        return _least(self._images, size, most)

    def crops(self, size: tuple[int, int], most: int) -> int:
        """How many crops of a picture go together, `most` if nothing was too much."""
        return _least(self._crops, size, most)

    def fewer_images(self, size: tuple[int, int], tried: int) -> None:
        """So many were too many."""
        self._images[size[0] * size[1]] = max(1, tried // 2)
        self.eased = Easing(size, images=max(1, tried // 2))

    def fewer_crops(self, size: tuple[int, int], tried: int) -> None:
        """So many were too many."""
        self._crops[size[0] * size[1]] = max(1, tried // 2)
        self.eased = Easing(size, crops=max(1, tried // 2))

    def told(self) -> Easing | None:
        """The last easing, once."""
        eased, self.eased = self.eased, None
        return eased


def _least(found: dict[int, int], size: tuple[int, int], most: int) -> int:
    return min([most, *(number for pixels, number in found.items() if pixels <= size[0] * size[1])])
