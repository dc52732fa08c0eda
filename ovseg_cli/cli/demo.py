"""demo: the whole main job on bundled models and bundled pictures."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ovseg_cli.cli.classes import build_planned, class_data, write_contact_sheet
from ovseg_cli.cli.common import Common, command
from ovseg_cli.cli.evaluate import show_report
from ovseg_cli.cli.folder import EXIT_SOME_FAILED, run_with_progress, show_summary, summary_data
from ovseg_cli.cli.options import CountOpt
from ovseg_cli.cli.output import amount, short_path
from ovseg_cli.cli.pages import write_with_bar
from ovseg_cli.errors import LabelError, NoInputError, UsageError
from ovseg_cli.files.layout import MASK_FOLDER, OVERLAY_FOLDER

if TYPE_CHECKING:
    from ovseg_cli.store import Store

DEMO_CLASSES = (
    "chocolate glazed donut",
    "cat",
    "dog",
    "car",
    "tree",
    "house",
    "apple",
    "penguin",
    "soccer ball",
    "lion",
)
"""The classes that the first bundled pictures are about."""

DEMO_PICTURES = 20
"""How many of the bundled pictures the demo takes, the first in name order; the others have further classes."""

_BUNDLED = Path("examples", "pictograms")


def register(app: typer.Typer) -> None:
    """Add this command to the application."""
    command(app, "demo", examples=("ovseg demo", "ovseg demo --dir try-it --count 32"))(demo)


def demo(
    common: Common,
    folder: Annotated[
        Path, typer.Option("--dir", metavar="DIR", help="Where the demo keeps its store and its results.")
    ] = Path("ovseg-demo"),
    count: CountOpt = None,
    images: Annotated[
        Path | None,
        typer.Option(
            "--images",
            metavar="DIR",
            help="Pictures to segment, all of them. (default: the first 20 of examples/pictograms of the source code)",
            show_default=False,
        ),
    ] = None,
    gt: Annotated[
        Path | None,
        typer.Option(
            "--gt", metavar="DIR", help="Their labels. (default: `labels` beside the pictures)", show_default=False
        ),
    ] = None,
) -> None:
    """See the main job on the example pictures.

    Makes classes, segments the pictures, scores the result and says where to look.
    Uses the bundled models, which know pictograms, not photographs. The second time, what is done is skipped.
    """
    from ovseg_cli.files.discovery import discover
    from ovseg_cli.runs.folder import plan_folder

    pictures = images or bundled_pictures()
    labels = gt or pictures.parent / "labels"
    if gt is not None and not gt.is_dir():
        raise LabelError(f"There is no folder {gt} with labels. Name it with --gt, or leave that out to score nothing.")
    if common.options.store is not None:
        common.out.note(f"the demo keeps a store of its own in {folder}; --dir names another folder")
    common.options = replace(common.options, store=folder / "store", profile=common.options.profile or "mini")
    output, sheet, page = folder / "ovseg-out", folder / "contact-sheet.png", folder / "evaluation.html"
    found = discover([str(pictures)])  # complains now, not after a minute of making classes
    limit = DEMO_PICTURES if images is None else None
    some = limit is not None and len(found) > limit
    with common.open_store() as store:
        made = _make_classes(common, store, count)
        which = f"the first {limit} of the {len(found)} pictures in " if some else ""
        _heading(common, 2, f"Segmenting {which}{pictures}")
        try:
            planned = plan_folder(
                store,
                [str(pictures)],
                output,
                classes=DEMO_CLASSES,
                method="prototype",
                overlay=True,
                limit=limit,
                precision=common.precision,
            )
        except UsageError as error:
            raise UsageError(f"{error} (In the demo: another --dir.)") from error
        for note in planned.notes:
            common.out.note(note)
        summary = run_with_progress(common, store, planned)
        if common.out.mode == "human":
            show_summary(common, summary, overlay=False)
        written = write_with_bar(common, output)
        report = _score(common, store, labels, page, partly=some)
        if made or not sheet.is_file():
            write_contact_sheet(store, DEMO_CLASSES, sheet)
        classes = [class_data(store.get_class(name)) for name in DEMO_CLASSES]

    files = {
        "report": str(written.path),
        "overlays": str(output / OVERLAY_FOLDER),
        "masks": str(output / MASK_FOLDER),
        "contact_sheet": str(sheet),
    }
    if report is not None:
        files["evaluation"] = str(page)

    def human() -> None:
        _heading(common, 4, "Look at")
        places = {
            written.path: "the pictures with their labels, to look through",
            output / OVERLAY_FOLDER: "the same as pictures",
            sheet: "the support images with their masks",
            output / MASK_FOLDER: "the label maps",
        }
        if report is not None:
            places[page] = "every figure, with what it means, and the worst pictures"
        width = max(len(short_path(path)) for path in places)
        for path, what in places.items():
            common.out.line(f"{short_path(path):<{width}}", (f"  {what}", "dim"), copyable=True)

    data: dict[str, Any] = {
        "classes": classes,
        "run": summary_data(summary),
        "report": report,
        "files": files,
    }
    common.out.result(data, human=human, quiet=files.values())
    if summary.failed:
        raise typer.Exit(EXIT_SOME_FAILED)


def bundled_pictures() -> Path:
    """The example pictures of the source code, which a wheel does not carry.

    Raises:
        NoInputError: they are not here.
    """
    import ovseg_cli

    places = (Path(), Path(ovseg_cli.__file__).resolve().parents[1])
    for place in places:
        if (place / _BUNDLED / "images").is_dir():
            return place / _BUNDLED / "images"
    raise NoInputError(
        "The example pictures come with the source code, not with the installed package: "
        "run ovseg demo in a checkout of it, or name pictures with --images DIR."
    )


def _heading(common: Common, number: int, text: str) -> None:
    if common.out.mode == "human":
        if number > 1:
            common.out.line()
        common.out.line((f"{number}. {text}", "bold"))


def _make_classes(common: Common, store: Store, count: int | None) -> int:
    """Make those of the demo's classes that are missing; returns how many."""
    from ovseg_cli.runs.classes import plan_classes

    plan = plan_classes(store, DEMO_CLASSES, "skip")
    there = f" ({len(plan.skip)} are there already)" if plan.skip else ""
    some = f"Making {amount(len(plan.build), 'class', 'classes')}{there}"
    _heading(common, 1, some if plan.build else f"All {len(plan.skip)} classes are there already")
    if plan.skip and count is not None:
        common.out.note("--count is for classes yet to be made; those that are there keep their images")
    # Trees and houses stand in these pictures as objects; COCO-Stuff, whose list decides otherwise, has them as stuff.
    settings = {"count": count, "kind": "thing"}
    return len(build_planned(common, store, replace(plan, skip=()), settings, go_on="Run the same command to go on."))


def _score(common: Common, store: Store, labels: Path, page: Path, *, partly: bool) -> dict[str, Any] | None:
    """Score the run against the labels, if there are any; `partly`: there are labels of other pictures too."""
    from ovseg_cli.evaluation.sources import open_truth
    from ovseg_cli.runs.evaluate import evaluate, last_predictions
    from ovseg_cli.runs.pages import write_page

    if not labels.is_dir():
        common.out.hint(f"There are no labels in {labels}, so nothing is scored.")
        return None
    _heading(common, 3, f"Scoring against {labels}")
    predictions, truth = last_predictions(store), open_truth(labels)
    report = evaluate(predictions, truth)
    data = report.to_dict()
    store.record_evaluation(predictions.run_id, data)
    write_page(page, report, predictions, truth)
    if common.out.mode == "human":
        show_report(common, report, brief=True)
    # the bundled pictures that the demo leaves out are no cause for a warning, and their labels for no other
    if not partly:
        for warning in report.warnings:
            common.out.warning(warning)
    return data
