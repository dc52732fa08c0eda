"""The page of an evaluation: what the report says, with the pictures and the run behind it."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from ovseg_cli.atomic import write_text
from ovseg_cli.errors import ImageError, OutputError
from ovseg_cli.evaluation.folder import index_maps
from ovseg_cli.evaluation.page import as_html, confusion_csv
from ovseg_cli.evaluation.page_content import WORST, Maps, page_of
from ovseg_cli.evaluation.pairing import find_labels
from ovseg_cli.evaluation.per_picture import as_csv, as_jsonl
from ovseg_cli.files.images import open_image
from ovseg_cli.files.layout import MASK_FOLDER
from ovseg_cli.names import listed_names
from ovseg_cli.runs.journal import Entry, read_journal
from ovseg_cli.runs.manifest import Manifest, read_manifest
from ovseg_cli.urls import Place, place, way

if TYPE_CHECKING:
    from PIL import Image

    from ovseg_cli.evaluation.report import Report
    from ovseg_cli.evaluation.truth import GroundTruth
    from ovseg_cli.runs.evaluate import Predictions


def write_page(
    target: Path,
    report: Report,
    predictions: Predictions,
    truth: GroundTruth,
    *,
    pictures: Mapping[str, Path] | None = None,
    worst: int = WORST,
) -> None:
    """Write an evaluation as one page of HTML.

    The pictures are those that the run's journal names, or those of the data set.

    Args:
        target: The file.
        report: Of these label maps and this ground truth.
        predictions: The label maps.
        truth: The ground truth.
        pictures: Of a key, where its picture lies; for label maps without a journal.
        worst: How many of the worst pictures are shown.

    Raises:
        LabelError: A label image is not what it was when it was scored.
        OutputError: The file cannot be written.
    """
    truth = truth.also_called(predictions.synonyms)
    files = {key: file for key, _, file in truth.pair(find_labels(predictions.folder, predictions.ending)).matched}
    entries, manifest = _made_by(predictions.folder)
    by_key = {key: entry for key, file in files.items() if (entry := entries.get(_name(file, predictions.folder)))}

    def maps(key: str) -> Maps:
        return index_maps(
            truth,
            key,
            files[key],
            prediction_labels=predictions.labels,
            requested=predictions.requested,
            background=predictions.background,
        )

    def image_of(key: str) -> Image.Image | str:
        path = place(by_key[key].path) if key in by_key else (pictures or {}).get(key)
        if path is None:
            return "Nothing says where the picture lies."
        try:
            return open_image(path)
        except ImageError:
            return f"The picture {path} cannot be read any more."

    method = "" if manifest is None else str(manifest.method.get("used", ""))
    page = page_of(
        report,
        title=f"Evaluation{f' of {method}' if method else ''} on {report.images} pictures",
        summary=[
            f"Ground truth: {truth.folder}. Label maps: {predictions.folder}.",
            f"Classes: {listed_names(predictions.requested, most=30)}.",
        ],
        maps=maps,
        image_of=image_of,
        scores={key: entry.scores for key, entry in by_key.items() if entry.scores},
        facts=_facts(report, manifest),
        worst=worst,
    )
    write_text(target, as_html(page))


def write_pictures(target: Path, report: Report) -> None:
    """Write the figures of every picture: ``.csv``, or lines of JSON."""
    if report.pictures is not None:
        write_text(target, as_csv(report.pictures) if target.suffix.lower() == ".csv" else as_jsonl(report.pictures))


def write_confusion(target: Path, report: Report) -> None:
    """Write the confusion matrix: ``.csv``, or a picture as ``.svg``."""
    from ovseg_cli.drawing.matrix import matrix_svg

    if report.pictures is not None:
        render = confusion_csv if target.suffix.lower() == ".csv" else matrix_svg
        write_text(target, render(report.pictures.names, report.pictures.matrix()))


def _made_by(folder: Place) -> tuple[dict[str, Entry], Manifest | None]:
    """The journal, by label map below the folder of label maps, and the manifest of the run that made them."""
    output = folder.parent if folder.name == MASK_FOLDER else folder
    try:
        entries, manifest = read_journal(output), read_manifest(output)
    except OutputError:
        return {}, None  # what the labels say does not depend on it
    found = {
        entry.output.removeprefix(f"{MASK_FOLDER}/"): entry
        for entry in entries.values()
        if entry.output is not None and entry.status == "done"
    }
    return found, manifest


def _name(file: Place, folder: Place) -> str:
    return way(folder, file)


def _facts(report: Report, manifest: Manifest | None) -> dict[str, str]:
    """What the figures were made with, in pairs of name and value."""
    facts = {"pictures": f"{report.images}", "pixels": f"{report.pixels:,} scored, {report.ignored_pixels:,} left out"}
    for name, value in (report.sources or {}).items():
        facts[name.replace("_", " ")] = value
    return facts if manifest is None else facts | made_with(manifest)


def made_with(manifest: Manifest) -> dict[str, str]:
    """What label maps were made with, in pairs of name and value."""
    return {
        "method": str(manifest.method.get("used", "")),
        "profile": f"{manifest.profile.get('name', '?')} ({manifest.profile_digest[:12]})",
        "device": f"{manifest.device or '?'}, {manifest.precision or '?'}",
        "ovseg": manifest.ovseg,
        "libraries": ", ".join(f"{name} {version}" for name, version in manifest.libraries.items()),
        "settings digest": manifest.digest[:12],
        "command": " ".join(manifest.argv),
    }
