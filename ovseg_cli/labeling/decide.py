"""From fused scores to a label map at the original size."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torch.nn import functional as F

from ovseg_cli.devices import constant, fetch, portion, small_steps

MAX_CELLS = 1_000_000
"""Scores enlarged at once on a CPU (classes x rows x columns): 4 MB in float32, whatever the size of the image."""

MARGIN_PIXELS = 2**18
"""Pixels whose margins are averaged, at least; of more, a grid. All would take a third longer and say the same."""


@dataclass(frozen=True, slots=True)
class Decision:
    """A label map and how sure it is.

    Attributes:
        ids: uint16 (H, W); 0 is background, i the i-th class, unless other ids were asked for.
        shares: float64 (C + 1,): share of the pixels per label.
        mean_scores: float64 (C + 1,): mean winning score over each label's pixels; nan for a label without pixels.
        margin: How far the scores of a pixel are from giving it another label, mean over the pixels, or over a grid
            of them (see `decide`); None where there is only one label to give.
    """

    ids: npt.NDArray[np.uint16]
    shares: npt.NDArray[np.float64]
    mean_scores: npt.NDArray[np.float64]
    margin: float | None = None


Enlargement = Literal["bilinear", "bicubic", "nearest"]
"""How scores are enlarged to a label map: without antialiasing, but for "bicubic", whose kernel is antialiasing's."""


@dataclass(frozen=True, slots=True)
class Head:
    """What makes scores of labels of enlarged values.

    Attributes:
        channels: How many labels there are, the background included.
        apply: Of values (K, h, w) at their final size, the labels' scores (channels, h, w), pixel by pixel.
    """

    channels: int
    apply: Callable[[Tensor], Tensor]


def enlarge_rows(
    scores: Tensor, size: tuple[int, int], start: int, stop: int, enlargement: Enlargement = "bilinear"
) -> Tensor:
    """Rows `start` to `stop` of the enlargement of `scores` to `size`.

    Equal to slicing ``interpolate(scores, size, mode=enlargement, align_corners=False)``, without making the rest.

    Args:
        scores: float (C, h, w).
        size: (H, W) of the whole enlargement.
        start: First row.
        stop: One past the last row.
        enlargement: How.

    Returns:
        float (C, stop - start, W).
    """
    height, width = scores.shape[1:]
    if enlargement == "nearest":
        rows = torch.arange(start, stop, device=scores.device) * height // size[0]
        columns = torch.arange(size[1], device=scores.device) * width // size[1]
        return scores[:, rows][:, :, columns]
    if enlargement == "bicubic":
        down, across = (_cubic(*lengths, scores) for lengths in ((height, size[0]), (width, size[1])))
        return down[start:stop] @ scores @ across.T
    rows = torch.arange(start, stop, device=scores.device, dtype=torch.float32)
    source = ((rows + 0.5) * (height / size[0]) - 0.5).clamp(min=0)
    upper = source.floor().long().clamp(max=height - 1)
    lower = (upper + 1).clamp(max=height - 1)
    weight = (source - upper)[None, :, None]
    blended = scores[:, upper] * (1 - weight) + scores[:, lower] * weight
    if width == size[1]:
        return blended
    return F.interpolate(blended[None], (stop - start, size[1]), mode="bilinear", align_corners=False)[0]


def _cubic(length: int, wanted: int, like: Tensor) -> Tensor:
    """The matrix (wanted, length) by which a line is resized bicubically, with antialiasing's kernel."""
    identity = torch.eye(length, dtype=like.dtype, device=like.device)[None, None]
    return F.interpolate(identity, (wanted, length), mode="bicubic", antialias=True, align_corners=False)[0, 0]


