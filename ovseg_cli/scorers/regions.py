"""Regions without names (DiffSeg)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Self

import torch
from torch import Tensor

from ovseg_cli.labeling.decide import Head
from ovseg_cli.methods import diffseg
from ovseg_cli.methods.published import DiffSegSettings
from ovseg_cli.scorers.scorer import Crops, Picture
from ovseg_cli.scorers.words import WordMaps, WordScorer
from ovseg_cli.stages import stage
from ovseg_cli.text.embedding import Reading, TextCache
from ovseg_cli.text.vocabulary import Vocabulary


class DiffSeg(WordScorer):
    """DiffSeg's regions, numbered by their size; see `ovseg_cli.methods.diffseg`.

    The arguments are those of `WordScorer`. The words are numbers (see `ovseg_cli.methods.region_names`) that nothing
    reads.
    """

    on_own_grid = True
    sees = "pictures"

    def _read(self, templates: Sequence[str], texts: TextCache | None, reading: Reading | None) -> None:
        """There is nothing to read."""
        self.threshold = None

    @staticmethod
    def _count(vocabulary: Vocabulary) -> int:
        return 1

    def only(self, classes: Sequence[int]) -> Self:
        """The same: no region is any class's."""
        return self

    def pixels(self, size: tuple[int, int]) -> int:
        """Those of the square that the network reads."""
        side: int = self._models.profile.generator.reading_side
        return side**2

    def features(self, crops: Crops) -> list[Tensor]:
        """None: what the network sees is the whole picture, in `combine`."""
        return [crops.images.new_zeros(len(crops.images), 1, 1, 1)]

    def compare(self, features: Sequence[Tensor]) -> Tensor:
        """Nothing is compared, so there is one channel of zeros."""
        return features[0].float()

    def combine(self, fused: Tensor, picture: Picture) -> WordMaps:
        """The map of each region; background is nowhere."""
        profile, settings = self._models.profile, self._settings
        generator = profile.generator
        side = generator.reading_side

        def attend(pictures: Sequence[Picture]) -> Sequence[Tensor]:
            with stage("diffusion model"):
                return self._models.generator.self_attention(
                    torch.cat([each.at((side, side), diffseg.DIFFUSION.resample) for each in pictures]),
                    diffseg.DIFFUSION.noising(generator, side),
                    layers=profile.regions.layers,
                ).unbind()

        attention = picture.once("regions' self-attention", side**2, attend)
        divergence = generator.merge_divergence
        if divergence is None and isinstance(settings, DiffSegSettings):
            divergence = settings.divergence
        if divergence is None:
            raise TypeError(f"DiffSeg is run with settings of its own, got {settings!r}")
        maps = diffseg.region_maps(attention, divergence=divergence, most=len(self.vocabulary.classes))

        def head(values: Tensor, size: tuple[int, int]) -> Head:
            return Head(len(values) + 1, lambda rows: torch.cat([rows.new_full((1, *rows.shape[1:]), -1.0), rows]))

        return WordMaps(maps, head, "bilinear")
