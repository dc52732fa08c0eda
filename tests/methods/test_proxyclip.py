from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
import torch

from ovseg_cli.methods import proxyclip
from ovseg_cli.methods.proxyclip import proxyclip_tokens
from tests.methods.blocks import LargestTensor, made_up_block, softmax

GRID = (2, 3)


@pytest.fixture
def block():
    return made_up_block(tokens=1 + 2 * 3)


def features(*shape, seed=3):
    """Not around zero, so that the mean similarity matters."""
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed)) + 0.5


def enlarged(values, shape):
    """Bilinear, cell by cell: the centre of each new cell lies between at most four old ones."""
    rows, columns = values.shape[:2]
    made = np.zeros((*shape, values.shape[2]))
    for y, x in np.ndindex(shape):
        v = min(max((y + 0.5) * rows / shape[0] - 0.5, 0), rows - 1)
        u = min(max((x + 0.5) * columns / shape[1] - 0.5, 0), columns - 1)
        for row, a in ((math.floor(v), 1 - v % 1), (min(math.floor(v) + 1, rows - 1), v % 1)):
            for column, b in ((math.floor(u), 1 - u % 1), (min(math.floor(u) + 1, columns - 1), u % 1)):
                made[y, x] += a * b * values[row, column]
    return made


def reference(block, maps, beta, gamma):
    batch, heads, _, width = block.values.shape
    shape = tuple(maps.shape[2:])
    mixed = np.zeros((batch, heads, math.prod(shape), width))
    for b in range(batch):
        units = [maps[b, :, y, x].double().numpy() for y, x in np.ndindex(shape)]
        units = [u / np.linalg.norm(u) for u in units]
        similar = np.array([[u @ v for v in units] for u in units])
        scores = gamma * (similar - beta * similar.mean())
        attention = [softmax(np.where(row < 0, -np.inf, row)) for row in scores]
        for h in range(heads):
            values = enlarged(block.values[b, h, 1:].numpy().reshape(*GRID, width), shape)
            mixed[b, h] = attention @ values.reshape(-1, width)
    return block.project(torch.from_numpy(mixed))


@pytest.mark.parametrize("shape", [(2, 3), (4, 6), (5, 4), (1, 2)])
@pytest.mark.parametrize(("beta", "gamma"), [(1.2, 3.0), (0.5, 10.0)])
def test_equals_a_reference_written_from_the_published_description(block, shape, beta, gamma):
    maps = features(2, 8, *shape)
    ours = proxyclip_tokens(block, maps, GRID, beta=beta, gamma=gamma)
    assert ours.shape == (2, math.prod(shape), 12)
    torch.testing.assert_close(ours, reference(block, maps, beta, gamma), atol=1e-5, rtol=1e-5)


def test_blocks_of_rows_make_no_difference(block, monkeypatch):
    maps = features(2, 8, 4, 6)
    whole = proxyclip_tokens(block, maps, GRID)
    monkeypatch.setattr(proxyclip, "ROWS_AT_ONCE", 5)
    torch.testing.assert_close(proxyclip_tokens(block, maps, GRID), whole)


def test_two_regions_that_have_nothing_in_common_share_nothing(block):
    """Within a region all patches are alike: each gets the mean value of its region."""
    maps = torch.zeros(2, 8, *GRID)
    maps[:, 0, :, :1] = 2.0
    maps[:, 5, :, 1:] = 0.1
    values = block.values[:, :, 1:].unflatten(2, GRID)
    means = torch.cat(
        [
            part.mean(dim=(2, 3), keepdim=True).expand(-1, -1, 2, part.shape[3], -1)
            for part in (values[..., :1, :], values[..., 1:, :])
        ],
        dim=3,
    )
    # Similarities are float32.
    expected = block.project(means.flatten(2, 3))
    torch.testing.assert_close(proxyclip_tokens(block, maps, GRID), expected, atol=1e-5, rtol=1e-5)


def test_length_of_features_and_other_images_do_not_matter(block):
    maps = features(2, 8, 4, 6)
    ours = proxyclip_tokens(block, maps, GRID)
    torch.testing.assert_close(proxyclip_tokens(block, maps * 8, GRID), ours)
    second = replace(block, values=block.values[1:])
    torch.testing.assert_close(proxyclip_tokens(second, maps[1:], GRID), ours[1:])


def test_a_picture_that_is_everywhere_alike_keeps_its_values(block):
    """The published formula leaves no patch to attend to."""
    flat = torch.ones(2, 8, *GRID)
    assert torch.isfinite(proxyclip_tokens(block, flat, GRID)).all()
    nearly = flat + 0.05 * features(2, 8, *GRID)
    torch.testing.assert_close(proxyclip_tokens(block, nearly, GRID), block.project(block.values[:, :, 1:]))


def test_the_class_token_takes_no_part(block):
    other = replace(block, values=block.values.clone())
    other.values[:, :, 0] += 5
    maps = features(2, 8, 4, 6)
    assert torch.equal(proxyclip_tokens(other, maps, GRID), proxyclip_tokens(block, maps, GRID))


def test_of_a_large_affinity_matrix_only_blocks_are_held():
    block = made_up_block(tokens=1 + 32 * 32, batch=1, heads=8)
    single = replace(block, values=block.values.float(), project=lambda heads: heads)
    maps = features(1, 16, 64, 64)
    with torch.inference_mode(), LargestTensor() as largest:
        proxyclip_tokens(single, maps, (32, 32))
    assert largest.numbers <= proxyclip.ROWS_AT_ONCE * 64 * 64
