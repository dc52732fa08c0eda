"""How the work grows: with the size of a picture, prototypes of a class, words, and pictures of a folder.

`growth` and `many` have what grows with the classes of a store. ``python -m tests.benchmarks slopes --json FILE``
measures, ``python -m tests.benchmarks.slopes FILE ...`` makes a table of it in Markdown. A figure that is twice as much
for twice the size grows with exponent 1; one with exponent 2 would be an accidental square.
"""

from __future__ import annotations

import json
import math
import sys
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from tests.benchmarks.harness import Benchmark, Case, Job
from tests.benchmarks.scoring import PER_ROLE

if TYPE_CHECKING:
    from ovseg_cli.models import Models

NAMES = ("cat", "dog", "car", "grass", "sky")
SCENE = 256
"""Pixels on each side of the picture that larger ones repeat pixel by pixel."""


@dataclass(frozen=True, slots=True)
class Axis:
    """What grows.

    Attributes:
        what: Of what the sizes are, for the table.
        sizes: Each a multiple of the one before.
        prepare: Makes the work of one size, for a device.
        power: The work may grow as the size to this power: with the side of a picture, as its pixels do.
        heavy: From this size on, it is run once.
    """

    what: str
    sizes: tuple[int, ...]
    prepare: Callable[[int, str], Job]
    power: int = 1
    heavy: int = sys.maxsize


def _mini(device: str) -> Models:
    from ovseg_cli.models import load_models
    from ovseg_cli.profiles import get_profile

    return load_models(get_profile("mini"), device=device)


def _random_prototypes(models: Models, per_role: int = PER_ROLE) -> Any:
    from tests.benchmarks.stores import RandomPrototypes
    from tests.mini import random_pictures

    picture = random_pictures(1, 64, 64)
    dims = {e.digest: models.features(e, picture).shape[1] for e in models.profile.extractors}
    return RandomPrototypes(NAMES, dims, per_role)


