from __future__ import annotations

import contextlib
import dataclasses
import json

import numpy as np
import pytest
from PIL import Image

from ovseg_cli.errors import UnknownClassError, UsageError
from ovseg_cli.profiles import get_profile
from ovseg_cli.segmentation import task as module
from ovseg_cli.segmentation.options import SegmentOptions, parse_windows
from ovseg_cli.segmentation.recipe import Choice, choose_method, make_recipe
from ovseg_cli.segmentation.segmenter import Segmenter
from ovseg_cli.store import Store
from ovseg_cli.text.prefilter import Shortlist
from tests.mini import example_labels, example_names, example_scene, mini_class, mini_models

MINI = get_profile("mini")
SCENE = 8  # a cat, an apple and a soccer ball
QUICK = {"short_side": 64, "windows": ((48, 24), (0, 0))}  # for what holds however closely one looks


def quick(**options):
    return SegmentOptions(**{**QUICK, **options})


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    """Two classes that the example pictures show."""
    with Store.open(tmp_path_factory.mktemp("segmenter") / "store", profile="mini") as opened:
        opened.add_class(mini_class("cat"))
        opened.add_class(mini_class("apple"))
        yield opened


@pytest.fixture(scope="module")
def segmenters(store):
    """One per method, with a background."""
    return {
        m: Segmenter(mini_models(), store, ["cat", "apple"], method=m, options=quick()) for m in ("prototype", "gem")
    }


@pytest.fixture(scope="module")
def results(segmenters):
    return {m: s.segment(example_scene(SCENE)) for m, s in segmenters.items()}


def noise(height, width, seed=0):
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)


def iou(result, name):
    truth = example_labels(SCENE) == example_names().index(name)
    found = result.mask(name)
    return (truth & found).sum() / (truth | found).sum()


# --------------------------------------------------------------------------- answers


@pytest.mark.parametrize("method", ["prototype", "gem"])
def test_objects_of_an_example_picture_are_found(store, method):
    result = Segmenter(mini_models(), store, ["cat", "apple"], method=method).segment(example_scene(SCENE))
    assert iou(result, "cat") > 0.4
    assert iou(result, "apple") > 0.4
    # What was not asked for is background: the sky, the wood, and the soccer ball for the most part.
    truth = example_labels(SCENE)
    for name in ("sky", "wood"):
        assert (result.ids[truth == example_names().index(name)] == 0).mean() > 0.7


@pytest.mark.parametrize("method", ["prototype", "gem"])
def test_the_numbers_of_a_result_are_those_of_its_label_map(results, method):
    result = results[method]
    assert result.ids.shape == example_scene(SCENE).shape[:2]
    assert result.ids.dtype == np.uint16
    assert result.names == ("cat", "apple")
    assert result.method == method
    for i, name in enumerate(("background", "cat", "apple")):
        assert result.shares[name] == pytest.approx((result.ids == i).mean())
        assert 0 < result.mean_scores[name] <= 1
    assert sum(result.shares.values()) == pytest.approx(1)
    assert 0 < result.margin < 1
    np.testing.assert_array_equal(result.mask("apple"), result.ids == 2)
    with pytest.raises(UnknownClassError, match="cat, apple"):
        result.mask("dog")


@pytest.mark.parametrize("method", ["prototype", "gem"])
def test_the_same_picture_gets_the_same_answer(segmenters, results, method):
    again = segmenters[method].segment(Image.fromarray(example_scene(SCENE)))
    np.testing.assert_array_equal(again.ids, results[method].ids)
    assert again.shares == results[method].shares


@pytest.mark.slow
@pytest.mark.parametrize("method", ["prototype", "gem"])
def test_the_order_of_the_classes_changes_ids_and_nothing_else(store, results, method):
    turned = Segmenter(mini_models(), store, ["apple", "cat"], method=method, options=quick())
    turned = turned.segment(example_scene(SCENE))
    for name in ("cat", "apple"):
        assert (turned.mask(name) == results[method].mask(name)).mean() > 0.999


