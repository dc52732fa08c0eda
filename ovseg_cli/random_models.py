"""The models of profiles in their true sizes, with random weights: nothing is downloaded.

What they answer means nothing. How long they take, how much memory, and that every number of a profile fits its
networks do not depend on the values of weights.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any, cast

import torch
from torch import nn

from ovseg_cli.backbones.clip import ClipBackbone
from ovseg_cli.backbones.quiet import quiet_libraries
from ovseg_cli.backbones.unet import DiffusionBackbone
from ovseg_cli.backbones.vit import VitBackbone
from ovseg_cli.errors import WeightsError
from ovseg_cli.models import Backbone, Models
from ovseg_cli.precision import Precision
from ovseg_cli.profiles import ExtractorSpec, Profile, Weights, hub

log = logging.getLogger("ovseg_cli")

SD15_UNET: dict[str, Any] = {
    "_class_name": "UNet2DConditionModel",
    "_diffusers_version": "0.6.0",
    "act_fn": "silu",
    "attention_head_dim": 8,
    "block_out_channels": [320, 640, 1280, 1280],
    "center_input_sample": False,
    "cross_attention_dim": 768,
    "down_block_types": ["CrossAttnDownBlock2D"] * 3 + ["DownBlock2D"],
    "downsample_padding": 1,
    "flip_sin_to_cos": True,
    "freq_shift": 0,
    "in_channels": 4,
    "layers_per_block": 2,
    "mid_block_scale_factor": 1,
    "norm_eps": 1e-05,
    "norm_num_groups": 32,
    "out_channels": 4,
    "sample_size": 64,
    "up_block_types": ["UpBlock2D"] + ["CrossAttnUpBlock2D"] * 3,
}
"""unet/config.json of Stable Diffusion 1.5."""

SD2_UNET = {
    **SD15_UNET,
    "attention_head_dim": [5, 10, 20, 20],  # the numbers of heads, whatever they are called
    "cross_attention_dim": 1024,
    "use_linear_projection": True,
}
"""unet/config.json of Stable Diffusion 2.1-base and of SD-Turbo, where it differs from 1.5's."""

SDXL_UNET = {
    **SD15_UNET,
    "addition_embed_type": "text_time",
    "addition_time_embed_dim": 256,
    "attention_head_dim": [5, 10, 20],
    "block_out_channels": [320, 640, 1280],
    "cross_attention_dim": 2048,
    "down_block_types": ["DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"],
    "projection_class_embeddings_input_dim": 2816,
    "sample_size": 128,
    "transformer_layers_per_block": [1, 2, 10],
    "up_block_types": ["CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"],
    "use_linear_projection": True,
}
"""unet/config.json of Stable Diffusion XL, likewise."""

TEXT_L = {
    "vocab_size": 49408,
    "hidden_size": 768,
    "intermediate_size": 3072,
    "num_hidden_layers": 12,
    "num_attention_heads": 12,
    "max_position_embeddings": 77,
    "bos_token_id": 0,
    "eos_token_id": 2,
}
"""text_encoder/config.json of Stable Diffusion 1.5, and of XL's first one."""

TEXT_H = {
    **TEXT_L,
    "hidden_act": "gelu",
    "hidden_size": 1024,
    "intermediate_size": 4096,
    "num_hidden_layers": 23,  # of 24: what is wanted is what enters the last one
    "num_attention_heads": 16,
}
"""The same of Stable Diffusion 2.1: OpenCLIP ViT-H/14's."""

TEXT_G = {
    **TEXT_L,
    "hidden_act": "gelu",
    "hidden_size": 1280,
    "intermediate_size": 5120,
    "num_hidden_layers": 32,
    "num_attention_heads": 20,
    "projection_dim": 1280,
}
"""XL's second one: OpenCLIP ViT-bigG/14's."""

SCHEDULE = {"beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear", "steps_offset": 1}

UNETS = {
    hub.SD_15.repo: SD15_UNET,
    hub.SD_21_BASE.repo: SD2_UNET,
    hub.SD_TURBO.repo: SD2_UNET,
    hub.SDXL.repo: SDXL_UNET,
}
"""By the repository of the weights."""

CLIPS = {
    hub.CLIP_B16.repo: "ViT-B-16-quickgelu",
    hub.METACLIP_B16.repo: "ViT-B-16-quickgelu",
    hub.CLIP_L14.repo: "ViT-L-14-quickgelu",
    hub.OPENCLIP_H14.repo: "ViT-H-14",
}
"""open_clip's names of their configurations."""


CROSS_KEYS, CONTRAST = "attn2.to_k.weight", 8
"""What makes keys of words in a UNet, and how much larger these weights are than others: by chance alone, words draw
attention everywhere alike, and every support image would be thrown away for that."""


