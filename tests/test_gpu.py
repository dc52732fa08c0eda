"""The same answers on a GPU, where the diffusion model runs in half precision."""

from __future__ import annotations

import pytest
import torch

from ovseg_cli.models import load_models
from ovseg_cli.profiles import get_profile
from ovseg_cli.prototypes.build import SupportSettings, build_class
from ovseg_cli.segmenter import Segmenter
from ovseg_cli.store import Store
from tests.mini import example_scene, mini_class, mini_models

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device"),
]


@pytest.fixture(scope="module")
def on_gpu():
    return load_models(get_profile("mini"), device="cuda", offline=True)


@pytest.mark.parametrize("method", ["prototype", "gem"])
def test_label_maps_agree_with_the_cpu(tmp_path, on_gpu, method):
    with Store.open(tmp_path / "store", profile="mini") as store:
        store.add_class(mini_class("cat"))
        store.add_class(mini_class("apple"))
        maps = [
            Segmenter(models, store, ["cat", "apple"], method=method).segment(example_scene(8)).ids
            for models in (mini_models(), on_gpu)
        ]
    assert (maps[0] == maps[1]).mean() > 0.98


def test_a_class_made_on_the_gpu_looks_like_the_one_made_on_the_cpu(on_gpu):
    record = build_class(on_gpu, "cat", SupportSettings(count=6, steps=12))
    other = mini_class("cat")
    overlap = [
        (a.foreground & b.foreground).sum() / (a.foreground | b.foreground).sum()
        for a, b in zip(record.supports, other.supports, strict=True)
    ]
    assert min(overlap) > 0.7
    assert [s.seed for s in record.supports] == [s.seed for s in other.supports]
