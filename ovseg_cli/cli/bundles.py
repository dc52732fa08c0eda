"""export-class, import-class: classes from one store into another, as one file."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from ovseg_cli.cli.classes import NamesArg, class_data
from ovseg_cli.cli.common import Common, command
from ovseg_cli.cli.options import DryRunOpt
from ovseg_cli.cli.output import ProgressBars, amount, file_size
from ovseg_cli.files.discovery import expanded

if TYPE_CHECKING:
    from ovseg_cli.profiles import Profile
    from ovseg_cli.store.transfer import ImportPlan


def register(app: typer.Typer) -> None:
    """Add these commands to the application."""
    command(
        app,
        "export-class",
        examples=(
            "ovseg export-class cat -o cat.ovclass",
            'ovseg export-class cat dog "glazed donut" -o animals.ovclass --image-side 128',
        ),
    )(export_class)
    command(
        app,
        "import-class",
        examples=(
            "ovseg import-class cat.ovclass",
            "ovseg import-class *.ovclass --if-exists skip",
            "ovseg --store new-store import-class cat.ovclass --dry-run",
        ),
    )(import_class)


def export_class(
    common: Common,
    names: NamesArg,
    output: Annotated[
        Path, typer.Option("--output", "-o", metavar="FILE", help="The file to write.", show_default=False)
    ],
    image_side: Annotated[
        int,
        typer.Option(
            "--image-side",
            min=16,
            max=2048,
            metavar="PIXELS",
            help="Support images with a longer side than this are scaled down. They only show how the class was made.",
        ),
    ] = 256,
    dry_run: DryRunOpt = False,
) -> None:
    """Write classes into one file, for another store.

    It holds the prototypes, how they were made, and the support images. The other store must have the same
    feature extractors: the same profile, as a rule.
    """
    from ovseg_cli.runs.classes import unique_names
    from ovseg_cli.store.transfer import export_classes

    out = common.out
    with common.open_store(create=False) as store:
        infos = [store.get_class(name) for name in unique_names(names)]
        if not dry_run:
            with out.progress() as bars:
                export_classes(
                    store,
                    [info.name for info in infos],
                    output,
                    image_side=image_side,
                    progress=_progress_teller(bars, "writing", len(infos)),
                )
    nbytes = None if dry_run else output.stat().st_size
    data = {
        "file": str(output),
        "status": "planned" if dry_run else "written",
        "bytes": nbytes,
        "classes": [info.name for info in infos],
    }

    def human() -> None:
        shown = ", ".join(info.name for info in infos)
        size = "" if nbytes is None else f" ({file_size(nbytes)})"
        out.line(f"{'Would write' if dry_run else 'Wrote'} {shown} to {output}{size}.", copyable=True)

    out.result(data, human=human, quiet=[output])


def import_class(
    common: Common,
    files: Annotated[list[Path], typer.Argument(metavar="FILE", help="Files that `ovseg export-class` wrote.")],
    if_exists: Annotated[
        Literal["error", "skip", "replace"],
        typer.Option("--if-exists", help="What to do about a class that the store holds."),
    ] = "error",
    dry_run: DryRunOpt = False,
) -> None:
    """Take classes from files into the store.

    The files are checked wholly before anything is stored, and then all their classes are stored, or none.
    A store without classes takes the profile that they come from.
    """
    from ovseg_cli.store import Store
    from ovseg_cli.store.bundle import open_bundle
    from ovseg_cli.store.transfer import choose_profile, import_classes, plan_import

    out = common.out
    with ExitStack() as stack:
        bundles = [stack.enter_context(open_bundle(expanded(file))) for file in dict.fromkeys(files)]
        store = common.find_store(any_profile=True)
        if store is not None and store.class_names():
            store = common.find_store()  # refuses another --profile than the store's own
        profile = choose_profile(bundles, store, common.options.profile)
        plan = plan_import(bundles, store, if_exists)
        skipped = [{"name": name, "status": "skipped"} for name in plan.skip]
        if dry_run:
            planned = _planned(plan)
            out.result(
                skipped + planned, human=lambda: _show_plan(common, plan, profile), quiet=[p["name"] for p in planned]
            )
            return
        store = stack.enter_context(Store.open(common.options.store, profile=profile))
        with out.progress() as bars:
            infos = import_classes(store, plan, progress=_progress_teller(bars, "storing", len(plan.take)))

    def human() -> None:
        for name in plan.skip:
            out.line(f"{name}: already there, left as it is")
        for info in infos:
            count = sum(info.prototype_counts.values())
            out.line(f"{info.name}: {amount(info.support_count, 'image')}, {amount(count, 'prototype')}")
        out.hint(f"{amount(len(infos), 'class', 'classes')} imported into {store.path} (profile {profile.name})")

    out.result(
        skipped + [{"status": "imported", **class_data(info)} for info in infos],
        human=human,
        quiet=[info.name for info in infos],
    )


def _planned(plan: ImportPlan) -> list[dict[str, Any]]:
    """The classes that would be imported, as `--json` prints them."""
    return [
        {
            "name": item.name,
            "status": "planned",
            "file": str(bundle.path),
            "images": item.images,
            "prototypes": item.prototypes,
        }
        for bundle, item in ((bundle, bundle.classes[number]) for bundle, number in plan.take)
    ]


def _show_plan(common: Common, plan: ImportPlan, profile: Profile) -> None:
    for name in plan.skip:
        common.out.line(f"{name}: already there, would stay as it is")
    for item in _planned(plan):
        counts = f"{amount(item['images'], 'image')}, {amount(item['prototypes'], 'prototype')}"
        common.out.line(f"{item['name']}: {counts}, would be imported from {item['file']} (profile {profile.name})")


def _progress_teller(bars: ProgressBars, what: str, total: int) -> Callable[[int], None]:
    """A callback that moves one bar over the classes."""
    task = bars.start(what, total=total)
    return lambda done: bars.update(task, done=done)