class RandomModels(Models):
    """A profile's models, each made when it is first needed; types and device placement as for real weights.

    Weights that come with ovseg are taken as they are.

    Args:
        profile: Which models.
        device: A torch device, already checked.
        precision: What the networks compute in.
        compact: Whether Stable Diffusion XL is held in bfloat16, half its size, and computes layer by layer in the
            precision: slower, but it fits where less memory is.
    """

    def __init__(self, profile: Profile, device: str, *, precision: Precision = "auto", compact: bool = False) -> None:
        super().__init__(profile, device, precision=precision)
        self._compact = compact

    def _get(self, kind: type[Backbone], weights: Weights) -> Backbone:
        if weights.bundled is not None:
            return super()._get(kind, weights)
        if (kind, weights) not in self._loaded:
            torch.manual_seed(0)
            make = maker(weights, compact=self._compact)
            log.info("Making random weights of %s on %s.", weights.model_id, self.device)
            with quiet_libraries(), cheap_weights() as fill:
                made = self._loaded[kind, weights] = make(self.device, self.dtype)
                fill(made)
        return cast(Backbone, self._loaded[kind, weights])

    def make(self, extractor: ExtractorSpec) -> None:
        """Make the model of an extractor, so that it is not made inside a measurement."""
        kinds: dict[str, type[Any]] = {"unet": DiffusionBackbone, "clip": ClipBackbone, "vit": VitBackbone}
        self._get(kinds[extractor.kind.partition("-")[0]], extractor.weights)


def maker(weights: Weights, *, compact: bool = False) -> Callable[[str, torch.dtype], Any]:
    """What makes the network that these weights are of, from a device and a precision.

    Args:
        weights: Of a model on the hub.
        compact: As `RandomModels` has it.

    Raises:
        WeightsError: Its configuration is not known here.
    """
    if weights.repo in UNETS:
        return partial(diffusion, weights, compact=compact)
    if weights.repo in CLIPS:
        return partial(clip, CLIPS[weights.repo])
    if weights.repo in VITS:
        return VITS[weights.repo]
    raise WeightsError(
        f"{weights.model_id} cannot be made with random weights: the sizes of its network are not known before its "
        "files are here. Take a profile of `ovseg profiles`, or fetch its weights with ovseg pull."
    )


def diffusion(weights: Weights, device: str, dtype: torch.dtype, *, compact: bool = False) -> DiffusionBackbone:
    """A pipeline of true size, with the true vocabulary and what the hub's folder says of its noise."""
    import diffusers
    from transformers import CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection

    wide = weights == hub.SDXL
    first = TEXT_L if wide or weights == hub.SD_15 else TEXT_H
    compact = compact and wide
    with default_dtype(torch.bfloat16 if compact else torch.float32):
        unet = diffusers.UNet2DConditionModel.from_config(UNETS[weights.repo])
        texts: list[nn.Module] = [CLIPTextModel(CLIPTextConfig(**first))]
        if wide:
            texts.append(CLIPTextModelWithProjection(CLIPTextConfig(**TEXT_G)))
    vae = diffusers.AutoencoderKL(
        block_out_channels=(128, 256, 512, 512),
        down_block_types=("DownEncoderBlock2D",) * 4,
        up_block_types=("UpDecoderBlock2D",) * 4,
        layers_per_block=2,
        latent_channels=4,
        sample_size=1024 if wide else 512,
        scaling_factor=0.13025 if wide else 0.18215,
    )
    if compact:
        for part in (unet, *texts):
            diffusers.hooks.apply_layerwise_casting(part, torch.bfloat16, dtype, skip_modules_pattern=("norm", "embed"))
        for part in (m for whole in (unet, *texts) for n, m in whole.named_modules() if "norm" in n or "embed" in n):
            part.to(dtype)
    else:
        unet, texts = unet.to(dtype), [text.to(dtype) for text in texts]
    parts = {"unet": unet, "vae": vae.to(dtype), "text_encoder": texts[0], "tokenizer": clip_tokenizer()}
    scheduler: Any
    if wide:
        scheduler = diffusers.EulerDiscreteScheduler(**SCHEDULE)
        more = {"text_encoder_2": texts[1], "tokenizer_2": clip_tokenizer("!"), "add_watermarker": False}
        pipeline = diffusers.StableDiffusionXLPipeline(**parts, **more, scheduler=scheduler)
    else:
        if first == TEXT_H:
            parts["tokenizer"] = clip_tokenizer("!")
        scheduler = diffusers.PNDMScheduler(**SCHEDULE, skip_prk_steps=True)
        off = {"safety_checker": None, "feature_extractor": None, "requires_safety_checker": False}
        pipeline = diffusers.StableDiffusionPipeline(**parts, **off, scheduler=scheduler)
    return DiffusionBackbone(pipeline, device)


