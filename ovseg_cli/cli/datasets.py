"""datasets: what `ovseg eval --dataset` knows, and whether it is there."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ovseg_cli.cli.common import Common, command
from ovseg_cli.cli.output import amount, table
from ovseg_cli.errors import UsageError

if TYPE_CHECKING:
    from ovseg_cli.evaluation.datasets import Dataset


def register(app: typer.Typer) -> None:
    """Add this command to the application."""
    command(
        app,
        "datasets",
        examples=(
            "ovseg datasets",
            "ovseg datasets voc21",
            "ovseg datasets voc21 --root VOCdevkit -q > val.txt",
            "ovseg datasets voc21:sclip --class-file voc.txt",
        ),
    )(datasets)


def datasets(
    common: Common,
    name: Annotated[
        str | None,
        typer.Argument(
            metavar="[NAME]",
            help="Show this one: what to download, its layouts, its names by paper.",
            show_default=False,
        ),
    ] = None,
    root: Annotated[
        Path | None,
        typer.Option(
            "--root",
            metavar="DIR",
            help="Look for it there, and say what is missing; -q prints its pictures.",
            show_default=False,
        ),
    ] = None,
    split: Annotated[
        str | None,
        typer.Option("--split", metavar="NAME|FILE", help="The part to look for. (default: val)", show_default=False),
    ] = None,
    class_file: Annotated[
        Path | None,
        typer.Option(
            "--class-file",
            metavar="FILE",
            help="Write its class names, for ovseg segment --class-file; NAME:PAPER takes those of a paper.",
            show_default=False,
        ),
    ] = None,
) -> None:
    """List the data sets that ovseg eval --dataset scores, or one of them, or check a copy of one."""
    from ovseg_cli.evaluation.datasets import DATASETS, find_dataset

    if name is None:
        if root is not None or split is not None or class_file is not None:
            raise UsageError("Name the data set that is meant: ovseg datasets NAME --root DIR.")
        rows = [(dataset.name, str(len(dataset.classes)), dataset.title) for dataset in DATASETS.values()]
        common.out.result(
            [_data(dataset) for dataset in DATASETS.values()],
            human=lambda: common.out.show(table(("name", "left"), ("classes", "right"), ("what", "left"), rows=rows)),
            quiet=DATASETS,
        )
        return
    dataset, variant = find_dataset(name)
    if class_file is not None:
        _write_classes(class_file, dataset, variant)
        common.out.note(f"wrote {amount(len(dataset.classes), 'class', 'classes')} of {name} to {class_file}")
    if root is not None:
        _check(common, name, root, split)
    elif split is not None:
        raise UsageError("--split is a part of a copy, so say where that is with --root DIR.")
    else:
        common.out.result(
            _data(dataset), human=lambda: _describe(common, dataset), quiet=dataset.names[variant].classes
        )


def _data(dataset: Dataset) -> dict[str, Any]:
    return {
        "name": dataset.name,
        "title": dataset.title,
        "paper": dataset.paper,
        "source": dataset.source,
        "download": dataset.download,
        "background": dataset.background,
        "classes": list(dataset.classes),
        "splits": {name: list(split.pictures) for name, split in dataset.splits.items()},
        "layouts": [
            {"title": layout.title, "labels": layout.labels, "suffix": layout.suffix} for layout in dataset.layouts
        ],
        "names": {
            key: {"paper": names.paper, "file": names.file, "methods": list(names.methods), "words": list(names.words)}
            for key, names in dataset.names.items()
        },
    }


def _describe(common: Common, dataset: Dataset) -> None:
    out = common.out
    out.line(f"{dataset.title}. {dataset.paper}.")
    out.line(f"classes and ids from {dataset.source}")
    out.line(f"download {dataset.download}")
    rows = []
    for layout in dataset.layouts:
        ending = "" if layout.form in ("coco", "context") else f"/**/*{layout.suffix}"
        rows.append((layout.title, f"{layout.labels}{ending}", layout.images.partition("|")[0], layout.lists or ""))
    out.show(table(("layout", "left"), ("labels", "left"), ("pictures", "left"), ("list", "left"), rows=rows))
    names = [(key, variant.paper, variant.file) for key, variant in dataset.names.items()]
    out.show(table(("names", "left"), ("paper", "left"), ("file", "left"), rows=names))


def _check(common: Common, name: str, root: Path, split: str | None) -> None:
    """Find a copy, and say what is missing of it."""
    from ovseg_cli.evaluation.datasets import open_dataset

    opened = open_dataset(name, root, split)
    data = {
        "name": opened.dataset.name,
        "split": opened.split,
        "root": str(opened.root),
        "layout": opened.layout.title,
        "labels": str(opened.truth.folder),
        "labelled": len(opened.truth.keys),
        "pictures": [str(path) for _, path in opened.images],
        "notes": list(opened.notes),
    }
    common.out.result(
        data,
        human=lambda: common.out.line(
            f"{opened.dataset.name}, {opened.split}: {amount(len(opened.truth.keys), 'label')} in "
            f"{opened.truth.folder} (layout of {opened.layout.title}), {amount(len(opened.images), 'picture')}"
        ),
        quiet=[path for _, path in opened.images],
    )
    for note in opened.notes:
        common.out.warning(note)


def _write_classes(path: Path, dataset: Dataset, variant: str) -> None:
    from ovseg_cli.atomic import write_text

    names = dataset.names[variant]
    words = dataset.background_words or names.background_words
    lines = [f"# {dataset.title}; names of {names.paper}, {names.file}"]
    lines += ["; ".join(("background", *(word for word in words if word != "background")))] if words else []
    # A semicolon anywhere makes it what separates words, so that a comma could stand in one.
    lines += ["; ".join(those) for those in names.words]
    write_text(path, "\n".join(lines) + "\n")
