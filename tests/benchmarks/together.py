"""Methods and pictures that share their walks, against one after the other."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from tests.benchmarks.harness import Benchmark, Case, DisagreementError, Job

if TYPE_CHECKING:
    from ovseg_cli.segmentation.segmenter import Segmenter

NAMES = ("cat", "dog", "car", "apple", "tree")

METHODS = ("maskclip", "clipsurgery", "sclip", "clearclip", "naclip", "gem", "agggem", "specclust", "cliper-coarse")
"""All that read nothing but CLIP and one pass of the diffusion model's self-attention."""

PICTURES = 4


def segmenters(device: str, *methods: str) -> list[Segmenter]:
    """With the bundled models and an empty store."""
    import tempfile

    from ovseg_cli.models import load_models
    from ovseg_cli.profiles import get_profile
    from ovseg_cli.segmentation.segmenter import Segmenter
    from ovseg_cli.store import Store

    models = load_models(get_profile("mini"), device=device)
    with tempfile.TemporaryDirectory(prefix="ovseg-bench-") as folder, Store.open(folder, profile="mini") as store:
        return [Segmenter(models, store, NAMES, method=method) for method in methods]


def apart(device: str) -> Job:
    from tests.mini import example_scene

    work, scene = segmenters(device, *METHODS), example_scene(0)
    return lambda: np.stack([segmenter.segment(scene).ids for segmenter in work])


def together(device: str) -> Job:
    from ovseg_cli.segmentation.segmenter import segment_together
    from tests.mini import example_scene

    work, scene = segmenters(device, *METHODS), example_scene(0)
    return lambda: np.stack([answer.ids for answer in segment_together(work, scene)])


def singly(device: str) -> Job:
    from tests.mini import example_scene

    (work,) = segmenters(device, "gem")
    scenes = [example_scene(number) for number in range(PICTURES)]
    return lambda: np.stack([work.segment(scene).ids for scene in scenes])


def batch(device: str) -> Job:
    from tests.mini import example_scene

    (work,) = segmenters(device, "gem")
    scenes = [example_scene(number) for number in range(PICTURES)]
    return lambda: np.stack([answer.ids for answer in work.segment_batch(scenes)])


def same_labels(baseline: np.ndarray, answer: np.ndarray) -> str:
    """Products of another size are rounded otherwise, which may turn a pixel between two classes."""
    differing = np.count_nonzero(baseline != answer)
    if differing > 1e-3 * answer.size:
        raise DisagreementError(f"{differing} of {answer.size} labels differ")
    return f"{differing} of {answer.size:,} labels differ" if differing else "equal labels"


BENCHMARK = Benchmark(
    name="together",
    question=f"one picture by {len(METHODS)} methods; {PICTURES} pictures of one size by GEM (mini)",
    cases=(
        Case(name="apart", what="one method after the other", prepare=apart),
        Case(name="together", what="methods share their walks", prepare=together, baseline="apart", agree=same_labels),
        Case(name="singly", what="one picture after the other", prepare=singly),
        Case(name="batch", what="pictures share their walks", prepare=batch, baseline="singly", agree=same_labels),
    ),
)
