"""What to score: a folder of label maps, pictures to segment first, or the last recorded run."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ovseg_cli.errors import LabelError, NoInputError, UsageError
from ovseg_cli.evaluation.draws import DRAWS, SEED
from ovseg_cli.evaluation.pairing import label_folder
from ovseg_cli.evaluation.sources import open_truth
from ovseg_cli.files.labels import LABELMAP_NAME, LabelMap, is_background, read_labelmap
from ovseg_cli.files.layout import MASK_FOLDER
from ovseg_cli.methods.catalogue import METHODS
from ovseg_cli.names import (
    ClassList,
    class_key,
    did_you_mean,
    listed,
    listed_names,
    short_name,
    shown_name,
    unknown_choice,
)
from ovseg_cli.runs.manifest import Manifest, read_manifest
from ovseg_cli.urls import Place, Url, is_folder, is_there

if TYPE_CHECKING:
    from ovseg_cli.evaluation.datasets import OpenDataset
    from ovseg_cli.evaluation.oracles import Match, OracleName
    from ovseg_cli.evaluation.pictures import Pictures
    from ovseg_cli.evaluation.report import Report
    from ovseg_cli.evaluation.truth import GroundTruth
    from ovseg_cli.store import Store


@dataclass(frozen=True, slots=True, kw_only=True)
class Predictions:
    """Label maps to be scored.

    Attributes:
        folder: the folder of label maps.
        labels: what their ids mean.
        requested: the classes that were asked for, which are the classes that count.
        background: whether background counts as a class of its own.
        run_id: the recorded run that made them, if it is known.
        started_at: when that run began.
        finished: whether that run came to its end.
        synonyms: other words that were looked for with a class.
        ending: how the names of label maps end beyond the names of pictures.
        notes: what the reader of the figures should know of these label maps.
    """

    folder: Place
    labels: LabelMap
    requested: tuple[str, ...]
    background: bool
    run_id: str | None = None
    started_at: datetime | None = None
    finished: bool = True
    synonyms: Mapping[str, Sequence[str]] = field(default_factory=dict)
    ending: str = ""
    notes: tuple[str, ...] = ()


def in_dataset(found: Predictions, opened: OpenDataset, *, background: bool | None = None) -> Predictions:
    """Label maps as a data set scores them: its classes in its order, and the background as it has it.

    Args:
        found: the label maps.
        opened: the data set.
        background: whether background counts, where somebody says so; None for what the data set says.
    """
    by_class: dict[str, str] = {}
    for name in found.requested:
        if (meaning := opened.truth.meaning(name)) is not None:
            by_class.setdefault(meaning, name)
    asked = [by_class[name] for name in opened.classes if name in by_class]
    scored = opened.background if background is None else background
    notes = [*found.notes]
    if missing := [name for name in opened.classes if name not in by_class]:
        notes.append(
            f"{len(missing)} of the {len(opened.classes)} classes of {opened.dataset.name} were not looked for "
            f"({listed_names(missing)}), so the figures cannot be compared with published ones"
        )
    if scored and not found.background and not opened.background_words:
        notes.append("the label maps were made without background, which is scored")
    if background is not None and background != opened.background:
        which = "scores" if opened.background else "leaves out"
        notes.append(f"{opened.dataset.name} {which} the background, and you ask for the opposite")
    return replace(found, requested=tuple(asked) or found.requested, background=scored, notes=tuple(notes))


def predictions_in(
    folder: Place,
    *,
    label_map: Path | None = None,
    classes: Sequence[str] = (),
    background: bool | None = None,
    usual: LabelMap | None = None,
    ending: str = "",
) -> Predictions:
    """The label maps of a folder: an output folder of `segment`, or any folder with a labelmap.

    Args:
        folder: `ovseg-out`, its `SegmentationClass`, or another folder of label maps.
        label_map: what the ids mean when no `labelmap.txt` lies in the folder or beside it.
        classes: the classes that count; all that the run was asked for when empty. Of a run that found regions without
            names, these are for the ground truth to know, and not for its label maps.
        background: whether background counts; as the run had it when None.
        usual: what the ids mean where neither a `labelmap.txt` nor `label_map` says so.
        ending: how the names of label maps end beyond the names of pictures.

    Raises:
        LabelError: the folder is absent, or nothing says what its ids mean.
        UsageError: a class is named that the label maps cannot hold.
    """
    if not is_folder(folder):
        raise LabelError(f"There is no folder {folder} with predictions. Name it with --pred.")
    folder = label_folder(folder)
    manifest = _manifest_near(folder)
    labels = _labels_near(folder, label_map, usual)
    notes: tuple[str, ...] = ()
    if labels is usual and usual is not None:
        notes = (
            f"nothing says what the ids of the label maps in {folder} mean: they are read as published code has them, "
            f"{', '.join(f'{i} {name}' for i, name, _ in [*usual][:3])} ... (another map: --label-map FILE)",
        )
    names = manifest.class_names if manifest is not None else tuple(n for n in labels.names if not is_background(n))
    if background is None:
        background = manifest.background if manifest is not None else True
    if manifest is not None:
        notes = (*notes, *_other_names(manifest, labels, folder))
    recorded = manifest.options.get("synonyms") if manifest is not None else None
    return Predictions(
        folder=folder,
        labels=labels,
        requested=tuple(names) if _finds_regions(manifest) else _chosen(classes, names, folder),
        background=background,
        synonyms={name: tuple(words) for name, words in recorded or ()},
        ending=ending,
        notes=notes,
    )


def last_predictions(
    store: Store | None, *, classes: Sequence[str] = (), background: bool | None = None
) -> Predictions:
    """The label maps of the last recorded run.

    Raises:
        NoInputError: there is no run, or its folder is gone.
    """
    run = store.last_run() if store is not None else None
    if run is None:
        raise NoInputError(
            "There is no recorded run to score. Name label maps with --pred DIR, or pictures with --images DIR."
        )
    if not is_folder(run.output / MASK_FOLDER):
        raise NoInputError(
            f"The last run wrote to {run.output}, which is gone. "
            "Segment again, or name label maps with --pred DIR or pictures with --images DIR."
        )
    found = predictions_in(run.output, classes=classes, background=background)
    return replace(found, run_id=run.id, started_at=run.started_at, finished=run.status == "finished")


def evaluate(
    predictions: Predictions,
    gt: Place | GroundTruth,
    *,
    label_map: Path | None = None,
    ignore: int | Sequence[int] | None = None,
    boundary: bool = False,
    match: Match | None = None,
    oracles: Sequence[OracleName] = (),
    draws: int = DRAWS,
    seed: int = SEED,
    progress: Callable[[int, int], None] | None = None,
) -> Report:
    """Score label maps against ground truth.

    Args:
        predictions: what to score.
        gt: the ground truth (`open_truth`, or that of an open data set), or the folder or file that holds it.
        label_map: as for `open_truth`, where that is still to be done.
        ignore: likewise.
        boundary: whether the boundary IoU is computed too.
        match: take the label maps' ids for regions without names, and let the truth name them: in each "image", or once
            in the "dataset". The classes that count are then those requested, or all of the ground truth.
        oracles: upper bounds that are computed too.
        draws: bootstrap draws for the intervals of mean IoUs; 0 for none.
        seed: of the draws.
        progress: told how many images of how many are read.

    Raises:
        LabelError: see `ovseg_cli.evaluation.folder.evaluate_folders`.
        UsageError: there is no such upper bound, or it is asked for of regions without names.
    """
    from ovseg_cli.evaluation.oracles import ORACLES, with_oracles

    if unknown := [name for name in oracles if name not in ORACLES]:
        raise unknown_choice("oracle", unknown[0], ORACLES, heading="Oracles")
    if match is not None and oracles:
        raise UsageError("--match and --oracle exclude each other: figures of matched regions are an oracle's already.")
    from ovseg_cli.evaluation.bootstrap import with_intervals
    from ovseg_cli.evaluation.folder import evaluate_truth

    truth = open_truth(gt, label_map=label_map, ignore=ignore) if isinstance(gt, Path | Url) else gt
    report = evaluate_truth(
        truth.also_called(predictions.synonyms),
        predictions.folder,
        prediction_labels=predictions.labels,
        requested=predictions.requested,
        background=predictions.background,
        ending=predictions.ending,
        boundary=boundary,
        match=match,
        progress=progress,
    )
    report = replace(report, warnings=(*predictions.notes, *report.warnings))
    return with_oracles(with_intervals(report, draws=draws, seed=seed), oracles, draws=draws, seed=seed)


def default_match(predictions: Predictions) -> Match | None:
    """How label maps are matched with the truth when nobody says: not at all, unless their ids are regions."""
    return "image" if _finds_regions(_manifest_near(predictions.folder)) else None


def _finds_regions(manifest: Manifest | None) -> bool:
    """Whether a run's label maps hold regions without names."""
    used = "" if manifest is None else str(manifest.method.get("used", ""))
    return used in METHODS and METHODS[used].finds_regions


