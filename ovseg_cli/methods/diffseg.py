"""DiffSeg: a picture's regions by what a diffusion model attends to, without any words.

Tian et al., "Diffuse, Attend, and Segment" (CVPR 2024). This follows the code, google/diffseg be1d88c, `segmentor.py`,
as its benchmark runs it: without prompt, at t = 300, three rounds of merging in all, and no k-means afterwards. Its
regions have no names. They are scored by matching them with the truth of each picture (`ovseg_cli.evaluation.oracles`),
so its figures are those of an oracle, and stand apart from those of methods that find names.
"""

from __future__ import annotations

import math

from torch import Tensor

from ovseg_cli.clustering.regions import merge_attention
from ovseg_cli.labeling.decide import count_labels
from ovseg_cli.methods.clusters import ANCHORS, ROUNDS
from ovseg_cli.methods.diffusion_defaults import DiffusionDefaults

DIFFUSION = DiffusionDefaults(timestep=300, resample="bilinear-float")
"""Stable Diffusion 1.4, an empty prompt, t = 300 (`benchmarks.ipynb`)."""


def region_maps(attention: Tensor, *, divergence: float, most: int) -> Tensor:
    """The attention of each region of one picture, after the rounds of merging (section 3.2).

    A pixel belongs to the region whose map, enlarged bilinearly, is the largest there.

    Args:
        attention: float32 (g * g, g * g), rows summing to 1.
        divergence: Attention whose symmetric Kullback-Leibler divergence is below this is of one region.
        most: How many regions there may be; of more, those are left that are the largest map at most tokens.

    Returns:
        float32 (R, g, g), in the order of the number of tokens where a map is the largest.
    """
    side = math.isqrt(len(attention))
    merged = merge_attention(attention, anchors=min(ANCHORS, side), divergence=divergence, rounds=ROUNDS, overlap=True)
    tokens = count_labels(merged.argmax(dim=0), len(merged))
    order = tokens.argsort(descending=True, stable=True)[:most]
    return merged[order].unflatten(1, (side, side))
