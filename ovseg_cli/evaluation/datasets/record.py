"""What is known of a data set, as data."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

from ovseg_cli.names import class_key

__all__ = ["Dataset", "Form", "Layout", "Names", "Split"]

Form = Literal["image", "red-green", "mat", "coco", "context"]
"""How labels are kept: images of ids; images with ids in red and green (ADE20K's full set); Matlab files (Pascal
Context); one COCO file; one file of the detail API (Pascal Context)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Names:
    """The class names of one paper.

    Attributes:
        paper: Whose they are.
        file: The repository and the file that holds them.
        words: Of each class of the data set, in its order, the words that are looked for. The first is the name.
        background_words: What is looked for in place of the background; none where the file says nothing.
        methods: The methods of ovseg that are published with these names.
    """

    paper: str
    file: str
    words: tuple[tuple[str, ...], ...]
    background_words: tuple[str, ...] = ()
    methods: tuple[str, ...] = ()

    @property
    def classes(self) -> tuple[str, ...]:
        """The name of each class."""
        return tuple(words[0] for words in self.words)

    @property
    def synonyms(self) -> dict[str, tuple[str, ...]]:
        """The other words of those classes that have some."""
        return {words[0]: words[1:] for words in self.words if len(words) > 1}


@dataclass(frozen=True, slots=True, kw_only=True)
class Split:
    """A part of a data set.

    Attributes:
        folder: What folders, lists and files call it.
        pictures: How many labelled pictures it has; several numbers where published lists differ.
    """

    folder: str
    pictures: tuple[int, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Layout:
    """One way in which the labels of a data set lie on disk. ``{split}`` stands for a split's folder.

    Attributes:
        title: Whose layout it is.
        labels: The folder of label files below the data set's folder; for "coco" and "context", the file.
        suffix: How their names end.
        images: The folder of the pictures.
        image_suffix: How their names end: what precedes is the same as of the label's name.
        ids: The class of each id: a name of the data set, "background" or "void". Several ids may be one class.
        lists: The file that lists the names of a split; None where all in the folder belong to it.
        others: Endings of files in the same folder that are none of these labels.
        form: How labels are kept.
        colours: Whether ids have VOC's colours, so that colours count where a palette was put into another order.
        ignore: The values that are left out.
        note: What the reader of figures should know of these labels.
    """

    title: str
    labels: str
    images: str
    ids: Mapping[int, str] = field(repr=False)
    suffix: str = ".png"
    image_suffix: str = ".jpg"
    lists: str | None = None
    others: tuple[str, ...] = ()
    form: Form = "image"
    colours: bool = False
    ignore: tuple[int, ...] = (255,)
    note: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Dataset:
    """A data set and the protocol by which it is scored.

    Attributes:
        name: Its name here, as in the methods' published settings.
        title: What it is.
        paper: Who published it.
        source: The repository and the file that classes and ids are from.
        download: What to download, in words.
        background: Whether the background is scored as a class.
        names: The class names by paper. The first, "default", has the data set's own names with words apart.
        splits: Its parts by name; the first is taken where nobody names one.
        layouts: How labels may lie on disk, the likeliest first.
        places: Folders below the given one in which all this may lie.
        background_words: Names that mean the background where a prediction has them.
    """

    name: str
    title: str
    paper: str
    source: str
    download: str
    background: bool
    names: Mapping[str, Names] = field(repr=False)
    splits: Mapping[str, Split] = field(repr=False)
    layouts: tuple[Layout, ...] = field(repr=False)
    places: tuple[str, ...] = ("",)
    background_words: tuple[str, ...] = field(default=(), repr=False)

    @property
    def classes(self) -> tuple[str, ...]:
        """The class names, without the background, in the order of the benchmark."""
        return self.names["default"].classes

    @property
    def ignore(self) -> tuple[int, ...]:
        """The values that are left out of the labels, in the likeliest layout."""
        return self.layouts[0].ignore

    @property
    def reduce_zero_label(self) -> bool:
        """Whether id 0 of the labels is left out, so that ids are one above the places of classes."""
        return self.layouts[0].ids.get(0) == "void"

    def names_of(self, method: str) -> str:
        """Which of `names` a method is published with; "default" where none of them is."""
        return next((key for key, names in self.names.items() if method in names.methods), "default")

    def aliases(self, variant: str) -> dict[str, tuple[str, ...]]:
        """All words of all papers for each class, by its name in one of them."""
        chosen = self.names[variant].classes
        others: dict[str, dict[str, str]] = {name: {} for name in chosen}
        for names in self.names.values():
            for name, words in zip(chosen, names.words, strict=True):
                others[name] |= {class_key(word): word for word in words}
        return {name: tuple(words.values()) for name, words in others.items()}
