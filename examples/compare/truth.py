"""Ground truth as indices of the classes that are asked for, by the rules of `ovseg eval`."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Final

import numpy as np
import numpy.typing as npt

from ovseg_cli.errors import LabelError
from ovseg_cli.evaluation.pairing import find_labelmap, find_labels, label_folder
from ovseg_cli.files.labels import (
    IGNORE,
    LABELMAP_NAME,
    LabelMap,
    is_background,
    is_void,
    read_label,
    read_labelmap,
)
from ovseg_cli.names import ClassList

LEFT_OUT: Final = -1
"""The value of pixels that do not count."""


class Truth:
    """The label images of a folder.

    Args:
        folder: Label images, or what holds them in ``SegmentationClass``, with a ``labelmap.txt`` in it or above it.
        names: The classes that are asked for.

    Raises:
        LabelError: There is no label image, or nothing says what the ids mean.
    """

    def __init__(self, folder: Path, names: Sequence[str]) -> None:
        masks = label_folder(folder)
        self._files = find_labels(masks)
        path = find_labelmap(masks)
        if path is None:
            raise LabelError(
                f"Nothing names the label ids in {masks}: put a {LABELMAP_NAME} into it or into its parent "
                "(one line per id, such as cat:64,0,0:: or 1: cat)."
            )
        self._labels: LabelMap = read_labelmap(path)
        self._classes = ClassList.distinct(names)

    def __contains__(self, key: str) -> bool:
        """Whether there is a label image of this name (relative path without suffix)."""
        return key in self._files

    def read(self, key: str) -> npt.NDArray[np.int32]:
        """The true class of every pixel.

        Returns:
            int32 (H, W): i + 1 for class i; 0 for the background and classes that were not asked for; -1 for pixels
            that do not count.

        Raises:
            LabelError: An id has no name, or the file is no label image.
            ImageError: The file is damaged.
        """
        path = self._files[key]
        ids = read_label(path, self._labels)
        values, places = np.unique(ids, return_inverse=True)
        numbers = np.array([self._number(int(value), path) for value in values], dtype=np.int32)
        return numbers[places].reshape(ids.shape)

    def _number(self, label: int, path: Path) -> int:
        name = self._labels.name_of(label)
        if label == IGNORE:
            return LEFT_OUT
        if name is None and label > 0:
            raise LabelError(f"{path} holds the id {label}, which the label map does not name: add a line for it.")
        if name is None or is_background(name):
            return 0
        place = self._classes.find(name)
        if place is not None:
            return place + 1
        return LEFT_OUT if is_void(name) else 0
