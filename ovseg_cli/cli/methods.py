"""methods: what `ovseg segment --method` takes."""

from __future__ import annotations

import typer

from ovseg_cli.cli.common import Common, command
from ovseg_cli.cli.output import table
from ovseg_cli.methods.catalogue import METHODS


def register(app: typer.Typer) -> None:
    """Add this command to the application."""
    command(app, "methods", examples=("ovseg methods", "ovseg methods --json"))(methods)


def methods(common: Common) -> None:
    """List the methods that can segment, and where they come from.

    `auto` takes prototypes when every class has them, `hybrid` when some have them, and the profile's best otherwise.
    """
    rows = [(name, f"{info.title}: {info.gist}", info.source) for name, info in METHODS.items()]
    data = [
        {
            "name": name,
            "title": info.title,
            "gist": info.gist,
            "source": info.source,
            "prefilter": info.prefilter,
            "prototypes": name in ("prototype", "hybrid"),
        }
        for name, info in METHODS.items()
    ]
    common.out.result(
        data,
        human=lambda: common.out.show(table(("method", "left"), ("how", "left"), ("source", "left"), rows=rows)),
        quiet=list(METHODS),
    )
