"""Class files: what to look for, one class per line, in the form that dense CLIP methods are published with.

::

    # comment
    background; sky; wall; tree
    ship; boat
    person; person in shirt; person in jeans
    sofa

The first word of a line is the class, the others are synonyms. Words are separated by semicolons (as ProxyCLIP has
it); in a file without any semicolon, by commas (as SCLIP has it). Of several lines with the same class (the 847 classes
of ADE20K have some), the first counts. A line whose first word is "background" lists what
is none of the classes; alone, as in the published files of Pascal Context, it stands for that one word.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from ovseg_cli.errors import ClassNameError, UsageError
from ovseg_cli.files.labels import is_background
from ovseg_cli.files.text import read_text
from ovseg_cli.names import class_key, listed_names, normalise_class_name, short_name, shown_name

MANY_WORDS = 10
"""Words in the first line from which it is rather the background than a class (published: 17 to 26, and up to 8)."""

log = logging.getLogger("ovseg_cli")


@dataclass(frozen=True, slots=True)
class ClassFile:
    """What a class file says.

    Attributes:
        classes: Class names as they are stored, in the order of the file.
        synonyms: The synonyms of those classes that have some.
        background: Words for what is none of the classes; None where the file says nothing about it.
    """

    classes: tuple[str, ...]
    synonyms: Mapping[str, tuple[str, ...]]
    background: tuple[str, ...] | None


def read_class_file(path: str | Path, *, first_is_background: bool = False) -> ClassFile:
    """Read a class file. Blank lines and lines that begin with ``#`` are skipped.

    Args:
        path: A UTF-8 text file, with or without a byte order mark; lines may end as on any system.
        first_is_background: Whether the first line is the background, whatever its first word. The published files of
            Pascal VOC and COCO-Object begin so: "sky, wall, tree, ...".

    Returns:
        The classes, at least one. Words are as in the file, but for spaces; whether they are the same as others is
        left to `ovseg_cli.text.vocabulary.make_vocabulary`.

    Raises:
        UsageError: The file is missing, not text, names no class, has two lines for the background, or a line that
            begins with a separator.
        ClassNameError: The first word of a line cannot be a class. Both name the file and the line.
    """
    path = Path(path)
    classes: dict[str, tuple[int, str]] = {}
    synonyms: dict[str, tuple[str, ...]] = {}
    background: tuple[str, ...] | None = None
    repeated: list[str] = []
    for position, (number, name, others) in enumerate(_lines(path)):
        first_line = position == 0
        if is_background(name) or (first_line and first_is_background):
            if background is not None:
                raise UsageError(f"{path}, line {number}: the background has a line already; join the two.")
            background = (others or (name,)) if is_background(name) else (name, *others)
            continue
        try:
            stored = normalise_class_name(name, stored=False)
        except ClassNameError as error:
            raise ClassNameError(f"{path}, line {number}: {error}") from error
        earlier, known = classes.setdefault(class_key(stored), (number, stored))
        if earlier != number:
            repeated.append(f"line {number} ({short_name(stored)}, as line {earlier})")
        if others:
            synonyms[known] = (*synonyms.get(known, ()), *others)
        if first_line and len(others) + 1 >= MANY_WORDS:
            log.warning(
                "%s, line %d is read as the class %s with %d synonyms. If it lists the background, begin it with "
                "the word background, or say so with --background-line first.",
                path,
                number,
                shown_name(stored),
                len(others),
            )
    if repeated:
        log.warning(
            "%s: %d line(s) repeat a class of another line and add only their synonyms to it, so that later ids are "
            "smaller than their lines: %s",
            path,
            len(repeated),
            listed_names(repeated),
        )
    if not classes:
        raise UsageError(f"{path} names no class; write one per line, such as: ship; boat")
    return ClassFile(tuple(name for _, name in classes.values()), synonyms, background)


def _lines(path: Path) -> Iterator[tuple[int, str, tuple[str, ...]]]:
    """Number, first word and other words of every line that has some."""
    text = read_text(path, "class file", UsageError)
    # Only line feeds end lines: str.splitlines knows ten more.
    lines = [(number, line.strip()) for number, line in enumerate(text.split("\n"), start=1)]
    lines = [(number, line) for number, line in lines if line and not line.startswith("#")]
    separator = ";" if any(";" in line for _, line in lines) else ","
    for number, line in lines:
        first, *others = (" ".join(word.split()) for word in line.split(separator))
        if not first:
            raise UsageError(
                f"{path}, line {number}: {shown_name(line)} begins with {separator!r}, so it names no class."
            )
        yield number, first, tuple(word for word in others if word)
