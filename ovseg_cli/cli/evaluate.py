"""eval: score label maps against ground truth."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from ovseg_cli.cli.common import Common, command
from ovseg_cli.cli.folder import EXIT_SOME_FAILED, run_with_progress
from ovseg_cli.cli.options import DrawsOpt, DrawsSeedOpt, ImageClassesOpt, LabelMapOpt, Query, with_query
from ovseg_cli.cli.output import Align, amount, percent, table
from ovseg_cli.errors import LabelError, NoDefaultStoreError, NoInputError, OvsegError, UsageError
from ovseg_cli.evaluation.figures import DRAWS, SEED
from ovseg_cli.figures import figure_beside

if TYPE_CHECKING:
    from ovseg_cli.evaluation.datasets import OpenDataset
    from ovseg_cli.evaluation.oracles import OracleName
    from ovseg_cli.evaluation.report import Report
    from ovseg_cli.evaluation.truth import GroundTruth
    from ovseg_cli.runs.evaluate import Predictions

EXIT_BELOW = 4
_FORMS = ("", ".json", ".csv", ".md")
_OF_LABEL_MAPS = ("--classes", "--background", "--no-background")  # say which of the label maps' classes count
_MOST_NAMED = 3


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
        Path | None,
        typer.Option(
            "--gt", metavar="DIR", help="Folder of ground-truth labels, or a COCO JSON file.", show_default=False
        ),
    ] = None,
    pred: Annotated[
        Path | None,
        typer.Option(
            "--pred", metavar="DIR", help="Label maps to score. (default: those of the last run)", show_default=False
        ),
    ] = None,
    images: Annotated[
        Path | None,
        typer.Option(
            "--images",
            metavar="DIR",
            help="Pictures to segment first; their label maps are not kept.",
            show_default=False,
        ),
    ] = None,
    *,
    query: Query,
    image_classes: ImageClassesOpt = None,
    dataset: Annotated[
        str | None,
        typer.Option(
            "--dataset",
            metavar="NAME",
            help="A published data set in place of --gt: voc21, voc20, voc20b, context60, context59, context459, "
            "coco-object, coco-stuff, coco-stuff27, ade150, ade847, cityscapes; NAME:PAPER for a paper's class names.",
            show_default=False,
        ),
    ] = None,
    root: Annotated[
        Path | None,
        typer.Option("--root", metavar="DIR", help="Where that data set was unpacked.", show_default=False),
    ] = None,
    split: Annotated[
        str | None,
        typer.Option(
            "--split",
            metavar="NAME|FILE",
            help="Its part (default: val); or a file that lists the pictures that count, one a line.",
            show_default=False,
        ),
    ] = None,
    gt_suffix: Annotated[
        str,
        typer.Option(
            "--gt-suffix",
            metavar="TEXT",
            help="How label files end beyond the pictures' names: _gtFine_labelIds.png.",
            show_default=False,
        ),
    ] = "",
    pred_suffix: Annotated[
        str,
        typer.Option("--pred-suffix", metavar="TEXT", help="Likewise of the label maps to score.", show_default=False),
    ] = "",
    label_map: LabelMapOpt = None,
    ignore: Annotated[
        list[int] | None,
        typer.Option(
            "--ignore",
            min=-1,
            max=65535,
            metavar="ID",
            help="Label of pixels that do not count; -1: none; may be repeated. (default: 255)",
            show_default=False,
        ),
    ] = None,
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
    With --images, the options of ovseg segment say how pictures are segmented.
    Ground truth and label maps are paired by file name and their ids by class name.
    Exit code 3: some labelled pictures have no prediction; 4: --fail-under.
    """
    from ovseg_cli.runs.evaluate import default_match, in_dataset, predictions_in

    if output is not None and output.suffix.lower() not in _FORMS:
        raise UsageError(f"A report is written as .json, .csv or .md, and {str(output)!r} is none of them.")

    if pred is not None and images is not None:
        raise UsageError("--pred and --images exclude each other: name label maps, or pictures to segment.")
    truth, opened = _ground_truth(gt, dataset, root, split, gt_suffix, label_map, ignore)
    names, background = query.classes, query.background
    run_id = None
    how: dict[str, Any] = {"match": match}
    how |= {"boundary": boundary, "oracles": _oracles(oracle), "draws": draws, "seed": seed}
    if images is not None:
        if pred_suffix:
            raise UsageError(
                "--pred-suffix is for label maps that are there already (--pred); with --images, none are."
            )
        report = _score_images(common, images, truth, opened, query, image_classes, how)
    else:
        beside = [flag for flag in query.given if flag not in _OF_LABEL_MAPS]
        if beside or image_classes is not None:
            raise UsageError(
                f"{', '.join([*beside, *([] if image_classes is None else ['--image-classes'])])} would change how "
                "pictures are segmented, and these label maps are there already: name the pictures with --images."
            )
        some = () if match else names  # what regions are called is the ground truth's matter
        if pred is not None:
            found = predictions_in(
                pred,
                label_map=label_map,
                classes=some,
                background=background,
                usual=None if opened is None else opened.indices,
                ending=pred_suffix,
            )
        else:
            found = replace(_last_run(common, some, background), ending=pred_suffix)
        run_id = found.run_id
        found = found if opened is None else in_dataset(found, opened, background=background)
        report = _score(common, found, truth, how | {"match": match or default_match(found)}, names)
    data = report.to_dict()
    if output is not None:
        _write(report, output)
    common.out.result(data, human=lambda: show_report(common, report, output), quiet=[_figure(report.miou)])
    for warning in report.warnings:
        common.out.warning(warning)
    _record(common, run_id, data)
    if fail_under is not None and report.missing:
        count = len(report.missing)
        common.out.error(f"{amount(count, 'labelled picture')} without a prediction, so --fail-under cannot be met")
        raise typer.Exit(EXIT_BELOW)
    if fail_under is not None and (report.miou is None or report.miou < fail_under):
        figure, limit = ("–", f"{fail_under:g}") if report.miou is None else figure_beside(report.miou, fail_under)
        common.out.error(f"the mIoU {figure} is below --fail-under {limit}")
        raise typer.Exit(EXIT_BELOW)
    if report.missing:
        count = len(report.missing)
        common.out.error(
            f"{count} of {report.images + count} labelled pictures have no prediction and are left out, so the figures "
            f"are those of the other {report.images}. Segment the missing ones too, or score the others' labels alone."
        )
        raise typer.Exit(EXIT_SOME_FAILED)


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


