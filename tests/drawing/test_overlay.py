from __future__ import annotations

import numpy as np
import pytest
from PIL import Image

from ovseg_cli.drawing import fonts, legend
from ovseg_cli.drawing.fonts import font_for
from ovseg_cli.drawing.overlay import overlay
from ovseg_cli.files.labels import LabelMap, voc_colour

ANIMALS = LabelMap.from_classes(["cat", "dog", "cow"])


def has_colour(image: Image.Image, colour: tuple[int, int, int]) -> bool:
    return bool((np.asarray(image) == colour).all(axis=2).any())


class TestOverlay:
    def picture(self) -> tuple[Image.Image, np.ndarray]:
        image = Image.new("RGB", (400, 300), (200, 100, 50))
        ids = np.zeros((300, 400), dtype=np.uint8)
        ids[100:200, 100:300] = 2
        return image, ids

    @pytest.mark.parametrize("alpha", [0.0, 0.55, 1.0])
    def test_colours_are_blended_inside_and_untouched_outside(self, alpha):
        image, ids = self.picture()
        result = overlay(image, ids, ANIMALS, alpha=alpha)
        assert result.width == 400
        assert result.height > 300
        blended = np.array([200, 100, 50]) * (1 - alpha) + np.array(voc_colour(2)) * alpha
        assert np.abs(np.array(result.getpixel((200, 150))) - blended).max() <= 0.5
        assert result.getpixel((50, 50)) == (200, 100, 50)
        assert result.getpixel((98, 150)) == (200, 100, 50)

    def test_outline_is_thin_and_inside(self):
        image, ids = self.picture()
        result = np.asarray(overlay(image, ids, ANIMALS))[:300]
        inner = result[150, 200]
        differs = (result[150] != inner).any(axis=1) & (result[150] != (200, 100, 50)).any(axis=1)
        assert np.flatnonzero(differs).tolist() == [100, 299]

    def test_legend_lists_what_is_present_with_its_share(self, drawn):
        image, ids = self.picture()
        ids[0, 0] = 3
        result = overlay(image, ids, ANIMALS)
        assert drawn == ["dog", "16.7 %", "cow", "< 0.1 %"]
        legend = result.crop((0, 300, 400, result.height))
        assert has_colour(legend, voc_colour(2))
        assert has_colour(legend, voc_colour(3))
        assert not has_colour(legend, voc_colour(1))

    def test_only_background(self, drawn):
        image, ids = self.picture()
        result = overlay(image, ids * 0, ANIMALS)
        assert drawn == ["only background"]
        assert (np.asarray(result)[:300] == (200, 100, 50)).all()

    def test_ignore_is_bare_unless_it_is_a_class(self, drawn):
        image, ids = self.picture()
        result = overlay(image, np.where(ids > 0, 255, 0), ANIMALS)
        assert result.getpixel((200, 150)) == (200, 100, 50)
        overlay(image, np.where(ids > 0, 255, 0), LabelMap.from_classes([f"c{i}" for i in range(1, 300)]))
        assert drawn == ["only background", "c255", "16.7 %"]

    def test_id_0_with_another_name_is_a_class(self, drawn):
        image, ids = self.picture()
        overlay(image, ids * 0, LabelMap(("sky",), (0,)))
        assert drawn == ["sky", "100.0 %"]

    def test_small_pictures_are_enlarged_by_a_whole_factor(self):
        pixels = np.random.default_rng(0).integers(0, 256, (40, 96, 3), dtype=np.uint8)
        result = overlay(Image.fromarray(pixels), np.zeros((40, 96), dtype=np.uint8), ANIMALS)
        assert result.width == 288
        np.testing.assert_array_equal(np.asarray(result)[1:120:3, 1::3], pixels)

    @pytest.mark.parametrize("size", [(1, 1), (1, 300), (300, 1), (257, 3)])
    def test_odd_sizes(self, size):
        ids = np.ones((size[1], size[0]), dtype=np.uint8)
        assert overlay(Image.new("RGB", size), ids, ANIMALS).width >= 256

    def test_long_and_many_names_stay_inside(self, drawn):
        names = ["x" * 80, "crème brûlée", "猫", *(f"class number {i}" for i in range(40))]
        ids = np.repeat(np.arange(44, dtype=np.uint8), 10)[None].repeat(30, axis=0)
        result = overlay(Image.new("RGB", (440, 30)), ids, LabelMap.from_classes(names))
        assert result.width == 440
        legend = np.asarray(result)[30:]
        assert (legend[:, -4:] == legend[0, 0]).all(), "nothing runs over the right edge"
        assert sum(text.startswith("class number") for text in drawn) == 40
        assert any(text.startswith("xxx") and text.endswith("...") for text in drawn)

    def test_letters_do_not_grow_with_the_length_of_a_strip(self):
        ids = np.ones((20, 5000), dtype=np.uint8)
        strip = overlay(Image.new("RGB", (5000, 20)), ids, ANIMALS)
        assert strip.width == 5000
        assert strip.height - 20 < 60
        ids = np.ones((1000, 1200), dtype=np.uint8)
        assert overlay(Image.new("RGB", (1200, 1000)), ids, ANIMALS).height - 1000 > 50, "they do grow with a picture"

    @pytest.mark.parametrize(("large", "specks", "listed", "rest"), [(3, 3, 6, 0), (3, 5, 3, 5), (1, 9, 1, 9)])
    def test_specks_are_counted_when_there_are_many_classes(self, drawn, large, specks, listed, rest):
        ids = np.zeros((300, 400), dtype=np.uint8)
        for index in range(large + specks):
            ids[20 * index : 20 * index + (5 if index < large else 1), :50] = index + 1
        overlay(Image.new("RGB", (400, 300)), ids, LabelMap.from_classes([f"c{i}" for i in range(large + specks)]))
        assert sum(text.startswith("c") for text in drawn) == listed
        assert (f"and {rest} more" in drawn) == bool(rest)

    def test_of_nothing_but_specks_the_largest_are_listed(self, drawn):
        ids = np.zeros((300, 400), dtype=np.uint8)
        for index in range(8):
            ids[2 * index, : 10 + index] = index + 1
        overlay(Image.new("RGB", (400, 300)), ids, LabelMap.from_classes([f"c{i}" for i in range(8)]))
        assert [text for text in drawn if text.startswith("c")] == ["c7", "c6", "c5", "c4", "c3", "c2"]
        assert drawn[-1] == "and 2 more"

    def test_other_size(self):
        with pytest.raises(ValueError, match="do not fit an image of 10x20"):
            overlay(Image.new("RGB", (10, 20)), np.zeros((10, 20), dtype=np.uint8), ANIMALS)

    def test_input_is_not_changed(self):
        image, ids = self.picture()
        before = image.tobytes()
        overlay(image, ids, ANIMALS)
        assert image.tobytes() == before
        assert set(np.unique(ids)) == {0, 2}

    def test_a_name_that_no_font_has_stands_beside_its_id(self, monkeypatch):
        monkeypatch.setattr(fonts, "SYSTEM_FONTS", ())
        drawn = []
        monkeypatch.setattr(legend, "font_for", lambda text, size: drawn.append(text) or font_for(text, size))
        names = LabelMap.from_classes(["cat", "猫", "犬", "crème"])
        ids = np.array([[1, 2, 3, 4]] * 4)
        overlay(Image.new("RGB", (4, 4)), ids, names)
        assert drawn == ["cat", "id 2 猫", "id 3 犬", "crème"]
