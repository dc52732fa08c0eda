"""What `ovseg bench` measures, on the bundled models; no time decides a test."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from ovseg_cli.errors import UsageError, WeightsError
from ovseg_cli.models import load_models
from ovseg_cli.profiles import get_profile
from ovseg_cli.runs import speed_bench
from ovseg_cli.runs.speed_bench import BenchSettings, check_settings, check_weights, matrix_peak, run_bench
from ovseg_cli.runs.speed_report import Report

MINI = get_profile("mini")
QUICK = replace(
    MINI,
    clip=replace(MINI.clip, dense=replace(MINI.clip.dense, short_side=64, windows=(), whole_image=True)),
    inference=replace(MINI.inference, short_side=64, windows=(), whole_image=True),
    prefilter=replace(MINI.prefilter, crops=(1,)),
    domain=None,
)
"""Pictures are seen whole, and small."""

TINY = BenchSettings(methods=("gem", "cliper"), count=2, steps=1, classes=3, size=(64, 48), batch=2, repeats=1)


@pytest.fixture(scope="module")
def report():
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(speed_bench, "MAX_SIDE", 512)
        return run_bench(QUICK, lambda: load_models(QUICK, device="cpu"), TINY, weights="bundled")


def stages_of(report, name):
    (section,) = (section for section in report.sections if section.name == name)
    return {stage.name: stage for stage in section.stages}


def test_every_kind_of_run_is_there_alone_and_together(report):
    assert [(section.name, section.pictures) for section in report.sections] == [
        ("add-class", 2),
        ("drawing alone", 2),
        ("drawing with attribution", 2),
        ("segment", 1),
        ("segment, 2 together", 2),
        ("gem", 1),
        ("gem, 2 together", 2),
        ("cliper", 1),
        ("cliper, 2 together", 2),
    ]


STAGES = {
    "add-class": "drawing, decoding, judging, masks, features: sd, features: clip, pooling, clustering, store write",
    "drawing alone": "drawing, decoding",
    "segment, 2 together": "reading, resizing, class filter, features: sd, features: clip, scoring, fusion, labels, "
    "writing, journal",
    "gem": "resizing, walk through CLIP, method, scoring, fusion, combining, labels",
    "cliper, 2 together": "walk through CLIP, method, scoring, combining, diffusion model, labels",
}


@pytest.mark.parametrize("name", STAGES)
def test_the_stages_are_those_of_the_work(report, name):
    assert set(STAGES[name].split(", ")) <= stages_of(report, name).keys()


def test_stages_add_up_to_no_more_than_the_run(report):
    for section in report.sections:
        assert len(section.seconds) == len(section.observed) == 1
        assert len(section.unexplained) == 1
        assert min(section.unexplained) >= 0, section.name
        assert all(stage.calls and min(stage.seconds) >= 0 for stage in section.stages), section.name
        assert section.per_second > 0


def test_operations_are_those_of_the_networks(report):
    segment = stages_of(report, "segment")
    assert segment["features: sd"].operations > segment["scoring"].operations > 0
    assert segment["reading"].operations == segment["writing"].operations == 0
    drawn = {section.name: section.operations for section in report.sections}
    assert drawn["drawing with attribution"] > drawn["drawing alone"]  # by the products of queries and keys
    together = stages_of(report, "segment, 2 together")
    assert together["features: sd"].operations == 2 * segment["features: sd"].operations
    for section in report.sections:
        assert section.operations >= sum(stage.operations for stage in section.stages)


def test_the_record_says_what_was_measured_on_what(report):
    data = json.loads(json.dumps(report.record()))
    assert (data["ovseg_bench"], data["profile"], data["weights"]) == (1, "mini", "bundled")
    assert (data["device"], data["precision"]) == ("cpu", "float32")
    assert {"cpu", "cores", "threads", "memory", "gpu", "platform", "python"} <= data["machine"].keys()
    assert {"ovseg", "torch", "diffusers", "transformers", "open_clip_torch"} <= data["versions"].keys()
    assert data["settings"] == {
        "what": ["add-class", "segment", "methods"],
        "methods": ["gem", "cliper"],
        "count": 2,
        "steps": 1,
        "classes": 3,
        "size": [64, 48],
        "batch": 2,
        "repeats": 1,
    }
    assert data["peak"] > 0
    assert data["process_bytes"] is None or data["process_bytes"] > 1e8
    assert data["attribution"] > -1
    for section in data["sections"]:
        assert {"median", "per_second", "unexplained", "share_of_peak", "device_bytes"} <= section.keys()


def test_a_record_is_read_back(report, tmp_path):
    path = tmp_path / "a.json"
    path.write_text(json.dumps(report.record()))
    assert Report.read(path).record() == report.record()


def test_on_a_cpu_the_defaults_are_small():
    filled = speed_bench._filled(BenchSettings(), get_profile("sd15"), "cpu")
    assert (filled.count, filled.steps, filled.batch, filled.repeats, filled.size) == (2, 4, 1, 2, (500, 375))
    filled = speed_bench._filled(BenchSettings(), get_profile("sd15"), "cuda")
    assert (filled.count, filled.steps, filled.batch, filled.repeats) == (32, 30, 8, 3)
    assert filled.methods == speed_bench.TIMED
    assert set(speed_bench.TIMED_ON_CPU) < set(speed_bench.TIMED)


def test_attention_is_counted_on_a_cpu():
    queries = torch.rand(1, 2, 16, 8)
    counter = FlopCounterMode(display=False, custom_mapping=speed_bench._attention_of_cpus())
    with torch.inference_mode(), counter:
        torch.nn.functional.scaled_dot_product_attention(queries, queries, queries)
    assert counter.get_total_flops() == 2 * (2 * 2 * 16 * 16 * 8)


def test_the_peak_is_of_the_precision_that_the_networks_have(monkeypatch):
    seen = []
    monkeypatch.setattr(speed_bench, "MAX_SIDE", 512)
    product = torch.Tensor.__matmul__
    monkeypatch.setattr(torch.Tensor, "__matmul__", lambda a, b: seen.append(a.dtype) or product(a, b))
    assert matrix_peak("cpu", torch.float64) > 0
    assert set(seen) == {torch.float64}


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (BenchSettings(what=("segmnt",)), "Unknown part 'segmnt'. Did you mean 'segment'"),
        (BenchSettings(methods=("gemm",)), "Unknown method 'gemm'. Did you mean 'gem'"),
        (BenchSettings(methods=("prototype",)), "prototype is not timed by itself here"),
        (BenchSettings(methods=("auto",)), "auto is not timed by itself here"),
    ],
)
def test_what_cannot_be_measured_is_refused(settings, message):
    with pytest.raises(UsageError, match=message.replace(".", r"\.")):
        check_settings(settings, MINI)


def test_a_method_whose_network_the_profile_lacks_is_refused_or_left_out():
    lacking = replace(MINI, proxy=None)
    with pytest.raises(UsageError, match="has not all networks of proxyclip"):
        check_settings(BenchSettings(methods=("proxyclip",)), lacking)
    assert "proxyclip" not in speed_bench._methods(lacking, BenchSettings(), "cuda")


def test_only_the_weights_that_are_measured_must_be_here():
    sd15 = get_profile("sd15")
    with pytest.raises(WeightsError, match=r"--random-weights.*ovseg pull --profile sd15") as raised:
        check_weights(sd15, BenchSettings(), "cpu")
    assert "stable-diffusion-v1-5" in str(raised.value)
    with pytest.raises(WeightsError) as raised:
        check_weights(sd15, BenchSettings(what=("methods",), methods=("gem",)), "cpu")
    assert "clip" in str(raised.value)
    assert "diffusion" not in str(raised.value)
    check_weights(MINI, BenchSettings(), "cpu")


def test_pictures_differ_from_run_to_run(tmp_path):
    bench = speed_bench._Bench(None, None, TINY, tmp_path)
    first, second = np.asarray(bench._picture()), np.asarray(bench._picture())
    assert first.shape == (48, 64, 3)
    assert (first != second).any()
