"""segment: a label map for every picture."""

from __future__ import annotations

import shlex
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer
from rich.text import Text

from ovseg_cli.cli.common import Common, command
from ovseg_cli.cli.complete import complete_method
from ovseg_cli.cli.options import (
    PICTURES,
    RUNNING,
    WITH_WORDS,
    BackgroundOpt,
    ClassesOpt,
    DryRunOpt,
    ExtractorsOpt,
    PrefilterOpt,
    PrototypesOpt,
    RefineOpt,
    StuffFilterOpt,
    ThresholdOpt,
    segment_options,
    split_names,
)
from ovseg_cli.cli.output import Milestones, Part, amount, duration, percent, table
from ovseg_cli.errors import UnknownClassError, UsageError

if TYPE_CHECKING:
    from ovseg_cli.choices import MethodChoice, SegmentOptions
    from ovseg_cli.files.discovery import InputImage
    from ovseg_cli.files.image_classes import ImageClasses
    from ovseg_cli.profiles import Profile
    from ovseg_cli.runs.plan import Plan
    from ovseg_cli.runs.segment import RunSummary
    from ovseg_cli.store import Store

EXIT_SOME_FAILED = 3
_MOST_NAMED = 5
_ALL_SHOWN = 30  # so many classes the summary lists even if no picture shows them


def register(app: typer.Typer) -> None:
    """Add this command to the application."""
    command(
        app,
        "segment",
        examples=(
            "ovseg segment photos/ --classes cat,dog",
            "ovseg segment 'photos/**/*.jpg' -c cat -c dog --overlay -o result",
            "find photos -name '*.png' | ovseg segment - --method gem -c cat",
        ),
    )(segment)


