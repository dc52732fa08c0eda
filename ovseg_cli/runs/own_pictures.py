"""The user's own pictures of a class, and their masks: from folders to arrays."""

from __future__ import annotations

import logging
import os
from pathlib import Path

import numpy as np
import numpy.typing as npt
from PIL import Image

from ovseg_cli.errors import LabelError, NoInputError, UsageError
from ovseg_cli.evaluation.pairing import find_labelmap, find_labels, label_folder, partners
from ovseg_cli.files.discovery import discover
from ovseg_cli.files.images import open_image
from ovseg_cli.files.labels import IGNORE, LabelMap, read_label, read_labelmap, read_mask
from ovseg_cli.names import did_you_mean, listed, listed_names
from ovseg_cli.prototypes.support import OwnPicture

log = logging.getLogger("ovseg_cli")

MAX_SIDE = 1024
"""Longer pictures are shrunk to this side: the networks see 512 pixels at most, and the store keeps every picture."""

Mask = npt.NDArray[np.bool_]

_MOST_NAMED = 3


def load_pictures(
    name: str, folder: Path, masks: Path | None = None, *, skip_unmasked: bool = False
) -> list[OwnPicture]:
    """The pictures of a folder and its subfolders, with their masks if there are any.

    A mask has its picture's name and place in the folder of masks, in a format without loss. Where that lies in the
    folder of pictures, it is not searched for pictures. What a mask means:

    - Where a ``labelmap.txt`` lies in the folder of masks or beside it, and names the class, the class's id is the
      object, 255 is neither, and everything else is background. Pictures without the class are left out.
    - Otherwise 0, or black, is background and everything else the object; when 1 and 255 both occur, 255 is neither.

    Args:
        name: The class, to be looked up in a ``labelmap.txt``.
        folder: Of the pictures.
        masks: Of the masks; an output folder of ovseg or a VOC export is taken as well.
        skip_unmasked: Whether pictures without a mask are left out, as long as one has a mask.

    Returns:
        The pictures, each at most `MAX_SIDE` pixels long, in natural order.

    Raises:
        NoInputError: There is no picture, or none shows the class.
        LabelError: A picture has no mask, or its mask cannot be read as described.
        ImageError: A picture cannot be read.
        UsageError: `folder` is not a folder.
    """
    if not os.path.isdir(folder):
        raise UsageError(f"--from-images names a folder of pictures, and {folder} is none.")
    inside = masks is not None and Path(os.path.realpath(folder)) in Path(os.path.realpath(masks)).parents
    images = discover([folder], exclude=masks if inside else None)
    keys = [str(image.key) for image in images]
    if masks is None:
        return [
            OwnPicture(key, np.asarray(_shrunk(open_image(image.path))))
            for key, image in zip(keys, images, strict=True)
        ]
    place = label_folder(masks)
    labelmap = _labelmap_with(name, place)
    files = find_labels(place)
    belonging = partners(keys, files)
    lacking = [key for key in keys if key not in belonging]
    if lacking:
        some = listed(lacking, most=_MOST_NAMED)
    if lacking and skip_unmasked and len(lacking) < len(keys):
        log.warning("%d of %d pictures are left out, as they have no mask: %s", len(lacking), len(keys), some)
        images = [image for key, image in zip(keys, images, strict=True) if key in files]
        keys = [key for key in keys if key in files]
    elif lacking:
        raise LabelError(
            f"{len(lacking)} of {len(keys)} pictures in {folder} have no mask in {place}: {some}. "
            "A mask has the name of its picture, such as masks/a.png for photos/a.jpg. "
            "To leave out pictures without one: --skip-unmasked."
        )
    loaded = [
        _with_mask(key, open_image(image.path), files[belonging[key]], name, labelmap)
        for key, image in zip(keys, images, strict=True)
    ]
    found = [picture for picture in loaded if picture is not None]
    if not found:
        raise NoInputError(f"None of the {len(images)} masks in {place} shows {name!r}.")
    if len(found) < len(loaded):
        missing = [key for key, picture in zip(keys, loaded, strict=True) if picture is None]
        some = listed(missing, most=_MOST_NAMED)
        log.warning(
            "%d of %d pictures are left out, as their masks do not show %r: %s", len(missing), len(keys), name, some
        )
    return found


def _labelmap_with(name: str, place: Path) -> LabelMap | None:
    """The label map of a folder of masks; None when it has none.

    Raises:
        LabelError: It does not name the class.
    """
    path = find_labelmap(place)
    if path is None:
        return None
    labelmap = read_labelmap(path)
    if labelmap.id_of(name) is None:
        raise LabelError(
            f"{path} names no class {name!r}, so its masks do not show it.{did_you_mean(name, labelmap.names)} "
            f"It names: {listed_names(labelmap.names, most=10)}."
        )
    return labelmap


def _with_mask(key: str, picture: Image.Image, file: Path, name: str, labelmap: LabelMap | None) -> OwnPicture | None:
    """One picture with its mask; None when the mask does not show the class."""
    ids = read_mask(file) if labelmap is None else read_label(file, labelmap)
    if ids.shape != (picture.height, picture.width):
        raise LabelError(
            f"The mask {file} has {ids.shape[1]} x {ids.shape[0]} pixels, and its picture {picture.width} x "
            f"{picture.height}. They must be of one size."
        )
    foreground, neither = _object_in(ids, file, () if labelmap is None else labelmap.ids_of(name))
    if not foreground.any():
        return None
    shrunk = _shrunk(picture)
    size = (shrunk.width, shrunk.height)
    # What touches the object is not background either: the pixels along its edge show both.
    background = ~_shrunk_mask(foreground, size, any_of_it=True) & ~_shrunk_mask(neither, size, any_of_it=True)
    small = _shrunk_mask(foreground, size)
    return OwnPicture(key, np.asarray(shrunk), small, background & ~small)


def _object_in(ids: npt.NDArray[np.int32], file: Path, class_ids: tuple[int, ...]) -> tuple[Mask, Mask]:
    """Which pixels are the object, and which are neither object nor background."""
    if class_ids:
        return np.isin(ids, class_ids), (ids == IGNORE) & (IGNORE not in class_ids)
    values = set(np.unique(ids).tolist()) - {0}
    if values == {1, IGNORE}:
        return ids == 1, ids == IGNORE
    if len(values) > 1:
        some = listed([*map(str, sorted(values))])
        raise LabelError(
            f"The mask {file} holds several labels ({some}), and no labelmap.txt says which of them is the class. "
            "Put one beside the masks, or give masks of 0 (background) and one other value."
        )
    return ids > 0, np.zeros(ids.shape, np.bool_)


def _shrunk(picture: Image.Image) -> Image.Image:
    longest = max(picture.size)
    if longest <= MAX_SIDE:
        return picture
    width, height = (max(1, round(side * MAX_SIDE / longest)) for side in picture.size)
    return picture.resize((width, height), Image.Resampling.LANCZOS, reducing_gap=3)


def _shrunk_mask(mask: Mask, size: tuple[int, int], *, any_of_it: bool = False) -> Mask:
    """A mask at another size (width, height): pixels of which at least half are inside, or any part.

    An object of which no pixel keeps half is kept where there is any of it.
    """
    if (mask.shape[1], mask.shape[0]) == size:
        return mask
    share = np.asarray(Image.fromarray(mask.astype(np.float32)).resize(size, Image.Resampling.BOX))
    inside = share >= 0.5
    return share > 0 if any_of_it or not inside.any() else inside
