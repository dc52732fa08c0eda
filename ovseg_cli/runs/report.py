"""The page of a run: what its journal and its manifest say, with small copies of its pictures and label maps."""

from __future__ import annotations

import json
import os
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final
from urllib.parse import quote

from ovseg_cli.atomic import atomic_path
from ovseg_cli.drawing.ink import fitted_size
from ovseg_cli.drawing.palettes import class_colour
from ovseg_cli.errors import ImageError, LabelError, UsageError
from ovseg_cli.files.discovery import expanded
from ovseg_cli.files.images import open_image
from ovseg_cli.files.labels import BACKGROUND, LabelMap, read_compact_label
from ovseg_cli.files.layout import MANIFEST_NAME, REPORT_NAME
from ovseg_cli.names import ClassList, listed_names
from ovseg_cli.pages.run_page import ClassTotal, RunPage, RunPicture, SmallCopy, as_html
from ovseg_cli.pages.thumbnails import small_labels, small_picture
from ovseg_cli.runs.journal import Entry, read_journal
from ovseg_cli.runs.manifest import Manifest, read_manifest
from ovseg_cli.runs.pages import made_with
from ovseg_cli.urls import Place, Url, absolute, folder_of_all, place, way

MOST_PICTURES: Final = 10_000
"""Pictures that a page shows; its totals are those of all."""

MANY_PICTURES: Final = 2000
"""Of more than so many, the copies are smaller."""

SIDES: Final = (256, 160)
"""Pixels of the longer side of pictures, where they are few and where they are many; label maps have twice as many, so
that their edges are sharp in the large view."""

MOST_BYTES: Final = 20_000
"""Of a small picture, and of a small label map: in text these are 54 kB for a picture, at most."""

UNFAMILIAR: Final = "The picture looks like nothing that the models were trained on, so its label map means little."


@dataclass(frozen=True, slots=True, kw_only=True)
class WrittenReport:
    """A page that was written.

    Attributes:
        path: The file.
        pictures: How many pictures it shows.
        left_out: How many more have a label map.
        failed: How many failed.
        nbytes: The file's size.
    """

    path: Place
    pictures: int
    left_out: int
    failed: int
    nbytes: int


def write_report(
    run: Place, target: Place | None = None, *, progress: Callable[[int, int], None] | None = None
) -> WrittenReport:
    """Write the page of a run, in one step; no more than one picture is in memory at once.

    Args:
        run: The output folder.
        target: The file; None for `report.html` in that folder.
        progress: Told how many of how many pictures are done.

    Raises:
        UsageError: The folder holds no run, or the file has another suffix than a page's.
        OutputError: Its manifest or journal cannot be read, or the page cannot be written.
        DiskFullError: No space is left.
    """
    folder = absolute(expanded(run))
    manifest = read_manifest(folder)
    if manifest is None:
        raise UsageError(f"{run} holds no run ({MANIFEST_NAME} is missing). Name the output folder of ovseg segment.")
    target = folder / REPORT_NAME if target is None else target
    if target.suffix.lower() not in (".html", ".htm"):
        raise UsageError(f"A report is written as .html, and {str(target)!r} is not.")
    beside = target.parent if isinstance(target, Url) else Path(os.path.realpath(target)).parent
    page, left_out = _page_of(folder, manifest, beside, progress)
    with atomic_path(target) as path, path.open("w", encoding="utf-8", errors="backslashreplace", newline="\n") as file:
        for piece in as_html(page):
            file.write(piece + "\n")
        nbytes = file.tell()
    return WrittenReport(
        path=target, pictures=len(page.pictures), left_out=left_out, failed=len(page.failed), nbytes=nbytes
    )