def score_folder(
    folder: Place,
    gt: Place | GroundTruth,
    *,
    classes: Sequence[str] = (),
    background: bool | None = None,
    label_map: Path | None = None,
    match: Match | None = None,
    **how: Any,
) -> Report:
    """Score the label maps of a folder, whose ids may be classes or regions.

    Args:
        folder: as in `predictions_in`.
        gt: as in `evaluate`.
        classes: the classes that count; of regions without names those of the ground truth that they are matched with.
        background: as in `predictions_in`.
        label_map: as in `predictions_in` and `evaluate`.
        match: as in `evaluate`; None for `default_match`.
        **how: what else `evaluate` takes.

    Raises:
        UsageError: there is no such match; or as `predictions_in` and `evaluate`.
        LabelError: likewise.
    """
    if match not in (None, "image", "dataset"):
        raise UsageError(
            f"Regions are matched in each image or once in the dataset: match is one of these, not {match!r}."
        )
    some = () if match else classes  # what regions are called is the ground truth's matter
    found = predictions_in(folder, label_map=label_map, classes=some, background=background)
    match = match or default_match(found)
    if match is not None:
        found = replace(found, requested=tuple(classes))
    return evaluate(found, gt, label_map=label_map, match=match, **how)


def records_of(
    run: Place,
    gt: Place | GroundTruth | None,
    *,
    classes: Sequence[str] = (),
    background: bool | None = None,
    label_map: Path | None = None,
    ignore: int | Sequence[int] | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> Pictures:
    """What was counted in each picture of a run: scored now, or read from a report.

    Args:
        run: an output folder or another folder of label maps; or a report as JSON.
        gt: the ground truth, or the folder or file that holds it; needed for folders.
        classes: the classes that count, as in `predictions_in`; not for reports.
        background: whether background counts; not for reports.
        label_map: as in `evaluate`.
        ignore: as in `evaluate`.
        progress: as in `evaluate`.

    Raises:
        UsageError: ground truth is missing, or the file is no report with the pictures' records.
        LabelError: as `evaluate`.
    """
    from ovseg_cli.evaluation.pictures import Pictures

    if not is_there(run):
        raise UsageError(f"{run} does not exist. Name an output folder, or a report that ovseg eval -o wrote.")
    if not run.is_file():
        if gt is None:
            raise UsageError(f"{run} is a folder, so it has to be scored first: name the ground truth with --gt.")
        how: dict[str, Any] = {"classes": classes, "background": background, "label_map": label_map}
        return score_folder(run, gt, **how, ignore=ignore, draws=0, progress=progress).pictures or Pictures(())
    if classes or background is not None:
        raise UsageError(
            f"{run} is a report, whose classes are counted already: leave out --classes and --background, or name the "
            "folder of the label maps."
        )
    try:
        return Pictures.from_dict(json.loads(run.read_bytes())["pictures"])
    except OSError as error:
        raise UsageError(f"{run} cannot be read: {error.strerror}.") from error
    except (ValueError, KeyError, TypeError) as error:
        raise UsageError(
            f"{run} is no report with the counts of each picture: write one with ovseg eval -o FILE.json."
        ) from error


def check_ground_truth(truth: GroundTruth, keys: Iterable[str], classes: Sequence[str]) -> None:
    """Find out before anything is segmented whether it can be scored, as far as names tell.

    Args:
        truth: the ground truth.
        keys: what the label maps will be called (see `ovseg_cli.files.discovery.InputImage`).
        classes: the classes that will be looked for.

    Raises:
        LabelError: it knows none of the classes, or has none of the names.
    """
    truth.check_classes(classes)
    truth.pair({key: Path(key) for key in keys})


def _manifest_near(folder: Place) -> Manifest | None:
    """The `run.json` of an output folder, seen from its label maps."""
    return read_manifest(folder.parent) if folder.name == MASK_FOLDER else read_manifest(folder)


def _other_names(manifest: Manifest, labels: LabelMap, folder: Place) -> tuple[str, ...]:
    """What to say where the label map of an output folder is not that of its run."""
    for entry in manifest.classes:
        index, name = int(entry["id"]), str(entry["name"])
        found = labels.name_of(index)
        if found is None or class_key(found) != class_key(name):
            called = "has no name for" if found is None else f"calls {short_name(found)!r}"
            return (
                f"the label map of {folder} {called} the id {index}, and its run.json calls that "
                f"{short_name(name)!r}: one of the two is of another run. Put back the right file, or segment again",
            )
    return ()


def _labels_near(folder: Place, label_map: Path | None, usual: LabelMap | None) -> LabelMap:
    for place in (folder, folder.parent):
        if (place / LABELMAP_NAME).is_file():
            return read_labelmap(place / LABELMAP_NAME)
    if label_map is None:
        if usual is not None:
            return usual
        raise LabelError(
            f"There is no {LABELMAP_NAME} in {folder} or beside it, so nothing says what its ids mean. "
            "Name one with --label-map FILE."
        )
    return read_labelmap(label_map)


def _chosen(classes: Sequence[str], available: Sequence[str], folder: Place) -> tuple[str, ...]:
    """The classes that count: those named, in the spelling of the label maps, or all."""
    if not classes:
        return tuple(available)
    known = ClassList.distinct(available)
    if unknown := known.lacking(classes):
        raise UsageError(
            f"The label maps in {folder} were not asked for {listed([*map(shown_name, unknown)])}; "
            f"they hold {known.listed()}.{did_you_mean(unknown[0], known) if len(unknown) == 1 else ''}"
        )
    return tuple(map(known.spelled, classes))
