from __future__ import annotations

import dataclasses
import json
import logging

import numpy as np
import pytest
import torch
from PIL import Image
from torch.nn import functional as F

from ovseg_cli.backbones.pixels import resize, to_tensor
from ovseg_cli.errors import ClassChangedError, ImageError, UsageError
from ovseg_cli.explanations import (
    Explainer,
    Explanation,
    Match,
    Source,
    Standing,
    as_data,
    describe,
    draw,
    explainer,
    points,
)
from ovseg_cli.explanations.points import choose_points
from ovseg_cli.explanations.weights import cell_weights, taps
from ovseg_cli.explanations.words import headline, remarks
from ovseg_cli.files.labels import LabelMap
from ovseg_cli.labeling.windows import Crop, ScoreCanvas, all_crops
from ovseg_cli.profiles import get_profile
from ovseg_cli.profiles.geometry import short_side_size
from ovseg_cli.prototypes.build import SupportSettings, build_class
from ovseg_cli.prototypes.support import OwnPicture
from ovseg_cli.segmentation.options import SegmentOptions
from ovseg_cli.segmentation.segmenter import ScoreMaps, Segmenter
from ovseg_cli.store import Store
from ovseg_cli.store.records import ClassRecord, ExtractorRecord, PrototypeRecord, SupportRecord
from ovseg_cli.text.prefilter import Shortlist
from tests.mini import example_labels, example_names, example_scene, mini_models

MINI = get_profile("mini")
SCENE = 8  # a cat, an apple and a soccer ball
NAMES = ("cat", "apple")
POINTS = [(220, 120), (40, 150), (0, 0), (255, 191), (130, 90)]


def own_picture(scene, name):
    """One of the example pictures with the true mask of a class."""
    truth = example_labels(scene) == example_names().index(name)
    return OwnPicture(str(scene), example_scene(scene), truth, ~truth)


def scenes_with(name, most=3):
    index = example_names().index(name)
    return [n for n in range(30) if n != SCENE and (example_labels(n) == index).mean() > 0.01][:most]


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    """Two classes made from example pictures and their true masks."""
    settings = SupportSettings(parts=4, extractors=("sd", "clip"))
    with Store.open(tmp_path_factory.mktemp("explain") / "store", profile="mini") as opened:
        for name in NAMES:
            pictures = [own_picture(scene, name) for scene in scenes_with(name)]
            opened.add_class(build_class(mini_models(), name, settings, pictures=pictures))
        yield opened


@pytest.fixture(scope="module")
def explained(store):
    """The example picture, with all classes and extractors."""
    segmenter = Segmenter(mini_models(), store, NAMES, options=SegmentOptions(prefilter=False))
    return segmenter.segment(example_scene(SCENE)), *Explainer(segmenter, store).explain(example_scene(SCENE), POINTS)


def of_clip(store, **options):
    """A quick segmenter."""
    wanted = SegmentOptions(**{"extractors": ("clip",), "prefilter": False, **options})
    return Segmenter(mini_models(), store, NAMES, method="prototype", options=wanted)


def brute_force(store, extractor, image, names, channels):
    """Every prototype's cosine at every pixel, (P, H, W): features at full length, enlarged without any short cut."""
    models, inference = mini_models(), MINI.inference
    size = image.shape[:2]
    picture = resize(to_tensor(image), short_side_size(*size, inference.short_side))
    block = store.prototypes(list(names), extractor.digest)
    canvas = ScoreCanvas(len(block.ids), *picture.shape[2:], "cpu")
    best = ScoreCanvas(channels, *picture.shape[2:], "cpu")
    owner = np.where(block.role_is_fg, block.class_index + 1, 0)
    for crop in all_crops(*picture.shape[2:], inference.windows, whole_image=True):
        features = F.normalize(models.features(extractor, crop.cut(picture)), dim=1)[0]
        cosines = torch.einsum("pd,dhw->phw", torch.from_numpy(block.vectors), features)
        canvas.add(crop, cosines)
        best.add(crop, torch.stack([cosines[owner == c].amax(dim=0) for c in range(channels)]))

    def enlarge(scores):
        return F.interpolate(scores.mean()[None], size, mode="bilinear", align_corners=False)[0].numpy()

    return block, owner, enlarge(canvas), enlarge(best)


