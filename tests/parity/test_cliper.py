"""CLIPer against its published code: the same weights, pictures and texts, maps against maps."""

from __future__ import annotations

import gc
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from ovseg_cli.backbones import clip as clip_module
from ovseg_cli.backbones.attention import attention_probabilities
from ovseg_cli.backbones.pixels import to_working_tensor
from ovseg_cli.backbones.unet import DiffusionBackbone, Noising
from ovseg_cli.labeling.decide import extremes
from ovseg_cli.methods import cliper, published
from ovseg_cli.methods.attention_refine import refine_maps
from ovseg_cli.profiles import get_profile
from tests.parity.clip_family import CLIP_NORM, TOWERS, backbone
from tests.parity.cliper import (
    NOISE_SEED,
    OUTLINES,
    PICTURES,
    SETTINGS,
    coarse_maps,
    diffusion_parts,
    diffusion_pipeline,
    local_layers,
    texts,
)
from tests.parity.inputs import as_tensor, difference, golden, picture, sample

AGREE = 1e-4
"""Largest difference, as a share of the range of the values."""

AGREE_ROUNDED = 1e-3
"""The same where the published code rounds to half precision and ours does not."""


ROWS = {
    name: (published.CLIPER_LARGE if model == "ViT-L/14" else published.CLIPER)[dataset]
    for name, (model, dataset) in SETTINGS.items()
}


@pytest.fixture(scope="module", params=["narrow", *(pytest.param(n, marks=pytest.mark.parity) for n in ("b16", "l14"))])
def tower(request):
    """One at a time: the large networks take gigabytes."""
    yield request.param, backbone(TOWERS[request.param])
    gc.collect()


def rounded_positions(embedding, grid, mode):
    """The published code rounds resized position embeddings to half precision on every device."""
    return clip_module_positions(embedding, grid, mode).half().float()


clip_module_positions = clip_module.resize_position_embedding


@pytest.mark.parametrize("rounded", [True, False])
def test_coarse_maps(tower, rounded, monkeypatch, tell):
    """Double norm, summed attention in its growing number of iterations, the pseudo-class, the map changed in place."""
    name, clip = tower
    theirs = golden(f"cliper-{name}")
    settings = ROWS[name]
    height, width = PICTURES[name]
    patch = TOWERS[name].patch
    assert settings.working_size(height, width, patch) == (height, width)
    if rounded:
        monkeypatch.setattr(clip_module, "resize_position_embedding", rounded_positions)
    pixels = as_tensor(picture("cliper", height, width))
    with torch.inference_mode():
        trace = clip.trace(
            pixels,
            blocks=range(clip.depth),
            input_size=(height, width),
            positions=settings.positions,
            attention=True,
            **CLIP_NORM,
        )
        fusion = cliper.fuse_early_layers(list(trace.blocks.values()), trace.attention)
        embedded = [clip.embed(tokens) for tokens in fusion.tokens]
        words = cliper.cliper_texts(*texts(TOWERS[name]))
        maps = cliper.cliper_maps(
            [vectors[:, 1:] @ words.T for vectors in embedded],
            fusion.attention,
            classes=len(words) - 4,
            grid=trace.grid,
            logit_scale=settings.logit_scale,
            layer=settings.layer,
            threshold=settings.attention_threshold,
        )[0]
    bound = AGREE if rounded else AGREE_ROUNDED
    for what, ours, wanted in (
        ("attention", sample("cliper/attention", fusion.attention[0], 8000), theirs["attention"]),
        ("maps", maps, theirs["maps"]),
    ):
        tell(f"{what}{', positions rounded as theirs' if rounded else ''}", difference(ours, wanted))
        assert difference(ours, wanted) < bound, what


def test_the_size_that_clip_sees(tower):
    name, _ = tower
    theirs = golden(f"cliper-{name}")
    size = ROWS[name].working_size(250, 333, TOWERS[name].patch)
    assert list(size) == theirs["resized_to"].tolist()


