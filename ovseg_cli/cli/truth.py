"""The ground truth that options name."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from ovseg_cli.errors import LabelError, UsageError
from ovseg_cli.urls import Place, is_there

if TYPE_CHECKING:
    from ovseg_cli.evaluation.datasets import OpenDataset
    from ovseg_cli.evaluation.truth import GroundTruth


def ground_truth(
    gt: Place | None,
    dataset: str | None,
    root: Path | None,
    split: str | None,
    gt_suffix: str,
    label_map: Path | None,
    ignore: list[int] | None,
) -> tuple[GroundTruth, OpenDataset | None]:
    """The ground truth that the options name, and the data set that it belongs to."""
    from ovseg_cli.evaluation.datasets import open_dataset
    from ovseg_cli.evaluation.sources import open_truth

    if dataset is not None:
        if gt is not None or gt_suffix:
            raise UsageError("--dataset says where the labels are, so --gt and --gt-suffix cannot be given with it.")
        if root is None:
            raise UsageError(f"Say where the data set {dataset} was unpacked, with --root DIR.")
        opened = open_dataset(dataset, root, split, ignore=ignore)
        return opened.truth, opened
    if root is not None:
        raise UsageError("--root is the folder of a data set, so name that with --dataset.")
    if gt is None:
        raise UsageError("Name the ground truth: a folder with --gt DIR, or a data set with --dataset NAME --root DIR.")
    if not is_there(gt):
        raise LabelError(f"There is no folder {gt} with ground truth. Name it with --gt.")
    listing = None if split is None else Path(split)
    return open_truth(gt, label_map=label_map, ignore=ignore, ending=gt_suffix, split=listing), None
