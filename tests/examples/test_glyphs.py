from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from examples.mini_pack.glyphs import NOTO, STYLES, TWEMOJI, FontError, GlyphSet, Jitter, Styles, Warp
from examples.mini_pack.vocabulary import THINGS

SYSTEM_FONT = Path("/usr/share/fonts/truetype/noto/NotoColorEmoji.ttf")
STILL = Jitter(mirror=0, rotation=0, hue=0, gain=0)


def test_a_wrong_path_is_told(tmp_path: Path) -> None:
    with pytest.raises(FontError, match=r"nowhere\.ttf does not exist"):
        GlyphSet(tmp_path / "nowhere.ttf")


def test_the_bundled_glyphs_are_those_of_the_font(glyphs: GlyphSet) -> None:
    if not SYSTEM_FONT.is_file():
        pytest.skip(f"needs Noto Color Emoji as {SYSTEM_FONT}")
    font = GlyphSet(SYSTEM_FONT)
    for thing in THINGS:
        np.testing.assert_array_equal(np.asarray(glyphs.glyph(thing.glyph)), np.asarray(font.glyph(thing.glyph)))


def test_a_file_that_is_no_font_is_refused(tmp_path: Path) -> None:
    (tmp_path / "bad.ttf").write_bytes(b"no font")
    with pytest.raises(FontError, match=r"bad\.ttf cannot be used"):
        GlyphSet(tmp_path / "bad.ttf")


def write_png(path: Path, colour: tuple[int, int, int, int], mode: str = "RGBA") -> None:
    picture = Image.new("RGBA", (72, 72), (0, 0, 0, 0))
    picture.paste(colour, (10, 20, 50, 70))
    picture.convert(mode).save(path)


@pytest.mark.parametrize(
    ("name", "character"),
    [
        ("1f431.png", "🐱"),
        ("1F431.png", "🐱"),
        ("emoji_u1f431.png", "🐱"),
        ("2708.png", "✈"),
        ("2708-fe0f.png", "✈"),
        ("2708.png", "✈\ufe0f"),
        ("1f1e9_1f1ea.png", "🇩🇪"),
    ],
)
def test_a_folder_of_pictures_named_by_code_point_is_a_font(tmp_path: Path, name: str, character: str) -> None:
    write_png(tmp_path / name, (200, 30, 60, 255))
    write_png(tmp_path / "readme-picture.png", (0, 255, 0, 255))
    glyph = GlyphSet(tmp_path).glyph(character)
    assert glyph.size == (40, 50)
    assert glyph.getpixel((0, 0)) == (200, 30, 60, 255)


def test_palette_pictures_keep_their_transparency(tmp_path: Path) -> None:
    write_png(tmp_path / "1f431.png", (200, 30, 60, 255), mode="P")
    sprite = GlyphSet(tmp_path).sprite("🐱", 50, np.random.default_rng(0), STILL)
    assert (sprite.height, sprite.width) == (50, 40)


def test_what_a_folder_lacks_is_told(tmp_path: Path) -> None:
    with pytest.raises(FontError, match=r"no PNG files named by code point"):
        GlyphSet(tmp_path)
    write_png(tmp_path / "1f431.png", (200, 30, 60, 255))
    (tmp_path / "1f436.png").write_bytes(b"no picture")
    folder = GlyphSet(tmp_path)
    with pytest.raises(FontError, match=r"no glyph for .* \(1f984\)"):
        folder.glyph("🦄")
    with pytest.raises(FontError, match=r"1f436\.png cannot be read"):
        folder.glyph("🐶")


def test_a_warp_draws_nothing_unless_it_is_asked_for(glyphs: GlyphSet) -> None:
    plain, without = np.random.default_rng(3), np.random.default_rng(3)
    np.testing.assert_array_equal(
        glyphs.sprite("🚗", 50, plain).rgb, glyphs.sprite("🚗", 50, without, Jitter(warp=None)).rgb
    )
    assert plain.random() == without.random()


def proportions(glyphs: GlyphSet, warp: Warp) -> list[float]:
    sprites = [glyphs.sprite("⚽", 100, np.random.default_rng(seed), replace(STILL, warp=warp)) for seed in range(30)]
    assert all(max(sprite.width, sprite.height) == 100 for sprite in sprites)
    return [sprite.width / sprite.height for sprite in sprites]


