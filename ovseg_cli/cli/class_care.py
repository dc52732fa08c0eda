"""rename-class, merge-class, edit-class: what is done to classes that are there."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ovseg_cli.cli.classes import NamesArg, class_data
from ovseg_cli.cli.common import Common, command
from ovseg_cli.cli.complete import complete_class
from ovseg_cli.cli.options import DryRunOpt
from ovseg_cli.cli.output import amount, duration
from ovseg_cli.errors import UsageError

if TYPE_CHECKING:
    from ovseg_cli.models import Models
    from ovseg_cli.prototypes.build import Progress
    from ovseg_cli.runs.classes import NewClass
    from ovseg_cli.store import Store

NameArg = Annotated[str, typer.Argument(metavar="NAME", autocompletion=complete_class, help="The class.")]


def register(app: typer.Typer) -> None:
    """Add these commands to the application."""
    command(
        app,
        "rename-class",
        examples=("ovseg rename-class plane airplane", 'ovseg rename-class mug "my mug"'),
    )(rename_class)
    command(
        app,
        "merge-class",
        examples=("ovseg merge-class car lorry bus --into vehicle", "ovseg merge-class cat kitten --into cat"),
    )(merge_class)
    command(
        app,
        "edit-class",
        examples=("ovseg show-class cat --contact-sheet cat.png", "ovseg edit-class cat --drop 3,7"),
    )(edit_class)


def rename_class(
    common: Common,
    name: NameArg,
    new: Annotated[str, typer.Argument(metavar="NEW", help="The name that it gets.", show_default=False)],
    dry_run: DryRunOpt = False,
) -> None:
    """Give a class another name.

    Its prototypes and support images stay as they are: they were made for the old name.
    """
    from ovseg_cli.errors import ClassExistsError
    from ovseg_cli.names import class_key
    from ovseg_cli.runs.classes import new_names

    out = common.out
    (wanted,) = new_names([new])
    with common.open_store(create=False) as store:
        info = store.get_class(name)
        if class_key(wanted) != class_key(info.name) and store.has_class(wanted):
            raise ClassExistsError(
                f"The store already has a class {store.get_class(wanted).name!r}: choose another name, or make one "
                "class of both with ovseg merge-class"
            )
        renamed = info if dry_run else store.rename_class(info.name, wanted)
    verb = "Would rename" if dry_run else "Renamed"
    data = {"from": info.name, "status": "planned" if dry_run else "renamed", **class_data(renamed)}
    out.result(data, human=lambda: out.line(f"{verb} {info.name} to {wanted}."), quiet=[wanted])


def merge_class(
    common: Common,
    names: NamesArg,
    into: Annotated[
        str,
        typer.Option(
            "--into", metavar="NAME", autocompletion=complete_class, help="What they become.", show_default=False
        ),
    ],
    thing: Annotated[
        bool | None,
        typer.Option(
            "--thing/--stuff", help="Countable objects or matter. (default: what all of them are)", show_default=False
        ),
    ] = None,
    dry_run: DryRunOpt = False,
) -> None:
    """Make one class of several.

    It has all their support images, and prototypes pooled anew from these. The others go. All of it happens, or
    nothing.
    """
    from ovseg_cli.runs.classes import merge_classes, plan_merge

    out = common.out
    asked = None if thing is None else "thing" if thing else "stuff"
    with common.open_store(create=False) as store:
        infos, target, kind = plan_merge(store, names, into, asked)  # type: ignore[arg-type]  # it is one of the two
        shown = ", ".join(info.name for info in infos)
        images = amount(sum(info.support_count for info in infos), "image")
        if dry_run:
            data = {"name": target, "status": "planned", "kind": kind, "merged": [info.name for info in infos]}
            out.result(data, human=lambda: out.line(f"Would merge {shown} into {target} ({images})."), quiet=[target])
            return
        with _pooling(common, store) as (models, tell):
            made = merge_classes(store, models, names, into, kind=kind, progress=tell)
    _told(common, made, f"Merged {shown} into {made.info.name}", "merged")


def edit_class(
    common: Common,
    name: NameArg,
    drop: Annotated[
        str,
        typer.Option(
            "--drop",
            metavar="N,N",
            help="Support images to take out, by their numbers on the contact sheet.",
            show_default=False,
        ),
    ],
    dry_run: DryRunOpt = False,
) -> None:
    """Take bad support images out of a class.

    Its prototypes are pooled anew from the images that are left: the profile's networks look at these again, as the
    features of single pixels are not kept. The images keep their numbers.
    """
    from ovseg_cli.runs.classes import edit_class as take_out
    from ovseg_cli.runs.classes import kept_supports

    out = common.out
    numbers = _numbers(drop)
    with common.open_store(create=False) as store:
        info = store.get_class(name)
        left = kept_supports(store, info.name, numbers)
        dropped = amount(len(numbers), "image")
        if dry_run:
            data = {"name": info.name, "status": "planned", "dropped": numbers, "images": left}
            text = f"Would take {dropped} out of {info.name}, and leave {len(left)}."
            out.result(data, human=lambda: out.line(text), quiet=[info.name])
            return
        with _pooling(common, store) as (models, tell):
            made = take_out(store, models, info.name, numbers, progress=tell)
    _told(common, made, f"Took {dropped} out of {info.name}", "edited")


def _numbers(text: str) -> list[int]:
    """Numbers of support images as typed, each once."""
    parts = [part.strip() for part in text.split(",") if part.strip()]
    if not parts or not all(part.isascii() and part.isdigit() for part in parts):
        raise UsageError(f"--drop takes numbers with commas between them, such as 3,7; got {text!r}.")
    return sorted({int(part) for part in parts})


@contextmanager
def _pooling(common: Common, store: Store) -> Iterator[tuple[Models, Callable[[str, Progress], None]]]:
    """The models of the store's profile, and a progress bar for what they do."""
    models = common.load_models(common.profile_of(store))
    with common.out.progress() as bars:
        task = bars.start("loading the models")
        total = 0

        def tell(_name: str, step: Progress) -> None:
            nonlocal task, total
            if step.stage != "features" or step.total != total:
                bars.remove(task)
                total = step.total
                task = bars.start(step.stage, total=step.total)
            bars.update(task, done=step.done)

        yield models, tell


def _told(common: Common, made: NewClass, what: str, status: str) -> None:
    info = made.info
    prototypes = amount(sum(info.prototype_counts.values()), "prototype")
    text = f"{what}: {amount(info.support_count, 'image')}, {prototypes}, {duration(made.seconds)}."
    data: dict[str, Any] = {"status": status, "seconds": round(made.seconds, 2), **class_data(info)}
    common.out.result(data, human=lambda: common.out.line(text), quiet=[info.name])