@pytest.mark.parametrize("method", ["prototype", "gem"])
def test_without_background_every_pixel_gets_a_class(store, method):
    result = Segmenter(mini_models(), store, ["cat", "apple"], method=method, options=quick(background=False)).segment(
        example_scene(SCENE)
    )
    assert result.ids.min() >= 1
    assert "background" not in result.shares
    truth = example_labels(SCENE)
    for i, name in enumerate(("cat", "apple"), 1):
        assert (result.ids[truth == example_names().index(name)] == i).mean() > 0.7


@pytest.mark.parametrize("background", [True, False])
def test_where_all_scores_are_negative_the_background_wins_or_else_the_best_class(store, background):
    import torch

    options = quick(background=background, prefilter=False)
    segmenter = Segmenter(mini_models(), store, ["cat", "apple"], method="prototype", options=options)
    for scorer in segmenter._prototypes:
        scorer.compare = lambda maps: torch.tensor([-0.9, -0.5, -0.2]).view(1, 3, 1, 1).expand(len(maps[0]), 3, 2, 2)
    result = segmenter.segment(noise(9, 9))
    assert result.shares == {"background" if background else "apple": 1.0}


@pytest.mark.slow
@pytest.mark.parametrize("method", ["prototype", "gem"])
def test_a_threshold_that_nothing_reaches_leaves_only_background(store, results, method):
    def at(threshold):
        return Segmenter(
            mini_models(), store, ["cat", "apple"], method=method, options=quick(threshold=threshold)
        ).segment(example_scene(SCENE))

    assert (at(1.01).ids == 0).all()
    np.testing.assert_array_equal(at(0.0).ids, results[method].ids)


@pytest.mark.slow
@pytest.mark.parametrize("method", ["prototype", "gem"])
@pytest.mark.parametrize("size", [(1, 1), (2, 1), (3, 200), (150, 4), (17, 33)])
def test_any_size_of_picture_gives_a_label_map_of_that_size(segmenters, method, size):
    assert segmenters[method].segment(noise(*size)).ids.shape == size


def test_a_very_thin_picture_needs_no_more_work_than_a_long_one(segmenters):
    """A line of 1 x 5000 pixels must not be enlarged to 192 x 960000."""
    scored = segmenters["gem"].score(noise(1, 5000))
    assert scored.size == (1, 5000)
    assert scored.values[0].numel() <= 8 * QUICK["short_side"] ** 2
    assert segmenters["gem"].label(scored).ids.shape == (1, 5000)


def test_batches_of_crops_change_nothing(segmenters, results, monkeypatch):
    monkeypatch.setattr(module, "MAX_CROPS_AT_ONCE", 3)
    again = segmenters["gem"].segment(example_scene(SCENE))
    assert (again.ids == results["gem"].ids).mean() > 0.999


@pytest.mark.parametrize("image", [np.zeros((4, 4), np.uint8), np.zeros((4, 4, 3)), Image.new("L", (4, 4))])
def test_what_is_no_rgb_picture_is_refused(segmenters, image):
    with pytest.raises(ValueError, match="RGB"):
        segmenters["gem"].segment(image)


@pytest.mark.slow
def test_one_class_with_prototypes(store):
    result = Segmenter(mini_models(), store, ["cat"]).segment(example_scene(SCENE))
    assert set(result.shares) == {"background", "cat"}
    assert iou(result, "cat") > 0.3


def test_names_are_found_in_any_case_and_keep_the_callers_spelling(store, results):
    segmenter = Segmenter(mini_models(), store, ["CAT", "Apple"], options=quick())
    result = segmenter.segment(example_scene(SCENE))
    assert result.names == ("CAT", "Apple")
    np.testing.assert_array_equal(result.ids, results["prototype"].ids)


