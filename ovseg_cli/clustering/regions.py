"""Regions of a picture whose tokens attend alike in a diffusion model (DiffSeg, Tian et al., CVPR 2024).

The published code is google/diffseg, `segmentor.py`. Where it and the choice for region proposals differ, there is an
argument for it.
"""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torch.nn import functional as F

from ovseg_cli.clustering.kmeans import cluster_sums, lloyd

KMEANS_ROUNDS = 300
"""scikit-learn's `KMeans.max_iter`, which the published code leaves alone."""

KMEANS_TOLERANCE = 1e-4
"""scikit-learn's `KMeans.tol`, likewise."""


def divergence_matrix(first: Tensor, second: Tensor) -> Tensor:
    """Symmetric Kullback-Leibler divergence between distributions, half the sum of both directions (equation 5).

    Args:
        first: float (n, N), rows summing to 1.
        second: float (m, N), likewise.

    Returns:
        float (n, m).
    """
    logs = [rows.clamp_min(torch.finfo(rows.dtype).tiny).log() for rows in (first, second)]
    own = [(rows * log).sum(dim=1) for rows, log in zip((first, second), logs, strict=True)]
    crossed = first @ logs[1].T + logs[0] @ second.T
    return (own[0][:, None] + own[1][None] - crossed) / 2


def merge_attention(
    attention: Tensor, *, anchors: int, divergence: float, rounds: int | None = None, overlap: bool = False
) -> Tensor:
    """Attention of the regions of one picture (section 3.2.2).

    Each anchor is first averaged with all tokens that attend like it. Then, in order, each average that no earlier one
    took in takes in those like it.

    Args:
        attention: float32 (N, N), rows summing to 1, of the tokens of a square grid.
        anchors: Side of the even grid of tokens to begin with, no more than the tokens' own.
        divergence: Attention counts as alike below this (`divergence_matrix`).
        rounds: How often averages are merged with one another, at most; None goes on until no two are alike. The
            published code does so twice, and calls it three rounds with the anchors'.
        overlap: Whether averages also take in what an earlier one took in, as in the published code. This brings them
            closer to one another: with the bundled models, three times as many pictures end as one region.

    Returns:
        float32 (R, N), rows summing to 1.
    """
    begun = attention[_anchor_tokens(math.isqrt(len(attention)), anchors).to(attention.device)]
    alike = (divergence_matrix(begun, attention) < divergence).to(attention)
    merged = alike @ attention / alike.sum(dim=1, keepdim=True)
    while rounds is None or rounds > 0:
        groups = _groups(divergence_matrix(merged, merged) < divergence, overlap=overlap)
        if len(groups) == len(merged):
            break
        merged = torch.stack([merged[group].mean(dim=0) for group in groups])
        rounds = None if rounds is None else rounds - 1
    return merged


def _anchor_tokens(side: int, anchors: int) -> Tensor:
    """Indices of an even grid of tokens, with whole steps between them and what remains shared by the two edges."""
    step = (side - 1) // max(anchors - 1, 1)
    places = (side - 1 - step * (anchors - 1)) // 2 + step * torch.arange(anchors)
    return (places[:, None] * side + places).flatten()


def _groups(alike: Tensor, *, overlap: bool) -> list[list[int]]:
    """The first row that is not taken yet with those like it, again and again; `alike` is bool (R, R)."""
    taken = torch.zeros(len(alike), dtype=torch.bool)
    groups = []
    for index, row in enumerate(alike.cpu()):
        if not taken[index]:
            members = row.clone() if overlap else row & ~taken
            members[index] = True  # rounding may part a row from itself
            taken |= members
            groups.append(members.nonzero()[:, 0].tolist())
    return groups


def settle_regions(attention: Tensor, merged: Tensor) -> Tensor:
    """Merged attention after k-means of all tokens that starts from it (the published code's refinement).

    As scikit-learn's `KMeans` does it: rounds of Lloyd's algorithm until no token changes its region or the centroids
    rest; a region that lost all its tokens goes on from the token farthest from its centroid.

    Args:
        attention: float32 (N, N), rows summing to 1.
        merged: float32 (R, N), from `merge_attention`.

    Returns:
        float32 (at most R, N): the mean attention of the tokens of each region.
    """
    rest = float(KMEANS_TOLERANCE * attention.var(dim=0, correction=0).mean())
    _, labels = lloyd(attention, merged, rounds=KMEANS_ROUNDS, rest=rest)
    sums, counts = cluster_sums(attention, labels, len(merged))
    return sums[counts > 0] / counts[counts > 0, None]


def largest_map(maps: Tensor, size: tuple[int, int]) -> Tensor:
    """Which map is the largest at each pixel, after bilinear enlarging; of equal ones the first.

    Args:
        maps: float (R, g, g).
        size: (height, width) in pixels.

    Returns:
        int64 (height, width), from 0 to R - 1.
    """
    best = torch.full(size, -math.inf, device=maps.device)
    owner = torch.zeros(size, dtype=torch.int64, device=maps.device)
    for number, one in enumerate(maps):  # one at a time: the picture may be large
        enlarged = F.interpolate(one[None, None], size, mode="bilinear", align_corners=False)[0, 0]
        owner[enlarged > best] = number
        best = torch.maximum(best, enlarged)
    return owner


def enlarge_regions(attention: Tensor, labels: Tensor, size: tuple[int, int]) -> npt.NDArray[np.bool_]:
    """Regions of tokens as regions of pixels.

    A token belongs to each region to the share of its attention that falls on it. Shares follow an object's outline
    more closely than the labels do: bilinearly enlarged labels lose .11 of the IoU on rendered scenes. (The published
    code enlarges the merged attention.)

    Args:
        attention: float32 (N, N), rows summing to 1, of the tokens of a square grid.
        labels: int (N,), the region of each token.
        size: (height, width) of the picture.

    Returns:
        bool (R, height, width): every pixel is in exactly one region, and no region is empty.
    """
    side = math.isqrt(len(labels))
    members = F.one_hot(labels.unique(return_inverse=True)[1]).to(attention)
    shares = (attention @ members).T.reshape(-1, side, side)
    found = largest_map(shares, size).cpu().numpy()
    return np.stack([found == number for number in np.unique(found)])
