"""Reading and writing beside the computing, where that would have to wait: for a GPU, and for a store far away."""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Generic, Protocol, TypeVar

from ovseg_cli.errors import ImageError
from ovseg_cli.files.images import size_in_header
from ovseg_cli.runs.plan import PlanItem
from ovseg_cli.runs.worker import OpenImage
from ovseg_cli.stages import stage
from ovseg_cli.urls import Url

MOST_THREADS = 8

MOST_PIXELS = 2**24
"""Larger pictures are read when it is their turn: they would take up much memory while they wait."""

Opened = OpenImage | ImageError

Written = TypeVar("Written")


class Files(Protocol[Written]):
    """Reads pictures, and has written what became of them."""

    def open(self, item: PlanItem) -> Opened:
        """A picture, or why it cannot be opened."""

    def write(self, work: Callable[[], Written]) -> None:
        """Have something written, after what came before."""

    def put(self, made: Written) -> None:
        """Something that is not to be written, in its place among the others."""

    def written(self, *, all_of_it: bool = False) -> Iterator[Written]:
        """What came of it, in the order of `write` and `put`; waits only where too much is under way.

        Args:
            all_of_it: Waits for everything.

        Raises:
            Exception: That of the work.
        """

    def stop(self) -> None:
        """End; what is being written is written to its end, what waits is let go of."""


class Between(Generic[Written]):
    """Reads and writes between the computing, one picture after the other: a CPU has nothing to do it beside.

    Args:
        read: Opens a picture, or says why it cannot be opened.
    """

    def __init__(self, read: Callable[[PlanItem], Opened]) -> None:
        self.open = read
        self._made: deque[Written] = deque()

    def write(self, work: Callable[[], Written]) -> None:
        """Write it now."""
        self._made.append(work())

    def put(self, made: Written) -> None:
        """See `Files`."""
        self._made.append(made)

    def written(self, *, all_of_it: bool = False) -> Iterator[Written]:
        """All of it."""
        while self._made:
            yield self._made.popleft()

    def stop(self) -> None:
        """Nothing is under way."""


class Beside(Generic[Written]):
    """Threads that read pictures ahead, and write what became of others.

    Args:
        read: Opens a picture, or says why it cannot be opened.
        items: Those that will be wanted, in their order.
        ahead: How many are read before they are wanted.
        behind: How many may wait to be written.
    """

    def __init__(
        self, read: Callable[[PlanItem], Opened], items: Iterable[PlanItem], *, ahead: int, behind: int
    ) -> None:
        self._read = read
        self._coming = deque(items)
        self._ahead = ahead
        self._behind = behind
        self._reading: dict[int, Future[Opened | None]] = {}  # by the item itself
        self._writing: deque[Future[Written]] = deque()
        self._threads = ThreadPoolExecutor(min(MOST_THREADS, os.cpu_count() or 1), "ovseg-files")

    def open(self, item: PlanItem) -> Opened:
        """A picture, read already if it was foreseen."""
        self._look_ahead()
        future = self._reading.pop(id(item), None)
        self._look_ahead()
        found = None
        if future is not None:
            with stage("reading"):
                found = future.result()
        # Beside others there may have been no room for it, which says nothing of the picture.
        if found is None or (isinstance(found, ImageError) and isinstance(found.__cause__, MemoryError)):
            return self._read(item)
        return found

    def _look_ahead(self) -> None:
        while self._coming and len(self._reading) < self._ahead:
            item = self._coming.popleft()
            self._reading[id(item)] = self._threads.submit(self._read_unless_large, item)

    def _read_unless_large(self, item: PlanItem) -> Opened | None:
        if isinstance(item.image.path, Url):  # nobody knows its size before all of it is here
            return self._read(item)
        size = size_in_header(item.image.path)
        return None if size is None or size[0] * size[1] > MOST_PIXELS else self._read(item)

    def write(self, work: Callable[[], Written]) -> None:
        """See `Files`."""
        self._writing.append(self._threads.submit(work))

    def put(self, made: Written) -> None:
        """See `Files`."""
        future: Future[Written] = Future()
        future.set_result(made)
        self._writing.append(future)

    def written(self, *, all_of_it: bool = False) -> Iterator[Written]:
        """See `Files`."""
        while self._writing and (all_of_it or len(self._writing) > self._behind or self._writing[0].done()):
            with stage("writing"):
                made = self._writing.popleft().result()
            yield made

    def stop(self) -> None:
        """See `Files`."""
        self._threads.shutdown(wait=True, cancel_futures=True)
