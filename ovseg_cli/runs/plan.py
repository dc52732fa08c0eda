"""What a folder run has to do: which images, where to, and which of them are done already."""

from __future__ import annotations

import glob
import hashlib
import json
import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from ovseg_cli.errors import ImageError, OutputError, UsageError
from ovseg_cli.files.discovery import InputImage, discover, expanded, picture_id
from ovseg_cli.files.image_classes import ImageLine, ImageMatches
from ovseg_cli.files.layout import JOURNAL_NAME, MANIFEST_NAME, MASK_FOLDER
from ovseg_cli.files.text import special_kind
from ovseg_cli.names import listed_names
from ovseg_cli.runs.artefacts import ARTEFACTS, EXPLANATIONS, LABEL_MAPS, OVERLAYS, PROBABILITIES
from ovseg_cli.runs.journal import Entry, read_journal, standing_in
from ovseg_cli.runs.manifest import Manifest, read_manifest
from ovseg_cli.runs.request import Request
from ovseg_cli.urls import Place, Url, is_file, is_folder, is_there, place, redacted_argument, same_or_inside

if TYPE_CHECKING:
    pass

Action = Literal["segment", "explain", "draw", "skip"]


@dataclass(frozen=True, slots=True, kw_only=True)
class PlanItem:
    """One image of a plan.

    Attributes:
        image: the picture.
        output: its label map, relative to the output folder.
        overlay: its drawing, likewise; None when none is wanted.
        explain: its explanation, likewise.
        probabilities: its scores, likewise.
        key: its resume key; empty when the file cannot even be read.
        action: `segment`; `explain` when the label map is there and the explanation missing; `draw` when only the
            overlay is missing; `skip` when all is there.
        entry: what the journal says, when that still holds.
        classes: the classes that may be in this picture, as the user says; None when the user says nothing.
        again: whether the label map is there, and the picture is segmented once more for its scores only.
    """

    image: InputImage
    output: str
    overlay: str | None
    explain: str | None = None
    probabilities: str | None = None
    key: str
    action: Action
    entry: Entry | None = None
    classes: tuple[str, ...] | None = None
    again: bool = False

    @property
    def files(self) -> tuple[str, ...]:
        """What there will be of this image, in the output folder."""
        names = (self.output, self.overlay, self.explain, self.probabilities)
        return tuple(name for name in names if name is not None)


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """A run, ready to start.

    Attributes:
        output: the output folder, absolute.
        inputs: the inputs as typed, without secrets in URLs.
        request: what is to be made.
        items: the images, in the order in which they will be taken.
        kept: journal entries of images that this run does not touch.
        stale: files of earlier runs that the run removes before it starts, relative to the output folder.
        redone: how many label maps exist but were made from another picture or with other settings.
        previous: the manifest that the folder has.
        overwrite: whether everything is made again.
        seen: how the folder's own files stood when they were read (see `_stamps`).
        strays: lines of the file of image classes that name no picture of the inputs.
    """

    output: Place
    inputs: tuple[str, ...]
    request: Request
    items: tuple[PlanItem, ...]
    kept: tuple[Entry, ...] = ()
    stale: tuple[str, ...] = ()
    redone: int = 0
    previous: Manifest | None = field(default=None, repr=False)
    overwrite: bool = False
    seen: tuple[Any, ...] = ()
    strays: tuple[ImageLine, ...] = ()

    @property
    def unnamed(self) -> tuple[PlanItem, ...]:
        """The images that the file of image classes says nothing about; none when there is no such file."""
        return tuple(item for item in self.items if item.classes is None and self.request.image_classes is not None)

    def count(self, action: Action) -> int:
        """How many images will be treated so."""
        return sum(item.action == action for item in self.items)


