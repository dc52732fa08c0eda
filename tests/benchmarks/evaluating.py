"""Scoring folders of label maps: `evaluate_folders`, and how mmsegmentation and torchmetrics count the same files.

All read the files with Pillow. mmsegmentation's part is that of `IoUMetric` (open-mmlab/mmsegmentation 01c9623,
mmseg/evaluation/metrics/iou_metric.py), as its evaluation loop runs it of each picture.
"""

from __future__ import annotations

import os
import shutil
import tempfile
import weakref
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from tests.benchmarks.harness import Benchmark, Case, DisagreementError, Job

if TYPE_CHECKING:
    from torch import Tensor

HEIGHT, WIDTH = 375, 500
CLASSES = 21
PAIRS = 800
DISTINCT = 40
"""Pairs that differ; the others are links to these."""

MANY, SOME = 100_000, 10_000
SMALL = 32


class Folders:
    """A folder of true and one of predicted label maps, gone with this object."""

    def __init__(self, pairs: int, *, noise: bool = False, side: tuple[int, int] = (HEIGHT, WIDTH)) -> None:
        from ovseg_cli.files.labels import LabelMap, write_label, write_labelmap

        self.root = Path(tempfile.mkdtemp(prefix="ovseg-bench-"))
        self._gone = weakref.finalize(self, shutil.rmtree, self.root)
        self.labels = LabelMap.from_classes([f"class {i}" for i in range(1, CLASSES)])
        random = np.random.default_rng(0)
        for folder in ("gt", "pred"):
            (self.root / folder).mkdir()
            write_labelmap(self.root / folder / "labelmap.txt", self.labels)
        self.keys = [f"{i:06}" for i in range(pairs)]
        for i, key in enumerate(self.keys):
            if i >= DISTINCT:
                for folder in ("gt", "pred"):
                    os.link(self.root / folder / f"{self.keys[i % DISTINCT]}.png", self.root / folder / f"{key}.png")
                continue
            truth = random.integers(0, CLASSES, side) if noise else blobs(random, side)
            predicted = (
                random.integers(0, CLASSES, side) if noise else np.roll(truth, random.integers(-9, 9, 2), (0, 1))
            )
            truth[:4] = 255
            write_label(self.root / "gt" / f"{key}.png", truth, self.labels)
            write_label(self.root / "pred" / f"{key}.png", predicted, self.labels)

    def pairs(self) -> Iterator[tuple[Tensor, Tensor]]:
        """Truth and prediction of each key, uint8 (H, W)."""
        import torch
        from PIL import Image

        for key in self.keys:
            sides = []
            for folder in ("gt", "pred"):
                with Image.open(self.root / folder / f"{key}.png") as image:
                    sides.append(torch.from_numpy(np.array(image)))
            yield sides[0], sides[1]


