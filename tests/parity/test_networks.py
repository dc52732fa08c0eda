"""Features, attention and the pre-filter against the published code, on networks with the same weights."""

from __future__ import annotations

import gc
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from ovseg_cli.backbones import clip as clip_module
from ovseg_cli.models import concatenate_maps
from ovseg_cli.names import ClassList
from ovseg_cli.profiles import get_profile
from ovseg_cli.text.prefilter import ClassPrefilter
from tests.parity.inputs import as_tensor, difference, golden, picture, sample
from tests.parity.networks import KnownModels

AGREE = 1e-4
"""Largest difference, as a share of the range of the values."""

FILTER_NAMES = (
    *("cat", "dog", "potted plant", "airplane", "tree", "bicycle", "sofa", "boat"),
    *("bus", "cow", "table", "horse", "train", "sheep", "bottle", "bird"),
)


@pytest.fixture(scope="module")
def models(size):
    """One size at a time: the large networks take 5 GB."""
    yield KnownModels(size)
    gc.collect()


# --------------------------------------------------------------------------- Stable Diffusion


@pytest.mark.slow
def test_queries_of_stable_diffusion(models, size, tell):
    """The VAE's sample, its noising, the empty prompt, the layers by name, their order and their enlargement."""
    theirs = golden(f"stable-diffusion-{size}")
    spec = models.extractor("sd")
    assert list(spec.layers) == theirs["layers"].tolist()
    with torch.inference_mode():
        maps = models.feature_maps(spec, as_tensor(picture("features", 512, 512)))
    features = concatenate_maps(maps)
    for name, ours in {
        "features": sample("features", features, len(theirs["features"])),
        "norms": features[0].norm(dim=0),
        "channels": features[0].mean(dim=(1, 2)),
    }.items():
        tell(name, difference(ours, theirs[name]))
        assert difference(ours, theirs[name]) < AGREE, name


@pytest.mark.slow
def test_pictures_and_attribution_of_stable_diffusion(models, size, tell):
    """All sixteen cross-attention layers, two steps, guidance, a phrase of several tokens, two pictures at once."""
    theirs = golden(f"stable-diffusion-{size}")
    generator = models.profile.generator
    phrase, seeds = ("chocolate glazed donut", [42, 43]) if size == "narrow" else ("cat", [42])
    made = models.generator.generate(
        generator.prompt.format(name=phrase),
        phrase,
        seeds,
        image_size=generator.image_size,
        steps=2,
        guidance=generator.guidance,
        negative_prompt=generator.negative_prompt,
        min_attention_grid=generator.min_attention_grid,
    )
    tell("attribution", difference(made.attribution, theirs["attribution"]))
    assert difference(made.attribution, theirs["attribution"]) < AGREE
    pixels = sample("images", made.images.permute(0, 3, 1, 2).float() / 255, len(theirs["images"]))
    # Ours are rounded to 8 bits; theirs are cut off to them when they are written, which is not in the arrays.
    tell("images", np.abs(pixels - theirs["images"]).max())
    assert np.abs(pixels - theirs["images"]).max() < 0.5 / 255 + AGREE


def test_sampling_goes_through_the_published_timesteps(models):
    """diffusers 0.14 knew one spacing only, which current versions call "linspace"."""
    scheduler = models.generator.pipeline.scheduler
    scheduler.set_timesteps(30)
    expected = np.linspace(0, 999, 31).round()[:0:-1]
    assert scheduler.timesteps.tolist() == expected.tolist()


# --------------------------------------------------------------------------- CLIP and DINO


def plus_a_tenth(patches, grid):
    """Position embeddings (1, D, n, n) enlarged as in DINO's code, which lies a tenth of a cell beside the grid."""
    side = patches.shape[-1]
    scale = tuple((length + 0.1) / side for length in grid)
    return F.interpolate(patches, scale_factor=scale, mode="bicubic", align_corners=False, recompute_scale_factor=False)


def published_clip_positions(embedding, grid, *_mode):
    side = round((embedding.shape[0] - 1) ** 0.5)
    if grid == (side, side):
        return embedding
    patches = plus_a_tenth(embedding[1:].reshape(1, side, side, -1).permute(0, 3, 1, 2), grid)
    return torch.cat([embedding[:1], patches[0].flatten(1).T])


