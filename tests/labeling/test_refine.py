from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from ovseg_cli.labeling import refine as module
from ovseg_cli.labeling.refine import DILATIONS, affinities, pamr

sides = st.integers(1, 7)


def random_case(height, width, channels, seed, *, grey_levels=None):
    random = torch.Generator().manual_seed(seed)
    picture = torch.rand(1, 3, height, width, generator=random)
    if grey_levels is not None:  # coarse values: flat places and equal differences
        picture = (picture * grey_levels).round() / grey_levels
    return picture, torch.rand(channels, height, width, generator=random) * 2 - 1


def brute_force(picture, scores, iterations, dilations):
    """The definition in float64, one pixel and one neighbour after another."""
    image, values = picture[0].double().numpy(), scores.double().numpy()
    channels, height, width = image.shape

    def at(y, x):
        return min(max(y, 0), height - 1), min(max(x, 0), width - 1)

    around = [(y, x) for y in (-1, 0, 1) for x in (-1, 0, 1)]
    for _ in range(iterations):
        new = np.empty_like(values)
        for y in range(height):
            for x in range(width):
                window = [at(y + d * dy, x + d * dx) for d in dilations for dy, dx in around]
                neighbours = [at(y + d * dy, x + d * dx) for d in dilations for dy, dx in around if (dy, dx) != (0, 0)]
                spread = [np.std([image[(c, *place)] for place in window], ddof=1) for c in range(channels)]
                logits = [
                    -np.mean([abs(image[c, y, x] - image[(c, *n)]) / (1e-8 + 0.1 * spread[c]) for c in range(channels)])
                    for n in neighbours
                ]
                weights = np.exp(logits) / np.sum(np.exp(logits))
                new[:, y, x] = sum(w * values[(slice(None), *n)] for w, n in zip(weights, neighbours, strict=True))
        values = new
    return values


@settings(max_examples=25, deadline=None)
@given(
    height=sides,
    width=sides,
    seed=st.integers(0, 99),
    iterations=st.integers(1, 3),
    dilations=st.lists(st.integers(1, 9), min_size=1, max_size=3),
    grey_levels=st.sampled_from([None, 2, 16]),
)
def test_equals_the_definition(height, width, seed, iterations, dilations, grey_levels):
    picture, scores = random_case(height, width, 3, seed, grey_levels=grey_levels)
    expected = brute_force(picture, scores, iterations, dilations)
    refined = pamr(picture, scores, iterations=iterations, dilations=dilations)
    np.testing.assert_allclose(refined.numpy(), expected, atol=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize("size", [(1, 1), (1, 30), (30, 1), (3, 3), (11, 8)])
def test_the_published_setting_on_pictures_smaller_than_its_dilations(size):
    picture, scores = random_case(*size, 2, 5)
    np.testing.assert_allclose(pamr(picture, scores).numpy(), brute_force(picture, scores, 10, DILATIONS), atol=1e-5)


@pytest.mark.parametrize(("classes", "cells"), [(1, 1), (3, 40), (4, 10**6), (100, 500)])
def test_chunks_and_strips_give_the_same_answer(monkeypatch, classes, cells):
    picture, scores = random_case(19, 23, 9, 1)
    whole = pamr(picture, scores, iterations=3)
    monkeypatch.setattr(module, "CLASSES_AT_ONCE", classes)
    monkeypatch.setattr(module, "CELLS_AT_ONCE", cells)
    torch.testing.assert_close(pamr(picture, scores, iterations=3), whole, atol=1e-6, rtol=0)


@settings(max_examples=25, deadline=None)
@given(height=st.integers(1, 30), width=st.integers(1, 30), seed=st.integers(0, 99))
def test_weights_are_a_mean_so_that_ranges_and_constants_stay(height, width, seed):
    picture, scores = random_case(height, width, 4, seed)
    scores[3] = 0.25
    weights = affinities(picture)
    assert weights.shape == (8 * len(DILATIONS), height, width)
    assert weights.min() >= 0
    torch.testing.assert_close(weights.sum(0), torch.ones(height, width))
    refined = pamr(picture, scores)
    low, high = scores.amin(dim=(1, 2), keepdim=True), scores.amax(dim=(1, 2), keepdim=True)
    assert (refined >= low - 1e-5).all()
    assert (refined <= high + 1e-5).all()
    torch.testing.assert_close(refined[3], scores[3], atol=1e-5, rtol=0)


def test_it_is_linear_in_the_scores_and_blind_to_contrast():
    picture, scores = random_case(20, 17, 2, 3)
    refined = pamr(picture, scores)
    torch.testing.assert_close(pamr(picture, 3 * scores - 1), 3 * refined - 1, atol=1e-4, rtol=0)
    factors = torch.tensor([0.2, 1.0, 50.0]).view(1, 3, 1, 1)
    torch.testing.assert_close(pamr(picture * factors + 0.5, scores), refined, atol=1e-4, rtol=0)


def test_a_boundary_moves_to_the_edge_of_the_picture():
    """Scores that end five columns beside the edge of the colours end on it after refinement."""
    picture = torch.zeros(1, 3, 32, 64)
    picture[..., 32:] = 1
    scores = torch.zeros(2, 32, 64)
    scores[0, :, :27] = 1
    scores[1, :, 27:] = 1
    winner = pamr(picture, scores).argmax(0)
    assert (winner[:, :32] == 0).all()
    assert (winner[:, 32:] == 1).all()
    assert not (scores.argmax(0)[:, :32] == 0).all()


def test_a_flat_picture_weighs_all_neighbours_alike():
    weights = affinities(torch.full((1, 3, 9, 9), 0.3))
    torch.testing.assert_close(weights, torch.full_like(weights, 1 / len(weights)))


def test_the_input_is_left_alone():
    picture, scores = random_case(6, 6, 2, 0)
    before = scores.clone()
    for iterations in (0, 2):
        refined = pamr(picture, scores, iterations=iterations)
        refined += 1
        torch.testing.assert_close(scores, before, atol=0, rtol=0)
    torch.testing.assert_close(pamr(picture, scores, iterations=0), scores, atol=0, rtol=0)
    assert pamr(picture, scores.double(), iterations=1).dtype == torch.float32


@pytest.mark.parametrize(
    ("shape", "options", "message"),
    [
        ((1, 3, 4, 5), {}, "does not fit"),
        ((1, 1, 4, 4), {}, "does not fit"),
        ((2, 3, 4, 4), {}, "does not fit"),
        ((1, 3, 4, 4), {"iterations": -1}, "-1 iterations"),
        ((1, 3, 4, 4), {"dilations": ()}, "dilations"),
        ((1, 3, 4, 4), {"dilations": (1, 0)}, "dilations"),
    ],
)
def test_what_does_not_fit_is_refused(shape, options, message):
    with pytest.raises(ValueError, match=message):
        pamr(torch.zeros(shape), torch.zeros(2, 4, 4), **options)


def test_blank_inputs_give_finite_scores():
    assert math.isfinite(pamr(torch.zeros(1, 3, 5, 5), torch.ones(1, 5, 5)).sum().item())
