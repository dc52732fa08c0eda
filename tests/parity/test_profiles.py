"""Every profile at the true sizes of its networks, with random weights: shapes, one class, one picture by every method.

`make parity` builds them one after the other. Nothing that they answer means anything; that every network fits into the
code, and every number of the profile fits the network, does not depend on the values of weights. To be done in minutes,
pictures are small, but for features.
"""

from __future__ import annotations

import gc
import os
import resource
import sys
import time
from dataclasses import replace

import numpy as np
import pytest
import torch

from ovseg_cli.backbones.phrases import PhrasedPrompt
from ovseg_cli.backbones.unet import Noising
from ovseg_cli.methods.catalogue import METHODS, methods_of, word_methods
from ovseg_cli.profiles import PROFILES, get_profile
from ovseg_cli.random_models import RandomModels
from ovseg_cli.segmentation.options import SegmentOptions
from ovseg_cli.segmentation.segmenter import Segmenter, segment_together
from tests.benchmarks.stores import RandomPrototypes
from tests.mini import random_pictures

pytestmark = pytest.mark.parity

NAME = "chocolate glazed donut"
PHOTO = (300, 400)
OPEN_2026_NEEDS = 18
"""GB: Stable Diffusion XL in bfloat16 and OpenCLIP ViT-H/14 in float32, at once."""


@pytest.fixture(params=[name for name, profile in PROFILES.items() if not profile.bundled])
def models(request):
    """One profile at a time."""
    memory = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") / 2**30
    if request.param == "open-2026" and memory < OPEN_2026_NEEDS:
        pytest.skip(f"it takes {OPEN_2026_NEEDS} GB of memory, and there are {memory:.0f}")
    made = RandomModels(get_profile(request.param), "cpu", compact=True)
    made.profile = replace(made.profile, generator=replace(made.profile.generator, image_size=128))
    yield made
    gc.collect()


@pytest.fixture
def tell_cost(tell):
    """Lists seconds and memory so far among the differences."""
    started = time.perf_counter()

    def told(done):
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / (2**30 if sys.platform == "darwin" else 2**20)
        tell(f"seconds until {done}", time.perf_counter() - started)
        tell(f"GB of memory at most until {done}", peak)

    return told


def test_the_diffusion_model_at_true_size(models, tell_cost):
    """A support image, and what methods read of pictures."""
    profile, generator = models.profile, models.profile.generator
    side = generator.image_size
    prompt = generator.prompt.format(name=NAME)
    drawn = models.generator.generate(
        prompt,
        NAME,
        [generator.seed],
        image_size=side,
        steps=1,
        guidance=generator.guidance,
        negative_prompt=generator.negative_prompt,
        min_attention_grid=generator.min_attention_grid,
        sampler=generator.sampler,
        spacing=generator.spacing,
    )
    assert drawn.images.shape == (1, side, side, 3)
    assert drawn.attribution.shape == (1, side // 8, side // 8)
    assert drawn.attribution.isfinite().all()
    assert 0 < drawn.attribution.mean() < 1 / len(NAME.split())
    tell_cost("an image")

    pictures, noising = random_pictures(1, side, side), Noising(100, 3, side)
    layers = models.generator.attention_layers(pictures, noising, layers=generator.refine_layers)
    assert len({layer.queries.shape for layer in layers.values()}) == 1
    start = prompt.index(NAME)
    phrases = PhrasedPrompt(prompt, ((start, start + len(NAME)),))
    (seen,) = models.generator.prompt_attention(pictures, [phrases], noising)
    attention = models.generator.self_attention(pictures, noising, layers=profile.regions.layers)
    for matrix in (attention, seen.self_attention):
        assert matrix.shape[1] == matrix.shape[2] == next(iter(layers.values())).queries.shape[1]
        torch.testing.assert_close(matrix.sum(-1), torch.ones(matrix.shape[:2]))
    tell_cost("what is read of a picture")


def test_a_picture_by_every_method_at_true_size(models, tell_cost):
    profile = models.profile
    methods = [name for name in methods_of(profile) if name in word_methods()]
    photo = (random_pictures(1, *PHOTO)[0].permute(1, 2, 0) * 255).byte().numpy()
    store = RandomPrototypes([NAME], {e.digest: e.dim for e in profile.extractors})
    segmenters = [Segmenter(models, store, [NAME], method=name, options=cheap(name)) for name in methods]
    with torch.inference_mode():
        found = segment_together(segmenters, photo)  # walks through networks are shared
    assert len(found) == len(methods) > 10
    for name, result in zip(methods, found, strict=True):
        assert result.ids.shape == PHOTO, name
        assert np.isfinite(list(result.mean_scores.values())).all(), name
    tell_cost(f"a picture by {len(methods)} methods")


def test_features_at_true_size(models, tell_cost):
    for extractor in models.profile.extractors:
        if extractor.kind != "unet-query":
            check_features(models, extractor)
    tell_cost("features")


def test_features_of_a_diffusion_model_at_true_size(models, tell_cost):
    for extractor in models.profile.known_extractors:
        if extractor.kind == "unet-query":
            check_features(models, extractor)
    tell_cost("features")


def cheap(method):
    """One text for each word, in the place of up to 85, and the whole picture instead of windows."""
    templates = None if METHODS[method].reads == "names" else "single"
    return SegmentOptions(prefilter=False, templates=templates, short_side=224, windows=((0, 0),))


def check_features(models, extractor):
    features = models.features(extractor, random_pictures(1, extractor.input_size, extractor.input_size))
    assert features.shape == (1, extractor.dim, extractor.grid, extractor.grid)
    assert features.isfinite().all()