def segment(
    common: Common,
    inputs: Annotated[
        list[str],
        typer.Argument(metavar="INPUT", help="Pictures, folders, patterns, a .txt list, or - for stdin."),
    ],
    classes: ClassesOpt = None,
    method: Annotated[
        str,
        typer.Option(
            "--method",
            metavar="METHOD",
            autocompletion=complete_method,
            help="prototype, hybrid, a method that reads words (gem, sclip, cliper, ...: see ovseg methods), or auto: "
            "prototypes if all classes have them, hybrid if some have, else the profile's best.",
        ),
    ] = "auto",
    output: Annotated[Path, typer.Option("--output", "-o", metavar="DIR", help="Where the results go.")] = Path(
        "ovseg-out"
    ),
    overlay: Annotated[bool, typer.Option("--overlay", help="Also draw the labels on the pictures.")] = False,
    explain: Annotated[
        bool,
        typer.Option("--explain", help="Also show why: the prototypes and support images behind each class found."),
    ] = False,
    background: BackgroundOpt = None,
    threshold: ThresholdOpt = None,
    prefilter: PrefilterOpt = None,
    stuff_filter: StuffFilterOpt = None,
    extractors: ExtractorsOpt = None,
    prototypes: PrototypesOpt = None,
    refine: RefineOpt = None,
    class_file: Annotated[
        Path | None,
        typer.Option(
            "--class-file",
            metavar="FILE",
            help="Classes to look for, one per line, with synonyms behind semicolons.",
            show_default=False,
        ),
    ] = None,
    background_line: Annotated[
        Literal["named", "first"],
        typer.Option(
            "--background-line",
            rich_help_panel=WITH_WORDS,
            help="Which line of the class file lists words for none of the classes: one that begins with background, "
            "or the first, as in published files of Pascal VOC.",
        ),
    ] = "named",
    image_classes: Annotated[
        Path | None,
        typer.Option(
            "--image-classes",
            metavar="FILE",
            help="Which classes each picture shows, in the pre-filter's place: one picture per line, "
            "sub/photo.jpg: cat; dog",
            show_default=False,
        ),
    ] = None,
    synonyms: Annotated[
        list[str] | None,
        typer.Option(
            "--synonym",
            metavar="CLASS=WORD",
            rich_help_panel=WITH_WORDS,
            help="With words: another word for a class; may be given several times.",
            show_default=False,
        ),
    ] = None,
    settings: Annotated[
        str | None,
        typer.Option(
            "--settings",
            rich_help_panel=WITH_WORDS,
            metavar="DATASET",
            help="With words: the method's published settings for voc21, voc20, context60, context59, coco-object, "
            "coco-stuff, ade150 or cityscapes; other options take the place of single ones. (default: voc21, or "
            "voc20 with --no-background)",
            show_default=False,
        ),
    ] = None,
    templates: Annotated[
        Literal["single", "short", "car", "imagenet", "imagenet-scene"] | None,
        typer.Option(
            "--templates",
            rich_help_panel=WITH_WORDS,
            help="With words: the prompts that each is read in: 1, 7, 15, 80 or 85. (default: the method's)",
            show_default=False,
        ),
    ] = None,
    logit_scale: Annotated[
        float | None,
        typer.Option(
            "--logit-scale",
            metavar="X",
            rich_help_panel=WITH_WORDS,
            help="With words: how sharply they compete. (default: the method's)",
            show_default=False,
        ),
    ] = None,
    short_side: Annotated[
        int | None,
        typer.Option(
            "--short-side",
            metavar="N",
            rich_help_panel=PICTURES,
            help="Pixels of the short side that pictures are worked at. (default: the method's)",
            show_default=False,
        ),
    ] = None,
    windows: Annotated[
        list[str] | None,
        typer.Option(
            "--windows",
            metavar="SIZE/STRIDE",
            rich_help_panel=PICTURES,
            help="Sliding windows of that size in pixels, or whole; may be given several times. "
            "(default: the method's)",
            show_default=False,
        ),
    ] = None,
    overwrite: Annotated[
        bool,
        typer.Option(
            "--overwrite",
            rich_help_panel=RUNNING,
            help="Make everything again; also to change the classes of a folder.",
        ),
    ] = False,
    limit: Annotated[
        int | None,
        typer.Option(
            "--limit",
            min=1,
            metavar="N",
            rich_help_panel=RUNNING,
            help="Only the first N pictures.",
            show_default=False,
        ),
    ] = None,
    batch: Annotated[
        int | None,
        typer.Option(
            "--batch",
            min=1,
            max=1024,
            metavar="N",
            rich_help_panel=RUNNING,
            help="Pictures of one size that are segmented together. (default: 8 on a GPU, 1 on a CPU)",
            show_default=False,
        ),
    ] = None,
    dry_run: DryRunOpt = False,
    fail_fast: Annotated[
        bool,
        typer.Option("--fail-fast", rich_help_panel=RUNNING, help="Stop at the first picture that cannot be read."),
    ] = False,
) -> None:
    """Name every pixel of a picture, or of many.

    Without --classes, all classes of the store are looked for, or those in the file of --image-classes.
    What is done is skipped the next time, so an interrupted run goes on where it stopped.
    Exit code 3: finished, but some pictures could not be read.
    """
    from ovseg_cli.choices import check_method
    from ovseg_cli.runs.plan import find_images

    # What is wrong with the request itself is told before a store is made for it.
    images = find_images(inputs, output)
    check_method(method)
    names = split_names(classes)
    listed = None
    if background_line != "named" and class_file is None:
        raise UsageError("--background-line belongs to --class-file: name the file too.")
    if class_file is not None:
        if names:
            raise UsageError("--class-file and --classes exclude each other: name the classes in one place.")
        from ovseg_cli.files.class_file import read_class_file
        from ovseg_cli.files.labels import is_background

        listed = read_class_file(class_file, first_is_background=background_line == "first")
        names = listed.classes
        if listed.background is not None and all(map(is_background, listed.background)):
            common.out.note(
                f"{class_file} has a line {listed.background[0]!r} without words, so that one word stands for what is "
                "none of the classes, in place of the profile's own. Leave the line out to keep those."
            )
    shown = None
    if image_classes is not None:
        from ovseg_cli.files.image_classes import read_image_classes

        shown = read_image_classes(image_classes)
    options = segment_options(
        background=background,
        threshold=threshold,
        prefilter=prefilter,
        extractors=extractors,
        prototypes=prototypes,
        stuff_filter=stuff_filter,
        refine=refine,
        settings=settings,
        templates=templates,
        logit_scale=logit_scale,
        short_side=short_side,
        windows=windows,
        synonyms=synonyms,
        listed=listed,
    )
    with common.open_store() if not dry_run else common.store_for_planning() as store:
        plan = plan_segmentation(
            common,
            store,
            inputs,
            output,
            images=images,
            classes=names,
            method=method,
            options=options,
            overlay=overlay,
            explain=explain,
            overwrite=overwrite,
            limit=limit,
            image_classes=shown,
        )
        if dry_run:
            _show_plan(common, plan)
            return
        summary = run_segmentation(common, store, plan, fail_fast=fail_fast, batch=batch)
    common.out.result(
        summary_data(summary),
        human=lambda: show_summary(common, summary, overlay=overlay, explain=explain),
        quiet=[summary.output],
    )
    if summary.failed:
        raise typer.Exit(EXIT_SOME_FAILED)


