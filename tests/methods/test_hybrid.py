"""Prototypes and words together."""

from __future__ import annotations

import copy
import dataclasses

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from ovseg_cli.methods.hybrid import hybrid_scores
from ovseg_cli.profiles import get_profile
from ovseg_cli.segmentation.options import SegmentOptions
from ovseg_cli.segmentation.recipe import choose_method, make_recipe
from ovseg_cli.segmentation.segmenter import Segmenter
from ovseg_cli.store import Store
from ovseg_cli.text.prefilter import Shortlist
from tests.mini import example_labels, example_names, example_scene, mini_class, mini_models
from tests.scores import class_scores

MINI = get_profile("mini")
SCENE = 8  # a cat, an apple and a soccer ball


def cosines(prototypes, seed=0):
    random = torch.Generator().manual_seed(seed)
    return torch.rand(prototypes + 1, 3, 5, generator=random) * 2 - 1


def likely(classes, seed=1):
    random = torch.Generator().manual_seed(seed)
    return torch.randn(classes + 1, 3, 5, generator=random).softmax(dim=0)


def reference(prototypes, words, known, scale, weight):
    """The formula, pixel by pixel and class by class."""
    prototypes, words = prototypes.double().numpy(), words.double().numpy()
    weight *= len(known) / (len(words) - 1)  # the share of the classes that prototypes know
    out = np.empty_like(words)
    for y, x in np.ndindex(words.shape[1:]):
        by_prototypes = np.exp(scale * prototypes[:, y, x])
        by_prototypes[0] *= len(words) - len(known)  # as many hypotheses
        by_prototypes /= by_prototypes.sum()
        for c in range(len(words)):
            judged = by_prototypes[known.index(c) + 1] if c in known else by_prototypes[0]
            out[c, y, x] = judged**weight * words[c, y, x] ** (1 - weight)
        out[:, y, x] /= out[:, y, x].sum()
    return out


@pytest.mark.parametrize("known", [[1], [3], [2, 4], [4, 2], [1, 2, 3, 4], [3, 1, 4, 2]])
@pytest.mark.parametrize(("scale", "weight"), [(20.0, 0.5), (5.0, 0.25), (60.0, 0.9)])
def test_the_scores_are_the_formulas(known, scale, weight):
    prototypes, words = cosines(len(known)), likely(4)
    ours = hybrid_scores(prototypes, words, known, scale=scale, weight=weight)
    assert (ours.dtype, ours.shape) == (torch.float32, words.shape)
    np.testing.assert_allclose(ours, reference(prototypes, words, known, scale, weight), atol=1e-5)
    np.testing.assert_allclose(ours.sum(dim=0), 1, atol=1e-5)
    assert (ours >= 0).all()


def test_without_prototypes_it_is_what_the_words_say():
    words = likely(3)
    ours = hybrid_scores(cosines(0), words, [], scale=20.0, weight=0.5)
    torch.testing.assert_close(ours, words, atol=1e-6, rtol=0)
    best = likely(3) * 0.3  # the best word of each class: they need not sum to 1
    assert torch.equal(hybrid_scores(cosines(0), best, [], scale=20.0, weight=0.5), best)


def test_the_weight_goes_from_words_alone_to_prototypes_alone():
    prototypes, words = cosines(3), likely(3)
    only_words = hybrid_scores(prototypes, words, [1, 2, 3], scale=20.0, weight=0.0)
    torch.testing.assert_close(only_words, words, atol=1e-6, rtol=0)
    only_prototypes = hybrid_scores(prototypes, words, [1, 2, 3], scale=20.0, weight=1.0)
    torch.testing.assert_close(only_prototypes, (prototypes * 20).softmax(dim=0), atol=1e-6, rtol=1e-3)


def test_the_fewer_classes_prototypes_know_the_less_they_count():
    """Words say the same of all: what is left is what prototypes say of the class that they know."""
    words = torch.full((5, 1, 1), 0.2)
    sure = {1: torch.tensor([0.0, 0.5]), 2: torch.tensor([0.0, 0.5, -1.0])}
    one, two = (
        hybrid_scores(seen.view(-1, 1, 1), words, [1, 2][:n], scale=20.0, weight=0.8)[:, 0, 0]
        for n, seen in sure.items()
    )
    # log odds against the background: the known share of the weight, times 10 less the prior of all others
    assert (one[1] / one[0]).log() == pytest.approx(0.2 * (10 - np.log(4)), rel=1e-4)
    assert (two[1] / two[0]).log() == pytest.approx(0.4 * (10 - np.log(3)), rel=1e-4)
    torch.testing.assert_close(one[[2, 3, 4]], one[[0, 0, 0]])  # prototypes do not tell these from the background


