"""A folder run: segment what the plan says, write every file in one step, keep a journal, survive interruption."""

from __future__ import annotations

import errno
import time
from collections.abc import Callable, Generator, Iterator, Mapping
from contextlib import closing
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ovseg_cli.errors import ImageError, OutputError, UsageError
from ovseg_cli.files.discovery import picture_id
from ovseg_cli.files.labels import LabelMap, read_label
from ovseg_cli.runs.artefacts import ARTEFACTS, EXPLANATIONS, OVERLAYS, Answer
from ovseg_cli.runs.journal import Entry, written
from ovseg_cli.runs.ledger import Ledger, RunSummary, only_writer
from ovseg_cli.runs.plan import Plan, PlanItem, current
from ovseg_cli.runs.worker import Labels, OpenImage, ReadySegmenter, Worker
from ovseg_cli.stages import stage

if TYPE_CHECKING:
    from ovseg_cli.profiles import Profile
    from ovseg_cli.store import Store


@dataclass(frozen=True, slots=True)
class Step:
    """Told after each image: how far the run is."""

    done: int
    total: int
    path: Path
    error: str | None = None


def run_folder(
    plan: Plan,
    segmenter_factory: Callable[[], ReadySegmenter],
    store: Store,
    profile: Profile,
    *,
    argv: tuple[str, ...] = (),
    configured: Mapping[str, Any] | None = None,
    progress: Callable[[Step], None] | None = None,
    fail_fast: bool = False,
    recorded: bool = True,
    batch: int | None = None,
) -> RunSummary:
    """Carry out a plan.

    When another run has written to the folder since it was planned, what is left to do is decided anew.

    Each label map is written under a temporary name and renamed, then noted in `predictions.jsonl`, so a
    kill at any instant leaves whole files only, and the next run goes on where this one stopped.

    Pictures of one size that follow each other may go through the models together. That changes no order, and no
    label map beyond the rounding of batched products, so those of other batches hold too; a picture that turns out to
    be at fault fails alone.

    Args:
        plan: from `plan_run`.
        segmenter_factory: loads the models; called only when there is an image to segment.
        store: where the run is recorded, so that `eval` finds it. A read-only store is no obstacle.
        profile: the model set, for the record.
        argv: the command line, for the record.
        configured: options that come from a file, for the record: see `Manifest`.
        progress: told after each image.
        fail_fast: stop at the first picture that cannot be read.
        recorded: whether the store remembers the run.
        batch: how many pictures may go together, which is also how many are in memory at most; None for
            `BATCH_ON_GPU` on a GPU and 1 on a CPU.

    Returns:
        What was done. Pictures that cannot be read are in `failed`; they stop nothing else.

    Raises:
        UsageError: `batch` is below 1, or another run has filled the folder with other label maps since it was planned.
        OutputError: the output folder cannot be written, or another process is writing to it.
        DiskFullError: there is no space left. What is done stays done.
        KeyboardInterrupt: passed on after the journal is closed and the run marked as interrupted.
    """
    if batch is not None and batch < 1:
        raise UsageError(f"batch must be at least 1, got {batch}.")
    with only_writer(plan.output):
        plan = current(plan)
        ledger = Ledger(plan, store, profile, argv, configured or {}, recorded=recorded)
        worker = Worker(segmenter_factory, store, batch, ledger.note_models)
        with closing(steps_of(plan, worker, ledger, fail_fast=fail_fast)) as steps:
            for step in steps:
                if progress is not None:
                    progress(step)
        return ledger.summary


def steps_of(plan: Plan, worker: Worker, ledger: Ledger, *, fail_fast: bool = False) -> Generator[Step]:
    """Do what the plan says, and note it, image by image: several plans can be carried out in turns.

    Whoever ends early closes the generator; the run counts as interrupted then.

    Args:
        plan: As it is now (see `ovseg_cli.runs.plan.current`).
        worker: Labels its pictures.
        ledger: Of this plan; the folder must be its only writer's (see `ovseg_cli.runs.ledger.only_writer`).
        fail_fast: As for `run_folder`.

    Yields:
        After each image, how far the run is.
    """
    started = time.perf_counter()
    _load(plan, worker)
    try:
        with ledger.open() as journal:
            for number, (item, entry) in enumerate(_entries(plan, worker, ledger), start=1):
                with stage("journal"):
                    ledger.note(journal, item, entry)
                yield Step(number, len(plan.items), item.image.path, entry.error)
                if fail_fast and entry.status == "failed":
                    break
    except BaseException:
        ledger.close("interrupted", started)
        raise
    stopped = fail_fast and bool(ledger.summary.failed)
    ledger.close("interrupted" if stopped else "finished", started)


