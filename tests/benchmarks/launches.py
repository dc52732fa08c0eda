"""How many operations a GPU is told of for a picture, by method, with networks of true size; no GPU is needed.

    python -m tests.benchmarks.launches [PROFILE [METHOD ...]]

Nothing is computed (see `tests.pretence`). A method with ``+pamr`` is refined. ``waits`` counts how often the CPU waits
for the device: for the label map, with all its figures, and for nothing else.
"""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np

from ovseg_cli.profiles import get_profile
from ovseg_cli.runs.speed_bench import NAMES, BenchSettings, _Bench
from ovseg_cli.segmentation.options import SegmentOptions
from ovseg_cli.segmentation.segmenter import Segmenter
from ovseg_cli.store import Store
from tests.pretence import Asked, Counting, PretendedModels, pretended_gpu

METHODS = ("prototype", "prototype+pamr", "gem", "gem+pamr", "cliper-coarse", "cliper", "proxyclip", "agggem")
SIZE, BATCH = (375, 500), 8


def asked(models: Any, store: Store, name: str, together: int) -> Asked:
    """What is asked for some pictures, when others were before."""
    method, _, refined = name.partition("+")
    refine: Any = refined or None
    options = SegmentOptions(prefilter=False, refine=refine)
    segmenter = Segmenter(models, store, NAMES, method=method, options=options)
    random = np.random.default_rng(0)
    pictures = [random.integers(0, 256, (*SIZE, 3), np.uint8) for _ in range(together)]
    segmenter.segment(pictures[0])
    with Counting() as counting:
        segmenter.segment_batch(pictures)
    return counting.asked


def main(arguments: list[str]) -> None:
    """Print the table."""
    profile = get_profile(arguments[0] if arguments else "sd15")
    print(f"{profile.name}, {SIZE[1]} x {SIZE[0]} pixels, {len(NAMES)} classes and the background\n")
    print(f"| method | launches | of {BATCH} pictures together, each | waits |\n|---|---:|---:|---:|")
    with tempfile.TemporaryDirectory() as folder, Store.open(Path(folder) / "store", profile=profile) as store:
        stand_in: Any = SimpleNamespace(profile=profile)
        _Bench(stand_in, store, BenchSettings(), Path(folder))._fill_store()
        with pretended_gpu() as mode:
            models = PretendedModels(profile, mode)
            for name in arguments[1:] or METHODS:
                alone, together = (asked(models, store, name, count) for count in (1, BATCH))
                each = together.launches.total() / BATCH
                waits = len(alone.fetched) + len(alone.waited)
                print(f"| `{name}` | {alone.launches.total():,} | {each:,.0f} | {waits} |", flush=True)


if __name__ == "__main__":
    main(sys.argv[1:])
