"""eval: score label maps against ground truth."""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from ovseg_cli.cli.common import Common, command
from ovseg_cli.cli.folder import EXIT_SOME_FAILED, run_with_progress
from ovseg_cli.cli.options import (
    BatchOpt,
    DatasetOpt,
    DevicesOpt,
    DrawsOpt,
    DrawsSeedOpt,
    GtSuffixOpt,
    IgnoreOpt,
    ImageClassesOpt,
    LabelMapOpt,
    PlaceText,
    Query,
    RootOpt,
    SplitOpt,
    WorkersOpt,
    with_query,
)
from ovseg_cli.cli.output import Align, amount, percent, table
from ovseg_cli.cli.outputs import check_outputs
from ovseg_cli.cli.truth import ground_truth
from ovseg_cli.errors import NoDefaultStoreError, NoInputError, OvsegError, UsageError
from ovseg_cli.evaluation.draws import DRAWS, SEED
from ovseg_cli.figures import figure_beside
from ovseg_cli.urls import Place

if TYPE_CHECKING:
    from ovseg_cli.evaluation.datasets import OpenDataset
    from ovseg_cli.evaluation.oracles import OracleName
    from ovseg_cli.evaluation.report import Report
    from ovseg_cli.evaluation.truth import GroundTruth
    from ovseg_cli.files.discovery import InputImage
    from ovseg_cli.runs.engines.options import EngineOptions
    from ovseg_cli.runs.evaluate import Predictions

EXIT_BELOW = 4
_FORMS = ("", ".json", ".csv", ".md")
_FORMS_OF_TABLES = (*_FORMS, ".tex")
_OF_LABEL_MAPS = ("--classes", "--background", "--no-background")  # say which of the label maps' classes count
_MOST_NAMED = 3
WHERE_IT_FAILS = "Where it fails"


def register(app: typer.Typer) -> None:
    """Add this command to the application."""
    command(
        app,
        "eval",
        examples=(
            "ovseg eval --gt labels/",
            "ovseg eval --gt labels/ --pred ovseg-out -o report.csv",
            "ovseg eval --gt labels/ --images photos/ -c cat,dog --fail-under 0.45",
            "ovseg eval --dataset voc21 --root VOCdevkit --pred voc-out",
        ),
    )(evaluate)