@pytest.mark.parametrize(
    ("names", "method"), [(["cat", "crème brûlée", "猫"], "hybrid"), (["crème brûlée", "猫"], MINI.clip.best)]
)
def test_auto_takes_names_that_no_store_knows(store, names, method):
    segmenter = Segmenter(mini_models(), store, names, options=quick())
    assert segmenter.method == method
    assert segmenter.segment(noise(40, 40)).ids.max() <= len(names)


def test_a_background_word_that_is_asked_for_is_no_background(store):
    word = MINI.clip.background_words[0]
    result = Segmenter(mini_models(), store, [word.upper()], method="gem")
    assert result._dense.channels == len(MINI.clip.background_words)
    assert Segmenter(mini_models(), store, ["cat"], method="gem")._dense.channels == 1 + len(MINI.clip.background_words)
    no_background = Segmenter(mini_models(), store, ["cat"], method="gem", options=SegmentOptions(background=False))
    assert no_background._dense.channels == 1


# --------------------------------------------------------------------------- which method


def test_auto_takes_prototypes_when_every_class_has_them(store):
    choice = choose_method(store, MINI, ["cat", "apple"])
    assert (choice.method, choice.asked, choice.missing) == ("prototype", "auto", ())


def test_auto_falls_back_and_says_for_which_classes(store):
    choice = choose_method(store, MINI, ["cat", "dog", "sky"])
    assert (choice.method, choice.missing) == ("hybrid", ("dog", "sky"))
    assert choose_method(store, MINI, ["dog"]).method == MINI.clip.best
    assert "dog, sky" in choice.reason


def test_an_asked_method_is_taken(store):
    assert choose_method(store, MINI, ["cat"], "gem").method == "gem"
    assert choose_method(store, MINI, ["cat"], "prototype").method == "prototype"


@pytest.mark.parametrize(("name", "near"), [("aple", "apple"), ("Catt", "cat"), ("CAR", "cat")])
def test_an_unknown_class_under_prototype_suggests_the_nearest(store, name, near):
    with pytest.raises(UnknownClassError) as caught:
        choose_method(store, MINI, ["cat", name], "prototype")
    assert repr(name) in str(caught.value)
    assert f"Did you mean '{near}'?" in str(caught.value)
    assert f'ovseg add-class "{name}"' in str(caught.value)


def test_an_unknown_class_that_is_like_none_gets_no_suggestion(store):
    with pytest.raises(UnknownClassError) as caught:
        choose_method(store, MINI, ["zzzzzz"], "prototype")
    assert "Did you mean" not in str(caught.value)


@pytest.mark.parametrize("classes", [["cat", "cat"], ["cat", "apple", "CAT"]])
def test_a_class_given_twice_is_refused(store, classes):
    with pytest.raises(UsageError, match="twice"):
        choose_method(store, MINI, classes)


def test_no_class_and_no_such_method_are_refused(store):
    with pytest.raises(UsageError, match="No classes"):
        choose_method(store, MINI, [])
    with pytest.raises(UsageError, match=r"'magic'.*auto, prototype, hybrid, maskclip"):
        choose_method(store, MINI, ["cat"], "magic")


def test_a_threshold_without_background_is_refused():
    with pytest.raises(UsageError, match="--threshold"):
        SegmentOptions(background=False, threshold=0.5)


# --------------------------------------------------------------------------- digests


def digest(store, classes=("cat", "apple"), method="auto", background=True, threshold=None, profile=MINI):
    choice = choose_method(store, MINI, list(classes), method)
    options = SegmentOptions(background=background, threshold=threshold)
    return make_recipe(store, profile, list(classes), method=choice, options=options).digest


@pytest.mark.parametrize(
    ("method", "background", "threshold"), [("prototype", True, None), ("gem", True, 0.5), ("auto", False, None)]
)
def test_the_planned_digest_is_the_segmenters(store, method, background, threshold):
    options = SegmentOptions(background=background, threshold=threshold)
    segmenter = Segmenter(mini_models(), store, ["cat", "apple"], method=method, options=options)
    assert segmenter.digest == digest(store, method=method, background=background, threshold=threshold)
    assert json.loads(json.dumps(segmenter.settings)) == segmenter.settings


