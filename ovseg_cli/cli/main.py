"""The `ovseg` command: registers the commands and runs them."""

from __future__ import annotations

import os
import signal
import sys

import typer

from ovseg_cli.cli import bundles, classes, demo, doctor, evaluate, explain, methods, profiles, segment
from ovseg_cli.cli.common import OvsegGroup, Terminated, root_callback

app = typer.Typer(
    name="ovseg",
    cls=OvsegGroup,
    rich_markup_mode="rich",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)


_EXAMPLES = (
    'ovseg add-class "chocolate glazed donut"',
    "ovseg segment photos/ --classes cat,dog",
    "ovseg eval --gt labels/",
)


@root_callback(app, examples=_EXAMPLES)
def ovseg() -> None:
    """Name every pixel of a picture with words that you choose, without training."""


classes.register(app)
bundles.register(app)
segment.register(app)
explain.register(app)
evaluate.register(app)
methods.register(app)
profiles.register(app)
doctor.register(app)
demo.register(app)


def _terminate(_signal: int, _frame: object) -> None:
    """End like Ctrl-C (`docker stop`, `timeout`): what is done stays done, and the run is marked as interrupted."""
    raise Terminated


def run() -> None:
    """Run the command line and leave the process with its exit code."""
    # GNU OpenMP's threads spin for long at every barrier, which makes inference with small networks 20 times slower as
    # soon as another process keeps a core busy. So measured: 2-3 times slower then, and a tenth slower when alone.
    os.environ.setdefault("GOMP_SPINCOUNT", "10000")
    signal.signal(signal.SIGTERM, _terminate)
    for stream in (sys.stdout, sys.stderr):
        # A class name that the terminal's encoding lacks must not end the command, nor a file name that is no Unicode,
        # which leaves as the bytes that it is.
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="surrogateescape" if stream.encoding.lower() in {"utf-8", "utf8"} else "replace")
    app(prog_name="ovseg")
