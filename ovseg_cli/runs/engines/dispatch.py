"""The one loop of a run: it gives workers jobs, and tells in the order of the plan what became of the images."""

from __future__ import annotations

import logging
from collections import Counter, deque
from collections.abc import Generator, Iterator

from ovseg_cli.errors import EngineError
from ovseg_cli.runs.engines.crew import Crew, Free, Lost, Made
from ovseg_cli.runs.jobs import Job, Outcome, jobs_of
from ovseg_cli.runs.plan import Plan, PlanItem

MOST_DEATHS = 2
"""So many workers may die with an image before it is left out."""

MOST_IN_VAIN = 5
"""So many workers may die in a row, none of which has done anything, before the run is given up."""

_AHEAD = 32
"""How far ahead of the first image that is not done others may be, in images per worker: they wait in memory."""

log = logging.getLogger("ovseg_cli")


class Dispatch:
    """Has the images of a plan done by a crew.

    Args:
        plan: The plan, as it is now.
        crew: Those who work; started already.

    Attributes:
        early: What was done out of turn, by place: images before it are not done yet.
    """

    def __init__(self, plan: Plan, crew: Crew) -> None:
        self._items = plan.items
        self._crew = crew
        self._jobs: Iterator[Job] = jobs_of(plan.items, crew.batch)
        self._upcoming: Job | None = next(self._jobs, None)
        self._again: deque[Job] = deque()
        self._free: deque[int] = deque()
        self._given: dict[int, dict[int, PlanItem]] = {}
        self._deaths: Counter[int] = Counter()
        self._staff = crew.size
        self._in_vain = 0
        self.early: dict[int, Outcome] = {}

    def outcomes(self) -> Generator[Outcome]:
        """What becomes of the images, in their order.

        Raises:
            EngineError: No worker is left.
            Exception: What ended a worker's job and is no fault of an image.
        """
        for place, item in enumerate(self._items):
            if item.action == "skip" and item.entry is not None:
                yield Outcome(place, item.entry)
                continue
            while place not in self.early:
                self._hand_out(place)
                self._hear()
            yield self.early.pop(place)

    def _hand_out(self, place: int) -> None:
        """Give the free workers jobs, none of which is too far ahead of the first image that is not done."""
        most = place + _AHEAD * self._crew.size * max(1, self._crew.batch)
        while self._free:
            if self._again:
                job = self._again.popleft()
            elif self._upcoming is not None and self._upcoming.first < most:
                job, self._upcoming = self._upcoming, next(self._jobs, None)
            else:
                return
            worker = self._free.popleft()
            self._given[worker] = dict(enumerate(job.items, start=job.first))
            self._crew.give(worker, job)

    def _hear(self) -> None:
        event = self._crew.wait()
        if isinstance(event, Made):
            self._in_vain = 0
            self._given[event.worker].pop(event.outcome.place, None)
            self.early[event.outcome.place] = event.outcome
        elif isinstance(event, Free):
            self._given.pop(event.worker, None)
            self._free.append(event.worker)
        else:
            self._mourn(event)

    def _mourn(self, lost: Lost) -> None:
        """Give what a dead worker has left undone to others, image by image, so that the one at fault is found."""
        if lost.worker in self._free:
            self._free.remove(lost.worker)
        undone = self._given.pop(lost.worker, {})
        log.warning("a worker has died (%s); %d pictures go to another one", lost.why, len(undone))
        for place, item in undone.items():
            self._deaths[place] += 1
            if self._deaths[place] < MOST_DEATHS:
                self._again.append(Job(place, (item,)))
                continue
            error = (
                f"{item.image.path} is left out: {MOST_DEATHS} workers have died over it (the last one: {lost.why}). "
                "It may be too much for the memory; see whether it can be opened, and try it with one worker."
            )
            self.early[place] = Outcome(place, None, error)
        self._in_vain += 1
        if self._in_vain >= MOST_IN_VAIN:
            self._staff -= 1  # there is no room for so many, it seems
            self._in_vain = 0
            if self._staff == 0:
                raise EngineError(
                    f"Workers die before they have done anything (the last one: {lost.why}). Memory may be short: "
                    "try fewer --workers. What is done stays done."
                )
            return
        self._crew.hire()
