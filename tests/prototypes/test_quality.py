from __future__ import annotations

import numpy as np
import pytest

from ovseg_cli.prototypes.quality import find_degenerate


def picture():
    return np.random.default_rng(0).integers(0, 256, (16, 16, 3), dtype=np.uint8)


def spot(peak=0.2, floor=0.01):
    attention = np.full((8, 8), floor, np.float32)
    attention[2:4, 3:6] = peak
    return attention


def judge(image, attention, median_peak=0.2):
    return find_degenerate(image[None], attention[None], median_peak=median_peak)[0]


def test_a_good_image_is_kept():
    assert judge(picture(), spot()) is None


@pytest.mark.parametrize("colour", [(0, 0, 0), (255, 255, 255), (30, 200, 90)])
def test_black_and_flat_images_are_blank(colour):
    image = np.empty((16, 16, 3), np.uint8)
    image[:] = colour
    assert judge(image, spot()) == "blank image"
    # A grey level or two of grain does not make a picture.
    image[::2, ::2] ^= 1
    assert judge(image, spot()) == "blank image"


def test_contrast_in_one_channel_is_enough():
    image = np.zeros((16, 16, 3), np.uint8)
    image[:8, :, 2] = 60
    assert judge(image, spot()) is None


@pytest.mark.parametrize("attention", [np.full((8, 8), 0.2), np.zeros((8, 8)), spot(0.2, 0.15)])
def test_attention_without_contrast_is_flat(attention):
    assert judge(picture(), attention.astype(np.float32)) == "flat attention"


def test_attention_far_below_its_siblings_is_weak():
    assert judge(picture(), spot(0.2, 0.001), median_peak=0.6) == "weak attention"
    assert judge(picture(), spot(0.2, 0.001), median_peak=0.4) is None


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_attention_that_is_not_finite(value):
    attention = spot()
    attention[5, 5] = value
    assert judge(picture(), attention) == "not finite"


def test_each_image_is_judged_on_its_own():
    images = np.stack([picture(), np.zeros((16, 16, 3), np.uint8), picture(), picture()])
    attention = np.stack([spot(), spot(), spot(0.01, 0.0), np.full((8, 8), 0.1, np.float32)])
    assert find_degenerate(images, attention, median_peak=0.2) == [
        None,
        "blank image",
        "weak attention",
        "flat attention",
    ]
