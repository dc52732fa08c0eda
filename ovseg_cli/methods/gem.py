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
from ovseg_cli.methods.words import word_scores


def self_self_attention(features: Tensor, values: Tensor, temperature: Tensor, *, iterations: int = 1) -> Tensor:
    """Attention of one projection with itself, applied to the values.

    The projection is first smoothed by its own attention (`iterations` times), so one iteration means two softmaxes.

    Args:
        features: Queries, keys or values, (B, heads, N, d).
        values: (B, heads, N, d).
        temperature: Factor on the cosines, (B, 1, 1, 1).
        iterations: Smoothing rounds.

    Returns:
        (B, heads, N, d).
    """
    for _ in range(iterations):
        features = F.normalize(features, dim=-1)
        features = torch.softmax(features @ features.transpose(-1, -2) * temperature, dim=-1) @ features
    features = F.normalize(features, dim=-1)
    return torch.softmax(features @ features.transpose(-1, -2) * temperature, dim=-1) @ values


def adaptive_temperature(block: BlockTrace) -> Tensor:
    """GEM's inverse temperature of one block and image: mean token norm over sqrt(d), (B, 1, 1, 1)."""
    head_width = block.values.shape[-1]
    return (block.normed.norm(dim=-1).mean(dim=-1) * head_width**-0.5).view(-1, 1, 1, 1)


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


def word_probabilities(cosines: Tensor, *, classes: int, logit_scale: float) -> Tensor:
    """`word_scores` where each of the first words is a class of its own and all others are the background's.

    Args:
        cosines: (classes + background words, h, w), the classes first.
        classes: C.
        logit_scale: Factor on the cosines.

    Returns:
        (C + 1, h, w) in [0, 1], channel 0 the background's; 0 there when there are no background words.
    """
    owner = [*range(1, classes + 1), *[0] * (len(cosines) - classes)]
    return word_scores(cosines, owner, logit_scale=logit_scale)
