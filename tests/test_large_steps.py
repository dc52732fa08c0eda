"""What a GPU does in few large steps is what a CPU does in many small ones: here a CPU does both."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest
import torch

from ovseg_cli import devices
from ovseg_cli.labeling.decide import count_labels
from ovseg_cli.labeling.refine import pamr
from ovseg_cli.methods.catalogue import naming_methods
from ovseg_cli.profiles import get_profile
from ovseg_cli.runs.speed_bench import NAMES, BenchSettings, _Bench
from ovseg_cli.segmentation.options import SegmentOptions
from ovseg_cli.segmentation.segmenter import Segmenter
from ovseg_cli.segmentation.together import score_together
from ovseg_cli.store import Store
from tests.mini import example_scene, mini_models
from tests.scores import decide_now

MINI = get_profile("mini")


@pytest.fixture
def large_steps(monkeypatch):
    """From when it is called, the CPU is no device for small steps; how much is free, it may be told."""

    def begin(free=None):
        monkeypatch.setattr(devices, "SMALL_STEPS", frozenset())
        monkeypatch.setattr(devices, "free_memory", lambda _device: free)
        monkeypatch.setattr(devices, "LEAST", 1)

    return begin


def random_scores(channels, height, width):
    return torch.rand(channels, height, width, generator=torch.Generator().manual_seed(channels)) * 2 - 1


@pytest.mark.parametrize("free", [None, 2**15])
@pytest.mark.parametrize(("background", "threshold"), [(False, None), (True, None), (True, 0.4)])
@pytest.mark.parametrize("ids", [None, (0, 7, 255), (0, 300, 65535)])
def test_label_maps_and_all_figures(large_steps, free, background, threshold, ids):
    scores = random_scores(3, 12, 17)
    settings = {"background": background, "threshold": threshold, "ids": ids}
    small = decide_now(scores, (40, 50), **settings)
    large_steps(free)
    large = decide_now(scores, (40, 50), **settings)
    assert large.ids.dtype == np.uint16
    np.testing.assert_array_equal(large.ids, small.ids)
    np.testing.assert_array_equal(large.shares, small.shares)
    np.testing.assert_allclose(large.mean_scores, small.mean_scores, rtol=1e-6)
    assert large.margin == pytest.approx(small.margin, rel=1e-6)


@pytest.mark.parametrize("kind", [np.uint8, np.uint16])
def test_scores_that_are_kept(large_steps, kind):
    scores = random_scores(3, 12, 17)
    kept = np.zeros((2, 3, 40, 50), kind)
    decide_now(scores, (40, 50), background=True, keep=kept[0])
    large_steps()
    decide_now(scores, (40, 50), background=True, keep=kept[1])
    np.testing.assert_array_equal(*kept)
    assert kept.max() > 0.9 * np.iinfo(kind).max


def test_numbers_of_labels(large_steps):
    labels = torch.randint(0, 5, (7, 9), generator=torch.Generator().manual_seed(0))
    small = count_labels(labels, 6)
    large_steps()
    assert count_labels(labels, 6).tolist() == small.tolist()


@pytest.mark.parametrize("free", [None, 2**16])
@pytest.mark.parametrize("size", [(1, 1), (1, 30), (19, 23)])
def test_refined_scores(large_steps, free, size):
    picture, scores = random_scores(3, *size)[None], random_scores(9, *size)
    small = pamr(picture, scores)
    large_steps(free)
    torch.testing.assert_close(pamr(picture, scores), small, atol=1e-5, rtol=0)


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    folder = tmp_path_factory.mktemp("large-steps")
    with Store.open(folder / "store", profile=MINI) as opened:
        _Bench(SimpleNamespace(profile=MINI), opened, BenchSettings(classes=4), folder)._fill_store()
        yield opened


def answers(store):
    """Of all methods: the values that labels are made of, refined, and the labels."""
    options = SegmentOptions(prefilter=False, short_side=64, windows=((48, 40), (0, 0)), refine="pamr")
    segmenters = [
        Segmenter(mini_models(), store, NAMES[:4], method=method, options=options) for method in naming_methods()
    ]
    scored = score_together(segmenters, [example_scene(8)])
    pairs = zip(segmenters, scored, strict=True)
    return {one.method: (each.values, one.label(each).ids) for one, (each,) in pairs}


@pytest.mark.slow
def test_every_method(large_steps, store):
    small = answers(store)
    large_steps()
    for method, (values, ids) in answers(store).items():
        others, labels = small[method]
        assert (values - others).abs().max() <= 1e-4 * max(1.0, float(others.abs().max())), method
        assert (ids == labels).mean() > 0.9995, method


@pytest.mark.slow
@pytest.mark.parametrize("method", ["cliper", "agggem"])
def test_pictures_that_the_diffusion_model_sees_together(large_steps, store, method):
    options = SegmentOptions(short_side=64, windows=((0, 0),))
    segmenter = Segmenter(mini_models(), store, NAMES[:4], method=method, options=options)
    pictures = [example_scene(8), example_scene(8)[:, ::-1], example_scene(8)[::-1]]
    alone = [segmenter.score(picture) for picture in pictures]
    large_steps()
    (together,) = score_together([segmenter], pictures)
    for one, other in zip(together, alone, strict=True):
        assert (one.values - other.values).abs().max() <= 1e-4 * float(other.values.abs().max())
