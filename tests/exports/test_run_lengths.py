from __future__ import annotations

import numpy as np
import pytest
from pycocotools import mask as coco

from ovseg_cli.exports.run_lengths import brush_code, coco_code, run_lengths


def some_masks():
    rng = np.random.default_rng(0)
    yield np.zeros((3, 5), bool)
    yield np.ones((3, 5), bool)
    yield np.ones((1, 1), bool)
    for share in (0.02, 0.5, 0.97):
        yield rng.random((23, 41)) < share
    yield np.ones((300, 400), bool)  # longer than the longest run of a brush


@pytest.mark.parametrize("mask", [*some_masks()])
def test_runs_say_what_the_mask_is(mask):
    runs = run_lengths(mask)
    values = np.arange(len(runs)) % 2 == 1
    assert (np.repeat(values, runs).reshape(mask.shape) == mask).all()
    assert (runs[1:] > 0).all()


@pytest.mark.parametrize("mask", [*some_masks()])
def test_the_code_of_coco_is_that_of_its_own_library(mask):
    height, width = mask.shape[0] + 4, mask.shape[1] + 7
    whole = np.zeros((height, width), np.uint8)
    whole[3:-1, 2:-5] = mask
    code = coco_code(mask, 3, 2, (height, width))
    assert code["counts"].encode() == coco.encode(np.asfortranarray(whole))["counts"]
    assert code["size"] == [height, width]


def decoded(code):
    """The rule of thi.ng's rle-pack, which Label Studio's editor decodes by."""
    bits = "".join(f"{byte:08b}" for byte in code)
    at = 0

    def take(count):
        nonlocal at
        at += count
        return int(bits[at - count : at], 2)

    length, word = take(32), take(5) + 1
    sizes = [take(4) + 1 for _ in range(4)]
    values = []
    while len(values) < length:
        run = take(1)
        count = take(sizes[take(2)]) + 1
        values += [take(word)] * count if run else [take(word) for _ in range(count)]
    return values


@pytest.mark.parametrize("mask", [*some_masks()])
def test_the_code_of_the_brush_has_four_channels(mask):
    found = np.array(decoded(brush_code(mask))).reshape(*mask.shape, 4)
    assert (found == mask[..., None] * 255).all()
