"""What is done with images, wherever it is done: their files are written, and their entries made. No journal, no store.

What is told of here can be pickled: it goes to workers in other processes and on other computers, and comes back.
"""

from __future__ import annotations

import errno
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING, TypeVar

import numpy as np

from ovseg_cli.atomic import staged
from ovseg_cli.errors import ImageError, OutputError
from ovseg_cli.files.discovery import picture_id
from ovseg_cli.files.images import size_in_header
from ovseg_cli.files.labels import LabelMap, read_label
from ovseg_cli.runs.artefacts import ARTEFACTS, EXPLANATIONS, OVERLAYS, Answer
from ovseg_cli.runs.beside import Beside, Between, Files
from ovseg_cli.runs.journal import Entry, written
from ovseg_cli.runs.worker import Labels, OpenImage, Worker
from ovseg_cli.stages import stage
from ovseg_cli.urls import Place, Url

if TYPE_CHECKING:
    from ovseg_cli.runs.memory import Easing
    from ovseg_cli.runs.plan import Plan, PlanItem
    from ovseg_cli.runs.request import Request

Made = TypeVar("Made")

FAR_AWAY = 4
"""Pictures at URLs that are read ahead, and written behind, at least: each waits for its store several times."""


@dataclass(frozen=True, slots=True)
class Order:
    """What all jobs of a run have in common.

    Attributes:
        output: The output folder.
        request: What is to be made; without the file of image classes, as each image knows its own.
    """

    output: Place
    request: Request

    @classmethod
    def of(cls, plan: Plan) -> Order:
        """That of a plan."""
        return cls(plan.output, replace(plan.request, image_classes=None))

    @property
    def labels(self) -> LabelMap:
        """What the ids of the label maps mean."""
        return LabelMap.from_classes(self.request.classes)


@dataclass(frozen=True, slots=True)
class Job:
    """Images that one worker takes in a row: one, or several that can go through the models together.

    Attributes:
        first: The place of the first one in the plan; the others follow.
        items: The images.
    """

    first: int
    items: tuple[PlanItem, ...]


@dataclass(frozen=True, slots=True)
class Outcome:
    """What became of an image.

    Attributes:
        place: Its place in the plan.
        entry: Its line in the journal; None when it failed.
        error: Why.
        eased: What goes through the models at once by now, if memory did not suffice for it.
    """

    place: int
    entry: Entry | None
    error: str = ""
    eased: Easing | None = None


def jobs_of(items: Sequence[PlanItem], batch: int) -> Iterator[Job]:
    """Images as jobs, in their order; what is done already is left out.

    Which images go together depends on nothing but the images and the batch, so that label maps are the same whoever
    makes them.

    Args:
        items: The images of a plan.
        batch: How many images of one size may go together.
    """
    together: list[PlanItem] = []
    size: tuple[int, int] | None = None
    for place, item in enumerate(items):
        found = None
        if batch > 1 and _is_plain(item):
            # What lies at a URL is not read here; who reads it sees the sizes, and takes each for itself.
            found = (0, 0) if isinstance(item.image.path, Url) else size_in_header(item.image.path)
        if together and (found is None or found != size or len(together) == batch):
            yield Job(place - len(together), tuple(together))
            together = []
        if found is not None:
            size = found
            together.append(item)
        elif item.action != "skip":
            yield Job(place, (item,))
    if together:
        yield Job(len(items) - len(together), tuple(together))


def _is_plain(item: PlanItem) -> bool:
    """Whether nothing but labels is wanted, so that it may go with others."""
    return item.action == "segment" and item.explain is None


class Labeller:
    """Does jobs of a run.

    Args:
        worker: Opens and labels pictures.
        order: What all jobs have in common.
        coming: On a GPU, and where files are far away, pictures are read and written in threads beside the computing:
            those of the next jobs too, if these are their images. None to do one thing after the other everywhere.
    """

    def __init__(self, worker: Worker, order: Order, coming: Sequence[PlanItem] | None = None) -> None:
        self._worker = worker
        self._order = order
        self._coming = coming
        self._files: Files[Outcome] | None = None

    @property
    def batch(self) -> int | None:
        """How many images may go together; None before the models are loaded, where nobody said."""
        return self._worker.batch

    def ready(self) -> None:
        """Load the models."""
        self._worker.ready()

    def do(self, job: Job) -> Iterator[Outcome]:
        """What becomes of images in their order, each with its files written: those of a job, and of jobs before it."""
        if self._files is None:
            self._files = self._reads_and_writes()
        return outcomes(job, self._order, self._worker, self._files)

    def rest(self) -> Iterator[Outcome]:
        """What becomes of the images that are still being written."""
        return iter(()) if self._files is None else self._files.written(all_of_it=True)

    def stop(self) -> None:
        """Let go of what is under way; no file is left half-written."""
        if self._files is not None:
            self._files.stop()

    def _reads_and_writes(self) -> Files[Outcome]:
        worker, coming, count = self._worker, self._coming, self._worker.batch or 1
        if coming is None:
            return Between(worker.open)
        if isinstance(self._order.output, Url) or any(isinstance(item.image.path, Url) for item in coming[:1]):
            count = max(count, FAR_AWAY)
        elif worker.device in ("", "cpu"):
            return Between(worker.open)
        return Beside(worker.open, filter(_is_plain, coming), ahead=count, behind=count)


