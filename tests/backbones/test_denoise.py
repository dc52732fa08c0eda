"""What the frozen UNet says while it denoises clean pictures (DEDOS)."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch

from ovseg_cli.errors import WeightsError
from ovseg_cli.heads.sizes import DedosSizes
from ovseg_cli.heads.taps import TapReader, default_taps, tap_channels
from tests.mini import mini_models, random_pictures


@pytest.mark.parametrize("kind", ["epsilon", "v_prediction", "sample"])
def test_steps_are_those_of_ddim(kind):
    from diffusers import DDIMScheduler

    backbone = mini_models().generator
    theirs = DDIMScheduler.from_config(
        backbone.pipeline.scheduler.config, prediction_type=kind, clip_sample=False, set_alpha_to_one=False
    )
    theirs.set_timesteps(10)  # steps of 100
    latents, prediction = torch.randn(2, 4, 8, 8), torch.randn(2, 4, 8, 8)
    ours = SimpleNamespace(
        pipeline=SimpleNamespace(
            scheduler=SimpleNamespace(
                alphas_cumprod=theirs.alphas_cumprod, config=SimpleNamespace(prediction_type=kind)
            )
        )
    )
    for timestep in (200, 100):
        wanted = theirs.step(prediction, timestep, latents).prev_sample
        found = type(backbone)._ddim_step(ours, latents, prediction, timestep, timestep - 100)
        assert torch.allclose(found, wanted, atol=1e-5)


def test_blocks_and_pictures():
    models = mini_models()
    unet = models.generator.unet
    taps = default_taps(unet)
    assert len(taps) == 6
    sizes = DedosSizes(taps=taps, tap_channels=tap_channels(unet, taps), timesteps=(200, 50))
    pictures = random_pictures(2, 96, 80)
    reader = TapReader(models.generator, sizes, models.profile)
    found = reader.read(pictures)
    assert [len(step) for step in found.taps] == [6, 6]
    shapes = {name: tuple(tap.shape[1:]) for name, tap in zip(taps, found.taps[0], strict=True)}
    assert shapes["mid_block.attentions.0"] == (16, 160)
    assert shapes["up_blocks.2.attentions.1"] == (256, 64)
    assert found.denoised.shape == (2, 3, 64, 64)
    assert not torch.allclose(found.taps[0][0], found.taps[1][0])
    # Nothing is drawn: a picture has one answer, alone and beside others.
    alone = reader.read(pictures[:1])
    assert torch.allclose(alone.taps[1][3], found.taps[1][3][:1], atol=1e-4)
    # What is left of a picture after so little denoising is the picture.
    small = torch.nn.functional.interpolate(pictures, (64, 64), mode="bilinear")
    assert (found.denoised - small).abs().mean() < 0.1
    assert not found.taps[0][0].is_inference()


def test_a_block_that_is_not_there():
    with pytest.raises(WeightsError, match=r"no block 'up_blocks\.9'"):
        mini_models().generator.denoise(random_pictures(1, 64, 64), [100], layers=["up_blocks.9"], size=64)
