"""DEDOS's text aggregation: objects look at names before they are named (section 3.6)."""

from __future__ import annotations

import math
from typing import cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F


class TextBlock(nn.Module):
    """Linear cross-attention from names to objects, then a feed-forward part; normed afterwards.

    Choices: features elu + 1, as in CAT-Seg's attention over names. A sum over names knows no order of them.
    """

    def __init__(self, width: int) -> None:
        super().__init__()
        self.q = nn.Linear(width, width)
        self.k = nn.Linear(width, width)
        self.v = nn.Linear(width, width)
        self.norm_1 = nn.LayerNorm(width)
        self.mlp = nn.Sequential(nn.Linear(width, 4 * width), nn.ReLU(), nn.Linear(4 * width, width))
        self.norm_2 = nn.LayerNorm(width)

    def forward(self, objects: Tensor, names: Tensor) -> Tensor:
        """Objects (B, n, c) that have seen names (B, T, c)."""
        queries, keys = F.elu(self.q(objects)) + 1, F.elu(self.k(names)) + 1
        mixed = queries @ (keys.mT @ self.v(names))
        mixed = mixed / (queries @ keys.sum(dim=1)[..., None] + 1e-6)
        objects = self.norm_1(objects + mixed)
        return cast(Tensor, self.norm_2(objects + self.mlp(objects)))


class TextAggregation(nn.Module):
    """The blocks, the texts' projection for them, and the naming of objects.

    The paper says sigmoid and cross-entropy: an object's logit for a name is ``s cos + b``, s and b learnt. They start
    at 20 and minus the logarithm of the number of names that compete, so that at first one name in all is probable.

    Args:
        width: Channels of an object.
        embed: Channels of texts.
        blocks: How many blocks; 0 leaves the texts out until the naming.
        names: How many names compete in training, about.
    """

    def __init__(self, width: int, embed: int, blocks: int, names: int = 12) -> None:
        super().__init__()
        self.names = nn.Linear(embed, width) if blocks else None
        self.blocks = nn.ModuleList(TextBlock(width) for _ in range(blocks))
        self.objects = nn.Linear(width, embed)
        self.scale = nn.Parameter(torch.tensor(20.0))
        self.shift = nn.Parameter(torch.tensor(-math.log(names)))

    def forward(self, objects: Tensor, texts: Tensor) -> Tensor:
        """Logits (B, n, T) of objects (B, n, c) for texts (B, T, E) of norm 1."""
        if self.names is not None:
            words = self.names(texts)
            for block in self.blocks:
                objects = block(objects, words)
        found = F.normalize(self.objects(objects), dim=-1)
        return self.scale * (found @ texts.mT) + self.shift