@with_query
def evaluate(
    common: Common,
    gt: Annotated[
        PlaceText | None,
        typer.Option(
            "--gt",
            metavar="DIR",
            parser=PlaceText,
            help="Folder of ground-truth labels, or a COCO JSON file.",
            show_default=False,
        ),
    ] = None,
    pred: Annotated[
        PlaceText | None,
        typer.Option(
            "--pred",
            metavar="DIR",
            parser=PlaceText,
            help="Label maps to score. (default: those of the last run)",
            show_default=False,
        ),
    ] = None,
    images: Annotated[
        PlaceText | None,
        typer.Option(
            "--images",
            metavar="DIR",
            parser=PlaceText,
            help="Pictures to segment first; their label maps are not kept.",
            show_default=False,
        ),
    ] = None,
    *,
    query: Query,
    image_classes: ImageClassesOpt = None,
    dataset: DatasetOpt = None,
    root: RootOpt = None,
    split: SplitOpt = None,
    gt_suffix: GtSuffixOpt = "",
    pred_suffix: Annotated[
        str,
        typer.Option("--pred-suffix", metavar="TEXT", help="Likewise of the label maps to score.", show_default=False),
    ] = "",
    label_map: LabelMapOpt = None,
    ignore: IgnoreOpt = None,
    oracle: Annotated[
        list[str] | None,
        typer.Option(
            "--oracle",
            metavar="KIND",
            help="Upper bounds too: what the run would reach with perfect names, with perfect regions, or if it knew "
            "which classes a picture shows (presence); or all. May be given several times.",
            show_default=False,
        ),
    ] = None,
    match: Annotated[
        Literal["image", "dataset"] | None,
        typer.Option(
            "--match",
            help="Take ids for regions without names, and let the truth name them: in each image, or once for all. "
            "(default: image, for label maps of methods without names)",
            show_default=False,
        ),
    ] = None,
    boundary: Annotated[
        bool,
        typer.Option("--boundary", help="Compute the boundary IoU too; scoring takes more than half as long again."),
    ] = False,
    draws: DrawsOpt = DRAWS,
    seed: DrawsSeedOpt = SEED,
    output: Annotated[
        Path | None,
        typer.Option(
            "--output", "-o", metavar="FILE", help="Write the report: .json, .csv or .md.", show_default=False
        ),
    ] = None,
    report_page: Annotated[
        Path | None,
        typer.Option(
            "--report",
            metavar="FILE",
            rich_help_panel=WHERE_IT_FAILS,
            help="Write one page (.html) with all figures, the confusion matrix and the worst pictures.",
            show_default=False,
        ),
    ] = None,
    worst: Annotated[
        int,
        typer.Option(
            "--worst", min=0, max=200, metavar="N", rich_help_panel=WHERE_IT_FAILS, help="Pictures that it shows."
        ),
    ] = 12,
    per_picture: Annotated[
        Path | None,
        typer.Option(
            "--per-picture",
            metavar="FILE",
            rich_help_panel=WHERE_IT_FAILS,
            help="Write the figures of every picture: .csv or .jsonl.",
            show_default=False,
        ),
    ] = None,
    confusion: Annotated[
        Path | None,
        typer.Option(
            "--confusion",
            metavar="FILE",
            rich_help_panel=WHERE_IT_FAILS,
            help="Write the confusion matrix: .csv in pixels, or a picture as .svg.",
            show_default=False,
        ),
    ] = None,
    batch: BatchOpt = None,
    workers: WorkersOpt = None,
    devices: DevicesOpt = None,
    fail_under: Annotated[
        float | None,
        typer.Option(
            "--fail-under",
            min=0.0,
            max=1.0,
            metavar="X",
            help="Exit with code 4 when the mIoU (0 to 1) is lower.",
            show_default=False,
        ),
    ] = None,
) -> None:
    """Score label maps against ground truth.

    Gives IoU per class, mIoU and pixel accuracy. Without --pred and --images, the last run is scored.
    With --images, the options of ovseg segment say how pictures are segmented; --method may name several.
    Ground truth and label maps are paired by file name and their ids by class name.
    Exit code 3: some labelled pictures have no prediction; 4: --fail-under.
    """
    from ovseg_cli.files.discovery import discover, expanded
    from ovseg_cli.runs.engines.options import EngineOptions
    from ovseg_cli.runs.evaluate import default_match, in_dataset

    who = EngineOptions(workers=workers, devices=devices)
    shared = workers is not None or devices is not None
    files = _Files(output, report_page, per_picture, confusion, worst)
    labels, maps = (None if typed is None else expanded(typed) for typed in (gt, pred))
    files.check(query, [labels, split, label_map, image_classes])
    if pred is not None and images is not None:
        raise UsageError("--pred and --images exclude each other: name label maps, or pictures to segment.")
    if images is not None and pred_suffix:
        raise UsageError("--pred-suffix is for label maps that are there already (--pred); with --images, none are.")
    if shared and (images is None or len(query.methods) > 1):
        raise UsageError(
            "--workers and --devices share pictures that one method segments: name these with --images, and one "
            "--method. Several methods share their walks through the networks in one process."
        )
    if images is None and len(query.methods) > 1:
        raise UsageError("Several methods are for pictures to segment: name these with --images.")
    pictures = () if images is None else discover([images])  # complains before the labels are read
    truth, opened = ground_truth(labels, dataset, root, split, gt_suffix, label_map, ignore)
    how: dict[str, Any] = {"boundary": boundary, "oracles": _oracles(oracle), "draws": draws, "seed": seed}
    if images is not None and len(query.methods) > 1:
        if match or oracle or boundary:
            raise UsageError("--match, --oracle and --boundary are of one method: name one with --method.")
        reports = _score_methods(common, images, pictures, truth, opened, query, image_classes, output, batch, how)
        for method, report in reports.items():
            _check_figure(common, report, fail_under, f"{method}: ")
        _check_missing(common, next(iter(reports.values())))
        return
    with ExitStack() as kept:  # label maps that are made here last until all is written of them
        if images is not None:
            scratch = Path(kept.enter_context(tempfile.TemporaryDirectory(prefix="ovseg-eval-")))
            target = scratch / "ovseg-out"
            found = _segment_images(common, images, pictures, truth, query, image_classes, target, batch, who)
        else:
            some = () if match else query.classes  # what regions are called is the ground truth's matter
            found = _label_maps(common, maps, label_map, opened, query, image_classes, some, pred_suffix)
        if opened is not None:
            found = in_dataset(found, opened, background=query.background)
        matching = match or default_match(found)
        files.check_named(matching)
        report = _score(common, found, truth, how | {"match": matching}, query.classes)
        files.write(report, found, truth, opened)
    data = report.to_dict()
    common.out.result(data, human=lambda: show_report(common, report, files.named), quiet=[_figure(report.miou)])
    for warning in report.warnings:
        common.out.warning(warning)
    _record(common, found.run_id, data)
    _check_figure(common, report, fail_under)
    _check_missing(common, report)


