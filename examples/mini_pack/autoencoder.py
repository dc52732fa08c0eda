"""The autoencoder: an encoder that computes a linear map, set by hand, and a trained decoder.

Latents are the principal components of 4x4 patches. An encoder that computes them exactly needs no training, so
that the UNet need not wait for it; only the decoder is learned, and it recovers from the context of a patch what
the components leave out. Both are diffusers' `AutoencoderKL`, so that every pipeline loads them.
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
from diffusers import AutoencoderKL
from torch import Tensor, nn

from examples.mini_pack.config import AutoencoderConfig
from examples.mini_pack.dataset import Dataset
from examples.mini_pack.training import Batch, Clock, Schedule, train

FACTOR: Final = 4
"""Pixels per latent cell, in both directions."""

_LATENT_NOISE: Final = 0.05
"""Deviation of the noise on the latents in training; the sampler's latents are not exact either."""
_SCALE: Final = 8.0
"""Amplitude of the constant channels that make the last normalisation of the encoder a constant."""
_LIFT: Final = 6.0
"""Offset at which SiLU is nearly linear."""


@dataclass(frozen=True, slots=True)
class PatchComponents:
    """Scaled principal components of patches: ``z = (x - mean) @ matrix``.

    Attributes:
        mean: float32 (48,), of flattened patches in [-1, 1], in `pixel_unshuffle`'s order.
        matrix: float32 (48, C).
    """

    mean: Tensor
    matrix: Tensor


def fit_components(data: Dataset, channels: int, *, scenes: int = 2000) -> PatchComponents:
    """Fit the components on the first scenes of a data set.

    The scale of a component is the root of its deviation, so that the first ones keep more weight than
    whitening gives them and less than the raw values do; all latents together have unit variance.
    """
    pixels = torch.from_numpy(np.array(data.images[:scenes])).permute(0, 3, 1, 2).float() / 127.5 - 1
    patches = F.pixel_unshuffle(pixels, FACTOR).permute(0, 2, 3, 1).flatten(0, 2)
    mean = patches.mean(0)
    centred = patches - mean
    _, vectors = torch.linalg.eigh(centred.T @ centred)  # eigenvalues ascend
    matrix = vectors.flip(1)[:, :channels]
    deviation = (centred @ matrix).std(0)
    matrix = matrix / deviation.sqrt()
    return PatchComponents(mean=mean, matrix=matrix / (centred @ matrix).std())


def new_autoencoder(config: AutoencoderConfig, components: PatchComponents, image_size: int) -> AutoencoderKL:
    """Build an autoencoder whose encoder computes the components and whose decoder is untrained."""
    vae = AutoencoderKL(
        in_channels=3,
        out_channels=3,
        down_block_types=("DownEncoderBlock2D",) * 3,
        up_block_types=("UpDecoderBlock2D",) * 3,
        block_out_channels=config.widths,
        layers_per_block=1,
        latent_channels=config.latent_channels,
        norm_num_groups=4,
        sample_size=image_size,
        mid_block_add_attention=False,
        scaling_factor=1.0,
    )
    _set_encoder(vae, components)
    decoder: Any = vae.decoder
    with torch.no_grad():
        # residual branches start small: the decoder begins as a nearly linear map
        for block in [*decoder.mid_block.resnets, *(r for up in decoder.up_blocks for r in up.resnets)]:
            block.conv2.weight.mul_(0.1)
            block.conv2.bias.zero_()
    return vae


