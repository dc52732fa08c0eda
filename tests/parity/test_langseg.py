"""Methods on diffusion attention against their published code: langseg (AggGEM, AggSD, clusters) and DiffSegmenter."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from ovseg_cli.backbones.attention import RunningCrossAttention, RunningSelfAttention
from ovseg_cli.clustering.regions import merge_attention
from ovseg_cli.labeling.decide import enlarge_rows, extremes
from ovseg_cli.methods.agg import aggregate, aggsd_maps, aggsd_scores, doubt_background, fuse_cross_attention
from ovseg_cli.methods.clusters import diffseg_maps, region_means, spectral_vectors
from ovseg_cli.methods.diffsegmenter import class_map, diffsegmenter_scores
from ovseg_cli.methods.words import word_scores
from tests.parity import attention as made
from tests.parity.inputs import difference, golden, sample

AGREE = 1e-4
"""Largest difference, as a share of the range of the values."""


@pytest.fixture(scope="module")
def published(size):
    return golden(f"langseg-{size}")


@pytest.fixture(scope="module")
def own(size):
    """Self-attention of all layers."""
    running = RunningSelfAttention()
    for layer in range(len(made.LAYERS[size])):
        running.add(*made.projections(size, layer, "attn1"), made.HEADS, made.SCALE)
    return running.mean()[0]


@pytest.fixture(scope="module")
def cross(size):
    """Cross-attention of the start token and two phrases, by the side of a grid, and the numbers of layers."""
    running = RunningCrossAttention([(0,), *made.PHRASES])
    for layer in range(len(made.LAYERS[size])):
        running.add(*made.projections(size, layer, "attn2"), made.HEADS, made.SCALE)
    maps, layers = running.means()
    return {side: each[0] for side, each in maps.items()}, layers


@pytest.fixture(scope="module")
def attention(size):
    return made.picture_attention(size)


def voc_scores(size, side):
    cosines = F.interpolate(made.cosines(size)[None], (made.LAYERS[size][0],) * 2, mode="bilinear")
    cosines = F.interpolate(cosines, (side, side), mode="bilinear")[0]
    return doubt_background(word_scores(cosines, range(1, len(cosines) + 1), logit_scale=10.0))


def check(tell, what, ours, theirs):
    worst = difference(ours, theirs)
    tell(what, worst)
    assert worst < AGREE


def test_self_attention_of_all_layers(own, published, tell):
    check(tell, "fused", sample("self", own, 4000), published["self"])


def test_cross_attention_of_all_layers(cross, published, tell):
    check(tell, "fused", fuse_cross_attention(*cross), published["cross"])


def test_maps_of_aggsd(own, cross, published, tell):
    check(tell, "maps", aggsd_scores(aggsd_maps(*cross, own)), published["aggsd"])


def test_the_background_of_voc(size, published, tell):
    check(tell, "background", voc_scores(size, made.LAYERS[size][0])[0], published["background"])


@pytest.mark.parametrize(("name", "settings"), [("agggem", {}), ("walk", {"exponent": 2.0, "steps": 3})])
def test_maps_of_agggem(size, attention, published, tell, name, settings):
    maps = aggregate(voc_scores(size, made.LAYERS[size][0]), attention, **settings)
    check(tell, name, sample(name, maps, 4000), published[name])


def test_regions_of_diffseg(size, attention, published, tell):
    side, pixels = made.LAYERS[size][0], made.PIXELS[size]
    merged = merge_attention(attention, anchors=side // 4, divergence=0.8, rounds=2, overlap=True)
    check(tell, "merged attention", sample("merged", merged, 4000), published["merged"])
    maps = diffseg_maps(attention, anchors=side // 4)
    owner = enlarge_rows(maps, (pixels, pixels), 0, pixels, "bicubic").argmax(dim=0)
    regions = owner.numpy()
    tell("share of other pixels", float((regions != published["regions"]).mean()))
    assert len(np.unique(regions)) > 5
    assert (regions != published["regions"]).mean() < AGREE
    means = region_means([(owner, voc_scores(size, pixels))], len(maps))
    labels = means.argmax(dim=0)[owner].numpy()
    assert len(np.unique(labels)) > 2
    assert (labels != published["labels"]).mean() < AGREE


def test_spectral_embedding(attention, published, tell):
    """By inner products: k-means depends on nothing else, and signs are free."""
    vectors = spectral_vectors(attention)
    check(tell, "inner products", sample("spectral", vectors @ vectors.T, 4000), published["spectral"])


@pytest.mark.parity
@pytest.mark.parametrize("name", made.SEGMENTER_CLASSES)
def test_maps_of_diffsegmenter(name, tell):
    layers = range(len(made.LAYERS["true"]))
    by_side = {}
    for layer, side in enumerate(made.LAYERS["true"]):
        by_side.setdefault(side, []).append(made.segmenter_cross(name, layer)[..., 4].mean(dim=0).view(side, side))
    finest = [
        made.probabilities("true", layer, "attn1")[0].mean(dim=0)
        for layer in layers
        if made.LAYERS["true"][layer] == 64
    ]
    found = class_map(
        {side: torch.stack(maps).mean(dim=0) for side, maps in by_side.items()}, torch.stack(finest).mean(dim=0)
    )
    large = F.interpolate(found[None, None], made.SEGMENTER_PICTURE, mode="bilinear")[0]
    scores = diffsegmenter_scores(large, extremes(found[None], made.SEGMENTER_PICTURE))
    check(tell, "map", scores[1], golden("diffsegmenter")[name])
