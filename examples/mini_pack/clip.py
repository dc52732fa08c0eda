"""Training of the CLIP model (open_clip's classes), on whole scenes and on crops of them.

The loss is CLIP's (Radford et al. 2021), with every equal caption of a batch as a positive. Beside it the patch
tokens learn from the model's own view of crops (CLIPSelf, Wu et al., ICLR 2024): the mean of the tokens inside of a
box is drawn towards the embedding of the crop at that box. Without it the tokens of so small a model know the colour
of a place, but not the object that it belongs to. No mask is used.
"""

from __future__ import annotations

import json
import math
import shutil
from contextlib import nullcontext
from pathlib import Path
from typing import Any, Final

import numpy as np
import torch
import torch.nn.functional as F
from open_clip.model import CLIP
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel

from examples.mini_pack.captions import caption
from examples.mini_pack.colours import colour_maps, recolour
from examples.mini_pack.config import ClipConfig
from examples.mini_pack.dataset import Dataset
from examples.mini_pack.selfsup import crop
from examples.mini_pack.tokens import CONTEXT_LENGTH, Encoder
from examples.mini_pack.training import Batch, Clock, Draw, Schedule, train
from examples.mini_pack.vocabulary import LABEL_NAMES, STUFF, THINGS

Box = tuple[int, int, int]

_FIRST_STUFF: Final = 1 + len(THINGS)
_ATTEMPTS: Final = 10
"""Crops tried per scene."""


def model_config(config: ClipConfig, vocabulary_size: int, image_size: int) -> dict[str, Any]:
    """Return open_clip's ``model_cfg``."""
    return {
        "embed_dim": config.embedding,
        "vision_cfg": {
            "image_size": image_size,
            "layers": config.layers,
            "width": config.width,
            "head_width": 32,
            "patch_size": config.patch,
            "pool_type": "tok",
            "mlp_ratio": 4.0,
        },
        "text_cfg": {
            "context_length": CONTEXT_LENGTH,
            "vocab_size": vocabulary_size,
            "width": config.text_width,
            "heads": config.text_width // 32,
            "layers": config.text_layers,
        },
    }


