from __future__ import annotations

import numpy as np
import pytest

from ovseg_cli.runs.head_report import MethodScore, harmonic, method_score, remarks


def score(method, base, novel, **ious):
    return MethodScore(
        method=method, base=base, novel=novel, harmonic=harmonic(base, novel), all=None, ious=ious, seconds=0.0
    )


def test_figures_of_a_matrix():
    counts = np.array([[0, 0, 0, 0], [0, 6, 2, 0], [0, 0, 4, 0], [0, 3, 0, 1]])
    found = method_score("x", counts, ("a", "b", "c"), ("a", "b"))
    assert found.ious == pytest.approx({"a": 6 / 11, "b": 4 / 6, "c": 1 / 4})
    assert found.base == pytest.approx((6 / 11 + 4 / 6) / 2)
    assert found.novel == pytest.approx(0.25)
    assert found.harmonic == pytest.approx(2 * found.base * 0.25 / (found.base + 0.25))


def test_names_that_the_pictures_do_not_show_do_not_count():
    counts = np.array([[0, 0, 0], [0, 5, 5], [0, 0, 0]])
    found = method_score("x", counts, ("a", "b"), ("a",))
    assert found.novel is None
    assert found.harmonic is None
    assert found.all == found.base == 0.5


def test_it_is_told_plainly_when_names_got_worse():
    head = score("head:x", 0.8, 0.3, cat=0.2, horse=0.4)
    free = [score("gem", 0.7, 0.5, cat=0.7, horse=0.3), score("maskclip", 0.6, 0.4, cat=0.4, horse=0.4)]
    first, second = remarks(head, free, ("cat", "horse"))
    assert first.endswith("10.0 points above that of gem, the best method without training.")
    assert "Training made names worse that were not in it: their mIoU is 20.0 points below that of gem" in second
    assert "1 of 2 names; most of all cat 0.70 to 0.20" in second
    assert "--method gem is the better choice" in second


def test_it_is_told_when_they_did_not():
    lines = remarks(score("head:x", 0.6, 0.55, cat=0.55), [score("gem", 0.7, 0.5, cat=0.5)], ("cat",))
    assert "10.0 points BELOW" in lines[0]
    assert "5.0 points above that of gem" in lines[1]


def test_without_novel_names():
    lines = remarks(score("head:x", 0.6, None), [score("gem", 0.7, None)], ())
    assert "nothing is known of novel names" in lines[-1]
