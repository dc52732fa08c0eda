"""Makes tests/parity/golden/<method>-<size>.npz by running the published code of one CLIP method (no test).

    python -m tests.parity.makers.clip_family METHOD SIZE --code DIR [--dino DIR] [--environment DIR]

One method a run, for their packages have the same names. DIR is a checkout of the method's repository; README.md
beside this file names the commits and says what is put in place of what is missing. None of that code is here.
"""

from __future__ import annotations

import argparse
import importlib
import importlib.machinery
import math
import sys
import types
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from tests.parity.clip_family import CLIP_NORM, SIDES, TOWERS, Tower, cosines, made_up_features, normalised, texts
from tests.parity.inputs import fill, parameter, sample, write_golden

Run = Callable[[Tensor, int], dict[str, Tensor]]
"""A normalised picture and its side to arrays by name."""


def module(name: str, **contents: Any) -> types.ModuleType:
    """An importable module, or package, that holds only this."""
    made = types.ModuleType(name)
    made.__spec__ = importlib.machinery.ModuleSpec(name, None)
    made.__path__ = []
    made.__dict__.update(contents)
    sys.modules[name] = made
    return made


def load(name: str, path: Path) -> Any:
    """A module from a file, without its package's `__init__`."""
    made = types.ModuleType(name)
    made.__file__ = str(path)
    made.__package__ = name.rpartition(".")[0]
    sys.modules[name] = made
    importlib.machinery.SourceFileLoader(name, str(path)).exec_module(made)
    return made


def openai_tower(source: Any, tower: Tower) -> Any:
    """The image tower of a copy of OpenAI's `clip/model.py`."""
    visual = source.VisionTransformer(224, tower.patch, tower.width, tower.layers, tower.heads, tower.embed)
    fill(visual, "visual.")
    return visual


def open_clip_tower(source: Any, tower: Tower) -> Any:
    """The image tower of a copy of open_clip 2.23."""
    visual = source.VisionTransformer(
        image_size=224,
        patch_size=tower.patch,
        width=tower.width,
        layers=tower.layers,
        heads=tower.heads,
        mlp_ratio=4.0,
        output_dim=tower.embed,
        act_layer=source.QuickGELU,
    )
    fill(visual, "visual.")
    return visual


# --------------------------------------------------------------------------- one function a method


def maskclip(code: Path, tower: Tower, _arguments: argparse.Namespace) -> Run:
    """`mmseg/models/backbones/vit.py` with the settings of `maskclip_vit16.py`; tokens in reading order."""
    install_mmcv()
    for name in ("mmseg", "mmseg.models", "mmseg.models.backbones"):
        module(name)
    module("mmseg.ops", resize=F.interpolate)
    module("mmseg.utils", get_root_logger=None)
    module("mmseg.models.builder", BACKBONES=Registry())
    module("mmseg.models.utils")
    embed = load("mmseg.models.utils.embed", code / "mmseg/models/utils/embed.py")
    sys.modules["mmseg.models.utils"].PatchEmbed = embed.PatchEmbed  # type: ignore[attr-defined]
    vit = load("mmseg.models.backbones.vit", code / "mmseg/models/backbones/vit.py")
    visual = vit.VisionTransformer(
        img_size=(224, 224),
        patch_size=tower.patch,
        patch_bias=False,
        embed_dims=tower.width,
        num_layers=tower.layers,
        num_heads=tower.heads,
        out_indices=-1,
        norm_cfg={"type": "LN", "eps": 1e-6},
        act_cfg={"type": "GELU"},
        pre_norm=True,
        final_norm=True,
        return_qkv=True,
        interpolate_mode="bicubic",
    )
    # The names that convert_clip_weights.py gives; "ln_1" of a block and "ln_post" both become "ln1".
    renamed = {
        "cls_token": "class_embedding",
        "pos_embed": "positional_embedding",
        "patch_embed.projection.weight": "conv1.weight",
        **{f"ln{place}.{leaf}": f"ln_{old}.{leaf}" for place, old in ((0, "pre"), (1, "post")) for leaf in LEAVES},
    }
    parts = {"ffn.layers.0.0": "mlp.c_fc", "ffn.layers.1": "mlp.c_proj", "layers.": "transformer.resblocks."}
    parts |= {"attn.attn": "attn", ".ln1": ".ln_1", ".ln2": ".ln_2"}
    with torch.no_grad():
        for name, tensor in visual.named_parameters():
            theirs = renamed.get(name)
            if theirs is None:
                theirs = name
                for ours, published in parts.items():
                    theirs = theirs.replace(ours, published)
            shape = tuple(tensor.shape[1 if theirs == "positional_embedding" else 2 if "class_" in theirs else 0 :])
            tensor.copy_(torch.from_numpy(np.asarray(parameter("visual." + theirs, shape))).view(tensor.shape))
    visual.eval()
    proj = torch.from_numpy(parameter("visual.proj", (tower.width, tower.embed)))

    def run(image: Tensor, _side: int) -> dict[str, Tensor]:
        ((_, _, _, values),) = visual(image)
        return {"cosines": cosines(values.flatten(2).mT @ proj, tower)}

    return run


