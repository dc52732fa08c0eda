"""A judge of generated pictures: which object does a picture show?

It shares nothing with the pack that it judges: a small residual network, trained on scenes that are rendered
with seeds and textures of their own, never on generated pictures. Its training varies colours and textures so
strongly that only shapes are left to tell objects apart; the pack's CLIP, in contrast, is content with the
right colours.

    python -m examples.mini_pack.judge --work DIR

trains it from scratch, goes on with a training that was stopped, measures it on held-out scenes and writes it
to `FOLDER`.
"""

from __future__ import annotations

import argparse
import json
import math
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
from safetensors.torch import load_file, save
from torch import Tensor, nn

from examples.mini_pack.colours import colour_maps
from examples.mini_pack.dataset import Dataset, DatasetSpec, render_dataset
from examples.mini_pack.training import Batch, Clock, Schedule, Stopped, train
from examples.mini_pack.vocabulary import LABEL_IDS, THING_NAMES
from ovseg_cli.atomic import atomic_path, write_json

FOLDER: Final = Path(__file__).resolve().parent / "judge"
"""Where the trained judge is kept."""

TRAINING_SCENES: Final = DatasetSpec(scenes=60_000, count=1, first_seed=50_000_000, bank_seed=70, captions=1)
HELD_OUT_SCENES: Final = DatasetSpec(scenes=4_000, count=1, first_seed=60_000_000, bank_seed=71, captions=1)
"""Neither shares a seed or a texture with what the pack is trained on, nor with each other."""

SCHEDULE: Final = Schedule(
    steps=4000, batch=96, lr=3e-3, warmup=200, decay=0.9, weight_decay=0.05, betas=(0.9, 0.999), ema=0.0, seed=77
)
"""No moving average: the learning rate falls to zero, and averaged weights would not fit the batch statistics."""

_LABEL_SMOOTHING: Final = 0.05
_FIRST_THING: Final = LABEL_IDS[THING_NAMES[0]]

# How the scenes of the training are varied; probabilities are per scene.
_PLAIN: Final = 0.25
"""Scenes that keep their colours."""
_APART: Final = 0.5
"""Scenes whose object and ground change their colours independently."""
_NOISY: Final = 0.5
"""Scenes in which the object, or the ground, is overlaid with noise."""
_NOISE_SIDES: Final = (4, 16, 32)
"""Grain of the noise, as cells along a side."""
_NOISE: Final = 0.15
"""Largest standard deviation of the noise."""
_BLURRED: Final = 0.3


@dataclass(frozen=True, slots=True)
class JudgeSpec:
    """Shape of the network: a residual network with a three-layer stem.

    Attributes:
        channels: Widths of the four stages, at 1/4, 1/8, 1/16 and 1/32 of the input.
        layers: Residual blocks per stage.
        stem_width: Width of the stem.
    """

    channels: tuple[int, ...] = (32, 64, 128, 208)
    layers: tuple[int, ...] = (1, 1, 1, 1)
    stem_width: int = 16


def new_judge(spec: JudgeSpec) -> nn.Module:
    """Build an untrained judge: float (B, 3, S, S) in [-1, 1] to logits (B, objects)."""
    from timm.models.resnet import BasicBlock, ResNet

    block: Any = BasicBlock  # timm's annotation asks for an instance of it
    network: nn.Module = ResNet(
        block,
        spec.layers,
        num_classes=len(THING_NAMES),
        channels=spec.channels,
        stem_width=spec.stem_width,
        stem_type="deep",
    )
    return network.to(memory_format=torch.channels_last)


# --------------------------------------------------------------------------- variation


def augment(images: Tensor, objects: Tensor, generator: torch.Generator) -> Tensor:
    """Vary the colours and textures of scenes, never their shapes.

    Object and ground get, together or each on its own: a rotation of the hue over the full circle, a permutation
    of the channels, another saturation down to grey, inversion, another contrast and brightness, and noise of
    several grains. Then the whole scene may be blurred and mirrored.

    Args:
        images: float (B, 3, S, S) in [0, 1].
        objects: bool (B, S, S), where the object is.
        generator: Decides everything.

    Returns:
        float (B, 3, S, S) in [0, 1].
    """
    batch, _, side, _ = images.shape

    def chance(probability: float) -> Tensor:
        return torch.rand(batch, generator=generator) < probability

    matrices, offsets = colour_maps(2 * batch, generator)
    matrices, offsets = matrices.view(2, batch, 3, 3), offsets.view(2, batch, 3, 1)
    together = ~chance(_APART)
    matrices[1, together], offsets[1, together] = matrices[0, together], offsets[0, together]
    plain = chance(_PLAIN)
    matrices[:, plain], offsets[:, plain] = torch.eye(3), 0.0
    flat = images.flatten(2)
    ground, thing = (torch.baddbmm(offset, matrix, flat) for offset, matrix in zip(offsets, matrices, strict=True))
    inside = objects.flatten(1)[:, None]
    varied = torch.where(inside, thing, ground).view_as(images)

    strength = torch.stack([_NOISE * torch.rand(batch, generator=generator) * chance(_NOISY) for _ in range(2)])
    outer, inner = strength.view(2, batch, 1, 1)
    varied.addcmul_(_noise(batch, side, generator), torch.where(inside, inner, outer).view(batch, 1, side, side))
    varied.clamp_(0, 1)

    for index, change in ((chance(_BLURRED), _blurred), (chance(0.5), _mirrored)):
        varied[index] = change(varied[index])
    return varied


