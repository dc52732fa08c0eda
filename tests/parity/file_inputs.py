"""What both sides of `test_labels.py` are fed with: photographs as files, lists of classes, and networks.

Weights follow from their names, as in `inputs.py`, but are shaped. With plain random weights all texts are alike, and
so are all patches: rounding would decide the labels. Here the words of a text and the colours of a patch do. All
weights are numbers of half precision, as the published ones are, so that code which converts them loses nothing.
"""

from __future__ import annotations

import math
import re
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from PIL import Image
from torch import Tensor, nn

from ovseg_cli.backbones.clip import ClipBackbone
from ovseg_cli.backbones.vit import VitBackbone
from ovseg_cli.profiles import Weights
from tests.parity.inputs import Floats, noise, parameter
from tests.parity.networks import CLIP_SIZES, DINO_NAMES, DINO_SIZES, KnownModels

# --------------------------------------------------------------------------- pictures and words


def photographs() -> dict[str, npt.NDArray[np.uint8]]:
    """Two photographs, uint8 (H, W, 3): one lies, one stands, and no side is a whole number of patches."""
    from skimage import data

    return {"chelsea": data.chelsea(), "astronaut": np.ascontiguousarray(data.astronaut()[:501, 60:435])}


def write_photographs(folder: Path) -> dict[str, Path]:
    """The photographs as PNG files, by name."""
    files = {name: folder / f"{name}.png" for name in photographs()}
    for name, pixels in photographs().items():
        Image.fromarray(pixels).save(files[name])
    return files


CLASSES_5 = ("chair", "zebra", "person", "lobster", "bus")

CLASSES_60 = (
    *CLASSES_5,
    *("aeroplane", "bag", "bedclothes", "bench", "bicycle", "bird", "boat", "book", "bottle", "cat", "cabinet"),
    *("car", "rocket", "cloth", "computer", "cow", "cup", "dog", "flower", "food", "ground", "horse", "keyboard"),
    *("light", "motorbike", "mouse", "plate", "platform", "potted plant", "rock", "sheep", "sidewalk", "sign"),
    *("snow", "sofa", "track", "train", "truck", "tv monitor", "water", "helmet", "carpet", "blanket", "piano"),
    *("guitar", "flag", "umbrella", "pizza", "clock", "table", "tent", "violin", "bridge", "kettle", "whale"),
)

LISTS = {"5": CLASSES_5, "60": CLASSES_60}

SYNONYMS = {"person": ("person in shirt", "person in jeans"), "tv monitor": ("monitor", "screen")}
"""For methods whose class files have several words for a class."""

BACKGROUND = (
    *("sky", "wall", "tree", "wood", "grass", "road", "sea", "river", "mountain", "sands", "desk", "bed", "building"),
    *("cloud", "lamp", "door", "window", "wardrobe", "ceiling", "shelf", "curtain", "stair", "floor", "hill", "rail"),
    "fence",
)
"""The first line of `cls_voc21.txt` of SCLIP, NACLIP and ProxyCLIP."""


def words_of(name: str) -> tuple[str, ...]:
    """A class with its synonyms."""
    return (name, *SYNONYMS.get(name, ()))


def synonyms_of(classes: tuple[str, ...]) -> tuple[tuple[str, tuple[str, ...]], ...]:
    """The same as `SegmentOptions.synonyms`."""
    return tuple((name, SYNONYMS[name]) for name in classes if name in SYNONYMS)


# --------------------------------------------------------------------------- weights


def clip_parameter(name: str, shape: tuple[int, ...]) -> Floats:
    """One parameter of CLIP ViT-B/16 by its name in OpenAI's code, which open_clip shares."""
    if name == "logit_scale":
        return np.full(shape, math.log(100), np.float32)
    if name.startswith("visual."):
        return _halved(_vision_parameter(name, shape))
    return _halved(_text_parameter(name, shape))


def dino_parameter(name: str, shape: tuple[int, ...]) -> Floats:
    """One parameter of DINO ViT-B/8 by its name in DINO's code."""
    return _halved(_vision_parameter(name, shape))


def _halved(values: Floats) -> Floats:
    """The nearest numbers of half precision."""
    return values.astype(np.float16).astype(np.float32)


def _vision_parameter(name: str, shape: tuple[int, ...]) -> Floats:
    """Patches differ by what they show: smooth filters, faint positions, and attention to what is alike."""
    if len(shape) == 4:
        return _patch_filters(name, shape)
    values = parameter(name, shape)
    if name.endswith(("positional_embedding", "pos_embed")):
        return values * np.float32(0.1)
    if name.endswith(("attn.in_proj_weight", "attn.qkv.weight")):
        queries, keys, rest = np.split(values, 3)
        return np.concatenate([1.3 * queries, 1.3 * (0.8 * queries + 0.6 * keys), rest]).astype(np.float32)
    if name.endswith(("attn.out_proj.weight", "attn.proj.weight")):
        return values * np.float32(0.7)
    if name.endswith(("mlp.c_proj.weight", "mlp.fc2.weight")):
        return values * np.float32(1.1)
    return values


