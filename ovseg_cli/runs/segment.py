"""A folder run: segment what the plan says, write every file in one step, keep a journal, survive interruption."""

from __future__ import annotations

import errno
import logging
import os
import time
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, NamedTuple, Protocol, cast

from ovseg_cli.atomic import make_folder, write_image, write_text
from ovseg_cli.drawing.overlay import overlay as draw_overlay
from ovseg_cli.drawing.palettes import for_display
from ovseg_cli.errors import (
    DiskFullError,
    ImageError,
    OutputError,
    OvsegError,
    StoreLockedError,
    StoreReadOnlyError,
    UsageError,
)
from ovseg_cli.files.discovery import picture_id
from ovseg_cli.files.images import open_image
from ovseg_cli.files.labels import (
    LABELMAP_NAME,
    LabelMap,
    read_label,
    write_label,
    write_labelmap,
)
from ovseg_cli.runs.journal import Entry, Journal, write_journal, written
from ovseg_cli.runs.manifest import Manifest, library_versions
from ovseg_cli.runs.plan import MASK_FOLDER, Plan, PlanItem, current
from ovseg_cli.store.records import RunItem, RunRecord

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray
    from PIL import Image

    from ovseg_cli.explain import Explainer
    from ovseg_cli.profiles import Profile
    from ovseg_cli.segmentation.segmenter import Segmenter
    from ovseg_cli.store import Store

log = logging.getLogger("ovseg_cli")

LIST_NAME = "ImageSets/Segmentation/default.txt"
_LOCK_NAME = ".ovseg.lock"
_ITEMS_AT_ONCE = 64
_PATIENCE = 1.0  # seconds to wait for another process that writes to the store, while there are pictures to segment

BATCH_ON_GPU = 8
"""Pictures of one size that go through the models together where nobody says; on a CPU each goes alone."""


class SegmentationLike(Protocol):
    """The result for one picture, as `ovseg_cli.segmentation.segmenter.Segmentation` has it."""

    @property
    def ids(self) -> NDArray[np.integer[Any]]:
        """Class ids, `(H, W)`, 0 = background."""

    @property
    def method(self) -> str:
        """What made it."""

    @property
    def shares(self) -> dict[str, float]:
        """Share of the pixels per class, in [0, 1]."""

    @property
    def mean_scores(self) -> dict[str, float]:
        """Mean score per class."""

    @property
    def kept(self) -> dict[str, float | None] | None:
        """The classes that took part, with the pre-filter's cosines if it chose them; None for all."""

    @property
    def unfamiliar(self) -> bool | None:
        """Whether the models were trained on nothing like it; None where they know photographs."""


class SegmenterLike(Protocol):
    """What a run needs of a segmenter."""

    @property
    def settings(self) -> dict[str, Any]:
        """JSON-able settings for the record."""

    def segment(self, image: Image.Image, *, classes: Sequence[str] | None = None) -> Any:
        """Label one upright RGB picture; `classes` are those that may be in it, None to find out."""

    def segment_batch(
        self, images: Sequence[Image.Image], *, classes: Sequence[Sequence[str] | None] | None = None
    ) -> Sequence[Any]:
        """Label pictures of one size as `segment` labels each of them."""


class Loaded(NamedTuple):
    """A segmenter, ready to work, where it computes (`cpu`, `cuda:0` ...), and in what (`float16`, `float32`)."""

    segmenter: SegmenterLike
    device: str
    precision: str


@dataclass(frozen=True, slots=True)
class Failure:
    """One picture that could not be segmented, and why."""

    path: str
    reason: str


