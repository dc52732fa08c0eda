"""What scorers have in common: crops of pictures, and the walks through networks that they share.

A scorer sees crops in two steps. `Scorer.features` is what a network computes of them, and does not depend on the
classes; `Scorer.compare` compares that with the classes that take part, which may be others in every picture. So
pictures of one size go through the networks together, and so do methods that look at the same crops (`Crops`).
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Collection, Hashable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal, TypeVar, cast

import torch
from torch import Tensor

from ovseg_cli.backbones.clip import ClipTrace
from ovseg_cli.backbones.pixels import picture_size, to_working_tensor
from ovseg_cli.devices import VALUES_PER_PIXEL, constant, portion
from ovseg_cli.labeling.windows import Crop
from ovseg_cli.profiles.geometry import Resampling
from ovseg_cli.profiles.specs import PositionMode
from ovseg_cli.stages import stage

if TYPE_CHECKING:
    from ovseg_cli.models import Models

Known = TypeVar("Known")

Features = dict[str, list[tuple[Crop, list[Tensor]]]]
"""By extractor: the crops of a picture, each with its feature maps as `Models.feature_maps` gives them, on the CPU."""


@dataclass(frozen=True, slots=True)
class Walk:
    """A walk through CLIP's vision tower.

    Attributes:
        input_size: (height, width) in pixels at which the tower sees crops.
        positions: How position embeddings are resized.
        blocks: Which blocks are read, counted from the front.
        mean: Per-channel mean of the input normalisation.
        std: Per-channel standard deviation.
        patches: How crops are brought to that size (`DenseDefaults.patches`).
        attention: Whether the attention of the blocks is wanted (`ClipTrace.attention`).
    """

    input_size: tuple[int, int]
    positions: PositionMode
    blocks: Collection[int]
    mean: tuple[float, float, float]
    std: tuple[float, float, float]
    patches: Literal["round", "floor", "pad"] = "round"
    attention: bool = False

    @property
    def shown(self) -> Hashable:
        """What the tower is shown."""
        return self.input_size, self.positions, self.mean, self.std, self.patches

    @property
    def ends(self) -> Hashable:
        """What the tower is shown, and the last block: walks for which this is equal can be one."""
        return self.shown, max(self.blocks)

    def fitted(self, images: Tensor) -> Tensor:
        """Crops (B, 3, h, w) cut off or padded to `input_size`, where that is how they are brought to it."""
        height, width = self.input_size
        if self.patches == "floor":
            return images[..., :height, :width]
        if self.patches == "pad":
            mean = constant(self.mean, images.device, images.dtype)
            padded = mean.view(1, 3, 1, 1).repeat(len(images), 1, height, width)
            padded[..., : images.shape[2], : images.shape[3]] = images
            return padded
        return images


@dataclass(slots=True, eq=False)
class Crops:
    """A batch of pictures or crops of one size, and what networks have seen in it: nothing is computed twice.

    Attributes:
        images: float (B, 3, h, w) in [0, 1].
        models: The profile's models.
        walks: Those that methods are going to ask for, so that the first of its kind does for all.
    """

    images: Tensor
    models: Models
    walks: Sequence[Walk] = ()
    _traces: dict[Hashable, ClipTrace] = field(default_factory=dict)

    def trace(self, walk: Walk) -> ClipTrace:
        """What CLIP's vision tower computes on a walk, or on one that includes it."""
        seen = self._traces.get(walk.shown)
        if (
            seen is not None
            and seen.blocks.keys() >= set(walk.blocks)
            and (not walk.attention or (seen.attention is not None and max(seen.blocks) == max(walk.blocks)))
        ):
            return seen
        # Attention is summed up to the last block of a walk, so only walks that end there are made one.
        alike = [other for other in self.walks if other.ends == walk.ends]
        wanted = {block for each in (walk, *alike) for block in each.blocks}
        if seen is not None and max(seen.blocks) == max(wanted):
            wanted |= seen.blocks.keys()
        with stage("walk through CLIP"):
            trace = self._traces[walk.shown] = self.models.clip.trace(
                walk.fitted(self.images),
                blocks=sorted(wanted),
                input_size=walk.input_size,
                mean=walk.mean,
                std=walk.std,
                positions=walk.positions,
                attention=any(each.attention for each in (walk, *alike)),
            )
        return trace


class Picture:
    """One picture as it came, resized as it is asked for, and what networks have seen in it.

    Args:
        image: PIL image in mode RGB, or uint8 array (H, W, 3).
        device: Where it is put.

    Attributes:
        size: (H, W) in pixels.
    """

    def __init__(self, image: Any, device: str) -> None:
        self.size = picture_size(image)
        self._image = image
        self._device = device
        self._resized: dict[tuple[tuple[int, int], Resampling], Tensor] = {}
        self._known: dict[Hashable, Any] = {}
        self._following: Sequence[Picture] = ()

    def at(self, size: tuple[int, int], resample: Resampling) -> Tensor:
        """All of it at another size, resized at once: float (1, 3, h, w) in [0, 1]."""
        key = (size, resample)
        if key not in self._resized:
            with stage("resizing"):
                self._resized[key] = to_working_tensor(self._image, size, self._device, resample)
        return self._resized[key]

    def followed_by(self, pictures: Sequence[Picture]) -> None:
        """Say which pictures will be asked for the same later: a network may see them together with this one."""
        self._following = pictures

    def once(self, key: Hashable, pixels: int, make: Callable[[Sequence[Picture]], Sequence[Known]]) -> Known:
        """Something that a network computes of this picture when it is first asked for.

        Args:
            key: Names it, and everything that it depends on besides the picture.
            pixels: How many a network is shown of each picture.
            make: Computes it of pictures: of this one, and on a GPU of those that follow, as many as have room.
        """
        if key not in self._known:
            most = portion(torch.device(self._device), 1) // (VALUES_PER_PIXEL * pixels)
            some = [self, *(other for other in self._following if key not in other._known)][: max(1, most)]
            for picture, known in zip(some, make(some), strict=True):
                picture._known[key] = known
        return cast(Known, self._known[key])

    def forget(self) -> None:
        """Let go of everything but the picture as it came."""
        self._resized.clear()
        self._known.clear()


class Scorer(ABC):
    """Something that gives crops a score per channel and cell.

    Attributes:
        channels: How many scores a cell has.
        sees: Scorers of which this is equal have the same features of the same crops.
        on_own_grid: Whether scores of a picture that is seen whole and alone stay on the network's grid. Such a scorer
            is the only one of its task.
        keeps: Name under which features of its crops can be kept for explanations; None where they are not wanted.
    """

    on_own_grid = False
    keeps: str | None = None
    channels: int
    sees: Hashable

    def walk(self, size: tuple[int, int]) -> Walk | None:
        """The walk through CLIP that `features` asks for, for crops of (height, width) in pixels; None for none."""
        return None

    @abstractmethod
    def pixels(self, size: tuple[int, int]) -> int:
        """How many pixels a network is shown of a crop of (height, width)."""

    @abstractmethod
    def features(self, crops: Crops) -> list[Tensor]:
        """What does not depend on the classes, each tensor with B in front."""

    @abstractmethod
    def compare(self, features: Sequence[Tensor]) -> Tensor:
        """Scores of such features, float32 (B, channels, g, g')."""

    def score(self, crops: Crops) -> Tensor:
        """Scores of crops, float32 (B, channels, g, g')."""
        return self.compare(self.features(crops))
