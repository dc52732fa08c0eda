"""CLIPer: class maps from the early layers of CLIP's image transformer, sharpened by Stable Diffusion's self-attention.

Sun et al., "CLIPer: Hierarchically Improving Spatial Representation of CLIP for Open-Vocabulary Semantic Segmentation",
ICCV 2025. Where the paper and its published code (c05fa41) differ, this follows the code, which made the numbers:

- Embeddings of early layers (paper: the outputs F^1 ... F^N-1 of the blocks): ``ln_1`` of what enters each block but
  the last, so that the last block's ``ln_1`` is a second norm on it; and what enters the last block, as it is.
- Attention of early layers (equation 8: the mean over layers): the sum, for every head by itself, after
  `_EarlyAttention`, which the paper does not have. Each embedding is multiplied by another power of it.
- One more class, the mean of all classes (`cliper_texts`), which takes part in the softmax and is then left out.
- Coarse map (paper: the mean over the embeddings): the mean plus one layer's map multiplied by the fused attention
  (`cliper_maps`).
- Fine-grained compensation (equations 9 and 10): sparse matrices (`attention_refine.refine_maps`) of two of the five
  self-attention layers at the highest resolution.

How an image gets there, as in the published code: CLIP sees the whole of it in whole patches, with position embeddings
resized bilinearly; Stable Diffusion 2.1-base sees the image as it came, squashed to 512 x 512 by taking the nearest
pixel, encoded to the VAE's mean, at `TIMESTEP`, with an empty prompt. Coarse maps go to the refinement from the grid of
patches, and all thresholds are for maps at the image's own size.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from ovseg_cli.backbones.clip import BlockTrace, attention_matrices, some_heads
from ovseg_cli.methods.published import CliperSettings

TIMESTEP = 101
"""The 46th of the 51 timesteps that a PNDM sampler of 50 steps goes through; the paper's "time-step 45"."""


# --------------------------------------------------------------------------- texts


def cliper_texts(classes: Tensor, words: Tensor) -> Tensor:
    """The texts that compete in CLIPer's softmax: classes, words for the background, and the mean of the classes.

    Args:
        classes: (C, E), each of norm 1.
        words: (W, E), each of norm 1; W may be 0.

    Returns:
        (C + W + 1, E), each of norm 1.
    """
    return torch.cat([classes, words, F.normalize(classes.mean(dim=0, keepdim=True), dim=-1)])


# --------------------------------------------------------------------------- early-layer fusion


@dataclass(frozen=True, slots=True)
class EarlyFusion:
    """What the last block makes of the early layers.

    Attributes:
        tokens: N of (B, 1 + n, D), class token first, to be projected into the text space one by one.
        attention: float32 (B, n, n): the last embedding's fused attention between patches, averaged over the heads.
            The class token is left out, so that rows sum to less than 1.
    """

    tokens: list[Tensor]
    attention: Tensor


def early_attention(queries: Sequence[Tensor], keys: Sequence[Tensor]) -> Tensor:
    """The attention of blocks, for every head by itself, summed.

    Args:
        queries: Per block (..., N, d).
        keys: Per block (..., N, d).

    Returns:
        float32 (..., N, N), rows of sum ``len(queries)``.
    """
    total = queries[0].new_zeros((*queries[0].shape[:-1], queries[0].shape[-2]), dtype=torch.float32)
    for q, k in zip(queries, keys, strict=True):
        total += attention_matrices(q, k)
    return total


class _EarlyAttention:
    """Early attention on its way through the embeddings: another iteration for each of them.

    In an iteration columns and then rows are divided by their sums. An embedding's attention is the matrix averaged
    with its transpose, less the mean of each column; negative entries become 0, and rows are divided by their sums.
    The published code works in place on one matrix that all embeddings share, so that for embedding k = 0, 1, ... it
    has gone through k + 1 iterations.

    Args:
        attention: float32 (..., N, N), from `early_attention`; it is overwritten.
    """

    def __init__(self, attention: Tensor) -> None:
        self._balanced, self._fused = attention, torch.empty_like(attention)
        self._column_sums = attention.sum(dim=-2, keepdim=True)

    def step(self) -> tuple[Tensor, Tensor]:
        """The next embedding's attention before its rows are divided by their sums, and the sums.

        Both are twice those of the published code. They are overwritten by the next step.
        """
        balanced = self._balanced
        balanced *= 1 / self._column_sums
        balanced *= 1 / balanced.sum(dim=-1, keepdim=True)
        self._column_sums = balanced.sum(dim=-2, keepdim=True)
        fused = torch.add(balanced, balanced.transpose(-1, -2), out=self._fused)
        # A column of the sum is a column and a row of the balanced matrix, whose rows have sum 1.
        fused.sub_((self._column_sums + 1) / fused.shape[-1]).relu_()
        # Attention that is the same everywhere leaves nothing above the means: 0, where the published code has 0 / 0.
        return fused, fused.sum(dim=-1, keepdim=True).clamp_(min=torch.finfo(torch.float32).tiny)


