"""Which commands there are; each is built when it is needed, as reading all of them takes longer than most do."""

from __future__ import annotations

import copy
import importlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Final

import typer
from typer.core import TyperCommand, TyperGroup

from ovseg_cli.cli.common import OvsegGroup


@dataclass(frozen=True, slots=True)
class Entry:
    """A command in the list of commands.

    Attributes:
        name: As typed.
        module: In `ovseg_cli.cli`; its `register` adds the command to an application.
        summary: The first line of its help.
    """

    name: str
    module: str
    summary: str


ENTRIES: Final = (
    Entry("add-class", "classes", "Teach ovseg new classes by name."),
    Entry("list-classes", "classes", "List the classes of the store."),
    Entry("show-class", "classes", "Show how a class was made."),
    Entry("remove-class", "classes", "Remove classes with all that is stored of them."),
    Entry("rename-class", "class_care", "Give a class another name."),
    Entry("merge-class", "class_care", "Make one class of several."),
    Entry("edit-class", "class_care", "Take bad support images out of a class."),
    Entry("export-class", "bundles", "Write classes into one file, for another store."),
    Entry("import-class", "bundles", "Take classes from files into the store."),
    Entry("segment", "segment", "Name every pixel of a picture, or of many."),
    Entry("report", "report", "Make one page of a run, to look through its pictures."),
    Entry("export", "exports", "Write label maps as files that other tools read."),
    Entry(
        "relabel",
        "exports",
        "Make label maps again with another threshold, or for some of the classes, without the models.",
    ),
    Entry("explain", "explain", "Explain why pixels got their classes."),
    Entry("eval", "evaluate", "Score label maps against ground truth."),
    Entry("benchmark", "benchmark", "Run many methods on the same labelled pictures and write one table."),
    Entry("compare", "compare", "Tell whether two runs differ, and which classes and pictures make the difference."),
    Entry(
        "train-head",
        "heads",
        "Train a head on labelled pictures of your own; CLIP stays as it is but for what --tune says.",
    ),
    Entry("heads", "heads", "List the heads that have a name: --method head:NAME."),
    Entry(
        "methods",
        "methods",
        "List the methods that can segment, and where they come from; or one with its published settings.",
    ),
    Entry(
        "datasets",
        "datasets",
        "List the data sets that ovseg eval --dataset scores, or one of them, or check a copy of one.",
    ),
    Entry("profiles", "profiles", "List the model sets, what they are for, and whether their weights are here."),
    Entry("pull", "profiles", "Fetch a profile's weights from the model hub, once."),
    Entry("config", "config", "Show the options that are set in files or in the environment, and where."),
    Entry("store", "store", "Say which folder the store is in, whether it is made yet or not."),
    Entry("doctor", "doctor", "Check this installation and the store."),
    Entry("bench", "bench", "Measure how fast a profile works on this machine, stage by stage."),
    Entry("demo", "demo", "See the main job on the example pictures."),
)
"""Every command, in the order of use."""


class Commands(Mapping[str, Any]):
    """The commands by name, as typer builds them."""

    def __init__(self) -> None:
        self._entries = {entry.name: entry for entry in ENTRIES}
        self._built: dict[str, Any] = {}

    def __getitem__(self, name: str) -> Any:
        if name not in self._built:
            app = typer.Typer(rich_markup_mode="rich")
            importlib.import_module(f"ovseg_cli.cli.{self._entries[name].module}").register(app)
            self._built |= typer.main.get_group(app).commands
        return self._built[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._entries)

    def __len__(self) -> int:
        return len(self._entries)


class OvsegRoot(OvsegGroup):
    """The root command of ovseg."""

    def __init__(self, **attributes: Any) -> None:
        super().__init__(**attributes)
        self.commands: Any = Commands()

    def format_help(self, ctx: Any, formatter: Any) -> None:
        """Print the help, which needs no more of the commands than their summaries."""
        OvsegGroup.format_help(self._summarised(), ctx, formatter)

    def shell_complete(self, ctx: Any, incomplete: str) -> Any:
        """What fits: names of commands with their summaries, or options."""
        ctx.command = self._summarised()
        return TyperGroup.shell_complete(ctx.command, ctx, incomplete)

    def _summarised(self) -> OvsegRoot:
        listing = copy.copy(self)
        listing.commands = {entry.name: TyperCommand(entry.name, help=entry.summary) for entry in ENTRIES}
        return listing
