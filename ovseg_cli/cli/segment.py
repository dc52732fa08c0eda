"""segment: a label map for every picture."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from ovseg_cli.cli.common import Common, command
from ovseg_cli.cli.exported import export_after_run, export_data, show_export
from ovseg_cli.cli.folder import EXIT_SOME_FAILED, run_with_progress, show_summary, summary_data
from ovseg_cli.cli.options import (
    RUNNING,
    BatchOpt,
    DevicesOpt,
    DryRunOpt,
    EngineOpt,
    ImageClassesOpt,
    PlaceText,
    Query,
    RayAddressOpt,
    WorkersOpt,
    split_names,
    with_query,
)
from ovseg_cli.cli.output import amount
from ovseg_cli.cli.pages import report_data, show_where, write_with_bar
from ovseg_cli.exports.registry import FORMATS, SCORES, wanted_formats

if TYPE_CHECKING:
    from ovseg_cli.runs.plan import Plan


_OUTPUT = PlaceText("ovseg-out")


def register(app: typer.Typer) -> None:
    """Add this command to the application."""
    command(
        app,
        "segment",
        examples=(
            "ovseg segment photos/ --classes cat,dog",
            "ovseg segment 'photos/**/*.jpg' -c cat -c dog --overlay -o result",
            "ovseg segment photos/ -c cat,dog --devices 0,1",
            "ovseg segment s3://bucket/photos -c cat,dog -o s3://bucket/labels",
            "find photos -name '*.png' | ovseg segment - --method gem -c cat",
        ),
    )(segment)


@with_query
def segment(
    common: Common,
    inputs: Annotated[
        list[str],
        typer.Argument(metavar="INPUT", help="Pictures, folders, patterns, URLs, a .txt list, or - for stdin."),
    ],
    query: Query,
    image_classes: ImageClassesOpt = None,
    output: Annotated[
        PlaceText,
        typer.Option("--output", "-o", metavar="DIR", parser=PlaceText, help="Where the results go; also a URL."),
    ] = _OUTPUT,
    overlay: Annotated[
        bool, typer.Option("--overlay/--no-overlay", help="Also draw the labels on the pictures.")
    ] = False,
    explain: Annotated[
        bool,
        typer.Option(
            "--explain/--no-explain", help="Also show why: the prototypes and support images behind each class found."
        ),
    ] = False,
    report: Annotated[
        bool,
        typer.Option(
            "--report/--no-report", help="Also write report.html, one page to look through the run: see ovseg report."
        ),
    ] = False,
    formats: Annotated[
        list[str] | None,
        typer.Option(
            "--format",
            metavar="NAME",
            help=f"Also write {', '.join([*FORMATS, *SCORES])}; may be given several times.",
            show_default=False,
        ),
    ] = None,
    overwrite: Annotated[
        bool,
        typer.Option(
            "--overwrite",
            rich_help_panel=RUNNING,
            help="Make everything again; also to change the classes of a folder.",
        ),
    ] = False,
    limit: Annotated[
        int | None,
        typer.Option(
            "--limit",
            min=1,
            metavar="N",
            rich_help_panel=RUNNING,
            help="Only the first N pictures.",
            show_default=False,
        ),
    ] = None,
    retry_failed: Annotated[
        bool,
        typer.Option(
            "--retry-failed",
            rich_help_panel=RUNNING,
            help="Only the pictures that have failed before. (Without it, they are tried again with all others.)",
        ),
    ] = False,
    batch: BatchOpt = None,
    workers: WorkersOpt = None,
    devices: DevicesOpt = None,
    engine: EngineOpt = "local",
    ray_address: RayAddressOpt = None,
    dry_run: DryRunOpt = False,
    fail_fast: Annotated[
        bool,
        typer.Option("--fail-fast", rich_help_panel=RUNNING, help="Stop at the first picture that cannot be read."),
    ] = False,
) -> None:
    """Name every pixel of a picture, or of many.

    Without --classes, all classes of the store are looked for, or those in the file of --image-classes.
    What is done is skipped the next time, so an interrupted run goes on where it stopped.
    Pictures that cannot be read are told, and tried again the next time; none of them stops the run.
    Exit code 3: finished, but some pictures could not be read.
    """
    from ovseg_cli.files.discovery import expanded
    from ovseg_cli.files.image_classes import read_image_classes
    from ovseg_cli.runs.engines.options import EngineOptions
    from ovseg_cli.runs.folder import plan_folder
    from ovseg_cli.runs.plan import find_images

    who = EngineOptions(engine=engine, workers=workers, devices=devices, ray_address=ray_address)
    # What is wrong with the request itself is told before a store is made for it.
    wanted = wanted_formats(split_names(formats))
    target = expanded(output)
    images = find_images(inputs, target)
    shown = None if image_classes is None else read_image_classes(image_classes)
    with common.store_for_planning() as store:
        planned = plan_folder(
            store,
            inputs,
            target,
            images=images,
            classes=query.classes,
            method=query.method,
            options=query.options,
            overlay=overlay,
            explain=explain,
            probabilities=wanted.scores,
            overwrite=overwrite,
            limit=limit,
            retry_failed=retry_failed,
            image_classes=shown,
            precision=common.precision,
            planning=dry_run,
        )
    for note in (*query.notes, *planned.notes):
        common.out.note(note)
    if dry_run:
        _show_plan(common, planned.plan)
        return
    with common.open_store() as store:
        summary = run_with_progress(common, store, planned, fail_fast=fail_fast, batch=batch, engine=who)
    exported = export_after_run(common, summary.output, wanted.exports if summary.done or summary.skipped else ())
    written = write_with_bar(common, summary.output) if report else None

    def human() -> None:
        show_summary(common, summary, overlay=overlay, explain=explain)
        for one in exported:
            show_export(common, one)
        if written is not None:
            show_where(common, written)

    data = summary_data(summary) | ({"exports": [*map(export_data, exported)]} if exported else {})
    data |= {"report": report_data(written)} if written is not None else {}
    common.out.result(data, human=human, quiet=[summary.output])
    if summary.failed or any(one.failed for one in exported):
        raise typer.Exit(EXIT_SOME_FAILED)


def _show_plan(common: Common, plan: Plan) -> None:
    from ovseg_cli.names import short_name

    out, request = common.out, plan.request
    actions = {
        "segment": "would segment",
        "explain": "would explain only",
        "draw": "would draw the overlay only",
        "skip": "is done",
    }

    def human() -> None:
        for item in plan.items:
            given = "" if item.classes is None else f" ({', '.join(item.classes) or 'no class'})"
            out.line(
                f"{item.image.path} → {plan.output.name}/{item.output}: {actions[item.action]}{given}", copyable=True
            )
        for name in plan.stale:
            out.line(f"{plan.output.name}/{name}: would be removed")
        out.line(
            f"{amount(plan.count('segment'), 'picture')} to segment with {request.method}, "
            f"{len(plan.items) - plan.count('segment')} done; classes: {', '.join(map(short_name, request.classes))}"
        )

    data = {
        "output": str(plan.output),
        "classes": list(request.classes),
        "method": request.method,
        "reason": request.reason,
        "background": request.options.background,
        "prefilter": request.prefilter,
        "images": [
            {
                "path": str(item.image.path),
                "output": item.output,
                "action": item.action,
                "classes": None if item.classes is None else list(item.classes),
            }
            for item in plan.items
        ],
        "removed": list(plan.stale),
    }
    out.result(data, human=human, quiet=[item.image.path for item in plan.items if item.action == "segment"])