def test_where_prototypes_are_sure_of_something_else_a_known_class_loses():
    words = torch.tensor([0.1, 0.5, 0.4]).view(3, 1, 1)
    known_is_absent = torch.tensor([0.9, 0.2]).view(2, 1, 1)
    ours = hybrid_scores(known_is_absent, words, [1], scale=20.0, weight=0.5)[:, 0, 0]
    assert ours.argmax() == 2
    weight = 0.5 / 2  # prototypes know one of two classes
    assert ours[2] / ours[0] == pytest.approx((0.4 / 0.1) ** (1 - weight))  # among the others, words decide


def test_the_order_of_the_classes_changes_nothing_else():
    prototypes, words = cosines(2), likely(3)
    straight = hybrid_scores(prototypes, words, [1, 3], scale=20.0, weight=0.5)
    turned = hybrid_scores(prototypes[[0, 2, 1]], words[[0, 3, 2, 1]], [1, 3], scale=20.0, weight=0.5)
    torch.testing.assert_close(turned[[0, 3, 2, 1]], straight)


def test_words_that_are_never_right_give_no_nonsense():
    words = torch.zeros(3, 1, 2)
    words[1] = 1.0
    ours = hybrid_scores(torch.tensor([1.0, -1.0]).view(2, 1, 1).expand(2, 1, 2), words, [1], scale=1e4, weight=0.5)
    assert ours.isfinite().all()
    torch.testing.assert_close(ours.sum(dim=0), torch.ones(1, 2))


def test_half_precision_gives_single():
    prototypes, words = cosines(2).half(), likely(3).half()
    ours = hybrid_scores(prototypes, words, [1, 2], scale=20.0, weight=0.5)
    assert ours.dtype == torch.float32
    np.testing.assert_allclose(ours, reference(prototypes, words, [1, 2], 20.0, 0.5), atol=1e-4)


@pytest.mark.parametrize(
    ("prototypes", "known"),
    [(2, [1]), (1, [1, 2]), (1, []), (2, [1, 1]), (1, [0]), (1, [4]), (1, [-1]), (2, [1, 4])],
)
def test_numbers_that_do_not_fit_are_refused(prototypes, known):
    with pytest.raises(ValueError, match="do not fit"):
        hybrid_scores(cosines(prototypes), likely(3), known, scale=20.0, weight=0.5)


# --------------------------------------------------------------------------- in the segmenter

QUICK = {"short_side": 96, "windows": ((64, 32),)}


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    """Two of the three classes that the picture shows."""
    with Store.open(tmp_path_factory.mktemp("hybrid") / "store", profile="mini") as opened:
        opened.add_class(mini_class("cat"))
        opened.add_class(mini_class("apple"))
        yield opened


def segmenter(store, names, method="hybrid", **options):
    return Segmenter(mini_models(), store, names, method=method, options=SegmentOptions(**{**QUICK, **options}))


MIXES = {
    "none": ("soccer ball", "car"),
    "half": ("soccer ball", "cat", "car", "apple"),
    "all": ("cat", "apple"),
}


@pytest.mark.slow
@pytest.mark.parametrize(("prefilter", "background"), [(True, True), (False, False)])
@pytest.mark.parametrize("mix", MIXES)
def test_any_mix_of_classes_is_segmented(store, mix, prefilter, background):
    names = MIXES[mix]
    ours = segmenter(store, names, prefilter=prefilter, background=background)
    scored = ours.score(example_scene(SCENE))
    if mix != "none":
        np.testing.assert_allclose(class_scores(scored).sum(dim=0), 1, atol=1e-4)
    assert (scored.kept is not None) == prefilter
    result = ours.label(scored)
    assert result.method == "hybrid"
    assert result.ids.shape == example_scene(SCENE).shape[:2]
    assert (0 if background else 1) <= result.ids.min() <= result.ids.max() <= len(names)
    assert sum(result.shares.values()) == pytest.approx(1)


@pytest.mark.slow
@pytest.mark.parametrize("prefilter", [True, False])
@pytest.mark.parametrize("threshold", [None, 0.6])
def test_without_any_prototypes_it_is_the_profiles_best_method(store, prefilter, threshold):
    """With the threshold that this method has, too."""
    models = copy.copy(mini_models())
    dense = dataclasses.replace(MINI.clip.dense, threshold=threshold)
    models.profile = dataclasses.replace(MINI, clip=dataclasses.replace(MINI.clip, dense=dense))
    options = SegmentOptions(**QUICK, prefilter=prefilter)
    ours, best = (
        Segmenter(models, store, MIXES["none"], method=method, options=options).segment(example_scene(SCENE))
        for method in ("hybrid", MINI.clip.best)
    )
    assert (ours.ids == best.ids).mean() > 0.999
    assert ours.kept == best.kept


