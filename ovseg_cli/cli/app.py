"""The `ovseg` command with all its commands."""

from __future__ import annotations

import typer

from ovseg_cli.cli.commands import OvsegRoot
from ovseg_cli.cli.common import root_callback

app = typer.Typer(
    name="ovseg",
    cls=OvsegRoot,
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
