"""Finding the pictures and labels of a data set on disk, and saying what is missing."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import numpy.typing as npt

from ovseg_cli.errors import LabelError, UsageError
from ovseg_cli.evaluation.datasets.catalogue import BACKGROUND, find_dataset
from ovseg_cli.evaluation.datasets.record import Dataset, Layout
from ovseg_cli.evaluation.splits import is_list_file, read_split
from ovseg_cli.evaluation.truth import GroundTruth, ignored_values
from ovseg_cli.files.discovery import natural_key, walk_files
from ovseg_cli.files.labels import LabelMap, read_label, read_mat, read_red_green, voc_colour
from ovseg_cli.names import listed

__all__ = ["OpenDataset", "open_dataset"]

Ids = npt.NDArray[np.int32]


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
    base, layout, found = _find(dataset, root, dataset.splits[part].folder)
    notes = [layout.note] if layout.note else []
    names, listed_in = _names(dataset, base, layout, part, listing, found, notes)
    files = {_key(layout, stem): found[stem] for stem in names}
    if listing is None:
        _check_count(dataset, part, len(files), listed_in, notes)
    if not files:
        raise LabelError(f"The split {split or part} of {dataset.name} in {base} has no labels.")
    images = _images(base, layout, dataset.splits[part].folder, names, notes)
    left_out = ignored_values(ignore)
    labels, aliases = _labels(dataset, variant, layout)
    truth = GroundTruth(
        folder=base / _at(layout.labels, dataset.splits[part].folder),
        files=files,
        labels=labels,
        source=f"{dataset.name} ({dataset.source})",
        ignore=layout.ignore if left_out is None else left_out,
        aliases=aliases,
        background_words=dataset.background_words,
        loose=True,
        reader=_reader(layout, files, labels, base, dataset.splits[part].folder),
    )
    return OpenDataset(
        dataset=dataset,
        variant=variant,
        split=str(listing or part),
        root=base,
        layout=layout,
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


def _at(pattern: str, folder: str) -> str:
    return pattern.format(split=folder)


def _key(layout: Layout, stem: str) -> str:
    """The key of a picture: its path below the folder of pictures, without the suffix."""
    return stem + str(Path(f"x{layout.image_suffix}").with_suffix(""))[1:]


def _find(dataset: Dataset, root: Path, folder: str) -> tuple[Path, Layout, dict[str, Path]]:
    """The folder that holds the data set, its layout, and the label file of each name in it.

    Raises:
        LabelError: No layout fits.
    """
    looked: dict[str, None] = {}
    for place in dataset.places:
        base = root / place if place else root
        for layout in dataset.layouts:
            labels = base / _at(layout.labels, folder)
            if found := _label_files(layout, labels):
                return base, layout, found
            if base.is_dir():
                looked[f"{(Path(place) / _at(layout.labels, folder)).as_posix()} ({_wanted(layout)})"] = None
    raise LabelError(
        f"There are no labels of {dataset.name} in {root}. Looked for {listed([*looked], most=8, between='; ')}. "
        f"Download {dataset.download}, and name the folder that it is unpacked to with --root."
    )


def _wanted(layout: Layout) -> str:
    return "the file" if layout.form in ("coco", "context") else f"*{layout.suffix}"


def _label_files(layout: Layout, labels: Path) -> dict[str, Path]:
    """The label files by name, without the ending."""
    if layout.form in ("coco", "context"):
        return {"": labels} if labels.is_file() else {}
    if not labels.is_dir():
        return {}
    found = {}
    for path in walk_files(labels):
        if path.name.endswith(layout.suffix) and not path.name.endswith(layout.others or "\0"):
            found[path.relative_to(labels).as_posix().removesuffix(layout.suffix)] = path
    return found


def _names(
    dataset: Dataset,
    base: Path,
    layout: Layout,
    part: str,
    listing: Path | None,
    found: dict[str, Path],
    notes: list[str],
) -> tuple[list[str], str]:
    """The names of the split that have labels, and the list that they are from; `found` may grow."""
    folder = dataset.splits[part].folder
    if layout.form in ("coco", "context"):
        (path,) = found.values()
        found.clear()
        found |= dict.fromkeys(_annotations(layout, path, folder).keys, path)
    listed_in = listing or _list_file(base, layout, folder)
    if listed_in is None:
        if layout.lists is not None:
            notes.append(
                f"there is no list {_at(layout.lists, folder).replace('|', ' or ')}, so all labels in {base} are scored"
            )
        return sorted(found, key=natural_key), ""
    kept, missing = read_split(listed_in, found, without=(layout.suffix, layout.image_suffix))
    if missing and listing is not None:
        raise LabelError(
            f"The list {listing} names {len(missing)} of {len(missing) + len(kept)} pictures that have no label in "
            f"{base / _at(layout.labels, folder)}: {listed(missing)}. Take them out of the list, or add their labels."
        )
    if missing:
        notes.append(
            f"{len(missing)} of the {len(missing) + len(kept)} pictures of {listed_in} have no label: {listed(missing)}"
        )
    return kept, str(listed_in)


def _list_file(base: Path, layout: Layout, folder: str) -> Path | None:
    if layout.lists is None:
        return None
    candidates = (base / _at(pattern, folder) for pattern in layout.lists.split("|"))
    return next((path for path in candidates if path.is_file()), None)


def _check_count(dataset: Dataset, part: str, count: int, listed_in: str, notes: list[str]) -> None:
    expected = dataset.splits[part].pictures
    if count not in expected:
        number = " or ".join(f"{number:,}" for number in expected)
        where = f" (by {listed_in})" if listed_in else ""
        notes.append(
            f"{count:,} labelled pictures{where}, and the split {part} of {dataset.name} has {number}: figures are not "
            "those of the whole split"
        )


def _images(
    base: Path, layout: Layout, folder: str, names: Sequence[str], notes: list[str]
) -> tuple[tuple[str, Path], ...]:
    """The pictures of the names that are there."""
    folders = [base / _at(pattern, folder) for pattern in layout.images.split("|")]
    place = next((path for path in folders if path.is_dir()), None)
    if place is None:
        notes.append(f"there are no pictures, as there is no folder {listed([*map(str, folders)], between=' or ')}")
        return ()
    there = {path.relative_to(place).as_posix() for path in walk_files(place)}
    found = [(name, f"{name}{layout.image_suffix}") for name in names]
    if missing := [picture for _, picture in found if picture not in there]:
        notes.append(f"{len(missing)} of {len(names)} labelled pictures are not in {place}: {listed(missing)}")
    return tuple((_key(layout, name), place / picture) for name, picture in found if picture in there)


def _labels(dataset: Dataset, variant: str, layout: Layout) -> tuple[LabelMap, dict[str, tuple[str, ...]]]:
    """What the ids mean, in the names of a paper, and the other names of its classes."""
    renamed = dict(zip(dataset.classes, dataset.names[variant].classes, strict=True))
    ids = tuple(layout.ids)
    names = tuple(renamed.get(name, name) for name in layout.ids.values())
    colours = tuple(map(voc_colour, ids)) if layout.colours else ()
    return LabelMap(names, ids, colours), dataset.aliases(variant)


def _annotations(layout: Layout, path: Path, folder: str):  # noqa: ANN202
    from ovseg_cli.evaluation.coco import CocoLabels, detail_labels

    return detail_labels(path, folder) if layout.form == "context" else CocoLabels(path)


def _reader(
    layout: Layout, files: dict[str, Path], labels: LabelMap, base: Path, folder: str
) -> Callable[[str], Ids] | None:
    if layout.form == "image":
        # Without VOC's colours a palette is decoration.
        return None if layout.colours else partial(_read, files, read_label)
    if layout.form in ("coco", "context"):
        return _annotations(layout, base / _at(layout.labels, folder), folder).read
    return partial(_read, files, read_mat if layout.form == "mat" else read_red_green)


def _read(files: dict[str, Path], read: Callable[[Path], Ids], key: str) -> Ids:
    return read(files[key])
