"""For people in a hurry: SD-Turbo draws a picture in four steps, one walk through its network for each.

SD-Turbo (Sauer et al., "Adversarial Diffusion Distillation", ECCV 2024) is Stable Diffusion 2.1 distilled for 1 to 4
steps at 512 pixels, without guidance and so without a negative prompt; its model card has Euler's steps at the ends of
the intervals ("trailing"). Four, because the attribution maps are means over the steps: in the first one the network
sees noise alone. All else is OVDiff's (`sd15`), less the features of the diffusion model, which take most of the time.
"""

from __future__ import annotations

from dataclasses import replace

from ovseg_cli.profiles.hub import SD_TURBO
from ovseg_cli.profiles.sd15 import SD15
from ovseg_cli.profiles.specs import Profile

_SD, _CLIP, _DINO = SD15.extractors

TURBO: Profile = replace(
    SD15,
    name="turbo",
    summary="For people in a hurry: sd15 with SD-Turbo, which draws in 4 steps.",
    table="none; nobody has published figures with it",
    generator=replace(
        SD15.generator,
        weights=SD_TURBO,
        negative_prompt="",
        guidance=0.0,
        steps=4,
        sampler="euler",
        spacing="trailing",
    ),
    extractors=(_CLIP, _DINO),
    extra_extractors=(replace(_SD, weights=SD_TURBO), *SD15.extra_extractors),
)
