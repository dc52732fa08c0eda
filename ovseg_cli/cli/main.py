"""The `ovseg` command's way in: ready for signals and odd surroundings before anything heavy is imported."""

from __future__ import annotations

import os

from ovseg_cli import process
from ovseg_cli.cli import signals


def run() -> None:
    """Run the command line and leave the process with its exit code."""
    signals.install()
    process.OWN = True
    from ovseg_cli.cli import surroundings

    surroundings.prepare()
    # No process that is begun imports modules from the current folder, which may have been downloaded: `python -c` and
    # `-m` would look there first.
    os.environ["PYTHONSAFEPATH"] = "1"
    # GNU OpenMP's threads spin for long at every barrier, which makes inference with small networks 20 times slower as
    # soon as another process keeps a core busy. So measured: 2-3 times slower then, and a tenth slower when alone.
    os.environ.setdefault("GOMP_SPINCOUNT", "10000")
    from ovseg_cli.cli.app import app

    try:
        app(prog_name="ovseg")
    except SystemExit as end:
        signals.leave(end.code)
    except KeyboardInterrupt:  # it came in the instant after the command's own handling of it
        signals.leave(1)
