"""What is exported: label maps on the disk, what their ids mean, and the pictures that they belong to."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from ovseg_cli.errors import LabelError, NoInputError, UsageError
from ovseg_cli.evaluation.pairing import find_labelmap, find_labels, label_folder, partners
from ovseg_cli.files.discovery import discover
from ovseg_cli.files.labels import IGNORE, LabelMap, is_void, read_compact_label, read_labelmap
from ovseg_cli.files.layout import MASK_FOLDER
from ovseg_cli.names import listed
from ovseg_cli.runs.journal import Entry, read_journal
from ovseg_cli.runs.manifest import read_manifest
from ovseg_cli.urls import Place, Url, absolute, folder_of_all, place, way

__all__ = ["Ids", "Picture", "Source", "open_source"]

Ids = npt.NDArray[np.integer]


@dataclass(frozen=True, slots=True)
class Picture:
    """One label map.

    Attributes:
        key: Its name: a path with ``/``, without suffix, as the run has it.
        label: The label map.
        path: The picture; None where nobody knows it.
        name: What other tools are to call the picture: its path below the folder that holds all of them, with ``/``.
            Where the picture is not known, that of the label map.
        stamp: Changes with the label map.
        probabilities: The file of its scores, if the run has kept them.
    """

    key: str
    label: Place
    path: Place | None
    name: str
    stamp: str
    probabilities: Place | None = None


@dataclass(frozen=True, slots=True)
class Source:
    """Label maps with their meaning.

    Attributes:
        folder: The folder that was named, absolute.
        labels: What the ids mean.
        pictures: In the order of their keys.
        root: The folder that holds all pictures; None where they are not known.
        method: What made the label maps, where that is known.
    """

    folder: Place
    labels: LabelMap
    pictures: tuple[Picture, ...]
    root: Place | None = None
    method: str | None = None

    @property
    def classes(self) -> tuple[tuple[int, str], ...]:
        """Id and name of what is neither the background nor left out."""
        background = self.background
        return tuple((i, name) for i, name, _ in self.labels if i != background and not is_void(name))

    @property
    def background(self) -> int | None:
        """The id of the background; None where each pixel has a class."""
        found = self.labels.background_id
        return 0 if found is None and self.labels.name_of(0) is None else found

    def read(self, picture: Picture) -> Ids:
        """The label map of a picture.

        Returns:
            (H, W) of integers: ids of `labels`, the background's, and `IGNORE` for what is left out.

        Raises:
            LabelError: It holds an id that has no name.
            ImageError: It is missing or damaged.
        """
        ids = read_compact_label(picture.label, self.labels)
        known = {*self.labels.ids, *([] if self.background is None else [self.background])}
        unknown = [value for value in np.unique(ids).tolist() if value not in known and value != IGNORE]
        if unknown:
            raise LabelError(
                f"{picture.label} holds the id {unknown[0]}, which the label map does not name. Add it to labelmap.txt."
            )
        return ids

    def digest(self, *more: object) -> str:
        """Changes with what is exported, and with `more`."""
        about = [[*self.labels], [(picture.key, picture.name, picture.stamp) for picture in self.pictures], more]
        return hashlib.sha256(json.dumps(about, default=str).encode("utf-8", "surrogatepass")).hexdigest()


def open_source(folder: Place, *, images: Place | None = None) -> Source:
    """The label maps of a folder.

    Args:
        folder: An output folder of `segment`, or a folder of label maps with a ``labelmap.txt`` in it or beside it.
        images: Where the pictures are, in a tree like that of the label maps; None for what the run's journal says.

    Raises:
        LabelError: There is no such folder, or nothing says what its ids mean.
        NoInputError: There is no label map.
        OutputError: The run's journal cannot be read.
    """
    folder = absolute(folder)
    masks = label_folder(folder)
    found = find_labelmap(masks)
    if found is None:
        raise LabelError(f"There is no labelmap.txt in {folder} or beside it, so nothing says what the ids mean.")
    labels = read_labelmap(found)
    entries = read_journal(folder) if masks != folder else {}
    done = [entry for entry in entries.values() if entry.status == "done" and entry.output is not None]
    manifest = read_manifest(folder) if done else None
    named = _of_run(folder, done) if done else _of_folder(masks)
    if not named:
        raise NoInputError(f"{folder} holds no label map yet; run ovseg segment first.")
    if images is not None:
        named = _with_images(named, images)
    root = _root([one.path for one in named if one.path is not None], images)
    pictures = [
        Picture(one.key, one.label, one.path, _name(one, masks, root), one.stamp, one.probabilities) for one in named
    ]
    return Source(
        folder=folder,
        labels=labels,
        pictures=tuple(sorted(pictures, key=lambda picture: picture.key)),
        root=root,
        method=None if manifest is None else manifest.method.get("used"),
    )


class _Named(NamedTuple):
    """A label map before its picture has a name; the fields are those of `Picture`."""

    key: str
    label: Place
    path: Place | None
    stamp: str
    probabilities: Place | None


def _of_run(folder: Place, entries: Iterable[Entry]) -> list[_Named]:
    """What a run's journal names."""
    named: list[_Named] = []
    for entry in entries:
        if entry.output is None:
            continue
        key = str(PurePosixPath(entry.output).relative_to(MASK_FOLDER).with_suffix("")) if _inside(entry.output) else ""
        if key:
            scores = None if entry.probabilities is None else folder / entry.probabilities
            picture = _known(place(entry.path))
            stamp = f"{entry.nbytes} {entry.digest} {entry.probabilities}"
            named.append(_Named(key, folder / entry.output, picture, stamp, scores))
    return named


def _known(picture: Place) -> Place | None:
    """A picture, if it is there; whether one at a URL is shows when it is read."""
    return picture if isinstance(picture, Url) or os.path.isfile(picture) else None


def _inside(output: str) -> bool:
    """Whether a journal names a label map where label maps are."""
    path = PurePosixPath(output)
    return path.is_relative_to(MASK_FOLDER) and ".." not in path.parts


def _of_folder(masks: Place) -> list[_Named]:
    """What a folder of label maps holds."""
    named: list[_Named] = []
    for key, label in find_labels(masks).items():
        named.append(_Named(key, label, None, _stamp(label), None))
    return named


def _stamp(label: Place) -> str:
    """What changes with a file."""
    if isinstance(label, Url):
        return str(label.facts())
    status = label.stat()
    return f"{status.st_size} {status.st_mtime_ns}"


def _with_images(named: Sequence[_Named], folder: Place) -> list[_Named]:
    """The same, with the pictures of a folder.

    Raises:
        UsageError: One of them is not there.
        NoInputError: There is no picture.
    """
    there = {str(image.key): image.path for image in discover([folder])}
    pairs = partners([one.key for one in named], there)
    if missing := [one.key for one in named if one.key not in pairs]:
        raise UsageError(f"{folder} has no picture for {listed(missing, most=3)}. Name the folder of the pictures.")
    return [one._replace(path=there[pairs[one.key]]) for one in named]


def _root(paths: Sequence[Place], images: Place | None) -> Place | None:
    """The deepest folder that holds all pictures."""
    return absolute(images) if images is not None else folder_of_all([absolute(path).parent for path in paths])


def _name(one: _Named, masks: Place, root: Place | None) -> str:
    """See `Picture.name`."""
    if one.path is None or root is None:
        return way(masks, one.label)
    return way(root, absolute(one.path))
