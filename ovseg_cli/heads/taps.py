"""What the frozen diffusion model says of pictures, read once and kept: features of its blocks, and denoised pictures.

Everything of the diffusion model is the same for a picture at every step of a training, since no noise is drawn: it is
computed when a picture is first wanted, and kept in files beside the checkpoint while the disk allows.

Features are those of the whole picture, also where a crop of it is trained: queries look at tokens without knowing
where these lie, and are to see the scene.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, cast

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from ovseg_cli.backbones.pixels import to_working_tensor
from ovseg_cli.heads.data import Batch, Pictures
from ovseg_cli.heads.sizes import DedosSizes, HeadSpec
from ovseg_cli.profiles.specs import Profile, digest_of

if TYPE_CHECKING:
    from ovseg_cli.backbones.unet import DiffusionBackbone
    from ovseg_cli.models import Models

MOST_ON_DISK = 8 * 2**30
"""Bytes of features that are kept at most; what is beyond is computed again each time."""

AT_ONCE = 8


@dataclass(frozen=True, slots=True, eq=False)
class Taps:
    """What the diffusion model says of pictures.

    Attributes:
        taps: For each timestep, for each block: (B, h w, C).
        denoised: float (B, 3, S, S) in [0, 1].
    """

    taps: list[list[Tensor]]
    denoised: Tensor


def default_taps(unet: Any) -> tuple[str, ...]:
    """The blocks whose outputs are read: every module with transformer blocks, 16 in Stable Diffusion 1 and 2."""
    return tuple(name for name, module in unet.named_modules() if hasattr(module, "transformer_blocks"))


def tap_channels(unet: Any, taps: Sequence[str]) -> tuple[int, ...]:
    """The channels of blocks' outputs."""
    return tuple(int(unet.get_submodule(name).norm.num_channels) for name in taps)


class TapReader:
    """Asks the diffusion model.

    Args:
        generator: The model.
        sizes: Which timesteps and blocks.
        profile: The size of its pictures.
    """

    def __init__(self, generator: DiffusionBackbone, sizes: DedosSizes, profile: Profile) -> None:
        self._generator, self._sizes = generator, sizes
        self._side = profile.generator.image_size

    @property
    def side(self) -> int:
        """Side of the pictures that the model sees and gives back."""
        return self._side

    def read(self, images: Tensor) -> Taps:
        """Whole pictures, float (B, 3, H, W) in [0, 1]."""
        found, denoised = self._generator.denoise(
            images, self._sizes.timesteps, layers=self._sizes.taps, size=self._side
        )
        # Not of inference mode any more: what follows is trained.
        taps = [[step[name].clone().flatten(2).mT for name in self._sizes.taps] for step in found]
        return Taps(taps, denoised.clone())