def _ground_truth(
    gt: Path | None,
    dataset: str | None,
    root: Path | None,
    split: str | None,
    gt_suffix: str,
    label_map: Path | None,
    ignore: list[int] | None,
) -> tuple[GroundTruth, OpenDataset | None]:
    """The ground truth that the options name, and the data set that it belongs to."""
    from ovseg_cli.evaluation.datasets import open_dataset
    from ovseg_cli.runs.evaluate import open_truth

    if dataset is not None:
        if gt is not None or gt_suffix:
            raise UsageError("--dataset says where the labels are, so --gt and --gt-suffix cannot be given with it.")
        if root is None:
            raise UsageError(f"Say where the data set {dataset} was unpacked, with --root DIR.")
        opened = open_dataset(dataset, root, split, ignore=ignore)
        return opened.truth, opened
    if root is not None:
        raise UsageError("--root is the folder of a data set, so name that with --dataset.")
    if gt is None:
        raise UsageError("Name the ground truth: a folder with --gt DIR, or a data set with --dataset NAME --root DIR.")
    if not os.path.exists(gt):
        raise LabelError(f"There is no folder {gt} with ground truth. Name it with --gt.")
    listing = None if split is None else Path(split)
    return open_truth(gt, label_map=label_map, ignore=ignore, ending=gt_suffix, split=listing), None


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


def _score_images(
    common: Common,
    images: Path,
    truth: GroundTruth,
    opened: OpenDataset | None,
    query: Query,
    image_classes: Path | None,
    how: dict[str, Any],
) -> Report:
    """Segment into a folder that is thrown away, then score."""
    from ovseg_cli.files.image_classes import read_image_classes
    from ovseg_cli.methods.catalogue import METHODS
    from ovseg_cli.runs.evaluate import check_ground_truth, default_match, in_dataset, predictions_in
    from ovseg_cli.runs.folder import plan_folder
    from ovseg_cli.runs.plan import find_images

    shown = None if image_classes is None else read_image_classes(image_classes)
    with tempfile.TemporaryDirectory(prefix="ovseg-eval-") as scratch:
        output = Path(scratch) / "ovseg-out"
        found = find_images([str(images)], output)  # complains now, not after a store is made
        regions = query.method in METHODS and METHODS[query.method].finds_regions
        with common.store_for_planning() as store:
            planned = plan_folder(
                store,
                [str(images)],
                output,
                images=found,
                classes=() if regions else query.classes,
                method=query.method,
                options=query.options,
                image_classes=shown,
                precision=common.precision,
            )
        for note in (*query.notes, *planned.notes):
            common.out.note(note)
        keys = [str(item.image.key) for item in planned.plan.items]
        sought = query.classes if regions else planned.recipe.classes
        check_ground_truth(truth, keys, sought)
        with common.open_store() as store:
            summary = run_with_progress(common, store, planned, recorded=False)
        if summary.failed and not summary.done:
            raise NoInputError(f"None of the pictures in {images} could be read.")
        made = predictions_in(output)
        made = made if opened is None else in_dataset(made, opened, background=query.background)
        return _score(common, made, truth, how | {"match": how["match"] or default_match(made)}, query.classes)


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


def show_report(common: Common, report: Report, written: Path | None = None) -> None:
    """The table of classes, then the figures over all of them and how they are computed."""
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
    _show_figures(common, report)
    out.line((report.convention, "dim"))
    if report.unasked:
        others = [f"{short_name(other.name)} {percent(other.share)}" for other in report.unasked]
        fate = "count as background" if report.background else "are ignored"
        out.line(f"Not asked for, so they {fate}: {listed(others, most=_MOST_NAMED)}.")
    if written is not None:
        out.line("report  ", str(written), copyable=True)


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
