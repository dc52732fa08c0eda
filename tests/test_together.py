"""Several methods on one picture, several pictures at once, and classes that are named for a picture."""

from __future__ import annotations

import copy
import dataclasses

import numpy as np
import pytest
import torch

from ovseg_cli.backbones.clip import ClipBackbone
from ovseg_cli.backbones.unet import DiffusionBackbone
from ovseg_cli.errors import UnknownClassError, UsageError
from ovseg_cli.explanations import Explainer
from ovseg_cli.explanations.words import as_data, describe
from ovseg_cli.methods.catalogue import naming_methods
from ovseg_cli.methods.domain import Domain
from ovseg_cli.segmentation import images as module
from ovseg_cli.segmentation import segmenter as segmenter_module
from ovseg_cli.segmentation.options import SegmentOptions
from ovseg_cli.segmentation.segmenter import Segmenter, segment_together
from ovseg_cli.segmentation.together import score_together
from ovseg_cli.store import Store
from ovseg_cli.text.prefilter import ClassPrefilter
from tests.mini import example_scene, mini_class, mini_models
from tests.scores import class_scores

NAMES = ("cat", "apple", "soccer ball")
SOME = ("prototype", "gem", "sclip", "cliper", "agggem", "specclust")
"""One of each kind of scorer that is quick; the others are compared in the slow tests."""
EACH = [m if m in (*SOME, "hybrid") else pytest.param(m, marks=pytest.mark.slow) for m in naming_methods()]
QUICK = {"short_side": 64, "windows": ((48, 24), (0, 0))}
PICTURES = [example_scene(8)[60:180, 100:256], example_scene(3)[:120, :156], example_scene(5)[40:160, 20:176]]


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    """Two of the three classes have prototypes."""
    with Store.open(tmp_path_factory.mktemp("together") / "store", profile="mini") as opened:
        opened.add_class(mini_class("cat"))
        opened.add_class(mini_class("apple"))
        yield opened


def models_without_a_square():
    """Crops keep their aspect, as with published models."""
    models = copy.copy(mini_models())
    clip = dataclasses.replace(models.profile.clip, dense=None)
    models.profile = dataclasses.replace(models.profile, clip=clip)
    return models


def segmenter(store, method, names=NAMES, models=None, **options):
    if method == "prototype":
        names = NAMES[:2]
    return Segmenter(
        models or mini_models(), store, names, method=method, options=SegmentOptions(**{**QUICK, **options})
    )


@pytest.fixture
def calls(monkeypatch):
    """How many images each network was shown, call by call."""
    seen = {"clip": [], "self-attention": [], "prefilter": []}

    def counted(kind, name, method):
        inner = getattr(kind, method)

        def call(self, images, *args, **others):
            seen[name].append(len(images))
            return inner(self, images, *args, **others)

        monkeypatch.setattr(kind, method, call)

    # What asks whether the models know such pictures has a short walk of its own, which no method is to blame for.
    monkeypatch.setattr(Domain, "scores", lambda self, images: torch.zeros(len(images)))
    counted(ClipBackbone, "clip", "trace")
    counted(DiffusionBackbone, "self-attention", "self_attention")
    counted(ClassPrefilter, "prefilter", "__call__")
    return seen


def same(ours, alone):
    np.testing.assert_array_equal(ours.ids, alone.ids)
    assert (ours.method, ours.names, ours.shares, ours.kept) == (alone.method, alone.names, alone.shares, alone.kept)
    assert ours.mean_scores == pytest.approx(alone.mean_scores, abs=1e-6)


# --------------------------------------------------------------------------- methods


@pytest.mark.slow
@pytest.mark.parametrize(
    "methods", [SOME, pytest.param(tuple(naming_methods()), marks=pytest.mark.slow)], ids=["some", "all"]
)
def test_each_method_answers_as_it_does_alone(store, methods):
    segmenters = [segmenter(store, method) for method in methods]
    for ours, each in zip(segment_together(segmenters, PICTURES[0]), segmenters, strict=True):
        same(ours, each.segment(PICTURES[0]))


def test_methods_share_one_walk_and_one_self_attention(store, calls):
    methods = ["gem", "sclip", "naclip", "agggem", "specclust", "diffsegclust"]
    segment_together([segmenter(store, m, prefilter=False, windows=((48, 24),)) for m in methods], PICTURES[0])
    assert calls["clip"] == [6]  # all windows of 48 in a picture of 64 x 83
    assert calls["self-attention"] == [1]