def test_the_picture_that_clip_sees(tower, tell):
    name, _ = tower
    theirs = golden(f"cliper-{name}")
    ours = to_working_tensor(picture("cliper/resize", 250, 333), tuple(theirs["resized_to"].tolist()))[0]
    values = sample("cliper/resized", (ours.permute(1, 2, 0) * 255).round(), 4000)
    worst = np.abs(values - theirs["resized"]).max()
    tell("of 255 grey values", worst)
    assert worst == 0


# --------------------------------------------------------------------------- Stable Diffusion


@pytest.fixture(scope="module", params=["narrow", pytest.param("true", marks=pytest.mark.parity)])
def walked(request):
    """The two layers of a picture, through Stable Diffusion as `ovseg` loads it."""
    diffusion = DiffusionBackbone(diffusion_pipeline(request.param), "cpu")
    layers = diffusion.attention_layers(
        to_working_tensor(picture("cliper/diffusion", 375, 500), (512, 512), resample="nearest"),
        Noising(cliper.TIMESTEP, NOISE_SEED, 512),
        layers=get_profile("sd15").generator.refine_layers,
    )
    yield golden(f"cliper-refine-{request.param}"), list(layers.values())
    gc.collect()


def test_timestep(walked):
    theirs, _ = walked
    assert theirs["timestep"] == cliper.TIMESTEP


def test_the_46th_timestep_of_todays_sampler():
    scheduler = diffusion_parts("narrow")["scheduler"]
    scheduler.set_timesteps(50)
    assert len(scheduler.timesteps) == 51
    assert int(scheduler.timesteps[45]) == cliper.TIMESTEP


@pytest.mark.slow
def test_self_attention(walked, tell):
    """The nearest pixel, the VAE's mean, the noise, the empty prompt, the layers by name."""
    theirs, layers = walked
    for place, layer, head in (("first", layers[0], 0), ("last", layers[1], 4)):
        assert layer.heads == 5
        matrix = attention_probabilities(layer.queries, layer.keys, layer.heads, layer.scale)[0, head]
        found = difference(sample(f"cliper/{place}", matrix, 2000), theirs[place])
        tell(f"{place} head", found)
        assert found < AGREE


def refine(layers):
    return refine_maps(coarse_maps()[None], layers, threshold=published.CLIPER["voc21"].attention_threshold)[0]


@pytest.mark.slow
def test_refined_maps_of_a_picture(walked, tell):
    theirs, layers = walked
    found = difference(sample("cliper/refined", refine(layers), 4000), theirs["refined"])
    tell("maps", found)
    assert found < AGREE


# --------------------------------------------------------------------------- from made-up attention to labels


@pytest.fixture(scope="module")
def refined():
    """Column maxima, the threshold, row sums, the order of ten factors, at the true size."""
    return refine(local_layers())


def test_refined_maps(refined, tell):
    theirs = golden("cliper-refine-local")
    for what, ours, wanted in (
        ("maps", sample("cliper/refined", refined, 4000), theirs["refined"]),
        ("scores", cliper.class_scores(coarse_maps(), refined), theirs["scores"]),
    ):
        tell(what, difference(ours, wanted))
        assert difference(ours, wanted) < AGREE, what


def label_settings(background, score, stretch):
    return replace(published.CLIPER["voc21"], score_threshold=score, threshold=background, stretch=stretch)


LABELS = {
    "voc21": label_settings(0.6, 0.7, True),
    "context": label_settings(0.45, 0.45, False),
    "squared": label_settings(0.0, 0.7, False),
}


@pytest.mark.parametrize("name", LABELS)
def test_labels(refined, name, tell):
    """From refined maps to labels, at the size of the outlines."""
    theirs = golden("cliper-refine-local")
    large = F.interpolate(refined[None], OUTLINES, mode="bilinear", align_corners=False)[0]
    present = cliper.class_scores(coarse_maps(), refined)
    best, labels = cliper.cliper_scores(large, extremes(refined, OUTLINES), present, LABELS[name]).max(dim=0)
    labels[best < LABELS[name].threshold] = 0
    other = float((labels.numpy() != theirs[f"labels_{name}"]).mean())
    tell("share of other labels", other)
    assert other < 1e-3
