from __future__ import annotations

import numpy as np
import pytest
import torch

from ovseg_cli.methods import prototype
from ovseg_cli.methods.prototype import prototype_scores


def make_case(seed, *, batch=2, dim=6, height=3, width=5, prototypes=9, channels=4):
    random = torch.Generator().manual_seed(seed)
    features = torch.randn(batch, dim, height, width, generator=random) * 30
    vectors = torch.nn.functional.normalize(torch.randn(prototypes, dim, generator=random), dim=1)
    channel = torch.randint(0, channels, (prototypes,), generator=random)
    return features, vectors, channel, channels


def brute_force(features, vectors, channel, channels):
    batch, _, height, width = features.shape
    scores = np.full((batch, channels, height, width), -1.0)
    for b in range(batch):
        for y in range(height):
            for x in range(width):
                f = features[b, :, y, x].double().numpy()
                for vector, c in zip(vectors.double().numpy(), channel.tolist(), strict=True):
                    cosine = f @ vector / np.linalg.norm(f) / np.linalg.norm(vector)
                    scores[b, c, y, x] = max(scores[b, c, y, x], cosine)
    return scores


@pytest.mark.parametrize("seed", range(4))
def test_scores_equal_a_loop_over_pixels_and_prototypes(seed):
    case = make_case(seed)
    np.testing.assert_allclose(prototype_scores(*case).numpy(), brute_force(*case), atol=1e-5)


@pytest.mark.parametrize("max_cells", [1, 9, 20, 100])
def test_chunks_give_the_same_scores(monkeypatch, max_cells):
    case = make_case(1)
    whole = prototype_scores(*case)
    monkeypatch.setattr(prototype, "MAX_CELLS", max_cells)
    torch.testing.assert_close(prototype_scores(*case), whole)


def test_a_channel_without_prototypes_scores_minus_one():
    features, vectors, _, _ = make_case(0)
    scores = prototype_scores(features, vectors, torch.full((9,), 2), 4)
    assert (scores[:, [0, 1, 3]] == -1).all()
    assert (scores[:, 2] > -1).all()
    none = prototype_scores(features, vectors[:0], torch.zeros(0, dtype=torch.int64), 3)
    assert none.shape == (2, 3, 3, 5)
    assert (none == -1).all()


def test_a_pixel_that_is_a_prototype_scores_one_and_its_length_does_not_matter():
    _, vectors, _, _ = make_case(0)
    features = (vectors * torch.linspace(0.01, 1000, 9)[:, None]).T.reshape(1, 6, 3, 3)
    scores = prototype_scores(features, vectors, torch.arange(9), 9)
    best = scores[0].reshape(9, 9)
    torch.testing.assert_close(best.diagonal(), torch.ones(9))
    assert scores.max() <= 1
    assert scores.min() >= -1


def test_half_precision_features_are_compared_in_single():
    features, vectors, channel, channels = make_case(2)
    scores = prototype_scores(features.half(), vectors, channel, channels)
    assert scores.dtype == torch.float32
    np.testing.assert_allclose(scores.numpy(), brute_force(features, vectors, channel, channels), atol=2e-3)
