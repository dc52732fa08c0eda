"""One recipe per kind of hardware."""

from __future__ import annotations

from typing import Final

from examples.mini_pack.config import AutoencoderConfig, ClipConfig, DiffusionConfig, Recipe
from examples.mini_pack.glyphs import Jitter, Warp
from examples.mini_pack.judge import JudgeSpec
from examples.mini_pack.selfsup import SelfSupConfig
from examples.mini_pack.training import Schedule

_CPU: Final = Recipe(
    device="cpu",
    threads=1,
    compiled=True,
    lanes=(("diffusion",), ("clip", "autoencoder", "selfsup", "pictures")),
    scenes=100_000,
    autoencoder=Schedule(steps=1500, batch=12, lr=6e-4, decay=1.0, ema=0.995),
    diffusion=Schedule(steps=12_000, batch=32, lr=6e-4),
    clip=Schedule(steps=3000, batch=128, lr=6e-4, decay=0.8, weight_decay=0.1, betas=(0.9, 0.98), ema=0.998),
    selfsup=Schedule(steps=700, batch=64, lr=1e-3, warmup=100, decay=0.7, weight_decay=0.04, ema=0),
)
"""Two cores, about an hour and a half when started from a trained pack, three from scratch."""

_SHAPES: Final = Jitter(hue=0.1, gain=0.12, warp=Warp(), inked=0.3)
"""Two artists' glyphs in other proportions, three in ten with dark lines: what artists change and shapes survive."""

_GPU: Final = Recipe(
    device="cuda",
    threads=1,
    compiled=False,  # a minute of compiling is a tenth of the time, and several would do it at once
    lanes=(("clip",), ("selfsup",), ("diffusion",), ("autoencoder", "judge"), ("pictures",)),
    minutes=12.0,
    shares={"autoencoder": 0.6, "judge": 0.4},
    scenes=200_000,
    large_scenes=40_000,
    smallest=0.4,
    styles=("noto", "twemoji"),
    jitter=_SHAPES,
    # by the clock: the steps are far more than any card does in an hour
    autoencoder=Schedule(steps=200_000, batch=256, lr=6e-4, warmup=300, decay=0.9, ema=0.999, workers=1),
    diffusion=Schedule(steps=200_000, batch=256, lr=6e-4, warmup=500, decay=0.7, ema=0.9995, workers=4),
    clip=Schedule(
        steps=200_000,
        batch=512,
        lr=5e-4,
        warmup=500,
        decay=0.8,
        weight_decay=0.1,
        betas=(0.9, 0.98),
        ema=0.9995,
        workers=5,
    ),
    selfsup=Schedule(steps=200_000, batch=384, lr=1e-3, warmup=300, decay=0.7, weight_decay=0.04, ema=0, workers=1),
    judge=Schedule(
        steps=200_000,
        batch=192,
        lr=3e-3,
        warmup=200,
        decay=0.9,
        weight_decay=0.05,
        betas=(0.9, 0.999),
        ema=0,
        seed=77,
        workers=2,
    ),
    clip_model=ClipConfig(recoloured=0.4),
    judge_scenes=(30_000, 2_000),
    # as many clusters as half a batch has global crops; hues turn by up to 40 degrees
    selfsup_model=SelfSupConfig(class_prototypes=128, hue=0.7, grey=0.1),
)
"""One large GPU and sixteen cores, by the clock. Rates, warm-up, shares and batches of CLIP and the vision transformer
are those of two trainings of 380 seconds on one H200."""

_SMOKE: Final = Recipe(
    device="cpu",
    threads=1,
    compiled=False,
    lanes=(("diffusion",), ("clip", "autoencoder"), ("selfsup", "judge"), ("pictures",)),
    shares={"clip": 2},
    scenes=40,
    large_scenes=8,
    smallest=0.5,
    styles=("noto", "twemoji"),
    jitter=_SHAPES,
    autoencoder=Schedule(steps=3, batch=2, lr=6e-4, workers=1),
    diffusion=Schedule(steps=3, batch=4, lr=6e-4, workers=1),
    clip=Schedule(steps=3, batch=8, lr=6e-4, workers=2),
    selfsup=Schedule(steps=3, batch=4, lr=1e-3, ema=0, workers=1),
    judge=Schedule(steps=3, batch=4, lr=1e-3, ema=0, workers=1),
    domain_scenes=8,
    domain_crops=1,
    autoencoder_model=AutoencoderConfig(widths=(16, 48, 96)),
    diffusion_model=DiffusionConfig(unet_widths=(32, 32, 64), text_width=32, text_layers=1),
    clip_model=ClipConfig(embedding=16, width=32, layers=3, patch=16, text_width=32, text_layers=1, recoloured=0.5),
    selfsup_model=SelfSupConfig(
        width=64, layers=2, size=32, local_size=16, class_prototypes=8, patch_prototypes=16, hue=0.7, grey=0.1
    ),
    judge_model=JudgeSpec(channels=(8, 8, 16, 16), stem_width=8),
    judge_scenes=(20, 8),
)
"""Half a minute and useless models: shows that everything runs."""

RECIPES: Final = {"cpu": _CPU, "gpu": _GPU, "smoke": _SMOKE}
