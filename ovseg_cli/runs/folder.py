"""Segmenting folders: from what is asked for to label maps, notes and a summary, without a command line."""

from __future__ import annotations

import shlex
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, Protocol

from ovseg_cli.errors import UnknownClassError, UsageError
from ovseg_cli.methods.catalogue import METHODS, check_explained
from ovseg_cli.methods.region_names import REGION_NAMES
from ovseg_cli.names import MAX_NAME_LENGTH, listed, listed_names, nearest, question, shown_name
from ovseg_cli.precision import Precision
from ovseg_cli.profiles import Profile, profile_of
from ovseg_cli.runs.classes import stored_names
from ovseg_cli.runs.engines.crew import Crew
from ovseg_cli.runs.engines.options import EngineOptions, make_crew
from ovseg_cli.runs.engines.workplace import ByRecipe, Loader, Segmenting
from ovseg_cli.runs.jobs import Order
from ovseg_cli.runs.ledger import RunSummary
from ovseg_cli.runs.plan import Plan, plan_run
from ovseg_cli.runs.request import Request
from ovseg_cli.runs.segment import CrewMaker, Step, run_folder
from ovseg_cli.runs.worker import Equipment, ReadySegmenter
from ovseg_cli.segmentation.options import SegmentOptions
from ovseg_cli.segmentation.recipe import Choice, Recipe, choose_method, make_recipe
from ovseg_cli.urls import Place

if TYPE_CHECKING:
    from ovseg_cli.files.discovery import InputImage
    from ovseg_cli.files.image_classes import ImageClasses
    from ovseg_cli.models import Models
    from ovseg_cli.store import Store

_MOST_NAMED = 5


@dataclass(frozen=True, slots=True, kw_only=True)
class FolderPlan:
    """A folder run, ready to start.

    Attributes:
        recipe: What decides the label maps.
        plan: The images, and what is to be done with each.
        notes: Sentences for people about what they may not expect.
    """

    recipe: Recipe
    plan: Plan
    notes: tuple[str, ...]


class Listener(Protocol):
    """Is told how far a folder run is."""

    def begin(self, plan: Plan) -> None:
        """The run begins."""

    def load(self) -> None:
        """The models are being loaded."""

    def read(self, done: int, total: int) -> None:
        """So many of the class names' words are read."""

    def step(self, step: Step) -> None:
        """An image is done."""


class _Nobody:
    """A listener that keeps it to itself."""

    def begin(self, plan: Plan) -> None: ...
    def load(self) -> None: ...
    def read(self, done: int, total: int) -> None: ...
    def step(self, step: Step) -> None: ...


def plan_folder(
    store: Store,
    inputs: Sequence[str],
    output: Place,
    *,
    images: Sequence[InputImage] | None = None,
    classes: Sequence[str] = (),
    method: str = "auto",
    options: SegmentOptions | None = None,
    overlay: bool = False,
    explain: bool = False,
    probabilities: Literal[0, 8, 16] = 0,
    overwrite: bool = False,
    limit: int | None = None,
    retry_failed: bool = False,
    image_classes: ImageClasses | None = None,
    precision: Precision = "auto",
    planning: bool = False,
) -> FolderPlan:
    """Decide about classes and method, and plan the run. No model is loaded and nothing is written.

    Args:
        store: An open store; its profile says which models are used.
        inputs: Files, folders, patterns, ``.txt`` lists or ``-``.
        output: The output folder.
        images: What `ovseg_cli.runs.plan.find_images` has found of these inputs, when it has been asked already.
        classes: Class names in any case; none for those of `image_classes`, or for all of the store.
        method: "auto", or one of `ovseg_cli.methods.catalogue.METHODS`.
        options: What else decides the label maps.
        overlay: Whether overlays are wanted too.
        explain: Whether explanations are wanted too.
        probabilities: In how many bits the scores are wanted too; 0 for not at all.
        overwrite: Whether everything is made again, also for other classes than the folder has.
        limit: Only the first so many images.
        retry_failed: Only images that have failed before.
        image_classes: Which classes each image shows.
        precision: What the networks are to compute in.
        planning: Whether the plan is only looked at; it cannot be run then.

    Raises:
        UsageError: See `ovseg_cli.runs.plan.plan_run` and `ovseg_cli.segmentation.recipe.make_recipe`, and when there
            is no class to look for, or an image has a class that is not looked for.
        UnknownClassError: The method matches prototypes, and a class has none.
        ProfileMismatchError: A class has no prototypes by one of the extractors.
        NoInputError: There is no image.
    """
    names = wanted_classes(store, classes, image_classes, method=method)
    profile = profile_of(store)
    try:
        with store.snapshot():
            choice = choose_method(store, profile, names, method)
            if explain:
                check_explained(choice.method, choice.reason if choice.asked == "auto" else "")
            recipe = make_recipe(
                store, profile, names, method=choice, options=options, precision=precision, planning=planning
            )
    except UnknownClassError as error:
        if classes or image_classes is None:
            raise
        number = image_classes.line_of(next(name for name in names if not store.has_class(name)))
        raise UnknownClassError(f"{image_classes.path}, line {number}: {error}") from error
    if image_classes is not None:
        image_classes = image_classes.among(names)
    request = Request.by(
        recipe, overlay=overlay, explain=explain, probabilities=probabilities, image_classes=image_classes
    )
    plan = plan_run(inputs, output, request, images=images, overwrite=overwrite, limit=limit, retry_failed=retry_failed)
    notes = [*_about_choice(store, choice, profile), *recipe.notes, *_about_image_classes(plan, of_file=not classes)]
    if retry_failed and not plan.items:
        notes.append(f"no picture of these has failed before in {output}, so there is nothing to try again")
    if plan.redone and not overwrite:
        many = "1 label map" if plan.redone == 1 else f"{plan.redone} label maps"
        notes.append(f"{many} in {output} came from other pictures or settings; made again")
    return FolderPlan(recipe=recipe, plan=plan, notes=tuple(notes))


