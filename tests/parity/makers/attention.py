"""Makes the golden arrays of the methods on diffusion attention by running their published code (no test).

    python -m tests.parity.makers.attention langseg SIZE --code DIR
    python -m tests.parity.makers.attention diffsegmenter --code DIR

with DIR a checkout of github.com/sonalexle/langseg (commit c5ff0b2c) or github.com/VCG-team/DiffSegmenter (b3a86860).
None of that code is here; README.md beside this file says what is put in place of what is missing.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import runpy
import sys
import tempfile
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.nn import functional as F

from tests.parity import attention as made
from tests.parity.inputs import sample, write_golden
from tests.parity.makers.clip_family import module

# --------------------------------------------------------------------------- langseg


class Recorder:
    """Stands for `torch_kmeans.KMeans`, whose starts are random: keeps the points that it is given."""

    points: Tensor

    def __init__(self, **_settings: Any) -> None:
        pass

    def __call__(self, points: Tensor) -> SimpleNamespace:
        """One cluster."""
        Recorder.points = points
        return SimpleNamespace(labels=torch.zeros(points.shape[:2], dtype=torch.int64))


def langseg(code: Path, size: str) -> None:
    """Fused attention, spread maps, the background, regions and their labels."""
    module("torch_kmeans", KMeans=Recorder)
    module("matplotlib", pyplot=None)
    sys.path.insert(0, str(code))
    from methods import diffseg, diffusion, diffusion_seg, exp_utils

    side, pixels = made.LAYERS[size][0], made.PIXELS[size]
    values: dict[str, Any] = {}

    raw = {
        f"{layer}.{kind}": made.probabilities(size, layer, kind).mean(dim=1)
        for layer in range(len(made.LAYERS[size]))
        for kind in ("attn1", "attn2")
    }
    cross, own = diffusion.get_attention_maps(
        raw,
        batch_size=1,
        label_indices=[list(phrase) for phrase in made.PHRASES],
        output_size=side,
        simple_average=False,
    )
    channels = [0, *(phrase[0] for phrase in made.PHRASES)]
    values["cross"] = cross[0][:, channels].T.reshape(-1, side, side).numpy()
    values["self"] = sample("self", own, 4000)
    spread = diffusion_seg.get_agg_map(cross, own)[0][:, channels]
    values["aggsd"] = spread.T.reshape(-1, side, side).numpy()

    attention = made.picture_attention(size)[None]
    logits = F.interpolate(made.cosines(size)[None], side, mode="bilinear")
    scores = exp_utils.get_voc2012_probs(logits)
    flat = scores.view(1, scores.shape[1], -1).permute(0, 2, 1)
    values["background"] = scores[0, 0].numpy()
    for name, settings in {"agggem": {}, "walk": {"beta": 2, "walk_len": 3}}.items():
        spread = diffusion_seg.get_agg_map(flat, attention, minmax_norm=False, ca_norm=False, **settings)
        values[name] = sample(name, spread[0].T, 4000)

    grid = torch.from_numpy(diffseg.generate_sampling_grid(side // 4, res=side))
    maps = attention.reshape((side,) * 4)
    merged = maps
    for turn in range(3):
        merged = diffseg.mask_merge(turn, merged, [0.8] * 3, grid=grid)
    values["merged"] = sample("merged", merged, 4000)
    regions = diffseg.generate_masks(maps, [0.8] * 3, grid, out_res=pixels, refine=True)[None]
    print("regions", len(merged), regions.unique().numel(), flush=True)
    values["regions"] = regions[0].numpy().astype(np.uint8)
    large = exp_utils.get_voc2012_probs(F.interpolate(logits, pixels, mode="bilinear"))
    values["labels"] = exp_utils.label_clusters(regions, large)[0].numpy().astype(np.uint8)

    diffusion_seg.run_specclust_torch(attention, n_clusters=20, n_vecs=20)
    points = Recorder.points[0]
    values["spectral"] = sample("spectral", points @ points.T, 4000)
    write_golden(f"langseg-{size}", values)


# --------------------------------------------------------------------------- DiffSegmenter


class Anything:
    """Takes every call and gives itself."""

    def __getattr__(self, _name: str) -> Any:
        return self

    def __mul__(self, _other: Any) -> Any:
        return self

    def __call__(self, *_args: Any, **_settings: Any) -> Any:
        return self


class Caption(Anything):
    """Stands for BLIP and its processor: the caption is the prompt that it is given."""

    prompt = ""

    def __call__(self, _image: Any, prompt: str, **_settings: Any) -> Any:
        """Keep the prompt."""
        Caption.prompt = prompt
        return SimpleNamespace(to=lambda _device: {})

    def to(self, _device: Any) -> Caption:
        """The same."""
        return self

    def generate(self, **_inputs: Any) -> list[None]:
        """One caption."""
        return [None]

    def decode(self, *_args: Any, **_settings: Any) -> str:
        """The prompt."""
        return Caption.prompt


def one_pass(_model: Any, prompts: list[str], controller: Any, **_settings: Any) -> tuple[None, None]:
    """Stands for the UNet's pass: gives the controller made-up attention."""
    name = prompts[0].split()[3].removesuffix("++")
    layers = range(len(made.LAYERS["true"]))
    empty = controller.get_empty_store()
    controller.cur_step = 1
    controller.attention_store = empty | {
        "up_cross": [made.segmenter_cross(name, layer) for layer in layers],
        "up_self": [made.probabilities("true", layer, "attn1")[0] for layer in layers],
    }
    return None, None


