"""compare: whether two runs differ, and where."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ovseg_cli.cli.common import Common, command
from ovseg_cli.cli.options import BackgroundOpt, ClassesOpt, DrawsOpt, DrawsSeedOpt, IgnoreOpt, LabelMapOpt, split_names
from ovseg_cli.cli.output import ProgressBars, amount, table
from ovseg_cli.cli.outputs import check_outputs
from ovseg_cli.errors import UsageError
from ovseg_cli.evaluation.draws import DRAWS, SEED

if TYPE_CHECKING:
    from ovseg_cli.evaluation.comparison import Comparison

_MOST_SHOWN = 5


def register(app: typer.Typer) -> None:
    """Add this command to the application."""
    command(
        app,
        "compare",
        examples=(
            "ovseg compare by-words by-prototypes --gt labels/",
            "ovseg compare monday.json tuesday.json --bootstrap 10000",
        ),
    )(compare)


def compare(
    common: Common,
    run_a: Annotated[Path, typer.Argument(metavar="RUN_A", help="An output folder, or a report that eval -o wrote.")],
    run_b: Annotated[Path, typer.Argument(metavar="RUN_B", help="Likewise; its mIoU minus that of RUN_A is judged.")],
    gt: Annotated[
        Path | None,
        typer.Option("--gt", metavar="DIR", help="Folder of ground-truth labels, for folders.", show_default=False),
    ] = None,
    classes: ClassesOpt = None,
    background: BackgroundOpt = None,
    label_map: LabelMapOpt = None,
    ignore: IgnoreOpt = None,
    draws: DrawsOpt = DRAWS,
    seed: DrawsSeedOpt = SEED,
    output: Annotated[
        Path | None,
        typer.Option("--output", "-o", metavar="FILE", help="Write all of it as JSON.", show_default=False),
    ] = None,
) -> None:
    """Tell whether two runs differ, and which classes and pictures make the difference.

    Each is an output folder of label maps, which is scored against --gt, or a report that ovseg eval -o wrote as .json.
    The interval and p come from the paired bootstrap: pictures are drawn anew, the same for both runs.
    Pictures that only one of them has are left out. To compare methods on one picture, see ovseg_cli.compare.
    """
    from ovseg_cli.evaluation.comparison import compare_runs
    from ovseg_cli.runs.evaluate import records_of

    if output is not None and output.suffix.lower() != ".json":
        raise UsageError(f"A comparison is written as .json, and {str(output)!r} is not.")
    check_outputs({"--output": output}, [run_a, run_b, gt, label_map])
    how: dict[str, Any] = {"classes": split_names(classes), "background": background}
    how |= {"label_map": label_map, "ignore": ignore}
    with common.out.progress() as bars:
        runs = [
            records_of(path, gt, **how, progress=_teller(bars, f"scoring {os.path.basename(path)}"))
            for path in (run_a, run_b)
        ]
    found = compare_runs(runs[0], runs[1], draws=draws, seed=seed)
    data = found.to_dict()
    if output is not None:
        from ovseg_cli.atomic import write_json

        write_json(output, data)
    common.out.result(data, human=lambda: _show(common, found, run_a, run_b), quiet=[_signed(found.difference)])


def _teller(bars: ProgressBars, title: str) -> Callable[[int, int], None]:
    """What a bar is told."""
    bar = bars.start(title)
    return lambda done, total: bars.update(bar, done=done, total=total)


def _show(common: Common, found: Comparison, run_a: Path, run_b: Path) -> None:
    out = common.out
    out.line("A  ", str(run_a), f"   mIoU {_figure(found.miou_a)}")
    out.line("B  ", str(run_b), f"   mIoU {_figure(found.miou_b)}")
    parts = [f"   {amount(found.images, 'picture')}"]
    if found.interval is not None and found.p is not None:
        low, high = found.interval.low, found.interval.high
        parts.append(f"   {found.interval.level:.0%} interval {low:+.3f} to {high:+.3f}   p {found.p:.2g}")
    out.line(("B - A  ", "bold"), (_signed(found.difference), "bold"), *parts)
    if found.interval is not None:
        out.line("The runs differ." if found.differ else "The runs cannot be told apart on these pictures.")
    for key, left in (("A", found.only_a), ("B", found.only_b)):
        if left:
            out.line(f"Only {key} has {amount(len(left), 'picture')}, left out: {', '.join(left[:_MOST_SHOWN])}")
    out.line()
    for title, rows in (
        ("class", [(c.name, _figure(c.iou_a), _figure(c.iou_b), _signed(c.carries)) for c in found.classes]),
        ("picture", [(p.key, _figure(p.miou_a), _figure(p.miou_b), _signed(p.carries)) for p in found.pictures]),
    ):
        out.show(table((title, "left"), ("A", "right"), ("B", "right"), ("carries", "right"), rows=rows[:_MOST_SHOWN]))
        if len(rows) > _MOST_SHOWN:
            out.line((f"and {len(rows) - _MOST_SHOWN} more, with -o FILE or --json", "dim"))
        out.line()
    out.line(
        (f"carries: what a class adds to B - A; what B - A would be less without a picture. {found.convention}", "dim")
    )


def _figure(value: float | None) -> str:
    return "–" if value is None else f"{value:.3f}"


def _signed(value: float | None) -> str:
    return "–" if value is None else f"{value:+.4f}"
