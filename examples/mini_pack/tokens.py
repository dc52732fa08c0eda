"""The tokenizer of the pack: a byte-pair vocabulary of the captions, in CLIP's layout."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import torch
from torch import Tensor
from transformers import CLIPTokenizer

from examples.mini_pack.vocabulary import STUFF, THINGS

CONTEXT_LENGTH: Final = 24

_WORDS: Final[dict[str, tuple[str, ...]]] = {
    **{thing.name: (thing.name, *thing.aliases) for thing in THINGS},
    **{stuff.name: (stuff.name,) for stuff in STUFF},
}


def train_tokenizer(captions: Iterable[str], folder: Path) -> CLIPTokenizer:
    """Learn a byte-pair vocabulary in which every word of the captions is one token, and save it.

    Args:
        captions: The text to learn from.
        folder: Where the tokenizer is saved, loadable by transformers and by open_clip.

    Returns:
        The tokenizer.
    """
    from tokenizers import Regex, Tokenizer, models, normalizers, pre_tokenizers, trainers

    model = Tokenizer(models.BPE(end_of_word_suffix="</w>"))
    model.normalizer = normalizers.Sequence([normalizers.NFC(), normalizers.Lowercase()])
    words = Regex(r"[\p{L}]+|[\p{N}]|[^\s\p{L}\p{N}]+")
    model.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(words, behavior="removed", invert=True),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    trainer = trainers.BpeTrainer(
        vocab_size=4000, min_frequency=2, initial_alphabet=alphabet, end_of_word_suffix="</w>", show_progress=False
    )
    # every word counts alike, so that rare aliases too become one token
    texts = sorted({word for caption in captions for word in caption.split()})
    model.train_from_iterator([word for word in texts for _ in range(2)], trainer)
    merges = [tuple(pair) for pair in json.loads(model.to_str())["model"]["merges"]]
    # CLIP's layout: bytes, bytes that end a word, merges, and the special tokens last (open_clip and
    # transformers find the end of a text as its highest id)
    entries = [*alphabet, *(byte + "</w>" for byte in alphabet)]
    entries += [joined for joined in dict.fromkeys("".join(pair) for pair in merges) if joined not in entries]
    entries += ["<|startoftext|>", "<|endoftext|>"]
    tokenizer = CLIPTokenizer(
        vocab={entry: index for index, entry in enumerate(entries)},
        merges=merges,
        model_max_length=CONTEXT_LENGTH,
    )
    tokenizer.save_pretrained(folder)
    (folder / "vocab.json").write_text(
        json.dumps({entry: index for index, entry in enumerate(entries)}, ensure_ascii=False), encoding="utf-8"
    )
    lines = ["#version: 0.2", *(" ".join(pair) for pair in merges)]
    (folder / "merges.txt").write_text("\n".join(lines) + "\n", encoding="utf-8")
    return CLIPTokenizer.from_pretrained(folder)


@dataclass(frozen=True, slots=True)
class Encoded:
    """A tokenized caption.

    Attributes:
        ids: int64 (T,), padded.
        words: For each asked name that the caption says: the positions of its tokens.
    """

    ids: Tensor
    words: dict[str, list[int]]


class Encoder:
    """Tokenizes captions, keeping what it has seen, and finds class names in them."""

    def __init__(self, tokenizer: CLIPTokenizer) -> None:
        """Prepare the token sequences of all names and aliases."""
        self._tokenizer = tokenizer
        self.length: int = tokenizer.model_max_length
        self.size: int = len(tokenizer)
        self._ids: dict[str, list[int]] = {}
        # longest first: "chocolate glazed donut" before "donut"
        self._names = {
            name: sorted((self._split(word) for word in words), key=len, reverse=True) for name, words in _WORDS.items()
        }

    def _split(self, word: str) -> list[int]:
        return list(self._tokenizer(word, add_special_tokens=False).input_ids)

    def encode(self, caption: str, names: Sequence[str] = ()) -> Encoded:
        """Tokenize a caption.

        Args:
            caption: The text; cut off at the context length.
            names: Canonical names to look for, in all their aliases.

        Returns:
            Ids and positions; a name that is not said has no entry.
        """
        if caption not in self._ids:
            self._ids[caption] = list(
                self._tokenizer(caption, padding="max_length", truncation=True, max_length=self.length).input_ids
            )
        ids = self._ids[caption]
        words = {}
        for name in names:
            for word in self._names[name]:
                starts = range(len(ids) - len(word) + 1)
                start = next((i for i in starts if ids[i : i + len(word)] == word), None)
                if start is not None:
                    words[name] = list(range(start, start + len(word)))
                    break
        return Encoded(ids=torch.tensor(ids), words=words)