def _instead(choice: MethodChoice, profile: Profile) -> str:
    """What `auto` does for classes without prototypes."""
    from ovseg_cli.methods.catalogue import METHODS

    if choice.method == "hybrid":
        return f"they are found by their names, with {METHODS[profile.clip.best].title} beside the others' prototypes"
    return f"all classes are segmented with {METHODS[choice.method].title}, which needs none"


def _add_class(missing: Sequence[str]) -> str:
    """How to make prototypes of the first of these classes that can have some."""
    from ovseg_cli.names import MAX_NAME_LENGTH

    named = [name for name in missing if len(name) <= MAX_NAME_LENGTH][:_MOST_NAMED]
    dashes = ["--"] if any(name.startswith("-") for name in named) else []
    return f" For prototypes: ovseg add-class {shlex.join([*dashes, *named])}" if named else ""


def _near(store: Store, missing: Sequence[str]) -> str:
    """A hint at the stored names that missing ones may be misspellings of."""
    from ovseg_cli.names import nearest, question, shown_name

    known = store.class_names()
    # Most of these are words that only have no prototypes: more alike than where a name must be a slip.
    near = {name: nearest(name, known, alike=0.75) for name in missing[:_MOST_NAMED]}
    return question(f"{shown_name(found[0])} (for {shown_name(name)})" for name, found in near.items() if found)


def plan_segmentation(
    common: Common,
    store: Store,
    inputs: Sequence[str],
    output: Path,
    *,
    images: Sequence[InputImage] | None = None,
    classes: Sequence[str] = (),
    method: str = "auto",
    options: SegmentOptions | None = None,
    overlay: bool = False,
    explain: bool = False,
    overwrite: bool = False,
    limit: int | None = None,
    image_classes: ImageClasses | None = None,
) -> Plan:
    """Decide about classes and method, and plan the run; says so when `auto` does without prototypes.

    Raises:
        UsageError: see `ovseg_cli.runs.plan.plan_run` and `ovseg_cli.segmenter.resolve_options`, and when there is no
            class to look for, or a picture has a class that is not looked for.
        UnknownClassError: the method is `prototype` and a class has none.
        ProfileMismatchError: a class has no prototypes by one of the extractors.
    """
    from ovseg_cli.choices import SegmentOptions, plan_digest, resolve_method, resolve_options
    from ovseg_cli.methods.catalogue import check_explained
    from ovseg_cli.names import listed_names
    from ovseg_cli.runs.classes import stored_names
    from ovseg_cli.runs.plan import Request, plan_run

    options = options or SegmentOptions()
    if classes or image_classes is None:
        names = stored_names(store, classes) if classes else tuple(store.class_names())
    else:
        names = stored_names(store, image_classes.classes)
    if not names and image_classes is not None:
        raise UsageError(f"{image_classes.path} names no class. Name what to look for with --classes.")
    if not names:
        raise UsageError(
            "The store has no classes yet: name what to look for with --classes, "
            "or make classes with ovseg add-class NAME."
        )
    try:
        choice = resolve_method(store, names, method)
    except UnknownClassError as error:
        if classes or image_classes is None:
            raise
        number = image_classes.line_of(next(name for name in names if not store.has_class(name)))
        raise UnknownClassError(f"{image_classes.path}, line {number}: {error}") from error
    if image_classes is not None:
        image_classes = image_classes.among(names)
    if explain:
        check_explained(choice.method, choice.reason if choice.asked == "auto" else "")
    profile = common.profile_of(store)
    resolved = resolve_options(store, profile, names, choice, options)
    request = Request(
        classes=names,
        method=choice.method,
        asked=choice.asked,
        reason=choice.reason,
        options=options,
        prefilter=resolved.prefilter is not None,
        digest=plan_digest(store, profile, names, choice, options, common.precision),
        overlay=overlay,
        explain=explain,
        image_classes=image_classes,
    )
    plan = plan_run(inputs, output, request, images=images, overwrite=overwrite, limit=limit)
    if choice.asked == "auto" and choice.missing:
        common.out.note(
            f"no prototypes for {listed_names(choice.missing)}: {_instead(choice, profile)}."
            f"{_near(store, choice.missing)}{_add_class(choice.missing)}"
        )
    for note in resolved.notes:
        common.out.note(note)
    for note in _about_image_classes(plan, of_file=not classes):
        common.out.note(note)
    if plan.redone and not overwrite:
        common.out.note(
            f"{amount(plan.redone, 'label map')} in {output} came from other pictures or settings; made again"
        )
    return plan


