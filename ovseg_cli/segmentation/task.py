"""From crops to fused scores: one walk for all that see the same crops, and a canvas for each answer."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field
from itertools import groupby
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from ovseg_cli.devices import VALUES_PER_PIXEL, portion
from ovseg_cli.labeling.windows import Crop, ScoreCanvas, all_crops, enlarge_crops
from ovseg_cli.profiles.geometry import Geometry
from ovseg_cli.scorers.scorer import Crops, Features, Scorer
from ovseg_cli.stages import stage

if TYPE_CHECKING:
    from ovseg_cli.models import Models
    from ovseg_cli.scorers.prototypes import PrototypeScorer

MAX_CROPS_AT_ONCE = 16
"""Crops that go through a network together, at most."""

MAX_INPUT_PIXELS_AT_ONCE = 4 * 512**2
"""Of network input in one batch of crops on a CPU: features of Stable Diffusion take 126 MB for each 512x512 crop."""

_limit: ContextVar[int | None] = ContextVar("crops at once, where memory is short", default=None)


KEPT_BYTES = 2**30
"""Features of crops that are kept between two walks, so that networks need not compute them twice."""

CELLS_SURVEYED = 8192
"""Cells of a picture that are looked at beforehand, in all its crops together."""

_LEAST_SURVEYED = 16  # cells of each crop, however many crops there are


@dataclass(slots=True)
class Kept:
    """Features of crops of some pictures at one size: as many as there is room for.

    Attributes:
        room: Bytes that may still be kept.
    """

    room: int = KEPT_BYTES
    _layers: dict[tuple[Hashable, int, Crop], list[Tensor]] = field(default_factory=dict)

    def features(self, scorer: Scorer, crops: Crops, batch: Sequence[tuple[int, Crop]]) -> list[Tensor]:
        """What `scorer.features` gives of the crops of a batch."""
        known = [self._layers.get((scorer.sees, place, box)) for place, box in batch]
        if known and all(layers is not None for layers in known):
            return [
                torch.cat(layers) for layers in zip(*(layers for layers in known if layers is not None), strict=True)
            ]
        return scorer.features(crops)

    def keep(self, scorer: Scorer, features: Sequence[Tensor], batch: Sequence[tuple[int, Crop]]) -> None:
        """Keep them, if there is room."""
        nbytes = sum(layer.numel() * layer.element_size() for layer in features)
        if nbytes <= self.room:
            self.room -= nbytes
            for row, (place, box) in enumerate(batch):
                self._layers[scorer.sees, place, box] = [layer[row : row + 1] for layer in features]


def survey(
    pictures: Tensor,
    places: Sequence[int],
    geometry: Geometry,
    scorers: Sequence[PrototypeScorer],
    models: Models,
    kept: Kept,
) -> dict[int, list[Tensor]]:
    """Look at some cells of pictures before they are scored.

    Args:
        pictures: float (P, 3, h, w) in [0, 1].
        places: Which of them.
        geometry: How they are cut up.
        scorers: Whose features are wanted.
        models: Their models.
        kept: Where the features of whole crops are left for `fuse`.

    Returns:
        For each of the places, for each scorer: float32 (N, D) of norm 1, on the CPU.
    """
    boxes = all_crops(pictures.shape[2], pictures.shape[3], geometry.windows, whole_image=geometry.whole_image)
    each = max(_LEAST_SURVEYED, CELLS_SURVEYED // len(boxes))
    found: dict[int, list[list[Tensor]]] = {place: [[] for _ in scorers] for place in places}

    def most(size: tuple[int, int]) -> int:
        return crops_at_once(max(scorer.pixels(size) for scorer in scorers), pictures.device)

    for batch in _batches(boxes, places, most):
        crops = Crops(torch.cat([box.cut(pictures[place : place + 1]) for place, box in batch]), models)
        for number, scorer in enumerate(scorers):
            features = kept.features(scorer, crops, batch)
            kept.keep(scorer, features, batch)
            for (place, _), sample in zip(batch, scorer.sample(features, each).cpu(), strict=True):
                found[place][number].append(sample)
    return {place: [torch.cat(samples) for samples in own] for place, own in found.items()}


@dataclass(frozen=True, slots=True, eq=False)
class Task:
    """Scores that are wanted of some pictures, averaged over scorers.

    Attributes:
        geometry: How the pictures are cut up.
        scorers: For all classes.
        of_image: For each picture, the same scorers for the classes that take part in it; None where nothing is
            wanted.
        keep: For each picture, where scorers leave their features (`Scorer.keeps`); None for nowhere.
    """

    geometry: Geometry
    scorers: Sequence[Scorer]
    of_image: Sequence[Sequence[Scorer] | None]
    keep: Sequence[Features] | None = None


def fuse(
    pictures: Tensor, tasks: Sequence[Task], models: Models, kept: Kept | None = None
) -> list[list[Tensor | None]]:
    """Scores of pictures by several tasks, fused over crops and scorers in one walk for all that see the same crops.

    Args:
        pictures: float (P, 3, h, w) in [0, 1].
        tasks: All of one short side, windows and whole image.
        models: Their models.
        kept: Features of these pictures that are known from a `survey`; None for none.

    Returns:
        For each task, for each picture: float32 (channels, h, w), or None where nothing was wanted: at the pictures'
        size, or on the grid of a scorer that is `on_own_grid` and looks at the whole picture alone. All of them are
        held at once.
    """
    height, width = pictures.shape[2:]
    geometry = tasks[0].geometry
    boxes = all_crops(height, width, geometry.windows, whole_image=geometry.whole_image)
    alone = boxes == [Crop(0, 0, height, width)]
    canvases = [
        {
            place: ScoreCanvas(
                own[0].channels, height, width, pictures.device, enlarge=not (alone and task.scorers[0].on_own_grid)
            )
            for place, own in enumerate(task.of_image)
            if own is not None
        }
        for task in tasks
    ]
    wanted = sorted({place for own in canvases for place in own})
    if not wanted:
        return [[None] * len(pictures) for _ in tasks]
    alike: dict[Hashable, list[tuple[int, int]]] = {}  # (task, scorer) by what they see
    for j, task in enumerate(tasks):
        for number, scorer in enumerate(task.scorers if canvases[j] else ()):
            alike.setdefault(scorer.sees, []).append((j, number))
    scorers = [tasks[j].scorers[number] for (j, number), *_ in alike.values()]

    def most(size: tuple[int, int]) -> int:
        return crops_at_once(max(scorer.pixels(size) for scorer in scorers), pictures.device)

    for batch in _batches(boxes, wanted, most):
        images = torch.cat([box.cut(pictures[place : place + 1]) for place, box in batch])
        walks = [scorer.walk((images.shape[2], images.shape[3])) for scorer in scorers]
        crops = Crops(images, models, [walk for walk in walks if walk is not None])
        for scorer in scorers:
            with stage("method"):
                features = (kept or Kept()).features(scorer, crops, batch)
            for j, number in alike[scorer.sees]:
                _add(tasks[j], number, features, batch, canvases[j])
            del features  # those of some networks are large
    with stage("fusion"):
        return [[own[place].mean() if place in own else None for place in range(len(pictures))] for own in canvases]


def _add(
    task: Task,
    number: int,
    features: Sequence[Tensor],
    batch: Sequence[tuple[int, Crop]],
    canvases: Mapping[int, ScoreCanvas],
) -> None:
    """Compare the features of a batch by each picture's own scorer, and add the scores to its canvas."""

    def judge(item: tuple[int, tuple[int, Crop]]) -> Scorer | None:
        own = task.of_image[item[1][0]]
        return None if own is None else own[number]

    # Where neighbours have the same classes, they are compared together.
    for scorer, group in groupby(enumerate(batch), key=judge):
        members = list(group)
        if scorer is None:
            continue
        part = slice(members[0][0], members[-1][0] + 1)
        with stage("scoring"):
            scores = scorer.compare([layer[part] for layer in features])
        place, box = batch[part.start]
        if canvases[place].enlarges:
            with stage("fusion"):
                scores = enlarge_crops(scores, (box.height, box.width))
        for (row, (place, box)), fresh in zip(members, scores, strict=True):
            with stage("fusion"):
                canvases[place].add(box, fresh)
            if task.keep is not None and scorer.keeps is not None:
                seen = task.keep[place].setdefault(scorer.keeps, [])
                seen.append((box, [layer[row : row + 1].cpu() for layer in features]))


def crops_at_once(pixels: int, device: torch.device | str = "cpu") -> int:
    """How many crops go through a network together that is shown so many pixels of each."""
    limit = _limit.get()
    most = MAX_CROPS_AT_ONCE if limit is None else min(limit, MAX_CROPS_AT_ONCE)
    room = portion(torch.device(device), MAX_INPUT_PIXELS_AT_ONCE * VALUES_PER_PIXEL) // VALUES_PER_PIXEL
    return max(1, min(most, room // pixels))


@contextmanager
def fewer_crops(limit: int) -> Iterator[None]:
    """While the block runs, so many crops go through a network together at most: for want of memory."""
    token = _limit.set(limit)
    try:
        yield
    finally:
        _limit.reset(token)


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
