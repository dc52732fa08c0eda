"""CLIP Surgery: value-value attention beside CLIP's last blocks, and similarities without what classes share.

Li et al., "A Closer Look at the Explainability of Contrastive Language-Image Pre-training", Pattern Recognition 162
(2025); first as "CLIP Surgery", arXiv 2304.05653. This follows the published code, xmed-lab/CLIP_Surgery.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional as F

from ovseg_cli.backbones.clip import BlockTrace

SURGERY_BLOCKS = 6
"""The last blocks that are operated on: the code's comment says 7, and its loop, ``range(1, 7)``, does 6."""


def surgery_tokens(blocks: Sequence[BlockTrace]) -> Tensor:
    """Architecture surgery: the new path after the last block ("CLIP architecture surgery").

    The new path starts as the tokens that enter the first of `blocks`. Each block adds softmax(v v' / sqrt(d)) v
    through its own projection, and no feed-forward part; v comes from the original path, which runs unchanged. The
    class token is the original path's.

    Args:
        blocks: The traced last `SURGERY_BLOCKS` blocks of the vision transformer, first to last.

    Returns:
        (B, N, D), class token first, to be projected into the text space.
    """
    tokens = blocks[0].inputs
    for block in blocks:
        values = block.values
        tokens = tokens + block.project(F.scaled_dot_product_attention(values, values, values))
    return torch.cat([blocks[-1].outputs[:, :1], tokens[:, 1:]], dim=1)


def surgery_similarity(tokens: Tensor, text: Tensor, *, redundant: Tensor | None = None) -> Tensor:
    """Feature surgery: similarities without what all classes have in common ("CLIP feature surgery").

    For maps of one class each, which are then stretched from their smallest to their largest value. Which class
    of a patch has the largest similarity is a matter of `surgery_tokens` alone (the authors' answers; see `ROWS`).

    The paper subtracts the mean over classes of the element-wise products of patch and text, and sums over the elements
    at the end; the sum of a product is a cosine, so this subtracts the mean of the weighted cosines instead.
    The weights come from the class token: softmax(2 cosine) over the classes, divided by its mean. In the code all
    images of a batch must share them; here each has its own.

    Args:
        tokens: float (B, N, E), class token first, of norm 1.
        text: float (T, E), of norm 1.
        redundant: float (E,), what is taken to be in common: the embedding of the empty text. It is needed
            when there is one class, which has everything in common with itself, and replaces mean and weights.

    Returns:
        float (B, N, T); with one text and no `redundant`, zeros.
    """
    if redundant is not None:
        return tokens @ (text - redundant).T
    cosines = tokens @ text.T
    likely = torch.softmax(2 * cosines[:, :1], dim=-1)
    weighted = cosines * (likely / likely.mean(dim=-1, keepdim=True))
    return weighted - weighted.mean(dim=-1, keepdim=True)
