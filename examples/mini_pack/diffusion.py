"""Training of the UNet and the text encoder, with supervised cross-attention.

The UNet predicts v (Salimans and Ho 2022) with min-SNR weights (Hang et al. 2023, gamma 5). Beside that, the
cross-attention of the words that name an object or a texture is trained to cover exactly its mask: in a small
causal text encoder the end-of-text tokens carry the class, and the maps of the words are inverted for half of
the classes otherwise.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

import numpy as np
import torch
import torch.nn.functional as F
from diffusers import AutoencoderKL, DDPMScheduler, UNet2DConditionModel
from diffusers.models.attention_processor import Attention
from torch import Tensor, nn
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer

from examples.mini_pack.config import DiffusionConfig
from examples.mini_pack.dataset import Dataset
from examples.mini_pack.tokens import Encoder
from examples.mini_pack.training import Clock, Schedule, train
from examples.mini_pack.vocabulary import LABEL_NAMES

NOISE: Final[dict[str, Any]] = {
    "num_train_timesteps": 1000,
    "beta_start": 0.00085,
    "beta_end": 0.012,
    "beta_schedule": "scaled_linear",
    "prediction_type": "v_prediction",
    "steps_offset": 1,
}
"""Noise schedule of training and sampling."""

_SUPERVISED_BELOW: Final = 700
"""Timesteps from here on are too noisy to ask for exact masks."""
_SMALLEST_MAP: Final = 8
"""Side of the smallest attention maps that are supervised; coarser ones cannot follow an outline."""
_PAIRS: Final = 4
"""Word and region pairs per sample: up to two objects, the ground and the sky."""


def new_unet(config: DiffusionConfig, latent_channels: int, latent_size: int) -> UNet2DConditionModel:
    """Build an untrained UNet."""
    return UNet2DConditionModel(
        sample_size=latent_size,
        in_channels=latent_channels,
        out_channels=latent_channels,
        block_out_channels=config.unet_widths,
        layers_per_block=1,
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D", "DownBlock2D"),
        up_block_types=("UpBlock2D", "CrossAttnUpBlock2D", "CrossAttnUpBlock2D"),
        cross_attention_dim=config.text_width,
        attention_head_dim=tuple(width // 32 for width in config.unet_widths),
        norm_num_groups=8,
    )


def new_text_encoder(config: DiffusionConfig, tokenizer: CLIPTokenizer) -> CLIPTextModel:
    """Build an untrained text encoder for a tokenizer."""
    return CLIPTextModel(
        CLIPTextConfig(
            vocab_size=len(tokenizer),
            hidden_size=config.text_width,
            intermediate_size=4 * config.text_width,
            num_hidden_layers=config.text_layers,
            num_attention_heads=config.text_width // 32,
            max_position_embeddings=tokenizer.model_max_length,
            projection_dim=config.text_width,
            bos_token_id=tokenizer.bos_token_id,
            eos_token_id=tokenizer.eos_token_id,
            pad_token_id=tokenizer.pad_token_id,
        )
    )


class _Recorder:
    """Attention processor that keeps the probabilities of cross-attention, averaged over the heads."""

    def __init__(self, maps: list[Tensor] | None) -> None:
        self._maps = maps

    def __call__(
        self,
        attn: Attention,
        hidden_states: Tensor,
        encoder_hidden_states: Tensor | None = None,
        attention_mask: Tensor | None = None,
        temb: Tensor | None = None,
    ) -> Tensor:
        context = hidden_states if encoder_hidden_states is None else encoder_hidden_states
        batch, queries, _ = hidden_states.shape

        def heads(x: Tensor) -> Tensor:
            return x.view(batch, -1, attn.heads, x.shape[-1] // attn.heads).transpose(1, 2)

        q, k, v = heads(attn.to_q(hidden_states)), heads(attn.to_k(context)), heads(attn.to_v(context))
        probabilities = (q @ k.transpose(-1, -2) * attn.scale).softmax(-1)
        if self._maps is not None:
            self._maps.append(probabilities.float().mean(1))
        output = (probabilities.to(v.dtype) @ v).transpose(1, 2).reshape(batch, queries, -1)
        return torch.as_tensor(attn.to_out[0](output) / attn.rescale_output_factor)


class Denoiser(nn.Module):
    """A UNet that also returns its cross-attention maps. It shares the UNet's parameters."""

    def __init__(self, unet: UNet2DConditionModel) -> None:
        """Wrap a UNet; its attention processors are replaced until `release`."""
        super().__init__()
        self.unet = unet
        self._maps: list[Tensor] = []
        self._processors = dict(unet.attn_processors)
        unet.set_attn_processor(
            {name: _Recorder(self._maps if ".attn2." in name else None) for name in self._processors}
        )

    def forward(self, latents: Tensor, timesteps: Tensor, context: Tensor) -> tuple[Tensor, list[Tensor]]:
        """Denoise.

        Args:
            latents: (B, C, h, w), noisy.
            timesteps: int64 (B,).
            context: (B, T, D), text features.

        Returns:
            The prediction (B, C, h, w), and one float (B, side * side, T) of probabilities per cross-attention
            layer.
        """
        self._maps.clear()
        sample = self.unet(latents, timesteps, context, return_dict=False)[0]
        return sample, list(self._maps)

    def release(self) -> None:
        """Give the UNet its own attention processors back."""
        self.unet.set_attn_processor(self._processors)


