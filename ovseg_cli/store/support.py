"""Support images, masks and attribution maps as files: `support/<slug>/<generation>/<position>….png`.

A generation folder is written once and never changed. A class row names its generation; a folder that
no row names is an orphan of a writer that died, and the next writer sweeps it.
"""

from __future__ import annotations

import io
import re
import struct
from collections.abc import Callable, Collection, Iterable
from contextlib import suppress
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from ovseg_cli.files.layout import MARKED_BACKGROUND, MARKED_FOREGROUND
from ovseg_cli.store.disk import is_link, listed, refuse_links, sync_folder, write_new
from ovseg_cli.store.records import SupportRecord
from ovseg_cli.store.tables import SupportImage

FOLDER = "support"

_PNG = b"\x89PNG\r\n\x1a\n"
_MASK_PALETTE = [0, 0, 0, 0, 158, 115, 213, 94, 0]
_GENERATION = re.compile(r"[0-9a-f]{32}")
_FILE = re.compile(r"[0-9]{3,}(\.attribution|\.mask)?\.png")
"""What `file_names` gives."""

DIGEST_COLUMNS = ("image_digest", "attribution_digest", "mask_digest")
"""Columns of the digests of the files, in the order of `file_names`."""

Generation = tuple[str, str]
"""Slug and generation id of a class: where its files are."""


def file_names(position: int) -> tuple[str, str, str]:
    """Give the names of the image, the attribution map and the mask at a position."""
    return f"{position:03d}.png", f"{position:03d}.attribution.png", f"{position:03d}.mask.png"


def digests_of(image: SupportImage) -> dict[str, str | None]:
    """Give what the files of a support image hash to, by name; None for a file that was lost before it was hashed."""
    columns = zip(file_names(image.position), DIGEST_COLUMNS, strict=True)
    return {name: getattr(image, column) for name, column in columns}


def folder_of(store: Path, generation: Generation) -> Path:
    """Give the folder that holds the files of a class."""
    return store / FOLDER / generation[0] / generation[1]


def encode(supports: Iterable[SupportRecord]) -> dict[str, bytes]:
    """Turn support images into PNG files.

    Args:
        supports: Support records.

    Returns:
        File name to file content.
    """
    files: dict[str, bytes] = {}
    for support in supports:
        attribution = np.rint(support.attribution * 255.0).astype(np.uint8)
        mask = np.zeros(support.foreground.shape, np.uint8)
        mask[support.foreground] = MARKED_FOREGROUND
        mask[support.background] = MARKED_BACKGROUND
        mask_picture = Image.fromarray(mask).convert("L")
        mask_picture.putpalette(_MASK_PALETTE)
        pictures = (Image.fromarray(support.image), Image.fromarray(attribution), mask_picture)
        for name, picture in zip(file_names(support.position), pictures, strict=True):
            buffer = io.BytesIO()
            picture.save(buffer, "PNG")
            files[name] = buffer.getvalue()
    return files


def decode(
    read: Callable[[str], bytes], *, position: int, seed: int | None, prompt: str, size: tuple[int, int]
) -> SupportRecord:
    """Turn the three PNG files of a support image back into arrays.

    Args:
        read: Gives the content of a file by its name.
        position: Number of the image.
        seed: Seed that made it, or None.
        prompt: Prompt that made it.
        size: Height and width that the pictures must have; a picture that says otherwise is not decoded.

    Raises:
        ValueError: If a file is no such picture, or is damaged.
    """
    picture, attribution, mask = file_names(position)
    values = _pixels(read(mask), "P", size)
    if values.max() > MARKED_BACKGROUND:
        raise ValueError(f"the mask has the value {values.max()}")
    return SupportRecord(
        position=position,
        seed=seed,
        prompt=prompt,
        image=_pixels(read(picture), "RGB", size),
        attribution=_pixels(read(attribution), "L", size).astype(np.float32) / np.float32(255),
        foreground=values == MARKED_FOREGROUND,
        background=values == MARKED_BACKGROUND,
    )