@dataclass(slots=True)
class RunSummary:
    """What a run did.

    Attributes:
        output: the output folder, absolute.
        method: the method that ran.
        classes: the classes looked for, in the order of their ids.
        images: how many the plan named.
        done: segmented now.
        skipped: done by an earlier run.
        failed: the pictures that could not be segmented.
        remaining: planned and not reached (with `fail_fast`).
        seconds: wall time.
        shares: mean share of the pixels per class over all pictures of the plan that have a label map.
        images_with: in how many of these pictures each class is.
        prefilter: whether classes were ruled out per picture first.
        given: for how many pictures of the plan the user said which classes may be in it.
        unfamiliar: how many pictures of the plan with a label map look like nothing that the models were trained on,
            whichever run made it; None where they know photographs.
        notes: sentences for people about what they may not expect.
    """

    output: Path
    method: str
    classes: tuple[str, ...]
    images: int
    done: int = 0
    skipped: int = 0
    failed: list[Failure] = field(default_factory=list)
    remaining: int = 0
    seconds: float = 0.0
    shares: dict[str, float] = field(default_factory=dict)
    images_with: dict[str, int] = field(default_factory=dict)
    prefilter: bool = False
    given: int = 0
    unfamiliar: int | None = None
    notes: tuple[str, ...] = ()

    def counts(self) -> dict[str, int]:
        """Images by outcome."""
        return {
            "done": self.done,
            "skipped": self.skipped,
            "failed": len(self.failed),
            "remaining": self.remaining,
        }


@dataclass(frozen=True, slots=True)
class Step:
    """Told after each image: how far the run is."""

    done: int
    total: int
    path: Path
    error: str | None = None


