"""The `ovseg` command with all its commands."""

from __future__ import annotations

import typer

from ovseg_cli.cli import (
    benchmark,
    bundles,
    class_care,
    classes,
    compare,
    config,
    datasets,
    demo,
    doctor,
    evaluate,
    explain,
    exports,
    heads,
    methods,
    profiles,
    segment,
    store,
)
from ovseg_cli.cli.common import OvsegGroup, root_callback

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
class_care.register(app)
bundles.register(app)
segment.register(app)
exports.register(app)
explain.register(app)
evaluate.register(app)
benchmark.register(app)
compare.register(app)
heads.register(app)
methods.register(app)
datasets.register(app)
profiles.register(app)
config.register(app)
store.register(app)
doctor.register(app)
demo.register(app)
