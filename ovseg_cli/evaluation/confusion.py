"""The confusion matrix, from which every figure of a report follows."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from ovseg_cli.evaluation.scoring import check_classes, count_pair
from ovseg_cli.files.labels import IGNORE

__all__ = ["ConfusionMatrix"]


class ConfusionMatrix:
    """Counts of pixels by true and predicted class, exact in 64-bit integers.

    Example:
        >>> matrix = ConfusionMatrix(2)
        >>> matrix.update(np.array([[0, 1, 255]]), np.array([[0, 0, 1]]))
        >>> matrix.counts.tolist()
        [[1, 0], [1, 0]]

    Args:
        num_classes: The number C of classes, whose indices are 0..C-1.
        ignore: Pixels of this ground-truth value are left out; None leaves out nothing.

    Attributes:
        counts: `(C, C)` int64; rows are the ground truth, columns the prediction.
        ignored: How many pixels were left out.
    """

    def __init__(self, num_classes: int, *, ignore: int | None = IGNORE) -> None:
        check_classes(num_classes, ignore)
        self.ignore = ignore
        self.counts: npt.NDArray[np.int64] = np.zeros((num_classes, num_classes), dtype=np.int64)
        self.ignored = 0

    @property
    def num_classes(self) -> int:
        """The number of classes."""
        return len(self.counts)

    def update(self, gt: npt.NDArray[np.integer], prediction: npt.NDArray[np.integer]) -> None:
        """Count the pixels of one image.

        Args:
            gt: The true class indices; any shape, usually `(H, W)`.
            prediction: The predicted class indices; the same shape.

        Raises:
            ValueError: The shapes differ, the arrays are not of integers, or a pixel that counts has an
                index outside 0..C-1. Nothing has been counted then.
        """
        picture = count_pair(gt, prediction, num_classes=self.num_classes, ignore=self.ignore)
        np.add.at(self.counts, (picture.true, picture.predicted), picture.pixels)
        self.ignored += picture.ignored

    def __add__(self, other: ConfusionMatrix) -> ConfusionMatrix:
        """The counts of both, as if all their images had been counted by one matrix."""
        if not isinstance(other, ConfusionMatrix):
            return NotImplemented
        if (self.num_classes, self.ignore) != (other.num_classes, other.ignore):
            raise ValueError("only matrices of the same classes and ignore value can be added")
        total = ConfusionMatrix(self.num_classes, ignore=self.ignore)
        total.counts = self.counts + other.counts
        total.ignored = self.ignored + other.ignored
        return total

    def __repr__(self) -> str:
        return f"ConfusionMatrix({self.num_classes} classes, {int(self.counts.sum())} pixels)"
