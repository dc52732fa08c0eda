"""CLIPer, with and without its refinement."""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from ovseg_cli.backbones.attention import AttentionLayer
from ovseg_cli.backbones.unet import Noising
from ovseg_cli.devices import constant
from ovseg_cli.labeling.decide import Head, extremes
from ovseg_cli.methods import cliper
from ovseg_cli.methods.attention_refine import refine_maps
from ovseg_cli.methods.published import CliperSettings
from ovseg_cli.scorers.scorer import Crops, Picture, Walk
from ovseg_cli.scorers.words import ClipWordScorer, WordMaps
from ovseg_cli.stages import stage
from ovseg_cli.text.vocabulary import Vocabulary

if TYPE_CHECKING:
    pass


class CoarseCliper(ClipWordScorer):
    """CLIPer without refinement: coarse maps of crops; see `ovseg_cli.methods.cliper`.

    The geometry, the templates and the scale come from `settings`, so that they can be asked for like any other
    method's.
    """

    on_own_grid = True

    @property
    def _cliper(self) -> CliperSettings:
        """Its settings, which have more than other methods'."""
        if not isinstance(self._settings, CliperSettings):
            raise ValueError(f"CLIPer needs settings of its own, got {type(self._settings).__name__}")
        return self._settings

    def _looks(self) -> Hashable:
        return "cliper"

    @staticmethod
    def _count(vocabulary: Vocabulary) -> int:
        """How many words stand for a class: words for the background have no map."""
        return sum(owner > 0 for owner in vocabulary.owner)

    def walk(self, size: tuple[int, int]) -> Walk:
        """Through all blocks, with their attention."""
        return self._walk(size, range(self._models.clip.depth), attention=True)

    def features(self, crops: Crops) -> list[Tensor]:
        """Each embedding in the space of text, float32 (B, g, g', E), and the fused attention, float32 (B, n, n)."""
        clip = self._models.clip
        trace = crops.trace(self.walk((crops.images.shape[2], crops.images.shape[3])))
        fused = cliper.fuse_early_layers([trace.blocks[i] for i in range(clip.depth)], trace.attention)
        embeddings = [clip.embed(tokens)[:, 1:].unflatten(1, trace.grid) for tokens in fused.tokens]
        return [*embeddings, fused.attention]

    def compare(self, features: Sequence[Tensor]) -> Tensor:
        """Coarse maps, float32 (B, words of classes, g, g')."""
        *embeddings, attention = features
        named = self.channels
        texts = cliper.cliper_texts(self._text[:named], self._text[named:])
        return cliper.cliper_maps(
            [embedding.flatten(1, 2) @ texts.T for embedding in embeddings],
            attention,
            classes=named,
            grid=(embeddings[0].shape[1], embeddings[0].shape[2]),
            logit_scale=self._cliper.logit_scale,
            layer=self._cliper.layer,
            threshold=self._cliper.attention_threshold,
        )

    def combine(self, fused: Tensor, picture: Picture) -> WordMaps:
        """Coarse maps, refined where the method does that."""
        maps = self._sharpened(fused, picture)
        present = cliper.class_scores(fused, maps)
        owner = [number for number in self.vocabulary.owner if number > 0]

        def head(values: Tensor, size: tuple[int, int]) -> Head:
            ends = extremes(values, size)

            def scores(rows: Tensor) -> Tensor:
                words = cliper.cliper_scores(rows, ends, present, self._cliper, background=self._background)
                return _best_words(words, owner)

            return Head(self.vocabulary.channels, scores)

        return WordMaps(maps, head)

    def _sharpened(self, maps: Tensor, picture: Picture) -> Tensor:
        """Coarse maps (words, g, g') as the method has them in the end."""
        return maps


class Cliper(CoarseCliper):
    """CLIPer: coarse maps, sharpened on the whole picture by the diffusion model's self-attention."""

    def _sharpened(self, maps: Tensor, picture: Picture) -> Tensor:
        generator = self._models.profile.generator
        side = generator.reading_side

        def attend(pictures: Sequence[Picture]) -> Sequence[list[AttentionLayer]]:
            with stage("diffusion model"):
                layers = self._models.generator.attention_layers(
                    torch.cat([each.at((side, side), "nearest") for each in pictures]),
                    Noising(cliper.TIMESTEP, generator.seed, side),
                    layers=generator.refine_layers,
                )
            return [[layer.of(place) for layer in layers.values()] for place in range(len(pictures))]

        layers = picture.once("refining layers", side**2, attend)
        threshold = generator.refine_threshold
        if threshold is None:
            threshold = self._cliper.attention_threshold
        (sharp,) = refine_maps(maps[None], layers, threshold=threshold)
        return sharp


def _best_words(words: Tensor, owner: Sequence[int]) -> Tensor:
    """Scores of words that stand for classes, (1 + W, h, w) with the background's first, as scores of classes."""
    classes = max(owner)
    numbers = constant(tuple(owner), words.device, torch.int64)
    scores = torch.full((classes + 1, *words.shape[1:]), -torch.inf, device=words.device)
    scores[0] = words[0]
    return scores.scatter_reduce_(0, numbers.view(-1, 1, 1).expand_as(words[1:]), words[1:], "amax")
