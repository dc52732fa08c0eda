"""Workers as the loop of a run knows them, wherever they are; and the crew of one: this process."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Protocol


class Job(Protocol):
    """Things that one worker takes in a row.

    Attributes:
        first: The place of the first of them among all; the others follow.
        items: What is to be done.
    """

    @property
    def first(self) -> int:
        """See above."""

    @property
    def items(self) -> tuple[Any, ...]:
        """See above."""


class Outcome(Protocol):
    """What became of one of them."""

    @property
    def place(self) -> int:
        """Its place among all."""


class Hand(Protocol):
    """Does jobs of one kind, wherever it is."""

    @property
    def batch(self) -> int | None:
        """How many things may go through the models together; None where that is not known yet."""

    def ready(self) -> None:
        """Load the models."""

    def do(self, job: Any) -> Iterator[Outcome]:
        """What becomes of things, one after another: those of a job, and of jobs before it."""

    def rest(self) -> Iterator[Outcome]:
        """What becomes of the things of jobs that are done, and that nothing was said of yet."""

    def stop(self) -> None:
        """Let go of what is under way."""


@dataclass(frozen=True, slots=True)
class Made:
    """A worker is through with a thing."""

    worker: int
    outcome: Outcome


@dataclass(frozen=True, slots=True)
class Free:
    """A worker waits for a job."""

    worker: int


@dataclass(frozen=True, slots=True)
class Lost:
    """A worker has died, and why as far as that is known."""

    worker: int
    why: str


@dataclass(frozen=True, slots=True)
class Broken:
    """Something that is no fault of a thing itself has ended a worker's job."""

    worker: int
    error: Exception


Event = Made | Free | Lost | Broken


class Crew(ABC):
    """Workers, which do jobs and say so.

    Attributes:
        size: How many there are to be.
    """

    size: int

    @property
    @abstractmethod
    def batch(self) -> int:
        """How many things may go through the models together; known once models are loaded, and 1 before."""

    @abstractmethod
    def start(self, *, load: bool) -> None:
        """Let the workers begin; each says that it is free.

        Args:
            load: Whether models are needed. Then one worker at least has loaded them afterwards.

        Raises:
            OvsegError: The models cannot be loaded, or there can be no workers.
        """

    @abstractmethod
    def hire(self) -> None:
        """Have one more worker, in the place of one that was lost."""

    @abstractmethod
    def give(self, worker: int, job: Job) -> None:
        """Give a free worker a job. It says what becomes of each thing in turn, and then that it is free."""

    @abstractmethod
    def wait(self) -> Event:
        """What happens next. What ended a job in this process is raised."""

    @abstractmethod
    def stop(self) -> None:
        """End all workers, whatever they are doing; what they have begun is lost, and nothing half-written stays."""


class Single(Crew):
    """The crew of one: it does its job while one waits for it.

    Args:
        hand: Does it.
    """

    size = 1

    def __init__(self, hand: Hand) -> None:
        self._hand = hand
        self._doing: Iterator[Outcome] = iter(())
        self._waits = False

    @property
    def batch(self) -> int:
        """The hand's."""
        return self._hand.batch or 1

    def start(self, *, load: bool) -> None:
        """Load the models, if need be."""
        if load:
            self._hand.ready()

    def hire(self) -> None:
        """Never asked for: if this worker dies, nobody is left to ask."""
        raise NotImplementedError

    def give(self, worker: int, job: Job) -> None:
        """Keep the job until somebody waits for it."""
        self._doing, self._waits = self._hand.do(job), False

    def wait(self) -> Event:
        """Do what comes next of the job; when there is none, what is left of those before."""
        outcome = next(self._hand.rest() if self._waits else self._doing, None)
        if outcome is not None:
            return Made(0, outcome)
        self._waits = True
        return Free(0)

    def stop(self) -> None:
        """Let go of what is open."""
        self._doing = iter(())
        self._hand.stop()
