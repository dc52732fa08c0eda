"""Dense methods on pictures, with the bundled models."""

from __future__ import annotations

import copy
import dataclasses
import logging
import math

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from ovseg_cli.backbones.clip import ClipBackbone
from ovseg_cli.errors import ImageError, UsageError
from ovseg_cli.labeling.decide import enlarge_rows
from ovseg_cli.methods import cliper, clipsurgery, gem, last_layer, proxyclip, published
from ovseg_cli.methods.catalogue import METHODS, scorer_of, word_methods
from ovseg_cli.methods.domain import Domain
from ovseg_cli.methods.settings import dense_settings, templates_for
from ovseg_cli.profiles import get_profile
from ovseg_cli.scorers.cliper import CoarseCliper
from ovseg_cli.scorers.scorer import Crops, Walk
from ovseg_cli.scorers.tokens import TokenScorer
from ovseg_cli.scorers.words import narrow, whole_patches
from ovseg_cli.segmentation.options import SegmentOptions
from ovseg_cli.segmentation.recipe import choose_method, make_recipe
from ovseg_cli.segmentation.segmenter import Segmenter
from ovseg_cli.store import Store
from ovseg_cli.text.prefilter import Shortlist
from ovseg_cli.text.vocabulary import make_vocabulary
from tests.mini import example_labels, example_names, example_scene, mini_models, random_pictures
from tests.scores import class_scores, finished

MINI = get_profile("mini")
SCENE = 8  # a cat, an apple and a soccer ball
NAMES = ("cat", "apple", "soccer ball")
QUICK = {"short_side": 64, "windows": ((48, 24), (0, 0))}
TOKENS = tuple(name for name in word_methods() if scorer_of(name).__module__ == TokenScorer.__module__)


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    """Without classes: it keeps embeddings of texts."""
    with Store.open(tmp_path_factory.mktemp("dense") / "store", profile="mini") as opened:
        yield opened


WHOLE = {"short_side": 64, "windows": ((0, 0),)}
PHRASES = ("aggsd", "diffsegmenter")  # to which the whole picture is shown, several times


def segmenter(store, method, names=NAMES, **options):
    quick = WHOLE if method in PHRASES else QUICK
    return Segmenter(mini_models(), store, names, method=method, options=SegmentOptions(**{**quick, **options}))


def scorer(method, vocabulary, models=None, **changes):
    models = models or mini_models()
    settings = dataclasses.replace(dense_settings(models.profile, method), **changes)
    return scorer_of(method)(models, vocabulary, settings, templates_for(models.profile, settings, None))


def models_with(**changes):
    """The bundled models with another CLIP specification."""
    models = copy.copy(mini_models())
    models.profile = dataclasses.replace(MINI, clip=dataclasses.replace(MINI.clip, **changes))
    return models


class Fixed:
    """A pre-filter that always says the same."""

    def __init__(self, *classes):
        self.kept = Shortlist(classes, tuple(0.25 for _ in classes))

    def __call__(self, picture):
        return self.kept


# --------------------------------------------------------------------------- every method


@pytest.mark.slow
@pytest.mark.parametrize("background", [True, False])
@pytest.mark.parametrize("method", word_methods())
def test_a_picture_is_segmented_and_the_same_way_again(store, method, background):
    picture = example_scene(SCENE)[60:180, 100:256]
    ours = segmenter(store, method, background=background)
    scored = ours.score(picture)
    scores = class_scores(scored)
    assert scores.shape[0] == len(scored.classes) + 1
    assert scores.dtype == torch.float32
    assert scores.isfinite().all()
    result = ours.label(scored)
    assert (result.ids.shape, result.ids.dtype) == ((120, 156), np.uint16)
    assert (0 if background else 1) <= result.ids.min() <= result.ids.max() <= 3
    assert sum(result.shares.values()) == pytest.approx(1)
    assert np.isfinite(list(result.mean_scores.values())).all()
    assert result.method == method
    again = segmenter(store, method, background=background).segment(picture)
    np.testing.assert_array_equal(again.ids, result.ids)
    assert again.mean_scores == result.mean_scores


