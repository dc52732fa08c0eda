"""Changes of colour after which only its shape tells what an object is.

One artist paints every cat in the same yellow, and a model that has seen no other cat knows a cat by it. Where the
colours of an object are drawn anew, its outline and its parts are what is left to know it by, and these are what
artists have in common.
"""

from __future__ import annotations

from typing import Final

import torch
from torch import Tensor

# Probabilities and ranges of what happens to colours.
_GREY: Final = 0.2
_INVERTED: Final = 0.1
_SATURATION: Final = (0.4, 1.3)
_CONTRAST: Final = (0.55, 1.3)
_BRIGHTNESS: Final = 0.2


def colour_maps(count: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Random affine maps of RGB colours.

    In this order: a permutation of the channels, a rotation of the hue over the full circle, another saturation down
    to grey, inversion, another contrast about mid-grey, and another brightness.

    Args:
        count: Number of maps N.
        generator: Decides everything.

    Returns:
        Matrices (N, 3, 3) and offsets (N, 3), for colours in [0, 1].
    """

    def uniform(low: float, high: float) -> Tensor:
        return (low + (high - low) * torch.rand(count, generator=generator)).view(-1, 1, 1)

    identity = torch.eye(3)
    angle = uniform(0, 2 * torch.pi)
    # Rodrigues' rotation about the grey axis (1, 1, 1)
    cross = torch.tensor([[0.0, -1, 1], [1, 0, -1], [-1, 1, 0]]) / 3**0.5
    turn = angle.cos() * identity + (1 - angle.cos()) / 3 + angle.sin() * cross
    permutation = identity[torch.rand(count, 3, generator=generator).argsort(1)]
    luma = torch.tensor([0.299, 0.587, 0.114]).expand(3, 3)
    saturation = uniform(*_SATURATION) * (uniform(0, 1) >= _GREY)
    matrix = (saturation * identity + (1 - saturation) * luma) @ turn @ permutation
    factor = uniform(*_CONTRAST) * torch.where(uniform(0, 1) < _INVERTED, -1.0, 1.0)
    matrix = factor * matrix
    # contrast changes about mid-grey, which all of the above leave where it is
    offset = 0.5 - 0.5 * factor + uniform(-_BRIGHTNESS, _BRIGHTNESS)
    return matrix, offset.view(-1, 1).expand(-1, 3).clone()


def recolour(pictures: Tensor, inside: Tensor, matrices: Tensor, offsets: Tensor) -> Tensor:
    """Map the colours of a part of each picture.

    Args:
        pictures: float (B, 3, S, S) in 0..1.
        inside: bool (B, S, S), where colours change.
        matrices: (B, 3, 3); see `colour_maps`.
        offsets: (B, 3).

    Returns:
        float (B, 3, S, S) in 0..1.
    """
    mapped = torch.baddbmm(offsets[..., None], matrices, pictures.flatten(2)).view_as(pictures)
    return torch.where(inside[:, None], mapped.clamp(0, 1), pictures)
