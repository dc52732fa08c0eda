"""Stores of very many classes: found by the index for each picture, and scored as if all had been compared."""

from __future__ import annotations

import json
import pickle
from dataclasses import replace

import numpy as np
import pytest

from ovseg_cli.errors import ClassChangedError, UsageError
from ovseg_cli.segmentation import recipe as recipes
from ovseg_cli.segmentation import shelf as shelves
from ovseg_cli.segmentation import task as tasks
from ovseg_cli.segmentation.options import SegmentOptions
from ovseg_cli.segmentation.recipe import make_recipe
from ovseg_cli.segmentation.segmenter import Segmenter
from ovseg_cli.store import ClassRecord, ExtractorRecord, PrototypeRecord, Store, vector_index
from ovseg_cli.store.records import PrototypeBlock
from tests.mini import example_scene, mini_class, mini_models
from tests.regions import RegionModels, made_up_extractor, made_up_profile, painted

A, B = "a" * 64, "b" * 64
COUNT, EACH = 48, 6  # classes, and prototypes of each role and extractor
PLACES = np.array([0, 1, 2, 3, 4, 5, 40, 41])
"""Of the classes that pictures show; of most, a lookalike is in the store too."""
GRID = 10


def _units(rows: np.ndarray) -> np.ndarray:
    return (rows / np.linalg.norm(rows, axis=-1, keepdims=True)).astype(np.float32)


