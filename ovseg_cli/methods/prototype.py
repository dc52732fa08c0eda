"""Nearest prototype (OVDiff, section 3.3): cosine to the best prototype of each class, and of the background."""

from __future__ import annotations

from torch import Tensor
from torch.nn import functional as F

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
    cells = F.normalize(features.float(), dim=1).permute(0, 2, 3, 1).reshape(batch * height * width, -1)
    best = cells.new_full((len(cells), channels), -1.0)
    step = max(1, MAX_CELLS // max(len(vectors), 1))
    for start in range(0, len(cells), step):
        cosines = cells[start : start + step] @ vectors.T
        index = channel.expand(len(cosines), -1)
        best[start : start + step].scatter_reduce_(1, index, cosines, reduce="amax")
    return best.view(batch, height, width, channels).permute(0, 3, 1, 2).clamp(-1, 1)
