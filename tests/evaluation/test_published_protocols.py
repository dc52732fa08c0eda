"""PASCAL VOC with background (VOC21) and without (VOC20), as mmsegmentation's `IoUMetric` counts them."""

from __future__ import annotations

import numpy as np
import pytest

from ovseg_cli.evaluation.folder import evaluate_folders
from ovseg_cli.files.labels import LabelMap, write_label, write_labelmap

CLASSES = [f"class {number}" for number in range(1, 21)]
LABELS = LabelMap.from_classes(CLASSES)


def intersect_and_union(pairs, classes):
    """Histograms of whole pictures; pixels of 255 in the ground truth are left out."""
    totals = np.zeros((3, classes))
    for truth, predicted in pairs:
        kept = truth != 255
        truth, predicted = truth[kept], predicted[kept]
        for row, values in enumerate((predicted[predicted == truth], predicted, truth)):
            totals[row] += np.bincount(values, minlength=classes)[:classes]
    both, found, there = totals
    with np.errstate(invalid="ignore"):
        return both / (found + there - both)


@pytest.mark.parametrize("background", [True, False], ids=["VOC21", "VOC20"])
def test_the_mean_iou_is_the_published_one(tmp_path, background):
    random = np.random.default_rng(5)
    pairs = []
    for number in range(6):
        truth = random.integers(0, 19, (24, 31))  # the last two classes are never there, and one is only predicted
        truth[random.random(truth.shape) < 0.1] = 255
        lowest = 0 if background else 1
        wrong = random.integers(lowest, 20, truth.shape)
        right = (random.random(truth.shape) < 0.6) & (truth != 255) & (truth >= lowest)
        predicted = np.where(right, truth, wrong)
        write_label(tmp_path / "gt" / f"{number}.png", truth.astype(np.uint16), LABELS)
        write_label(tmp_path / "pred" / f"{number}.png", predicted.astype(np.uint16), LABELS)
        if not background:
            # reduce_zero_label: 0 becomes 255, the others move down by one, and 255 stays.
            truth = np.where((truth == 0) | (truth == 255), 255, truth - 1)
            predicted = predicted - 1
        pairs.append((truth, predicted))
    write_labelmap(tmp_path / "gt" / "labelmap.txt", LABELS)
    report = evaluate_folders(
        tmp_path / "gt", tmp_path / "pred", prediction_labels=LABELS, requested=CLASSES, background=background
    )
    expected = intersect_and_union(pairs, 21 if background else 20)
    found = [np.nan if score.iou is None else score.iou for score in report.classes]
    np.testing.assert_allclose(found, expected, atol=1e-12)
    assert np.isnan(found).sum() == 1
    assert report.miou == pytest.approx(np.nanmean(expected))
