"""Self-supervised training of a small ViT on rendered scenes: no labels, no captions.

DINO (Caron et al. 2021) on the class token of several crops, and beside it the same loss on patch tokens:
a student's token, hidden from it or not (iBOT, Zhou et al. 2022), names the cluster that the teacher gives to the
same place of the scene in the other crop. The crops are known, so that places need no search. Instead of centring,
targets are balanced by Sinkhorn-Knopp (Caron et al. 2020; also DINOv2): it keeps no state, and does not collapse
in trainings of minutes.

Labels are read by `token_probe` only, which measures what was learned.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import ViTConfig, ViTImageProcessorPil, ViTModel

from examples.mini_pack.dataset import ByteArray, Dataset
from examples.mini_pack.training import Batch, Clock, Schedule, train
from examples.mini_pack.vocabulary import LABEL_IDS, LABEL_NAMES, STUFF_NAMES, THING_NAMES

MEAN: Final = (0.5, 0.5, 0.5)
"""Input normalisation: mean per channel of pictures in [0, 1]."""
STD: Final = (0.5, 0.5, 0.5)
"""Input normalisation: standard deviation per channel."""

_SINKHORN_ROUNDS: Final = 3
_CENTRED_ON: Final = 512
"""Scenes from which the mean of the keys is taken."""
_HEAD_WIDTH: Final = 128
"""Width in which tokens are compared with prototypes."""


@dataclass(frozen=True, slots=True)
class SelfSupConfig:
    """The ViT and its self-supervised training.

    Attributes:
        width: Channels of the ViT; a multiple of 64.
        layers: Blocks of the ViT.
        patch: Side of a patch in pixels.
        size: Side of the two global crops in pixels; the position embeddings are made for it.
        local_size: Side of the local crops in pixels.
        local_crops: Local crops per scene; 0 for none.
        global_scale: Range of a global crop's area as a share of the scene.
        local_scale: Range of a local crop's area as a share of the scene.
        jitter: Largest change of brightness, contrast and saturation; mild, as colours tell classes apart.
        hue: Largest rotation of a crop's hue in radians; 0 for none. The two crops of a scene turn by different angles,
            so that places are matched by more than the colours of one artist.
        grey: Share of the crops without colour.
        class_prototypes: Clusters of class tokens. Targets are balanced within a batch, so that these should not
            be more than the batch has global crops.
        patch_prototypes: Clusters of patch tokens.
        hidden: Share of the patches that are hidden from the student in global crops.
        student_temperature: Temperature of the student's cluster probabilities.
        teacher_temperature: Temperature of the teacher's; smaller, which sharpens the targets.
        momentum: Momentum of the teacher's weights at the start; it rises to 1 with a cosine.
        dense_weight: Weight of the loss on patch tokens.
    """

    width: int = 192
    layers: int = 4
    patch: int = 8
    size: int = 64
    local_size: int = 32
    local_crops: int = 2
    global_scale: tuple[float, float] = (0.3, 1.0)
    local_scale: tuple[float, float] = (0.08, 0.3)
    jitter: float = 0.15
    hue: float = 0.0
    grey: float = 0.0
    class_prototypes: int = 64
    patch_prototypes: int = 512
    hidden: float = 0.3
    student_temperature: float = 0.1
    teacher_temperature: float = 0.05
    momentum: float = 0.98
    dense_weight: float = 1.0

    def momentum_at(self, progress: float) -> float:
        """Return the teacher's momentum where a training is so far, 0 to 1 (Caron et al. 2021, section 3)."""
        return 1 - (1 - self.momentum) * 0.5 * (1 + math.cos(math.pi * progress))


class Head(nn.Module):
    """Similarities of tokens to learned prototypes: an MLP, then cosines (the weights are unit vectors)."""

    def __init__(self, width: int, prototypes: int) -> None:
        """Build an untrained head for tokens of `width` channels."""
        super().__init__()
        self.mlp = nn.Sequential(nn.Linear(width, 2 * width), nn.GELU(), nn.Linear(2 * width, _HEAD_WIDTH))
        self.prototypes = nn.Parameter(F.normalize(torch.randn(prototypes, _HEAD_WIDTH), dim=-1))

    def forward(self, tokens: Tensor) -> Tensor:
        """Map tokens (..., D) to cosines float32 (..., K)."""
        units = F.normalize(self.mlp(tokens).float(), dim=-1)
        return F.linear(units, F.normalize(self.prototypes, dim=-1)).float()


