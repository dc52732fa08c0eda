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


def surgery_tokens(blocks: Sequence[BlockTrace]) -> Tensor:
    """Architecture surgery: the new path after the last block ("CLIP architecture surgery").

    The new path starts as the tokens that enter the first of `blocks`. Each block adds softmax(v v' / sqrt(d)) v
    through its own projection, and no feed-forward part; v comes from the original path, which runs unchanged. The
    class token is the original path's.

    Args:
        blocks: The traced last blocks of the vision transformer (`ClipSpec.streams` of them), first to last.

    Returns:
        (B, N, D), class token first, to be projected into the text space.
    """
    tokens = blocks[0].inputs
    for block in blocks:
        values = block.values
        tokens = tokens + block.project(F.scaled_dot_product_attention(values, values, values))
    return torch.cat([blocks[-1].outputs[:, :1], tokens[:, 1:]], dim=1)
