from __future__ import annotations

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from ovseg_cli.methods.clipsurgery import surgery_similarity, surgery_tokens
from tests.methods.blocks import attend, made_up_block, softmax


def unit(*shape, seed=0):
    random = torch.Generator().manual_seed(seed)
    return F.normalize(torch.randn(*shape, generator=random, dtype=torch.float64), dim=-1)


@pytest.mark.parametrize("count", [1, 3])
def test_the_new_path_gathers_value_attention_and_nothing_else(count):
    blocks = [made_up_block(tokens=13, seed=seed) for seed in range(count)]
    expected = blocks[0].inputs
    for block in blocks:
        expected = expected + block.project(attend(block.values, block.values))
    ours = surgery_tokens(blocks)
    torch.testing.assert_close(ours[:, 1:], expected[:, 1:])


def test_the_class_token_is_the_original_paths():
    blocks = [made_up_block(tokens=13, seed=seed) for seed in range(2)]
    assert torch.equal(surgery_tokens(blocks)[:, 0], blocks[-1].outputs[:, 0])


def test_the_trace_is_left_as_it_was():
    block = made_up_block(tokens=13)
    before = block.inputs.clone(), block.outputs.clone()
    surgery_tokens([block, block])
    assert torch.equal(block.inputs, before[0])
    assert torch.equal(block.outputs, before[1])


def test_similarity_equals_the_element_by_element_reference():
    """Products of the elements of patch and text, weighted, without their mean over the texts, then summed."""
    tokens, text = unit(2, 7, 10), unit(4, 10, seed=1)
    ours = surgery_similarity(tokens, text).numpy()
    for image in range(2):
        f, t = tokens[image].numpy(), text.numpy()
        likely = softmax(np.array([2 * (f[0] @ word) for word in t]))
        weights = likely / likely.mean()
        products = np.array([[weights[k] * f[n] * t[k] for k in range(4)] for n in range(7)])
        expected = (products - products.mean(axis=1, keepdims=True)).sum(axis=-1)
        np.testing.assert_allclose(ours[image], expected, atol=1e-12)


def test_similarities_of_a_patch_sum_to_zero():
    total = surgery_similarity(unit(2, 7, 10), unit(4, 10, seed=1)).sum(dim=-1)
    torch.testing.assert_close(total, torch.zeros_like(total))


def test_one_text_needs_something_that_is_redundant():
    tokens, text, empty = unit(1, 7, 10), unit(1, 10, seed=1), unit(10, seed=2)
    assert (surgery_similarity(tokens, text) == 0).all()
    expected = tokens @ text[0] - tokens @ empty
    torch.testing.assert_close(surgery_similarity(tokens, text, redundant=empty)[..., 0], expected)
