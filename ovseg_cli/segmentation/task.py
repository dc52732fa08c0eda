"""From crops to fused scores: one walk for all that see the same crops, and a canvas for each answer."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from ovseg_cli.labeling.windows import Crop, ScoreCanvas, all_crops
from ovseg_cli.profiles.geometry import Geometry
from ovseg_cli.scorers.scorer import Crops, Features, Scorer
from ovseg_cli.stages import stage

if TYPE_CHECKING:
    from ovseg_cli.models import Models

MAX_CROPS_AT_ONCE = 16
"""Crops that go through a network together, at most."""

MAX_INPUT_PIXELS_AT_ONCE = 4 * 512**2
"""Of network input in one batch of crops: features of Stable Diffusion take 126 MB for each 512x512 crop."""


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


def fuse(pictures: Tensor, tasks: Sequence[Task], models: Models) -> list[list[Tensor | None]]:
    """Scores of pictures by several tasks, fused over crops and scorers in one walk for all that see the same crops.

    Args:
        pictures: float (P, 3, h, w) in [0, 1].
        tasks: All of one short side, windows and whole image.
        models: Their models.

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
        return crops_at_once(max(scorer.pixels(size) for scorer in scorers))

    for batch in _batches(boxes, wanted, most):
        images = torch.cat([box.cut(pictures[place : place + 1]) for place, box in batch])
        walks = [scorer.walk((images.shape[2], images.shape[3])) for scorer in scorers]
        crops = Crops(images, models, [walk for walk in walks if walk is not None])
        for scorer in scorers:
            with stage("method"):
                features = scorer.features(crops)
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
        for (row, (place, box)), fresh in zip(members, scores, strict=True):
            with stage("fusion"):
                canvases[place].add(box, fresh)
            if task.keep is not None and scorer.keeps is not None:
                seen = task.keep[place].setdefault(scorer.keeps, [])
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
