"""Dense CLIP features from another attention in the last block: MaskCLIP, SCLIP, ClearCLIP and NACLIP.

CLIP is trained on its class token alone, and the attention of its last block mixes the patches. Each of these methods
replaces that attention by one in which a patch looks at itself and at what is like it; they differ in what "like it"
means and in what is left of the block around the attention:

=========  =====================================  ========  ============
method     attention over the values              residual  feed-forward
=========  =====================================  ========  ============
MaskCLIP   none: each token keeps its own         kept      kept
SCLIP      softmax(q q') + softmax(k k')          kept      kept
ClearCLIP  softmax(q q')                          dropped   dropped
NACLIP     softmax(k k' + Gaussian neighbourhood) dropped   dropped
=========  =====================================  ========  ============

Products are divided by sqrt(d). The class token takes part like any patch, except in NACLIP's neighbourhood. Every
function takes the trace of the last block and returns tokens (B, N, D), class token first, to be projected into the
text space by `ClipBackbone.embed`. Attention matrices are never held for all heads at once.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from ovseg_cli.backbones.clip import BlockTrace
from ovseg_cli.methods.background import ONE_WORD, SCLIP_WORDS
from ovseg_cli.profiles.specs import IMAGENET_MEAN, IMAGENET_STD, DenseDefaults

# Settings by data set: the configurations of the published code. mmcv resizes pictures with OpenCV, and no side becomes
# longer than 2048 pixels.

_MMCV: dict[str, Any] = {"long_side": 2048, "resample": "bilinear", "patches": "floor"}

MASKCLIP_ROWS: Mapping[str, DenseDefaults] = MappingProxyType(
    {
        name: DenseDefaults(
            short_side=short_side,
            long_side=long_side,
            resample="bilinear",
            whole_image=True,
            patches="pad",
            mean=IMAGENET_MEAN,
            std=IMAGENET_STD,
            templates="imagenet-scene",
            logit_scale=100.0,
            positions="bicubic-sharp",
        )
        for name, short_side, long_side in (
            ("voc20", 512, 2048),
            ("context59", 520, 520),
            ("coco-stuff", 512, 2048),
        )
    }
)
"""chongzhou96/MaskCLIP, `configs/maskclip/maskclip_vit16_*.py`.

It has no background. Pictures are normalised with ImageNet's numbers, and padded to whole patches. Cosines are
multiplied by 100 where it needs probabilities (`maskclip_head.py`).
"""

_SCLIP: dict[str, Any] = {**_MMCV, "windows": ((224, 112),), "positions": "bicubic-tenth"}

SCLIP_ROWS: Mapping[str, DenseDefaults] = MappingProxyType(
    {
        "voc21": DenseDefaults(
            **_SCLIP,
            short_side=336,
            logit_scale=65.0,
            background_words=SCLIP_WORDS,
            threshold=0.1,
            area_threshold=0.1,
        ),
        "voc20": DenseDefaults(**_SCLIP, short_side=336),
        "context60": DenseDefaults(
            **_SCLIP, short_side=336, logit_scale=50.0, background_words=ONE_WORD, threshold=0.1
        ),
        "context59": DenseDefaults(**_SCLIP, short_side=336),
        "coco-object": DenseDefaults(
            **_SCLIP, short_side=336, logit_scale=50.0, background_words=SCLIP_WORDS, threshold=0.1
        ),
        "coco-stuff": DenseDefaults(**_SCLIP, short_side=448),
        "ade150": DenseDefaults(**_SCLIP, short_side=336),
        "cityscapes": DenseDefaults(**_SCLIP, short_side=560),
    }
)
"""wangf3014/SCLIP, `configs/cfg_*.py`. On VOC, classes that cover less than a tenth of the foreground are dropped."""

_CLEARCLIP: dict[str, Any] = {
    **_MMCV,
    "short_side": 448,
    "windows": ((448, 224),),
    "logit_scale": 50.0,
    "positions": "bicubic-tenth",
}

CLEARCLIP_ROWS: Mapping[str, DenseDefaults] = MappingProxyType(
    {
        "voc21": DenseDefaults(**_CLEARCLIP, background_words=ONE_WORD, threshold=0.5),
        "voc20": DenseDefaults(**_CLEARCLIP),
        "context60": DenseDefaults(**_CLEARCLIP, background_words=ONE_WORD, threshold=0.15),
        "context59": DenseDefaults(**_CLEARCLIP),
        "coco-object": DenseDefaults(**_CLEARCLIP, background_words=ONE_WORD, threshold=0.4),
        "coco-stuff": DenseDefaults(**_CLEARCLIP),
        "ade150": DenseDefaults(**_CLEARCLIP),
        "cityscapes": DenseDefaults(**_CLEARCLIP | {"windows": ((224, 224),)}),
    }
)
"""mc-lan/ClearCLIP, `clearclip_segmentor.py` and `configs/cfg_*.py`."""

_NACLIP: dict[str, Any] = {**_MMCV, "positions": "bicubic-tenth", "refine": "pamr"}
_NACLIP_WINDOWS: dict[str, Any] = {**_NACLIP, "short_side": 336, "windows": ((224, 112),)}
_NACLIP_WHOLE: dict[str, Any] = {**_NACLIP, "short_side": 336, "whole_image": True}

NACLIP_ROWS: Mapping[str, DenseDefaults] = MappingProxyType(
    {
        "voc21": DenseDefaults(**_NACLIP_WHOLE, background_words=SCLIP_WORDS, threshold=0.1),
        "voc20": DenseDefaults(**_NACLIP_WHOLE),
        "context60": DenseDefaults(**_NACLIP_WINDOWS, background_words=ONE_WORD, threshold=0.1),
        "context59": DenseDefaults(**_NACLIP_WINDOWS),
        "coco-object": DenseDefaults(**_NACLIP_WINDOWS, background_words=SCLIP_WORDS, threshold=0.1),
        "coco-stuff": DenseDefaults(**_NACLIP_WINDOWS),
        "ade150": DenseDefaults(**_NACLIP_WINDOWS),
        "cityscapes": DenseDefaults(**_NACLIP_WINDOWS | {"short_side": 560}),
    }
)
"""sinahmr/NACLIP, `naclip.py` and `configs/cfg_*.py`. Its numbers are after PAMR, which is on by default."""

NACLIP_STD = 5.0
"""Standard deviation of NACLIP's neighbourhood in patches (`gaussian_std`)."""


