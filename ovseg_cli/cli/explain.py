"""explain: why a pixel of a picture got its class."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ovseg_cli.cli.common import Common, command
from ovseg_cli.cli.complete import complete_method
from ovseg_cli.cli.options import (
    BackgroundOpt,
    ClassesOpt,
    ExtractorsOpt,
    PrefilterOpt,
    PrototypesOpt,
    RefineOpt,
    StuffFilterOpt,
    ThresholdOpt,
    segment_options,
    split_names,
)
from ovseg_cli.errors import UsageError

if TYPE_CHECKING:
    from ovseg_cli.choices import SegmentOptions
    from ovseg_cli.explain import Explanation
    from ovseg_cli.precision import Precision
    from ovseg_cli.runs.journal import Entry
    from ovseg_cli.runs.manifest import Manifest
    from ovseg_cli.segmenter import Segmentation
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


@dataclass(frozen=True, slots=True, kw_only=True)
class _Asked:
    """What is to be explained: the classes, the method, and everything else that decides a label map."""

    names: tuple[str, ...]
    method: str
    options: SegmentOptions


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
    classes: ClassesOpt = None,
    method: Annotated[
        str | None,
        typer.Option(
            "--method",
            metavar="METHOD",
            autocompletion=complete_method,
            help="auto, prototype, or one of CLIP's patches: maskclip, clipsurgery, sclip, clearclip, naclip, gem, "
            "proxyclip.",
            show_default=False,
        ),
    ] = None,
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
    background: BackgroundOpt = None,
    threshold: ThresholdOpt = None,
    prefilter: PrefilterOpt = None,
    stuff_filter: StuffFilterOpt = None,
    extractors: ExtractorsOpt = None,
    prototypes: PrototypesOpt = None,
    refine: RefineOpt = None,
) -> None:
    """Explain why pixels got their classes.

    Says which prototype won, against which other, and shows the support image that it comes from.
    Without --classes and --run, all classes of the store are looked for.
    """
    from ovseg_cli.choices import resolve_method
    from ovseg_cli.drawing.palettes import for_display
    from ovseg_cli.explain import HOW_CHOSEN, Explainer, as_data, draw
    from ovseg_cli.files.atomic import write_image
    from ovseg_cli.files.images import open_image
    from ovseg_cli.files.labels import LabelMap
    from ovseg_cli.methods.catalogue import check_explained
    from ovseg_cli.segmenter import Segmenter

    points = [_point(text) for text in at or ()]
    target = _target(image, output)
    given = {
        "--classes": classes,
        "--method": method,
        "--background": background,
        "--threshold": threshold,
        "--prefilter": prefilter,
        "--stuff-filter": stuff_filter,
        "--extractors": extractors,
        "--prototypes": prototypes,
        "--refine": refine,
    }
    options = segment_options(
        background=background,
        threshold=threshold,
        prefilter=prefilter,
        extractors=extractors,
        prototypes=prototypes,
        stuff_filter=stuff_filter,
        refine=refine,
    )
    manifest = None if run is None else _manifest(run, given)
    picture = open_image(image)
    _check_points(points, picture.size)
    with common.open_store(create=manifest is None) as store:
        if manifest is not None:
            asked = _as_in(manifest)
            _compare_store(common, store, manifest)
        else:
            asked = _Asked(names=_names(store, split_names(classes)), method=method or "auto", options=options)
        choice = resolve_method(store, asked.names, asked.method)
        check_explained(choice.method, choice.reason if choice.asked == "auto" else "")
        precision: Precision = common.precision
        if manifest is not None and common.options.precision is None:
            precision = manifest.settings.get("precision", "auto")
        models = common.load_models(common.profile_of(store), precision=precision)
        segmenter = Segmenter(models, store, asked.names, method=choice, options=asked.options)
        if segmenter.choice.asked == "auto" and segmenter.choice.missing:
            common.out.note(f"{segmenter.choice.reason}: explained is {segmenter.method}")
        for note in segmenter.notes if manifest is None else ():
            common.out.note(note)
        entry = None if run is None else _entry_of(run, image)
        present = list(entry.kept or ()) if entry is not None and entry.kept_by == "image-classes" else None
        segmentation, explanations = Explainer(segmenter, store).explain(picture, points or None, present)
    if segmentation.unfamiliar and models.profile.domain is not None:
        common.out.warning(models.profile.domain.remark(1, 1, "its labels mean little"))
    was = None if run is None or manifest is None else _labels_of_run(common, run, manifest, image, entry, explanations)
    labels = for_display(LabelMap.from_classes(asked.names))
    sheet = draw(picture, segmentation.ids, labels, explanations, note="" if points else HOW_CHOSEN)
    write_image(target, sheet)
    data = {
        "image": str(image),
        "size": list(picture.size),
        "method": segmentation.method,
        "classes": list(asked.names),
        "background": asked.options.background,
        "threshold": asked.options.threshold,
        "refine": asked.options.refine,
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
    from ovseg_cli.cli.segment import short_path
    from ovseg_cli.explain import describe

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
    from ovseg_cli.explain import check_point

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


def _names(store: Store, classes: Sequence[str]) -> tuple[str, ...]:
    from ovseg_cli.runs.classes import stored_names

    names = stored_names(store, classes) if classes else tuple(store.class_names())
    if not names:
        raise UsageError(
            f"The store {store.path} has no classes yet: name what to look for with --classes, "
            "or make classes with ovseg add-class NAME."
        )
    return names


# ---------------------------------------------------------------------- as in an earlier run


def _manifest(run: Path, given: dict[str, Any]) -> Manifest:
    """What made an output folder.

    Raises:
        UsageError: It is none, or other settings were given beside it.
    """
    from ovseg_cli.runs.manifest import MANIFEST_NAME, read_manifest

    beside = [name for name, value in given.items() if value not in (None, [])]
    if beside:
        raise UsageError(f"--run takes everything from that folder: leave out {', '.join(beside)}, or --run.")
    manifest = read_manifest(run)
    if manifest is None:
        raise UsageError(f"{run} is no output folder of ovseg segment: it has no {MANIFEST_NAME}.")
    if not manifest.settings:
        raise UsageError(f"The run in {run} ended before it segmented anything. Run ovseg segment again.")
    return manifest


def _as_in(manifest: Manifest) -> _Asked:
    """The classes, the method and the options of a run."""
    from ovseg_cli.choices import SegmentOptions

    options = SegmentOptions.from_record(manifest.options)
    return _Asked(names=manifest.class_names, method=str(manifest.method["used"]), options=options)


def _compare_store(common: Common, store: Store, manifest: Manifest) -> None:
    """Say when the store is another than that of the run, or has classes that were made anew since."""
    used = manifest.store.get("path")
    if used is not None and Path(used) != store.path:
        common.out.note(f"that run used the store {used}, and this explanation uses {store.path}")
    changed = [
        name
        for name, generation in manifest.settings.get("prototypes", ())
        if store.has_class(name) and store.get_class(name).generation != generation
    ]
    if changed:
        common.out.note(f"made anew since that run, so that its answer may have been another: {', '.join(changed)}")


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
