"""What commands that segment folders show: how far a run is, and what it did."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from rich.text import Text

from ovseg_cli.cli.common import Common
from ovseg_cli.cli.output import (
    Milestones,
    Part,
    ProgressBars,
    amount,
    duration,
    per_second,
    percent,
    short_path,
    table,
)
from ovseg_cli.files.layout import EXPLAIN_FOLDER, MASK_FOLDER, OVERLAY_FOLDER

if TYPE_CHECKING:
    from ovseg_cli.runs.engines.options import EngineOptions
    from ovseg_cli.runs.folder import FolderPlan
    from ovseg_cli.runs.ledger import RunSummary
    from ovseg_cli.runs.plan import Plan
    from ovseg_cli.runs.segment import Step
    from ovseg_cli.store import Store

EXIT_SOME_FAILED = 3
MOST_NAMED = 5
_ALL_SHOWN = 30  # so many classes the summary lists even if no picture shows them


class _Bars:
    """Shows a run as a bar on a terminal, and as milestones in a log."""

    def __init__(self, common: Common, bars: ProgressBars) -> None:
        self._out = common.out
        self._bars = bars
        self._words = Part(common.out, bars, "reading the class names", "words")

    def begin(self, plan: Plan) -> None:
        """Start the bar."""
        self._bar = self._bars.start("looking at what is done", total=len(plan.items))
        self._milestones = Milestones(self._out, len(plan.items), "pictures")
        self._idle = plan.count("skip") == len(plan.items)

    def load(self) -> None:
        """Say so."""
        self._bars.update(self._bar, text="loading the models")

    def read(self, done: int, total: int) -> None:
        """Move a second bar."""
        self._words(done, total)

    def step(self, step: Step) -> None:
        """Move the bar."""
        if not self._idle:
            self._milestones.reach(step.done, rate=step.rate, left=step.left, failed=step.failed)
        speed = "" if step.rate is None else f" · {per_second(step.rate)}"
        self._bars.update(self._bar, done=step.done, text=f"{step.path.name}{speed}", left=step.left)


def run_with_progress(
    common: Common,
    store: Store,
    planned: FolderPlan,
    *,
    fail_fast: bool = False,
    recorded: bool = True,
    batch: int | None = None,
    engine: EngineOptions | None = None,
) -> RunSummary:
    """Carry out a plan with a progress bar.

    Args:
        common: the command's context.
        store: where the run is recorded.
        planned: what to do.
        fail_fast: stop at the first picture that cannot be read.
        recorded: whether the store remembers the run, so that a later `eval` scores it.
        batch: how many pictures may go through the models together; None for the device's default.
        engine: who does the work; None for this process.
    """
    from ovseg_cli.runs.folder import run_plan

    profile = planned.recipe.profile
    with common.out.progress() as bars:
        try:
            summary = run_plan(
                planned,
                store,
                lambda: common.load_models(profile),
                listener=_Bars(common, bars),
                argv=common.argv,
                configured=common.configured,
                fail_fast=fail_fast,
                recorded=recorded,
                batch=batch,
                engine=engine,
                device=common.device,
            )
        except KeyboardInterrupt:
            if recorded:
                common.out.note("what is done is kept; run the same command to go on")
            raise
    if profile.domain is not None and summary.unfamiliar:
        so = "its label map means little" if summary.unfamiliar == 1 else "their label maps mean little"
        common.out.warning(profile.domain.remark(summary.unfamiliar, summary.done + summary.skipped, so))
    return summary


def summary_data(summary: RunSummary) -> dict[str, Any]:
    """A run as `--json` prints it."""
    return {
        "output": str(summary.output),
        "method": summary.method,
        "prefilter": summary.prefilter,
        "given": summary.given,
        "unfamiliar": summary.unfamiliar,
        "images": summary.images,
        **{key: value for key, value in summary.counts().items()},
        "failures": [{"path": failure.path, "reason": failure.reason} for failure in summary.failed],
        "seconds": round(summary.seconds, 2),
        "notes": list(summary.notes),
        "classes": [
            {
                "name": name,
                "images": summary.images_with.get(name, 0),
                "share": round(summary.shares.get(name, 0.0), 6),
            }
            for name in summary.classes
        ],
    }


def show_summary(
    common: Common, summary: RunSummary, *, overlay: bool, explain: bool = False, verb: str = "Segmented"
) -> None:
    """What was done, which classes were found, and where to look."""
    out = common.out
    parts = [f"{verb} {amount(summary.done, 'picture')}"]
    if summary.skipped:
        parts.append(f"{summary.skipped} already done")
    if summary.failed:
        parts.append(f"{len(summary.failed)} failed")
    if summary.remaining:
        parts.append(f"{summary.remaining} not reached")
    how = [summary.method]
    if summary.given:
        how.append(f"classes given for {summary.given} of {summary.images}")
    if summary.prefilter and summary.given < summary.images:
        how.append("pre-filtered")
    out.line(f"{', '.join(parts)}, in {duration(summary.seconds)} ({', '.join(how)}).")
    mapped = summary.done + summary.skipped
    if mapped:
        _show_classes(common, summary, mapped)
    if summary.failed:
        _show_failures(common, summary)
        if verb == "Segmented":
            out.hint("The next run tries failed pictures again; with --retry-failed, it takes them alone.")
    if not mapped:
        return
    shown = short_path(summary.output)
    out.line("masks   ", f"{shown}/{MASK_FOLDER}", copyable=True)
    if overlay:
        out.line("look at ", f"{shown}/{OVERLAY_FOLDER}", copyable=True)
    if explain:
        out.line("why     ", f"{shown}/{EXPLAIN_FOLDER}", copyable=True)


def _show_failures(common: Common, summary: RunSummary) -> None:
    """The first pictures that failed."""
    out = common.out
    for failure in summary.failed[:MOST_NAMED]:
        out.line(Text("failed  ", style="red"), failure.path, copyable=True)
    if len(summary.failed) > MOST_NAMED:
        out.line(f"        and {len(summary.failed) - MOST_NAMED} more (see predictions.jsonl)")


def _show_classes(common: Common, summary: RunSummary, mapped: int) -> None:
    """The table of classes, those of most pixels first; of many, only those that one of the `mapped` pictures shows."""
    from ovseg_cli.names import short_name

    found = sorted(summary.classes, key=lambda name: -summary.shares.get(name, 0.0))
    if len(found) > _ALL_SHOWN:
        found = [name for name in found if name in summary.images_with]
    if not found:
        common.out.line(f"No picture shows any of the {len(summary.classes)} classes.")
        return
    pictures, shares = summary.images_with, summary.shares
    rows = [
        (short_name(name), f"{pictures.get(name, 0)} of {mapped}", percent(shares.get(name, 0.0))) for name in found
    ]
    common.out.show(table(("class", "left"), ("pictures", "right"), ("pixels", "right"), rows=rows))
    if len(found) < len(summary.classes):
        common.out.line(f"and {amount(len(summary.classes) - len(found), 'class', 'classes')} that no picture shows")
