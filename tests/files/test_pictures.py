from __future__ import annotations

import numpy as np
import pytest
from PIL import Image

from ovseg_cli.errors import ImageError
from ovseg_cli.files import fonts, pictures
from ovseg_cli.files.fonts import bundled_font, font_for, shortened
from ovseg_cli.files.labels import LabelMap, voc_colour, write_label
from ovseg_cli.files.pictures import (
    Bar,
    ExplainedPoint,
    MatchGroup,
    MatchTile,
    SheetRow,
    SheetTile,
    contact_sheet,
    explanation_sheet,
    overlay,
)

ANIMALS = LabelMap.from_classes(["cat", "dog", "cow"])


@pytest.fixture
def drawn(monkeypatch):
    """Collect every text that is drawn."""
    texts: list[str] = []
    draw = pictures.ImageDraw.ImageDraw.text

    def text(self, xy, text, *args, **kwargs):
        texts.append(text)
        return draw(self, xy, text, *args, **kwargs)

    monkeypatch.setattr(pictures.ImageDraw.ImageDraw, "text", text)
    return texts


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


def tile(size: tuple[int, int] = (96, 96)) -> SheetTile:
    height, width = size
    image = np.full((height, width, 3), (200, 180, 160), dtype=np.uint8)
    foreground = np.zeros(size, dtype=bool)
    background = np.zeros(size, dtype=bool)
    foreground[height // 4 : height // 2, width // 4 : width * 3 // 4] = True
    background[height * 3 // 4 :] = True
    return SheetTile(image, foreground, background)


def find(sheet: Image.Image) -> tuple[int, int]:
    """The top-left corner of the first picture of a sheet of `tile()`s."""
    rows, columns = np.nonzero((np.asarray(sheet) == (200, 180, 160)).all(axis=2))
    return int(columns.min()), int(rows.min())


class TestContactSheet:
    def test_masks_are_shown_below_the_image(self):
        sheet = contact_sheet([SheetRow("cat", [tile()])], tile=96)
        x, y = find(sheet)
        assert np.asarray(sheet)[y : y + 96, x : x + 96].tolist() == tile().image.tolist()
        lower = np.asarray(sheet)[y + 97 : y + 97 + 96, x : x + 96].astype(int)
        assert lower[36, 48].tolist() == [200, 180, 160], "foreground is kept"
        assert lower[24, 48].tolist() == list(pictures._OUTLINE), "and outlined, on its own side"
        dimmed = lower[10, 48]
        assert (dimmed < lower[36, 48] * 0.4).all(), "what is neither is dimmed"
        tinted = lower[90, 48]
        assert tinted[2] > tinted[0] + 40, "background is tinted blue"

    def test_titles_and_notes(self, drawn):
        rows = [SheetRow("chocolate glazed donut", [tile()] * 5, "5 images"), SheetRow("cat", [tile()] * 2)]
        contact_sheet(rows)
        for text in ("chocolate glazed donut", "5  images", "cat", "foreground", "background", "left out"):
            assert text in drawn

    def test_images_have_the_numbers_that_explanations_name(self, drawn):
        contact_sheet([SheetRow("cat", [tile()] * 3)])
        assert [text for text in drawn if text.isdigit()] == ["0", "1", "2"]

    def test_long_titles_are_whole(self, drawn):
        title = "a very long name of a class that would not fit above two little images of it"
        sheet = contact_sheet([SheetRow(title, [tile()] * 2, "2 images")], tile=48)
        assert title in drawn
        assert sheet.width > 48 * 4

    def test_rows_break_after_the_columns(self):
        one = contact_sheet([SheetRow("cat", [tile()] * 4)], tile=64, columns=4)
        two = contact_sheet([SheetRow("cat", [tile()] * 5)], tile=64, columns=4)
        assert two.width == one.width
        assert two.height > one.height + 2 * 64

    def test_wide_images_are_fitted(self):
        sheet = contact_sheet([SheetRow("cat", [tile((48, 96))])], tile=64)
        x, y = find(sheet)
        pixels = np.asarray(sheet)
        assert (pixels[y : y + 32, x : x + 64] == (200, 180, 160)).all()
        assert (pixels[y - 2, x : x + 64] == pictures._PAPER).all()

    @pytest.mark.parametrize("rows", [[], [SheetRow("cat", [])], [SheetRow("x" * 500, [tile()], "y" * 500)]])
    def test_odd_rows(self, rows):
        sheet = contact_sheet(rows, tile=32)
        assert sheet.mode == "RGB"
        edge = np.asarray(sheet)[:, -4:]
        assert (edge == pictures._PAPER).all()

    def test_too_small(self):
        with pytest.raises(ValueError, match="got 8 and 0"):
            contact_sheet([], tile=8, columns=0)

    def test_sizes_must_agree(self):
        with pytest.raises(ValueError, match="one size"):
            SheetTile(np.zeros((4, 5, 3), np.uint8), np.zeros((5, 4), bool), np.zeros((4, 5), bool))

    def test_stored_support(self, tmp_path):
        Image.fromarray(tile().image).save(tmp_path / "000.png")
        ids = np.where(tile().foreground, 1, np.where(tile().background, 2, 0))
        write_label(tmp_path / "000.mask.png", ids, LabelMap.from_classes(["foreground", "rest"]))
        read = SheetTile.read(tmp_path / "000.png", tmp_path / "000.mask.png")
        for name in ("image", "foreground", "background"):
            np.testing.assert_array_equal(getattr(read, name), getattr(tile(), name))
        with pytest.raises(ImageError):
            SheetTile.read(tmp_path / "001.png", tmp_path / "000.mask.png")


class TestFonts:
    def test_plain_text_is_drawn_in_the_bundled_font(self):
        assert font_for("chocolate glazed donut", 15) == (bundled_font(15), "chocolate glazed donut")

    def test_accents_are_dropped_without_a_font_that_has_them(self, monkeypatch):
        monkeypatch.setattr(fonts, "SYSTEM_FONTS", ("no-such-font.ttf",))
        assert font_for("crème bru\u0302lée", 15) == (bundled_font(15), "creme brulee")
        assert font_for("猫", 15) == (bundled_font(15), "猫")

    def test_system_font_is_used_when_it_has_the_letters(self, monkeypatch):
        other = bundled_font(17)
        monkeypatch.setattr(fonts, "_system_font", lambda name, size: other)
        monkeypatch.setattr(fonts, "_has_letter", lambda font, letter: font is other or letter < "\x80")
        assert font_for("crème", 15) == (other, "crème")

    def test_shortened(self):
        font = bundled_font(15)
        assert shortened("cat", font, 100) == "cat"
        short = shortened("a name that goes on and on", font, 100)
        assert short.endswith("...")
        assert font.getlength(short) <= 100
        assert shortened("cat", font, 0) == "..."
        whole = "猫 and a tabby, " * 600
        assert whole.startswith(shortened(whole, font, 200)[:-3])
        assert 190 < font.getlength(shortened(whole, font, 200)) <= 200

    def test_a_name_that_no_font_has_stands_beside_its_id(self, monkeypatch):
        monkeypatch.setattr(fonts, "SYSTEM_FONTS", ())
        drawn = []
        monkeypatch.setattr(pictures, "font_for", lambda text, size: drawn.append(text) or font_for(text, size))
        names = LabelMap.from_classes(["cat", "猫", "犬", "crème"])
        ids = np.array([[1, 2, 3, 4]] * 4)
        overlay(Image.new("RGB", (4, 4)), ids, names)
        assert drawn == ["cat", "id 2 猫", "id 3 犬", "crème"]


class TestExplanation:
    """Why pixels have their labels, as a picture."""

    def tile(self, **changes):
        image = np.full((20, 20, 3), 200, np.uint8)
        mask = np.zeros((20, 20), bool)
        mask[:, 10:] = True
        similarity = np.zeros((20, 20), np.float32)
        similarity[:, 15:] = 0.9
        return MatchTile(**({"image": image, "mask": mask, "similarity": similarity, "caption": ("sd",)} | changes))

    def point(self, **changes):
        values = {
            "x": 3,
            "y": 2,
            "title": "cat",
            "colour": (128, 0, 0),
            "bars": (Bar("cat", 0.9, (128, 0, 0)), Bar("background", 0.4, (150, 150, 150))),
            "lines": ("cat wins.",),
            "groups": (MatchGroup("nearest for cat", (128, 0, 0), (self.tile(),)),),
        }
        return ExplainedPoint(**(values | changes))

    def sheet(self, *points, size=(40, 30), ids=None, **options):
        image = Image.new("RGB", size, (90, 120, 90))
        ids = np.zeros(size[::-1], np.uint16) if ids is None else ids
        return explanation_sheet(image, ids, LabelMap.from_classes(["cat", "dog"]), points, **options)

    def test_a_match_is_bright_and_what_does_not_count_is_grey(self):
        shown = np.asarray(pictures._match_picture(self.tile())).astype(int)
        side = shown.shape[0]
        outside, weak, strong = shown[side // 2, side // 4], shown[side // 2, side * 11 // 20], shown[side // 2, -8]
        assert outside.max() < weak.max() < strong.max()
        assert strong.min() > 180
        assert (shown == pictures._OUTLINE).all(axis=-1).any()

    def test_a_flat_match_and_an_empty_mask_are_drawn(self):
        flat = self.tile(similarity=np.full((20, 20), 0.5, np.float32))
        empty = self.tile(mask=np.zeros((20, 20), bool))
        for tile in (flat, empty, self.tile(image=None, mask=None, similarity=None)):
            assert pictures._match_picture(tile).size == (pictures._PATCH, pictures._PATCH)

    def test_marks_stand_at_their_pixels(self):
        without, with_mark = self.sheet(), self.sheet(self.point(x=30, y=20))
        left = min(without.height, with_mark.height), pictures._LEFT
        pair = [np.asarray(s)[: left[0], : left[1]].astype(int) for s in (without, with_mark)]
        ys, xs = np.nonzero((pair[0] != pair[1]).any(axis=-1))
        scale = pictures._LEFT / 40
        near = (abs(xs - pictures._TEXT - 30.5 * scale) < 60) & (abs(ys - pictures._TEXT - 20.5 * scale) < 60)
        assert near.any()
        assert near[ys < 30 * scale].all()

    def test_each_point_makes_it_longer(self):
        heights = [self.sheet(*[self.point()] * count).height for count in (2, 3, 4)]
        assert heights[2] - heights[1] == heights[1] - heights[0] > 200

    def test_long_names_and_many_extractors_fit(self):
        name = "a very long name of a class that nobody would type " * 3
        groups = [MatchGroup(name, (1, 2, 3), [self.tile(caption=(name, name, name))] * 5)] * 2
        sheet = self.sheet(
            self.point(
                title=name,
                lines=(name * 3,),
                bars=(Bar(name, 2.0, (9, 9, 9)), Bar("x", -1.0, (9, 9, 9))),
                groups=groups,
            )
        )
        assert sheet.width > 10 * pictures._PATCH
        assert np.asarray(sheet)[:, -pictures._TEXT :].min() > 200  # nothing runs into the margin

    def test_without_support_images_the_surroundings_stand_beside_the_bars(self):
        assert self.sheet(self.point(groups=())).height < self.sheet(self.point()).height

    @pytest.mark.parametrize("size", [(1, 1), (2, 900), (900, 2), (3000, 20)])
    def test_pictures_of_any_shape(self, size):
        sheet = self.sheet(self.point(x=size[0] - 1, y=size[1] - 1), size=size, note="a note")
        assert sheet.width < 2000
        assert sheet.height < 1500

    def test_the_outline_of_a_label_is_drawn_in_a_light_form_of_its_colour(self):
        ids = np.zeros((30, 40), np.uint16)
        ids[10:20, 10:20] = 1
        sheet = np.asarray(self.sheet(ids=ids))
        assert (sheet == pictures._bright((128, 0, 0))).all(axis=-1).any()

    def test_ids_of_another_size_are_refused(self):
        with pytest.raises(ValueError, match="do not fit an image of 40x30"):
            self.sheet(ids=np.zeros((3, 3), np.uint16))
