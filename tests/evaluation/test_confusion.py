from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from ovseg_cli.evaluation.confusion import ConfusionMatrix

RNG = np.random.default_rng(11)


def brute_force(gt: np.ndarray, prediction: np.ndarray, n: int, ignore: int | None) -> np.ndarray:
    counts = np.zeros((n, n), dtype=np.int64)
    for t, p in zip(gt.ravel().tolist(), prediction.ravel().tolist(), strict=True):
        if t != ignore:
            counts[t, p] += 1
    return counts


labels = hnp.arrays(np.uint8, st.tuples(st.integers(0, 6), st.integers(0, 6)), elements=st.integers(0, 4))


@given(labels, st.data())
def test_agrees_with_a_loop(prediction, data):
    values = st.sampled_from([0, 1, 2, 3, 4, 255])
    gt = data.draw(hnp.arrays(np.uint8, prediction.shape, elements=values))
    matrix = ConfusionMatrix(5)
    matrix.update(gt, prediction)
    np.testing.assert_array_equal(matrix.counts, brute_force(gt, prediction, 5, 255))
    assert matrix.ignored == (gt == 255).sum()
    assert matrix.counts.sum() + matrix.ignored == gt.size


def test_agrees_with_torchmetrics():
    torch = pytest.importorskip("torch")
    from torchmetrics.classification import MulticlassConfusionMatrix

    reference = MulticlassConfusionMatrix(7, ignore_index=255)
    matrix = ConfusionMatrix(7)
    for _ in range(3):
        gt = RNG.choice([0, 1, 2, 3, 4, 6, 255], (40, 50)).astype(np.uint8)
        prediction = RNG.integers(0, 7, (40, 50)).astype(np.uint8)
        matrix.update(gt, prediction)
        reference.update(torch.tensor(prediction).long(), torch.tensor(gt).long())
    np.testing.assert_array_equal(matrix.counts, reference.compute().numpy())


def test_counts_are_exact_beyond_the_range_of_float32():
    """In float32, 2**24 + 1 is 2**24: one more pixel would be lost for ever."""
    matrix = ConfusionMatrix(2)
    matrix.counts[1, 1] = 2**24
    matrix.update(np.array([[1]]), np.array([[1]]))
    assert matrix.counts.dtype == np.int64
    assert int(matrix.counts[1, 1]) == 2**24 + 1
    matrix.counts[0, 0] = 2**53
    matrix.update(np.array([[0]]), np.array([[0]]))
    assert int(matrix.counts[0, 0]) == 2**53 + 1


def test_small_integer_types_do_not_overflow():
    matrix = ConfusionMatrix(200)
    matrix.update(np.full((3, 3), 199, dtype=np.uint8), np.full((3, 3), 198, dtype=np.uint8))
    assert matrix.counts[199, 198] == 9


def test_prediction_of_ignored_pixels_does_not_matter():
    matrix = ConfusionMatrix(2)
    matrix.update(np.array([255, 255, 1]), np.array([0, 250, 1]))
    assert matrix.counts.tolist() == [[0, 0], [0, 1]]


@pytest.mark.parametrize(
    ("gt", "prediction", "message"),
    [
        ([[0, 2]], [[0, 0]], r"ground truth holds indices from 0 to 2, outside 0\.\.1"),
        ([[0, -1]], [[0, 0]], r"ground truth holds indices from -1 to 0"),
        ([[0, 1]], [[0, 2]], r"prediction holds indices from 0 to 2"),
        ([[0, 1]], [[0], [1]], r"\(1, 2\) and prediction \(2, 1\) differ"),
        ([[0.0, 1.0]], [[0, 1]], "ground truth must hold integers, got float64"),
    ],
)
def test_wrong_input_is_refused_and_counts_nothing(gt, prediction, message):
    matrix = ConfusionMatrix(2)
    with pytest.raises(ValueError, match=message):
        matrix.update(np.array(gt), np.array(prediction))
    assert not matrix.counts.any()


def test_bool_arrays():
    matrix = ConfusionMatrix(2)
    matrix.update(np.array([True, False]), np.array([True, True]))
    assert matrix.counts.tolist() == [[0, 1], [0, 1]]


def test_sum_is_as_if_one_matrix_had_seen_all():
    gt, prediction = RNG.integers(0, 3, (2, 9, 9)), RNG.integers(0, 3, (2, 9, 9))
    parts = [ConfusionMatrix(3, ignore=None) for _ in range(2)]
    whole = ConfusionMatrix(3, ignore=None)
    for part, t, p in zip(parts, gt, prediction, strict=True):
        part.update(t, p)
        whole.update(t, p)
    before = parts[0].counts.copy()
    np.testing.assert_array_equal((parts[0] + parts[1]).counts, whole.counts)
    np.testing.assert_array_equal(parts[0].counts, before)
    with pytest.raises(ValueError, match="same classes"):
        parts[0] + ConfusionMatrix(4, ignore=None)


def test_wrong_sizes():
    with pytest.raises(ValueError, match="at least one class, got 0"):
        ConfusionMatrix(0)
    with pytest.raises(ValueError, match="255 is one of the 300"):
        ConfusionMatrix(300)
    assert ConfusionMatrix(300, ignore=-1).num_classes == 300
