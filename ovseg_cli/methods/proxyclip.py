"""ProxyCLIP: the last attention of CLIP replaced by the affinity of another network's features.

Lan et al., "ProxyCLIP: Proxy Attention Improves CLIP for Open-Vocabulary Segmentation", ECCV 2024. This follows the
published code, mc-lan/ProxyCLIP.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from ovseg_cli.backbones.clip import BlockTrace
from ovseg_cli.devices import portion, small_steps
from ovseg_cli.profiles.specs import PositionMode

BETA = 1.2
"""Similarities below this times their mean are no affinity (`proxyclip_segmentor.py`)."""

GAMMA = 3.0
"""What similarities are multiplied by before the softmax (`proxyclip_segmentor.py`)."""

PROXY_POSITIONS: PositionMode = "bicubic-tenth"
"""How DINO's code resizes its position embeddings (`interpolate_pos_encoding`)."""

ROWS_AT_ONCE = 1024
"""Rows of an affinity matrix that are held together on a CPU."""


def proxyclip_tokens(
    last: BlockTrace, features: Tensor, grid: tuple[int, int], *, beta: float = BETA, gamma: float = GAMMA
) -> Tensor:
    """Values of CLIP's last block, mixed by the affinity of `features`.

    With s the cosines between features, the attention is softmax(gamma (s - beta mean(s))) where that is not negative,
    and 0 elsewhere; all heads share it. CLIP's values are brought to the features' grid by bilinear interpolation.
    There is neither a residual nor a feed-forward part, and no class token.

    The features of the published numbers are the patch tokens after the last block and the final norm of DINO ViT-B/8
    (the code has queries, keys and values of that block commented out), of the same picture at the same size in pixels.

    Two differences from the code: the mean is one image's (there, the batch's, which is always one window); and where
    beta mean(s) is above 1, as for a blank picture, the code has no number, and here each patch keeps
    what is most similar to it, itself, which is where the formula goes as beta mean(s) comes to 1.

    Args:
        last: The last block of CLIP.
        features: float (B, C, h, w) of another network, of any norm.
        grid: (rows, columns) of CLIP's patches.
        beta: Share of the mean similarity that is subtracted.
        gamma: Factor on similarities.

    Returns:
        (B, h * w, D), patches of the features' grid in reading order, without a class token; to be projected into the
        text space by `ClipBackbone.embed`.
    """
    batch, heads, _, width = last.values.shape
    values = last.values[:, :, 1:].transpose(2, 3).reshape(batch, heads * width, *grid)
    values = F.interpolate(values, features.shape[-2:], mode="bilinear", align_corners=False)
    units = F.normalize(features.float().flatten(2), dim=1).transpose(1, 2)
    tokens = values.flatten(2).mT
    count = units.shape[1]
    rows = max(1, portion(units.device, ROWS_AT_ONCE * count) // count)
    images = 1 if small_steps(units.device) else max(1, rows // count)
    mixed = torch.cat(
        [_mix(*some, beta, gamma, rows) for some in zip(units.split(images), tokens.split(images), strict=True)]
    )
    return last.project(mixed.unflatten(2, (heads, width)).transpose(1, 2))


def _mix(units: Tensor, values: Tensor, beta: float, gamma: float, rows: int) -> Tensor:
    """Values (B, M, D) mixed by the affinity of their image's features, units (B, M, C), so many rows at once."""
    # The mean of all products is the product of the means.
    middle = units.mean(dim=1).square().sum(dim=1)[:, None, None]
    blocks, exact = [], values.to(torch.promote_types(values.dtype, units.dtype))
    for some in units.split(rows, dim=1):
        scores = (some @ units.mT - beta * middle) * gamma
        lowest = scores.amax(dim=2, keepdim=True).clamp(max=0)  # 0, but for rows in which everything is negative
        attention = torch.softmax(scores.masked_fill(scores < lowest, -torch.inf), dim=2)
        blocks.append((attention.to(exact.dtype) @ exact).to(values.dtype))
    return torch.cat(blocks, dim=1)
