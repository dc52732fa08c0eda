from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from ovseg_cli.methods.last_layer import (
    NACLIP_STD,
    clearclip_tokens,
    maskclip_tokens,
    naclip_tokens,
    neighbourhood,
    sclip_tokens,
)
from tests.methods.blocks import LargestTensor, attend, made_up_block
from tests.mini import mini_models, random_pictures

GRID = (3, 5)
TOKENS = 1 + 3 * 5


@pytest.fixture
def block():
    return made_up_block(tokens=TOKENS)


def nearness(grid, std):
    """The Gaussian neighbourhood from the places of two patches, one pair after the other."""
    places = list(np.ndindex(grid))
    bias = np.zeros((1 + len(places), 1 + len(places)))
    for i, (y, x) in enumerate(places):
        for j, (v, u) in enumerate(places):
            bias[1 + i, 1 + j] = np.exp(-((y - v) ** 2 + (x - u) ** 2) / (2 * std**2))
    return bias


def test_in_maskclip_a_token_depends_on_itself_alone(block):
    tokens = maskclip_tokens(block)
    torch.testing.assert_close(tokens, block.feed_forward(block.inputs + block.project(block.values)))
    others = replace(block, values=block.values.clone(), inputs=block.inputs.clone(), queries=block.keys)
    others.values[:, :, 4:] += 1
    others.inputs[:, 4:] += 1
    changed = (maskclip_tokens(others) - tokens).abs().amax(dim=(0, 2))
    assert (changed[:4] == 0).all()
    assert (changed[4:] > 0.01).all()


def test_sclip_adds_two_attentions_and_keeps_residual_and_feed_forward(block):
    mixed = attend(block.queries, block.values) + attend(block.keys, block.values)
    torch.testing.assert_close(sclip_tokens(block), block.feed_forward(block.inputs + block.project(mixed)))


def test_clearclip_is_query_attention_alone(block):
    torch.testing.assert_close(clearclip_tokens(block), block.project(attend(block.queries, block.values)))


def test_sclip_with_one_projection_is_clearclip_twice_in_the_block(block):
    same = replace(block, keys=block.queries)
    expected = block.feed_forward(block.inputs + 2 * clearclip_tokens(same))
    torch.testing.assert_close(sclip_tokens(same), expected)


@pytest.mark.parametrize("std", [0.7, NACLIP_STD])
def test_naclip_is_key_attention_with_a_gaussian_between_patches(block, std):
    expected = block.project(attend(block.keys, block.values, nearness(GRID, std)))
    # The neighbourhood is computed in float32.
    torch.testing.assert_close(naclip_tokens(block, GRID, std=std), expected, atol=1e-6, rtol=1e-6)


@pytest.mark.parametrize("grid", [(3, 5), (1, 4), (6, 1)])
def test_neighbourhood_of_any_grid(grid):
    np.testing.assert_allclose(neighbourhood(grid, 1.3).numpy(), nearness(grid, 1.3), atol=1e-7)


def test_naclips_neighbourhood_at_its_ends(block):
    """All patches near alike: plain attention, but for the class token; each near itself only: its own gains one."""
    alike = np.pad(np.ones((TOKENS - 1, TOKENS - 1)), ((1, 0), (1, 0)))
    wide = naclip_tokens(block, GRID, std=float("inf"))
    torch.testing.assert_close(wide, block.project(attend(block.keys, block.values, alike)))
    alone = np.diag([0.0] + [1.0] * (TOKENS - 1))
    narrow = naclip_tokens(block, GRID, std=1e-3)
    torch.testing.assert_close(narrow, block.project(attend(block.keys, block.values, alone)))


def test_naclips_class_token_has_no_neighbours(block):
    plain = block.project(attend(block.keys, block.values))
    for std in (0.5, 5.0, float("inf")):
        torch.testing.assert_close(naclip_tokens(block, GRID, std=std)[:, 0], plain[:, 0])


@pytest.mark.parametrize("std", [0, -1.0, float("nan")])
def test_naclip_wants_a_width(block, std):
    with pytest.raises(ValueError, match="above 0, got"):
        naclip_tokens(block, GRID, std=std)


def test_the_parts_of_a_traced_block_make_its_output():
    """So that what the methods put in place of the attention meets the rest of CLIP's block."""
    images = random_pictures(2, 64, 64)
    settings = {"input_size": 64, "mean": (0.5, 0.5, 0.5), "std": (0.5, 0.5, 0.5)}
    last = next(iter(mini_models().clip.trace(images, blocks=[-1], **settings).blocks.values()))
    mixed = F.scaled_dot_product_attention(last.queries, last.keys, last.values)
    torch.testing.assert_close(last.feed_forward(last.inputs + last.project(mixed)), last.outputs)


@pytest.mark.parametrize("method", [sclip_tokens, clearclip_tokens, lambda block: naclip_tokens(block, (32, 32))])
def test_attention_matrices_of_all_heads_are_never_held_together(method):
    block = made_up_block(tokens=1 + 32 * 32, batch=1, heads=8)
    parts = ("inputs", "queries", "keys", "values")
    single = replace(block, **{name: getattr(block, name).float() for name in parts}, project=lambda heads: heads)
    single = replace(single, inputs=torch.zeros(()), feed_forward=lambda x: x)
    with torch.inference_mode(), LargestTensor() as largest:
        method(single)
    assert largest.numbers <= 1025 * 1025
