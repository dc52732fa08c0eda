"""Lists of the pictures that belong to a split."""

from __future__ import annotations

import os
from collections.abc import Collection, Iterable, Sequence
from pathlib import Path, PurePosixPath

from ovseg_cli.errors import LabelError
from ovseg_cli.files.discovery import without_picture_suffix
from ovseg_cli.files.text import read_text
from ovseg_cli.names import listed
from ovseg_cli.urls import Place

__all__ = ["is_list_file", "missing_labels", "read_split"]


def is_list_file(split: str) -> bool:
    """Whether a split is a file with a list, and not the name of one."""
    return "/" in split or os.sep in split or split.endswith((".txt", ".lst", ".csv")) or os.path.isfile(split)


def read_split(path: Path, names: Collection[str], *, without: Sequence[str] = ()) -> tuple[list[str], list[str]]:
    """The names of a list, as far as they are known.

    One picture a line, with or without suffix and folders; of lines with several columns (a picture and its label),
    the first column that is known counts. Blank lines and comments (``#``) are skipped.

    Args:
        path: A UTF-8 text file.
        names: The names that there are, without suffix.
        without: Endings that pictures or labels have beyond their names.

    Returns:
        The names that are known, in the order of the list, each once; and the lines that name none of them.

    Raises:
        LabelError: The file is missing, no text, or names nothing.
    """
    by_last = _by_last_part(names)
    found: dict[str, None] = {}
    missing: dict[str, None] = {}
    known = frozenset(names)
    for line in read_text(path, "list of pictures", LabelError).split("\n"):
        text = line.strip()
        if not text or text.startswith("#"):
            continue
        forms = [form for column in _columns(text) for form in _forms(column, without)]
        name = next((form for form in forms if form in known), None)
        name = name or next((by_last[part] for form in forms if (part := PurePosixPath(form).name) in by_last), None)
        if name is None:
            missing[text] = None
        else:
            found[name] = None
    if not found and not missing:
        raise LabelError(f"The list {path} names no picture; write one name a line.")
    return list(found), list(missing)


def _columns(text: str) -> list[str]:
    """A line itself, as names may hold blanks, then its columns."""
    return [text, *(column for column in text.replace(",", " ").split() if column != text)]


def _forms(column: str, without: Iterable[str]) -> list[str]:
    """What a name may be without its endings, the longest first."""
    name = column.replace("\\", "/").lstrip("/").removeprefix("./")
    return [
        name,
        *(name.removesuffix(ending) for ending in without if name.endswith(ending)),
        str(without_picture_suffix(PurePosixPath(name))),
    ]


def missing_labels(path: Path, kept: Sequence[str], missing: Sequence[str], folder: Place) -> LabelError:
    """The error about a list that names pictures without labels."""
    count = len(missing) + len(kept)
    return LabelError(
        f"The list {path} names {count} pictures, and {len(missing)} of them have no label in {folder}: "
        f"{listed(missing)}. Take them out of the list, or add their labels."
    )


def _by_last_part(names: Iterable[str]) -> dict[str, str]:
    """Names by their last part, where that is the only one."""
    found: dict[str, str | None] = {}
    for name in names:
        part = PurePosixPath(name).name
        found[part] = None if part in found else name
    return {part: name for part, name in found.items() if name is not None}
