"""What a method on a diffusion model's attention is run with when nobody says otherwise."""

from __future__ import annotations

from dataclasses import dataclass

from ovseg_cli.backbones.unet import Noising
from ovseg_cli.profiles.geometry import Resampling
from ovseg_cli.profiles.specs import VAE_MEAN, VAE_STD, GeneratorSpec


@dataclass(frozen=True, slots=True, kw_only=True)
class DiffusionDefaults:
    """Settings of the pass through the UNet that a method reads.

    Attributes:
        timestep: Diffusion timestep of the noise that is added.
        padded: Whether the prompt is filled up to the text encoder's length (`DiffusionBackbone.prompt_attention`).
        emphasis: How far the phrases' tokens are moved away from an empty prompt's.
        finest_self_attention: Whether only the self-attention of the finest grid counts.
        noise_seed: Seed of the noise; None for the profile's, where the published code draws without one.
        resample: How the picture, as it came, is squashed to the square that the network reads.
        mean: Per-channel mean of the autoencoder's input (RGB in [0, 1]).
        std: Per-channel standard deviation.
    """

    timestep: int = 100
    padded: bool = True
    emphasis: float = 1.0
    finest_self_attention: bool = False
    noise_seed: int | None = None
    resample: Resampling = "bicubic"
    mean: tuple[float, float, float] = VAE_MEAN
    std: tuple[float, float, float] = VAE_STD

    def noising(self, generator: GeneratorSpec, size: int) -> Noising:
        """How pictures of a size are noised for the method, on a profile's diffusion model."""
        seed = generator.seed if self.noise_seed is None else self.noise_seed
        return Noising(self.timestep, seed, size, self.mean, self.std)
