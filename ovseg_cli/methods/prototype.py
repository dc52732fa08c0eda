"""Nearest prototype (OVDiff, section 3.3): cosine to the best prototype of each class, and of the background.

A feature is what the layers give, resized bilinearly to the finest grid among them and stacked by channel. Bilinear
resizing is linear, so that the product of a prototype with such a feature is the sum of the layers' own products, each
resized afterwards: the layers are compared at their native resolution, and no feature is ever resized. Only the norm
is not linear; `_squared_norms` has its exact form.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache

import torch
from torch import Tensor
from torch.nn import functional as F

from ovseg_cli.devices import portion

MAX_CELLS = 8_000_000
"""Products held at once on a CPU (images x prototypes x cells of the finest grid): 32 MB in float32. Beside them, while
they are made, there is room for at most as much again."""

_TINY = 1e-12
"""No norm counts as smaller than this."""


def prototype_scores(maps: Sequence[Tensor], vectors: Tensor, channel: Tensor, channels: int) -> Tensor:
    """Best cosine per class, and over every background prototype.

    ``s_c(x) = max over P in fg_c of cos(F(x), P)`` and ``s_bg(x) = max over all kept classes' P in bg``.

    Args:
        maps: The layers of one extractor, each float (B, C_l, h_l, w_l) on its native grid, any norm.
        vectors: float32 (P, sum of C_l), unit norm; the layers' channels in the order of `maps`.
        channel: int64 (P,): 0 for a background prototype, i for one of the i-th class's foreground.
        channels: C + 1.

    Returns:
        float32 (B, C + 1, h, w) in [-1, 1] on the finest grid; -1 in a channel without prototypes.

    Raises:
        ValueError: The vectors are not as long as the layers have channels.
    """
    layers = [layer.float() for layer in maps]
    pieces = _pieces(layers, vectors)
    height, width = finest_grid(layers)
    norms = _squared_norms(layers).clamp(min=_TINY**2).sqrt()
    cells = height * width
    best = []
    step = max(1, portion(vectors.device, MAX_CELLS) // cells)
    together = max(1, portion(vectors.device, 1) // (cells * max(1, len(vectors))))  # on a CPU, one image at a time
    for first in range(0, len(norms), together):
        images = slice(first, first + together)
        some = [layer[images].transpose(0, 1) for layer in layers]
        scores = vectors.new_full((channels, some[0].shape[1] * cells), -torch.inf)
        for start in range(0, len(vectors), step):
            products = _products(some, [piece[start : start + step] for piece in pieces]).flatten(1)
            # Cells share a norm, so that the best product is the best cosine.
            index = channel[start : start + step, None].expand_as(products)
            scores.scatter_reduce_(0, index, products, reduce="amax")
        best.append(scores.view(channels, -1, height, width).transpose(0, 1))
    return (torch.cat(best) / norms[:, None]).clamp(-1, 1)


def prototype_cosines_at(maps: Sequence[Tensor], vectors: Tensor, cells: Tensor) -> Tensor:
    """The cosine of every prototype with the features of some cells; their best are what `prototype_scores` gives.

    Args:
        maps: See `prototype_scores`.
        vectors: See `prototype_scores`.
        cells: int64 (N, 2): row and column on the finest grid.

    Returns:
        float32 (B, P, N) in [-1, 1].

    Raises:
        ValueError: The vectors are not as long as the layers have channels.
    """
    layers = [layer.float() for layer in maps]
    _pieces(layers, vectors)
    return (vectors @ features_at(layers, cells)).clamp(-1, 1)


def features_at(maps: Sequence[Tensor], cells: Tensor) -> Tensor:
    """The features of some cells, layers resized and stacked: float32 (B, sum of C_l, N), each of norm 1 or 0.

    Args:
        maps: See `prototype_scores`.
        cells: int64 (N, 2): row and column on the finest grid.
    """
    size, found = finest_grid(maps), []
    for layer in maps:
        grid = (layer.shape[2], layer.shape[3])
        if grid == size:
            found.append(layer[:, :, cells[:, 0], cells[:, 1]].float())
            continue
        rows, columns = _resizing(grid, size, layer.float())
        found.append(torch.einsum("nh,bchw,nw->bcn", rows[cells[:, 0]], layer.float(), columns[cells[:, 1]]))
    features = torch.cat(found, dim=1)
    return features / torch.linalg.vector_norm(features, dim=1, keepdim=True).clamp(min=_TINY)


def finest_grid(maps: Sequence[Tensor]) -> tuple[int, int]:
    """(rows, columns) of the finest layer, to which the others are resized."""
    height, width = max((layer.shape[-2:] for layer in maps), key=lambda grid: grid[0] * grid[1])
    return int(height), int(width)


def _pieces(layers: Sequence[Tensor], vectors: Tensor) -> tuple[Tensor, ...]:
    """The prototypes' share of each layer, (P, C_l)."""
    widths = [layer.shape[1] for layer in layers]
    if sum(widths) != vectors.shape[1]:
        raise ValueError(f"the layers have {sum(widths)} channels together, the prototypes {vectors.shape[1]}")
    return vectors.split(widths, dim=1)


