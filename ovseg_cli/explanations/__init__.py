"""Why a pixel got its class: the scores that decided, and the prototypes and support images behind them."""

from __future__ import annotations

from ovseg_cli.explanations.explainer import Explainer, check_point
from ovseg_cli.explanations.records import Explanation, Match, Region, Source, Standing, Word
from ovseg_cli.explanations.sheet import HOW_CHOSEN, draw
from ovseg_cli.explanations.words import as_data, describe

__all__ = [
    "HOW_CHOSEN",
    "Explainer",
    "Explanation",
    "Match",
    "Region",
    "Source",
    "Standing",
    "Word",
    "as_data",
    "check_point",
    "describe",
    "draw",
]