def run_plan(
    planned: FolderPlan,
    store: Store,
    load_models: Callable[[], Models],
    *,
    listener: Listener | None = None,
    argv: tuple[str, ...] = (),
    configured: Mapping[str, Any] | None = None,
    fail_fast: bool = False,
    recorded: bool = True,
    batch: int | None = None,
    engine: EngineOptions | None = None,
    device: str = "auto",
) -> RunSummary:
    """Carry out a plan; see `ovseg_cli.runs.segment.run_folder` for what is promised, and for what is raised.

    Args:
        planned: From `plan_folder`.
        store: Where the run is recorded, and embeddings of words are kept.
        load_models: Loads the models of the recipe's profile; called only when there is an image to segment.
        listener: Is told how far the run is.
        argv: The command line, for the record.
        configured: Options that come from a file, for the record: see `Manifest`.
        fail_fast: Whether to stop at the first image that cannot be read.
        recorded: Whether the store remembers the run, so that a later evaluation finds it.
        batch: How many images may go through the models together; None for the device's default.
        engine: Who is to do the work; None for this process, with the models of `load_models`.
        device: Where workers of other processes are to compute.
    """
    listener = listener or _Nobody()
    recipe = planned.recipe
    if engine is not None and engine.engine == "ray" and planned.plan.request.explain:
        raise UsageError(
            "--explain shows support images of the store, which workers of a cluster do not open. Segment without it, "
            "and then run the same command with --explain and without --engine ray: it adds the explanations."
        )
    if engine is not None and engine.engine == "ray" and recipe.prototypes is not None and recipe.prototypes.store:
        raise UsageError(
            f"Prototypes of {len(recipe.prototypes.classes):,} classes are read from the store picture by picture, and "
            "workers of a cluster do not open it. Name fewer --classes, or add --exact, which sends them all along."
        )
    loader = ByRecipe(recipe, planned.plan.request.probabilities)
    crew = None if engine is None else crew_for(engine, loader, store, device)
    listener.begin(planned.plan)

    def load() -> ReadySegmenter:
        listener.load()
        return loader.ready(load_models(), texts=store, progress=listener.read)

    summary = run_folder(
        planned.plan,
        load,
        store,
        recipe.profile,
        argv=argv,
        configured=configured,
        progress=listener.step,
        fail_fast=fail_fast,
        recorded=recorded,
        batch=batch,
        crew=crew,
    )
    summary.notes = (*planned.notes, *summary.notes)
    return summary


