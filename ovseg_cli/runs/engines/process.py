"""A worker's process: `python -m ovseg_cli.runs.engines.process NUMBER`, with the number of an open connection."""

from __future__ import annotations

import os
import pickle
import signal
import sys
from multiprocessing.connection import Connection
from types import FrameType

from ovseg_cli import process


def _leave(_number: int, _frame: FrameType | None) -> None:
    raise SystemExit(143)  # so that nothing half-written stays


def main(number: int) -> None:
    """Do jobs until the other end closes.

    Args:
        number: The connection's file descriptor.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches all; the run's owner decides
    signal.signal(signal.SIGTERM, _leave)
    process.OWN = True
    from ovseg_cli.runs.engines.workplace import Workplace

    pipe = Connection(number)
    try:
        device, load = pipe.recv()
        workplace = Workplace(pickle.loads(pipe.recv_bytes()), device, pipe.send)  # noqa: S301  # from the run's owner
        workplace.start(load=load)
        while True:
            workplace.do(pipe.recv())
    except (EOFError, OSError):  # the owner is gone, or wants no more
        sys.stderr = open(os.devnull, "w")  # noqa: SIM115  # nobody is left to read what libraries say at the end


if __name__ == "__main__":
    main(int(sys.argv[1]))
