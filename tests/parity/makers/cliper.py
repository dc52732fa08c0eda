"""Makes tests/parity/golden/cliper-*.npz by running CLIPer's published code (no test; needs its checkouts).

    python -m tests.parity.makers.cliper PIECE... --code DIR --clip DIR

with DIR checkouts of github.com/linsun449/cliper.code (commit c05fa41) and github.com/openai/CLIP (d05afc43). Neither
is here: the first has no licence. README.md beside this file says what is put in place of what is missing.
"""

from __future__ import annotations

import argparse
import gc
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.nn import functional as F

from ovseg_cli.backbones.attention import attention_probabilities
from ovseg_cli.methods.published import CLIPER, CLIPER_LARGE
from tests.parity.clip_family import TOWERS
from tests.parity.cliper import (
    NOISE_SEED,
    OUTLINES,
    PICTURES,
    SETTINGS,
    Width,
    coarse_maps,
    diffusion_pipeline,
    local_layers,
    texts,
)
from tests.parity.inputs import as_tensor, fill, picture, sample, write_golden
from tests.parity.makers.pieces import module


def configuration(name: str) -> SimpleNamespace:
    """What their configuration files and arguments give, by the names they have there."""
    model, dataset = SETTINGS[name]
    settings = (CLIPER_LARGE if model == "ViT-L/14" else CLIPER)[dataset]
    return SimpleNamespace(
        model_name=model,
        attn_type="fused-attn",
        fuse_feature=True,
        size=settings.short_side,
        select_layer=settings.layer,
        logit_scale=settings.logit_scale,
        attention_thr=settings.attention_threshold,
        score_threshold=settings.score_threshold,
        bkg_thre=settings.threshold,
        is_normalize=settings.stretch,
        sliding_crop_size=0,
        attention_layers_to_use=[-4, -6],
        time_step=45,
    )


def pipeline(name: str, configured: SimpleNamespace) -> Any:
    """Their pipeline without refinement, on an OpenAI CLIP with known weights."""
    import clip
    from clip.clip import _transform
    from clip.model import CLIP

    tower = TOWERS[name]
    model = CLIP(tower.embed, 224, tower.layers, tower.width, tower.patch, 77, 49408, 64, 1, 1)
    fill(model)
    clip.load = lambda *_arguments, **_settings: (model, _transform(224))
    from ovs.pipeline import Pipeline

    return Pipeline(configured, "cpu")


@torch.no_grad()
def coarse(name: str) -> None:
    """`CLIPer.forward` of one picture, with everything around it but the text encoder."""
    pipe = pipeline(name, configuration(name))
    pixels = pipe.cliper.preprocess(Image.fromarray(picture("cliper", *PICTURES[name])))[None]
    result = pipe.cliper(pixels, *texts(TOWERS[name]))
    resized = np.asarray(pipe.cliper._resize(Image.fromarray(picture("cliper/resize", 250, 333))))
    write_golden(
        f"cliper-{name}",
        {
            "maps": result["seg"].numpy(),
            "attention": sample("cliper/attention", result["attn_map"], 8000),
            "resized_to": np.array(resized.shape[:2]),
            "resized": sample("cliper/resized", torch.from_numpy(resized.astype(np.float32)), 4000),
        },
    )


@torch.no_grad()
def walk(width: Width) -> tuple[dict[int, Tensor], int]:
    """Attention of the two layers by `diffusion.forward`, and the timestep that it takes."""
    import diffusers
    from diffusion_model import stable_diffusion

    made = diffusion_pipeline(width)
    diffusers.StableDiffusionPipeline.from_pretrained = lambda *_arguments, built=made, **_settings: built
    network = stable_diffusion.diffusion(attention_layers_to_use=[-4, -6], dtype=torch.float32, device="cpu")
    torch.manual_seed(NOISE_SEED)
    network(as_tensor(picture("cliper/diffusion", 375, 500)), "")
    diffusers.StableDiffusionPipeline.from_pretrained = None
    return network.attention_maps, int(made.scheduler.timesteps[45])


class Finished:
    """The walk has been made already: a UNet and ten matrices together take too much memory."""

    def __init__(self, attention_maps: dict[int, Tensor]) -> None:
        self.attention_maps = attention_maps

    def __call__(self, _image: Tensor, _prompt: str) -> None:
        return None


@torch.no_grad()
def refine(name: str) -> None:
    """`Pipeline.refinement` of made-up coarse maps, and `main_ovs.py` from there to labels."""
    module("texttable", Texttable=None)  # draws tables
    from ovs.pipeline import Pipeline
    from util.miou import cam_to_label

    arrays: dict[str, Any] = {}
    if name == "local":
        layers = local_layers()
        probabilities = [attention_probabilities(x.queries, x.keys, x.heads, x.scale) for x in layers]
        attention_maps = dict(zip((-4, -6), probabilities, strict=True))
    else:
        attention_maps, timestep = walk("narrow" if name == "narrow" else "true")
        gc.collect()
        arrays["timestep"] = np.array(timestep)
        arrays["first"] = sample("cliper/first", attention_maps[-4][0, 0], 2000)
        arrays["last"] = sample("cliper/last", attention_maps[-6][0, 4], 2000)
    pipe = Pipeline.__new__(Pipeline)
    torch.nn.Module.__init__(pipe)
    pipe.cfg, pipe.device, pipe.vfm, pipe.attn_refine = configuration("b16"), "cpu", None, Finished(attention_maps)
    pipe.cfg.refinement = "SFSA"
    seg = coarse_maps()
    refined = pipe.refinement(torch.zeros(1, 3, 8, 8), seg)
    arrays["refined"] = sample("cliper/refined", refined, 4000)
    if name == "local":
        scores = refined.amax(dim=(-1, -2)) * 0.5 + seg.amax(dim=(-1, -2)) * 0.5
        arrays["scores"] = scores.numpy()
        large = F.interpolate(refined[None], size=OUTLINES, mode="bilinear")[0]
        large = large / (large.amax((-1, -2), keepdim=True) + 1e-5) * scores[..., None, None]
        for way, background, threshold, stretch in LABELS:
            _, labels = cam_to_label(large[None].clone(), scores[None], background, threshold, stretch)
            arrays[f"labels_{way}"] = labels[0].numpy().astype(np.uint8)
    write_golden(f"cliper-refine-{name}", arrays)


LABELS = (("voc21", 0.6, 0.7, True), ("context", 0.45, 0.45, False), ("squared", 0.0, 0.7, False))
"""(name, background's threshold, class's threshold, whether maps are stretched) of three ways to labels."""


PIECES = ("narrow", "b16", "l14", "refine-local", "refine-narrow", "refine-true")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("pieces", nargs="+", choices=PIECES)
    parser.add_argument("--code", type=Path, required=True)
    parser.add_argument("--clip", type=Path, required=True)
    arguments = parser.parse_args()
    sys.path[:0] = [str(arguments.code), str(arguments.clip)]
    for piece in arguments.pieces:
        if piece.startswith("refine-"):
            refine(piece.removeprefix("refine-"))
        else:
            coarse(piece)
        gc.collect()


if __name__ == "__main__":
    main()
