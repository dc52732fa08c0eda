"""A crew of processes on this computer: one for each GPU, or several that share the cores."""

from __future__ import annotations

import contextlib
import os
import pickle
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from multiprocessing.connection import Connection, Pipe, wait

from ovseg_cli.errors import EngineError
from ovseg_cli.runs.engines.crew import Event, Job, Lost
from ovseg_cli.runs.engines.remote import Remote
from ovseg_cli.runs.engines.workplace import Spec
from ovseg_cli.runs.worker import Equipment

_PATIENCE = 1.0
"""Seconds in which a process may put its things in order when it is to end."""

_THREADS = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS")


def cores() -> int:
    """How many threads this process may use: as the environment says, else one for each core that it may run on."""
    given = os.environ.get("OMP_NUM_THREADS", "")
    if given.isdecimal() and int(given) > 0:
        return int(given)
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


class Processes(Remote):
    """Workers in processes of their own, begun afresh: nothing of this one's state is copied.

    Whoever kills one of them kills no other. When this process dies, they end by themselves, after what they are at.

    Args:
        spec: What each is given.
        devices: The device of each.
        told: As `Remote` has it.
    """

    def __init__(self, spec: Spec, devices: Sequence[str], told: Callable[[Equipment], None]) -> None:
        super().__init__(len(devices), told)
        self._spec = pickle.dumps(spec)
        self._unused = list(devices)
        self._threads = max(1, cores() // len(devices)) if all(device == "cpu" for device in devices) else None
        self._processes: dict[int, subprocess.Popen[bytes]] = {}
        self._pipes: dict[int, Connection] = {}
        self._devices: dict[int, str] = {}
        self._number = 0

    def hire(self) -> None:
        """Begin a process; it says that it is free when it has loaded its models."""
        device = self._unused.pop(0)
        ours, theirs = Pipe()
        environment = dict(os.environ)
        if self._threads is not None:
            environment |= dict.fromkeys(_THREADS, str(self._threads))
        try:
            process = subprocess.Popen(  # noqa: S603  # ourselves
                [sys.executable, "-P", "-m", "ovseg_cli.runs.engines.process", str(theirs.fileno())],
                pass_fds=[theirs.fileno()],
                stdin=subprocess.DEVNULL,
                process_group=0,  # Ctrl-C is for the owner of the run
                env=environment | {"PYTHONPATH": os.pathsep.join(path or os.getcwd() for path in sys.path)},
            )
        except OSError as error:
            ours.close()
            raise EngineError(f"A worker cannot be started: {error.strerror}.") from error
        finally:
            theirs.close()
        worker, self._number = self._number, self._number + 1
        self._processes[worker], self._pipes[worker], self._devices[worker] = process, ours, device
        with contextlib.suppress(OSError):  # it is dead, which is heard of in a moment
            ours.send((device, self._load))
            ours.send_bytes(self._spec)

    def give(self, worker: int, job: Job) -> None:
        """Send it a job."""
        with contextlib.suppress(OSError):
            self._pipes[worker].send(job)

    def _hear(self) -> list[Event]:
        heard: list[Event] = []
        numbers = {pipe: worker for worker, pipe in self._pipes.items()}
        if not numbers:
            raise EngineError("No worker is left. What is done stays done.")
        for pipe in wait(list(numbers)):
            worker = numbers[pipe]  # type: ignore[index]  # `wait` gives what it was given
            try:
                event = self._event(worker, self._pipes[worker].recv())
            except (EOFError, OSError, pickle.UnpicklingError):
                event = self._buried(worker)
            if event is not None:
                heard.append(event)
        return heard

    def _buried(self, worker: int) -> Lost:
        self._pipes.pop(worker).close()
        process = self._processes.pop(worker)
        self._unused.append(self._devices.pop(worker))
        _end([process])
        code = process.returncode
        if code >= 0:
            return Lost(worker, f"exit code {code}")
        why = f"killed by {signal.Signals(-code).name}" if -code in {*signal.Signals} else f"killed by signal {-code}"
        return Lost(worker, why)

    def stop(self) -> None:
        """End all processes at once."""
        for pipe in self._pipes.values():
            pipe.close()
        processes = list(self._processes.values())
        for process in processes:
            process.terminate()
        _end(processes)
        self._pipes.clear()
        self._processes.clear()


def _end(processes: Sequence[subprocess.Popen[bytes]]) -> None:
    """Wait for processes, and kill those that do not end."""
    until = time.monotonic() + _PATIENCE
    for process in processes:
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(max(0.0, until - time.monotonic()))
        if process.poll() is None:
            process.kill()
            process.wait()
