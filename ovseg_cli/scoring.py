"""From pictures to fused scores: crops, the walks through networks that scorers share, and a canvas for each answer.

A scorer sees crops in two steps. `Scorer.features` is what a network computes of them, and does not depend on the
classes; `Scorer.compare` compares that with the classes that take part, which may be others in every picture. So
pictures of one size go through the networks together, and so do methods that look at the same crops (`Crops`).
"""

from __future__ import annotations

import copy
import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Collection, Hashable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import groupby
from typing import TYPE_CHECKING, Any, Literal, TypeVar, cast

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from ovseg_cli.backbones.clip import ClipTrace
from ovseg_cli.backbones.pixels import picture_size, to_working_tensor
from ovseg_cli.labeling.windows import Crop, ScoreCanvas, all_crops
from ovseg_cli.methods.prototype import prototype_cosines_at, prototype_scores
from ovseg_cli.methods.stuff_filter import stuff_filter
from ovseg_cli.profiles import ExtractorSpec
from ovseg_cli.profiles.geometry import Geometry, Resampling
from ovseg_cli.profiles.specs import PositionMode, Sight

if TYPE_CHECKING:
    from ovseg_cli.choices import Resolved
    from ovseg_cli.models import Models
    from ovseg_cli.store.records import PrototypeBlock
    from ovseg_cli.store.store import Store

MAX_CROPS_AT_ONCE = 16
"""Crops that go through a network together, at most."""

MAX_INPUT_PIXELS_AT_ONCE = 4 * 512**2
"""Of network input in one batch of crops: features of Stable Diffusion take 126 MB for each 512x512 crop."""

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
            padded = images.new_tensor(self.mean).view(1, 3, 1, 1).repeat(len(images), 1, height, width)
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

    def at(self, size: tuple[int, int], resample: Resampling) -> Tensor:
        """All of it at another size, resized at once: float (1, 3, h, w) in [0, 1]."""
        key = (size, resample)
        if key not in self._resized:
            self._resized[key] = to_working_tensor(self._image, size, self._device, resample)
        return self._resized[key]

    def once(self, key: Hashable, make: Callable[[], Known]) -> Known:
        """Something that is computed of this picture when it is first asked for.

        Args:
            key: Names it, and everything that it depends on besides the picture.
            make: Computes it.
        """
        if key not in self._known:
            self._known[key] = make()
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
            is the only one of its job.
    """

    on_own_grid = False
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


@dataclass(frozen=True, slots=True, eq=False)
class Job:
    """Scores that are wanted of some pictures, averaged over scorers.

    Attributes:
        geometry: How the pictures are cut up.
        scorers: For all classes.
        of_picture: For each picture, the same scorers for the classes that take part in it; None where nothing is
            wanted.
        keep: For each picture, where `PrototypeScorer` leaves its features; None for nowhere.
    """

    geometry: Geometry
    scorers: Sequence[Scorer]
    of_picture: Sequence[Sequence[Scorer] | None]
    keep: Sequence[Features] | None = None


def fuse(pictures: Tensor, jobs: Sequence[Job], models: Models) -> list[list[Tensor | None]]:
    """Scores of pictures by several jobs, fused over crops and scorers in one walk for all that see the same crops.

    Args:
        pictures: float (P, 3, h, w) in [0, 1].
        jobs: All of one short side, windows and whole image.
        models: Their models.

    Returns:
        For each job, for each picture: float32 (channels, h, w), or None where nothing was wanted: at the pictures'
        size, or on the grid of a scorer that is `on_own_grid` and looks at the whole picture alone. All of them are
        held at once.
    """
    height, width = pictures.shape[2:]
    geometry = jobs[0].geometry
    boxes = all_crops(height, width, geometry.windows, whole_image=geometry.whole_image)
    alone = boxes == [Crop(0, 0, height, width)]
    canvases = [
        {
            place: ScoreCanvas(
                own[0].channels, height, width, pictures.device, enlarge=not (alone and job.scorers[0].on_own_grid)
            )
            for place, own in enumerate(job.of_picture)
            if own is not None
        }
        for job in jobs
    ]
    wanted = sorted({place for own in canvases for place in own})
    if not wanted:
        return [[None] * len(pictures) for _ in jobs]
    alike: dict[Hashable, list[tuple[int, int]]] = {}  # (job, scorer) by what they see
    for j, job in enumerate(jobs):
        for number, scorer in enumerate(job.scorers if canvases[j] else ()):
            alike.setdefault(scorer.sees, []).append((j, number))
    scorers = [jobs[j].scorers[number] for (j, number), *_ in alike.values()]

    def most(size: tuple[int, int]) -> int:
        return crops_at_once(max(scorer.pixels(size) for scorer in scorers))

    for batch in _batches(boxes, wanted, most):
        images = torch.cat([box.cut(pictures[place : place + 1]) for place, box in batch])
        walks = [scorer.walk((images.shape[2], images.shape[3])) for scorer in scorers]
        crops = Crops(images, models, [walk for walk in walks if walk is not None])
        for scorer in scorers:
            features = scorer.features(crops)
            for j, number in alike[scorer.sees]:
                _add(jobs[j], number, features, batch, canvases[j])
            del features  # those of some networks are large
    return [[own[place].mean() if place in own else None for place in range(len(pictures))] for own in canvases]


def _add(
    job: Job,
    number: int,
    features: Sequence[Tensor],
    batch: Sequence[tuple[int, Crop]],
    canvases: Mapping[int, ScoreCanvas],
) -> None:
    """Compare the features of a batch by each picture's own scorer, and add the scores to its canvas."""

    def judge(item: tuple[int, tuple[int, Crop]]) -> Scorer | None:
        own = job.of_picture[item[1][0]]
        return None if own is None else own[number]

    # Where neighbours have the same classes, they are compared together.
    for scorer, group in groupby(enumerate(batch), key=judge):
        members = list(group)
        if scorer is None:
            continue
        part = slice(members[0][0], members[-1][0] + 1)
        scores = scorer.compare([layer[part] for layer in features])
        for (row, (place, box)), fresh in zip(members, scores, strict=True):
            canvases[place].add(box, fresh)
            if job.keep is not None and isinstance(scorer, PrototypeScorer):
                seen = job.keep[place].setdefault(scorer.extractor.name, [])
                seen.append((box, [layer[row : row + 1].cpu() for layer in features]))


