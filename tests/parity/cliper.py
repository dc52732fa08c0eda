"""What CLIPer and its published code are both fed with, beyond the image towers of `clip_family`."""

from __future__ import annotations

from typing import Any, Literal

import torch
from torch import Tensor
from torch.nn import functional as F

from ovseg_cli.backbones.attention import AttentionLayer
from ovseg_cli.profiles import get_profile
from ovseg_cli.random_models import SD15_UNET, clip_tokenizer
from tests.parity.clip_family import Tower
from tests.parity.inputs import fill, noise, uniform

Width = Literal["narrow", "true"]

CLASSES, WORDS = 5, 3

PICTURES = {"narrow": (336, 448), "b16": (336, 448), "l14": (336, 462)}
"""Pictures (height, width) of a size that CLIP sees as it is: whole patches, the short side 336."""

SETTINGS = {"narrow": ("ViT-B/16", "voc21"), "b16": ("ViT-B/16", "voc21"), "l14": ("ViT-L/14", "voc21")}
"""The published settings by which each is run."""

OUTLINES = (120, 160)
"""Size of the label map."""

NOISE_SEED = 7

SHARPER: dict[Width, float] = {"narrow": 5, "true": 2.7}
"""Factor on the queries and keys of the two layers that refine."""


def texts(tower: Tower) -> tuple[Tensor, Tensor]:
    """Made-up embeddings of classes (5, E) and of words for the background (3, E), of norm 1."""
    both = F.normalize(torch.from_numpy(noise(f"cliper/texts/{tower.embed}", (CLASSES + WORDS, tower.embed))), dim=-1)
    return both[:CLASSES], both[CLASSES:]


def coarse_maps() -> Tensor:
    """Made-up coarse maps, float32 (5, 6, 8): large enough structure to survive ten matrices."""
    return torch.from_numpy(uniform("cliper/coarse", (CLASSES, 6, 8)))


def local_layers() -> list[AttentionLayer]:
    """Two made-up layers of Stable Diffusion's shape, in which a token looks at those around it and at some others."""
    y, x = (each.flatten().float() for each in torch.meshgrid(torch.arange(64), torch.arange(64), indexing="ij"))
    layers = []
    for layer in get_profile("sd15").generator.refine_layers:
        waves = torch.from_numpy(noise(f"cliper/{layer}/waves", (3, 5 * 64)))
        features = 2**0.5 * torch.cos(y[:, None] * waves[0] / 5 + x[:, None] * waves[1] / 5 + 7 * waves[2])
        queries, keys = (
            features + 0.3 * torch.from_numpy(noise(f"cliper/{layer}/{name}", (64 * 64, 5 * 64))) for name in "qk"
        )
        layers.append(AttentionLayer(queries[None], keys[None], 5, 64**-0.5))
    return layers


def diffusion_parts(width: Width) -> dict[str, Any]:
    """Stable Diffusion 2.1-base with the UNet in its true size or narrow; its VAE and text encoder are narrow."""
    from diffusers import AutoencoderKL, PNDMScheduler, UNet2DConditionModel
    from transformers import CLIPTextConfig, CLIPTextModel

    context = 32 if width == "narrow" else 1024
    unet_config = {**SD15_UNET, "attention_head_dim": [5, 10, 20, 20], "use_linear_projection": True}
    unet_config["cross_attention_dim"] = context
    if width == "narrow":
        unet_config |= {"block_out_channels": [20, 40, 80, 80], "norm_num_groups": 4}
    unet = UNet2DConditionModel.from_config(unet_config)
    vae = AutoencoderKL(
        block_out_channels=(4, 4, 8, 8),
        down_block_types=("DownEncoderBlock2D",) * 4,
        up_block_types=("UpDecoderBlock2D",) * 4,
        norm_num_groups=2,
        latent_channels=4,
        sample_size=512,
    )
    text = CLIPTextModel(
        CLIPTextConfig(
            vocab_size=49408,
            hidden_size=context,
            intermediate_size=64,
            num_hidden_layers=2,
            num_attention_heads=4,
            max_position_embeddings=77,
            bos_token_id=0,
            eos_token_id=2,
        )
    )
    fill(unet, "unet.")
    for layer in get_profile("sd15").generator.refine_layers:
        # Ten matrices of random weights make a constant of every map, unless tokens look at what is like themselves.
        attention = unet.get_submodule(layer).transformer_blocks[0].attn1
        attention.to_q.weight.mul_(SHARPER[width])
        attention.to_k.weight.copy_(attention.to_q.weight)
    fill(vae, "vae.")
    fill(getattr(text, "text_model", text), "text.")
    scheduler = PNDMScheduler(
        beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear", skip_prk_steps=True, steps_offset=1
    )
    return {"unet": unet, "vae": vae, "text_encoder": text, "tokenizer": clip_tokenizer(), "scheduler": scheduler}


def diffusion_pipeline(width: Width) -> Any:
    """A diffusers pipeline of these parts."""
    from diffusers import StableDiffusionPipeline

    from ovseg_cli.backbones.quiet import quiet_libraries

    with quiet_libraries():
        return StableDiffusionPipeline(
            **diffusion_parts(width), safety_checker=None, feature_extractor=None, requires_safety_checker=False
        )
