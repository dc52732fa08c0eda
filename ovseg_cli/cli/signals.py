"""Ctrl-C and SIGTERM: what is done stays done, and the exit code is 130 or 143, at whatever instant they come.

A command is interrupted by an exception, so that it can put its things in order. That alone is not enough:

- Before and after a command there is nothing to put in order, and nobody to catch an exception: the process ends at
  once.
- Python drops an exception that is raised while it imports some modules, collects garbage or runs a destructor. So it
  is raised again until somebody handles it.
- What a library makes of the exception may end in any exit code. So the code is decided here, last of all.

Only the standard library's lightest modules are imported: nothing else stands between a signal and this one.
"""

from __future__ import annotations

import atexit
import os
import signal
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from types import FrameType

_AGAIN = 0.25  # seconds after which an exception that nobody handles is raised again
_IMPATIENT = 1.0  # seconds after the first signal in which another one is taken for its echo (`timeout` sends two)
_CODES = {signal.SIGINT: 130, signal.SIGTERM: 143}


class Terminated(KeyboardInterrupt):
    """SIGTERM came: the command ends as it does at Ctrl-C, with an exit code of its own."""


class _State:
    """Where this process stands.

    Attributes:
        working: whether a command is at work, which wants to put its things in order.
        first: the signal that ends the process; None while none came.
        since: when it came, by the monotonic clock.
        code: the exit code without a signal; None until the command has ended.
    """

    working: bool = False
    first: signal.Signals | None = None
    since: float = 0.0
    code: int | None = None


_state = _State()


def install() -> None:
    """Handle both signals from now on, to the last instant of the process."""
    # What was started with Ctrl-C ignored (a job in the background) goes on ignoring it.
    if signal.getsignal(signal.SIGINT) is not signal.SIG_IGN:
        signal.signal(signal.SIGINT, _on_signal)
    signal.signal(signal.SIGTERM, _on_signal)
    if hasattr(signal, "SIGALRM"):
        signal.signal(signal.SIGALRM, _on_alarm)
    sys.unraisablehook = _on_unraisable
    atexit.register(_end)  # what is registered first is called last


@contextmanager
def working() -> Iterator[None]:
    """While the block runs, a signal is raised as an exception there: `KeyboardInterrupt`, or `Terminated`."""
    _state.working = True
    try:
        yield
    finally:
        _state.working = False
        _alarm(0)


def leave(code: str | int | None) -> None:
    """End the process by `SystemExit`, with this code unless a signal came.

    Args:
        code: as `SystemExit` has it.
    """
    _state.code = code if isinstance(code, int) else 0 if code is None else 1
    if _state.first is not None:
        _state.code = _CODES[_state.first]
    raise SystemExit(_state.code)


def _on_signal(number: int, _frame: FrameType | None) -> None:
    first = _state.first is None
    if first:
        _state.first, _state.since = signal.Signals(number), time.monotonic()
    if not _state.working:
        _end_at_once()
    if not first and _handled() and time.monotonic() - _state.since < _IMPATIENT:
        return
    _alarm(_AGAIN)
    _raise()


def _on_alarm(_number: int, _frame: FrameType | None) -> None:
    if _state.working and not _handled():
        _raise()


def _on_unraisable(dropped: sys.UnraisableHookArgs) -> None:
    """Python tells of an exception that it drops. Of this one nobody need hear: it is raised again."""
    if _state.first is None or not isinstance(dropped.exc_value, KeyboardInterrupt):
        sys.__unraisablehook__(dropped)


def _raise() -> None:
    raise Terminated if _state.first == signal.SIGTERM else KeyboardInterrupt


def _handled() -> bool:
    """Whether the interruption is on its way through handlers just now, or what they made of it."""
    error: BaseException | None = sys.exception()
    while error is not None:
        if isinstance(error, KeyboardInterrupt):
            return True
        error = error.__context__
    return False


def _alarm(seconds: float) -> None:
    if hasattr(signal, "setitimer"):
        signal.setitimer(signal.ITIMER_REAL, seconds, seconds)


def _end_at_once() -> None:
    """End without a word to anybody but the person: there is nothing to put in order."""
    if _state.first is None:
        return
    if _state.code is None:
        with suppress(OSError):
            os.write(2, b"error: terminated\n" if _state.first == signal.SIGTERM else b"error: interrupted\n")
    os._exit(_CODES[_state.first])


def _end() -> None:
    """The last that Python calls. What comes after it, the end of the interpreter, would swallow a signal."""
    if _state.code is None:  # not by `leave`: whoever called `run` goes their own way
        return
    for stream in (sys.stdout, sys.stderr):
        with suppress(OSError, ValueError):
            stream.flush()
    os._exit(_CODES[_state.first] if _state.first is not None else _state.code)
