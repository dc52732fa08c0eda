"""store: where it is, whether it is sound, and its care."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from ovseg_cli.cli.common import Common, command, group
from ovseg_cli.cli.output import amount, fields, file_size
from ovseg_cli.cli.soundness import in_short, store_lines, store_report


def register(app: typer.Typer) -> None:
    """Add these commands to the application."""
    own = group(
        app,
        "store",
        examples=("ovseg store path", "ovseg store check", "ovseg store backup ~/backups/store-1"),
        function=path,
    )
    command(own, "path", examples=("ovseg store path", "ls $(ovseg store path)"))(path)
    command(own, "check", examples=("ovseg store check", "ovseg store check --repair"))(check)
    command(own, "backup", examples=("ovseg store backup ~/backups/store-1",))(backup)
    command(own, "reindex", examples=("ovseg store reindex",))(reindex)
    command(own, "upgrade", examples=("ovseg store upgrade", "ovseg --store old-store store upgrade"))(upgrade)
    command(own, "vacuum", examples=("ovseg store vacuum",))(vacuum)


def path(common: Common) -> None:
    """Say which folder the store is in, whether it is made yet or not."""
    from ovseg_cli.places import default_store_path

    out = common.out
    folder = Path(common.options.store or default_store_path()).absolute()
    out.result({"path": str(folder)}, human=lambda: out.line(str(folder), copyable=True), quiet=[folder])


def check(
    common: Common,
    repair: Annotated[
        bool,
        typer.Option("--repair", help="Take away what killed commands left, and mend the search index. Classes stay."),
    ] = False,
) -> None:
    """Read the whole store and compare it with what was stored.

    Vectors, how classes were made, and support images are compared with their digests; damage is named with its class.
    A class that is damaged cannot be mended: put a backup in its place, or make it anew. Exit code 1: it is damaged.
    """
    out = common.out
    repaired: dict[str, Any] | None = None
    if repair:
        with common.open_store(create=False) as store:
            done = store.repair()
        repaired = {"removed": [str(path) for path in done.removed], "indexes": list(done.indexes)}
    report = store_report(common, typed=True)
    data = report if repaired is None else {**report, "repaired": repaired}

    def human() -> None:
        out.show(fields(store_lines(report)))
        if repaired is not None:
            removed = amount(len(repaired["removed"]), "leftover")
            mended = f"; mended the index of {', '.join(repaired['indexes'])}" if repaired["indexes"] else ""
            out.line(f"Took away {removed}{mended}.")

    state = report.get("state", "damaged")
    out.result(data, human=human, quiet=["ok" if report["healthy"] else state])
    if not report["healthy"]:
        out.error(f"the store is {state}: {in_short(report['problems'])}")
        raise typer.Exit(1)


def backup(
    common: Common,
    folder: Annotated[
        Path,
        typer.Argument(metavar="DIR", help="The new folder; it must not exist yet, or be empty.", show_default=False),
    ],
) -> None:
    """Copy the store, as it is at one moment, while others may write to it.

    The copy is a store: `ovseg --store DIR` uses it. The search index is left out, as it can be made again.
    """
    out = common.out
    with common.open_store(create=False) as store:
        target = store.backup(folder)
        names = store.class_names()
    size = sum(file.stat().st_size for file in target.rglob("*") if file.is_file())
    data = {"path": str(target), "classes": len(names), "bytes": size}
    out.result(data, human=lambda: out.line(f"Copied the store into {target} ({file_size(size)})."), quiet=[target])


def reindex(common: Common) -> None:
    """Make the search index anew from the database.

    It is kept up to date by itself; this is for after many classes were imported, or when it is doubted.
    """
    from ovseg_cli.faiss_import import gpu_count

    out = common.out
    with common.open_store(create=False) as store:
        made = store.reindex()
    on = "GPU" if gpu_count() else "CPU"
    data = [
        {
            "extractor": name,
            "vectors": catalogue.rows,
            "on": on,
            "segments": [
                {"vectors": note.rows, "kind": note.kind, "recall": note.recall} for note in catalogue.segments
            ],
        }
        for name, catalogue in made.items()
    ]

    def human() -> None:
        if not made:
            out.line("No classes yet, so there is nothing to index.")
        for name, catalogue in made.items():
            exact = all(note.kind == "exact" for note in catalogue.segments)
            recall = min((note.recall for note in catalogue.segments), default=1.0)
            how = "compared one by one" if exact else f"in lists, which find {recall:.1%} of the nearest"
            out.line(f"{name}: {amount(catalogue.rows, 'vector')}, {how}, on the {on}")

    out.result(data, human=human, quiet=list(made))


def upgrade(common: Common) -> None:
    """Bring a store of an older version to this one, after a backup of its database.

    Every command does that when it opens the store; this one does nothing else.
    """
    from ovseg_cli.store.schema import REVISIONS
    from ovseg_cli.store.store import revision_of

    out = common.out
    before = revision_of(common.options.store)
    with common.open_store(create=False) as store:
        folder = store.path
    after = REVISIONS[-1]
    data = {"path": str(folder), "from": before, "to": after}
    text = f"{folder} is up to date (schema {after})." if before == after else f"Brought from {before} to {after}."
    out.result(data, human=lambda: out.line(text), quiet=[after])


def vacuum(common: Common) -> None:
    """Give back the room that removed classes took in the database.

    The database is written anew beside itself, so the disk needs as much room once more.
    """
    out = common.out
    with common.open_store(create=False) as store:
        before, after = store.vacuum()
    text = f"{file_size(before)} before, {file_size(after)} now."
    out.result({"before": before, "after": after}, human=lambda: out.line(text), quiet=[before - after])