def _about_image_classes(plan: Plan, *, of_file: bool) -> Iterator[str]:
    """What people should know of how a file of image classes fits the pictures of a run.

    Args:
        plan: the run.
        of_file: whether the classes to look for are those of the file.
    """
    from ovseg_cli.names import listed, listed_names

    request, unnamed = plan.request, plan.unnamed
    if request.image_classes is None:
        return
    path = request.image_classes.path
    if of_file:
        count = amount(len(request.classes), "class", "classes")
        yield f"looking for the {count} of {path}: {listed_names(request.classes)}"
    if unnamed:
        verb = "the pre-filter decides" if request.prefilter else "all classes are looked for"
        names = listed([str(item.image.path) for item in unnamed])
        yield f"{path} does not name {amount(len(unnamed), 'picture')}, where {verb}: {names}"
    if plan.strays:
        names = listed([f"{line.picture} (line {line.number})" for line in plan.strays])
        verb = "names" if len(plan.strays) == 1 else "name"
        yield f"{amount(len(plan.strays), 'line')} of {path} {verb} no picture of this run: {names}"


def run_segmentation(
    common: Common,
    store: Store,
    plan: Plan,
    *,
    fail_fast: bool = False,
    recorded: bool = True,
    batch: int | None = None,
) -> RunSummary:
    """Carry out a plan with a progress bar.

    Args:
        common: the command's context.
        store: where prototypes come from.
        plan: what to do.
        fail_fast: stop at the first picture that cannot be read.
        recorded: whether the store remembers the run, so that a later `eval` scores it.
        batch: how many pictures may go through the models together; None for the device's default.
    """
    from ovseg_cli.runs.segment import Loaded, Step, run_folder

    profile = common.profile_of(store)
    request = plan.request
    with common.out.progress() as bars:
        bar = bars.start("looking at what is done", total=len(plan.items))

        def load() -> Loaded:
            from ovseg_cli.segmenter import Segmenter

            bars.update(bar, text="loading the models")
            models = common.load_models(profile)
            segmenter = Segmenter(
                models,
                store,
                request.classes,
                method=request.method,
                options=request.options,
                progress=Part(common.out, bars, "reading the class names", "words"),
            )
            return Loaded(segmenter, models.device, str(models.dtype).removeprefix("torch."))

        milestones = Milestones(common.out, len(plan.items), "pictures")
        idle = plan.count("skip") == len(plan.items)

        def tell(step: Step) -> None:
            if not idle:
                milestones.reach(step.done)
            bars.update(bar, done=step.done, text=step.path.name)

        try:
            summary = run_folder(
                plan,
                load,
                store,
                profile,
                argv=common.argv,
                progress=tell,
                fail_fast=fail_fast,
                recorded=recorded,
                batch=batch,
            )
        except KeyboardInterrupt:
            if recorded:
                common.out.note("what is done is kept; run the same command to go on")
            raise
    if profile.domain is not None and summary.unfamiliar:
        so = "its label map means little" if summary.unfamiliar == 1 else "their label maps mean little"
        common.out.warning(profile.domain.remark(summary.unfamiliar, summary.done + summary.skipped, so))
    return summary


def summary_data(summary: RunSummary) -> dict[str, Any]:
    """A run as `--json` prints it."""
    return {
        "output": str(summary.output),
        "method": summary.method,
        "prefilter": summary.prefilter,
        "given": summary.given,
        "unfamiliar": summary.unfamiliar,
        "images": summary.images,
        **{key: value for key, value in summary.counts().items()},
        "failures": [{"path": failure.path, "reason": failure.reason} for failure in summary.failed],
        "seconds": round(summary.seconds, 2),
        "classes": [
            {
                "name": name,
                "images": summary.images_with.get(name, 0),
                "share": round(summary.shares.get(name, 0.0), 6),
            }
            for name in summary.classes
        ],
    }


