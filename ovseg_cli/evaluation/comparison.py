"""Whether two runs differ, where they do, and which of many runs cannot be told apart.

Runs are compared picture by picture: what makes a picture hard is the same for both, so that their difference is much
surer than either figure is. Every draw of the bootstrap takes the same pictures of all runs.
"""

from __future__ import annotations

import string
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy.special import ndtri

from ovseg_cli.errors import UsageError
from ovseg_cli.evaluation.bootstrap import Means, expanded, interval, p_value
from ovseg_cli.evaluation.draws import DRAWS, LEVEL, SEED
from ovseg_cli.evaluation.figures import Background, Interval
from ovseg_cli.evaluation.metrics import class_iou
from ovseg_cli.evaluation.pictures import PictureCounts, Pictures
from ovseg_cli.names import listed, listed_names

__all__ = ["GROUPS_BY", "ClassDifference", "Comparison", "PictureDifference", "compare_runs", "groups"]

Values = npt.NDArray[np.float64]

GROUPS_BY = (
    "Runs of one group cannot be told apart: of every pair, the difference of the mIoU is divided by its standard "
    "error, both by paired bootstrap over pictures, and a pair differs where that is beyond what the largest of all "
    "pairs reaches by chance in 5 % of the draws (max-T). So the chance of even one false difference in the whole "
    "table is about 5 %, however many runs there are; with few pictures that limit is further out, as Student's t is."
)
"""The procedure of `groups`, for the foot of a table."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ClassDifference:
    """What one class has to do with the difference of two runs.

    Attributes:
        name: The class.
        iou_a: Its IoU in the first run; None where it is absent.
        iou_b: Likewise in the second.
        carries: Its part of the difference of the mIoU (second minus first); those of all classes add up to it.
    """

    name: str
    iou_a: float | None
    iou_b: float | None
    carries: float


@dataclass(frozen=True, slots=True, kw_only=True)
class PictureDifference:
    """What one picture has to do with the difference of two runs.

    Attributes:
        key: The picture.
        miou_a: Its own mIoU in the first run; None where nothing of it counts.
        miou_b: Likewise in the second.
        carries: By how much the difference of the mIoU would be less without the picture.
    """

    key: str
    miou_a: float | None
    miou_b: float | None
    carries: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Comparison:
    """Two runs over the same pictures.

    Attributes:
        miou_a: The mIoU of the first run over the shared pictures.
        miou_b: Likewise of the second.
        difference: The second minus the first; None where one is not defined.
        interval: Of the difference; None with fewer than two pictures.
        p: How likely so large a difference is where there is none: twice the share of the draws (and one more) on the
            other side of 0, taken back for few pictures (see `ovseg_cli.evaluation.bootstrap.p_value`).
        differ: Whether the runs differ: whether p is below one minus the level; None without p.
        draws: How many draws were made.
        seed: Of the draws.
        images: How many pictures both runs have.
        only_a: Pictures that only the first has, which are left out.
        only_b: Likewise of the second.
        background: Whether the background counts as a class.
        classes: The scored classes, those that carry most first.
        pictures: The pictures, those that carry most first.
        convention: How the figures are computed, in words.
    """

    miou_a: float | None
    miou_b: float | None
    difference: float | None
    interval: Interval | None
    p: float | None
    differ: bool | None
    draws: int
    seed: int
    images: int
    only_a: tuple[str, ...]
    only_b: tuple[str, ...]
    background: bool
    classes: tuple[ClassDifference, ...]
    pictures: tuple[PictureDifference, ...]
    convention: str

    def to_dict(self) -> dict[str, Any]:
        """The comparison as JSON-able data."""
        return {key: list(value) if isinstance(value, tuple) else value for key, value in asdict(self).items()}


def compare_runs(a: Pictures, b: Pictures, *, draws: int = DRAWS, seed: int = SEED, level: float = LEVEL) -> Comparison:
    """Compare the mIoU of two runs over the pictures that both have.

    Args:
        a: The records of the first run.
        b: Those of the second, against the same ground truth; its classes may be in another order.
        draws: How many draws; 0 for none.
        seed: Of the draws. Two sets of records, number and seed give one answer.
        level: Of the interval, 0..1.

    Raises:
        UsageError: The runs have other classes, no picture in common, or were scored against other labels.
    """
    b = _in_order_of(b, a)
    (a, b), (only_a, only_b) = _shared([a, b])
    _check_one_truth(a, b)
    treatment: Background = "left out" if a.background is None else "counts"
    matrices = a.matrix(), b.matrix()
    shares = [_shares(matrix, a.scored) for matrix in matrices]
    mious = [None if not np.isfinite(share).any() else float(np.nansum(share)) for share in shares]
    difference = None if mious[0] is None or mious[1] is None else mious[1] - mious[0]
    found, p = None, None
    if draws > 0 and len(a) > 1:
        wanted = ("miou", treatment)
        drawn = [Means(run, {wanted}).of_draws(draws, seed)[wanted] for run in (a, b)]
        differences = drawn[1] - drawn[0]
        found, p = interval(differences, level, len(a)), p_value(differences, len(a))
    return Comparison(
        miou_a=mious[0],
        miou_b=mious[1],
        difference=difference,
        interval=found,
        p=p,
        differ=None if p is None else p < 1 - level,
        draws=draws,
        seed=seed,
        images=len(a),
        only_a=only_a,
        only_b=only_b,
        background=treatment == "counts",
        classes=_classes(a, matrices, shares),
        pictures=_pictures(a, b, matrices),
        convention=(
            "mIoU over the classes in truth or prediction, from one confusion matrix over the shared pictures; the "
            f"interval and p by paired bootstrap: {draws} draws of pictures, seed {seed}, the same of both runs"
        ),
    )


def groups(
    runs: Mapping[str, Pictures], *, draws: int = DRAWS, seed: int = SEED, level: float = LEVEL
) -> dict[str, str]:
    """Which of many runs cannot be told apart, as letters: two runs share one exactly if they do not differ.

    See `GROUPS_BY` for the procedure. Letters follow the mIoU: the best run has an "a".

    Args:
        runs: The records of each run, by its name, over the same labels. Pictures that not all of them have are left
            out.
        draws: How many draws; at least 100.
        seed: Of the draws.
        level: One minus the chance of any false difference in the whole table.

    Returns:
        The letters of each run, in the order of `runs`; without two runs or two pictures, all have an "a".

    Raises:
        UsageError: As `compare_runs`.
    """
    if len(runs) < 2:
        return dict.fromkeys(runs, "a")
    first = next(iter(runs.values()))
    shared, _ = _shared([_in_order_of(run, first) for run in runs.values()])
    for other in shared[1:]:
        _check_one_truth(shared[0], other)
    if len(shared[0]) < 2:
        return dict.fromkeys(runs, "a")
    treatment: Background = "left out" if first.background is None else "counts"
    wanted = ("miou", treatment)
    drawn = np.stack([Means(run, {wanted}).of_draws(max(draws, 100), seed)[wanted] for run in shared])
    drawn = drawn[:, np.isfinite(drawn).all(axis=0)]
    mious = np.array([np.nansum(_shares(run.matrix(), run.scored)) for run in shared])
    differ = _max_t(mious, drawn, level, len(shared[0]))
    order = [int(i) for i in np.argsort(-mious, kind="stable")]
    letters = _letters(differ[np.ix_(order, order)])
    names = list(runs)
    found = {names[place]: letters[rank] for rank, place in enumerate(order)}
    return {name: found[name] for name in names}


def _max_t(mious: Values, drawn: Values, level: float, pictures: int) -> npt.NDArray[np.bool_]:
    """Which pairs of runs differ: `(R,)` figures and `(R, B)` of the draws in, `(R, R)` out."""
    number = len(mious)
    rows, columns = np.triu_indices(number, 1)
    differences = mious[rows] - mious[columns]
    around = drawn[rows] - drawn[columns] - differences[:, None]
    errors = around.std(axis=1)
    tiny = 1e-12  # two runs of equal answers have no error, and do not differ
    sizes = np.abs(around) / np.maximum(errors, tiny)[:, None]
    limit = float(np.quantile(sizes.max(axis=0), level)) if drawn.size else np.inf
    limit = expanded(max(limit, float(ndtri((1 + level) / 2))), pictures)  # draws of few pictures have no tails
    differ = np.zeros((number, number), dtype=bool)
    differ[rows, columns] = (np.abs(differences) > tiny) & (np.abs(differences) > limit * np.maximum(errors, tiny))
    return differ | differ.T


def _letters(differ: npt.NDArray[np.bool_]) -> list[str]:
    """A compact letter display: rows share a letter exactly if they do not differ (Piepho, 2004).

    Args:
        differ: `(R, R)` bool, symmetric, in the order of the table.
    """
    groups = [frozenset(range(len(differ)))]
    for i, j in zip(*np.nonzero(np.triu(differ)), strict=True):
        split: list[frozenset[int]] = []
        for group in groups:
            split += [group - {int(i)}, group - {int(j)}] if {int(i), int(j)} <= group else [group]
        distinct = list(dict.fromkeys(split))
        groups = [group for group in distinct if not any(group < other for other in distinct)]
    groups.sort(key=sorted)
    names = [_letter(place) for place in range(len(groups))]
    return [
        "".join(name for name, group in zip(names, groups, strict=True) if row in group) for row in range(len(differ))
    ]


def _letter(place: int) -> str:
    rounds, rest = divmod(place, 26)
    return string.ascii_lowercase[rest] + (str(rounds) if rounds else "")


def _shares(matrix: npt.NDArray[np.int64], scored: slice) -> Values:
    """What each class adds to the mIoU, `(C,)`; NaN for those that it does not cover."""
    iou = np.full(len(matrix), np.nan)
    iou[scored] = class_iou(matrix)[scored]
    number = np.isfinite(iou).sum()
    return iou / number if number else iou


def _classes(
    run: Pictures, matrices: Sequence[npt.NDArray[np.int64]], shares: Sequence[Values]
) -> tuple[ClassDifference, ...]:
    ious = [class_iou(matrix) for matrix in matrices]
    carried = np.nan_to_num(shares[1]) - np.nan_to_num(shares[0])
    places = range(len(run.names))[run.scored]
    return tuple(
        ClassDifference(
            name=run.names[i], iou_a=_defined(ious[0][i]), iou_b=_defined(ious[1][i]), carries=float(carried[i])
        )
        for i in sorted(places, key=lambda i: -abs(carried[i]))
    )


def _pictures(a: Pictures, b: Pictures, matrices: Sequence[npt.NDArray[np.int64]]) -> tuple[PictureDifference, ...]:
    (without_a, own_a), (without_b, own_b) = (
        _without_each(run, matrix) for run, matrix in zip((a, b), matrices, strict=True)
    )
    whole = [np.nansum(_shares(matrix, a.scored)) for matrix in matrices]
    carried = (whole[1] - whole[0]) - (without_b - without_a)
    return tuple(
        PictureDifference(
            key=a.keys[i], miou_a=_defined(own_a[i]), miou_b=_defined(own_b[i]), carries=float(carried[i])
        )
        for i in sorted(range(len(a)), key=lambda i: -abs(carried[i]))
    )


def _without_each(run: Pictures, matrix: npt.NDArray[np.int64]) -> tuple[Values, Values]:
    """The mIoU without each picture, and each one's own: `(N,)` each.

    A picture changes nothing but the classes that occur in it, so this takes no time to speak of.
    """
    start, stop, _ = run.scored.indices(len(run.names))
    hit = np.diagonal(matrix)
    union = matrix.sum(axis=0) + matrix.sum(axis=1) - hit
    covered = slice(start, stop)
    total = float((hit[covered][union[covered] > 0] / union[covered][union[covered] > 0]).sum())
    number = int((union[covered] > 0).sum())
    without, own = np.full(len(run), np.nan), np.full(len(run), np.nan)
    for i, picture in enumerate(run):
        counts = picture.per_class()
        chosen = (counts.classes >= start) & (counts.classes < stop)
        places = counts.classes[chosen]
        own_hit = counts.hit[chosen]
        own_union = (counts.true + counts.predicted)[chosen] - own_hit
        if places.size:
            own[i] = (own_hit / own_union).mean()
        left_union = union[places] - own_union
        left = np.divide(hit[places] - own_hit, left_union, out=np.zeros(len(places)), where=left_union > 0)
        rest = number - int((left_union == 0).sum())
        without[i] = (total - float((hit[places] / union[places]).sum()) + float(left.sum())) / max(rest, 1)
    return without, own


def _defined(value: float) -> float | None:
    return float(value) if np.isfinite(value) else None


def _in_order_of(run: Pictures, other: Pictures) -> Pictures:
    """A run's records with the class indices of another's.

    Raises:
        UsageError: It has other classes.
    """
    ours, theirs = ([names.casefold() for names in each.names] for each in (other, run))
    scored = [[each.names[i].casefold() for i in range(len(each.names))[each.scored]] for each in (other, run)]
    if set(ours) != set(theirs) or set(scored[0]) != set(scored[1]):
        odd = sorted(set(scored[0]) ^ set(scored[1])) or sorted(set(ours) ^ set(theirs))
        raise UsageError(
            f"The runs were scored on other classes: only one of them has {listed_names(odd)}. Compare runs "
            "of the same classes, or name those that both have with --classes."
        )
    if ours == theirs:
        return run
    table = np.array([ours.index(name) for name in theirs], dtype=np.int32)
    return Pictures(other.names, (_renumbered(picture, table) for picture in run), scored=other.scored)


def _renumbered(picture: PictureCounts, table: npt.NDArray[np.int32]) -> PictureCounts:
    true, predicted = table[picture.true], table[picture.predicted]
    order = np.lexsort((predicted, true))
    return replace(picture, true=true[order], predicted=predicted[order], pixels=picture.pixels[order], boundary=None)


def _shared(runs: Sequence[Pictures]) -> tuple[list[Pictures], list[tuple[str, ...]]]:
    """The records of the pictures that all runs have, in the order of the first; and the keys of those left out.

    Raises:
        UsageError: They have none in common.
    """
    common = set(runs[0].keys).intersection(*(run.keys for run in runs[1:]))
    if not common:
        examples = [listed([repr(key) for key in run.keys], most=2) for run in runs[:2]]
        raise UsageError(
            f"The runs have no picture in common: one has {examples[0]}, another {examples[1]}. Compare runs over the "
            "same pictures."
        )
    left = [tuple(key for key in run.keys if key not in common) for run in runs]
    keys = [key for key in runs[0].keys if key in common]
    found = []
    for run in runs:
        places = {key: i for i, key in enumerate(run.keys)}
        found.append(
            run if run.keys == keys else Pictures(run.names, (run[places[key]] for key in keys), scored=run.scored)
        )
    return found, left


def _check_one_truth(a: Pictures, b: Pictures) -> None:
    """Refuse runs whose pictures have other true classes: one of them was scored against other labels.

    Raises:
        UsageError: They have.
    """
    sums = []
    for run in (a, b):
        owner, true, _, pixels = run.entries()
        codes, places = np.unique(owner << 32 | true, return_inverse=True)
        counts = np.zeros(len(codes), dtype=np.int64)
        np.add.at(counts, places, pixels)
        sums.append(dict(zip(codes.tolist(), counts.tolist(), strict=True)))
    if sums[0] != sums[1]:
        first = min(code for code in sums[0].keys() | sums[1].keys() if sums[0].get(code) != sums[1].get(code))
        raise UsageError(
            f"The runs were not scored against the same labels: {a.keys[first >> 32]} has other true pixels. Score "
            "both against one folder, with one --ignore and one choice about the background."
        )