@dataclass(frozen=True, slots=True)
class _Files:
    """What is to be written besides what is shown."""

    output: Path | None
    page: Path | None
    per_picture: Path | None
    confusion: Path | None
    worst: int

    @property
    def named(self) -> list[Path]:
        """Those that are wanted."""
        return [file for file in (self.output, self.page, self.per_picture, self.confusion) if file is not None]

    def check(self, query: Query, inputs: Sequence[Place | str | None]) -> None:
        """Refuse names whose ending says no form, what there is of one method alone, and to write over what is read."""
        from ovseg_cli.methods.catalogue import METHODS

        named = {"--output": self.output, "--report": self.page}
        check_outputs(named | {"--per-picture": self.per_picture, "--confusion": self.confusion}, inputs)
        several = len(query.methods) > 1
        if any(method in METHODS and METHODS[method].finds_regions for method in query.methods):
            self.check_named("image")  # before anything is segmented for it
        forms = _FORMS_OF_TABLES if several else _FORMS
        if self.output is not None and self.output.suffix.lower() not in forms:
            endings = ".json, .csv, .md or .tex" if several else ".json, .csv or .md"
            raise UsageError(f"A report is written as {endings}, and {str(self.output)!r} is none of them.")
        for option, file, known in (
            ("--report", self.page, (".html", ".htm")),
            ("--per-picture", self.per_picture, (".csv", ".jsonl")),
            ("--confusion", self.confusion, (".csv", ".svg")),
        ):
            if file is not None and several:
                raise UsageError(f"{option} is of one method, and there are {len(query.methods)}. Name one of them.")
            if file is not None and file.suffix.lower() not in known:
                raise UsageError(f"{option} writes {' or '.join(known)}, and {str(file)!r} is none of them.")

    def check_named(self, match: str | None) -> None:
        """Refuse a page of regions without names, which have none to be drawn by."""
        if match and self.page is not None:
            raise UsageError(
                "--report draws classes by their names, and these label maps hold regions without names. Leave "
                "--report out; -o FILE.md has the figures."
            )

    def write(self, report: Report, found: Predictions, truth: GroundTruth, opened: OpenDataset | None) -> None:
        """Write them, while the label maps are there."""
        from ovseg_cli.runs.pages import write_confusion, write_page, write_pictures

        if self.output is not None:
            _write(report, self.output)
        if self.page is not None:
            pictures = None if opened is None else dict(opened.images)
            write_page(self.page, report, found, truth, pictures=pictures, worst=self.worst)
        if self.per_picture is not None:
            write_pictures(self.per_picture, report)
        if self.confusion is not None:
            write_confusion(self.confusion, report)