def _page_of(
    folder: Place, manifest: Manifest, beside: Place, progress: Callable[[int, int], None] | None
) -> tuple[RunPage, int]:
    """The page, and how many pictures it leaves out; `beside` is the folder that it is going to lie in."""
    entries = list(read_journal(folder).values())
    done = [entry for entry in entries if entry.status == "done" and entry.output is not None]
    failed = [(entry.path, entry.error or "") for entry in entries if entry.status == "failed"]
    names = ClassList.distinct((BACKGROUND, *manifest.class_names))
    shown = _chosen(done)
    places = _Addresses(shown, folder, beside)
    method = str(manifest.method.get("used", ""))
    summary = [
        f"{_pictures(len(done))} with a label map, {len(failed):,} failed. Output folder: {folder}.",
        f"Classes: {listed_names(manifest.class_names, most=30)}.",
    ]
    if len(shown) < len(done):
        which = "least certain" if all(entry.margin is not None for entry in done) else "first"
        summary.append(f"The {len(shown):,} {which} of {len(done):,} pictures are shown; the totals are those of all.")
    page = RunPage(
        title=f"Run{f' of {method}' if method else ''} on {_pictures(len(done) + len(failed))}",
        summary=summary,
        notes=_notes(manifest, done),
        classes=_totals(done, names),
        pictures=[_picture(entry, places, names) for entry in shown],
        copies=_copies(shown, folder, manifest, progress),
        bases=places.bases,
        margins=_about_margins(shown),
        has_margins=any(entry.margin is not None for entry in shown),
        failed=failed,
        facts=_facts(manifest),
        settings=json.dumps(
            {"options": manifest.options, "settings": manifest.settings, "configured": manifest.configured},
            ensure_ascii=False,
            indent=2,
            default=str,
        ),
    )
    return page, len(done) - len(shown)


def _chosen(done: Sequence[Entry]) -> list[Entry]:
    """Those that are shown, by their paths: all, or of too many the least certain."""
    some = list(done)
    if len(some) > MOST_PICTURES and all(entry.margin is not None for entry in some):
        some.sort(key=lambda entry: entry.margin or 0.0)
    return sorted(some[:MOST_PICTURES], key=lambda entry: entry.path)


def _totals(done: Sequence[Entry], names: ClassList) -> list[ClassTotal]:
    """Each class over all pictures, by their pixels; those whose size is not known count as one pixel."""
    pictures: Counter[str] = Counter()
    pixels: defaultdict[str, float] = defaultdict(float)
    total = 0
    for entry in done:
        area = entry.size[0] * entry.size[1] if entry.size else 1
        total += area
        for name, share in entry.shares.items():
            if share > 0:
                pictures[name] += 1
                pixels[name] += share * area
    return [
        ClassTotal(
            name=name,
            colour=class_colour(name) if place else None,
            pictures=pictures[name],
            share=pixels[name] / max(1, total),
        )
        for place, name in enumerate(names)
    ]


def _picture(entry: Entry, places: _Addresses, names: ClassList) -> RunPicture:
    name, address = places.of(entry)
    classes = [
        (place, float(share), entry.scores.get(own))
        for own, share in sorted(entry.shares.items(), key=lambda item: -item[1])
        if share > 0 and (place := names.find(own)) is not None
    ]
    files = (places.file(entry.output), places.file(entry.overlay), places.file(entry.explain))
    return RunPicture(
        name=name,
        address=address,
        size=None if entry.size is None else (entry.size[0], entry.size[1]),
        margin=entry.margin,
        files=files,
        classes=classes,
        remark=UNFAMILIAR if entry.unfamiliar else "",
    )


class _Addresses:
    """Where pictures and their files lie, as URLs: below a folder that they share, which a page names once.

    A page that moves together with the pictures finds them by the way from it to them; one that moves alone finds them
    where they were.

    Args:
        entries: The pictures.
        folder: The output folder.
        beside: The folder that the page is going to lie in.
    """

    def __init__(self, entries: Sequence[Entry], folder: Place, beside: Place) -> None:
        self._shared = folder_of_all([place(entry.path).parent for entry in entries])
        self.bases: list[str] = []
        if self._shared is not None:
            near, far = _relative(self._shared, beside), _address(self._shared).rstrip("/") + "/"
            self.bases = [*([] if near is None else [near]), far]
        elif entries:
            self.bases = [""]
        self._files = _relative(folder, beside)
        if self._files is None:
            self._files = _address(folder) + "/"

    def of(self, entry: Entry) -> tuple[str, str]:
        """A picture's name and address, below the bases."""
        path = place(entry.path)
        if self._shared is None:
            return entry.path, _address(path)
        name = way(self._shared, path)
        return name, _quoted(name)

    def file(self, name: str | None) -> str | None:
        """The address of a file in the output folder."""
        return None if name is None else f"{self._files}{_quoted(name)}"


def _relative(folder: Place, beside: Place) -> str | None:
    """The way from a folder to another as the beginning of a URL; None where there is none."""
    try:
        return _quoted(way(beside, folder)) + "/"
    except ValueError:
        return None


