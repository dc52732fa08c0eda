"""GEM and coarse CLIPer from a picture to class maps, against the computation that their published code does.

The baselines restate that computation on the same weights: what is computed, held and copied, and how often. None of
the published code is here.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np

from tests.benchmarks.harness import Benchmark, Case, DisagreementError, Job

if TYPE_CHECKING:
    from torch import Tensor

    from ovseg_cli.backbones.clip import ClipBackbone

TOWERS = {"b16": ("ViT-B/16", (336, 448)), "l14": ("ViT-L/14", (336, 462))}
"""Towers of `tests.parity.clip_family`, and the picture that CLIPer sees, whose short side is 336."""

GEM_SIDE, GEM_BLOCKS = 448, 6
"""GEM squashes every picture to this square."""

CLASSES, WORDS = 20, 25
"""About what the published code of CLIPer compares with on PASCAL VOC."""

LOGIT_SCALE, THRESHOLD = 100.0, 0.1

NORM = {"mean": (0.48145466, 0.4578275, 0.40821073), "std": (0.26862954, 0.26130258, 0.27577711)}


def given(tower: str, size: tuple[int, int]) -> tuple[ClipBackbone, Tensor, Tensor]:
    """A tower of true size with made-up weights, a made-up picture, and made-up texts (T, E), of norm 1."""
    import torch
    from torch.nn import functional as F

    from tests.parity.clip_family import TOWERS as SIZES
    from tests.parity.clip_family import backbone

    random = torch.Generator().manual_seed(0)
    coarse = torch.rand(1, 3, 12, 16, generator=random)
    picture = F.interpolate(coarse, size, mode="bicubic").clamp(0, 1)
    texts = F.normalize(torch.randn(CLASSES + WORDS, SIZES[tower].embed, generator=random), dim=-1)
    return backbone(SIZES[tower]), picture, texts


def enter(visual: Any, picture: Tensor, positions: str) -> Tensor:
    """Tokens that enter the first block, (1, N, D)."""
    import torch

    from ovseg_cli.backbones.clip import resize_position_embedding

    mean, std = (torch.tensor(NORM[name]).view(1, 3, 1, 1).to(picture) for name in ("mean", "std"))
    patches = visual.conv1((picture - mean) / std)
    grid = (patches.shape[2], patches.shape[3])
    tokens = torch.cat([visual.class_embedding.expand(1, 1, -1), patches.flatten(2).transpose(1, 2)], dim=1)
    return visual.ln_pre(tokens + resize_position_embedding(visual.positional_embedding, grid, positions))


def heads_of(attention: Any, tokens: Tensor) -> tuple[Tensor, ...]:
    """Queries, keys and values, (1, heads, N, d) each."""
    from torch.nn import functional as F

    projected = F.linear(tokens, attention.in_proj_weight, attention.in_proj_bias)
    return projected.unflatten(2, (3, attention.num_heads, -1)).permute(2, 0, 3, 1, 4).unbind()


def joined(heads: Tensor) -> Tensor:
    """Heads (1, heads, N, d) side by side, (1, N, D)."""
    return heads.transpose(1, 2).flatten(2)


# --------------------------------------------------------------------------- GEM


def gem_restated(tower: str, device: str) -> Job:
    """Both streams through whole blocks; every attention is a whole matrix, and all heads' matrices at once."""
    import torch
    from torch.nn import functional as F

    clip, picture, texts = moved(given(tower, (GEM_SIDE, GEM_SIDE)), device)
    visual = clip.model.visual

    def self_self(features: Tensor, values: Tensor, factor: Tensor) -> Tensor:
        units = F.normalize(features, dim=-1)
        smooth = F.normalize((units @ units.mT * factor).softmax(dim=-1) @ units, dim=-1)
        return (smooth @ smooth.mT * factor).softmax(dim=-1) @ values

    @torch.no_grad()
    def job() -> np.ndarray:
        tokens = enter(visual, picture, "bicubic")
        blocks = visual.transformer.resblocks
        for block in blocks[:-GEM_BLOCKS]:
            tokens = block(tokens)
        stream = tokens
        for block in blocks[-GEM_BLOCKS:]:
            normed = block.ln_1(tokens)
            queries, keys, values = heads_of(block.attn, normed)
            scale = values.shape[-1] ** -0.5
            mixed = (queries @ keys.mT * scale).softmax(dim=-1) @ values
            factor = normed.norm(dim=-1).mean() * scale
            others = [self_self(features, values, factor) for features in (values, keys, queries)]
            stream = stream + block.attn.out_proj(joined(sum(others) / 3))
            tokens = tokens + block.attn.out_proj(joined(mixed))
            tokens = tokens + block.mlp(block.ln_2(tokens))
        # What leaves the original path is projected too, and not used.
        projected, _ = (visual.ln_post(each) @ visual.proj for each in (stream, tokens))
        return (F.normalize(projected, dim=-1)[:, 1:] @ texts.T).cpu().numpy()

    return job


def gem_shipped(tower: str, device: str) -> Job:
    import torch

    from ovseg_cli.methods.gem import gem_tokens

    clip, picture, texts = moved(given(tower, (GEM_SIDE, GEM_SIDE)), device)

    @torch.inference_mode()
    def job() -> np.ndarray:
        walk = clip.trace(picture, blocks=range(-GEM_BLOCKS, 0), input_size=GEM_SIDE, **NORM)
        tokens = gem_tokens([walk.blocks[index] for index in sorted(walk.blocks)])
        return (clip.embed(tokens)[:, 1:] @ texts.T).cpu().numpy()

    return job


