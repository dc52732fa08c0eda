"""Label images and the maps that name their ids.

A label image holds one class id per pixel. We write palette PNG with the colours of Pascal VOC (id 0 is
the background) beside a ``labelmap.txt`` as CVAT and Datumaro write it, and read what is in use elsewhere.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import numpy.typing as npt
from PIL import Image

from ovseg_cli.atomic import write_image, write_text
from ovseg_cli.errors import LabelError
from ovseg_cli.files.blending import looks_blended
from ovseg_cli.files.images import MOST_OF_16_BITS, decoding, upright, white_is_zero
from ovseg_cli.files.label_names import (
    BACKGROUND,
    HASH_NOTE,
    IGNORE,
    MAX_ID,
    Colour,
    LabelMap,
    is_background,
    is_void,
    voc_colour,
)
from ovseg_cli.files.labelmap_forms import read_labelmap
from ovseg_cli.files.tally import tally
from ovseg_cli.names import ClassList
from ovseg_cli.urls import Place, place

__all__ = [
    "BACKGROUND",
    "IGNORE",
    "LABELMAP_NAME",
    "MAX_ID",
    "Colour",
    "LabelMap",
    "is_background",
    "is_colour_label",
    "is_void",
    "read_compact_label",
    "read_label",
    "read_labelmap",
    "read_mask",
    "read_mat",
    "read_red_green",
    "voc_colour",
    "write_label",
    "write_labelmap",
]

LABELMAP_NAME = "labelmap.txt"
"""The name of the file that names the ids of a folder of label images."""

_HEADER = "# label:color_rgb:parts:actions"
_MOST_COLOURS = 500  # more are no colours of classes
_MAX_PALETTE_ID = 254  # 255 is the ignore value of 8-bit labels


def write_labelmap(path: str | Place, labelmap: LabelMap) -> None:
    """Write a label map as ``name:R,G,B::``, line i naming id i.

    Raises:
        ValueError: The ids are not 0, 1, 2 ... in order, which this form cannot express.
        OutputError: The file cannot be written.
        DiskFullError: No space is left.
    """
    if labelmap.ids != tuple(range(len(labelmap))):
        raise ValueError(f"label ids must run 0, 1, 2 ... to be written as lines, got {labelmap.ids!r}")
    lines = [f"{name}:{red},{green},{blue}::" for _, name, (red, green, blue) in labelmap]
    notes = [HASH_NOTE] if any(line.startswith("#") for line in lines) else []
    write_text(path, "\n".join([_HEADER, *notes, *lines]) + "\n")


@dataclass(frozen=True, slots=True)
class _Pixels:
    """What a label image holds, before anything is known of its labels.

    Attributes:
        values: `(H, W)` integers: palette indices, grey values as ids, or colours as 0xRRGGBB.
        kind: Which of these.
        colours: How a viewer shows each value that occurs; empty where greys have no colour (16 and 32 bits).
        pixels: How many pixels have each value that occurs.
    """

    values: npt.NDArray[np.integer]
    kind: Literal["palette", "grey", "colour"]
    colours: Mapping[int, Colour]
    pixels: Mapping[int, int]


def read_label(path: str | Place, labelmap: LabelMap | None = None) -> npt.NDArray[np.int32]:
    """Read the ids of a label image; see `read_compact_label`.

    Returns:
        `(H, W)` int32, 0..65535.
    """
    return read_compact_label(path, labelmap).astype(np.int32)


def read_compact_label(path: str | Place, labelmap: LabelMap | None = None) -> npt.NDArray[np.integer]:
    """Read the ids of a label image, in as many bytes as it has for them.

    - Colour images are looked up in `labelmap`; VOC's colour of id 255 (224, 224, 192) means ignore there unless the
      map says otherwise.
    - Palette images hold ids as their indices. Tools that optimise or edit such files give the colours other indices
      at will, though. Where the palette agrees with the colours of the map, or is VOC's or a ramp of greys, or the map
      gives none, indices are ids; where it has the map's colours at other indices, the colours count.
    - Grey images (1, 2, 4, 8, 16 and 32 bits) hold the ids themselves, unless only their greys are colours of the map.

    An alpha channel is not looked at. An EXIF orientation is applied, as it is to the photographs.

    Args:
        path: A losslessly compressed image.
        labelmap: Names and colours; needed for colour images, and to find out what a palette means.

    Returns:
        `(H, W)`, 0..65535; uint8 where 8 bits or fewer are read, otherwise uint16 or int32. Not to be written to.

    Raises:
        LabelError: The image is a JPEG (its values are not exact), a colour image without a map or with a
            colour that the map does not hold (named with its share of the pixels), a palette image that contradicts
            the map, or holds other numbers.
        ImageError: The file is missing or damaged.
    """
    path = place(path)
    found = _pixels(path)
    if found.kind == "colour":
        ids = _ids_of_colours(found, labelmap, path)
    elif found.kind == "palette":
        ids = _ids_of_palette(found, labelmap, path)
    else:
        ids = _ids_of_greys(found, labelmap, path)
    if ids.size and not 0 <= ids.min() <= ids.max() <= MAX_ID:
        raise LabelError(f"{path} holds values from {ids.min()} to {ids.max()}; label ids are 0..{MAX_ID}.")
    return ids


def read_red_green(path: str | Place) -> npt.NDArray[np.int32]:
    """Read the ids of a label image of ADE20K's full set: red / 10 * 256 + green, where red is a multiple of ten.

    Returns:
        `(H, W)` int32, 0..6655.

    Raises:
        LabelError: It is no image in colours.
        ImageError: The file is missing or damaged.
    """
    path = place(path)
    with decoding(path) as image:
        if image.mode not in ("RGB", "RGBA"):
            raise LabelError(f"{path} is a {image.mode} image; the labels of ADE20K's full set (*_seg.png) are RGB.")
        values = np.asarray(upright(image, path))[..., :2].astype(np.int32)
    return values[..., 0] // 10 * 256 + values[..., 1]


def read_mat(path: str | Path, variable: str = "LabelMap") -> npt.NDArray[np.int32]:
    """Read the ids of a Matlab file, as Pascal Context has them.

    Args:
        path: A file of Matlab 5 to 7.
        variable: What holds them.

    Returns:
        `(H, W)` int32, 0..65535.

    Raises:
        LabelError: The file cannot be read, or holds no such ids.
    """
    from scipy.io import loadmat

    try:
        values = loadmat(path, variable_names=[variable]).get(variable)
    except (OSError, ValueError, TypeError, NotImplementedError, KeyError) as error:
        raise LabelError(f"{path} cannot be read as a Matlab file ({error}).") from error
    if values is None or values.ndim != 2 or not np.issubdtype(values.dtype, np.integer):
        raise LabelError(f"{path} holds no label ids: a matrix of integers called {variable} is wanted.")
    ids = np.asarray(values).astype(np.int32)
    if ids.size and not 0 <= ids.min() <= ids.max() <= MAX_ID:
        raise LabelError(f"{path} holds values from {ids.min()} to {ids.max()}; label ids are 0..{MAX_ID}.")
    return ids


def read_mask(path: str | Place) -> npt.NDArray[np.int32]:
    """Read a mask that no label map explains: 0 is the background.

    Of a picture in colours, and of a palette image in which black is not the first colour, black is the background
    and the one other colour the object, 1. Otherwise the values are those of `read_label`.

    Args:
        path: A losslessly compressed image.

    Returns:
        `(H, W)` int32, 0..65535.

    Raises:
        LabelError: As `read_label`, or a mask has more than one colour beside black, or two without it.
        ImageError: The file is missing or damaged.
    """
    path = place(path)
    found = _pixels(path)
    black = [value for value, colour in found.colours.items() if colour == (0, 0, 0)]
    if found.kind == "colour" or (found.kind == "palette" and black and 0 not in black):
        others = len(found.colours) - len(black)
        if others > 1:
            raise LabelError(
                f"The mask {path} has {len(found.colours)} colours, and nothing says which of them is the class: put a "
                f"{LABELMAP_NAME} with the colour of each class beside the masks (lines such as cat:64,0,0::), or save "
                "masks in black (background) and one other colour."
            )
        return (~np.isin(found.values, black)).astype(np.int32)
    return read_label(path)


def _pixels(path: Place) -> _Pixels:
    """Decode a label image.

    Raises:
        LabelError: It is of a kind that cannot hold labels.
        ImageError: It is missing or damaged.
    """
    with decoding(path) as image:
        if image.format in ("JPEG", "MPO"):
            raise LabelError(f"{path} is a JPEG, whose colours are not exact; save labels as PNG.")
        divisor = _grey_divisor(image)
        turn = white_is_zero(image)
        image = upright(image, path)
        palette = image.getpalette("RGB") if image.mode in ("P", "PA") else None
        if image.mode in ("LA", "PA"):
            image = image.getchannel(0)
        if image.mode in ("RGB", "RGBA", "RGBX"):
            # Never convert("L"): for a palette image it gives the brightness of the colours, not the ids.
            red, green, blue = (np.asarray(image)[..., i].astype(np.int32) for i in range(3))
            values: npt.NDArray[np.integer] = red << 16 | green << 8 | blue
        elif image.mode in ("1", "L", "P", "I") or image.mode.startswith("I;16"):
            values = np.asarray(image)
            if values.dtype not in (np.uint8, np.uint16):  # truth values, and other orders of bytes
                values = values.astype(np.uint8 if image.mode == "1" else np.int32)
            if turn:
                values = MOST_OF_16_BITS - values.astype(np.int32)
            elif divisor > 1:
                values = values // divisor
        else:
            raise LabelError(f"{path} is a {image.mode} image; labels must be palette, grey or RGB.")
        mode = image.mode
    pixels = dict(zip(*(part.tolist() for part in tally(values)), strict=True))
    if palette is not None:
        spread = [*palette, *[0] * (768 - len(palette))]  # what lies beyond a short palette is shown black
        return _Pixels(values, "palette", {i: _triple(spread[3 * i : 3 * i + 3]) for i in pixels}, pixels)
    if mode.startswith("RGB"):
        return _Pixels(values, "colour", {i: (i >> 16, i >> 8 & 255, i & 255) for i in pixels}, pixels)
    factor = {"1": 255, "L": divisor}.get(mode)
    return _Pixels(values, "grey", {} if factor is None else {i: (i * factor,) * 3 for i in pixels}, pixels)


def _triple(values: Sequence[int]) -> Colour:
    red, green, blue = values
    return red, green, blue


def is_colour_label(path: Place) -> bool:
    """Whether a label image holds colours, which only a label map with colours can turn into ids.

    Raises:
        ImageError: The file is missing or damaged.
    """
    with decoding(path) as image:
        return image.mode in ("RGB", "RGBA", "RGBX")


def _grey_divisor(image: Image.Image) -> int:
    """Pillow spreads 2- and 4-bit grey over 0..255 while loading; this is the factor to take out again."""
    tiles = getattr(image, "tile", [])
    arguments = tiles[0].args if tiles else None
    raw_mode = str(arguments[0] if isinstance(arguments, tuple) and arguments else arguments)
    return {"L;2": 85, "L;4": 17}.get(raw_mode[:3], 1) if image.mode == "L" else 1


def _ids_of_palette(found: _Pixels, labelmap: LabelMap | None, path: Place) -> npt.NDArray[np.integer]:
    """Indices, unless the colours say that the palette was put into another order (see `read_label`)."""
    if labelmap is None or not (astray := _astray(found.colours, labelmap)):
        return found.values
    given = labelmap.given_colours
    if given and _all_known(found, labelmap):
        return _ids_of_colours(found, labelmap, path)
    if any(all(colour == paint(i) for i, colour in found.colours.items()) for paint in (voc_colour, _grey)):
        return found.values  # the palettes of those who count in ids
    if not given and not _all_known(found, labelmap):
        return found.values  # colours of no meaning here
    worst = max(astray, key=lambda i: found.pixels[i])
    colour, named = found.colours[worst], labelmap.name_of(worst)
    owners = " or ".join(repr(labelmap.name_of(i)) for i in _meanings(labelmap).get(colour, ()) if i in labelmap.ids)
    raise LabelError(
        f"{path}: the palette contradicts the label map. Index {worst} has the colour {colour}"
        + (f", which is that of {owners}" if owners else "")
        + ("" if named is None else f", and the label map calls {worst} {named!r}")
        + (f" with the colour {labelmap.colour_of(worst)}" if named is not None and given else "")
        + ". If the indices are the ids, save it in grey; if the colours count, give a label map with the colour of "
        "each class (lines such as cat:64,0,0::)."
    )


def _astray(colours: Mapping[int, Colour], labelmap: LabelMap) -> list[int]:
    """The indices of a palette whose colour is not that of their id, but should be or is that of another."""
    meanings = _meanings(labelmap)
    wrong = [i for i, colour in colours.items() if i not in meanings.get(colour, ())]
    # The ignore value may have any colour: black where nobody painted it.
    named = [
        i for i in wrong if labelmap.name_of(i) is not None and not (labelmap.given_colours and i in labelmap.guessed)
    ]
    others = [i for i in wrong if labelmap.name_of(i) is None and i != IGNORE and colours[i] in meanings]
    # Two indices of one colour: nobody's optimiser writes that, and by colour they could not be told apart.
    return named if len(set(colours.values())) < len(colours) else [*named, *others]


def _meanings(labelmap: LabelMap) -> dict[Colour, tuple[int, ...]]:
    """The ids of each colour: as the label map gives them, or VOC's where it gives none at all; ignore included."""
    meanings = dict(labelmap.given_colours)
    if not meanings:
        meanings = {voc_colour(i): (i,) for i in (0, *labelmap.ids)}
    return {voc_colour(IGNORE): (IGNORE,)} | meanings


