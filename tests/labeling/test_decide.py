from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn import functional as F

from ovseg_cli.labeling import decide as module
from ovseg_cli.labeling.decide import enlarge_rows
from tests.scores import decide_now

small, large = st.integers(1, 9), st.integers(1, 40)


def random_scores(channels, height, width, seed, *, levels=None):
    random = torch.Generator().manual_seed(seed)
    scores = torch.rand(channels, height, width, generator=random) * 2 - 1
    return scores if levels is None else (scores * levels).round() / levels  # a few levels only: many ties


@settings(max_examples=120, deadline=None)
@given(h=small, w=small, height=large, width=large, seed=st.integers(0, 99), data=st.data())
def test_rows_equal_a_slice_of_the_whole_enlargement(h, w, height, width, seed, data):
    start = data.draw(st.integers(0, height - 1))
    stop = data.draw(st.integers(start + 1, height))
    scores = random_scores(3, h, w, seed)
    whole = F.interpolate(scores[None], (height, width), mode="bilinear", align_corners=False)[0]
    rows = enlarge_rows(scores, (height, width), start, stop)
    torch.testing.assert_close(rows, whole[:, start:stop], atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("size", [(1, 1), (1, 7), (7, 1), (4, 3), (2000, 5)])
def test_rows_of_odd_sizes(size):
    scores = random_scores(2, 4, 3, 0)
    whole = F.interpolate(scores[None], size, mode="bilinear", align_corners=False)[0]
    torch.testing.assert_close(enlarge_rows(scores, size, 0, size[0]), whole, atol=1e-3, rtol=1e-3)


def brute_force(scores, background, threshold):
    """Label and winning score of each pixel by comparing one class after another; the first of equals wins."""
    channels, height, width = scores.shape
    if background:
        scores = scores.clip(min=0)
    labels, best = np.zeros((height, width), int), np.zeros((height, width))
    for y in range(height):
        for x in range(width):
            order = range(channels) if background else range(1, channels)
            winner = None
            for c in order:
                if winner is None or scores[c, y, x] > scores[winner, y, x]:
                    winner = c
            best[y, x] = scores[winner, y, x]
            labels[y, x] = 0 if threshold is not None and scores[winner, y, x] < threshold else winner
    return labels, best


@pytest.mark.parametrize(
    ("background", "threshold"), [(False, None), (True, None), (True, -0.5), (True, 0.4), (True, 2.0)]
)
@pytest.mark.parametrize("levels", [None, 2])
def test_labels_equal_brute_force(background, threshold, levels):
    for seed in range(3):
        scores = random_scores(4, 11, 13, seed, levels=levels)
        decision = decide_now(scores, (11, 13), background=background, threshold=threshold)
        labels, best = brute_force(scores.numpy(), background, threshold)
        np.testing.assert_array_equal(decision.ids, labels)
        assert decision.ids.dtype == np.uint16
        for label in range(4):
            here = labels == label
            assert decision.shares[label] == pytest.approx(here.mean())
            if here.any():
                assert decision.mean_scores[label] == pytest.approx(best[here].mean(), abs=1e-6)
            else:
                assert np.isnan(decision.mean_scores[label])
        assert decision.shares.sum() == pytest.approx(1)


def wins(scores, pixel, by, background, threshold):
    """Whether some class gains by `by` at a pixel, or the winner loses as much, the label is another."""
    before, _ = brute_force(scores, background, threshold)
    for channel in range(0 if background else 1, len(scores)):
        for change in (by, -by):
            other = scores.copy()
            other[(channel, *pixel)] += change
            after, _ = brute_force(other, background, threshold)
            if after[pixel] != before[pixel]:
                return True
    return False


@pytest.mark.parametrize(
    ("background", "threshold"), [(False, None), (True, None), (True, -0.5), (True, 0.4), (True, 2.0)]
)
@pytest.mark.parametrize("seed", range(12))
def test_the_margin_is_the_least_change_of_a_score_that_gives_another_label(background, threshold, seed):
    scores = random_scores(4, 1, 1, seed)
    margin = decide_now(scores, (1, 1), background=background, threshold=threshold).margin
    assert margin >= 0
    assert wins(scores.numpy(), (0, 0), margin + 1e-4, background, threshold)
    assert not wins(scores.numpy(), (0, 0), margin - 1e-4, background, threshold)


def test_the_margin_of_a_picture_is_the_mean_over_its_pixels():
    scores = random_scores(4, 3, 5, 1)
    pixels = [
        decide_now(scores[:, y, x, None, None], (1, 1), background=True).margin for y in range(3) for x in range(5)
    ]
    assert decide_now(scores, (3, 5), background=True).margin == pytest.approx(np.mean(pixels))


def test_of_a_large_picture_the_margin_is_that_of_a_grid_whatever_the_strips(monkeypatch):
    scores = random_scores(4, 30, 40, 1)
    monkeypatch.setattr(module, "MARGIN_PIXELS", 100)
    grid = decide_now(scores[:, ::3, ::3], (10, 14), background=True).margin
    for cells in (100, 1000, 10**6):
        monkeypatch.setattr(module, "MAX_CELLS", cells)
        assert decide_now(scores, (30, 40), background=True).margin == pytest.approx(grid)


def test_with_one_label_to_give_there_is_no_margin():
    assert decide_now(torch.rand(2, 3, 3), (3, 3), background=False).margin is None
    assert decide_now(torch.zeros(1, 1, 1), (3, 3), background=True).margin is None
    assert decide_now(torch.rand(2, 3, 3), (3, 3), background=True).margin is not None


@pytest.mark.parametrize(("background", "threshold"), [(False, None), (True, None), (True, 0.1)])
@pytest.mark.parametrize("max_cells", [1, 40, 170, 1000])
def test_strips_give_the_same_answer(monkeypatch, background, threshold, max_cells):
    scores = random_scores(5, 6, 7, 3)
    whole = decide_now(scores, (33, 17), background=background, threshold=threshold)
    monkeypatch.setattr(module, "MAX_CELLS", max_cells)
    strips = decide_now(scores, (33, 17), background=background, threshold=threshold)
    np.testing.assert_array_equal(strips.ids, whole.ids)
    np.testing.assert_allclose(strips.shares, whole.shares)
    np.testing.assert_allclose(strips.mean_scores, whole.mean_scores)
    assert strips.margin == pytest.approx(whole.margin)


def test_strips_keep_the_memory_bounded(monkeypatch):
    rows = []
    original = module.enlarge_rows

    def counting(scores, size, start, stop, *how):
        rows.append((stop - start) * scores.shape[0] * size[1])
        return original(scores, size, start, stop, *how)

    monkeypatch.setattr(module, "MAX_CELLS", 300)
    monkeypatch.setattr(module, "enlarge_rows", counting)
    decide_now(random_scores(3, 4, 4, 0), (50, 20), background=True)
    assert max(rows) <= 300


def test_without_background_every_pixel_gets_a_class_even_when_the_background_scores_best():
    scores = torch.tensor([9.0, 0.1, 0.2]).view(3, 1, 1).expand(3, 4, 4)
    assert (decide_now(scores, (5, 6), background=True).ids == 0).all()
    assert (decide_now(scores, (5, 6), background=False).ids == 2).all()


@pytest.mark.parametrize("background", [False, True])
def test_other_ids_are_written_for_the_channels(monkeypatch, background):
    monkeypatch.setattr(module, "MAX_CELLS", 100)
    scores = random_scores(4, 6, 7, 2)
    plain = decide_now(scores, (15, 11), background=background)
    renamed = decide_now(scores, (15, 11), background=background, ids=[0, 3, 300, 65535])
    np.testing.assert_array_equal(renamed.ids, np.array([0, 3, 300, 65535])[plain.ids])
    assert renamed.ids.dtype == np.uint16
    np.testing.assert_array_equal(renamed.shares, plain.shares)
    np.testing.assert_array_equal(renamed.mean_scores, plain.mean_scores)


def test_a_tie_goes_to_the_background():
    assert (decide_now(torch.zeros(4, 3, 3), (3, 3), background=True).ids == 0).all()
    assert (decide_now(torch.zeros(4, 3, 3), (3, 3), background=False).ids == 1).all()


def test_more_labels_than_a_byte_holds():
    scores = torch.zeros(701, 1, 1)
    scores[700] = 1
    assert decide_now(scores, (2, 2), background=True).ids.tolist() == [[700, 700], [700, 700]]