def run_folder(
    plan: Plan,
    segmenter_factory: Callable[[], Loaded],
    store: Store,
    profile: Profile,
    *,
    argv: tuple[str, ...] = (),
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
    with _only_writer(plan.output):
        plan = current(plan)
        run = _Run(plan, segmenter_factory, store, profile, argv, recorded=recorded, batch=batch)
        return run.execute(progress, fail_fast=fail_fast)


@dataclass(frozen=True, slots=True)
class _Opened:
    """A picture that waits to be segmented, and how long it took to read it."""

    item: PlanItem
    image: Image.Image
    seconds: float


class _Run:
    """The state of one run."""

    def __init__(
        self,
        plan: Plan,
        segmenter_factory: Callable[[], Loaded],
        store: Store,
        profile: Profile,
        argv: tuple[str, ...],
        *,
        recorded: bool,
        batch: int | None,
    ) -> None:
        self.plan = plan
        self.store = store
        self.make_segmenter = segmenter_factory
        self.segmenter: SegmenterLike | None = None
        self.batch = batch
        self.explainer: Explainer | None = None
        self.record = _RunRecorder(store if recorded else None, plan, argv)
        self.labelmap = LabelMap.from_classes(plan.request.classes)
        self.shown = for_display(self.labelmap)
        self.summary = RunSummary(
            output=plan.output,
            method=plan.request.method,
            prefilter=plan.request.prefilter,
            classes=plan.request.classes,
            images=len(plan.items),
            given=sum(item.classes is not None for item in plan.items),
        )
        self.profile = profile
        self.manifest = _manifest(plan, store, profile, argv, self.labelmap, self.record.id)
        self.entries = {entry.path: entry for entry in plan.kept}

    def execute(self, progress: Callable[[Step], None] | None, *, fail_fast: bool) -> RunSummary:
        started = time.perf_counter()
        self._prepare_folder()
        self.record.begin()
        try:
            with Journal(self.plan.output, self.entries.values()) as journal:
                for number, (item, entry) in enumerate(self._entries(), start=1):
                    if entry is not item.entry:
                        journal.add(entry)
                    self.entries[entry.path] = entry
                    if progress is not None:
                        progress(Step(number, len(self.plan.items), item.image.path, entry.error))
                    if fail_fast and entry.status == "failed":
                        break
        except BaseException:
            self._close("interrupted", started)
            raise
        stopped = fail_fast and bool(self.summary.failed)
        self._close("interrupted" if stopped else "finished", started)
        return self.summary

    def _prepare_folder(self) -> None:
        """Write what gives the label maps their meaning before the first of them is there."""
        for name in self.plan.stale:
            _remove_inside(self.plan.output, name)
        make_folder(self.plan.output / MASK_FOLDER)
        # Entries of planned images that still hold stay in the journal from the start: a kill loses nothing.
        for item in self.plan.items:
            if item.entry is not None:
                self.entries[item.entry.path] = item.entry
        write_labelmap(self.plan.output / LABELMAP_NAME, self.labelmap)
        self.manifest.write(self.plan.output)

    def _entries(self) -> Iterator[tuple[PlanItem, Entry]]:
        """Do what the plan says, in its order; pictures of one size that follow each other wait for each other."""
        waiting: list[_Opened] = []
        for item in self.plan.items:
            opened: _Opened | ImageError | None = None
            if item.action == "segment" and item.explain is None:
                opened = _open(item)
            together = isinstance(opened, _Opened) and bool(waiting) and opened.image.size == waiting[0].image.size
            if not together:
                yield from self._segment(waiting)
                waiting = []
            if isinstance(opened, _Opened):
                waiting.append(opened)
                self._loaded()
                if len(waiting) == self.batch:
                    yield from self._segment(waiting)
                    waiting = []
            elif opened is not None:
                yield item, self._failed(item, opened)
            else:
                yield item, self._take(item)
        yield from self._segment(waiting)

    def _take(self, item: PlanItem) -> Entry:
        """Do what the plan says with one image that goes alone."""
        entry = item.entry
        if entry is None:
            return self._attempt(item, lambda: self._segment_explained(item))
        if item.action == "explain":
            return self._attempt(item, lambda: self._add_explanation(item, entry))
        if item.action == "draw":
            return self._attempt(item, lambda: self._draw(item, entry))
        return self._counted(item, entry)

    def _attempt(self, item: PlanItem, work: Callable[[], Entry]) -> Entry:
        """Make an image's entry, which says why when that fails because of the image."""
        try:
            entry = work()
        except ImageError as error:
            return self._failed(item, error)
        except OutputError as error:
            if not _too_long(error):
                raise
            return self._failed(item, ImageError(f"{item.image.path} has too long a name for its results. {error}"))
        return self._counted(item, entry)

    def _counted(self, item: PlanItem, entry: Entry) -> Entry:
        if item.action == "segment":
            self.summary.done += 1
            self.record.add("done", entry)
        else:
            self.summary.skipped += 1
            self.record.add("skipped", entry)
        return entry

    def _failed(self, item: PlanItem, error: ImageError) -> Entry:
        reason = str(error)
        log.warning("%s", reason)  # the message names the file
        self.summary.failed.append(Failure(str(item.image.path), reason))
        entry = Entry(path=picture_id(item.image.path), status="failed", error=reason, key=item.key)
        # A label map of what used to be under this name describes it no more.
        for name in item.files:
            _remove_inside(self.plan.output, name)
        self.record.add("failed", entry)
        return entry

    def _segment(self, opened: Sequence[_Opened]) -> Iterator[tuple[PlanItem, Entry]]:
        """Segment pictures of one size: together if they are several, and one by one if one of them is at fault."""
        begun = time.perf_counter()
        results: Sequence[SegmentationLike | None] = [None] * len(opened)
        if len(opened) > 1:
            try:
                results = self._loaded().segment_batch(
                    [one.image for one in opened], classes=[one.item.classes for one in opened]
                )
            except ImageError as error:
                log.debug("%d pictures go one by one, so that only the one at fault fails: %s", len(opened), error)
        share = (time.perf_counter() - begun) / max(1, len(opened))
        for one, result in zip(opened, results, strict=True):
            yield one.item, self._attempt(one.item, partial(self._label, one, result, share))

    def _label(self, one: _Opened, result: SegmentationLike | None, seconds: float) -> Entry:
        """Write what there is of an opened picture, which has taken some seconds by now; segment it if need be."""
        begun = time.perf_counter() - one.seconds - seconds
        if result is None:
            result = self._loaded().segment(one.image, classes=one.item.classes)
        return self._written(one.item, one.image, result, begun)

    def _segment_explained(self, item: PlanItem) -> Entry:
        """Segment a picture and explain it."""
        if item.explain is None:
            raise ValueError(f"nothing to explain for {item.image.path}")
        begun = time.perf_counter()
        image = open_image(item.image.path)
        return self._written(item, image, self._explain(item, image, item.explain), begun)

    def _written(self, item: PlanItem, image: Image.Image, result: SegmentationLike, begun: float) -> Entry:
        """Write what there is of a picture."""
        write_label(self.plan.output / item.output, result.ids, self.labelmap)
        nbytes, digest = written(self.plan.output / item.output)
        if item.overlay is not None:
            write_image(self.plan.output / item.overlay, draw_overlay(image, result.ids, self.shown))
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
            ms=round(1000 * (time.perf_counter() - begun), 1),
            key=item.key,
            nbytes=nbytes,
            digest=digest,
        )

    def _draw(self, item: PlanItem, entry: Entry) -> Entry:
        """Make the overlay of a label map that is there."""
        if item.overlay is None:
            raise ValueError(f"nothing to draw for {item.image.path}")
        image = open_image(item.image.path)
        ids = read_label(self.plan.output / item.output, self.labelmap)
        write_image(self.plan.output / item.overlay, draw_overlay(image, ids, self.shown))
        return replace(entry, overlay=item.overlay)

    def _add_explanation(self, item: PlanItem, entry: Entry) -> Entry:
        """Explain a label map that is there."""
        if item.explain is None:
            raise ValueError(f"nothing to explain for {item.image.path}")
        self._explain(item, open_image(item.image.path), item.explain)
        entry = replace(entry, explain=item.explain)
        drawn = item.overlay is None or (entry.overlay == item.overlay and (self.plan.output / item.overlay).is_file())
        return entry if drawn else self._draw(item, entry)

    def _explain(self, item: PlanItem, image: Image.Image, target: str) -> SegmentationLike:
        """Segment a picture, and write why its classes are where they are."""
        from ovseg_cli.explain import HOW_CHOSEN, Explainer, draw

        if self.explainer is None:
            self.explainer = Explainer(cast("Segmenter", self._loaded()), self.store)
        result, explanations = self.explainer.explain(image, classes=item.classes)
        write_image(self.plan.output / target, draw(image, result.ids, self.shown, explanations, note=HOW_CHOSEN))
        return result

    def _loaded(self) -> SegmenterLike:
        """The segmenter, loaded when it is first needed."""
        if self.segmenter is None:
            self.segmenter = self._load()
        return self.segmenter

    def _load(self) -> SegmenterLike:
        segmenter, device, precision = self.make_segmenter()
        if self.batch is None:
            self.batch = 1 if device == "cpu" else BATCH_ON_GPU
        self.manifest = replace(
            self.manifest,
            settings=segmenter.settings,
            device=device,
            precision=precision,
            batch=self.batch,
            libraries=library_versions(),
        )
        self.manifest.write(self.plan.output)
        return segmenter

    def _close(self, status: Literal["finished", "interrupted"], started: float) -> None:
        """Bring the folder's own files up to date, then the store; an error here must not hide the first one."""
        summary = self.summary
        summary.remaining = summary.images - summary.done - summary.skipped - len(summary.failed)
        summary.seconds = time.perf_counter() - started
        entries = [self.entries.get(picture_id(item.image.path)) for item in self.plan.items]
        _add_shares(summary, entries)
        if self.profile.domain is not None:
            summary.unfamiliar = sum(entry is not None and entry.unfamiliar is True for entry in entries)
        try:
            ordered = sorted(self.entries.values(), key=lambda entry: (entry.output or "", entry.path))
            write_journal(self.plan.output, ordered)
            _write_list(self.plan.output, ordered)
            replace(
                self.manifest,
                status=status,
                finished_at=datetime.now(UTC).isoformat(timespec="seconds"),
                counts=summary.counts(),
                unfamiliar=summary.unfamiliar,
            ).write(self.plan.output)
            self.record.finish(status)
        except OvsegError as error:
            if status == "finished":
                raise
            log.warning("the end of the run could not be recorded: %s", error)