def _grey(value: int) -> Colour:
    return value, value, value


def _all_known(found: _Pixels, labelmap: LabelMap) -> bool:
    """Whether all colours of an image have a meaning."""
    return all(colour in _meanings(labelmap) for colour in found.colours.values())


def _ids_of_greys(found: _Pixels, labelmap: LabelMap | None, path: Place) -> npt.NDArray[np.integer]:
    """Grey values, unless these are the grey colours of classes: optimisers make such images of palettes and of RGB."""
    if labelmap is None or not found.colours or not all(c in labelmap.given_colours for c in found.colours.values()):
        return found.values
    by_colour = _ids_of_colours(found, labelmap, path)
    if any(i not in (0, IGNORE) and labelmap.name_of(i) is None for i in found.pixels):
        return by_colour
    if (by_colour != found.values).any():
        raise LabelError(
            f"{path} is grey, and its values ({', '.join(map(str, found.pixels))}) are ids of the label map as well as "
            "greys that it gives to other ids. Save it as RGB if the colours count; if the ids count, take the colours "
            "out of the label map."
        )
    return found.values


def _ids_of_colours(found: _Pixels, labelmap: LabelMap | None, path: Place) -> npt.NDArray[np.integer]:
    """Look up the colours of an image; returns `(H, W)` int32 ids."""
    if labelmap is None:
        raise LabelError(
            f"{path} is an RGB image with {len(found.colours)} colour(s): give the names and colours of its labels "
            f"with --label-map FILE (lines such as cat:64,0,0::) or a {LABELMAP_NAME} beside the folder."
        )
    present = set(found.colours.values())
    for colour, ids in labelmap.given_colours.items():
        names = ClassList.distinct(str(labelmap.name_of(i)) for i in ids)
        if colour in present and len(names) > 1:
            raise LabelError(f"{path}: the label map gives the colour {colour} to {names[0]!r} and {names[1]!r}.")
    known = {voc_colour(IGNORE): IGNORE} | {colour: i for i, _, colour in labelmap if i in labelmap.guessed}
    known |= {colour: ids[0] for colour, ids in labelmap.given_colours.items()}
    unknown = [value for value, colour in found.colours.items() if colour not in known]
    if unknown:
        worst = max(unknown, key=lambda value: found.pixels[value])
        raise LabelError(
            f"{path}: {len(unknown)} colour(s) are not in the label map; the most frequent, {found.colours[worst]}, "
            f"covers {100 * found.pixels[worst] / found.values.size:.2f} % of the pixels.{_why_unknown(found, unknown)}"
        )
    values = np.array(list(found.colours), dtype=np.int32)  # ascending, as they were counted
    ids_of_values = np.array([known[colour] for colour in found.colours.values()], dtype=np.int32)
    return ids_of_values[np.searchsorted(values, found.values)]


