"""GEM's probabilities, spread or gathered by the diffusion model's self-attention (AggGEM, DiffSegClust, SpecClust).

See `ovseg_cli.methods.agg` and `ovseg_cli.methods.clusters`.
"""

from __future__ import annotations

import math
from abc import abstractmethod
from collections.abc import Hashable, Sequence

import torch
from torch import Tensor
from torch.nn import functional as F

from ovseg_cli.labeling.decide import Enlargement, Head, enlarge_rows, strips
from ovseg_cli.methods import agg, clusters
from ovseg_cli.methods.words import word_scores
from ovseg_cli.scorers.scorer import Picture
from ovseg_cli.scorers.tokens import Gem
from ovseg_cli.scorers.words import WordMaps
from ovseg_cli.stages import stage


class SpreadScorer(Gem):
    """GEM's cosines and the self-attention of the whole picture; the arguments are those of `WordScorer`."""

    on_own_grid = True

    def _looks(self) -> Hashable:
        return Gem  # the same tokens, which are computed once for all

    @abstractmethod
    def gather(self, cosines: Tensor, attention: Tensor) -> WordMaps:
        """What the label map is made of.

        Args:
            cosines: float32 (words, g, g), on the grid of the tokens.
            attention: float32 (g * g, g * g), the self-attention of the picture.
        """

    def combine(self, fused: Tensor, picture: Picture) -> WordMaps:
        """Probabilities spread over the picture, or regions with the cosines that label them."""
        shown = self._models.profile.generator.reading_side**2
        attention = picture.once("self-attention", shown, self._self_attention)
        side = math.isqrt(len(attention))
        # Windows make scores finer than the tokens; a token then gets the mean of its place, not one point of it.
        finer = bool(self._settings.windows)
        cosines = F.interpolate(fused[None], (side, side), mode="bilinear", align_corners=False, antialias=finer)[0]
        return self.gather(cosines, attention)

    def _likely(self, cosines: Tensor) -> Tensor:
        """Class probabilities and the background's, (C + 1, h, w)."""
        likely = word_scores(cosines, self.vocabulary.owner, logit_scale=self._settings.logit_scale)
        return agg.doubt_background(likely) if self._background else likely

    def _labelled(self, regions: Tensor, cosines: Tensor, enlargement: Enlargement) -> WordMaps:
        """Regions (R, g, g), each of which gets the mean probabilities of its pixels."""
        channels = self.vocabulary.channels

        def head(values: Tensor, size: tuple[int, int]) -> Head:
            means = clusters.region_means(
                (
                    (rows.argmax(dim=0), self._likely(enlarge_rows(cosines, size, start, stop)))
                    for start, stop, rows in strips(values, size, channels=len(cosines), enlargement=enlargement)
                ),
                len(values),
            )
            return Head(channels, lambda rows: means[:, rows.argmax(dim=0)])

        return WordMaps(regions, head, enlargement)

    def _self_attention(self, pictures: Sequence[Picture]) -> Sequence[Tensor]:
        profile, settings = self._models.profile, agg.AGGGEM_DIFFUSION
        generator = profile.generator
        side = generator.reading_side
        with stage("diffusion model"):
            return self._models.generator.self_attention(
                torch.cat([picture.at((side, side), settings.resample) for picture in pictures]),
                settings.noising(generator, side),
                layers=profile.regions.layers,
                padded=settings.padded or generator.idle_attention == "padding",
            ).unbind()


class AggGem(SpreadScorer):
    """AggGEM."""

    def gather(self, cosines: Tensor, attention: Tensor) -> WordMaps:
        """Probabilities after a walk over the tokens."""
        spread = agg.aggregate(self._likely(cosines), attention)
        return WordMaps(spread, lambda values, _size: Head(len(values), lambda rows: rows), "bicubic")


class SpecClust(SpreadScorer):
    """SpecClust."""

    def gather(self, cosines: Tensor, attention: Tensor) -> WordMaps:
        """Spectral clusters."""
        return self._labelled(clusters.spectral_maps(attention), cosines, "nearest")


class DiffSegClust(SpreadScorer):
    """DiffSegClust."""

    def gather(self, cosines: Tensor, attention: Tensor) -> WordMaps:
        """DiffSeg's regions."""
        divergence = self._models.profile.generator.cluster_divergence
        if divergence is None:
            divergence = clusters.DIVERGENCE
        return self._labelled(clusters.diffseg_maps(attention, divergence=divergence), cosines, "bicubic")
