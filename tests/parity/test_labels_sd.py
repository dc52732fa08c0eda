"""Label maps of photographs, from the file on, against those that published code made: methods on a diffusion model."""

from __future__ import annotations

import functools
import gc
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from ovseg_cli import Segmenter, Store
from ovseg_cli.backbones.clip import ClipBackbone
from ovseg_cli.backbones.unet import DiffusionBackbone
from ovseg_cli.files.images import open_image
from ovseg_cli.models import Models
from ovseg_cli.profiles import get_profile
from ovseg_cli.segmentation.options import SegmentOptions
from tests.parity import file_inputs_sd as made
from tests.parity.inputs import GOLDEN, golden

AGREE = 0.995
"""Share of the pixels that have the published label."""

pytestmark = pytest.mark.parity


class KnownModels(Models):
    """The profile `sd15` with another generator or size of CLIP, and with known weights."""

    def __init__(self, clip: made.ClipSize, version: made.SdVersion) -> None:
        profile = get_profile("sd15")
        super().__init__(replace(profile, clip=replace(profile.clip, large=clip == "l14")), "cpu")
        self._clip, self._version = clip, version

    def _get(self, kind: type[Any], weights: Any) -> Any:
        key = (kind, weights)
        if key not in self._loaded:
            if kind is ClipBackbone:
                import open_clip

                tokenizer = open_clip.get_tokenizer("ViT-B-16-quickgelu")
                self._loaded[key] = ClipBackbone(made.open_clip_model(self._clip), tokenizer, "cpu")
            else:
                self._loaded[key] = DiffusionBackbone(made.sd_pipeline(self._version), "cpu")
        return self._loaded[key]


@functools.cache
def cliper_models(size: made.ClipSize) -> KnownModels:
    """CLIPer's set: Stable Diffusion 2.1-base beside a CLIP."""
    return KnownModels(size, "2.1")


@pytest.fixture(scope="module")
def langseg_models():
    """The set of langseg."""
    yield KnownModels("b16", "1.5")
    gc.collect()


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    with Store.open(tmp_path_factory.mktemp("labels") / "store", profile="sd15") as opened:
        yield opened


def published(*methods):
    """(method, case) of every label map of these methods that was made."""
    there = [method for method in methods if (GOLDEN / f"labels-{method}.npz").exists()]
    return [(method, case) for method in there for case in golden(f"labels-{method}")]


def check(tell, method, case, ids):
    """Compare a label map with the published one."""
    theirs = golden(f"labels-{method}")[case]
    share = float((ids == theirs).mean())
    tell(f"{method} {case}: share of other labels", 1 - share)
    assert share >= AGREE


# --------------------------------------------------------------------------- CLIPer

CLIPER = {
    "voc21": ("voc21", made.FIVE),
    "voc20": ("voc20", made.FIVE),
    "context": ("context60", made.SIXTY),
    "context59": ("context59", made.SIXTY),
}
"""By case: which of the published settings, and the classes."""


MADE = published("cliper-coarse", "cliper")
"""Method and case with photograph of every label map that was made."""


@pytest.mark.parametrize(("method", "which"), MADE, ids=map("-".join, MADE))
def test_cliper(store, tmp_path, method, which, tell):
    tower, case, name = which.split("-")
    image = open_image(made.write_photograph(name, tmp_path / f"{name}.png"))
    row, classes = CLIPER[case]
    ours = Segmenter(cliper_models(tower), store, classes, method=method, options=SegmentOptions(settings=row))
    check(tell, method, which, ours.segment(image).ids)


# --------------------------------------------------------------------------- langseg


def squashed(ids):
    """A label map at the size that langseg scores: 320 x 320, the nearest pixel, as it resizes its masks."""
    from PIL import Image

    return np.array(Image.fromarray(ids.astype(np.uint8)).resize((320, 320), Image.Resampling.NEAREST))


SPREAD = published("agggem", "diffsegclust", "specclust", "aggsd")


@pytest.mark.parametrize(("method", "which"), SPREAD, ids=map("-".join, SPREAD))
def test_langseg(langseg_models, store, tmp_path, method, which, tell):
    case, name = which.split("-")
    image = open_image(made.write_photograph(name, tmp_path / f"{name}.png"))
    voc = case == "voc"
    classes = made.TWENTY if voc else made.SIXTY
    options = SegmentOptions(background=voc)
    # AggSD is told which classes are there; theirs names them in the order of the data set.
    there = [each for each in classes if each in made.FIVE] if method == "aggsd" else None
    ids = Segmenter(langseg_models, store, classes, method=method, options=options).segment(image, there).ids
    # Without a background, theirs counts classes from 0.
    check(tell, method, which, squashed(ids) - (0 if voc else 1))