class _RunRecorder:
    """Tells the store about the run, in batches.

    Label maps do not need that: while another process is writing to the store it is told later, and a store that cannot
    be written is done without.
    """

    def __init__(self, store: Store | None, plan: Plan, argv: tuple[str, ...]) -> None:
        self.id = uuid.uuid4().hex
        self._store = store
        request = plan.request
        self._record = RunRecord(
            id=self.id,
            argv=argv,
            method=request.method,
            classes=request.classes,
            background=request.options.background,
            output=plan.output,
            inputs=plan.inputs,
            settings={
                "asked": request.asked,
                "threshold": request.options.threshold,
                "prefilter": request.prefilter,
                "image_classes": None if request.image_classes is None else request.image_classes.digest,
                "digest": request.digest,
            },
        )
        self._waiting: list[RunItem] = []
        self._begun = False

    def begin(self) -> None:
        self._tell(last=False)

    def add(self, status: Literal["done", "skipped", "failed"], entry: Entry) -> None:
        width, height = entry.size or (None, None)
        self._waiting.append(
            RunItem(
                source=entry.path,
                output=entry.output,
                status=status,
                method=entry.method,
                error=entry.error,
                width=width,
                height=height,
            )
        )
        if len(self._waiting) % _ITEMS_AT_ONCE == 0:
            self._tell(last=False)

    def finish(self, status: Literal["finished", "interrupted"]) -> None:
        if self._tell(last=True):
            self._attempt(lambda store: store.finish_run(self.id, status), last=True)

    def _tell(self, *, last: bool) -> bool:
        """Tell the store what it does not know yet; False when it does not know all of it then."""
        return self._attempt(self._catch_up, last=last)

    def _catch_up(self, store: Store) -> None:
        if not self._begun:
            store.begin_run(self._record)
            self._begun = True
        if self._waiting:
            store.add_run_items(self.id, self._waiting)
            self._waiting = []

    def _attempt(self, change: Callable[[Store], None], *, last: bool) -> bool:
        """Change the store, with little patience unless it is the last chance; False when that cannot be."""
        store = self._store
        if store is None:
            return False
        patience = store.lock_timeout
        store.lock_timeout = patience if last else min(patience, _PATIENCE)
        try:
            change(store)
        except StoreLockedError as error:
            if last:
                self._give_up(store, str(error))
            return False
        except OvsegError as error:
            reason = "it is read-only" if isinstance(error, StoreReadOnlyError) else str(error)
            if isinstance(error, DiskFullError):
                reason = "it lies on a full disk"
            self._give_up(store, reason)
            return False
        finally:
            store.lock_timeout = patience
        return True

    def _give_up(self, store: Store, reason: str) -> None:
        self._store = None
        known = "only in part" if self._begun else "not"
        log.warning(
            "This run is %s recorded in the store %s, so name its folder to eval with --pred: %s",
            known,
            store.path,
            reason,
        )


