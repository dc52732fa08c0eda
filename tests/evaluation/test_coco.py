"""COCO's JSON files: what they describe, compared with pycocotools' own reading, and what is said of broken ones."""

from __future__ import annotations

import contextlib
import io
import json
import pickle
import time
import tracemalloc

import numpy as np
import pytest
from PIL import Image
from pycocotools import mask
from pycocotools.coco import COCO

from ovseg_cli.errors import LabelError
from ovseg_cli.evaluation.coco import CocoLabels, coco_ground_truth
from ovseg_cli.files import json_stream
from ovseg_cli.files.json_stream import json_entries

CATEGORIES = [{"id": 1, "name": "person"}, {"id": 18, "name": "dog"}, {"id": 62, "name": "chair"}]
HEIGHT, WIDTH = 30, 40


def region(top, left, bottom, right):
    there = np.zeros((HEIGHT, WIDTH), np.uint8)
    there[top:bottom, left:right] = 1
    return there


def compressed(there):
    code = mask.encode(np.asfortranarray(there))
    return {"size": [HEIGHT, WIDTH], "counts": code["counts"].decode()}


def uncompressed(there):
    values = there.ravel(order="F")
    ends = np.flatnonzero(np.diff(values)) + 1
    counts = np.diff([0, *ends, values.size]).tolist()
    return {"size": [HEIGHT, WIDTH], "counts": counts if values[0] == 0 else [0, *counts]}


def polygon(top, left, bottom, right):
    return [[left, top, right, top, right, bottom, left, bottom]]


def coco_file(path, annotations, *, images=None, categories=CATEGORIES, **others):
    images = images or [{"id": 7, "file_name": "a.jpg", "height": HEIGHT, "width": WIDTH}]
    for number, annotation in enumerate(annotations):
        annotation.setdefault("id", number + 1)
        annotation.setdefault("image_id", 7)
        annotation.setdefault("iscrowd", 0)
    path.write_text(json.dumps({**others, "images": images, "annotations": annotations, "categories": categories}))
    return path


def painted(path, key="a"):
    return CocoLabels(path).read(key)


@pytest.mark.parametrize("form", [compressed, uncompressed], ids=["compressed", "uncompressed"])
def test_run_length_codes(tmp_path, form):
    there = region(3, 5, 20, 22)
    ids = painted(coco_file(tmp_path / "a.json", [{"category_id": 18, "segmentation": form(there)}]))
    np.testing.assert_array_equal(ids, there * 18)


def test_polygons_of_several_parts(tmp_path):
    shape = [*polygon(2, 3, 10, 12), [20.5, 4.25, 33.75, 6.5, 25.0, 28.0], [1, 2, 3, 4]]  # the last encloses nothing
    path = coco_file(tmp_path / "a.json", [{"category_id": 62, "segmentation": shape}])
    parts = [Image.new("1", (WIDTH, HEIGHT)) for _ in shape]
    assert parts  # the reference is pycocotools' own
    with contextlib.redirect_stdout(io.StringIO()):
        api = COCO(str(path))
    api.anns[1]["segmentation"] = shape[:2]
    np.testing.assert_array_equal(painted(path), api.annToMask(api.anns[1]) * 62)


def test_a_random_file_is_what_pycocotools_makes_of_it(tmp_path):
    random = np.random.default_rng(4)
    annotations = []
    for _ in range(40):
        top, left = random.integers(0, 20, 2)
        box = (top, left, top + random.integers(4, 10), left + random.integers(4, 18))
        box = tuple(map(int, box))
        form = random.choice(3)
        shape = polygon(*box) if form == 0 else (compressed, uncompressed)[form - 1](region(*box))
        category = int(random.choice([1, 18, 62]))
        annotations.append({"category_id": category, "segmentation": shape, "image_id": int(random.choice([7, 9]))})
    images = [
        {"id": i, "file_name": f"{name}.jpg", "height": HEIGHT, "width": WIDTH} for i, name in ((9, "b"), (7, "a"))
    ]
    path = coco_file(tmp_path / "a.json", annotations, images=images)
    with contextlib.redirect_stdout(io.StringIO()):
        api = COCO(str(path))
    assert CocoLabels(path).keys == ("b", "a")
    for key, image_id in (("a", 7), ("b", 9)):
        expected = np.zeros((HEIGHT, WIDTH), int)
        masks = [(api.annToMask(value), value["category_id"]) for value in api.imgToAnns[image_id]]
        for there, category in sorted(masks, key=lambda pair: -int(pair[0].sum())):
            expected[there == 1] = category
        np.testing.assert_array_equal(painted(path, key), expected)


