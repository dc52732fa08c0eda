"""The ablation table: small, but through every row."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import replace

import numpy as np
import pytest
import torch

from examples.ablation.__main__ import main
from examples.ablation.measure import CLASSES, Plan, Result, measure
from examples.ablation.rows import GROUP_NAMES, Making, Setting, groups
from examples.ablation.scoring import Choice, Study, competing, extract, filtered_share
from examples.ablation.supports import COMPANIONS, Classes, Pool, RememberingModels, build_pools
from examples.ablation.table import markdown, spread
from examples.mini_pack.evaluate import SEGMENTED
from ovseg_cli.prototypes.build import SupportSettings, build_class
from ovseg_cli.segmentation.options import SegmentOptions
from ovseg_cli.segmentation.segmenter import Segmenter
from ovseg_cli.store import Store
from ovseg_cli.text.prefilter import Shortlist
from tests.mini import example_scene, mini_models

pytestmark = pytest.mark.slow

SMALL = Classes(things=("cat", "dog"), stuff=("grass",))
SCENE = 6
COUNT, STEPS, SEED = 2, 4, 100_000
KEPT = (1,)
MINI = mini_models().profile
ROWS = groups(MINI)
BASE = ROWS["extractors"].rows[4].setting
SETTINGS = list(dict.fromkeys(row.setting for group in ROWS.values() for row in group.rows))


@pytest.fixture(scope="module")
def models() -> RememberingModels:
    return RememberingModels(MINI, "cpu")


@pytest.fixture(scope="module")
def pools(models: RememberingModels) -> dict[str, Pool]:
    return build_pools(models, SETTINGS, SMALL, seed=SEED, count=COUNT, steps=STEPS)


@pytest.fixture(scope="module")
def label_maps(models: RememberingModels, pools: dict[str, Pool]) -> dict[Setting, np.ndarray]:
    """Of one scene, as if every pre-filter left `KEPT`."""
    with torch.inference_mode():
        features = extract(models, example_scene(SCENE), sorted(pools))
    models.forget()
    kept = {s.prefilter: KEPT for s in SETTINGS if s.prefilter is not None}
    return Study(MINI, pools, SETTINGS, SMALL).label_maps(features, kept)


class TestRows:
    def test_the_base_is_the_profile_as_it_is(self):
        assert BASE.extractors == tuple(spec.name for spec in MINI.extractors)
        assert (BASE.making.parts, BASE.making.kmeans) == (MINI.generator.parts, MINI.generator.kmeans)
        assert set(ROWS) == set(GROUP_NAMES)

    def test_every_row_is_one_that_can_be_measured_and_compared(self):
        known = {spec.name for spec in MINI.known_extractors}
        for group in ROWS.values():
            assert len({row.name for row in group.rows}) == len(group.rows)
            for row in group.rows:
                assert known.issuperset(row.setting.extractors)
                assert (row.reference.stuff is None) == (row.setting.stuff is None)

    def test_the_classes_are_those_of_the_quality_table(self):
        assert set(CLASSES.things) == set(SEGMENTED)


class TestMemory:
    def test_what_is_remembered_is_what_the_networks_say(self, models: RememberingModels):
        settings = SupportSettings(count=COUNT, steps=STEPS, seed=3, kind="thing")
        plain = build_class(mini_models(), "cat", settings)
        for _ in range(2):
            again = build_class(models, "cat", settings)
            assert len(again.prototypes) == len(plain.prototypes)
            for ours, theirs in zip(again.prototypes, plain.prototypes, strict=True):
                np.testing.assert_array_equal(ours.vector, theirs.vector)
            for ours, theirs in zip(again.supports, plain.supports, strict=True):
                np.testing.assert_array_equal(ours.image, theirs.image)
                np.testing.assert_array_equal(ours.foreground, theirs.foreground)
        models.forget()

    def test_the_networks_are_asked_once_and_again_after_forgetting(
        self, models: RememberingModels, monkeypatch: pytest.MonkeyPatch
    ):
        asked = []
        extract_really = RememberingModels._extract
        monkeypatch.setattr(
            RememberingModels,
            "_extract",
            lambda self, extractor, *seen: asked.append(extractor.name) or extract_really(self, extractor, *seen),
        )
        clip, images = MINI.pick_extractors(["clip"])[0], torch.rand(1, 3, 64, 64)
        models.forget()
        models.feature_maps(clip, images)
        models.clustering("spherical").feature_maps(clip, images.clone())
        assert asked == ["clip"]
        models.feature_maps(clip, images.flip(3))
        models.forget()
        models.feature_maps(clip, images)
        assert asked == ["clip"] * 3
        models.forget()


class TestPools:
    def test_makings_share_what_is_the_same(self, pools: dict[str, Pool]):
        pool = pools["sd"]
        eight = pool.made[replace(BASE.making, parts=8)]
        base = pool.made[BASE.making]
        things = pool.owner < len(SMALL.things)
        for kind in ("mean", "instance"):
            assert (eight == base)[things & (pool.kind == kind) & (base | eight)].all()
        parts = pool.kind == "part"
        assert (eight & base & parts).sum() < 0.05 * (base & parts).sum()  # a cluster that both find is one
        # for each thing and role: the parts, the instances and the mean
        assert eight.sum() == len(SMALL.things) * 2 * (8 + COUNT + 1)
        assert base[things].sum() == len(SMALL.things) * 2 * (BASE.making.parts + COUNT + 1)
        np.testing.assert_allclose(np.linalg.norm(pool.vectors, axis=1), 1, atol=1e-5)

    def test_only_what_a_row_wants_is_made(self, pools: dict[str, Pool]):
        assert list(pools["dino"].made) == [BASE.making]
        assert not (pools["sd"].made[replace(BASE.making, mask_method="fixed")] & (pools["sd"].owner == 2)).any()

    def test_stuff_stands_around_each_companion(self, models: RememberingModels):
        making = Making(mask_method="otsu", parts=2, kmeans="euclidean")
        setting = Setting(extractors=("clip",), making=making, stuff="filter")
        (pool,) = build_pools(
            models, [setting], Classes(things=(), stuff=("road",)), seed=1, count=len(COMPANIONS), steps=STEPS
        ).values()
        roles = list(zip(pool.foreground.tolist(), pool.kind.tolist(), strict=True))
        assert roles.count((True, "instance")) == roles.count((False, "instance")) == len(COMPANIONS)


def toy_pool() -> Pool:
    """One thing and one stuff; a background that looks like the thing, one like the stuff, and one like neither."""
    vectors = np.eye(4, dtype=np.float32)[[0, 0, 1, 2, 1, 1, 3]]
    making = Making(mask_method="otsu", parts=1, kmeans="euclidean")
    return Pool(
        vectors=vectors,
        owner=np.array([0, 0, 0, 0, 1, 1, 1]),
        foreground=np.array([1, 0, 0, 0, 1, 1, 0], bool),
        kind=np.array(["mean", "mean", "part", "part", "mean", "part", "mean"]),
        made={making: np.ones(7, bool)},
    )


class TestStuffRules:
    @pytest.mark.parametrize(
        ("rule", "stays"),
        [
            ("filter", [1, 1, 0, 1, 1, 1, 0]),
            ("no filter", [1, 1, 1, 1, 1, 1, 0]),
            ("background kept", [1, 1, 0, 1, 1, 1, 1]),
            ("background kept, no filter", [1, 1, 1, 1, 1, 1, 1]),
            ("all foregrounds", [1, 0, 0, 1, 1, 1, 1]),
            ("no stuff parts", [1, 1, 0, 1, 1, 0, 0]),
            (None, [1, 1, 1, 1, 0, 0, 0]),
        ],
    )
    def test_who_competes(self, rule, stays):
        pool = toy_pool()
        (making,) = pool.made
        choice = Choice(making, BASE.kinds, rule)
        classes = Classes(things=("cat",), stuff=("grass",))
        assert competing(pool, choice, classes, 0.85).tolist() == [bool(x) for x in stays]
        if rule is not None:
            lost = 3 - sum(stays[1:4])
            assert filtered_share(pool, choice, classes, 0.85) == pytest.approx(lost / 3)

    def test_a_kind_that_is_not_matched_filters_nothing(self):
        pool = toy_pool()
        pool.vectors[4] = [0, 0, 0, 1]  # now only a part of the stuff looks like that background
        (making,) = pool.made
        classes = Classes(things=("cat",), stuff=("grass",))
        assert not competing(pool, Choice(making, BASE.kinds, "filter"), classes, 0.85)[2]
        pool.kind[2] = "mean"
        assert competing(pool, Choice(making, ("mean",), "filter"), classes, 0.85)[2]


@pytest.fixture(scope="module")
def store(models: RememberingModels, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Store]:
    """The same classes as the product alone makes them."""
    settings = SupportSettings(
        count=COUNT, steps=STEPS, seed=SEED, kind="thing", mask_method="otsu", extractors=("sd", "clip", "dino")
    )
    with Store.open(tmp_path_factory.mktemp("ablation") / "store", profile=MINI) as store:
        for name in SMALL.things:
            store.add_class(build_class(mini_models(), name, settings))
        settings = replace(settings, count=1, kind="stuff")
        first, second = (f"a good picture of a {companion} on {{}}" for companion in COMPANIONS)
        grass = build_class(mini_models(), "grass", replace(settings, prompt=first))
        grass = build_class(mini_models(), "grass", replace(settings, prompt=second, seed=None), existing=grass)
        store.add_class(grass)
        yield store


SAME = {
    "as it is": (BASE, {}),
    "three extractors": (replace(BASE, extractors=("sd", "clip", "dino")), {"extractors": ("sd", "clip", "dino")}),
    "means and parts": (replace(BASE, kinds=("mean", "part")), {"prototypes": ("mean", "part")}),
    "refined": (replace(BASE, refine="pamr"), {"refine": "pamr"}),
    "filtered": (replace(BASE, prefilter=MINI.prefilter), {"prefilter": True}),
    "stuff": (replace(BASE, stuff="filter"), {}),
    "stuff without filter": (replace(BASE, stuff="no filter"), {"stuff_filter": False}),
}


@pytest.mark.parametrize("case", SAME)
def test_what_the_product_can_do_comes_out_the_same(case: str, store: Store, label_maps: dict[Setting, np.ndarray]):
    setting, options = SAME[case]
    names = SMALL.names if setting.stuff else SMALL.things
    segmenter = Segmenter(
        mini_models(), store, names, method="prototype", options=SegmentOptions(**{"prefilter": False, **options})
    )
    if setting.prefilter is not None:
        segmenter._prefilter = lambda _picture: Shortlist(KEPT, (0.5,) * len(KEPT))
    theirs = segmenter.segment(example_scene(SCENE)).ids
    ours = label_maps[setting]
    assert ours.shape == theirs.shape
    assert len(np.unique(theirs)) > 1
    assert (ours == theirs).mean() > 0.9999  # the same sums in another order differ in the last bit


@pytest.fixture(scope="module")
def result(models: RememberingModels) -> Result:
    plan = Plan(
        groups=("extractors", "prefilter", "stuff"),
        seeds=2,
        rendered=1,
        bundled=1,
        supports=COUNT,
        steps=STEPS,
        classes=Classes(things=("cat",), stuff=("grass",)),
    )
    return measure(models, plan)


class TestMeasure:
    def test_no_picture_stays_in_memory(self, models: RememberingModels, result: Result):
        assert not models._features

    def test_a_figure_for_every_row_set_and_seed(self, result: Result):
        assert result.sizes == {"bundled": 1, "large": 2}
        for figures in result.miou.values():
            for group in result.groups.values():
                for row in group.rows:
                    assert len(figures[row.setting]) == 2
                    assert all(0 <= figure <= 1 for figure in figures[row.setting])

    def test_a_filter_that_is_told_leaves_what_is_there(self, result: Result):
        told = result.kept["on, told by the labels"]
        assert told["classes"] == told["there"]
        assert told["lost"] == 0

    def test_the_record_is_json(self, result: Result):
        record = json.loads(json.dumps(result.record(), allow_nan=False))
        rows = {row["row"]: row for row in record["rows"]}
        assert rows["sd + clip"]["miou"]["bundled"] == list(result.miou["bundled"][BASE])
        assert set(rows["sd: filter"]["per_class"]["bundled"]) == {"background", "cat", "grass"}
        assert set(rows["sd"]["per_class"]["bundled"]) == {"background", "cat"}

    def test_the_table_has_every_row_and_no_difference_of_a_reference_from_itself(self, result: Result):
        lines = markdown(result).splitlines()
        cells = {line.split(" | ")[0].strip("| "): line.strip("|").split(" | ") for line in lines if line[:1] == "|"}
        for group in result.groups.values():
            for row in group.rows:
                assert cells[row.name][1] == spread(result.miou["bundled"][row.setting])
                assert (cells[row.name][2].strip() == "") == (row.setting == row.reference)
        assert "64.4 / 29.4" in cells["sd"][-1]


def test_spread_is_in_percent():
    assert spread([0.5, 0.6, 0.7]) == "60.0 ± 10.0"
    assert spread([0.012], signed=True) == "+1.2"
    assert spread([-0.01, -0.03], signed=True) == "-2.0 ± 1.4"


def test_the_command_refuses_what_it_does_not_know(capsys: pytest.CaptureFixture[str]):
    for arguments in (["--what", "colours"], ["--seeds", "0"], ["--pictures", "mine"]):
        with pytest.raises(SystemExit) as error:
            main(arguments)
        assert error.value.code == 2
    assert "colours" in capsys.readouterr().err
