"""What is planned is what runs, whatever happens to the store in between."""

from __future__ import annotations

import pickle

import numpy as np
import pytest
from PIL import Image

from ovseg_cli.errors import UsageError, WeightsError
from ovseg_cli.runs.folder import plan_folder, run_plan
from ovseg_cli.runs.manifest import read_manifest
from ovseg_cli.segmentation.options import SegmentOptions
from ovseg_cli.segmentation.recipe import make_recipe
from ovseg_cli.segmentation.segmenter import Segmenter
from ovseg_cli.store import Store
from tests.mini import example_scene, mini_class, mini_models

QUICK = SegmentOptions(short_side=64, windows=((0, 0),), prefilter=False)


@pytest.fixture
def store(tmp_path):
    with Store.open(tmp_path / "store", profile="mini") as opened:
        opened.add_class(mini_class("cat"))
        yield opened


def recipe_of(store, **changes):
    return make_recipe(store, mini_models().profile, ["cat"], options=QUICK, **changes)


def test_a_class_that_changes_after_the_plan_changes_nothing(store, tmp_path):
    (tmp_path / "photos").mkdir()
    Image.fromarray(example_scene(8)).save(tmp_path / "photos" / "a.png")
    before = Segmenter(mini_models(), store, ["cat"], options=QUICK).segment(example_scene(8))
    out = tmp_path / "out"
    planned = plan_folder(store, [str(tmp_path / "photos")], out, classes=["cat"], options=QUICK)
    with Store.open(tmp_path / "store") as other:
        other.remove_classes(["cat"])
    summary = run_plan(planned, store, mini_models)
    assert summary.done == 1
    np.testing.assert_array_equal(np.array(Image.open(out / "SegmentationClass" / "a.png")), before.ids)
    assert read_manifest(out).digest == planned.recipe.digest


def test_a_recipe_is_whole_without_its_store(store, tmp_path):
    recipe = pickle.loads(pickle.dumps(recipe_of(store)))
    ours = Segmenter(mini_models(), store, ["cat"], options=QUICK).segment(example_scene(8))
    store.remove_classes(["cat"])
    again = Segmenter.by_recipe(mini_models(), recipe).segment(example_scene(8))
    np.testing.assert_array_equal(again.ids, ours.ids)


def test_a_recipe_that_only_plans_has_the_same_digest_and_segments_nothing(store):
    planned = recipe_of(store, planning=True)
    assert planned.digest == recipe_of(store).digest
    with pytest.raises(ValueError, match="only plans"):
        Segmenter.by_recipe(mini_models(), planned)


def test_a_recipe_wants_the_models_that_it_was_made_for(store):
    with pytest.raises(ValueError, match="float16"):
        Segmenter.by_recipe(mini_models(), recipe_of(store, precision="float16"))


def test_a_plan_reads_the_store_at_one_moment(store, tmp_path):
    """A class that another process makes anew while the recipe is made."""

    class Racing:
        def __init__(self, inner):
            self.inner = inner

        def __getattr__(self, name):
            return getattr(self.inner, name)

        def get_classes(self, names):
            infos = self.inner.get_classes(names)
            with Store.open(tmp_path / "store") as other:
                other.add_class(mini_class("cat"), replace=True)
            return infos

    first = store.get_class("cat").generation
    recipe = recipe_of(Racing(store))
    assert recipe.prototypes.generations == (first,)
    assert len(recipe.prototypes.blocks[0].ids) > 0
    assert store.get_class("cat").generation != first


def broken():
    raise WeightsError("no weights")


@pytest.fixture
def photos(tmp_path):
    (tmp_path / "photos").mkdir()
    Image.fromarray(example_scene(8)).save(tmp_path / "photos" / "a.png")
    return str(tmp_path / "photos")


def test_models_that_cannot_be_loaded_leave_no_folder_that_refuses_other_classes(store, photos, tmp_path):
    out = tmp_path / "out"
    planned = plan_folder(store, [photos], out, classes=["cat"], options=QUICK)
    with pytest.raises(WeightsError):
        run_plan(planned, store, broken)
    assert [path.name for path in out.iterdir()] == [".ovseg.lock"]
    assert store.last_run() is None
    plan_folder(store, [photos], out, classes=["dog"], options=QUICK)


@pytest.mark.parametrize("damaged", [False, True])
def test_models_that_cannot_be_loaded_cost_no_label_map(store, photos, tmp_path, damaged):
    """Not even where it was to be replaced by one of other classes."""
    out = tmp_path / "out"
    run_plan(plan_folder(store, [photos], out, classes=["cat"], options=QUICK), store, mini_models)
    for name in ("run.json", "predictions.jsonl") if damaged else ():
        (out / name).write_text("damaged")
    before = {path: path.read_bytes() for path in out.rglob("*") if path.is_file()}
    planned = plan_folder(store, [photos], out, classes=["dog"], options=QUICK, overwrite=True)
    with pytest.raises(WeightsError):
        run_plan(planned, store, broken)
    assert {path: path.read_bytes() for path in out.rglob("*") if path.is_file()} == before


def test_a_folder_without_a_label_map_refuses_no_classes(store, photos, tmp_path, monkeypatch):
    def stop(*_, **__):
        raise KeyboardInterrupt

    out = tmp_path / "out"
    with monkeypatch.context() as patch:
        patch.setattr(Segmenter, "segment", stop)
        with pytest.raises(KeyboardInterrupt):
            run_plan(plan_folder(store, [photos], out, classes=["cat"], options=QUICK), store, mini_models)
    assert read_manifest(out).status == "interrupted"
    summary = run_plan(plan_folder(store, [photos], out, classes=["dog"], options=QUICK), store, mini_models)
    assert (summary.done, read_manifest(out).class_names) == (1, ("dog",))


@pytest.mark.parametrize("limit", [0, -1])
def test_a_limit_is_a_number_of_pictures(store, tmp_path, limit):
    with pytest.raises(UsageError, match="limit must be at least 1"):
        plan_folder(store, [str(tmp_path)], tmp_path / "out", classes=["cat"], limit=limit)