def test_what_is_smaller_lies_on_top_and_a_crowd_below(tmp_path):
    small, large, crowd = region(5, 5, 9, 9), region(2, 2, 20, 20), region(4, 4, 8, 30)
    path = coco_file(
        tmp_path / "a.json",
        [
            {"category_id": 1, "segmentation": compressed(small)},
            {"category_id": 18, "segmentation": compressed(large)},
            {"category_id": 62, "segmentation": uncompressed(crowd), "iscrowd": 1},
        ],
    )
    expected = np.where(small, 1, np.where(large, 18, crowd * 62))
    np.testing.assert_array_equal(painted(path), expected)


def test_the_names_of_categories(tmp_path):
    truth = coco_ground_truth(coco_file(tmp_path / "a.json", [{"category_id": 1, "segmentation": polygon(1, 1, 9, 9)}]))
    assert [(i, name) for i, name, _ in truth.labels] == [(0, "background"), (1, "person"), (18, "dog"), (62, "chair")]
    assert truth.keys == ("a",)
    assert truth.ignore == ()


def test_a_category_may_have_the_id_0_or_be_the_background(tmp_path):
    shape = {"category_id": 0, "segmentation": compressed(region(0, 0, 4, 4))}
    zero = coco_file(tmp_path / "zero.json", [shape], categories=[{"id": 0, "name": "cat"}, {"id": 4, "name": "dog"}])
    labels = CocoLabels(zero)
    assert labels.labelmap.name_of(0) == "cat"
    assert labels.labelmap.name_of(int(labels.read("a")[-1, -1])) == "background"
    own = coco_file(
        tmp_path / "own.json",
        [{**shape, "category_id": 3}],
        categories=[{"id": 2, "name": "Background"}, {"id": 3, "name": "cat"}],
    )
    np.testing.assert_array_equal(painted(own), np.where(region(0, 0, 4, 4), 3, 2))


def test_pixels_without_stuff_are_left_out(tmp_path):
    path = coco_file(
        tmp_path / "stuff_val2017.json",
        [{"category_id": 105, "segmentation": compressed(region(0, 0, 10, 40))}],
        categories=[{"id": 105, "name": "clouds"}, {"id": 183, "name": "other"}],
    )
    labels = CocoLabels(path)
    assert labels.labelmap.name_of(int(labels.read("a")[-1, -1])) == "void"


