"""Large pictures: what opening, segmenting and drawing 8000 x 6000 pixels takes, against 800 x 600.

The memory beyond models and libraries (``work MB``) is to grow by 8 bytes for each pixel, the decoded picture (4 bytes
in Pillow) twice while it is opened, or by 10 with an overlay: picture, label map (2) and overlay (4). A float copy of
the picture alone would be 12.
"""

from __future__ import annotations

import tempfile
from functools import partial
from pathlib import Path

import numpy as np

from tests.benchmarks.harness import Benchmark, Case, DisagreementError, Job

NAMES = ("cat", "dog", "car")
NORMAL, LARGE = (800, 600), (8000, 6000)
COARSE = (200, 150)
"""The example scene is first brought to this size, of which the others are whole multiples."""


def write_enlarged(scene: np.ndarray, factor: int, path: Path) -> None:
    """Write a picture with every pixel repeated `factor` times in both directions, row by row, as a PPM.

    Made with Pillow it would take more memory than what is to be measured.
    """
    height, width = scene.shape[:2]
    with path.open("wb") as file:
        file.write(b"P6\n%d %d\n255\n" % (width * factor, height * factor))
        for row in scene:
            file.write(row.repeat(factor, axis=0).tobytes() * factor)


def segmenting(size: tuple[int, int], overlay: bool, device: str) -> Job:
    """Open an enlarged example scene and segment it, as ``ovseg segment`` does."""
    from PIL import Image

    from ovseg_cli.drawing.overlay import overlay as draw_overlay
    from ovseg_cli.files.images import open_image
    from ovseg_cli.files.labels import LabelMap
    from ovseg_cli.models import load_models
    from ovseg_cli.profiles import get_profile
    from ovseg_cli.segmentation.segmenter import Segmenter
    from tests.benchmarks.stores import RandomPrototypes
    from tests.mini import example_scene, random_pictures

    coarse = np.asarray(Image.fromarray(example_scene(0)).resize(COARSE, Image.Resampling.BICUBIC))
    folder = tempfile.TemporaryDirectory(prefix="ovseg-bench-")
    write_enlarged(coarse, size[0] // COARSE[0], Path(folder.name, "scene.ppm"))
    models = load_models(get_profile("mini"), device=device)
    picture = random_pictures(1, 64, 64)
    dims = {e.digest: models.features(e, picture).shape[1] for e in models.profile.extractors}
    segmenter = Segmenter(models, RandomPrototypes(NAMES, dims), NAMES)
    segmenter.segment(coarse)  # loads the models

    def job() -> np.ndarray:
        image = open_image(Path(folder.name, "scene.ppm"))  # the folder lives as long as the job
        ids = segmenter.segment(image).ids
        if overlay:
            draw_overlay(image, ids, LabelMap.from_classes(NAMES))
        step = size[0] // NORMAL[0]
        return ids[step // 2 :: step, step // 2 :: step].copy()

    return job


def same_places(baseline: np.ndarray, answer: np.ndarray) -> str:
    """Label maps of one scene at two sizes; only the edges of the regions may move, by less than a pixel."""
    share = float((baseline == answer).mean())
    if share < 0.99:
        raise DisagreementError(f"only {share:.2%} of the labels are equal")
    return f"{share:.2%} equal labels"


def case(name: str, size: tuple[int, int], *, overlay: bool, baseline: str | None = None) -> Case:
    return Case(
        name=name,
        what=f"{size[0]} x {size[1]}{', with the overlay' if overlay else ''}",
        prepare=partial(segmenting, size, overlay),
        baseline=baseline,
        agree=same_places if baseline else None,
    )


BENCHMARK = Benchmark(
    name="large",
    question=f"open and segment one picture, {len(NAMES)} classes, bundled models",
    cases=(
        case("normal", NORMAL, overlay=False),
        case("large", LARGE, overlay=False, baseline="normal"),
        case("normal-overlay", NORMAL, overlay=True),
        case("large-overlay", LARGE, overlay=True, baseline="normal-overlay"),
    ),
)
