"""The best open models of 2026 that this code can take, all ungated, with licences that allow commercial use.

- CLIP: OpenCLIP ViT-H/14 on LAION-2B. ProxyCLIP is published with it, and with DINO ViT-B/8. SigLIP 2 has no class
  token and pools patches by another attention after the last block, so that none of the dense methods is defined for
  it; MetaCLIP 2 and Apple's DFN are for research only.
- Features: its keys, DINO's, and those of DINOv2 ViT-L/14 with registers. DINOv3's weights are gated, and C-RADIOv4's
  repository is run by code of its own, which is never done here.
- Diffusion: Stable Diffusion XL at 1024 pixels. Its successors have no UNet with cross-attention.

Of the diffusion model, nothing is published for these methods. Its numbers are those of `sd15` at the like places:
the two self-attention layers before the last on the finest grid, and the first, middle and last cross-attention layers.
"""

from __future__ import annotations

from dataclasses import replace

from ovseg_cli.profiles.hub import DINOV2_L14_REGISTERS, OPENCLIP_H14, SDXL, SDXL_QUERIES, SDXL_SELF_ATTENTION
from ovseg_cli.profiles.sd15 import SD15
from ovseg_cli.profiles.specs import Profile

_SD, _CLIP, _DINO = SD15.extractors
_TOKENS, _DINOV2, _ = SD15.extra_extractors

OPEN_2026: Profile = replace(
    SD15,
    name="open-2026",
    summary="Large open models: Stable Diffusion XL, OpenCLIP ViT-H/14, DINO, DINOv2 ViT-L/14.",
    table="ProxyCLIP, ViT-H/14: 65.0 VOC, 35.4 Context, 38.6 COCO-Object",
    generator=replace(
        SD15.generator,
        weights=SDXL,
        image_size=1024,
        guidance=5.0,
        batch_size=4,
        refine_layers=("up_blocks.1.attentions.1", "up_blocks.1.attentions.0"),
    ),
    regions=replace(SD15.regions, layers=SDXL_SELF_ATTENTION),
    clip=replace(SD15.clip, weights=OPENCLIP_H14, quick_gelu=False),
    extractors=(
        replace(_CLIP, weights=OPENCLIP_H14, dim=1280, grid=32),
        _DINO,
        replace(_DINOV2, weights=DINOV2_L14_REGISTERS, dim=1024),
    ),
    extra_extractors=(
        replace(_SD, weights=SDXL, layers=SDXL_QUERIES, input_size=1024),
        replace(_TOKENS, weights=OPENCLIP_H14, dim=1280, grid=32),
    ),
)
