"""Ground truth by the path of a folder or of a file, whatever its form."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from ovseg_cli.evaluation.coco import coco_ground_truth, is_coco_file
from ovseg_cli.evaluation.truth import GroundTruth, read_ground_truth
from ovseg_cli.files.labels import read_labelmap
from ovseg_cli.urls import Place

__all__ = ["open_truth"]


def open_truth(
    gt: Place,
    *,
    label_map: Path | None = None,
    ignore: int | Sequence[int] | None = None,
    ending: str = "",
    split: Path | None = None,
) -> GroundTruth:
    """Find ground truth that is no data set of the catalogue.

    Args:
        gt: folder of label images, or a COCO file.
        label_map: what the ids or colours mean; None to look for a `labelmap.txt`.
        ignore: the ids of pixels that do not count; None for 255, which must then be no class.
        ending: how the names of label images end beyond the names of pictures.
        split: a file that lists the pictures that count.

    Raises:
        LabelError: there is none, or nothing says what it means.
    """
    if isinstance(gt, Path) and is_coco_file(gt):
        return coco_ground_truth(gt, ignore=ignore, split=split)
    labels = None if label_map is None else read_labelmap(label_map)
    return read_ground_truth(gt, labels, ignore=ignore, source=str(label_map or ""), ending=ending, split=split)