def outcomes(job: Job, order: Order, worker: Worker, files: Files[Outcome]) -> Iterator[Outcome]:
    """Do a job: what becomes of images, in their order, each with its files written."""

    def labelled(waiting: list[tuple[int, OpenImage]]) -> Iterator[Outcome]:
        for (place, _), (one, labels) in zip(waiting, worker.label([one for _, one in waiting]), strict=True):
            found, error = _attempt(one.item, labels)
            eased = worker.eased()
            if found is None:
                files.put(Outcome(place, None, error, eased))
            else:
                files.write(partial(_written, order, place, one, found, eased, _since(found.begun)))
            yield from files.written()

    waiting: list[tuple[int, OpenImage]] = []
    for place, item in enumerate(job.items, start=job.first):
        if not _is_plain(item):
            entry, error = _attempt(item, partial(_take, order, worker, item))
            files.put(Outcome(place, entry, error, worker.eased()))
            yield from files.written()
            continue
        image = files.open(item)
        if waiting and (isinstance(image, ImageError) or image.image.size != waiting[0][1].image.size):
            yield from labelled(waiting)
            waiting = []
        if isinstance(image, ImageError):
            files.put(Outcome(place, None, str(image)))
            yield from files.written()
        else:
            waiting.append((place, image))
    yield from labelled(waiting)


def _attempt(item: PlanItem, work: Callable[[], Made]) -> tuple[Made | None, str]:
    """Make something of an image; or say why not, when that is because of the image."""
    try:
        return work(), ""
    except ImageError as fault:
        return None, str(fault)
    except MemoryError:
        return None, f"{item.image.path} does not fit into memory, nor does what is made of it."
    except OutputError as fault:
        if not _too_long(fault):
            raise
        return None, f"{item.image.path} has too long a name for its results. {fault}"


def _since(begun: float | None) -> float | None:
    return None if begun is None else time.perf_counter() - begun


def _written(
    order: Order, place: int, one: OpenImage, labels: Labels, eased: Easing | None, seconds: float | None
) -> Outcome:
    entry, error = _attempt(one.item, partial(_write_labels, order, one, labels, seconds))
    return Outcome(place, entry, error, eased)


def _take(order: Order, worker: Worker, item: PlanItem) -> Entry:
    """Do what the plan says with one image that goes alone."""
    image = worker.open(item)
    if isinstance(image, ImageError):
        raise image
    entry, meaning = item.entry, order.labels
    if entry is None or item.again:
        labels = worker.explain(image)
        return _write_labels(order, image, labels, _since(labels.begun))
    if item.action == "explain" and item.explain is not None:
        labels = worker.explain(image)
        answer = Answer(image.image, labels.result.ids, labels.explanations)
        with staged(order.output) as folder:
            EXPLANATIONS.write(folder / item.explain, answer, meaning)
        entry = replace(entry, explain=item.explain)
        if item.overlay is None or OVERLAYS.fits(entry, item.overlay, order.output):
            return entry
    if item.overlay is None:
        raise ValueError(f"nothing to draw for {item.image.path}")
    ids = read_label(order.output / item.output, meaning)
    with staged(order.output) as folder:
        OVERLAYS.write(folder / item.overlay, Answer(image.image, ids.astype(np.uint16)), meaning)
    return replace(entry, overlay=item.overlay)


def _write_labels(order: Order, one: OpenImage, labels: Labels, seconds: float | None) -> Entry:
    """Write what is wanted of a picture, whose labels took so long."""
    begun = time.perf_counter()
    item, image, result = one.item, one.image, labels.result
    meaning = order.labels
    answer = Answer(image, result.ids, labels.explanations, result.scores)
    with stage("writing"), staged(order.output) as folder:
        for artefact in ARTEFACTS:
            path: str | None = getattr(item, artefact.field)
            if path is not None and artefact.wanted(order.request):
                artefact.write(folder / path, answer, meaning)
        nbytes, digest = written(folder / item.output)
    return Entry(
        path=picture_id(item.image.path),
        output=item.output,
        overlay=item.overlay,
        explain=item.explain,
        probabilities=item.probabilities,
        size=(image.width, image.height),
        status="done",
        method=result.method,
        shares={name: round(float(share), 6) for name, share in result.shares.items()},
        scores={name: round(float(score), 6) for name, score in result.mean_scores.items()},
        kept=_rounded(result.kept),
        kept_by=None if result.kept is None else "prefilter" if item.classes is None else "image-classes",
        unfamiliar=result.unfamiliar,
        margin=None if result.margin is None else round(result.margin, 6),
        ms=None if seconds is None else round(1000 * (seconds + time.perf_counter() - begun), 1),
        key=item.key,
        nbytes=nbytes,
        digest=digest,
    )


def _rounded(kept: dict[str, float | None] | None) -> dict[str, float | None] | None:
    if kept is None:
        return None
    return {name: None if score is None else round(score, 6) for name, score in kept.items()}


def _too_long(error: OutputError) -> bool:
    """Whether a file could not be written because of its name, which is that of its picture."""
    return isinstance(error.__cause__, OSError) and error.__cause__.errno == errno.ENAMETOOLONG
