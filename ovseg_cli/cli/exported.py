"""What commands that export show."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from ovseg_cli.cli.common import Common
from ovseg_cli.cli.output import Part, amount, short_path
from ovseg_cli.urls import Place

if TYPE_CHECKING:
    from ovseg_cli.exports.run import Exported


def export_after_run(common: Common, run: Place, formats: Sequence[str]) -> list[Exported]:
    """Make the exports that `segment --format` asks for; they take the place of older ones."""
    from ovseg_cli.exports.run import export_run

    found = []
    for name in formats:
        with common.out.progress() as bars:
            progress = Part(common.out, bars, f"writing {name}", "label maps")
            found.append(export_run(run, name, overwrite=True, progress=progress))
    return found


def export_data(result: Exported) -> dict[str, Any]:
    """An export as `--json` prints it."""
    return {
        "format": result.format,
        "output": str(result.output),
        "pictures": result.pictures,
        "written": result.written,
        "failures": [{"path": failure.path, "reason": failure.reason} for failure in result.failed],
    }


def show_export(common: Common, result: Exported) -> None:
    """What was exported, for a person."""
    for failure in result.failed:
        common.out.warning(failure.reason)
    verb = "Wrote" if result.written else "There already:"
    what = amount(result.pictures, "label map")
    common.out.line(f"{verb} {what} as {result.format}: {short_path(result.output)}", copyable=True)
