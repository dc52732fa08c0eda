"""The lists of ids and names that come with this package, as text files."""

from __future__ import annotations

from functools import cache
from importlib.resources import files

__all__ = ["table"]


@cache
def table(name: str) -> tuple[tuple[int, tuple[str, ...]], ...]:
    """The rows of a list: the id, and what stands behind it, tab by tab."""
    text = files("ovseg_cli.evaluation.datasets").joinpath("names", f"{name}.txt").read_text(encoding="utf-8")
    rows = [line.split("\t") for line in text.splitlines() if line and not line.startswith("#")]
    return tuple((int(index), tuple(fields)) for index, *fields in rows)
