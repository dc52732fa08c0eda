"""Training of the UNet and the text encoder, with supervised cross-attention.

The UNet predicts v (Salimans and Ho 2022) with min-SNR weights (Hang et al. 2023, gamma 5). Beside that, the
cross-attention of the words that name an object or a texture is trained to cover exactly its mask: in a small
causal text encoder the end-of-text tokens carry the class, and the maps of the words are inverted for half of
the classes otherwise.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
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
from examples.mini_pack.training import Batch, Clock, Draw, Schedule, train
from examples.mini_pack.vocabulary import LABEL_IDS, LABEL_NAMES

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


@dataclass(frozen=True, slots=True)
class PatchEncoder:
    """The pack's encoder as what it is, a linear map of patches (see `autoencoder`): one matrix product.

    Attributes:
        factor: Pixels per latent cell, in both directions.
        matrix: float32 (3 * factor * factor + 1, C); the last row is the offset.
    """

    factor: int
    matrix: Tensor

    @classmethod
    @torch.no_grad()
    def of(cls, vae: AutoencoderKL, data: Dataset, *, scenes: int = 64) -> PatchEncoder:
        """Read the map off a few encoded scenes, by least squares.

        Args:
            vae: The autoencoder, float32.
            data: The scenes; the first ones are taken.
            scenes: How many.

        Raises:
            ValueError: If the encoder is not linear in its patches.
        """
        factor = 2 ** (len(vae.config.block_out_channels) - 1)
        images = torch.from_numpy(np.array(data.images[:scenes]))
        exact = vae.encode(_to_pixels(images)).latent_dist.mode().permute(0, 2, 3, 1) * vae.config.scaling_factor
        inputs, exact = _patches(images, factor).flatten(0, 2), exact.flatten(0, 2)
        matrix = torch.linalg.lstsq(inputs, exact).solution
        residual = (inputs @ matrix - exact).std() / exact.std()
        if residual > 0.02:
            raise ValueError(f"the encoder is not linear in patches of {factor} pixels: {residual:.1%} is left over")
        return cls(factor, matrix)

    @torch.no_grad()
    def __call__(self, images: Tensor) -> Tensor:
        """Latents float32 (B, C, h, w) of pictures uint8 (B, S, S, 3), on their device."""
        return (_patches(images, self.factor) @ self.matrix).permute(0, 3, 1, 2)

    def to(self, device: str) -> PatchEncoder:
        """The same on another device."""
        return PatchEncoder(self.factor, self.matrix.to(device))


def _to_pixels(images: Tensor) -> Tensor:
    return images.permute(0, 3, 1, 2).float() / 127.5 - 1


def _patches(images: Tensor, factor: int) -> Tensor:
    """Patches (B, h, w, 3 * factor * factor + 1) of pictures, each with a one at its end."""
    flat = F.pixel_unshuffle(_to_pixels(images), factor).permute(0, 2, 3, 1)
    return torch.cat([flat, torch.ones_like(flat[..., :1])], -1)


def draw_scenes(
    sets: Sequence[Dataset], encoder: Encoder, config: DiffusionConfig, channels: int, factor: int, batch: int
) -> Draw:
    """What prepares batches of scenes, captions and noise.

    Args:
        sets: Training scenes, each set of another size; those with more than two objects are left out. A step takes
            one of them, larger pictures in smaller batches: as many pixels.
        encoder: Tokenizes captions and finds the words in them.
        config: Settings of the loss.
        channels: Channels of the latents.
        factor: Pixels per latent cell.
        batch: Scenes per step, of the first set.
    """
    usable = [torch.from_numpy(np.flatnonzero(data.counts <= 2)) for data in sets]
    empty = encoder.encode("").ids
    first_side = sets[0].images.shape[1]

    def draw(generator: torch.Generator) -> Batch:
        which = int(torch.randint(len(sets), (1,), generator=generator)) if len(sets) > 1 else 0
        data, side = sets[which], sets[which].images.shape[1]
        count = max(1, batch * first_side**2 // side**2)

        def pick(high: int) -> Tensor:
            return torch.randint(high, (count,), generator=generator)

        index = usable[which][pick(len(usable[which]))]
        chosen = pick(max(1, len(data.captions[0]))).tolist()
        dropped = torch.rand(count, generator=generator) < config.caption_dropout
        timesteps = pick(NOISE["num_train_timesteps"])
        noise = torch.randn(count, channels, side // factor, side // factor, generator=generator)
        ids = torch.empty(count, encoder.length, dtype=torch.int64)
        tokens = torch.zeros(count, _PAIRS, encoder.length)
        named = torch.zeros(count, _PAIRS, dtype=torch.uint8)
        for row, (scene, choice) in enumerate(zip(index.tolist(), chosen, strict=True)):
            if dropped[row]:
                ids[row] = empty
                continue
            present = [LABEL_NAMES[i] for i in np.unique(data.labels[scene]).tolist()]
            encoded = encoder.encode(data.captions[scene][choice], present)
            ids[row] = encoded.ids
            if timesteps[row] < _SUPERVISED_BELOW:
                for pair, (name, positions) in enumerate(list(encoded.words.items())[:_PAIRS]):
                    tokens[row, pair, positions] = 1
                    named[row, pair] = LABEL_IDS[name]
        rows = index.numpy()
        return {
            "images": torch.from_numpy(np.asarray(data.images[rows])),
            "labels": torch.from_numpy(np.asarray(data.labels[rows])),
            "timesteps": timesteps,
            "noise": noise,
            "ids": ids,
            "tokens": tokens,
            "named": named,
        }

    return draw


def train_diffusion(
    unet: UNet2DConditionModel,
    text_encoder: CLIPTextModel,
    vae: AutoencoderKL,
    encoder: Encoder,
    sets: Sequence[Dataset],
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
        sets: Training scenes of one size or several; see `draw_scenes`.
        folder: For checkpoint and log.
        config: Settings of the loss.
        schedule: How long and how fast.
        clock: When to stop.
        device: Where to train.
        compiled: Whether to compile the models.

    Raises:
        Stopped: If the clock ran out.
    """
    latents = PatchEncoder.of(vae, sets[0]).to(device)
    draw = draw_scenes(sets, encoder, config, vae.config.latent_channels, latents.factor, schedule.batch)
    alphas = DDPMScheduler(**NOISE).alphas_cumprod.to(device)
    unet.to(device, memory_format=torch.channels_last).train()
    text_encoder.to(device).train()
    denoiser = Denoiser(unet)
    denoise = torch.compile(denoiser) if compiled else denoiser
    encode = torch.compile(text_encoder) if compiled else text_encoder

    def loss(batch: Batch) -> tuple[Tensor, dict[str, Tensor]]:
        clean, noise, timesteps = latents(batch["images"]), batch["noise"], batch["timesteps"]
        alpha = alphas[timesteps].view(-1, 1, 1, 1)
        noisy = alpha.sqrt() * clean + (1 - alpha).sqrt() * noise
        velocity = alpha.sqrt() * noise - (1 - alpha).sqrt() * clean
        with torch.autocast(device, torch.bfloat16):
            context = encode(batch["ids"]).last_hidden_state
            predicted, maps = denoise(noisy.contiguous(memory_format=torch.channels_last), timesteps, context)
        ratio = (alpha / (1 - alpha)).flatten()
        # the floor keeps some weight on the noisiest steps, where the place and the kind are decided
        weight = (ratio.clamp(max=config.snr_gamma) / (ratio + 1)).clamp(min=config.weight_floor)
        error = (predicted.float() - velocity).square().mean((1, 2, 3))
        denoising = (weight * error).mean()
        regions = (batch["labels"][:, None] == batch["named"][:, :, None, None]).float()
        attention = attention_loss(maps, batch["tokens"], regions, batch["named"] > 0)
        total = denoising + config.attention_weight * attention
        return total, {"loss": denoising, "v_mse": error.mean(), "attention": attention}

    try:
        train("diffusion", folder, {"unet": unet, "text_encoder": text_encoder}, schedule, draw, loss, clock)
    finally:
        denoiser.release()
