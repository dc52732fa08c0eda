"""A crew on a cluster of Ray: each worker is an actor that loads the models once."""

from __future__ import annotations

import logging
import os
import signal
import socket
import time
from collections.abc import Callable
from contextlib import chdir, suppress
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

import ovseg_cli
from ovseg_cli.errors import EngineError, UsageError
from ovseg_cli.runs.engines.crew import Event, Lost
from ovseg_cli.runs.engines.remote import Remote
from ovseg_cli.runs.engines.workplace import Message, Spec, Workplace

if TYPE_CHECKING:
    from ovseg_cli.runs.engines.crew import Job
    from ovseg_cli.runs.worker import Equipment

_TICK = 1.0  # seconds between looks at whether a signal came
_KNOCK = 10.0  # seconds in which a cluster must answer
_LONG = 20.0  # seconds without a worker after which that is told

log = logging.getLogger("ovseg_cli")


def check_ray() -> None:
    """Find out whether Ray is here.

    Raises:
        UsageError: It is not installed.
    """
    if find_spec("ray") is None:
        raise UsageError('--engine ray needs Ray, which is not installed: pip install "ovseg[ray]"')


def connect(address: str | None, *, workers: int | None) -> bool:
    """Join a cluster, or start a small one on this computer, without a dashboard, and without a word to anybody.

    Args:
        address: Where it is; None for `RAY_ADDRESS`, and for a small one where that is not set.
        workers: How many workers a small one must have room for.

    Returns:
        Whether this process was not connected before, so that it is to leave the cluster at the end.

    Raises:
        EngineError: Nobody answers there.
    """
    where = address or os.environ.get("RAY_ADDRESS") or None
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    import ray

    if ray.is_initialized():
        return False
    if where is not None:
        _knock(where)
    if log.getEffectiveLevel() > logging.INFO:
        logging.getLogger("ray").setLevel(logging.ERROR)  # it has remarks about itself
    handlers = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    quiet: dict[str, Any] = {"log_to_driver": False, "logging_level": logging.ERROR, "configure_logging": False}
    small = {} if where else {"num_cpus": max(_cores(), workers or 1), "include_dashboard": False}
    try:
        # Workers look for modules in the folder that is current now, before all others: the user's may hold a numpy.py.
        with chdir(Path(ovseg_cli.__file__).parents[1]):
            ray.init(address=where or "local", **quiet, **small)
    except (ConnectionError, ValueError, RuntimeError, TimeoutError, ray.exceptions.RayError) as error:
        first = next(iter(str(error).splitlines()), type(error).__name__)
        if where is None:
            raise EngineError(f"Ray cannot be started on this computer: {first}") from error
        raise _nobody(where, first) from error
    else:
        _keep_off_stdout(ray)
    finally:
        for number, handler in handlers.items():  # Ray has put its own in their place
            with suppress(ValueError, TypeError):
                signal.signal(number, handler)
    return True


