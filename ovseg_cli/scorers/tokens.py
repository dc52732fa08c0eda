"""Methods that give tokens, which are projected into the space of text and compared with words there."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Hashable, Sequence
from typing import TYPE_CHECKING, ClassVar

import torch
from torch import Tensor

from ovseg_cli.backbones.clip import BlockTrace, ClipTrace
from ovseg_cli.labeling.decide import Head, count_labels, strips
from ovseg_cli.methods import clipsurgery, gem, last_layer, proxyclip
from ovseg_cli.methods.words import word_scores
from ovseg_cli.scorers.scorer import Crops, Picture, Walk
from ovseg_cli.scorers.words import ClipWordScorer, WordMaps, whole_patches
from ovseg_cli.stages import stage

if TYPE_CHECKING:
    pass


class TokenScorer(ClipWordScorer):
    """Cosines of a method's tokens with words; the arguments are those of `WordScorer`.

    A method of this kind is a subclass that says what its tokens are.

    Attributes:
        stream: Whether it needs the profile's last `ClipSpec.streams` blocks, instead of the last one.
    """

    stream: ClassVar[bool] = False

    @abstractmethod
    def tokens(self, trace: ClipTrace, crops: Crops) -> Tensor:
        """What the method makes of crops, (B, g, g', D): one token per patch, which `ClipBackbone.embed` projects.

        Args:
            trace: CLIP's walk, with the last block or the last few (`blocks`).
            crops: What was walked through, for methods that look at the pixels once more.
        """

    def _looks(self) -> Hashable:
        return type(self)

    @property
    def _blocks(self) -> range:
        """Which blocks are read, from the front."""
        depth = self._models.clip.depth
        last = self._models.profile.clip.streams if self.stream else 1
        return range(max(0, depth - last), depth)

    def blocks(self, trace: ClipTrace) -> list[BlockTrace]:
        """The traced blocks that were asked for, first to last."""
        return [trace.blocks[i] for i in self._blocks]

    def walk(self, size: tuple[int, int]) -> Walk:
        """Through the last block, or the last few."""
        return self._walk(size, self._blocks)

    def features(self, crops: Crops) -> list[Tensor]:
        """The method's patches in the space of text, one float32 (B, g, g', E)."""
        tokens = self.tokens(crops.trace(self.walk((crops.images.shape[2], crops.images.shape[3]))), crops)
        return [self._models.clip.embed(tokens.flatten(1, 2)).unflatten(1, tokens.shape[1:3])]

    def compare(self, features: Sequence[Tensor]) -> Tensor:
        """Cosines of patches with every word, float32 (B, words, g, g')."""
        (patches,) = features
        return (patches @ self._text.T).permute(0, 3, 1, 2)

    def probabilities(self, scores: Tensor) -> Tensor:
        """Probability of every word, from cosines (words, h, w) at a pixel's own place."""
        return torch.softmax(scores * self._settings.logit_scale, dim=0)

    def combine(self, fused: Tensor, picture: Picture) -> WordMaps:
        """The cosines themselves, of which probabilities are made pixel by pixel."""
        return WordMaps(fused, self._head)

    def _head(self, cosines: Tensor, size: tuple[int, int]) -> Head:
        """Probabilities of each class's best word, and of the background's."""
        owner, scale = self.vocabulary.owner, self._settings.logit_scale
        channels, least = self.vocabulary.channels, self._settings.area_threshold

        def likely(rows: Tensor) -> Tensor:
            return word_scores(rows, owner, logit_scale=scale)

        if not (least and self._background):
            return Head(channels, likely)
        won = torch.zeros(channels, device=cosines.device)
        for _, _, rows in strips(cosines, size, channels=channels):
            won += count_labels(likely(rows).argmax(dim=0), channels)
        stays = won > least * won[1:].sum()
        stays[0] = True
        return Head(channels, lambda rows: likely(rows) * stays.view(-1, 1, 1))


def patches(tokens: Tensor, trace: ClipTrace) -> Tensor:
    """Tokens (B, 1 + N, D), the class token first, as patches on their grid: (B, g, g', D)."""
    return tokens[:, 1:].unflatten(1, trace.grid)


class MaskClip(TokenScorer):
    """MaskCLIP; see `ovseg_cli.methods.last_layer`."""

    def tokens(self, trace: ClipTrace, crops: Crops) -> Tensor:
        """Each patch's own value."""
        return patches(last_layer.maskclip_tokens(self.blocks(trace)[-1]), trace)


class Sclip(TokenScorer):
    """SCLIP; see `ovseg_cli.methods.last_layer`."""

    def tokens(self, trace: ClipTrace, crops: Crops) -> Tensor:
        """Values mixed by query-query and key-key attention."""
        return patches(last_layer.sclip_tokens(self.blocks(trace)[-1]), trace)


class ClearClip(TokenScorer):
    """ClearCLIP; see `ovseg_cli.methods.last_layer`."""

    def tokens(self, trace: ClipTrace, crops: Crops) -> Tensor:
        """Values mixed by query-query attention."""
        return patches(last_layer.clearclip_tokens(self.blocks(trace)[-1]), trace)


class Naclip(TokenScorer):
    """NACLIP; see `ovseg_cli.methods.last_layer`."""

    def tokens(self, trace: ClipTrace, crops: Crops) -> Tensor:
        """Values mixed by key-key attention and a neighbourhood."""
        return patches(last_layer.naclip_tokens(self.blocks(trace)[-1], trace.grid), trace)


class ClipSurgery(TokenScorer):
    """CLIP Surgery; see `ovseg_cli.methods.clipsurgery`."""

    stream = True

    def tokens(self, trace: ClipTrace, crops: Crops) -> Tensor:
        """The new path after the last block."""
        return patches(clipsurgery.surgery_tokens(self.blocks(trace)), trace)


class Gem(TokenScorer):
    """GEM; see `ovseg_cli.methods.gem`."""

    stream = True

    def tokens(self, trace: ClipTrace, crops: Crops) -> Tensor:
        """The stream after the last block."""
        temperature = self._models.profile.clip.gem_temperature
        return patches(gem.gem_tokens(self.blocks(trace), temperature=temperature), trace)


class ProxyClip(TokenScorer):
    """ProxyCLIP, with the network of the profile's extractor `Profile.proxy`; see `ovseg_cli.methods.proxyclip`."""

    def tokens(self, trace: ClipTrace, crops: Crops) -> Tensor:
        """Values mixed by the affinity of the other network's tokens, on that network's grid."""
        extractor = self._models.profile.proxy_extractor
        if extractor is None:
            raise ValueError(f"the profile {self._models.profile.name!r} names no network for ProxyCLIP")
        # The same crops at the same size in pixels, as near as its patches allow.
        vit = self._models.vit(extractor.weights)
        shown = self.walk((crops.images.shape[2], crops.images.shape[3])).input_size
        with stage(f"features: {extractor.name}"):
            features = vit.tokens(
                crops.images.to(self._models.device),
                input_size=whole_patches(*shown, vit.patch),
                mean=extractor.mean,
                std=extractor.std,
                positions=proxyclip.PROXY_POSITIONS,
            )
        tokens = proxyclip.proxyclip_tokens(self.blocks(trace)[-1], features, trace.grid)
        return tokens.unflatten(1, (features.shape[2], features.shape[3]))