@pytest.mark.slow
@pytest.mark.parametrize("method", [*TOKENS, "cliper-coarse", "agggem"])
def test_objects_get_their_names(store, method):
    """Not how good a method is: a method that reads another block or another grid than it should fails here."""
    wide = {"short_side": 96, "windows": ((64, 32), (0, 0))}
    result = segmenter(store, method, background=False, **wide).segment(example_scene(SCENE))
    truth = example_labels(SCENE)
    for number, name in enumerate(NAMES, start=1):
        assert (result.ids[truth == example_names().index(name)] == number).mean() > 0.8


@pytest.mark.slow
@pytest.mark.parametrize(
    ("method", "background"), [*((method, True) for method in word_methods()), ("gem", False), ("cliper-coarse", False)]
)
def test_what_the_filter_drops_was_never_asked_for(store, method, background):
    picture = example_scene(SCENE)[60:180, 100:256]
    filtered = segmenter(store, method, background=background, prefilter=True)
    filtered._prefilter = Fixed(0, 2)
    few = segmenter(store, method, (NAMES[0], NAMES[2]), background=background, prefilter=False)
    ours, alone = filtered.score(picture), few.score(picture)
    assert ours.classes == (0, 2)
    np.testing.assert_array_equal(filtered.label(ours).ids, np.array([0, 1, 3])[few.label(alone).ids])
    if method in TOKENS:
        # The same products in a matrix of another width may be rounded otherwise.
        torch.testing.assert_close(class_scores(ours), class_scores(alone), atol=1e-5, rtol=0)


@pytest.mark.slow
@pytest.mark.parametrize("method", [*TOKENS, "hybrid"])
def test_a_picture_thinner_than_a_patch(store, method):
    ours = segmenter(store, method, prefilter=False, **WHOLE)
    for size in ((1, 40), (3, 200), (40, 1), (1, 1)):
        picture = np.random.default_rng(0).integers(0, 256, (*size, 3), dtype=np.uint8)
        assert ours.segment(picture).ids.shape == size


@pytest.mark.parametrize("method", TOKENS)
def test_a_crop_thinner_than_a_patch_has_a_row_of_patches(method):
    models = models_with(dense=None)
    ours = scorer(method, make_vocabulary(NAMES), models, squash=None)
    for (height, width), grid in {(3, 40): (1, 5), (40, 3): (5, 1), (1, 1): (1, 1)}.items():
        scores = ours.score(Crops(random_pictures(1, height, width), models))
        assert scores.shape == (1, 3, *grid)
        assert scores.isfinite().all()


# --------------------------------------------------------------------------- words


@pytest.mark.slow
@pytest.mark.parametrize("method", [m for m in word_methods() if m not in PHRASES])
def test_a_name_longer_than_clip_reads_is_told_and_counts_by_its_beginning(store, method, caplog):
    long = " ".join(["tabby"] * 300)
    picture = example_scene(SCENE)[60:120, 100:160]
    with caplog.at_level(logging.WARNING, logger="ovseg_cli"):
        result = segmenter(store, method, [long, "apple"]).segment(picture)
    [told] = [record.getMessage() for record in caplog.records if "CLIP reads at most 24 tokens" in record.getMessage()]
    assert len(told) < 300
    assert "beginning counts: tabby tabby" in told
    assert "apple" not in told
    assert result.ids.shape == (60, 60)
    longer = segmenter(store, method, [long + " and a dog", "apple"]).segment(picture)
    np.testing.assert_array_equal(longer.ids, result.ids)


@pytest.mark.parametrize("method", PHRASES)
def test_a_name_longer_than_the_diffusion_model_reads_is_refused(store, method):
    with pytest.raises(UsageError, match=r"wants class names whole.*text encoder can read: tabby .*Shorten them"):
        segmenter(store, method, [" ".join(["tabby"] * 30)])


def test_more_classes_than_a_prompt_holds_fail_for_the_picture(store):
    ours = segmenter(store, "aggsd", ["chocolate glazed donut", *SIXTY], prefilter=False)
    with pytest.raises(ImageError, match=r"longer than the text encoder's 24 tokens.*--image-classes"):
        ours.segment(example_scene(SCENE)[:40, :40])
    assert ours.segment(example_scene(SCENE)[:40, :40], [SIXTY[0]]).kept == {SIXTY[0]: None}


