"""Every profile at the true sizes of its networks, with random weights: shapes, one class, one picture by every method.

`make parity` builds them one after the other. Nothing that they answer means anything; that every network fits into the
code, and every number of the profile fits the network, does not depend on the values of weights.
"""

from __future__ import annotations

import gc
import resource
import sys
import time

import numpy as np
import pytest
import torch

from ovseg_cli.methods.catalogue import METHODS, word_methods
from ovseg_cli.profiles import PROFILES
from ovseg_cli.segmentation.options import SegmentOptions
from ovseg_cli.segmentation.segmenter import Segmenter, segment_together
from tests.benchmarks.stores import RandomPrototypes
from tests.mini import random_pictures
from tests.true_models import RandomModels

pytestmark = pytest.mark.parity

NAMES = ("cat", "chocolate glazed donut")
PHOTO = (300, 400)


@pytest.fixture(params=[name for name, profile in PROFILES.items() if not profile.bundled])
def models(request):
    """One profile at a time: the largest takes 9 GB."""
    yield RandomModels("cpu", request.param)
    gc.collect()


def test_a_profile_at_true_size(models, tell):
    started = time.perf_counter()
    profile, generator = models.profile, models.profile.generator

    # Features: length and grid are checked by the models themselves.
    for extractor in profile.known_extractors:
        side = extractor.input_size
        features = models.features(extractor, random_pictures(1, side, side))
        assert features.shape == (1, extractor.dim, extractor.grid, extractor.grid)
        assert features.isfinite().all()
        del features
    tell("seconds until features", time.perf_counter() - started)

    # A support image, in as few steps as the sampler allows.
    drawn = models.generator.generate(
        generator.prompt.format(name=NAMES[1]),
        NAMES[1],
        [generator.seed],
        image_size=generator.image_size,
        steps=1,
        guidance=generator.guidance,
        negative_prompt=generator.negative_prompt,
        min_attention_grid=generator.min_attention_grid,
        sampler=generator.sampler,
        spacing=generator.spacing,
    )
    side = generator.image_size
    assert drawn.images.shape == (1, side, side, 3)
    assert drawn.attribution.shape == (1, side // 8, side // 8)
    assert drawn.attribution.isfinite().all()
    assert 0 < drawn.attribution.mean() < 1 / len(NAMES[1].split())
    tell("seconds until an image", time.perf_counter() - started)

    # One picture by every method that the set allows; walks through networks are shared.
    store = RandomPrototypes(NAMES, {e.digest: e.dim for e in profile.extractors})
    options = SegmentOptions(prefilter=False, templates="single")  # one text for each word, of up to 85
    methods = [name for name in ("prototype", *word_methods()) if METHODS[name].networks or name == "prototype"]
    photo = (random_pictures(1, *PHOTO)[0].permute(1, 2, 0) * 255).byte().numpy()
    segmenters = [
        Segmenter(models, store, NAMES, method=name, options=SegmentOptions() if name == "prototype" else options)
        for name in methods
    ]
    with torch.inference_mode():
        found = segment_together(segmenters, photo)
    for name, result in zip(methods, found, strict=True):
        assert result.ids.shape == PHOTO, name
        assert np.isfinite(list(result.mean_scores.values())).all(), name
    tell("seconds in all", time.perf_counter() - started)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    tell("GB at most, of this and the profiles before", peak / (2**30 if sys.platform == "darwin" else 2**20))