def _address(given: Place) -> str:
    """A place as a browser takes it."""
    return given.as_uri() if isinstance(given, Path) else f"{given.scheme}://{_quoted(given.path)}"


def _quoted(path: str) -> str:
    """A path as part of a URL, byte for byte."""
    return quote(os.fsencode(path))


def _copies(
    shown: Sequence[Entry], folder: Place, manifest: Manifest, progress: Callable[[int, int], None] | None
) -> Iterator[SmallCopy]:
    """What is seen of each picture, one after another."""
    side = SIDES[len(shown) > MANY_PICTURES]
    labels = LabelMap.from_classes(manifest.class_names)
    for number, entry in enumerate(shown, start=1):
        yield _copy(entry, folder, labels, side)
        if progress is not None:
            progress(number, len(shown))


def _copy(entry: Entry, folder: Place, labels: LabelMap, side: int) -> SmallCopy:
    missing = []
    jpeg = png = None
    classes: tuple[int, ...] = ()
    try:
        ids = read_compact_label(folder / str(entry.output), labels)
    except (ImageError, LabelError) as error:
        missing.append(f"Its label map cannot be shown: {error}")
        size = entry.size
    else:
        size = (ids.shape[1], ids.shape[0])
        png, classes = small_labels(ids, [class_colour(name) for name in labels.names[1:]], 2 * side, MOST_BYTES)
    try:
        image = open_image(entry.path, least=2 * side)
    except ImageError as error:
        missing.append(f"The picture cannot be shown: {error}")
    else:
        wanted = size or image.size
        small = wanted if max(wanted) <= side else fitted_size((wanted[0], wanted[1]), side)
        if _same_form(image.size, (wanted[0], wanted[1])):
            jpeg = small_picture(image, (small[0], small[1]), MOST_BYTES)
        else:
            missing.append("The picture is another now: it has no longer the form of its label map.")
    return SmallCopy(jpeg=jpeg, labels=png, classes=classes, missing=" ".join(missing))


def _same_form(found: tuple[int, int], wanted: tuple[int, int]) -> bool:
    """Whether a picture may be one of a size, or came at a half, a quarter or an eighth of it."""
    return any(found == tuple(-(-side // step) for side in wanted) for step in (1, 2, 4, 8))


def _about_margins(shown: Sequence[Entry]) -> str:
    """What the figure behind the order by certainty means, and where it is missing."""
    without = sum(entry.margin is None for entry in shown)
    if not shown:
        return ""
    if without == len(shown):
        return (
            "Nothing says how certain these label maps are: they were made by an earlier version of ovseg, or had only "
            "one label to give. ovseg segment --overwrite makes them again."
        )
    means = (
        "Margin: how far the scores of a pixel are from giving it another label, mean over the pixels. The smallest "
        "are the least certain. It compares pictures of this run, and is no probability of being right."
    )
    return means if not without else f"{means} Pictures without it come last; they are {without:,}."


def _notes(manifest: Manifest, done: Sequence[Entry]) -> list[str]:
    """What the reader should know, as far as the run's record says it."""
    notes = []
    if manifest.status != "finished":
        notes.append(f"The run is {manifest.status}: pictures that it did not reach are not on this page.")
    if reason := manifest.method.get("reason"):
        notes.append(f"Why this method: {reason}.".replace("..", "."))
    if unfamiliar := sum(entry.unfamiliar is True for entry in done):
        notes.append(
            f"{unfamiliar:,} of {len(done):,} pictures look like nothing that the models were trained on, so their "
            "label maps mean little; they have a remark."
        )
    if manifest.image_classes:
        notes.append(
            f"{manifest.image_classes.get('path')} says which classes {manifest.image_classes.get('pictures')} of the "
            "pictures may show."
        )
    return notes


def _pictures(number: int) -> str:
    return f"{number:,} picture{'' if number == 1 else 's'}"


def _facts(manifest: Manifest) -> dict[str, str]:
    facts = {
        "status": manifest.status,
        "begun": manifest.started_at,
        "ended": manifest.finished_at or "–",
        "inputs": ", ".join(manifest.inputs),
        "background": "some pixels may belong to no class" if manifest.background else "every pixel has a class",
        "threshold": "the method's own" if manifest.threshold is None else f"{manifest.threshold:g}",
        "pre-filter": "yes" if manifest.prefilter else "no",
    }
    return facts | made_with(manifest)
