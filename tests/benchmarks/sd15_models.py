"""The models of the profile `sd15` in their true sizes, with random weights: nothing is downloaded."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

from ovseg_cli.backbones.clip import ClipBackbone
from ovseg_cli.backbones.quiet import quiet_libraries
from ovseg_cli.backbones.unet import DiffusionBackbone
from ovseg_cli.backbones.vit import VitBackbone
from ovseg_cli.models import Models
from ovseg_cli.profiles import ExtractorSpec, Weights, get_profile


class RandomModels(Models):
    """The profile `sd15`, each model made when it is first needed; types and device placement as for real weights."""

    def __init__(self, device: str) -> None:
        super().__init__(get_profile("sd15"), device)

    def _get(self, kind: type[Any], weights: Weights) -> Any:
        if (kind, weights) not in self._loaded:
            torch.manual_seed(0)
            with quiet_libraries():
                self._loaded[kind, weights] = MAKERS[weights.part](self.device, self.dtype)
        return self._loaded[kind, weights]

    def make(self, extractor: ExtractorSpec) -> None:
        """Make the model of an extractor, so that it is not made inside a measurement."""
        kinds = {"unet": DiffusionBackbone, "clip": ClipBackbone, "vit": VitBackbone}
        self._get(kinds[extractor.kind.partition("-")[0]], extractor.weights)


def stable_diffusion(device: str, dtype: torch.dtype) -> DiffusionBackbone:
    """Stable Diffusion 1.5: UNet of 860 M parameters, VAE, text encoder of CLIP ViT-L/14, the true vocabulary."""
    from diffusers import AutoencoderKL, PNDMScheduler, StableDiffusionPipeline, UNet2DConditionModel
    from transformers import CLIPTextConfig, CLIPTextModel

    from tests.mini import SD15_UNET

    vae = AutoencoderKL(
        block_out_channels=(128, 256, 512, 512),
        down_block_types=("DownEncoderBlock2D",) * 4,
        up_block_types=("UpDecoderBlock2D",) * 4,
        layers_per_block=2,
        latent_channels=4,
        sample_size=512,
    )
    text = CLIPTextConfig(
        vocab_size=49408,
        hidden_size=768,
        intermediate_size=3072,
        num_hidden_layers=12,
        num_attention_heads=12,
        max_position_embeddings=77,
        bos_token_id=0,
        eos_token_id=2,
    )
    scheduler = PNDMScheduler(
        beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear", skip_prk_steps=True, steps_offset=1
    )
    pipeline = StableDiffusionPipeline(
        unet=UNet2DConditionModel.from_config(SD15_UNET).to(dtype),
        vae=vae.to(dtype),
        text_encoder=CLIPTextModel(text).to(dtype),
        tokenizer=clip_tokenizer(),
        scheduler=scheduler,
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )
    return DiffusionBackbone(pipeline, device)


def clip_tokenizer() -> Any:
    """CLIP's tokenizer in transformers' form, from the vocabulary inside open_clip."""
    from open_clip.tokenizer import SimpleTokenizer
    from transformers import CLIPTokenizer

    source = SimpleTokenizer()
    special = {"<start_of_text>": "<|startoftext|>", "<end_of_text>": "<|endoftext|>"}
    vocabulary = {special.get(token, token): index for token, index in source.encoder.items()}
    merges = [pair for pair in source.bpe_ranks if isinstance(pair, tuple)]
    return CLIPTokenizer(vocab=vocabulary, merges=merges, model_max_length=77)


def clip_b16(device: str, _dtype: torch.dtype) -> ClipBackbone:
    """CLIP ViT-B/16 by open_clip's own configuration."""
    import open_clip

    name = "ViT-B-16-quickgelu"
    return ClipBackbone(open_clip.create_model(name, pretrained=None), open_clip.get_tokenizer(name), device)


def dino_b8(device: str, _dtype: torch.dtype) -> VitBackbone:
    """DINO ViT-B/8."""
    from transformers import ViTConfig, ViTModel

    return VitBackbone(ViTModel(ViTConfig(patch_size=8, image_size=224), add_pooling_layer=False), device)


def dinov2_b14(device: str, _dtype: torch.dtype) -> VitBackbone:
    """DINOv2 ViT-B/14, with positions for 518 pixels as published."""
    from transformers import Dinov2Config, Dinov2Model

    return VitBackbone(Dinov2Model(Dinov2Config(patch_size=14, image_size=518)), device)


def mae_l16(device: str, _dtype: torch.dtype) -> VitBackbone:
    """The encoder of MAE ViT-L/16."""
    from transformers import ViTMAEConfig, ViTMAEModel

    size = {"hidden_size": 1024, "num_hidden_layers": 24, "num_attention_heads": 16, "intermediate_size": 4096}
    return VitBackbone(ViTMAEModel(ViTMAEConfig(**size)), device)


MAKERS: dict[str, Callable[[str, torch.dtype], Any]] = {
    "diffusion": stable_diffusion,
    "clip": clip_b16,
    "dino": dino_b8,
    "dinov2": dinov2_b14,
    "mae": mae_l16,
}
"""By the part that the weights are of."""
