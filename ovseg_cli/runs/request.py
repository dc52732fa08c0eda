"""What the label maps of a folder run are to be."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal

from ovseg_cli.files.image_classes import ImageClasses
from ovseg_cli.segmentation.options import SegmentOptions

if TYPE_CHECKING:
    from ovseg_cli.segmentation.recipe import Recipe


@dataclass(frozen=True, slots=True, kw_only=True)
class Request:
    """What the label maps of a run are to be, whatever the pictures.

    Attributes:
        classes: class names; the id of a class is its place, counted from 1.
        method: the method that will run.
        asked: the method that was asked for (`auto` included).
        reason: why `asked` became `method`; empty when there is nothing to say.
        options: what else was asked for.
        prefilter: whether classes that a picture does not show are ruled out first, as these options come to.
        digest: digest of everything that decides a label map, except the picture.
        overlay: whether pictures with the labels drawn on them are wanted too.
        explain: whether pictures that say why these labels are wanted too.
        probabilities: in how many bits the scores are wanted too; 0 for not at all.
        image_classes: which of the classes each picture shows, in their spelling; None when nobody says. It takes the
            pre-filter's place for the pictures that it names.
    """

    classes: tuple[str, ...]
    method: str
    asked: str
    reason: str = ""
    options: SegmentOptions = field(default_factory=SegmentOptions)
    prefilter: bool = False
    digest: str
    overlay: bool = False
    explain: bool = False
    probabilities: Literal[0, 8, 16] = 0
    image_classes: ImageClasses | None = None

    @classmethod
    def by(
        cls,
        recipe: Recipe,
        *,
        overlay: bool = False,
        explain: bool = False,
        probabilities: Literal[0, 8, 16] = 0,
        image_classes: ImageClasses | None = None,
    ) -> Request:
        """What a recipe makes."""
        return cls(
            classes=recipe.classes,
            method=recipe.method,
            asked=recipe.choice.asked,
            reason=recipe.choice.reason,
            options=recipe.options,
            prefilter=recipe.prefilter is not None,
            digest=recipe.digest,
            overlay=overlay,
            explain=explain,
            probabilities=probabilities,
            image_classes=image_classes,
        )
