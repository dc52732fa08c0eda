from __future__ import annotations

import numpy as np
import pytest

from ovseg_cli.errors import UsageError
from ovseg_cli.evaluation.comparison import GROUPS_BY, _letters, compare_runs, groups
from ovseg_cli.evaluation.metrics import mean_iou
from ovseg_cli.evaluation.pictures import Pictures
from tests.evaluation.maps import CLASSES, adversarial, recorded


def run(noise: float, count: int = 40, seed: int = 0) -> Pictures:
    """The records of a run that errs at this share of the pixels; the truth depends on `seed` alone."""
    rng = np.random.default_rng(seed)
    truths = [np.kron(rng.integers(0, 4, (4, 4)), np.ones((5, 5), dtype=int)) for _ in range(count)]
    rng = np.random.default_rng([seed, int(noise * 1e6)])
    return recorded([(t, np.where(rng.random(t.shape) < noise, rng.integers(0, 4, t.shape), t)) for t in truths])


class TestTwoRuns:
    def test_a_difference_that_is_there(self):
        found = compare_runs(run(0.1), run(0.3))
        assert found.difference == pytest.approx(mean_iou(run(0.3).matrix()) - mean_iou(run(0.1).matrix()))
        assert found.interval.low < found.difference < found.interval.high < 0
        assert found.p < 0.01
        assert sum(each.carries for each in found.classes) == pytest.approx(found.difference)

    def test_a_run_and_itself(self):
        found = compare_runs(run(0.2), run(0.2))
        assert (found.difference, found.interval.low, found.interval.high, found.p) == (0, 0, 0, 1)

    def test_pairing_is_worth_something(self):
        """Hard pictures are hard for both: the paired interval is far shorter than those of the two figures."""
        rng = np.random.default_rng(1)
        pairs, others = [], []
        for wrong in rng.random(40):
            truth = np.kron(rng.integers(0, 4, (4, 4)), np.ones((5, 5), dtype=int))
            first = np.where(rng.random(truth.shape) < wrong, rng.integers(0, 4, truth.shape), truth)
            pairs.append((truth, first))
            others.append((truth, np.where(rng.random(truth.shape) < 0.02, 0, first)))
        found = compare_runs(recorded(pairs), recorded(others))
        assert found.interval.high - found.interval.low < 0.05
        assert found.p < 0.01

    @pytest.mark.slow
    def test_false_alarms_are_as_rare_as_the_level_says(self):
        alarms = 0
        for seed in range(40):
            found = compare_runs(run(0.2, seed=seed), run(0.200001, seed=seed), draws=200)
            alarms += not found.interval.low <= 0 <= found.interval.high
        assert alarms <= 6  # 2 are expected

    @pytest.mark.slow
    @pytest.mark.parametrize("count", [2, 3, 5, 10])
    def test_few_pictures_are_no_proof(self, count):
        """Two runs that err alike: the plain percentiles of two pictures would call every second pair different."""
        alarms = apart = 0
        for seed in range(40):
            a, b = run(0.2, count, seed), run(0.200001, count, seed)
            alarms += compare_runs(a, b, draws=200).differ
            apart += len(set(groups({"a": a, "b": b}, draws=200).values())) > 1
        assert alarms <= 6  # 2 are expected at most
        assert apart <= 6

    @pytest.mark.parametrize("scored", [slice(None), slice(1, None)])
    def test_what_a_picture_carries_is_what_would_be_missing_without_it(self, scored):
        pairs = adversarial()
        a = recorded(pairs, scored=scored)
        b = recorded(
            [(t, np.where(t == 255, 0, t)) if i % 2 else (t, p) for i, (t, p) in enumerate(pairs)], scored=scored
        )
        found = {each.key: each for each in compare_runs(a, b, draws=0).pictures}
        whole = mean_iou(b.matrix(), scored) - mean_iou(a.matrix(), scored)
        for i, key in enumerate(a.keys):
            rest = [
                Pictures(r.names, (r[j] for j in range(len(r)) if j != i), scored=r.scored).matrix() for r in (a, b)
            ]
            without = mean_iou(rest[1], scored) - mean_iou(rest[0], scored)
            assert found[key].carries == pytest.approx(whole - without, abs=1e-12)
        assert list(found) == sorted(found, key=lambda key: -abs(found[key].carries))

    def test_classes_in_another_order_and_pictures_that_one_lacks(self):
        a, b = run(0.1), run(0.2)
        order = np.array([2, 0, 1, 5, 4, 3])
        names = [""] * CLASSES
        for i, name in enumerate(b.names):
            names[order[i]] = name
        turned = Pictures(names)
        for picture in list(b)[:-3]:
            turned.append(type(picture)(picture.key, order[picture.true], order[picture.predicted], picture.pixels))
        found = compare_runs(a, turned)
        expected = compare_runs(a[:-3], b[:-3])
        assert (found.difference, found.interval, found.p) == (expected.difference, expected.interval, expected.p)
        assert found.only_a == tuple(a.keys[-3:])
        assert found.images == 37

    def test_runs_that_cannot_be_compared(self):
        with pytest.raises(UsageError, match="no picture in common"):
            compare_runs(
                run(0.1), Pictures(run(0.1).names, [type(p)("x", p.true, p.predicted, p.pixels) for p in run(0.1)])
            )
        with pytest.raises(UsageError, match="not scored against the same labels: picture 0"):
            compare_runs(run(0.1), run(0.1, seed=1))
        with pytest.raises(UsageError, match="other classes: only one of them has class 5"):
            compare_runs(run(0.1), recorded(adversarial(), classes=5))


class TestGroups:
    def test_who_is_alike_shares_a_letter(self):
        runs = {"good": run(0.1), "bad": run(0.5), "good too": run(0.101), "middling": run(0.3)}
        assert groups(runs) == {"good": "a", "bad": "c", "good too": "a", "middling": "b"}
        assert "max-T" in GROUPS_BY

    def test_copies_are_alike(self):
        assert groups({"one": run(0.2), "same": run(0.2)}) == {"one": "a", "same": "a"}
        assert groups({"alone": run(0.2)}) == {"alone": "a"}

    def test_many_alike_runs_seldom_differ(self):
        """Eight runs have 28 pairs; one false difference in any of them may come in one table of twenty."""
        alarms = 0
        for seed in range(12):
            alike = {str(i): run(0.2 + i * 1e-6, seed=seed, count=30) for i in range(8)}
            alarms += len(set(groups(alike, draws=300).values())) > 1
        assert alarms <= 3

    def test_letters_say_exactly_who_differs(self):
        rng = np.random.default_rng(2)
        for _ in range(60):
            size = int(rng.integers(1, 8))
            differ = np.triu(rng.random((size, size)) < 0.4, 1)
            differ |= differ.T
            letters = [set(each) for each in _letters(differ)]
            assert all(letters)
            for i in range(size):
                for j in range(i):
                    assert bool(letters[i] & letters[j]) != differ[i, j]