def crops_at_once(pixels: int) -> int:
    """How many crops go through a network together that is shown so many pixels of each."""
    return max(1, min(MAX_CROPS_AT_ONCE, MAX_INPUT_PIXELS_AT_ONCE // pixels))


def _batches(
    boxes: Sequence[Crop], places: Sequence[int], most: Callable[[tuple[int, int]], int]
) -> Iterator[list[tuple[int, Crop]]]:
    """Crops of one size together, `most` of that size at once, a picture's own side by side; each with its picture."""
    by_size: dict[tuple[int, int], list[Crop]] = {}
    for box in boxes:
        by_size.setdefault((box.height, box.width), []).append(box)
    for size, group in by_size.items():
        limit = most(size)
        both = [(place, box) for place in places for box in group]
        yield from (both[i : i + limit] for i in range(0, len(both), limit))


class PrototypeScorer(Scorer):
    """Cosine to the nearest prototype, for one extractor.

    Args:
        models: The profile's models.
        store: Where prototypes come from.
        extractor: Which features.
        resolved: Which classes take part and which prototypes are matched.

    Attributes:
        extractor: Which features.
        ids: int64 (P,), the prototypes as the store knows them.
    """

    def __init__(self, models: Models, store: Store, extractor: ExtractorSpec, resolved: Resolved) -> None:
        self._models = models
        self.extractor = extractor
        self._sight = Sight() if resolved.inference is None else resolved.inference.sight
        self.sees = ("prototype", extractor.digest, self._sight)
        block = store.prototypes(resolved.known, extractor.digest)
        self.channels = len(resolved.known) + 1
        owner = block.class_index
        stays = np.isin(np.array(block.kind), resolved.prototypes)
        if resolved.stuff_similarity is not None:
            stays &= _not_stuff(block, resolved.stuff, resolved.stuff_similarity, among=stays, device=models.device)
        channel = np.where(block.role_is_fg, owner + 1, 0)
        self.ids = torch.from_numpy(block.ids[stays])
        self._owner = torch.from_numpy(owner[stays]).to(models.device)
        self._channel = torch.from_numpy(channel[stays]).to(models.device)
        self._vectors = torch.from_numpy(block.vectors[stays]).to(models.device)

    def only(self, classes: Sequence[int]) -> PrototypeScorer:
        """The same for some of the classes, which become channels 1, 2, ... in the order given.

        The other classes' background prototypes go with them, as in the published code: what surrounds a class that
        is not there says nothing about the picture.
        """
        place = torch.full((self.channels - 1,), -1, device=self._owner.device)
        place[list(classes)] = torch.arange(len(classes), device=place.device)
        stays = place[self._owner] >= 0
        narrowed = copy.copy(self)
        narrowed.channels = len(classes) + 1
        narrowed.ids = self.ids[stays.cpu()]
        narrowed._owner = place[self._owner[stays]]
        narrowed._channel = torch.where(self._channel[stays] > 0, narrowed._owner + 1, 0)
        narrowed._vectors = self._vectors[stays]
        return narrowed

    def pixels(self, size: tuple[int, int]) -> int:
        """Those at which the network sees a crop."""
        return math.prod(self._sight.size(self.extractor, *size))

    def features(self, crops: Crops) -> list[Tensor]:
        """Feature maps of crops, layer by layer."""
        return self._models.feature_maps(self.extractor, crops.images, self._sight)

    def compare(self, features: Sequence[Tensor]) -> Tensor:
        """The best cosine of each class's foreground prototypes, and of all background prototypes in channel 0."""
        return prototype_scores(features, self._vectors, self._channel, self.channels)

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
