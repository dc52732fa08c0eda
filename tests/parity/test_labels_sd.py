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
from ovseg_cli.backbones.diffusion import DiffusionBackbone
from ovseg_cli.choices import SegmentOptions
from ovseg_cli.files.images import open_image
from ovseg_cli.methods import cliper
from ovseg_cli.models import Models
from ovseg_cli.profiles import get_profile
from ovseg_cli.profiles.specs import CliperThresholds
from tests.parity import file_inputs_sd as made
from tests.parity.inputs import GOLDEN, golden

AGREE = 0.995
"""Share of the pixels that have the published label."""

pytestmark = pytest.mark.parity


class KnownModels(Models):
    """The profile `sd15` with another generator or CLIP, and with known weights."""

    def __init__(self, clip: made.ClipSize, version: made.SdVersion, **changes: Any) -> None:
        profile = get_profile("sd15")
        spec = replace(profile.clip, large=clip == "l14", background_words=made.WORDS, **changes.pop("clip", {}))
        generator = replace(profile.generator, **changes.pop("generator", {}))
        super().__init__(replace(profile, clip=spec, generator=generator), "cpu", offline=True)
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

    def like(self, **changes: Any) -> KnownModels:
        """The same networks with other settings of CLIP."""
        other = KnownModels(self._clip, self._version)
        other.profile = replace(self.profile, clip=replace(self.profile.clip, **changes))
        other._loaded = self._loaded
        return other


@functools.cache
def cliper_models(size: made.ClipSize) -> KnownModels:
    """CLIPer's set: Stable Diffusion 2.1-base beside a CLIP."""
    return KnownModels(size, "2.1")


@pytest.fixture(scope="module")
def langseg_models():
    """The set of langseg; the published noise has seed 0."""
    yield KnownModels("b16", "1.5", generator={"seed": 0})
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
    print(f"{method} {case}: {share:.4f} equal")
    assert share >= AGREE


# --------------------------------------------------------------------------- CLIPer

CLIPER = {
    "voc21": ("voc21", made.FIVE, made.WORDS),
    "voc20": ("voc20", made.FIVE, made.WORDS),
    "context": ("context60", made.SIXTY, ("background",)),
    "context59": ("context59", made.SIXTY, ("background",)),
}
"""By case: which of the published settings, the classes, and the words for the background."""


MADE = published("cliper-coarse", "cliper")
"""Method and case with photograph of every label map that was made."""


@pytest.mark.parametrize(("method", "which"), MADE, ids=map("-".join, MADE))
def test_cliper(store, tmp_path, method, which, tell):
    tower, case, name = which.split("-")
    image = open_image(made.write_photograph(name, tmp_path / f"{name}.png"))
    dataset, classes, words = CLIPER[case]
    settings = cliper.PUBLISHED["ViT-B/16" if tower == "b16" else "ViT-L/14", dataset]
    thresholds = CliperThresholds(score=settings.score_threshold, background=settings.background_threshold)
    options = SegmentOptions(
        background_words=words,
        templates=settings.templates,
        logit_scale=settings.logit_scale,
        threshold=settings.background_threshold,
    )
    models = cliper_models(tower).like(cliper=thresholds)
    ids = Segmenter(models, store, classes, method=method, options=options).segment(image).ids
    check(tell, method, which, ids)


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
    if method == "aggsd":
        options = SegmentOptions(background=voc)
    else:
        options = SegmentOptions(background=voc, background_words=(), logit_scale=10.0 if voc else 100.0)
    # AggSD is told which classes are there; theirs names them in the order of the data set.
    there = [each for each in classes if each in made.FIVE] if method == "aggsd" else None
    ids = Segmenter(langseg_models, store, classes, method=method, options=options).segment(image, there).ids
    # Without a background, theirs counts classes from 0.
    check(tell, method, which, squashed(ids) - (0 if voc else 1))
