"""Whether scores mean what they say: of regions with a score of 0.8, four pixels in five should be right."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

BINS = 10


@dataclass(frozen=True, slots=True, kw_only=True)
class Bin:
    """Regions with scores between two bounds.

    Attributes:
        low: The lower bound.
        high: The upper one, which belongs to the next bin (except 1).
        regions: How many.
        pixels: Their pixels that count.
        score: Mean score over these pixels.
        right: Share of these pixels that are right, 0..1.
    """

    low: float
    high: float
    regions: int
    pixels: int
    score: float
    right: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Reliability:
    """Scores against how often they are right.

    Attributes:
        bins: Those with pixels, the lowest first.
        error: Expected calibration error: the mean gap between score and right share, weighted by pixels.
    """

    bins: tuple[Bin, ...]
    error: float


def reliability(regions: Iterable[tuple[float, int, int]], *, bins: int = BINS) -> Reliability | None:
    """Gather regions by their score.

    >>> reliability([(0.9, 10, 9), (0.3, 10, 3)]).error < 1e-9
    True

    Args:
        regions: Of each its mean score, its pixels that count, and how many of these are right. Scores outside 0..1
            (cosines may be below) count as the nearer bound.
        bins: Of equal width.

    Returns:
        None where no region has a pixel.
    """
    found: dict[int, list[tuple[float, int, int]]] = {}
    for score, pixels, right in regions:
        if pixels > 0:
            score = min(1.0, max(0.0, score))
            found.setdefault(min(bins - 1, int(score * bins)), []).append((score, pixels, right))
    if not found:
        return None
    gathered = []
    for place, members in sorted(found.items()):
        pixels = sum(member[1] for member in members)
        gathered.append(
            Bin(
                low=place / bins,
                high=(place + 1) / bins,
                regions=len(members),
                pixels=pixels,
                score=sum(score * count for score, count, _ in members) / pixels,
                right=sum(member[2] for member in members) / pixels,
            )
        )
    total = sum(one.pixels for one in gathered)
    error = sum(one.pixels * abs(one.score - one.right) for one in gathered) / total
    return Reliability(bins=tuple(gathered), error=error)
