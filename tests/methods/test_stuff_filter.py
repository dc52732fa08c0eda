from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from ovseg_cli.methods import stuff_filter as module
from ovseg_cli.methods.stuff_filter import stuff_filter
from ovseg_cli.profiles import PROFILES


def prototypes(count, dim=4, seed=0):
    """Few dimensions, so that many cosines are high."""
    random = torch.Generator().manual_seed(seed)
    vectors = F.normalize(torch.randn(count, dim, generator=random), dim=1)
    background = torch.rand(count, generator=random) < 0.6
    of_stuff = torch.rand(count, generator=random) < 0.4
    return vectors, background, of_stuff


def by_hand(vectors, background, of_stuff, against, threshold):
    vectors = vectors.double().numpy()
    stays = np.ones(len(vectors), bool)
    for i in range(len(vectors)):
        if not background[i]:
            continue
        if of_stuff[i]:
            stays[i] = False
        for j in range(len(vectors)):
            if against[j] and float(vectors[i] @ vectors[j]) > threshold:
                stays[i] = False
    return stays


@pytest.mark.parametrize("rows", [1, 7, 4096])
@pytest.mark.parametrize("threshold", [0.93, 0.85, 0.8])
def test_what_stays_is_what_plain_loops_leave(monkeypatch, threshold, rows):
    monkeypatch.setattr(module, "ROWS_AT_ONCE", rows)
    vectors, background, of_stuff = prototypes(80)
    published = ~background & of_stuff
    for against in (torch.zeros(80, dtype=torch.bool), ~background, published):
        kept = stuff_filter(vectors, background=background, of_stuff=of_stuff, against=against, threshold=threshold)
        expected = by_hand(vectors, background, of_stuff, against, threshold)
        np.testing.assert_array_equal(kept.numpy(), expected)
        assert kept[~background].all()
        assert not kept[background & of_stuff].any()
    assert 0 < expected[background].sum() < background.sum()  # the comparison has both outcomes


def test_a_higher_threshold_never_drops_more():
    vectors, background, of_stuff = prototypes(200, seed=1)
    masks = {"background": background, "of_stuff": of_stuff, "against": ~background & of_stuff}
    kept = [stuff_filter(vectors, threshold=t, **masks) for t in (-1.0, 0.2, 0.6, 0.85, 0.99, 1.1)]
    for lower, higher in pairwise(kept):
        assert not (lower & ~higher).any()
    assert kept[0].sum() < kept[-2].sum()
    assert torch.equal(kept[-1], ~(background & of_stuff))


def test_without_kinds_every_background_prototype_is_compared_with_every_foreground_one():
    """The supplement's "all prototypes" ablation: stuff's own background prototypes are ordinary ones there."""
    vectors = F.normalize(torch.tensor([[1.0, 0, 0], [0.99, 0.1, 0], [0, 1.0, 0], [0, 0, 1.0]]), dim=1)
    background = torch.tensor([False, True, True, True])
    kept = stuff_filter(
        vectors, background=background, of_stuff=torch.zeros(4, dtype=torch.bool), against=~background, threshold=0.85
    )
    assert kept.tolist() == [True, False, True, True]


def test_a_prototype_at_the_threshold_stays():
    vectors = torch.tensor([[1.0, 0.0], [0.5, 0.75**0.5]])
    background = torch.tensor([False, True])
    for threshold, expected in ((0.5, True), (0.49, False)):
        kept = stuff_filter(
            vectors, background=background, of_stuff=~background, against=~background, threshold=threshold
        )
        assert bool(kept[1]) is expected


def test_half_precision_is_compared_in_single():
    vectors, background, of_stuff = prototypes(60, dim=64, seed=2)
    halves = vectors.half()
    masks = {"background": background, "of_stuff": of_stuff, "against": ~background & of_stuff, "threshold": 0.1}
    assert torch.equal(stuff_filter(halves, **masks), stuff_filter(halves.float(), **masks))


@pytest.mark.parametrize("count", [0, 1])
def test_nothing_to_compare(count):
    vectors, background, of_stuff = prototypes(count)
    kept = stuff_filter(
        vectors,
        background=background,
        of_stuff=torch.zeros_like(of_stuff),
        against=torch.zeros_like(background),
        threshold=0.85,
    )
    assert kept.all()
    assert kept.shape == (count,)


def test_masks_that_do_not_fit_are_refused():
    vectors, background, of_stuff = prototypes(10)
    with pytest.raises(ValueError, match="of_stuff must be bool of shape"):
        stuff_filter(vectors, background=background, of_stuff=of_stuff[:9], against=~background, threshold=0.85)
    with pytest.raises(ValueError, match="background must be bool"):
        stuff_filter(vectors, background=background.int(), of_stuff=of_stuff, against=~background, threshold=0.85)
    with pytest.raises(ValueError, match="foreground prototypes only"):
        stuff_filter(vectors, background=background, of_stuff=of_stuff, against=background, threshold=0.85)


@pytest.mark.parametrize("profile", PROFILES.values(), ids=lambda profile: profile.name)
def test_the_profiles_filter_at_the_published_similarity(profile):
    assert profile.inference.stuff_similarity == 0.85
