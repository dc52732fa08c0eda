"""export, relabel: what can be made of label maps and scores without the models."""

from __future__ import annotations

from typing import Annotated

import typer

from ovseg_cli.cli.common import Common, command
from ovseg_cli.cli.exported import export_data, show_export
from ovseg_cli.cli.folder import EXIT_SOME_FAILED, MOST_NAMED, show_summary, summary_data
from ovseg_cli.cli.options import ClassesOpt, PlaceText, split_names
from ovseg_cli.cli.output import Part
from ovseg_cli.exports.registry import FORMATS

RunArg = Annotated[
    PlaceText,
    typer.Argument(
        metavar="RUN", parser=PlaceText, help="An output folder of ovseg segment, or label maps with a labelmap.txt."
    ),
]


def register(app: typer.Typer) -> None:
    """Add these commands to the application."""
    command(
        app,
        "export",
        examples=(
            "ovseg export ovseg-out --to coco",
            "ovseg export ovseg-out --to yolo -o dataset --copy",
            "ovseg export masks/ --to cvat --images photos/ -o for-cvat",
        ),
    )(export)
    command(
        app,
        "relabel",
        examples=(
            "ovseg relabel ovseg-out --threshold 0.4",
            "ovseg relabel ovseg-out --threshold 0.4 -c cat -o only-cats",
        ),
    )(relabel)


def export(
    common: Common,
    run: RunArg,
    to: Annotated[
        str,
        typer.Option("--to", metavar="FORMAT", help=f"{', '.join(FORMATS)}: see docs/outputs.md.", show_default=False),
    ],
    output: Annotated[
        PlaceText | None,
        typer.Option(
            "--output",
            "-o",
            metavar="PATH",
            parser=PlaceText,
            help="The file or folder. (default: in RUN/export)",
            show_default=False,
        ),
    ] = None,
    images: Annotated[
        PlaceText | None,
        typer.Option(
            "--images",
            metavar="DIR",
            parser=PlaceText,
            help="Where the pictures are. (default: where the run found them)",
            show_default=False,
        ),
    ] = None,
    parts: Annotated[
        bool,
        typer.Option("--parts", help="With coco, cvat, label-studio: an object for each connected part of a class."),
    ] = False,
    copy: Annotated[bool, typer.Option("--copy", help="With yolo: copies of the pictures, not links to them.")] = False,
    empty: Annotated[
        bool, typer.Option("--empty", help="With masks: also masks of classes that a picture does not show.")
    ] = False,
    overwrite: Annotated[
        bool, typer.Option("--overwrite", help="Replace an export that was made of other label maps.")
    ] = False,
) -> None:
    """Write label maps as files that other tools read.

    No model is loaded. Exit code 3: finished, but some label maps could not be read.
    """
    from ovseg_cli.exports.base import Options
    from ovseg_cli.exports.run import export_run
    from ovseg_cli.files.discovery import expanded

    with common.out.progress() as bars:
        result = export_run(
            expanded(run),
            to,
            None if output is None else expanded(output),
            images=None if images is None else expanded(images),
            options=Options(parts=parts, copy=copy, empty=empty),
            overwrite=overwrite,
            progress=Part(common.out, bars, f"writing {to}", "label maps"),
        )
    common.out.result(export_data(result), human=lambda: show_export(common, result), quiet=[result.output])
    if result.failed:
        raise typer.Exit(EXIT_SOME_FAILED)


def relabel(
    common: Common,
    run: Annotated[
        PlaceText,
        typer.Argument(metavar="RUN", parser=PlaceText, help="A folder of ovseg segment --format probabilities."),
    ],
    threshold: Annotated[
        float | None,
        typer.Option(
            "--threshold",
            min=0.0,
            max=1.0,
            metavar="X",
            help="Score below which a pixel is background. (default: no such rule)",
            show_default=False,
        ),
    ] = None,
    classes: ClassesOpt = None,
    output: Annotated[
        PlaceText | None,
        typer.Option(
            "--output",
            "-o",
            metavar="DIR",
            parser=PlaceText,
            help="Where they go. (default: RUN-relabelled)",
            show_default=False,
        ),
    ] = None,
    overwrite: Annotated[
        bool, typer.Option("--overwrite", help="Replace label maps that were made in another way.")
    ] = False,
) -> None:
    """Make label maps again with another threshold, or for some of the classes, without the models.

    The scores are those that the run has kept. Exit code 3: finished, but some scores could not be read.
    """
    from ovseg_cli.errors import UsageError
    from ovseg_cli.files.discovery import expanded
    from ovseg_cli.runs.relabel import relabel_folder

    if threshold is None and not classes:
        raise UsageError("Say what is to be different: --threshold X, or some of the classes with -c NAMES.")
    folder = expanded(run)
    beside = folder.with_name(f"{folder.absolute().name}-relabelled")
    with common.out.progress() as bars:
        summary = relabel_folder(
            folder,
            beside if output is None else expanded(output),
            threshold=threshold,
            classes=split_names(classes),
            overwrite=overwrite,
            argv=common.argv,
            progress=Part(common.out, bars, "labelling", "pictures"),
        )
    for failure in summary.failed[:MOST_NAMED]:
        common.out.warning(failure.reason)
    common.out.result(
        summary_data(summary),
        human=lambda: show_summary(common, summary, overlay=False, verb="Relabelled"),
        quiet=[summary.output],
    )
    if summary.failed:
        raise typer.Exit(EXIT_SOME_FAILED)
