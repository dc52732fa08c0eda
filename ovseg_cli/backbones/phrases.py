"""Prompts, and the tokens of class names in them: what a diffusion model's text encoder reads."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from ovseg_cli.errors import UsageError
from ovseg_cli.names import shown_name


@dataclass(frozen=True, slots=True)
class PhrasedPrompt:
    """A prompt and where its class phrases stand.

    Attributes:
        text: The whole prompt.
        spans: Start and end of each phrase in `text`, in characters.
    """

    text: str
    spans: tuple[tuple[int, int], ...]


@dataclass(frozen=True, slots=True)
class PromptEmbedding:
    """What a UNet reads of a prompt.

    Attributes:
        tokens: (1, T, D), what cross-attention sees: of XL, both text encoders' numbers side by side.
        pooled: (1, P), one vector for the whole prompt, which XL's time embedding takes in; None for the others.
    """

    tokens: Tensor
    pooled: Tensor | None = None


class PromptEncoder:
    """The tokenizers and the text encoders of a Stable Diffusion pipeline.

    XL has two of each. Both tokenizers part words alike and differ in the padding alone, so that a token has one place.

    Args:
        pipeline: `diffusers.StableDiffusionPipeline` or `diffusers.StableDiffusionXLPipeline`.
        device: Where embeddings are made.
    """

    def __init__(self, pipeline: Any, device: str) -> None:
        self._pipeline = pipeline
        self._device = device
        self._empty: PromptEmbedding | None = None

    def reads(self, prompt: PhrasedPrompt) -> bool:
        """Whether the text encoder reads all phrases of a prompt; otherwise the prompt is too long."""
        try:
            span_token_positions(self._pipeline.tokenizer, prompt.text, prompt.spans, "")
        except UsageError:
            return False
        return True

    @torch.inference_mode()
    def encode(self, prompt: str) -> PromptEmbedding:
        """Embedding of a prompt that is filled up to the text encoder's length T, as in training."""
        made = self._pipeline.encode_prompt(
            prompt=prompt, device=self._device, num_images_per_prompt=1, do_classifier_free_guidance=False
        )
        # Of XL: tokens, negative tokens, pooled, negative pooled; of the others the first two.
        return PromptEmbedding(made[0], made[2] if len(made) > 2 else None)

    def empty(self, *, padded: bool = True) -> PromptEmbedding:
        """Embedding of the empty prompt, or without its padding: two tokens, start and end."""
        if self._empty is None:
            self._empty = self.encode("")
        return self._empty if padded else self._cut(self._empty, "")

    @torch.inference_mode()
    def encode_phrases(
        self, prompt: str, phrases: Sequence[Sequence[int]], emphasis: float, *, padded: bool
    ) -> PromptEmbedding:
        """Embedding of a prompt, the tokens of its phrases emphasised.

        Args:
            prompt: The whole prompt.
            phrases: Token positions of each phrase.
            emphasis: The phrases' token embeddings are moved away from those of an empty prompt by this factor; 1
                leaves them.
            padded: Whether the prompt is filled up to the text encoder's length.

        Returns:
            T tokens, or without padding as many as the prompt has, start and end included.
        """
        text = self.encode(prompt)
        if emphasis != 1:
            empty = self.empty().tokens
            places = sorted({position for phrase in phrases for position in phrase})
            tokens = text.tokens.clone()
            tokens[:, places] = empty[:, places] + emphasis * (tokens[:, places] - empty[:, places])
            text = replace(text, tokens=tokens)
        return text if padded else self._cut(text, prompt)

    def _cut(self, text: PromptEmbedding, prompt: str) -> PromptEmbedding:
        """An embedding without its padding, whatever token that is (the end token, or in Stable Diffusion 2 a "!").

        CLIP's text encoder is causal: padding has had no influence on what stays.
        """
        return replace(text, tokens=text.tokens[:, : len(self._pipeline.tokenizer(prompt, truncation=True).input_ids)])


def phrase_token_positions(tokenizer: Any, prompt: str, phrase: str) -> list[int]:
    """Positions of a phrase's tokens in the tokenised prompt, found by character offsets.

    Offsets make it right for names of several words, for words that split into several tokens, and for
    tokenizers that lower-case.

    Args:
        tokenizer: A fast transformers tokenizer.
        prompt: The whole prompt.
        phrase: The class phrase; its last occurrence in the prompt counts, since templates may use the
            same word before it.

    Returns:
        Token positions, start token counted as 0.

    Raises:
        UsageError: The phrase is not in the prompt, or is cut off by the tokenizer's length limit.
    """
    return span_token_positions(
        tokenizer, prompt, [_phrase_span(prompt, phrase)], "Give a shorter name, or a shorter --prompt."
    )[0]


def span_token_positions(tokenizer: Any, prompt: str, spans: Sequence[tuple[int, int]], remedy: str) -> list[list[int]]:
    """Positions of the tokens of several stretches of a prompt, found by character offsets.

    Args:
        tokenizer: A fast transformers tokenizer.
        prompt: The whole prompt.
        spans: Start and end of each stretch, in characters.
        remedy: What to do when one is cut off, for the error message.

    Returns:
        Token positions of each stretch, start token counted as 0.

    Raises:
        UsageError: A stretch is cut off by the tokenizer's length limit.
    """
    # Not truncated here, so that a phrase that will be cut off is told from one that the tokenizer normalises.
    offsets = tokenizer(prompt, return_offsets_mapping=True, verbose=False)["offset_mapping"]
    found = []
    for start, end in spans:
        # Start and end tokens have empty spans, so they never overlap the phrase.
        positions = [i for i, (a, b) in enumerate(offsets) if a < b and a < end and b > start]
        if not positions or positions[-1] > tokenizer.model_max_length - 2:  # the end token takes the last place
            name = prompt[start:end]
            raise UsageError(
                f"The prompt is longer than the text encoder's {tokenizer.model_max_length} tokens, which cuts off "
                f"the class name {shown_name(name)}. {remedy}"
            )
        found.append(positions)
    return found


def _phrase_span(prompt: str, phrase: str) -> tuple[int, int]:
    """Start and end of the phrase's last occurrence in whole words, else of its last occurrence at all.

    Whole words first: the "cat" of "a cat in a scattered field" is not in "scattered". Scripts that do not
    part words need the second try.
    """
    literal = re.escape(phrase)
    for pattern in (rf"(?<!\w){literal}(?!\w)", literal):
        spans = [match.span() for match in re.finditer(pattern, prompt, re.IGNORECASE)]
        if spans:
            return spans[-1]
    raise UsageError(f"The prompt {prompt!r} does not contain the class name {phrase!r}.")