SIXTY = [f"{kind} {thing}" for kind in ("red", "small", "old") for thing in map("thing {}".format, range(20))]


@pytest.mark.slow
@pytest.mark.parametrize("method", word_methods())
def test_sixty_classes_at_once(store, method):
    ours = segmenter(store, method, SIXTY)
    scored = ours.score(example_scene(SCENE)[60:120, 100:160])
    assert class_scores(scored).shape[0] == len(scored.classes) + 1
    assert ours.label(scored).ids.max() <= 60


@pytest.mark.slow
@pytest.mark.parametrize("method", word_methods())
def test_names_in_other_scripts(store, method):
    names = ["猫", "Äpfel", "كرة قدم", "🐈"]
    result = segmenter(store, method, names, background=False).segment(example_scene(SCENE)[60:120, 100:160])
    assert result.names == tuple(names)
    assert set(result.shares) <= set(names)


@pytest.mark.slow
@pytest.mark.parametrize("method", word_methods())
def test_one_class_without_background_is_everywhere(store, method):
    result = segmenter(store, method, ["cat"], background=False).segment(example_scene(SCENE)[60:100, 100:160])
    assert result.shares == {"cat": 1.0}


@pytest.mark.parametrize("method", [*TOKENS, "cliper-coarse"])
def test_the_score_of_a_class_is_that_of_its_best_word(method):
    """The same words as one class and as several: the class has the largest of their scores."""
    crops = Crops(random_pictures(1, 64, 64), mini_models())
    together = make_vocabulary(["cat", "apple"], synonyms={"cat": ["dog", "fox"]}, background=["sky", "wood"])
    apart = make_vocabulary(["cat", "dog", "fox", "apple"], background=["sky", "wood"])
    assert together.words == apart.words
    one, each = scorer(method, together), scorer(method, apart)
    scores = one.score(crops)
    torch.testing.assert_close(scores, each.score(crops), atol=0, rtol=0)
    of_classes, of_words = (finished(s, scores[0]) for s in (one, each))
    assert of_classes.shape[0] == 3
    torch.testing.assert_close(of_classes[0], of_words[0])
    torch.testing.assert_close(of_classes[1], of_words[1:4].amax(dim=0))
    torch.testing.assert_close(of_classes[2], of_words[4])


@pytest.mark.parametrize("method", TOKENS)
def test_the_background_has_the_score_of_its_best_word(method):
    crops = Crops(random_pictures(1, 64, 64), mini_models())
    ours = scorer(method, make_vocabulary(["cat"], background=["sky", "wood"]))
    cosines = ours.score(crops)[0]
    likely = (cosines * 40.0).softmax(dim=0)
    torch.testing.assert_close(finished(ours, cosines), torch.stack([likely[1:].amax(dim=0), likely[0]]))
    torch.testing.assert_close(ours.probabilities(cosines), likely)
    assert ours.words == ("cat", "sky", "wood")


def test_some_classes_keep_their_words_and_those_of_the_background():
    vocabulary = make_vocabulary(
        ["cat", "apple", "ball"], synonyms={"ball": ["orb"], "cat": ["puss"]}, background=["s"]
    )
    narrowed, kept = narrow(vocabulary, [2, 0])
    assert narrowed.classes == ("ball", "cat")
    assert sorted(zip(narrowed.words, narrowed.owner, strict=True)) == [
        ("ball", 1),
        ("cat", 2),
        ("orb", 1),
        ("puss", 2),
        ("s", 0),
    ]
    assert tuple(vocabulary.words[i] for i in kept) == narrowed.words


@pytest.mark.parametrize("method", PHRASES)
@pytest.mark.parametrize(
    "asked", [{"templates": "short"}, {"logit_scale": 10.0}, {"synonyms": (("cat", ("kitten",)),)}], ids=str
)
def test_what_a_method_does_not_read_is_refused(store, method, asked):
    """The diffusion model reads one name per class, in prompts of its own, and no cosines."""
    choice = choose_method(store, MINI, NAMES, method)
    with pytest.raises(UsageError, match=next(iter(asked)).replace("_", "-").removesuffix("s")):
        make_recipe(store, MINI, NAMES, method=choice, options=SegmentOptions(**asked))


