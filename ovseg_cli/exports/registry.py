"""Every format, by the name that `--format` and `ovseg export --to` take. None is imported before it is used."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from importlib import import_module
from typing import TYPE_CHECKING, Literal

from ovseg_cli.errors import UsageError
from ovseg_cli.names import unknown_choice

if TYPE_CHECKING:
    from ovseg_cli.exports.base import Exporter

__all__ = ["EXPORT_FOLDER", "FORMATS", "SCORES", "Format", "Wanted", "exporter_of", "wanted_formats"]

EXPORT_FOLDER = "export"
"""Where exports lie in an output folder."""


@dataclass(frozen=True, slots=True)
class Format:
    """A format, as far as one knows it without its code.

    Attributes:
        gist: What it is.
        exporter: Where its `Exporter` is, as ``module:class``.
        scores: Whether it is made of the scores that a run has kept.
    """

    gist: str
    exporter: str
    scores: bool = False


FORMATS: dict[str, Format] = {
    "coco": Format("COCO JSON, run-length codes", "ovseg_cli.exports.coco:Coco"),
    "yolo": Format("YOLO polygons", "ovseg_cli.exports.yolo:Yolo"),
    "masks": Format("a binary PNG for each class", "ovseg_cli.exports.masks:Masks"),
    "cvat": Format("CVAT for images 1.1, masks", "ovseg_cli.exports.cvat:Cvat"),
    "label-studio": Format("Label Studio tasks, brush", "ovseg_cli.exports.label_studio:LabelStudio"),
    "geotiff": Format("GeoTIFF", "ovseg_cli.exports.geotiff:GeoTiff"),
    "probability-png": Format(
        "a grey PNG of each class's score", "ovseg_cli.exports.probability_pngs:ProbabilityPngs", scores=True
    ),
}

SCORES: dict[str, Literal[8, 16]] = {"probabilities": 16, "probabilities-8": 8}
"""What `segment --format` takes besides: scores that are kept while there are any, in so many bits."""


def exporter_of(name: str) -> Exporter:
    """The exporter of a format.

    Raises:
        UsageError: There is no such format.
    """
    if name not in FORMATS:
        raise unknown_choice("format", name, FORMATS, heading="Formats")
    module, _, kind = FORMATS[name].exporter.partition(":")
    made: Exporter = getattr(import_module(module), kind)()
    return made


@dataclass(frozen=True, slots=True)
class Wanted:
    """What `segment --format` asks for.

    Attributes:
        exports: Names in `FORMATS`, which are made when all label maps are there.
        scores: In how many bits scores are kept; 0 for not at all.
    """

    exports: tuple[str, ...] = ()
    scores: Literal[0, 8, 16] = 0


def wanted_formats(names: Sequence[str]) -> Wanted:
    """What names of formats ask for; what is missing on this computer is told now, before hours of work.

    Raises:
        UsageError: There is no such format, two exclude each other, or a library is missing.
    """
    kept = [name for name in dict.fromkeys(names) if name in SCORES]
    exports = tuple(name for name in dict.fromkeys(names) if name not in SCORES)
    for name in exports:
        if name not in FORMATS:
            raise unknown_choice("format", name, [*FORMATS, *SCORES], heading="Formats")
        exporter_of(name).ready()
    if len(kept) > 1:
        raise UsageError(f"--format {kept[0]} and {kept[1]} exclude each other: choose one of them.")
    bits: Literal[0, 8, 16] = SCORES[kept[0]] if kept else 0
    return Wanted(exports, bits or (16 if any(FORMATS[name].scores for name in exports) else 0))
