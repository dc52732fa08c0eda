"""The two commands on the bundled models, in batches (as shipped) against one at a time."""

from __future__ import annotations

import tempfile
from functools import partial

import numpy as np

from tests.benchmarks.harness import Benchmark, Case, DisagreementError, Job

IMAGES = 16
NAMES = ("cat", "dog", "car")


def adding(batch_size: int | None, device: str) -> Job:
    """Generate, mask, pool and store one class; the profile's batch size for None."""
    from ovseg_cli.models import load_models
    from ovseg_cli.profiles import get_profile
    from ovseg_cli.prototypes.build import SupportSettings, build_class
    from ovseg_cli.store import Store

    models = load_models(get_profile("mini"), device=device)
    settings = SupportSettings(count=IMAGES, batch_size=batch_size)
    folder = tempfile.TemporaryDirectory(prefix="ovseg-bench-")
    build_class(models, "dog", SupportSettings(count=1, steps=1))  # loads the models

    def job() -> np.ndarray:
        with Store.open(folder.name, profile="mini") as store:
            record = build_class(models, "cat", settings)
            store.add_class(record, replace=True)
        return np.stack([support.image for support in record.supports])

    return job


def segmenting(crops_at_once: int | None, device: str) -> Job:
    """Segment one example picture; as many crops at once as shipped for None."""
    from ovseg_cli.models import load_models
    from ovseg_cli.profiles import get_profile
    from ovseg_cli.segmentation import segmenter, task
    from tests.benchmarks.stores import RandomPrototypes
    from tests.mini import example_scene, random_pictures

    if crops_at_once is not None:
        task.MAX_CROPS_AT_ONCE = crops_at_once
    models = load_models(get_profile("mini"), device=device)
    picture = random_pictures(1, 64, 64)
    dims = {e.digest: models.features(e, picture).shape[1] for e in models.profile.extractors}
    work = segmenter.Segmenter(models, RandomPrototypes(NAMES, dims), NAMES)
    scene = example_scene(0)
    return lambda: work.segment(scene).ids


def same_images(baseline: np.ndarray, answer: np.ndarray) -> str:
    """A batch changes the order of additions inside the networks, and with it the last digits."""
    difference = int(np.abs(baseline.astype(int) - answer.astype(int)).max())
    if difference > 3:
        raise DisagreementError(f"the support images differ by {difference} grey levels")
    return f"images differ by {difference} of 255"


def same_labels(baseline: np.ndarray, answer: np.ndarray) -> str:
    share = float((baseline == answer).mean())
    if share < 0.999:
        raise DisagreementError(f"only {share:.2%} of the labels are equal")
    return f"{share:.2%} equal labels"


BENCHMARK = Benchmark(
    name="mini",
    question=f"add-class ({IMAGES} images) and segment (256 x 192 pixels, {len(NAMES)} classes), bundled models",
    cases=(
        Case(name="add-class-singly", what="one image at a time", prepare=partial(adding, 1), repeats=1),
        Case(
            name="add-class",
            what="batches, as shipped",
            prepare=partial(adding, None),
            baseline="add-class-singly",
            agree=same_images,
            repeats=1,
        ),
        Case(name="segment-singly", what="one crop at a time", prepare=partial(segmenting, 1)),
        Case(
            name="segment",
            what="batches, as shipped",
            prepare=partial(segmenting, None),
            baseline="segment-singly",
            agree=same_labels,
        ),
    ),
)