def test_whatever_changes_the_answer_changes_the_digest(store):
    digests = [
        digest(store),
        digest(store, classes=("apple", "cat")),
        digest(store, classes=("cat",)),
        digest(store, method="gem"),
        digest(store, background=False),
        digest(store, threshold=0.5),
        digest(store, threshold=0.25),
        digest(store, profile=get_profile("sd15"), method="gem"),
        digest(store, profile=dataclasses.replace(MINI, inference=dataclasses.replace(MINI.inference, short_side=96))),
    ]
    assert len(set(digests)) == len(digests)


def test_why_a_method_was_chosen_does_not_change_the_digest(store):
    asked = Choice("prototype", "prototype", (), "asked for")
    assert make_recipe(store, MINI, ["cat", "apple"], method=asked, options=SegmentOptions()).digest == digest(store)


@pytest.mark.slow
def test_a_class_made_anew_changes_the_digest_of_its_prototypes_and_not_of_gem(tmp_path):
    with Store.open(tmp_path / "store", profile="mini") as own:
        own.add_class(mini_class("cat"))
        own.add_class(mini_class("apple"))
        before = digest(own), digest(own, method="gem"), digest(own, classes=("apple",))
        assert before[0] == digest(own)
        own.add_class(mini_class("cat"), replace=True)
        after = digest(own), digest(own, method="gem"), digest(own, classes=("apple",))
    assert after[0] != before[0]
    assert after[1:] == before[1:]


def test_a_class_removed_meanwhile_is_told(tmp_path):
    with Store.open(tmp_path / "store", profile="mini") as own:
        own.add_class(mini_class("cat"))
        choice = choose_method(own, MINI, ["cat"])
        own.remove_classes(["cat"])
        with pytest.raises(UnknownClassError):
            Segmenter(mini_models(), own, ["cat"], method=choice)


@pytest.mark.slow
def test_scores_equal_the_fused_best_cosines_by_hand(store):
    """The whole path once more, from the stored vectors: crops, features, cosines, mean over crops and extractors."""
    import torch
    from torch.nn import functional as F

    from ovseg_cli.backbones.pixels import to_tensor

    options = SegmentOptions(prefilter=False)
    segmenter = Segmenter(mini_models(), store, ["cat", "apple"], method="prototype", options=options)
    short = MINI.inference.short_side
    large = Image.fromarray(np.ascontiguousarray(example_scene(SCENE)[:96, :96])).resize((short, short), 3)
    large = to_tensor(large)
    scored = segmenter.score(np.ascontiguousarray(example_scene(SCENE)[:96, :96]))
    ours = scored.values
    boxes = {(0, 0, short)} if MINI.inference.whole_image else set()
    for size, stride in MINI.inference.windows:
        starts = sorted({*range(0, max(short - size, 0), stride), max(short - size, 0)})
        boxes |= {(top, left, min(size, short)) for top in starts for left in starts}
    total, count = torch.zeros(3, short, short), torch.zeros(short, short)
    for extractor in MINI.extractors:
        block = store.prototypes(["cat", "apple"], extractor.digest)
        for top, left, size in boxes:
            features = mini_models().features(extractor, large[:, :, top : top + size, left : left + size])[0]
            unit = F.normalize(features, dim=0)
            cosines = torch.einsum("pd,dhw->phw", torch.from_numpy(block.vectors), unit)
            best = torch.full((3, *cosines.shape[1:]), -1.0)
            for p in range(len(cosines)):
                channel = int(block.class_index[p]) + 1 if block.role_is_fg[p] else 0
                best[channel] = torch.maximum(best[channel], cosines[p])
            here = (slice(top, top + size), slice(left, left + size))
            total[:, *here] += F.interpolate(best[None], (size, size), mode="bilinear", align_corners=False)[0]
            count[here] += 1
    torch.testing.assert_close(ours, total / count, atol=1e-3, rtol=1e-3)


