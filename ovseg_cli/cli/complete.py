"""What shells offer when Tab is pressed: names of classes, methods and profiles, without loading what uses them."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import suppress

import typer

from ovseg_cli.errors import OvsegError
from ovseg_cli.files.discovery import expanded
from ovseg_cli.names import ClassList, caseless
from ovseg_cli.places import default_store_path, glance_at_class_names


def complete_class(ctx: typer.Context, incomplete: str) -> list[str]:
    """Classes of the store that is named before."""
    return _fitting(_class_names(ctx), incomplete)


def complete_classes(ctx: typer.Context, incomplete: str) -> list[str]:
    """The same behind the last comma of a list, without those that are in it."""
    before, comma, last = incomplete.rpartition(",")
    taken = ClassList.distinct(before.split(","))
    names = _fitting((name for name in _class_names(ctx) if name not in taken), last.lstrip())
    return [f"{before}{comma}{name}" for name in names]


def complete_method(incomplete: str) -> list[str]:
    """What `--method` takes, heads with a name included."""
    from ovseg_cli.heads.registered import PREFIX, registered
    from ovseg_cli.methods.catalogue import METHODS

    heads: list[str] = []
    with suppress(OvsegError):
        heads = [f"{PREFIX}{name}" for name in registered()]
    return _fitting(("auto", *METHODS, *heads), incomplete)


def complete_profile(incomplete: str) -> list[str]:
    """The model sets."""
    from ovseg_cli.profiles.own import own_files
    from ovseg_cli.profiles.registry import PROFILES

    return _fitting((*PROFILES, *own_files()), incomplete)


def _fitting(names: Iterable[str], incomplete: str) -> list[str]:
    return [name for name in names if caseless(name).startswith(caseless(incomplete))]


def _class_names(ctx: typer.Context) -> Iterator[str]:
    named = ctx.params.get("store") or (ctx.parent.params.get("store") if ctx.parent is not None else None)
    try:
        yield from glance_at_class_names(expanded(named) if named else default_store_path())
    except OvsegError:
        return
