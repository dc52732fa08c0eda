from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from ovseg_cli.evaluation import metrics
from ovseg_cli.evaluation.confusion import ConfusionMatrix

RNG = np.random.default_rng(5)
matrices = hnp.arrays(np.int64, (4, 4), elements=st.integers(0, 3))


def test_by_hand():
    #            predicted: a  b  c  d
    counts = np.array([[6, 2, 0, 0], [1, 3, 0, 0], [0, 0, 0, 0], [0, 0, 0, 0]])
    np.testing.assert_allclose(metrics.class_iou(counts), [6 / 9, 3 / 6, np.nan, np.nan])
    np.testing.assert_allclose(metrics.class_accuracy(counts), [6 / 8, 3 / 4, np.nan, np.nan])
    np.testing.assert_allclose(metrics.class_precision(counts), [6 / 7, 3 / 5, np.nan, np.nan])
    assert metrics.mean_iou(counts) == pytest.approx((6 / 9 + 3 / 6) / 2)
    assert metrics.pixel_accuracy(counts) == pytest.approx(9 / 12)
    assert metrics.mean_accuracy(counts) == pytest.approx(3 / 4)
    assert metrics.frequency_weighted_iou(counts) == pytest.approx((8 * 6 / 9 + 4 * 3 / 6) / 12)


def test_class_that_is_only_predicted_counts_as_zero_in_one_mean():
    counts = np.array([[4, 0, 1], [0, 0, 0], [0, 0, 0]])
    np.testing.assert_allclose(metrics.class_iou(counts), [0.8, np.nan, 0.0])
    assert metrics.mean_iou(counts) == pytest.approx(0.4)
    assert metrics.mean_iou_present(counts) == pytest.approx(0.8)


def test_classes_that_are_not_scored_still_count_as_wrong_answers():
    counts = np.array([[4, 1, 0], [2, 3, 0], [0, 5, 0]])
    assert metrics.mean_iou(counts, slice(1, None)) == pytest.approx((3 / 11 + 0) / 2)
    assert metrics.mean_iou_present(counts, slice(0, 2)) == pytest.approx((4 / 7 + 3 / 11) / 2)
    assert math.isnan(metrics.mean_iou_present(np.diag([5, 0]), slice(1, None)))


@given(matrices)
def test_agree_with_sets_of_pixels(counts):
    """Blow the matrix up to pixels again, and use the definitions."""
    truth, prediction = (
        np.array([pair[i] for pair, n in np.ndenumerate(counts) for _ in range(n)], dtype=int) for i in (0, 1)
    )
    for c in range(4):
        union = ((truth == c) | (prediction == c)).sum()
        expected = ((truth == c) & (prediction == c)).sum() / union if union else math.nan
        np.testing.assert_allclose(metrics.class_iou(counts)[c], expected)
    accuracy = (truth == prediction).mean() if truth.size else math.nan
    np.testing.assert_allclose(metrics.pixel_accuracy(counts), accuracy)


@given(matrices)
def test_ranges_and_symmetry(counts):
    iou, accuracy, precision = (
        metrics.class_iou(counts),
        metrics.class_accuracy(counts),
        metrics.class_precision(counts),
    )
    defined = ~np.isnan(iou)
    assert ((iou[defined] >= 0) & (iou[defined] <= 1)).all()
    np.testing.assert_array_equal(metrics.class_iou(counts.T), iou)
    np.testing.assert_array_equal(metrics.class_precision(counts.T), accuracy)
    both = ~np.isnan(accuracy) & ~np.isnan(precision)
    assert (iou[both] <= np.minimum(accuracy, precision)[both] + 1e-12).all()


def test_perfect_prediction():
    counts = np.diag(np.array([5, 0, 7]))
    for figure in (metrics.mean_iou, metrics.mean_iou_present, metrics.pixel_accuracy, metrics.mean_accuracy):
        assert figure(counts) == 1.0
    assert metrics.frequency_weighted_iou(counts) == 1.0


def test_nothing_gives_nan_without_a_warning():
    counts = np.zeros((3, 3), dtype=np.int64)
    assert np.isnan(metrics.class_iou(counts)).all()
    for figure in (
        metrics.mean_iou,
        metrics.mean_iou_present,
        metrics.pixel_accuracy,
        metrics.mean_accuracy,
        metrics.frequency_weighted_iou,
    ):
        assert math.isnan(figure(counts))


def test_exact_where_float32_is_not():
    counts = np.array([[2**24, 1], [0, 2**24 + 1]], dtype=np.int64)
    np.testing.assert_array_equal(metrics.class_iou(counts), [2**24 / (2**24 + 1), (2**24 + 1) / (2**24 + 2)])


def test_agree_with_torchmetrics():
    torch = pytest.importorskip("torch")
    from torchmetrics.classification import MulticlassAccuracy, MulticlassJaccardIndex

    gt = RNG.choice([0, 1, 2, 4, 255], (3, 60, 60), p=[0.5, 0.2, 0.1, 0.1, 0.1])
    prediction = np.where(RNG.random(gt.shape) < 0.7, gt % 5, RNG.choice([0, 1, 2, 4], gt.shape))
    matrix = ConfusionMatrix(5)
    for t, p in zip(gt, prediction, strict=True):
        matrix.update(t, p)

    def reference(metric):
        return metric(torch.tensor(prediction), torch.tensor(gt)).numpy()

    iou = reference(MulticlassJaccardIndex(5, average="none", ignore_index=255))
    mine = metrics.class_iou(matrix.counts)
    present = [0, 1, 2, 4]
    np.testing.assert_allclose(mine[present], iou[present], atol=1e-6)
    assert np.isnan(mine[3]), "absent from both: torchmetrics says 0 here, we say undefined"
    assert metrics.mean_iou(matrix.counts) == pytest.approx(
        float(reference(MulticlassJaccardIndex(5, average="macro", ignore_index=255))), abs=1e-6
    )
    assert metrics.pixel_accuracy(matrix.counts) == pytest.approx(
        float(reference(MulticlassAccuracy(5, average="micro", ignore_index=255))), abs=1e-6
    )
    assert metrics.frequency_weighted_iou(matrix.counts) == pytest.approx(
        float(reference(MulticlassJaccardIndex(5, average="weighted", ignore_index=255))), abs=1e-6
    )
