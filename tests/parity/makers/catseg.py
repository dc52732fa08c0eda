"""Makes tests/parity/golden/catseg-*.npz by running CAT-Seg's published code (no test; needs its checkout).

    python -m tests.parity.makers.catseg SIZE... --code DIR [--environment DIR]

with DIR a checkout of github.com/cvlab-kaist/CAT-Seg (commit 6d3a188a, MIT). Its `CATSeg`, `CATSegHead`,
`CATSegPredictor`, `Aggregator` and CLIP run as they are; what they import of detectron2 and fvcore is put in place by
empty decorators, and texts come as tokens, so that no weights are downloaded. `--environment` has einops.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from tests.parity.catseg import CASES, CONTEXT, VOCABULARY, Case, photograph, tokens
from tests.parity.inputs import fill, sample, write_golden
from tests.parity.make_clip_family import load, module


class _List:
    """detectron2's `ImageList` of one picture, padded to a multiple of `divisible`."""

    def __init__(self, tensor: Tensor, sizes: list[tuple[int, int]]) -> None:
        self.tensor, self.image_sizes = tensor, sizes

    @classmethod
    def from_tensors(cls, tensors: list[Tensor], divisible: int) -> _List:
        (image,) = tensors
        height, width = image.shape[-2:]
        right, bottom = -width % max(1, divisible), -height % max(1, divisible)
        return cls(F.pad(image, (0, right, 0, bottom))[None], [(height, width)])


class _Registry:
    """Registers nothing."""

    def register(self) -> Callable[[type], type]:
        return lambda cls: cls


def postprocess(result: Tensor, size: tuple[int, int], height: int, width: int) -> Tensor:
    """detectron2's `sem_seg_postprocess`."""
    cut = result[:, : size[0], : size[1]].expand(1, -1, -1, -1)
    return F.interpolate(cut, size=(height, width), mode="bilinear", align_corners=False)[0]


def published(code: Path) -> tuple[Any, Any, Any, Any]:
    """The modules of the published code: the model, the head, the predictor, CLIP."""
    same = lambda function: function  # noqa: E731
    module("detectron2")
    module("detectron2.config", configurable=same)
    module("detectron2.data", MetadataCatalog=None)
    registry = _Registry()
    module(
        "detectron2.modeling",
        META_ARCH_REGISTRY=registry,
        SEM_SEG_HEADS_REGISTRY=registry,
        build_backbone=None,
        build_sem_seg_head=None,
    )
    module("detectron2.modeling.backbone", Backbone=object)
    module("detectron2.modeling.postprocessing", sem_seg_postprocess=postprocess)
    module("detectron2.structures", ImageList=_List)
    module("detectron2.layers", Conv2d=nn.Conv2d, ShapeSpec=None, get_norm=None)
    module("detectron2.utils")
    module("detectron2.utils.memory", _ignore_torch_cuda_oom=same)
    module("fvcore")
    module("fvcore.nn")
    module("fvcore.nn.weight_init")
    sys.modules["fvcore.nn"].weight_init = sys.modules["fvcore.nn.weight_init"]  # type: ignore[attr-defined]
    for name in ("cat_seg", "cat_seg.third_party", "cat_seg.modeling", "cat_seg.modeling.transformer"):
        module(name)
    module("cat_seg.third_party.clip")
    module("cat_seg.third_party.imagenet_templates")
    third = sys.modules["cat_seg.third_party"]
    third.clip, third.imagenet_templates = None, None  # type: ignore[attr-defined]
    root = code / "cat_seg"
    clip = load("cat_seg.third_party.model_vpt", root / "third_party/model_vpt.py")
    load("cat_seg.modeling.transformer.model", root / "modeling/transformer/model.py")
    predictor = load(
        "cat_seg.modeling.transformer.cat_seg_predictor", root / "modeling/transformer/cat_seg_predictor.py"
    )
    module("cat_seg.modeling.heads")
    head = load("cat_seg.modeling.heads.cat_seg_head", root / "modeling/heads/cat_seg_head.py")
    return load("cat_seg.cat_seg_model", root / "cat_seg_model.py"), head, predictor, clip