def strips(
    values: Tensor, size: tuple[int, int], *, channels: int = 0, enlargement: Enlargement = "bilinear"
) -> Iterator[tuple[int, int, Tensor]]:
    """The enlargement of values, strip by strip.

    Args:
        values: float (K, h, w).
        size: (H, W) of the enlargement.
        channels: How many numbers a pixel gets afterwards, where these are more than K.
        enlargement: How.

    Yields:
        First row, one past the last row, and the rows between them, float (K, rows, W).
    """
    rows = max(1, portion(values.device, MAX_CELLS) // (max(channels, values.shape[0]) * size[1]))
    for start in range(0, size[0], rows):
        stop = min(start + rows, size[0])
        yield start, stop, enlarge_rows(values, size, start, stop, enlargement)


def extremes(values: Tensor, size: tuple[int, int], *, enlargement: Enlargement = "bilinear") -> tuple[Tensor, Tensor]:
    """The least and the largest of each channel after enlarging: those of the grid need not be among the pixels.

    Args:
        values: float (K, h, w).
        size: (H, W) of the enlargement.
        enlargement: How.

    Returns:
        Two of float (K,).
    """
    low = torch.full_like(values[:, 0, 0], torch.inf)
    high = -low
    for _, _, rows in strips(values, size, enlargement=enlargement):
        low = torch.minimum(low, rows.amin(dim=(1, 2)))
        high = torch.maximum(high, rows.amax(dim=(1, 2)))
    return low, high


def decide(
    values: Tensor,
    size: tuple[int, int],
    *,
    background: bool,
    threshold: float | None = None,
    ids: Sequence[int] | None = None,
    head: Head | None = None,
    enlargement: Enlargement = "bilinear",
    keep: npt.NDArray[np.unsignedinteger] | None = None,
) -> Callable[[], Decision]:
    """Begin to decide about the best label of every pixel, up to the moment when a GPU is asked for what it found.

    Args:
        values: float (K, h, w): what is enlarged. Without a `head` these are the scores of K = C + 1 labels, channel 0
            the background's.
        size: (H, W) of the label map.
        background: Whether the background may win, which it also does where no score is positive (OVDiff's code);
            without it every pixel gets a class.
        threshold: A class whose score is below this gives way to the background. Needs `background`.
        ids: What is written to the label map for each of the C + 1 channels (default: the channel's number).
        head: What makes scores of the enlarged values, as the published heads do it: a softmax of enlarged cosines is
            not the enlargement of a softmax.
        enlargement: How the values are enlarged.
        keep: Where the labels' scores are left, (C + 1, H, W) of uint8 or uint16: 0..1 as whole numbers.

    Returns:
        What waits for the device, and reads everything in one copy: the label map, of 1 byte a pixel where no id is
        above 255, and all figures. Whoever has more to be decided begins that first.

        The label map is made in strips of rows so that memory does not grow with the image but for the label map
        itself. Shares and mean scores are those of the channels. A pixel's margin is the gap between its best score and
        the runner-up's, or between its best score and the threshold, whichever is less; of a pixel that the threshold
        sends to the background it is what its best class lacks.
    """
    channels = values.shape[0] if head is None else head.channels
    height, width = size
    device = values.device
    names = np.arange(channels, dtype=np.uint16) if ids is None else np.array(ids, dtype=np.uint16)
    # A GPU's label map is as narrow as it can be. Few of torch's kernels know uint16, whose bits int16 holds as well.
    narrow = not small_steps(device) and names.max() <= np.iinfo(np.uint8).max
    bits = names if narrow else names.view(np.int16)
    table = constant(tuple(bits.tolist()), device, torch.uint8 if narrow else torch.int16)
    label_map = torch.empty(height, width, dtype=table.dtype, device=device)
    tally = _Tally(channels, device)
    choice = channels - (not background) > 1
    step = max(1, math.isqrt(height * width // MARGIN_PIXELS))
    floor = max(0.0, threshold or 0.0) if background else None
    looked_at = 0
    for start, stop, enlarged in strips(values, size, channels=channels, enlargement=enlargement):
        rows = enlarged if head is None else head.apply(enlarged)
        if keep is not None:
            keep[:, start:stop] = _whole_numbers(rows, keep.dtype)
        if not background:
            rows = rows[1:]
        best, labels = rows.max(dim=0)
        if choice:
            some = (slice(-start % step, None, step), slice(None, None, step))
            found = _margins(rows[:, *some], best[some], labels[some], floor=floor)
            tally.add_margins(found)
            looked_at += found.numel()
        if background:
            # Negative scores count as 0, so where all are negative it is a tie, and the background is the first.
            labels = torch.where(best <= 0, 0, labels)
            best = best.clamp(min=0)
            if threshold is not None:
                labels = torch.where(best < threshold, 0, labels)
        else:
            labels = labels + 1
        tally.add(labels, best)
        label_map[start:stop] = table[labels]

    def read() -> Decision:
        pixels, figures = _read(label_map, tally.figures())
        counts, sums, (margins,) = np.split(figures.astype(np.float64), (channels, 2 * channels))
        means = np.divide(sums, counts, out=np.full(channels, np.nan), where=counts > 0)
        margin = float(margins) / looked_at if choice else None
        return Decision(pixels, counts / (height * width), means, margin)

    return read


def count_labels(labels: Tensor, channels: int) -> Tensor:
    """How often each of the numbers below `channels` is among labels, int64 (channels,), of int64 of any shape."""
    if small_steps(labels.device):
        return labels.flatten().bincount(minlength=channels)
    # On a GPU that would wait for the largest label.
    ones = torch.ones_like(labels).flatten()
    return torch.zeros(channels, dtype=labels.dtype, device=labels.device).scatter_add_(0, labels.flatten(), ones)


class _Tally:
    """Sums over the pixels of each label, kept where they are made, in float64 where the device has that.

    Args:
        channels: How many labels there are.
        device: Where.
    """

    def __init__(self, channels: int, device: torch.device) -> None:
        self._wide = torch.float32 if device.type == "mps" else torch.float64
        self._counts, self._sums = (torch.zeros(channels, dtype=self._wide, device=device) for _ in range(2))
        self._margins = torch.zeros(1, dtype=self._wide, device=device)

    def add(self, labels: Tensor, best: Tensor) -> None:
        """Count the pixels of some rows, int64 and float (rows, W), and add up their scores."""
        channels = len(self._counts)
        if small_steps(labels.device):
            flat = labels.flatten()
            self._counts += flat.bincount(minlength=channels)
            self._sums += flat.bincount(weights=best.flatten().double(), minlength=channels)
            return
        # On a GPU, counting waits for the largest label, and adding up by labels goes in another order each time.
        numbers = constant(range(channels), labels.device, labels.dtype)
        hits = labels == numbers.view(-1, 1, 1)
        self._counts += hits.sum(dim=(1, 2))
        self._sums += torch.where(hits, best, 0).sum(dim=(1, 2), dtype=self._wide)

    def add_margins(self, margins: Tensor) -> None:
        """Add up what pixels are from another label."""
        self._margins += margins.to(self._wide).sum()

    def figures(self) -> Tensor:
        """Counts (C,), sums (C,) and the sum of the margins, one after the other: (2 C + 1,)."""
        return torch.cat([self._counts, self._sums, self._margins])


def _read(label_map: Tensor, figures: Tensor) -> tuple[npt.NDArray[np.uint16], npt.NDArray[np.floating]]:
    """A label map, uint8 or the bits of uint16, and figures, both in one copy from their device."""
    if small_steps(label_map.device):
        return label_map.numpy().view(np.uint16), figures.numpy()
    packed = fetch(torch.cat([figures.view(torch.uint8), label_map.view(torch.uint8).flatten()]))
    first = figures.numel() * figures.element_size()
    pixels = packed[first:].view(np.uint8 if label_map.dtype == torch.uint8 else np.uint16)
    numbers: npt.NDArray[Any] = packed[:first].view(np.float32 if figures.dtype == torch.float32 else np.float64)
    return pixels.reshape(label_map.shape).astype(np.uint16), numbers


def _margins(scores: Tensor, best: Tensor, winner: Tensor, *, floor: float | None) -> Tensor:
    """How far each pixel is from another label, by the rules of `decide`: float (rows, W).

    Args:
        scores: float (labels, rows, W), at least two labels; the background is the first, if it may win.
        best: Its largest values, (rows, W).
        winner: Where these are.
        floor: What a class must reach, whatever the background's score; None where there is no background.
    """
    others = scores.scatter(0, winner[None], -torch.inf).amax(dim=0)  # on a CPU much faster than `torch.topk`
    if floor is None:
        return best - others
    first = torch.where(winner == 0, others, best)  # of the classes
    bound = scores[0].clamp(min=floor)
    return torch.where(first > bound, first - others.clamp(min=floor), bound - first)


def _whole_numbers(scores: Tensor, kind: np.dtype[np.unsignedinteger]) -> npt.NDArray[np.unsignedinteger]:
    """Scores as whole numbers, of which the largest stands for 1."""
    shares = scores.float().nan_to_num(0.0).clamp(0, 1)
    whole = (shares * np.iinfo(kind).max).round().to(torch.int32)
    narrow = whole.to(torch.uint8 if kind == np.uint8 else torch.int16)  # of uint16 the bits
    return fetch(narrow).view(kind)