# --------------------------------------------------------------------------- CLIPer without refinement


def cliper_restated(tower: str, device: str) -> Job:
    """All heads' attention is made whole by torch's module, summed, and rewritten for every embedding.

    Tokens stand as (N, 1, D), as in OpenAI's CLIP. The last block's queries and keys of every embedding are computed
    too, and not used.
    """
    import torch
    from torch.nn import functional as F

    clip, picture, texts = moved(given(tower, TOWERS[tower][1]), device)
    texts = torch.cat([texts, F.normalize(texts[:CLASSES].mean(dim=0, keepdim=True), dim=-1)])
    visual = clip.model.visual
    *early, last = visual.transformer.resblocks
    for block in early:
        block.attn.batch_first = False

    @torch.no_grad()
    def job() -> np.ndarray:
        tokens = enter(visual, picture, "bilinear").transpose(0, 1)
        embeddings = tokens.new_zeros((len(early) + 1, *tokens.shape))
        attention = tokens.new_zeros(())
        for index, block in enumerate(early):
            embeddings[index] = normed = block.ln_1(tokens)
            mixed, matrices = block.attn(normed, normed, normed, need_weights=True, average_attn_weights=False)
            attention = attention + matrices
            tokens = tokens + mixed
            tokens = tokens + block.mlp(block.ln_2(tokens))
        embeddings[-1] = tokens
        for index, embedding in enumerate(embeddings):
            _, _, values = (part.contiguous() for part in heads_of(last.attn, last.ln_1(embedding).transpose(0, 1)))
            attention /= attention.sum(dim=-2, keepdim=True)
            attention /= attention.sum(dim=-1, keepdim=True)
            weights = (attention + attention.mT) / 2
            weights -= weights.mean(dim=-2, keepdim=True)
            weights = weights.clamp(min=0)
            weights /= weights.sum(dim=-1, keepdim=True)
            embeddings[index] = last.attn.out_proj(joined(weights @ values)).transpose(0, 1)
        vectors = F.normalize(visual.ln_post(embeddings.squeeze(2)) @ visual.proj, dim=-1)
        maps = (LOGIT_SCALE * vectors[:, 1:] @ texts.T).softmax(dim=-1)[..., :CLASSES].mT
        maps[-1][maps[-1] < maps[-1].amax(dim=-1, keepdim=True) * THRESHOLD] = 0
        return (maps.mean(dim=0) + maps[-1] @ weights[0].mean(dim=0)[1:, 1:]).cpu().numpy()

    return job


def cliper_shipped(tower: str, device: str) -> Job:
    import torch

    from ovseg_cli.methods.cliper import cliper_maps, cliper_texts, fuse_early_layers

    size = TOWERS[tower][1]
    clip, picture, texts = moved(given(tower, size), device)
    texts = cliper_texts(texts[:CLASSES], texts[CLASSES:])

    @torch.inference_mode()
    def job() -> np.ndarray:
        blocks = range(clip.depth)
        walk = clip.trace(picture, blocks=blocks, input_size=size, positions="bilinear", attention=True, **NORM)
        fusion = fuse_early_layers([walk.blocks[index] for index in blocks], walk.attention)
        maps = cliper_maps(
            [clip.embed(tokens)[:, 1:] @ texts.T for tokens in fusion.tokens],
            fusion.attention,
            classes=CLASSES,
            grid=walk.grid,
            logit_scale=LOGIT_SCALE,
            layer=-1,
            threshold=THRESHOLD,
        )
        return maps[0].flatten(1).cpu().numpy()

    return job


# --------------------------------------------------------------------------- cases


def moved(everything: tuple[ClipBackbone, Tensor, Tensor], device: str) -> tuple[ClipBackbone, Tensor, Tensor]:
    """The same on a device."""
    from ovseg_cli.backbones.clip import ClipBackbone

    clip, picture, texts = everything
    return ClipBackbone(clip.model, clip.tokenizer, device), picture.to(device), texts.to(device)


def same_maps(baseline: np.ndarray, answer: np.ndarray) -> str:
    difference = float(np.abs(baseline - answer).max() / np.ptp(baseline))
    if not difference <= 1e-4:
        raise DisagreementError(f"the maps differ by {difference:.1e} of their range")
    return f"differs by {difference:.0e} of the range"


def pair(
    method: str, tower: str, restated: Callable[[str, str], Job], shipped: Callable[[str, str], Job]
) -> list[Case]:
    title = f"{method}, {TOWERS[tower][0]}"
    name = f"{method.lower()}-{tower}"
    return [
        Case(name=f"{name}-restated", what=f"{title}: as published", prepare=partial(restated, tower), repeats=5),
        Case(
            name=name,
            what=f"{title}: as shipped",
            prepare=partial(shipped, tower),
            baseline=f"{name}-restated",
            agree=same_maps,
            repeats=5,
        ),
    ]


BENCHMARK = Benchmark(
    name="clip-family",
    question=f"a picture to class maps: GEM at {GEM_SIDE} x {GEM_SIDE}, CLIPer without refinement at 336 x 448 or 462",
    cases=tuple(
        case
        for tower in TOWERS
        for case in (
            *pair("GEM", tower, gem_restated, gem_shipped),
            *pair("CLIPer", tower, cliper_restated, cliper_shipped),
        )
    ),
)