# --------------------------------------------------------------------------- the class pre-filter


class Fixed:
    """A filter that always says the same."""

    def __init__(self, *classes):
        self.kept = Shortlist(classes, tuple(0.25 for _ in classes))

    def __call__(self, picture):
        return self.kept


@pytest.mark.slow
@pytest.mark.parametrize("background", [True, False])
@pytest.mark.parametrize("kept", [(0,), (1,)])
def test_what_the_filter_drops_has_no_part_in_the_answer(store, kept, background):
    """Neither its foreground nor its background prototypes: it is as if the class had not been asked for."""
    names = ["cat", "apple"]
    picture = example_scene(SCENE)[:100, :100]
    filtered = Segmenter(mini_models(), store, names, options=quick(background=background, prefilter=True))
    filtered._prefilter = Fixed(*kept)
    result = filtered.segment(picture)
    alone = Segmenter(mini_models(), store, [names[kept[0]]], options=quick(background=background)).segment(picture)
    np.testing.assert_array_equal(result.ids, np.where(alone.ids == 1, kept[0] + 1, 0))
    assert result.ids.dtype == np.uint16
    assert result.names == ("cat", "apple")
    assert (result.shares, result.mean_scores) == (alone.shares, alone.mean_scores)
    assert result.kept == {names[kept[0]]: 0.25}
    assert not result.mask(names[1 - kept[0]]).any()


def test_a_filter_that_keeps_everything_changes_nothing(store, results):
    filtered = Segmenter(mini_models(), store, ["cat", "apple"], options=quick(prefilter=True))
    filtered._prefilter = Fixed(0, 1)
    result = filtered.segment(example_scene(SCENE))
    np.testing.assert_array_equal(result.ids, results["prototype"].ids)
    assert result.shares == results["prototype"].shares
    assert results["gem"].kept is None
    without = Segmenter(mini_models(), store, ["cat", "apple"], options=quick(prefilter=False))
    assert without.segment(example_scene(SCENE)).kept is None


@pytest.mark.slow
def test_stuff_passes_the_filter(tmp_path):
    with Store.open(tmp_path / "store", profile="mini") as own:
        own.add_class(mini_class("cat"))
        own.add_class(dataclasses.replace(mini_class("apple"), kind="stuff"))
        segmenter = Segmenter(mini_models(), own, ["CAT", "Apple"], options=quick(prefilter=True))
        assert segmenter.settings["prefilter"]["stuff"] == ["apple"]
        result = segmenter.segment(example_scene(SCENE))
    assert set(result.kept) == {"CAT", "Apple"}
    assert result.kept["Apple"] is None
    assert -1 <= result.kept["CAT"] <= 1


def planned(store, profile, prefilter, method="auto"):
    choice = choose_method(store, MINI, ["cat", "apple"], method)
    return make_recipe(
        store, profile, ["cat", "apple"], method=choice, options=SegmentOptions(prefilter=prefilter)
    ).digest


def with_prefilter(profile, **changes):
    return dataclasses.replace(profile, prefilter=dataclasses.replace(profile.prefilter, **changes))


def test_the_filter_changes_the_digest_and_who_wanted_it_does_not(store):
    on, off = with_prefilter(MINI, default=True), with_prefilter(MINI, default=False)
    assert planned(store, off, None) == planned(store, off, False) == planned(store, on, False)
    assert (
        planned(store, on, None) == planned(store, on, True) == planned(store, off, True) != planned(store, on, False)
    )
    options = SegmentOptions(prefilter=True)
    assert planned(store, MINI, True) == Segmenter(mini_models(), store, ["cat", "apple"], options=options).digest
    assert planned(store, on, None, "gem") == planned(store, on, False, "gem")
    other = with_prefilter(on, crops=(1, 4))
    assert planned(store, other, True) != planned(store, on, True)
    assert planned(store, other, False) == planned(store, on, False)


