"""Pixel-adaptive mask refinement: scores spread to where a picture's colours say that they belong."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor
from torch.nn import functional as F

from ovseg_cli.devices import portion, small_steps

ITERATIONS = 10
DILATIONS = (1, 2, 4, 8, 12, 24)
"""What OVDiff takes for prototypes, at a short side of 448 pixels."""

WORD_DILATIONS = (8, 16)
"""What NACLIP takes for words, at the picture's own size (`naclip.py`, `pamr_stride`; SCLIP's code has the same)."""

CLASSES_AT_ONCE = 8
"""Classes refined together on a CPU, so that memory does not grow with the list of classes."""

CELLS_AT_ONCE = 2**16
"""Scores blended at once there (classes x rows x columns): what stays in the cache while one neighbour after another is
added. A GPU multiplies all neighbours of as many rows as have room, and adds them up in one step."""

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
        float32 (8 * len(dilations), h, w), non-negative, of sum 1 over the neighbours: dilation by dilation, first
        those above and below.
    """
    centre = picture[0].float()
    groups = _neighbours(centre, dilations)
    repeats = len(dilations)
    count = 9 * repeats
    mean = repeats * centre
    for group in groups:
        mean += _added(group)
    mean /= count
    squares = repeats * (centre - mean).square()
    for group in groups:
        squares += _added((group - mean).square())
    sharpness = 1 / (SHARPNESS * (squares / (count - 1)).sqrt() + EPSILON)
    weights = centre.new_empty(8 * repeats, *centre.shape[1:])
    for own, group in zip(_by_group(weights, groups), groups, strict=True):
        own.copy_(((group - centre).abs() * sharpness).mean(dim=-3).neg_())
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
    classes at 448 x 597 pixels. On a GPU k is C, and there are the products of as many rows as have room (`portion`).

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
    cells = refined[0].numel()
    together = max(1, portion(refined.device, CLASSES_AT_ONCE * cells) // cells)
    for chunk in refined.split(together):  # views: what is written there is written to the answer
        for _ in range(iterations):
            _blend(_neighbours(chunk, dilations), weights, chunk)
    return refined


def _neighbours(values: Tensor, dilations: Sequence[int]) -> list[Tensor]:
    """Each pixel's neighbours in groups, for each dilation the six above and below and the two beside it.

    All are views of one padded copy of `values`, (C, h, w): padding by the largest dilation is padding by any.

    Returns:
        Each (rows, columns, C, h, w): 2 x 3 or 1 x 2 neighbours. On a CPU each neighbour by itself, (C, h, w).
    """
    channels, height, width = values.shape
    reach = max(dilations)
    padded = F.pad(values, [reach] * 4, mode="replicate")
    plane, line, _ = padded.stride()
    middle = reach * line + reach
    shape, steps = (channels, height, width), (plane, line, 1)
    if small_steps(values.device):
        return [
            padded.as_strided(shape, steps, middle + down * line + across)
            for d in dilations
            for down, across in ((-d, -d), (-d, 0), (-d, d), (d, -d), (d, 0), (d, d), (0, -d), (0, d))
        ]
    return [
        group
        for d in dilations
        for group in (
            padded.as_strided((2, 3, *shape), (2 * d * line, d, *steps), middle - d * line - d),
            padded.as_strided((1, 2, *shape), (0, 2 * d, *steps), middle - d),
        )
    ]


def _added(group: Tensor) -> Tensor:
    """The sum over the neighbours of a group, (C, h, w)."""
    return group if group.ndim == 3 else group.sum(dim=(0, 1))


def _by_group(each: Tensor, groups: Sequence[Tensor]) -> Iterator[Tensor]:
    """What there is of each neighbour, (N, ...), in the groups of `_neighbours`: (rows, columns, ...), or (...)."""
    counts = [group.shape[:-3] for group in groups]
    for part, count in zip(each.split([count.numel() for count in counts]), counts, strict=True):
        yield part.unflatten(0, count) if count else part[0]


def _blend(groups: Sequence[Tensor], weights: Tensor, out: Tensor) -> None:
    """Write the weighted sum of the neighbours to `out`, (C, h, w), strip by strip."""
    channels, height, width = out.shape
    one_by_one = groups[0].ndim == 3
    strip = max(1, portion(out.device, CELLS_AT_ONCE) // (channels * width * (1 if one_by_one else len(weights))))
    for top in range(0, height, strip):
        rows = slice(top, top + strip)
        total = out[:, rows]
        if one_by_one:
            total.zero_()
            for neighbour, weight in zip(groups, weights, strict=True):
                total.addcmul_(neighbour[:, rows], weight[rows])
            continue
        products = out.new_empty(len(weights), *total.shape)
        parts = (groups, _by_group(weights[:, rows], groups), _by_group(products, groups))
        for group, weight, product in zip(*parts, strict=True):
            torch.mul(group[..., rows, :], weight[:, :, None], out=product)
        torch.sum(products, dim=0, out=total)