def _pixels(data: bytes, mode: str, size: tuple[int, int]) -> NDArray[np.uint8]:
    """Decode a PNG of a known mode and size, from a source that may be damaged or hostile."""
    # The header is read by hand, so that nothing is allocated for a picture of another size than we were told.
    head = data[: len(_PNG) + 16]
    if len(head) < len(_PNG) + 16 or not head.startswith(_PNG) or head[12:16] != b"IHDR":
        raise ValueError("it is not a PNG picture")
    width, height = struct.unpack(">II", head[16:24])
    if (height, width) != size:
        raise ValueError(f"the picture has {width}x{height} pixels instead of {size[1]}x{size[0]}")
    try:
        with Image.open(io.BytesIO(data), formats=("PNG",)) as picture:
            if picture.mode != mode:
                raise ValueError(f"the picture has the mode {picture.mode} instead of {mode}")
            return np.array(picture, np.uint8)
    except Exception as error:  # what Pillow raises on damaged files has no common base
        raise ValueError(f"the picture is damaged: {error}") from error


def read_mask(path: Path) -> tuple[NDArray[np.bool_], NDArray[np.bool_]]:
    """Read a mask file back.

    Args:
        path: A `mask_path`.

    Returns:
        Foreground and background, bool (H, W) each.
    """
    with Image.open(path) as picture:
        values = np.asarray(picture)
    return values == MARKED_FOREGROUND, values == MARKED_BACKGROUND


def stage(store: Path, generation: Generation, files: dict[str, bytes]) -> None:
    """Write the files of a class and wait until the disk has them, names included.

    Args:
        store: The store's folder.
        generation: Where to write; must not exist yet.
        files: File name to file content.

    Raises:
        StoreError: If a folder on the way is a link.
        OSError: If the disk refuses; what was written so far stays for the sweep.
    """
    folder = folder_of(store, generation)
    refuse_links(folder.parent.parent, folder.parent)
    folder.mkdir(parents=True)
    for name, data in files.items():
        write_new(folder / name, data)
    for made in (folder, folder.parent, folder.parent.parent, store):
        sync_folder(made)


def copy(store: Path, source: Generation, target: Generation) -> None:
    """Write the files of a class a second time, as they are.

    Args:
        store: The store's folder.
        source: Where they are.
        target: Where to write; what lies there is what a writer that died has left.

    Raises:
        StoreError: If a folder on the way is a link.
        OSError: If the disk refuses.
    """
    folder = folder_of(store, target)
    refuse_links(folder.parent.parent, folder.parent, folder)
    remove(folder)
    stage(
        store, target, {path.name: path.read_bytes() for path in listed(folder_of(store, source)) if _is_own_file(path)}
    )


def orphans(store: Path, alive: Collection[Generation], among: Collection[Generation] | None = None) -> list[Path]:
    """Find generation folders that no class names.

    Args:
        store: The store's folder.
        alive: Generations of all classes, or of those among some.
        among: The only ones to look for; None for all that there are.

    Returns:
        Folders, sorted. Anything that is not a generation of ours by its name, is a link, or holds only files of
        somebody else, is left alone.
    """
    if among is None:
        paths = [path for named in listed(store / FOLDER) for path in listed(named)]
    else:
        paths = sorted(folder_of(store, each) for each in among if not is_link(store / FOLDER / each[0]))
    return [
        path
        for path in paths
        if _GENERATION.fullmatch(path.name) and (path.parent.name, path.name) not in alive and _is_ours(path)
    ]


def _is_ours(folder: Path) -> bool:
    """Whether a generation folder has something of ours to delete: files, or nothing but itself."""
    if is_link(folder) or not folder.is_dir():
        return False
    inside = listed(folder)
    return not inside or any(map(_is_own_file, inside))


def _is_own_file(path: Path) -> bool:
    return _FILE.fullmatch(path.name) is not None and (is_link(path) or not path.is_dir())


def remove(folder: Path) -> None:
    """Delete our files in a generation folder, then the folder and the class's folder when they become empty.

    Raises:
        OSError: If a file cannot be deleted.
    """
    for path in filter(_is_own_file, listed(folder)):
        path.unlink(missing_ok=True)
    with suppress(OSError):  # files of somebody else, or another generation of the same class, live on in there
        folder.rmdir()
        folder.parent.rmdir()
