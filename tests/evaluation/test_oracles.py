from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.optimize import linear_sum_assignment
from sklearn.metrics import average_precision_score, precision_recall_fscore_support

from ovseg_cli.evaluation.metrics import class_iou, mean_iou, pixel_accuracy
from ovseg_cli.evaluation.oracles import ORACLES, best_match, matched, oracle, with_oracles
from ovseg_cli.evaluation.presence import average_precision, class_presence
from ovseg_cli.evaluation.report import build_report
from ovseg_cli.evaluation.scoring import count_pair
from tests.evaluation.maps import CLASSES, Maps, adversarial, recorded

scoring = pytest.mark.parametrize("scored", [slice(None), slice(1, None)], ids=["background", "no background"])


def random_maps(seed: int) -> Maps:
    rng = np.random.default_rng(seed)
    pairs = []
    for _ in range(int(rng.integers(1, 6))):
        shape = tuple(rng.integers(1, 9, 2))
        truth = rng.choice(rng.permutation(CLASSES)[: rng.integers(1, 5)], shape)
        prediction = np.where(rng.random(shape) < rng.random(), rng.integers(0, CLASSES, shape), truth)
        pairs.append((np.where(rng.random(shape) < 0.1, 255, truth), prediction))
    return pairs


def without_background(pairs: Maps) -> Maps:
    return [(np.where(truth == 0, 255, truth), prediction) for truth, prediction in pairs]


class TestBounds:
    @given(st.integers(0, 10**6), st.sampled_from(["regions", "presence"]), st.booleans())
    def test_no_class_gets_worse(self, seed, name, background):
        pairs = random_maps(seed) if background else without_background(random_maps(seed))
        run = recorded(pairs, scored=slice(0 if background else 1, None))
        known = oracle(run, name)
        before, after = class_iou(run.matrix())[run.scored], class_iou(known.matrix())[known.scored]
        # A class that was only predicted may be gone.
        assert all(b <= a + 1e-12 for b, a in zip(before, after, strict=True) if np.isfinite(b) and np.isfinite(a))
        assert all(b == 0 for b, a in zip(before, after, strict=True) if np.isfinite(b) and not np.isfinite(a))
        if np.isfinite(mean_iou(run.matrix(), run.scored)) and np.isfinite(after).any():
            assert mean_iou(known.matrix(), known.scored) >= mean_iou(run.matrix(), run.scored) - 1e-12

    @given(st.integers(0, 10**6))
    def test_no_pixel_is_lost_by_better_names(self, seed):
        run = recorded(random_maps(seed))
        before, after = pixel_accuracy(run.matrix()), pixel_accuracy(oracle(run, "names").matrix())
        assert after >= before or np.isnan(before)

    @pytest.mark.parametrize("name", ORACLES)
    def test_truth_and_left_out_pixels_stay(self, name):
        run = recorded(adversarial())
        known = oracle(run, name)
        np.testing.assert_array_equal(known.matrix()[:-1].sum(axis=1), run.matrix().sum(axis=1))
        assert not known.matrix()[-1].any()
        assert known.ignored == run.ignored
        assert known.keys == run.keys

    def test_each_finds_its_own_kind_of_error(self):
        """Where, what, or whether: each run has one kind of fault, and only the oracle that knows it gives 1."""
        truth = np.repeat([0, 1, 2, 3], 25).reshape(4, 25)
        edge = truth.copy()
        edge[:, :5] = np.roll(truth, 1, axis=0)[:, :5]
        swapped = np.array([0, 2, 3, 1])[truth]
        absent = truth.copy()
        absent[0, :5] = 4
        found = {}
        for fault, prediction in (("where", edge), ("what", swapped), ("whether", absent)):
            run = recorded([(truth, prediction)])
            found[fault] = {name: mean_iou(oracle(run, name).matrix(), slice(0, CLASSES)) for name in ORACLES}
            assert mean_iou(run.matrix()) < 1
        assert found["where"] == {"names": pytest.approx(2 / 3), "regions": 1, "presence": pytest.approx(2 / 3)}
        assert found["what"] == {"names": 1, "regions": 0.25, "presence": 0.25}  # the background is right as it is
        assert found["whether"]["regions"] == found["whether"]["presence"] == 1

    def test_in_a_report(self):
        run = recorded(adversarial())
        report = build_report(run.names, run.matrix(), pictures=run, images=len(run), ignored_pixels=run.ignored)
        report = with_oracles(report, ["presence", "names"], draws=50)
        assert [bound.oracle for bound in report.oracles] == ["presence", "names"]
        for bound in report.oracles:
            assert bound.figures[0].value == pytest.approx(
                mean_iou(oracle(run, bound.oracle).matrix(), slice(0, CLASSES))
            )
            assert bound.figures[0].interval is not None
            assert len(bound.class_iou) == CLASSES


def hungarian_matching(pairs: Maps, classes: int):
    """`hungarian_matching` of google/diffseg b5d249a, diffseg/utils.py: hits, false alarms and misses of each class."""
    tp, fp, fn = np.zeros((3, classes))
    for truth, regions in pairs:
        width = max(classes, int(regions.max()) + 1)
        kept = (truth >= 0) & (truth < classes)
        hist = np.bincount(width * truth[kept] + regions[kept], minlength=classes * width).reshape(classes, width)
        rows, columns = linear_sum_assignment(hist, maximize=True)
        tp += hist[rows, columns]
        fn += hist.sum(axis=1) - hist[rows, columns]
        fp += hist[:, columns].sum(axis=0) - hist[rows, columns]
    return tp, fp, fn