def _why_unknown(found: _Pixels, unknown: Sequence[int]) -> str:
    """Where so many colours may come from; empty of few."""
    channels = (found.values >> shift & 255 for shift in (16, 8, 0))
    if found.kind == "colour" and any(map(looks_blended, channels)):
        return (
            " They are mixtures of its colours along edges: the labels were resized or smoothed. Make them again "
            "without anti-aliasing, and scale labels by nearest neighbour only."
        )
    if len(unknown) > _MOST_COLOURS:
        return " With so many it is rather a photograph, or was saved as JPEG; name the folder of the labels."
    return ""


def write_label(path: str | Place, ids: npt.NDArray[np.integer], labelmap: LabelMap) -> None:
    """Write ids as a PNG: 8-bit with the map's palette, or 16-bit grey when the map goes beyond id 254.

    Args:
        path: The file.
        ids: `(H, W)` integers: ids of `labelmap`, or 255 for ignore.
        labelmap: Decides about bit depth (for the whole folder alike) and colours.

    Raises:
        ValueError: `ids` is not two-dimensional, not of integers, or goes beyond the map.
        OutputError: The file cannot be written.
        DiskFullError: No space is left.
    """
    if ids.ndim != 2 or not np.issubdtype(ids.dtype, np.integer):
        raise ValueError(f"label ids must be (H, W) integers, got {ids.dtype} of shape {ids.shape}")
    low, high = (int(ids.min()), int(ids.max())) if ids.size else (0, 0)
    if low < 0 or (high > labelmap.max_id and high != IGNORE):
        raise ValueError(f"label ids must lie in 0..{labelmap.max_id} (or {IGNORE}), got {low}..{high}")
    if labelmap.max_id > _MAX_PALETTE_ID:
        image = Image.fromarray(np.ascontiguousarray(ids, dtype=np.uint16))
    else:
        image = Image.fromarray(np.ascontiguousarray(ids, dtype=np.uint8))
        image.putpalette(labelmap.palette().tobytes())
    write_image(path, image)