# --------------------------------------------------------------------------- digests


def with_generator(**changes):
    return dataclasses.replace(MINI, generator=dataclasses.replace(MINI.generator, **changes))


def with_other_dino():
    others = [
        dataclasses.replace(e, weights=dataclasses.replace(e.weights, revision="sha256:0")) if e.name == "dino" else e
        for e in MINI.extra_extractors
    ]
    return dataclasses.replace(MINI, extra_extractors=tuple(others))


@pytest.mark.parametrize(
    ("method", "changed"),
    [
        ("proxyclip", dataclasses.replace(MINI, proxy="clip")),
        ("proxyclip", with_other_dino()),
        ("cliper", with_generator(refine_layers=("up_blocks.2.attentions.1",))),
        ("cliper", with_generator(refine_threshold=0.1)),
        ("cliper-coarse", dataclasses.replace(MINI, clip=dataclasses.replace(MINI.clip, tuned=()))),
        ("diffsegclust", with_generator(cluster_divergence=0.8)),
        ("aggsd", with_generator(idle_attention="start")),
        ("cliper", with_generator(seed=7)),
        ("cliper", with_generator(read_size=32)),
        ("aggsd", with_generator(seed=7)),
        ("diffsegmenter", with_generator(phrase_size=32)),
        ("agggem", dataclasses.replace(MINI, regions=dataclasses.replace(MINI.regions, layers=("mid_block",)))),
        ("gem", dataclasses.replace(MINI, clip=dataclasses.replace(MINI.clip, streams=1))),
        ("gem", dataclasses.replace(MINI, clip=dataclasses.replace(MINI.clip, gem_temperature=3.0))),
    ],
)
def test_whatever_changes_the_answer_changes_the_digest(store, method, changed):
    choice = choose_method(store, MINI, NAMES, method)
    before, after = (
        make_recipe(store, p, NAMES, method=choice, options=SegmentOptions()).digest for p in (MINI, changed)
    )
    assert before != after


# --------------------------------------------------------------------------- one walk


def by_hand(method, crops, words):
    """Cosines of one batch of crops with words, written out."""
    models, spec = mini_models(), MINI.clip
    depth = models.clip.depth
    trace = models.clip.trace(crops, blocks=range(depth), input_size=64, mean=spec.mean, std=spec.std)
    blocks, grid = [trace.blocks[i] for i in range(depth)], trace.grid
    last = blocks[-1]
    if method == "proxyclip":
        dino = next(e for e in MINI.known_extractors if e.name == MINI.proxy)
        features = models.vit(dino.weights).tokens(crops, input_size=(64, 64), mean=dino.mean, std=dino.std)
        tokens, grid = proxyclip.proxyclip_tokens(last, features, grid), tuple(features.shape[2:])
    else:
        tokens = {
            "maskclip": lambda: last_layer.maskclip_tokens(last),
            "clipsurgery": lambda: clipsurgery.surgery_tokens(blocks[-spec.streams :]),
            "sclip": lambda: last_layer.sclip_tokens(last),
            "clearclip": lambda: last_layer.clearclip_tokens(last),
            "naclip": lambda: last_layer.naclip_tokens(last, grid),
            "gem": lambda: gem.gem_tokens(blocks[-spec.streams :], temperature=spec.gem_temperature),
        }[method]()[:, 1:]
    patches = models.clip.embed(tokens)
    texts = models.clip.embed_text(words, spec.prompts)
    return torch.einsum("bne,we->bwn", patches, texts).unflatten(2, grid)


@pytest.mark.parametrize("method", TOKENS)
def test_the_cosines_are_those_of_the_methods_tokens(method):
    crops = random_pictures(2, 48, 80, seed=3)
    vocabulary = make_vocabulary(["cat", "apple"], background=["sky"])
    ours = scorer(method, vocabulary).score(Crops(crops, mini_models()))
    assert ours.dtype == torch.float32
    assert ours.abs().max() <= 1 + 1e-5
    torch.testing.assert_close(ours, by_hand(method, crops, vocabulary.words), atol=1e-5, rtol=0)


