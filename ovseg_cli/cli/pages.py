"""The page of a run, as commands that write one tell of it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from ovseg_cli.cli.common import Common
from ovseg_cli.cli.output import short_path
from ovseg_cli.urls import Place

if TYPE_CHECKING:
    from ovseg_cli.runs.report import WrittenReport


def write_with_bar(common: Common, run: Place, output: Place | None = None) -> WrittenReport:
    """Write the page, with a progress bar."""
    from ovseg_cli.runs.report import write_report

    with common.out.progress() as bars:
        bar = bars.start("writing the report")
        return write_report(
            run, output, progress=lambda done, total: bars.update(bar, done=done, total=total, text=None)
        )


def show_where(common: Common, written: WrittenReport) -> None:
    """Say where the page lies."""
    common.out.line("report  ", short_path(written.path.absolute()), copyable=True)


def report_data(written: WrittenReport) -> dict[str, Any]:
    """The page as `--json` tells of it."""
    return {
        "report": str(written.path.absolute()),
        "pictures": written.pictures,
        "left_out": written.left_out,
        "failed": written.failed,
        "bytes": written.nbytes,
    }
