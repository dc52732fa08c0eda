"""report: a finished run as one page to look through."""

from __future__ import annotations

from typing import Annotated

import typer

from ovseg_cli.cli.common import Common, command
from ovseg_cli.cli.options import PlaceText
from ovseg_cli.cli.output import amount
from ovseg_cli.cli.outputs import check_outputs
from ovseg_cli.cli.pages import report_data, show_where, write_with_bar
from ovseg_cli.files.layout import JOURNAL_NAME, MANIFEST_NAME


def register(app: typer.Typer) -> None:
    """Add this command to the application."""
    command(app, "report", examples=("ovseg report ovseg-out", "ovseg report result -o result.html"))(report)


def report(
    common: Common,
    run: Annotated[
        PlaceText, typer.Argument(metavar="RUN", parser=PlaceText, help="The output folder of ovseg segment.")
    ],
    output: Annotated[
        PlaceText | None,
        typer.Option(
            "--output",
            "-o",
            metavar="FILE",
            parser=PlaceText,
            help="The page. (default: report.html in that folder)",
            show_default=False,
        ),
    ] = None,
) -> None:
    """Make one page of a run, to look through its pictures.

    Classes are switched on and off, pictures sorted by certainty or by the share of a class, and found by name.
    The page needs no network and no other file: small copies of the pictures are in it.
    """
    from ovseg_cli.files.discovery import expanded

    folder, target = expanded(run), None if output is None else expanded(output)
    check_outputs({"--output": target}, [folder / MANIFEST_NAME, folder / JOURNAL_NAME])
    written = write_with_bar(common, folder, target)

    def human() -> None:
        parts = [amount(written.pictures, "picture")]
        if written.left_out:
            parts.append(f"{written.left_out} more are left out")
        if written.failed:
            parts.append(f"{written.failed} failed")
        common.out.line(f"{', '.join(parts)}; {written.nbytes / 1e6:.1f} MB.")
        show_where(common, written)

    common.out.result(report_data(written), human=human, quiet=[written.path])
