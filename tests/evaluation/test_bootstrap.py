from __future__ import annotations

import numpy as np
import pytest

from ovseg_cli.evaluation import bootstrap
from ovseg_cli.evaluation.arrays import evaluate_arrays
from ovseg_cli.evaluation.bootstrap import Means, with_intervals
from ovseg_cli.evaluation.metrics import mean_iou, mean_iou_present
from tests.evaluation.maps import CLASSES, adversarial, recorded

NAMES = ["background", *(f"class {i}" for i in range(1, CLASSES))]


def report_of(count: int, seed: int = 0):
    rng = np.random.default_rng(seed)
    truths = [np.kron(rng.integers(0, 4, (3, 3)), np.ones((4, 4), dtype=int)) for _ in range(count)]
    wrong = rng.random(count)  # some pictures are harder than others
    predictions = [np.where(rng.random(t.shape) < w, rng.integers(0, 4, t.shape), t) for t, w in zip(truths, wrong)]  # noqa: B905
    return evaluate_arrays(predictions, truths, NAMES)


@pytest.mark.parametrize("dense", [True, False])
def test_a_draw_is_what_a_data_set_of_these_pictures_has(monkeypatch, dense):
    monkeypatch.setattr(bootstrap, "_DENSE", 10**9 if dense else 0)
    pictures = recorded(adversarial())
    rng = np.random.default_rng(4)
    weights = rng.multinomial(len(pictures), np.full(len(pictures), 1 / len(pictures)), 20).T.astype(float)
    wanted = {
        (key, treatment) for key in ("miou", "miou_present") for treatment in ("counts", "not averaged", "left out")
    }
    found = Means(pictures, wanted).of(weights)
    for draw, times in enumerate(weights.T):
        matrix = sum(int(n) * recorded([pair]).matrix() for n, pair in zip(times, adversarial(), strict=True))
        left = matrix.copy()
        left[0] = 0
        for key, mean in (("miou", mean_iou), ("miou_present", mean_iou_present)):
            for treatment, counts, scored in (
                ("counts", matrix, slice(None)),
                ("not averaged", matrix, slice(1, None)),
                ("left out", left, slice(1, None)),
            ):
                np.testing.assert_allclose(found[key, treatment][draw], mean(counts, scored), atol=1e-12)


def test_one_seed_one_interval_whatever_the_blocks(monkeypatch):
    report = report_of(30)
    one, same, other = (with_intervals(report, seed=seed).figure("miou").interval for seed in (1, 1, 2))
    assert one == same != other
    monkeypatch.setattr(bootstrap, "_BLOCK", 70)  # two draws at once
    assert with_intervals(report, seed=1).figure("miou").interval == one


def test_every_mean_iou_has_an_interval_and_says_how():
    report = with_intervals(report_of(25), draws=200, level=0.9)
    for figure in report.figures:
        assert (figure.interval is not None) == ("miou" in figure.key)
        if figure.interval is not None:
            assert figure.interval.low < figure.value < figure.interval.high
            assert figure.interval.level == 0.9
            assert figure.interval.method == "expanded percentiles of 200 bootstrap draws of pictures"


@pytest.mark.slow
def test_an_interval_holds_the_true_value_about_as_often_as_it_says():
    truth = report_of(2000, seed=99).miou
    hits = 0
    for seed in range(60):
        interval = with_intervals(report_of(50, seed), draws=300).figure("miou").interval
        hits += interval.low <= truth <= interval.high
    assert 50 <= hits <= 60  # 57 of 60 are 95 %


@pytest.mark.parametrize(("count", "draws"), [(1, 100), (0, 100), (9, 0)])
def test_nothing_is_sure_of_one_picture(count, draws):
    report = with_intervals(report_of(count), draws=draws)
    assert all(figure.interval is None for figure in report.figures)
