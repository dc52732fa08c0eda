"""Reading attention while a diffusers UNet runs: hooks on its attention blocks, and means of what they see.

Everything is read through forward hooks on the projection layers of the attention blocks, so it does not
matter which attention processor computes the attention itself (the fused kernels never return
probabilities, and replacing processors breaks on every upgrade). Probabilities are made from queries and keys here,
layer by layer, and only sums are kept.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ovseg_cli.devices import portion

AttentionSink = Callable[[Tensor, Tensor, int, float], None]
"""Takes one attention block's queries (B, N, heads * d), keys (B, T, heads * d), number of heads and scale."""


@dataclass(frozen=True, slots=True)
class AttentionLayer:
    """What one attention layer computes its probabilities from; `attention_probabilities` makes them.

    Attributes:
        queries: (B, N, heads * d), as the projection layer gives them.
        keys: (B, T, heads * d).
        heads: Number of heads.
        scale: Factor on the dot products.
    """

    queries: Tensor
    keys: Tensor
    heads: int
    scale: float

    def of(self, image: int) -> AttentionLayer:
        """What there is of one image."""
        return replace(self, queries=self.queries[image : image + 1], keys=self.keys[image : image + 1])


def attention_probabilities(queries: Tensor, keys: Tensor, heads: int, scale: float) -> Tensor:
    """Softmaxed attention of every head.

    Args:
        queries: (B, N, heads * d), as the projection layer gives them.
        keys: (B, T, heads * d).
        heads: Number of heads.
        scale: Factor on the dot products, d ** -0.5.

    Returns:
        float32 (B, heads, N, T); each row sums to 1.
    """
    batch = queries.shape[0]
    q = queries.view(batch, -1, heads, queries.shape[-1] // heads).transpose(1, 2)
    k = keys.view(batch, -1, heads, keys.shape[-1] // heads).transpose(1, 2)
    # In float32: products overflow float16 in some checkpoints, and what is rounded here is exponentiated.
    return torch.softmax((q.float() * scale) @ k.float().transpose(-1, -2), dim=-1)


def token_probabilities(queries: Tensor, keys: Tensor, heads: int, scale: float, chosen: Tensor) -> Tensor:
    """Softmaxed attention of every head to a few tokens alone.

    By the kernels that the network's own attention runs in, with a 1 at each chosen token in the place of its value: no
    probabilities of all tokens are ever in memory, and products are summed in float32, which half precision does not
    overflow. What it rounds of a probability is a thousandth of it at most (2^-11 where the exponential is rounded, and
    as much at the end), and less than 1e-7.

    Args:
        queries: (B, N, heads * d), as the projection layer gives them.
        keys: (B, T, heads * d).
        heads: Number of heads.
        scale: Factor on the dot products, d ** -0.5.
        chosen: (B, T, P), as the queries are: 1 where token t is the p-th one wanted of an image. Kernels want P to be
            d, with 0 beyond the tokens.

    Returns:
        (B, heads, N, P), as precise as the queries are.
    """
    q, k = (part.unflatten(2, (heads, -1)).transpose(1, 2) for part in (queries, keys))
    return F.scaled_dot_product_attention(q, k, chosen[:, None].expand(-1, heads, -1, -1), scale=scale)


class RunningAttribution:
    """Running mean of the class phrase's cross-attention over layers, heads, tokens and steps (DAAM; OVDiff A_n).

    Per head and token the map is resized bicubically to the common grid and clamped at 0 before it is averaged, so that
    each has to be resized by itself; only the sum is kept, on the device and in float32.

    Args:
        positions: Token positions of the class phrase, for each image (of the conditional half of a guided batch).
        grid: g, side of the common grid (the latent's).
        min_grid: Layers on a coarser grid are left out.
    """

    def __init__(self, positions: Sequence[Sequence[int]], grid: int, *, min_grid: int) -> None:
        self._positions = positions
        self._grid = grid
        self._min_grid = min_grid
        self._longest = max(map(len, positions))
        self._chosen: dict[int, Tensor] = {}
        self._sum: Tensor | None = None
        self._count = 0

    def add(self, queries: Tensor, keys: Tensor, heads: int, scale: float) -> None:
        """Add one layer at one step; see `token_probabilities` for shapes.

        The conditional half of a guided batch comes last, as diffusers stacks it.
        """
        side, batch = math.isqrt(queries.shape[1]), len(self._positions)
        if side < self._min_grid:
            return
        chosen = self._tokens(keys, keys.shape[2] // heads)
        found = token_probabilities(queries[-batch:], keys[-batch:], heads, scale, chosen)[..., : self._longest]
        if side == self._grid:
            total = found.sum(dim=(1, 3), dtype=torch.float32).unflatten(1, (side, side))
        else:
            maps = found.permute(0, 1, 3, 2).reshape(batch, -1, side, side)
            maps = F.interpolate(maps, (self._grid, self._grid), mode="bicubic", align_corners=False)
            total = maps.clamp_(min=0).sum(dim=1, dtype=torch.float32)
        self._sum = total / heads if self._sum is None else self._sum.add_(total, alpha=1 / heads)
        self._count += 1

    def _tokens(self, keys: Tensor, width: int) -> Tensor:
        """The tokens of the phrases as `token_probabilities` wants them for heads of a width.

        They go to the device once, and not at every layer.
        """
        if width not in self._chosen:
            chosen = torch.zeros(len(self._positions), keys.shape[1], max(width, self._longest))
            for image, own in enumerate(self._positions):
                chosen[image, list(own), range(len(own))] = 1
            self._chosen[width] = chosen.to(keys)
        return self._chosen[width]

    def mean(self) -> Tensor:
        """The attribution maps so far, float32 (B, g, g).

        Raises:
            RuntimeError: No layer was added (every cross-attention grid is coarser than `min_grid`).
        """
        if self._sum is None:
            raise RuntimeError(f"no cross-attention layer has a grid of at least {self._min_grid}")
        lengths = torch.tensor([len(own) for own in self._positions], device=self._sum.device)
        return self._sum / (self._count * lengths[:, None, None])


class RunningCrossAttention:
    """Mean of the cross-attention of groups of tokens over heads and tokens, and over the layers of each grid.

    Args:
        groups: Token positions of each group.
    """

    def __init__(self, groups: Sequence[Sequence[int]]) -> None:
        self._groups = [list(group) for group in groups]
        self._sums: dict[int, Tensor] = {}
        self._layers: dict[int, int] = {}

    def add(self, queries: Tensor, keys: Tensor, heads: int, scale: float) -> None:
        """Add one layer; see `attention_probabilities` for shapes. The tokens are those of a square grid."""
        side = math.isqrt(queries.shape[1])
        mean = attention_probabilities(queries, keys, heads, scale).mean(dim=1)
        maps = torch.stack([mean[..., group].mean(dim=-1) for group in self._groups], dim=1)
        maps = maps.unflatten(-1, (side, side))
        self._sums[side] = maps if side not in self._sums else self._sums[side].add_(maps)
        self._layers[side] = self._layers.get(side, 0) + 1

    def means(self) -> tuple[dict[int, Tensor], dict[int, int]]:
        """By the side s of a grid: the mean maps float32 (B, groups, s, s), and the number of layers."""
        return {side: maps / self._layers[side] for side, maps in self._sums.items()}, self._layers


def mean_self_attention(queries: Tensor, keys: Tensor, heads: int, scale: float) -> Tensor:
    """Self-attention averaged over the heads, on a CPU one head at a time: all at once take `heads` times the memory.

    See `attention_probabilities` for the arguments.

    Returns:
        float32 (B, N, N); each row sums to 1.
    """
    batch, count, width = queries.shape
    cells = batch * count * keys.shape[1]
    together = max(1, portion(queries.device, cells) // cells)
    total = queries.new_zeros((batch, count, keys.shape[1]), dtype=torch.float32)
    each = width // heads
    for some in range(0, heads, together):
        number = min(together, heads - some)
        q, k = (x[..., some * each : (some + number) * each] for x in (queries, keys))
        found = attention_probabilities(q, k, number, scale)
        total += found[:, 0] if number == 1 else found.sum(dim=1)
    return total / heads


class RunningSelfAttention:
    """Mean of the self-attention of layers on several grids, as one matrix on the finest (DiffSeg, section 3.2.1).

    Heads are averaged. A coarser layer's rows are enlarged bilinearly, as pictures of the tokens attended to, and made
    to sum to 1 again; a token of the finest grid takes the row of the coarse cell that it lies in. The weight of
    a layer is proportional to the side of its grid. Only one sum per grid is kept.

    Args:
        finest: Only the layers on the finest grid count.
    """

    def __init__(self, *, finest: bool = False) -> None:
        self._only_finest = finest
        self._sums: dict[int, Tensor] = {}
        self._weight = 0

    def add(self, queries: Tensor, keys: Tensor, heads: int, scale: float) -> None:
        """Add one layer; see `attention_probabilities` for shapes. The tokens are those of a square grid."""
        side = math.isqrt(queries.shape[1])
        if self._only_finest and side != max(self._sums, default=side):
            if side < max(self._sums):
                return
            self._sums, self._weight = {}, 0
        attention = mean_self_attention(queries, keys, heads, scale)
        # Layers on one grid have one weight, so their sum is all that has to be held.
        self._sums[side] = attention if side not in self._sums else self._sums[side].add_(attention)
        self._weight += side

    def mean(self) -> Tensor:
        """The fused matrix, float32 (B, N, N), rows summing to 1. Ends the adding: the sums are used up."""
        finest = max(self._sums)
        fused = self._sums.pop(finest).mul_(finest / self._weight)
        row_of = torch.arange(finest, device=fused.device)
        for side, attention in self._sums.items():
            batch, tokens, _ = attention.shape
            pictures = attention.reshape(batch, tokens, side, side)
            wide = F.interpolate(pictures, (finest, finest), mode="bilinear", align_corners=False).flatten(2)
            # The sum holds several layers' rows; each row of the mean has to sum to the layers' share of the weight.
            wide *= attention.sum(-1, keepdim=True) / wide.sum(-1, keepdim=True) * (side / self._weight)
            place = row_of * side // finest
            # On a CPU line by line: all rows at once would be one more whole matrix.
            cells = batch * finest**3
            lines = max(1, portion(fused.device, cells) // cells)
            for y in range(0, finest, lines):
                some = (place[y : y + lines, None] * side + place).flatten()
                fused[:, y * finest : y * finest + len(some)] += wide[:, some]
        return fused


@contextmanager
def tapped(blocks: Iterable[tuple[Any, AttentionSink]]) -> Iterator[None]:
    """Pair the queries of attention blocks with their keys and give them to the blocks' sinks, at every forward pass.

    Nothing that can fail stands between the hooks and their removal: one left behind would end a later walk.
    """
    handles: list[Any] = []
    try:
        for block, sink in blocks:
            handles += _tap_attention(block, sink)
        yield
    finally:
        for handle in handles:
            handle.remove()


def _tap_attention(module: Any, sink: AttentionSink) -> list[Any]:
    """Hooks on one attention block that pair its queries with its keys."""
    held: dict[str, Tensor] = {}

    def on_queries(_module: nn.Module, _inputs: Any, output: Tensor) -> None:
        held["queries"] = output

    def on_keys(_module: nn.Module, _inputs: Any, output: Tensor) -> None:
        sink(held.pop("queries"), output, module.heads, module.scale)

    return [module.to_q.register_forward_hook(on_queries), module.to_k.register_forward_hook(on_keys)]
