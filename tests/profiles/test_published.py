"""Every number of a published set against the networks that it is of, built by their true configurations.

On the meta device: shapes without tensors. With tensors it is `tests/parity/test_profiles.py`.
"""

from __future__ import annotations

import diffusers
import open_clip
import pytest
import torch

from ovseg_cli.methods.catalogue import METHODS, methods_of
from ovseg_cli.methods.settings import dense_settings
from ovseg_cli.profiles import PROFILES, get_profile
from ovseg_cli.random_models import CLIPS, UNETS

PUBLISHED = [name for name, profile in PROFILES.items() if not profile.bundled]
PARAMETERS = {"sd15": 859_520_964, "langseg": 859_520_964, "open-2026": 2_567_463_684}  # else Stable Diffusion 2's


@pytest.fixture(params=PUBLISHED)
def profile(request):
    return get_profile(request.param)


@pytest.fixture
def unet(profile):
    with torch.device("meta"):
        return diffusers.UNet2DConditionModel.from_config(UNETS[profile.generator.weights.repo])


@pytest.fixture
def clip(profile):
    name = CLIPS[profile.clip.weights.repo]
    with torch.device("meta"):
        return name, open_clip.CLIP(**open_clip.get_model_config(name))


def level(unet, layer):
    """How often the grid is halved before a layer."""
    kind, number = layer.split(".")[:2]
    deepest = len(unet.config.block_out_channels) - 1
    return {"down_blocks": int(number), "up_blocks": deepest - int(number)}[kind] if kind != "mid_block" else deepest


def attention(unet, layer):
    return unet.get_submodule(layer).transformer_blocks[0]


def test_the_unet_has_its_true_size(profile, unet):
    assert sum(p.numel() for p in unet.parameters()) == PARAMETERS.get(profile.name, 865_910_724)


def test_features_of_the_unet_have_the_length_and_the_grid_that_the_profile_says(profile, unet):
    for extractor in profile.known_extractors:
        if extractor.kind == "unet-query":
            widths = [attention(unet, layer).attn2.to_q.out_features for layer in extractor.layers]
            grids = [extractor.input_size // 8 // 2 ** level(unet, layer) for layer in extractor.layers]
            assert sum(widths) == extractor.dim
            assert max(grids) == extractor.grid
            assert len(set(extractor.layers)) == len(extractor.layers)


def test_every_self_attention_layer_makes_regions_and_two_of_the_finest_refine(profile, unet):
    """CLIPer's code: [-4, -6] of the list of all attention layers, down, middle, up."""
    blocks = [name for name, m in unet.named_modules() if name.endswith("transformer_blocks.0.attn1")]
    layers = [name.removesuffix(".transformer_blocks.0.attn1") for name in blocks]
    assert set(profile.regions.layers) == set(layers)
    refine = profile.generator.refine_layers
    finest = [name for name in layers if name.startswith("up_") and level(unet, name) == min(map_level(unet, layers))]
    assert list(refine) == [finest[1], finest[0]]
    side = profile.generator.reading_side // 8 // 2 ** level(unet, refine[0])
    assert side == 64
    for layer in refine:
        assert attention(unet, layer).attn1.to_q.out_features == attention(unet, layer).attn1.to_k.out_features


def map_level(unet, layers):
    return [level(unet, layer) for layer in layers]


def test_clip_has_the_activation_the_size_and_the_features_that_the_profile_says(profile, clip):
    name, model = clip
    blocks, width = model.visual.transformer.resblocks, model.visual.transformer.width
    assert name.endswith("quickgelu") == profile.clip.quick_gelu
    assert profile.clip.large == ("ViT-L" in name)
    assert profile.clip.streams < len(blocks)
    patch = model.visual.conv1.kernel_size[0]
    assert profile.prefilter.input_size % patch == 0
    for extractor in profile.known_extractors:
        if extractor.kind in ("clip-key", "clip-token"):
            assert extractor.weights == profile.clip.weights
            assert extractor.dim == width
            assert extractor.grid * patch == extractor.input_size
            assert extractor.layers == ("-2",)


def test_what_is_read_of_pictures_is_the_published_setting():
    """CLIPer and langseg show Stable Diffusion 512 x 512 pixels; XL was made for 1024."""
    sides = {name: get_profile(name).generator.reading_side for name in PUBLISHED}
    assert sides == dict.fromkeys(PUBLISHED, 512) | {"open-2026": 1024}


@pytest.mark.parametrize(("name", "scale"), [("cliper-b", 100), ("cliper-l", 50), ("sd15", 100), ("open-2026", 100)])
def test_published_rows_are_those_of_the_size_of_clip(name, scale):
    assert dense_settings(get_profile(name), "cliper", "voc21").logit_scale == scale


def test_each_set_can_run_every_method(profile):
    assert methods_of(profile) == tuple(METHODS)
    assert METHODS[profile.clip.best].reads_words


def test_licences_that_forbid_commercial_use_are_marked(profile):
    parts = (*profile.weights_for(profile.known_extractors), profile.regions.sam)
    assert {w.part for w in parts if not w.commercial} == {
        "turbo": {"diffusion"},
        "langseg": {"clip"},
    }.get(profile.name, set())
    for weights in parts:
        assert weights.commercial == ("NC" not in weights.licence and "Non-Commercial" not in weights.licence)


def test_every_set_says_which_table_it_is_for(profile):
    assert profile.table


def test_few_step_models_are_sampled_as_they_were_distilled():
    generator = get_profile("turbo").generator
    assert (generator.sampler, generator.spacing, generator.guided) == ("euler", "trailing", False)
    assert 1 <= generator.steps <= 4