@pytest.mark.slow
@pytest.mark.parametrize("names", [MIXES["half"], MIXES["all"], ("apple", "soccer ball", "cat")], ids=str)
def test_the_scores_are_those_of_the_two_methods_joined(store, names):
    picture = example_scene(SCENE)[60:190]
    with_prototypes = [name for name in names if store.has_class(name)]
    ours = segmenter(store, names, prefilter=False).score(picture)
    prototypes = class_scores(segmenter(store, with_prototypes, "prototype", prefilter=False).score(picture))
    spoken = segmenter(store, names, MINI.clip.best).score(picture)
    words = F.interpolate(spoken.values[None], prototypes.shape[1:], mode="bilinear", align_corners=False)[0]
    words = spoken.head.apply(words)
    known = [names.index(name) + 1 for name in with_prototypes]
    expected = hybrid_scores(prototypes, words, known, scale=MINI.hybrid.scale, weight=MINI.hybrid.weight)
    torch.testing.assert_close(ours.values, expected, atol=1e-5, rtol=0)


class Fixed:
    """A pre-filter that always says the same."""

    def __init__(self, *classes):
        self.kept = Shortlist(classes, tuple(0.25 for _ in classes))

    def __call__(self, picture):
        return self.kept


@pytest.mark.slow
@pytest.mark.parametrize("kept", [(0, 1), (0, 2), (1,), (0,), (1, 3)], ids=str)
def test_what_the_filter_drops_was_never_asked_for(store, kept):
    """Also where no class with prototypes is left, or none without."""
    names, picture = MIXES["half"], example_scene(SCENE)[60:190]
    filtered = segmenter(store, names, prefilter=True)
    filtered._prefilter = Fixed(*kept)
    scored = filtered.score(picture)
    alone = segmenter(store, [names[place] for place in kept], prefilter=False)
    ids = alone.segment(picture).ids
    assert (filtered.label(scored).ids == np.array([0, *(place + 1 for place in kept)])[ids]).mean() > 0.999
    torch.testing.assert_close(class_scores(scored), class_scores(alone.score(picture)), atol=1e-5, rtol=0)


def test_objects_with_and_without_prototypes_are_found(store):
    names = ("soccer ball", "cat", "apple")
    result = segmenter(store, names, background=False).segment(example_scene(SCENE))
    truth = example_labels(SCENE)
    for name in names:
        assert result.mask(name)[truth == example_names().index(name)].mean() > 0.8


def test_what_weighs_the_two_is_part_of_the_digest(store):
    settings = segmenter(store, MIXES["half"]).settings
    assert settings["hybrid"] == {"scale": MINI.hybrid.scale, "weight": MINI.hybrid.weight}
    assert settings["dense"]["method"] == MINI.clip.best
    assert [name for name, _ in settings["prototypes"]] == ["cat", "apple"]
    assert settings["words"]["classes"] == list(MIXES["half"])
    assert "hybrid" not in segmenter(store, MIXES["half"], "gem").settings


def test_stuff_without_prototypes_passes_the_filter_too(store):
    """By the bundled list: what a text says of a picture is seldom the sky that is in it."""
    names = ["cat", "sky", "dog"]
    assert store.has_class("cat")
    assert not store.has_class("sky")
    for method, kept in (("hybrid", True), ("gem", True), ("aggsd", False)):
        choice = choose_method(store, MINI, names, method)
        resolved = make_recipe(store, MINI, names, method=choice, options=SegmentOptions(prefilter=True))
        assert ("sky" in resolved.prefilter.stuff) == kept
        assert "cat" not in resolved.prefilter.stuff
    ours = segmenter(store, names, prefilter=True).segment(example_scene(SCENE))
    assert "sky" in ours.kept


def test_classes_that_were_left_out_count_as_the_least_alike():
    """As if each of them had been compared, with the cosine of the least alike of those that were."""
    random = torch.Generator().manual_seed(3)
    prototypes = torch.rand(3, 4, 5, generator=random)
    words = torch.rand(7, 4, 5, generator=random).softmax(dim=0)
    least = prototypes[1:].amin(dim=0, keepdim=True)
    compared = torch.cat([prototypes, least, least])
    expected = hybrid_scores(compared, words, [2, 5, 1, 6], scale=20.0, weight=0.6)
    found = hybrid_scores(prototypes, words, [2, 5], [1, 6], scale=20.0, weight=0.6)
    torch.testing.assert_close(found, expected)
    with pytest.raises(ValueError, match="do not fit"):
        hybrid_scores(prototypes, words, [2, 5], [5], scale=20.0, weight=0.6)
