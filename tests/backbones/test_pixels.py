from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from torch.nn import functional as F

from ovseg_cli.backbones import pixels
from ovseg_cli.backbones.pixels import picture_size, resize, resize_there, squash, to_tensor, to_working_tensor


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


SIZES = [(1, 1), (1, 50), (40, 1), (24, 30), (48, 61), (90, 110), (24, 61), (48, 30)]


def resized(array, size, resample):
    """What the libraries of the published code make of it, uint8; OpenCV's way by its definition."""
    if resample in ("bicubic", "lanczos"):
        way = {"bicubic": Image.Resampling.BICUBIC, "lanczos": Image.Resampling.LANCZOS}[resample]
        return np.asarray(Image.fromarray(np.ascontiguousarray(array)).resize(size[::-1], way))
    tensor = torch.from_numpy(np.ascontiguousarray(array)).permute(2, 0, 1)[None].double()
    settings = {} if resample == "nearest" else {"align_corners": False}
    wanted = F.interpolate(tensor, size, mode=resample, **settings)
    return wanted[0].permute(1, 2, 0).round().byte().numpy()


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("picture", [(48, 61), (1, 61), (48, 1), (1, 1)])
@pytest.mark.parametrize("resample", ["bicubic", "lanczos", "bilinear", "nearest"])
@pytest.mark.parametrize("band", [1, 200, 2**20])
def test_a_working_tensor_is_what_the_published_code_sees(monkeypatch, picture, size, resample, band):
    monkeypatch.setattr(pixels, "BAND_PIXELS", band)
    array = np.random.default_rng(0).integers(0, 256, (*picture, 3), dtype=np.uint8)
    expected = resized(array, size, resample).astype(int)
    for image in (array, Image.fromarray(array), array[::-1, ::-1][::-1, ::-1]):
        tensor = to_working_tensor(image, size, resample=resample)
        assert tensor.shape == (1, 3, *size)
        assert tensor.dtype == torch.float32
        grey = (tensor[0].permute(1, 2, 0).numpy() * 255).round().astype(int)
        # OpenCV computes in fixed point, which is less than one grey value from the exact answer.
        assert np.abs(grey - expected).max() <= (1 if resample == "bilinear" else 0)


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("picture", [(48, 61), (1, 61), (48, 1), (1, 1)])
@pytest.mark.parametrize("band", [1, 200, 2**20])
def test_bilinear_in_float_is_torchs_and_rounds_nothing(monkeypatch, picture, size, band):
    monkeypatch.setattr(pixels, "BAND_PIXELS", band)
    array = np.random.default_rng(0).integers(0, 256, (*picture, 3), dtype=np.uint8)
    exact = torch.from_numpy(array).permute(2, 0, 1)[None].double() / 255
    expected = F.interpolate(exact, size, mode="bilinear", align_corners=False).float()
    for image in (array, Image.fromarray(array)):
        torch.testing.assert_close(to_working_tensor(image, size, resample="bilinear-float"), expected)


OPENCV = {
    (4, 7): [
        [6, 43, 80, 118, 155, 192, 229],
        [27, 64, 101, 139, 176, 213, 86],
        [79, 117, 154, 191, 164, 92, 47],
        [163, 201, 101, 83, 56, 94, 131],
    ],
    (9, 5): [
        [11, 64, 116, 168, 220],
        [15, 67, 120, 172, 224],
        [22, 74, 126, 179, 205],
        [36, 88, 140, 193, 117],
        [57, 109, 162, 214, 61],
        [83, 135, 187, 197, 35],
        [115, 168, 220, 58, 68],
        [155, 182, 132, 56, 108],
        [187, 187, 35, 87, 139],
    ],
}
"""What cv2.resize (INTER_LINEAR, OpenCV 4) makes of the green channel of a picture of 6 x 9 pixels."""


@pytest.mark.parametrize("size", OPENCV)
def test_bilinear_is_opencvs(size):
    rows, columns = np.mgrid[0:6, 0:9]
    green = (rows * rows * 7 + columns * 29) % 256
    tensor = to_working_tensor(np.stack([green] * 3, axis=-1).astype(np.uint8), size, resample="bilinear")
    # OpenCV's own answers differ by one between processors' vector units.
    np.testing.assert_allclose((tensor[0, 1] * 255).round().numpy(), OPENCV[size], atol=1)


def test_a_shrunk_picture_is_averaged_by_pillow_and_not_by_opencv():
    """Stripes of one pixel: the mean grey, or some of the stripes."""
    stripes = np.zeros((60, 60, 3), np.uint8)
    stripes[:, ::2] = 255
    smooth, sharp = (to_working_tensor(stripes, (20, 20), resample=way) for way in ("bicubic", "bilinear"))
    assert smooth.std() < 0.2 < sharp.std()


def test_squash_normalises_each_channel():
    picture = torch.stack([torch.full((4, 9), v) for v in (0.25, 0.5, 0.75)])[None]
    out = squash(picture, 8, (0.25, 0.4, 0.5), (0.5, 0.1, 0.25))
    assert out.shape == (1, 3, 8, 8)
    torch.testing.assert_close(out[0, :, 3, 3], torch.tensor([0.0, 1.0, 1.0]))


WAYS = ("nearest", "bilinear", "bilinear-float")


@pytest.mark.parametrize("resample", WAYS)
@settings(max_examples=40, deadline=None)
@given(
    size=st.tuples(st.integers(1, 70), st.integers(1, 70)),
    wanted=st.tuples(st.integers(1, 70), st.integers(1, 70)),
    seed=st.integers(0, 99),
)
def test_resizing_on_a_device_gives_the_same_to_the_last_digit(resample, size, wanted, seed):
    image = np.random.default_rng(seed).integers(0, 256, (*size, 3), np.uint8)
    there = resize_there(torch.from_numpy(image), wanted, resample)
    assert there.is_contiguous()
    assert torch.equal(there, to_working_tensor(image, wanted, resample=resample))


@pytest.mark.parametrize("resample", WAYS)
@pytest.mark.parametrize("wanted", [(448, 597), (336, 448), (512, 512), (375, 224)])
def test_photographs_of_usual_sizes_too(resample, wanted):
    image = np.random.default_rng(0).integers(0, 256, (375, 500, 3), np.uint8)
    there = resize_there(torch.from_numpy(image), wanted, resample)
    assert torch.equal(there, to_working_tensor(image, wanted, resample=resample))
