"""Trained heads as scorers of words."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from ovseg_cli.backbones.pixels import resize
from ovseg_cli.devices import constant
from ovseg_cli.errors import MethodError
from ovseg_cli.heads.artefact import load_head
from ovseg_cli.heads.record import file_digest
from ovseg_cli.heads.texts import head_texts
from ovseg_cli.heads.tiles import Tiles, cut, fuse
from ovseg_cli.labeling.decide import Head
from ovseg_cli.scorers.scorer import Crops, Picture
from ovseg_cli.scorers.words import EmbeddedWordScorer, WordMaps
from ovseg_cli.text.embedding import Reading, TextCache


class HeadScorer(EmbeddedWordScorer):
    """A trained head: probabilities of words, each there or not whatever the others are.

    A class has the probability of its best word, the background that of the best of its words. With a threshold, a
    pixel where no class is as probable is background.

    Args:
        head: The head's file.
        digest: Of that file as it was planned with.
        arguments: As `WordScorer` has them.
        settings: Likewise.
    """

    def __init__(self, *arguments: Any, head: Path, digest: str, **settings: Any) -> None:
        if file_digest(head) != digest:
            raise MethodError(f"The head {head} was changed while it was about to be used. Run the command again.")
        self._path = head
        super().__init__(*arguments, **settings)
        self.sees = ("head", digest)

    def _read(self, templates: Sequence[str], texts: TextCache | None, reading: Reading | None) -> None:
        """Load the head, and embed the words as it reads them."""
        clip = self._models.clip
        self._head, record = load_head(self._path, clip)
        self._record = record
        self._tiles = None if record.tiles is None else Tiles(*record.tiles)
        self._text = head_texts(
            self._head,
            clip,
            self.vocabulary.words,
            templates,
            weights=self._models.profile.clip.weights,
            cache=texts,
            reading=reading,
        )

    def pixels(self, size: tuple[int, int]) -> int:
        """Those at which CLIP sees a crop, or all tiles of a picture."""
        one = self._record.spec.clip.input_size**2
        if self._tiles is None:
            return one
        return one * (((self._tiles.side - self._tiles.window) // self._tiles.stride + 1) ** 2 + 1)

    def features(self, crops: Crops) -> list[Tensor]:
        """What the head makes of CLIP, for each tile where there are tiles: (B, ...) or (B, n, ...)."""
        clip, spec = self._models.clip, self._models.profile.clip
        images = crops.images
        side = (self._record.spec.clip.input_size,) * 2
        if self._tiles is not None:
            pieces = cut(resize(images, (self._tiles.side,) * 2, "bilinear"), self._tiles)
            images = F.interpolate(pieces.flatten(0, 1), side, mode="bilinear", align_corners=False)
        else:
            images = resize(images, side)
        shape = (1, 3, 1, 1)
        mean, std = (constant(tuple(each), images.device, images.dtype).view(shape) for each in (spec.mean, spec.std))
        pixels = (images - mean) / std
        found: list[Tensor] = self._head.features(clip, pixels.to(clip.device), **self._more(images))
        if self._tiles is None:
            return found
        return [each.unflatten(0, (len(crops.images), -1)) for each in found]

    def _more(self, images: Tensor) -> dict[str, Any]:
        """What a head needs besides CLIP: of a head that asks the diffusion model at inference, its features."""
        dedos = self._record.spec.dedos
        if dedos is None or dedos.at_inference != "image" or not dedos.injection:
            return {}
        from ovseg_cli.heads.taps import TapReader

        return {"taps": TapReader(self._models.generator, dedos, self._models.profile).read(images).taps}

    def compare(self, features: Sequence[Tensor]) -> Tensor:
        """Probabilities of words, float32 (B, words, g, g')."""
        texts = self._text[None]
        if self._tiles is None:
            return self._head.probabilities(features, texts).float()
        batch = len(features[0])
        logits = self._head.compare([each.flatten(0, 1) for each in features], texts)
        return fuse(logits.unflatten(0, (batch, -1)).float(), self._tiles)

    def combine(self, fused: Tensor, picture: Picture) -> WordMaps:
        """Of each class the best word's probability, and of the background."""
        owner = constant(tuple(self.vocabulary.owner), fused.device, torch.int64)
        scores = fused.new_zeros(self.vocabulary.channels, *fused.shape[1:])
        scores.scatter_reduce_(0, owner.view(-1, 1, 1).expand_as(fused), fused, "amax")
        return WordMaps(scores, _as_it_is)


def _as_it_is(values: Tensor, _size: tuple[int, int]) -> Head:
    return Head(len(values), lambda rows: rows)
