"""The profile `sd15` at full size with random weights: that leaving off early and batches pay, and change no answer.

How long everything takes is `ovseg --profile sd15 bench --random-weights`.
"""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

import numpy as np

from tests.benchmarks.harness import Benchmark, Case, DisagreementError, Job
from tests.benchmarks.mini import same_labels

if TYPE_CHECKING:
    from torch import Tensor

NAMES = ("cat", "chocolate glazed donut", "grass")
PHOTO = (375, 500)


def checked(values: Tensor, shape: tuple[int, ...]) -> Tensor:
    """The values, when they have this shape and are finite."""
    if values.shape != shape:
        raise DisagreementError(f"the shape is {tuple(values.shape)}, not {shape}")
    strange = values.numel() - int(values.isfinite().sum())
    if strange:
        raise DisagreementError(f"{strange} of {values.numel()} values are not finite")
    return values


def features(name: str, device: str) -> Job:
    """Features of one picture by one extractor."""
    from ovseg_cli.profiles import get_profile
    from ovseg_cli.random_models import RandomModels
    from tests.mini import random_pictures

    models = RandomModels(get_profile("sd15"), device)
    (extractor,) = models.profile.pick_extractors([name])
    models.make(extractor)
    picture = random_pictures(1, 512, 512)
    shape = (1, extractor.dim, extractor.grid, extractor.grid)

    def job() -> np.ndarray:
        return np.array(checked(models.features(extractor, picture), shape).shape)

    return job


def whole_unet(device: str) -> Job:
    """The VAE's encoder and all of the UNet for one picture: nothing is read, and nothing is left out."""
    import torch

    from ovseg_cli.profiles import get_profile
    from ovseg_cli.random_models import RandomModels
    from tests.mini import random_pictures

    pipeline = RandomModels(get_profile("sd15"), device).generator.pipeline
    text = pipeline.encode_prompt("", device, 1, False)[0]
    picture = random_pictures(1, 512, 512).to(device, pipeline.vae.dtype)

    @torch.inference_mode()
    def job() -> np.ndarray:
        latents = pipeline.vae.encode(picture).latent_dist.mean
        return checked(pipeline.unet(latents, 200, text).sample, (1, 4, 64, 64)).float().cpu().numpy()

    return job


def segmenting(crops_at_once: int | None, device: str) -> Job:
    """Segment one photograph with all three extractors; as many crops at once as shipped for None."""
    import torch

    from ovseg_cli.profiles import get_profile
    from ovseg_cli.random_models import RandomModels
    from ovseg_cli.segmentation import segmenter, task
    from ovseg_cli.segmentation.options import SegmentOptions
    from tests.benchmarks.stores import RandomPrototypes
    from tests.mini import random_pictures

    if crops_at_once is not None:
        task.MAX_CROPS_AT_ONCE = crops_at_once
    models = RandomModels(get_profile("sd15"), device)
    for extractor in models.profile.extractors:
        models.make(extractor)
    dims = {extractor.digest: extractor.dim for extractor in models.profile.extractors}
    options = SegmentOptions(prefilter=False)
    work = segmenter.Segmenter(models, RandomPrototypes(NAMES, dims), NAMES, options=options)
    photo = (random_pictures(1, *PHOTO)[0].permute(1, 2, 0) * 255).byte().numpy()

    def job() -> np.ndarray:
        result = work.segment(photo)
        checked(torch.tensor(list(result.mean_scores.values())), (len(result.shares),))
        return checked(torch.from_numpy(result.ids), PHOTO).numpy()

    return job


BENCHMARK = Benchmark(
    name="sd15-size",
    question=f"The models of the profile sd15 at their true sizes with random weights; {len(NAMES)} classes",
    cases=(
        Case(name="whole-unet", what="VAE encoder and UNet, 512 x 512", prepare=whole_unet, heavy=True),
        Case(
            name="sd-queries",
            what="query features, 512 x 512",
            prepare=partial(features, "sd"),
            baseline="whole-unet",
            heavy=True,
        ),
        Case(
            name="segment-singly",
            what="375 x 500, one crop at a time",
            prepare=partial(segmenting, 1),
            heavy=True,
        ),
        Case(
            name="segment",
            what="375 x 500, batches as shipped",
            prepare=partial(segmenting, None),
            baseline="segment-singly",
            agree=same_labels,
            heavy=True,
        ),
    ),
)
