"""How k-means' start was drawn before: what was made with it is compared with by it."""

from __future__ import annotations

import numpy as np


def draw_on_a_line(weights: np.ndarray, count: int, random: np.random.Generator) -> list[int]:
    """Stands for `ovseg_cli.clustering.kmeans._race`: random places on the line of all weights, one after the other."""
    line = np.cumsum(weights, dtype=np.float64)
    if line[-1] <= 0:
        return []
    return np.searchsorted(line, random.random(count) * line[-1]).clip(max=len(weights) - 1).tolist()