def plan_run(
    inputs: Sequence[str],
    output: Place,
    request: Request,
    *,
    images: Sequence[InputImage] | None = None,
    overwrite: bool = False,
    limit: int | None = None,
    retry_failed: bool = False,
) -> Plan:
    """Find the images and decide what to do with each. Nothing is written.

    Args:
        inputs: files, folders, patterns, `.txt` lists or `-`, as `discover` takes them.
        output: the output folder. It may lie inside an input folder; it is never read as input.
        request: what is to be made.
        images: what `find_images` has found of these inputs, when it has been asked already.
        overwrite: make everything again, and give the folder another class list if need be.
        limit: take only the first so many images.
        retry_failed: take only images that have failed before, and are not done since; there may be none.

    Raises:
        UsageError: the output folder is, or contains, an input; or holds another kind of label maps; or the file of
            image classes does not fit the images; or `limit` is below 1; or `retry_failed` comes with `overwrite`.
        NoInputError: there is no image.
        OutputError: the folder's own files cannot be read.
    """
    if limit is not None and limit < 1:
        raise UsageError(f"limit must be at least 1, got {limit}.")
    if retry_failed and overwrite:
        raise UsageError(
            "--retry-failed leaves alone what is done, and --overwrite makes everything again: leave out one of them."
        )
    if images is None:
        images = find_images(inputs, output)
    folder = _absolute(output)
    seen = _stamps(folder)
    standing = standing_in(folder)
    previous, entries = _state_of(standing, overwrite=overwrite)
    _check_kind(previous, request, output, standing, overwrite=overwrite)
    # Before the limit: which picture a line means does not depend on how many are taken.
    matched = _match(images, request)
    pictures = [
        (image, None if line is None else line.classes)
        for image, line in zip(images, matched.lines, strict=True)
        if not retry_failed or _has_failed(entries.get(picture_id(image.path)))
    ][:limit]
    plan = Plan(
        output=folder,
        inputs=tuple(redacted_argument(str(given)) for given in inputs),
        request=request,
        items=(),
        previous=previous,
        overwrite=overwrite,
        seen=seen,
        strays=matched.strays,
    )
    return _filled(plan, pictures, entries, standing)


def find_images(inputs: Sequence[str], output: Place) -> list[InputImage]:
    """The images that inputs name, without those in the output folder.

    Raises:
        UsageError: the output folder is, or contains, an input.
        NoInputError: there is no image.
    """
    folder = _absolute(output)
    check_output(inputs, folder)
    return discover(inputs, exclude=folder)


def current(plan: Plan) -> Plan:
    """The plan as it has to be now; to be asked by whoever is the only one that writes to the folder.

    Between planning and running, another run may have ended there. Its label maps would be lost to a journal that does
    not name them.

    Raises:
        UsageError: the folder holds another kind of label maps now.
        OutputError: the folder's own files cannot be read.
    """
    seen = _stamps(plan.output)
    if seen == plan.seen:
        return plan
    standing = standing_in(plan.output)
    previous, entries = _state_of(standing, overwrite=plan.overwrite)
    _check_kind(previous, plan.request, plan.output, standing, overwrite=plan.overwrite)
    pictures = [(item.image, item.classes) for item in plan.items]
    return _filled(replace(plan, previous=previous, seen=seen), pictures, entries, standing)


def _absolute(output: Place) -> Place:
    found = expanded(output)
    return found.absolute() if isinstance(found, Path) else found


def _stamps(folder: Place) -> tuple[Any, ...]:
    """What changes when the journal or the manifest of a folder is written: each is replaced by a new file."""
    stamps: list[Any] = []
    for name in (JOURNAL_NAME, MANIFEST_NAME):
        path = folder / name
        try:
            if isinstance(path, Url):
                stamps.append(path.facts())
                continue
            status = path.stat()
        except OSError:
            stamps.append(None)
        else:
            stamps.append((status.st_ino, status.st_size, status.st_mtime_ns))
    return tuple(stamps)


def _has_failed(entry: Entry | None) -> bool:
    return entry is not None and entry.status == "failed"


def _check_kind(
    previous: Manifest | None, request: Request, output: Place, standing: Place, *, overwrite: bool
) -> None:
    """Refuse a folder, as typed and as it stands, of another kind of label maps, except to those who overwrite."""
    difference = None if previous is None or overwrite else _difference(previous, request)
    if previous is None or difference is None or not _has_label_maps(standing):
        return
    hint = ""
    if request.image_classes is not None and previous.class_names != request.classes:
        hint = " Where --classes names them all, another line of the image classes changes its own picture alone."
    raise UsageError(
        f"{output} holds label maps {difference}. Add --overwrite to replace them, "
        f"or choose another folder with -o.{hint}"
    )


def _has_label_maps(folder: Place) -> bool:
    """Whether an output folder holds a label map: a run that ended before its first one leaves none."""
    if isinstance(folder, Url):
        return is_folder(folder / MASK_FOLDER)
    return any(files for _, _, files in os.walk(folder / MASK_FOLDER))


