"""Where time goes: stages of the work that `ovseg bench` times, and that cost nothing when nobody does.

The code says which stage it is in (``with stage("masks"):``); an `Observer` in force adds up what each one takes. A
stage inside another one counts for itself alone, so that the stages of a run add up to no more than the run.
"""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from contextvars import ContextVar
from dataclasses import dataclass, field

_OFF: AbstractContextManager[None] = nullcontext()


def _nothing() -> None:
    """What a CPU does to be done."""


def _zero() -> int:
    """What was counted where nobody counts."""
    return 0


@dataclass(slots=True)
class Observer:
    """Adds up what stages take.

    Args:
        synchronise: Waits until the device has done all that it was given, at the ends of every stage.
        counted: How many floating-point operations have been counted so far.

    Attributes:
        seconds: By stage, in the order in which they first ended, without the stages inside them.
        calls: By stage, how often it was entered.
        operations: By stage, what `counted` grew by, likewise.
    """

    synchronise: Callable[[], None] = _nothing
    counted: Callable[[], int] = _zero
    seconds: dict[str, float] = field(init=False, default_factory=lambda: defaultdict(float))
    calls: dict[str, int] = field(init=False, default_factory=lambda: defaultdict(int))
    operations: dict[str, int] = field(init=False, default_factory=lambda: defaultdict(int))
    _inside: list[tuple[float, int]] = field(init=False, default_factory=list)

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        """Time a block, which counts also where it fails."""
        self.synchronise()
        before, began = self.counted(), time.perf_counter()
        self._inside.append((0.0, 0))
        try:
            yield
        finally:
            self.synchronise()
            seconds, operations = time.perf_counter() - began, self.counted() - before
            inner_seconds, inner_operations = self._inside.pop()
            self.seconds[name] += seconds - inner_seconds
            self.operations[name] += operations - inner_operations
            self.calls[name] += 1
            if self._inside:
                outer_seconds, outer_operations = self._inside[-1]
                self._inside[-1] = (outer_seconds + seconds, outer_operations + operations)


_observer: ContextVar[Observer | None] = ContextVar("ovseg_observer", default=None)


def stage(name: str) -> AbstractContextManager[None]:
    """Say that what the block does belongs to a stage."""
    observer = _observer.get()
    return _OFF if observer is None else observer.stage(name)


@contextmanager
def observed(observer: Observer) -> Iterator[Observer]:
    """Let an observer see the stages that the block enters, in this thread."""
    token = _observer.set(observer)
    try:
        yield observer
    finally:
        _observer.reset(token)
