"""Finding label folders, their label maps, and which prediction belongs to which ground truth."""

from __future__ import annotations

import unicodedata
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import overload

from ovseg_cli.errors import LabelError
from ovseg_cli.files.discovery import walk_files, without_picture_suffix
from ovseg_cli.files.labels import LABELMAP_NAME
from ovseg_cli.files.layout import MASK_FOLDER
from ovseg_cli.names import listed
from ovseg_cli.urls import Place, absolute, is_file, is_folder, is_there, listed_below, way

__all__ = ["Pairs", "find_labelmap", "find_labels", "label_folder", "pair", "partners"]

LABEL_SUFFIXES = frozenset({".png", ".bmp", ".tif", ".tiff", ".gif", ".pgm", ".webp"})
"""Suffixes of label images. JPEG is not among them: its values are not exact."""


@dataclass(frozen=True, slots=True)
class Pairs:
    """What belongs together.

    Attributes:
        matched: (key, ground truth, prediction), in natural order.
        missing: Keys that have ground truth only.
        extra: Keys that have a prediction only.
    """

    matched: tuple[tuple[str, Place, Place], ...]
    missing: tuple[str, ...]
    extra: tuple[str, ...]


@overload
def label_folder(path: Path) -> Path: ...
@overload
def label_folder(path: Place) -> Place: ...
def label_folder(path: Place) -> Place:
    """The folder that holds the label images of `path`.

    An output folder of ours and a VOC or CVAT export hold them in ``SegmentationClass``; any other folder
    is taken as it is.

    Raises:
        LabelError: There is no such folder.
    """
    if not is_folder(path):
        what = "is not a folder" if is_there(path) else "does not exist"
        raise LabelError(f"The label folder {path} {what}.")
    masks = path / MASK_FOLDER
    return masks if is_folder(masks) else path


@overload
def find_labelmap(path: Path) -> Path | None: ...
@overload
def find_labelmap(path: Place) -> Place | None: ...
def find_labelmap(path: Place) -> Place | None:
    """The ``labelmap.txt`` in the folder `path`, else in its parent; None when neither holds one."""
    folder = absolute(path)
    candidates = (folder / LABELMAP_NAME, folder.parent / LABELMAP_NAME)
    return next((file for file in candidates if is_file(file)), None)


@overload
def find_labels(folder: Path, ending: str = "") -> dict[str, Path]: ...
@overload
def find_labels(folder: Place, ending: str = "") -> dict[str, Place]: ...
def find_labels(folder: Place, ending: str = "") -> dict[str, Path] | dict[str, Place]:
    """The label images of a folder and its subfolders by key (relative path without suffix).

    Hidden files and folders are passed over.

    Args:
        folder: The folder.
        ending: How the names of label images end, with or without the suffix; the keys are without it. Other files are
            passed over.

    Raises:
        LabelError: Two files have the same key, or there is no label image.
    """
    found: dict[str, Place] = {}
    others: list[Place] = []
    for path in walk_files(_listed(folder)):
        key = _key_of(Path(way(folder, path)), ending)
        if key is None:
            others.append(path)
            continue
        if key in found:
            raise LabelError(f"{found[key]} and {path} both label the image {key!r}; remove one of them.")
        found[key] = path
    if not found:
        raise LabelError(f"No label image in {folder} {_why_none(others, ending)}")
    return found


def _listed(folder: Place) -> Place:
    try:
        return listed_below(folder)
    except OSError as error:
        raise LabelError(f"The label folder {folder} cannot be read: {error.strerror}.") from error


def _key_of(path: Path, ending: str) -> str | None:
    """The key of a label image by its path below the folder; None of what is none."""
    if path.suffix.lower() not in LABEL_SUFFIXES:
        return None
    name = path.as_posix()
    if name.endswith(ending):
        return (
            name.removesuffix(ending)
            if Path(f"x{ending}").suffix
            else path.with_suffix("").as_posix().removesuffix(ending)
        )
    stem = path.with_suffix("").as_posix()
    return stem.removesuffix(ending) if stem.endswith(ending) else None


