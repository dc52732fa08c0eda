"""Finding label folders, their label maps, and which prediction belongs to which ground truth."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from ovseg_cli.errors import LabelError
from ovseg_cli.files.discovery import walk_files
from ovseg_cli.files.labels import LABELMAP_NAME

__all__ = ["Pairs", "find_labelmap", "find_labels", "label_folder", "pair"]

LABEL_SUFFIXES = frozenset({".png", ".bmp", ".tif", ".tiff", ".gif", ".pgm", ".webp"})
"""Suffixes of label images. JPEG is not among them: its values are not exact."""

_MASKS = "SegmentationClass"


@dataclass(frozen=True, slots=True)
class Pairs:
    """What belongs together.

    Attributes:
        matched: (key, ground truth, prediction), in natural order.
        missing: Keys that have ground truth only.
        extra: Keys that have a prediction only.
    """

    matched: tuple[tuple[str, Path, Path], ...]
    missing: tuple[str, ...]
    extra: tuple[str, ...]


def label_folder(path: Path) -> Path:
    """The folder that holds the label images of `path`.

    An output folder of ours and a VOC or CVAT export hold them in ``SegmentationClass``; any other folder
    is taken as it is.

    Raises:
        LabelError: There is no such folder.
    """
    if not os.path.isdir(path):
        what = "is not a folder" if os.path.exists(path) else "does not exist"
        raise LabelError(f"The label folder {path} {what}.")
    masks = path / _MASKS
    return masks if os.path.isdir(masks) else path


def find_labelmap(path: Path) -> Path | None:
    """The ``labelmap.txt`` in the folder `path`, else in its parent; None when neither holds one."""
    folder = Path(os.path.abspath(path))
    candidates = (folder / LABELMAP_NAME, folder.parent / LABELMAP_NAME)
    return next((file for file in candidates if os.path.isfile(file)), None)


def find_labels(folder: Path) -> dict[str, Path]:
    """The label images of a folder and its subfolders by key (relative path without suffix).

    Hidden files and folders are passed over.

    Raises:
        LabelError: Two files have the same key, or there is no label image.
    """
    found: dict[str, Path] = {}
    for path in walk_files(folder):
        if path.suffix.lower() not in LABEL_SUFFIXES:
            continue
        key = path.relative_to(folder).with_suffix("").as_posix()
        if key in found:
            raise LabelError(f"{found[key]} and {path} both label the image {key!r}; remove one of them.")
        found[key] = path
    if not found:
        suffixes = ", ".join(sorted(LABEL_SUFFIXES))
        raise LabelError(f"No label image in {folder} (looked for {suffixes}, in subfolders too).")
    return found


def pair(gt: Mapping[str, Path], prediction: Mapping[str, Path]) -> Pairs:
    """Match ground truth and predictions by key.

    Raises:
        LabelError: Not one key is in both.
    """
    matched = tuple((key, gt[key], prediction[key]) for key in gt if key in prediction)
    if not matched:
        raise LabelError(
            f"No prediction has the name of a ground-truth image: labels are called {_examples(gt)}, "
            f"predictions {_examples(prediction)}. Both folders must mirror the folder of the images."
        )
    return Pairs(
        matched=matched,
        missing=tuple(key for key in gt if key not in prediction),
        extra=tuple(key for key in prediction if key not in gt),
    )


def _examples(keys: Mapping[str, Path]) -> str:
    names = [repr(key) for key in list(keys)[:3]]
    return ", ".join(names) + (f" ... ({len(keys)} in all)" if len(keys) > 3 else "")