def _check_figure(common: Common, report: Report, fail_under: float | None, whose: str = "") -> None:
    """End with an exit code of its own where the mIoU is too low, or cannot be told for pictures that are missing."""
    if fail_under is not None and report.missing:
        count = len(report.missing)
        common.out.error(f"{amount(count, 'labelled picture')} without a prediction, so --fail-under cannot be met")
        raise typer.Exit(EXIT_BELOW)
    if fail_under is not None and (report.miou is None or report.miou < fail_under):
        figure, limit = ("–", f"{fail_under:g}") if report.miou is None else figure_beside(report.miou, fail_under)
        common.out.error(f"{whose}the mIoU {figure} is below --fail-under {limit}")
        raise typer.Exit(EXIT_BELOW)


def _check_missing(common: Common, report: Report) -> None:
    """End with an exit code of its own where labelled pictures were not scored."""
    if not report.missing:
        return
    count = len(report.missing)
    common.out.error(
        f"{count} of {report.images + count} labelled pictures have no prediction and are left out, so the figures "
        f"are those of the other {report.images}. Segment the missing ones too, or score the others' labels alone."
    )
    raise typer.Exit(EXIT_SOME_FAILED)


def _label_maps(
    common: Common,
    pred: Place | None,
    label_map: Path | None,
    opened: OpenDataset | None,
    query: Query,
    image_classes: Path | None,
    classes: tuple[str, ...],
    ending: str,
) -> Predictions:
    """Label maps that are there already."""
    from ovseg_cli.runs.evaluate import predictions_in

    beside = [flag for flag in query.given if flag not in _OF_LABEL_MAPS]
    if beside or image_classes is not None:
        raise UsageError(
            f"{', '.join([*beside, *([] if image_classes is None else ['--image-classes'])])} would change how "
            "pictures are segmented, and these label maps are there already: name the pictures with --images."
        )
    if pred is None:
        return replace(_last_run(common, classes, query.background), ending=ending)
    return predictions_in(
        pred,
        label_map=label_map,
        classes=classes,
        background=query.background,
        usual=None if opened is None else opened.indices,
        ending=ending,
    )


def _score_methods(
    common: Common,
    images: str,
    pictures: Sequence[InputImage],
    truth: GroundTruth,
    opened: OpenDataset | None,
    query: Query,
    image_classes: Path | None,
    output: Path | None,
    batch: int | None,
    how: dict[str, Any],
) -> dict[str, Report]:
    """Segment by several methods into folders that are thrown away; show and write a table."""
    from ovseg_cli.atomic import write_text
    from ovseg_cli.cli.benchmark import run_with_bars, score_with_bars, show_table
    from ovseg_cli.evaluation.league import FORMS
    from ovseg_cli.files.image_classes import read_image_classes
    from ovseg_cli.runs.benchmark import contest_of_folders, make_table, plan_benchmark
    from ovseg_cli.runs.folder import wanted_classes

    shown = None if image_classes is None else read_image_classes(image_classes)
    with tempfile.TemporaryDirectory(prefix="ovseg-eval-") as scratch:
        folder = Path(scratch) / "methods"
        with common.store_for_planning() as store:
            contest = contest_of_folders(
                images,
                pictures,
                truth,
                wanted_classes(store, query.classes, shown),
                background=query.options.background,
                opened=opened,
            )
            plan_benchmark(store, contest, query.methods, folder, options=query.options, image_classes=shown)
        for note in query.notes:
            common.out.note(note)
        with common.open_store() as store:
            plan = plan_benchmark(
                store,
                contest,
                query.methods,
                folder,
                options=query.options,
                image_classes=shown,
                precision=common.precision,
            )
            broken = run_with_bars(common, store, plan, batch)
            scores = score_with_bars(common, plan, how["draws"], how["seed"])
            made = make_table(plan, scores, broken=broken)
    if output is not None:
        write_text(output, FORMS[f"table{output.suffix.lower() or '.json'}"](made))
    common.out.result(
        {"methods": {method: report.to_dict() for method, report in scores.reports.items()}},
        human=lambda: show_table(common, made, output),
        quiet=[f"{method} {_figure(report.miou)}" for method, report in scores.reports.items()],
    )
    return scores.reports