ONLY_PROTOTYPES = (
    {"extractors": ("sd",)},
    {"prototypes": ("mean",)},
    {"stuff_filter": True},
)


@pytest.mark.parametrize("asked", ONLY_PROTOTYPES, ids=lambda asked: next(iter(asked)))
def test_what_only_prototypes_have_is_refused_with_gem(store, asked):
    option = "--" + next(iter(asked)).replace("_", "-")
    options = SegmentOptions(**asked)
    gem = choose_method(store, MINI, ["cat"], "gem")
    with pytest.raises(UsageError, match=rf"{option}.*not with gem.*--method prototype"):
        make_recipe(store, MINI, ["cat"], method=gem, options=options)
    fallen_back = choose_method(store, MINI, ["dog"])
    with pytest.raises(UsageError, match=rf"{option}.*no prototypes for dog.*ovseg add-class"):
        make_recipe(store, MINI, ["dog"], method=fallen_back, options=options)


ONLY_WORDS = ({"templates": "single"}, {"logit_scale": 10.0}, {"synonyms": (("cat", ("kitten",)),)})


@pytest.mark.parametrize("asked", ONLY_WORDS, ids=lambda asked: next(iter(asked)))
def test_what_only_words_have_is_refused_with_prototypes(store, asked):
    choice = choose_method(store, MINI, ["cat"])
    with pytest.raises(UsageError, match=r"Prototypes are matched without words .*would have no effect.*--method"):
        make_recipe(store, MINI, ["cat"], method=choice, options=SegmentOptions(**asked))


def test_a_profile_without_a_filter_filters_only_when_asked_and_then_complains(store):
    without = dataclasses.replace(MINI, prefilter=None)
    choice = choose_method(store, MINI, ["cat"])
    with pytest.raises(UsageError, match="'mini' has no pre-filter"):
        make_recipe(store, without, ["cat"], method=choice, options=SegmentOptions(prefilter=True))
    assert make_recipe(store, without, ["cat"], method=choice, options=SegmentOptions()).prefilter is None


def test_the_users_short_side_and_windows_take_the_place_of_the_methods(store):
    options = SegmentOptions(short_side=96, windows=((64, 32), (0, 0)))
    for method in ("prototype", "gem", "hybrid"):
        resolved = make_recipe(
            store, MINI, ["cat"], method=choose_method(store, MINI, ["cat"], method), options=options
        )
        for geometry in (
            resolved.prototypes and resolved.prototypes.geometry,
            resolved.words and resolved.words.settings,
        ):
            if geometry is not None:
                assert (geometry.short_side, geometry.windows, geometry.whole_image) == (96, ((64, 32),), True)
    only_windows = SegmentOptions(windows=((64, 32),))
    resolved = make_recipe(store, MINI, ["cat"], method=choose_method(store, MINI, ["cat"]), options=only_windows)
    assert not resolved.prototypes.geometry.whole_image
    assert resolved.prototypes.geometry.short_side == MINI.inference.short_side


def test_a_published_method_is_run_with_its_published_settings(store):
    large = dataclasses.replace(MINI, clip=dataclasses.replace(MINI.clip, dense=None))
    choice = choose_method(store, MINI, ["cat"], "sclip")
    settings = make_recipe(store, large, ["cat"], method=choice, options=SegmentOptions()).words.settings
    assert (settings.short_side, settings.windows, settings.logit_scale) == (336, ((224, 112),), 65.0)
    assert make_recipe(store, MINI, ["cat"], method=choice, options=SegmentOptions()).words.settings == MINI.clip.dense


class NoClasses:
    """A store without classes."""

    snapshot = staticmethod(contextlib.nullcontext)

    def has_class(self, name):
        return False

    def class_names(self):
        return []