def crew_for(engine: EngineOptions, load: Loader, store: Store, device: str) -> CrewMaker | None:
    """What makes the crew of a run; None for this process.

    Args:
        engine: Who is to do the work.
        load: Loads what pictures are segmented with.
        store: Workers on this computer look into it for explanations; others do not.
        device: Where they compute.

    Raises:
        UsageError: See `ovseg_cli.runs.engines.options.make_crew`.
    """
    make = make_crew(engine, device)
    if make is None:
        return None

    def crew(order: Order, told: Callable[[Equipment], None], batch: int | None, count: int) -> Crew:
        folder = None if engine.engine == "ray" else store.path
        return make(Segmenting(load=load, order=order, batch=batch, store=folder), told, count)

    return crew


def wanted_classes(
    store: Store, classes: Sequence[str], image_classes: ImageClasses | None = None, *, method: str = "auto"
) -> tuple[str, ...]:
    """The classes to look for, as the store spells them.

    Args:
        store: Its classes are looked for where none is named.
        classes: Those that were named.
        image_classes: A file whose classes are looked for where none is named.
        method: The method that was asked for; one whose regions have no names looks for none.

    Raises:
        UsageError: There is none, or the method looks for none.
    """
    if method in METHODS and METHODS[method].finds_regions:
        if classes or image_classes is not None:
            raise UsageError(
                f"{METHODS[method].title} finds regions without names: leave out --classes and files of classes. "
                "ovseg eval lets the ground truth name the regions."
            )
        return REGION_NAMES
    if classes:
        return stored_names(store, classes)
    if image_classes is not None:
        names = stored_names(store, image_classes.classes)
        if not names:
            raise UsageError(f"{image_classes.path} names no class. Name what to look for with --classes.")
        return names
    names = tuple(store.class_names())
    if not names:
        raise UsageError(
            "The store has no classes yet: name what to look for with --classes, "
            "or make classes with ovseg add-class NAME."
        )
    return names


def _about_choice(store: Store, choice: Choice, profile: Profile) -> Iterator[str]:
    """What "auto" does for classes without prototypes."""
    missing = choice.missing
    if choice.asked != "auto" or not missing:
        return
    if METHODS[choice.method].reads == "both":
        best = METHODS[profile.clip.best].title
        instead = f"they are found by their names, with {best} beside the others' prototypes"
    else:
        instead = f"all classes are segmented with {METHODS[choice.method].title}, which needs none"
    yield f"no prototypes for {listed_names(missing)}: {instead}.{_near(store, missing)}{_add_class(missing)}"


def _add_class(missing: Sequence[str]) -> str:
    """How to make prototypes of the first of these classes that can have some."""
    named = [name for name in missing if len(name) <= MAX_NAME_LENGTH][:_MOST_NAMED]
    dashes = ["--"] if any(name.startswith("-") for name in named) else []
    return f" For prototypes: ovseg add-class {shlex.join([*dashes, *named])}" if named else ""


def _near(store: Store, missing: Sequence[str]) -> str:
    """A hint at the stored names that missing ones may be misspellings of."""
    known = store.class_names()
    # Most of these are words that only have no prototypes: more alike than where a name must be a slip.
    near = {name: nearest(name, known, alike=0.75) for name in missing[:_MOST_NAMED]}
    return question(f"{shown_name(found[0])} (for {shown_name(name)})" for name, found in near.items() if found)


def _about_image_classes(plan: Plan, *, of_file: bool) -> Iterator[str]:
    """What people should know of how a file of image classes fits the images of a run.

    Args:
        plan: The run.
        of_file: Whether the classes to look for are those of the file.
    """
    request, unnamed = plan.request, plan.unnamed
    if request.image_classes is None:
        return
    path, number = request.image_classes.path, len(request.classes)
    if of_file:
        yield f"looking for the {number} class{'' if number == 1 else 'es'} of {path}: {listed_names(request.classes)}"
    if unnamed:
        verb = "the pre-filter decides" if request.prefilter else "all classes are looked for"
        names = listed([str(item.image.path) for item in unnamed])
        yield f"{path} does not name {len(unnamed)} picture{'s' * (len(unnamed) > 1)}, where {verb}: {names}"
    if plan.strays:
        names = listed([f"{line.picture} (line {line.number})" for line in plan.strays])
        verb = " of {} names" if len(plan.strays) == 1 else "s of {} name"
        yield f"{len(plan.strays)} line{verb.format(path)} no picture of this run: {names}"
