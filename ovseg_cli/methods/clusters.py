"""DiffSegClust and SpecClust: regions of a diffusion model's self-attention, labelled by dense CLIP scores.

Le, "Language-based segmentation" (EPFL, IVRL, 2023), method 3 and equation 3. This follows the code,
sonalexle/langseg, which made the numbers: a region gets the class (or the background) of the largest mean probability
of its pixels; the probabilities are GEM's, with the settings of AggGEM (`methods.agg`).
"""

from __future__ import annotations

import math
from collections.abc import Iterable

import numpy as np
import numpy.typing as npt
import torch
from scipy.sparse.linalg import LinearOperator, svds
from torch import Tensor
from torch.nn import functional as F

from ovseg_cli.clustering.kmeans import kmeans
from ovseg_cli.clustering.regions import merge_attention, settle_regions
from ovseg_cli.labeling.decide import count_labels

ANCHORS = 16
"""Side of DiffSeg's grid of anchors, at most: one in four of 64 x 64 tokens (`exp_utils.diffseg`). The smallest object
that gets a region is a share of the picture, however many tokens that is."""

DIVERGENCE = 0.8
"""DiffSeg's merging threshold (`exp_utils.diffseg`; report, section 4.1), for Stable Diffusion's attention."""

ROUNDS = 2
"""Rounds of merging after the anchors' own; the code has three thresholds in all."""

VECTORS = 20
"""Singular vectors of SpecClust (`diffusion_seg.get_specclust_mask`; report, section 4.1)."""

CLUSTERS = 20
"""Clusters of SpecClust, likewise."""


def diffseg_maps(
    attention: Tensor, *, anchors: int = ANCHORS, divergence: float = DIVERGENCE, rounds: int | None = ROUNDS
) -> Tensor:
    """Regions of one picture by DiffSeg, with its k-means refinement: the mean attention of each.

    A pixel belongs to the region whose map, enlarged bicubically, is the largest there.

    Args:
        attention: float32 (g * g, g * g), rows summing to 1.
        anchors: Side of the grid of anchors; where there are fewer tokens, each of them is one.
        divergence: Attention whose symmetric Kullback-Leibler divergence is below this is of one region.
        rounds: Rounds of merging at most; None for no limit.

    Returns:
        float32 (R, g, g).
    """
    side = math.isqrt(len(attention))
    merged = merge_attention(attention, anchors=min(anchors, side), divergence=divergence, rounds=rounds, overlap=True)
    return settle_regions(attention, merged).unflatten(1, (side, side))


def spectral_vectors(attention: Tensor, count: int = VECTORS) -> npt.NDArray[np.float32]:
    """Spectral embedding of the tokens (Dhillon, KDD 2001, on the bipartite graph of rows and columns).

    With D1 and D2 the sums of rows and columns: D1^-1/2 U, U the first left singular vectors of D1^-1/2 A D2^-1/2.
    They are found by Lanczos iterations that only multiply with A, where the code decomposes the whole matrix.

    Args:
        attention: float (N, N).
        count: Number of vectors, fewer than N.

    Returns:
        float32 (N, count), the largest singular value first; signs, and rotations among equal values, are free.
    """
    attention = attention.float()
    left, right = attention.sum(dim=1).rsqrt(), attention.sum(dim=0).clamp_min(1e-30).rsqrt()

    def times(vector: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
        there = torch.from_numpy(vector.reshape(-1)).to(attention)
        return np.asarray((left * (attention @ (right * there))).cpu().numpy())

    def times_transposed(vector: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
        there = torch.from_numpy(vector.reshape(-1)).to(attention)
        return np.asarray((right * (attention.T @ (left * there))).cpu().numpy())

    operator = LinearOperator(attention.shape, matvec=times, rmatvec=times_transposed, dtype=np.float32)
    # A fixed start, so that a picture has one answer.
    start = np.random.default_rng(0).standard_normal(len(attention)).astype(np.float32)
    vectors, values, _ = svds(operator, k=count, v0=start, return_singular_vectors="u")
    order = np.argsort(-values, kind="stable")
    return np.ascontiguousarray(left.cpu().numpy()[:, None] * vectors[:, order], dtype=np.float32)


def spectral_maps(attention: Tensor, *, vectors: int = VECTORS, clusters: int = CLUSTERS, seed: int = 0) -> Tensor:
    """Regions of one picture by k-means on its spectral embedding: which tokens are each one's.

    Tokens are enlarged to pixels as they are. What decomposes the matrix, and on which device, decides the vectors'
    signs and rotations, and rounds them; the regions stay the same.

    Args:
        attention: float (g * g, g * g), rows summing to 1.
        vectors: Dimensions of the embedding.
        clusters: Number of clusters, at most.
        seed: Of the k-means start (the code has eight random starts without a seed).

    Returns:
        float32 (R, g, g), 1 at a region's tokens and 0 elsewhere.
    """
    side = math.isqrt(len(attention))
    embedding = spectral_vectors(attention, min(vectors, len(attention) - 1))
    # In double precision, and on the CPU: there are few numbers. Signs and rotations change no distance by more than
    # rounding, and k-means' start does not hang on that.
    _, labels = kmeans(torch.from_numpy(embedding).double(), min(clusters, len(embedding)), seed=seed)
    return F.one_hot(labels).T.float().unflatten(1, (side, side)).to(attention.device)


def region_means(strips: Iterable[tuple[Tensor, Tensor]], regions: int) -> Tensor:
    """Every region's mean scores (`exp_utils.label_clusters`; equation 3).

    Args:
        strips: Of some rows of the picture after others: the region of each pixel, int64 (h, W), and the scores there,
            float (K, h, W).
        regions: How many there are; one without a pixel gets 0.

    Returns:
        float32 (K, regions).
    """
    sums: Tensor | None = None
    counts: Tensor | None = None
    for owner, scores in strips:
        places = owner.flatten()
        fresh = scores.new_zeros(len(scores), regions).index_add_(1, places, scores.flatten(1))
        sums = fresh if sums is None else sums + fresh
        number = count_labels(places, regions)
        counts = number if counts is None else counts + number
    if sums is None or counts is None:
        raise ValueError("a picture has at least one row")
    return sums / counts.clamp_min(1)
