"""Scores of classes, pixel by pixel, as whole numbers in a file that NumPy reads."""

from __future__ import annotations

import zipfile
import zlib
from dataclasses import dataclass
from typing import Literal

import numpy as np
import numpy.typing as npt

from ovseg_cli.atomic import atomic_path
from ovseg_cli.errors import ImageError
from ovseg_cli.urls import Place, Url

__all__ = ["Bits", "Scores", "read_scores", "write_scores"]

Bits = Literal[8, 16]

_REMEDY = "run ovseg segment again with --format probabilities."
_QUICK = 1  # zlib's level: higher ones take many times as long, for a few per cent


@dataclass(frozen=True, slots=True, eq=False)
class Scores:
    """What the labels of a picture were chosen by.

    Attributes:
        values: (K, H, W), uint8 or uint16: 0 for a score of 0 or below, 255 or 65535 for one of 1 or above.
        ids: For each of the K channels the id in the label map, (K,) uint16. Channel 0 is the background's;
            classes that did not take part have none.
    """

    values: npt.NDArray[np.unsignedinteger]
    ids: npt.NDArray[np.uint16]

    @property
    def top(self) -> int:
        """What stands for 1."""
        return int(np.iinfo(self.values.dtype).max)


def write_scores(path: Place, scores: Scores) -> None:
    """Write scores as an NPZ: ``scores``, ``ids``, and ``top``, by which `scores` is divided.

    Raises:
        OutputError: The file cannot be written.
        DiskFullError: No space is left.
    """
    with atomic_path(path) as place, zipfile.ZipFile(place, "w", zipfile.ZIP_DEFLATED, compresslevel=_QUICK) as file:
        for name, array in (("ids", scores.ids), ("top", np.array(scores.top)), ("scores", scores.values)):
            with file.open(f"{name}.npy", "w", force_zip64=True) as part:
                np.lib.format.write_array(part, np.ascontiguousarray(array), allow_pickle=False)


def read_scores(path: Place) -> Scores:
    """Read what `write_scores` wrote.

    Raises:
        ImageError: The file is missing, damaged, or of another kind.
    """
    try:
        with np.load(path.open() if isinstance(path, Url) else path, allow_pickle=False) as file:
            scores = Scores(file["scores"], file["ids"])
    except FileNotFoundError as error:
        raise ImageError(f"{path} is gone; {_REMEDY}") from error
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile, zlib.error) as error:
        raise ImageError(f"{path} is damaged ({error}); {_REMEDY}") from error
    values, ids = scores.values, scores.ids
    if values.ndim != 3 or values.dtype not in (np.uint8, np.uint16) or ids.shape != values.shape[:1] or not len(ids):
        raise ImageError(f"{path} holds no scores of labels; {_REMEDY}")
    return scores
