"""Images of one size that are segmented together, resized as they are asked for."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from ovseg_cli.backbones.pixels import picture_size
from ovseg_cli.devices import fetch
from ovseg_cli.profiles.geometry import Geometry, Resampling
from ovseg_cli.scorers.scorer import Picture
from ovseg_cli.segmentation.task import Kept
from ovseg_cli.stages import stage
from ovseg_cli.text.prefilter import ClassPrefilter, Shortlist

if TYPE_CHECKING:
    from ovseg_cli.models import Models

Image = Any
"""A PIL image in mode RGB, or a uint8 array (H, W, 3)."""


def common_size(images: Sequence[Image]) -> tuple[int, int]:
    """(height, width) of all of them, or ValueError."""
    sizes = {picture_size(image) for image in images}
    if len(sizes) != 1:
        raise ValueError(f"images of one size are wanted, got {len(images)} images of {len(sizes)} sizes")
    return sizes.pop()


class Images:
    """Images of one size, and what networks have seen in each."""

    def __init__(self, images: Sequence[Image], models: Models) -> None:
        self.size = common_size(images)
        self._pictures = [Picture(image, models.device) for image in images]
        for place, picture in enumerate(self._pictures):
            picture.followed_by(self._pictures[place + 1 :])
        self._models = models
        self._resized: dict[tuple[tuple[int, int], Resampling], Tensor] = {}
        self._kept: dict[tuple[tuple[int, int], Resampling], Kept] = {}
        self._filtered: dict[Hashable, Shortlist] = {}
        self._scored: Tensor | None = None
        self._unfamiliar: list[bool] | None = None

    def picture(self, place: int) -> Picture:
        """One of them, as it came."""
        return self._pictures[place]

    def view(self, geometry: Geometry) -> tuple[tuple[int, int], Resampling]:
        """At which size they are worked at, and how they are brought to it."""
        patch = self._models.clip.patch if geometry.in_patches else 1
        return geometry.working_size(*self.size, patch), geometry.resample

    def at(self, geometry: Geometry) -> Tensor:
        """All of them, float (P, 3, h, w) in [0, 1]."""
        view = self.view(geometry)
        if view not in self._resized:
            self._resized[view] = torch.cat([picture.at(*view) for picture in self._pictures])
        return self._resized[view]

    def kept(self, geometry: Geometry) -> Kept:
        """Features of their crops that are kept from one walk to the next."""
        return self._kept.setdefault(self.view(geometry), Kept())

    def forget(self, place: int) -> None:
        """Let go of what networks have seen in one of them as a whole."""
        self._pictures[place].forget()

    def unfamiliar(self, place: int) -> Callable[[], bool | None]:
        """Whether one of them looks like nothing that the models were trained on; None where they know photographs.

        What is returned asks the device for the answer, which is on its way.
        """
        domain = self._models.domain
        if domain is None:
            return lambda: None
        if self._scored is None:
            with stage("familiarity"):
                self._scored = domain.scores(self.at(domain.spec))
        return lambda: self._asked()[place]

    def _asked(self) -> list[bool]:
        """Of each of them, read once for all."""
        if self._unfamiliar is None and self._scored is not None:
            self._unfamiliar = (fetch(self._scored) > 0).tolist()
        return self._unfamiliar or []

    def filtered(self, place: int, geometry: Geometry, prefilter: ClassPrefilter, settings: Hashable) -> Shortlist:
        """What a pre-filter with these settings leaves for one of them."""
        key = (place, self.view(geometry), settings)
        if key not in self._filtered:
            with stage("class filter"):
                self._filtered[key] = prefilter(self.at(geometry)[place : place + 1])
        return self._filtered[key]
