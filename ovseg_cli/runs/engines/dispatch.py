"""The one loop of all work that is shared out: it gives workers jobs, and tells in order what became of each thing."""

from __future__ import annotations

import logging
from collections import Counter, deque
from collections.abc import Callable, Generator, Iterator
from dataclasses import dataclass
from typing import Any

from ovseg_cli.errors import EngineError
from ovseg_cli.runs.engines.crew import Broken, Crew, Free, Job, Lost, Made, Outcome

MOST_DEATHS = 2
"""So many workers may die with a thing before it is left out."""

MOST_IN_VAIN = 5
"""So many workers may die in a row, none of which has done anything, before all is given up."""

_AHEAD = 32
"""How far ahead of the first thing that is not done others may be, in things per worker: they wait in memory."""

log = logging.getLogger("ovseg_cli")


@dataclass(frozen=True, slots=True)
class _Again:
    """A job of one thing whose worker died."""

    first: int
    items: tuple[Any, ...]


class Dispatch:
    """Has things done by a crew.

    Args:
        count: How many things there are.
        jobs: Those that are to be done, in their order; others are done already.
        crew: Those who work; started already.
        left_out: Makes the outcome of a thing (its place, and why) over which too many workers have died.

    Attributes:
        early: What was done out of turn, by place: things before it are not done yet.
    """

    def __init__(self, count: int, jobs: Iterator[Job], crew: Crew, left_out: Callable[[int, str], Outcome]) -> None:
        self._count = count
        self._crew = crew
        self._jobs = jobs
        self._left_out = left_out
        self._upcoming: Job | None = next(self._jobs, None)
        self._again: deque[_Again] = deque()
        self._free: deque[int] = deque()
        self._given: dict[int, dict[int, Any]] = {}
        self._deaths: Counter[int] = Counter()
        self._staff = crew.size
        self._in_vain = 0
        self.early: dict[int, Any] = {}

    def outcomes(self, done: Callable[[int], Any | None]) -> Generator[Any]:
        """What becomes of the things, in their order.

        Args:
            done: The outcome of a thing that is done already; None for one that is to be done.

        Raises:
            EngineError: No worker is left.
            Exception: What ended a worker's job and is no fault of a thing itself.
        """
        for place in range(self._count):
            known = done(place)
            if known is not None:
                yield known
                continue
            while place not in self.early:
                self._hand_out(place)
                self._hear()
            yield self.early.pop(place)

    def _hand_out(self, place: int) -> None:
        """Give the free workers jobs, none of which is too far ahead of the first thing that is not done."""
        most = place + _AHEAD * self._crew.size * max(1, self._crew.batch)
        while self._free:
            job: Job
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
            # A worker says of some things what became of them when it is at its next job, or has none any more.
            self._given.get(event.worker, {}).pop(event.outcome.place, None)
            self.early[event.outcome.place] = event.outcome
        elif isinstance(event, Free):
            self._given.pop(event.worker, None)
            self._free.append(event.worker)
        elif isinstance(event, Broken):
            raise event.error
        else:
            self._mourn(event)

    def _mourn(self, lost: Lost) -> None:
        """Give what a dead worker has left undone to others, one by one, so that the one at fault is found."""
        if lost.worker in self._free:
            self._free.remove(lost.worker)
        undone = self._given.pop(lost.worker, {})
        log.warning("a worker has died (%s); what it was at goes to another one", lost.why)
        for place, item in undone.items():
            self._deaths[place] += 1
            if self._deaths[place] < MOST_DEATHS:
                self._again.append(_Again(place, (item,)))
                continue
            why = (
                f"{MOST_DEATHS} workers have died over it (the last one: {lost.why}). It may be too much for the "
                "memory: try it with one worker."
            )
            self.early[place] = self._left_out(place, why)
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
