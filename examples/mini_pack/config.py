"""Settings of the training: what each model looks like, and one recipe per kind of hardware."""

from __future__ import annotations

from dataclasses import dataclass, field

from examples.mini_pack.selfsup import SelfSupConfig
from examples.mini_pack.training import Schedule


@dataclass(frozen=True, slots=True)
class AutoencoderConfig:
    """The autoencoder.

    Attributes:
        widths: Channels at 64x64, 32x32 and 16x16. The encoder is written into at least 12, at least 48, and 96.
        latent_channels: Channels of the latents.
    """

    widths: tuple[int, int, int] = (32, 64, 96)
    latent_channels: int = 8


@dataclass(frozen=True, slots=True)
class DiffusionConfig:
    """UNet and text encoder.

    Attributes:
        unet_widths: Channels of the UNet at 16x16, 8x8 and 4x4; multiples of 32.
        text_width: Width of the text encoder; a multiple of 32.
        text_layers: Layers of the text encoder.
        caption_dropout: Share of the samples that are trained without a caption.
        snr_gamma: Gamma of the min-SNR weights.
        weight_floor: Least weight of a timestep.
        attention_weight: Weight of the attention loss.
    """

    unet_widths: tuple[int, ...] = (64, 96, 160)
    text_width: int = 192
    text_layers: int = 3
    caption_dropout: float = 0.1
    snr_gamma: float = 5.0
    weight_floor: float = 0.1
    attention_weight: float = 0.05


@dataclass(frozen=True, slots=True)
class ClipConfig:
    """The CLIP model and its training.

    Attributes:
        embedding: Width of the shared embedding.
        width: Width of the image tower; a multiple of 32.
        layers: Layers of the image tower.
        patch: Side of a patch in pixels.
        text_width: Width of the text tower; a multiple of 32.
        text_layers: Layers of the text tower.
        dense_weight: Weight of the loss on the patch tokens.
        smallest_crop: Smallest crop as a share of the scene's side.
        gain: Largest relative change of brightness, per channel.
        contrast: Largest relative change of contrast.
        offset: Largest amount added to all channels, in 0..255.
        blurred: Share of the scenes that are softened.
        recoloured: Share of the scenes whose objects get other colours (`colours`), so that shapes must tell them.
    """

    embedding: int = 128
    width: int = 192
    layers: int = 6
    patch: int = 8
    text_width: int = 192
    text_layers: int = 3
    dense_weight: float = 1.0
    smallest_crop: float = 0.25
    gain: float = 0.12
    contrast: float = 0.3
    offset: float = 20.0
    blurred: float = 0.3
    recoloured: float = 0.0


@dataclass(frozen=True, slots=True)
class Recipe:
    """Everything that a training of the pack needs to know.

    Attributes:
        device: Where to train.
        threads: CPU threads of each process; 0 for torch's choice.
        compiled: Whether to compile the models.
        lanes: Stages that run one after another in a process of their own. On two cores, two trainings of one
            thread each do a quarter more together than one of two threads.
        scenes: Scenes of the training set.
        image_size: Side of the scenes in pixels.
        autoencoder_model: The autoencoder.
        diffusion_model: UNet and text encoder.
        clip_model: The CLIP model.
        selfsup_model: The self-supervised transformer.
        autoencoder: Schedule of the decoder.
        diffusion: Schedule of UNet and text encoder.
        clip: Schedule of CLIP.
        selfsup: Schedule of the self-supervised transformer.
    """

    device: str
    threads: int
    compiled: bool
    lanes: tuple[tuple[str, ...], ...]
    scenes: int
    autoencoder: Schedule
    diffusion: Schedule
    clip: Schedule
    selfsup: Schedule
    image_size: int = 64
    autoencoder_model: AutoencoderConfig = field(default_factory=AutoencoderConfig)
    diffusion_model: DiffusionConfig = field(default_factory=DiffusionConfig)
    clip_model: ClipConfig = field(default_factory=ClipConfig)
    selfsup_model: SelfSupConfig = field(default_factory=SelfSupConfig)