def attention_loss(maps: Sequence[Tensor], tokens: Tensor, regions: Tensor, valid: Tensor) -> Tensor:
    """How far the attention maps of words are from the masks of what they name.

    Binary cross-entropy of the summed probability of the word's tokens against the covered share of each
    cell, plus half the squared share of the attention mass that falls outside of the mask.

    Args:
        maps: Per layer (B, side * side, T), probabilities.
        tokens: float (B, P, T), 1 where a token belongs to the word.
        regions: float (B, P, S, S), masks at the image's size.
        valid: bool (B, P), which pairs count.

    Returns:
        A scalar, the mean over pairs and layers; 0 without a valid pair.
    """
    if not valid.any():
        return maps[0].sum() * 0
    losses = []
    for layer in maps:
        side = math.isqrt(layer.shape[1])
        if side < _SMALLEST_MAP:
            continue
        target = F.interpolate(regions, (side, side), mode="area").flatten(2)[valid]
        mass = torch.einsum("bqt,bpt->bpq", layer, tokens)[valid].clamp(1e-4, 1 - 1e-4)
        outside = 1 - (mass * target).sum(-1) / mass.sum(-1)
        losses.append(F.binary_cross_entropy(mass, target) + 0.5 * outside.square().mean())
    return torch.stack(losses).mean()


@torch.no_grad()
def encode_latents(vae: AutoencoderKL, data: Dataset, path: Path, *, batch: int = 1000) -> Tensor:
    """Latents of a data set, cached at `path`.

    The pack's encoder computes a linear map of patches (see `autoencoder`). The map is read off a few encoded
    scenes by least squares and applied to all: one matrix product is hundreds of times faster than the network.

    Args:
        vae: The autoencoder, float32.
        data: The scenes.
        path: File of the cache.
        batch: Scenes per matrix product.

    Returns:
        float16 (N, C, h, w).

    Raises:
        ValueError: If the encoder is not linear in its patches.
    """
    if path.is_file():
        return torch.as_tensor(torch.load(path, map_location="cpu", weights_only=True, mmap=True))
    factor = 2 ** (len(vae.config.block_out_channels) - 1)

    def patches(start: int, end: int) -> Tensor:
        pixels = torch.from_numpy(np.array(data.images[start:end])).permute(0, 3, 1, 2).float() / 127.5 - 1
        flat = F.pixel_unshuffle(pixels, factor).permute(0, 2, 3, 1)
        return torch.cat([flat, torch.ones_like(flat[..., :1])], -1)

    few = min(64, len(data))
    pixels = torch.from_numpy(np.array(data.images[:few])).permute(0, 3, 1, 2).float() / 127.5 - 1
    exact = vae.encode(pixels).latent_dist.mode().permute(0, 2, 3, 1) * vae.config.scaling_factor
    inputs = patches(0, few).flatten(0, 2)
    matrix = torch.linalg.lstsq(inputs, exact.flatten(0, 2)).solution
    residual = (inputs @ matrix - exact.flatten(0, 2)).std() / exact.std()
    if residual > 0.02:
        raise ValueError(f"the encoder is not linear in patches of {factor} pixels: {residual:.1%} is left over")
    parts = [
        (patches(start, min(start + batch, len(data))) @ matrix).permute(0, 3, 1, 2).half()
        for start in range(0, len(data), batch)
    ]
    result = torch.cat(parts)
    torch.save(result, path)
    return result