class TestMatch:
    def test_is_that_of_the_published_code(self):
        """Where every region finds a class: there, a region that is left over is a false alarm, of any class."""
        pairs = []
        rng = np.random.default_rng(0)
        for _ in range(12):
            truth = rng.integers(0, 5, (30, 40))
            regions = rng.permutation(9)[truth]
            pairs.append(
                (
                    truth,
                    np.where(rng.random(truth.shape) < 0.5, rng.permutation(regions.ravel()).reshape(30, 40), regions),
                )
            )
        found = matched(recorded(pairs, classes=9), "image").matrix()[:9, :9]
        tp, fp, fn = hungarian_matching([(t, r) for t, r in pairs], 9)
        np.testing.assert_array_equal(np.diag(found), tp)
        np.testing.assert_array_equal(found.sum(axis=1) - np.diag(found), fn)
        np.testing.assert_array_equal(found.sum(axis=0) - np.diag(found), fp)

    @given(st.integers(0, 10**6))
    def test_what_regions_are_called_does_not_matter(self, seed):
        pairs = random_maps(seed)
        rng = np.random.default_rng(seed)
        renamed = [(truth, rng.permutation(CLASSES)[regions]) for truth, regions in pairs]
        one, other = (matched(recorded(each), "image").matrix() for each in (pairs, renamed))
        np.testing.assert_array_equal(one, other)

    def test_perfect_regions_give_one_and_missing_ones_count(self):
        truth = np.repeat([1, 2, 3], 10)[None]
        perfect = matched(recorded([(truth, np.array([0, 5, 2, 4])[truth])]), "image")
        assert mean_iou(perfect.matrix(), slice(0, CLASSES)) == 1
        fewer = matched(recorded([(truth, np.array([0, 5, 5, 4])[truth])]), "image")
        assert class_iou(fewer.matrix())[[1, 2, 3]].tolist() in ([0.5, 0.0, 1.0], [0.0, 0.5, 1.0])

    def test_regions_without_a_class_are_nobodys_false_alarm(self):
        truth = np.zeros((1, 10), dtype=int)
        found = matched(recorded([(truth, np.arange(10)[None] % 3)]), "image").matrix()
        assert found[0].tolist() == [4, 0, 0, 0, 0, 0, 6]

    def test_once_for_all_pictures(self):
        truth = np.repeat([1, 2], 10)[None]
        alike = [(truth, np.array([0, 4, 3])[truth])] * 3
        assert mean_iou(matched(recorded(alike), "dataset").matrix(), slice(0, CLASSES)) == 1
        unlike = [*alike, (truth, np.array([0, 3, 4])[truth])]
        assert mean_iou(matched(recorded(unlike), "image").matrix(), slice(0, CLASSES)) == 1
        assert pixel_accuracy(matched(recorded(unlike), "dataset").matrix()) == 0.75

    def test_numbers_beyond_the_classes(self):
        run = recorded([])
        run.append(count_pair(np.array([[1, 1, 2]]), np.array([[250, 250, 999]]), num_classes=1000))
        assert np.trace(matched(run, "image").matrix()) == 3

    def test_best_match_finds_the_most_pixels(self):
        rng = np.random.default_rng(3)
        for _ in range(50):
            counts = rng.integers(0, 5, rng.integers(1, 6, 2))
            names = best_match(counts)
            hits = sum(counts[name, region] for region, name in enumerate(names) if name >= 0)
            rows, columns = linear_sum_assignment(counts, maximize=True)
            assert hits == counts[rows, columns].sum()
            assert len({n for n in names if n >= 0}) == (names >= 0).sum()


class TestPresence:
    @scoring
    def test_is_scikit_learns(self, scored):
        pairs = [pair for seed in range(4) for pair in adversarial(seed)]
        if scored.start:
            pairs = without_background(pairs)
        found = {each.name: each for each in class_presence(recorded(pairs, scored=scored))}
        assert list(found) == [f"class {i}" for i in range(1, CLASSES)]
        kept = [(t[t != 255], p[t != 255]) for t, p in pairs]
        for c in range(1, CLASSES):
            shows, answers = ([bool((side == c).any()) for side in sides] for sides in zip(*kept, strict=True))
            shares = [float((p == c).mean()) if p.size else 0.0 for _, p in kept]
            each = found[f"class {c}"]
            precision, recall, f1, _ = precision_recall_fscore_support(
                shows, answers, average="binary", zero_division=np.nan
            )
            assert (each.images_true, each.images_predicted) == (sum(shows), sum(answers))
            assert each.precision == (pytest.approx(precision) if any(answers) else None)
            assert each.recall == (pytest.approx(recall) if any(shows) else None)
            if any(shows):
                assert each.f1 == pytest.approx(f1)
                assert each.average_precision == pytest.approx(average_precision_score(shows, shares))
            else:
                assert each.average_precision is None

    def test_pictures_of_one_score_are_taken_together(self):
        shows, scores = np.array([True, False, True, False]), np.array([0.5, 0.5, 0.5, 0.1])
        assert average_precision(shows, scores) == pytest.approx(average_precision_score(shows, scores))
