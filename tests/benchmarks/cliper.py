"""CLIPer: class maps through a chain of attention matrices, and the early layers' fusion, against what they replace."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

import numpy as np

from tests.benchmarks.harness import Benchmark, Case, DisagreementError, Job

if TYPE_CHECKING:
    from torch import Tensor

    from ovseg_cli.backbones.attention import AttentionLayer
    from ovseg_cli.backbones.clip import BlockTrace

SIDE, LAYERS, HEADS, WIDTH, CLASSES = 64, 2, 5, 64, 21
"""Stable Diffusion 2.1-base at 512 x 512 pixels: the last blocks' self-attention; the classes of Pascal VOC."""

THRESHOLD = 0.1
COARSE = (21, 28)

BLOCKS, TOKENS, CLIP_HEADS = 12, 1 + 21 * 28, 12
"""CLIP ViT-B/16 at 336 x 448 pixels."""


def synthetic(device: str) -> tuple[list[AttentionLayer], Tensor]:
    """Random queries and keys of attention that keeps 1 % of its entries, and coarse maps."""
    import torch

    from ovseg_cli.backbones.attention import AttentionLayer

    random = torch.Generator().manual_seed(0)
    size = (2, 1, SIDE * SIDE, HEADS * WIDTH)
    pairs = [(1.5 * torch.randn(size, generator=random)).to(device) for _ in range(LAYERS)]
    maps = torch.rand(1, CLASSES, *COARSE, generator=random).to(device)
    return [AttentionLayer(queries, keys, HEADS, WIDTH**-0.5) for queries, keys in pairs], maps


def whole_matrices(layers: list[AttentionLayer]) -> Tensor:
    """All heads' sparse attention, (10, N, N)."""
    import torch

    from ovseg_cli.backbones.attention import attention_probabilities

    parts = [attention_probabilities(x.queries, x.keys, x.heads, x.scale)[0] for x in layers]
    matrices = torch.cat(parts)
    del parts
    for matrix in matrices:
        matrix /= matrix.amax(dim=0, keepdim=True) + 1e-5
        matrix.masked_fill_(matrix < THRESHOLD, 0)
        matrix /= matrix.sum(dim=1, keepdim=True) + 1e-5
    return matrices


def enlarged(maps: Tensor) -> Tensor:
    """Coarse maps on the matrices' grid, (N, C)."""
    from torch.nn import functional as F

    return F.interpolate(maps, (SIDE, SIDE), mode="bilinear", align_corners=False)[0].flatten(1).T.contiguous()


def product_of_given(device: str) -> Job:
    import torch

    layers, maps = synthetic(device)
    with torch.inference_mode():
        matrices = whole_matrices(layers)

    @torch.inference_mode()
    def job() -> np.ndarray:
        product = matrices[0]
        for matrix in matrices[1:]:
            product = product @ matrix
        return (product @ enlarged(maps)).cpu().numpy()

    return job


def chain_of_given(device: str) -> Job:
    import torch

    layers, maps = synthetic(device)
    with torch.inference_mode():
        matrices = whole_matrices(layers)

    @torch.inference_mode()
    def job() -> np.ndarray:
        values = enlarged(maps)
        for matrix in reversed(matrices.unbind()):
            values = matrix @ values
        return values.cpu().numpy()

    return job


def product(device: str) -> Job:
    import torch

    layers, maps = synthetic(device)

    @torch.inference_mode()
    def job() -> np.ndarray:
        matrices = whole_matrices(layers)
        product = matrices[0]
        for matrix in matrices[1:]:
            product = product @ matrix
        return (product @ enlarged(maps)).cpu().numpy()

    return job


def shipped(device: str) -> Job:
    import torch

    from ovseg_cli.methods.attention_refine import refine_maps

    layers, maps = synthetic(device)

    @torch.inference_mode()
    def job() -> np.ndarray:
        return refine_maps(maps, layers, threshold=THRESHOLD)[0].flatten(1).T.cpu().numpy()

    return job


# --------------------------------------------------------------------------- early-layer fusion


