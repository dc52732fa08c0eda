"""Label images and the maps that name their ids.

A label image holds one class id per pixel. We write palette PNG with the colours of Pascal VOC (id 0 is
the background) beside a ``labelmap.txt`` as CVAT and Datumaro write it, and read what is in use elsewhere.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

import numpy as np
import numpy.typing as npt
from PIL import Image

from ovseg_cli.errors import LabelError
from ovseg_cli.files.atomic import write_image, write_text
from ovseg_cli.files.images import decoding, upright
from ovseg_cli.files.text import read_text

__all__ = [
    "BACKGROUND",
    "IGNORE",
    "LABELMAP_NAME",
    "MAX_ID",
    "LabelMap",
    "colourise",
    "is_background",
    "is_colour_label",
    "name_key",
    "read_label",
    "read_labelmap",
    "voc_colour",
    "voc_palette",
    "write_label",
    "write_labelmap",
]

Colour = tuple[int, int, int]

BACKGROUND = "background"
"""The name of id 0 in the label maps that we write."""

IGNORE = 255
"""The id of pixels that count neither for nor against (VOC's "void")."""

MAX_ID = 65535
"""The largest id: what a 16-bit PNG holds."""

LABELMAP_NAME = "labelmap.txt"
"""The name of the file that names the ids of a folder of label images."""

_HEADER = "# label:color_rgb:parts:actions"
_MAX_PALETTE_ID = 254  # 255 is the ignore value of 8-bit labels


def voc_colour(index: int) -> Colour:
    """The colour of an id in Pascal VOC: its bits, dealt to red, green and blue from the top down.

    Args:
        index: The id, 0..2**24 - 1; each has a colour of its own.

    Returns:
        (red, green, blue), each 0..255.

    Raises:
        ValueError: `index` is out of range.
    """
    if not 0 <= index < 1 << 24:
        raise ValueError(f"a label id must lie in 0..{(1 << 24) - 1}, got {index!r}")
    red = green = blue = 0
    for shift in range(7, -1, -1):
        red |= (index & 1) << shift
        green |= (index >> 1 & 1) << shift
        blue |= (index >> 2 & 1) << shift
        index >>= 3
    return red, green, blue


def voc_palette(n: int = 256) -> npt.NDArray[np.uint8]:
    """The first `n` colours of `voc_colour` as an array `(n, 3)`, uint8."""
    return np.array([voc_colour(i) for i in range(n)], dtype=np.uint8).reshape(n, 3)


def name_key(name: str) -> str:
    """The form in which two class names are compared: NFC, one space between words, no case."""
    return unicodedata.normalize("NFC", " ".join(name.split())).casefold()


def is_background(name: str) -> bool:
    """Whether a label name means "none of the classes": ``background``, also in underscores."""
    return name_key(name).strip("_") == BACKGROUND


@dataclass(frozen=True)
class LabelMap:
    """Names and colours of label ids.

    Attributes:
        names: The names, distinct also when case and Unicode form are set aside.
        ids: The id of each name, 0..65535, distinct.
        colours: The colour of each name; left out, the VOC colours of the ids.
    """

    names: tuple[str, ...]
    ids: tuple[int, ...]
    colours: tuple[Colour, ...] = field(default=())

    def __post_init__(self) -> None:
        if not self.colours:
            object.__setattr__(self, "colours", tuple(voc_colour(i) for i in self.ids))
        if not len(self.names) == len(self.ids) == len(self.colours):
            sizes = f"{len(self.names)} names, {len(self.ids)} ids, {len(self.colours)} colours"
            raise ValueError(f"a label map needs one id and colour per name, got {sizes}")
        seen: dict[str, str] = {}
        for name in self.names:
            first = seen.setdefault(name_key(name), name)
            if first is not name:
                raise LabelError(f"A label map cannot hold both {first!r} and {name!r}: one name, one id.")
        if len(set(self.ids)) != len(self.ids):
            double = next(i for i in self.ids if self.ids.count(i) > 1)
            raise LabelError(f"A label map cannot give the id {double} to two names.")
        if bad := [i for i in self.ids if not 0 <= i <= MAX_ID]:
            raise LabelError(f"A label id must lie in 0..{MAX_ID}, got {bad[0]}.")

    @classmethod
    def from_classes(cls, classes: Sequence[str]) -> LabelMap:
        """The map of a run: id 0 is the background, class i of `classes` has id i + 1.

        Raises:
            LabelError: A class is called "background", or two are the same name.
        """
        if taken := [name for name in classes if is_background(name)]:
            raise LabelError(f"{taken[0]!r} is the name of label 0 already; leave it out of the classes.")
        return cls((BACKGROUND, *classes), tuple(range(len(classes) + 1)))

    @cached_property
    def _by_key(self) -> dict[str, int]:
        return {name_key(name): i for name, i in zip(self.names, self.ids, strict=True)}

    @cached_property
    def _by_id(self) -> dict[int, int]:
        return {i: position for position, i in enumerate(self.ids)}

    def __len__(self) -> int:
        return len(self.names)

    def __iter__(self) -> Iterator[tuple[int, str, Colour]]:
        """Yield (id, name, colour)."""
        return iter(zip(self.ids, self.names, self.colours, strict=True))

    def id_of(self, name: str) -> int | None:
        """The id of a name (case and Unicode form do not matter), or None."""
        return self._by_key.get(name_key(name))

    def name_of(self, index: int) -> str | None:
        """The name of an id, or None."""
        position = self._by_id.get(index)
        return None if position is None else self.names[position]

    def colour_of(self, index: int) -> Colour:
        """The colour of an id; the VOC colour if the map does not hold it."""
        position = self._by_id.get(index)
        return voc_colour(index) if position is None else self.colours[position]

    @property
    def max_id(self) -> int:
        """The largest id, or 0 for an empty map."""
        return max(self.ids, default=0)

    @property
    def background_id(self) -> int | None:
        """The id of the name that `is_background`, or None."""
        return next((i for i, name, _ in self if is_background(name)), None)

    def palette(self) -> npt.NDArray[np.uint8]:
        """`(256, 3)` uint8: this map's colours for its ids below 256, VOC's for the others."""
        return np.array([self.colour_of(i) for i in range(256)], dtype=np.uint8)


_RGB = r"\s*(\d+)\s*,\s*(\d+)\s*,\s*(\d+)\s*"
_VOC_LINE = re.compile(rf"(.+?):(?:{_RGB}(?::[^:]*){{0,2}}|:[^:]*:?[^:]*)")
_ID_COLON = re.compile(r"(\d+)\s*:\s*(.+)")
_ID_COMMA = re.compile(rf"(\d+)\s*[,;\t]\s*(.+?)(?:[,;\t]{_RGB.replace(',', '[,;]')})?")
_ID_HEADER = re.compile(r"(id|label|index|class)\w*\s*[,;\t]\s*\w+.*", re.IGNORECASE)


def read_labelmap(path: str | Path) -> LabelMap:
    """Read the names of label ids. Blank lines and comments (``#``) are skipped; four forms are known.

    - ``name:R,G,B:parts:actions`` (CVAT, VOC, Datumaro; the end may be missing, the colour empty): the
      first entry has id 0, the next 1 ...
    - ``id: name``
    - ``id,name`` or ``id,name,R,G,B`` (also with tab or semicolon; a header line is skipped)
    - one name per line: the first has id 0, the next 1 ...

    The first entry decides about the form of the file.

    Args:
        path: A UTF-8 text file.

    Returns:
        The label map.

    Raises:
        LabelError: The file is missing, not text, empty, or has a line of another form (with its number).
    """
    path = Path(path)
    text = read_text(path, "label map", LabelError)
    lines = [(n, line.strip()) for n, line in enumerate(text.split("\n"), start=1)]
    # A class may be called "#1 fan": only its colour tells such a line from a comment.
    lines = [(n, line) for n, line in lines if line and (line[0] != "#" or _voc_entry(line, 0, colour=True))]
    if lines and _ID_HEADER.fullmatch(lines[0][1]) and len(lines) > 1 and _ID_COMMA.fullmatch(lines[1][1]):
        del lines[0]
    if not lines:
        raise LabelError(f"The label map {path} names no label; write one line per label, such as cat:64,0,0::")
    form, parse = next(item for item in _FORMS if item[1](lines[0][1], 0) is not None)
    entries = []
    for position, (number, line) in enumerate(lines):
        entry = parse(line, position)
        if entry is None:
            raise LabelError(f"The label map {path}, line {number}: {line!r} is not of the form {form}.")
        if max(entry[2]) > 255 or entry[0] > MAX_ID:
            raise LabelError(f"The label map {path}, line {number}: {line!r} has a number out of range.")
        entries.append(entry)
    try:
        ids, names, colours = zip(*entries, strict=True)
        return LabelMap(names, ids, colours)
    except LabelError as error:
        raise LabelError(f"The label map {path} is contradictory. {error}") from error


_Entry = tuple[int, str, Colour]


def _colour(groups: Sequence[str | None], index: int) -> Colour:
    red, green, blue = groups
    if red is None or green is None or blue is None:
        return voc_colour(min(index, MAX_ID))
    return int(red), int(green), int(blue)


def _voc_entry(line: str, position: int, *, colour: bool = False) -> _Entry | None:
    match = _VOC_LINE.fullmatch(line)
    if match is None or (colour and match[2] is None):
        return None
    return position, match[1].strip(), _colour(match.groups()[1:], position)


def _colon_entry(line: str, position: int) -> _Entry | None:
    match = _ID_COLON.fullmatch(line)
    return match and (int(match[1]), match[2].strip(), _colour((None,) * 3, int(match[1])))


def _comma_entry(line: str, position: int) -> _Entry | None:
    match = _ID_COMMA.fullmatch(line)
    return match and (int(match[1]), match[2].strip().strip('"'), _colour(match.groups()[2:], int(match[1])))


def _name_entry(line: str, position: int) -> _Entry | None:
    return position, line, _colour((None,) * 3, position)


_FORMS: tuple[tuple[str, Callable[[str, int], _Entry | None]], ...] = (
    ("name:R,G,B:parts:actions", _voc_entry),
    ("id: name", _colon_entry),
    ("id,name", _comma_entry),
    ("name", _name_entry),
)


def write_labelmap(path: str | Path, labelmap: LabelMap) -> None:
    """Write a label map as ``name:R,G,B::``, line i naming id i.

    Raises:
        ValueError: The ids are not 0, 1, 2 ... in order, which this form cannot express.
        OutputError: The file cannot be written.
        DiskFullError: No space is left.
    """
    if labelmap.ids != tuple(range(len(labelmap))):
        raise ValueError(f"label ids must run 0, 1, 2 ... to be written as lines, got {labelmap.ids!r}")
    lines = [f"{name}:{red},{green},{blue}::" for _, name, (red, green, blue) in labelmap]
    write_text(path, "\n".join([_HEADER, *lines]) + "\n")


def read_label(path: str | Path, labelmap: LabelMap | None = None) -> npt.NDArray[np.int32]:
    """Read the ids of a label image.

    Palette, grey (1, 2, 4, 8, 16 and 32 bits) and 1-bit images hold the ids themselves. The palette of a
    palette image is not looked at. Colour images are looked up in `labelmap`; VOC's colour of id 255
    (224, 224, 192) means ignore there unless the map says otherwise. An alpha channel is not looked at.
    An EXIF orientation is applied, as it is to the photographs.

    Args:
        path: A losslessly compressed image.
        labelmap: Names and colours, needed for colour images only.

    Returns:
        `(H, W)` int32, 0..65535.

    Raises:
        LabelError: The image is a JPEG (its values are not exact), a colour image without a map or with a
            colour that the map does not hold (named with its share of the pixels), or holds other numbers.
        ImageError: The file is missing or damaged.
    """
    path = Path(path)
    with decoding(path) as image:
        if image.format in ("JPEG", "MPO"):
            raise LabelError(f"{path} is a JPEG, whose colours are not exact; save labels as PNG.")
        divisor = _grey_divisor(image)
        image = upright(image, path)
        if image.mode in ("LA", "PA"):
            image = image.getchannel(0)
        if image.mode in ("1", "L", "P", "I") or image.mode.startswith("I;16"):
            # Never convert("L"): for a palette image it gives the brightness of the colours, not the ids.
            ids = np.asarray(image).astype(np.int32) // divisor
        elif image.mode in ("RGB", "RGBA", "RGBX"):
            ids = _ids_of_colours(np.asarray(image)[..., :3], labelmap, path)
        else:
            raise LabelError(f"{path} is a {image.mode} image; labels must be palette, grey or RGB.")
    if ids.size and not 0 <= ids.min() <= ids.max() <= MAX_ID:
        raise LabelError(f"{path} holds values from {ids.min()} to {ids.max()}; label ids are 0..{MAX_ID}.")
    return ids


def is_colour_label(path: Path) -> bool:
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
    return {"L;2": 85, "L;4": 17}.get(raw_mode, 1) if image.mode == "L" else 1


def _ids_of_colours(rgb: npt.NDArray[np.uint8], labelmap: LabelMap | None, path: Path) -> npt.NDArray[np.int32]:
    """Look up `(H, W, 3)` colours; returns `(H, W)` int32 ids."""
    packed = rgb.astype(np.int32) @ np.array([65536, 256, 1], dtype=np.int32)
    codes, inverse, counts = np.unique(packed, return_inverse=True, return_counts=True)
    if labelmap is None:
        raise LabelError(
            f"{path} is an RGB image with {codes.size} colour(s): give the names and colours of its labels "
            f"with --label-map FILE (lines such as cat:64,0,0::) or a {LABELMAP_NAME} beside the folder."
        )
    known = {_pack(voc_colour(IGNORE)): IGNORE}
    names: dict[int, str] = {}
    for index, name, colour in labelmap:
        code = _pack(colour)
        if code in names and code in codes:
            raise LabelError(f"{path}: the label map gives the colour {colour} to {names[code]!r} and {name!r}.")
        known[code] = index
        names[code] = name
    unknown = [i for i, code in enumerate(codes.tolist()) if code not in known]
    if unknown:
        worst = max(unknown, key=lambda i: counts[i])
        code, share = int(codes[worst]), counts[worst] / packed.size
        raise LabelError(
            f"{path}: {len(unknown)} colour(s) are not in the label map; the most frequent, "
            f"({code >> 16}, {code >> 8 & 255}, {code & 255}), covers {100 * share:.2f} % of the pixels."
        )
    ids = np.array([known[code] for code in codes.tolist()], dtype=np.int32)
    return ids[inverse].reshape(packed.shape)


def _pack(colour: Colour) -> int:
    return colour[0] << 16 | colour[1] << 8 | colour[2]


def write_label(path: str | Path, ids: npt.NDArray[np.integer], labelmap: LabelMap) -> None:
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


def colourise(ids: npt.NDArray[np.integer], labelmap: LabelMap) -> npt.NDArray[np.uint8]:
    """Paint ids in the colours of `labelmap`.

    Args:
        ids: `(H, W)` integers, 0..65535.
        labelmap: The colours; ids that it does not hold get VOC's.

    Returns:
        `(H, W, 3)` uint8, RGB.
    """
    present, inverse = np.unique(ids, return_inverse=True)
    colours = np.array([labelmap.colour_of(int(i)) for i in present], dtype=np.uint8).reshape(-1, 3)
    return colours[inverse].reshape(*ids.shape, 3)
