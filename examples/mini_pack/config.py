"""Settings of the training: what each model looks like, and one recipe per kind of hardware."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from examples.mini_pack.dataset import DatasetSpec
from examples.mini_pack.glyphs import Jitter, Mixed
from examples.mini_pack.judge import HELD_OUT_SCENES, TRAINING_SCENES, JudgeSpec
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
            thread each do a quarter more together than one of two threads. On a GPU, kernels of so small models fill a
            fraction of it: several trainings side by side take what one alone leaves.
        scenes: Scenes of the training set.
        autoencoder: Schedule of the decoder.
        diffusion: Schedule of UNet and text encoder.
        clip: Schedule of CLIP.
        selfsup: Schedule of the self-supervised transformer.
        judge: Schedule of the judge; None trains none.
        minutes: Minutes of a schedule by the clock, where none are asked for; None trains all steps.
        shares: Of the time of their lane, how much each stage gets with a schedule by the clock; 1 where not named.
        image_size: Side of the scenes in pixels.
        large_scenes: Scenes of twice that side, which UNet and decoder see as well; 0 for none.
        smallest: Objects in large scenes are made smaller by a factor down to this, each by its own.
        styles: Whose glyphs; see `DatasetSpec`.
        mixed: How several artists' glyphs are mixed; see `DatasetSpec`.
        jitter: How strongly sprites vary.
        domain_scenes: Scenes of each kind that the domain classifier is fitted to; at least 8.
        domain_crops: Parts of each photograph that it is fitted to.
        autoencoder_model: The autoencoder.
        diffusion_model: UNet and text encoder.
        clip_model: The CLIP model.
        selfsup_model: The self-supervised transformer.
        judge_model: The judge.
        judge_scenes: Scenes that the judge is trained on, and scenes that it is measured on.
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
    judge: Schedule | None = None
    minutes: float | None = None
    shares: Mapping[str, float] = field(default_factory=dict)
    image_size: int = 64
    large_scenes: int = 0
    smallest: float = 1.0
    styles: tuple[str, ...] = ("noto",)
    mixed: Mixed = "glyph"
    jitter: Jitter = field(default_factory=Jitter)
    domain_scenes: int = 400
    domain_crops: int = 16
    autoencoder_model: AutoencoderConfig = field(default_factory=AutoencoderConfig)
    diffusion_model: DiffusionConfig = field(default_factory=DiffusionConfig)
    clip_model: ClipConfig = field(default_factory=ClipConfig)
    selfsup_model: SelfSupConfig = field(default_factory=SelfSupConfig)
    judge_model: JudgeSpec = field(default_factory=JudgeSpec)
    judge_scenes: tuple[int, int] = (TRAINING_SCENES.scenes, HELD_OUT_SCENES.scenes)

    def sets(self) -> dict[str, DatasetSpec]:
        """The data sets that are rendered before the trainings begin, by the name of their folder."""
        look: dict[str, Any] = {"styles": self.styles, "mixed": self.mixed, "jitter": self.jitter}
        found = {"scenes": DatasetSpec(scenes=self.scenes, size=self.image_size, **look)}
        if self.large_scenes:
            # the seeds, and so the scenes, are others than those of the first set
            found["scenes-large"] = DatasetSpec(
                scenes=self.large_scenes,
                first_seed=20_000_000,
                size=2 * self.image_size,
                smallest=self.smallest,
                **look,
            )
        if self.judge is not None:
            for name, spec, scenes in zip(
                ("scenes-judge", "scenes-held-out"),
                (TRAINING_SCENES, HELD_OUT_SCENES),
                self.judge_scenes,
                strict=True,
            ):
                found[name] = replace(spec, scenes=scenes, size=self.image_size, **look)
        return found