def _load(plan: Plan, worker: Worker) -> None:
    """Load the models, if they are going to be needed, before anything in the folder is changed or removed."""
    for item in plan.items:
        if item.action in ("segment", "explain") and isinstance(worker.open(item), OpenImage):
            worker.ready()
            return


def _entries(plan: Plan, worker: Worker, ledger: Ledger) -> Iterator[tuple[PlanItem, Entry]]:
    """What becomes of the images, in their order; pictures of one size that follow each other wait for each other."""

    def labelled(waiting: list[OpenImage]) -> Iterator[tuple[PlanItem, Entry]]:
        for one, labels in worker.label(waiting):
            yield one.item, _attempt(ledger, one.item, partial(_write_labels, plan, one, labels))

    waiting: list[OpenImage] = []
    for item in plan.items:
        image: OpenImage | ImageError | None = None
        if item.action == "segment" and item.explain is None:
            image = worker.open(item)
        together = isinstance(image, OpenImage) and bool(waiting) and image.image.size == waiting[0].image.size
        if not together:
            yield from labelled(waiting)
            waiting = []
        if isinstance(image, OpenImage):
            waiting.append(image)
            if len(waiting) == worker.batch:
                yield from labelled(waiting)
                waiting = []
        elif image is not None:
            yield item, ledger.failed(item, image)
        else:
            yield item, _attempt(ledger, item, partial(_take, plan, worker, ledger, item))
    yield from labelled(waiting)


def _attempt(ledger: Ledger, item: PlanItem, work: Callable[[], Entry]) -> Entry:
    """Make an image's entry, which says why when that fails because of the image."""
    try:
        entry = work()
    except ImageError as error:
        return ledger.failed(item, error)
    except OutputError as error:
        if not _too_long(error):
            raise
        return ledger.failed(item, ImageError(f"{item.image.path} has too long a name for its results. {error}"))
    return ledger.done(item, entry)


def _take(plan: Plan, worker: Worker, ledger: Ledger, item: PlanItem) -> Entry:
    """Do what the plan says with one image that goes alone."""
    entry = item.entry
    if item.action == "skip" and entry is not None:
        return entry
    image = worker.open(item)
    if isinstance(image, ImageError):
        raise image
    if entry is None:
        return _write_labels(plan, image, partial(worker.explain, image))
    if item.action == "explain" and item.explain is not None:
        labels = worker.explain(image)
        EXPLANATIONS.write(
            plan.output / item.explain, Answer(image.image, labels.result.ids, labels.explanations), ledger.labels
        )
        entry = replace(entry, explain=item.explain)
        if item.overlay is None or OVERLAYS.fits(entry, item.overlay, plan.output):
            return entry
    if item.overlay is None:
        raise ValueError(f"nothing to draw for {item.image.path}")
    ids = read_label(plan.output / item.output, ledger.labels)
    OVERLAYS.write(plan.output / item.overlay, Answer(image.image, ids.astype(np.uint16)), ledger.labels)
    return replace(entry, overlay=item.overlay)


def _write_labels(plan: Plan, one: OpenImage, label: Callable[[], Labels]) -> Entry:
    """Label a picture, and write what is wanted of it."""
    labels = label()
    item, image, result = one.item, one.image, labels.result
    meaning = LabelMap.from_classes(plan.request.classes)
    answer = Answer(image, result.ids, labels.explanations)
    with stage("writing"):
        for artefact in ARTEFACTS:
            path: str | None = getattr(item, artefact.field)
            if path is not None:
                artefact.write(plan.output / path, answer, meaning)
        nbytes, digest = written(plan.output / item.output)
    return Entry(
        path=picture_id(item.image.path),
        output=item.output,
        overlay=item.overlay,
        explain=item.explain,
        size=(image.width, image.height),
        status="done",
        method=result.method,
        shares={name: round(float(share), 6) for name, share in result.shares.items()},
        scores={name: round(float(score), 6) for name, score in result.mean_scores.items()},
        kept=_rounded(result.kept),
        kept_by=None if result.kept is None else "prefilter" if item.classes is None else "image-classes",
        unfamiliar=result.unfamiliar,
        ms=None if labels.begun is None else round(1000 * (time.perf_counter() - labels.begun), 1),
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
