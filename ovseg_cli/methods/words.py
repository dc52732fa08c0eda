"""The head of dense CLIP methods: from cosines with words to a score per class.

It is the one that SCLIP published (Wang et al., "SCLIP: Rethinking Self-Attention for Dense Vision-Language
Inference", ECCV 2024; its code, which ClearCLIP, NACLIP and ProxyCLIP share): cosines with all query words, scaled; a
softmax over all of them; each class has the score of its best synonym. A pixel becomes background in two ways, each of
which works without the other:

- by words: those for the background are one more class, with the score of the best of them;
- by a threshold: where the best score of all, the background's included, is below it (`ovseg_cli.labeling.decide`).

With neither, every pixel gets a class. With one class and no word for the background there is nothing to compete with:
the softmax of a single word is 1 everywhere, and no threshold is above it
(`ovseg_cli.text.vocabulary.Vocabulary.notes` says so).

Cosines may be averaged over crops and enlarged before, as published; scores may not, as the softmax is not linear.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from ovseg_cli.devices import constant, portion

MAX_CELLS = 1_000_000
"""Probabilities made at once on a CPU (words x rows x columns): 4 MB in float32, whatever the number of words."""


def word_scores(cosines: Tensor, owner: Sequence[int], *, logit_scale: float) -> Tensor:
    """Cosines with query words to a score per class and one for the background.

    ``p = softmax(logit_scale * cosines)`` over all words; the score of class c is the largest p of the words that it
    owns. Computed in float32 at least, in strips of rows, so that hundreds of words need no second copy of the cosines.

    Args:
        cosines: (W, h, w).
        owner: For each word the number 1..C of its class, or 0 for the background; every class owns a word.
        logit_scale: Factor on the cosines.

    Returns:
        float32 (C + 1, h, w) in [0, 1] (float64 for float64), channel 0 the background's; 0 there where no word is the
        background's.

    Raises:
        ValueError: There are not as many owners as words, or a class without a word.
    """
    channels = max(owner, default=0) + 1
    if len(owner) != len(cosines) or {0, *owner} != {*range(channels)}:
        raise ValueError(f"each of {len(cosines)} words needs an owner and each class a word, got owners {owner!r}")
    words, height, width = cosines.shape
    dtype = torch.promote_types(cosines.dtype, torch.float32)
    scores = torch.zeros(channels, height, width, dtype=dtype, device=cosines.device)
    place = constant(tuple(owner), cosines.device, torch.int64).view(-1, 1, 1)
    rows = max(1, portion(cosines.device, MAX_CELLS) // (words * width))
    for start in range(0, height, rows):
        strip = cosines[:, start : start + rows].to(dtype)
        probabilities = (strip * logit_scale).softmax(dim=0)
        best = scores[:, start : start + rows]
        best.scatter_reduce_(0, place.expand_as(probabilities), probabilities, "amax")
    return scores
