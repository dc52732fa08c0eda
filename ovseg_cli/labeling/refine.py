"""Pixel-adaptive mask refinement: scores spread to where a picture's colours say that they belong."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import product

import torch
from torch import Tensor
from torch.nn import functional as F

ITERATIONS = 10
DILATIONS = (1, 2, 4, 8, 12, 24)
"""What OVDiff takes for prototypes, at a short side of 448 pixels."""

WORD_DILATIONS = (8, 16)
"""What NACLIP takes for words, at the picture's own size (`naclip.py`, `pamr_stride`; SCLIP's code has the same)."""

CLASSES_AT_ONCE = 8
"""Classes refined together, so that memory does not grow with the list of classes."""

CELLS_AT_ONCE = 2**16
"""Scores blended at once (classes x rows x columns): what stays in a CPU's cache while all neighbours are added."""

SHARPNESS = 0.1
"""Differences are measured in this share of the local standard deviation."""

EPSILON = 1e-8
"""Added to the divisor, so that a flat neighbourhood has equal weights and not 0 / 0."""


def affinities(picture: Tensor, dilations: Sequence[int] = DILATIONS) -> Tensor:
    """How much of each neighbour's score a pixel takes over in one iteration.

    With ``I`` the picture, ``n`` the 8 neighbours of pixel ``x`` at each dilation, and ``sigma`` the sample standard
    deviation of a channel over the 3 x 3 neighbourhoods of x at all dilations (the centre counted once for each):

        weight(x, n) = softmax over n of  -mean over channels of |I(x) - I(n)| / (0.1 * sigma(x) + 1e-8)

    Beyond the border the picture repeats its last pixel. A channel may be scaled or shifted without any change, so
    that the range of the values does not matter.

    Args:
        picture: float (1, 3, h, w).
        dilations: Distances of the neighbours in pixels, each at least 1.

    Returns:
        float32 (8 * len(dilations), h, w), non-negative, of sum 1 over the neighbours.
    """
    centre = picture[0].float()
    neighbours = _neighbours(centre, dilations)
    repeats = len(dilations)
    count = 9 * repeats
    mean = repeats * centre
    for neighbour in neighbours:
        mean += neighbour
    mean /= count
    squares = repeats * (centre - mean).square()
    for neighbour in neighbours:
        squares += (neighbour - mean).square()
    sharpness = 1 / (SHARPNESS * (squares / (count - 1)).sqrt() + EPSILON)
    weights = centre.new_empty(len(neighbours), *centre.shape[1:])
    for weight, neighbour in zip(weights, neighbours, strict=True):
        weight.copy_(((neighbour - centre).abs() * sharpness).mean(dim=0).neg_())
    # A softmax in place: the weights are by far the largest tensor here.
    weights.sub_(weights.amax(dim=0)).exp_()
    return weights.div_(weights.sum(dim=0))


def pamr(
    picture: Tensor, scores: Tensor, *, iterations: int = ITERATIONS, dilations: Sequence[int] = DILATIONS
) -> Tensor:
    """Refine scores along the edges of the picture that they were made from.

    PAMR (Araslanov & Roth, "Single-Stage Semantic Segmentation from Image Labels", CVPR 2020): every
    iteration replaces a pixel's scores by the mean of its neighbours' scores, weighted by how alike the colours are
    (`affinities`). The pixel's own score takes no part. The weights are computed once.

    What goes in are the scores as they are: signed cosines, before negative ones become 0 and before any
    softmax, with the background as one channel among the others. What comes out is of the same kind: a weighted mean
    of what went in, so that no channel leaves the range that it had, and equal channels stay equal.

    At its peak this holds, besides what goes in, about ``4 h w (C + 8 d + 20) + 4 k ((h + 2 D) (w + 2 D) + h w)``
    bytes, where d is the number of dilations, D the largest of them, and k = min(C, `CLASSES_AT_ONCE`): 115 MB for 22
    classes at 448 x 597 pixels.

    Args:
        picture: float (1, 3, h, w), the picture at the size of the scores, in any range of values.
        scores: float (C, h, w).
        iterations: How often scores are passed on; 0 changes nothing.
        dilations: Distances of the neighbours in pixels, each at least 1; they may be larger than the picture.

    Returns:
        float32 (C, h, w), a tensor of its own.

    Raises:
        ValueError: The picture is not of the size of the scores, the number of iterations is negative, or there are
            no dilations or one below 1.
    """
    if picture.shape != (1, 3, *scores.shape[1:]):
        raise ValueError(f"a picture of shape {tuple(picture.shape)} does not fit scores of {tuple(scores.shape)}")
    if iterations < 0 or not dilations or min(dilations) < 1:
        raise ValueError(f"not possible: {iterations} iterations with dilations {tuple(dilations)}")
    refined = scores.to(torch.float32, copy=True)
    if iterations == 0:
        return refined
    weights = affinities(picture, dilations)
    for chunk in refined.split(CLASSES_AT_ONCE):  # views: what is written there is written to the answer
        for _ in range(iterations):
            _blend(_neighbours(chunk, dilations), weights, chunk)
    return refined


def _neighbours(values: Tensor, dilations: Sequence[int]) -> list[Tensor]:
    """Each pixel's neighbours, one (C, h, w) view for each of the 8 directions and the dilations.

    All are views of one padded copy of `values`, (C, h, w): padding by the largest dilation is padding by any.
    """
    height, width = values.shape[1:]
    reach = max(dilations)
    padded = F.pad(values, [reach] * 4, mode="replicate")
    return [
        padded[:, reach + down : reach + down + height, reach + right : reach + right + width]
        for d in dilations
        for down, right in product((-d, 0, d), repeat=2)
        if (down, right) != (0, 0)
    ]


def _blend(neighbours: Sequence[Tensor], weights: Tensor, out: Tensor) -> None:
    """Write the weighted sum of the neighbours to `out`, (C, h, w), strip by strip."""
    channels, height, width = out.shape
    strip = max(1, CELLS_AT_ONCE // (channels * width))
    for top in range(0, height, strip):
        rows = slice(top, top + strip)
        total = out[:, rows].zero_()
        for neighbour, weight in zip(neighbours, weights, strict=True):
            total.addcmul_(neighbour[:, rows], weight[rows])
