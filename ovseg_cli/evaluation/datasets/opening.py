"""Finding the pictures and labels of a data set on disk, and saying what is missing."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path, PurePosixPath

import numpy as np
import numpy.typing as npt

from ovseg_cli.errors import LabelError, UsageError
from ovseg_cli.evaluation.coco import CocoLabels, detail_labels
from ovseg_cli.evaluation.datasets.catalogue import BACKGROUND, find_dataset
from ovseg_cli.evaluation.datasets.record import Dataset, Layout
from ovseg_cli.evaluation.splits import is_list_file, missing_labels, read_split
from ovseg_cli.evaluation.truth import GroundTruth, ignored_values
from ovseg_cli.files.discovery import walk_files
from ovseg_cli.files.labels import LabelMap, read_compact_label, read_mat, read_red_green, voc_colour
from ovseg_cli.names import listed

__all__ = ["OpenDataset", "open_dataset"]


@dataclass(frozen=True, slots=True, kw_only=True)
class OpenDataset:
    """A data set that was found on disk.

    Attributes:
        dataset: What it is.
        variant: Whose names its classes have: a key of `Dataset.names`.
        split: What the split is called; the path of a list where one was given.
        root: The folder that holds it.
        layout: How its labels lie there.
        images: (key, path) of each labelled picture that is there. Label maps that `segment` makes of the folder of
            pictures have these keys.
        truth: The ground truth of all pictures of the split that have labels.
        notes: What the reader of figures should know: counts that differ, what is missing.
    """

    dataset: Dataset
    variant: str
    split: str
    root: Path
    layout: Layout
    images: tuple[tuple[str, Path], ...]
    truth: GroundTruth
    notes: tuple[str, ...]

    @property
    def classes(self) -> tuple[str, ...]:
        """The names of the classes, without the background, in the order of the benchmark."""
        return self.dataset.names[self.variant].classes

    @property
    def synonyms(self) -> dict[str, tuple[str, ...]]:
        """Other words that are looked for with a class."""
        return self.dataset.names[self.variant].synonyms

    @property
    def background(self) -> bool:
        """Whether the background is scored as a class."""
        return self.dataset.background

    @property
    def ignore(self) -> tuple[int, ...]:
        """The values of labels that are left out."""
        return self.truth.ignore

    @property
    def background_words(self) -> tuple[str, ...]:
        """Words that are looked for in place of the background; a prediction that has one means the background."""
        return self.dataset.background_words or self.dataset.names[self.variant].background_words

    @property
    def indices(self) -> LabelMap:
        """What the values of published label maps mean: the classes in order, behind the background if it is scored."""
        words = self.dataset.background_words
        names = (*self.classes, *words) if words or not self.background else (BACKGROUND, *self.classes)
        return LabelMap(names, tuple(range(len(names))))


def open_dataset(
    name: str, root: Path, split: str | None = None, *, ignore: int | Sequence[int] | None = None
) -> OpenDataset:
    """Find a data set on disk.

    Args:
        name: A name of the catalogue, with whose class names behind a colon: ``voc21``, ``voc21:sclip``.
        root: The folder that it was unpacked to, or one above as it is usual (``VOCdevkit``).
        split: One of its splits, or a file that lists names of pictures; None for its first split.
        ignore: The values of labels that are left out, in place of its own; -1 for none.

    Returns:
        The data set.

    Raises:
        UsageError: There is no such data set or split.
        LabelError: It is not there, or a list names pictures without labels.
    """
    dataset, variant = find_dataset(name)
    if not os.path.isdir(root):
        what = "is not a folder" if os.path.exists(root) else "does not exist"
        raise LabelError(f"The folder {root} of the data set {dataset.name} {what}. Name it with --root.")
    listing = Path(split) if split is not None and is_list_file(split) else None
    part = next(iter(dataset.splits)) if split is None or listing is not None else _split(dataset, split)
    place = _find(dataset, root, dataset.splits[part].folder)
    notes = [place.layout.note] if place.layout.note else []
    stems = _stems(place, listing, notes)
    if not stems:
        raise LabelError(f"The split {split or part} of {dataset.name} in {place.base} has no labels.")
    if listing is None and len(stems) not in (expected := dataset.splits[part].pictures):
        notes.append(
            f"{len(stems):,} labelled pictures, and the split {part} of {dataset.name} has "
            f"{' or '.join(f'{number:,}' for number in expected)}: figures are not those of the whole split"
        )
    labels = _labelmap(dataset, variant, place.layout)
    left_out = ignored_values(ignore)
    files = {_key(place.layout, stem): place.found[stem] for stem in stems}
    truth = GroundTruth(
        folder=place.labels,
        files=files,
        labels=labels,
        source=f"{dataset.name} ({dataset.source})",
        ignore=place.layout.ignore if left_out is None else left_out,
        aliases=dataset.aliases(variant),
        background_words=dataset.background_words,
        loose=True,
        reader=_reader(place.layout, files, place.annotations),
        notes=tuple(notes),
        listed=True,
    )
    images = _images(place, stems, notes)
    return OpenDataset(
        dataset=dataset,
        variant=variant,
        split=str(listing or part),
        root=place.base,
        layout=place.layout,
        images=images,
        truth=truth,
        notes=tuple(notes),
    )


def _split(dataset: Dataset, name: str) -> str:
    """The name of a split, which may be given as its folder's."""
    found = next((key for key, split in dataset.splits.items() if name in (key, split.folder)), None)
    if found is None:
        raise UsageError(
            f"{dataset.name} has no split {name!r}; it has {', '.join(dataset.splits)}. A file that lists pictures is "
            "named with its folder or its suffix, such as ./val.txt."
        )
    return found