def _noise(batch: int, side: int, generator: torch.Generator) -> Tensor:
    """Normal noise of several grains, (batch, 3, side, side) and of a standard deviation near 1."""
    field = torch.zeros(batch, 3, _NOISE_SIDES[0], _NOISE_SIDES[0])
    for finer in (*_NOISE_SIDES[1:], side):
        weight = 1.5 * torch.rand(batch, 1, 1, 1, generator=generator)
        field.addcmul_(torch.randn(field.shape, generator=generator), weight)
        field = F.interpolate(field, (finer, finer), mode="bilinear", align_corners=False)
    return field


def _blurred(images: Tensor) -> Tensor:
    """Mean of 3x3 pixels, as soft as what a small decoder paints."""
    return F.avg_pool2d(F.pad(images, (1, 1, 1, 1), mode="replicate"), 3, stride=1)


def _mirrored(images: Tensor) -> Tensor:
    return images.flip(-1)


# --------------------------------------------------------------------------- training


def scene_targets(labels: npt.NDArray[np.uint8], *, chunk: int = 2000) -> npt.NDArray[np.int64]:
    """Index into `THING_NAMES` of the object in each single-object scene.

    Args:
        labels: uint8 (N, S, S) of label ids, one object in each.
        chunk: Scenes looked at together; the labels of a data set do not fit into memory twice.

    Raises:
        ValueError: If a scene has no object.
    """
    things = np.arange(_FIRST_THING, _FIRST_THING + len(THING_NAMES))
    targets = np.empty(len(labels), np.int64)
    for start in range(0, len(labels), chunk):
        part = np.asarray(labels[start : start + chunk])
        seen = np.where(part <= things[-1], part, 0)  # stuff comes after the objects
        targets[start : start + chunk] = seen.max(axis=(1, 2)).astype(np.int64) - _FIRST_THING
    if (targets < 0).any():
        raise ValueError(f"scene {int(np.argmin(targets))} shows no object; render the scenes with count=1")
    return targets


def train_judge(network: nn.Module, data: Dataset, folder: Path, schedule: Schedule, clock: Clock) -> None:
    """Train a judge in place.

    Args:
        network: Starts from its current weights, on the device where it is.
        data: Scenes with one object each.
        folder: For the checkpoint and the log of curves.
        schedule: How long and how fast.
        clock: When to stop.

    Raises:
        Stopped: If the clock ran out.
    """
    targets = torch.from_numpy(scene_targets(data.labels))
    device = next(network.parameters()).device.type
    network.train()

    def draw(generator: torch.Generator) -> Batch:
        index = torch.randint(len(data), (schedule.batch,), generator=generator)
        rows = index.numpy()
        images = torch.from_numpy(data.images[rows]).permute(0, 3, 1, 2).float() / 255
        target = targets[index]
        objects = torch.from_numpy(data.labels[rows]) == (target + _FIRST_THING).view(-1, 1, 1)
        return {"pixels": augment(images, objects, generator), "target": target}

    def loss(batch: Batch) -> tuple[Tensor, dict[str, Tensor]]:
        with torch.autocast(device, torch.bfloat16):
            logits = network(_to_input(batch["pixels"]))
        value = F.cross_entropy(logits.float(), batch["target"], label_smoothing=_LABEL_SMOOTHING)
        right = (logits.argmax(1) == batch["target"]).float().mean()
        return value, {"loss": value, "top1": right}

    train("judge", folder, {"judge": network}, schedule, draw, loss, clock)


def _to_input(images: Tensor) -> Tensor:
    """From [0, 1] to the range that the network takes."""
    return (images * 2 - 1).contiguous(memory_format=torch.channels_last)


# --------------------------------------------------------------------------- use