def test_gems_tokens_are_computed_once_for_all_that_spread_them(store, monkeypatch):
    from ovseg_cli.methods import gem

    seen = []
    tokens = gem.gem_tokens
    monkeypatch.setattr(gem, "gem_tokens", lambda *args, **others: seen.append(1) or tokens(*args, **others))
    segment_together([segmenter(store, m, windows=((0, 0),)) for m in ("gem", "hybrid", "agggem")], PICTURES[0])
    assert len(seen) == 1


def test_the_same_filter_is_asked_once(store, calls):
    segmenters = [segmenter(store, method, prefilter=True) for method in ("gem", "sclip", "cliper-coarse")]
    segment_together(segmenters, PICTURES[0])
    assert calls["prefilter"] == [1]


@pytest.mark.slow
def test_filters_of_other_classes_are_others(store, calls):
    pair = [segmenter(store, "gem", prefilter=True), segmenter(store, "gem", NAMES[:2], prefilter=True)]
    ours = segment_together(pair, PICTURES[0])
    assert calls["prefilter"] == [1, 1]
    for answer, each in zip(ours, pair, strict=True):
        same(answer, each.segment(PICTURES[0]))


def test_methods_that_cut_pictures_otherwise_go_together_too(store):
    segmenters = [segmenter(store, "gem"), segmenter(store, "gem", short_side=96, windows=((0, 0),))]
    for ours, each in zip(segment_together(segmenters, PICTURES[0]), segmenters, strict=True):
        same(ours, each.segment(PICTURES[0]))


def test_refinement_is_each_segmenters_own(store):
    segmenters = [segmenter(store, "gem"), segmenter(store, "gem", refine="pamr")]
    plain, refined = segment_together(segmenters, PICTURES[0])
    same(refined, segmenters[1].segment(PICTURES[0]))
    assert (plain.ids != refined.ids).any()


def test_other_models_are_refused(store):
    from ovseg_cli.models import load_models
    from ovseg_cli.profiles import get_profile

    other = load_models(get_profile("mini"), device="cpu")
    pair = [segmenter(store, "gem"), segmenter(store, "gem", models=other)]
    with pytest.raises(ValueError, match="the same models"):
        segment_together(pair, PICTURES[0])


# --------------------------------------------------------------------------- batches


@pytest.mark.slow
@pytest.mark.parametrize("method", EACH)
def test_a_batch_gives_what_its_pictures_give_alone(store, method):
    ours = segmenter(store, method)
    for answer, picture in zip(ours.segment_batch(PICTURES), PICTURES, strict=True):
        alone = ours.segment(picture)
        # Products of another size may be rounded otherwise.
        assert (answer.ids == alone.ids).mean() > 0.999
        assert (answer.kept, answer.shares.keys()) == (alone.kept, alone.shares.keys())
        assert answer.mean_scores == pytest.approx(alone.mean_scores, abs=1e-3)


def test_pictures_of_a_batch_go_through_the_network_together(store, calls):
    segmenter(store, "gem", prefilter=False, windows=((0, 0),)).segment_batch(PICTURES)
    assert calls["clip"] == [3]


def test_a_batch_has_no_more_pictures_than_there_is_room_for(store, calls, monkeypatch):
    ours = segmenter(store, "gem", prefilter=False, windows=((0, 0),))
    cells = (ours._dense.channels + 3) * 64 * 83  # and the resized picture
    monkeypatch.setattr(segmenter_module, "MAX_CELLS_AT_ONCE", 2 * cells)
    ours.segment_batch(PICTURES)
    assert calls["clip"] == [2, 1]
    monkeypatch.setattr(segmenter_module, "MAX_CELLS_AT_ONCE", 1)
    ours.segment_batch(PICTURES)
    assert calls["clip"][2:] == [1, 1, 1]


@pytest.mark.slow
def test_crops_go_together_by_the_pixels_that_the_network_sees(store, calls):
    """A wide picture is not the square of its short side."""
    models = models_without_a_square()
    ours = segmenter(store, "sclip", models=models, short_side=256, windows=((0, 0),), prefilter=False)
    wide = np.tile(PICTURES[0], (1, 6, 1))
    ours.segment_batch([wide] * 3)
    assert calls["clip"] == [2, 1]  # of 256 x 1997 pixels each, where 4 * 512 ** 2 have room