def _key(layout: Layout, stem: str) -> str:
    """The key of a picture: its path below the folder of pictures, without the suffix."""
    return stem + str(Path(f"x{layout.image_suffix}").with_suffix(""))[1:]


@dataclass(frozen=True, slots=True)
class _Place:
    """Where a split of a data set lies: the folder that holds all, and what its layout says in it.

    Attributes:
        base: The folder.
        layout: How the labels lie in it.
        folder: What folders and lists call the split.
        found: The file of each label by its name, without the ending.
        annotations: What reads them where one file holds all.
    """

    base: Path
    layout: Layout
    folder: str
    found: Mapping[str, Path]
    annotations: CocoLabels | None = None

    @property
    def labels(self) -> Path:
        """The folder of the labels, or their file."""
        return self.base / self.at(self.layout.labels)

    def at(self, pattern: str) -> str:
        """A path of the layout."""
        return pattern.format(split=self.folder)


def _find(dataset: Dataset, root: Path, folder: str) -> _Place:
    """Where a split lies.

    Raises:
        LabelError: No layout fits.
    """
    looked: dict[str, None] = {}
    for place in dataset.places:
        base = root / place if place else root
        for layout in dataset.layouts:
            labels = layout.labels.format(split=folder)
            if found := _labels_in(_Place(base, layout, folder, {})):
                return found
            if base.is_dir():
                ending = "" if layout.form in ("coco", "context") else f"/**/*{layout.suffix}"
                looked[f"{PurePosixPath(place) / labels}{ending}"] = None
    raise LabelError(
        f"There are no labels of {dataset.name} in {root}: looked for {listed([*looked], most=6)}. "
        f"Download {dataset.download}, and name the folder that it is unpacked to with --root."
    )


def _labels_in(place: _Place) -> _Place | None:
    """The place with its labels; None where it has none."""
    layout, labels = place.layout, place.labels
    if layout.form in ("coco", "context"):
        if not labels.is_file():
            return None
        annotations = detail_labels(labels, place.folder) if layout.form == "context" else CocoLabels(labels)
        return replace(place, found=dict.fromkeys(annotations.keys, labels), annotations=annotations)
    if not labels.is_dir():
        return None
    found = {
        path.relative_to(labels).as_posix().removesuffix(layout.suffix): path
        for path in walk_files(labels)
        if path.name.endswith(layout.suffix) and not path.name.endswith(layout.others)
    }
    return replace(place, found=found) if found else None


def _stems(place: _Place, listing: Path | None, notes: list[str]) -> list[str]:
    """The names of the split's pictures that have labels, without endings."""
    layout = place.layout
    candidates = [place.base / place.at(pattern) for pattern in (layout.lists or "").split("|") if pattern]
    listed_in = listing or next((path for path in candidates if path.is_file()), None)
    if listed_in is None:
        if candidates:
            there_is_none = " or ".join(map(str, candidates))
            notes.append(f"there is no list {there_is_none}, so all labels in {place.labels} are scored")
        return list(place.found)
    kept, missing = read_split(listed_in, place.found, without=(layout.suffix, layout.image_suffix))
    if missing and listing is not None:
        raise missing_labels(listing, kept, missing, place.labels)
    if missing:
        count = len(missing) + len(kept)
        notes.append(f"{len(missing)} of the {count} pictures of {listed_in} have no label: {listed(missing)}")
    return kept


def _images(place: _Place, stems: Sequence[str], notes: list[str]) -> tuple[tuple[str, Path], ...]:
    """The pictures of the names that are there."""
    layout = place.layout
    folders = [place.base / place.at(pattern) for pattern in layout.images.split("|")]
    folder = next((path for path in folders if path.is_dir()), None)
    if folder is None:
        notes.append(f"there are no pictures, as there is no folder {' or '.join(map(str, folders))}")
        return ()
    there = {path.relative_to(folder).as_posix() for path in walk_files(folder)}
    found = [(_key(layout, stem), f"{stem}{layout.image_suffix}") for stem in stems]
    if missing := [picture for _, picture in found if picture not in there]:
        notes.append(f"{len(missing)} of {len(stems)} labelled pictures are not in {folder}: {listed(missing)}")
    return tuple((key, folder / picture) for key, picture in found if picture in there)


def _labelmap(dataset: Dataset, variant: str, layout: Layout) -> LabelMap:
    """What the ids mean, in the names of a paper."""
    renamed = dict(zip(dataset.classes, dataset.names[variant].classes, strict=True))
    ids = tuple(layout.ids)
    names = tuple(renamed.get(name, name) for name in layout.ids.values())
    return LabelMap(names, ids, tuple(map(voc_colour, ids)) if layout.colours else ())


def _reader(
    layout: Layout, files: Mapping[str, Path], annotations: CocoLabels | None
) -> Callable[[str], npt.NDArray[np.integer]] | None:
    """What reads the labels of a key; None where they are images whose colours count."""
    if annotations is not None:
        return annotations.read
    if layout.form == "mat":
        return partial(_read, files, read_mat)
    if layout.form == "red-green":
        return partial(_read_known, files, frozenset(layout.ids), layout.ignore[0])
    return None if layout.colours else partial(_read, files, read_compact_label)  # another palette is decoration


def _read_known(files: Mapping[str, Path], known: frozenset[int], left_out: int, key: str) -> npt.NDArray[np.integer]:
    """The labels of ADE20K's full set, where classes beyond those that are scored are left out."""
    ids = read_red_green(files[key])
    return np.where(np.isin(ids, list(known)), ids, left_out)


def _read(
    files: Mapping[str, Path], read: Callable[[Path], npt.NDArray[np.integer]], key: str
) -> npt.NDArray[np.integer]:
    return read(files[key])
