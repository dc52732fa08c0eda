"""Dense CLIP features from another attention in the last block: MaskCLIP, SCLIP, ClearCLIP and NACLIP.

CLIP is trained on its class token alone, and the attention of its last block mixes the patches. Each of these methods
replaces that attention by one in which a patch looks at itself and at what is like it; they differ in what "like it"
means and in what is left of the block around the attention:

=========  =====================================  ========  ============
method     attention over the values              residual  feed-forward
=========  =====================================  ========  ============
MaskCLIP   none: each token keeps its own         kept      kept
SCLIP      softmax(q q') + softmax(k k')          kept      kept
ClearCLIP  softmax(q q')                          dropped   dropped
NACLIP     softmax(k k' + Gaussian neighbourhood) dropped   dropped
=========  =====================================  ========  ============

Products are divided by sqrt(d). The class token takes part like any patch, except in NACLIP's neighbourhood. Every
function takes the trace of the last block and returns tokens (B, N, D), class token first, to be projected into the
text space by `ClipBackbone.embed`. Attention matrices are never held for all heads at once.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from ovseg_cli.backbones.clip import BlockTrace

NACLIP_STD = 5.0
"""Standard deviation of NACLIP's neighbourhood in patches (`gaussian_std`)."""


def maskclip_tokens(last: BlockTrace) -> Tensor:
    """MaskCLIP: every token keeps its own value (Zhou et al., "Extract Free Dense Labels from CLIP", ECCV 2022).

    The paper describes CLIP's ResNet, whose attention pooling has neither a residual nor a feed-forward part. For
    vision transformers this follows the authors' code (`mmseg/models/backbones/vit.py`), which keeps both. ClearCLIP's
    re-implementation under the same name drops both by default: ``last.project(last.values)``.

    Args:
        last: The last block.

    Returns:
        (B, N, D), class token first.
    """
    return last.feed_forward(last.inputs + last.project(last.values))


def sclip_tokens(last: BlockTrace) -> Tensor:
    """SCLIP: correlative self-attention (Wang et al., "SCLIP", ECCV 2024).

    The two attentions are added, so that a token's weights sum to two, as in the paper and its code.

    Args:
        last: The last block.

    Returns:
        (B, N, D), class token first.
    """
    mixed = _attend(last.queries, last.values) + _attend(last.keys, last.values)
    return last.feed_forward(last.inputs + last.project(mixed))


def clearclip_tokens(last: BlockTrace) -> Tensor:
    """ClearCLIP: query-query attention and nothing else (Lan et al., "ClearCLIP", ECCV 2024).

    Args:
        last: The last block.

    Returns:
        (B, N, D), class token first.
    """
    return last.project(_attend(last.queries, last.values))


def naclip_tokens(last: BlockTrace, grid: tuple[int, int], *, std: float = NACLIP_STD) -> Tensor:
    """NACLIP: key-key attention that favours a patch's neighbours.

    Hajimiri et al., "Pay Attention to Your Neighbours", WACV 2025; `arch="reduced"` in its code.

    Args:
        last: The last block.
        grid: (rows, columns) of patches.
        std: Standard deviation of the neighbourhood in patches, above 0. Infinite makes all patches neighbours alike:
            all weights between patches gain 1, those from and to the class token nothing.

    Returns:
        (B, N, D), class token first.

    Raises:
        ValueError: `std` is not above 0.
    """
    if not std > 0:
        raise ValueError(f"the neighbourhood's standard deviation must be above 0, got {std!r}")
    nearness = neighbourhood(grid, std, last.keys.device).to(last.keys.dtype)
    return last.project(_attend(last.keys, last.values, nearness))


def neighbourhood(grid: tuple[int, int], std: float, device: torch.device | str = "cpu") -> Tensor:
    """How near tokens are to each other: exp(-distance^2 / (2 std^2)) between patches, 0 from and to the class token.

    Args:
        grid: (rows, columns) of patches.
        std: In patches.
        device: Where it is made.

    Returns:
        float32 (1 + rows * columns, 1 + rows * columns) in [0, 1].
    """
    rows, columns = (_nearness(length, std, device) for length in grid)
    return F.pad(torch.kron(rows, columns), (1, 0, 1, 0))


def _nearness(length: int, std: float, device: torch.device | str) -> Tensor:
    """Along one side of the grid, (length, length): a Gaussian is the product of those of its sides."""
    places = torch.arange(length, dtype=torch.float32, device=device)
    return torch.exp(-((places[:, None] - places) / std).square() / 2)


def _attend(features: Tensor, values: Tensor, bias: Tensor | None = None) -> Tensor:
    """Attention of one projection with itself, (B, heads, N, d), over the values."""
    return F.scaled_dot_product_attention(features, features, values, attn_mask=bias)