# --------------------------------------------------------------------------- the weights of a pixel


@pytest.mark.parametrize(("length", "wanted"), [(1, 1), (1, 5), (5, 1), (4, 9), (9, 4), (7, 7), (24, 192), (448, 31)])
def test_taps_are_those_of_bilinear_resizing(length, wanted):
    values = torch.rand(length, generator=torch.Generator().manual_seed(0))
    resized = F.interpolate(values[None, None], wanted, mode="linear", align_corners=False)[0, 0]
    for place in range(wanted):
        found = taps(length, wanted, place)
        assert sum(weight for _, weight in found) == pytest.approx(1)
        assert sum(float(values[i]) * weight for i, weight in found) == pytest.approx(float(resized[place]), abs=1e-4)


@pytest.mark.parametrize("size", [(40, 60), (11, 7), (90, 200), (1, 1)])
def test_a_score_is_the_weighted_sum_of_the_cells(size):
    canvas = (32, 48)
    crops = all_crops(*canvas, ((32, 16), (20, 10)), whole_image=True)
    # A network that sees the whole picture unsquashed has another grid there.
    grids = [(5, 5)] * (len(crops) - 1) + [(4, 6)]
    generator = torch.Generator().manual_seed(1)
    scores = [torch.rand(1, *grid, generator=generator) for grid in grids]
    sums = ScoreCanvas(1, *canvas, "cpu")
    for crop, values in zip(crops, scores, strict=True):
        sums.add(crop, values)
    enlarged = F.interpolate(sums.mean()[None], size, mode="bilinear", align_corners=False)[0, 0]
    for y, x in [(0, 0), (size[0] - 1, size[1] - 1), (size[0] // 2, size[1] // 3)]:
        weights = cell_weights((x, y), size=size, canvas=canvas, crops=crops, grids=grids)
        assert sum(sum(cells.values()) for cells in weights.values()) == pytest.approx(1)
        found = sum(float(scores[i][0, r, c]) * w for i, cells in weights.items() for (r, c), w in cells.items())
        assert found == pytest.approx(float(enlarged[y, x]), abs=1e-5)


def test_only_crops_that_cover_the_pixel_count():
    crops = [Crop(0, 0, 10, 10), Crop(0, 10, 10, 10)]
    weights = cell_weights((2, 2), size=(10, 20), canvas=(10, 20), crops=crops, grids=[(2, 2)] * 2)
    assert list(weights) == [0]


# --------------------------------------------------------------------------- truth


def test_explaining_changes_nothing_about_the_segmentation(explained):
    alone, segmentation, explanations = explained
    np.testing.assert_array_equal(segmentation.ids, alone.ids)
    assert segmentation.shares == alone.shares
    assert segmentation.mean_scores == alone.mean_scores
    assert [(e.x, e.y) for e in explanations] == POINTS


@pytest.mark.slow
def test_labels_and_scores_are_those_that_decide(store, explained):
    segmentation, _, explanations = explained
    best = sum(brute_force(store, e, example_scene(SCENE), NAMES, 3)[3] for e in MINI.extractors) / 2
    for e in explanations:
        assert e.label == ("background", *NAMES)[segmentation.ids[e.y, e.x]]
        scores = dict(zip(("background", *NAMES), best[:, e.y, e.x].clip(min=0), strict=True))
        assert {s.label: s.score for s in e.standings} == pytest.approx(scores, abs=1e-4)
        assert e.score == pytest.approx(max(scores.values()), abs=1e-4)
        assert e.runner_up.score == pytest.approx(sorted(scores.values())[1], abs=1e-4)
        assert (e.rule, e.method) == ("best", "prototype")


def test_the_parts_add_up_to_the_score(explained):
    for e in explained[2]:
        for label in (e.label, e.runner_up.label, "background"):
            matches = e.matches_of(label)
            assert [m.extractor for m in matches] == ["sd", "clip"]
            assert np.mean([m.score for m in matches]) == pytest.approx(e.score_of(label), abs=1e-5)


@pytest.mark.slow
def test_winning_prototypes_are_those_of_brute_force(store, explained):
    for extractor in MINI.extractors:
        block, owner, cosines, best = brute_force(store, extractor, example_scene(SCENE), NAMES, 3)
        for e in explained[2]:
            for match in (m for m in e.matches if m.extractor == extractor.name):
                channel = ("background", *NAMES).index(match.label)
                here = np.where(owner == channel, cosines[:, e.y, e.x], -2)
                place = int(here.argmax())
                assert match.cosine == pytest.approx(here[place], abs=1e-4)
                assert match.score == pytest.approx(best[channel, e.y, e.x], abs=1e-4)
                assert match.score >= match.cosine - 1e-6
                assert 0 <= match.share <= 1 + 1e-6
                source = match.source
                if source.id != block.ids[place]:  # two prototypes that are equally near
                    assert here[list(block.ids).index(source.id)] == pytest.approx(here[place], abs=1e-4)
                place = list(block.ids).index(source.id)
                assert source.kind == block.kind[place]
                assert source.class_name == block.classes[block.class_index[place]]
                assert source.role == ("bg" if match.label == "background" else "fg")


def test_the_support_image_is_the_one_that_the_store_names(store, explained):
    sources = {m.source.id: m for e in explained[2] for m in e.matches}
    assert len({m.source.kind for m in sources.values()}) > 1
    for info in store.prototype_info(list(sources)):
        source = sources[info.id].source
        assert (source.class_name, source.role, source.kind, source.pixels) == (
            info.class_name,
            info.role,
            info.kind,
            info.pixels,
        )
        assert 1 <= source.number <= source.of
        if info.kind != "mean":
            assert source.support == info.support
            assert source.found_by == ("own" if info.kind == "instance" else "most pixels")
        region = source.region
        scene = scenes_with(source.class_name)[source.support]
        np.testing.assert_array_equal(region.image, example_scene(scene))
        truth = example_labels(scene) == example_names().index(source.class_name)
        np.testing.assert_array_equal(region.mask, truth if source.role == "fg" else ~truth)
        assert region.similarity.shape == truth.shape
        assert np.abs(region.similarity).max() <= 1 + 1e-6


def test_of_a_mean_prototype_the_nearest_instance_is_shown(store):
    segmenter = of_clip(store, prototypes=("mean",))
    _, [e] = Explainer(segmenter, store).explain(example_scene(SCENE), [(220, 120)])
    block = store.prototypes(["cat"], MINI.pick_extractors(["clip"])[0].digest)
    for match in e.matches_of("cat"):
        instances = [i for i, kind in enumerate(block.kind) if kind == "instance" and block.role_is_fg[i]]
        mean = block.vectors[list(block.ids).index(match.source.id)]
        nearest = instances[int((block.vectors[instances] @ mean).argmax())]
        assert match.source.support == store.prototype_info([block.ids[nearest]])[0].support
        assert (match.source.kind, match.source.number, match.source.of) == ("mean", 1, 1)
        assert match.source.found_by == "most alike"


@pytest.mark.slow
@pytest.mark.parametrize("size", [(1, 1), (2, 1), (3, 200), (150, 4), (17, 33)])
def test_pictures_of_any_size(store, size):
    image = np.random.default_rng(0).integers(0, 256, (*size, 3), dtype=np.uint8)
    segmenter = of_clip(store)
    point = (size[1] - 1, size[0] - 1)
    segmentation, [e] = Explainer(segmenter, store).explain(image, [point])
    assert e.label == ("background", *NAMES)[segmentation.ids[point[1], point[0]]]
    assert np.mean([m.score for m in e.matches_of(e.label)]) == pytest.approx(e.score, abs=1e-5)
    labels = LabelMap.from_classes(NAMES)
    assert draw(Image.fromarray(image), segmentation.ids, labels, [e]).width > 600


# --------------------------------------------------------------------------- a planted prototype


def planted(name, cells, *, other=False):
    """A class whose only foreground prototypes are exact features of single cells of its two support images."""
    (extractor,) = MINI.pick_extractors(["clip"])
    side = (extractor.input_size, extractor.input_size)
    images = [example_scene(SCENE), example_scene(scenes_with("cat")[0])]
    features = mini_models().features(extractor, torch.cat([resize(to_tensor(image), side) for image in images]))
    shape = images[0].shape[:2]
    foreground = np.zeros(shape, bool)
    foreground[: shape[0] // 2] = True
    return ClassRecord(
        name=name,
        kind="thing",
        kind_source="user",
        seed=5,
        extractors=(ExtractorRecord(name="clip", digest=extractor.digest, dim=extractor.dim, spec=extractor.record()),),
        supports=tuple(
            SupportRecord(
                position=i,
                seed=5 + i,
                prompt="",
                image=image,
                attribution=foreground.astype(np.float32),
                foreground=foreground,
                background=~foreground,
            )
            for i, image in enumerate(images)
        ),
        prototypes=tuple(
            PrototypeRecord(
                extractor=extractor.digest,
                role="fg",
                kind=kind,
                vector=features[support, :, row, column].numpy().astype(np.float32),
                pixels=1,
                support=support,
            )
            for kind, support, row, column in cells
        ),
    )


def test_a_planted_prototype_is_named_with_its_support_image_and_place(tmp_path):
    (extractor,) = MINI.pick_extractors(["clip"])
    grid, (height, width) = extractor.grid, example_scene(SCENE).shape[:2]
    with Store.open(tmp_path / "store", profile="mini") as store:
        store.add_class(planted("right", [("part", 0, 1, 2), ("instance", 1, 5, 5)]))
        store.add_class(planted("wrong", [("part", 1, 4, 4)]))
        # The whole picture is the only crop.
        options = SegmentOptions(extractors=("clip",), prefilter=False, windows=((0, 0),))
        segmenter = Segmenter(mini_models(), store, ["wrong", "right"], options=options)
        # The middle of the cell, where no other cell takes part (for as long as the sizes allow).
        point = (round((2 + 0.5) * width / grid), round((1 + 0.5) * height / grid))
        _, [e] = Explainer(segmenter, store).explain(example_scene(SCENE), [point])
    assert e.label == "right"
    [match] = e.matches_of("right")
    assert (match.source.kind, match.source.support, match.source.seed) == ("part", 0, 5)
    assert match.source.found_by == "most pixels"
    assert match.cosine > 0.95
    similarity = match.source.region.similarity
    y, x = np.unravel_index(similarity.argmax(), similarity.shape)
    assert (y * grid // height, x * grid // width) == (1, 2)
    assert similarity.max() > 0.95
    assert e.matches_of("background") == ()  # there are no background prototypes
    assert "part prototype 1 of 1 of right" in describe(e)[1]
    assert "mostly from support image 0 (seed 5)" in describe(e)[1]


@pytest.mark.slow
def test_without_any_instance_no_support_image_is_made_up(tmp_path):
    record = planted("right", [("part", 0, 1, 2)])
    mean = dataclasses.replace(record.prototypes[0], kind="mean", support=None)
    with Store.open(tmp_path / "store", profile="mini") as store:
        store.add_class(dataclasses.replace(record, prototypes=(mean,)))
        segmenter = Segmenter(mini_models(), store, ["right"], options=SegmentOptions(extractors=("clip",)))
        segmentation, [e] = Explainer(segmenter, store).explain(example_scene(SCENE), [(9, 9)])
    [match] = e.matches_of("right")
    assert (match.source.support, match.source.found_by, match.source.region) == (None, None, None)
    assert describe(e)
    draw(Image.fromarray(example_scene(SCENE)), segmentation.ids, LabelMap.from_classes(["right"]), [e])


# --------------------------------------------------------------------------- what else decides


def at(segmenter, store, point=(220, 120)):
    segmentation, [e] = Explainer(segmenter, store).explain(example_scene(SCENE), [point])
    assert e.label == ("background", *NAMES)[segmentation.ids[point[1], point[0]]]
    return e


@pytest.mark.slow
def test_a_class_below_the_threshold_lost_to_the_background(store):
    plain = at(of_clip(store), store)
    assert (plain.label, plain.rule) == ("cat", "best")
    e = at(of_clip(store, threshold=0.999), store)
    assert (e.label, e.rule) == ("background", "threshold")
    assert (e.runner_up.label, e.runner_up.score) == ("cat", pytest.approx(plain.score))
    assert e.score < e.runner_up.score
    assert headline(e) == f"background {e.score:.3f}, though cat {plain.score:.3f}"
    told = " ".join(remarks(e))
    assert "below the threshold 0.999" in told
    assert f"{plain.score:.3f}" in told


def test_without_a_background_it_takes_no_part(store):
    e = at(of_clip(store, background=False), store, (0, 0))
    assert e.label in NAMES
    assert {s.label for s in e.standings} == set(NAMES)
    assert {m.label for m in e.matches} == set(NAMES)
    assert "The background took no part." in remarks(e)


def test_when_no_score_is_above_0_the_background_wins(store):
    segmenter = of_clip(store)
    compare = segmenter._prototypes[0].compare
    segmenter._prototypes[0].compare = lambda maps: compare(maps) - 3
    e = at(segmenter, store)
    assert (e.label, e.rule, e.score) == ("background", "nothing", 0)
    assert "No class has a score above 0" in " ".join(remarks(e))


def test_classes_that_the_prefilter_ruled_out_are_told_and_take_no_part(store):
    segmenter = of_clip(store)
    segmenter._prefilter = lambda picture: Shortlist((1,), (0.3,))
    e = at(segmenter, store, (40, 150))
    assert (e.label, e.ruled_out) == ("apple", ("cat",))
    assert {s.label for s in e.standings} == {"background", "apple"}
    assert {m.source.class_name for m in e.matches} == {"apple"}
    assert "The pre-filter ruled out for this picture: cat." in remarks(e)


@pytest.mark.slow
def test_refined_scores_decide_and_the_parts_are_those_before(store):
    plain, refined = at(of_clip(store), store), at(of_clip(store, refine="pamr"), store)
    assert refined.refined
    assert refined.score != pytest.approx(plain.score, abs=1e-4)
    for match, before in zip(refined.matches_of("cat"), plain.matches_of("cat"), strict=True):
        assert match.score == pytest.approx(before.score)
    assert f"cat had {plain.score:.3f}" in " ".join(remarks(refined))


def test_the_stuff_filter_is_told(store):
    e = dataclasses.replace(at(of_clip(store), store), stuff_filter=0.85)
    assert "cosine above 0.85" in " ".join(remarks(e))


def test_one_class_without_background_has_no_runner_up(store):
    options = SegmentOptions(extractors=("clip",), background=False)
    segmenter = Segmenter(mini_models(), store, ["cat"], options=options)
    _, [e] = Explainer(segmenter, store).explain(example_scene(SCENE), [(3, 3)])
    assert e.runner_up is None
    assert e.label == "cat"
    assert "Nothing else took part." in remarks(e)
    assert as_data(e)["runner_up"] is None


@pytest.mark.slow
def test_with_gem_the_words_are_the_explanation(store):
    segmenter = Segmenter(mini_models(), store, NAMES, method="gem")
    e = at(segmenter, store, (130, 20))
    scored = segmenter.score(example_scene(SCENE))
    cosines = F.interpolate(scored.values[None], scored.size, mode="bilinear")[0, :, e.y, e.x]
    probabilities = torch.softmax(cosines * MINI.clip.dense.logit_scale, dim=0)
    words = [*NAMES, *(w for w in MINI.clip.background_words if w not in NAMES)]
    expected = dict(zip(words, probabilities.tolist(), strict=True))
    assert 2 <= len(e.words) <= explainer.MOST_WORDS
    assert [w.label for w in e.words] == sorted(expected, key=lambda w: -expected[w])[: len(e.words)]
    for word in e.words:
        assert word.score == pytest.approx(expected[word.label], abs=1e-5)
        assert word.background == (word.label not in NAMES)
    assert e.matches == ()
    assert e.score_of("cat") == pytest.approx(expected["cat"], abs=1e-5)
    assert "uses no prototypes" in " ".join(describe(e))
    assert e.words[0].label in describe(e)[-1]


# --------------------------------------------------------------------------- points


def scored(scores, size=None):
    """Fused scores (C + 1, h, w) without any network behind them."""
    values = torch.as_tensor(np.asarray(scores), dtype=torch.float32)
    return ScoreMaps(
        size=size or tuple(values.shape[1:]),
        classes=tuple(range(len(values) - 1)),
        kept=None,
        prototypes=[],
        dense=None,
        values=values,
        head=None,
        enlargement="bilinear",
        features={},
    )


def test_points_lie_where_the_largest_region_is_furthest_ahead():
    scores = np.zeros((3, 20, 30))
    scores[0] = 0.3
    scores[1, 2:10, 2:12] = 0.5
    scores[1, 4, 7] = 0.8
    scores[1, 15, 25] = 0.9  # further ahead, but in a region of one pixel
    scores[2, 12:18, 4:10] = 0.6
    scores[0, 12:18, 7:10] = 0.5  # the runner-up is nearer on this side
    ids = scores.argmax(axis=0).astype(np.uint16)
    (x1, y1), (x2, y2) = choose_points(scored(scores), ids)
    assert (x1, y1) == (7, 4)
    assert 4 <= x2 < 7
    assert 12 <= y2 < 18


def test_where_all_are_as_good_the_point_is_in_the_middle():
    scores = np.zeros((2, 21, 21))
    scores[1, 3:18, 5:16] = 0.5
    assert choose_points(scored(scores), (scores[1] > 0).astype(np.uint16)) == [(10, 10)]


def test_without_any_class_the_point_is_where_one_comes_nearest():
    scores = np.zeros((2, 9, 9))
    scores[0] = 0.5
    scores[1, 6, 2] = 0.4
    assert choose_points(scored(scores), np.zeros((9, 9), np.uint16)) == [(2, 6)]


def test_the_largest_of_many_classes_are_explained():
    count = points.MOST_POINTS + 8
    ids = np.repeat(np.arange(count + 1), np.arange(3, count + 4)).astype(np.uint16)[None]
    scores = np.stack([(ids == i) * 0.5 for i in range(count + 1)])
    chosen = choose_points(scored(scores), ids)
    assert [int(ids[y, x]) for x, y in chosen] == list(range(count - points.MOST_POINTS + 1, count + 1))


def test_a_speck_between_the_looked_at_pixels_of_a_large_picture_is_found():
    ids = np.zeros((1, 4 * points.GRID), np.uint16)
    ids[0, 801] = 1
    scores = np.zeros((2, 1, 50))
    assert choose_points(scored(scores, ids.shape), ids) == [(801, 0)]


@pytest.mark.parametrize("background", [True, False])
def test_chosen_points_have_the_class_that_they_are_for(store, background):
    segmentation, explanations = Explainer(of_clip(store, background=background), store).explain(example_scene(SCENE))
    assert [e.label for e in explanations] == [n for n in NAMES if n in segmentation.shares]
    for e in explanations:
        assert segmentation.names[segmentation.ids[e.y, e.x] - 1] == e.label


@pytest.mark.slow
@pytest.mark.parametrize("point", [(256, 0), (0, 192), (-1, 5), (5, -1)])
def test_a_point_outside_is_refused_with_the_size(store, point):
    with pytest.raises(UsageError, match="256 pixels wide and 192 high"):
        Explainer(of_clip(store), store).explain(example_scene(SCENE), [point])


# --------------------------------------------------------------------------- mishaps


def test_a_support_image_that_cannot_be_read_is_left_out_and_told(store, monkeypatch, caplog):
    def damaged(path):
        raise ImageError(f"{path} is damaged")

    monkeypatch.setattr(explainer, "open_image", damaged)
    with caplog.at_level(logging.WARNING, logger="ovseg_cli"):
        e = at(of_clip(store), store)
    assert all(m.source.region is None and m.source.support is not None for m in e.matches)
    assert "is damaged" in caplog.text
    draw(Image.fromarray(example_scene(SCENE)), np.zeros((192, 256), np.uint16), LabelMap.from_classes(NAMES), [e])


def test_a_class_that_is_replaced_meanwhile_is_told(tmp_path):
    with Store.open(tmp_path / "store", profile="mini") as store:
        store.add_class(planted("right", [("part", 0, 1, 2)]))
        segmenter = Segmenter(mini_models(), store, ["right"], options=SegmentOptions(extractors=("clip",)))
        store.remove_classes(["right"])
        with pytest.raises(ClassChangedError, match="Run the same command again"):
            Explainer(segmenter, store).explain(example_scene(SCENE), [(0, 0)])


def test_a_large_support_image_is_shown_smaller(store, monkeypatch):
    monkeypatch.setattr(explainer, "REGION_SIDE", 50)
    e = at(of_clip(store), store)
    for match in e.matches:
        region = match.source.region
        assert region.image.shape == (38, 50, 3)
        assert region.mask.shape == region.similarity.shape == (38, 50)


def test_what_was_shown_once_is_remembered(store, monkeypatch):
    explaining = Explainer(of_clip(store), store)
    first = explaining.explain(example_scene(SCENE), [(220, 120)])[1]
    monkeypatch.setattr(explainer, "open_image", lambda path: pytest.fail("read again"))
    again = explaining.explain(example_scene(SCENE), [(220, 120)])[1]
    assert [m.source for m in again[0].matches] == [m.source for m in first[0].matches]


def test_memory_for_support_images_is_bounded(store, monkeypatch):
    monkeypatch.setattr(explainer, "MAX_REMEMBERED", 2)
    explaining = Explainer(of_clip(store), store)
    explaining.explain(example_scene(SCENE), POINTS)
    assert len(explaining._sources) == 2


# --------------------------------------------------------------------------- words and data


def test_words():
    source = Source(
        id=7, class_name="cat", role="fg", kind="part", number=12, of=32, pixels=9, support=3, found_by="most pixels"
    )
    e = Explanation(
        x=1,
        y=2,
        label="cat",
        method="prototype",
        standings=(
            Standing(label="cat", score=0.81),
            Standing(label="dog", score=0.74),
            Standing(label="background", score=0.5),
        ),
        matches=(Match(label="cat", extractor="sd", score=0.82, cosine=0.8, share=0.6, source=source),),
    )
    assert headline(e) == "cat 0.810, next dog 0.740, background 0.500"
    assert describe(e)[1] == (
        "sd: part prototype 12 of 32 of cat, cosine 0.800, mostly from support image 3 (your picture)."
    )
    surrounding = dataclasses.replace(source, role="bg", kind="mean", number=1, of=1, found_by="most alike", seed=45)
    e = dataclasses.replace(e, matches=(dataclasses.replace(e.matches[0], source=surrounding),))
    assert describe(e)[1] == (
        "sd: mean prototype of what surrounds cat, cosine 0.800, most like support image 3 (seed 45)."
    )


def test_data_is_plain_and_complete(explained):
    for e in explained[2]:
        data = json.loads(json.dumps(as_data(e), allow_nan=False))
        assert (data["x"], data["y"], data["label"]) == (e.x, e.y, e.label)
        assert data["scores"][0] == {"label": e.label, "score": round(e.score, 6)}
        assert data["runner_up"] == data["scores"][1]
        match = data["matches"][0]
        assert set(match) == {"label", "extractor", "score", "cosine", "share", "prototype"}
        assert {"id", "class_name", "role", "kind", "number", "of", "support", "seed"} <= set(match["prototype"])
        assert data["text"] == describe(e)


def test_explanations_are_drawn(explained):
    _, segmentation, explanations = explained
    picture = Image.fromarray(example_scene(SCENE))
    sheet = draw(picture, segmentation.ids, LabelMap.from_classes(NAMES), explanations, note="a note")
    assert sheet.mode == "RGB"
    assert sheet.height > len(explanations) * 200