def _why_none(others: Sequence[Place], ending: str) -> str:
    """Why a folder has no label image, for the message, and what to do."""
    names = [path.name for path in others]
    suffixes = ", ".join(sorted(LABEL_SUFFIXES))
    jpegs = [name for name in names if name.lower().endswith((".jpg", ".jpeg"))]
    annotations = [path for path in others if path.suffix.lower() == ".json"]
    if ending and (labels := [path.name for path in others if path.suffix.lower() in LABEL_SUFFIXES]):
        return f"has a name that ends in {ending!r} (there are {listed(labels, most=3)}): give the ending of yours."
    if annotations:
        names = [path.as_posix() for path in annotations]
        return (
            f"(looked for {suffixes}, in subfolders too), but {listed(names, most=3)}: a file of COCO annotations is "
            "named itself (--gt FILE.json), and shapes of LabelMe are exported as masks or COCO first."
        )
    if any(path.suffix.lower() == ".xml" for path in others):
        return (
            f"(looked for {suffixes}, in subfolders too), but XML, as CVAT, LabelMe and VOC write shapes: export masks "
            "(in CVAT 'Segmentation mask') or COCO instead."
        )
    if jpegs:
        return (
            f"(looked for {suffixes}, in subfolders too), but {len(jpegs)} JPEG(s) ({listed(jpegs, most=3)}): their "
            "values are not exact, so they cannot be labels. If these are photographs, name the folder of the labels; "
            "if they are the labels, export them again as PNG."
        )
    return f"(looked for {suffixes}, in subfolders too)."


def partners(wanted: Iterable[str], there: Iterable[str], *, by_last_part: bool = False) -> dict[str, str]:
    """Which key belongs to which, for those that belong together beyond doubt.

    The same key comes first; then one that differs in its Unicode form only (macOS takes letters and their accents
    apart, others do not); then one that differs by the suffix of a picture: labels ``A`` and ``a`` for the pictures
    ``A.jpg`` and ``a.jpg``, whose label maps keep their suffix, as they would be one file on some systems.

    Args:
        wanted: Keys of one side.
        there: Keys of the other.
        by_last_part: Whether the folders may differ, in the end: the last parts of keys tell the pictures apart.

    Returns:
        Of each wanted key that has a partner, the partner. No key has two.
    """
    found: dict[str, str] = {}
    left, right = list(wanted), list(there)
    forms: list[Callable[[str], str]] = [str, _composed, _bare]
    for form in [*forms, _last_part] if by_last_part else forms:
        theirs, ours = _by_form(right, form), _by_form(left, form)
        new = {ours[same][0]: theirs[same][0] for same in ours if len(ours[same]) == len(theirs.get(same, ())) == 1}
        found |= new
        taken = set(new.values())
        left, right = [key for key in left if key not in new], [key for key in right if key not in taken]
    return found


def _by_form(keys: Iterable[str], form: Callable[[str], str]) -> dict[str, list[str]]:
    groups: dict[str, list[str]] = {}
    for key in keys:
        groups.setdefault(form(key), []).append(key)
    return groups


def _composed(key: str) -> str:
    return unicodedata.normalize("NFC", key)


def _bare(key: str) -> str:
    return _composed(str(without_picture_suffix(PurePosixPath(key))))


def _last_part(key: str) -> str:
    return PurePosixPath(_bare(key)).name


def pair(gt: Mapping[str, Place], prediction: Mapping[str, Place], *, by_last_part: bool = False) -> Pairs:
    """Match ground truth and predictions by key (see `partners`).

    Raises:
        LabelError: Not one key has a partner.
    """
    belonging = partners(gt, prediction, by_last_part=by_last_part)
    paired = set(belonging.values())
    matched = tuple((key, gt[key], prediction[belonging[key]]) for key in gt if key in belonging)
    if not matched:
        raise LabelError(
            f"No prediction has the name of a ground-truth image: labels are called {_examples(gt)}, "
            f"predictions {_examples(prediction)}. Both folders must mirror the folder of the images."
        )
    return Pairs(
        matched=matched,
        missing=tuple(key for key in gt if key not in belonging),
        extra=tuple(key for key in prediction if key not in paired),
    )


def _examples(keys: Mapping[str, Place]) -> str:
    return listed([repr(key) for key in keys], most=3)
