"""A folder run: segment what the plan says, write every file in one step, keep a journal, survive interruption."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Generator, Mapping
from contextlib import closing
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from ovseg_cli.errors import ImageError, UsageError
from ovseg_cli.files.images import open_image
from ovseg_cli.runs.engines.crew import Crew, Single
from ovseg_cli.runs.engines.dispatch import Dispatch
from ovseg_cli.runs.jobs import Labeller, Order, Outcome, jobs_of
from ovseg_cli.runs.journal import Entry, Journal
from ovseg_cli.runs.ledger import Ledger, RunSummary, only_writer
from ovseg_cli.runs.plan import Plan, PlanItem, current
from ovseg_cli.runs.worker import Equipment, ReadySegmenter, Worker
from ovseg_cli.stages import stage
from ovseg_cli.urls import Place

if TYPE_CHECKING:
    from ovseg_cli.profiles import Profile
    from ovseg_cli.store import Store

_PACE_SECONDS = 60.0
"""The rate of a run is that of so many seconds, and of `_PACE_STEPS` pictures at least."""
_PACE_STEPS = 10

_SETTLED = 16
"""After so many pictures, two batches, the time until the first one counts no more."""

CrewMaker = Callable[[Order, Callable[[Equipment], None], int | None, int], Crew]
"""Makes a crew: of what its jobs have in common, whom to tell of its equipment, the batch, and how much there is."""


@dataclass(frozen=True, slots=True)
class Step:
    """Told after each image: how far the run is.

    Attributes:
        done: Images that the run is through with, of whatever outcome.
        total: Images of the plan.
        path: The last one.
        error: Why it failed; None when it did not.
        failed: How many have failed.
        rate: Images a second, of late, that were worked on; None while nobody can say.
        left: Seconds that the rest will take at this rate, likewise.
    """

    done: int
    total: int
    path: Place
    error: str | None = None
    failed: int = 0
    rate: float | None = None
    left: float | None = None

    @property
    def share(self) -> float:
        """The share of the images that the run is through with, in [0, 1]."""
        return self.done / max(1, self.total)


class _Pace:
    """How fast a run is.

    Args:
        plan: What there is to do; images that are done already take no time.
    """

    def __init__(self, plan: Plan) -> None:
        self._left = len(plan.items) - plan.count("skip")
        self._times = deque([time.monotonic()])
        self._taken = 0

    def took(self) -> None:
        """An image that was worked on is through."""
        now = time.monotonic()
        self._left -= 1
        self._times.append(now)
        self._taken += 1
        if self._taken == _SETTLED:
            self._times.popleft()  # until the first one, networks were loaded
        while len(self._times) > _PACE_STEPS and now - self._times[0] > _PACE_SECONDS:
            self._times.popleft()

    def figures(self) -> tuple[float | None, float | None]:
        """Images a second, and the seconds that are left."""
        seconds = self._times[-1] - self._times[0]
        if len(self._times) < 2 or seconds <= 0:
            return None, 0.0 if self._left == 0 else None
        rate = (len(self._times) - 1) / seconds
        return rate, self._left / rate


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
    crew: CrewMaker | None = None,
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
        batch: how many pictures may go together, which is also how many are in memory at most; on a GPU three times as
            many are, as others are read and written meanwhile. None for `BATCH_ON_GPU` on a GPU and 1 on a CPU.
        crew: makes those who do the work; None for this process, by the segmenter of `segmenter_factory`.

    Returns:
        What was done. Pictures that cannot be read are in `failed`; they stop nothing else.

    Raises:
        UsageError: `batch` is below 1, or another run has filled the folder with other label maps since it was planned.
        OutputError: the output folder cannot be written, or another process is writing to it.
        DiskFullError: there is no space left. What is done stays done.
        EngineError: there can be no workers, or none is left. What is done stays done.
        KeyboardInterrupt: passed on after the journal is closed and the run marked as interrupted.
    """
    if batch is not None and batch < 1:
        raise UsageError(f"batch must be at least 1, got {batch}.")
    with only_writer(plan.output):
        plan = current(plan)
        ledger = Ledger(plan, store, profile, argv, configured or {}, recorded=recorded)
        order, left = Order.of(plan), len(plan.items) - plan.count("skip")
        if crew is None or not left:
            worker = Worker(segmenter_factory, lambda: store, batch, ledger.note_models)
            workers: Crew = Single(Labeller(worker, order, plan.items))
            can_open = worker.can_open
        else:
            workers = crew(order, ledger.note_models, batch, left)
            can_open = _can_open
        with closing(steps_of(plan, workers, ledger, can_open, fail_fast=fail_fast)) as steps:
            for step in steps:
                if progress is not None:
                    progress(step)
        return ledger.summary


