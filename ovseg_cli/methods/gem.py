"""GEM, the grounding everything module: dense CLIP features by self-self attention.

Bousselham et al., "Grounding Everything: Emerging Localization Properties in Vision-Language Transformers", CVPR 2024.
Where the paper and its published code differ, this follows the code, which made the numbers.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional as F

from ovseg_cli.backbones.clip import BlockTrace


def self_self_attention(features: Tensor, values: Tensor, temperature: Tensor, *, iterations: int = 1) -> Tensor:
    """Attention of one projection with itself, applied to the values.

    The projection is first smoothed by its own attention (`iterations` times), so one iteration means two softmaxes.

    Args:
        features: Queries, keys or values, (B, heads, N, d).
        values: (B, heads, N, d).
        temperature: Factor on the cosines, float32 (B, 1, 1, 1).
        iterations: Smoothing rounds.

    Returns:
        (B, heads, N, d).
    """
    # Both sides of a product carry the root of the temperature; the next normalisation takes it away again.
    root = temperature.sqrt()
    for _ in range(iterations):
        scaled = _unit(features, root)
        features = F.scaled_dot_product_attention(scaled, scaled, scaled, scale=1.0)
    scaled = _unit(features, root)
    return F.scaled_dot_product_attention(scaled, scaled, values, scale=1.0)


def _unit(features: Tensor, length: Tensor) -> Tensor:
    """Features brought to a length. Norms are float32: the least that one may be, 1e-12, is 0 in float16."""
    norms = _norms(features)[..., None].clamp_min(1e-12)
    return (features / norms * length).to(features.dtype)


def _norms(features: Tensor) -> Tensor:
    return torch.linalg.vector_norm(features, dim=-1, dtype=torch.promote_types(features.dtype, torch.float32))


def adaptive_temperature(block: BlockTrace) -> Tensor:
    """GEM's inverse temperature of one block and image: mean token norm over sqrt(d), float32 (B, 1, 1, 1)."""
    head_width = block.values.shape[-1]
    return (_norms(block.normed).mean(dim=-1) * head_width**-0.5).view(-1, 1, 1, 1)


def gem_tokens(blocks: Sequence[BlockTrace], *, iterations: int = 1, temperature: float | None = None) -> Tensor:
    """The GEM stream after the last block.

    It starts as the tokens that enter the first of `blocks` and only accumulates attention outputs (no MLP); each
    block's queries, keys and values come from the original stream.

    Args:
        blocks: The traced last blocks of the vision transformer, first to last.
        iterations: Smoothing rounds of the self-self attention.
        temperature: Inverse temperature of every block; None takes `adaptive_temperature`.

    Returns:
        Tokens (B, N, D), class token first, to be projected into the text space.
    """
    tokens = blocks[0].inputs
    for block in blocks:
        adaptive = adaptive_temperature(block)
        factor = adaptive if temperature is None else torch.full_like(adaptive, temperature)
        heads = [
            self_self_attention(features, block.values, factor, iterations=iterations)
            for features in (block.values, block.keys, block.queries)
        ]
        tokens = tokens + block.project(torch.stack(heads).mean(dim=0))
    return tokens