def synthetic_blocks(device: str) -> list[BlockTrace]:
    """Random blocks of CLIP's size; the last one's projections are those of a network."""
    import torch
    from torch import nn
    from torch.nn import functional as F

    from ovseg_cli.backbones.clip import BlockTrace

    random = torch.Generator().manual_seed(0)
    width = CLIP_HEADS * 64
    torch.manual_seed(0)
    norm, qkv, out = nn.LayerNorm(width), nn.Linear(width, 3 * width), nn.Linear(width, width)
    for part in (norm, qkv, out):
        part.to(device)

    def split(x: Tensor) -> Tensor:
        return x.unflatten(2, (CLIP_HEADS, -1)).transpose(1, 2)

    def project(heads: Tensor) -> Tensor:
        return out(heads.transpose(1, 2).flatten(2))

    def values_of(tokens: Tensor) -> Tensor:
        return split(F.linear(norm(tokens), qkv.weight[2 * width :], qkv.bias[2 * width :]))

    blocks = []
    for _ in range(BLOCKS):
        inputs = torch.randn(1, TOKENS, width, generator=random).to(device)
        with torch.no_grad():
            normed = norm(inputs)
            queries, keys, values = (split(x) for x in (3 * qkv(normed)).chunk(3, dim=-1))
        blocks.append(BlockTrace(inputs, normed, queries, keys, values, project, values_of, nn.Identity()))
    return blocks


def fused(device: str) -> Job:
    import torch

    from ovseg_cli.methods.cliper import fuse_early_layers

    blocks = synthetic_blocks(device)

    @torch.inference_mode()
    def job() -> np.ndarray:
        return torch.cat(fuse_early_layers(blocks).tokens).cpu().numpy()

    return job


def rewritten(device: str) -> Job:
    """All heads' matrices are balanced, made symmetric and cut off as a whole, anew for every embedding."""
    import torch

    blocks = synthetic_blocks(device)

    @torch.inference_mode()
    def job() -> np.ndarray:
        attention = torch.zeros(1, CLIP_HEADS, TOKENS, TOKENS, device=device)
        for block in blocks[:-1]:
            attention += torch.softmax(block.queries @ block.keys.transpose(-1, -2) / 8, dim=-1)
        last, tokens = blocks[-1], []
        for embedding in [*(block.normed for block in blocks[:-1]), last.inputs]:
            attention /= attention.sum(dim=-2, keepdim=True)
            attention /= attention.sum(dim=-1, keepdim=True)
            weights = (attention + attention.transpose(-2, -1)) / 2
            weights -= weights.mean(dim=-2, keepdim=True)
            weights = weights.clamp(min=0)
            weights /= weights.sum(dim=-1, keepdim=True)
            tokens.append(last.project(weights @ last.values_of(embedding)))
        return torch.cat(tokens).cpu().numpy()

    return job


def equal(what: str, bound: float, baseline: np.ndarray, answer: np.ndarray) -> str:
    difference = float(np.abs(baseline - answer).max() / np.ptp(baseline))
    if not difference <= bound:
        raise DisagreementError(f"the {what} differ by {difference:.1e} of their range")
    return f"differs by {difference:.0e} of the range"


SAME_MAPS = partial(equal, "maps", 1e-4)

BENCHMARK = Benchmark(
    name="cliper",
    question=(
        f"{CLASSES} class maps through {LAYERS * HEADS} attention matrices of {SIDE**2} tokens; "
        f"{BLOCKS} embeddings of {TOKENS} tokens through CLIP's last block"
    ),
    cases=(
        Case(name="product-given", what="matrices are there: their product", prepare=product_of_given, heavy=True),
        Case(
            name="chain-given",
            what="matrices are there: right to left",
            prepare=chain_of_given,
            baseline="product-given",
            agree=SAME_MAPS,
        ),
        Case(name="product", what="from queries and keys: matrices, their product", prepare=product, heavy=True),
        Case(
            name="chain",
            what="from queries and keys: right to left in blocks, as shipped",
            prepare=shipped,
            baseline="product",
            agree=SAME_MAPS,
        ),
        Case(name="fusion-rewritten", what="early layers: whole matrices rewritten every time", prepare=rewritten),
        Case(
            name="fusion",
            what="early layers: some heads at a time through all embeddings",
            prepare=fused,
            baseline="fusion-rewritten",
            agree=partial(equal, "tokens", 1e-4),
        ),
    ),
)