def fuse_early_layers(blocks: Sequence[BlockTrace], attention: Tensor | None = None) -> EarlyFusion:
    """The early layers' embeddings through the last block, with the early layers' attention (section 3.3).

    Of the last block only attention's values and output projection are left: no residual, no MLP. The matrices of some
    heads at a time go through all embeddings, so that they stay in the cache.

    Args:
        blocks: All traced blocks of the vision transformer, first to last; at least 2.
        attention: float32 (B, heads, N, N), `ClipTrace.attention` of the same walk; where the walk was not asked for
            it, it is made anew from queries and keys.

    Returns:
        Tokens of every embedding, and the fused attention of the last one.
    """
    *early, last = blocks
    batch, heads, count, _ = last.queries.shape
    mixed = [last.values_of(embedding) for embedding in (*(block.normed for block in early), last.inputs)]
    mean = last.queries.new_zeros((batch, count - 1, count - 1), dtype=torch.float32)
    for some in some_heads(mixed[0]):
        if attention is None:
            matrices = early_attention([block.queries[some] for block in early], [block.keys[some] for block in early])
        else:
            matrices = attention[some].clone()
        state = _EarlyAttention(matrices)
        for values in mixed:
            fused, sums = state.step()
            # In place: these heads' values are not needed again.
            values[some] = ((fused @ values[some].float()) / sums).to(values.dtype)
        mean[some[0]] += (fused / sums)[..., 1:, 1:].sum(dim=1)
    return EarlyFusion([last.project(each) for each in mixed], mean.div_(heads))


def cliper_maps(
    cosines: Sequence[Tensor],
    attention: Tensor,
    *,
    classes: int,
    grid: tuple[int, int],
    logit_scale: float,
    layer: int,
    threshold: float,
) -> Tensor:
    """Coarse class maps.

    Each embedding's map is a softmax over all texts. In the map of `layer`, what is below `threshold` times the class's
    maximum becomes 0; the answer is the mean of the maps (that one as it is now, since the published code works in
    place) plus that map multiplied by the fused attention. The map stands on the left, as in the published code: a
    patch gets what others attend to it with, not what it attends to.

    Args:
        cosines: Per embedding float (B, n, T): cosines of the patches with the texts of `cliper_texts`.
        attention: float32 (B, n, n), `EarlyFusion.attention`.
        classes: C; the first C texts are the classes.
        grid: (rows, columns) of patches, n together.
        logit_scale: Factor on the cosines.
        layer: Index of the embedding, negative from the end.
        threshold: Share of a class's maximum.

    Returns:
        float32 (B, C, rows, columns), not negative.
    """
    chosen = range(len(cosines))[layer]
    total = torch.zeros_like(cosines[0][..., :classes], dtype=torch.float32).transpose(1, 2)
    peaks = total
    for number, each in enumerate(cosines):
        probabilities = torch.softmax(each.float() * logit_scale, dim=-1)[..., :classes].transpose(1, 2)
        if number == chosen:
            low = probabilities < probabilities.amax(dim=-1, keepdim=True) * threshold
            probabilities = peaks = probabilities.masked_fill(low, 0.0)
        total = total + probabilities
    return (total / len(cosines) + peaks @ attention).unflatten(2, grid)


# --------------------------------------------------------------------------- from maps to labels


def class_scores(coarse: Tensor, refined: Tensor) -> Tensor:
    """How much a class is in the image at all: half the coarse map's maximum and half the refined one's.

    Args:
        coarse: (..., h, w).
        refined: (..., g, g); the coarse maps again where there is no refinement.

    Returns:
        (...).
    """
    return (coarse.amax(dim=(-2, -1)) + refined.amax(dim=(-2, -1))) / 2


def cliper_scores(
    maps: Tensor, extremes: tuple[Tensor, Tensor], scores: Tensor, settings: CliperSettings, *, background: bool = True
) -> Tensor:
    """Class maps to a score per label, of which the best one wins where it reaches the settings' threshold.

    Each map is divided by its maximum and multiplied by its class's score. With `stretch` it then goes from 0 to 1,
    whatever its class's score. Classes that do not score above `score_threshold` are 0 everywhere.

    Args:
        maps: float (C, h, w), refined or coarse: the whole of an image at its own size, or some rows of it.
        extremes: The least and the largest value of each map over the whole image, each (C,).
        scores: (C,), from `class_scores`.
        settings: Of the data set.
        background: Whether there may be background; without it, and where no class scores enough, all take part.

    Returns:
        (C + 1, h, w), channel 0 the background's: 0, or with a threshold of 0 (1 - best class) squared.
    """
    low, high, scores = (each.view(-1, 1, 1) for each in (*extremes, scores))
    weight = scores / (high + 1e-5)
    weighted = maps * weight
    if settings.stretch:
        weighted = (weighted - low * weight) / ((high - low) * weight + 1e-6)
    passes = scores > settings.score_threshold
    if not background:
        passes = passes | ~passes.any()
    weighted = weighted * passes
    if settings.threshold != 0:
        rest = torch.zeros_like(weighted[:1])
    else:
        rest = (1 - weighted.amax(dim=0, keepdim=True)).square()
    return torch.cat([rest, weighted])
