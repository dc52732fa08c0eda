"""The three steps as Python functions, with the bundled mini models."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image

from ovseg_cli import Store, add_class, compare, evaluate, evaluate_folder, explain, segment, segment_folder
from ovseg_cli.errors import ClassExistsError, ClassNameError, UnknownClassError, UsageError
from ovseg_cli.segmentation.options import SegmentOptions
from tests.mini import example_labels, example_names, example_scene

SCENE = 8  # a cat, an apple and a soccer ball


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    with Store.open(tmp_path_factory.mktemp("api") / "store", profile="mini") as opened:
        add_class(opened, "cat", count=6, steps=12)
        add_class(opened, "apple", count=6, steps=12)
        yield opened


def test_a_class_is_stored_as_asked(store):
    info = store.get_class("cat")
    assert info.support_count == 6
    assert info.settings["steps"] == 12


def test_existing_class(store):
    with pytest.raises(ClassExistsError, match="if_exists"):
        add_class(store, "CAT", count=1)
    assert add_class(store, "cat", count=1, if_exists="skip").support_count == 6
    with pytest.raises(UsageError, match="if_exists must be"):
        add_class(store, "cat", if_exists="maybe")


def test_bad_name_is_refused_before_a_model_is_loaded(store):
    with pytest.raises(ClassNameError, match="comma"):
        add_class(store, "cat,dog")


def test_segment_finds_the_objects_and_evaluate_scores_them(store):
    result = segment(store, example_scene(SCENE), ["Apple", "cat"])
    assert result.names == ("apple", "cat")
    names = example_names()
    truth = np.zeros_like(example_labels(SCENE))
    for index, name in enumerate(result.names, start=1):
        truth[example_labels(SCENE) == names.index(name)] = index
    report = evaluate([result.ids], [truth], ["background", *result.names])
    assert report.miou > 0.6
    assert np.array_equal(result.mask("CAT"), result.ids == 2)


@pytest.mark.slow
def test_every_class_of_the_store_by_default(store):
    assert segment(store, example_scene(SCENE)).names == ("cat", "apple")


@pytest.mark.slow
@pytest.mark.parametrize("mode", ["RGBA", "P", "CMYK"])
def test_pictures_of_any_mode(store, mode):
    image = Image.fromarray(example_scene(SCENE))
    expected = segment(store, image.convert(mode).convert("RGB"), ["cat"])
    assert np.array_equal(segment(store, image.convert(mode), ["cat"]).ids, expected.ids)


def test_a_string_is_not_a_list_of_classes(store):
    with pytest.raises(UsageError, match=r"classes must be a list of names.*got 'cat'"):
        segment(store, example_scene(SCENE), "cat")


@pytest.mark.slow
def test_names_are_checked(store):
    with pytest.raises(ClassNameError, match="comma"):
        segment(store, example_scene(SCENE), ["b,c"])
    with pytest.raises(UnknownClassError, match="among the classes"):
        segment(store, example_scene(SCENE), ["cat"]).mask("dog")
    with pytest.raises(ValueError, match="uint8"):
        segment(store, np.zeros((4, 4), np.uint8), ["cat"])


@pytest.mark.slow
def test_methods_are_compared_on_one_picture(store):
    quick = SegmentOptions(short_side=64, windows=((0, 0),))
    results = compare(store, Image.fromarray(example_scene(SCENE)), ["CAT", "ball"], ["hybrid", "sclip"], options=quick)
    assert list(results) == ["hybrid", "sclip"]
    for method, result in results.items():
        assert result.names == ("cat", "ball")
        alone = segment(store, example_scene(SCENE), ["cat", "ball"], method=method, short_side=64, windows=[(0, 0)])
        assert np.array_equal(result.ids, alone.ids)
    with pytest.raises(UsageError, match="none twice"):
        compare(store, example_scene(SCENE), ["cat"], ["gem", "gem"])


def test_what_only_words_have(store):
    """Each argument arrives: with it the answer is another one."""
    quick = {"method": "gem", "short_side": 64, "windows": [(0, 0)], "background_words": ["sky"], "threshold": 0.6}
    plain = segment(store, example_scene(SCENE), ["dog", "apple"], **quick)
    for changed in (
        {"synonyms": {"dog": ["cat", "soccer ball"]}},
        {"background_words": ["cat", "soccer ball"]},
        {"logit_scale": 5.0},
        {"templates": "imagenet"},
        {"short_side": 128},
        {"windows": [(48, 24)]},
        {"image_classes": ["apple"]},
    ):
        other = segment(store, example_scene(SCENE), ["dog", "apple"], **{**quick, **changed})
        assert not np.array_equal(other.ids, plain.ids), changed
    only = segment(store, example_scene(SCENE), ["dog", "apple"], image_classes=["apple"], **quick)
    assert only.kept == {"apple": None}


def test_strings_are_no_lists_of_names(store):
    with pytest.raises(UsageError, match=r"image_classes must be a list.*got 'cat'"):
        segment(store, example_scene(SCENE), ["cat"], image_classes="cat")
    for wrong in ({"background_words": "sky"}, {"extractors": "sd"}, {"synonyms": {"cat": "kitten"}}):
        with pytest.raises(UsageError, match="must be a list of names"):
            segment(store, example_scene(SCENE), ["cat"], **wrong)
    with pytest.raises(UsageError, match=r"methods must be a list.*got 'gem'"):
        compare(store, example_scene(SCENE), ["cat"], "gem")
    with pytest.raises(UsageError, match=r"image_classes must be a list.*got \[0\]"):
        segment(store, example_scene(SCENE), ["cat"], image_classes=[0])


QUICK = SegmentOptions(short_side=64, windows=((0, 0),))


@pytest.fixture
def photos(tmp_path):
    """Two pictures, their labels, and what these mean."""
    names = example_names()
    for folder in ("photos", "labels"):
        (tmp_path / folder).mkdir()
    for number in (SCENE, 3):
        Image.fromarray(example_scene(number)).save(tmp_path / "photos" / f"{number}.png")
        Image.fromarray(example_labels(number).astype(np.uint8)).save(tmp_path / "labels" / f"{number}.png")
    lines = [f"{name}:{i},{i},{i}::" for i, name in enumerate(names)]
    (tmp_path / "labels" / "labelmap.txt").write_text("\n".join(lines) + "\n")
    return tmp_path


class Listening:
    """A listener that writes everything down."""

    def __init__(self):
        self.told = []

    def begin(self, plan):
        self.told.append(("begin", len(plan.items)))

    def load(self):
        self.told.append("load")

    def read(self, done, total):
        self.told.append(("read", total))

    def step(self, step):
        self.told.append((step.done, step.path.name))


@pytest.mark.slow
def test_a_folder_is_segmented_and_scored_without_a_command_line(store, photos):
    listener = Listening()
    wanted = {"classes": ["cat", "apple"], "method": "prototype", "options": QUICK, "overlay": True}
    summary = segment_folder(store, photos / "photos", photos / "out", **wanted, listener=listener)
    assert (summary.done, summary.failed, summary.notes) == (2, [], ())
    assert listener.told == [("begin", 2), "load", (1, "3.png"), (2, "8.png")]
    assert sorted(path.name for path in (photos / "out" / "overlay").iterdir()) == ["3.png", "8.png"]
    ours = np.array(Image.open(photos / "out" / "SegmentationClass" / "8.png"))
    alone = segment(store, example_scene(SCENE), ["cat", "apple"], method="prototype", short_side=64, windows=[(0, 0)])
    np.testing.assert_array_equal(ours, alone.ids)
    assert segment_folder(store, [photos / "photos"], photos / "out", **wanted).skipped == 2
    report = evaluate_folder(photos / "labels", photos / "out")
    assert report.images == 2
    assert report.miou == evaluate_folder(photos / "labels", photos / "out" / "SegmentationClass").miou


def test_what_one_may_not_expect_comes_along(store, photos):
    summary = segment_folder(store, photos / "photos", photos / "out", ["cat", "zebra"], options=QUICK, limit=1)
    assert summary.method == "hybrid"
    assert any("no prototypes for zebra" in note for note in summary.notes)


def test_no_class_is_not_every_class(store, photos):
    with pytest.raises(UsageError, match="names no class"):
        segment_folder(store, photos / "photos", photos / "out", [])
    assert not (photos / "out").exists()


def test_pixels_are_explained(store):
    result, (why,) = explain(store, example_scene(SCENE), [(5, 5)], ["cat", "apple"], options=QUICK)
    assert (why.x, why.y) == (5, 5)
    assert why.label == ("background", "cat", "apple")[result.ids[5, 5]]
    with pytest.raises(UsageError, match="cannot be taken apart"):
        explain(store, example_scene(SCENE), None, ["cat"], method="cliper")
