"""Every figure against those that others compute, on label maps that break careless counting.

mmsegmentation's and detectron2's are restated: mmseg/evaluation/metrics/iou_metric.py of open-mmlab/mmsegmentation
01c9623 (`IoUMetric`), and detectron2/evaluation/sem_seg_evaluation.py of facebookresearch/detectron2 027099d
(`SemSegEvaluator`).
"""

from __future__ import annotations

import numpy as np
import pytest
import torch
from sklearn import metrics as sklearn
from torchmetrics.classification import (
    MulticlassAccuracy,
    MulticlassF1Score,
    MulticlassJaccardIndex,
)

from ovseg_cli.evaluation.arrays import evaluate_arrays
from ovseg_cli.evaluation.boundary import boundary_counts
from ovseg_cli.evaluation.figures import BACKGROUNDS
from ovseg_cli.evaluation.pictures import PictureCounts, Pictures
from ovseg_cli.evaluation.report import build_report
from ovseg_cli.evaluation.scoring import count_pair
from tests.evaluation.maps import CLASSES, Maps, adversarial

NAMES = ["background", *(f"class {i}" for i in range(1, CLASSES))]
SEEDS = [0, 1, 2]


def report_of(pairs: Maps):
    return evaluate_arrays([p for _, p in pairs], [t for t, _ in pairs], NAMES)


def without_background(pairs: Maps) -> Maps:
    """What `reduce_zero_label` does: pixels of 0 are left out."""
    return [(np.where(truth == 0, 255, truth), prediction) for truth, prediction in pairs]


def counted(pairs: Maps):
    """All pixels that count, in two long rows."""
    kept = [(truth[truth != 255], prediction[truth != 255]) for truth, prediction in pairs]
    return tuple(np.concatenate(side) for side in zip(*kept, strict=True))


def mmsegmentation(pairs: Maps, classes: list[int]) -> dict[str, float]:
    """`IoUMetric`: histograms of single pictures, their sums, quotients, and means of what is no NaN."""
    areas = torch.zeros(3, CLASSES, dtype=torch.float64)
    for truth, prediction in pairs:
        label, predicted = torch.tensor(truth), torch.tensor(prediction)
        mask = label != 255
        label, predicted = label[mask], predicted[mask]
        for row, values in enumerate((predicted[predicted == label], predicted, label)):
            areas[row] += torch.histc(values.float(), bins=CLASSES, min=0, max=CLASSES - 1)
    both, found, there = areas[:, classes]
    return {
        "miou": float(np.nanmean(both / (found + there - both))),
        "mean_dice": float(np.nanmean(2 * both / (found + there))),
        "mean_accuracy": float(np.nanmean(both / there)),
        "pixel_accuracy": float(areas[0].sum() / areas[2].sum()),
    }


def detectron2(pairs: Maps) -> dict[str, float]:
    """`SemSegEvaluator`: one matrix with a last row and column for what is ignored; means over the classes in truth."""
    size = CLASSES + 1
    matrix = np.zeros((size, size), dtype=np.int64)
    for truth, prediction in pairs:
        truth = np.where(truth == 255, CLASSES, truth)
        matrix += np.bincount(size * prediction.ravel() + truth.ravel(), minlength=size**2).reshape(size, size)
    hits = matrix.diagonal()[:-1].astype(float)
    there, found = (matrix[:-1, :-1].sum(axis=axis).astype(float) for axis in (0, 1))
    valid = there > 0
    iou = hits[valid] / (there + found - hits)[valid]
    return {
        "miou_present": iou.mean(),
        "frequency_weighted_iou": (iou * there[valid] / there.sum()).sum(),
        "mean_accuracy": (hits[valid] / there[valid]).mean(),
        "pixel_accuracy": hits.sum() / there.sum(),
    }


def check(report, background, expected):
    for key, value in expected.items():
        assert report.figure(key, background).value == pytest.approx(value, abs=1e-12), key


