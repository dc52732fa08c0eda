from __future__ import annotations

import numpy as np
import pytest
import torch
from PIL import Image

from ovseg_cli.backbones import pixels
from ovseg_cli.backbones.pixels import picture_size, resize, squash, to_tensor, to_working_tensor


def test_picture_to_tensor_keeps_every_value_and_its_place():
    array = np.random.default_rng(0).integers(0, 256, (5, 7, 3), dtype=np.uint8)
    for image in (array, Image.fromarray(array), array[::-1][::-1]):
        tensor = to_tensor(image)
        assert tensor.shape == (1, 3, 5, 7)
        np.testing.assert_allclose(tensor[0].permute(1, 2, 0).numpy() * 255, array, atol=1e-4)


@pytest.mark.parametrize(
    "image",
    [
        np.zeros((5, 7), np.uint8),
        np.zeros((5, 7, 4), np.uint8),
        np.zeros((5, 7, 3), np.float32),
        np.zeros((0, 7, 3), np.uint8),
        Image.new("L", (3, 3)),
        Image.new("RGBA", (3, 3)),
    ],
)
def test_what_is_no_rgb_picture_is_refused(image):
    for function in (picture_size, to_tensor, lambda image: to_working_tensor(image, (2, 2))):
        with pytest.raises(ValueError, match="RGB"):
            function(image)


def test_size_of_a_picture():
    array = np.zeros((5, 7, 3), np.uint8)
    assert picture_size(array) == picture_size(Image.fromarray(array)) == (5, 7)


def test_tensor_does_not_share_memory_with_the_callers_array():
    array = np.zeros((2, 2, 3), np.uint8)
    tensor = to_tensor(array)
    array[:] = 255
    assert tensor.max() == 0


def test_resize_is_close_to_pillows_bicubic():
    array = (np.indices((40, 60)).sum(0) * 2).astype(np.uint8)
    picture = np.stack([array, 255 - array, array // 2], -1)
    ours = resize(to_tensor(picture), (20, 15))[0].permute(1, 2, 0).numpy() * 255
    theirs = np.asarray(Image.fromarray(picture).resize((15, 20), Image.Resampling.BICUBIC), dtype=float)
    assert np.abs(ours - theirs).max() < 2.0


def test_resize_stays_in_range_and_leaves_the_right_size_alone():
    checker = torch.zeros(1, 3, 6, 6)
    checker[..., ::2, ::2] = 1
    assert resize(checker, (6, 6)) is checker
    enlarged = resize(checker, (25, 31))
    assert enlarged.shape == (1, 3, 25, 31)
    assert enlarged.min() >= 0
    assert enlarged.max() <= 1


@pytest.mark.parametrize("size", [(1, 1), (1, 50), (40, 1), (24, 30), (48, 61), (90, 110), (24, 61), (48, 30)])
@pytest.mark.parametrize("picture", [(48, 61), (1, 61), (48, 1), (1, 1)])
@pytest.mark.parametrize("band", [1, 200, 2**20])
def test_working_tensor_equals_a_resize_of_the_whole_picture(monkeypatch, picture, size, band):
    monkeypatch.setattr(pixels, "BAND_PIXELS", band)
    array = np.random.default_rng(0).integers(0, 256, (*picture, 3), dtype=np.uint8)
    expected = resize(to_tensor(array), size)
    for image in (array, Image.fromarray(array), array[::-1, ::-1][::-1, ::-1]):
        tensor = to_working_tensor(image, size)
        assert tensor.shape == (1, 3, *size)
        assert tensor.dtype == torch.float32
        torch.testing.assert_close(tensor, expected, atol=1e-6, rtol=0)


def test_working_tensor_converts_a_large_picture_band_by_band(monkeypatch):
    rows = []
    original = pixels._band

    def counting(image, top, bottom, device):
        rows.append((top, bottom))
        return original(image, top, bottom, device)

    monkeypatch.setattr(pixels, "_band", counting)
    monkeypatch.setattr(pixels, "BAND_PIXELS", 700)
    to_working_tensor(np.zeros((50, 60, 3), np.uint8), (5, 6))
    assert rows == [(top, min(top + 11, 50)) for top in range(0, 50, 11)]


def test_squash_normalises_each_channel():
    picture = torch.stack([torch.full((4, 9), v) for v in (0.25, 0.5, 0.75)])[None]
    out = squash(picture, 8, (0.25, 0.4, 0.5), (0.5, 0.1, 0.25))
    assert out.shape == (1, 3, 8, 8)
    torch.testing.assert_close(out[0, :, 3, 3], torch.tensor([0.0, 1.0, 1.0]))
