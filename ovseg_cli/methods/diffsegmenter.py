"""DiffSegmenter: a diffusion model's cross-attention, completed by its self-attention.

Wang et al., "Diffusion Model is Secretly a Training-free Open Vocabulary Semantic Segmenter", arXiv 2309.02773. This
follows the code, VCG-team/DiffSegmenter, which made the numbers, but for the prompt: there, BLIP goes on writing after
"a photograph of cat"; here the prompt ends. The choice of the picture's classes, there by BLIP and CLIP, is left to the
class pre-filter.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from types import MappingProxyType

import torch
from torch import Tensor
from torch.nn import functional as F

from ovseg_cli.backbones.diffusion import PhrasedPrompt
from ovseg_cli.methods.agg import WHOLE, min_max, stretch
from ovseg_cli.methods.diffusion_defaults import DiffusionDefaults
from ovseg_cli.profiles.specs import DenseDefaults

ROWS: Mapping[str, DenseDefaults] = MappingProxyType(
    dict.fromkeys(("voc21", "context60", "coco-object"), replace(WHOLE, resample="bilinear-float"))
)

DIFFUSION = DiffusionDefaults(emphasis=1.1**2, finest_self_attention=True)
"""The settings of `open_vocabulary/*/ptp_stable_*.py`: Stable Diffusion 1.5, t = 100, one pass for each class.

The class is written with "++" there, which compel reads as a weight of 1.1 squared.
"""

GRID_WEIGHTS = {8: 0.3, 4: 0.5, 2: 0.1, 1: 0.1}
"""Weight of a grid, by how many times coarser than the finest it is: 8, 16, 32 and 64 of 64 in the code."""

BACKGROUND = 0.5
"""Score of the background. The code tries 0.30 to 0.74 on the evaluated images and reports the best; this is midway."""


def name_class(name: str) -> PhrasedPrompt:
    """The prompt of one class."""
    text = "a photograph of "
    return PhrasedPrompt(text + name, ((len(text), len(text) + len(name)),))


def class_map(cross: Mapping[int, Tensor], attention: Tensor) -> Tensor:
    """The map of one class in one picture, from `DiffusionBackbone.prompt_attention` with `name_class`.

    Each grid's map is enlarged bilinearly and brought to [0, 1]; their weighted sum (`GRID_WEIGHTS`) is multiplied by
    the self-attention, once, from the left: a token gets the mean of the tokens that it attends to.

    Args:
        cross: By the side s of a grid, float (s, s): the phrase's map. Grids without a weight are left out.
        attention: float (g * g, g * g), the mean self-attention of the finest grid in the same pass.

    Returns:
        float32 (g, g), not normalised.
    """
    finest = max(cross)
    total = torch.zeros_like(cross[finest], dtype=torch.float32)
    for side, one in cross.items():
        wide = F.interpolate(one[None, None].float(), (finest, finest), mode="bilinear", align_corners=False)[0]
        total += min_max(wide)[0] * GRID_WEIGHTS.get(finest // side, 0.0)
    return (attention.float() @ total.flatten()).view(finest, finest)


def diffsegmenter_scores(maps: Tensor, extremes: tuple[Tensor, Tensor], *, background: float = BACKGROUND) -> Tensor:
    """Scores of the classes and the background.

    Each class is brought to [0, 1] by itself, so every class that is asked for is found somewhere: ask only for those
    that are in the picture.

    Args:
        maps: float (C, h, w) from `class_map`, enlarged bilinearly to the picture: all of it or some rows.
        extremes: The least and the largest value of each map over the whole picture, each (C,).
        background: The background's score.

    Returns:
        (C + 1, h, w) in [0, 1], channel 0 the background's.
    """
    scores = stretch(maps, *(each.view(-1, 1, 1) for each in extremes))
    return torch.cat([torch.full_like(scores[:1], background), scores])
