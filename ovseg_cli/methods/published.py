"""The methods' published settings, by the data set that they are for. No torch here.

Each is what the published code is run with, from its configuration files or its notebooks; where a number of the paper
differs, the code's stands, which made the results. The first data set of a method is what is taken where nobody names
one and it has none of PASCAL VOC (`ovseg_cli.methods.catalogue.Method.settings`).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from types import MappingProxyType
from typing import Any, Literal

from ovseg_cli.methods.background import (
    CLIPER_OBJECT_WORDS,
    CLIPER_VOC_WORDS,
    ONE_WORD,
    PROXYCLIP_OBJECT_WORDS,
    SCLIP_WORDS,
)
from ovseg_cli.profiles.specs import IMAGENET_MEAN, IMAGENET_STD, DenseDefaults


@dataclass(frozen=True, slots=True, kw_only=True)
class CliperSettings(DenseDefaults):
    """What CLIPer's code is run with on one data set.

    Background words take part in the softmax whether or not the data set has a background. A class wins where its map
    reaches `threshold`; a threshold of 0 stands for a background that scores (1 - best class) squared.

    Attributes:
        layer: The embedding whose map is added once more, multiplied by the fused attention; from the end.
        attention_threshold: Share of its maximum that an entry has to reach, in that map and in the matrices of
            Stable Diffusion.
        score_threshold: Classes that do not score more than this in an image are left out of it.
        stretch: Whether each class's map is stretched to [0, 1] before it is compared with the others.
    """

    layer: int = -1
    attention_threshold: float = 0.1
    score_threshold: float = 0.0
    stretch: bool = False


# --------------------------------------------------------------------------- another attention in CLIP's last block

# mmcv resizes pictures with OpenCV, and no side becomes longer than 2048 pixels.

_MMCV: dict[str, Any] = {"long_side": 2048, "resample": "bilinear", "patches": "floor"}

MASKCLIP: Mapping[str, DenseDefaults] = MappingProxyType(
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

SCLIP: Mapping[str, DenseDefaults] = MappingProxyType(
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

CLEARCLIP: Mapping[str, DenseDefaults] = MappingProxyType(
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

NACLIP: Mapping[str, DenseDefaults] = MappingProxyType(
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

CLIP_SURGERY: Mapping[str, DenseDefaults] = MappingProxyType(
    {
        "demo": DenseDefaults(
            short_side=512,
            whole_image=True,
            squash=512,
            templates="imagenet-scene",
            logit_scale=100.0,
            positions="bilinear",
        )
    }
)
"""The code for segmentation is unpublished. The authors' answers (issues 25 and 32 of the repository) say that a patch
gets the foreground class of the largest cosine with the new path, without feature surgery. 512 x 512 is the larger size
of `demo.py`. The logit scale, which does not change the largest, is CLIP's own. There is no background.
"""


GEM: Mapping[str, DenseDefaults] = MappingProxyType(
    {"demo": DenseDefaults(short_side=448, whole_image=True, squash=448, templates="single", logit_scale=100.0)}
)
"""The settings of WalBouss/GEM. Its evaluation is unpublished; `batched_forward` multiplies cosines by 100. Its maps
are stretched to [0, 1] for each class, which is for single maps; here classes compete by their probabilities. There is
no background."""


_PROXYCLIP: dict[str, Any] = {
    "long_side": 2048,
    "resample": "bilinear",
    "windows": ((336, 112),),
    "positions": "bicubic-tenth",
}

PROXYCLIP: Mapping[str, DenseDefaults] = MappingProxyType(
    {
        "voc21": DenseDefaults(**_PROXYCLIP, short_side=336, background_words=SCLIP_WORDS, threshold=0.2),
        "voc20": DenseDefaults(**_PROXYCLIP, short_side=336),
        "context60": DenseDefaults(**_PROXYCLIP, short_side=336, background_words=ONE_WORD, threshold=0.15),
        "context59": DenseDefaults(**_PROXYCLIP, short_side=336),
        "coco-object": DenseDefaults(
            **_PROXYCLIP, short_side=336, background_words=PROXYCLIP_OBJECT_WORDS, threshold=0.25
        ),
        "coco-stuff": DenseDefaults(**_PROXYCLIP, short_side=336),
        "ade150": DenseDefaults(**_PROXYCLIP, short_side=448),
        "cityscapes": DenseDefaults(**_PROXYCLIP | {"windows": ((224, 112),)}, short_side=448),
    }
)
"""mc-lan/ProxyCLIP, `proxyclip_segmentor.py` and `configs/cfg_*.py`, with DINO ViT-B/8.