@pytest.mark.parametrize("seed", SEEDS)
class TestOthers:
    def test_mmsegmentation(self, seed):
        pairs = adversarial(seed)
        report, everything, others = report_of(pairs), list(range(CLASSES)), list(range(1, CLASSES))
        check(report, "counts", mmsegmentation(pairs, everything))
        means = mmsegmentation(pairs, others)
        check(report, "not averaged", {key: means[key] for key in ("miou", "mean_dice", "mean_accuracy")})
        check(report, "left out", mmsegmentation(without_background(pairs), others))

    def test_detectron2(self, seed):
        pairs = adversarial(seed)
        check(report_of(pairs), "counts", detectron2(pairs))
        check(report_of(pairs), "left out", detectron2(without_background(pairs)))

    def test_torchmetrics(self, seed):
        pairs = adversarial(seed)
        truth, prediction = (torch.tensor(side) for side in counted(pairs))
        report = report_of(pairs)
        single = {"num_classes": CLASSES, "average": "none"}
        expected = {
            "iou": MulticlassJaccardIndex(**single)(prediction, truth),
            "recall": MulticlassAccuracy(**single)(prediction, truth),
            "dice": MulticlassF1Score(**single)(prediction, truth),
        }
        for key, values in expected.items():
            ours = [getattr(score, key) or 0.0 for score in report.classes]
            np.testing.assert_allclose(ours, values.numpy(), atol=1e-6)  # it computes in float32
        for key, metric in (
            ("miou", MulticlassJaccardIndex(CLASSES, average="macro")),
            ("frequency_weighted_iou", MulticlassJaccardIndex(CLASSES, average="weighted")),
            ("mean_dice", MulticlassF1Score(CLASSES, average="macro")),
            ("pixel_accuracy", MulticlassAccuracy(CLASSES, average="micro")),
        ):
            assert report.figure(key, "counts").value == pytest.approx(float(metric(prediction, truth)), abs=1e-6), key

    def test_scikit_learn(self, seed):
        pairs = adversarial(seed)
        truth, prediction = counted(pairs)
        found = sorted(set(truth.tolist()) | set(prediction.tolist()))
        iou = sklearn.jaccard_score(truth, prediction, labels=found, average=None)
        dice = sklearn.f1_score(truth, prediction, labels=found, average=None)
        present = np.isin(found, truth)
        weights = np.array([(truth == c).sum() for c in found])
        recall = sklearn.recall_score(truth, prediction, labels=np.array(found)[present], average=None)
        check(
            report_of(pairs),
            "counts",
            {
                "miou": iou.mean(),
                "miou_present": iou[present].mean(),
                "mean_dice": dice.mean(),
                "mean_accuracy": recall.mean(),
                "frequency_weighted_iou": np.average(iou, weights=weights),
                "pixel_accuracy": sklearn.accuracy_score(truth, prediction),
            },
        )


def test_the_maps_tell_the_conventions_apart():
    """Or the tests above could not fail."""
    report = report_of(adversarial())
    values = [figure.value for figure in report.figures if "miou" in figure.key]
    assert len(values) == 6
    assert min(abs(a - b) for i, a in enumerate(values) for b in values[:i]) > 0.003


def test_every_figure_says_how_it_is_computed():
    report = report_of(adversarial())
    assert {figure.background for figure in report.figures} == set(BACKGROUNDS)
    told = {(figure.key, figure.convention) for figure in report.figures}
    assert len(told) == len({key for key, _ in told}) == len({text for _, text in told}) == 6


def test_boundary_iou_is_a_figure_where_it_was_counted():
    pictures = Pictures(NAMES)
    totals = np.zeros((3, CLASSES))
    for truth, prediction in adversarial():
        bands = boundary_counts(np.where(truth == 255, -1, truth), prediction)
        picture = count_pair(truth, prediction, num_classes=CLASSES, ignore=255)
        pictures.append(PictureCounts("", picture.true, picture.predicted, picture.pixels, picture.ignored, bands))
        for row, part in zip(totals, (bands.true, bands.predicted, bands.hit), strict=True):
            row[bands.classes] += part
    report = build_report(NAMES, pictures.matrix(), pictures=pictures, images=len(pictures), ignored_pixels=0)
    with np.errstate(invalid="ignore"):
        iou = totals[2] / (totals[0] + totals[1] - totals[2])
    assert report.figure("boundary_miou").value == pytest.approx(np.nanmean(iou))
    assert report.figure("boundary_miou", "not averaged").value == pytest.approx(np.nanmean(iou[1:]))
    np.testing.assert_allclose(
        [score.boundary_iou or np.nan for score in report.classes], np.where(iou > 0, iou, np.nan)
    )
    with pytest.raises(KeyError):
        report.figure("boundary_miou", "left out")  # whose bands were not counted