class TapCache:
    """Keeps what was asked; see the module.

    Args:
        reader: Asks.
        folder: Where it is kept.
        count: How many pictures there are.
        device: Where answers are wanted.
        identity: Of what pictures and by what model answers are; those of others are forgotten.
        progress: Told of how many pictures the model has been asked.
    """

    def __init__(
        self,
        reader: TapReader,
        folder: Path,
        count: int,
        device: str,
        identity: str,
        progress: Callable[[int, int], None] | None = None,
    ) -> None:
        self._identity = identity
        self._reader, self._folder, self._count, self._device = reader, folder, count, device
        self._progress = progress
        self._shapes: list[list[tuple[int, int]]] | None = None
        self._known = np.zeros(count, np.uint8)
        self._files: tuple[np.memmap, np.memmap] | None = None
        if (folder / "taps.json").is_file():
            note = json.loads((folder / "taps.json").read_text(encoding="utf-8"))
            if note["identity"] == identity:
                self._open([[(int(a), int(b)) for a, b in step] for step in note["shapes"]], fresh=False)

    @classmethod
    def of_training(
        cls,
        spec: HeadSpec,
        models: Models,
        pictures: Pictures,
        folder: Path,
        *,
        progress: Callable[[int, int], None] | None = None,
    ) -> TapCache | None:
        """For a head's training; None for a head that never asks."""
        if spec.dedos is None or not spec.dedos.injection:
            return None
        reader = TapReader(models.generator, spec.dedos, models.profile)
        weights = models.profile.generator.weights
        identity = digest_of(
            {
                "data": pictures.data.digest,
                "pictures": [sample.key for sample in pictures.data.samples],
                "model": [weights.identity, weights.revision, weights.variant],
                "asked": [list(spec.dedos.timesteps), list(spec.dedos.taps), reader.side],
            }
        )
        return cls(reader, folder, len(pictures), models.device, identity, progress)

    def of(self, pictures: Pictures, batch: Batch) -> Taps:
        """What the model says of a batch's pictures; denoised pictures are cut as the crops were."""
        missing = sorted({index for index in batch.samples if not self._known[index]})
        passing: dict[int, tuple[np.ndarray, np.ndarray]] = {}
        for start in range(0, len(missing), AT_ONCE):
            passing |= self._ask(pictures, missing[start : start + AT_ONCE])
        rows, denoised = [], []
        for index in batch.samples:
            if index in passing:
                row, picture = passing[index]
            else:
                numbers_kept, pictures_kept = cast(
                    "tuple[np.memmap, np.memmap]", self._files
                )  # where what is known lies
                row, picture = numbers_kept[index], pictures_kept[index]
            rows.append(torch.from_numpy(np.array(row)))
            denoised.append(torch.from_numpy(np.array(picture)))
        numbers = torch.stack(rows).to(self._device).float()
        taps, at = [], 0
        for step in cast("list[list[tuple[int, int]]]", self._shapes):  # known since the first answer
            blocks = []
            for tokens, channels in step:
                blocks.append(numbers[:, at : at + tokens * channels].unflatten(1, (tokens, channels)))
                at += tokens * channels
            taps.append(blocks)
        whole = torch.stack(denoised).to(self._device).float() / 255
        return Taps(taps, cut_as(whole, batch.boxes.to(self._device), batch.images.shape[-1]))

    def _ask(self, pictures: Pictures, indices: Sequence[int]) -> dict[int, tuple[np.ndarray, np.ndarray]]:
        side = self._reader.side
        images = torch.cat([to_working_tensor(pictures.get(index)[0], (side, side)) for index in indices])
        found = self._reader.read(images.to(self._device))
        if self._shapes is None:
            self._open([[(int(t.shape[1]), int(t.shape[2])) for t in step] for step in found.taps], fresh=True)
        flat = torch.cat([block.flatten(1) for step in found.taps for block in step], dim=1)
        numbers = flat.clamp(-65504, 65504).half().cpu().numpy()
        denoised = (found.denoised * 255).round().byte().cpu().numpy()
        for place, index in enumerate(indices):
            if self._files is not None:
                self._files[0][index], self._files[1][index] = numbers[place], denoised[place]
                self._known[index] = 1
        if self._files is not None:  # after what it tells of
            with (self._folder / "taps.known").open("r+b") as file:
                file.write(self._known.tobytes())
        if self._progress is not None:
            self._progress(int(self._known.sum()), self._count)
        return {index: (numbers[place], denoised[place]) for place, index in enumerate(indices)}

    def _open(self, shapes: list[list[tuple[int, int]]], *, fresh: bool) -> None:
        """Make the files, or take them up."""
        self._shapes = shapes
        each = sum(tokens * channels for step in shapes for tokens, channels in step)
        side = self._reader.side
        if self._count * (2 * each + 3 * side**2) > MOST_ON_DISK:
            return
        mode: Literal["w+", "r+"] = "w+" if fresh else "r+"
        self._files = (
            np.memmap(self._folder / "taps.f16", np.float16, mode, shape=(self._count, each)),
            np.memmap(self._folder / "denoised.u8", np.uint8, mode, shape=(self._count, 3, side, side)),
        )
        known = self._folder / "taps.known"
        if fresh:
            known.write_bytes(bytes(self._count))
            (self._folder / "taps.json").write_text(
                json.dumps({"identity": self._identity, "shapes": shapes}), encoding="utf-8"
            )
        else:
            self._known = np.frombuffer(known.read_bytes(), np.uint8).copy()

    def remove(self) -> None:
        """Remove the files."""
        self._files = None
        for name in ("taps.f16", "denoised.u8", "taps.known", "taps.json"):
            (self._folder / name).unlink(missing_ok=True)


def cut_as(images: Tensor, boxes: Tensor, side: int) -> Tensor:
    """Pictures cut as crops were.

    Args:
        images: float (B, 3, H, W).
        boxes: (B, 5), see `Batch`.
        side: Of the crops.
    """
    places = (torch.arange(side, device=images.device) + 0.5) / side
    mirrored = boxes[:, 4:5]
    across = torch.where(mirrored > 0, 1 - places, places.expand(len(boxes), -1))
    rows = boxes[:, 0:1] + places * boxes[:, 2:3]
    columns = boxes[:, 1:2] + across * boxes[:, 3:4]
    grid = torch.stack([columns[:, None].expand(-1, side, -1), rows[:, :, None].expand(-1, -1, side)], dim=-1)
    return F.grid_sample(images, grid.to(images) * 2 - 1, mode="bilinear", align_corners=False)
