"""What the methods on diffusion attention and their published code are both fed with."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from tests.parity.inputs import as_tensor, noise, picture

LAYERS = {"narrow": (16, 16, 8, 4, 2), "true": (64, 64, 32, 16, 8)}
"""Sides of the grids of made-up attention layers."""

HEADS, WIDTH, TOKENS = 2, 16, 9
SCALE = (WIDTH // HEADS) ** -0.5

PHRASES = ((5,), (6, 8))
"""Token positions of two class phrases."""

COSINES = {"narrow": 8, "true": 28}
"""Side of the grid of made-up cosines of CLIP."""

PIXELS = {"narrow": 48, "true": 320}
"""Side of the masks; 320 is the report's."""


def projections(size: str, layer: int, kind: str) -> tuple[Tensor, Tensor]:
    """Queries (1, s * s, WIDTH) and keys of one self-attention ("attn1") or cross-attention ("attn2") layer."""
    tokens = LAYERS[size][layer] ** 2
    keys = tokens if kind == "attn1" else TOKENS
    return (
        torch.from_numpy(noise(f"{size}/{layer}/{kind}/queries", (1, tokens, WIDTH))),
        torch.from_numpy(noise(f"{size}/{layer}/{kind}/keys", (1, keys, WIDTH))),
    )


def probabilities(size: str, layer: int, kind: str) -> Tensor:
    """The layer's attention of every head, float32 (1, HEADS, s * s, T)."""
    q, k = (x.unflatten(-1, (HEADS, -1)).transpose(1, 2) for x in projections(size, layer, kind))
    return torch.softmax(q @ k.transpose(-1, -2) * SCALE, dim=-1)


def picture_attention(size: str) -> Tensor:
    """Tokens of a made-up picture that attend to what is near and of like colour, float32 (g * g, g * g)."""
    side = LAYERS[size][0]
    colours = F.interpolate(as_tensor(picture("attention", 96, 96)), (side, side), mode="area")[0].flatten(1).T
    places = torch.cartesian_prod(torch.arange(side), torch.arange(side)).float() / side
    features = torch.cat([(colours - colours.mean(0)) / colours.std(0) * 1.5, places * 4], dim=1)
    far = torch.cdist(features, features, compute_mode="donot_use_mm_for_euclid_dist").square()
    uneven = torch.from_numpy(noise(f"{size}/uneven", (side**2,)))  # so that the matrix is not symmetric
    near = torch.softmax(-0.4 * far * (1 + 0.2 * uneven.abs())[:, None] + 0.3 * uneven, dim=1)
    return 0.999 * near + 0.001 / len(near)


def cosines(size: str, classes: int = 20) -> Tensor:
    """Smooth made-up cosines of class names, float32 (classes, h, h)."""
    coarse = torch.from_numpy(noise(f"{size}/cosines", (1, classes, 4, 4))) * 0.09 + 0.2
    return F.interpolate(coarse, (COSINES[size],) * 2, mode="bilinear", align_corners=False)[0]


# --------------------------------------------------------------------------- DiffSegmenter

SEGMENTER_CLASSES = ("cat", "dog")
SEGMENTER_PICTURE = (75, 100)


def segmenter_cross(name: str, layer: int) -> Tensor:
    """The layer's cross-attention in the pass of one class, float32 (HEADS, s * s, TOKENS)."""
    side = LAYERS["true"][layer]
    coarse = torch.from_numpy(noise(f"{name}/{layer}", (HEADS, TOKENS, 6, 6)))
    smooth = F.interpolate(coarse, (side, side), mode="bilinear", align_corners=False)
    return torch.softmax(3 * smooth.flatten(2).transpose(1, 2), dim=-1)
