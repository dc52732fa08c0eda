"""Class maps multiplied by a chain of attention matrices, of which none is ever held as a whole.

CLIPer's fine-grained compensation (Sun et al., "CLIPer: Hierarchically Improving Spatial Representation of CLIP for
Open-Vocabulary Semantic Segmentation", ICCV 2025, equations 9 and 10): ``S_f = A_0 A_1 ... A_H-1 S`` over the heads of
self-attention layers of Stable Diffusion. Multiplied out from the right, every step is a matrix times a few class maps.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence

import torch
from torch import Tensor
from torch.nn import functional as F

from ovseg_cli.backbones.attention import AttentionLayer
from ovseg_cli.devices import portion, small_steps

CELLS_ON_CPU = 2**17
"""Of an attention matrix, made at once on a CPU: half a megabyte, which stays in a core's cache from the product to the
sum."""

EPSILON = 1e-5
"""Added to column maxima and to row sums, as in the published code. With weak attention (a uniform row of 4096 tokens
has 2.4e-4 everywhere) the maxima are small enough for this to matter."""


def refine_maps(maps: Tensor, layers: Sequence[AttentionLayer], *, threshold: float | None) -> Tensor:
    """Class maps, enlarged to the layers' grid and multiplied by the product of their attention matrices.

    The matrices are those of the first layer's heads, then of the second's, and so on, from left to right. With a
    `threshold` each is first made sparse, as in CLIPer's code: divided by the maxima of its columns, set to 0 below the
    threshold, and its rows divided by their sums. Without one it is the softmax, as in the paper.

    The column maxima of a matrix need all of its rows before the first row can be used, so that a block of rows is made
    twice; on a CPU the second time without the columns in which the block has no entry above the threshold. Besides
    what goes in this holds a block of `CELLS_ON_CPU` cells, or on a GPU of as many as have room, a few times, the
    column maxima of every block, and some copies of one head's queries and keys and of one picture's maps: 13 MB for
    4096 tokens and 21 classes on a CPU, where ten whole matrices take 671 MB. Everything is computed in float32.

    Args:
        maps: float (B, C, h, w).
        layers: Self-attention layers on one square grid of g * g tokens, for the same B pictures.
        threshold: Share of its column's maximum that an entry has to reach; None for the plain product.

    Returns:
        float32 (B, C, g, g). A token whose row has no entry above the threshold gets 0.

    Raises:
        ValueError: There are no layers, or they are not on one square grid or not for as many pictures.
    """
    sizes = {layer.queries.shape[:2] for layer in layers} | {layer.keys.shape[:2] for layer in layers}
    batch, tokens = sizes.pop() if sizes else (0, 0)
    side = math.isqrt(tokens)
    if sizes or batch != len(maps) or side * side != tokens:
        raise ValueError("self-attention layers of the same pictures on one square grid are needed")
    values = F.interpolate(maps.float(), (side, side), mode="bilinear", align_corners=False).flatten(2).transpose(1, 2)
    refined = [_apply_chain(image, layers, place, threshold) for place, image in enumerate(values)]
    return torch.stack(refined).transpose(1, 2).unflatten(2, (side, side))


def _apply_chain(values: Tensor, layers: Sequence[AttentionLayer], place: int, threshold: float | None) -> Tensor:
    """All matrices of the picture at `place`, the last one first, times values (N, C)."""
    for layer in reversed(layers):
        heads = zip(*(x[place].chunk(layer.heads, dim=-1) for x in (layer.queries, layer.keys)), strict=True)
        for q, k in reversed(list(heads)):
            queries, keys = q.float() * layer.scale, k.float()
            if threshold is None:
                values = _apply_softmax(queries, keys, values)
            else:
                values = _apply_sparse(queries, keys, values, threshold)
    return values


def _row_blocks(queries: Tensor, keys: Tensor) -> range:
    """First rows of the blocks that a matrix is made in."""
    return range(0, len(queries), max(1, portion(queries.device, CELLS_ON_CPU) // len(keys)))


def _apply_softmax(queries: Tensor, keys: Tensor, values: Tensor) -> Tensor:
    columns = keys.T.contiguous()
    blocks = _row_blocks(queries, keys)
    return torch.cat([torch.softmax(queries[i : i + blocks.step] @ columns, dim=1) @ values for i in blocks])


def _apply_sparse(queries: Tensor, keys: Tensor, values: Tensor, threshold: float) -> Tensor:
    """One head's thresholded attention times values; see `refine_maps`.

    Args:
        queries: float32 (N, d), scaled.
        keys: float32 (T, d).
        values: float32 (T, C).
        threshold: Share of its column's maximum that an entry has to reach.

    Returns:
        float32 (N, C).
    """
    blocks = _row_blocks(queries, keys)
    columns = keys.T.contiguous()
    log_sums = queries.new_empty(len(queries), 1)
    log_maxima = queries.new_empty(len(blocks), len(keys))
    block = queries.new_empty(min(blocks.step, len(queries)), len(keys))
    for start, maxima in zip(blocks, log_maxima, strict=True):
        rows = queries[start : start + blocks.step]
        logits = torch.mm(rows, columns, out=block[: len(rows)])
        sums = log_sums[start : start + len(rows)]
        torch.logsumexp(logits, dim=1, keepdim=True, out=sums)
        torch.amax(logits.sub_(sums), dim=0, out=maxima)
    # Two more channels make the second product give the logarithm of the normalised entry, without a pass of its own:
    # q . k - log(sum of the row) - log(maximum of the column).
    column_terms = (log_maxima.amax(dim=0).exp() + EPSILON).log()
    queries = torch.cat([queries, log_sums, torch.ones_like(log_sums)], dim=1)
    keys = torch.cat([keys, torch.full_like(keys[:, :1], -1), -column_terms[:, None]], dim=1)
    # And one more class gives the sum of the row.
    values = torch.cat([values, torch.ones_like(values[:, :1])], dim=1)
    products = values.new_empty(len(queries), values.shape[1])
    some: Iterable[Tensor | slice] = [slice(None)] * len(blocks)
    if small_steps(queries.device):  # a GPU would have to say which, and wait for that
        # Only columns that have an entry above the threshold in a block are computed there again. With a margin: which
        # entries these are is decided below.
        needed = (log_maxima - column_terms).exp_() >= 0.999 * threshold
        some = (row.nonzero()[:, 0] for row in needed)
    for start, places in zip(blocks, some, strict=True):
        rows = queries[start : start + blocks.step]
        entries = torch.threshold_((rows @ keys[places].T).exp_(), threshold, 0.0)
        torch.mm(entries, values[places], out=products[start : start + len(rows)])
    return products[:, :-1] / (products[:, -1:] + EPSILON)
