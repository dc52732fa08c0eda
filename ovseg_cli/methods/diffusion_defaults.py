"""What a method on a diffusion model's attention is run with when nobody says otherwise."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class DiffusionDefaults:
    """Settings of the pass through the UNet that a method reads.

    Attributes:
        timestep: Diffusion timestep of the noise that is added.
        padded: Whether the prompt is filled up to the text encoder's length (`DiffusionBackbone.prompt_attention`).
        emphasis: How far the phrases' tokens are moved away from an empty prompt's.
        finest_self_attention: Whether only the self-attention of the finest grid counts.
    """

    timestep: int = 100
    padded: bool = True
    emphasis: float = 1.0
    finest_self_attention: bool = False
