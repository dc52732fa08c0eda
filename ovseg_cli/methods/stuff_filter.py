"""The stuff filter (OVDiff, section 3.3 and supplement A.2): background prototypes that show what is also asked for.

What surrounds an airplane in its support images is sky. Where "sky" is one of the classes too, the airplane's
background prototypes win pixels that belong to it. So those that look like a stuff class's foreground are left out,
and stuff classes give no background prototypes at all: what surrounds grass is mostly things.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

ROWS_AT_ONCE = 4096
"""Vectors copied and compared at once, from either side: 126 MB each at Stable Diffusion's 7680 numbers, and 64 MB of
cosines."""


@torch.inference_mode()
def stuff_filter(vectors: Tensor, *, background: Tensor, of_stuff: Tensor, against: Tensor, threshold: float) -> Tensor:
    """Which prototypes stay when a list of classes is segmented.

    Foreground prototypes always stay. A background prototype goes when its class is stuff, or when its cosine to one of
    the prototypes in `against` is above the threshold. As published, `against` is ``~background & of_stuff``. The
    supplement's ablation without kinds of classes is ``of_stuff`` all false and ``against=~background``.

    Args:
        vectors: float (P, D), each of norm 1, of one extractor.
        background: bool (P,), which are background prototypes.
        of_stuff: bool (P,), which belong to classes of kind stuff.
        against: bool (P,), the foreground prototypes that background ones are compared with.
        threshold: Cosine in [-1, 1]; 0.85 is published.

    Returns:
        bool (P,), true for those that stay, on the device of `vectors`.

    Raises:
        ValueError: The masks do not fit the vectors, or `against` holds a background prototype.
    """
    count = len(vectors)
    for name, mask in (("background", background), ("of_stuff", of_stuff), ("against", against)):
        if mask.shape != (count,) or mask.dtype != torch.bool:
            raise ValueError(f"{name} must be bool of shape {(count,)}; got {mask.dtype} of shape {tuple(mask.shape)}")
    background, of_stuff, against = (mask.to(vectors.device) for mask in (background, of_stuff, against))
    if (background & against).any():
        raise ValueError("against must hold foreground prototypes only")
    stays = ~(background & of_stuff)
    for others in _portions(against):
        compared = vectors[others].float()
        # What one portion of the others has ruled out is not compared with the next.
        for rows in _portions(background & stays):
            stays[rows] = (vectors[rows].float() @ compared.T).amax(dim=1) <= threshold
    return stays


def _portions(mask: Tensor) -> Iterator[Tensor]:
    """Where a mask is true, int64 of at most `ROWS_AT_ONCE` places each; none where it is true nowhere."""
    places = mask.nonzero()[:, 0]
    for start in range(0, len(places), ROWS_AT_ONCE):
        yield places[start : start + ROWS_AT_ONCE]
