"""What a folder run leaves of an image: each kind of file in one place.

A new kind is one more class here, a flag in `ovseg_cli.runs.request.Request`, and a field of
`ovseg_cli.runs.journal.Entry`.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar, Literal

from ovseg_cli.atomic import write_image
from ovseg_cli.drawing.overlay import overlay as draw_overlay
from ovseg_cli.drawing.palettes import for_display
from ovseg_cli.files.labels import LabelMap, write_label
from ovseg_cli.files.layout import (
    EXPLAIN_FOLDER,
    MASK_FOLDER,
    OVERLAY_FOLDER,
    PROBABILITY_FOLDER,
    SMALL_PROBABILITY_FOLDER,
)
from ovseg_cli.files.probabilities import Bits, Scores, write_scores
from ovseg_cli.runs.journal import Entry, is_intact
from ovseg_cli.urls import Place, is_file

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray
    from PIL import Image

    from ovseg_cli.explanations import Explanation
    from ovseg_cli.runs.request import Request


@dataclass(frozen=True, slots=True, eq=False)
class Answer:
    """What is known of an image when its files are written.

    Attributes:
        image: The upright RGB picture.
        ids: Class ids, (H, W), 0 = background.
        explanations: Why, for some of its pixels; None where nobody asked.
        scores: What its labels were chosen by; None where nobody asked.
    """

    image: Image.Image
    ids: NDArray[np.uint16]
    explanations: Sequence[Explanation] | None = None
    scores: Scores | None = None


class Artefact(ABC):
    """One kind of file.

    Attributes:
        field: Where the journal notes it (a field of `Entry`).
        folder: Where it lies in the output folder.
    """

    field: ClassVar[Literal["output", "overlay", "explain", "probabilities"]]
    folder: ClassVar[str]

    def path(self, key: object) -> str:
        """Its file for an image, relative to the output folder."""
        return f"{self.folder}/{key}.png"

    @abstractmethod
    def wanted(self, request: Request) -> bool:
        """Whether a run is asked for it."""

    def fits(self, entry: Entry, path: str, output: Place) -> bool:
        """Whether the file of an image whose label map still holds is there, under the name that it is to have."""
        return getattr(entry, self.field) == path and is_file(output / path)

    @abstractmethod
    def write(self, target: Path, answer: Answer, labels: LabelMap) -> None:
        """Write it in one step."""


class _LabelMaps(Artefact):
    """Label maps as PNGs with a palette."""

    field = "output"
    folder = MASK_FOLDER

    def wanted(self, request: Request) -> bool:
        """Always."""
        return True

    def fits(self, entry: Entry, path: str, output: Place) -> bool:
        """Whether its bytes are those that were written."""
        return entry.output == path and is_intact(entry, output)

    def write(self, target: Path, answer: Answer, labels: LabelMap) -> None:
        """As `ovseg_cli.files.labels.write_label` does."""
        write_label(target, answer.ids, labels)


class _Overlays(Artefact):
    """Pictures with the labels drawn on them."""

    field = "overlay"
    folder = OVERLAY_FOLDER

    def wanted(self, request: Request) -> bool:
        """With ``--overlay``."""
        return request.overlay

    def write(self, target: Path, answer: Answer, labels: LabelMap) -> None:
        """As `ovseg_cli.drawing.overlay.overlay` draws it."""
        write_image(target, draw_overlay(answer.image, answer.ids, for_display(labels)))


class _Explanations(Artefact):
    """Pictures that say why the labels are what they are."""

    field = "explain"
    folder = EXPLAIN_FOLDER

    def wanted(self, request: Request) -> bool:
        """With ``--explain``."""
        return request.explain

    def write(self, target: Path, answer: Answer, labels: LabelMap) -> None:
        """As `ovseg_cli.explanations.draw` draws it."""
        from ovseg_cli.explanations import HOW_CHOSEN, draw

        if answer.explanations is None:
            raise ValueError(f"nothing was explained for {target}")
        write_image(target, draw(answer.image, answer.ids, for_display(labels), answer.explanations, note=HOW_CHOSEN))


class _Probabilities(Artefact):
    """The scores of the labels; see `ovseg_cli.files.probabilities`."""

    field = "probabilities"
    folder = PROBABILITY_FOLDER
    bits: ClassVar[Bits] = 16

    def path(self, key: object) -> str:
        """As the others, but an NPZ."""
        return f"{self.folder}/{key}.npz"

    def wanted(self, request: Request) -> bool:
        """With ``--format probabilities``."""
        return request.probabilities == self.bits

    def write(self, target: Path, answer: Answer, labels: LabelMap) -> None:
        """As `ovseg_cli.files.probabilities.write_scores` does."""
        if answer.scores is None:
            raise ValueError(f"the scores for {target} were not kept")
        write_scores(target, answer.scores)


class _Probabilities8(_Probabilities):
    """The same in half the space, with ``--format probabilities-8``."""

    folder = SMALL_PROBABILITY_FOLDER
    bits = 8


LABEL_MAPS, OVERLAYS, EXPLANATIONS = _LabelMaps(), _Overlays(), _Explanations()
PROBABILITIES = (_Probabilities(), _Probabilities8())
ARTEFACTS: tuple[Artefact, ...] = (LABEL_MAPS, OVERLAYS, EXPLANATIONS, *PROBABILITIES)
"""Every kind, the label map first."""