def blobs(random: np.random.Generator, side: tuple[int, int]) -> np.ndarray:
    """Five things with uneven outlines on a background, int64 (H, W)."""
    height, width = side
    rows, columns = np.mgrid[:height, :width]
    uneven = 0.2 * np.sin(columns / 7) + 0.2 * np.cos(rows / 5)
    labels = np.zeros(side, dtype=np.int64)
    for name in random.choice(np.arange(1, CLASSES), 5, replace=False):
        radii = random.integers(height // 12, height // 3, 2)
        middle = random.integers(0, height), random.integers(0, width)
        labels[((rows - middle[0]) / radii[0]) ** 2 + ((columns - middle[1]) / radii[1]) ** 2 + uneven < 1] = name
    return labels


def totals(matrix: np.ndarray) -> np.ndarray:
    """True, predicted and right pixels of each class, (3, C)."""
    return np.stack([matrix.sum(axis=1), matrix.sum(axis=0), np.diagonal(matrix)])


def shipped(_device: str, *, noise: bool = False, workers: int | None = None, boundary: bool = False) -> Job:
    from ovseg_cli.evaluation.folder import evaluate_folders

    made = Folders(PAIRS, noise=noise)

    def job() -> np.ndarray:
        report = evaluate_folders(
            made.root / "gt",
            made.root / "pred",
            prediction_labels=made.labels,
            workers=workers,
            boundary=boundary,
        )
        assert report.pictures is not None
        return totals(report.pictures.matrix())

    return job


def mmsegmentation(_device: str, *, noise: bool = False) -> Job:
    import torch

    made = Folders(PAIRS, noise=noise)

    def job() -> np.ndarray:
        areas = torch.zeros(3, CLASSES, dtype=torch.float64)
        for label, predicted in made.pairs():
            predicted = predicted.long()
            label = label.to(predicted)
            mask = label != 255
            predicted, label = predicted[mask], label[mask]
            right = predicted[predicted == label]
            for row, values in enumerate((label, predicted, right)):
                areas[row] += torch.histc(values.float(), bins=CLASSES, min=0, max=CLASSES - 1)
        return areas.numpy().astype(np.int64)

    return job


def torchmetrics(_device: str) -> Job:
    from torchmetrics.classification import MulticlassConfusionMatrix

    made = Folders(PAIRS)

    def job() -> np.ndarray:
        metric = MulticlassConfusionMatrix(CLASSES, ignore_index=255)
        for label, predicted in made.pairs():
            metric.update(predicted.long(), label.long())
        return totals(metric.compute().numpy())

    return job


def many(_device: str, *, pairs: int) -> Job:
    """So many small pairs, which are made of a few that lie in memory."""
    from ovseg_cli.evaluation.pictures import Pictures
    from ovseg_cli.evaluation.scoring import count_pair, score_pairs

    random = np.random.default_rng(0)
    maps = [(blobs(random, (SMALL, SMALL)), blobs(random, (SMALL, SMALL))) for _ in range(DISTINCT)]

    class Counter:
        def count(self, pair: int):
            truth, predicted = maps[pair % DISTINCT]
            return count_pair(truth, predicted, num_classes=CLASSES, key=f"val/{pair:09}")

        def absorb(self, other: object) -> None: ...

    def job() -> np.ndarray:
        pictures = Pictures([f"class {i}" for i in range(CLASSES)])
        score_pairs(range(pairs), Counter(), pictures, workers=1)
        return totals(pictures.matrix()) * MANY // pairs

    return job


def equal_counts(baseline: np.ndarray, answer: np.ndarray) -> str:
    if not np.array_equal(baseline, answer):
        raise DisagreementError(f"{int(np.abs(baseline - answer).sum())} pixels are counted otherwise")
    return "equal counts"


def _case(name: str, what: str, prepare: Callable[[str], Job], baseline: str | None = None) -> Case:
    agree = None if baseline is None else equal_counts
    return Case(name=name, what=what, prepare=prepare, baseline=baseline, agree=agree, repeats=1)


BENCHMARK = Benchmark(
    name="evaluating",
    question=(
        f"{PAIRS} pairs of label maps of {WIDTH} x {HEIGHT} pixels and {CLASSES} classes, from the disk; with a "
        f"process for each core, and with one; and {MANY} pairs of {SMALL} x {SMALL} in memory"
    ),
    cases=(
        _case("mmsegmentation", "IoUMetric's counting", mmsegmentation),
        _case("shipped", "evaluate_folders", shipped, "mmsegmentation"),
        _case("one-process", "evaluate_folders, one process", partial(shipped, workers=1), "mmsegmentation"),
        _case("torchmetrics", "MulticlassConfusionMatrix", torchmetrics),
        _case("shipped-too", "evaluate_folders", shipped, "torchmetrics"),
        _case("noise-mmsegmentation", "IoUMetric's counting, noise", partial(mmsegmentation, noise=True)),
        _case("noise", "evaluate_folders, noise", partial(shipped, noise=True), "noise-mmsegmentation"),
        _case(
            "boundary", "with boundary IoU, one process", partial(shipped, workers=1, boundary=True), "mmsegmentation"
        ),
        _case("some", f"{SOME} pairs", partial(many, pairs=SOME)),
        _case("many", f"{MANY} pairs", partial(many, pairs=MANY), "some"),
    ),
)
