"""Counting pairs of label maps in several processes.

`multiprocessing` would import the caller's script into each of them, which does harm where that script is not written
for it. These processes import the counter's module, and nothing else.
"""

from __future__ import annotations

import json
import logging
import os
import pickle
import signal
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from typing import IO, TYPE_CHECKING, Any, TypeVar

from ovseg_cli.evaluation.pictures import PictureCounts

if TYPE_CHECKING:
    from ovseg_cli.evaluation.scoring import PairCounter

__all__ = ["counted_by_processes", "sensible_workers"]

Item = TypeVar("Item")

CHUNK = 64
"""Pairs that a process counts before it reports: so many that reporting costs nothing, so few that bars move."""

PAIRS_PER_WORKER = 400
"""A process takes as long to start as this many pairs of 500 x 375 pixels to count, or a little longer."""

_CHILD = (
    "import json, sys; sys.path[:] = json.loads(sys.argv[1]); from ovseg_cli.evaluation import workers as w; w.serve()"
)


def sensible_workers(pairs: int) -> int:
    """How many processes count so many pairs soonest: 1 where starting others would take longer than it saves."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return max(1, min(cores, pairs // PAIRS_PER_WORKER))


@dataclass(frozen=True, slots=True)
class _Outcome:
    """What became of a chunk: the records, or those before the error that ended it; and what was logged meanwhile."""

    pictures: list[PictureCounts]
    error: BaseException | None
    messages: list[tuple[str, int, str]]


def counted_by_processes(pairs: Sequence[Item], counter: PairCounter[Item], workers: int) -> Iterator[PictureCounts]:
    """Count pairs, as `map(counter.count, pairs)` would.

    Args:
        pairs: What `counter` can read.
        counter: Copied into each process; in the end it has the account of all copies.
        workers: How many processes.

    Yields:
        The records, in the order of `pairs`.

    Raises:
        RuntimeError: A process was ended from outside.
        Exception: Whatever `counter` raised at the first pair that it could not count.
    """
    chunks = [pairs[i : i + CHUNK] for i in range(0, len(pairs), CHUNK)]
    workers = min(workers, len(chunks))
    with ExitStack() as stack:
        processes = []
        for i in range(workers):
            processes.append(stack.enter_context(_started(counter, chunks[i::workers])))
            stack.callback(processes[i].kill)
        for i in range(len(chunks)):
            outcome = _received(processes[i % workers])
            for name, level, message in outcome.messages:
                logging.getLogger(name).log(level, "%s", message)
            yield from outcome.pictures
            if outcome.error is not None:
                raise outcome.error
        for process in processes:
            counter.absorb(_received(process))


def _started(counter: Any, chunks: Sequence[Any]) -> subprocess.Popen[bytes]:
    process = subprocess.Popen(  # noqa: S603  # this interpreter, and a command line of ours
        [sys.executable, "-P", "-c", _CHILD, json.dumps(sys.path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )
    if process.stdin is None:
        raise RuntimeError("the process has no input")
    with process.stdin as work:
        pickle.dump((counter, chunks), work)
    return process


def _received(process: subprocess.Popen[bytes]) -> Any:
    if process.stdout is None:
        raise RuntimeError("the process has no output")
    try:
        return pickle.load(process.stdout)  # noqa: S301  # from a process that was started here
    except EOFError:
        raise RuntimeError(f"a process that counted label maps was ended (exit status {process.wait()})") from None


class _Messages(logging.Handler):
    """Keeps what is logged."""

    def __init__(self) -> None:
        super().__init__(logging.INFO)
        self.kept: list[tuple[str, int, str]] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.kept.append((record.name, record.levelno, record.getMessage()))


def serve(work: IO[bytes] | None = None, results: IO[bytes] | None = None) -> None:
    """Be one of the processes: count the chunks that come in, and send out what became of them.

    Args:
        work: Where they come from; None for the standard input.
        results: Where to send to; None for the standard output.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # who pressed it meant the process that started this one
    results = results or os.fdopen(os.dup(sys.stdout.fileno()), "wb")
    sys.stdout = sys.stderr  # nothing else may get between the results
    messages = _Messages()
    logging.basicConfig(level=logging.INFO, handlers=[messages])
    counter, chunks = pickle.load(work or sys.stdin.buffer)  # noqa: S301  # from the process that started this one
    for chunk in chunks:
        outcome = _Outcome([], None, messages.kept)
        try:
            outcome.pictures.extend(map(counter.count, chunk))
        except Exception as error:
            outcome = _Outcome(outcome.pictures, error, messages.kept)
        pickle.dump(outcome, results)
        results.flush()
        messages.kept = []
        if outcome.error is not None:
            return
    pickle.dump(counter, results)
    results.close()