def _products(layers: Sequence[Tensor], pieces: Sequence[Tensor]) -> Tensor:
    """Products of prototypes with the features of images, channels first: (P, B, h, w) on the finest grid."""
    size = finest_grid(layers)
    by_grid: dict[tuple[int, int], Tensor] = {}
    for layer, piece in zip(layers, pieces, strict=True):
        grid = (layer.shape[2], layer.shape[3])
        flat = layer.flatten(1)
        if grid in by_grid:
            by_grid[grid].addmm_(piece, flat)
        else:
            by_grid[grid] = piece @ flat
    total = by_grid.pop(size).view(-1, *size)
    for grid, products in by_grid.items():
        rows, columns = _resizing(grid, size, products)
        # Two small matrix products: several times faster than torch's bilinear resizing of as many maps.
        total.baddbmm_(rows.expand(len(total), -1, -1), products.view(-1, *grid) @ columns.T)
    return total.unflatten(0, (len(pieces[0]), -1))


def _resizing(grid: tuple[int, int], size: tuple[int, int], like: Tensor) -> tuple[Tensor, Tensor]:
    """Bilinear resizing as matrices: ``rows @ layer @ columns.T`` with rows (h, h_l) and columns (w, w_l)."""
    rows, columns = (_line(*lengths, like.dtype, like.device) for lengths in zip(grid, size, strict=True))
    return rows, columns


@lru_cache(maxsize=64)
def _line(length: int, wanted: int, dtype: torch.dtype, device: torch.device) -> Tensor:
    """Linear resizing of a line as a matrix (wanted, length)."""
    with torch.inference_mode(mode=False):
        units = torch.eye(length, dtype=dtype, device=device)
        return F.interpolate(units[None], wanted, mode="linear", align_corners=False)[0].T.contiguous()


def _squared_norms(layers: Sequence[Tensor]) -> Tensor:
    """Squared norms of the resized and stacked features, (B, h, w), exactly, without resizing any.

    A resized feature is a weighted sum of the four native ones around it, so that its squared norm is a weighted sum of
    their products with each other. Only neighbours' products are needed: five for each native cell.
    """
    size = finest_grid(layers)
    total = layers[0].new_zeros(len(layers[0]), *size)
    for layer in layers:
        grid = (layer.shape[2], layer.shape[3])
        if grid == size:
            total += layer.square().sum(1)
            continue
        rows, columns = _resizing(grid, size, layer)
        # A row of these has at most two weights other than 0, side by side: their squares, and their product.
        rows_own, rows_pair = rows.square(), 2 * rows[:, :-1] * rows[:, 1:]
        columns_own, columns_pair = columns.square(), 2 * columns[:, :-1] * columns[:, 1:]
        left, right, upper, lower = layer[..., :-1], layer[..., 1:], layer[..., :-1, :], layer[..., 1:, :]
        own = layer.square().sum(1)
        across = (left * right).sum(1)
        down = (upper * lower).sum(1)
        diagonal = (left[..., :-1, :] * right[..., 1:, :]).sum(1) + (right[..., :-1, :] * left[..., 1:, :]).sum(1)
        total += rows_own @ (own @ columns_own.T + across @ columns_pair.T)
        total += rows_pair @ (down @ columns_own.T + diagonal @ columns_pair.T / 2)
    return total