LEAVES = ("weight", "bias")


def sclip(code: Path, tower: Tower, _arguments: argparse.Namespace) -> Run:
    """`VisionTransformer.forward` of `clip/model.py`, with the class token."""
    visual = openai_tower(load("sclip_model", code / "clip/model.py"), tower)
    return lambda image, _side: {"cosines": cosines(visual(image, return_all=True, csa=True), tower)}


def clearclip(code: Path, tower: Tower, _arguments: argparse.Namespace) -> Run:
    """`VisionTransformer.forward` of `open_clip/transformer.py`, with the class token where it gives it."""
    sys.path.insert(0, str(code))
    visual = open_clip_tower(importlib.import_module("open_clip.transformer"), tower)
    return lambda image, _side: {"cosines": cosines(visual(image, "ClearCLIP", True), tower)}


def naclip(code: Path, tower: Tower, _arguments: argparse.Namespace) -> Run:
    """`VisionTransformer.forward` of `clip/model.py`, with the class token."""
    visual = openai_tower(load("naclip_model", code / "clip/model.py"), tower)
    visual.set_params("reduced", "naclip", 5.0)
    return lambda image, _side: {"cosines": cosines(visual(image, return_all=True), tower)}


def clipsurgery(code: Path, tower: Tower, _arguments: argparse.Namespace) -> Run:
    """`VisionTransformer.forward` of `clip/clip_surgery_model.py` and `clip_feature_surgery` of `clip/clip.py`."""
    import packaging.version  # noqa: F401  (clip.py has it from setuptools)

    module("pkg_resources", packaging=sys.modules["packaging"])
    sys.path.insert(0, str(code))
    clip = importlib.import_module("clip.clip")
    visual = openai_tower(importlib.import_module("clip.clip_surgery_model"), tower)

    def run(image: Tensor, _side: int) -> dict[str, Tensor]:
        features = F.normalize(visual(image), dim=-1)
        words = texts(tower)
        return {
            "cosines": cosines(features, tower),
            "similarity": clip.clip_feature_surgery(features, words)[0].T,
            "single": clip.clip_feature_surgery(features, words[:1], words[1:2])[0].T,
        }

    return run