def maskclip_tokens(last: BlockTrace) -> Tensor:
    """MaskCLIP: every token keeps its own value (Zhou et al., "Extract Free Dense Labels from CLIP", ECCV 2022).

    The paper describes CLIP's ResNet, whose attention pooling has neither a residual nor a feed-forward part. For
    vision transformers this follows the authors' code (`mmseg/models/backbones/vit.py`), which keeps both. ClearCLIP's
    re-implementation under the same name drops both by default: ``last.project(last.values)``.

    Args:
        last: The last block.

    Returns:
        (B, N, D), class token first.
    """
    return last.feed_forward(last.inputs + last.project(last.values))


def sclip_tokens(last: BlockTrace) -> Tensor:
    """SCLIP: correlative self-attention (Wang et al., "SCLIP", ECCV 2024).

    The two attentions are added, so that a token's weights sum to two, as in the paper and its code.

    Args:
        last: The last block.

    Returns:
        (B, N, D), class token first.
    """
    mixed = _attend(last.queries, last.values) + _attend(last.keys, last.values)
    return last.feed_forward(last.inputs + last.project(mixed))


def clearclip_tokens(last: BlockTrace) -> Tensor:
    """ClearCLIP: query-query attention and nothing else (Lan et al., "ClearCLIP", ECCV 2024).

    Args:
        last: The last block.

    Returns:
        (B, N, D), class token first.
    """
    return last.project(_attend(last.queries, last.values))


def naclip_tokens(last: BlockTrace, grid: tuple[int, int], *, std: float = NACLIP_STD) -> Tensor:
    """NACLIP: key-key attention that favours a patch's neighbours.

    Hajimiri et al., "Pay Attention to Your Neighbours", WACV 2025; `arch="reduced"` in its code.

    Args:
        last: The last block.
        grid: (rows, columns) of patches.
        std: Standard deviation of the neighbourhood in patches, above 0. Infinite makes all patches neighbours alike:
            all weights between patches gain 1, those from and to the class token nothing.

    Returns:
        (B, N, D), class token first.

    Raises:
        ValueError: `std` is not above 0.
    """
    if not std > 0:
        raise ValueError(f"the neighbourhood's standard deviation must be above 0, got {std!r}")
    nearness = neighbourhood(grid, std, last.keys.device).to(last.keys.dtype)
    return last.project(_attend(last.keys, last.values, nearness))


def neighbourhood(grid: tuple[int, int], std: float, device: torch.device | str = "cpu") -> Tensor:
    """How near tokens are to each other: exp(-distance^2 / (2 std^2)) between patches, 0 from and to the class token.

    Args:
        grid: (rows, columns) of patches.
        std: In patches.
        device: Where it is made.

    Returns:
        float32 (1 + rows * columns, 1 + rows * columns) in [0, 1].
    """
    rows, columns = (_nearness(length, std, device) for length in grid)
    return F.pad(torch.kron(rows, columns), (1, 0, 1, 0))


def _nearness(length: int, std: float, device: torch.device | str) -> Tensor:
    """Along one side of the grid, (length, length): a Gaussian is the product of those of its sides."""
    places = torch.arange(length, dtype=torch.float32, device=device)
    return torch.exp(-((places[:, None] - places) / std).square() / 2)


def _attend(features: Tensor, values: Tensor, bias: Tensor | None = None) -> Tensor:
    """Attention of one projection with itself, (B, heads, N, d), over the values."""
    return F.scaled_dot_product_attention(features, features, values, attn_mask=bias)
