"""What scored pictures and dense scorers come to, for tests that look behind label maps."""

from __future__ import annotations

from torch import Tensor

from ovseg_cli.labeling.decide import enlarge_rows
from ovseg_cli.scorers.scorer import Picture
from ovseg_cli.scorers.words import WordScorer
from ovseg_cli.segmentation.segmenter import ScoreMaps


def class_scores(scored: ScoreMaps) -> Tensor:
    """What decides, at the size that values have before they are enlarged."""
    return scored.values if scored.head is None else scored.head.apply(scored.values)


def finished(
    scorer: WordScorer, fused: Tensor, size: tuple[int, int] | None = None, picture: Picture | None = None
) -> Tensor:
    """Class scores of fused ones, at a size or as they are."""
    maps = scorer.combine(fused, picture)  # type: ignore[arg-type]
    size = size or (maps.values.shape[1], maps.values.shape[2])
    return maps.head(maps.values, size).apply(enlarge_rows(maps.values, size, 0, size[0], maps.enlargement))
