"""Files that a command writes beside what it shows: they must be neither one another nor what it reads."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path

from ovseg_cli.errors import UsageError


def check_outputs(outputs: Mapping[str, Path | None], inputs: Sequence[Path | str | None] = ()) -> None:
    """Refuse to write two things into one file, or over what is read.

    Args:
        outputs: What is to be written, by the option that names it.
        inputs: Files and folders that the command reads; what is no file is passed over.

    Raises:
        UsageError: Two of them are one file.
    """
    taken: dict[str, str] = {}
    for option, file in outputs.items():
        if file is None:
            continue
        place = os.path.realpath(file)
        if place in taken:
            raise UsageError(f"{taken[place]} and {option} both name {file}, which can hold only one. Name two files.")
        taken[place] = option
    for read in inputs:
        if read is not None and os.path.isfile(read) and os.path.realpath(read) in taken:
            option = taken[os.path.realpath(read)]
            raise UsageError(f"{option} would write over {read}, which is read. Name another file.")
