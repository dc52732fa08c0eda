"""Mistakes with folders of labels, recognised by what they leave in the ids: each with its evidence and what to do.

What is said here is a suspicion, so it is only said where the evidence is plain: valid labels, thin things and noise
included, give none of these sentences.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from ovseg_cli.evaluation.truth import GroundTruth
from ovseg_cli.files.blending import looks_blended
from ovseg_cli.files.labels import IGNORE, LabelMap, is_background, is_void, read_compact_label
from ovseg_cli.files.layout import MANIFEST_NAME, MASK_FOLDER
from ovseg_cli.files.tally import tally_pairs
from ovseg_cli.names import class_key, listed, short_name
from ovseg_cli.urls import Place

__all__ = ["exchanged_folders", "size_hint", "smoothed_labels", "unnamed_id_hint", "wrong_names"]

Ids = npt.NDArray[np.integer]
Pair = tuple[str, Place, Place]

_MOST_READ = 24  # pictures that are looked at again where names are suspected
_MOST_LOOKED_AT = 5  # pictures whose labels are looked at
_POOR = 0.3  # share of the predicted pixels that are right, below which names are suspected
_PLAIN = 0.6  # share of the predicted pixels that another reading of the names has to explain


# --------------------------------------------------------------------------- one label map


def unnamed_id_hint(ids: Ids, label: int, labels: LabelMap) -> str:
    """What may be wrong with a label map that holds an id without a name; empty where nothing speaks for anything.

    Args:
        ids: The label map, `(H, W)`.
        label: The id.
        labels: What ids mean.
    """
    values = [int(value) for value in np.unique(ids)]
    if looks_blended(ids):
        return (
            " The ids along its edges lie between those of its areas, so it was resized, smoothed or saved as JPEG: "
            "make it again without anti-aliasing, and scale labels by nearest neighbour only."
        )
    for factor, whose in ((1000, "Cityscapes and MOTS"), (256, "KITTI and Mapillary")):
        large = [value for value in values if value >= factor]
        if large and label >= factor and all(labels.name_of(value // factor) is not None for value in large):
            return (
                f" Divided by {factor} its ids have names, so they are those of instances (class * {factor} + number, "
                f"as {whose} have them): take the labels of classes."
            )
    steps = [value for value in values if value]
    if (step := _even_step(steps)) > 1 and all(labels.name_of(value // step) is not None for value in steps):
        return (
            f" Its ids are {listed([*map(str, values)], most=4)}: multiples of {step}, as if they were spread to be "
            f"seen. Divided by {step} they have names: take the labels before that, or write the map for these ids."
        )
    named = [index for index in labels.ids if index != IGNORE]
    unnamed = [value for value in values if value != IGNORE and labels.name_of(value) is None]
    first = labels.name_of(0)
    if first is not None and not is_background(first) and not is_void(first) and unnamed == [max(named) + 1]:
        return (
            f" The map calls 0 {short_name(first)!r} and ends at {max(named)}, and the labels go one further: in them "
            "0 is probably the background, or what does not count, so write it down first."
        )
    if named and len(unnamed) >= 3 and label > 2 * max(named):
        return (
            f" It has {len(unnamed)} ids without a name, up to {max(unnamed)}, and the map names ids up to "
            f"{max(named)}: is it the map of another data set or run?"
        )
    return ""


def _even_step(values: Sequence[int]) -> int:
    """The largest number that all values are multiples of; 0 of none."""
    return int(np.gcd.reduce(np.array(values, dtype=np.int64))) if values else 0


def size_hint(true: tuple[int, ...], predicted: tuple[int, ...]) -> str:
    """Why a prediction may have another size than its label: (height, width) of both."""
    if true == predicted[::-1] and true[0] != true[1]:
        return " One is the other turned: an EXIF orientation was applied to one of them only."
    ratios = [one / other for one, other in zip(true, predicted, strict=True)]
    if abs(ratios[0] - ratios[1]) < 0.02 * ratios[0]:
        larger = "smaller" if ratios[0] > 1 else "larger"
        return (
            f" The prediction is {max(ratios[0], 1 / ratios[0]):.3g} times {larger}: it was made of a resized "
            "picture. Scale it to the label's size by nearest neighbour, or segment the pictures as they are."
        )
    if len(set(predicted)) == 1:
        return (
            f" The prediction is a square, so it was made of a squashed picture. Scale it back to {true[1]}x{true[0]}."
        )
    return " Is it the prediction of another picture of this name?"


# --------------------------------------------------------------------------- folders


def exchanged_folders(truth: Place, prediction: Place) -> str | None:
    """Whether ground truth and prediction seem exchanged, or are one folder; None where they do not."""
    if truth.resolve() == prediction.resolve():
        return f"ground truth and predictions are the same folder, {truth}: every figure is that of a thing with itself"
    if _is_output(truth) and not _is_output(prediction):
        return (
            f"the ground truth {truth} is an output folder of ovseg segment, and the predictions in {prediction} are "
            "not: are --gt and --pred exchanged?"
        )
    return None


def _is_output(folder: Place) -> bool:
    return ((folder.parent if folder.name == MASK_FOLDER else folder) / MANIFEST_NAME).is_file()


def smoothed_labels(truth: GroundTruth, pairs: Sequence[Pair]) -> str | None:
    """Whether the labels look resized or smoothed, by some of them; None where they do not."""
    looked = _some(pairs, _MOST_LOOKED_AT)
    blended = [key for key, _, _ in looked if looks_blended(truth.read(key))]
    if 2 * len(blended) <= len(looked):
        return None
    return (
        f"the labels look resized or smoothed ({len(blended)} of {len(looked)} looked at, such as {blended[0]}): the "
        "ids along "
        "edges lie between those of the areas, which makes classes that are not there. Make them again without "
        "anti-aliasing, and scale labels by nearest neighbour only"
    )


def _some(pairs: Sequence[Pair], most: int) -> list[Pair]:
    """Pairs from all over the list."""
    step = max(1, -(-len(pairs) // most))
    return list(pairs[::step])


# --------------------------------------------------------------------------- names


@dataclass
class _Together:
    """How often a predicted class and a true id meet.

    Attributes:
        pixels: Of (name of a predicted class, true id).
        predicted: Of each predicted class.
    """

    pixels: Counter[tuple[str, int]] = field(default_factory=Counter)
    predicted: Counter[str] = field(default_factory=Counter)

    def share(self, ids: Mapping[str, Iterable[int]]) -> float:
        """Which share of the predicted pixels lies on the ids that each class is said to have."""
        hits = sum(self.pixels[name, index] for name, those in ids.items() for index in those)
        return hits / max(1, self.predicted.total())


def wrong_names(
    truth: GroundTruth, pairs: Sequence[Pair], labels: LabelMap, counts: npt.NDArray[np.int64]
) -> str | None:
    """Whether names and ids seem to belong to others than they are said to; None where they do not.

    Only looked for where little of what is predicted is right.

    Args:
        truth: The ground truth.
        pairs: (key, label file, prediction file).
        labels: What the predicted ids mean.
        counts: `(C, C)` confusion matrix; the first row and column are the background.
    """
    predicted = int(counts[:, 1:].sum())
    if not predicted or int(np.trace(counts[1:, 1:])) >= _POOR * predicted:
        return None
    together = _count_together(truth, pairs, labels)
    own = {name: truth.ids_of(name) for name in together.predicted}
    right = together.share(own)
    if right >= _POOR or len(together.predicted) < 2:
        return None
    return _shifted(truth, together, own, right) or _exchanged(truth, together, right)


def _count_together(truth: GroundTruth, pairs: Sequence[Pair], labels: LabelMap) -> _Together:
    together = _Together()
    for key, _, path in _some(pairs, _MOST_READ):
        true, predicted = truth.read(key), read_compact_label(path, labels)
        for index, value, pixels in zip(*map(np.ndarray.tolist, tally_pairs(true, predicted)), strict=True):
            name = labels.name_of(value)
            if name is not None and not is_background(name) and not is_void(name) and index not in truth.ignore:
                together.pixels[name, index] += pixels
                together.predicted[name] += pixels
    return together


def _shifted(truth: GroundTruth, together: _Together, own: Mapping[str, Sequence[int]], right: float) -> str | None:
    """Whether the ids are one off."""
    for step in (1, -1):
        moved = {name: [index + step for index in ids] for name, ids in own.items()}
        share = together.share(moved)
        if share < _PLAIN:
            continue
        # One class that is taken for its neighbour is an error of a method; several are one of the map.
        telling = [
            name
            for name, ids in moved.items()
            if ids and sum(together.pixels[name, index] for index in ids) > together.predicted[name] / 2
        ]
        if len(telling) < 2:
            continue
        name = max(telling, key=lambda name: together.predicted[name])
        index, higher = own[name][0], "higher" if step > 0 else "lower"
        return (
            f"the ids seem to be one off: {share:.0%} of what is predicted lies on the id one {higher} than the one "
            "that "
            f"its name has in the ground truth, and {right:.0%} on that. {short_name(name)} is {index} by the label "
            "map "
            f"{truth.source}, and {index + step} by the pixels. Is the background, or an id 0 that does not count, "
            "missing in one of the two label maps? Give the right one with --label-map FILE"
        )
    return None


def _exchanged(truth: GroundTruth, together: _Together, right: float) -> str | None:
    """Whether other names would fit: each predicted class lies on one true class, and that is another."""
    from scipy.optimize import linear_sum_assignment

    predicted = list(together.predicted)
    true: dict[str, int] = {}
    for _, index in together.pixels:
        name = truth.labels.name_of(index)
        if name is not None and not is_background(name) and not is_void(name):
            true.setdefault(class_key(name), len(true))
    if len(true) < 2:
        return None
    table = np.zeros((len(predicted), len(true)), dtype=np.int64)
    for (name, index), pixels in together.pixels.items():
        place = true.get(class_key(truth.labels.name_of(index) or ""))
        if place is not None:
            table[predicted.index(name), place] += pixels
    rows, columns = linear_sum_assignment(table, maximize=True)
    share = float(table[rows, columns].sum()) / max(1, together.predicted.total())
    names = list(true)
    pairs = [
        (predicted[row], names[column])
        for row, column in zip(rows.tolist(), columns.tolist(), strict=True)
        if table[row, column] > together.predicted[predicted[row]] / 2
    ]
    others = [(one, other) for one, other in pairs if class_key(truth.meaning(one) or one) != other]
    if share < _PLAIN or len(others) < 2:
        return None
    examples = listed([f"{short_name(one)} lies on {short_name(other)}" for one, other in others], most=3)
    return (
        f"the names seem to belong to other ids: {right:.0%} of what is predicted is right, and with exchanged names "
        "it "
        f"would be {share:.0%} ({examples}). Is one of the label maps, or a palette, that of another run or data set? "
        "Give the right one with --label-map FILE"
    )
