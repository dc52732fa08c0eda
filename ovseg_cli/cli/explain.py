"""explain: why a pixel of a picture got its class."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from ovseg_cli.cli.common import Common, command
from ovseg_cli.cli.options import Query, with_query
from ovseg_cli.cli.output import short_path
from ovseg_cli.errors import NoInputError, UsageError

if TYPE_CHECKING:
    from ovseg_cli.explanations import Explanation
    from ovseg_cli.precision import Precision
    from ovseg_cli.runs.journal import Entry
    from ovseg_cli.runs.manifest import Manifest
    from ovseg_cli.segmentation.options import SegmentOptions
    from ovseg_cli.segmentation.segmenter import Segmentation
    from ovseg_cli.store import Store

_SUFFIXES = (".png", ".jpg", ".jpeg", ".webp")


def register(app: typer.Typer) -> None:
    """Add this command to the application."""
    command(
        app,
        "explain",
        examples=(
            "ovseg explain photo.jpg --at 120,80",
            "ovseg explain photos/a.jpg --at 120,80 --at 40,200 --run ovseg-out",
            "ovseg explain photo.jpg -c cat,dog -o why.png",
        ),
    )(explain)


@with_query
def explain(
    common: Common,
    image: Annotated[Path, typer.Argument(metavar="IMAGE", help="The picture.")],
    at: Annotated[
        list[str] | None,
        typer.Option(
            "--at",
            metavar="X,Y",
            help="The pixel, counted from the left and the top; may be given several times. "
            "(default: one in each class found)",
            show_default=False,
        ),
    ] = None,
    run: Annotated[
        Path | None,
        typer.Option(
            "--run",
            metavar="DIR",
            help="Classes (also those given for this picture), method and settings as in this output folder of "
            "ovseg segment.",
            show_default=False,
        ),
    ] = None,
    *,
    query: Query,
    output: Annotated[
        Path | None,
        typer.Option(
            "--output",
            "-o",
            metavar="FILE",
            help="The picture to write (.png). (default: the name of IMAGE with -explain, in this folder)",
            show_default=False,
        ),
    ] = None,
) -> None:
    """Explain why pixels got their classes.

    Says which prototype won, against which other, and shows the support image that it comes from.
    With a method that reads words, says which of them are most probable.
    Without --classes and --run, all classes of the store are looked for.
    """
    from ovseg_cli.atomic import write_image
    from ovseg_cli.drawing.palettes import for_display
    from ovseg_cli.files.images import open_image
    from ovseg_cli.files.labels import LabelMap
    from ovseg_cli.methods.catalogue import check_explained
    from ovseg_cli.runs.folder import wanted_classes
    from ovseg_cli.segmentation.recipe import choose_method, make_recipe

    points = [_point(text) for text in at or ()]
    target = _target(image, output)
    manifest = None if run is None else _manifest(run, query)
    if not os.path.lexists(image):
        raise NoInputError(f"{image} does not exist. Name an image.")
    picture = open_image(image)
    # What is wrong with the request itself is told before a store is made for it.
    with common.store_for_planning() if manifest is None else common.open_store(create=False) as store:
        precision: Precision = common.precision
        if manifest is not None:
            names, method, options = manifest.class_names, str(manifest.method["used"]), _options_of(manifest)
            _compare_store(common, store, manifest)
            if common.options.precision is None:
                precision = manifest.settings.get("precision", "auto")
        else:
            names, method, options = wanted_classes(store, query.classes), query.method, query.options
        profile = common.profile_of(store)
        with store.snapshot():
            choice = choose_method(store, profile, names, method)
            check_explained(choice.method, choice.reason if choice.asked == "auto" else "")
            recipe = make_recipe(store, profile, names, method=choice, options=options, precision=precision)

    from ovseg_cli.explanations import HOW_CHOSEN, Explainer, as_data, draw  # brings torch
    from ovseg_cli.segmentation.segmenter import Segmenter

    _check_points(points, picture.size)
    with common.open_store(create=manifest is None) as store:
        models = common.load_models(profile, precision=precision)
        segmenter = Segmenter.by_recipe(models, recipe, texts=store)
        if choice.asked == "auto" and choice.missing:
            common.out.note(f"{choice.reason}: explained is {choice.method}")
        for note in (*query.notes, *recipe.notes) if manifest is None else ():
            common.out.note(note)
        entry = None if run is None else _entry_of(run, image)
        present = list(entry.kept or ()) if entry is not None and entry.kept_by == "image-classes" else None
        segmentation, explanations = Explainer(segmenter, store).explain(picture, points or None, present)
    if segmentation.unfamiliar and models.profile.domain is not None:
        common.out.warning(models.profile.domain.remark(1, 1, "its labels mean little"))
    was = None if run is None or manifest is None else _labels_of_run(common, run, manifest, image, entry, explanations)
    labels = for_display(LabelMap.from_classes(names))
    sheet = draw(picture, segmentation.ids, labels, explanations, note="" if points else HOW_CHOSEN)
    write_image(target, sheet)
    data = {
        "image": str(image),
        "size": list(picture.size),
        "method": segmentation.method,
        "classes": list(names),
        "background": options.background,
        "threshold": options.threshold,
        "refine": options.refine,
        "kept": None if segmentation.kept is None else list(segmentation.kept),
        "unfamiliar": segmentation.unfamiliar,
        "picture": str(target),
        "points": [
            as_data(explanation) | ({} if was is None else {"label_in_run": was[i]})
            for i, explanation in enumerate(explanations)
        ],
    }
    common.out.result(data, human=lambda: _show(common, explanations, segmentation, target), quiet=[target])


def _show(common: Common, explanations: Sequence[Explanation], segmentation: Segmentation, target: Path) -> None:
    from ovseg_cli.explanations import describe

    out = common.out
    for explanation in explanations:
        first, *others = describe(explanation)
        out.line((f"{explanation.x},{explanation.y}", "bold"), "  ", first)
        for sentence in others:
            out.line("  ", sentence)
    out.line(f"by {segmentation.method}; look at ", short_path(target), copyable=True)


# ---------------------------------------------------------------------- what was asked for


def _point(text: str) -> tuple[int, int]:
    """A pixel as typed: two whole numbers with a comma between them."""
    parts = text.replace(" ", "").split(",")
    try:
        x, y = (int(part) for part in parts)
    except ValueError:
        raise UsageError(f"--at takes a pixel as X,Y, for example --at 120,80; got {text!r}.") from None
    return x, y


def _check_points(points: Sequence[tuple[int, int]], size: tuple[int, int]) -> None:
    """Refuse points outside a picture (width, height) before any model is loaded."""
    from ovseg_cli.explanations import check_point

    for point in points:
        check_point(point, (size[1], size[0]))


def _target(image: Path, output: Path | None) -> Path:
    """The picture to write; never the one to read."""
    target = Path(f"{image.stem}-explain.png") if output is None else output
    if target.suffix.lower() not in _SUFFIXES:
        raise UsageError(f"--output names a picture ({', '.join(_SUFFIXES)}); got {str(target)!r}.")
    if target.resolve() == image.resolve():
        raise UsageError(f"--output {target} is the picture itself. Choose another name.")
    return target


# ---------------------------------------------------------------------- as in an earlier run


def _manifest(run: Path, query: Query) -> Manifest:
    """What made an output folder.

    Raises:
        UsageError: It is none, or other settings were given beside it.
    """
    from ovseg_cli.files.layout import MANIFEST_NAME
    from ovseg_cli.runs.manifest import read_manifest

    if query.given:
        raise UsageError(f"--run takes everything from that folder: leave out {', '.join(query.given)}, or --run.")
    manifest = read_manifest(run)
    if manifest is None:
        raise UsageError(f"{run} is no output folder of ovseg segment: it has no {MANIFEST_NAME}.")
    if not manifest.settings:
        raise UsageError(f"The run in {run} ended before it segmented anything. Run ovseg segment again.")
    return manifest


def _options_of(manifest: Manifest) -> SegmentOptions:
    """The options of a run."""
    from ovseg_cli.segmentation.options import SegmentOptions

    return SegmentOptions.from_record(manifest.options)


def _compare_store(common: Common, store: Store, manifest: Manifest) -> None:
    """Say when the store is another than that of the run, or has classes that were made anew since."""
    from ovseg_cli.names import listed_names

    used = manifest.store.get("path")
    if used is not None and Path(used) != store.path:
        common.out.note(f"that run used the store {used}, and this explanation uses {store.path}")
    changed = [
        name
        for name, generation in manifest.settings.get("prototypes", ())
        if store.has_class(name) and store.get_class(name).generation != generation
    ]
    if changed:
        common.out.note(f"made anew since that run, so that its answer may have been another: {listed_names(changed)}")


def _entry_of(run: Path, image: Path) -> Entry | None:
    """What the journal of a run says about a picture."""
    from ovseg_cli.files.discovery import picture_id
    from ovseg_cli.runs.journal import read_journal

    return read_journal(run).get(picture_id(image))


def _labels_of_run(
    common: Common,
    run: Path,
    manifest: Manifest,
    image: Path,
    entry: Entry | None,
    explanations: Sequence[Explanation],
) -> list[str | None]:
    """What the label map of a run says at the explained pixels; says so where that is something else."""
    from ovseg_cli.files.labels import LabelMap, read_label

    if entry is None or entry.output is None or not (run / entry.output).is_file():
        common.out.note(f"{run} has no label map of {image}")
        return [None] * len(explanations)
    labels = LabelMap.from_classes(manifest.class_names)
    ids = read_label(run / entry.output, labels)
    was: list[str | None] = []
    for e in explanations:
        inside = e.y < ids.shape[0] and e.x < ids.shape[1]
        was.append(labels.name_of(int(ids[e.y, e.x])) if inside else None)
        if was[-1] != e.label:
            common.out.note(f"at {e.x},{e.y} the label map in {run} says {was[-1]}, and now it is {e.label}")
    return was
