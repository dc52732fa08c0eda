"""Explanations as a picture."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from ovseg_cli.drawing.explanation import Bar, ExplainedPoint, MatchGroup, MatchTile, explanation_sheet
from ovseg_cli.explanations.records import Explanation, Match
from ovseg_cli.explanations.words import remarks, word_name
from ovseg_cli.files.labels import BACKGROUND, Colour, LabelMap

if TYPE_CHECKING:
    from PIL import Image

_BACKGROUND_COLOUR: Colour = (150, 152, 156)

HOW_CHOSEN = "Each class is shown at the pixel of its largest region where it is furthest ahead of the runner-up."

HOW_TO_READ = (
    "Scores are cosines, averaged over the extractors and over the crops that cover the pixel; the best one wins. Each "
    "small picture is the support image behind one extractor's nearest prototype; in some of the crops others are "
    "nearer still, so that a score can be above the mean of the cosines shown."
)

HOW_TO_READ_WORDS = "Scores are the probabilities of the words at the pixel; the background's is that of its best word."


def draw(
    image: Image.Image,
    ids: npt.NDArray[np.uint16],
    labelmap: LabelMap,
    explanations: Sequence[Explanation],
    *,
    note: str = "",
) -> Image.Image:
    """Explanations of one picture as a picture.

    Args:
        image: The upright picture, RGB.
        ids: uint16 (H, W), its label map.
        labelmap: What the ids mean, and their colours.
        explanations: What is shown, from top to bottom.
        note: More sentences at the foot.
    """

    def colour(label: str) -> Colour:
        index = labelmap.id_of(label)
        return _BACKGROUND_COLOUR if index in (None, labelmap.background_id) else labelmap.colour_of(index or 0)

    points = [
        ExplainedPoint(
            x=e.x,
            y=e.y,
            title=e.label,
            colour=colour(e.label),
            bars=_bars(e, colour),
            lines=[*_in_short(e), *remarks(e)],
            groups=[
                MatchGroup(f"nearest for {label}", colour(label), [_tile(match) for match in e.matches_of(label)])
                for label in dict.fromkeys(s.label for s in e.standings[:2])
                if e.matches_of(label)
            ],
        )
        for e in explanations
    ]
    how = HOW_TO_READ if any(e.matches for e in explanations) else HOW_TO_READ_WORDS
    return explanation_sheet(image, ids, labelmap, points, note=" ".join(filter(None, (how, note))))


def _bars(explanation: Explanation, colour: Callable[[str], Colour]) -> list[Bar]:
    """The scores of the label, the runner-up and the background; with GEM, of the most probable words."""
    e = explanation
    if e.words:
        return [Bar(word_name(w), w.score, _BACKGROUND_COLOUR if w.background else colour(w.label)) for w in e.words]
    shown = [*e.standings[:2], *(s for s in e.standings[2:] if s.label == BACKGROUND)]
    return [Bar(s.label, s.score, colour(s.label)) for s in shown]


def _in_short(explanation: Explanation) -> list[str]:
    """How far the label is ahead, if that is why it won."""
    e = explanation
    if e.runner_up is None or e.rule != "best":
        return []
    return [f"{e.label} wins by {e.score - e.runner_up.score:.3f} over {e.runner_up.label}."]


def _tile(match: Match) -> MatchTile:
    source, region = match.source, match.source.region
    whose = f"of {source.class_name}" if source.role == "fg" else f"around {source.class_name}"
    number = "" if source.kind == "mean" else f" {source.number}"
    seed = "yours" if source.seed is None else f"seed {source.seed}"
    relation = {"most pixels": "mostly ", "most alike": "like "}.get(source.found_by or "own", "")
    return MatchTile(
        image=None if region is None else region.image,
        mask=None if region is None else region.mask,
        similarity=None if region is None else region.similarity,
        caption=(
            f"{match.extractor}: cosine {match.cosine:.3f}",
            f"{source.kind}{number} {whose}",
            "no image is known" if source.support is None else f"{relation}image {source.support}, {seed}",
        ),
    )
