"""A segmentation over its picture."""

from __future__ import annotations

from collections import Counter

import numpy as np
import numpy.typing as npt
from PIL import Image

from ovseg_cli.drawing.ink import PAPER, RGB, Mask, bright, inner_edge
from ovseg_cli.drawing.legend import legend_strip
from ovseg_cli.files.labels import IGNORE, Colour, LabelMap

_MIN_WIDTH = 256  # below this a legend cannot be read, so the picture is enlarged,
_MAX_ENLARGED = 2048  # but not beyond this height: a strip of one pixel is no reason for a huge file

_STRIP_PIXELS = 2**20  # painted at once, so that a large picture takes no more than itself and its overlay


def overlay(
    image: Image.Image, ids: npt.NDArray[np.integer], labelmap: LabelMap, *, alpha: float = 0.55
) -> Image.Image:
    """Lay a segmentation over its picture, with outlines and a legend below.

    Pixels of the background and of the ignore value stay as they are. The legend lists the other classes
    that are present with their share of the picture, the largest first, and with their ids where no font here has the
    letters of their names. Pictures less than 256 pixels wide
    are enlarged by a whole factor (nearest neighbour, as long as they do not grow beyond 2048 in height), and
    the result is never narrower than that, so that the legend can be read.

    Args:
        image: The picture, RGB.
        ids: `(H, W)` integers, the ids of `labelmap`; the size of `image`.
        labelmap: Names and colours.
        alpha: How much of the class colour is mixed in, 0..1.

    Returns:
        An RGB picture: the (enlarged) image on top, the legend below it.

    Raises:
        ValueError: `ids` has another size than `image`.
    """
    if ids.shape != (image.height, image.width):
        raise ValueError(f"ids of shape {ids.shape} do not fit an image of {image.width}x{image.height}")
    factor = max(1, min(-(-_MIN_WIDTH // image.width), _MAX_ENLARGED // image.height))
    if factor > 1:
        ids = ids.repeat(factor, axis=0).repeat(factor, axis=1)
        image = image.resize((image.width * factor, image.height * factor), Image.Resampling.NEAREST)
    bare = {IGNORE} if labelmap.name_of(IGNORE) is None else set()
    if labelmap.background_id is not None:
        bare.add(labelmap.background_id)
    strip = max(1, _STRIP_PIXELS // image.width)
    strips = [(top, min(top + strip, image.height)) for top in range(0, image.height, strip)]
    counts: Counter[int] = Counter()
    for top, bottom in strips:
        values, numbers = np.unique(ids[top:bottom], return_counts=True)
        counts.update(dict(zip(values.tolist(), numbers.tolist(), strict=True)))
    shares = {index: counts[index] / ids.size for index in sorted(counts.keys() - bare)}

    legend = legend_strip(shares, labelmap, max(_MIN_WIDTH, image.width), image.height)
    result = Image.new("RGB", (legend.width, image.height + legend.height), PAPER)
    line = max(1, round(min(ids.shape) / 300))
    for top, bottom in strips:
        first = max(0, top - line)  # a strip's edges depend on the rows around it
        edge = inner_edge(ids[first : bottom + line], line)[top - first : bottom - first]
        pixels = np.array(image.crop((0, top, image.width, bottom)).convert("RGB"))
        paint(pixels, ids[top:bottom], edge, {index: labelmap.colour_of(index) for index in shares}, alpha)
        result.paste(Image.fromarray(pixels), (0, top))
    result.paste(legend, (0, image.height))
    return result


def paint(pixels: RGB, ids: npt.NDArray[np.integer], edge: Mask, colours: dict[int, Colour], alpha: float) -> None:
    """Mix the colours of the regions into the pixels, in place, with a lighter line at their edges."""
    for index, rgb in colours.items():
        colour = np.array(rgb, dtype=np.float32)
        region = ids == index
        pixels[region] = np.rint(pixels[region] * (1 - alpha) + colour * alpha).astype(np.uint8)
        pixels[region & edge] = bright(rgb)
