"""Scores of prototypes."""

from __future__ import annotations

import copy
import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from ovseg_cli.devices import put
from ovseg_cli.methods.prototype import features_at, finest_grid, prototype_cosines_at, prototype_scores
from ovseg_cli.methods.stuff_filter import stuff_filter
from ovseg_cli.profiles import ExtractorSpec
from ovseg_cli.profiles.specs import Sight
from ovseg_cli.scorers.scorer import Crops, Scorer

if TYPE_CHECKING:
    from ovseg_cli.models import Models
    from ovseg_cli.store.records import PrototypeBlock, PrototypeKind


class PrototypeScorer(Scorer):
    """Cosine to the nearest prototype, for one extractor.

    Args:
        models: The profile's models.
        extractor: Which features.
        block: The prototypes of the classes that take part, by this extractor.
        kinds: Which of them are matched.
        stuff: Names of the classes that are stuff.
        stuff_similarity: Cosine to a stuff prototype from which a thing's background prototype is left out; None for
            no stuff filter.
        sight: How the extractor's network sees crops.

    Attributes:
        extractor: Which features.
        ids: int64 (P,), the prototypes as the store knows them.
    """

    def __init__(
        self,
        models: Models,
        extractor: ExtractorSpec,
        block: PrototypeBlock,
        *,
        kinds: Sequence[PrototypeKind],
        stuff: Sequence[str] = (),
        stuff_similarity: float | None = None,
        sight: Sight | None = None,
    ) -> None:
        self._models = models
        self.extractor = extractor
        self._sight = sight or Sight()
        self.sees = ("prototype", extractor.digest, self._sight)
        self.keeps = extractor.name
        self.channels = len(block.classes) + 1
        owner = block.class_index
        stays = np.isin(np.array(block.kind), kinds)
        if stuff_similarity is not None:
            stays &= _not_stuff(block, stuff, stuff_similarity, among=stays, device=models.device)
        channel = np.where(block.role_is_fg, owner + 1, 0)
        self.ids = torch.from_numpy(block.ids[stays])
        self._owner = owner[stays]
        self._set_channels(channel[stays])
        self._vectors = put(torch.from_numpy(block.vectors[stays]), models.device)

    def only(self, classes: Sequence[int]) -> PrototypeScorer:
        """The same for some of the classes, which become channels 1, 2, ... in the order given.

        The other classes' background prototypes go with them, as in the published code: what surrounds a class that
        is not there says nothing about the picture.
        """
        place = np.full(self.channels - 1, -1)
        place[list(classes)] = np.arange(len(classes))
        owner = place[self._owner]
        stays = np.flatnonzero(owner >= 0)
        narrowed = copy.copy(self)
        narrowed.channels = len(classes) + 1
        narrowed.ids = self.ids[torch.from_numpy(stays)]
        narrowed._owner = owner[stays]
        narrowed._set_channels(np.where(self._channels_of[stays] > 0, narrowed._owner + 1, 0))
        narrowed._vectors = self._vectors[put(torch.from_numpy(stays), self._vectors.device)]
        return narrowed

    def _set_channels(self, channels: npt.NDArray[np.int64]) -> None:
        """Which channel each prototype scores for; known here as well, so that no device has to be asked."""
        self._channels_of = channels
        self._channel = put(torch.from_numpy(channels), self._models.device)

    def pixels(self, size: tuple[int, int]) -> int:
        """Those at which the network sees a crop."""
        return math.prod(self._sight.size(self.extractor, *size))

    def features(self, crops: Crops) -> list[Tensor]:
        """Feature maps of crops, layer by layer."""
        return self._models.feature_maps(self.extractor, crops.images, self._sight)

    def compare(self, features: Sequence[Tensor]) -> Tensor:
        """The best cosine of each class's foreground prototypes, and of all background prototypes in channel 0."""
        return prototype_scores(features, self._vectors, self._channel, self.channels)

    def sample(self, features: Sequence[Tensor], count: int) -> Tensor:
        """Features of some cells of each crop, of all where there are no more: float32 (B, N, D) of norm 1."""
        height, width = finest_grid(features)
        # By chance, and the same each time: cells at equal distances would follow a pattern in the picture.
        random = torch.Generator().manual_seed(0)
        places = torch.randperm(height * width, generator=random)[:count].to(features[0].device)
        return features_at(features, torch.stack([places // width, places % width], dim=1)).transpose(1, 2)

    @property
    def channel(self) -> Tensor:
        """Which channel each prototype scores for, int64 (P,): 0 for the background."""
        return self._channel

    def vector(self, place: int) -> Tensor:
        """The unit vector of one prototype, float32 (D,)."""
        return self._vectors[place]

    def cosines_at(self, maps: Sequence[Tensor], cells: Tensor) -> Tensor:
        """Cosines of all prototypes with some cells of one crop, float32 (P, N).

        Args:
            maps: Feature maps of the crop, as `features` gives them, on any device.
            cells: int64 (N, 2): row and column on the finest grid.
        """
        device = self._vectors.device
        return prototype_cosines_at([layer.to(device) for layer in maps], self._vectors, cells.to(device))[0]


def _not_stuff(
    block: PrototypeBlock, stuff: Sequence[str], similarity: float, *, among: npt.NDArray[np.bool_], device: str
) -> npt.NDArray[np.bool_]:
    """Which prototypes the stuff filter leaves, bool (N,), when only those of `among` are matched."""
    of_stuff = np.isin(block.class_index, [i for i, name in enumerate(block.classes) if name in stuff])
    stays = stuff_filter(
        torch.from_numpy(block.vectors).to(device),
        background=torch.from_numpy(~block.role_is_fg),
        of_stuff=torch.from_numpy(of_stuff),
        against=torch.from_numpy(block.role_is_fg & of_stuff & among),
        threshold=similarity,
    )
    return stays.cpu().numpy()