def diffsegmenter(code: Path) -> None:
    """The normalised maps of two classes in one picture, at its size."""
    import diffusers
    import scipy.io
    import transformers

    height, width = made.SEGMENTER_PICTURE
    path = "VOC/2007_000033.jpg"
    item = (torch.rand(3, height, width), torch.zeros(1), torch.zeros(height, width), path)
    module("ptp_utils", text2image_ldm_stable=one_pass)
    module("visual_code", seq_aligner=module("visual_code.seq_aligner"))
    module("cv2")
    module("dataset")
    module("dataset.mydatasets", build_dataset=lambda **_settings: ([item], 20))
    loaded = {
        diffusers.StableDiffusionPipeline: Anything(),
        diffusers.DDIMScheduler: Anything(),
        transformers.BlipProcessor: Caption(),
        transformers.BlipForConditionalGeneration: Caption(),
    }
    for owner, stand_in in loaded.items():
        owner.from_pretrained = lambda *_args, stand_in=stand_in, **_settings: stand_in
    torch.Generator = lambda *_args: None  # theirs is for a device that is not here, and unused
    with tempfile.TemporaryDirectory() as folder, contextlib.chdir(folder):
        for needed in ("VOC", "dataset/voc12"):
            os.makedirs(needed)
        Image.new("RGB", (width, height)).save(path)
        found = {
            choice: {path[-15:]: list(made.SEGMENTER_CLASSES)} for choice in ("image_similarity", "text_similarity")
        }
        Path("dataset/voc12/predict_syn_txt_0.8_img_0.97.json").write_text(json.dumps(found))
        with contextlib.suppress(SystemExit):
            runpy.run_path(str(code / "open_vocabulary/voc12/ptp_stable_best.py"), run_name="__main__")
        maps = scipy.io.loadmat(next(Path("output").glob("*/images/*.mat")))
    write_golden("diffsegmenter", {name: maps[str(i)] / 255 for name, i in (("cat", 7), ("dog", 11))})


def main() -> None:
    """Make the arrays of one repository."""
    parser = argparse.ArgumentParser(description="Make golden arrays by running the published code.")
    parser.add_argument("piece", choices=["langseg", "diffsegmenter"])
    parser.add_argument("size", nargs="?", choices=made.LAYERS, default="narrow")
    parser.add_argument("--code", type=Path, required=True)
    arguments = parser.parse_args()
    with torch.no_grad():
        if arguments.piece == "langseg":
            langseg(arguments.code.absolute(), arguments.size)
        else:
            diffsegmenter(arguments.code.absolute())


if __name__ == "__main__":
    main()