def build(case: Case, modules: tuple[Any, Any, Any, Any], *, pool: int) -> Any:
    """The whole published model with made-up weights; texts are the case's tokens."""
    whole, heads, predictors, clip_code = modules
    tower, (text_width, text_layers) = case.tower, case.text
    clip = clip_code.CLIP(
        tower.embed, case.trained_for, tower.layers, tower.width, tower.patch,
        CONTEXT, VOCABULARY, text_width, text_width // 64, text_layers, prompt_depth=0, prompt_length=0,
    )  # fmt: skip
    fill(clip, "clip.")
    aggregator = sys.modules["cat_seg.modeling.transformer.model"].Aggregator(  # type: ignore[attr-defined]
        text_guidance_dim=tower.embed,
        text_guidance_proj_dim=case.guidance,
        appearance_guidance_dim=tower.embed,
        appearance_guidance_proj_dim=case.guidance,
        decoder_dims=case.decoder,
        decoder_guidance_dims=case.hooks,
        decoder_guidance_proj_dims=case.decoder_guidance,
        num_layers=2,
        nheads=4,
        hidden_dim=case.hidden,
        pooling_size=(pool, pool),
        feature_resolution=(24, 24),
        window_size=12,
        prompt_channel=1,
        pad_len=256,
    )
    fill(aggregator, "aggregator.")
    predictor = predictors.CATSegPredictor.__new__(predictors.CATSegPredictor)
    nn.Module.__init__(predictor)
    predictor.class_texts = predictor.test_class_texts = predictor.prompt_templates = None
    predictor.clip_model, predictor.transformer = clip, aggregator
    predictor.tokens, predictor.cache = tokens(case), None
    head = heads.CATSegHead(
        num_classes=case.names, ignore_value=255, feature_resolution=[24, 24], transformer_predictor=predictor
    )
    model = whole.CATSeg(
        backbone=None, sem_seg_head=head, size_divisibility=384,
        pixel_mean=(123.675, 116.280, 103.530), pixel_std=(58.395, 57.120, 57.375),
        clip_pixel_mean=(122.7709383, 116.7460125, 104.09373615), clip_pixel_std=(68.5005327, 66.6321579, 70.3231630),
        train_class_json="", test_class_json="", sliding_window=False, clip_finetune="attention",
        backbone_multiplier=0.0, clip_pretrained=case.name,
    )  # fmt: skip
    model.upsample1 = nn.ConvTranspose2d(tower.width, case.hooks[0], kernel_size=2, stride=2)
    model.upsample2 = nn.ConvTranspose2d(tower.width, case.hooks[1], kernel_size=4, stride=4)
    fill(model.upsample1, "upsample1.")
    fill(model.upsample2, "upsample2.")
    return model.eval()


@torch.no_grad()
def run(size: str, modules: tuple[Any, Any, Any, Any]) -> dict[str, np.ndarray]:
    """What the published code gives: logits of the whole picture, and the probabilities of its sliding windows."""
    case, values = CASES[size], {}
    for pool in (1, 2) if size != "many" else (1,):
        model = build(case, modules, pool=pool)
        logits: list[Tensor] = []
        model.sem_seg_head.predictor.transformer.register_forward_hook(lambda _m, _i, out, to=logits: to.append(out))
        square = F.interpolate(photograph()[None], (384, 384), mode="bilinear", align_corners=False)[0]
        model([{"image": square, "height": 384, "width": 384}])
        values[f"logits_pool{pool}"] = sample(f"catseg/{size}", logits[0], 4000)
        if pool == 1 and size != "many":
            model.sliding_window = True
            (found,) = model([{"image": photograph(), "height": 300, "width": 420}])
            values["sliding"] = sample(f"catseg/{size}/sliding", found["sem_seg"], 4000)
    return values


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("sizes", nargs="+", choices=list(CASES))
    parser.add_argument("--code", type=Path, required=True)
    parser.add_argument("--environment", type=Path)
    arguments = parser.parse_args()
    if arguments.environment is not None:
        sys.path.append(str(arguments.environment))
    modules = published(arguments.code)
    for size in arguments.sizes:
        write_golden(f"catseg-{size}", run(size, modules))
        print(size)


if __name__ == "__main__":
    main()