def published_dino_positions(module):
    def interpolate(_tokens, height, width):
        weights = module.position_embeddings
        side = round((weights.shape[1] - 1) ** 0.5)
        grid = (height // 8, width // 8)
        if grid == (side, side):
            return weights
        patches = plus_a_tenth(weights[:, 1:].reshape(1, side, side, -1).permute(0, 3, 1, 2), grid)
        return torch.cat([weights[:, :1], patches.flatten(2).transpose(1, 2)], dim=1)

    return interpolate


def compare_vit(models, spec, theirs, key, name):
    """Largest difference of the features of one picture.

    The published code flattens keys of shape (heads, N, d) so that the heads change fastest along the channels. Ours
    stand head by head. That is only the order of the numbers in a feature, which no cosine and no mean depends on.
    """
    with torch.inference_mode():
        features = models.features(spec, as_tensor(picture("features", spec.input_size, spec.input_size)))[0]
    if spec.kind in ("clip-key", "vit-key"):
        heads = {"clip-key": spec.dim // 64, "vit-key": spec.dim // (64 if spec.dim == 768 else 16)}[spec.kind]
        features = features.unflatten(0, (heads, -1)).transpose(0, 1).flatten(0, 1).contiguous()
    return max(
        difference(sample(name, features, len(theirs[key])), theirs[key]),
        difference(features.norm(dim=0), theirs[f"{key}_norms"]),
    )


@pytest.mark.parametrize("side", [224, 448])
@pytest.mark.parametrize("facet", ["key", "token"])
def test_features_of_clip(models, size, facet, side, monkeypatch, tell):
    """The second-to-last block, without the class token, heads side by side, ImageNet's normalisation."""
    spec = models.extractor("clip", kind=f"clip-{facet}", input_size=side, grid=side // 16)
    theirs = golden(f"clip-{size}")
    found = compare_vit(models, spec, theirs, f"{facet}_{side}", f"clip/{facet}/{side}")
    if side == 448:  # ours lie on the grid; everything else is the same
        tell("with our positions", found)
        assert 1e-4 < found < 0.1
        monkeypatch.setattr(clip_module, "resize_position_embedding", published_clip_positions)
        found = compare_vit(models, spec, theirs, f"{facet}_{side}", f"clip/{facet}/{side}")
    tell("difference", found)
    assert found < AGREE


@pytest.mark.parametrize("side", [224, 448])
def test_features_of_dino(models, size, side, monkeypatch, tell):
    """Keys of the last block."""
    spec = models.extractor("dino", input_size=side, grid=side // 8)
    theirs = golden(f"dino-{size}")
    found = compare_vit(models, spec, theirs, f"key_{side}", f"dino/key/{side}")
    if side == 448:
        tell("with our positions", found)
        assert 1e-4 < found < 0.1
        (backbone,) = (b for (_, weights), b in models._loaded.items() if weights == spec.weights)
        embeddings = backbone.model.embeddings
        monkeypatch.setattr(embeddings, "interpolate_pos_encoding", published_dino_positions(embeddings))
        found = compare_vit(models, spec, theirs, f"key_{side}", f"dino/key/{side}")
    tell("difference", found)
    assert found < AGREE


# --------------------------------------------------------------------------- the class pre-filter


def kept_classes(models, names, number, limit):
    """Joint prompts name the classes in the order of `names`, as the published code's do; ours have the alphabet's."""
    spec = replace(get_profile("sd15").prefilter, limit=limit)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(ClassList, "by_alphabet", lambda classes: list(range(len(classes))))
        prefilter = ClassPrefilter(models.clip, models.profile.clip, spec, names)
    return prefilter(as_tensor(picture(f"prefilter/{number}", 224, 224)))


def test_which_classes_the_prefilter_keeps(models, size, tell):
    """Both stages, picture by picture, where no more candidates pass the first stage than the second takes."""
    theirs = golden(f"prefilter-{size}")
    pictures, count = theirs["kept_10"].shape
    for number in range(pictures):
        kept = kept_classes(models, FILTER_NAMES[:count], number, limit=10)
        assert list(kept.classes) == np.flatnonzero(theirs["kept_10"][number]).tolist(), number
        cosines = theirs["cosines"][number]
        found = np.abs(np.array(kept.scores) - cosines[list(kept.classes)]).max() / np.ptp(cosines)
        tell(f"cosines of picture {number}", found)
        assert found < AGREE


def test_which_of_too_many_candidates_the_prefilter_keeps(models, size):
    """Where candidates are cut to the limit, the published code names them in joint prompts by falling probability.

    In that order the answers are the same.
    """
    theirs = golden(f"prefilter-{size}")
    for number in range(len(theirs["kept_3"])):
        order = np.argsort(-theirs["cosines"][number], kind="stable")
        kept = kept_classes(models, [FILTER_NAMES[place] for place in order], number, limit=3)
        assert sorted(order[list(kept.classes)].tolist()) == np.flatnonzero(theirs["kept_3"][number]).tolist(), number