def test_what_networks_have_seen_in_a_picture_goes_when_it_is_done(store, calls, monkeypatch):
    kept = []
    forget = module.Images.forget

    def watched(self, place):
        known = self.picture(place)._known
        seen = [*known]
        forget(self, place)
        kept.append((seen, [*known]))

    monkeypatch.setattr(module.Images, "forget", watched)
    segmenter(store, "agggem", prefilter=False, windows=((0, 0),)).segment_batch(PICTURES)
    assert calls["self-attention"] == [1, 1, 1]
    assert kept == [(["self-attention"], [])] * 3


def test_pictures_of_several_sizes_are_no_batch(store):
    with pytest.raises(ValueError, match="one size"):
        segmenter(store, "gem").segment_batch([PICTURES[0], PICTURES[1][:50]])
    with pytest.raises(ValueError, match="0 images of 0 sizes"):
        segmenter(store, "gem").segment_batch([])


@pytest.mark.slow
def test_each_picture_of_a_batch_has_its_own_classes(store):
    ours = segmenter(store, "hybrid")
    named = [["apple"], None, []]
    for answer, picture, own in zip(ours.segment_batch(PICTURES, named), PICTURES, named, strict=True):
        alone = ours.segment(picture, own)
        assert answer.kept == alone.kept
        assert (answer.ids == alone.ids).mean() > 0.999
    with pytest.raises(ValueError, match="given for 2 images, and there are 3"):
        ours.segment_batch(PICTURES, [None, None])


# --------------------------------------------------------------------------- classes of a picture


@pytest.mark.slow
@pytest.mark.parametrize("method", EACH)
def test_only_classes_that_are_named_for_a_picture_compete(store, method, calls):
    ours = segmenter(store, method)
    answer = ours.segment(PICTURES[0], ["Apple"])
    assert answer.kept == {"apple": None}
    assert set(answer.shares) <= {"background", "apple"}
    assert calls["prefilter"] == []
    few = segmenter(store, method, NAMES[1:2], prefilter=False) if method != "prototype" else None
    if few is not None:
        np.testing.assert_array_equal(answer.ids > 0, few.segment(PICTURES[0]).ids > 0)


@pytest.mark.parametrize("method", ["prototype", "hybrid", "gem", "cliper", "aggsd"])
def test_a_picture_that_no_class_may_be_in_is_background(store, method):
    ours = segmenter(store, method)
    answer = ours.segment(PICTURES[0], [])
    assert answer.shares == {"background": 1.0}
    assert answer.kept == {}
    assert not answer.ids.any()
    with pytest.raises(UsageError, match="neither may the background"):
        segmenter(store, method, background=False).segment(PICTURES[0], [])


@pytest.mark.parametrize("method", ["prototype", "gem"])
def test_a_picture_without_classes_can_be_explained(store, method):
    ours = segmenter(store, method)
    scored = ours.score(PICTURES[0], [], keep_features=True)
    assert scored.values.shape[0] == 1
    assert scored.features == {}
    answer, explanations = Explainer(ours, store).explain(PICTURES[0], classes=[])
    assert answer.shares == {"background": 1.0}
    (told,) = explanations
    assert (told.label, told.ruled_out) == ("background", ours.names)
    assert "Not among the classes named for this picture: cat" in " ".join(describe(told))
    assert as_data(told)["ruled_out_by"] == "image-classes"


def test_strings_are_no_lists_of_names(store):
    ours = segmenter(store, "gem")
    for call in (
        lambda: segmenter(store, "gem", "cat"),
        lambda: ours.segment(PICTURES[0], "cat"),
        lambda: ours.segment_batch(PICTURES[:2], ["cat", "apple"]),
        lambda: segment_together([ours], PICTURES[0], "cat"),
    ):
        with pytest.raises(UsageError, match=r"must be a list of names.*got 'cat'"):
            call()
    with pytest.raises(ValueError, match="at least one segmenter"):
        segment_together([], PICTURES[0])


def test_a_class_that_nobody_asked_for_is_refused(store):
    with pytest.raises(UnknownClassError, match="'dog' is not among the classes: cat, apple, soccer ball"):
        segmenter(store, "gem").segment(PICTURES[0], ["cat", "dog"])


@pytest.mark.slow
def test_scores_of_several_by_several(store):
    segmenters = [segmenter(store, "prototype"), segmenter(store, "sclip", prefilter=True)]
    answers = score_together(segmenters, PICTURES[:2], [["cat"], None])
    assert [len(own) for own in answers] == [2, 2]
    assert answers[0][0].classes == answers[1][0].classes == (0,)
    assert answers[1][1].kept is not None
    for scored in (one for own in answers for one in own):
        scores = class_scores(scored)
        assert scores.shape[0] == len(scored.classes) + 1
        assert scores.dtype == torch.float32