@pytest.fixture
def walks(monkeypatch):
    """What CLIP's vision tower was asked for, call by call."""
    seen = []
    trace = ClipBackbone.trace

    def counted(self, images, *, blocks, input_size, **others):
        seen.append((tuple(blocks), input_size))
        return trace(self, images, blocks=blocks, input_size=input_size, **others)

    monkeypatch.setattr(ClipBackbone, "trace", counted)
    # What asks whether the models know such pictures has a short walk of its own, which no method is to blame for.
    monkeypatch.setattr(Domain, "scores", lambda self, images: torch.zeros(len(images)))
    return seen


def test_methods_that_look_at_the_same_crops_share_one_walk(walks):
    scorers = [scorer(method, make_vocabulary(["cat", "apple"])) for method in TOKENS]
    crops = Crops(random_pictures(2, 64, 64), mini_models(), [s.walk((64, 64)) for s in scorers])
    together = [s.score(crops) for s in scorers]
    assert len(walks) == 1
    for method_scorer, shared in zip(scorers, together, strict=True):
        alone = method_scorer.score(Crops(crops.images, mini_models()))
        torch.testing.assert_close(alone, shared, atol=0, rtol=0)


def test_a_later_request_for_more_blocks_walks_again_and_keeps_them_all(walks):
    last, stream = (scorer(method, make_vocabulary(["cat"])) for method in ("sclip", "gem"))
    crops = Crops(random_pictures(1, 64, 64), mini_models())
    depth = mini_models().clip.depth
    last.score(crops)
    assert walks == [((depth - 1,), (64, 64))]
    stream.score(crops)
    assert walks[1:] == [(tuple(range(depth - MINI.clip.streams, depth)), (64, 64))]
    last.score(crops)
    stream.score(crops)
    assert len(walks) == 2


def test_another_size_or_other_positions_are_another_walk(walks):
    crops = Crops(random_pictures(1, 64, 64), mini_models())
    for size, positions in (((64, 64), "bicubic"), ((64, 64), "bilinear"), ((32, 64), "bicubic")) * 2:
        assert crops.trace(Walk(size, positions, [1], MINI.clip.mean, MINI.clip.std)).grid == (
            size[0] // 8,
            size[1] // 8,
        )
    assert len(walks) == 3


def test_a_segmenter_walks_once_for_each_batch_of_crops(store, walks):
    segmenter(store, "gem", windows=((48, 24),), short_side=96).segment(example_scene(SCENE)[:96, :96])
    assert len(walks) == 1  # nine crops of one size


# --------------------------------------------------------------------------- crops of any aspect