def _filled(
    plan: Plan, pictures: Sequence[tuple[InputImage, tuple[str, ...] | None]], entries: dict[str, Entry], folder: Place
) -> Plan:
    """A plan with all that depends on what is in its folder.

    Args:
        plan: what is asked for.
        pictures: the images in their order, each with the classes that may be in it.
        entries: the folder's journal.
        folder: the output folder; at a URL it is listed.
    """
    request, overwrite = plan.request, plan.overwrite
    changed = plan.previous is not None and _difference(plan.previous, request) is not None
    items = tuple(
        _plan_image(image, folder, request, classes, entries, overwrite=overwrite) for image, classes in pictures
    )
    planned = {picture_id(item.image.path) for item in items}
    others = [entry for path, entry in entries.items() if path not in planned]
    kept: tuple[Entry, ...] = ()
    if changed:
        # Their ids mean other classes now: leaving them beside the new ones would mislabel them.
        stale = _files_of(entries.values())
    else:
        _check_collisions(items, others, plan.output, overwrite=overwrite)
        taken = {item.output for item in items}
        kept = tuple(entry for entry in others if entry.output not in taken and _is_there(entry, folder))
        replaced = [name for entry in others if entry.output in taken for name in entry.drawings]
        drawn = {name for item in items for name in item.files}
        stale = _moved(items, entries) + [name for name in replaced if name not in drawn]
    finished = {entry.output for entry in entries.values() if entry.status == "done"}
    # A label map that the journal does not know is one whose run was killed in between: unfinished, not changed.
    redone = sum(
        i.action == "segment" and not i.again and i.output in finished and is_there(folder / i.output) for i in items
    )
    return replace(plan, items=items, kept=kept, stale=tuple(stale), redone=redone)


def _match(images: Sequence[InputImage], request: Request) -> ImageMatches:
    """What the file of image classes says about each image."""
    if request.image_classes is None:
        return ImageMatches((None,) * len(images), ())
    matched = request.image_classes.match(images)
    bare = next((line for line in matched.lines if line is not None and not line.classes), None)
    if bare is not None and not request.options.background:
        raise UsageError(
            f"{request.image_classes.path}, line {bare.number}: {bare.picture!r} shows no class, and without "
            "background its pixels must have one. Name one, or leave out --no-background."
        )
    return matched


def resume_key(path: Place, request: Request, classes: Sequence[str] | None = None, *, stamp: str | None = None) -> str:
    """A digest that changes with the picture, byte for byte, and with what decides its label map.

    Args:
        path: the picture.
        request: what is to be made.
        classes: the classes that may be in this picture, None when nobody says.
        stamp: what changes with its bytes, of one at a URL, which is not read for that.

    Raises:
        ImageError: the file cannot be read.
    """
    parts: list[Any] = [
        _content_of(path, stamp),
        request.classes,
        request.method,
        request.options.background,
        request.options.threshold,
        request.digest,
        *([] if classes is None else [list(classes)]),
    ]
    return hashlib.sha256(json.dumps(parts).encode()).hexdigest()


def _content_of(path: Place, stamp: str | None) -> str:
    """What changes with a picture's bytes.

    Raises:
        ImageError: the file cannot be read.
    """
    if isinstance(path, Url):
        return stamp or ""
    if special_kind(path) is not None:
        raise ImageError("is no file")
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise ImageError(f"cannot be read: {error.strerror}") from error


def check_output(inputs: Sequence[str], output: Place) -> None:
    """Refuse an output folder that is an input, or that contains one: pictures and results would mix.

    Raises:
        UsageError: it is so, or nothing can be written there.
    """
    if isinstance(output, Url) and output.scheme in ("http", "https"):
        raise UsageError(f"Nothing can be written to {output}: -o takes a folder, or a store such as s3://.")
    target = output if isinstance(output, Url) else Path(os.path.realpath(output))
    for given in inputs:
        if given == "-":
            continue
        source = _fixed_part(given)
        if same_or_inside(source, target):
            relation = "is the input folder" if source == target else f"contains the input {given}"
            raise UsageError(f"The output folder {output} {relation}. Choose another one with -o.")


def _fixed_part(given: str) -> Place:
    """The path of an input, up to its first wildcard."""
    path = expanded(given)
    if isinstance(path, Url):
        parts = path.path.split("/")
        first = next((i for i, part in enumerate(parts) if glob.has_magic(part)), len(parts))
        return replace(path, path="/".join(parts[:first])) if path.scheme not in ("http", "https") else path
    if not os.path.exists(path) and glob.has_magic(given):
        fixed: list[str] = []
        for part in path.parts:
            if glob.has_magic(part):
                break
            fixed.append(part)
        path = Path(*fixed)
    return Path(os.path.realpath(path))  # unlike `Path.resolve`, this bears links in circles