def published(method, names=("cat",), **options):
    """What a method comes to with CLIP ViT-B/16 and no prototypes."""
    asked = SegmentOptions(**options)
    return make_recipe(NoClasses(), get_profile("sd15"), names, method=Choice(method, method, (), ""), options=asked)


OF_VOC21 = {
    "sclip": (26, "imagenet", 65.0, 0.1, "none"),
    "naclip": (26, "imagenet", 40.0, 0.1, "pamr"),
    "proxyclip": (26, "imagenet", 40.0, 0.2, "none"),
    "clearclip": (1, "imagenet", 50.0, 0.5, "none"),
    "cliper": (25, "car", 100.0, 0.6, "none"),
    "cliper-coarse": (25, "car", 100.0, 0.6, "none"),
    "gem": (0, "single", 100.0, None, "none"),
    "maskclip": (0, "imagenet-scene", 100.0, None, "none"),
    "clipsurgery": (0, "imagenet-scene", 100.0, None, "none"),
    "agggem": (0, "single", 10.0, None, "none"),
    "diffsegclust": (0, "single", 10.0, None, "none"),
    "specclust": (0, "single", 10.0, None, "none"),
}
"""Words for the background, templates, logit scale, threshold and refinement of each method's published settings."""


@pytest.mark.parametrize("method", OF_VOC21)
def test_words_for_the_background_and_prompts_belong_to_the_method(method):
    found = published(method)
    settings, words = found.words.settings, found.words.vocabulary.owner.count(0)
    assert (words, settings.templates, settings.logit_scale, settings.threshold, found.refine) == OF_VOC21[method]


def test_sands_are_what_sclip_means():
    assert "sands" in published("sclip").words.vocabulary.words
    assert "sand" not in published("sclip").words.vocabulary.words


def test_without_background_the_settings_of_voc20_are_taken():
    assert published("sclip", background=False).words.settings.logit_scale == 40.0
    assert published("agggem", background=False).words.settings.logit_scale == 100.0
    found = published("cliper", background=False)
    settings = found.words.settings
    assert (settings.score_threshold, settings.threshold, settings.stretch) == (0.0, 0.001, False)
    assert found.words.vocabulary.owner.count(0) == 25  # they compete all the same


def test_the_settings_of_a_data_set_can_be_asked_for_and_single_ones_changed():
    found = published("cliper", settings="coco-object", templates="single", short_side=400).words.settings
    assert (found.logit_scale, found.attention_threshold, found.score_threshold) == (50, 0.2, 0.3)
    assert (found.short_side, len(found.background_words)) == (400, 23)
    assert published("naclip", settings="cityscapes").words.settings.windows == ((224, 112),)
    assert published("naclip", refine="none").refine == "none"
    with pytest.raises(UsageError, match=r"GEM has no published settings 'voc21'. It has: demo"):
        published("gem", settings="voc21")
    with pytest.raises(UsageError, match=r"Unknown settings 'voc'. Did you mean 'voc2\d'\? Data sets: voc21, voc20"):
        published("sclip", settings="voc")


def test_a_profile_with_settings_of_its_own_has_no_data_sets(store):
    choice = choose_method(store, MINI, ["cat"], "sclip")
    with pytest.raises(UsageError, match=r"'mini' has settings of its own.*--settings"):
        make_recipe(store, MINI, ["cat"], method=choice, options=SegmentOptions(settings="voc20"))


def test_where_nothing_can_become_background_it_is_told():
    (told,) = published("gem", ["cat", "dog"]).notes
    assert "GEM know no background, so every pixel gets a class: give words for it" in told
    assert published("gem", ["cat", "dog"], threshold=0.7).notes == ()
    assert published("gem", ["cat", "dog"], background_words=("sky",)).notes == ()
    assert published("gem", ["cat", "dog"], background=False).notes == ()
    many = [f"class {number}" for number in range(11)]
    assert published("agggem", many).notes == ()
    (told,) = published("agggem", many[:10]).notes
    assert "The background of AggGEM begins where every class is less probable than 0.1" in told
    assert published("sclip", ["cat", "dog"]).notes == published("aggsd", ["cat", "dog"]).notes == ()


