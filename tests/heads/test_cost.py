"""What of the cost aggregation the published code does not have; the rest is in tests/parity."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from ovseg_cli.heads.cost import LEFT_OUT, CostAggregator, cosines, shift_mask
from ovseg_cli.heads.sizes import CostSizes

SMALL = CostSizes(hidden=16, guidance=8, window=2, hooks=(8, 8), decoder=(16, 16), decoder_guidance=(8, 8), pad=0)


def inputs(names, grid=4):
    torch.manual_seed(1)
    fine = [torch.randn(2, 8, 2 * grid, 2 * grid), torch.randn(2, 8, 4 * grid, 4 * grid)]
    return torch.randn(2, grid, grid, 12), torch.randn(2, names, 1, 12), fine


def test_only_the_best_names_are_looked_at():
    torch.manual_seed(0)
    whole = CostAggregator(SMALL, 12, (8, 8)).eval()
    some = CostAggregator(replace(SMALL, best=3), 12, (8, 8)).eval()
    some.load_state_dict(whole.state_dict())
    patches, texts, fine = inputs(7)
    with torch.no_grad():
        logits = some(patches, texts, fine)
    best = cosines(patches, texts).flatten(2).amax(dim=-1).topk(3).indices
    for picture in range(2):
        left = (logits[picture] != LEFT_OUT).all(dim=(1, 2)).nonzero()[:, 0]
        assert sorted(left.tolist()) == sorted(best[picture].tolist())
        own = texts[picture : picture + 1, left]
        with torch.no_grad():
            alone = whole(patches[picture : picture + 1], own, [each[picture : picture + 1] for each in fine])
        assert torch.allclose(logits[picture, left], alone[0], atol=1e-4)
    some.train()
    assert (some(patches, texts, fine) != LEFT_OUT).all()  # all of them while it is trained


@pytest.mark.parametrize("grid", [2, 3, 5])
def test_a_grid_that_is_no_larger_than_a_window_is_one(grid):
    torch.manual_seed(0)
    aggregator = CostAggregator(replace(SMALL, window=5), 12, (8, 8)).eval()
    patches, texts, fine = inputs(3, grid)
    assert aggregator(patches, texts, fine).shape == (2, 3, 4 * grid, 4 * grid)


def test_parts_of_a_shifted_window_are_kept_apart():
    """The window that wraps around the corner has four parts, and the first window has one."""
    mask = shift_mask(4, 4, 2, 1, torch.zeros(1))
    assert mask.shape == (4, 4, 4)
    assert (mask[0] == 0).all()
    assert torch.equal(mask[3] == 0, torch.eye(4, dtype=torch.bool))


def test_names_in_another_order():
    torch.manual_seed(0)
    aggregator = CostAggregator(SMALL, 12, (8, 8)).eval()
    patches, texts, fine = inputs(4)
    order = torch.tensor([2, 0, 3, 1])
    with torch.no_grad():
        plain, turned = aggregator(patches, texts, fine), aggregator(patches, texts[:, order], fine)
    assert torch.allclose(plain[:, order], turned, atol=1e-4)