def _patch_filters(name: str, shape: tuple[int, ...]) -> Floats:
    """Filters of a patch embedding (D, 3, p, p): brightness and colour, coarse waves, and a little of every pixel."""
    side = shape[-1]
    waves = np.cos(np.arange(5)[:, None] * (np.arange(side) + 0.5) / side * np.pi)
    order = np.add.outer(np.arange(5), np.arange(5))
    factors = noise(name, (*shape[:2], 5, 5)) * np.where(order == 0, 1, 1.5 / np.maximum(order, 1))
    factors[..., 0, 0] += factors[..., 0, 0].mean(axis=1, keepdims=True)
    smooth = np.einsum("ocij,ih,jw->ochw", factors, waves, waves) / side**2
    return (smooth + 0.02 * parameter(f"{name}/fine", shape)).astype(np.float32)


def _text_parameter(name: str, shape: tuple[int, ...]) -> Floats:
    """The end token sees the words, and rare words more than common ones.

    The first half of the channels says where a token is and that it is there, the second what it means; values and the
    projection read the second. The first block gathers the words, the others change little: as attention is nearly
    even, blocks of equal strength would make all texts one.
    """
    values = parameter(name, shape)
    half = shape[-1] // 2
    if name == "positional_embedding":
        values[:, half:] *= np.float32(0.2)
        return values
    if name == "token_embedding.weight":
        values *= np.float32(2)
        # The numbers of words rise as they become rarer; the last two are the start and the end.
        values[:, half:] *= np.clip(np.arange(len(values), dtype=np.float32) / 2500, 0, 1)[:, None] ** 2
        values[-2:] *= np.float32(0.5)
        values[-2:, half:] *= np.float32(0.05)
        return values
    if name.endswith("bias"):
        return values * np.float32(0.1)
    if name.endswith("in_proj_weight"):
        values *= np.float32(0.7)
        rows = values[2 * (shape[0] // 3) :]
        rows /= np.float32(0.7)
        rows[:, :half] *= np.float32(0.05)
        return values
    if name.endswith("out_proj.weight"):
        return values * np.float32(3 if ".0." in name else 0.3)
    if name.endswith("mlp.c_proj.weight"):
        return values * np.float32(0.1)
    if name == "text_projection":
        values[: shape[0] // 2] *= np.float32(0.05)
    return values


# --------------------------------------------------------------------------- networks


def clip_state(context: int = 77) -> dict[str, Tensor]:
    """The weights of CLIP ViT-B/16 as OpenAI's `state_dict` names them.

    Args:
        context: How many tokens of a text there is room for. What stands behind a text's end changes nothing.
    """
    import open_clip

    sizes = dict(CLIP_SIZES["true"])
    with torch.device("meta"):
        model = open_clip.CLIP(**sizes, quick_gelu=True)
    shapes = {name: tuple(tensor.shape) for name, tensor in model.named_parameters()}
    state = {name: torch.from_numpy(clip_parameter(name, shape)) for name, shape in shapes.items()}
    state["positional_embedding"] = state["positional_embedding"][:context].clone()
    return state


@torch.no_grad()
def clip_backbone() -> ClipBackbone:
    """open_clip's CLIP ViT-B/16."""
    import open_clip

    model = open_clip.CLIP(**CLIP_SIZES["true"], quick_gelu=True)
    for name, tensor in model.named_parameters():
        tensor.copy_(torch.from_numpy(clip_parameter(name, tuple(tensor.shape))))
    return ClipBackbone(model, open_clip.get_tokenizer("ViT-B-16-quickgelu"), "cpu")


@torch.no_grad()
def fill_dino(model: nn.Module) -> None:
    """Fill DINO's own ViT-B/8."""
    for name, tensor in model.named_parameters():
        tensor.copy_(torch.from_numpy(dino_parameter(name, tuple(tensor.shape))))
    model.eval().requires_grad_(False)


@torch.no_grad()
def dino_backbone() -> VitBackbone:
    """transformers' ViT-B/8 with the same weights."""
    from transformers import ViTConfig, ViTModel

    config = ViTConfig(patch_size=8, image_size=224, **DINO_SIZES["true"])
    model = ViTModel(config, add_pooling_layer=False)
    for name, tensor in model.named_parameters():
        tensor.copy_(torch.from_numpy(_renamed_dino_parameter(name, tuple(tensor.shape))))
    return VitBackbone(model.eval(), "cpu")


def _renamed_dino_parameter(name: str, shape: tuple[int, ...]) -> Floats:
    """Queries, keys and values are thirds of one matrix in DINO's own code."""
    third = re.search(r"attention\.([qkv])_proj\.", name)
    if third:
        name, shape = name.replace(third.group(), "attn.qkv."), (3 * shape[0], *shape[1:])
    for ours, theirs in DINO_NAMES.items():
        name = name.replace(ours, theirs)
    values = dino_parameter(name, shape)
    return np.split(values, 3)["qkv".index(third.group(1))] if third else values


class LabelModels(KnownModels):
    """The profile `sd15` with these CLIP and DINO; it has nothing else."""

    def __init__(self) -> None:
        super().__init__("true")

    def _get(self, kind: type[Any], weights: Weights) -> Any:
        if (kind, weights) not in self._loaded:
            self._loaded[kind, weights] = {ClipBackbone: clip_backbone, VitBackbone: dino_backbone}[kind]()
        return self._loaded[kind, weights]
