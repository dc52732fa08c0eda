from __future__ import annotations

from collections import Counter

import numpy as np
import pytest
from scipy import ndimage

from examples.mini_pack.glyphs import GlyphSet, Jitter, Sprite
from examples.mini_pack.vocabulary import LABEL_IDS, LABEL_NAMES, STUFF_NAMES, find_thing
from examples.pictograms import scenes
from examples.pictograms.scenes import LARGEST, LAYOUTS, SMALLEST, Part, Picture, compose, render_set

FOCUS = ("cat", "dog", "donut", "car", "tree")


@pytest.fixture(scope="module")
def pictures(glyphs: GlyphSet) -> list[Picture]:
    return list(render_set(glyphs, [Part(60, FOCUS)], 5))


def names_in(picture: Picture) -> set[str]:
    return {LABEL_NAMES[label] for label in np.unique(picture.labels)}


def test_equal_seeds_render_equal_sets(glyphs: GlyphSet, pictures: list[Picture]) -> None:
    for ours, again in zip(pictures[:8], render_set(glyphs, [Part(60, FOCUS)], 5), strict=False):
        np.testing.assert_array_equal(ours.image, again.image)
        np.testing.assert_array_equal(ours.labels, again.labels)
    other = next(render_set(glyphs, [Part(60, FOCUS)], 6))
    assert not np.array_equal(other.image, pictures[0].image)


def test_labels_hold_the_objects_and_the_stuff_of_the_layout(pictures: list[Picture]) -> None:
    for picture in pictures:
        assert picture.image.shape == (192, 256, 3)
        assert picture.labels.shape == (192, 256)
        assert names_in(picture) == set(picture.things) | set(picture.layout)
        assert len(picture.layout) >= 2


def test_regions_lie_in_the_order_of_the_layout(pictures: list[Picture]) -> None:
    for picture in pictures:
        rows = [np.nonzero(picture.labels == LABEL_IDS[name])[0].mean() for name in picture.layout]
        assert rows == sorted(rows)


def extents(picture: Picture) -> list[int]:
    """Longer side of what can be seen of each object."""
    boxes = [ndimage.find_objects((picture.labels == LABEL_IDS[name]).astype(int))[0] for name in picture.things]
    return [max(side.stop - side.start for side in box) for box in boxes]


def test_objects_have_the_sizes_that_sliding_windows_need(pictures: list[Picture]) -> None:
    seen = [extent for picture in pictures for extent in extents(picture)]
    assert min(seen) >= SMALLEST / 2
    assert max(seen) <= LARGEST
    assert np.mean([32 <= extent <= 112 for extent in seen]) > 0.75
    assert min(seen) < 32
    assert max(seen) > 100


def test_focus_classes_are_balanced_and_sometimes_absent(pictures: list[Picture]) -> None:
    focus = {find_thing(word).name for word in FOCUS}
    counts = Counter(name for picture in pictures for name in picture.things)
    focus_counts = [counts[name] for name in focus]
    assert max(focus_counts) - min(focus_counts) <= 1
    assert sum(not focus.intersection(picture.things) for picture in pictures) == 6
    assert any(set(counts) - focus)
    assert all(len(picture.things) <= 4 for picture in pictures)
    assert all(len(set(picture.things)) == len(picture.things) for picture in pictures)


def test_each_part_of_a_set_is_about_its_own_classes(glyphs: GlyphSet) -> None:
    other = ("bus", "horse", "banana", "boat")
    parts = [Part(9, FOCUS), Part(11, other)]
    pictures = list(render_set(glyphs, parts, 4, width=128, height=96))
    assert len(pictures) == 20
    for names, share in ((FOCUS, pictures[:9]), (other, pictures[9:])):
        focus = {find_thing(word).name for word in names}
        counts = Counter(name for picture in share for name in picture.things)
        assert max(counts[name] for name in focus) - min(counts[name] for name in focus) <= 1
        assert sum(not focus.intersection(picture.things) for picture in share) == 1


