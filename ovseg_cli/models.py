"""A profile's models on a device, each loaded when it is first needed."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from types import MappingProxyType
from typing import TypeVar, cast

import torch
from torch import Tensor
from torch.nn import functional as F

from ovseg_cli.backbones.clip import ClipBackbone
from ovseg_cli.backbones.pixels import resize
from ovseg_cli.backbones.sam import SamBackbone
from ovseg_cli.backbones.unet import DiffusionBackbone, Noising
from ovseg_cli.backbones.vit import VitBackbone
from ovseg_cli.errors import UsageError, WeightsError
from ovseg_cli.methods.domain import Domain
from ovseg_cli.precision import Precision, choose_precision
from ovseg_cli.profiles import ExtractorSpec, Profile, Weights, require_weights
from ovseg_cli.profiles.layouts import Use, refuse_code
from ovseg_cli.profiles.specs import PositionMode, Sight
from ovseg_cli.stages import stage

Backbone = TypeVar("Backbone", ClipBackbone, DiffusionBackbone, SamBackbone, VitBackbone)

_USES: Mapping[type, Use] = MappingProxyType(
    {ClipBackbone: "clip", DiffusionBackbone: "diffusion", SamBackbone: "sam", VitBackbone: "vit"}
)

log = logging.getLogger("ovseg_cli")


class Models:
    """The models of one profile on one device. Loading is lazy: GEM alone never loads the diffusion model.

    In half precision, the networks that look at pictures hand rounded numbers from layer to layer. What is computed of
    their answers, and what would overflow or be rounded away, stays float32; so do CLIP's text tower, since a store
    keeps its answers for every device, and SAM.

    Args:
        profile: Which models.
        device: A torch device, already checked (see `load_models`).
        precision: What the networks compute in.

    Attributes:
        dtype: What `precision` comes to on the device.

    Raises:
        UsageError: There is no such precision.
    """

    def __init__(self, profile: Profile, device: str, *, precision: Precision = "auto") -> None:
        self.profile = profile
        self.device = device
        self.precision = precision
        self.dtype = choose_precision(precision, device)
        self._domain: Domain | None = None
        self._loaded: dict[tuple[type, Weights], ClipBackbone | DiffusionBackbone | SamBackbone | VitBackbone] = {}

    @property
    def computes_in(self) -> str:
        """What `precision` comes to on the device, for records: "float16" or "float32"."""
        return str(self.dtype).removeprefix("torch.")

    @property
    def generator(self) -> DiffusionBackbone:
        """The profile's text-to-image model."""
        return self._get(DiffusionBackbone, self.profile.generator.weights)

    @property
    def clip(self) -> ClipBackbone:
        """The profile's CLIP."""
        return self._get(ClipBackbone, self.profile.clip.weights)

    @property
    def domain(self) -> Domain | None:
        """What tells pictures that the models know from others; None for models that know photographs.

        Raises:
            WeightsError: See `Domain`.
        """
        spec = self.profile.domain
        if spec is not None and self._domain is None:
            folder = require_weights(spec.weights, self.profile)
            self._domain = Domain(self.clip, self.profile.clip, spec, folder)
        return self._domain

    def sam(self, weights: Weights) -> SamBackbone:
        """A SAM or SAM 2, which not every profile has (`RegionSpec.sam`)."""
        return self._get(SamBackbone, weights)

    def features(self, extractor: ExtractorSpec, images: Tensor) -> Tensor:
        """Dense features of pictures.

        Args:
            extractor: Which features.
            images: float (B, 3, H, W) in [0, 1], on any device.

        Returns:
            float32 (B, dim, grid, grid). Several layers are resized bilinearly to the finest grid among them
            and concatenated in the order of the specification.

        Raises:
            WeightsError: See `feature_maps`.
        """
        return concatenate_maps(self.feature_maps(extractor, images))

    def feature_maps(self, extractor: ExtractorSpec, images: Tensor, sight: Sight | None = None) -> list[Tensor]:
        """Dense features of pictures, layer by layer.

        Args:
            extractor: Which features.
            images: float (B, 3, H, W) in [0, 1], on any device.
            sight: How the network sees them; None for squashed bicubically, as support images are.

        Returns:
            Each layer of the specification in its order, on its native grid: float32 (B, C_l, g_l, g_l'), which is
            square where pictures are squashed.

        Raises:
            WeightsError: The model gives features of another length or on another grid than the profile says.
        """
        sight = sight or Sight()
        shown = sight.size(extractor, images.shape[2], images.shape[3])
        squashed = shown == (extractor.input_size, extractor.input_size)
        with stage(f"features: {extractor.name}"):
            maps = self._extract(extractor, resize(images.to(self.device), shown, sight.resample), sight.positions)
        dim, grid = sum(layer.shape[1] for layer in maps), max(layer.shape[-1] for layer in maps)
        if dim != extractor.dim or (squashed and grid != extractor.grid):
            raise WeightsError(
                f"The profile {self.profile.name!r} says that its extractor {extractor.name!r} gives features of "
                f"length {extractor.dim} on a grid of {extractor.grid} x {extractor.grid}, but "
                f"{extractor.weights.model_id} gives {dim} on {grid} x {grid}. Correct the profile, or take the "
                "weights that it was written for."
            )
        return maps

    def _extract(self, extractor: ExtractorSpec, images: Tensor, positions: PositionMode | None) -> list[Tensor]:
        if extractor.kind == "unet-query":
            noising = Noising(
                cast(int, extractor.timestep),
                cast(int, extractor.noise_seed),
                extractor.input_size,
                extractor.mean,
                extractor.std,
            )
            maps = self._get(DiffusionBackbone, extractor.weights).queries(images, noising, layers=extractor.layers)
            return [maps[layer].float() for layer in extractor.layers]
        block = int(extractor.layers[0])
        if extractor.kind in ("clip-key", "clip-token"):
            trace = self._get(ClipBackbone, extractor.weights).trace(
                images,
                blocks=(block,),
                input_size=extractor.input_size,
                mean=extractor.mean,
                std=extractor.std,
                positions=positions or "bicubic",
            )
            (step,) = trace.blocks.values()
            # Keys with their heads side by side; both are (B, N, D), the class token first.
            tokens = step.keys.transpose(1, 2).flatten(2) if extractor.kind == "clip-key" else step.outputs
            patches = tokens[:, 1:].float()
            return [patches.transpose(1, 2).reshape(len(images), -1, *trace.grid)]
        vit = self._get(VitBackbone, extractor.weights)
        rows, columns = (max(1, length // vit.patch) * vit.patch for length in images.shape[2:])
        keys = vit.keys(
            images[..., :rows, :columns],
            block=block,
            input_size=(rows, columns),
            mean=extractor.mean,
            std=extractor.std,
            positions=positions,
        )
        return [keys]

    def vit(self, weights: Weights) -> VitBackbone:
        """A self-supervised vision transformer."""
        return self._get(VitBackbone, weights)

    def _get(self, kind: type[Backbone], weights: Weights) -> Backbone:
        key = (kind, weights)
        if key not in self._loaded:
            folder = require_weights(weights, self.profile)
            refuse_code(folder, _USES[kind], weights.allow_pickle)
            log.info("Loading %s on %s.", weights.model_id, self.device)
            if kind is DiffusionBackbone:
                self._loaded[key] = DiffusionBackbone.load(
                    folder, device=self.device, dtype=self.dtype, variant=weights.variant
                )
            elif kind is SamBackbone:
                self._loaded[key] = SamBackbone.load(folder, device=self.device)
            else:
                vit = ClipBackbone if kind is ClipBackbone else VitBackbone
                self._loaded[key] = vit.load(folder, device=self.device, dtype=self.dtype)
            if weights == self.profile.clip.weights:
                check_activation(cast(ClipBackbone, self._loaded[key]), self.profile)
        return cast(Backbone, self._loaded[key])


def check_activation(clip: ClipBackbone, profile: Profile) -> None:
    """Refuse a CLIP that was built with another activation than it was trained with.

    Raises:
        WeightsError: By what the profile says, it was. Everything would run, and every answer be a little wrong.
    """
    wanted = profile.clip.quick_gelu
    if wanted is not None and clip.quick_gelu != wanted:
        raise WeightsError(
            f"The profile {profile.name!r} wants a CLIP {'with' if wanted else 'without'} QuickGELU, and "
            f"{profile.clip.weights.model_id} is built the other way, so that every answer would be a little wrong. "
            f'Its open_clip_config.json has to say "quick_gelu": {"true" if wanted else "false"} in model_cfg.'
        )


def concatenate_maps(maps: list[Tensor]) -> Tensor:
    """Feature maps of several layers as one: resized bilinearly to the finest grid and stacked by channel.

    Args:
        maps: Each float (B, C_i, g_i, g_i).

    Returns:
        float (B, sum of C_i, g, g) with g the largest g_i.
    """
    if len(maps) == 1:
        return maps[0]
    side = max(m.shape[-1] for m in maps)

    def enlarge(m: Tensor) -> Tensor:
        return m if m.shape[-1] == side else F.interpolate(m, (side, side), mode="bilinear", align_corners=False)

    # Filled map by map: holding every enlarged map beside the result would take twice the memory.
    joined = maps[0].new_empty(len(maps[0]), sum(m.shape[1] for m in maps), side, side)
    for part, m in zip(joined.split([m.shape[1] for m in maps], dim=1), maps, strict=True):
        part.copy_(enlarge(m))
    return joined


def choose_device(device: str = "auto") -> str:
    """A torch device name from what the user asked for.

    Args:
        device: "auto" (CUDA, else Apple's MPS, else CPU), "cpu", "cuda", "cuda:N" or "mps".

    Raises:
        UsageError: Unknown, or not on this machine.
    """
    if device == "auto":
        if torch.cuda.is_available():
            return "cuda"
        return "mps" if torch.backends.mps.is_available() else "cpu"
    try:
        kind = torch.device(device)
    except RuntimeError:
        raise UsageError(f"Unknown device {device!r}. Use auto, cpu, cuda, cuda:N or mps.") from None
    available = {
        "cpu": True,
        "cuda": torch.cuda.is_available() and (kind.index or 0) < torch.cuda.device_count(),
        "mps": torch.backends.mps.is_available(),
    }
    if not available.get(kind.type, False):
        raise UsageError(f"Device {device!r} is not available on this machine. Use --device auto (see `ovseg doctor`).")
    return device


def load_models(profile: Profile, *, device: str = "auto", precision: Precision = "auto") -> Models:
    """The models of a profile, ready to be loaded on a device.

    Args:
        profile: Which models.
        device: See `choose_device`.
        precision: See `Precision`.

    Raises:
        UsageError: The device or the precision is unknown, or the device is not here.
    """
    return Models(profile, choose_device(device), precision=precision)