def _state_of(folder: Place, *, overwrite: bool) -> tuple[Manifest | None, dict[str, Entry]]:
    """What earlier runs left in `folder`; damage is forgiven only to those who overwrite."""
    if folder.exists() and not is_folder(folder):
        raise UsageError(f"The output {folder} is a file. Choose a folder with -o.")
    try:
        return read_manifest(folder), read_journal(folder)
    except OutputError:
        if overwrite:
            return None, {}
        raise


def _difference(previous: Manifest, request: Request) -> str | None:
    """How the label maps in a folder differ in kind from what is asked for now, in words; None if they do not."""
    if previous.class_names != request.classes:
        return f"of other classes ({_changed(previous.class_names, request.classes)})"
    if previous.method.get("used") != request.method:
        return f"made by the method {previous.method.get('used')!r}, and this run would use {request.method!r}"
    if previous.background != request.options.background:
        return "with background" if previous.background else "without background"
    return None


def _changed(before: Sequence[str], now: Sequence[str]) -> str:
    """How one list of classes differs from another, in words."""
    new, gone = ([name for name in these if name not in those] for these, those in ((now, before), (before, now)))
    parts = [
        *([f"they lack {listed_names(new)}"] if new else []),
        *([f"they have {listed_names(gone)}"] if gone else []),
    ]
    return ", and ".join(parts) or f"the same in another order: {listed_names(before)}"


def _plan_image(
    image: InputImage,
    folder: Place,
    request: Request,
    classes: tuple[str, ...] | None,
    entries: dict[str, Entry],
    *,
    overwrite: bool,
) -> PlanItem:
    paths = {kind.field: kind.path(image.key) for kind in ARTEFACTS if kind.wanted(request)}
    mask, overlay, explain = LABEL_MAPS.path(image.key), paths.get("overlay"), paths.get("explain")
    scores = paths.get("probabilities")
    try:
        key = resume_key(image.path, request, classes, stamp=image.stamp)
    except ImageError:
        key = ""  # opening it will fail in a moment, and say why
    entry = entries.get(picture_id(image.path))
    holds = (
        not overwrite
        and entry is not None
        and entry.status == "done"
        and entry.key == key != ""
        and LABEL_MAPS.fits(entry, mask, folder)
    )
    item = PlanItem(
        image=image,
        output=mask,
        overlay=overlay,
        explain=explain,
        probabilities=scores,
        key=key,
        action="segment",
        classes=classes,
    )
    if not holds or entry is None:
        return item
    if scores is not None and not any(kind.fits(entry, scores, folder) for kind in PROBABILITIES):
        # What was drawn of the label map stays, asked for or not.
        overlay, explain = overlay or entry.overlay, explain or entry.explain
        return replace(item, overlay=overlay, explain=explain, entry=entry, again=True)
    drawn = overlay is None or OVERLAYS.fits(entry, overlay, folder)
    explained = explain is None or EXPLANATIONS.fits(entry, explain, folder)
    return replace(item, action="explain" if not explained else "skip" if drawn else "draw", entry=entry)


def _check_collisions(items: Iterable[PlanItem], others: Iterable[Entry], output: Place, *, overwrite: bool) -> None:
    """Refuse to replace the label map of another picture that still exists (`a/x.jpg` after `b/x.jpg`)."""
    owners = {entry.output: entry.path for entry in others if entry.output is not None}
    for item in items:
        owner = owners.get(item.output)
        if owner is not None and not overwrite and is_there(place(owner)):
            raise UsageError(
                f"{output / item.output} belongs to {owner} and would be replaced by that of {item.image.path}. "
                "Choose another folder with -o, or add --overwrite."
            )


def _is_there(entry: Entry, folder: Place) -> bool:
    return entry.output is None or is_file(folder / entry.output)


def _files_of(entries: Iterable[Entry]) -> list[str]:
    return [name for entry in entries for name in (entry.output, *entry.drawings) if name is not None]


def _moved(items: Sequence[PlanItem], entries: dict[str, Entry]) -> list[str]:
    """Files of planned pictures that fit no more.

    A label map whose picture has another name now (`x.png`, now `x.jpg.png` beside a new `x.webp`), and a drawing of
    a label map that moves or is made again. A drawing that still fits stays, asked for or not.
    """
    taken = {name for item in items for name in item.files}
    stale = []
    for item in items:
        entry = entries.get(picture_id(item.image.path))
        if entry is None:
            continue
        remade = item.action == "segment" or entry.output != item.output
        names = (entry.output, *(entry.drawings if remade else ()))
        stale += [name for name in names if name is not None and name not in taken]
    return stale
