"""What crews of other processes and of a cluster have in common: they hear messages, which become events."""

from __future__ import annotations

import logging
from abc import abstractmethod
from collections import deque
from collections.abc import Callable

from ovseg_cli.errors import EngineError
from ovseg_cli.runs.engines.crew import Broken, Crew, Event, Free, Lost, Made
from ovseg_cli.runs.engines.workplace import Message
from ovseg_cli.runs.worker import Equipment

_MOST_DEATHS_AT_START = 3

log = logging.getLogger("ovseg_cli")


class Remote(Crew):
    """Workers that send messages.

    Args:
        size: How many there are to be.
        told: Is told of the equipment of the first one that is ready.
    """

    def __init__(self, size: int, told: Callable[[Equipment], None]) -> None:
        self.size = size
        self._told = told
        self._equipment: Equipment | None = None
        self._load = False
        self._events: deque[Event] = deque()

    @property
    def batch(self) -> int:
        """That of the first worker which was ready."""
        return 1 if self._equipment is None else self._equipment.batch

    def start(self, *, load: bool) -> None:
        """Have all workers begin; wait for the first one that has its models."""
        self._load = load
        for _ in range(self.size):
            self.hire()
        deaths = 0
        while load and self._equipment is None:
            for event in self._hear():
                if isinstance(event, Lost):
                    deaths += 1
                    if deaths == _MOST_DEATHS_AT_START:
                        raise EngineError(
                            f"Workers die while they load the models (the last one: {event.why}). Memory may be short: "
                            "try fewer --workers."
                        )
                    log.warning("a worker has died while it loaded the models (%s)", event.why)
                    self.hire()
                elif isinstance(event, Broken):
                    raise event.error
                else:
                    self._events.append(event)

    def wait(self) -> Event:
        """What happens next."""
        while not self._events:
            # What ends all comes last: what others have made meanwhile is noted before.
            self._events.extend(sorted(self._hear(), key=lambda event: isinstance(event, Broken)))
        return self._events.popleft()

    @abstractmethod
    def _hear(self) -> list[Event]:
        """Wait until something is heard, and give what has happened; that may be nothing."""

    def _event(self, worker: int, message: Message) -> Event | None:
        """What a message says; None where that is for the log."""
        kind, content = message
        if kind == "made":
            return Made(worker, content)
        if kind == "free":
            return Free(worker)
        if kind == "log":
            level, text = content
            log.log(level, "%s", text)
        elif kind == "ready":
            if self._equipment is None:
                self._equipment = content
                self._told(content)
        else:
            return Broken(worker, content)
        return None
