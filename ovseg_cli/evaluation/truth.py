"""Ground truth: label images or other annotations by key, and what their ids mean."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path

import numpy as np
import numpy.typing as npt

from ovseg_cli.errors import LabelError
from ovseg_cli.evaluation.pairing import Pairs, find_labelmap, find_labels, label_folder, pair
from ovseg_cli.evaluation.splits import missing_labels, read_split
from ovseg_cli.files.labels import (
    IGNORE,
    LABELMAP_NAME,
    LabelMap,
    is_colour_label,
    is_void,
    read_compact_label,
    read_labelmap,
)
from ovseg_cli.names import class_key, listed_names
from ovseg_cli.urls import Place

__all__ = ["GroundTruth", "ignored_values", "only_listed", "read_ground_truth"]

Ids = npt.NDArray[np.integer]


@dataclass(frozen=True)
class GroundTruth:
    """The true labels of pictures, as far as they are known without opening them.

    Attributes:
        folder: Where they lie; a folder, or a file that holds all of them.
        files: Of each picture's key, the file that a message about it names.
        labels: The names of their ids.
        source: Where these come from.
        ignore: The values that are left out; none for none.
        aliases: Other names of the classes of `labels`, by the name there.
        background_words: Names that mean the background where a prediction has them.
        loose: Whether the folders of keys may differ, as long as the last parts tell the pictures apart.
        reader: What reads the ids of a key; None for label images.
        notes: What the reader of figures should know of these labels.
        listed: Whether a list says which pictures count, so that predictions of others are no oddity.
    """

    folder: Place
    files: Mapping[str, Place]
    labels: LabelMap
    source: str
    ignore: tuple[int, ...]
    aliases: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    background_words: tuple[str, ...] = ()
    loose: bool = False
    reader: Callable[[str], Ids] | None = None
    notes: tuple[str, ...] = ()
    listed: bool = False

    @property
    def keys(self) -> tuple[str, ...]:
        """The pictures that have labels, in order."""
        return tuple(self.files)

    def read(self, key: str) -> Ids:
        """The ids of a picture.

        Args:
            key: One of `keys`.

        Returns:
            `(H, W)` integers, each an id of `labels` or one of `ignore`, or a mistake of the labels.

        Raises:
            LabelError: They cannot be read as labels.
            ImageError: The file is missing or damaged.
        """
        return read_compact_label(self.files[key], self.labels) if self.reader is None else self.reader(key)

    def pair(self, prediction: Mapping[str, Place]) -> Pairs:
        """Match the pictures with predictions by key.

        Raises:
            LabelError: Not one has a partner.
        """
        return pair(self.files, prediction, by_last_part=self.loose)

    @cached_property
    def _meanings(self) -> dict[str, tuple[str, ...]]:
        """The names of `labels` that a name may stand for: itself, or those that have it as another name."""
        own = {class_key(name): name for name in self.labels.names}
        others: dict[str, dict[str, None]] = {}
        for name, words in self.aliases.items():
            for word in words:
                others.setdefault(class_key(word), {})[name] = None
        return {key: tuple(names) for key, names in others.items()} | {key: (name,) for key, name in own.items()}

    def meaning(self, name: str) -> str | None:
        """The name of `labels` that a name stands for; None where there is none, or it may stand for several."""
        found = self._meanings.get(class_key(name), ())
        return found[0] if len(found) == 1 else None

    def also_called(self, synonyms: Mapping[str, Sequence[str]]) -> GroundTruth:
        """The same, where a name of a prediction stands for a class here that is one of its synonyms.

        Args:
            synonyms: Of names of the prediction, the other words that were looked for.
        """
        aliases = {name: [*words] for name, words in self.aliases.items()}
        for name, words in synonyms.items():
            if self.meaning(name) is None:
                meant = {meaning for word in words if (meaning := self.meaning(word)) is not None}
                if len(meant) == 1:
                    aliases.setdefault(meant.pop(), []).append(name)
        return replace(self, aliases={name: tuple(words) for name, words in aliases.items()})

    def ids_of(self, name: str) -> tuple[int, ...]:
        """The ids of a class, under this or another of its names."""
        meaning = self.meaning(name)
        return () if meaning is None else self.labels.ids_of(meaning)

    def means_background(self, name: str) -> bool:
        """Whether a name in a prediction is one of `background_words`."""
        return class_key(name) in self._background_keys

    @cached_property
    def _background_keys(self) -> frozenset[str]:
        return frozenset(map(class_key, self.background_words))

    def check_classes(self, names: Sequence[str]) -> None:
        """Refuse classes of which the labels can hold none.

        Raises:
            LabelError: The label map names none of them.
        """
        if names and not any(self.ids_of(name) for name in names):
            which = "given label map" if self.source == "given" else f"label map {self.source}"
            raise LabelError(
                f"The {which} names none of the classes to score ({listed_names(names)}); it names "
                f"{listed_names(self.labels.names, most=10)}. Check that it is the map of these labels, or ask for "
                "classes that it names."
            )


def ignored_values(ignore: int | Sequence[int] | None) -> tuple[int, ...] | None:
    """The values that are left out, of what was asked for: -1 is none, None is whatever is usual."""
    if ignore is None:
        return None
    values = (ignore,) if isinstance(ignore, int) else tuple(ignore)
    return tuple(dict.fromkeys(value for value in values if value >= 0))


def read_ground_truth(
    gt: Place,
    labels: LabelMap | None = None,
    *,
    ignore: int | Sequence[int] | None = None,
    source: str = "given",
    ending: str = "",
    split: Path | None = None,
) -> GroundTruth:
    """Find the labels of a folder and what names their ids.

    Args:
        gt: A folder of label images, or one that holds them in ``SegmentationClass``.
        labels: The names of the ids; None reads the ``labelmap.txt`` in or above the folder.
        ignore: The value or values that are left out; None for `IGNORE`, unless the label map makes a class of it.
        source: Where `labels` come from.
        ending: How the names of label images end beyond the names of pictures (see `find_labels`).
        split: A file that lists the pictures that count; None for all.

    Raises:
        LabelError: A folder or label map is missing or contradictory, there is no label image, or the list names
            pictures without one.
    """
    folder = label_folder(gt)
    files = find_labels(folder, ending)  # before their names: without a label image, no label map would help
    files = files if split is None else only_listed(files, split, folder)
    if labels is None:
        labels, source = _labelmap_beside(folder, next(iter(files.values())))
    left_out = ignored_values(ignore)
    if left_out is None:
        _check_default_ignore(labels)
        left_out = (IGNORE,)
    aliases = _listed_synonyms(labels.names)
    return GroundTruth(folder, files, labels, source, left_out, aliases=aliases, listed=split is not None)


def only_listed(files: Mapping[str, Place], split: Path, folder: Place) -> dict[str, Place]:
    """The files of the pictures that a list names, in its order.

    Raises:
        LabelError: It names pictures that have no file.
    """
    kept, missing = read_split(split, files)
    if missing:
        raise missing_labels(split, kept, missing, folder)
    return {key: files[key] for key in kept}


def _listed_synonyms(names: Iterable[str]) -> dict[str, tuple[str, ...]]:
    """The words of names that list several, as those of ADE20K do: "road, route"."""
    words = {name: tuple(word.strip() for word in name.replace(";", ",").split(",")) for name in names}
    return {name: parts for name, parts in words.items() if len(parts) > 1}


def _labelmap_beside(folder: Place, example: Place) -> tuple[LabelMap, str]:
    """The label map of a folder and where it lies; `example` is one of its labels, for the advice without one."""
    path = find_labelmap(folder)
    if path is None and is_colour_label(example):
        raise LabelError(
            f"The labels in {folder} are RGB images ({example.name}), and nothing says which colour is which class: "
            f"put a {LABELMAP_NAME} into it or into its parent, or give one with --label-map FILE, with the colour of "
            "each class (lines such as cat:64,0,0::)."
        )
    if path is None:
        raise LabelError(
            f"Nothing names the label ids in {folder}: put a {LABELMAP_NAME} into it or into its parent, or give "
            "one with --label-map FILE (one line per id, such as cat:64,0,0:: or 1: cat)."
        )
    return read_labelmap(path), str(path)


def _check_default_ignore(labels: LabelMap) -> None:
    """Refuse a map in which the value that is left out unasked is an ordinary class: one of the two is a mistake."""
    name = labels.name_of(IGNORE)
    if name is not None and not is_void(name):
        raise LabelError(
            f"The label map calls id {IGNORE} {name!r}, but pixels of {IGNORE} are left out by default: say what you "
            f"want with --ignore {IGNORE} (leave them out), or --ignore -1 (all count)."
        )
