"""Words as vectors in the space that CLIP shares among texts and pictures."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from ovseg_cli.names import listed_names
from ovseg_cli.profiles.prompts import fill_prompts
from ovseg_cli.profiles.specs import Weights, digest_of

if TYPE_CHECKING:
    from ovseg_cli.backbones.clip import ClipBackbone

TEXTS_AT_ONCE = 640
"""Texts (words x templates) that are embedded before they are kept, so that an interrupted run has not read them for
nothing: some ten seconds of work with a ViT-B/16 on two cores."""

log = logging.getLogger("ovseg_cli")


class TextCache(Protocol):
    """Keeps embeddings of texts from one run to the next; a `Store` is one."""

    def cached_texts(self, model: str, texts: Sequence[str]) -> dict[str, npt.NDArray[np.float32]]:
        """Those of the texts that are kept for a model, each float32 (E,)."""
        ...

    def keep_texts(self, model: str, vectors: Mapping[str, npt.NDArray[np.float32]]) -> None:
        """Keep embeddings, each float32 (E,), by text."""
        ...


def text_key(weights: Weights, templates: Sequence[str]) -> str:
    """Under what the embeddings of words are kept: what made them, and which texts they are the mean of."""
    made_by = {"model": weights.identity, "revision": weights.revision, "variant": weights.variant}
    return digest_of({**made_by, "templates": list(templates)})


@dataclass(slots=True)
class Reading:
    """What happens while words are read.

    Attributes:
        progress: Told how many of how many words are read, first none of them; not called where all are kept already.
        cut: Words of which only the beginning was read.
        tokens: How many tokens of a text the model reads.
    """

    progress: Callable[[int, int], None] | None = None
    cut: list[str] = field(default_factory=list)
    tokens: int | None = None

    def record(self) -> dict[str, Any]:
        """Which words were cut and by what rule, as JSON-able values; empty where none was."""
        if not self.cut or self.tokens is None:
            return {}
        rule = f"the first {self.tokens - 1} tokens of each prompt, the start token among them, and then the end token"
        return {"words": list(self.cut), "tokens": self.tokens, "rule": rule}

    def tell(self, done: int, total: int) -> None:
        """Tell how far the reading is."""
        if self.progress is not None:
            self.progress(done, total)


def embed_words(
    backbone: ClipBackbone,
    words: Sequence[str],
    templates: Sequence[str],
    *,
    weights: Weights,
    cache: TextCache | None = None,
    reading: Reading | None = None,
) -> Tensor:
    """Words into the space shared with images, by `ClipBackbone.embed_names`.

    A text that is longer than the model can read counts by its beginning: the template's first words and as much of
    the word as fits before the end token, which takes the last place; what the template has behind the word is lost. A
    warning tells which words these are, and which of them are the same to the model.

    Args:
        backbone: The CLIP model.
        words: W words, in any script.
        templates: Prompt templates that a word's embedding is averaged over.
        weights: The model's, which say for what model embeddings are kept.
        cache: Where embeddings are looked up and kept; None for nowhere.
        reading: Is told how far it is, and which words could not be read in whole.

    Returns:
        float32 (W, E), each of norm 1, on the model's device.
    """
    reading = Reading() if reading is None else reading
    key = text_key(weights, templates)
    kept = {} if cache is None else cache.cached_texts(key, words)
    vectors = {word: torch.tensor(vector, device=backbone.device) for word, vector in kept.items()}
    fresh = [word for word in dict.fromkeys(words) if word not in vectors]
    cut = _too_long(backbone, [word for word in dict.fromkeys(words) if word in kept], templates)
    if fresh:
        log.info("Reading %d words in %d templates each.", len(fresh), len(templates))
        reading.tell(0, len(fresh))
    at_once = max(1, TEXTS_AT_ONCE // len(templates))
    for start in range(0, len(fresh), at_once):
        chunk = fresh[start : start + at_once]
        encoded, shortened = backbone.embed_names(chunk, templates)
        vectors.update(zip(chunk, encoded, strict=True))
        cut += [word for word, is_cut in zip(chunk, shortened.tolist(), strict=True) if is_cut]
        if cache is not None:
            cache.keep_texts(key, {word: vectors[word].cpu().numpy() for word in chunk})
        reading.tell(start + len(chunk), len(fresh))
    if cut:
        reading.cut, reading.tokens = cut, backbone.longest_text
        log.warning(
            "CLIP reads at most %d tokens of a prompt. With these words prompts are longer, and only their beginning "
            "counts: %s.",
            reading.tokens,
            listed_names(cut),
        )
        for alike in _same_texts(backbone, cut, templates):
            log.warning("CLIP cannot tell these apart, as they begin alike: %s.", listed_names(alike))
    return torch.stack([vectors[word] for word in words])


def _too_long(backbone: ClipBackbone, words: Sequence[str], templates: Sequence[str]) -> list[str]:
    """Those of the words with which a text is longer than the model can read."""
    # A token is one byte at least, so most words need not be cut into tokens with every template.
    room = backbone.longest_text - 2 - max(len(text.encode()) for text in fill_prompts(templates, ""))
    doubtful = [word for word in words if len(word.lower().encode()) > room]
    return [word for word in doubtful if backbone.cuts(fill_prompts(templates, word)).any()]


def _same_texts(backbone: ClipBackbone, words: Sequence[str], templates: Sequence[str]) -> list[list[str]]:
    """Those of the words that are the same to a model, as they differ only behind what it reads; in groups."""
    read: dict[bytes, list[str]] = {}
    for word in words:
        read.setdefault(backbone.tokenizer(fill_prompts(templates, word)).numpy().tobytes(), []).append(word)
    return [group for group in read.values() if len(group) > 1]
