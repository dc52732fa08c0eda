"""benchmark: many methods on the same labelled pictures, in one table."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ovseg_cli.cli.classes import build_planned
from ovseg_cli.cli.common import Common, command
from ovseg_cli.cli.folder import EXIT_SOME_FAILED
from ovseg_cli.cli.options import (
    RUNNING,
    BatchOpt,
    CountOpt,
    DatasetOpt,
    DryRunOpt,
    IgnoreOpt,
    ImageClassesOpt,
    LabelMapOpt,
    Query,
    RootOpt,
    SplitOpt,
    with_query,
)
from ovseg_cli.cli.output import Milestones, amount, short_path, table
from ovseg_cli.errors import UsageError
from ovseg_cli.evaluation.draws import DRAWS, SEED
from ovseg_cli.names import listed, listed_names

if TYPE_CHECKING:
    from ovseg_cli.evaluation.league import Table
    from ovseg_cli.runs.benchmark import BenchmarkPlan, Contest, Scores
    from ovseg_cli.runs.segment import Step
    from ovseg_cli.store import Store

_TIMED = 5


def register(app: typer.Typer) -> None:
    """Add this command to the application."""
    command(
        app,
        "benchmark",
        examples=(
            "ovseg benchmark --dataset voc21 --root VOCdevkit --methods all",
            "ovseg benchmark --dataset ade150 --root ADEChallengeData2016 --methods sclip,naclip --subset 200",
            "ovseg benchmark --images photos/ --gt labels/ -c cat,dog --methods gem,prototype",
        ),
    )(benchmark)


@partial(with_query, without={"method"})
def benchmark(
    common: Common,
    *,
    dataset: DatasetOpt = None,
    root: RootOpt = None,
    split: SplitOpt = None,
    images: Annotated[
        str | None,
        typer.Option(
            "--images", metavar="DIR", help="Pictures of your own, in place of a data set.", show_default=False
        ),
    ] = None,
    gt: Annotated[
        Path | None,
        typer.Option("--gt", metavar="DIR", help="Their labels, or a COCO file.", show_default=False),
    ] = None,
    query: Query,
    image_classes: ImageClassesOpt = None,
    label_map: LabelMapOpt = None,
    ignore: IgnoreOpt = None,
    methods: Annotated[
        str,
        typer.Option("--methods", metavar="NAMES", help="Methods with commas between (see ovseg methods), or all."),
    ] = "all",
    subset: Annotated[
        int | None,
        typer.Option(
            "--subset", min=1, metavar="N", help="Only N of the pictures, drawn by chance.", show_default=False
        ),
    ] = None,
    seed: Annotated[int, typer.Option("--seed", min=0, metavar="S", help="Which they are, with --subset.")] = 0,
    output: Annotated[
        Path, typer.Option("--output", "-o", metavar="DIR", help="Where the table and all label maps go.")
    ] = Path("ovseg-benchmark"),
    timed: Annotated[
        int,
        typer.Option(
            "--timed",
            min=0,
            metavar="N",
            rich_help_panel=RUNNING,
            help="Pictures on which each method is timed by itself; 0: none.",
        ),
    ] = _TIMED,
    add: Annotated[
        bool,
        typer.Option(
            "--add/--no-add",
            rich_help_panel=RUNNING,
            help="Whether classes without prototypes are made, for the methods that need them.",
        ),
    ] = True,
    count: CountOpt = None,
    overwrite: Annotated[
        bool, typer.Option("--overwrite", rich_help_panel=RUNNING, help="Make everything again.")
    ] = False,
    batch: BatchOpt = None,
    dry_run: DryRunOpt = False,
) -> None:
    """Run many methods on the same labelled pictures and write one table.

    Measured mIoU stands beside the published one, with what each method was run with and under which licences.
    Methods share their walks through the networks. What is done is kept: the same command goes on where it stopped.
    Each method's label maps lie in a folder of their own, for ovseg eval.
    Exit code 3: finished, but some pictures could not be read or some methods not be finished.
    """
    from ovseg_cli.files.image_classes import read_image_classes
    from ovseg_cli.runs.benchmark import (
        classes_to_add,
        kinds_of,
        make_table,
        methods_named,
        plan_benchmark,
        some_of,
        write_table,
    )
    from ovseg_cli.runs.plan import check_output

    named = methods_named(methods)
    shown = None if image_classes is None else read_image_classes(image_classes)
    if images is not None:
        check_output([images], output)
    contest = _contest(common, dataset, root, split, images, gt, query, label_map, ignore, output)
    if subset is not None:
        contest = some_of(contest, subset, seed)
    for note in (*query.notes, *contest.notes):
        common.out.note(note)
    with common.store_for_planning() as store:
        missing = classes_to_add(store, contest, named) if add else ()
        if not missing or dry_run:
            # What is wrong with the request itself is told before a class is made for it.
            plan = plan_benchmark(
                store,
                contest,
                named,
                output,
                options=query.options,
                image_classes=shown,
                overwrite=overwrite,
                precision=common.precision,
                planning=dry_run,
            )
            if dry_run:
                _show_plan(common, plan, missing)
                return
    with common.open_store() as store:
        if missing:
            _add(common, store, missing, count)
        plan = plan_benchmark(
            store,
            contest,
            named,
            output,
            options=query.options,
            image_classes=shown,
            overwrite=overwrite,
            precision=common.precision,
        )
        for method, why in plan.left_out.items():
            common.out.note(f"{method} is left out: {why}")
        _measure(common, store, plan, timed)
        broken = run_with_bars(common, store, plan, batch)
        scores = score_with_bars(common, plan, DRAWS, SEED)
        made = make_table(plan, scores, kinds=kinds_of(store, contest, list(plan.entries)), broken=broken)
    files = write_table(made, output)
    common.out.result(
        {"files": [str(file) for file in files], "table": _as_data(made)},
        human=lambda: show_table(common, made, files[0]),
        quiet=[files[0]],
    )
    if scores.unread:
        common.out.warning(f"{amount(len(scores.unread), 'picture')} could not be read: {listed(scores.unread)}")
    if scores.unread or broken:
        raise typer.Exit(EXIT_SOME_FAILED)


def _contest(
    common: Common,
    dataset: str | None,
    root: Path | None,
    split: str | None,
    images: str | None,
    gt: Path | None,
    query: Query,
    label_map: Path | None,
    ignore: list[int] | None,
    output: Path,
) -> Contest:
    """What is compared on, of what was typed."""
    from ovseg_cli.evaluation.datasets import open_dataset
    from ovseg_cli.evaluation.sources import open_truth
    from ovseg_cli.files.labels import is_background, is_void
    from ovseg_cli.runs.benchmark import contest_of_dataset, contest_of_folders
    from ovseg_cli.runs.plan import find_images

    if dataset is not None:
        own = [("--images", images), ("--gt", gt), ("--label-map", label_map), ("--classes", query.classes or None)]
        if given := [name for name, value in own if value is not None]:
            raise UsageError(f"{given[0]} is for pictures of your own, and --dataset brings its own. Leave one out.")
        if query.background is not None:
            raise UsageError("A data set says itself whether its background counts. Leave out --[no-]background.")
        if root is None:
            raise UsageError(f"Say with --root where the data set {dataset} lies.")
        return contest_of_dataset(open_dataset(dataset, root, split, ignore=ignore))
    if root is not None or split is not None:
        raise UsageError("--root and --split belong to --dataset: name it too.")
    if images is None or gt is None:
        raise UsageError("Name a data set with --dataset and --root, or pictures of your own with --images and --gt.")
    truth = open_truth(gt, label_map=label_map, ignore=ignore)
    named = (name for name in truth.labels.names if not is_background(name) and not is_void(name))
    classes = query.classes or tuple(named)
    found = find_images([images], output)
    return contest_of_folders(images, found, truth, classes, background=query.options.background)


def _add(common: Common, store: Store, names: tuple[str, ...], count: int | None) -> None:
    """Make the classes that are missing."""
    from ovseg_cli.runs.classes import plan_classes

    common.out.note(f"making {amount(len(names), 'class', 'classes')} for the methods that match prototypes")
    plan = plan_classes(store, names, "skip")
    build_planned(common, store, plan, {"count": count}, go_on="Run the same command to go on.")


def _measure(common: Common, store: Store, plan: BenchmarkPlan, timed: int) -> None:
    """Time the methods that have not been timed, each alone; noted after each."""
    from ovseg_cli.runs.benchmark import read_record, speed_record, speeds_to_measure, write_record
    from ovseg_cli.runs.speed import measure

    record = read_record(plan.output)
    speeds = dict(record.get("speeds", {}))
    wanted = list(speeds_to_measure(plan, record, timed))
    write_record(plan, speeds)
    if not wanted:
        return
    pictures = [image.file for image in plan.contest.images[:timed]]
    with common.out.progress() as bars:
        bar = bars.start("timing each method alone", total=len(wanted))
        for done, method in enumerate(wanted):
            bars.update(bar, done=done, text=f"timing {method} alone")
            recipe = plan.entries[method].recipe
            speed = measure(recipe, pictures, device=common.device, store=store.path)
            speeds[method] = speed_record(plan, method, speed, timed)
            write_record(plan, speeds)


def run_with_bars(common: Common, store: Store, plan: BenchmarkPlan, batch: int | None) -> dict[str, str]:
    """Segment by every method; those that could not go on, and why."""
    from ovseg_cli.runs.benchmark import run_benchmark

    total = sum(len(entry.plan.items) for entry in plan.entries.values())
    done = 0
    with common.out.progress() as bars:
        bar = bars.start("looking at what is done", total=total)
        milestones = Milestones(common.out, total, "label maps")
        idle = all(entry.plan.count("skip") == len(entry.plan.items) for entry in plan.entries.values())

        def tell(method: str, step: Step) -> None:
            nonlocal done
            done += 1
            if not idle:
                milestones.reach(done)
            bars.update(bar, done=done, text=f"{step.path.name} by {method}")

        try:
            came = run_benchmark(
                plan,
                store,
                lambda: common.load_models(plan.profile),
                argv=common.argv,
                configured=common.configured,
                progress=tell,
                batch=batch,
            )
        except KeyboardInterrupt:
            common.out.note("what is done is kept; run the same command to go on")
            raise
    return dict(came.broken)


def score_with_bars(common: Common, plan: BenchmarkPlan, draws: int, seed: int) -> Scores:
    """Score every method with a progress bar."""
    from ovseg_cli.runs.benchmark import score_all

    with common.out.progress() as bars:
        bar = bars.start("scoring")

        def tell(method: str, done: int, total: int) -> None:
            bars.update(bar, done=done, total=total, text=f"scoring {method}")

        return score_all(plan, draws=draws, seed=seed, progress=tell)


def _as_data(made: Table) -> Any:
    import json

    from ovseg_cli.evaluation.league import as_json

    return json.loads(as_json(made))


def show_table(common: Common, made: Table, file: Path | None) -> None:
    """The table's main columns."""
    out = common.out
    rows = []
    for row in made.sorted():
        between = "–" if row.interval is None else f"{100 * row.interval[0]:.1f} to {100 * row.interval[1]:.1f}"
        rows.append(
            (
                row.method,
                "–" if row.miou is None else f"{100 * row.miou:.1f}",
                between,
                row.group or "–",
                "–" if not row.published else f"{row.published[0].miou:g}",
                "–" if row.seconds is None else f"{row.seconds:.3g}",
                row.kind,
            )
        )
    out.show(
        table(
            ("method", "left"),
            ("mIoU", "right"),
            ("95 % in", "right"),
            ("group", "left"),
            ("published", "right"),
            ("s each", "right"),
            ("kind", "left"),
            rows=rows,
        )
    )
    out.line((made.convention, "dim"))
    out.line((f"published: on {made.published_of}, see the table; s each: seconds a picture, alone", "dim"))
    for row in made.sorted():
        if row.remark:
            out.line(f"{row.method}: {row.remark}")
    for method, why in made.left_out.items():
        out.line(f"{method} is left out: {why}")
    if file is not None:
        out.line("table   ", short_path(file), copyable=True)


def _show_plan(common: Common, plan: BenchmarkPlan, missing: tuple[str, ...]) -> None:
    """What would be done."""
    out = common.out

    def human() -> None:
        if missing:
            out.line(f"{amount(len(missing), 'class', 'classes')} to make: {listed_names(missing)}")
        for method, entry in plan.entries.items():
            out.line(
                f"{method}: {amount(entry.plan.count('segment'), 'picture')} of {len(entry.plan.items)} to segment"
            )
        for method, why in plan.left_out.items():
            out.line(f"{method}: left out: {why}")

    data = {
        "output": str(plan.output),
        "classes": list(plan.contest.classes),
        "to_add": list(missing),
        "pictures": len(plan.contest.images),
        "methods": {method: entry.plan.count("segment") for method, entry in plan.entries.items()},
        "left_out": dict(plan.left_out),
    }
    out.result(data, human=human, quiet=list(plan.entries))
