"""methods: what `ovseg segment --method` takes."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Group, RenderableType

from ovseg_cli.cli.common import Common, command
from ovseg_cli.cli.output import table
from ovseg_cli.methods.catalogue import METHODS, check_method, methods_of

if TYPE_CHECKING:
    from ovseg_cli.profiles.specs import DenseDefaults


def register(app: typer.Typer) -> None:
    """Add this command to the application."""
    command(app, "methods", examples=("ovseg methods", "ovseg methods cliper", "ovseg methods --json"))(methods)


def methods(
    common: Common,
    method: Annotated[
        str | None,
        typer.Argument(metavar="[METHOD]", help="Show this one with its published settings.", show_default=False),
    ] = None,
) -> None:
    """List the methods that can segment, and where they come from; or one with its published settings.

    `auto` takes prototypes when every class has them, `hybrid` when some have them, and the profile's best otherwise.
    With `--profile NAME`: those that it has the networks for.
    """
    if method is not None:
        _show_one(common, method)
        return
    from ovseg_cli.profiles import get_profile

    chosen = common.options.profile
    known = tuple(METHODS) if chosen is None else methods_of(get_profile(chosen))
    rows = [(name, f"{METHODS[name].title}: {METHODS[name].gist}", _source(name)) for name in known]
    common.out.result(
        [_data(name) for name in known],
        human=lambda: common.out.show(table(("method", "left"), ("how", "left"), ("source", "left"), rows=rows)),
        quiet=known,
    )


def _source(name: str) -> str:
    """The paper, and the package where it is another one than ovseg."""
    package = METHODS.origin(name)
    return METHODS[name].source + ("" if package is None else f" (in {package})")


def _data(name: str) -> dict[str, Any]:
    from ovseg_cli.profiles import PROFILES

    info = METHODS[name]
    return {
        "name": name,
        "title": info.title,
        "gist": info.gist,
        "source": info.source,
        "prefilter": info.prefilter,
        "reads": info.reads,
        "networks": list(info.networks),
        "prototypes": info.matches_prototypes,
        "explained": info.explained,
        "package": METHODS.origin(name),
        "profiles": [profile.name for profile in PROFILES.values() if name in methods_of(profile)],
    }


def _show_one(common: Common, method: str) -> None:
    """One method, with a row for each data set that it has published settings for.

    Raises:
        UsageError: There is no such method.
    """
    check_method(method)
    published = list(_published(method))
    data = _data(method) | {
        "settings": [{"settings": row, "clip": clip, **asdict(settings)} for row, clip, settings in published]
    }
    common.out.result(data, human=lambda: common.out.show(_described(method, published)), quiet=[method])


def _published(method: str) -> Iterator[tuple[str, str, DenseDefaults]]:
    """Data set, size of CLIP's vision transformer, and what the method is run with."""
    for size, rows in (("B/16", METHODS[method].settings), ("L/14", METHODS[method].settings_large)):
        yield from ((row, size, settings) for row, settings in rows.items())


def _described(method: str, published: list[tuple[str, str, DenseDefaults]]) -> RenderableType:
    info = METHODS[method]
    told = f"{info.title}, {_source(method)}: {info.gist}."
    if not published:
        return Group(told, "It is run with the settings of the profile.")
    columns = ("settings", "CLIP", "side", "windows", "templates", "scale", "from", "refine", "background")
    rows = table(*((column, "left") for column in columns), rows=[_row(*one) for one in published])
    notes = (
        "side: pixels of the short side. from: the least score of a class that is not background. background: words "
        "for it that compete.\nA profile with models of another size, such as mini, has numbers of its own instead."
    )
    return Group(told, rows, notes)


def _row(row: str, clip: str, settings: DenseDefaults) -> tuple[str, ...]:
    windows = [f"{size}/{stride}" for size, stride in settings.windows]
    words = settings.background_words
    return (
        row,
        clip,
        str(settings.short_side),
        " ".join([*windows, *(["whole"] if settings.whole_image else [])]),
        settings.templates,
        f"{settings.logit_scale:g}",
        "-" if settings.threshold is None else f"{settings.threshold:g}",
        settings.refine,
        "-" if not words else "1 word" if len(words) == 1 else f"{len(words)} words",
    )