def test_no_two_pictures_of_a_set_have_the_same_ground(glyphs: GlyphSet, pictures: list[Picture]) -> None:
    grass = [p.image[p.labels == LABEL_IDS["grass"]].mean(0).round(3) for p in pictures if "grass" in p.layout]
    assert len(np.unique(grass, axis=0)) == len(grass)


def test_light_and_distance_change_colours_and_not_outlines(glyphs: GlyphSet) -> None:
    def lit(light: float, nearness: float) -> Sprite:
        sprite = glyphs.sprite("⚽", 40, np.random.default_rng(0), Jitter(mirror=0, rotation=0, hue=0, gain=0))
        item = scenes._Placed("soccer ball", sprite, left=0, top=0, grounded=True, nearness=nearness)
        return scenes._lit(item, light)

    near, far = lit(0, 1), lit(0, 0)
    np.testing.assert_array_equal(near.alpha, far.alpha)
    inside = near.alpha == 1
    assert far.rgb[inside].std() < 0.85 * near.rgb[inside].std()
    left, right = lit(-1, 1), lit(1, 1)
    np.testing.assert_array_equal(left.alpha, right.alpha)
    half = inside.copy()
    half[:, inside.shape[1] // 2 :] = False
    assert left.rgb[half].mean() > right.rgb[half].mean()
    assert left.rgb[inside & ~half].mean() < right.rgb[inside & ~half].mean()


def test_all_stuff_and_layouts_appear(pictures: list[Picture]) -> None:
    assert {name for picture in pictures for name in picture.layout} == set(STUFF_NAMES)
    assert {picture.layout for picture in pictures} == set(LAYOUTS)


@pytest.mark.slow
def test_some_objects_hide_others(glyphs: GlyphSet) -> None:
    rng = np.random.default_rng(0)
    hidden = 0
    for _ in range(20):
        picture = compose(glyphs, ("cat", "dog", "house"), ("sky", "grass"), rng)
        touching = ndimage.grey_dilation(picture.labels, 3)
        marks = [LABEL_IDS[name] for name in picture.things]
        hidden += any(((picture.labels == a) & (touching == b)).any() for a in marks for b in marks if a < b)
    assert hidden > 5


def test_what_flies_is_in_the_sky_and_what_swims_is_in_the_water(glyphs: GlyphSet) -> None:
    for seed in range(5):
        picture = compose(glyphs, ("airplane", "boat", "dog"), ("sky", "water", "sand"), np.random.default_rng(seed))
        bottoms = {name: np.nonzero(picture.labels == LABEL_IDS[name])[0].max() for name in ("airplane", "boat", "dog")}
        assert bottoms["airplane"] < 0.4 * 192
        assert bottoms["boat"] <= 0.65 * 192
        assert bottoms["boat"] < bottoms["dog"]


def test_a_picture_needs_no_objects(glyphs: GlyphSet) -> None:
    picture = compose(glyphs, (), ("brick wall", "wood"), np.random.default_rng(0), width=130, height=100)
    assert names_in(picture) == {"brick wall", "wood"}


def test_what_cannot_be_placed_is_told(glyphs: GlyphSet, monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(0)
    with pytest.raises(ValueError, match="nothing can stand"):
        compose(glyphs, ("cat",), ("sky", "water"), rng)
    monkeypatch.setattr(scenes, "_ATTEMPTS", 3)
    with pytest.raises(RuntimeError, match="no place for 30 objects"):
        compose(glyphs, ("house",) * 30, ("sky", "grass"), rng)


@pytest.mark.parametrize(
    ("focus", "size", "message"),
    [
        (("cat", "kitten", "dog", "car"), (256, 192), "at least 4 different"),
        (FOCUS, (127, 192), "127x192"),
        ((*FOCUS, "wolf"), (256, 192), "wolf"),
    ],
)
def test_bad_arguments_are_refused(
    glyphs: GlyphSet, focus: tuple[str, ...], size: tuple[int, int], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        next(render_set(glyphs, [Part(1, focus)], 0, width=size[0], height=size[1]))