class TestPanoptic:
    def write(self, tmp_path, values, segments):
        folder = tmp_path / "panoptic_val2017"
        folder.mkdir(exist_ok=True)
        colours = np.stack([values % 256, values // 256 % 256, values // 65536], axis=-1)
        Image.fromarray(colours.astype(np.uint8)).save(folder / "a.png")
        segments = [{"id": i, "category_id": category, "iscrowd": 0} for i, category in segments.items()]
        annotation = {"image_id": 7, "file_name": "a.png", "segments_info": segments}
        return coco_file(tmp_path / "panoptic_val2017.json", [annotation])

    def test_segments_have_categories(self, tmp_path):
        values = np.zeros((HEIGHT, WIDTH), int)
        values[:10], values[10:20] = 3937500, 260
        path = self.write(tmp_path, values, {3937500: 18, 260: 62})
        labels = CocoLabels(path)
        expected = np.where(values == 260, 62, np.where(values == 3937500, 18, 0))
        np.testing.assert_array_equal(labels.read("a"), expected)
        assert labels.labelmap.name_of(0) == "void"

    def test_an_image_of_another_file(self, tmp_path):
        path = self.write(tmp_path, np.full((HEIGHT, WIDTH), 5), {4: 1})
        with pytest.raises(LabelError, match=r"a.png has the segment 5, of which .*val2017.json says nothing"):
            painted(path)


class TestMistakes:
    def test_boxes_only(self, tmp_path):
        path = coco_file(tmp_path / "a.json", [{"category_id": 1, "bbox": [1, 1, 5, 5], "segmentation": []}])
        with pytest.raises(LabelError) as caught:
            CocoLabels(path)
        assert str(caught.value) == (
            f"{path} has no regions: its only annotation has no segmentation. Boxes, key points and captions "
            "cannot be scored; take the file of instances, stuff or panoptic regions."
        )

    def test_some_boxes(self, tmp_path):
        box = {"category_id": 1, "bbox": [1, 1, 5, 5]}
        path = coco_file(tmp_path / "a.json", [box, {"category_id": 1, "segmentation": polygon(1, 1, 9, 9)}])
        assert coco_ground_truth(path).notes == (f"1 annotation of {path} has no segmentation and is left out",)

    def test_another_file(self, tmp_path):
        path = tmp_path / "a.json"
        path.write_text(json.dumps({"version": "5.0", "shapes": 3}))
        with pytest.raises(LabelError) as caught:
            CocoLabels(path)
        assert (
            str(caught.value)
            == f"{path} is no COCO file: it has no 'annotations' and no 'images' (it has shapes, version)."
        )

    @pytest.mark.parametrize(
        "text", ["", "nonsense", "{} 5", '{"images": [{"id": 1', '{"images": [] "annotations": []}']
    )
    def test_a_broken_file(self, tmp_path, text):
        path = tmp_path / "a.json"
        path.write_text(text)
        with pytest.raises(LabelError, match=r"a.json is no complete JSON file: it cannot be read at byte \d+\."):
            CocoLabels(path)

    def test_a_region_of_another_size(self, tmp_path):
        images = [{"id": 7, "file_name": "a.jpg", "height": 60, "width": 80}]
        annotation = {"category_id": 1, "segmentation": compressed(region(1, 1, 5, 5))}
        path = coco_file(tmp_path / "a.json", [annotation], images=images)
        with pytest.raises(LabelError, match=r"a region of a is made for 40x30 pixels; the picture has 80x60\."):
            painted(path)

    def test_a_category_without_a_name(self, tmp_path):
        path = coco_file(tmp_path / "a.json", [{"category_id": 3, "segmentation": polygon(1, 1, 9, 9)}])
        with pytest.raises(LabelError, match="an annotation of a has the category 3, which has no name"):
            painted(path)

    def test_a_shape_of_no_known_form(self, tmp_path):
        path = coco_file(tmp_path / "a.json", [{"category_id": 1, "segmentation": "x"}])
        with pytest.raises(LabelError, match="an annotation of a has no polygons and no run-length code"):
            painted(path)

    def test_a_picture_of_unknown_size(self, tmp_path):
        images = [{"id": 7, "file_name": "a.jpg"}]
        path = coco_file(tmp_path / "a.json", [{"category_id": 1, "segmentation": polygon(1, 1, 9, 9)}], images=images)
        with pytest.raises(LabelError, match="does not say how large a is, which its polygons need"):
            painted(path)

    @pytest.mark.parametrize("corner", ["NaN", "1e9", "-Infinity", "5e307"])
    def test_a_corner_far_outside(self, tmp_path, corner):
        """What draws polygons would keep a number for each step on the way there."""
        path = coco_file(tmp_path / "a.json", [{"category_id": 1, "segmentation": [[1, 1, 9, 1, 9, 77777.5]]}])
        path.write_text(path.read_text().replace("77777.5", corner))
        with pytest.raises(LabelError, match="a polygon of a has a corner that lies nowhere near the picture"):
            painted(path)

    @pytest.mark.parametrize(
        ("text", "held"), [("[1, 2]", "a list"), ("5", "a number"), ("null", "a mere word"), ('"x"', "a text")]
    )
    def test_no_object_at_the_top(self, tmp_path, text, held):
        path = tmp_path / "a.json"
        path.write_text(text)
        with pytest.raises(LabelError) as caught:
            CocoLabels(path)
        assert str(caught.value) == (
            f"{path} is no COCO file: it holds {held}, not an object with 'images' and 'annotations'."
        )

    @pytest.mark.parametrize("encoding", ["utf-16", "utf-16-le", "utf-16-be", "utf-32"])
    def test_another_encoding(self, tmp_path, encoding):
        path = coco_file(tmp_path / "a.json", [{"category_id": 1, "segmentation": polygon(1, 1, 9, 9)}])
        path.write_bytes(path.read_text().encode(encoding))
        with pytest.raises(LabelError, match=r"a.json is not UTF-8 text; save it as UTF-8\."):
            CocoLabels(path)


MANY_DIGITS = object()
"""Stands for a number that `json` does not write."""


def refused(path, annotations, **others):
    """What is said of a file that cannot be read, or a picture of which cannot."""
    others = {"images": [PICTURE], "categories": CATEGORIES, **others}
    text = json.dumps({**others, "annotations": annotations}, default=lambda _: "@many")
    path.write_text(text.replace('"@many"', "9" * 6000))
    with pytest.raises(LabelError) as caught:
        painted(path)
    message = str(caught.value)
    assert str(path) in message
    assert len(message) < len(str(path)) + 300
    assert "\n" not in message
    return message


PICTURE = {"id": 7, "file_name": "a.jpg", "height": HEIGHT, "width": WIDTH}
SOUND = {"id": 1, "image_id": 7, "category_id": 1, "segmentation": polygon(1, 1, 9, 9)}
PIXELS = HEIGHT * WIDTH
WHOLE = compressed(region(3, 5, 20, 22))["counts"]


class TestBrokenValues:
    @pytest.mark.parametrize("value", [-3, "wide", [5], float("nan"), float("inf"), True, False, "", 2.5, {}])
    @pytest.mark.parametrize("side", ["height", "width"])
    def test_a_side_of_a_picture(self, tmp_path, side, value):
        message = refused(tmp_path / "a.json", [SOUND], images=[{**PICTURE, side: value}])
        assert f"the {side} of the picture a is {value!r}, no whole number" in message

    @pytest.mark.parametrize("size", [(10**9, 10**9), (1, 2_000_000), (10**3000, 5), (20_000, 20_000)])
    def test_a_picture_too_large(self, tmp_path, size):
        """Nothing of its size is taken."""
        tracemalloc.start()
        picture = {**PICTURE, "height": size[0], "width": size[1]}
        assert "too large to be opened safely" in refused(tmp_path / "a.json", [SOUND], images=[picture])
        unsized = {"id": 7, "file_name": "a.jpg"}
        shape = {"size": size, "counts": [min(size[0] * size[1], 10**30)]}
        annotation = {**SOUND, "segmentation": shape}
        assert "too large to be opened safely" in refused(tmp_path / "a.json", [annotation], images=[unsized])
        assert tracemalloc.get_traced_memory()[1] < 6e7
        tracemalloc.stop()

    @pytest.mark.parametrize(
        "size",
        [["a", "b"], [-3, 4], [0, 5], [True, 5], [float("nan"), 4], [[5], 4], [4], [4, 5, 6], [4, 5, "x"], 5, None],
    )
    @pytest.mark.parametrize("picture", [PICTURE, {"id": 7, "file_name": "a.jpg"}], ids=["sized", "unsized"])
    def test_the_size_of_a_run_length_code(self, tmp_path, size, picture):
        annotation = {**SOUND, "segmentation": {"size": size, "counts": WHOLE}}
        message = refused(tmp_path / "a.json", [annotation], images=[picture])
        assert "an annotation of a has a run-length code of the size" in message

    def test_regions_of_two_sizes(self, tmp_path):
        shapes = [compressed(region(1, 1, 5, 5)), {"size": [2, 3], "counts": [6]}]
        message = refused(
            tmp_path / "a.json",
            [{**SOUND, "segmentation": shape} for shape in shapes],
            images=[{"id": 7, "file_name": "a.jpg"}],
        )
        assert "the regions of a are made for pictures of different sizes, 40x30 and 3x2 pixels" in message

    @pytest.mark.parametrize(
        ("counts", "said"),
        [
            ("\x00ppp", "broken"),
            ("pqrs", "broken"),
            ("é", "broken"),
            ("犬", "broken"),
            ("ooooooooo0", "broken"),
            ("Q", "broken"),
            ("O", "broken"),
            ("555", "15 pixels"),
            ("", "0 pixels"),
            (WHOLE + "1", "pixels; the picture has 1200"),
            (WHOLE * 2, "has a run-length code"),
            (WHOLE[:-2], "has a run-length code"),
            ([10, 20], "30 pixels; the picture has 1200"),
            ([], "0 pixels"),
            ([5, -3, PIXELS - 2], "broken"),
            ([10**12], "broken"),
            ([PIXELS, 2**32], "broken"),
            ([PIXELS, 1], "1201 pixels"),
            ([float("nan"), PIXELS], "broken"),
            ([True, PIXELS - 1], "broken"),
            (["x"], "broken"),
            ([[PIXELS]], "broken"),
            (5, "broken"),
            (None, "broken"),
            ({}, "broken"),
            (MANY_DIGITS, "too many digits"),
        ],
    )
    def test_the_counts_of_a_run_length_code(self, tmp_path, counts, said):
        annotation = {**SOUND, "segmentation": {"size": [HEIGHT, WIDTH], "counts": counts}}
        assert said in refused(tmp_path / "a.json", [annotation])

    def test_a_compressed_code_is_read_as_pycocotools_writes_it(self, tmp_path):
        random = np.random.default_rng(3)
        for density in (0, 0.001, 0.1, 0.5, 1):
            there = (random.random((400, 700)) < density).astype(np.uint8)
            code = mask.encode(np.asfortranarray(there))["counts"].decode()
            path = tmp_path / "a.json"
            annotation = {**SOUND, "segmentation": {"size": [400, 700], "counts": code}}
            coco_file(path, [annotation], images=[{**PICTURE, "height": 400, "width": 700}])
            np.testing.assert_array_equal(painted(path), there)

    @pytest.mark.parametrize(
        ("shape", "said"),
        [
            ("x", "no polygons and no run-length code"),
            ("", "no polygons and no run-length code"),
            (5, "no polygons and no run-length code"),
            (True, "no polygons and no run-length code"),
            ({"x": 1}, "no polygons and no run-length code"),
            ([1, 1, 9, 1, 9, 9], "a polygon that is no list of numbers: 1"),
            ([[[5, 5], [9, 5], [9, 9]]], "a polygon that is no list of numbers"),
            ([[True] * 6], "a polygon that is no list of numbers"),
            ([["x"]], "a polygon that is no list of numbers"),
            ([None], "a polygon that is no list of numbers"),
            ([[1, 1, 9, 1, 9, 9, 3]], "a polygon of 7 numbers; each corner has two"),
            ([[1, 1, 9, 1, 9, 10**400]], "a corner that lies nowhere near the picture"),
            ([[1, 1, 9, 1, 9, MANY_DIGITS]], "too many digits"),
            ([[0, 0, 39, 29] * 100_000], "an outline of more than 5000000 pixels"),
        ],
    )
    def test_polygons(self, tmp_path, shape, said):
        assert said in refused(tmp_path / "a.json", [{**SOUND, "segmentation": shape}])

    @pytest.mark.parametrize("shape", [[[1, 1, 9, 9]], [[]], [[1.5, -2e1], [3, 4]], [[1, 2, 3, 4, 5]], None, {}, []])
    @pytest.mark.parametrize("own", [{}, {"more": {"segmentation": 1, "image_id": 3}}], ids=["text", "parsed"])
    def test_what_encloses_nothing_is_counted(self, tmp_path, shape, own):
        nothing = {**SOUND, "segmentation": shape, **own}
        path = coco_file(tmp_path / "a.json", [SOUND, nothing, nothing])
        labels = CocoLabels(path)
        assert labels.notes == (f"2 annotations of {path} have no segmentation and are left out",)
        assert (labels.read("a") == 1).any()

    @pytest.mark.parametrize(
        "value", [[1], None, True, float("nan"), float("inf"), 2.5, {}, MANY_DIGITS], ids=lambda value: repr(value)[:9]
    )
    def test_ids(self, tmp_path, value):
        path = tmp_path / "a.json"
        picture = refused(path, [SOUND], images=[{**PICTURE, "id": value}])
        annotation = refused(path, [{**SOUND, "image_id": value}])
        category = refused(path, [SOUND], categories=[{"id": value, "name": "x"}])
        used = refused(path, [{**SOUND, "category_id": value}])
        if value is MANY_DIGITS:
            assert all("a number of too many digits" in said for said in (picture, annotation, category, used))
        else:
            assert "the id of the picture a is " in picture
            assert "has no image_id that is a whole number or a text" in annotation
            assert "has a category without a name, or without an id in 0..65534" in category
            assert "an annotation of a has the category_id " in used

    @pytest.mark.parametrize("value", ["x", '{"image_id": 7}', 5, None, ["x"]])
    def test_what_is_no_object(self, tmp_path, value):
        path = tmp_path / "a.json"
        for what, said in (
            ({"annotations": [SOUND, value]}, "an annotation"),
            ({"annotations": [SOUND], "images": [PICTURE, value]}, "a picture"),
            ({"annotations": [SOUND], "categories": [value]}, "a category"),
        ):
            assert f"has {said} that is no JSON object: {value!r}" in refused(path, **what)

    @pytest.mark.parametrize("crowd", ["yes", 2, [1], -1])
    def test_a_crowd(self, tmp_path, crowd):
        message = refused(tmp_path / "a.json", [{**SOUND, "iscrowd": crowd}])
        assert f"an annotation of a has the iscrowd {crowd!r}; it is 0 or 1" in message

    @pytest.mark.parametrize("name", ["", "/", ".", "a\n.jpg", "a\ud800.jpg", "a\0.jpg"])
    def test_a_file_name(self, tmp_path, name):
        message = refused(tmp_path / "a.json", [SOUND], images=[{**PICTURE, "file_name": name}])
        assert "has a picture whose file_name is no name of a file" in message

    def test_two_of_one_id(self, tmp_path):
        path = tmp_path / "a.json"
        message = refused(path, [SOUND], images=[PICTURE, {**PICTURE, "file_name": "b.jpg"}])
        assert "has two pictures with the id 7; b is one" in message
        message = refused(path, [SOUND], categories=[*CATEGORIES, {"id": 18, "name": "cat"}])
        assert "has two categories with the id 18" in message

    def test_annotations_of_no_picture(self, tmp_path):
        strange = {**SOUND, "image_id": "7"}
        path = coco_file(tmp_path / "a.json", [SOUND, strange])
        assert CocoLabels(path).notes == (
            f"1 annotation of {path} has an image_id that no picture has, and is left out",
        )
        coco_file(path, [SOUND, strange, strange])
        assert CocoLabels(path).notes == (
            f"2 annotations of {path} have an image_id that no picture has, and are left out",
        )
        assert "no annotation that belongs to one of its pictures" in refused(path, [strange])

    @pytest.mark.parametrize(
        ("broken", "said"),
        [("5 x", "is no valid JSON"), ("[" * 5000 + "]" * 5000, "is nested too deeply"), ('"\xe9"', "UTF-8")],
    )
    def test_what_is_no_json_within_an_annotation(self, tmp_path, broken, said):
        path = coco_file(tmp_path / "a.json", [{**SOUND, "own": 77777}])
        path.write_bytes(path.read_text().replace("77777", broken).encode("latin-1"))
        with pytest.raises(LabelError, match=said) as caught:
            painted(path)
        assert str(path) in str(caught.value)


SEGMENT = {"id": 5, "category_id": 18}


class TestBrokenPanoptic:
    @pytest.mark.parametrize(
        ("segments", "said"),
        [
            (["x"], "no segments_info that is a list of segments"),
            (5, "no segments_info that is a list of segments"),
            (None, "no segments_info that is a list of segments"),
            ([{"category_id": 18}], "a segment of the id None"),
            ([{"id": None, "category_id": 18}], "a segment of the id None"),
            ([{"id": -1, "category_id": 18}], "a segment of the id -1"),
            ([{"id": 5, "category_id": "cat"}], "a segment of a has the category 'cat', which has no name"),
            ([{"id": 5, "category_id": [18]}], "a segment of a has the category [18], which has no name"),
            ([{"id": 5}], "a segment of a has the category None, which has no name"),
            ([SEGMENT, SEGMENT], "two segments with the id 5"),
        ],
    )
    def test_segments(self, tmp_path, segments, said):
        annotation = {"image_id": 7, "file_name": "a.png", "segments_info": segments}
        assert said in refused(tmp_path / "a.json", [annotation])

    @pytest.mark.parametrize(
        "name", ["../b.png", "/b.png", "x/../../b.png", "..\\b.png", "C:\\b.png", "", None, 5, "a\0.png"]
    )
    def test_the_name_of_its_image(self, tmp_path, name):
        annotation = {"image_id": 7, "file_name": name, "segments_info": [SEGMENT]}
        assert "an annotation of a has the file_name" in refused(tmp_path / "a.json", [annotation])

    def test_an_image_of_another_size(self, tmp_path):
        Image.new("RGB", (4, 3), (5, 0, 0)).save(tmp_path / "a.png")
        annotation = {"image_id": 7, "file_name": "a.png", "segments_info": [SEGMENT]}
        assert "a.png has 4x3 pixels; " in refused(tmp_path / "a.json", [annotation])


class TestWalkingThroughAFile:
    def test_items_and_their_places(self, tmp_path, monkeypatch):
        monkeypatch.setattr(json_stream, "_PIECE", 5)  # every value lies across pieces
        content = {
            "a": [{"x": [1, 2.5]}, {"ä": 'é"]}'}, 12345, "t"],
            "info": {"b": None},
            "n": 12345678,
            "e": [],
            "l": [[1]],
        }
        path = tmp_path / "a.json"
        for text in (
            json.dumps(content),
            json.dumps(content, indent=2, ensure_ascii=False),
            "\ufeff" + json.dumps(content),
        ):
            path.write_bytes(text.encode())
            entries = list(json_entries(path))
            assert [entry[0] for entry in entries] == ["a", "a", "a", "a", "info", "n", "e", "l"]
            data = path.read_bytes()
            found = [json.loads(data[start:end]) for key, _, start, end in entries if key != "e"]
            assert found == [*content["a"], content["info"], content["n"], [1]]

    def test_names_in_any_script(self, tmp_path):
        images = [{"id": 7, "file_name": "küche/犬.jpg", "height": HEIGHT, "width": WIDTH}]
        data = {
            "images": images,
            "annotations": [{"image_id": 7, "segmentation": polygon(1, 1, 9, 9)}],
            "categories": [{"id": 1, "name": "Hündin"}],
        }
        path = tmp_path / "a.json"
        for ascii_only in (True, False):
            path.write_text(json.dumps(data, ensure_ascii=ascii_only), encoding="utf-8")
            labels = CocoLabels(path)
            assert labels.keys == ("küche/犬",)
            assert labels.labelmap.name_of(1) == "Hündin"

    def test_memory_does_not_grow_with_the_regions(self, tmp_path):
        path = tmp_path / "a.json"
        shape = [[float(i) for i in range(400)]]
        annotations = [{"id": i, "image_id": 7, "category_id": 1, "segmentation": shape} for i in range(4000)]
        coco_file(path, annotations)
        assert path.stat().st_size > 9e6
        tracemalloc.start()
        labels = CocoLabels(path)
        kept, _ = tracemalloc.get_traced_memory()
        tracemalloc.stop()
        assert labels.keys == ("a",)
        assert kept < 5e5


@pytest.mark.slow
def test_a_file_is_indexed_faster_than_it_is_parsed(tmp_path):
    shape = [[round(i * 1.37, 2) for i in range(120)]]
    path = coco_file(
        tmp_path / "a.json", [{"id": i, "image_id": 7, "category_id": 1, "segmentation": shape} for i in range(5000)]
    )

    def seconds(work):
        times = []
        for _ in range(3):
            start = time.process_time()
            work()
            times.append(time.process_time() - start)
        return min(times)

    assert seconds(lambda: CocoLabels(path)) < seconds(lambda: json.loads(path.read_bytes()))


def test_processes_can_share_it(tmp_path):
    path = coco_file(tmp_path / "a.json", [{"category_id": 1, "segmentation": polygon(1, 1, 9, 9)}])
    truth = coco_ground_truth(path)
    np.testing.assert_array_equal(pickle.loads(pickle.dumps(truth)).read("a"), truth.read("a"))