def proxyclip(code: Path, tower: Tower, arguments: argparse.Namespace) -> Run:
    """`ProxyCLIPSegmentation.forward_feature` of `proxyclip_segmentor.py`, with DINO ViT-B/8, in float32."""
    for name in ("mmseg", "mmseg.models", "mmengine", "segment_anything", "mae"):
        module(name)
    module("mmseg.models.segmentors", BaseSegmentor=nn.Module)
    module("mmseg.models.data_preprocessor", SegDataPreProcessor=None)
    module("mmengine.structures", PixelData=None)
    module("mmseg.registry", MODELS=Registry())
    sys.modules["segment_anything"].sam_model_registry = None  # type: ignore[attr-defined]
    module("mae.models_vit")
    module("mae.pos_embed", interpolate_pos_embed=None)
    module("openpyxl")
    sys.path[:0] = [str(code), str(arguments.environment)]
    segmentor = importlib.import_module("proxyclip_segmentor")
    visual = open_clip_tower(importlib.import_module("open_clip.transformer"), tower)
    model = segmentor.ProxyCLIPSegmentation.__new__(segmentor.ProxyCLIPSegmentation)
    nn.Module.__init__(model)
    model.clip = types.SimpleNamespace(
        visual=visual,
        encode_image=lambda image, external_feats, beta, gamma: visual(image, external_feats, beta, gamma),
    )
    model.vfm_model, model.vfm = "dino", dino(arguments.dino, arguments.size)
    model.unnorm = segmentor.UnNormalize(CLIP_NORM["mean"], CLIP_NORM["std"])
    model.norm = segmentor.transforms.Normalize([0.485, 0.456, 0.406], [0.229, 0.224, 0.225])
    model.query_features, model.beta, model.gamma = texts(tower), 1.2, 3.0
    torch.Tensor.half = lambda tensor: tensor  # type: ignore[method-assign,assignment]

    def run(image: Tensor, side: int) -> dict[str, Tensor]:
        logits = model.forward_feature(image, logit_size=(side // 8, side // 8))
        tokens = model.vfm.get_intermediate_layers(model.norm(model.unnorm(image[0]))[None])[0][0, 1:]
        values = {
            "cosines": logits[0].flatten(1),
            "dino": torch.from_numpy(sample("clip-family/dino", tokens.mT, 2000)),
        }
        if side == 224:
            values["made_up"] = cosines(visual(image, made_up_features(), 1.2, 3.0), tower)
        return values

    return run


def dino(folder: Path, size: str) -> Any:
    """DINO ViT-B/8, or a narrow one."""
    sys.path.insert(0, str(folder))
    source = load("dino_transformer", folder / "vision_transformer.py")
    wide = {"embed_dim": 48, "depth": 3, "num_heads": 3}
    if size != "narrow":
        wide = {"embed_dim": 768, "depth": 12, "num_heads": 12}
    model = source.VisionTransformer(
        patch_size=8, mlp_ratio=4, qkv_bias=True, norm_layer=lambda width: nn.LayerNorm(width, eps=1e-6), **wide
    )
    fill(model)
    return model


def gem(code: Path, tower: Tower, arguments: argparse.Namespace) -> Run:
    """`GEMWrapper` around the image tower of open_clip 2.23."""
    module("cv2")
    module("matplotlib")
    module("matplotlib.pyplot")
    sys.path[:0] = [str(code), str(arguments.environment)]
    wrapper = importlib.import_module("gem.gem_wrapper")
    model: Any = nn.Module()
    model.visual = open_clip_tower(importlib.import_module("open_clip.transformer"), tower)
    wrapped = wrapper.GEMWrapper(model, None)
    return lambda image, _side: {"cosines": cosines(wrapped.model.visual(image)[0], tower)}


# --------------------------------------------------------------------------- what mmcv 1 had


class Registry:
    """Registers nothing."""

    def register_module(self, *_arguments: Any, **_settings: Any) -> Callable[[type], type]:
        return lambda cls: cls


class Attention(nn.Module):
    """mmcv 1's `MultiheadAttention`: torch's, with the residual."""

    def __init__(self, embed_dims: int, num_heads: int, bias: bool, **_settings: Any) -> None:
        super().__init__()
        self.attn = nn.MultiheadAttention(embed_dims, num_heads, bias=bias, batch_first=True)

    def forward(self, x: Tensor, identity: Tensor) -> Tensor:
        return identity + self.attn(x, x, x, need_weights=False)[0]


class FeedForward(nn.Module):
    """mmcv 1's `FFN`: two layers, with the residual."""

    def __init__(self, embed_dims: int, feedforward_channels: int, **_settings: Any) -> None:
        super().__init__()
        first = nn.Sequential(nn.Linear(embed_dims, feedforward_channels), nn.GELU())
        self.layers = nn.Sequential(first, nn.Linear(feedforward_channels, embed_dims))

    def forward(self, x: Tensor, identity: Tensor) -> Tensor:
        return identity + self.layers(x)


class Base(nn.Module):
    """mmcv 1's `BaseModule`: a module with a way to be initialised."""

    def __init__(self, init_cfg: Any = None) -> None:
        super().__init__()
        self.init_cfg = init_cfg


def install_mmcv() -> None:
    """Names that MaskCLIP's transformer imports from mmcv 1, which does not build today."""
    module("mmcv")
    module(
        "mmcv.cnn",
        build_norm_layer=lambda cfg, width, postfix: (f"ln{postfix}", nn.LayerNorm(width, eps=cfg["eps"])),
        build_conv_layer=lambda cfg, **settings: nn.Conv2d(**settings),
    )
    module("mmcv.cnn.bricks")
    module("mmcv.cnn.bricks.transformer", FFN=FeedForward, MultiheadAttention=Attention)
    module("mmcv.cnn.utils")
    module("mmcv.cnn.utils.weight_init", constant_init=None, kaiming_init=None, trunc_normal_=None)
    module("mmcv.runner", BaseModule=Base, ModuleList=nn.ModuleList, _load_checkpoint=None)
    module("mmcv.runner.base_module", BaseModule=Base)
    module("mmcv.utils", to_2tuple=lambda value: value if isinstance(value, tuple) else (value, value))


# --------------------------------------------------------------------------- all

METHODS = {
    "maskclip": maskclip,
    "sclip": sclip,
    "clearclip": clearclip,
    "naclip": naclip,
    "clipsurgery": clipsurgery,
    "proxyclip": proxyclip,
    "gem": gem,
}


def main() -> None:
    """Make the arrays of one method and size."""
    parser = argparse.ArgumentParser(description="Make golden arrays by running the published code of a CLIP method.")
    parser.add_argument("method", choices=METHODS)
    parser.add_argument("size", choices=TOWERS)
    parser.add_argument("--code", type=Path, required=True)
    parser.add_argument("--dino", type=Path)
    parser.add_argument("--environment", type=Path, help="folder with open_clip 2.23 (GEM) and einops")
    arguments = parser.parse_args()
    run = METHODS[arguments.method](arguments.code, TOWERS[arguments.size], arguments)
    values: dict[str, Any] = {}
    for side in SIDES[arguments.size]:
        with torch.no_grad():
            for name, array in run(normalised(side, **CLIP_NORM), side).items():
                print(side, name, tuple(array.shape), float(array.std()), math.isfinite(float(array.sum())), flush=True)
                values[f"{name}_{side}"] = array.numpy().astype(np.float32)
    write_golden(f"{arguments.method}-{arguments.size}", values)


if __name__ == "__main__":
    main()
