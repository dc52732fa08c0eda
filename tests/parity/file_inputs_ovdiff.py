"""What both sides of `test_labels_ovdiff.py` are fed with: classes, and narrow networks that tell pictures apart.

The networks have the true ones' blocks with fewer channels; in their true sizes, `test_networks.py` compares them. What
is compared here is all that lies around them, at its true size.
"""

from __future__ import annotations

from typing import Any

import torch

from ovseg_cli.backbones.quiet import quiet_libraries
from ovseg_cli.backbones.unet import DiffusionBackbone
from tests.parity.networks import KnownModels, stable_diffusion_parts

CLASSES = ("bird", "bus", "cat", "chair", "grass", "person", "table", "wall")
"""By the alphabet, in which joint prompts are written; grass and wall are stuff in the published list."""

STUFF = ("grass", "wall")

EXTRACTORS = ("sd", "clip", "dino")

NOISE_SEED = 43
"""Of the noise that features of Stable Diffusion are read with, as the profile `sd15` has it."""


@torch.no_grad()
def sd_parts() -> dict[str, Any]:
    """A narrow Stable Diffusion whose latents are not drowned by the noise, and whose samples are the means."""
    parts = stable_diffusion_parts("narrow")
    convolution = parts["vae"].quant_conv
    convolution.weight.mul_(10)
    convolution.weight[4:] = 0
    convolution.bias[4:] = -30
    return parts


class LabelModels(KnownModels):
    """The profile `sd15` with narrow networks."""

    def __init__(self) -> None:
        super().__init__("narrow")

    def _get(self, kind: type[Any], weights: Any) -> Any:
        if kind is DiffusionBackbone and (kind, weights) not in self._loaded:
            from diffusers import StableDiffusionPipeline

            with quiet_libraries():
                pipeline = StableDiffusionPipeline(
                    **sd_parts(), safety_checker=None, feature_extractor=None, requires_safety_checker=False
                )
            self._loaded[kind, weights] = DiffusionBackbone(pipeline, "cpu")
        return super()._get(kind, weights)