class Towers(nn.Module):
    """Both towers in one call, so that one compilation covers them. Shares the model's parameters."""

    def __init__(self, model: CLIP) -> None:
        super().__init__()
        self.model = model

    def forward(self, pixels: Tensor, ids: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Unit-norm embeddings: images (B, E), their patches (B, T, E) and texts (B, E).

        Patches take the values of the last block in place of what it attends to (MaskCLIP, Zhou et al., ECCV 2022).
        """
        visual: Any = self.model.visual
        # the backward pass of the fused attention is slow on CPUs for so few tokens: half of a step
        with sdpa_kernel(SDPBackend.MATH) if pixels.device.type == "cpu" else nullcontext():
            tokens = visual._embeds(pixels)
            for block in visual.transformer.resblocks[:-1]:
                tokens = block(tokens)
            last = visual.transformer.resblocks[-1]
            whole = visual._pool(last(tokens))[0] @ visual.proj
            patches = visual.ln_post(tokens + _values(last, tokens))[:, 1:] @ visual.proj
            texts = self.model.encode_text(ids)
        return tuple(F.normalize(x.float(), dim=-1) for x in (whole, patches, texts))


def _values(block: Any, tokens: Tensor) -> Tensor:
    """What the attention of a block adds to each token when the token attends to itself alone."""
    attention, width = block.attn, tokens.shape[-1]
    values = F.linear(block.ln_1(tokens), attention.in_proj_weight[2 * width :], attention.in_proj_bias[2 * width :])
    return torch.as_tensor(block.ls_1(attention.out_proj(values)))


def contrastive_loss(images: Tensor, texts: Tensor, scale: Tensor, same: Tensor, skipped: Tensor) -> Tensor:
    """CLIP's symmetric loss, where all pairs with the same caption are positives.

    Args:
        images: (B, E), unit norm.
        texts: (B, E), unit norm.
        scale: Factor on the cosines (inverse temperature).
        same: bool (B, B), whether sample i and sample j have the same caption.
        skipped: bool (B, B), pairs that are neither positive nor negative; symmetric, none of them in `same`.

    Returns:
        A scalar.
    """
    logits = (scale * images @ texts.T).masked_fill(skipped, -1e4)
    target = same.float() / same.sum(1, keepdim=True)
    rows = -(target * F.log_softmax(logits, 1)).sum(1).mean()
    columns = -(target * F.log_softmax(logits.T, 1)).sum(1).mean()
    return (rows + columns) / 2


def draw_crop(data: Dataset, index: int, config: ClipConfig, rng: np.random.Generator) -> tuple[Box, str]:
    """A square part of a scene that a caption can describe, and that caption.

    Args:
        data: The scenes.
        index: Which scene.
        config: How far to crop.
        rng: Source of everything random.

    Returns:
        Top, left and side in pixels, and the caption; the whole scene with one of its own if none was found.
    """
    side = data.images.shape[1]
    total = np.bincount(data.labels[index].ravel(), minlength=len(LABEL_NAMES))
    for _ in range(_ATTEMPTS):
        size = int(rng.integers(round(config.smallest_crop * side), side))
        top, left = (int(rng.integers(side - size + 1)) for _ in range(2))
        inside = data.labels[index, top : top + size, left : left + size]
        counts = np.bincount(inside.ravel(), minlength=len(LABEL_NAMES))
        # an object is worth a word when most of it is in sight, or when it fills much of the crop
        there = np.flatnonzero(counts[1:_FIRST_STUFF]) + 1
        named = [
            label
            for label in there.tolist()
            if counts[label] > max(0.5 * total[label], 0.015 * inside.size) or counts[label] > 0.25 * inside.size
        ]
        if any(counts[label] > 0.04 * inside.size for label in there.tolist() if label not in named):
            continue  # neither named nor negligible
        stuff = counts[_FIRST_STUFF:]
        if not named and stuff.max() < 0.5 * inside.size:
            continue
        things = [THINGS[named[place] - 1] for place in rng.permutation(len(named)).tolist()]
        return (top, left, size), caption(things, STUFF[int(stuff.argmax())], False, rng)
    texts = data.captions[index]
    return (0, 0, side), texts[int(rng.integers(len(texts)))]


def box_means(patches: Tensor, boxes: Tensor, side: int) -> Tensor:
    """Mean patch embedding inside of boxes, each patch weighted with the share of it that is inside.

    Args:
        patches: (B, g * g, E).
        boxes: (B, 3): top, left and side in pixels.
        side: Side of the images in pixels.

    Returns:
        (B, E), unit norm.
    """
    grid = math.isqrt(patches.shape[1])
    cell = side / grid
    edges = torch.arange(grid, device=patches.device) * cell
    corners = boxes.float()

    def overlap(start: Tensor) -> Tensor:
        end = torch.minimum(edges + cell, (start + corners[:, 2])[:, None])
        return (end - torch.maximum(edges.expand(len(start), -1), start[:, None])).clamp(min=0)

    weights = overlap(corners[:, 0])[:, :, None] * overlap(corners[:, 1])[:, None, :]
    return F.normalize(torch.einsum("bt,bte->be", weights.flatten(1), patches), dim=-1)


def draw_light(scenes: int, config: ClipConfig, rng: np.random.Generator) -> Batch:
    """Draw the light of scenes, as far as `config` allows: what `relight` takes, each (B, C, 1, 1)."""

    def draw(low: float, high: float, channels: int) -> Tensor:
        return torch.from_numpy(rng.uniform(low, high, (scenes, channels, 1, 1))).float()

    return {
        "gain": draw(1 - config.gain, 1 + config.gain, 3),
        "contrast": draw(1 - config.contrast, 1 + config.contrast, 1),
        "offset": draw(-config.offset, config.offset, 1),
        "softness": draw(0, 1, 1) * (draw(0, 1, 1) < config.blurred),
    }


def relight(pictures: Tensor, light: Batch) -> Tensor:
    """Change colour, contrast about its mean, brightness and sharpness of pictures.

    Args:
        pictures: float (K, B, 3, S, S) in 0..255; K views of each of B scenes, which are changed alike.
        light: See `draw_light`.

    Returns:
        The same shape and range.
    """
    blurred = F.avg_pool2d(pictures.flatten(0, 1), 3, 1, 1, count_include_pad=False).view_as(pictures)
    pictures = pictures + light["softness"] * (blurred - pictures)
    grey = pictures.mean((-3, -2, -1), keepdim=True)
    return ((grey + (pictures - grey) * light["contrast"]) * light["gain"] + light["offset"]).clamp(0, 255)


def draw_pairs(data: Dataset, encoder: Encoder, config: ClipConfig, scenes: int) -> Draw:
    """What prepares batches of scenes, crops and captions; pictures are changed later, where they are needed."""

    def draw(generator: torch.Generator) -> Batch:
        rng = np.random.default_rng(int(torch.randint(2**62, (1,), generator=generator)))
        indices = rng.integers(len(data), size=scenes).tolist()
        drawn = [draw_crop(data, index, config, rng) for index in indices]
        texts = [data.captions[index][int(rng.integers(len(data.captions[index])))] for index in indices]
        texts += [text for _, text in drawn]
        batch = draw_light(scenes, config, rng) | {
            "images": torch.from_numpy(np.stack([data.images[index] for index in indices])),
            "boxes": torch.tensor([box for box, _ in drawn]),
            "mirrored": torch.tensor(rng.random() < 0.5),
            "texts": torch.from_numpy(np.unique(texts, return_inverse=True)[1].astype(np.int64)),
            "ids": torch.stack([encoder.encode(text).ids for text in texts]),
        }
        if config.recoloured:
            labels = torch.from_numpy(np.stack([data.labels[index] for index in indices]))
            changed = torch.rand(scenes, generator=generator) < config.recoloured
            matrices, offsets = colour_maps(scenes, generator)
            inside = (labels < _FIRST_STUFF) & changed[:, None, None]
            batch |= {"inside": inside, "matrices": matrices, "offsets": offsets}
        return batch

    return draw


def show_pairs(batch: Batch) -> tuple[Tensor, Tensor]:
    """The pictures of a batch of `draw_pairs`.

    Returns:
        float (2 * B, 3, S, S) in -1..1, scenes and then their crops; and the crops' boxes (B, 3) in the scenes.
    """
    whole = batch["images"].permute(0, 3, 1, 2).float()
    if "inside" in batch:
        whole = 255 * recolour(whole / 255, batch["inside"], batch["matrices"], batch["offsets"])
    side, boxes = whole.shape[-1], batch["boxes"]
    top, left, size = boxes.float().unbind(1)
    half = size / side
    parts = crop(whole, torch.stack([half, half, 2 * left / side - 1 + half, 2 * top / side - 1 + half], 1), side)
    # the same light for a scene and its crop: the one is to be what the other is a part of
    pixels = relight(torch.stack([whole, parts]), batch).flatten(0, 1) / 127.5 - 1
    mirrored = torch.stack([boxes[:, 0], side - boxes[:, 1] - boxes[:, 2], boxes[:, 2]], 1)
    flip = batch["mirrored"]
    return torch.where(flip, pixels.flip(-1), pixels), torch.where(flip, mirrored, boxes)


def train_clip(
    model: CLIP,
    encoder: Encoder,
    data: Dataset,
    folder: Path,
    config: ClipConfig,
    schedule: Schedule,
    clock: Clock,
    *,
    device: str,
    compiled: bool,
) -> None:
    """Train a CLIP model in place.

    Args:
        model: Starts from its current weights.
        encoder: Tokenizes captions.
        data: Training scenes.
        folder: For checkpoint and log.
        config: Settings of the crops and of the loss.
        schedule: How long and how fast.
        clock: When to stop.
        device: Where to train.
        compiled: Whether to compile the model.

    Raises:
        Stopped: If the clock ran out.
    """
    model.to(device).train()
    towers = Towers(model)
    forward = torch.compile(towers) if compiled else towers
    side = data.images.shape[1]
    scenes = schedule.batch // 2

    # what is said of a scene is mostly true of its crop as well: no negatives
    kin = torch.eye(scenes, dtype=torch.bool, device=device).repeat(2, 2)
    kin.fill_diagonal_(False)
    rows = torch.arange(2 * scenes, device=device)

    def loss(batch: Batch) -> tuple[Tensor, dict[str, Tensor]]:
        pixels, boxes = show_pairs(batch)
        same = batch["texts"][:, None] == batch["texts"]
        with torch.autocast(device, torch.bfloat16):
            images, patches, words = forward(pixels, batch["ids"])
        scale = model.logit_scale.exp().clamp(max=100)
        contrastive = contrastive_loss(images, words, scale, same, kin & ~same)
        inside = box_means(patches[:scenes], boxes, side)
        dense = 1 - (inside * images[scenes:].detach()).sum(-1).mean()
        right = same[rows, (images @ words.T).argmax(1)].float().mean()
        return contrastive + config.dense_weight * dense, {"loss": contrastive, "dense": dense, "right": right}

    train("clip", folder, {"clip": model}, schedule, draw_pairs(data, encoder, config, scenes), loss, clock)


def save_clip(model: CLIP, config: dict[str, Any], tokenizer_folder: Path, folder: Path) -> None:
    """Save a model as open_clip's ``local-dir:`` schema loads it, in half precision.

    Args:
        model: The model.
        config: Its ``model_cfg``.
        tokenizer_folder: A tokenizer saved by transformers; its files are copied.
        folder: Where to write.
    """
    folder.mkdir(parents=True, exist_ok=True)
    state = {key: value.detach().cpu().half().contiguous() for key, value in model.state_dict().items()}
    save_file(state, folder / "open_clip_model.safetensors", metadata={"format": "pt"})
    # any non-empty name makes open_clip read the tokenizer from the model's own folder
    text = {**config["text_cfg"], "hf_tokenizer_name": "local"}
    half = [0.5, 0.5, 0.5]
    preprocess = {"mean": half, "std": half, "interpolation": "bicubic", "resize_mode": "squash"}
    (folder / "open_clip_config.json").write_text(
        json.dumps({"model_cfg": {**config, "text_cfg": text}, "preprocess_cfg": preprocess}, indent=1),
        encoding="utf-8",
    )
    for file in sorted(tokenizer_folder.iterdir()):
        if file.is_file():
            shutil.copyfile(file, folder / file.name)
