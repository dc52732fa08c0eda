"""Files that a command writes beside what it shows: they must be neither one another nor what it reads."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from ovseg_cli.errors import UsageError
from ovseg_cli.urls import Place, is_file, real
from ovseg_cli.urls import place as named


def check_outputs(outputs: Mapping[str, Place | None], inputs: Sequence[Place | str | None] = ()) -> None:
    """Refuse to write two things into one file, or over what is read.

    Args:
        outputs: What is to be written, by the option that names it.
        inputs: Files and folders that the command reads; what is no file is passed over.

    Raises:
        UsageError: Two of them are one file.
    """
    taken: dict[Place, str] = {}
    for option, file in outputs.items():
        if file is None:
            continue
        place = real(file)
        if place in taken:
            raise UsageError(f"{taken[place]} and {option} both name {file}, which can hold only one. Name two files.")
        taken[place] = option
    for read in inputs:
        if read is not None and real(named(read)) in taken and is_file(named(read)):
            raise UsageError(f"{taken[real(named(read))]} would write over {read}, which is read. Name another file.")
