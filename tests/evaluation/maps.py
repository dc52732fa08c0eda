"""Label maps that break careless counting."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from ovseg_cli.evaluation.pictures import Pictures
from ovseg_cli.evaluation.scoring import count_pair

Maps = list[tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]]

CLASSES = 6
"""0 is the background. 4 is only predicted, 5 is nowhere."""


def adversarial(seed: int = 0, *, ignore: int = 255) -> Maps:
    """Pairs (truth, prediction): noise, flat, lines, one pixel, all ignored, disjoint, and blocks of one size each."""
    rng = np.random.default_rng(seed)
    noise = rng.integers(0, 4, (23, 31))
    blocks = np.kron(rng.integers(0, 4, (6, 5)), np.ones((9, 7), dtype=np.int64))
    rows = np.arange(20)[:, None] % 3 + np.zeros((20, 17), dtype=np.int64)
    pairs = [
        (noise, rng.choice([0, 1, 2, 3, 4], noise.shape)),
        (np.where(rng.random(noise.shape) < 0.3, ignore, noise), noise),
        (np.full((9, 9), ignore), np.full((9, 9), 4)),
        (np.zeros((5, 8), dtype=np.int64), np.full((5, 8), 3)),
        (np.array([[2]]), np.array([[1]])),
        (rows, np.roll(rows, 1, axis=0)),
        (blocks, np.where(rng.random(blocks.shape) < 0.1, 4, np.roll(blocks, 2, axis=1))),
        (np.where(blocks == 1, ignore, blocks), blocks),
    ]
    return [(truth.astype(np.int64), prediction.astype(np.int64)) for truth, prediction in pairs]


def recorded(pairs: Maps, *, classes: int = CLASSES, scored: slice | None = None, ignore: int = 255) -> Pictures:
    """The records of such pairs, of the classes "background", "class 1", ..."""
    names = ["background", *(f"class {i}" for i in range(1, classes))]
    pictures = Pictures(names, scored=scored)
    for number, (truth, prediction) in enumerate(pairs):
        pictures.append(count_pair(truth, prediction, num_classes=classes, key=f"picture {number}", ignore=ignore))
    return pictures