class Judge:
    """A trained judge.

    Attributes:
        names: The objects that it tells apart, in the order of its answers.
        record: What was noted when it was saved: shape, training, figures on held-out scenes.
    """

    def __init__(self, network: nn.Module, record: dict[str, Any]) -> None:
        """Take a trained network; `load` reads one from disk."""
        self._network = network.eval().requires_grad_(False)
        self.names: tuple[str, ...] = tuple(record["names"])
        self.size: int = record["size"]
        self.record = record

    @classmethod
    def load(cls, folder: Path = FOLDER) -> Judge:
        """Load a judge.

        Raises:
            FileNotFoundError: If the folder holds none.
            ValueError: If it was trained for another vocabulary.
        """
        path = folder / "judge.json"
        if not path.is_file():
            raise FileNotFoundError(f"{folder} holds no judge; train it with: python -m examples.mini_pack.judge")
        record = json.loads(path.read_text(encoding="utf-8"))
        if tuple(record["names"]) != THING_NAMES:
            raise ValueError(f"the judge in {folder} knows another vocabulary; train it again")
        spec = record["spec"]
        network = new_judge(JudgeSpec(tuple(spec["channels"]), tuple(spec["layers"]), spec["stem_width"]))
        weights = load_file(folder / "judge.safetensors")
        network.load_state_dict(
            {key: value.float() if value.is_floating_point() else value for key, value in weights.items()}
        )
        return cls(network, record)

    @torch.inference_mode()
    def classify(self, images: npt.NDArray[np.uint8], *, batch: int = 200) -> npt.NDArray[np.int64]:
        """Name the object in each picture.

        Args:
            images: uint8 (N, H, W, 3), RGB, square; resized to the size of the training.
            batch: Pictures per forward pass.

        Returns:
            int64 (N,), indices into `names`.
        """
        answers = []
        for start in range(0, len(images), batch):
            part = torch.from_numpy(np.array(images[start : start + batch])).permute(0, 3, 1, 2).float() / 255
            if part.shape[-1] != self.size:
                part = F.interpolate(part, (self.size, self.size), mode="bicubic", antialias=True).clamp(0, 1)
            answers.append(self._network(_to_input(part)).argmax(1))
        return torch.cat(answers).numpy() if answers else np.zeros(0, np.int64)


def save_judge(network: nn.Module, folder: Path, record: dict[str, Any]) -> None:
    """Write weights in float16 and the record, loadable by `Judge.load`."""
    folder.mkdir(parents=True, exist_ok=True)
    weights = {
        key: (value.half() if value.is_floating_point() else value).contiguous()
        for key, value in network.state_dict().items()
    }
    with atomic_path(folder / "judge.safetensors") as part:
        part.write_bytes(save(weights))
    write_json(folder / "judge.json", record)


def per_class_accuracy(answers: npt.NDArray[np.int64], targets: npt.NDArray[np.int64], classes: int) -> list[float]:
    """Share of right answers among the items of each class; NaN for a class without items."""
    total = np.bincount(targets, minlength=classes)
    right = np.bincount(targets[answers == targets], minlength=classes)
    return np.divide(right, total, out=np.full(classes, np.nan), where=total > 0).tolist()


def measure(judge: Judge, data: Dataset) -> dict[str, Any]:
    """Accuracy on single-object scenes: top-1 over all, and per class."""
    targets = scene_targets(data.labels)
    answers = judge.classify(data.images)
    classes = per_class_accuracy(answers, targets, len(judge.names))
    return {
        "scenes": len(data),
        "top1": float((answers == targets).mean()),
        "per_class": dict(zip(judge.names, classes, strict=True)),
    }


def finish_judge(network: nn.Module, folder: Path, held_out: Dataset, record: dict[str, Any]) -> dict[str, Any]:
    """Save a trained judge, with its figures on held-out scenes.

    Args:
        network: On the CPU.
        folder: Where it goes.
        held_out: Scenes of one object each.
        record: What is noted about it.

    Returns:
        The figures; see `measure`.
    """
    save_judge(network, folder, record)
    found = measure(Judge.load(folder), held_out)
    # a class that no scene shows has no figure
    found["per_class"] = {name: None if math.isnan(value) else value for name, value in found["per_class"].items()}
    save_judge(network, folder, record | {"held_out": found})
    return found


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line.

    Args:
        argv: Arguments without the program's name; None takes those of the process.

    Returns:
        The exit status; 3 when the minutes were used up before the end.
    """
    parser = argparse.ArgumentParser(description="Train the judge of generated pictures.")
    parser.add_argument("--work", type=Path, required=True, help="folder for scenes, checkpoint and log")
    parser.add_argument("--out", type=Path, default=FOLDER, help="where the judge goes (default: %(default)s)")
    parser.add_argument("--minutes", type=float, help="stop after this time; the same command goes on from there")
    options = parser.parse_args(argv)
    clock = Clock(options.minutes)
    clock.listen()
    sets = {}
    for name, scenes in (("train", TRAINING_SCENES), ("held_out", HELD_OUT_SCENES)):
        for done in render_dataset(options.work / name, scenes):
            print(f"{name} {done}/{scenes.scenes} scenes", file=sys.stderr)
            if clock.spent:
                return 3
        sets[name] = Dataset(options.work / name)
    torch.manual_seed(SCHEDULE.seed)
    spec = JudgeSpec()
    network = new_judge(spec)
    try:
        train_judge(network, sets["train"], options.work, SCHEDULE, clock)
    except Stopped as stopped:
        print(stopped, file=sys.stderr)
        return 3
    record: dict[str, Any] = {
        "names": list(THING_NAMES),
        "size": TRAINING_SCENES.size,
        "spec": asdict(spec),
        "schedule": asdict(SCHEDULE),
        "scenes": asdict(TRAINING_SCENES),
    }
    found = finish_judge(network, options.out, sets["held_out"], record)
    name, value = min(found["per_class"].items(), key=lambda item: item[1])
    print(f"{found['top1']:.2%} of {found['scenes']} held-out scenes; worst: {name} {value:.1%}")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
