"""Nearest prototype (OVDiff, section 3.3): cosine to the best prototype of each class, and of the background."""

from __future__ import annotations

import torch
from torch import Tensor

MAX_CELLS = 64_000_000
"""Cosines held at once (prototypes x cells): 256 MB in float32."""


def prototype_scores(features: Tensor, vectors: Tensor, channel: Tensor, channels: int) -> Tensor:
    """Best cosine per class, and over every background prototype.

    ``s_c(x) = max over P in fg_c of cos(F(x), P)`` and ``s_bg(x) = max over all kept classes' P in bg``.

    Args:
        features: float (B, D, h, w), any norm.
        vectors: float (P, D), unit norm.
        channel: int64 (P,): 0 for a background prototype, i for one of the i-th class's foreground.
        channels: C + 1.

    Returns:
        float32 (B, C + 1, h, w) in [-1, 1]; -1 in a channel without prototypes.
    """
    batch, _, height, width = features.shape
    best = vectors.new_full((batch, channels, height * width), -1.0)
    index = channel[:, None]
    step = max(1, MAX_CELLS // max(len(vectors), 1))
    for image, scores in zip(features.float().flatten(2), best, strict=True):
        # The products are divided by the norms: a normalised copy of wide features would take as much memory again.
        norms = torch.linalg.vector_norm(image, dim=0).clamp(min=1e-12)
        for start in range(0, height * width, step):
            part = slice(start, start + step)
            cosines = vectors @ image[:, part] / norms[part]
            scores[:, part].scatter_reduce_(0, index.expand_as(cosines), cosines, reduce="amax")
    return best.view(batch, channels, height, width).clamp(-1, 1)
