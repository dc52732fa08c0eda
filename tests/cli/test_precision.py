"""What the networks compute in: asked for, recorded, and seen by the next run."""

from __future__ import annotations

import json

import pytest

from ovseg_cli.models import load_models
from ovseg_cli.profiles import get_profile
from ovseg_cli.segmentation.options import SegmentOptions
from ovseg_cli.segmentation.recipe import choose_method, make_recipe
from ovseg_cli.segmentation.segmenter import Segmenter
from ovseg_cli.store import Store


def test_another_precision_makes_the_label_maps_anew_and_is_recorded(cli, photos, here):
    once = ["segment", photos, "-c", "cat,dog", "--json"]
    assert cli(*once).data["done"] == 2
    assert json.loads((here / "ovseg-out" / "run.json").read_text())["precision"] == "float32"
    assert cli(*once).data["skipped"] == 2
    assert cli(*once, "--precision", "auto").data["skipped"] == 2
    assert cli("--precision", "float16", *once).data["done"] == 2


def test_an_unknown_precision_is_told(cli, photos):
    result = cli("segment", photos, "--precision", "bfloat16")
    assert result.exit_code == 2
    assert "choose auto, float32 or float16" in " ".join(result.stderr.replace("│", " ").split())


@pytest.mark.parametrize("precision", ["auto", "float16"])
def test_the_plan_knows_what_the_segmenter_will_have(tmp_path, precision):
    profile = get_profile("mini")
    models = load_models(profile, device="cpu", precision=precision)
    with Store.open(tmp_path / "store", profile="mini") as store:
        ours = Segmenter(models, store, ["cat"], method="gem")
        choice = choose_method(store, profile, ["cat"], "gem")
        assert (
            ours.digest
            == make_recipe(store, profile, ["cat"], method=choice, options=SegmentOptions(), precision=precision).digest
        )
        other = make_recipe(
            store, profile, ["cat"], method=choice, options=SegmentOptions(), precision="float32"
        ).digest
    assert ours.digest != other
    assert ours.settings.get("precision", "auto") == precision