def _manifest(
    plan: Plan, store: Store, profile: Profile, argv: tuple[str, ...], labelmap: LabelMap, run_id: str
) -> Manifest:
    request, previous = plan.request, plan.previous
    # When nothing is left to segment no model is loaded; what is known of the maps is then in the old manifest.
    known = previous if previous is not None and previous.digest == request.digest else None
    classes: tuple[Mapping[str, Any], ...] = tuple(
        {"id": i, "name": name, "colour": list(colour)} for i, name, colour in labelmap if i != labelmap.background_id
    )
    return Manifest(
        ovseg=version("ovseg"),
        id=run_id,
        status="running",
        started_at=datetime.now(UTC).isoformat(timespec="seconds"),
        argv=argv,
        inputs=plan.inputs,
        classes=classes,
        background=request.options.background,
        threshold=request.options.threshold,
        prefilter=request.prefilter,
        method={"asked": request.asked, "used": request.method, "reason": request.reason},
        digest=request.digest,
        options=request.options.record(),
        image_classes=_image_classes(plan),
        settings=known.settings if known else {},
        profile=profile.record(),
        profile_digest=profile.digest,
        device=known.device if known else None,
        precision=known.precision if known else None,
        batch=known.batch if known else None,
        libraries=known.libraries if known else library_versions(),
        store={"path": str(store.path), "vector_revision": store.vector_revision},
    )


