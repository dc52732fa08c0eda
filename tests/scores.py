"""What scored pictures and dense scorers come to, for tests that look behind label maps."""

from __future__ import annotations

from collections.abc import Iterator

from torch import Tensor

from ovseg_cli.labeling.decide import Decision, decide, enlarge_rows
from ovseg_cli.scorers.scorer import Picture
from ovseg_cli.scorers.words import WordScorer
from ovseg_cli.segmentation.options import SegmentOptions
from ovseg_cli.segmentation.segmenter import ScoreMaps, Segmenter
from ovseg_cli.segmentation.together import score_together


def decide_now(*arguments, **settings) -> Decision:
    """What `decide` comes to, with nothing else begun in between."""
    return decide(*arguments, **settings)()


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


def by_every_method(models, store, names, picture, methods, **settings) -> Iterator[tuple[Segmenter, ScoreMaps]]:
    """A picture scored by each of the methods, which share their walks; by prototypes for the first two names alone."""
    segmenters = [
        Segmenter(
            models,
            store,
            names[:2] if method == "prototype" else names,
            method=method,
            options=SegmentOptions(**settings),
        )
        for method in methods
    ]
    scored = score_together(segmenters, [picture])
    return ((segmenter, one) for segmenter, (one,) in zip(segmenters, scored, strict=True))