def train_diffusion(
    unet: UNet2DConditionModel,
    text_encoder: CLIPTextModel,
    vae: AutoencoderKL,
    encoder: Encoder,
    data: Dataset,
    folder: Path,
    config: DiffusionConfig,
    schedule: Schedule,
    clock: Clock,
    *,
    device: str,
    compiled: bool,
) -> None:
    """Train the UNet and the text encoder together, in place.

    Args:
        unet: Starts from its current weights.
        text_encoder: Starts from its current weights.
        vae: Makes the latents; not trained.
        encoder: Tokenizes captions and finds the words in them.
        data: Training scenes; those with more than two objects are left out.
        folder: For checkpoint, log and latents.
        config: Settings of the loss.
        schedule: How long and how fast.
        clock: When to stop.
        device: Where to train.
        compiled: Whether to compile the models.

    Raises:
        Stopped: If the clock ran out.
    """
    latents = encode_latents(vae, data, folder / "latents.pt")
    usable = torch.from_numpy(np.flatnonzero(data.counts <= 2))
    alphas = DDPMScheduler(**NOISE).alphas_cumprod.to(device)
    unet.to(device, memory_format=torch.channels_last).train()
    text_encoder.to(device).train()
    denoiser = Denoiser(unet)
    denoise = torch.compile(denoiser) if compiled else denoiser
    encode = torch.compile(text_encoder) if compiled else text_encoder
    empty = encoder.encode("").ids

    def loss(step: int, generator: torch.Generator) -> tuple[Tensor, dict[str, float]]:
        def draw(high: int) -> Tensor:
            return torch.randint(high, (schedule.batch,), generator=generator)

        index = usable[draw(len(usable))]
        which = draw(max(1, len(data.captions[0]))).tolist()
        dropped = torch.rand(schedule.batch, generator=generator) < config.caption_dropout
        timesteps = draw(NOISE["num_train_timesteps"])
        clean = latents[index].float()
        noise = torch.randn(clean.shape, generator=generator)

        ids = torch.empty(schedule.batch, encoder.length, dtype=torch.int64)
        tokens = torch.zeros(schedule.batch, _PAIRS, encoder.length)
        regions = torch.zeros(schedule.batch, _PAIRS, *data.labels.shape[1:])
        valid = torch.zeros(schedule.batch, _PAIRS, dtype=torch.bool)
        for row, (scene, choice) in enumerate(zip(index.tolist(), which, strict=True)):
            if dropped[row]:
                ids[row] = empty
                continue
            labels = data.labels[scene]
            present = [LABEL_NAMES[i] for i in np.unique(labels).tolist()]
            encoded = encoder.encode(data.captions[scene][choice], present)
            ids[row] = encoded.ids
            if timesteps[row] < _SUPERVISED_BELOW:
                for pair, (name, positions) in enumerate(list(encoded.words.items())[:_PAIRS]):
                    tokens[row, pair, positions] = 1
                    regions[row, pair] = torch.from_numpy(labels == LABEL_NAMES.index(name))
                    valid[row, pair] = True

        clean, noise, timesteps, ids = (x.to(device) for x in (clean, noise, timesteps, ids))
        alpha = alphas[timesteps].view(-1, 1, 1, 1)
        noisy = alpha.sqrt() * clean + (1 - alpha).sqrt() * noise
        velocity = alpha.sqrt() * noise - (1 - alpha).sqrt() * clean
        with torch.autocast(device, torch.bfloat16):
            context = encode(ids).last_hidden_state
            predicted, maps = denoise(noisy.contiguous(memory_format=torch.channels_last), timesteps, context)
        ratio = (alpha / (1 - alpha)).flatten()
        # the floor keeps some weight on the noisiest steps, where the place and the kind are decided
        weight = (ratio.clamp(max=config.snr_gamma) / (ratio + 1)).clamp(min=config.weight_floor)
        error = (predicted.float() - velocity).square().mean((1, 2, 3))
        denoising = (weight * error).mean()
        attention = attention_loss(maps, tokens.to(device), regions.to(device), valid.to(device))
        total = denoising + config.attention_weight * attention
        return total, {
            "loss": float(denoising.detach()),
            "v_mse": float(error.detach().mean()),
            "attention": float(attention.detach()),
        }

    try:
        train("diffusion", folder, {"unet": unet, "text_encoder": text_encoder}, schedule, loss, clock)
    finally:
        denoiser.release()
