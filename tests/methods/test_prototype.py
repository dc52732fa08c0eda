from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from ovseg_cli.methods import prototype
from ovseg_cli.methods.prototype import finest_grid, prototype_cosines_at, prototype_scores

GRIDS = {
    "one-layer": [(6, 5)],
    "as-stable-diffusion": [(3, 16), (7, 2), (5, 4), (5, 4), (4, 8), (3, 16)],
    "odd": [(4, 9), (5, 4), (3, 13), (6, 1), (2, 5)],
    "nearly-equal": [(3, 7), (4, 6), (2, 5)],
    "finest-first": [(2, 12), (3, 3)],
}


def make_maps(grids, *, batch=2, seed=0):
    random = torch.Generator().manual_seed(seed)
    return [torch.randn(batch, width, side, side, generator=random) * 30 for width, side in grids]


def make_case(grids, *, prototypes=9, channels=4, seed=0):
    random = torch.Generator().manual_seed(seed + 1)
    maps = make_maps(grids, seed=seed)
    dim = sum(width for width, _ in grids)
    vectors = F.normalize(torch.randn(prototypes, dim, generator=random), dim=1)
    return maps, vectors, torch.randint(0, channels, (prototypes,), generator=random), channels


def resize_by_hand(layer, height, width):
    """Bilinear resizing, from the definition: half-pixel centres, clamped at the border."""
    rows, columns = layer.shape[1:]
    resized = np.empty((layer.shape[0], height, width))
    for y in range(height):
        v = min(max((y + 0.5) * rows / height - 0.5, 0), rows - 1)
        top, bottom = math.floor(v), min(math.floor(v) + 1, rows - 1)
        for x in range(width):
            u = min(max((x + 0.5) * columns / width - 0.5, 0), columns - 1)
            left, right = math.floor(u), min(math.floor(u) + 1, columns - 1)
            upper = layer[:, top, left] * (1 - u + left) + layer[:, top, right] * (u - left)
            lower = layer[:, bottom, left] * (1 - u + left) + layer[:, bottom, right] * (u - left)
            resized[:, y, x] = upper * (1 - v + top) + lower * (v - top)
    return resized


def all_cosines(maps, vectors):
    """Resize, stack, compare: in double precision, (B, P, h, w)."""
    height, width = max(tuple(layer.shape[2:]) for layer in maps)
    unit = vectors.double().numpy()
    cosines = []
    for image in range(len(maps[0])):
        stacked = np.concatenate([resize_by_hand(layer[image].double().numpy(), height, width) for layer in maps])
        cosines.append(np.tensordot(unit, stacked / np.linalg.norm(stacked, axis=0), axes=1))
    return np.stack(cosines)


def best_by_hand(cosines, channel, channels):
    scores = np.full((len(cosines), channels, *cosines.shape[2:]), -1.0)
    for place, c in enumerate(channel.tolist()):
        scores[:, c] = np.maximum(scores[:, c], cosines[:, place])
    return scores


@pytest.mark.parametrize("seed", range(2))
@pytest.mark.parametrize("grids", GRIDS.values(), ids=GRIDS)
def test_scores_equal_resizing_stacking_and_comparing(grids, seed):
    maps, vectors, channel, channels = make_case(grids, seed=seed)
    expected = best_by_hand(all_cosines(maps, vectors), channel, channels)
    scores = prototype_scores(maps, vectors, channel, channels)
    assert scores.dtype == torch.float32
    np.testing.assert_allclose(scores.numpy(), expected, atol=2e-6)


def test_scores_are_those_of_the_concatenated_map_at_the_grids_of_stable_diffusion():
    grids = [(32, 64), (128, 8), (128, 16), (128, 16), (64, 32), (32, 64)]
    maps, vectors, channel, channels = make_case(grids, prototypes=20)
    joined = torch.cat([F.interpolate(layer, (64, 64), mode="bilinear") for layer in maps], dim=1)
    cosines = torch.einsum("pd,bdhw->bphw", vectors.double(), F.normalize(joined.double(), dim=1))
    expected = torch.stack([cosines[:, channel == c].amax(1) for c in range(channels)], dim=1)
    torch.testing.assert_close(prototype_scores(maps, vectors, channel, channels).double(), expected, atol=1e-5, rtol=0)


def test_neighbours_that_cancel_have_the_right_norm():
    """Where a feature and its neighbour point in opposite directions, the one between them is short."""
    fine, coarse = torch.full((1, 1, 4, 4), 0.01), torch.ones(1, 2, 2, 2)
    coarse[..., 1] = -1
    vectors = F.normalize(torch.eye(3), dim=1)
    expected = best_by_hand(all_cosines([coarse, fine], vectors), torch.arange(3), 3)
    scores = prototype_scores([coarse, fine], vectors, torch.arange(3), 3)
    np.testing.assert_allclose(scores.numpy(), expected, atol=1e-5)


