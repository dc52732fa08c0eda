"""CLIPer's sets (Sun et al., ICCV 2025), by its published code (c05fa41).

They are CLIP ViT-B/16 or ViT-L/14, and Stable Diffusion 2.1-base, which predicts the noise, at 512 pixels. The settings
of its data sets are the methods' (`ovseg_cli.methods.published.CLIPER`, `CLIPER_LARGE`); the layers that sharpen its
maps, `GeneratorSpec.refine_layers`, are the code's ``[-4, -6]``. CLIPer draws no pictures: how `ovseg add-class` does
it, and which features it takes, is OVDiff's (`sd15`).
"""

from __future__ import annotations

from dataclasses import replace

from ovseg_cli.profiles.hub import CLIP_L14, SD_21_BASE
from ovseg_cli.profiles.sd15 import SD15
from ovseg_cli.profiles.specs import Profile

_SD, _CLIP, _DINO = SD15.extractors
_TOKENS, _DINOV2, _ = SD15.extra_extractors
_SD_21 = replace(_SD, weights=SD_21_BASE)

CLIPER_B = replace(
    SD15,
    name="cliper-b",
    summary="CLIPer's smaller set: CLIP ViT-B/16 and Stable Diffusion 2.1-base.",
    table="CLIPer, ViT-B/16: 66.4 VOC, 37.5 Context, 39.2 COCO-Object (its README)",
    generator=replace(SD15.generator, weights=SD_21_BASE),
    clip=replace(SD15.clip, best="cliper"),
    extractors=(_SD_21, _CLIP),
    extra_extractors=(_DINO, _TOKENS, _DINOV2),
)

_CLIP_L = replace(_CLIP, weights=CLIP_L14, dim=1024, grid=32)

CLIPER_L: Profile = replace(
    CLIPER_B,
    name="cliper-l",
    summary="CLIPer's larger set: CLIP ViT-L/14 and Stable Diffusion 2.1-base.",
    table="CLIPer, ViT-L/14: 71.6 VOC, 39.0 Context, 44.4 COCO-Object (its README)",
    # The code loads ViT-L-14.pt, OpenAI's for 224 pixels, and resizes its position embeddings to the 24 patches of 336.
    clip=replace(CLIPER_B.clip, weights=CLIP_L14, large=True),
    extractors=(_SD_21, _CLIP_L),
    extra_extractors=(_DINO, replace(_TOKENS, weights=CLIP_L14, dim=1024, grid=32), _DINOV2),
)