class World:
    """Prototypes of many classes, and features that look like them."""

    def __init__(self, look: str, dims: dict[str, int]) -> None:
        self.look, self.dims = look, dims
        self.extractors = [
            made_up_extractor(name, digest, dims[name], GRID) for name, digest in NAMES.items() if name in dims
        ]
        self._of = {name: self._made(dim, seed) for seed, (name, dim) in enumerate(dims.items())}

    def _made(self, dim: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
        """Foreground and background, float32 (COUNT, EACH, D) each."""
        random = np.random.default_rng(seed)

        def some(*shape: int) -> np.ndarray:
            return _units(random.standard_normal((*shape, dim)))

        if self.look == "random":
            return some(COUNT, EACH), some(COUNT, EACH)
        themes, scenes = some(8)[np.arange(COUNT) % 8, None], some(5)
        objects = themes + 0.8 * some(COUNT, 1) + 0.5 * some(COUNT, EACH)
        around = scenes[(np.arange(COUNT)[:, None] + np.arange(EACH) % 2) % 5] + 0.5 * some(COUNT, EACH)
        return _units(objects), _units(around)

    def record(self, number: int) -> ClassRecord:
        return ClassRecord(
            name=f"class {number}",
            kind="stuff" if number % 12 == 11 else "thing",
            kind_source="user",
            seed=0,
            extractors=tuple(ExtractorRecord(name=s.name, digest=s.digest, dim=s.dim) for s in self.extractors),
            prototypes=tuple(
                PrototypeRecord(
                    extractor=spec.digest, role=role, kind="part" if place else "mean", vector=vector, pixels=1
                )
                for spec in self.extractors
                for role, of_role in zip(("fg", "bg"), self._of[spec.name], strict=True)
                for place, vector in enumerate(of_role[number])
            ),
        )

    def features(self, name: str, numbers: np.ndarray, random: np.random.Generator) -> np.ndarray:
        """Of cells that show a class, or with 255 what surrounds things."""
        front, back = self._of[name]
        shown = PLACES[numbers % len(PLACES)]
        places = random.integers(0, EACH, len(numbers))
        clean = np.where((numbers == 255)[:, None], back[shown, places], front[shown, places])
        return clean + 0.7 * _units(random.standard_normal(clean.shape))

    def store(self, path) -> Store:
        store = Store.open(path, profile=made_up_profile(self.extractors, short_side=48))
        store.add_classes(self.record(number) for number in range(COUNT))
        return store

    def models(self, **geometry) -> RegionModels:
        return RegionModels(made_up_profile(self.extractors, **{"short_side": 48, **geometry}), self.features)


NAMES = {"one": A, "two": B}
PICTURES = [painted((0, 1, 255, 2, 255, 3), (48, 64), seed=1), painted((4, 255, 5, 6, 7), (48, 64), seed=2)]


@pytest.fixture(autouse=True)
def many(monkeypatch):
    """Eight classes are many here."""
    monkeypatch.setattr(recipes, "SHORTLIST", replace(recipes.SHORTLIST, most_exact=8))


def segmenter_of(world, store, classes=None, *, geometry=None, **options):
    names = store.class_names() if classes is None else classes
    asked = SegmentOptions(**options)
    return Segmenter(world.models(**(geometry or {})), store, names, method="prototype", options=asked)


def agreement(world, store, **options) -> float:
    """The share of equal pixels, found and exact."""
    own = segmenter_of(world, store, **options).segment_batch(PICTURES)
    exact = segmenter_of(world, store, exact=True, **options).segment_batch(PICTURES)
    assert len({int(i) for answer in exact for i in np.unique(answer.ids)}) > 4  # there is something to find
    return float(np.mean([one.ids == other.ids for one, other in zip(own, exact, strict=True)]))


@pytest.fixture(scope="module")
def world():
    return World("clustered", {"one": 64, "two": 48})


@pytest.fixture
def store(world, tmp_path):
    with world.store(tmp_path / "many") as opened:
        yield opened


# ---------------------------------------------------------------------- the answer


@pytest.mark.slow
@pytest.mark.parametrize("dim", [768, 1024, 7680])
@pytest.mark.parametrize("look", ["clustered", "random"])
def test_pixels_are_those_of_the_exact_answer_at_the_length_of_large_networks(tmp_path, look, dim):
    world = World(look, {"one": dim})
    with world.store(tmp_path / "store") as store:
        assert agreement(world, store) >= 0.995


@pytest.mark.slow
@pytest.mark.parametrize(
    "options",
    [
        {},
        {"refine": "pamr"},
        {"background": False},
        {"threshold": 0.6},
        {"geometry": {"windows": ((32, 16), (24, 12))}},
        {"extractors": ("two",)},
        {"prototypes": ("mean",)},
        {"stuff_filter": False},
    ],
    ids=str,
)
def test_pixels_are_those_of_the_exact_answer_whatever_is_asked_for(world, store, options):
    assert agreement(world, store, **options) >= 0.995


@pytest.mark.slow
@pytest.mark.parametrize("options", [{}, {"background": False}, {"stuff_filter": False}], ids=str)
def test_pixels_are_those_of_the_exact_answer_where_the_index_has_lists(world, store, tmp_path, monkeypatch, options):
    monkeypatch.setattr(vector_index, "EXACT_ROWS", 64)
    monkeypatch.setattr(vector_index, "LOOKED_AT", 2)
    assert agreement(world, store, **options) >= 0.995
    for catalogue in (tmp_path / "many" / "index").glob("*.json"):
        assert {segment["kind"] for segment in json.loads(catalogue.read_text())["segments"]} == {"lists"}


def test_few_classes_are_scored_for_a_picture(world, store):
    scored = segmenter_of(world, store).score(PICTURES[0])
    assert len(scored.classes) < COUNT / 2
    assert {0, 1, 2, 3} <= set(scored.classes)
    exact = segmenter_of(world, store, exact=True).score(PICTURES[0])
    np.testing.assert_allclose(scored.values[1:], exact.values[1:][list(scored.classes)], atol=1e-5)


def test_a_class_of_many_prototypes_alike_does_not_hide_the_others(world, store, monkeypatch):
    monkeypatch.setattr(recipes, "SHORTLIST", replace(recipes.SHORTLIST, most_exact=8, prototypes=2, margin=0.3))
    assert agreement(world, store) >= 0.995
    assert len(segmenter_of(world, store).score(PICTURES[0]).classes) > 6


@pytest.mark.slow
def test_what_looks_like_stuff_is_left_out_of_the_background(world, tmp_path):
    """A thing whose surroundings are a stuff class that is asked for."""
    with Store.open(tmp_path / "store", profile=made_up_profile(world.extractors, short_side=48)) as store:
        sky = [p for p in world.record(11).prototypes if p.role == "fg"]
        for number in range(COUNT):
            record = world.record(number)
            if record.kind == "thing":
                own = [p for p in record.prototypes if p.role == "fg"]
                record = replace(record, prototypes=(*own, *(replace(p, role="bg") for p in sky)))
            store.add_class(record)
        assert agreement(world, store) >= 0.995
        scored = segmenter_of(world, store).score(PICTURES[0])
        assert all(bool((scorer.channel > 0).all()) for scorer in scored.prototypes)  # no background is left at all
        scored = segmenter_of(world, store, stuff_filter=False).score(PICTURES[0])
        assert all(bool((scorer.channel == 0).any()) for scorer in scored.prototypes)


def test_named_classes_are_scored_exactly_and_no_others_are_read(world, store, monkeypatch):
    read = []
    prototypes = Store.prototypes

    def counted(self, names, extractor) -> PrototypeBlock:
        read.extend(names)
        return prototypes(self, names, extractor)

    own, exact = segmenter_of(world, store), segmenter_of(world, store, exact=True)
    monkeypatch.setattr(Store, "prototypes", counted)
    named = ["class 2", "class 0", "class 30"]
    answer = own.segment(PICTURES[0], named)
    stuff = {name for name in store.class_names() if store.get_class(name).kind == "stuff"}
    assert set(read) - stuff == set(named)
    np.testing.assert_array_equal(answer.ids, exact.segment(PICTURES[0], named).ids)
    assert answer.kept == {"class 0": None, "class 2": None, "class 30": None}


def test_pictures_together_are_as_each_alone(world, store):
    segmenter = segmenter_of(world, store)
    named = [None, ["class 4", "class 5"]]
    for one, alone in zip(
        segmenter.segment_batch(PICTURES, named), map(segmenter.segment, PICTURES, named), strict=True
    ):
        np.testing.assert_array_equal(one.ids, alone.ids)
        assert (one.shares, one.kept) == (alone.shares, alone.kept)


def test_more_classes_that_nothing_shows_change_nothing(world, store):
    """A list of half of the store: what is not asked for is not found."""
    half = [f"class {number}" for number in range(24)]
    own, exact = (segmenter_of(world, store, half, exact=e).segment(PICTURES[1]).ids for e in (None, True))
    assert (own == exact).mean() >= 0.995


# ---------------------------------------------------------------------- what it costs


def test_networks_see_each_crop_once(world, store, monkeypatch):
    segmenter = segmenter_of(world, store, geometry={"windows": ((32, 16),)})
    segmenter.segment(PICTURES[0])
    seen = dict(segmenter.models.seen)
    exact = segmenter_of(world, store, geometry={"windows": ((32, 16),)}, exact=True)
    exact.segment(PICTURES[0])
    assert seen == exact.models.seen

    monkeypatch.setattr(
        tasks.Kept, "__init__", lambda self: (setattr(self, "room", 0), setattr(self, "_layers", {}))[0]
    )
    answer = segmenter.segment(PICTURES[0])
    assert segmenter.models.seen == {name: 3 * count for name, count in seen.items()}, "once for each of two walks"
    np.testing.assert_array_equal(
        answer.ids, segmenter_of(world, store, geometry={"windows": ((32, 16),)}).segment(PICTURES[0]).ids
    )


def test_cells_that_are_searched_for_are_near_all_others():
    random = np.random.default_rng(0)
    centres = _units(random.standard_normal((12, 64)))
    features = _units(np.repeat(centres, 50, axis=0) + 0.05 * _units(random.standard_normal((600, 64))))
    found = shelves.spread(features, 100)
    assert len(found) == 12, "one of each kind is enough"
    assert (features @ found.T).max(axis=1).min() >= shelves.SAME
    assert len(shelves.spread(features, 5)) == 5
    assert len(shelves.spread(features[:1], 5)) == 1


def test_classes_at_once_have_a_limit(world, store, monkeypatch):
    monkeypatch.setattr(recipes, "SHORTLIST", replace(recipes.SHORTLIST, most_exact=8, most=3))
    assert len(segmenter_of(world, store).score(PICTURES[0]).classes) == 3


# ---------------------------------------------------------------------- the record


def test_it_is_on_by_itself_told_and_recorded(world, store):
    profile = world.models().profile
    own, exact = (
        make_recipe(store, profile, store.class_names(), method="prototype", options=SegmentOptions(exact=e))
        for e in (None, True)
    )
    assert own.settings["shortlist"]["most_exact"] == 8
    assert "shortlist" not in exact.settings
    assert own.digest != exact.digest
    assert own.prototypes.blocks == ()
    assert any("48 classes" in note and "--exact" in note for note in own.notes)
    assert not any("--exact" in note for note in exact.notes)


def test_few_classes_are_as_they_were(world, store):
    profile, names = world.models().profile, [f"class {number}" for number in range(8)]
    own, exact = (
        make_recipe(store, profile, names, method="prototype", options=SegmentOptions(exact=e)) for e in (None, True)
    )
    assert own.digest == exact.digest
    assert own.notes == exact.notes
    assert len(own.prototypes.blocks) == 2


def test_exact_is_of_prototypes(store):
    with pytest.raises(UsageError, match="--exact works on prototypes"):
        make_recipe(store, mini_models().profile, ["cat"], method="gem", options=SegmentOptions(exact=True))


def test_a_recipe_finds_its_store_in_another_process(world, store):
    recipe = make_recipe(store, world.models().profile, store.class_names(), method="prototype")
    sent = pickle.dumps(recipe)
    assert len(sent) < 100_000, "the prototypes stay where they are"
    answer = Segmenter.by_recipe(world.models(), pickle.loads(sent)).segment(PICTURES[0])
    np.testing.assert_array_equal(answer.ids, segmenter_of(world, store).segment(PICTURES[0]).ids)


# ---------------------------------------------------------------------- a store that changes, or is not well


def test_a_class_that_changes_meanwhile_ends_the_run(world, store, tmp_path):
    segmenter = segmenter_of(world, store)
    before = segmenter.segment(PICTURES[0])
    with Store.open(tmp_path / "many") as other:
        other.add_class(replace(world.record(7), name="a new one"))
        np.testing.assert_array_equal(segmenter.segment(PICTURES[0]).ids, before.ids)
        other.remove_classes(["a new one", "class 40"])
    with pytest.raises(ClassChangedError, match="'class 40'"):
        segmenter.segment(PICTURES[0])


@pytest.mark.parametrize("harm", ["missing", "bytes", "elsewhere"])
def test_an_index_that_is_not_well_changes_no_answer(world, store, tmp_path, harm, monkeypatch):
    before = segmenter_of(world, store).segment(PICTURES[0])
    for file in (tmp_path / "many" / "index").iterdir():
        if harm == "missing":
            file.unlink()
        elif harm == "bytes":
            file.write_bytes(bytes(byte ^ 1 for byte in file.read_bytes()))
    if harm == "elsewhere":
        monkeypatch.setattr("ovseg_cli.store.index_upkeep.IndexUpkeep._index", lambda *_: None)
    np.testing.assert_array_equal(segmenter_of(world, store).segment(PICTURES[0]).ids, before.ids)


# ---------------------------------------------------------------------- with real networks, words and explanations


@pytest.fixture(scope="module")
def real(tmp_path_factory):
    with Store.open(tmp_path_factory.mktemp("real") / "store", profile="mini") as opened:
        for name in ("cat", "apple", "dog", "soccer ball"):
            opened.add_class(mini_class(name))
        yield opened


def of_mini(store, method, classes, **options):
    quick = {"short_side": 96, "windows": ((64, 32), (0, 0)), "prefilter": False}
    return Segmenter(mini_models(), store, classes, method=method, options=SegmentOptions(**quick, **options))


@pytest.mark.slow
@pytest.mark.parametrize(
    ("method", "classes"),
    [("prototype", ["dog", "cat", "soccer ball", "apple"]), ("hybrid", ["dog", "cat", "car", "soccer ball", "apple"])],
)
def test_bundled_networks_agree_too(real, monkeypatch, method, classes):
    monkeypatch.setattr(recipes, "SHORTLIST", replace(recipes.SHORTLIST, most_exact=2, margin=0.02))
    picture = example_scene(8)
    own, exact = (of_mini(real, method, classes, exact=e) for e in (None, True))
    assert own.recipe.prototypes.shortlist is not None
    assert (own.segment(picture).ids == exact.segment(picture).ids).mean() >= 0.995


def test_the_pre_filter_leaves_what_is_read(real, monkeypatch):
    """Where it leaves few classes, these are scored exactly."""
    monkeypatch.setattr(recipes, "SHORTLIST", replace(recipes.SHORTLIST, most_exact=3))
    names = ["dog", "cat", "soccer ball", "apple"]
    options = {"short_side": 96, "windows": ((64, 32), (0, 0)), "prefilter": True}
    own, exact = (
        Segmenter(mini_models(), real, names, method="prototype", options=SegmentOptions(**options, exact=e)).segment(
            example_scene(8)
        )
        for e in (None, True)
    )
    assert own.kept == exact.kept
    np.testing.assert_array_equal(own.ids, exact.ids)


@pytest.mark.slow
def test_pixels_are_explained(real, monkeypatch):
    from ovseg_cli.explanations import Explainer

    monkeypatch.setattr(recipes, "SHORTLIST", replace(recipes.SHORTLIST, most_exact=2))
    names, picture = ["dog", "cat", "soccer ball", "apple"], example_scene(8)
    told = {}
    for exact in (None, True):
        segmentation, found = Explainer(of_mini(real, "prototype", names, exact=exact), real).explain(picture)
        told[exact] = [(e.x, e.y, e.label, e.matches[0].source.id, round(e.matches[0].score, 4)) for e in found]
        assert all(e.ruled_out == () for e in found)
        assert segmentation.kept is None
    assert told[None] == told[True]
