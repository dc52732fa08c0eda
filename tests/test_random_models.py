from __future__ import annotations

from dataclasses import replace

import open_clip
import pytest
import torch

from ovseg_cli import random_models
from ovseg_cli.errors import WeightsError
from ovseg_cli.profiles import PROFILES, get_profile
from ovseg_cli.random_models import RandomModels, maker

HALF = torch.float16


def dtypes(module):
    return {parameter.dtype for parameter in module.parameters()}


@pytest.mark.parametrize("make", random_models.VITS.values())
def test_vision_transformers_have_the_precision(make):
    with torch.device("meta"):
        assert dtypes(make("meta", HALF).model) == {HALF}


def test_of_clip_what_sees_pictures_has_the_precision(monkeypatch):
    """As `ClipBackbone.load` has it: texts are kept for all devices."""
    config = {
        "embed_dim": 8,
        "vision_cfg": {"image_size": 32, "layers": 2, "width": 16, "head_width": 8, "patch_size": 16},
        "text_cfg": {"context_length": 77, "vocab_size": 49408, "width": 8, "heads": 2, "layers": 1},
    }
    monkeypatch.setitem(open_clip.factory._MODEL_CONFIGS, "tiny", config)
    made = random_models.clip("tiny", "cpu", HALF)
    assert made.dtype == HALF
    assert dtypes(made.model.transformer) == {torch.float32}


def test_words_draw_attention_to_places():
    """By weights of chance alone they draw it everywhere alike, and no support image could be used."""

    class Part(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.attn2 = torch.nn.ModuleDict({"to_k": torch.nn.Linear(64, 64), "to_q": torch.nn.Linear(64, 64)})

    class Backbone:
        model = Part().requires_grad_(False)

    with random_models.cheap_weights() as fill:
        fill(Backbone)
    queries, keys = (float(Backbone.model.attn2[name].weight.std()) for name in ("to_q", "to_k"))
    assert keys / queries == pytest.approx(random_models.CONTRAST, rel=0.1)


def test_every_network_of_the_published_profiles_can_be_made():
    for profile in PROFILES.values():
        for weights in profile.weights_for(profile.known_extractors):
            if weights.bundled is None:
                assert maker(weights)


def test_a_network_of_unknown_size_is_refused_and_bundled_ones_are_loaded():
    unknown = replace(get_profile("sd15").clip.weights, repo="somebody/some-clip")
    with pytest.raises(WeightsError, match="somebody/some-clip cannot be made with random weights"):
        maker(unknown)
    mini = RandomModels(get_profile("mini"), "cpu")
    assert mini.clip.model.training is False
