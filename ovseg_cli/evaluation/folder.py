"""Scoring a folder of predictions against a folder of ground truth.

Both sides name their ids with a label map of their own, and ids are matched by those names: two folders
that number their classes differently are compared correctly.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Protocol

import numpy as np
import numpy.typing as npt

from ovseg_cli.errors import LabelError, OvsegError
from ovseg_cli.evaluation.boundary import boundary_counts
from ovseg_cli.evaluation.oracles import MATCHES, Match, matched
from ovseg_cli.evaluation.pairing import Pairs, find_labels, label_folder
from ovseg_cli.evaluation.pictures import PictureCounts, Pictures, Pixels
from ovseg_cli.evaluation.report import Report, UnaskedClass, build_report, convention
from ovseg_cli.evaluation.scoring import picture_of, score_pairs
from ovseg_cli.evaluation.suspicions import (
    exchanged_folders,
    size_hint,
    smoothed_labels,
    unnamed_id_hint,
    wrong_names,
)
from ovseg_cli.evaluation.truth import GroundTruth, read_ground_truth
from ovseg_cli.files.images import decoding
from ovseg_cli.files.labels import (
    BACKGROUND,
    IGNORE,
    LABELMAP_NAME,
    LabelMap,
    is_background,
    is_void,
    read_compact_label,
)
from ovseg_cli.files.tally import tally_pairs
from ovseg_cli.names import ClassList, class_key, listed, listed_names
from ovseg_cli.urls import Place

__all__ = ["LEFT_OUT", "GroundTruth", "evaluate_folders", "evaluate_truth", "index_maps", "read_ground_truth"]

_REST = 0  # the matrix index of everything that is none of the requested classes
LEFT_OUT = -1
"""The index of pixels that do not count."""

Ids = npt.NDArray[np.integer]
Indices = npt.NDArray[np.int32]


def evaluate_folders(
    gt: Place,
    prediction: Place,
    *,
    prediction_labels: LabelMap,
    gt_labels: LabelMap | None = None,
    requested: Sequence[str] = (),
    background: bool = True,
    ignore: int | Sequence[int] | None = None,
    source: str = "given",
    boundary: bool = False,
    match: Match | None = None,
    workers: int | None = None,
    listener: Callable[[PictureCounts], None] | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> Report:
    """Score predictions against ground truth, image by image, in one confusion matrix.

    Images are paired by their path below their folder, without the suffix. Classes of the ground truth
    that were not requested count as background; with `background=False` they and the background are left
    out. A class called "void", "ignore", "unlabeled" or the like (see `is_void`) is left out like the ignore value.

    Args:
        gt: A folder of label images, or one that holds them in ``SegmentationClass``.
        prediction: Likewise.
        prediction_labels: The names of the predicted ids.
        gt_labels: The names of the true ids; None reads the ``labelmap.txt`` in or above the folder. Id 0
            without a name is the background, unless that has another id.
        requested: The classes to score, in this order; empty means all that `prediction_labels` names.
        background: Whether the background counts as a class.
        ignore: The ground-truth value or values that are left out; -1 for none; None for 255, which must then be no
            class.
        source: Where `gt_labels` come from, for messages and for the report.
        match: Take predicted ids for regions without names, and name them by the best match with the truth (see
            `ovseg_cli.evaluation.oracles`): in each "image", or once in the "dataset". The classes are then the
            requested ones, or all that `gt_labels` names.
        boundary: Whether the boundary IoU is computed too, which takes more than half as long again.
        workers: How many processes share the work; None chooses (see `score_pairs`).
        listener: Told what was counted in each image, in order.
        progress: Called with (images done, images in all) after each image.

    Returns:
        The report. What was missing, superfluous or odd is in its `missing`, `extra` and `warnings`.

    Raises:
        LabelError: A folder or label map is missing, no names match, sizes differ, an id has no name, the ground
            truth knows none of the classes, or an image cannot be read as labels.
        ImageError: A label image is damaged.
    """
    label_folder(prediction)  # complains of it before the ground truth is read
    return evaluate_truth(
        read_ground_truth(gt, gt_labels, ignore=ignore, source=source),
        prediction,
        prediction_labels=prediction_labels,
        requested=requested,
        background=background,
        boundary=boundary,
        match=match,
        workers=workers,
        listener=listener,
        progress=progress,
    )


def evaluate_truth(
    truth: GroundTruth,
    prediction: Place,
    *,
    prediction_labels: LabelMap,
    requested: Sequence[str] = (),
    background: bool = True,
    ending: str = "",
    boundary: bool = False,
    match: Match | None = None,
    workers: int | None = None,
    listener: Callable[[PictureCounts], None] | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> Report:
    """Score predictions against ground truth, as `evaluate_folders` does.

    Args:
        truth: The ground truth.
        prediction: A folder of label images, or one that holds them in ``SegmentationClass``.
        prediction_labels: As for `evaluate_folders`.
        requested: Likewise.
        background: Likewise.
        ending: How the names of predictions end beyond the names of pictures.
        boundary: As for `evaluate_folders`.
        match: Likewise.
        workers: Likewise.
        listener: Likewise.
        progress: Likewise.

    Returns:
        The report.

    Raises:
        LabelError: As `evaluate_folders`.
        ImageError: Likewise.
    """
    prediction_folder = label_folder(prediction)
    files = find_labels(prediction_folder, ending)
    named = [name for name in truth.labels.names if not is_void(name)] if match else prediction_labels.names
    names = _distinct(requested) or _distinct(named)
    truth.check_classes(names.names)
    pairs = truth.pair(files)

    counter = _FolderCounter(
        _TrueIds(truth, names, background=background),
        _Regions(prediction_labels) if match else _PredictedIds(prediction_labels, names, truth),
        boundary=boundary and match is None,
    )
    pictures = Pictures([BACKGROUND, *names], scored=slice(0 if background else 1, None))
    try:
        score_pairs(pairs.matched, counter, pictures, workers=workers, listener=listener, progress=progress)
    except _SizeError as error:
        raise LabelError(f"{error}{_sizes_that_differ(pairs)}") from error
    if match is not None:
        pictures = matched(pictures, match)

    return build_report(
        pictures.names,
        pictures.matrix(),
        scored=pictures.scored,
        background=background,
        images=len(pictures),
        ignored_pixels=pictures.ignored,
        pictures=pictures,
        unasked=counter.true.unasked(),
        missing=pairs.missing,
        extra=pairs.extra,
        match=match or "",
        convention=convention(
            background=background,
            ignore=truth.ignore,
            unasked=bool(counter.true.other),
            match="" if match is None else MATCHES[match],
        ),
        warnings=(
            *_warnings(pairs, names, counter, pictures),
            *_suspicions(truth, prediction_folder, pairs, None if match else prediction_labels, pictures),
        ),
        sources={
            "ground_truth": str(truth.folder),
            "ground_truth_labels": truth.source,
            "predictions": str(prediction_folder),
        },
    )


def index_maps(
    truth: GroundTruth,
    key: str,
    prediction: Place,
    *,
    prediction_labels: LabelMap,
    requested: Sequence[str] = (),
    background: bool = True,
) -> tuple[Indices, Indices]:
    """One picture as it is scored: of every pixel the true and the predicted class.

    Args:
        truth: The ground truth.
        key: The picture's key in it.
        prediction: Its predicted label image.
        prediction_labels: As for `evaluate_truth`.
        requested: Likewise.
        background: Likewise.

    Returns:
        Two `(H, W)` int32 maps of indices of `Report.pictures.names`; `LEFT_OUT` where the truth does not count.

    Raises:
        LabelError: As `evaluate_truth`.
        ImageError: Likewise.
    """
    names = _distinct(requested) or _distinct(prediction_labels.names)
    true, predicted = _TrueIds(truth, names, background=background), _PredictedIds(prediction_labels, names, truth)
    return _FolderCounter(true, predicted).maps((key, truth.files[key], prediction))


class UnnamedIdError(LabelError):
    """An id without a name."""

    def __init__(self, label: int, message: str) -> None:
        super().__init__(message)
        self.label = label


class _SizeError(LabelError):
    """A prediction has another size than its label."""


def _sizes_that_differ(pairs: Pairs) -> str:
    """How many pictures have predictions of another size, as far as files tell it without being decoded."""
    differing = 0
    for _, true, predicted in pairs.matched:
        try:
            with decoding(true) as one, decoding(predicted) as other:
                differing += one.size != other.size
        except OvsegError:
            return ""  # labels that are no images
    count = len(pairs.matched)
    return f" {'All' if differing == count else differing} of the {count} pictures differ in size." if count > 1 else ""


@dataclass
class _FolderCounter:
    """Reads a pair of files, gives every id its matrix index and counts (see `PairCounter`)."""

    true: _TrueIds
    predicted: _PredictedIds | _Regions
    boundary: bool = False

    def count(self, pair: tuple[str, Place, Place]) -> PictureCounts:
        """Count the label maps of one picture: (key, ground truth, prediction)."""
        true, predicted = self._read(pair)
        rows, columns, pixels = tally_pairs(true, predicted)
        true_table, predicted_table = self._tables(pair, true, predicted, (rows, columns, pixels))
        picture = picture_of(pair[0], true_table[rows], predicted_table[columns], pixels, ignore=LEFT_OUT)
        if self.boundary:
            picture = replace(picture, boundary=boundary_counts(true_table[true], predicted_table[predicted]))
        return picture

    def maps(self, pair: tuple[str, Place, Place]) -> tuple[Indices, Indices]:
        """The matrix indices of every pixel of one picture, true and predicted."""
        true, predicted = self._read(pair)
        true_table, predicted_table = self._tables(pair, true, predicted, tally_pairs(true, predicted))
        return true_table[true], predicted_table[predicted]

    def _read(self, pair: tuple[str, Place, Place]) -> tuple[Ids, Ids]:
        key, gt_path, prediction_path = pair
        true = self.true.truth.read(key)
        predicted = read_compact_label(prediction_path, self.predicted.labels)
        if true.shape != predicted.shape:
            raise _SizeError(
                f"The sizes differ: {gt_path} is {_size(true)}, {prediction_path} is {_size(predicted)}. "
                f"Predictions must have the size of the labels.{size_hint(true.shape, predicted.shape)}"
            )
        return true, predicted

    def _tables(
        self, pair: tuple[str, Place, Place], true: Ids, predicted: Ids, tally: tuple[Pixels, Pixels, Pixels]
    ) -> tuple[Indices, Indices]:
        """The matrix index of each true and of each predicted id."""
        _, gt_path, prediction_path = pair
        rows, columns, pixels = tally
        try:
            true_table = _indices(rows, pixels, gt_path, self.true)
        except UnnamedIdError as error:
            raise LabelError(f"{error}{unnamed_id_hint(true, error.label, self.true.truth.labels)}") from error
        try:
            predicted_table = _indices(columns, pixels, prediction_path, self.predicted)
        except UnnamedIdError as error:
            raise LabelError(f"{error}{unnamed_id_hint(predicted, error.label, self.predicted.labels)}") from error
        return true_table, predicted_table

    def absorb(self, other: _FolderCounter) -> None:
        """Add the account of a copy that counted other pairs."""
        self.true.absorb(other.true)
        if isinstance(self.predicted, _PredictedIds) and isinstance(other.predicted, _PredictedIds):
            self.predicted.absorb(other.predicted)


class _Side(Protocol):
    """One side of the comparison: gives every id its matrix index and keeps count of the oddities."""

    def index(self, label: int, pixels: int, path: Place) -> int: ...


@dataclass
class _TrueIds:
    """The ground truth: ids of `labels` to matrix indices, with the pixels of what was not requested."""

    truth: GroundTruth
    names: ClassList
    background: bool
    other: Counter[str] = field(default_factory=Counter)
    void: int = 0
    labelled: int = 0
    _places: dict[str, int] = field(init=False, repr=False)

    def __post_init__(self) -> None:
        self._places = _places_of_meanings(self.truth, self.names)

    def index(self, label: int, pixels: int, path: Place) -> int:
        """The matrix index of a true id that `pixels` pixels of the image `path` have."""
        labels = self.truth.labels
        name = labels.name_of(label)
        if name is None and label == 0 and labels.background_id is None:
            name = BACKGROUND
        place = None if name is None else self.names.find(name)
        if place is None and name is not None:
            place = self._places.get(class_key(name))
        if label in self.truth.ignore or (place is None and name is not None and is_void(name)):
            self.void += pixels
            return LEFT_OUT
        if name is None:
            raise UnnamedIdError(
                label,
                f"{path} holds the id {label} ({pixels} pixels), which the label map does not name"
                f"{_background_elsewhere(label, labels)}. Add a line for it to {LABELMAP_NAME}, or give another "
                f"map with --label-map FILE, or leave it out with --ignore {label}.",
            )
        self.labelled += pixels
        if place is not None:
            return place + 1
        if not is_background(name):
            self.other[name] += pixels
        return _REST if self.background else LEFT_OUT

    def absorb(self, other: _TrueIds) -> None:
        """Add what a copy of this side has met in other images."""
        self.other.update(other.other)
        self.void += other.void
        self.labelled += other.labelled

    def unasked(self) -> tuple[UnaskedClass, ...]:
        """The classes that occur but were not requested, the largest first."""
        return tuple(
            UnaskedClass(name=name, pixels=pixels, share=pixels / self.labelled)
            for name, pixels in self.other.most_common()
        )


@dataclass
class _PredictedIds:
    """The predictions: ids of `labels` to matrix indices; what was not requested is the rest."""

    labels: LabelMap
    names: ClassList
    truth: GroundTruth
    other: Counter[str] = field(default_factory=Counter)
    void: int = 0
    _places: dict[str, int] = field(init=False, repr=False)

    def __post_init__(self) -> None:
        self._places = _places_of_meanings(self.truth, self.names)

    def index(self, label: int, pixels: int, path: Place) -> int:
        """The matrix index of a predicted id that `pixels` pixels of the image `path` have."""
        name = self.labels.name_of(label)
        if name is None and label == IGNORE:
            self.void += pixels
            return _REST
        if name is None and (label != 0 or self.labels.background_id is not None):
            raise UnnamedIdError(
                label,
                f"{path} holds the id {label} ({pixels} pixels), which the predictions' label map does not "
                f"name{_background_elsewhere(label, self.labels)}. Add a line for it to the {LABELMAP_NAME} of the "
                "predictions.",
            )
        if name is None or is_background(name):
            return _REST
        place = self.names.find(name)
        if place is None and (meaning := self.truth.meaning(name)) is not None:
            place = self._places.get(class_key(meaning))
        if place is None:
            if not self.truth.means_background(name):
                self.other[name] += pixels
            return _REST
        return place + 1

    def oddities(self) -> Iterator[str]:
        """What the reader of the figures should know of the predictions."""
        if unknown := [name for name in self.names if self.labels.id_of(name) is None]:
            yield f"not in the predictions' label map: {listed_names(unknown)} (never predicted)"
        if self.other:
            pixels = self.other.total()
            yield f"{pixels} pixel(s) predicted as {listed_names(list(self.other))} count as background"
        if self.void:
            yield f"{self.void} predicted pixel(s) have the value {IGNORE} and count as background"

    def absorb(self, other: _PredictedIds) -> None:
        """Add what a copy of this side has met in other images."""
        self.other.update(other.other)
        self.void += other.void


def _places_of_meanings(truth: GroundTruth, names: ClassList) -> dict[str, int]:
    """The places of names by what they are in the ground truth, as a class may be asked for by another of its names."""
    found = [(place, truth.meaning(name)) for place, name in enumerate(names)]
    return {class_key(meaning): place for place, meaning in reversed(found) if meaning is not None}


@dataclass
class _Regions:
    """Predictions whose ids are numbers of regions, whatever `labels` call them."""

    labels: LabelMap

    def index(self, label: int, pixels: int, path: Place) -> int:
        """The number of the region itself."""
        return label


def _background_elsewhere(label: int, labels: LabelMap) -> str:
    """Why an id 0 without a name is not simply the background."""
    return f" (the background is {labels.background_id})" if label == 0 else ""


def _indices(ids: Pixels, pixels: Pixels, path: Place, side: _Side) -> Indices:
    """A table of the matrix index of each id that occurs in an image.

    Args:
        ids: `(m,)`, ids that occur, repeated or not.
        pixels: `(m,)`, how many pixels each of these stands for.
        path: The image, for messages.
        side: What knows the ids.

    Returns:
        int32, long enough to be read at every one of the ids; 0 at others.
    """
    counts = np.zeros(int(ids.max(initial=-1)) + 1, dtype=np.int64)
    np.add.at(counts, ids, pixels)
    table = np.zeros(len(counts), dtype=np.int32)
    for label in np.flatnonzero(counts):
        table[label] = side.index(int(label), int(counts[label]), path)
    return table


def _distinct(names: Sequence[str]) -> ClassList:
    """The names without repetitions and without the background."""
    return ClassList.distinct(name for name in names if not is_background(name))


def _size(ids: Ids) -> str:
    return f"{ids.shape[1]}x{ids.shape[0]}"


def _warnings(pairs: Pairs, names: ClassList, counter: _FolderCounter, pictures: Pictures) -> tuple[str, ...]:
    """What the reader of the figures should know, one sentence each."""
    true, predicted = counter.true, counter.predicted
    rows = pictures.entries()[1]
    found = [*true.truth.notes]
    if pairs.missing:
        found.append(f"{len(pairs.missing)} labelled pictures have no prediction: {listed(pairs.missing)}")
    if pairs.extra and not true.truth.listed:
        found.append(f"{len(pairs.extra)} prediction(s) have no ground truth: {listed(pairs.extra)}")
    if unknown := [name for name in names if not true.truth.ids_of(name)]:
        found.append(
            f"not in the label map of the ground truth: {listed_names(unknown)} "
            "(every pixel predicted so counts as wrong)"
        )
    if isinstance(predicted, _PredictedIds):
        found += predicted.oddities()
    if not rows.size:
        values = f", as all pixels of the ground truth are {' or '.join(map(str, true.truth.ignore))}, or void"
        found.append(
            f"no pixel is left to score{values if true.void and not true.labelled else ''}: check the labels and "
            "--ignore"
        )
    elif true.void and not rows.any() and not true.other:
        values = " or ".join(map(str, true.truth.ignore))
        found.append(
            f"the ground truth holds only background and pixels that are left out; if {values} is a class, "
            "name it in the label map and give another --ignore"
        )
    return tuple(found)


def _suspicions(
    truth: GroundTruth, prediction: Place, pairs: Pairs, labels: LabelMap | None, pictures: Pictures
) -> tuple[str, ...]:
    """What seems to be a mistake with the folders, one sentence each."""
    found = (
        exchanged_folders(truth.folder, prediction),
        smoothed_labels(truth, pairs.matched),
        None if labels is None else wrong_names(truth, pairs.matched, labels, pictures.matrix()),
    )
    return tuple(sentence for sentence in found if sentence is not None)
