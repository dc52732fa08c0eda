"""What a class is made of: its name, and pictures that are the user's own, with or without masks."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

if TYPE_CHECKING:
    from ovseg_cli.store.records import ClassRecord


@dataclass(frozen=True, slots=True, eq=False)
class OwnPicture:
    """One of the user's pictures that shows the class.

    Attributes:
        name: What to call it in messages and records: its path below the folder of pictures.
        image: uint8 (H, W, 3), RGB.
        foreground: bool (H, W): the object; None to find it by the generator's attention to the class's name.
        background: bool (H, W), disjoint from the foreground: what is surely not the object. With `foreground` only.

    Raises:
        ValueError: The masks do not fit the image, or each other.
    """

    name: str
    image: npt.NDArray[np.uint8]
    foreground: npt.NDArray[np.bool_] | None = None
    background: npt.NDArray[np.bool_] | None = None

    def __post_init__(self) -> None:
        if self.image.ndim != 3 or self.image.shape[2] != 3 or self.image.dtype != np.uint8 or not self.image.size:
            raise ValueError(f"image must be uint8 of shape (H, W, 3); got {self.image.dtype} {self.image.shape}")
        if (self.foreground is None) != (self.background is None):
            raise ValueError("foreground and background are given together, or neither")
        for mask in (self.foreground, self.background):
            if mask is not None and (mask.shape != self.image.shape[:2] or mask.dtype != np.bool_):
                raise ValueError(f"a mask must be bool of shape {self.image.shape[:2]}; got {mask.dtype} {mask.shape}")
        if self.foreground is not None and self.background is not None and (self.foreground & self.background).any():
            raise ValueError("foreground and background overlap")


@dataclass(frozen=True, slots=True)
class ClassItem:
    """A class that is to be made.

    Attributes:
        name: What it is called.
        existing: What there is of it, if it is to get more support images.
        pictures: The user's own pictures; None to generate them.
    """

    name: str
    existing: ClassRecord | None = None
    pictures: Sequence[OwnPicture] | None = None
