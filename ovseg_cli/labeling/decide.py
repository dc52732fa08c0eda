"""From fused scores to a label map at the original size."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torch.nn import functional as F

MAX_CELLS = 1_000_000
"""Scores enlarged at once (classes x rows x columns): 4 MB in float32, whatever the size of the image."""


@dataclass(frozen=True, slots=True)
class Decision:
    """A label map and how sure it is.

    Attributes:
        ids: uint16 (H, W); 0 is background, i the i-th class, unless other ids were asked for.
        shares: float64 (C + 1,): share of the pixels per label.
        mean_scores: float64 (C + 1,): mean winning score over each label's pixels; nan for a label without pixels.
    """

    ids: npt.NDArray[np.uint16]
    shares: npt.NDArray[np.float64]
    mean_scores: npt.NDArray[np.float64]


def enlarge_rows(scores: Tensor, size: tuple[int, int], start: int, stop: int) -> Tensor:
    """Rows `start` to `stop` of the bilinear enlargement of `scores` to `size`.

    Equal to slicing ``interpolate(scores, size, mode="bilinear", align_corners=False)``, without making the rest.

    Args:
        scores: float (C, h, w).
        size: (H, W) of the whole enlargement.
        start: First row.
        stop: One past the last row.

    Returns:
        float (C, stop - start, W).
    """
    height, width = scores.shape[1:]
    rows = torch.arange(start, stop, device=scores.device, dtype=torch.float32)
    source = ((rows + 0.5) * (height / size[0]) - 0.5).clamp(min=0)
    upper = source.floor().long().clamp(max=height - 1)
    lower = (upper + 1).clamp(max=height - 1)
    weight = (source - upper)[None, :, None]
    blended = scores[:, upper] * (1 - weight) + scores[:, lower] * weight
    if width == size[1]:
        return blended
    return F.interpolate(blended[None], (stop - start, size[1]), mode="bilinear", align_corners=False)[0]


def decide(
    scores: Tensor,
    size: tuple[int, int],
    *,
    background: bool,
    threshold: float | None = None,
    ids: Sequence[int] | None = None,
) -> Decision:
    """The best label of every pixel.

    Args:
        scores: float (C + 1, h, w), channel 0 the background's.
        size: (H, W) of the label map.
        background: Whether the background may win, which it also does where no score is positive (OVDiff's code);
            without it every pixel gets a class.
        threshold: A class whose score is below this gives way to the background. Needs `background`.
        ids: What is written to the label map for each of the C + 1 channels (default: the channel's number).

    Returns:
        The label map, made in strips of rows so that memory does not grow with the image but for the label map itself.
        Shares and mean scores are those of the channels.
    """
    channels = scores.shape[0]
    height, width = size
    names = np.arange(channels, dtype=np.uint16) if ids is None else np.array(ids, dtype=np.uint16)
    label_map = np.zeros((height, width), dtype=np.uint16)
    counts = np.zeros(channels)
    sums = np.zeros(channels)
    strip = max(1, MAX_CELLS // (channels * width))
    for start in range(0, height, strip):
        stop = min(start + strip, height)
        rows = enlarge_rows(scores, size, start, stop)
        if background:
            best, labels = rows.max(dim=0)
            # Negative scores count as 0, so where all are negative it is a tie, and the background is the first.
            labels = torch.where(best <= 0, 0, labels)
            best = best.clamp(min=0)
            if threshold is not None:
                labels = torch.where(best < threshold, 0, labels)
        else:
            best, labels = rows[1:].max(dim=0)
            labels = labels + 1
        flat = labels.flatten().cpu().numpy()
        counts += np.bincount(flat, minlength=channels)
        # Summed on the CPU in float64, which Apple's GPUs do not have.
        sums += np.bincount(flat, weights=best.flatten().cpu().double().numpy(), minlength=channels)
        # Indexing a whole label map at once would turn it into 8 bytes for each pixel.
        label_map[start:stop] = names[flat].reshape(stop - start, width)
    means = np.divide(sums, counts, out=np.full(channels, np.nan), where=counts > 0)
    return Decision(label_map, counts / (height * width), means)
