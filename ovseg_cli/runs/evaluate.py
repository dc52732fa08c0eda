"""What to score: a folder of label maps, pictures to segment first, or the last recorded run."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING

from ovseg_cli.errors import LabelError, NoInputError, UsageError
from ovseg_cli.files.labels import LABELMAP_NAME, LabelMap, is_background, read_labelmap
from ovseg_cli.files.layout import MASK_FOLDER
from ovseg_cli.names import ClassList, did_you_mean, listed, shown_name
from ovseg_cli.runs.manifest import Manifest, read_manifest

if TYPE_CHECKING:
    from ovseg_cli.evaluation.report import Report
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
    """

    folder: Path
    labels: LabelMap
    requested: tuple[str, ...]
    background: bool
    run_id: str | None = None
    started_at: datetime | None = None
    finished: bool = True


def predictions_in(
    folder: Path,
    *,
    label_map: Path | None = None,
    classes: Sequence[str] = (),
    background: bool | None = None,
) -> Predictions:
    """The label maps of a folder: an output folder of `segment`, or any folder with a labelmap.

    Args:
        folder: `ovseg-out`, its `SegmentationClass`, or another folder of label maps.
        label_map: what the ids mean when no `labelmap.txt` lies in the folder or beside it.
        classes: the classes that count; all that the run was asked for when empty.
        background: whether background counts; as the run had it when None.

    Raises:
        LabelError: the folder is absent, or nothing says what its ids mean.
        UsageError: a class is named that the label maps cannot hold.
    """
    if not os.path.isdir(folder):
        raise LabelError(f"There is no folder {folder} with predictions. Name it with --pred.")
    folder = folder / MASK_FOLDER if (folder / MASK_FOLDER).is_dir() else folder
    manifest = _manifest_near(folder)
    labels = _labels_near(folder, label_map)
    names = manifest.class_names if manifest is not None else tuple(n for n in labels.names if not is_background(n))
    if background is None:
        background = manifest.background if manifest is not None else True
    return Predictions(folder=folder, labels=labels, requested=_chosen(classes, names, folder), background=background)


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
    if not (run.output / MASK_FOLDER).is_dir():
        raise NoInputError(
            f"The last run wrote to {run.output}, which is gone. "
            "Segment again, or name label maps with --pred DIR or pictures with --images DIR."
        )
    found = predictions_in(run.output, classes=classes, background=background)
    return Predictions(
        folder=found.folder,
        labels=found.labels,
        requested=found.requested,
        background=found.background,
        run_id=run.id,
        started_at=run.started_at,
        finished=run.status == "finished",
    )


def evaluate(
    predictions: Predictions,
    gt: Path,
    *,
    label_map: Path | None = None,
    ignore: int | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> Report:
    """Score label maps against ground truth.

    Args:
        predictions: what to score.
        gt: folder of ground truth.
        label_map: what the ids or colours of the ground truth mean; None to look for a `labelmap.txt`.
        ignore: the id of pixels that do not count; None for 255, which must then be no class.
        progress: told how many images of how many are read.

    Raises:
        LabelError: see `ovseg_cli.evaluation.folder.evaluate_folders`.
    """
    from ovseg_cli.evaluation.folder import evaluate_folders

    return evaluate_folders(
        gt,
        predictions.folder,
        prediction_labels=predictions.labels,
        gt_labels=None if label_map is None else read_labelmap(label_map),
        requested=predictions.requested,
        background=predictions.background,
        ignore=ignore,
        source=str(label_map or ""),
        progress=progress,
    )


def check_ground_truth(
    gt: Path, keys: Iterable[str], classes: Sequence[str], *, label_map: Path | None = None, ignore: int | None = None
) -> None:
    """Find out before anything is segmented whether it can be scored, as far as names tell.

    Args:
        gt: folder of ground truth.
        keys: what the label maps will be called (see `ovseg_cli.files.discovery.InputImage`).
        classes: the classes that will be looked for.
        label_map: as in `evaluate`.
        ignore: as in `evaluate`.

    Raises:
        LabelError: there is no ground truth, nothing says what it means, it knows none of the classes, or it has none
            of the names.
    """
    from ovseg_cli.evaluation.truth import read_ground_truth

    labels = None if label_map is None else read_labelmap(label_map)
    truth = read_ground_truth(gt, labels, ignore=ignore, source=str(label_map or ""))
    truth.check_classes(classes)
    truth.pair({key: Path(key) for key in keys})


def _manifest_near(folder: Path) -> Manifest | None:
    """The `run.json` of an output folder, seen from its label maps."""
    return read_manifest(folder.parent) if folder.name == MASK_FOLDER else read_manifest(folder)


def _labels_near(folder: Path, label_map: Path | None) -> LabelMap:
    for place in (folder, folder.parent):
        if (place / LABELMAP_NAME).is_file():
            return read_labelmap(place / LABELMAP_NAME)
    if label_map is None:
        raise LabelError(
            f"There is no {LABELMAP_NAME} in {folder} or beside it, so nothing says what its ids mean. "
            "Name one with --label-map FILE."
        )
    return read_labelmap(label_map)


def _chosen(classes: Sequence[str], available: Sequence[str], folder: Path) -> tuple[str, ...]:
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
