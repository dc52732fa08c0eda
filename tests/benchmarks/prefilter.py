"""The class pre-filter at the size of CLIP ViT-B/16: a picture's cost with 20 classes and with 500."""

from __future__ import annotations

import numpy as np

from tests.benchmarks.harness import Benchmark, Case, DisagreementError, Job

LIMIT = 7
"""127 joint prompts, not the published 1023: what is compared is the lists, and these have the same at any limit."""


def one_picture(device: str, classes: int) -> Job:
    """A picture whose joint prompts have all to be embedded; the single ones have been, as in any run."""
    from dataclasses import replace

    import torch

    from ovseg_cli.profiles import get_profile
    from ovseg_cli.text.prefilter import ClassPrefilter
    from tests.benchmarks.texts import random_clip

    profile = get_profile("sd15")
    spec = replace(profile.prefilter, limit=LIMIT)
    backbone = random_clip(device)
    # Words of about one length, so that the prompts of both lists are of one length too.
    names = [f"{colour} {thing}" for thing in THINGS for colour in COLOURS][:classes]
    picture = torch.rand(1, 3, 375, 500, generator=torch.Generator().manual_seed(0)).to(device)
    filtered = ClassPrefilter(backbone, profile.clip, spec, names)

    def job() -> np.ndarray:
        filtered._joint.clear()
        return np.array(filtered(picture).classes)

    return job


COLOURS = ("red", "blue", "green", "black", "white", "brown", "grey", "pink", "dark", "pale")
THINGS = (
    *("cat", "dog", "bus", "car", "cup", "bed", "hat", "bag", "box", "key", "pen", "book", "boat", "bird", "fish"),
    *("frog", "bear", "lion", "duck", "goat", "deer", "wolf", "lamp", "door", "wall", "tree", "rose", "leaf", "star"),
    *("ball", "ring", "shoe", "coat", "belt", "sock", "fork", "bowl", "dish", "sink", "sofa", "desk", "gate", "road"),
    *("bike", "kite", "tent", "flag", "bell", "drum", "coin"),
)


def few(device: str) -> Job:
    return one_picture(device, 20)


def many(device: str) -> Job:
    return one_picture(device, 500)


def something_stays(_baseline: np.ndarray, answer: np.ndarray) -> str:
    if not 1 <= len(answer) <= LIMIT:
        raise DisagreementError(f"{len(answer)} classes stay")
    return f"{len(answer)} stay"


BENCHMARK = Benchmark(
    name="prefilter",
    question=f"pre-filter of one picture, CLIP ViT-B/16, {2**LIMIT - 1} joint prompts to embed",
    cases=(
        Case(name="20", what="20 classes", prepare=few),
        Case(name="500", what="500 classes", prepare=many, baseline="20", agree=something_stays),
    ),
)
