from __future__ import annotations

import json
import math

import numpy as np
import pytest

from ovseg_cli.evaluation.boundary import boundary_counts
from ovseg_cli.evaluation.confusion import ConfusionMatrix
from ovseg_cli.evaluation.pictures import PictureCounts, Pictures, picture_accuracy, picture_class_iou, picture_miou
from ovseg_cli.evaluation.scoring import count_pair
from tests.evaluation.maps import CLASSES, adversarial, recorded


def same(one: PictureCounts, other: PictureCounts) -> bool:
    bands = [each.boundary for each in (one, other)]
    numbers = [[each.true, each.predicted, each.pixels] for each in (one, other)]
    if bands[0] is not None and bands[1] is not None:
        for each, band in zip(numbers, bands, strict=True):
            each += [band.classes, band.true, band.predicted, band.hit]
    equal = all(np.array_equal(a, b) and a.dtype == b.dtype for a, b in zip(*numbers, strict=True))
    return equal and (one.key, one.ignored) == (other.key, other.ignored) and (bands[0] is None) == (bands[1] is None)


def test_the_sum_of_the_records_is_the_matrix():
    pairs = adversarial()
    pictures, matrix = recorded(pairs), ConfusionMatrix(CLASSES)
    for truth, prediction in pairs:
        matrix.update(truth, prediction)
    np.testing.assert_array_equal(pictures.matrix(), matrix.counts)
    assert pictures.ignored == matrix.ignored


@pytest.mark.parametrize("place", range(len(adversarial())))
def test_a_record_holds_what_is_in_its_picture(place):
    truth, prediction = adversarial()[place]
    counts = recorded(adversarial())[place].per_class()
    kept = truth != 255
    present = sorted(set(truth[kept].tolist()) | set(prediction[kept].tolist()))
    assert counts.classes.tolist() == present
    for c, true, predicted, hit in zip(counts.classes, counts.true, counts.predicted, counts.hit, strict=True):
        there, found = (truth == c) & kept, (prediction == c) & kept
        assert (true, predicted, hit) == (there.sum(), found.sum(), (there & found).sum())


def test_figures_of_one_picture():
    picture = count_pair(np.array([[0, 1, 1, 2]]), np.array([[0, 1, 0, 3]]), num_classes=4)
    classes, iou = picture_class_iou(picture)
    assert (classes.tolist(), iou.tolist()) == ([0, 1, 2, 3], [0.5, 0.5, 0.0, 0.0])
    assert picture_miou(picture) == 0.25
    assert picture_miou(picture, slice(1, 3)) == 0.25
    assert picture_accuracy(picture) == 0.5
    nothing = count_pair(np.array([[255]]), np.array([[0]]), num_classes=4, ignore=255)
    assert math.isnan(picture_miou(nothing))
    assert math.isnan(picture_accuracy(nothing))


@pytest.mark.parametrize("bands", [False, True])
def test_packed_and_unpacked(bands):
    singles = []
    for number, (truth, prediction) in enumerate(adversarial()):
        picture = count_pair(truth, prediction, num_classes=CLASSES, key=str(number), ignore=255)
        band = boundary_counts(np.where(truth == 255, -1, truth), prediction) if bands else None
        singles.append(
            PictureCounts(picture.key, picture.true, picture.predicted, picture.pixels, picture.ignored, band)
        )
    names = [str(i) for i in range(CLASSES)]
    pictures = Pictures(names, singles[:3])
    pictures.extend(Pictures(names, singles[3:]))
    pictures.extend(Pictures(names))
    assert len(pictures) == len(singles)
    assert all(map(same, pictures, singles))
    assert same(pictures[-1], singles[-1])
    assert all(map(same, pictures[2:5], singles[2:5]))
    again = Pictures.from_dict(json.loads(json.dumps(pictures.to_dict())))
    assert all(map(same, again, singles))
    assert (again.names, again.scored) == (pictures.names, pictures.scored)
    with pytest.raises(ValueError, match="either all records"):
        pictures.append(count_pair(*adversarial()[0], num_classes=CLASSES) if bands else _with_band())


def _with_band() -> PictureCounts:
    truth, prediction = adversarial()[0]
    picture = count_pair(truth, prediction, num_classes=CLASSES)
    return PictureCounts("x", picture.true, picture.predicted, picture.pixels, 0, boundary_counts(truth, prediction))


def test_a_record_takes_a_few_hundred_bytes_whatever_its_size():
    truth, prediction = (np.kron(np.random.default_rng(i).integers(0, 5, (3, 4)), np.ones((50, 50))) for i in (0, 1))
    small, large = Pictures([""] * 5), Pictures([""] * 5)
    for factor, pictures in ((1, small), (4, large)):
        one, two = (np.kron(each, np.ones((factor, factor))).astype(int) for each in (truth, prediction))
        pictures.append(count_pair(one, two, num_classes=5))
    assert small.nbytes == large.nbytes < 500


def test_data_that_are_no_records():
    with pytest.raises(ValueError, match="not the records"):
        Pictures.from_dict({"keys": ["a"]})
