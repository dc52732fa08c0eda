"""Whether a picture is of the kind that a profile's models were trained on.

Models that know a small world see its things in every picture, a photograph of an astronaut included, and their scores
do not tell: CLIP's best cosine, its entropy and the autoencoder's error are the same for both. What does tell is how a
picture looks close by, before CLIP has made up its mind. A linear classifier of the patch tokens of an early block,
averaged over the picture, is all there is to it; `examples/mini_pack/domain.py` fits it.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ovseg_cli.backbones.clip import ClipBackbone
from ovseg_cli.backbones.pixels import picture_size, resize, to_working_tensor
from ovseg_cli.devices import put
from ovseg_cli.errors import WeightsError
from ovseg_cli.labeling.windows import all_crops
from ovseg_cli.profiles.specs import ClipSpec, DomainSpec, bundled_revision

DOMAIN_FILE = "domain.safetensors"
MAX_CROPS_AT_ONCE = 64
"""Crops that go through CLIP together, at most."""


def domain_tokens(clip: ClipBackbone, clip_spec: ClipSpec, spec: DomainSpec, images: Tensor) -> Tensor:
    """The mean patch token of each picture, over its crops.

    Args:
        clip: The profile's CLIP.
        clip_spec: How it is shown pictures.
        spec: What is cut out of a picture, and which block is read.
        images: float (B, 3, H, W) in [0, 1], resized to the specification's short side.

    Returns:
        float32 (B, D).
    """
    height, width = images.shape[-2:]
    crops = all_crops(height, width, spec.windows, whole_image=spec.whole_image)
    size = (clip_spec.input_size, clip_spec.input_size)
    seen = torch.cat([resize(crop.cut(images), size) for crop in crops])
    means = []
    for some in seen.split(MAX_CROPS_AT_ONCE):
        trace = clip.trace(some, blocks=(spec.block,), input_size=size, mean=clip_spec.mean, std=clip_spec.std)
        (step,) = trace.blocks.values()
        means.append(step.outputs[:, 1:].float().mean(1))
    return torch.cat(means).unflatten(0, (len(crops), len(images))).mean(0)


class Domain:
    """Tells pictures of the kind that models were trained on from others.

    Args:
        clip: The profile's CLIP.
        clip_spec: How it is shown pictures.
        spec: What is cut out of a picture, and which block is read.
        folder: Of `DOMAIN_FILE`: float32 `weight` (D,) and `bias` (1,).

    Attributes:
        spec: As above.

    Raises:
        WeightsError: The file is damaged, or was made for another CLIP or another way of looking.
    """

    def __init__(self, clip: ClipBackbone, clip_spec: ClipSpec, spec: DomainSpec, folder: Path) -> None:
        self.spec = spec
        self._clip, self._clip_spec = clip, clip_spec
        weight, self._bias = read_domain(folder / DOMAIN_FILE, look(clip_spec, spec))
        self._weight = put(weight, clip.device)

    @torch.inference_mode()
    def scores(self, images: Tensor) -> Tensor:
        """How little pictures of one size look like those of the training; above 0 they are unfamiliar.

        Args:
            images: float (B, 3, H, W) in [0, 1], resized to the specification's short side.

        Returns:
            float32 (B,) on CLIP's device.
        """
        tokens = domain_tokens(self._clip, self._clip_spec, self.spec, images)
        if tokens.shape[1] != len(self._weight):
            raise WeightsError(
                f"{DOMAIN_FILE} has {len(self._weight)} weights and CLIP's tokens have {tokens.shape[1]} numbers. "
                "Reinstall ovseg."
            )
        return tokens @ self._weight + self._bias

    def unfamiliar(self, image: Any) -> bool:
        """Whether a picture of any size looks like nothing that the models were trained on.

        Args:
            image: PIL image in mode RGB, or uint8 array (H, W, 3).

        Raises:
            ValueError: Not an RGB picture of 8 bits per channel.
        """
        size = self.spec.working_size(*picture_size(image))
        return bool(self.scores(to_working_tensor(image, size, self._clip.device, self.spec.resample)) > 0)


def look(clip_spec: ClipSpec, spec: DomainSpec) -> dict[str, str]:
    """Everything that decides what the tokens are, as a file's metadata."""
    clip = clip_spec.weights
    return {
        # The bundled CLIP is itself in a folder of the user's own too.
        "clip": bundled_revision(Path(clip.folder)) if clip.folder else clip.revision,
        "block": str(spec.block),
        "short_side": str(spec.short_side),
        "windows": " ".join(f"{size}/{stride}" for size, stride in spec.windows),
        "whole_image": str(spec.whole_image),
    }


def write_domain(path: Path, weight: Tensor, bias: float, made_for: dict[str, str]) -> None:
    """Write what `read_domain` reads.

    Args:
        path: The file.
        weight: float (D,).
        bias: What is added to the product.
        made_for: From `look`.
    """
    from safetensors.torch import save_file

    tensors = {"weight": weight.float().contiguous(), "bias": torch.tensor([bias])}
    # One value: the order of several is another each time, and the same classifier is to be the same file.
    save_file(tensors, path, metadata={"made_for": json.dumps(made_for, sort_keys=True)})


def read_domain(path: Path, made_for: dict[str, str]) -> tuple[Tensor, float]:
    """The classifier: float32 weights (D,) and bias.

    Args:
        path: The file.
        made_for: From `look`; the file has to be made for the same.

    Raises:
        WeightsError: The file is damaged, or was made for something else.
    """
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, framework="pt") as file:
            found = json.loads((file.metadata() or {}).get("made_for", "{}"))
            weight, bias = file.get_tensor("weight"), file.get_tensor("bias")
    except (SafetensorError, OSError, ValueError) as error:
        raise WeightsError(f"{path} cannot be read ({error}). Reinstall ovseg.") from error
    if weight.ndim != 1 or bias.shape != (1,) or not (weight.isfinite().all() and bias.isfinite().all()):
        raise WeightsError(f"{path} holds no classifier of pictures. Reinstall ovseg.")
    if other := [
        f"{key} {found.get(key)!r} instead of {value!r}" for key, value in made_for.items() if found.get(key) != value
    ]:
        raise WeightsError(
            f"{path} was made for another model ({'; '.join(other)}). In a profile of your own, leave out "
            "[domain]; otherwise reinstall ovseg."
        )
    return weight.float(), float(bias)