def _image_classes(plan: Plan) -> dict[str, Any]:
    """The file of image classes, for the record."""
    if plan.request.image_classes is None:
        return {}
    return {
        "path": str(plan.request.image_classes.path.absolute()),
        "digest": plan.request.image_classes.digest,
        "pictures": len(plan.items) - len(plan.unnamed),
        "others": "prefilter" if plan.request.prefilter else "all classes",
    }


def _open(item: PlanItem) -> _Opened | ImageError:
    """A picture, or why it cannot be read: those before it come first."""
    begun = time.perf_counter()
    try:
        return _Opened(item, open_image(item.image.path), time.perf_counter() - begun)
    except ImageError as error:
        return error


def _rounded(kept: dict[str, float | None] | None) -> dict[str, float | None] | None:
    if kept is None:
        return None
    return {name: None if score is None else round(score, 6) for name, score in kept.items()}


def _add_shares(summary: RunSummary, entries: list[Entry | None]) -> None:
    mapped = [entry for entry in entries if entry is not None and entry.status == "done"]
    for entry in mapped:
        for name, share in entry.shares.items():
            if share > 0:
                summary.shares[name] = summary.shares.get(name, 0.0) + share / len(mapped)
                summary.images_with[name] = summary.images_with.get(name, 0) + 1


def _write_list(output: Path, entries: list[Entry]) -> None:
    """The VOC list of the pictures that have a label map: one name per line, without its suffix."""
    names = [
        entry.output.removeprefix(f"{MASK_FOLDER}/").removesuffix(".png")
        for entry in entries
        if entry.output is not None and entry.status == "done"
    ]
    broken = [name for name in names if name.splitlines() != [name]]
    for name in broken:
        log.warning("%r is left out of %s: a name with a line break would be two there", name, LIST_NAME)
    write_text(output / LIST_NAME, "".join(f"{name}\n" for name in names if name not in broken))


def _remove_inside(output: Path, name: str) -> None:
    """Remove a file that the journal names; never one outside the output folder, whatever the journal says."""
    path = (output / name).resolve()
    if output.resolve() in path.parents and os.path.lexists(path):  # False also for names that are too long
        path.unlink(missing_ok=True)


def _too_long(error: OutputError) -> bool:
    """Whether a file could not be written because of its name, which is that of its picture."""
    return isinstance(error.__cause__, OSError) and error.__cause__.errno == errno.ENAMETOOLONG


@contextmanager
def _only_writer(output: Path) -> Iterator[None]:
    """Keep a second process out of the folder: two journals in one file would be none."""
    from filelock import FileLock, Timeout

    make_folder(output)
    lock = FileLock(output / _LOCK_NAME, timeout=0)
    try:
        lock.acquire()
    except Timeout:
        raise OutputError(
            f"Another ovseg process is writing to {output}. Wait for it, or choose another folder with -o."
        ) from None
    except OSError as error:
        raise OutputError(f"Cannot write {output}: {error.strerror}. Choose another folder with -o.") from error
    try:
        yield
    finally:
        lock.release()