@contextmanager
def cheap_weights() -> Iterator[Callable[[Any], None]]:
    """Networks are made without weights, which takes most of the time; what is given fills those of a backbone."""
    names = ("kaiming_uniform_", "kaiming_normal_", "xavier_uniform_", "uniform_", "normal_", "trunc_normal_")
    before = {name: getattr(nn.init, name) for name in names}
    noise = torch.randn(2**20)

    @torch.no_grad()
    def fill(backbone: Any) -> None:
        parts = backbone.pipeline.components.values() if hasattr(backbone, "pipeline") else [backbone.model]
        for part in (part for part in parts if isinstance(part, nn.Module)):
            for name, tensor in part.named_parameters():
                if tensor.ndim > 1:
                    flat, scale = tensor.view(-1), tensor[0].numel() ** -0.5
                    if name.endswith(CROSS_KEYS):
                        scale *= CONTRAST
                    for start in range(0, len(flat), len(noise)):
                        piece = flat[start : start + len(noise)]
                        piece.copy_(noise[: len(piece)] * scale)
                elif name.endswith("bias"):
                    tensor.zero_()

    for name in names:
        setattr(nn.init, name, lambda tensor, *_, **__: tensor)
    try:
        yield fill
    finally:
        for name, function in before.items():
            setattr(nn.init, name, function)


@contextmanager
def default_dtype(dtype: torch.dtype) -> Iterator[None]:
    """What parameters are made in."""
    before = torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    try:
        yield
    finally:
        torch.set_default_dtype(before)


def clip_tokenizer(padding: str = "<|endoftext|>") -> Any:
    """CLIP's tokenizer in transformers' form, from the vocabulary inside open_clip.

    Args:
        padding: What a prompt is filled up with: in Stable Diffusion 2 and XL's second one "!", whose id is 0.
    """
    from open_clip.tokenizer import SimpleTokenizer
    from transformers import CLIPTokenizer

    source = SimpleTokenizer()
    special = {"<start_of_text>": "<|startoftext|>", "<end_of_text>": "<|endoftext|>"}
    vocabulary = {special.get(token, token): index for token, index in source.encoder.items()}
    merges = [pair for pair in source.bpe_ranks if isinstance(pair, tuple)]
    return CLIPTokenizer(vocab=vocabulary, merges=merges, model_max_length=77, pad_token=padding)


def clip(name: str, device: str, dtype: torch.dtype) -> ClipBackbone:
    """A CLIP by open_clip's own configuration; its text tower is float32, as `ClipBackbone.load` has it."""
    import open_clip

    model = open_clip.create_model(name, pretrained=None)
    model.visual.to(dtype)
    return ClipBackbone(model, open_clip.get_tokenizer(name), device)


def dino_b8(device: str, dtype: torch.dtype) -> VitBackbone:
    """DINO ViT-B/8."""
    from transformers import ViTConfig, ViTModel

    model = ViTModel(ViTConfig(patch_size=8, image_size=224), add_pooling_layer=False)
    return VitBackbone(model.to(dtype), device)


def dinov2_b14(device: str, dtype: torch.dtype) -> VitBackbone:
    """DINOv2 ViT-B/14, with positions for 518 pixels as published."""
    from transformers import Dinov2Config, Dinov2Model

    return VitBackbone(Dinov2Model(Dinov2Config(patch_size=14, image_size=518)).to(dtype), device)


LARGE: dict[str, Any] = {"hidden_size": 1024, "num_hidden_layers": 24, "num_attention_heads": 16}


def dinov2_l14_registers(device: str, dtype: torch.dtype) -> VitBackbone:
    """DINOv2 ViT-L/14 with its four registers."""
    from transformers import Dinov2WithRegistersConfig, Dinov2WithRegistersModel

    config = Dinov2WithRegistersConfig(patch_size=14, image_size=518, **LARGE)
    return VitBackbone(Dinov2WithRegistersModel(config).to(dtype), device)


def mae_l16(device: str, dtype: torch.dtype) -> VitBackbone:
    """The encoder of MAE ViT-L/16."""
    from transformers import ViTMAEConfig, ViTMAEModel

    return VitBackbone(ViTMAEModel(ViTMAEConfig(**LARGE, intermediate_size=4096)).to(dtype), device)


VITS: dict[str | None, Callable[[str, torch.dtype], VitBackbone]] = {
    hub.DINO_B8.repo: dino_b8,
    hub.DINOV2_B14.repo: dinov2_b14,
    hub.DINOV2_L14_REGISTERS.repo: dinov2_l14_registers,
    hub.MAE_L16.repo: mae_l16,
}
"""By the repository of the weights."""
