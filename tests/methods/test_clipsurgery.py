from __future__ import annotations

import pytest
import torch

from ovseg_cli.methods.clipsurgery import surgery_tokens
from tests.methods.blocks import attend, made_up_block


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