def _oracles(asked: Sequence[str] | None) -> tuple[OracleName, ...]:
    """The upper bounds that are asked for, in their order."""
    from ovseg_cli.cli.options import split_names
    from ovseg_cli.evaluation.oracles import ORACLES
    from ovseg_cli.names import unknown_choice

    names = split_names(list(asked or ()))
    for name in names:
        if name not in (*ORACLES, "all"):
            raise unknown_choice("oracle", name, (*ORACLES, "all"), heading="Oracles")
    return tuple(name for name in ORACLES if name in names or "all" in names)


def _write(report: Report, target: Path) -> None:
    """Write a report in the form that the file's name says; JSON when it says none."""
    from ovseg_cli.atomic import write_json, write_text
    from ovseg_cli.evaluation.tables import as_csv, as_markdown

    suffix = target.suffix.lower()
    if suffix == ".csv":
        write_text(target, as_csv(report))
    elif suffix == ".md":
        write_text(target, as_markdown(report))
    else:
        write_json(target, report.to_dict(pictures=True))


def _last_run(common: Common, names: tuple[str, ...], background: bool | None) -> Predictions:
    """The label maps of the last run, named on stderr."""
    from ovseg_cli.names import listed_names
    from ovseg_cli.runs.evaluate import last_predictions

    store = common.find_store(any_profile=True)
    if store is None:
        return last_predictions(None)
    with store:
        found = last_predictions(store, classes=names, background=background)
    when = "" if found.started_at is None else f" of {found.started_at.astimezone():%Y-%m-%d %H:%M:%S}"
    common.out.note(f"scoring the last run{when}: {found.folder.parent} ({listed_names(found.requested)})")
    if not found.finished:
        common.out.warning("that run did not come to its end; label maps may be missing")
    return found


def _score(
    common: Common, predictions: Predictions, truth: GroundTruth, how: dict[str, Any], names: tuple[str, ...] = ()
) -> Report:
    """Score label maps; `names` are the classes that were named, which regions without names are matched with."""
    from ovseg_cli.runs.evaluate import evaluate as evaluate_predictions

    if how.get("match"):
        predictions = replace(predictions, requested=names)
    with common.out.progress() as bars:
        bar = bars.start("scoring")
        return evaluate_predictions(
            predictions,
            truth,
            **how,
            progress=lambda done, total: bars.update(bar, done=done, total=total),
        )


def _segment_images(
    common: Common,
    images: str,
    pictures: Sequence[InputImage],
    truth: GroundTruth,
    query: Query,
    image_classes: Path | None,
    output: Path,
    batch: int | None,
    engine: EngineOptions,
) -> Predictions:
    """Segment into a folder."""
    from ovseg_cli.files.image_classes import read_image_classes
    from ovseg_cli.methods.catalogue import METHODS
    from ovseg_cli.runs.evaluate import check_ground_truth, predictions_in
    from ovseg_cli.runs.folder import plan_folder

    shown = None if image_classes is None else read_image_classes(image_classes)
    regions = query.method in METHODS and METHODS[query.method].finds_regions
    with common.store_for_planning() as store:
        planned = plan_folder(
            store,
            [images],
            output,
            images=pictures,
            classes=() if regions else query.classes,
            method=query.method,
            options=query.options,
            image_classes=shown,
            precision=common.precision,
        )
    for note in (*query.notes, *planned.notes):
        common.out.note(note)
    keys = [str(item.image.key) for item in planned.plan.items]
    check_ground_truth(truth, keys, query.classes if regions else planned.recipe.classes)
    with common.open_store() as store:
        summary = run_with_progress(common, store, planned, recorded=False, batch=batch, engine=engine)
    if summary.failed and not summary.done:
        raise NoInputError(f"None of the pictures in {images} could be read.")
    return predictions_in(output)