Windows that are not whole multiples of 56 are padded with zeros there; those of the settings are.
"""

# --------------------------------------------------------------------------- CLIPer


def _cliper(
    logit_scale: float,
    attention: float,
    score: float,
    background: float,
    *,
    layer: int = -1,
    templates: Literal["imagenet", "car"] = "car",
    short_side: int = 336,
    stretch: bool = False,
    words: tuple[str, ...] = ONE_WORD,
) -> CliperSettings:
    return CliperSettings(
        short_side=short_side,
        whole_image=True,
        templates=templates,
        logit_scale=logit_scale,
        background_words=words,
        threshold=background,
        positions="bilinear",
        layer=layer,
        attention_threshold=attention,
        score_threshold=score,
        stretch=stretch,
    )


CLIPER: Mapping[str, CliperSettings] = MappingProxyType(
    {
        "voc21": _cliper(100, 0.1, 0.7, 0.6, stretch=True, words=CLIPER_VOC_WORDS),
        "voc20": _cliper(100, 0.1, 0.0, 0.001, words=CLIPER_VOC_WORDS),
        "context60": _cliper(100, 0.2, 0.45, 0.45),
        "context59": _cliper(100, 0.2, 0.3, 0.3),
        "coco-object": _cliper(50, 0.2, 0.3, 0.3, templates="imagenet", words=CLIPER_OBJECT_WORDS),
        "coco-stuff": _cliper(50, 0.2, 0.1, 0.1),
        "ade150": _cliper(100, 0.2, 0.3, 0.3),
        "cityscapes": _cliper(100, 0.35, 0.0, 0.0001, templates="imagenet", short_side=560),
    }
)
"""Settings of ViT-B/16 by data set: the files ``scripts/config/vit-b-16`` of the published code, without their sliding
windows (of 336 or 224 on VOC21, Context and COCO-Object, blended half and half). Without windows they make the figures
of its README, which are above the paper's."""

CLIPER_LARGE: Mapping[str, CliperSettings] = MappingProxyType(
    {
        "voc21": _cliper(50, 0.1, 0.5, 0.4, layer=-2, stretch=True, words=CLIPER_VOC_WORDS),
        "voc20": _cliper(70, 0.2, 0.1, 0.0001, words=CLIPER_VOC_WORDS),
        "context60": _cliper(50, 0.2, 0.3, 0.3, layer=-2, templates="imagenet"),
        "context59": _cliper(100, 0.2, 0.45, 0.45, layer=-2),
        "coco-object": _cliper(50, 0.1, 0.5, 0.5, layer=-2, templates="imagenet", words=CLIPER_OBJECT_WORDS),
        "coco-stuff": _cliper(50, 0.2, 0.2, 0.2, layer=-2, templates="imagenet"),
        "ade150": _cliper(50, 0.2, 0.2, 0.2, templates="imagenet"),
        "cityscapes": _cliper(100, 0.35, 0.0, 0.0001, short_side=448),
    }
)
"""The same of ViT-L/14, ``scripts/config/vit-l-14``."""

# --------------------------------------------------------------------------- methods on a diffusion model

_LANGSEG = DenseDefaults(short_side=448, whole_image=True, squash=448, templates="single", logit_scale=100.0)

LANGSEG: Mapping[str, DenseDefaults] = MappingProxyType(
    {
        "voc21": replace(_LANGSEG, logit_scale=10.0),
        "context59": _LANGSEG,
        "coco-stuff": _LANGSEG,
        "cityscapes": _LANGSEG,
    }
)
"""The settings of `notebooks/clip/*.ipynb` of langseg, with MetaCLIP-400M ViT-B/16 (section 4.1), for AggGEM,
DiffSegClust and SpecClust. On VOC the temperature is 0.1, and the background is `agg.doubt_background`, without words;
the other data sets have none. Labels are measured at 320 x 320 pixels there."""

_WHOLE = DenseDefaults(short_side=512, whole_image=True, squash=512)
# The geometry of methods that look for classes with the diffusion model: the picture squashed to its square.

AGGSD: Mapping[str, DenseDefaults] = MappingProxyType(
    dict.fromkeys(("voc21", "context59", "coco-stuff", "cityscapes"), _WHOLE)
)

DIFFSEGMENTER: Mapping[str, DenseDefaults] = MappingProxyType(
    dict.fromkeys(("voc21", "context60", "coco-object"), replace(_WHOLE, resample="bilinear-float"))
)


@dataclass(frozen=True, slots=True, kw_only=True)
class DiffSegSettings(DenseDefaults):
    """What DiffSeg's code is run with on one data set.

    Attributes:
        divergence: Attention whose symmetric Kullback-Leibler divergence is below this is of one region, in all rounds.
    """

    divergence: float


_DIFFSEG: dict[str, Any] = {"short_side": 512, "whole_image": True, "squash": 512, "resample": "bilinear-float"}

DIFFSEG: Mapping[str, DenseDefaults] = MappingProxyType(
    {
        "coco-stuff": DiffSegSettings(**_DIFFSEG, divergence=1.1),
        "cityscapes": DiffSegSettings(**_DIFFSEG, divergence=0.9),
    }
)
"""google/diffseg 77ea596, `benchmarks.ipynb`. There, the middle square of a picture is scaled to 512 x 512; here, all
of it is, as every pixel of a label map gets a region."""
