"""Exporting: all label maps of a folder into one format, in one step."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import asdict, dataclass, field
from importlib.metadata import version
from pathlib import Path
from typing import Any

from ovseg_cli.atomic import atomic_folder, atomic_path, sweep_folders, write_json
from ovseg_cli.errors import ImageError, LabelError, UsageError
from ovseg_cli.exports.base import Exporter, Options
from ovseg_cli.exports.registry import EXPORT_FOLDER, exporter_of
from ovseg_cli.exports.source import Source, open_source
from ovseg_cli.files.discovery import expanded
from ovseg_cli.files.layout import JOURNAL_NAME, MANIFEST_NAME, MASK_FOLDER
from ovseg_cli.runs.ledger import Failure, only_writer
from ovseg_cli.urls import Place, Url, absolute, is_folder, is_there, real

__all__ = ["Exported", "export_run"]

_MARK = "ovseg-export.json"
"""Says in a folder what it is of; a folder without it is never taken away."""
_NOTES = "exports.json"
"""Says beside the exports of an output folder what each is of."""


@dataclass(slots=True)
class Exported:
    """What an export did.

    Attributes:
        format: Its name.
        output: The file or folder, absolute.
        pictures: How many it holds.
        written: Whether it was written now; False where the same stood there.
        failed: Label maps that could not be exported; all others are.
    """

    format: str
    output: Place
    pictures: int = 0
    written: bool = True
    failed: list[Failure] = field(default_factory=list)


def export_run(
    run: Place,
    to: str,
    output: Place | None = None,
    *,
    images: Place | None = None,
    options: Options | None = None,
    overwrite: bool = False,
    progress: Callable[[int, int], None] | None = None,
) -> Exported:
    """Write the label maps of a folder in another format.

    The file or folder is written as a whole or not at all. What stands there and is of the same label maps is left as
    it is.

    Args:
        run: An output folder of `segment`, or a folder of label maps with a ``labelmap.txt``.
        to: One of `ovseg_cli.exports.registry.FORMATS`.
        output: Where to; by default, into the folder ``export`` of the run.
        images: Where the pictures are; by default, where the run found them.
        options: How, as far as the format has the choice.
        overwrite: Whether an export that stands there may be replaced.
        progress: Told how many label maps of how many are done.

    Raises:
        UsageError: There is no such format, the output would be written over what is read or over something else, or
            something that the format needs is missing.
        LabelError: The folder holds no label maps, or nothing says what they mean.
        OutputError: It cannot be written.
        DiskFullError: There is no space left.
    """
    exporter = exporter_of(to)
    exporter.ready()
    options = _checked(options or Options(), exporter, to)
    source = open_source(run, images=images)
    exporter.check(source)
    within = source.folder / EXPORT_FOLDER
    if output is None and not is_folder(source.folder / MASK_FOLDER):
        raise UsageError(f"{run} is no output folder of ovseg segment, so say where the export goes: -o PATH.")
    # As it was given: what a link leads to is decided by whoever made the link.
    target = absolute(expanded(output)) if output is not None else within / exporter.target
    _check_target(target, source, exporter)
    digest = source.digest(to, exporter.version, {name: getattr(options, name) for name in exporter.takes})
    result = Exported(to, target, len(source.pictures))
    with only_writer(source.folder) if within in target.parents else nullcontext():
        if target.parent == within:
            sweep_folders(within)
        standing = _digest_of(target, exporter, within)
        if standing == digest:
            result.written = False
            return result
        if (target.exists() if isinstance(target, Url) else os.path.lexists(target)) and not overwrite:
            raise UsageError(
                f"{target} is there already, made of other label maps or in another way. Add --overwrite to replace "
                "it, or name another place with -o."
            )
        _check_replaced(target, exporter, standing)
        about: dict[str, Any] = {"format": to, "ovseg": version("ovseg"), "run": str(source.folder), "digest": digest}
        about |= {"options": asdict(options)}
        if exporter.folder and isinstance(target, Url):  # so that what a kill leaves there is known for an export
            write_json(target / _MARK, {**about, "digest": ""})
        with _place(target, exporter) as place:
            result.failed = _fill(exporter, place, source, options, progress)
            if len(result.failed) == len(source.pictures):
                raise LabelError(f"No label map of {run} can be exported: {result.failed[0].reason}")
            about["failed"] = len(result.failed)
            if result.failed:
                about["digest"] = ""  # to be tried again
            if exporter.folder:
                write_json(place / _MARK, about)
        if not exporter.folder and target.parent == within:
            _note(within, target.name, about)
    result.pictures -= len(result.failed)
    return result


def _checked(options: Options, exporter: Exporter, name: str) -> Options:
    """Refuse options that would have no effect.

    Raises:
        UsageError: One is given.
    """
    useless = [key for key, value in asdict(options).items() if value and key not in exporter.takes]
    if useless:
        raise UsageError(f"--{useless[0]} has no effect on {name}: leave it out.")
    return options


def _fill(
    exporter: Exporter,
    place: Path,
    source: Source,
    options: Options,
    progress: Callable[[int, int], None] | None,
) -> list[Failure]:
    """Export every picture; returns those that could not be."""
    failed = []
    with exporter.open(place, source, options) as add:
        for done, picture in enumerate(source.pictures, start=1):
            try:
                add(picture, source.read(picture))
            except (ImageError, LabelError) as error:
                failed.append(Failure(str(picture.label), str(error)))
            if progress is not None:
                progress(done, len(source.pictures))
    return failed


def _check_target(target: Place, source: Source, exporter: Exporter) -> None:
    """Refuse to write over what is read.

    Raises:
        UsageError: It would be; or a file has another suffix than the format's, so that it may be anything.
    """
    there = real(target)
    read = [source.folder, *([] if source.root is None else [source.root])]
    places = {real(path) for path in read}
    labels = {real(picture.label.parent) for picture in source.pictures}
    pictures = {real(picture.path) for picture in source.pictures if picture.path is not None}
    inside = any(there == folder or folder in there.parents for folder in labels)
    if there in places or any(there in path.parents for path in (*places, *labels)) or there in pictures or inside:
        raise UsageError(f"The export {target} would be written over what is read. Name another place with -o.")
    if there.parent == real(source.folder) and there.name in _names_of_run(source.folder):
        raise UsageError(f"The export {target} would be written over a file of the run. Name another place with -o.")
    if not exporter.folder and there.suffix.lower() != Path(exporter.target).suffix:
        suffix = Path(exporter.target).suffix
        raise UsageError(f"The export is a {suffix} file, and {target} is none. Name another one with -o.")
    if exporter.folder != there.is_dir() and there.exists():
        kind = "a folder" if exporter.folder else "a file"
        raise UsageError(f"{target} is to be {kind}, and is none. Name another place with -o.")


def _names_of_run(folder: Place) -> set[str]:
    """What an output folder holds beside exports."""
    if not any((folder / name).exists() for name in (MANIFEST_NAME, JOURNAL_NAME)):
        return set()
    names = [path.name for path, _ in folder.listed().entries()] if isinstance(folder, Url) else os.listdir(folder)
    return {name for name in names if name != EXPORT_FOLDER}


def _check_replaced(target: Place, exporter: Exporter, standing: str | None) -> None:
    """Take away no folder that is not an export.

    Raises:
        UsageError: It is none, and not empty.
    """
    if exporter.folder and standing is None and target.is_dir() and _holds_something(target):
        raise UsageError(f"{target} holds other things than an export, so it is not replaced. Name another place.")


def _holds_something(folder: Place) -> bool:
    return isinstance(folder, Url) or any(folder.iterdir())


def _digest_of(target: Place, exporter: Exporter, within: Place) -> str | None:
    """What the export that stands there is of; None where nothing says so."""
    if not is_there(target):
        return None
    if exporter.folder:
        about = _read(target / _MARK)
    else:
        about = _read(within / _NOTES).get(target.name, {}) if target.parent == within else {}
    found = about.get("digest") if isinstance(about, dict) else None
    return found if isinstance(found, str) else None


def _read(path: Place) -> dict[str, Any]:
    """A note about exports; nothing where there is none that can be read."""
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}


def _note(within: Place, name: str, about: dict[str, Any]) -> None:
    """Note what a file is of, beside it."""
    write_json(within / _NOTES, {**_read(within / _NOTES), name: about})


@contextmanager
def _place(target: Place, exporter: Exporter) -> Iterator[Path]:
    """Where to write; what is there when the block ends becomes the target.

    Raises:
        OutputError: It cannot be written.
        DiskFullError: There is no space left.
    """
    with atomic_folder(target) if exporter.folder else atomic_path(target) as place:
        try:
            yield place
        except OSError as error:
            # Files of a temporary folder are named otherwise than what was asked for.
            if error.filename is None or not str(error.filename).startswith(str(place)):
                raise
            raise OSError(error.errno, error.strerror, str(target)) from error
