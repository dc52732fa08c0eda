from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn import functional as F

from ovseg_cli.labeling import windows as module
from ovseg_cli.labeling.windows import Crop, ScoreCanvas, all_crops, sliding_crops
from ovseg_cli.profiles.geometry import MAX_ASPECT, short_side_size, unsquashed_size

sizes = st.integers(1, 300)


def paint(crops, height, width):
    covered = np.zeros((height, width), int)
    for crop in crops:
        assert crop.top >= 0
        assert crop.left >= 0
        assert crop.top + crop.height <= height
        assert crop.left + crop.width <= width
        covered[crop.top : crop.top + crop.height, crop.left : crop.left + crop.width] += 1
    return covered


@pytest.mark.slow
@settings(max_examples=100, deadline=None)
@given(height=sizes, width=sizes, size=st.integers(10, 200), data=st.data())
def test_windows_cover_every_pixel_and_end_at_the_border(height, width, size, data):
    stride = data.draw(st.integers(size // 3, size))
    crops = sliding_crops(height, width, size, stride)
    assert (paint(crops, height, width) > 0).all()
    assert max(c.top + c.height for c in crops) == height
    assert max(c.left + c.width for c in crops) == width
    assert {(c.height, c.width) for c in crops} == {(min(size, height), min(size, width))}
    assert len(set(crops)) == len(crops)
    tops = sorted({c.top for c in crops})
    assert all(b - a <= stride for a, b in itertools.pairwise(tops))


def test_the_crops_of_the_papers_example():
    """A 375 x 500 picture at short side 448: 2 windows of 448, 6 of 336, and the whole image."""
    height, width = short_side_size(375, 500, 448)
    assert (height, width) == (448, 597)
    assert len(sliding_crops(height, width, 448, 224)) == 2
    assert len(sliding_crops(height, width, 336, 224)) == 2 * 3
    assert len(all_crops(height, width, ((448, 224), (336, 224)), whole_image=True)) == 9


def test_the_last_window_is_moved_back():
    assert [c.left for c in sliding_crops(10, 25, 10, 7)] == [0, 7, 14, 15]
    assert [c.left for c in sliding_crops(10, 24, 10, 7)] == [0, 7, 14]


def test_a_crop_that_would_come_twice_comes_once():
    assert all_crops(64, 64, ((64, 32), (128, 64)), whole_image=True) == [Crop(0, 0, 64, 64)]
    assert all_crops(64, 64, (), whole_image=True) == [Crop(0, 0, 64, 64)]


@given(height=st.integers(1, 5000), width=st.integers(1, 5000), short=st.integers(1, 500))
def test_the_short_side_gets_its_length_and_the_aspect_is_kept(height, width, short):
    new_height, new_width = short_side_size(height, width, short)
    aspect = max(height, width) / min(height, width)
    # Rounded to whole pixels, each side is right to half a pixel.
    if aspect <= MAX_ASPECT:
        assert min(new_height, new_width) == short
        assert abs(max(new_height, new_width) - short * aspect) <= 0.5 + 1e-6
    else:
        assert max(new_height, new_width) == MAX_ASPECT * short
        assert abs(min(new_height, new_width) - MAX_ASPECT * short / aspect) <= 1
    assert (new_height > new_width) <= (height > width)


@given(height=st.integers(1, 5000), width=st.integers(1, 5000), side=st.integers(1, 500))
def test_a_long_side_that_is_cut_is_that_of_torchvision(height, width, side):
    short, long = side, int(side * max(height, width) / min(height, width))
    if long > MAX_ASPECT * side:
        short, long = max(1, int(MAX_ASPECT * side * side / long)), MAX_ASPECT * side
    assert short_side_size(height, width, side, cut=True) == ((short, long) if height <= width else (long, short))


def test_the_cut_side_of_the_papers_example():
    assert short_side_size(501, 375, 448) == (599, 448)
    assert short_side_size(501, 375, 448, cut=True) == (598, 448)


@pytest.mark.parametrize(
    ("crop", "seen"),
    [
        ((448, 448), (448, 448)),
        ((336, 336), (336, 336)),
        ((448, 673), (448, 673)),
        ((673, 448), (673, 448)),
        ((512, 512), (448, 448)),
        ((448, 3584), (100, 800)),
    ],
)
def test_crops_that_are_not_squashed(crop, seen):
    """As they are up to 448 pixels; then with that as the short side, and 800 for the long one at most."""
    assert unsquashed_size(*crop, 448, 800) == seen


def test_thin_pictures_are_not_enlarged_without_end():
    assert short_side_size(1, 5000, 448) == (1, 448 * MAX_ASPECT)
    assert short_side_size(448, 448 * MAX_ASPECT, 448) == (448, 448 * MAX_ASPECT)


@pytest.mark.parametrize("seed", range(4))
def test_fused_scores_equal_a_pixel_by_pixel_mean(monkeypatch, seed):
    monkeypatch.setattr(module, "MAX_CELLS", (1, 100, 1000, 10**6)[seed])  # a few classes at a time, or all
    random = np.random.default_rng(seed)
    height, width, channels = (int(n) for n in random.integers(5, 20, 3))
    canvas = ScoreCanvas(channels, height, width, "cpu")
    per_pixel = [[[] for _ in range(width)] for _ in range(height)]
    crops = [Crop(0, 0, height, width)]
    for _ in range(6):
        h, w = int(random.integers(1, height + 1)), int(random.integers(1, width + 1))
        crops.append(Crop(int(random.integers(0, height - h + 1)), int(random.integers(0, width - w + 1)), h, w))
    for crop in crops:
        scores = torch.from_numpy(random.normal(size=(channels, *random.integers(1, 6, 2))).astype(np.float32))
        canvas.add(crop, scores)
        enlarged = F.interpolate(scores[None], (crop.height, crop.width), mode="bilinear", align_corners=False)[0]
        for y in range(crop.height):
            for x in range(crop.width):
                per_pixel[crop.top + y][crop.left + x].append(enlarged[:, y, x])
    mean = canvas.mean()
    for y in range(height):
        for x in range(width):
            torch.testing.assert_close(mean[:, y, x], torch.stack(per_pixel[y][x]).mean(0), atol=1e-5, rtol=1e-5)


def test_cut_takes_the_rectangle():
    image = torch.arange(5 * 7).view(1, 1, 5, 7)
    assert Crop(1, 2, 2, 3).cut(image)[0, 0].tolist() == [[9, 10, 11], [16, 17, 18]]
