from __future__ import annotations

import numpy as np
import pytest
from PIL import Image

from ovseg_cli.drawing import explanation
from ovseg_cli.drawing.explanation import Bar, ExplainedPoint, MatchGroup, MatchTile, explanation_sheet
from ovseg_cli.drawing.ink import OUTLINE, bright
from ovseg_cli.files.labels import LabelMap


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
        shown = np.asarray(explanation._match_picture(self.tile())).astype(int)
        side = shown.shape[0]
        outside, weak, strong = shown[side // 2, side // 4], shown[side // 2, side * 11 // 20], shown[side // 2, -8]
        assert outside.max() < weak.max() < strong.max()
        assert strong.min() > 180
        assert (shown == OUTLINE).all(axis=-1).any()

    def test_a_flat_match_and_an_empty_mask_are_drawn(self):
        flat = self.tile(similarity=np.full((20, 20), 0.5, np.float32))
        empty = self.tile(mask=np.zeros((20, 20), bool))
        for tile in (flat, empty, self.tile(image=None, mask=None, similarity=None)):
            assert explanation._match_picture(tile).size == (explanation._PATCH, explanation._PATCH)

    def test_marks_stand_at_their_pixels(self):
        without, with_mark = self.sheet(), self.sheet(self.point(x=30, y=20))
        left = min(without.height, with_mark.height), explanation._LEFT
        pair = [np.asarray(s)[: left[0], : left[1]].astype(int) for s in (without, with_mark)]
        ys, xs = np.nonzero((pair[0] != pair[1]).any(axis=-1))
        scale = explanation._LEFT / 40
        near = (abs(xs - explanation._TEXT - 30.5 * scale) < 60) & (abs(ys - explanation._TEXT - 20.5 * scale) < 60)
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
        assert sheet.width > 10 * explanation._PATCH
        assert np.asarray(sheet)[:, -explanation._TEXT :].min() > 200  # nothing runs into the margin

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
        assert (sheet == bright((128, 0, 0))).all(axis=-1).any()

    def test_ids_of_another_size_are_refused(self):
        with pytest.raises(ValueError, match="do not fit an image of 40x30"):
            self.sheet(ids=np.zeros((3, 3), np.uint16))
