"""A prediction beside the truth: where they differ, and in which way."""

from __future__ import annotations

from typing import Final

import numpy as np
import numpy.typing as npt
from PIL import Image

from ovseg_cli.drawing.ink import fitted_size, inner_edge
from ovseg_cli.drawing.overlay import paint
from ovseg_cli.files.labels import Colour

MISSED: Final[Colour] = (86, 180, 233)
"""A class is there, and background was found."""

INVENTED: Final[Colour] = (240, 228, 66)
"""Background is there, and a class was found."""

CONFUSED: Final[Colour] = (213, 94, 0)
"""One class is there, and another was found. These three are of Okabe and Ito's colours (2008), which people tell apart
who do not see all colours, and are more so by their lightness."""

_FADED = 0.45  # how much of its contrast a picture keeps under the colours of its faults
_LEFT_OUT: Final[Colour] = (128, 128, 128)

Ids = npt.NDArray[np.integer]


def shrunk(image: Image.Image, maps: list[Ids], side: int) -> tuple[Image.Image, list[Ids]]:
    """A picture and label maps of its size, no larger than `side` on their longer side.

    Args:
        image: The picture.
        maps: `(H, W)` each; between neighbours the nearest pixel counts.
        side: Pixels.
    """
    if max(image.size) <= side:
        return image.convert("RGB"), maps
    small = image.convert("RGB").resize(fitted_size(image.size, side), Image.Resampling.LANCZOS)
    return small, [shrunk_ids(ids, side) for ids in maps]


def shrunk_ids(ids: Ids, side: int) -> Ids:
    """A label map no larger than `side` on its longer side.

    Args:
        ids: `(H, W)`; between neighbours the nearest pixel counts.
        side: Pixels.
    """
    height, width = ids.shape
    if max(width, height) <= side:
        return ids
    across, down = fitted_size((width, height), side)
    rows = np.minimum((np.arange(down) + 0.5) * height / down, height - 1).astype(int)
    columns = np.minimum((np.arange(across) + 0.5) * width / across, width - 1).astype(int)
    return ids[rows[:, None], columns[None, :]]


def labelled(image: Image.Image, ids: Ids, colours: dict[int, Colour], *, alpha: float = 0.6) -> Image.Image:
    """A picture with its classes in colour: those ids that have one.

    Args:
        image: RGB.
        ids: `(H, W)` of its size.
        colours: By id.
        alpha: How much of the colour is mixed in, 0..1.
    """
    pixels = np.array(image)
    paint(pixels, ids, inner_edge(ids, 1), colours, alpha)
    return Image.fromarray(pixels)


def difference(image: Image.Image, truth: Ids, prediction: Ids, *, rest: int | None, left_out: int) -> Image.Image:
    """A picture in grey, with the pixels in colour that are wrong.

    Args:
        image: RGB.
        truth: `(H, W)` of its size.
        prediction: Likewise.
        rest: The id of what is none of the classes; None where every pixel has one.
        left_out: The true id of pixels that do not count.
    """
    grey = np.asarray(image.convert("L"), dtype=np.float32)
    faded = np.rint(255 - (255 - grey) * _FADED).astype(np.uint8)
    pixels = np.repeat(faded[..., None], 3, axis=2)
    counted = truth != left_out
    wrong = counted & (truth != prediction)
    missed = wrong & (prediction == rest) if rest is not None else np.zeros_like(wrong)
    invented = wrong & (truth == rest) if rest is not None else np.zeros_like(wrong)
    for where, colour in ((wrong & ~missed & ~invented, CONFUSED), (missed, MISSED), (invented, INVENTED)):
        pixels[where] = colour
    # Diagonal lines, not a colour: what is left out is neither right nor wrong.
    lines = np.add.outer(np.arange(truth.shape[0]), np.arange(truth.shape[1])) % 6 < 2
    pixels[~counted & lines] = _LEFT_OUT
    return Image.fromarray(pixels)
