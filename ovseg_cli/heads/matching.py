"""Set prediction with sigmoids: which query is for which name, and the loss of masks and names (equation 15).

As Mask2Former's, but for the names' probabilities, which are sigmoids here, and for pixels without a label, at which no
mask is compared with anything.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from scipy.optimize import linear_sum_assignment
from torch import Tensor
from torch.nn import functional as F

from ovseg_cli.heads.catseg import IGNORED

UNMATCHED = 0.1
"""Weight of a query that is for no name, Mask2Former's for "no object"."""

OVERSAMPLED, CERTAIN = 3, 0.25
"""So many times more points are drawn than are kept; this share of those that are kept is not chosen for doubt."""


def draw_points(labels: Tensor, count: int, random: torch.Generator) -> Tensor:
    """Pixels with a label, drawn with repetition: places (B, P) in the flattened picture.

    Of a picture without a single label all pixels may be drawn; its names have no pixels, so nothing is learnt there.

    Args:
        labels: int64 (B, H, W).
        count: P.
        random: On the CPU.
    """
    known = (labels != IGNORED).flatten(1).float().cpu()
    known = torch.where(known.any(dim=1, keepdim=True), known, torch.ones_like(known))
    return torch.multinomial(known, count, replacement=True, generator=random)


def at_points(maps: Tensor, places: Tensor, size: tuple[int, int]) -> Tensor:
    """Values of maps (B, n, h, w) at pixels (B, P) of a picture of (H, W): (B, n, P), bilinear between cells."""
    rows, columns = places // size[1], places % size[1]
    grid = torch.stack([(columns + 0.5) / size[1], (rows + 0.5) / size[0]], dim=-1).to(maps) * 2 - 1
    return F.grid_sample(maps, grid[:, None], mode="bilinear", align_corners=False)[:, :, 0]


def match(classes: Tensor, masks: Tensor, present: Tensor, truth: Tensor) -> tuple[list[int], list[int]]:
    """The queries of a picture that are for the names that it shows, by least cost.

    Args:
        classes: Logits (n, T).
        masks: Mask logits at points, (n, P).
        present: Places of the names that are shown, (G,).
        truth: float (G, P), 1 where a point shows the name.

    Returns:
        Queries and, for each, its place in `present`.
    """
    points = masks.shape[1]
    cost = -classes.sigmoid()[:, present]
    cost = cost + (F.softplus(-masks) @ truth.T + F.softplus(masks) @ (1 - truth).T) / points
    shares = masks.sigmoid()
    cost = cost + 1 - (2 * shares @ truth.T + 1) / (shares.sum(dim=1, keepdim=True) + truth.sum(dim=1) + 1)
    rows, columns = linear_sum_assignment(np.nan_to_num(cost.detach().cpu().numpy(), nan=1e6))
    return rows.tolist(), columns.tolist()


def set_loss(
    classes: Sequence[Tensor], masks: Sequence[Tensor], labels: Tensor, points: int, random: torch.Generator
) -> dict[str, Tensor]:
    """Equation 15 without its weights, which are all 1: the sum over the decoder's layers of three losses.

    Args:
        classes: For each layer, logits (B, n, T).
        masks: For each layer, mask logits (B, n, h, w).
        labels: int64 (B, H, W): places among the T names, `IGNORED` or `NOTHING`.
        points: How many pixels are compared.
        random: On the CPU.

    Returns:
        "class", "mask" and "dice".
    """
    size = (labels.shape[1], labels.shape[2])
    # One draw of points for the matching in all layers.
    matching = draw_points(labels, points, random).to(labels.device)
    shown = labels.flatten(1).gather(1, matching)
    names = [_present(one, classes[0].shape[2]) for one in labels]
    total = {name: classes[0].new_zeros(()) for name in ("class", "mask", "dice")}
    for layer_classes, layer_masks in zip(classes, masks, strict=True):
        seen = at_points(layer_masks, matching, size).detach()
        pairs = []
        for picture, present in enumerate(names):
            truth = (shown[picture] == present[:, None]).float()
            pairs.append(match(layer_classes[picture].detach(), seen[picture], present, truth))
        targets = torch.zeros_like(layer_classes)
        weights = torch.full_like(layer_classes[..., :1], UNMATCHED)
        for picture, (queries, found) in enumerate(pairs):
            targets[picture, queries, names[picture][found]] = 1
            weights[picture, queries] = 1
        losses = F.binary_cross_entropy_with_logits(layer_classes, targets, reduction="none")
        total["class"] = total["class"] + (losses * weights).sum() / (weights.sum() * 1.0)
        mask, dice = _mask_losses(layer_masks, labels, pairs, names, points, random)
        total["mask"], total["dice"] = total["mask"] + mask, total["dice"] + dice
    return total


def _present(labels: Tensor, names: int) -> Tensor:
    """The names that a picture shows, in ascending order."""
    found = labels.unique()
    return found[(found >= 0) & (found < names)]


def _mask_losses(
    masks: Tensor,
    labels: Tensor,
    pairs: Sequence[tuple[list[int], list[int]]],
    names: Sequence[Tensor],
    points: int,
    random: torch.Generator,
) -> tuple[Tensor, Tensor]:
    """Cross-entropy and dice of the masks that have been matched, at points that are in doubt for the most part."""
    count = sum(len(queries) for queries, _ in pairs)
    if not count:
        nothing = masks.sum() * 0
        return nothing, nothing
    size = (labels.shape[1], labels.shape[2])
    drawn = draw_points(labels, OVERSAMPLED * points, random).to(labels.device)
    mask, dice = masks.new_zeros(()), masks.new_zeros(())
    doubtful = int((1 - CERTAIN) * points)
    for picture, (queries, found) in enumerate(pairs):
        if not queries:
            continue
        chosen = masks[picture : picture + 1, queries]
        values = at_points(chosen, drawn[picture : picture + 1], size)[0]
        truth = (labels[picture].flatten()[drawn[picture]] == names[picture][found][:, None]).float()
        places = torch.cat(
            [
                (-values.detach().abs()).topk(doubtful, dim=1).indices,
                torch.arange(points - doubtful, device=values.device).expand(len(values), -1),
            ],
            dim=1,
        )
        values, truth = values.gather(1, places), truth.gather(1, places)
        mask = mask + F.binary_cross_entropy_with_logits(values, truth, reduction="none").mean(dim=1).sum()
        shares = values.sigmoid()
        dice = dice + (1 - (2 * (shares * truth).sum(1) + 1) / (shares.sum(1) + truth.sum(1) + 1)).sum()
    return mask / count, dice / count