@pytest.mark.parametrize("max_cells", [1, 300, 700, 2600])
def test_chunks_of_prototypes_give_the_same_scores(monkeypatch, max_cells):
    case = make_case(GRIDS["as-stable-diffusion"], prototypes=10)
    whole = prototype_scores(*case)
    monkeypatch.setattr(prototype, "MAX_CELLS", max_cells)
    torch.testing.assert_close(prototype_scores(*case), whole, atol=1e-6, rtol=0)


def test_no_more_products_are_held_than_allowed(monkeypatch):
    """Also for 500 classes with 65 prototypes of each role."""
    held = []
    real = prototype._products

    def watch(layers, pieces):
        products = real(layers, pieces)
        held.append(products.numel())
        return products

    monkeypatch.setattr(prototype, "_products", watch)
    monkeypatch.setattr(prototype, "MAX_CELLS", 400_000)
    count = 500 * 65 * 2
    maps = make_maps([(2, 8), (2, 4)], batch=1)
    vectors = F.normalize(torch.randn(count, 4, generator=torch.Generator().manual_seed(0)), dim=1)
    channel = torch.arange(500).repeat_interleave(130) + 1
    channel[65::130] = 0
    scores = prototype_scores(maps, vectors, channel, 501)
    assert scores.shape == (1, 501, 8, 8)
    assert max(held) <= 400_000
    assert sum(held) == count * 64
    assert scores.min() > -1


def test_a_channel_without_prototypes_scores_minus_one():
    maps, vectors, _, _ = make_case(GRIDS["odd"])
    scores = prototype_scores(maps, vectors, torch.full((9,), 2), 4)
    assert (scores[:, [0, 1, 3]] == -1).all()
    assert (scores[:, 2] > -1).all()
    none = prototype_scores(maps, vectors[:0], torch.zeros(0, dtype=torch.int64), 3)
    assert none.shape == (2, 3, 13, 13)
    assert (none == -1).all()


def test_a_pixel_that_is_a_prototype_scores_one_and_its_length_does_not_matter():
    vectors = make_case([(6, 3)])[1]
    features = (vectors * torch.logspace(-2, 3, 9)[:, None]).T.reshape(1, 6, 3, 3)
    scores = prototype_scores([features], vectors, torch.arange(9), 9)
    best = scores[0].reshape(9, 9)
    torch.testing.assert_close(best.diagonal(), torch.ones(9))
    assert scores.max() <= 1
    assert scores.min() >= -1


def test_a_feature_of_zeros_is_like_no_prototype():
    maps, vectors, channel, channels = make_case(GRIDS["as-stable-diffusion"])
    scores = prototype_scores([torch.zeros_like(layer) for layer in maps], vectors, channel, channels)
    assert (scores == 0).all()


def test_half_precision_features_are_compared_in_single():
    maps, vectors, channel, channels = make_case(GRIDS["as-stable-diffusion"])
    halves = [layer.half() for layer in maps]
    scores = prototype_scores(halves, vectors, channel, channels)
    assert scores.dtype == torch.float32
    assert torch.equal(scores, prototype_scores([layer.float() for layer in halves], vectors, channel, channels))


def test_prototypes_of_another_length_are_refused():
    maps, vectors, channel, channels = make_case(GRIDS["odd"])
    with pytest.raises(ValueError, match="20 channels together, the prototypes 19"):
        prototype_scores(maps, vectors[:, 1:], channel, channels)
    with pytest.raises(ValueError, match="the prototypes 19"):
        prototype_cosines_at(maps, vectors[:, 1:], torch.zeros(1, 2, dtype=torch.int64))


# --------------------------------------------------------------------------- single cells


@pytest.mark.parametrize("grids", GRIDS.values(), ids=GRIDS)
def test_cosines_of_single_cells_equal_resizing_stacking_and_comparing(grids):
    maps, vectors, _, _ = make_case(grids)
    expected = all_cosines(maps, vectors)
    last = expected.shape[-1] - 1
    cells = torch.tensor([(0, 0), (last, 0), (1, last), (last // 2, 2)])
    cosines = prototype_cosines_at(maps, vectors, cells)
    np.testing.assert_allclose(cosines.numpy(), expected[:, :, cells[:, 0], cells[:, 1]], atol=2e-6)


def test_the_best_cosine_of_a_cell_is_its_score():
    maps, vectors, channel, channels = make_case(GRIDS["as-stable-diffusion"], prototypes=30)
    scores = prototype_scores(maps, vectors, channel, channels)
    cells = torch.cartesian_prod(torch.arange(16), torch.arange(16))
    cosines = prototype_cosines_at(maps, vectors, cells)
    best = torch.stack([cosines[:, channel == c].amax(1) for c in range(channels)], dim=1)
    torch.testing.assert_close(best.view(2, channels, 16, 16), scores, atol=1e-6, rtol=0)


def test_the_finest_grid_may_stand_anywhere():
    assert finest_grid(make_maps([(1, 3), (1, 9), (1, 5)])) == (9, 9)
    assert finest_grid([torch.zeros(1, 1, 4, 7)]) == (4, 7)