@torch.no_grad()
def _set_encoder(vae: AutoencoderKL, components: PatchComponents) -> None:
    """Make the encoder compute ``(x - mean) @ matrix`` of 4x4 patches.

    The residual branches are switched off. Two stride-2 convolutions move pixels into channels, which leaves 48
    values per cell. The last normalisation has 4 groups of 24 channels: each gets 12 values and their negatives,
    the latter with constants of alternating sign and large amplitude beside them, so that mean and deviation of a
    group hardly depend on the values. SiLU is lifted to where it is nearly linear, and the last convolution
    takes the components.
    """
    encoder: Any = vae.encoder
    blocks = [*(block.resnets[0] for block in encoder.down_blocks), *encoder.mid_block.resnets]
    for block in blocks:
        _zero(block.conv2)
    _zero(encoder.conv_in)
    for colour in range(3):
        encoder.conv_in.weight[colour, colour, 1, 1] = 1
    inputs = 3
    for block in encoder.down_blocks[:2]:
        convolution = block.downsamplers[0].conv
        _zero(convolution)
        for channel in range(inputs):
            for place in range(4):  # diffusers pads below and on the right: taps 0 and 1 are the cell's pixels
                convolution.weight[4 * channel + place, channel, place // 2, place % 2] = 1
        inputs *= 4
    middle = encoder.down_blocks[1].resnets[0].conv_shortcut
    _zero(middle)
    for channel in range(12):
        middle.weight[channel, channel, 0, 0] = 1
    spread = encoder.down_blocks[2].resnets[0].conv_shortcut
    _zero(spread)
    positions = [24 * (j // 12) + j % 12 for j in range(48)]
    for j, position in enumerate(positions):
        spread.weight[position, j, 0, 0] = 1
        spread.weight[position + 12, j, 0, 0] = -1
        spread.bias[position + 12] = _SCALE if j % 2 == 0 else -_SCALE
    norm = encoder.conv_norm_out
    norm.weight.fill_(_SCALE / math.sqrt(2))
    norm.bias.fill_(_LIFT)
    sigmoid = 1 / (1 + math.exp(-_LIFT))
    slope, offset = sigmoid * (1 + _LIFT * (1 - sigmoid)), _LIFT * sigmoid
    _zero(encoder.conv_out)
    for j, position in enumerate(positions):
        row = components.matrix[_unshuffled(j)] / slope
        encoder.conv_out.weight[: len(row), position, 1, 1] = row
        encoder.conv_out.bias[: len(row)] -= row * offset
    encoder.conv_out.bias[: components.matrix.shape[1]] -= components.mean @ components.matrix
    channels = components.matrix.shape[1]
    quantise: Any = vae.quant_conv
    _zero(quantise)
    quantise.weight[range(channels), range(channels), 0, 0] = 1
    quantise.bias[channels:] = 2 * math.log(0.03)  # log variance of the posterior: nearly deterministic
    release: Any = vae.post_quant_conv
    _zero(release)
    release.weight[range(channels), range(channels), 0, 0] = 1


def _unshuffled(channel: int) -> int:
    """Index in `pixel_unshuffle` by 4 of a channel made by two space-to-depth steps by 2."""
    first, second = divmod(channel, 4)
    colour, outer = divmod(first, 4)
    row = 2 * (second // 2) + outer // 2
    column = 2 * (second % 2) + outer % 2
    return 16 * colour + 4 * row + column


def _zero(layer: nn.Module) -> None:
    for parameter in layer.parameters():
        parameter.zero_()


def train_autoencoder(
    vae: AutoencoderKL,
    sets: Sequence[Dataset],
    folder: Path,
    schedule: Schedule,
    clock: Clock,
    *,
    device: str,
    compiled: bool,
) -> None:
    """Train the decoder in place, on crops of scenes.

    The loss is the mean absolute error, of the pixels and of their difference from a 3x3 mean, which is what
    blur loses.

    Args:
        vae: Starts from its current weights; the encoder stays as it is.
        sets: Training scenes of one size or several; each step takes crops of one size from one of them.
        folder: For checkpoint and log.
        schedule: How long and how fast.
        clock: When to stop.
        device: Where to train.
        compiled: Whether to compile the decoder.

    Raises:
        Stopped: If the clock ran out.
    """
    vae.to(device, memory_format=torch.channels_last).train()
    vae.encoder.requires_grad_(False)
    vae.quant_conv.requires_grad_(False)
    decode = torch.compile(vae.decode) if compiled else vae.decode
    crop = min(data.images.shape[1] for data in sets) // 2

    def draw(generator: torch.Generator) -> Batch:
        which = int(torch.randint(len(sets), (1,), generator=generator)) if len(sets) > 1 else 0
        data = sets[which]
        index = torch.randint(len(data), (schedule.batch,), generator=generator).tolist()
        places = (data.images.shape[1] - crop) // FACTOR + 1
        corners = FACTOR * torch.randint(places, (schedule.batch, 2), generator=generator)
        pixels = np.stack(
            [data.images[i, y : y + crop, x : x + crop] for i, (y, x) in zip(index, corners.tolist(), strict=True)]
        )
        shape = (schedule.batch, vae.config.latent_channels, crop // FACTOR, crop // FACTOR)
        return {"pixels": torch.from_numpy(pixels), "noise": torch.randn(shape, generator=generator)}

    def loss(batch: Batch) -> tuple[Tensor, dict[str, Tensor]]:
        clean = batch["pixels"].permute(0, 3, 1, 2).float() / 127.5 - 1
        with torch.no_grad():
            latents = vae.encode(clean).latent_dist.mode()
        latents = latents + _LATENT_NOISE * batch["noise"]
        with torch.autocast(device, torch.bfloat16):
            decoded = decode(latents.contiguous(memory_format=torch.channels_last), return_dict=False)[0]
        decoded = decoded.float()
        pixel_error = (decoded - clean).abs().mean()
        detail_error = (_detail(decoded) - _detail(clean)).abs().mean()
        return pixel_error + detail_error, {"l1": pixel_error, "detail": detail_error}

    modules = {"decoder": vae.decoder, "post_quant": vae.post_quant_conv}
    train("autoencoder", folder, modules, schedule, draw, loss, clock)


def _detail(images: Tensor) -> Tensor:
    return images - F.avg_pool2d(images, 3, 1, 1, count_include_pad=False)


@torch.no_grad()
def psnr(vae: AutoencoderKL, data: Dataset, *, scenes: int = 100) -> float:
    """Peak signal-to-noise ratio of decoded scenes in dB, on the first scenes of a data set."""
    vae = vae.eval()
    clean = torch.from_numpy(np.array(data.images[:scenes])).permute(0, 3, 1, 2).float() / 127.5 - 1
    decoded = vae.decode(vae.encode(clean).latent_dist.mode()).sample.clamp(-1, 1)
    return 10 * math.log10(4 / float((decoded - clean).square().mean()))