def _record(common: Common, run_id: str | None, data: dict[str, Any]) -> None:
    """Keep the report in the store, if there is one; the figures are out, so a failure is only a warning."""
    try:
        store = common.find_store(any_profile=True)
        if store is not None:
            with store:
                store.record_evaluation(run_id, data)
    except NoDefaultStoreError:
        return
    except OvsegError as error:
        common.out.warning(f"the evaluation was not recorded: {error}")


def show_report(common: Common, report: Report, written: Sequence[Path] = (), *, brief: bool = False) -> None:
    """The table of classes, then the figures over all of them and how they are computed; only the mean IoU in brief."""
    from ovseg_cli.names import listed, short_name

    out = common.out
    rows = [(short_name(name), *figures) for name, *figures in report.rows()]
    out.show(table(("class", "left"), ("IoU", "right"), ("truth", "right"), ("predicted", "right"), rows=rows))
    out.line()
    out.line(
        ("mIoU ", "bold"),
        (_figure(report.miou), "bold"),
        f"   pixel accuracy {_figure(report.pixel_accuracy)}   pictures {report.images}",
    )
    if (interval := report.figure("miou").interval) is not None:
        out.line(f"{interval.level:.0%} interval of the mIoU {interval.low:.3f} to {interval.high:.3f}")
    out.line()
    if not brief:
        _show_figures(common, report)
    out.line((report.convention, "dim"))
    if report.unasked:
        others = [f"{short_name(other.name)} {percent(other.share)}" for other in report.unasked]
        fate = "count as background" if report.background else "are ignored"
        out.line(f"Not asked for, so they {fate}: {listed(others, most=_MOST_NAMED)}.")
    for file in written:
        out.line("report  ", str(file), copyable=True)


def _show_figures(common: Common, report: Report) -> None:
    """Every figure, one line each, in a column for each thing that can become of the background; then the bounds."""
    from ovseg_cli.evaluation.presence import CONVENTION as PRESENCE_CONVENTION
    from ovseg_cli.evaluation.presence import mean_presence
    from ovseg_cli.evaluation.tables import meanings, shown_interval

    out = common.out
    treatments = list(dict.fromkeys(figure.background for figure in report.figures))
    figures = {(figure.key, figure.background): figure for figure in report.figures}
    firsts = {figure.key: figure for figure in reversed(report.figures)}
    keys = list(dict.fromkeys(figure.key for figure in report.figures))
    rows = []
    for key in keys:
        values = [figures.get((key, treatment)) for treatment in treatments]
        rows.append((firsts[key].title, *("" if f is None else _figure(f.value) for f in values)))
    one = len(treatments) == 1
    titles: list[tuple[str, Align]] = [("", "right") if one else (treatment, "right") for treatment in treatments]
    out.show(table(("" if one else "background", "left"), *titles, rows=rows))
    for key in keys:
        out.line((f"{firsts[key].title}: {firsts[key].convention}", "dim"))
    for name, meaning in meanings(report):
        out.line((f"{name}: {meaning}", "dim"))
    out.line()
    if report.oracles:
        own = [("as it is", report.figures), *((bound.title, bound.figures) for bound in report.oracles)]
        shown = [{figure.key: figure for figure in reversed(found)} for _, found in own]
        bounds = [
            (title, _figure(found["miou"].value), shown_interval(found["miou"]), _figure(found["pixel_accuracy"].value))
            for (title, _), found in zip(own, shown, strict=True)
        ]
        columns: list[tuple[str, Align]] = [("mIoU", "right"), ("interval", "left"), ("pixel accuracy", "right")]
        out.show(table(("upper bounds (oracles)", "left"), *columns, rows=bounds))
        for bound in report.oracles:
            out.line((f"{bound.title}: {bound.convention}", "dim"))
        out.line()
    if means := mean_presence(report.presence):
        figures_of = "   ".join(f"{key.replace('_', ' ')} {value:.3f}" for key, value in means.items())
        out.line(f"which pictures show a class, mean over classes   {figures_of}")
        out.line((PRESENCE_CONVENTION, "dim"))
        out.line()


def _figure(value: float | None) -> str:
    return "–" if value is None else f"{value:.3f}"
