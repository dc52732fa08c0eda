from __future__ import annotations

import numpy as np
import pytest
from PIL import Image

from ovseg_cli.drawing.contact_sheet import SheetRow, SheetTile, contact_sheet
from ovseg_cli.drawing.ink import OUTLINE, PAPER
from ovseg_cli.errors import ImageError
from ovseg_cli.files.labels import LabelMap, write_label


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
        assert lower[24, 48].tolist() == list(OUTLINE), "and outlined, on its own side"
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
        assert (pixels[y - 2, x : x + 64] == PAPER).all()

    @pytest.mark.parametrize("rows", [[], [SheetRow("cat", [])], [SheetRow("x" * 500, [tile()], "y" * 500)]])
    def test_odd_rows(self, rows):
        sheet = contact_sheet(rows, tile=32)
        assert sheet.mode == "RGB"
        edge = np.asarray(sheet)[:, -4:]
        assert (edge == PAPER).all()

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
