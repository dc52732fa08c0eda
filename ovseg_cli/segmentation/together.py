"""Several images, and several methods, through the networks together."""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from typing import TYPE_CHECKING, Protocol, TypeVar

import torch
from torch import Tensor

from ovseg_cli.segmentation.images import Image, Images
from ovseg_cli.segmentation.task import Task, fuse

if TYPE_CHECKING:
    from ovseg_cli.models import Models

Answer_co = TypeVar("Answer_co", covariant=True)

Fused = Mapping[Task, Sequence[Tensor | None]]
"""By task, for each image: its fused scores; None where nothing was wanted."""


class Share(Protocol[Answer_co]):
    """What one participant wants of some images, and what it makes of that."""

    @property
    def tasks(self) -> Sequence[Task]:
        """What it wants."""

    def finish(self, place: int, fused: Fused) -> Answer_co:
        """Its answer for one image."""


class Participant(Protocol[Answer_co]):
    """One of those that go through the networks together; a `Segmenter` is one."""

    @property
    def models(self) -> Models:
        """The networks, the same for all."""

    def share(self, images: Images, named: Sequence[Sequence[str] | None], *, keep_features: bool) -> Share[Answer_co]:
        """What it wants of images.

        Args:
            images: The images.
            named: For each, what may be in it; None to find out.
            keep_features: Whether features of the crops are to be kept.
        """


def named_for(
    images: Sequence[Image], classes: Sequence[Sequence[str] | None] | None
) -> Sequence[Sequence[str] | None]:
    """What may be in each of them, or ValueError."""
    named = [None] * len(images) if classes is None else classes
    if len(named) != len(images):
        raise ValueError(f"classes are given for {len(named)} images, and there are {len(images)}")
    return named


def score_together(
    participants: Sequence[Participant[Answer_co]],
    images: Sequence[Image],
    classes: Sequence[Sequence[str] | None] | None = None,
    *,
    keep_features: bool = False,
) -> list[list[Answer_co]]:
    """Scores of images of one size by several participants, which share what they can.

    The scores of all are held at once: of each image by each participant, 4 bytes for every channel and pixel of the
    resized image.

    Args:
        participants: At least one, all for the same models.
        images: At least one.
        classes: For each image, what may be in it, as `Segmenter.segment` takes it.
        keep_features: With prototypes: whether the crops' features come along, which take much memory.

    Returns:
        By participant, by image.

    Raises:
        ValueError: The participants have different models, or the images different sizes; or as `Segmenter.segment`.
        ImageError: One of them cannot do with one of the images.
        UnknownClassError: As `Segmenter.segment`.
        UsageError: As `Segmenter.segment`.
    """
    if not participants:
        raise ValueError("at least one segmenter is wanted")
    models = participants[0].models
    if any(participant.models is not models for participant in participants):
        raise ValueError("segmenters with the same models are wanted")
    named = named_for(images, classes)
    seen = Images(images, models)
    with torch.inference_mode():
        shares = [participant.share(seen, named, keep_features=keep_features) for participant in participants]
        alike: dict[Hashable, list[Task]] = {}
        for share in shares:
            for task in share.tasks:
                how = (seen.view(task.geometry), task.geometry.windows, task.geometry.whole_image)
                alike.setdefault(how, []).append(task)
        fused: dict[Task, list[Tensor | None]] = {}
        for tasks in alike.values():
            geometry = tasks[0].geometry
            fused.update(zip(tasks, fuse(seen.at(geometry), tasks, models, seen.kept(geometry)), strict=True))
        answers: list[list[Answer_co]] = [[] for _ in shares]
        for place in range(len(images)):
            for share, finished in zip(shares, answers, strict=True):
                finished.append(share.finish(place, fused))
            seen.forget(place)
        return answers