def show_summary(common: Common, summary: RunSummary, *, overlay: bool, explain: bool = False) -> None:
    """What was done, which classes were found, and where to look."""
    out = common.out
    parts = [f"Segmented {amount(summary.done, 'picture')}"]
    if summary.skipped:
        parts.append(f"{summary.skipped} already done")
    if summary.failed:
        parts.append(f"{len(summary.failed)} failed")
    if summary.remaining:
        parts.append(f"{summary.remaining} not reached")
    how = [summary.method]
    if summary.given:
        how.append(f"classes given for {summary.given} of {summary.images}")
    if summary.prefilter and summary.given < summary.images:
        how.append("pre-filtered")
    out.line(f"{', '.join(parts)}, in {duration(summary.seconds)} ({', '.join(how)}).")
    mapped = summary.done + summary.skipped
    if mapped:
        _show_classes(common, summary, mapped)
    for failure in summary.failed[:_MOST_NAMED]:
        out.line(Text("failed  ", style="red"), failure.path, copyable=True)
    if len(summary.failed) > _MOST_NAMED:
        out.line(f"        and {len(summary.failed) - _MOST_NAMED} more (see predictions.jsonl)")
    if not mapped:
        return
    shown = short_path(summary.output)
    out.line("masks   ", f"{shown}/SegmentationClass", copyable=True)
    if overlay:
        out.line("look at ", f"{shown}/overlay", copyable=True)
    if explain:
        out.line("why     ", f"{shown}/explain", copyable=True)


def _show_classes(common: Common, summary: RunSummary, mapped: int) -> None:
    """The table of classes, those of most pixels first; of many, only those that one of the `mapped` pictures shows."""
    from ovseg_cli.names import short_name

    found = sorted(summary.classes, key=lambda name: -summary.shares.get(name, 0.0))
    if len(found) > _ALL_SHOWN:
        found = [name for name in found if name in summary.images_with]
    if not found:
        common.out.line(f"No picture shows any of the {len(summary.classes)} classes.")
        return
    pictures, shares = summary.images_with, summary.shares
    rows = [
        (short_name(name), f"{pictures.get(name, 0)} of {mapped}", percent(shares.get(name, 0.0))) for name in found
    ]
    common.out.show(table(("class", "left"), ("pictures", "right"), ("pixels", "right"), rows=rows))
    if len(found) < len(summary.classes):
        common.out.line(f"and {amount(len(summary.classes) - len(found), 'class', 'classes')} that no picture shows")


def short_path(path: Path) -> str:
    """A path as one would type it here."""
    try:
        return str(path.relative_to(Path.cwd()))
    except ValueError:
        return str(path)


def _show_plan(common: Common, plan: Plan) -> None:
    from ovseg_cli.names import short_name

    out, request = common.out, plan.request
    actions = {
        "segment": "would segment",
        "explain": "would explain only",
        "draw": "would draw the overlay only",
        "skip": "is done",
    }

    def human() -> None:
        for item in plan.items:
            given = "" if item.classes is None else f" ({', '.join(item.classes) or 'no class'})"
            out.line(
                f"{item.image.path} → {plan.output.name}/{item.output}: {actions[item.action]}{given}", copyable=True
            )
        for name in plan.stale:
            out.line(f"{plan.output.name}/{name}: would be removed")
        out.line(
            f"{amount(plan.count('segment'), 'picture')} to segment with {request.method}, "
            f"{len(plan.items) - plan.count('segment')} done; classes: {', '.join(map(short_name, request.classes))}"
        )

    data = {
        "output": str(plan.output),
        "classes": list(request.classes),
        "method": request.method,
        "reason": request.reason,
        "background": request.options.background,
        "prefilter": request.prefilter,
        "images": [
            {
                "path": str(item.image.path),
                "output": item.output,
                "action": item.action,
                "classes": None if item.classes is None else list(item.classes),
            }
            for item in plan.items
        ],
        "removed": list(plan.stale),
    }
    out.result(data, human=human, quiet=[item.image.path for item in plan.items if item.action == "segment"])
