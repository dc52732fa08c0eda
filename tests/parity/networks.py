"""The networks that both implementations walk: Stable Diffusion 1.5 in its true size and narrow, with known weights."""

from __future__ import annotations

import re
from dataclasses import replace
from typing import Any, Literal

import numpy as np
import torch

from ovseg_cli.backbones.clip import ClipBackbone
from ovseg_cli.backbones.quiet import quiet_libraries
from ovseg_cli.backbones.unet import DiffusionBackbone
from ovseg_cli.backbones.vit import VitBackbone
from ovseg_cli.models import Models
from ovseg_cli.profiles import ExtractorSpec, Weights, get_profile
from ovseg_cli.random_models import SD15_UNET, clip_tokenizer
from tests.parity.inputs import Floats, fill, parameter

Size = Literal["true", "narrow"]


def stable_diffusion_parts(size: Size) -> dict[str, Any]:
    """UNet, VAE, text encoder, tokenizer and scheduler; the narrow ones have the same blocks with fewer channels.

    The scheduler's configuration is Stable Diffusion 1.5's; each implementation makes its own sampler of it.
    """
    from diffusers import AutoencoderKL, PNDMScheduler, UNet2DConditionModel
    from transformers import CLIPTextConfig, CLIPTextModel

    narrow = size == "narrow"
    unet_config = dict(SD15_UNET)
    if narrow:
        unet_config |= {"block_out_channels": [8, 16, 16, 16], "norm_num_groups": 4, "cross_attention_dim": 32}
        unet_config |= {"attention_head_dim": 2}  # the number of heads, whatever it is called
    unet = UNet2DConditionModel.from_config(unet_config)
    vae = AutoencoderKL(
        block_out_channels=(4, 4, 8, 8) if narrow else (128, 256, 512, 512),
        down_block_types=("DownEncoderBlock2D",) * 4,
        up_block_types=("UpDecoderBlock2D",) * 4,
        layers_per_block=1 if narrow else 2,
        norm_num_groups=2 if narrow else 32,
        latent_channels=4,
        sample_size=512,
    )
    text = CLIPTextModel(
        CLIPTextConfig(
            vocab_size=49408,
            hidden_size=32 if narrow else 768,
            intermediate_size=64 if narrow else 3072,
            num_hidden_layers=2 if narrow else 12,
            num_attention_heads=4 if narrow else 12,
            max_position_embeddings=77,
            bos_token_id=0,
            eos_token_id=2,
        )
    )
    fill(unet, "unet.")
    fill(vae, "vae.")
    # The prefix that older versions of transformers put before the names is left out of them.
    fill(getattr(text, "text_model", text), "text.")
    scheduler = PNDMScheduler(
        beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear", skip_prk_steps=True, steps_offset=1
    )
    return {"unet": unet, "vae": vae, "text_encoder": text, "tokenizer": clip_tokenizer(), "scheduler": scheduler}


CLIP_SIZES: dict[Size, dict[str, Any]] = {
    "true": {
        "embed_dim": 512,
        "vision_cfg": {"image_size": 224, "layers": 12, "width": 768, "patch_size": 16},
        "text_cfg": {"context_length": 77, "vocab_size": 49408, "width": 512, "heads": 8, "layers": 12},
    },
    "narrow": {
        "embed_dim": 32,
        "vision_cfg": {"image_size": 224, "layers": 3, "width": 128, "patch_size": 16},
        "text_cfg": {"context_length": 77, "vocab_size": 49408, "width": 32, "heads": 4, "layers": 2},
    },
}
"""CLIP ViT-B/16, and one with fewer and narrower blocks. Heads in the image transformer are 64 wide in both."""

DINO_SIZES: dict[Size, dict[str, int]] = {
    "true": {"hidden_size": 768, "num_hidden_layers": 12, "num_attention_heads": 12, "intermediate_size": 3072},
    "narrow": {"hidden_size": 48, "num_hidden_layers": 3, "num_attention_heads": 3, "intermediate_size": 192},
}
"""DINO ViT-B/8, and one with fewer and narrower blocks."""


def clip_backbone(size: Size) -> ClipBackbone:
    """open_clip's CLIP; its parameters have the names of the published one."""
    import open_clip

    model = open_clip.CLIP(**CLIP_SIZES[size], quick_gelu=True)
    fill(model)
    return ClipBackbone(model, open_clip.get_tokenizer("ViT-B-16-quickgelu"), "cpu")


@torch.no_grad()
def dino_backbone(size: Size) -> VitBackbone:
    """transformers' vision transformer, filled under the names that the parameters have in DINO's own code."""
    from transformers import ViTConfig, ViTModel

    model = ViTModel(ViTConfig(patch_size=8, image_size=224, **DINO_SIZES[size]), add_pooling_layer=False)
    for name, tensor in model.named_parameters():
        tensor.copy_(torch.from_numpy(_dino_parameter(name, tuple(tensor.shape))))
    return VitBackbone(model.eval(), "cpu")


DINO_NAMES = {
    "embeddings.cls_token": "cls_token",
    "embeddings.position_embeddings": "pos_embed",
    "embeddings.patch_embeddings.projection": "patch_embed.proj",
    "layernorm_before": "norm1",
    "layernorm_after": "norm2",
    "attention.o_proj": "attn.proj",
    "layernorm": "norm",
    "layers.": "blocks.",
}
"""Parts of names in transformers 5, and in DINO's own code; the first that fits is taken, so order matters."""


def _dino_parameter(name: str, shape: tuple[int, ...]) -> Floats:
    """One parameter; queries, keys and values are thirds of one matrix in DINO's own code."""
    third = re.search(r"attention\.([qkv])_proj\.", name)
    if third:
        name = name.replace(third.group(), "attn.qkv.")
        shape = (3 * shape[0], *shape[1:])
    for ours, theirs in DINO_NAMES.items():
        name = name.replace(ours, theirs)
    values = parameter(name, shape)
    return np.split(values, 3)["qkv".index(third.group(1))] if third else values


class KnownModels(Models):
    """The profile `sd15` with known weights; the extractors' lengths are those of the size."""

    def __init__(self, size: Size) -> None:
        profile = get_profile("sd15")
        self._size = size
        if size == "narrow":
            dims = {"sd": 128, "clip": 128, "dino": 48}
            narrow = tuple(replace(spec, dim=dims[spec.name]) for spec in profile.extractors)
            profile = replace(profile, extractors=narrow)
        super().__init__(profile, "cpu")

    def extractor(self, name: str, **changes: Any) -> ExtractorSpec:
        """One of the profile's extractors, with changes."""
        (spec,) = self.profile.pick_extractors((name,))
        return replace(spec, **changes)

    def _get(self, kind: type[Any], weights: Weights) -> Any:
        if (kind, weights) not in self._loaded:
            makers = {DiffusionBackbone: diffusion_backbone, ClipBackbone: clip_backbone, VitBackbone: dino_backbone}
            self._loaded[kind, weights] = makers[kind](self._size)
        return self._loaded[kind, weights]


def diffusion_backbone(size: Size) -> DiffusionBackbone:
    """Stable Diffusion as `ovseg` loads it."""
    from diffusers import StableDiffusionPipeline

    with quiet_libraries():
        pipeline = StableDiffusionPipeline(
            **stable_diffusion_parts(size), safety_checker=None, feature_extractor=None, requires_safety_checker=False
        )
    return DiffusionBackbone(pipeline, "cpu")