def steps_of(
    plan: Plan, crew: Crew, ledger: Ledger, can_open: Callable[[PlanItem], bool], *, fail_fast: bool = False
) -> Generator[Step]:
    """Do what the plan says, and note it, image by image: several plans can be carried out in turns.

    Whoever ends early closes the generator; the run counts as interrupted then.

    Args:
        plan: As it is now (see `ovseg_cli.runs.plan.current`).
        crew: Those who do it.
        ledger: Of this plan; the folder must be its only writer's (see `ovseg_cli.runs.ledger.only_writer`).
        can_open: Whether a picture can be read; asked until one can be, so that models are not loaded for none.
        fail_fast: As for `run_folder`.

    Yields:
        After each image, how far the run is.
    """
    started = time.perf_counter()
    try:
        # Before anything in the folder is changed or removed.
        if any(item.action != "skip" for item in plan.items):
            wanted = (item for item in plan.items if item.action in ("segment", "explain"))
            crew.start(load=any(map(can_open, wanted)))
        dispatch = Dispatch(
            len(plan.items), jobs_of(plan.items, crew.batch), crew, lambda place, why: _left_out(plan, place, why)
        )
        try:
            with ledger.open() as journal:
                try:
                    yield from _noted(plan, dispatch, ledger, journal, fail_fast=fail_fast)
                finally:
                    for _, outcome in sorted(dispatch.early.items()):  # those that the end has kept from their turn
                        _note(plan, outcome, ledger, journal)
        except BaseException:
            ledger.close("interrupted", started)
            raise
    finally:
        crew.stop()
    stopped = fail_fast and bool(ledger.summary.failed)
    ledger.close("interrupted" if stopped else "finished", started)


def _can_open(item: PlanItem) -> bool:
    """Whether a picture can be read, which workers will do again."""
    try:
        open_image(item.image.path)
    except ImageError:
        return False
    return True


def _left_out(plan: Plan, place: int, why: str) -> Outcome:
    return Outcome(place, None, f"{plan.items[place].image.path} is left out: {why}")


def _noted(plan: Plan, dispatch: Dispatch, ledger: Ledger, journal: Journal, *, fail_fast: bool) -> Generator[Step]:
    pace = _Pace(plan)

    def done(place: int) -> Outcome | None:
        item = plan.items[place]
        return Outcome(place, item.entry) if item.action == "skip" else None

    for outcome in dispatch.outcomes(done):
        item, entry = plan.items[outcome.place], _note(plan, outcome, ledger, journal)
        if item.action != "skip":
            pace.took()
        number, failed = outcome.place + 1, len(ledger.summary.failed)
        yield Step(number, len(plan.items), item.image.path, entry.error, failed, *pace.figures())
        if fail_fast and entry.status == "failed":
            break


def _note(plan: Plan, outcome: Outcome, ledger: Ledger, journal: Journal) -> Entry:
    """Note what became of an image."""
    item = plan.items[outcome.place]
    if outcome.eased is not None:
        ledger.note_easing(outcome.eased)
    if outcome.entry is None:
        entry = ledger.failed(item, ImageError(outcome.error))
    else:
        entry = ledger.done(item, outcome.entry)
    with stage("journal"):
        ledger.note(journal, item, entry)
    return entry
