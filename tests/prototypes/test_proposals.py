from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from ovseg_cli.errors import UsageError
from ovseg_cli.models import load_models
from ovseg_cli.profiles import Weights, get_profile
from ovseg_cli.prototypes.masks import cut_out
from ovseg_cli.prototypes.proposals import SelfAttentionRegions, make_proposer
from ovseg_cli.random_models import SD15_UNET
from tests.mini import example_labels, example_scene, mini_models, write_tiny_sam


@pytest.fixture(scope="module")
def proposer():
    return SelfAttentionRegions(mini_models())


def test_regions_of_a_scene_part_it_and_are_the_same_every_time(proposer):
    image = example_scene(0)[:96, :160]
    torch.manual_seed(0)
    regions = proposer.propose(image)
    torch.manual_seed(1)
    np.testing.assert_array_equal(proposer.propose(image), regions)
    assert regions.shape[1:] == (96, 160)
    assert (regions.sum(axis=0) == 1).all()
    assert regions.any(axis=(1, 2)).all()


@pytest.mark.parametrize("size", [(1, 1), (1, 70), (3, 2)])
def test_tiny_pictures_do_no_harm(proposer, size):
    assert proposer.propose(np.full((*size, 3), 90, np.uint8)).shape[1:] == size


def test_an_object_is_cut_out_by_its_own_region(proposer):
    scene, labels = example_scene(0), example_labels(0)
    biggest = np.bincount(labels[(labels > 0) & (labels < 255)]).argmax()
    rows, columns = np.nonzero(labels == biggest)
    top, left = max(rows.min() - 12, 0), max(columns.min() - 12, 0)
    window = np.s_[top : rows.max() + 13, left : columns.max() + 13]
    image, true = scene[window], labels[window] == biggest
    attention = np.asarray(torch.nn.functional.adaptive_avg_pool2d(torch.from_numpy(true[None, None]).float(), 16)[0])
    cutouts = cut_out([image], attention, method="self-attention", proposer=proposer)
    assert cutouts.record["fallbacks"] == {}
    assert (cutouts.foreground[0] & true).sum() / (cutouts.foreground[0] | true).sum() > 0.6
    assert (cutouts.background[0] & true).mean() < 0.01


def test_thresholds_need_no_proposer():
    assert make_proposer(mini_models(), "otsu") is None
    assert make_proposer(mini_models(), "fixed") is None
    assert make_proposer(mini_models(), "self-attention").name == "self-attention (bundled:mini/diffusion)"


def test_a_profile_without_sam_says_what_works():
    with pytest.raises(UsageError, match=r"'mini' has no SAM.*otsu, fixed or self-attention"):
        make_proposer(mini_models(), "sam")


@pytest.mark.slow
def test_sam_of_a_profile_proposes_masks(tmp_path):
    write_tiny_sam(tmp_path)
    mini = get_profile("mini")
    weights = Weights(
        part="sam",
        revision="none",
        bundled=str(tmp_path),
        files=("**",),
        marker="model.safetensors",
        licence="-",
        nbytes=1,
    )
    profile = replace(mini, regions=replace(mini.regions, sam=weights))
    proposer = make_proposer(load_models(profile, device="cpu"), "sam")
    assert proposer.name == f"sam (bundled:{tmp_path})"
    assert proposer.propose(np.zeros((20, 30, 3), np.uint8)).shape[1:] == (20, 30)


def test_the_profiles_read_every_self_attention_layer():
    from diffusers import UNet2DConditionModel

    with torch.device("meta"):
        unets = {"sd15": UNet2DConditionModel.from_config(SD15_UNET), "mini": mini_models().generator.unet}
    for name, unet in unets.items():
        blocks = [
            path.partition(".transformer_blocks.0")[0] for path, _ in unet.named_modules() if path[-5:] == "attn1"
        ]
        assert sorted(get_profile(name).regions.layers) == sorted(blocks)
