"""langseg's set (Le, EPFL 2023), by its published code: MetaCLIP ViT-B/16 and Stable Diffusion 1.5.

What its methods are run with is `ovseg_cli.methods.published.LANGSEG` and `AGGSD`, and in `ovseg_cli.methods.agg`: t =
100 or 101, every self-attention layer, ImageNet's normalisation before the autoencoder. It draws no pictures: how
`ovseg add-class` does it is OVDiff's (`sd15`).
"""

from __future__ import annotations

from dataclasses import replace

from ovseg_cli.profiles.hub import METACLIP_B16
from ovseg_cli.profiles.sd15 import SD15
from ovseg_cli.profiles.specs import Profile

_SD, _CLIP, _DINO = SD15.extractors
_TOKENS, _DINOV2, _ = SD15.extra_extractors

LANGSEG: Profile = replace(
    SD15,
    name="langseg",
    summary="langseg's set: MetaCLIP ViT-B/16 and Stable Diffusion 1.5.",
    table="Le, EPFL 2023: AggGEM, DiffSegClust, SpecClust, AggSD",
    clip=replace(SD15.clip, weights=METACLIP_B16, best="agggem"),
    extractors=(_SD, replace(_CLIP, weights=METACLIP_B16)),
    extra_extractors=(_DINO, replace(_TOKENS, weights=METACLIP_B16), _DINOV2),
)