def _cores() -> int:
    """How many cores a small cluster has: all that this process may run on, however many threads it uses."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _knock(address: str) -> None:
    """Find out whether anybody listens at HOST:PORT; Ray would ask for many minutes."""
    host, _, port = address.rpartition("://")[2].rpartition(":")
    if not host or not port.isdecimal():
        return  # `auto`, or a kind of address that Ray knows
    try:
        socket.create_connection((host.strip("[]"), int(port)), timeout=_KNOCK).close()
    except (OSError, OverflowError) as error:
        raise _nobody(address, getattr(error, "strerror", None) or str(error)) from error


def _nobody(address: str, why: str) -> EngineError:
    return EngineError(
        f"No Ray cluster answers at {address}: {why.rstrip('.')}. Name it as `ray start --head` tells it, with "
        "--ray-address HOST:PORT, and with the cluster's token, where it has one, in RAY_AUTH_TOKEN."
    )


def _keep_off_stdout(ray: Any) -> None:
    """Ray prints to stdout when a worker dies, which we tell ourselves: stdout is for data."""
    inside: Any = getattr(getattr(ray, "_private", None), "worker", None)
    if hasattr(inside, "print_to_stdstream"):
        inside.print_to_stdstream = lambda *said, **_: log.debug("ray: %s", said)


class Seat:
    """What an actor is: it keeps a workplace, and hands over its messages call by call.

    Args:
        spec: What each worker is given.
        device: Where it computes.
        owner: The version of ovseg that the run's owner has.
    """

    def __init__(self, spec: Spec, device: str, owner: str) -> None:
        self._messages: list[Message] = []
        self._owner = owner
        self._workplace = Workplace(spec, device, self._messages.append)

    def start(self, *, load: bool) -> list[Message]:
        """Load the models, if need be."""
        here = version("ovseg")
        if here != self._owner:
            wrong = EngineError(
                f"A worker has ovseg {here}, and this is {self._owner}: have the same one on the whole cluster."
            )
            return [("error", wrong)]
        self._workplace.start(load=load)
        return self._told()

    def do(self, job: Job) -> list[Message]:
        """Do a job."""
        self._workplace.do(job)
        return self._told()

    def _told(self) -> list[Message]:
        messages = list(self._messages)
        self._messages.clear()
        return messages


class Actors(Remote):
    """Workers on a cluster. One that dies, with its computer or alone, is replaced wherever there is room.

    Args:
        spec: What each is given: it is put into the cluster's memory once.
        workers: How many there are to be; None for one for each GPU of the cluster, or for each core without GPUs.
        device: Where they compute; "auto" for a GPU where the cluster has some.
        address: Where the cluster is.
        told: As `Remote` has it.
        most: How many jobs there are: more workers have nothing to do.

    Raises:
        EngineError: There is no cluster.
    """

    def __init__(
        self,
        spec: Spec,
        workers: int | None,
        device: str,
        address: str | None,
        told: Callable[[Equipment], None],
        *,
        most: int,
    ) -> None:
        self._ours = connect(address, workers=workers)
        import ray

        self._ray = ray
        has = ray.cluster_resources()
        gpus = 0 if device == "cpu" else int(has.get("GPU", 0))
        if device not in ("auto", "cpu") and not gpus:
            self._leave()
            raise EngineError(f"The cluster has no GPU, and --device {device} asks for one: take --device auto or cpu.")
        room = gpus or int(has.get("CPU", 1))
        super().__init__(max(1, min(workers or room, most)), told)
        self._device = device
        self._wants = {"num_cpus": 1, "num_gpus": 1 if gpus else 0}
        self._spec = ray.put(spec)
        self._calls: dict[Any, int] = {}
        self._actors: dict[int, Any] = {}
        self._placed: list[Any] = []
        self._number = 0
        self._quiet_since = time.monotonic()

    def hire(self) -> None:
        """Have an actor wherever the cluster has room for it, now or later."""
        kind = self._ray.remote(Seat).options(**self._wants, max_restarts=0, scheduling_strategy="SPREAD")
        worker, self._number = self._number, self._number + 1
        self._actors[worker] = kind.remote(self._spec, self._device, version("ovseg"))
        self._calls[self._actors[worker].start.remote(load=self._load)] = worker
        self._placed.append(self._actors[worker].__ray_ready__.remote())

    def give(self, worker: int, job: Job) -> None:
        """Send it a job."""
        self._calls[self._actors[worker].do.remote(job)] = worker

    def _hear(self) -> list[Event]:
        answered, _ = self._ray.wait(list(self._calls), num_returns=1, timeout=_TICK)
        heard: list[Event] = []
        for call in answered:
            worker = self._calls.pop(call)
            try:
                messages = self._ray.get(call)
            except self._ray.exceptions.RayTaskError as error:
                raise error.as_instanceof_cause() from None
            except self._ray.exceptions.RayError as error:
                actor = self._actors.pop(worker)
                with suppress(Exception):  # it may only be out of reach
                    self._ray.kill(actor)
                heard.append(Lost(worker, _reason(error)))
                continue
            events = [self._event(worker, message) for message in messages]
            heard += [event for event in events if event is not None]
        self._tell_waiting(answered=bool(answered))
        return heard

    def _tell_waiting(self, *, answered: bool) -> None:
        """Say so when the cluster has had no room for a worker for long."""
        now = time.monotonic()
        if answered or self._equipment is not None or not self._load:
            self._quiet_since = now
        elif now - self._quiet_since > _LONG:
            self._quiet_since = now
            if self._ray.wait(self._placed, timeout=0)[0]:
                return  # it has a place, and loads its models there
            free = self._ray.available_resources()
            log.warning(
                "no worker is ready yet: each takes %s, and the cluster has %g CPUs and %g GPUs free",
                "1 GPU and 1 CPU" if self._wants["num_gpus"] else "1 CPU",
                free.get("CPU", 0),
                free.get("GPU", 0),
            )

    def stop(self) -> None:
        """Kill the actors, and leave the cluster."""
        for actor in self._actors.values():
            with suppress(Exception):
                self._ray.kill(actor)
        self._actors.clear()
        self._calls.clear()
        self._leave()

    def _leave(self) -> None:
        if self._ours:
            self._ours = False
            self._ray.shutdown()


def _reason(error: Exception) -> str:
    """Why a worker died, in a few words: Ray tells a page, in which all that can ever kill one is named."""
    text = str(error).lower()
    if type(error).__name__ == "OutOfMemoryError" or "running low on memory" in text:
        return "its computer ran out of memory"
    if "its node has died" in text or "the node was" in text:
        return "its computer is lost"
    return "its process ended"
