"""Names as heads read them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from ovseg_cli.backbones.clip import ClipBackbone
from ovseg_cli.heads.towers import read
from ovseg_cli.profiles.prompts import fill_prompts
from ovseg_cli.profiles.specs import Weights
from ovseg_cli.text.embedding import Reading, TextCache, embed_words

TEXTS_AT_ONCE = 64


def name_tokens(clip: ClipBackbone, names: Sequence[str], templates: Sequence[str]) -> Tensor:
    """The tokens of names in every template, int64 (T, P, N)."""
    texts = [text for name in names for text in fill_prompts(templates, name)]
    return clip.tokenizer(texts).view(len(names), len(templates), -1)


def grouped(vectors: Tensor, prompts: int) -> Tensor:
    """Unit embeddings (T, P, E) as a head takes them: its own number of texts, or their mean, (T, prompts, E)."""
    if vectors.shape[1] == prompts:
        return vectors
    return F.normalize(vectors.mean(dim=1, keepdim=True), dim=-1)


def tuned_texts(head: Any, clip: ClipBackbone, tokens: Tensor) -> Tensor:
    """Names by a text tower with the head's projections, with gradients where they are on.

    Args:
        head: The head.
        clip: The CLIP below it.
        tokens: From `name_tokens`.

    Returns:
        (T, prompts, E), of norm 1.
    """
    flat = tokens.flatten(0, 1).to(clip.device)
    vectors = torch.cat([read(clip, some, head.text) for some in flat.split(TEXTS_AT_ONCE)])
    return grouped(F.normalize(vectors.float(), dim=-1).view(*tokens.shape[:2], -1), head.spec.cost.prompts)


def head_texts(
    head: Any,
    clip: ClipBackbone,
    words: Sequence[str],
    templates: Sequence[str],
    *,
    weights: Weights,
    cache: TextCache | None = None,
    reading: Reading | None = None,
) -> Tensor:
    """Words as a head reads them, without gradients.

    Words go the way of every method's, with the store's embeddings and with warnings of what is too long; a text tower
    with projections of its own reads them itself, each time.

    Args:
        head: The head.
        clip: The CLIP below it.
        words: W words.
        templates: Prompt templates.
        weights: As `embed_words` has them.
        cache: Likewise.
        reading: Likewise.

    Returns:
        float32 (W, prompts, E), of norm 1.
    """
    if head.text is None and head.spec.cost.prompts == 1:
        vectors = embed_words(clip, words, templates, weights=weights, cache=cache, reading=reading)
        # A tensor of inference mode could not take part in training.
        return vectors.clone()[:, None]
    with torch.no_grad():
        if head.text is not None:
            return tuned_texts(head, clip, name_tokens(clip, words, templates))
        encoded = clip.encode_texts([text for word in words for text in fill_prompts(templates, word)])[0]
        return encoded.clone().view(len(words), len(templates), -1)
