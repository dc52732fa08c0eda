"""Base and novel: how a head does on the names that it was trained on and on others, and what could be had for free."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from ovseg_cli.errors import LabelError
from ovseg_cli.evaluation.confusion import ConfusionMatrix
from ovseg_cli.evaluation.metrics import class_iou
from ovseg_cli.evaluation.truth import GroundTruth
from ovseg_cli.files.images import open_image
from ovseg_cli.files.labels import is_background, is_void
from ovseg_cli.heads.catseg import NOTHING
from ovseg_cli.heads.data import Sample, place_table
from ovseg_cli.heads.record import HeadRecord
from ovseg_cli.heads.registered import PREFIX
from ovseg_cli.methods.catalogue import METHODS, word_methods
from ovseg_cli.names import ClassList, listed_names
from ovseg_cli.segmentation.options import SegmentOptions

if TYPE_CHECKING:
    from ovseg_cli.models import Models
    from ovseg_cli.store import Store

_LEFT_OUT = -1
_NOISE = 0.005
"""Differences of a mean IoU that nobody is told of."""

Counts = npt.NDArray[np.int64]


@dataclass(frozen=True, slots=True, kw_only=True)
class MethodScore:
    """What one method does on base and novel names.

    Attributes:
        method: Its name.
        base: Mean IoU over the base names that the truth shows; None where it shows none.
        novel: Over the others.
        harmonic: Harmonic mean of both; None where one is not defined.
        all: Mean IoU over all names that the truth shows.
        ious: By name.
        seconds: For one picture, about; methods that go through CLIP together are timed alone.
    """

    method: str
    base: float | None
    novel: float | None
    harmonic: float | None
    all: float | None
    ious: dict[str, float | None]
    seconds: float


@dataclass(frozen=True, slots=True, kw_only=True)
class HeadReport:
    """A head and what is beside it, on the same pictures.

    Attributes:
        head: The trained head.
        others: Methods without training.
        base: The names that were trained.
        novel: The others that the truth shows.
        images: How many pictures there are.
        background: Whether the background is one of the classes.
        remarks: What the figures say, in sentences.
        counts: By method, a confusion matrix for each picture: what intervals are made of. Not in `to_dict`.
    """

    head: MethodScore
    others: tuple[MethodScore, ...]
    base: tuple[str, ...]
    novel: tuple[str, ...]
    images: int
    background: bool
    remarks: tuple[str, ...]
    counts: dict[str, list[Counts]]

    @property
    def rows(self) -> tuple[MethodScore, ...]:
        """The head, then the others."""
        return (self.head, *self.others)

    def to_dict(self) -> dict[str, Any]:
        """As JSON-able data."""
        data = {name: getattr(self, name) for name in ("base", "novel", "images", "background", "remarks")}
        return {
            "head": asdict(self.head),
            "others": [asdict(other) for other in self.others],
            **{name: list(value) if isinstance(value, tuple) else value for name, value in data.items()},
        }


def free_methods() -> tuple[str, ...]:
    """The methods without training that need CLIP alone."""
    return tuple(name for name in word_methods() if METHODS[name].networks == ("clip",) and METHODS[name].explained)


def score_head(
    path: Path,
    record: HeadRecord,
    samples: Sequence[Sample],
    truth: GroundTruth,
    store: Store,
    models: Models,
    *,
    methods: Sequence[str] = (),
    progress: Callable[[int, int], None] | None = None,
) -> HeadReport:
    """Segment labelled pictures by a head and by other methods, with all names of the truth as vocabulary.

    Args:
        path: The head's file.
        record: What it says of itself.
        samples: The pictures.
        truth: Their labels.
        store: As for every segmentation.
        models: The models.
        methods: Names of the other methods; none for `free_methods`.
        progress: Told how many pictures of how many are done.

    Raises:
        LabelError: The labels show none of the head's names.
    """
    import time

    from ovseg_cli.segmentation.segmenter import Segmenter

    names, shown = _vocabulary(samples, truth)
    base = tuple(name for name in names if name in ClassList(record.base))
    novel = tuple(name for name in names if name not in base)
    if not base:
        raise LabelError(
            f"The labels show none of the names that the head was trained on ({listed_names(record.base)}), so there "
            "is nothing to compare. Name others with --test-images and --test-labels."
        )
    head = f"{PREFIX}{path}"
    wanted = (head, *(methods or free_methods()))
    options = SegmentOptions(background=shown)
    segmenters = {name: Segmenter(models, store, names, method=name, options=options) for name in wanted}
    counts: dict[str, list[Counts]] = {name: [] for name in wanted}
    seconds = dict.fromkeys(wanted, 0.0)
    table = _indices(truth, names)
    for done, sample in enumerate(samples, start=1):
        image = open_image(sample.image)
        true = table[truth.read(sample.key)]
        for name, segmenter in segmenters.items():
            before = time.perf_counter()
            found = segmenter.segment(image)
            seconds[name] += time.perf_counter() - before
            matrix = ConfusionMatrix(len(names) + 1, ignore=_LEFT_OUT)
            matrix.update(true, found.ids)
            counts[name].append(matrix.counts)
        if progress is not None:
            progress(done, len(samples))
    scores = [
        method_score(name, sum(counts[name]), names, base, seconds=seconds[name] / len(samples)) for name in wanted
    ]
    return HeadReport(
        head=scores[0],
        others=tuple(scores[1:]),
        base=base,
        novel=novel,
        images=len(samples),
        background=shown,
        remarks=tuple(remarks(scores[0], scores[1:], novel)),
        counts=counts,
    )


def method_score(
    method: str, counts: Any, names: Sequence[str], base: Sequence[str], *, seconds: float = 0.0
) -> MethodScore:
    """Figures of a confusion matrix whose index 0 is the background."""
    of_base = np.array([name in base for name in names])
    first, second = mean_iou_of(counts, of_base), mean_iou_of(counts, ~of_base)
    ious = class_iou(counts)[1:].tolist()
    return MethodScore(
        method=method,
        base=first,
        novel=second,
        harmonic=harmonic(first, second),
        all=mean_iou_of(counts, np.ones_like(of_base)),
        ious={name: None if math.isnan(iou) else iou for name, iou in zip(names, ious, strict=True)},
        seconds=seconds,
    )


def mean_iou_of(counts: Counts, chosen: npt.NDArray[np.bool_]) -> float | None:
    """Mean IoU over some names, as far as the truth shows them; None where it shows none.

    Args:
        counts: (C + 1, C + 1), index 0 the background.
        chosen: bool (C,), which names.
    """
    found = class_iou(counts)[1:][chosen & (counts.sum(axis=1)[1:] > 0)]
    return float(found.mean()) if found.size else None


def harmonic(base: float | None, novel: float | None) -> float | None:
    """The harmonic mean of two figures; None where one is not defined."""
    if base is None or novel is None:
        return None
    return 2 * base * novel / (base + novel) if base + novel else 0.0


def remarks(head: MethodScore, others: Sequence[MethodScore], novel: Sequence[str]) -> list[str]:
    """What the figures say, in sentences: above all where training made names worse that were not in it."""
    found = []
    best = max(others, key=lambda other: other.base if other.base is not None else -1.0, default=None)
    if best is not None and head.base is not None and best.base is not None:
        change = head.base - best.base
        found.append(
            f"On the names that were trained, the head's mIoU is {_points(abs(change))} "
            f"{'above' if change >= 0 else 'BELOW'} that of {best.method}, the best method without training."
        )
    best = max(others, key=lambda other: other.novel if other.novel is not None else -1.0, default=None)
    if best is None or head.novel is None or best.novel is None:
        if not novel:
            found.append("The pictures show no name that was not trained, so nothing is known of novel names.")
        return found
    change = head.novel - best.novel
    if change < -_NOISE:
        losses = {
            name: (best.ious[name] or 0.0) - (head.ious[name] or 0.0)
            for name in novel
            if best.ious.get(name) is not None
        }
        lost = [name for name in sorted(losses, key=lambda name: -losses[name]) if losses[name] > _NOISE]
        worst = ", ".join(f"{name} {best.ious[name] or 0:.2f} to {head.ious[name] or 0:.2f}" for name in lost[:3])
        found.append(
            f"Training made names worse that were not in it: their mIoU is {_points(-change)} below that of "
            f"{best.method} ({len(lost)} of {len(novel)} names; most of all {worst}). For such names, "
            f"--method {best.method} is the better choice."
        )
    else:
        found.append(
            f"On names that were not trained, the head's mIoU is {_points(abs(change))} "
            f"{'above' if change >= 0 else 'below'} that of {best.method}, the best method without training."
        )
    return found


def _points(share: float) -> str:
    return f"{100 * share:.1f} points"


def _vocabulary(samples: Sequence[Sample], truth: GroundTruth) -> tuple[tuple[str, ...], bool]:
    """All names of the truth's label map, and whether the background is shown in the pictures."""
    names = ClassList.distinct(name for name in truth.labels.names if not is_background(name) and not is_void(name))
    table = _indices(truth, names.names)
    shown = any((table[truth.read(sample.key)] == 0).any() for sample in samples)
    return tuple(names.names), shown


def _indices(truth: GroundTruth, names: Sequence[str]) -> npt.NDArray[np.int64]:
    """By id: the index of its name from 1 on, 0 for the background, and what is left out."""
    places = place_table(truth, names)
    return np.select([places >= 0, places == NOTHING], [places + 1, 0], _LEFT_OUT)
