from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from examples.mini_pack import glyphs as module
from examples.mini_pack.glyphs import FontError, GlyphSet, Jitter, find_font
from examples.mini_pack.vocabulary import THINGS

STILL = Jitter(mirror=0, rotation=0, hue=0, gain=0)


def test_the_given_path_wins_over_the_environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    ours, theirs = tmp_path / "a.ttf", tmp_path / "b.ttf"
    ours.touch()
    theirs.touch()
    monkeypatch.setenv(module.FONT_ENVIRONMENT, str(theirs))
    assert find_font(ours) == ours
    assert find_font() == theirs


def test_a_wrong_path_is_told_with_its_source(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(FontError, match=r"nowhere\.ttf is not a file"):
        find_font(tmp_path / "nowhere.ttf")
    monkeypatch.setenv(module.FONT_ENVIRONMENT, str(tmp_path / "gone.ttf"))
    with pytest.raises(FontError, match=r"OVSEG_EMOJI_FONT=.*gone\.ttf is not a file"):
        find_font()


def without_font(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(module.FONT_ENVIRONMENT, raising=False)
    monkeypatch.setattr(module, "_DEBIAN_FONT", tmp_path / "absent.ttf")


def test_a_missing_font_names_the_package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    without_font(tmp_path, monkeypatch)
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(FontError, match="fonts-noto-color-emoji"):
        find_font()


@pytest.mark.parametrize(
    ("family", "found"),
    [("DejaVu Sans", False), ("Noto Color Emoji", True), ("Noto Color Emoji,Emoji", True)],
)
def test_the_substitute_that_fontconfig_offers_is_not_taken(
    family: str, found: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    without_font(tmp_path, monkeypatch)
    font = tmp_path / "some font.ttf"
    font.touch()
    program = tmp_path / "fc-match"
    program.write_text(f"#!/bin/sh\nprintf '%s\\n%s' '{family}' '{font}'\n")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    if found:
        assert find_font() == font
    else:
        with pytest.raises(FontError, match="not installed"):
            find_font()


def test_a_file_that_is_no_font_is_refused(tmp_path: Path) -> None:
    (tmp_path / "bad.ttf").write_bytes(b"no font")
    with pytest.raises(FontError, match=r"bad\.ttf cannot be used"):
        GlyphSet(tmp_path / "bad.ttf")


def test_the_font_has_a_coloured_glyph_for_every_thing(glyphs: GlyphSet) -> None:
    for thing in THINGS:
        pixels = np.asarray(glyphs.glyph(thing.glyph))
        alpha = pixels[..., 3]
        assert alpha.shape[0] > 60
        assert alpha.any(axis=0)[[0, -1]].all()
        assert alpha.any(axis=1)[[0, -1]].all()
        assert pixels[alpha > 128, :3].std() > 5, thing.name


def test_a_character_without_a_glyph_is_told(glyphs: GlyphSet) -> None:
    with pytest.raises(FontError, match="no glyph"):
        glyphs.glyph(" ")


def test_a_sprite_without_jitter_is_the_glyph(glyphs: GlyphSet) -> None:
    glyph = np.asarray(glyphs.glyph("🐱"), dtype=np.float32)
    sprite = glyphs.sprite("🐱", max(glyph.shape[:2]), np.random.default_rng(0), STILL)
    np.testing.assert_array_equal(sprite.alpha, glyph[..., 3] / 255)
    np.testing.assert_allclose(sprite.rgb, glyph[..., :3], atol=1e-2)


@pytest.mark.parametrize("size", [9, 24, 58, 110, 150])
def test_the_longer_side_of_a_sprite_is_the_asked_size(glyphs: GlyphSet, size: int) -> None:
    for seed in range(5):
        sprite = glyphs.sprite("🚲", size, np.random.default_rng(seed))
        assert max(sprite.width, sprite.height) == size
        assert sprite.rgb.shape == (*sprite.alpha.shape, 3)
        assert 0 <= sprite.alpha.min() <= sprite.alpha.max() <= 1
        assert 0 <= sprite.rgb.min() <= sprite.rgb.max() <= 255


def test_turning_the_hue_keeps_the_luma(glyphs: GlyphSet) -> None:
    luma = np.array([0.299, 0.587, 0.114])
    plain = glyphs.sprite("🐟", 60, np.random.default_rng(5), STILL)
    turned = glyphs.sprite("🐟", 60, np.random.default_rng(5), Jitter(mirror=0, rotation=0, hue=0.5, gain=0))
    # clipped colours aside
    inside = (turned.rgb.min(2) > 1) & (turned.rgb.max(2) < 254) & (plain.alpha == 1)
    assert inside.sum() > 100
    assert np.abs(turned.rgb - plain.rgb)[inside].mean() > 3
    np.testing.assert_allclose(turned.rgb[inside] @ luma, plain.rgb[inside] @ luma, atol=1.5)