def test_a_warp_changes_the_proportions_by_what_it_says(glyphs: GlyphSet) -> None:
    np.testing.assert_allclose(proportions(glyphs, Warp(stretch=0, shear=0)), 1, atol=0.03)
    logs = np.log(proportions(glyphs, Warp(stretch=0.2, shear=0)))
    assert np.abs(logs).max() <= 0.4 + 0.03
    assert 0.1 < logs.std() < 0.3


def test_a_warp_leans_to_either_side_about_the_foot(glyphs: GlyphSet) -> None:
    lean = []
    for seed in range(30):
        leaning = replace(STILL, warp=Warp(stretch=0, shear=0.3))
        alpha = glyphs.sprite("🚗", 100, np.random.default_rng(seed), leaning).alpha > 0.5
        rows = np.nonzero(alpha.any(1))[0]
        top, foot = (np.nonzero(alpha[row])[0].mean() for row in (rows[0] + 4, rows[-1] - 4))
        lean.append(top - foot)
    assert min(lean) < -8
    assert max(lean) > 8


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


def test_dark_lines_are_drawn_around_a_glyph_and_along_its_edges(tmp_path: Path) -> None:
    picture = Image.new("RGBA", (100, 100), (240, 240, 240, 255))
    picture.paste((250, 200, 60, 255), (50, 0, 100, 100))
    picture.paste((60, 90, 200, 255), (50, 0, 100, 50))
    picture.save(tmp_path / "1f431.png")
    glyphs = GlyphSet(tmp_path)
    inked = glyphs.sprite("🐱", 100, np.random.default_rng(0), replace(STILL, inked=1.0))
    dark = (inked.rgb.max(2) < 100) & (inked.alpha > 0.9)
    assert dark[1].mean() > 0.9  # the outline
    assert dark[:, 1].mean() > 0.9
    assert dark[48:53, 65:90].any(0).all()  # between the fields
    assert not dark[10:40, 10:40].any()
    assert not dark[60:90, 60:90].any()
    plain = glyphs.sprite("🐱", 100, np.random.default_rng(0), STILL)
    assert not (plain.rgb.max(2) < 60).any()


def test_lines_are_drawn_as_often_as_asked(glyphs: GlyphSet) -> None:
    def darkest_edge(seed: int) -> float:
        sprite = glyphs.sprite("🍌", 60, np.random.default_rng(seed), replace(STILL, inked=0.3))
        edge = sprite.alpha > 0.9
        edge[2:-2, 2:-2] &= ~(sprite.alpha[4:, 2:-2] > 0.9) | ~(sprite.alpha[:-4, 2:-2] > 0.9)
        return float(np.median(sprite.rgb.max(2)[edge]))

    inked = sum(darkest_edge(seed) < 80 for seed in range(60))
    assert 8 <= inked <= 30


class TestStyles:
    def test_one_style_draws_nothing(self, glyphs: GlyphSet) -> None:
        rng = np.random.default_rng(1)
        assert Styles.of(glyphs).chooser()(rng) == 0
        assert rng.random() == np.random.default_rng(1).random()

    def test_each_glyph_or_each_scene_has_its_artist(self) -> None:
        rng = np.random.default_rng(0)
        glyph, scene = (Styles.named(["noto", "twemoji"], mixed) for mixed in ("glyph", "scene"))
        within = [[choose(rng) for _ in range(4)] for choose in (glyph.chooser() for _ in range(200))]
        assert {0, 1} == set().union(*within)
        assert sum(len(set(one)) == 2 for one in within) > 150
        whole = [{choose(rng) for _ in range(4)} for choose in (scene.chooser() for _ in range(200))]
        assert all(len(one) == 1 for one in whole)
        assert 60 < sum(one == {1} for one in whole) < 140

    def test_names_and_paths(self, tmp_path: Path) -> None:
        write_png(tmp_path / "1f431.png", (200, 30, 60, 255))
        styles = Styles.named(["noto", "twemoji", str(tmp_path)])
        assert [one.path for one in styles.sets] == [NOTO, TWEMOJI, tmp_path]
        assert set(STYLES) == {"noto", "twemoji"}

    def test_wrong_ones_are_told(self, glyphs: GlyphSet) -> None:
        with pytest.raises(FontError, match="does not exist"):
            Styles.named(["noto", "nowhere"])
        with pytest.raises(ValueError, match="at least one style, such as noto or twemoji"):
            Styles.named([])
        with pytest.raises(ValueError, match="got 'both'"):
            Styles([glyphs], "both")  # type: ignore[arg-type]
