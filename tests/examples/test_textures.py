from __future__ import annotations

import numpy as np
import pytest

from examples.mini_pack.textures import TextureBank, paint
from examples.mini_pack.vocabulary import STUFF_NAMES


@pytest.fixture(scope="module")
def bank() -> TextureBank:
    return TextureBank(3, variants=2)


@pytest.mark.parametrize("name", STUFF_NAMES)
@pytest.mark.parametrize("scale", [0.7, 1.0, 1.6])
def test_a_texture_has_the_asked_size_and_range(name: str, scale: float) -> None:
    texture = paint(name, np.random.default_rng(0), 50, 90, scale)
    assert texture.shape == (50, 90, 3)
    assert texture.dtype == np.float32
    assert texture.min() >= 0
    assert texture.max() <= 255
    assert texture.std() > 0.5


@pytest.mark.parametrize("name", STUFF_NAMES)
def test_equal_seeds_paint_equal_textures(name: str) -> None:
    first, again, other = (paint(name, np.random.default_rng(seed), 40, 40) for seed in (1, 1, 2))
    np.testing.assert_array_equal(first, again)
    assert np.abs(first - other).mean() > 1


@pytest.mark.parametrize(
    ("name", "strongest"), [("grass", 1), ("sand", 0), ("water", 2), ("sky", 2), ("brick wall", 0), ("wood", 0)]
)
def test_textures_have_the_colour_of_their_stuff(name: str, strongest: int) -> None:
    for seed in range(5):
        assert paint(name, np.random.default_rng(seed), 60, 60).mean((0, 1)).argmax() == strongest


def test_grey_stuff_is_dark_or_bright() -> None:
    assert paint("road", np.random.default_rng(0), 60, 60).mean() < 120
    assert paint("snow", np.random.default_rng(0), 60, 60).mean() > 220


def test_scale_stretches_the_bricks() -> None:
    def steps(scale: float) -> float:
        wall = paint("brick wall", np.random.default_rng(4), 200, 200, scale)
        return float(np.abs(np.diff(wall.mean(2), axis=0)).mean())

    assert steps(3.0) < 0.6 * steps(1.0)


@pytest.mark.parametrize(("name", "scale"), [("lava", 1.0), ("grass", 0.0), ("grass", float("nan"))])
def test_bad_arguments_are_refused(name: str, scale: float) -> None:
    with pytest.raises(ValueError, match=r"lava|positive"):
        paint(name, np.random.default_rng(0), 8, 8, scale)


def test_pieces_come_from_the_bank_and_differ(bank: TextureBank) -> None:
    rng = np.random.default_rng(0)
    pieces = [bank.cut("water", rng, 30, 64) for _ in range(4)]
    assert {piece.shape for piece in pieces} == {(30, 64, 3)}
    assert all(np.abs(pieces[0] - piece).mean() > 1 for piece in pieces[1:])


def test_a_low_piece_of_sky_keeps_the_gradient(bank: TextureBank) -> None:
    rng = np.random.default_rng(0)
    rises = [np.diff(bank.cut("sky", rng, 12, 64)[[0, -1], :, 0].mean(1))[0] for _ in range(40)]
    # the sky as a whole gains 60 levels of red from top to bottom; a 12-row crop would gain 5
    assert np.mean(rises) > 15


def test_a_piece_larger_than_the_bank_is_refused(bank: TextureBank) -> None:
    with pytest.raises(ValueError, match="161x10"):
        bank.cut("sand", np.random.default_rng(0), 10, 161)