@pytest.mark.parametrize("method", TOKENS)
def test_without_a_square_crops_keep_their_aspect_in_whole_patches(method, walks):
    models = models_with(dense=None)
    patch = models.clip.patch
    ours = scorer(method, make_vocabulary(NAMES), models, squash=None)
    how = dense_settings(models.profile, method).patches
    whole = {"round": round, "floor": math.floor, "pad": math.ceil}[how]
    for height, width in ((64, 96), (37, 90), (30, 200)):
        scores = ours.score(Crops(random_pictures(1, height, width), models))
        size = (whole(height / patch) * patch, whole(width / patch) * patch)
        assert walks[-1][1] == whole_patches(height, width, patch, how) == size
        if method != "proxyclip":  # which has the grid of the other network
            assert scores.shape[2:] == (size[0] // patch, size[1] // patch)


@pytest.mark.parametrize(("patches", "size"), [("floor", (16, 24)), ("pad", (24, 32))])
def test_what_does_not_fill_a_patch_is_left_out_or_filled_with_the_mean_colour(patches, size):
    """The pixels that remain are what they were: nothing is resized."""
    walk = Walk(size, "bicubic", [1], MINI.clip.mean, MINI.clip.std, patches)
    images = random_pictures(2, 21, 27)
    fitted = walk.fitted(images)
    rows, columns = (min(pair) for pair in zip(size, (21, 27), strict=True))
    assert torch.equal(fitted[..., :rows, :columns], images[..., :rows, :columns])
    assert fitted.shape == (2, 3, *size)
    added = fitted[..., rows:, :].flatten(2).unique(dim=2)
    assert patches == "floor" or torch.equal(added[0, :, 0], torch.tensor(MINI.clip.mean))


def test_published_geometry_cuts_a_wide_picture_into_windows_and_keeps_what_is_smaller(store, walks):
    """Windows of 48 in a picture of 40 x 80: crops are as high as the picture, which is no square."""
    options = SegmentOptions(short_side=40, windows=((48, 24),))
    models = models_with(dense=None)
    result = Segmenter(models, store, NAMES, method="sclip", options=options).segment(example_scene(SCENE)[:50, :100])
    assert result.ids.shape == (50, 100)
    assert walks == [((models.clip.depth - 1,), (40, 48))]


def test_the_whole_picture_keeps_its_aspect(store, walks):
    options = SegmentOptions(short_side=48, windows=((0, 0),))
    picture = example_scene(SCENE)[:60, :110]
    Segmenter(models_with(dense=None), store, NAMES, method="naclip", options=options).segment(picture)
    assert [size for _, size in walks] == [(48, 88)]


@pytest.mark.parametrize("height", [1, 5, 11, 12, 20, 64])
def test_whole_patches_are_the_nearest_and_never_none(height):
    rows, columns = whole_patches(height, 3 * height, 8)
    assert rows % 8 == columns % 8 == 0
    assert rows >= 8
    assert columns >= 8
    assert abs(rows - height) <= 4 or rows == 8


def test_a_profile_without_another_network_has_no_proxyclip(store):
    models = copy.copy(mini_models())
    models.profile = dataclasses.replace(MINI, proxy=None)
    with pytest.raises(UsageError, match=r"ProxyCLIP needs a self-supervised network.*--method or --profile"):
        Segmenter(models, store, NAMES, method="proxyclip")


# --------------------------------------------------------------------------- CLIPer


def test_refinement_changes_cliper_and_keeps_its_coarse_maps(store):
    picture = example_scene(SCENE)[60:180, 100:256]
    coarse, refined = (segmenter(store, m, background=False).score(picture) for m in ("cliper-coarse", "cliper"))
    assert coarse.values.shape[0] == refined.values.shape[0]
    ids = [segmenter(store, m, background=False).segment(picture).ids for m in ("cliper-coarse", "cliper")]
    assert (ids[0] != ids[1]).mean() > 0.01


def test_words_for_the_background_have_no_map_and_become_no_class():
    crops = Crops(random_pictures(1, 64, 64), mini_models())
    vocabulary = make_vocabulary(["cat", "apple"], synonyms={"cat": ["dog"]}, background=["sky", "wood", "sand"])
    ours = scorer("cliper-coarse", vocabulary)
    assert isinstance(ours, CoarseCliper)
    scores = ours.score(crops)
    assert ours.channels == scores.shape[1] == 3
    assert finished(ours, scores[0]).shape[0] == 3  # two classes and the background
    without = scorer("cliper-coarse", make_vocabulary(["cat", "apple"], synonyms={"cat": ["dog"]})).score(crops)
    assert not torch.allclose(without, scores)  # but they compete


def test_the_coarse_maps_are_those_of_the_methods_functions():
    crops = random_pictures(1, 48, 64, seed=2)
    spec, clip = MINI.clip, mini_models().clip
    vocabulary = make_vocabulary(["cat", "apple"], background=["sky"])
    ours = scorer("cliper-coarse", vocabulary).score(Crops(crops, mini_models()))
    trace = clip.trace(
        crops, blocks=range(clip.depth), input_size=64, mean=spec.mean, std=spec.std, positions="bilinear"
    )
    fused = cliper.fuse_early_layers([trace.blocks[i] for i in range(clip.depth)])
    named, other = clip.embed_text(vocabulary.words, spec.prompts).split([2, 1])
    texts = cliper.cliper_texts(named, other)
    maps = cliper.cliper_maps(
        [clip.embed(tokens)[:, 1:] @ texts.T for tokens in fused.tokens],
        fused.attention,
        classes=2,
        grid=(8, 8),
        logit_scale=spec.dense.logit_scale,
        layer=published.CLIPER["voc21"].layer,
        threshold=published.CLIPER["voc21"].attention_threshold,
    )
    torch.testing.assert_close(ours, maps, atol=1e-5, rtol=1e-5)


def test_cliper_leaves_what_scores_low_to_the_background(store):
    """CLIPer has a background by a threshold alone: with it, a picture of three objects has some."""
    result = segmenter(store, "cliper-coarse", threshold=0.6).segment(example_scene(SCENE))
    truth = example_labels(SCENE)
    for name in ("sky", "wood"):
        assert (result.ids[truth == example_names().index(name)] == 0).mean() > 0.5


# --------------------------------------------------------------------------- self-attention


@pytest.mark.parametrize("method", ["diffsegclust", "specclust"])
def test_every_region_has_one_label(store, method):
    """Labels of regions: no more label changes than the regions' own borders have."""
    ours = segmenter(store, method, background=False)
    scored = ours.score(example_scene(SCENE))
    values = enlarge_rows(scored.values, scored.size, 0, scored.size[0], scored.enlargement)
    columns = scored.head.apply(values).flatten(1).unique(dim=1)
    assert columns.shape[1] <= len(scored.values) < values[0].numel() / 100


@pytest.mark.parametrize("method", PHRASES)
def test_the_diffusion_model_looks_for_classes_in_the_whole_picture(method):
    """CLIP's windows are not for it."""
    settings = dense_settings(MINI, method)
    assert MINI.clip.dense.windows
    assert (settings.windows, settings.whole_image) == ((), True)
    assert dense_settings(get_profile("sd15"), method) == METHODS[method].settings["voc21"]


@pytest.mark.slow
@pytest.mark.parametrize("method", PHRASES)
def test_maps_of_phrases_are_scaled_over_the_picture_and_not_over_each_crop(method):
    crops = Crops(random_pictures(2, 32, 32), mini_models())
    ours = scorer(method, make_vocabulary(["cat", "dog"], background=["sky"]))
    maps = ours.score(crops)
    assert (maps[:, 1:].amax(dim=(2, 3)) < 0.99).all()
    fused = torch.cat([*maps], dim=2)
    scores = finished(ours, fused)
    torch.testing.assert_close(scores[1:].amax(dim=(1, 2)), torch.ones(2))
    torch.testing.assert_close(scores[1:].amin(dim=(1, 2)), torch.zeros(2))


def test_the_background_of_aggsd_is_what_attracts_idle_attention():
    crops, vocabulary = Crops(random_pictures(1, 32, 32), mini_models()), make_vocabulary(["cat"], background=["sky"])
    models = copy.copy(mini_models())
    models.profile = with_generator(idle_attention="start")
    start, rest = scorer("aggsd", vocabulary, models).score(crops)[0, 0], scorer("aggsd", vocabulary).score(crops)[0, 0]
    assert start.max() < 0.5 < rest.max() <= 1


def test_cliper_takes_the_thresholds_of_the_profile():
    vocabulary, row = make_vocabulary(["cat"]), published.CLIPER["voc21"]
    assert scorer("cliper", vocabulary).threshold == dict(MINI.clip.tuned[0].values)["threshold"]
    assert scorer("cliper", vocabulary, models_with(tuned=())).threshold == row.threshold
    assert scorer("cliper", vocabulary, threshold=0.2).threshold == 0.2


def test_agggem_spreads_gems_own_probabilities(store):
    picture = example_scene(SCENE)[60:180, 100:256]
    plain, spread = (segmenter(store, m, background=False).score(picture) for m in ("gem", "agggem"))
    side = spread.values.shape[1:]
    small = F.interpolate(plain.values[None], side, mode="bilinear", align_corners=False)[0]
    assert not torch.allclose(plain.head.apply(small), spread.values, atol=1e-3)
