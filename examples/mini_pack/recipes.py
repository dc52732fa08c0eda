"""One recipe per kind of hardware."""

from __future__ import annotations

from typing import Final

from examples.mini_pack.config import AutoencoderConfig, ClipConfig, DiffusionConfig, Recipe
from examples.mini_pack.selfsup import SelfSupConfig
from examples.mini_pack.training import Schedule

_CPU: Final = Recipe(
    device="cpu",
    threads=1,
    compiled=True,
    lanes=(("diffusion",), ("clip", "autoencoder", "selfsup")),
    scenes=100_000,
    autoencoder=Schedule(steps=1500, batch=12, lr=6e-4, decay=1.0, ema=0.995),
    diffusion=Schedule(steps=12_000, batch=32, lr=6e-4),
    clip=Schedule(steps=3000, batch=128, lr=6e-4, decay=0.8, weight_decay=0.1, betas=(0.9, 0.98), ema=0.998),
    selfsup=Schedule(steps=700, batch=64, lr=1e-3, warmup=100, decay=0.7, weight_decay=0.04, ema=0),
)
"""Two cores, about an hour and a half when started from a trained pack, three from scratch."""

_GPU: Final = Recipe(
    device="cuda",
    threads=0,
    compiled=True,
    lanes=(("autoencoder", "clip", "selfsup", "diffusion"),),
    scenes=600_000,
    autoencoder=Schedule(steps=8000, batch=128, lr=6e-4, decay=1.0, ema=0.995),
    diffusion=Schedule(steps=16_000, batch=256, lr=6e-4, warmup=1000, ema=0.9995),
    clip=Schedule(steps=8000, batch=512, lr=6e-4, warmup=500, decay=0.8, weight_decay=0.1, betas=(0.9, 0.98)),
    selfsup=Schedule(steps=8000, batch=256, lr=1e-3, warmup=500, decay=0.7, weight_decay=0.04, ema=0),
    diffusion_model=DiffusionConfig(unet_widths=(96, 160, 224)),
)
"""One large GPU."""

_SMOKE: Final = Recipe(
    device="cpu",
    threads=1,
    compiled=False,
    lanes=(("diffusion",), ("clip", "autoencoder", "selfsup")),
    scenes=40,
    autoencoder=Schedule(steps=3, batch=2, lr=6e-4),
    diffusion=Schedule(steps=3, batch=4, lr=6e-4),
    clip=Schedule(steps=3, batch=8, lr=6e-4),
    selfsup=Schedule(steps=3, batch=4, lr=1e-3, ema=0),
    image_size=32,
    autoencoder_model=AutoencoderConfig(widths=(16, 48, 96)),
    diffusion_model=DiffusionConfig(unet_widths=(32, 32, 64), text_width=32, text_layers=1),
    clip_model=ClipConfig(embedding=16, width=32, layers=2, text_width=32, text_layers=1),
    selfsup_model=SelfSupConfig(width=64, layers=2, size=32, local_size=16, class_prototypes=8, patch_prototypes=16),
)
"""A few seconds and useless models: shows that everything runs."""

RECIPES: Final = {"cpu": _CPU, "gpu": _GPU, "smoke": _SMOKE}
