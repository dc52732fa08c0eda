"""The two commands on the bundled models: in batches (as shipped) against one at a time, and whole folder runs."""

from __future__ import annotations

import subprocess
import sys
import tempfile
from functools import partial
from pathlib import Path

import numpy as np

from tests.benchmarks.harness import Benchmark, Case, DisagreementError, Job

IMAGES = 16
NAMES = ("cat", "dog", "car")
SIX = ("cat", "dog", "car", "house", "apple", "tree")
PICTURES = 8


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


def folder(method: str, files: bool, device: str) -> Job:
    """Segment the first example pictures by a method, six classes: a folder run, or the pictures alone, read before."""
    from ovseg_cli.files.images import open_image
    from ovseg_cli.files.labels import read_label
    from ovseg_cli.models import load_models
    from ovseg_cli.profiles import get_profile
    from ovseg_cli.runs.plan import plan_run
    from ovseg_cli.runs.request import Request
    from ovseg_cli.runs.segment import run_folder
    from ovseg_cli.runs.worker import ReadySegmenter
    from ovseg_cli.segmentation.segmenter import Segmenter
    from ovseg_cli.store import Store
    from tests.benchmarks.stores import RandomPrototypes
    from tests.mini import EXAMPLES

    models = load_models(get_profile("mini"), device=device)
    dims = {extractor.digest: extractor.dim for extractor in models.profile.extractors}
    segmenter = Segmenter(models, RandomPrototypes(SIX, dims), SIX, method=method)
    paths = sorted((EXAMPLES / "images").iterdir())[:PICTURES]
    if not files:
        opened = [open_image(path) for path in paths]
        return lambda: np.stack([segmenter.segment(image).ids for image in opened])
    store = Store.open(Path(tempfile.mkdtemp(prefix="ovseg-bench-"), "store"), profile="mini")

    def job() -> np.ndarray:
        with tempfile.TemporaryDirectory(prefix="ovseg-bench-") as output:
            request = Request.by(segmenter.recipe, overlay=True)
            plan = plan_run([str(path) for path in paths], Path(output), request)
            ready = ReadySegmenter(segmenter, models.device, models.computes_in)
            run_folder(plan, lambda: ready, store, models.profile, recorded=False)
            return np.stack([read_label(Path(output, item.output)) for item in plan.items])

    return job


def first_picture(device: str) -> Job:
    """``ovseg segment`` of one picture in a process of its own, imports and all; its words are kept after the first."""
    from tests.mini import EXAMPLES

    store, picture = tempfile.mkdtemp(prefix="ovseg-bench-"), EXAMPLES / "images" / "scene_008.jpg"

    def job() -> np.ndarray:
        with tempfile.TemporaryDirectory(prefix="ovseg-bench-") as output:
            command = [sys.executable, "-m", "ovseg_cli", "--store", f"{store}/store", "--device", device, "segment"]
            command += [str(picture), "--method", "gem", "-c", ",".join(SIX), "-o", output]
            subprocess.run(command, check=True, capture_output=True)
        return np.zeros(1)

    return job


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
    question=f"add-class ({IMAGES} images) and segment (256 x 192 pixels), bundled models",
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
        *(
            Case(
                name=f"folder-{method}{end}",
                what=f"{PICTURES} pictures by {method}, {len(SIX)} classes, {what}",
                prepare=partial(folder, method, files),
                baseline=f"folder-{method}-alone" if files else None,
                agree=same_labels if files else None,
                pictures=PICTURES,
            )
            for method in ("gem", "prototype")
            for end, files, what in (
                ("-alone", False, "read before, nothing written"),
                ("", True, "read, written with overlays and noted"),
            )
        ),
        Case(name="first-picture", what="one picture by gem, from the command line", prepare=first_picture, pictures=1),
    ),
)