class Branch(nn.Module):
    """The student or the teacher: a ViT with a head for its class token and one for its patch tokens."""

    def __init__(self, config: SelfSupConfig) -> None:
        """Build an untrained branch."""
        super().__init__()
        self.vit = ViTModel(
            ViTConfig(
                hidden_size=config.width,
                num_hidden_layers=config.layers,
                num_attention_heads=config.width // 64,
                intermediate_size=4 * config.width,
                image_size=config.size,
                patch_size=config.patch,
                # written out: at these sizes it is as fast as the fused kernel, and it compiles into fewer passes
                attn_implementation="eager",
            ),
            add_pooling_layer=False,
            use_mask_token=True,
        )
        self.class_head = Head(config.width, config.class_prototypes)
        self.patch_head = Head(config.width, config.patch_prototypes)

    def forward(self, pixels: Tensor, hidden: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Encode crops.

        Args:
            pixels: (B, 3, S, S), normalised; S may differ from the size of the position embeddings.
            hidden: bool (B, T), patches to hide; None for none.

        Returns:
            Class tokens (B, D) and patch tokens (B, T, D).
        """
        tokens = self.vit(pixels, bool_masked_pos=hidden, interpolate_pos_encoding=True).last_hidden_state
        return tokens[:, 0], tokens[:, 1:]


@torch.no_grad()
def update_teacher(teacher: nn.Module, student: nn.Module, momentum: float) -> None:
    """Move the teacher's parameters towards the student's: t <- momentum * t + (1 - momentum) * s, in place."""
    torch._foreach_lerp_(list(teacher.parameters()), [p.detach() for p in student.parameters()], 1 - momentum)


@torch.no_grad()
def balanced_targets(cosines: Tensor, temperature: float) -> Tensor:
    """Cluster probabilities in which every cluster gets an equal share of the batch (Sinkhorn-Knopp).

    Args:
        cosines: float (N, K), the teacher's.
        temperature: Smaller is sharper.

    Returns:
        float32 (N, K); rows sum to one (Caron et al. 2020, equation 5).
    """
    shares = ((cosines - cosines.amax()) / temperature).exp()
    for _ in range(_SINKHORN_ROUNDS):
        shares = shares / shares.sum(0).clamp(min=1e-30)
        shares = shares / shares.sum(1, keepdim=True).clamp(min=1e-30)
    return shares


def cluster_loss(cosines: Tensor, targets: Tensor, temperature: float) -> Tensor:
    """Cross-entropy of the student's clusters under the teacher's (Caron et al. 2021, equation 2).

    Args:
        cosines: float (N, K), the student's.
        targets: float (N, K), the teacher's probabilities.
        temperature: The student's.

    Returns:
        A scalar, the mean over N.
    """
    return -(targets * (cosines / temperature).log_softmax(-1)).sum(-1).mean()


def draw_boxes(count: int, scale: tuple[float, float], generator: torch.Generator) -> Tensor:
    """Draw crops, uniform in area, log-uniform in aspect (3/4 to 4/3), half of them mirrored.

    Args:
        count: Number of crops N.
        scale: Range of the area as a share of the scene.
        generator: Source of chance.

    Returns:
        float32 (N, 4): half width, half height, centre x, centre y, in coordinates where the scene spans -1 to 1;
        a negative half width mirrors.
    """
    chance = torch.rand(5, count, generator=generator)
    area = scale[0] + (scale[1] - scale[0]) * chance[0]
    aspect = ((2 * chance[1] - 1) * math.log(4 / 3)).exp()
    width, height = (area * aspect).sqrt().clamp(max=1), (area / aspect).sqrt().clamp(max=1)
    x, y = (1 - width) * (2 * chance[2] - 1), (1 - height) * (2 * chance[3] - 1)
    return torch.stack([torch.where(chance[4] < 0.5, -width, width), height, x, y], 1)


def crop(scenes: Tensor, boxes: Tensor, size: int) -> Tensor:
    """Cut boxes out and resize them, bilinearly.

    Args:
        scenes: float (N, 3, S, S).
        boxes: float (N, 4), see `draw_boxes`.
        size: Side of the crops in pixels.

    Returns:
        float (N, 3, size, size).
    """
    return F.grid_sample(scenes, _places(boxes, size), padding_mode="border", align_corners=False)


def _places(boxes: Tensor, side: int) -> Tensor:
    """Scene coordinates (N, side, side, 2) of the cells of a crop's grid."""
    line = (2 * torch.arange(side, device=boxes.device) + 1) / side - 1
    grid = torch.stack(torch.meshgrid(line, line, indexing="xy"), -1)
    return grid * boxes[:, None, None, :2] + boxes[:, None, None, 2:]


def tokens_at(tokens: Tensor, boxes: Tensor, places: Tensor) -> tuple[Tensor, Tensor]:
    """Tokens of one crop at places of the scene, interpolated bilinearly.

    Args:
        tokens: float (N, T, D) of crops, T a square number.
        boxes: float (N, 4), the crops.
        places: float (N, g, g, 2), scene coordinates (x, y).

    Returns:
        float (N, g * g, D), and bool (N, g * g): whether the place lies within the crop.
    """
    inside = (places - boxes[:, None, None, 2:]) / boxes[:, None, None, :2]
    side = math.isqrt(tokens.shape[1])
    maps = tokens.transpose(1, 2).reshape(len(tokens), -1, side, side)
    values = F.grid_sample(maps.float(), inside, padding_mode="border", align_corners=False)
    return values.flatten(2).transpose(1, 2), (inside.abs() <= 1).all(-1).flatten(1)


def draw_colours(count: int, config: SelfSupConfig, generator: torch.Generator) -> Tensor:
    """Draw the colours of crops.

    Args:
        count: Number of crops N.
        config: How far they change.
        generator: Source of chance.

    Returns:
        float (5, N): factors of brightness, contrast and saturation, the angle of a hue rotation in radians, and 1
        where all colour is taken out.
    """
    factors = 1 + config.jitter * (2 * torch.rand(3, count, generator=generator) - 1)
    hue, grey = torch.zeros(2, count)
    if config.hue:
        hue = config.hue * (2 * torch.rand(count, generator=generator) - 1)
    if config.grey:
        grey = (torch.rand(count, generator=generator) < config.grey).float()
    return torch.cat([factors, hue[None], grey[None]])


def change_colours(crops: Tensor, colours: Tensor) -> Tensor:
    """Change brightness, contrast, saturation and hue of every crop, in this order.

    Args:
        crops: float (N, 3, S, S) in [0, 1].
        colours: float (5, N); see `draw_colours`.

    Returns:
        float (N, 3, S, S) in [0, 1].
    """
    brightness, contrast, saturation, hue, grey = colours[..., None, None, None]
    crops = crops * brightness
    crops = torch.lerp(crops.mean((1, 2, 3), keepdim=True), crops, contrast)
    crops = torch.lerp(crops.mean(1, keepdim=True), crops, saturation * (1 - grey))
    # about the grey axis: what the other two channels are to each gets its share (Rodrigues' formula)
    cosine, sine = hue.cos(), hue.sin() / math.sqrt(3)
    mean = crops.mean(1, keepdim=True)
    turned = cosine * crops + (1 - cosine) * mean + sine * (crops.roll(1, 1) - crops.roll(-1, 1))
    return turned.clamp(0, 1)


def normalise(pictures: Tensor) -> Tensor:
    """Normalise pictures (B, 3, H, W) in [0, 1] as the ViT wants them."""
    shape = (1, 3, 1, 1)
    return (pictures - pictures.new_tensor(MEAN).view(shape)) / pictures.new_tensor(STD).view(shape)


def train_selfsup(
    data: Dataset,
    folder: Path,
    config: SelfSupConfig,
    schedule: Schedule,
    clock: Clock,
    *,
    device: str,
    compiled: bool,
) -> ViTModel:
    """Train a ViT from scratch.

    Args:
        data: Training scenes; only the pictures are used.
        folder: For checkpoint and log.
        config: The network and its losses.
        schedule: How long and how fast. Its `ema` must be 0: the teacher is the moving average that is kept.
        clock: When to stop.
        device: Where to train.
        compiled: Whether to compile the encoders.

    Returns:
        The teacher's ViT, its last keys centred.

    Raises:
        Stopped: If the clock ran out.
        ValueError: If the schedule asks for another moving average.
    """
    if schedule.ema:
        raise ValueError(f"the teacher is the moving average here: set ema=0 in the schedule, got {schedule.ema!r}")
    with torch.random.fork_rng():
        torch.manual_seed(schedule.seed)
        student = Branch(config).to(device).train()
    teacher = copy.deepcopy(student).requires_grad_(False)
    # global and local crops get a graph each: one graph for all sizes would be slower
    encode = torch.compile(student, dynamic=False) if compiled else student
    encode_teacher = torch.compile(teacher, dynamic=False) if compiled else teacher
    patches = (config.size // config.patch) ** 2
    temperatures = config.student_temperature, config.teacher_temperature

    def draw(generator: torch.Generator) -> Batch:
        index = torch.randint(len(data), (schedule.batch,), generator=generator).tolist()
        batch = {"images": torch.from_numpy(np.asarray(data.images[index]))}
        views = {"": (2, config.global_scale)}
        if config.local_crops:
            views["local "] = config.local_crops, config.local_scale
        for view, (copies, scale) in views.items():
            batch[view + "boxes"] = draw_boxes(copies * schedule.batch, scale, generator)
            batch[view + "colours"] = draw_colours(copies * schedule.batch, config, generator)
            if not view:
                batch["hidden"] = torch.rand(2 * schedule.batch, patches, generator=generator) < config.hidden
        return batch

    def loss(batch: Batch) -> tuple[Tensor, dict[str, Tensor]]:
        scenes = batch["images"].permute(0, 3, 1, 2).float() / 255

        def view(name: str, size: int) -> Tensor:
            boxes = batch[name + "boxes"]
            crops = crop(scenes.repeat(len(boxes) // len(scenes), 1, 1, 1), boxes, size)
            return normalise(change_colours(crops, batch[name + "colours"]))

        pixels, boxes = view("", config.size), batch["boxes"]
        with torch.autocast(device, torch.bfloat16):
            with torch.no_grad():
                summary, tokens = encode_teacher(pixels)
                # the first crop of a scene learns from the second, and the second from the first
                places = _places(boxes, config.size // config.patch)
                seen, inside = tokens_at(tokens.roll(schedule.batch, 0), boxes.roll(schedule.batch, 0), places)
                targets = balanced_targets(teacher.class_head(summary), temperatures[1]).roll(schedule.batch, 0)
                dense_targets = balanced_targets(teacher.patch_head(seen[inside]), temperatures[1])
            summary, tokens = encode(pixels, batch["hidden"])
            losses = [cluster_loss(student.class_head(summary), targets, temperatures[0])]
            dense = cluster_loss(student.patch_head(tokens[inside]), dense_targets, temperatures[0])
            if config.local_crops:
                local, _ = encode(view("local ", config.local_size))
                both = targets.unflatten(0, (2, -1)).mean(0).repeat(config.local_crops, 1)
                losses.append(cluster_loss(student.class_head(local), both, temperatures[0]))
        whole = torch.stack(losses).mean()
        return whole + config.dense_weight * dense, {"loss": whole, "dense": dense}

    def after(step: int, progress: float) -> None:
        update_teacher(teacher, student, config.momentum_at(progress))

    train("selfsup", folder, {"student": student, "teacher": teacher}, schedule, draw, loss, clock, after=after)
    teacher.eval()
    few = torch.from_numpy(np.array(data.images[:_CENTRED_ON])).to(device).permute(0, 3, 1, 2).float() / 255
    centre_keys(teacher.vit, F.interpolate(few, (config.size, config.size), mode="bilinear", antialias=True))
    return teacher.vit


@torch.no_grad()
def centre_keys(vit: ViTModel, pictures: Tensor) -> None:
    """Shift the keys of every block so that their mean over the patches of some pictures is zero, in place.

    A constant added to all keys of a head changes all scores of a query by the same amount, which the softmax
    ignores: the ViT computes what it did. Training leaves that constant to chance, and it makes all cosines alike.

    Args:
        vit: What to change.
        pictures: float (B, 3, H, W) in [0, 1].
    """
    for layer in vit.layers:
        projection = layer.attention.k_proj
        keys: list[Tensor] = []
        handle = projection.register_forward_hook(lambda _module, _inputs, output, keys=keys: keys.append(output))
        vit(normalise(pictures), interpolate_pos_encoding=True)
        handle.remove()
        projection.bias -= keys[0][:, 1:].mean((0, 1))  # the class token is token 0


def save(folder: Path, vit: ViTModel) -> None:
    """Write a ViT as transformers loads it: ``config.json``, fp16 weights and ``preprocessor_config.json``."""
    plain = ViTModel(vit.config, add_pooling_layer=False)
    plain.load_state_dict({name: value for name, value in vit.state_dict().items() if not name.endswith("mask_token")})
    plain.half().save_pretrained(folder)
    size = vit.config.image_size
    ViTImageProcessorPil(image_mean=MEAN, image_std=STD, size={"height": size, "width": size}).save_pretrained(folder)


@dataclass(frozen=True, slots=True)
class Pictures:
    """Scenes with their labels, for measuring only.

    Attributes:
        images: uint8 (N, S, S, 3), RGB.
        labels: uint8 (N, S, S) of label ids.
    """

    images: ByteArray
    labels: ByteArray


@dataclass(frozen=True, slots=True)
class TokenProbe:
    """How well cosines to one mean vector per class name the tokens of held-out scenes.

    Attributes:
        things: Share of the object tokens named right among the objects, mean over the classes.
        stuff: Share of the ground tokens named right among the stuff, mean over the classes.
        figure: Share of all tokens that are rightly called object or ground, named among all classes.
        joint: Share of all tokens named right among all classes, mean over the classes.
    """

    things: float
    stuff: float
    figure: float
    joint: float


def token_probe(
    features: Callable[[Tensor], Tensor], supports: Pictures, queries: Pictures, *, shots: int = 16, batch: int = 64
) -> TokenProbe:
    """Match dense features with prototypes, as plainly as can be.

    A token belongs to the label that covers more than half of its cell; tokens without one are left out. The
    prototype of a class is the mean over `shots` scenes of their mean unit vector within the class.

    Args:
        features: From float (B, 3, S, S) in [0, 1] to float (B, D, g, g).
        supports: Scenes for the prototypes. They are taken in order; scenes of several objects count for stuff only.
        queries: Held-out scenes.
        shots: Scenes per class.
        batch: Scenes per call of `features`.

    Raises:
        ValueError: If a class of the vocabulary has no token in the supports, or none in the queries.
    """
    objects = torch.tensor([LABEL_IDS[name] for name in THING_NAMES])
    ground = torch.tensor([LABEL_IDS[name] for name in STUFF_NAMES])
    sums: dict[int, list[Tensor]] = {int(label): [] for label in torch.cat([objects, ground])}
    for tokens, labels in _labelled_tokens(features, supports, batch):
        for units, names in zip(tokens, labels, strict=True):
            present = set(names.unique().tolist()) - {0}
            several = len(present.intersection(objects.tolist())) > 1
            for label in present:
                if len(sums[label]) < shots and not (several and label in objects):
                    sums[label].append(units[names == label].mean(0))
        if all(len(vectors) == shots for vectors in sums.values()):
            break
    prototypes = torch.zeros(len(LABEL_NAMES), sums[int(ground[0])][0].shape[0] if sums[int(ground[0])] else 1)
    for label, vectors in sums.items():
        if not vectors:
            raise ValueError(f"the supports hold no token of {LABEL_NAMES[label]!r}; give more scenes")
        prototypes[label] = torch.stack(vectors).mean(0)
    prototypes = F.normalize(prototypes, dim=-1)

    cosines, truth = [], []
    for tokens, labels in _labelled_tokens(features, queries, batch):
        cosines.append(tokens[labels > 0] @ prototypes.T)
        truth.append(labels[labels > 0])
    scores, wanted = torch.cat(cosines), torch.cat(truth)
    missing = set(sums).difference(wanted.tolist())
    if missing:
        raise ValueError(f"the queries hold no token of {LABEL_NAMES[min(missing)]!r}; give more scenes")

    def accuracy(classes: Tensor) -> float:
        named = classes[scores[:, classes].argmax(-1)]
        return float(torch.stack([(named == label)[wanted == label].float().mean() for label in classes]).mean())

    everything = torch.cat([objects, ground])
    named = everything[scores[:, everything].argmax(-1)]
    right = torch.isin(named, objects) == torch.isin(wanted, objects)
    return TokenProbe(accuracy(objects), accuracy(ground), float(right.float().mean()), accuracy(everything))


@torch.no_grad()
def _labelled_tokens(
    features: Callable[[Tensor], Tensor], pictures: Pictures, batch: int
) -> Iterator[tuple[Tensor, Tensor]]:
    """Unit vectors (B, T, D) and labels (B, T) of the tokens, 0 where no label covers half of the cell."""
    for start in range(0, len(pictures.images), batch):
        images = torch.from_numpy(np.array(pictures.images[start : start + batch])).permute(0, 3, 1, 2).float() / 255
        labels = torch.from_numpy(np.array(pictures.labels[start : start + batch])).long()
        maps = features(images)
        covered = F.one_hot(labels, len(LABEL_NAMES)).permute(0, 3, 1, 2).float()
        share, label = F.adaptive_avg_pool2d(covered, maps.shape[-2:]).max(1)
        yield F.normalize(maps.float().flatten(2), dim=1).transpose(1, 2), (label * (share > 0.5)).flatten(1)
