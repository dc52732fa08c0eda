"""DEDOS's refinement of CLIP by queries (equations 13 and 14), and its consistency loss (9 to 12)."""

from __future__ import annotations

from typing import cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F


class Refinement(nn.Module):
    """Equations 13 and 14: patches look at the queries between blocks of CLIP.

    One for all blocks, as the paper's number of parameters allows no other. Choices: a scale of one over the root of
    the width, without which the softmax has one winner; the class token passes unchanged; the projection starts as
    [0 | I], so that training starts from plain CLIP.

    Args:
        queries: Channels c of a query.
        width: Channels d of CLIP's tokens.
    """

    def __init__(self, queries: int, width: int) -> None:
        super().__init__()
        self.widen = nn.Sequential(nn.Linear(queries, queries), nn.ReLU(), nn.Linear(queries, width))
        self.project = nn.Linear(2 * width, width)
        with torch.no_grad():
            self.project.weight.copy_(torch.cat([torch.zeros(width, width), torch.eye(width)], dim=1))
            self.project.bias.zero_()

    def forward(self, tokens: Tensor, queries: Tensor) -> Tensor:
        """Refined tokens.

        Args:
            tokens: (B, 1 + N, d), the class token first.
            queries: (B, n, d), from `widen`.
        """
        patches = tokens[:, 1:]
        shares = torch.softmax(patches @ queries.mT * patches.shape[-1] ** -0.5, dim=-1)
        refined = self.project(torch.cat([shares @ queries, patches], dim=-1))
        return torch.cat([tokens[:, :1], refined], dim=1)


class Consistency(nn.Module):
    """Equations 10 to 12: what queries see in two pictures is as alike as what CLIP sees in them.

    Args:
        queries: Channels of a query.
        width: Channels of CLIP's tokens.
    """

    def __init__(self, queries: int, width: int) -> None:
        super().__init__()
        self.of_queries = nn.Linear(queries, queries)
        self.of_patches = nn.Linear(width, queries)

    def forward(self, queries: Tensor, before: Tensor, after: Tensor) -> Tensor:
        """The loss of one block.

        Args:
            queries: Q, (B, n, c).
            before: Patches of the picture, (B, h w, d).
            after: Patches of the denoised one, (B, h w, d).
        """
        # CLIP's own affinities are what is to be kept, not what is to be learnt.
        wanted = affinity(before, after).detach()
        projected = self.of_queries(queries).mT
        found = affinity(self.of_patches(before) @ projected, self.of_patches(after) @ projected)
        return F.smooth_l1_loss(found, wanted)


def affinity(first: Tensor, second: Tensor) -> Tensor:
    """Cosines of all places of one map with all of another (equation 11): (B, N, C) and (B, M, C) to (B, N, M)."""
    return cast(Tensor, F.normalize(first, dim=-1) @ F.normalize(second, dim=-1).mT)
