"""AggGEM and AggSD: class maps spread by a diffusion model's self-attention.

Le, "Language-based segmentation" (EPFL, IVRL, 2023), method 2 and equation 2: AGG = SA^T CA. This follows the code,
sonalexle/langseg, which made the numbers. Class maps are GEM's probabilities in AggGEM, and the diffusion
model's own cross-attention in AggSD.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

import torch
from torch import Tensor
from torch.nn import functional as F

from ovseg_cli.backbones.phrases import PhrasedPrompt
from ovseg_cli.devices import constant, portion
from ovseg_cli.methods.diffusion_defaults import DiffusionDefaults
from ovseg_cli.profiles.specs import IMAGENET_MEAN, IMAGENET_STD

AGGGEM_DIFFUSION = DiffusionDefaults(padded=False, noise_seed=0, mean=IMAGENET_MEAN, std=IMAGENET_STD)
"""Stable Diffusion 1.5, an empty prompt of two tokens, t = 100, every self-attention layer of at most 64 x 64 tokens.

The code gives the autoencoder pictures in ImageNet's normalisation (about -2.1 to 2.6) where it was trained on [-1, 1];
its numbers were made so.
"""

AGGSD_DIFFUSION = replace(AGGGEM_DIFFUSION, timestep=101)
"""The settings of `notebooks/diffusion/*.ipynb`: the default of `training_step` is 101 where the report says 100."""

BACKGROUND_OFFSET = 0.8
"""What `doubt_background` subtracts on VOC (`exp_utils.get_voc2012_probs`; report, section 4.1)."""

ROWS_AT_ONCE = 512
"""Rows of the self-attention that are raised to a power together, on a CPU."""


def doubt_background(scores: Tensor, *, offset: float = BACKGROUND_OFFSET) -> Tensor:
    """Make the background as probable as no class is: relu(1 - max of the classes - offset).

    Args:
        scores: float (C + 1, ...) in [0, 1], channel 0 the background's, as `words.word_scores` gives them.
        offset: Subtracted from the doubt. With 0.8 the background wins where every class has less than 0.1.

    Returns:
        As `scores`; channel 0 is the larger of the background words' and this.
    """
    doubt = (1 - scores[1:].amax(dim=0, keepdim=True) - offset).clamp_min(0)
    return torch.cat([torch.maximum(scores[:1], doubt), scores[1:]])


def aggregate(maps: Tensor, attention: Tensor, *, exponent: float = 1.0, steps: int = 1, share: bool = False) -> Tensor:
    """Class maps after a random walk over the tokens (`diffusion_seg.get_agg_map`).

    The transition matrix is the transposed self-attention, each entry to the power of `exponent`, with rows made to sum
    to 1 (the report's equation leaves the sums out). It is applied to the maps once for each step,
    instead of being raised to the power of `steps`, and never made as a whole.

    Args:
        maps: float (K, g, g), not negative, on the grid of the self-attention.
        attention: float (g * g, g * g), rows summing to 1.
        exponent: Power of each entry ("beta").
        steps: Length of the walk.
        share: Each map is first divided by its sum, as AggSD does, so that no class is large everywhere.

    Returns:
        float32 (K, g, g). A map of ones stays one.
    """
    flat = maps.flatten(1).T.float()
    if share:
        flat = flat / (flat.sum(dim=0) + 1e-10)
    for _ in range(steps):
        spread = torch.zeros_like(flat)
        mass = flat.new_zeros(len(flat))
        count = len(attention)
        step = max(1, portion(attention.device, ROWS_AT_ONCE * count) // count)
        for start in range(0, count, step):
            rows = attention[start : start + step].float()
            if exponent != 1:
                rows = rows**exponent
            spread += rows.T @ flat[start : start + step]
            mass += rows.sum(dim=0)
        flat = spread / mass.clamp_min(1e-30)[:, None]
    return flat.T.reshape(maps.shape)


def min_max(maps: Tensor) -> Tensor:
    """Each of the maps (K, h, w) brought to [0, 1]; a flat one becomes 0."""
    return stretch(maps, maps.amin(dim=(1, 2), keepdim=True), maps.amax(dim=(1, 2), keepdim=True))


def stretch(maps: Tensor, low: Tensor, high: Tensor) -> Tensor:
    """Maps (K, h, w) from [low, high], each (K, 1, 1), to [0, 1]; a flat one becomes 0."""
    # Rounding alone may part the values of a flat map; what is between them says nothing.
    flat = high - low <= 1e-6 * torch.maximum(low.abs(), high.abs())
    return torch.where(flat, 0.0, (maps - low) / (high - low).clamp_min(1e-30))


# --------------------------------------------------------------------------- AggSD


def list_classes(names: Sequence[str]) -> PhrasedPrompt:
    """The prompt of AggSD (`text_embeddings.get_txt_embeddings`): "A photo of cat, dog, and sofa".

    Args:
        names: The classes of the picture, one at least.
    """
    text, spans = "A photo of ", []
    for number, name in enumerate(names):
        if number:
            text += ", and " if number == len(names) - 1 else ", "
        spans.append((len(text), len(text) + len(name)))
        text += name
    return PhrasedPrompt(text, tuple(spans))


def fuse_cross_attention(cross: Mapping[int, Tensor], layers: Mapping[int, int]) -> Tensor:
    """Cross-attention of all grids on the finest, coarse layers weighing more (`diffusion.average_attention_layers`).

    Enlarged bicubically, with antialiasing's kernel. The weight of a layer is proportional to 1 / the side of its grid.

    Args:
        cross: By the side s of a grid, float (K, s, s): the mean over its layers.
        layers: By the side of a grid, its number of layers.

    Returns:
        float32 (K, g, g) on the finest grid.
    """
    finest, total = max(cross), sum(count / side for side, count in layers.items())
    fused = torch.zeros_like(cross[finest], dtype=torch.float32)
    for side, maps in cross.items():
        wide = F.interpolate(maps[None].float(), (finest, finest), mode="bicubic", antialias=True, align_corners=False)
        fused += wide[0] * (layers[side] / side / total)
    return fused


def leave_rest(cross: Mapping[int, Tensor], tokens: Sequence[int]) -> dict[int, Tensor]:
    """Attention with what the classes leave in the start token's place, for models whose start token draws none.

    Not in the published code: Stable Diffusion's start token draws most of what no word does.

    Args:
        cross: As `aggsd_maps` takes it, of a prompt with its padding; each class's map is the mean of its tokens.
        tokens: How many tokens each of the C classes has.
    """
    rest = {}
    for side, maps in cross.items():
        drawn = constant(tuple(tokens), maps.device, torch.int64).view(-1, 1, 1) * maps[1:]
        rest[side] = torch.cat([1 - drawn.sum(dim=0, keepdim=True), maps[1:]])
    return rest


def aggsd_maps(
    cross: Mapping[int, Tensor], layers: Mapping[int, int], attention: Tensor, *, background: bool = True
) -> Tensor:
    """Class maps of AggSD for one picture, from `DiffusionBackbone.prompt_attention` with `list_classes`.

    The start token's attention serves as the background's (section 4.1).

    Args:
        cross: By the side s of a grid, float (1 + C, s, s), the start token's map first.
        layers: By the side of a grid, its number of layers.
        attention: float (g * g, g * g), the self-attention of the same pass.
        background: Whether there is a background class. If so, `aggsd_scores` scales each map by itself, and it is
            left as it is here, so that maps of crops may be averaged.

    Returns:
        float32 (C + 1, g, g), channel 0 the background's.
    """
    return aggregate(fuse_cross_attention(cross, layers), attention, share=not background)


def aggsd_scores(maps: Tensor, *, background: bool = True) -> Tensor:
    """Scores of the classes and the background of AggSD, from the maps of a whole picture.

    With a background, as on VOC, each map is brought to [0, 1]; without, as on the other data sets, maps are compared
    as they are.

    Args:
        maps: float (C + 1, h, w), from `aggsd_maps`.
        background: Whether there is a background class.

    Returns:
        float (C + 1, h, w), channel 0 the background's, 0 without one.
    """
    if background:
        return min_max(maps)
    return torch.cat([torch.zeros_like(maps[:1]), maps[1:]])