def picture(method: str, side: int, device: str) -> Job:
    """From a file to a label map and an overlay, both written."""
    from PIL import Image

    from ovseg_cli.drawing.overlay import overlay
    from ovseg_cli.files.images import open_image
    from ovseg_cli.files.labels import LabelMap, write_label
    from ovseg_cli.segmentation.segmenter import Segmenter
    from tests.benchmarks.large import write_enlarged
    from tests.mini import example_scene

    folder = tempfile.TemporaryDirectory(prefix="ovseg-bench-")
    scene = np.asarray(Image.fromarray(example_scene(0)).resize((SCENE, SCENE), Image.Resampling.BICUBIC))
    source, label = Path(folder.name, "scene.ppm"), Path(folder.name, "label.png")
    write_enlarged(scene, side // SCENE, source)
    models = _mini(device)
    segmenter = Segmenter(models, _random_prototypes(models), NAMES, method=method)
    segmenter.segment(scene)
    labelmap = LabelMap.from_classes(NAMES)

    def job() -> np.ndarray:
        image = open_image(source)
        ids = segmenter.segment(image).ids
        write_label(label, ids, labelmap)
        overlay(image, ids, labelmap).save(Path(folder.name, "overlay.jpg"), quality=90)
        return np.bincount(ids.ravel())

    return job


def prototypes(per_class: int, device: str) -> Job:
    """One picture, and classes of so many prototypes, half of them of the background."""
    from ovseg_cli.segmentation.segmenter import Segmenter
    from tests.mini import example_scene

    models = _mini(device)
    segmenter = Segmenter(models, _random_prototypes(models, per_class // 2), NAMES, method="prototype")
    scene = example_scene(0)
    return lambda: segmenter.segment(scene).ids


def words(count: int, device: str) -> Job:
    """One picture by GEM, and so many words, which are read already."""
    from ovseg_cli.segmentation.segmenter import Segmenter
    from tests.benchmarks.stores import ReadWords
    from tests.mini import example_scene

    models = _mini(device)
    length = models.clip.embed_names(["cat"], ["a {}"])[0].shape[1]
    names = [f"thing {number}" for number in range(count)]
    segmenter = Segmenter(models, ReadWords(length), names, method="gem")
    scene = example_scene(0)
    return lambda: segmenter.segment(scene).ids


def folder(again: bool, count: int, _device: str) -> Job:
    """So many small pictures found, planned, opened, labelled without networks, written and noted; or nothing new."""
    from PIL import Image

    from ovseg_cli.profiles import get_profile
    from ovseg_cli.runs.folder import plan_folder
    from ovseg_cli.runs.segment import run_folder
    from ovseg_cli.runs.worker import ReadySegmenter
    from ovseg_cli.store import Store
    from tests.doubles import FakeModels, PaintSegmenter

    root = tempfile.TemporaryDirectory(prefix="ovseg-bench-")
    pictures = Path(root.name, "pictures")
    pictures.mkdir()
    Image.fromarray(np.zeros((16, 16, 3), np.uint8)).save(pictures / "0.png")
    one = (pictures / "0.png").read_bytes()
    for number in range(1, count):
        (pictures / f"{number}.png").write_bytes(one)
    store = Store.open(Path(root.name, "store"), profile="mini")
    profile = get_profile("mini")
    runs = iter(range(1_000))

    def job() -> np.ndarray:
        target = Path(root.name, "out" if again else f"out{next(runs)}")
        planned = plan_folder(store, [str(pictures)], target, classes=NAMES, method="gem")
        segmenter = PaintSegmenter.by_recipe(FakeModels(profile), planned.recipe)  # type: ignore[arg-type]
        summary = run_folder(planned.plan, lambda: ReadySegmenter(segmenter, "cpu", "float32"), store, profile)
        return np.array([len(planned.plan.items), len(summary.failed)])

    if again:
        job()
    return job


AXES = {
    "prototypes": Axis(
        "side of a picture, prototypes", (256, 512, 1024, 2048, 4096, 8192), partial(picture, "prototype"), 2, 4096
    ),
    "gem": Axis("side of a picture, GEM", (256, 512, 1024, 2048, 4096, 8192), partial(picture, "gem"), 2, 4096),
    "per-class": Axis("prototypes of each of 5 classes", (10, 100, 1_000, 10_000), prototypes, heavy=10_000),
    "words": Axis("words, GEM", (1, 10, 100, 1_000, 10_000), words, heavy=1_000),
    "folder": Axis(
        "pictures of a folder, no networks", (10, 100, 1_000, 10_000, 100_000), partial(folder, False), 1, 1_000
    ),
    "again": Axis("the same again, all done", (10, 100, 1_000, 10_000, 100_000), partial(folder, True), 1, 10_000),
}

BENCHMARK = Benchmark(
    name="slopes",
    question="how the work grows",
    cases=tuple(
        Case(
            name=f"{name}-{size}",
            what=f"{axis.what}: {size:,}",
            prepare=partial(axis.prepare, size),
            baseline=None if size == axis.sizes[0] else f"{name}-{axis.sizes[0]}",
            heavy=size >= axis.heavy,
        )
        for name, axis in AXES.items()
        for size in axis.sizes
    ),
)


def exponent(sizes: Sequence[float], figures: Sequence[float]) -> float:
    """How the last figure grew from the one before: 1 where it did as the size."""
    return math.log(figures[-1] / figures[-2]) / math.log(sizes[-1] / sizes[-2])


def as_markdown(reports: Sequence[dict[str, Any]]) -> str:
    """The table of reports: CPU seconds and memory above models and inputs, by size, and how they grew at the end."""
    found = [entry for report in reports for entry in report["benchmarks"] if entry["benchmark"] == "slopes"]
    seen = {case["case"]: case["measurement"] for entry in found for case in entry["cases"] if case["measurement"]}
    lines = ["| what grows | size: CPU s, MB | exponent of CPU s | of MB | allowed |", "|---|---|---|---|---|"]
    for name, axis in AXES.items():
        sizes = [size for size in axis.sizes if f"{name}-{size}" in seen]
        if len(sizes) < 2:
            continue
        ones = [seen[f"{name}-{size}"] for size in sizes]
        seconds = [sorted(one["cpu_seconds"])[len(one["cpu_seconds"]) // 2] for one in ones]
        memory = [one["work_bytes"] / 1e6 for one in ones]
        cells = [f"{s:,}: {t:.3g}, {m:,.0f}" for s, t, m in zip(sizes, seconds, memory, strict=True)]
        powers = [f"{exponent(sizes, figures):.2f}" if min(figures[-2:]) > 0 else "–" for figures in (seconds, memory)]
        lines.append(f"| {axis.what} | {'; '.join(cells)} | {' | '.join(powers)} | {axis.power} |")
    return "\n".join(lines)


if __name__ == "__main__":
    print(as_markdown([json.loads(Path(name).read_text(encoding="utf-8")) for name in sys.argv[1:]]))