UNHURRIED = [pytest.param(method, marks=pytest.mark.slow) for method in ("diffsegclust", "aggsd", "diffsegmenter")]


@pytest.mark.slow
@pytest.mark.parametrize("method", ["sclip", "cliper", "agggem", "hybrid", *UNHURRIED])
def test_the_order_of_the_classes_makes_no_difference(store, method):
    """Label maps have the same names at the same pixels, with the pre-filter and without."""
    orders = (["cat", "apple", "sky", "wood"], ["wood", "cat", "sky", "apple"])
    for prefilter in (True, False):
        options = SegmentOptions(prefilter=prefilter, short_side=96, windows=((0, 0),))
        maps = []
        for names in orders:
            ours = Segmenter(mini_models(), store, names, method=method, options=options)
            maps.append(np.array(["", *names])[ours.segment(example_scene(SCENE)).ids])
        # Sums over classes are rounded in another order.
        assert (maps[0] == maps[1]).mean() > 0.999


WINDOWS = {"448/224": (448, 224), "whole": (0, 0), "336/336": (336, 336)}


@pytest.mark.parametrize("typed", WINDOWS)
def test_windows_as_they_are_typed(typed):
    assert parse_windows([typed]) == (WINDOWS[typed],)
    assert parse_windows(["96/48, whole", typed]) == ((96, 48), (0, 0), WINDOWS[typed])
    assert parse_windows([]) is None


@pytest.mark.parametrize("typed", ["448", "a/b", "448/", "/2", "-4/2", "", "448x224"])
def test_what_is_no_window_is_refused(typed):
    with pytest.raises(UsageError, match="SIZE/STRIDE"):
        parse_windows([typed])


@pytest.mark.parametrize(
    "wrong",
    [
        {"windows": ((32, 64),)},
        {"windows": ((32, 0),)},
        {"windows": ()},
        {"short_side": 4},
        {"logit_scale": 0.0},
        {"templates": "many"},
        {"refine": "crf"},
        {"prototypes": ("mean", "mean")},
        {"prototypes": ("median",)},
    ],
    ids=str,
)
def test_options_that_cannot_be_are_refused(wrong):
    with pytest.raises(UsageError):
        SegmentOptions(**wrong)


def test_options_survive_a_record():
    options = SegmentOptions(
        threshold=0.25, extractors=("sd",), windows=((64, 32), (0, 0)), synonyms=(("cat", ("kitten", "puss")),)
    )
    assert SegmentOptions.from_record(json.loads(json.dumps(options.record()))) == options
    with pytest.raises(UsageError, match="another version"):
        SegmentOptions.from_record({"colour": "red"})


@pytest.mark.parametrize(
    ("wrong", "told"),
    [
        ({"threshold": "0.5"}, "threshold must be a number"),
        ({"short_side": 64.5}, "short_side must be a whole number"),
        ({"windows": "whole"}, "windows must be"),
        ({"windows": 5}, "windows must be"),
        ({"background": "no"}, "background must be True or False"),
        ({"prefilter": "no"}, "prefilter must be"),
        ({"background_words": "sky"}, "background_words must be a tuple"),
        ({"extractors": "sd"}, "extractors must be a tuple"),
        ({"prototypes": ["mean"]}, "prototypes must be a tuple"),
        ({"windows": ((64, 32), (64, 32))}, "once"),
        ({"synonyms": {"cat": ("puss",)}}, "synonyms must be"),
        ({"synonyms": (("cat", "puss"),)}, "synonyms must be"),
    ],
)
def test_options_of_the_wrong_kind_are_refused(wrong, told):
    with pytest.raises(UsageError, match=told):
        SegmentOptions(**wrong)
