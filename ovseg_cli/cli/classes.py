"""add-class, list-classes, show-class, remove-class: the classes of a store."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer
from rich.table import Table

from ovseg_cli.cli.common import Common, command
from ovseg_cli.cli.complete import complete_class
from ovseg_cli.cli.options import (
    CountOpt,
    DevicesOpt,
    DryRunOpt,
    EngineOpt,
    ExtractorsOpt,
    MaskMethodOpt,
    RayAddressOpt,
    WorkersOpt,
    split_names,
)
from ovseg_cli.cli.output import Align, ProgressBars, amount, duration, fields, file_size, table
from ovseg_cli.errors import UsageError

if TYPE_CHECKING:
    from ovseg_cli.backbones.clip import ClipBackbone
    from ovseg_cli.prototypes.build import Progress
    from ovseg_cli.prototypes.support import OwnPicture
    from ovseg_cli.runs.classes import ClassPlan, IfExists, NewClass
    from ovseg_cli.runs.engines.options import EngineOptions
    from ovseg_cli.store import Store
    from ovseg_cli.store.records import ClassInfo, PrototypeKind

NewNamesArg = Annotated[list[str], typer.Argument(metavar="NAME", help="Class names; quote those of several words.")]
NamesArg = Annotated[
    list[str],
    typer.Argument(metavar="NAME", autocompletion=complete_class, help="Class names; quote those of several words."),
]

_STAGES = {"generate": "images", "features": "features", "cluster": "clusters"}
_TECHNICAL = frozenset(
    {"seed", "seeds", "count", "rejected", "profile_digest", "versions", "batch_size", "kmeans", "kmeans_start"}
    | {"extended", "edited", "merged"}
)
_SHEET_SUFFIXES = (".png", ".jpg", ".jpeg", ".webp")
_TILE = 128


def register(app: typer.Typer) -> None:
    """Add these commands to the application."""
    command(
        app,
        "add-class",
        examples=(
            'ovseg add-class "chocolate glazed donut"',
            "ovseg add-class cat dog bird --count 32 --if-exists skip",
            'ovseg add-class sky --stuff --prompt "a photo of the {}"',
            "ovseg add-class 'my mug' --from-images mugs/ --masks masks/",
        ),
    )(add_class)
    command(app, "list-classes", examples=("ovseg list-classes", "ovseg list-classes --json"))(list_classes)
    command(
        app,
        "show-class",
        examples=("ovseg show-class cat", "ovseg show-class cat --contact-sheet cat.png"),
    )(show_class)
    command(app, "remove-class", examples=("ovseg remove-class cat", "ovseg remove-class cat dog --yes"))(remove_class)


# ---------------------------------------------------------------------- add-class


def add_class(
    common: Common,
    names: NewNamesArg,
    count: CountOpt = None,
    steps: Annotated[
        int | None,
        typer.Option(
            "--steps", min=1, metavar="N", help="Denoising steps. (default: the profile's)", show_default=False
        ),
    ] = None,
    seed: Annotated[
        int | None,
        typer.Option(
            "--seed",
            min=0,
            metavar="N",
            help="Seed of the first image; the others count up from it. (default: the profile's)",
            show_default=False,
        ),
    ] = None,
    prompt: Annotated[
        str | None,
        typer.Option(
            "--prompt",
            metavar="TEXT",
            help="What the generator is asked for, with {} where the name goes. (default: the profile's)",
            show_default=False,
        ),
    ] = None,
    from_images: Annotated[
        Path | None,
        typer.Option(
            "--from-images",
            metavar="DIR",
            help="Learn the class from these pictures of your own, instead of generating any.",
            show_default=False,
        ),
    ] = None,
    masks: Annotated[
        Path | None,
        typer.Option(
            "--masks",
            metavar="DIR",
            help="Masks of these pictures, by the same names. (default: found by the generator's attention)",
            show_default=False,
        ),
    ] = None,
    skip_unmasked: Annotated[
        bool, typer.Option("--skip-unmasked", help="Leave out pictures without a mask, instead of stopping.")
    ] = False,
    if_exists: Annotated[
        Literal["error", "skip", "replace", "extend"],
        typer.Option(
            "--if-exists", help="What to do about a class that the store holds; extend gives it more support images."
        ),
    ] = "error",
    thing: Annotated[
        bool | None,
        typer.Option(
            "--thing/--stuff",
            help="Countable objects (cat) or uncountable matter (sky). (default: by the name)",
            show_default=False,
        ),
    ] = None,
    mask_method: MaskMethodOpt = None,
    parts: Annotated[
        int | None,
        typer.Option(
            "--parts",
            min=1,
            metavar="K",
            help="Part prototypes per class and extractor, at most. (default: the profile's)",
            show_default=False,
        ),
    ] = None,
    extractors: ExtractorsOpt = None,
    batch_size: Annotated[
        int | None,
        typer.Option(
            "--batch-size",
            min=1,
            metavar="N",
            help="Images generated at once; the result does not depend on it. (default: the profile's)",
            show_default=False,
        ),
    ] = None,
    workers: WorkersOpt = None,
    devices: DevicesOpt = None,
    engine: EngineOpt = "local",
    ray_address: RayAddressOpt = None,
    dry_run: DryRunOpt = False,
) -> None:
    """Teach ovseg new classes by name.

    Generates pictures of the class, cuts the object out of them, and keeps what its pixels look like.
    Each class is stored as a whole or not at all. After Ctrl-C, run the same command with --if-exists skip.
    """
    from ovseg_cli.runs.classes import new_names, plan_classes
    from ovseg_cli.runs.engines.options import EngineOptions

    who = EngineOptions(engine=engine, workers=workers, devices=devices, ray_address=ray_address)
    if from_images is not None and who != EngineOptions():
        raise UsageError("Workers share classes, and --from-images makes one: leave out --workers and its like.")
    new_names(names)  # a bad name is told before a store is made for it
    settings = {
        "count": count,
        "steps": steps,
        "seed": seed,
        "prompt": prompt,
        "kind": None if thing is None else "thing" if thing else "stuff",
        "batch_size": batch_size,
        "mask_method": mask_method,
        "parts": parts,
        "extractors": split_names(extractors) or None,
    }
    pictures = _own_pictures(names, from_images, masks, settings, skip_unmasked=skip_unmasked)
    if dry_run:
        _show_plan(common, names, settings, if_exists, pictures)
        return
    with common.open_store() as store:
        plan = plan_classes(store, names, if_exists)
        added = build_planned(common, store, plan, settings, pictures, engine=who)
        status = {name: "extended" if name in plan.extend else "added" for name in plan.build}
        data = [{"name": name, "status": "skipped"} for name in plan.skip] + [
            {
                "status": status[made.info.name] if made.changed else "skipped",
                "seconds": round(made.seconds, 2),
                **class_data(made.info),
            }
            for made in added
        ]
        common.out.result(data, human=lambda: None, quiet=[made.info.name for made in added])


def _own_pictures(
    names: Sequence[str], folder: Path | None, masks: Path | None, settings: Mapping[str, Any], *, skip_unmasked: bool
) -> list[OwnPicture] | None:
    """The pictures of `--from-images`; what only generated ones have is refused beside them."""
    if skip_unmasked and masks is None:
        raise UsageError("--skip-unmasked belongs to --masks: name the folder of the masks too.")
    if folder is None:
        if masks is not None:
            raise UsageError("--masks belongs to --from-images: name the folder of their pictures too.")
        return None
    if len(names) > 1:
        raise UsageError(f"--from-images is for one class at a time, got {len(names)} names.")
    generating = {"--count": settings["count"], "--steps": settings["steps"]}
    if masks is not None:
        generating |= {"--prompt": settings["prompt"], "--mask-method": settings["mask_method"]}
    for option, value in generating.items():
        if value is not None:
            why = (
                "nothing is generated with --from-images" if option in ("--count", "--steps") else "the masks are given"
            )
            raise UsageError(f"{option} has no effect, since {why}. Leave it out.")
    from ovseg_cli.runs.own_pictures import load_pictures

    return load_pictures(names[0], folder, masks, skip_unmasked=skip_unmasked)


def build_planned(
    common: Common,
    store: Store,
    plan: ClassPlan,
    settings: Mapping[str, Any],
    pictures: Sequence[OwnPicture] | None = None,
    *,
    engine: EngineOptions | None = None,
    go_on: str = "Run the same command with --if-exists skip to go on.",
) -> list[NewClass]:
    """Make the planned classes with a progress bar each, and print a line per class.

    Args:
        common: the command's context.
        store: where to put them.
        plan: what to make.
        settings: the fields of `SupportSettings`.
        pictures: the user's own pictures of the one class planned; None to generate them.
        engine: who does the work; None for this process.
        go_on: what to do after Ctrl-C.
    """
    from ovseg_cli.profiles import require_weights
    from ovseg_cli.runs.classes import ClassCraft, add_classes
    from ovseg_cli.runs.engines.options import EngineOptions, make_crew

    out = common.out
    made: list[NewClass] = []
    for name in plan.skip:
        _say(common, f"{name}: already there, left as it is")
    if not plan.build:
        return made
    profile = common.profile_of(store)
    make = make_crew(engine or EngineOptions(), common.device)
    if pictures is None and (engine is None or engine.engine == "local"):
        # What is missing is told now, not after minutes of drawing: features come last.
        for weights in profile.weights_for(profile.pick_extractors(settings.get("extractors"))):
            require_weights(weights)
    before = {name: _generation(store, name) for name in plan.build}
    try:
        with out.progress() as bars:
            tell = _progress_teller(common, bars, len(plan.build))
            # Importing this brings torch: only now is it sure to be needed.
            from ovseg_cli.prototypes.build import SupportSettings

            wanted = SupportSettings(**settings)
            models = None if make else common.load_models(profile)
            _doubt(common, plan, store.class_names(), models.clip if models else None)
            crew = None
            if make is not None:
                common.out.log(f"making {amount(len(plan.build), 'class', 'classes')} by workers")
                crew = partial(make, ClassCraft(profile, common.precision, wanted), lambda _: None)
            for added in add_classes(store, models, plan, wanted, pictures=pictures, progress=tell, crew=crew):
                made.append(added)
                _say(common, _added_line(added))
    except KeyboardInterrupt:
        # Workers may have made some out of turn, which are stored too.
        left = [name for name in plan.build if _generation(store, name) == before[name]]
        stored = amount(len(plan.build) - len(left), "class", "classes")
        out.note(f"stored {stored}; nothing was kept of {left[0]!r}. {go_on}" if left else f"stored {stored}")
        raise
    return made


def _generation(store: Store, name: str) -> str | None:
    """Which making of a class the store holds; None for none."""
    return store.get_class(name).generation if store.has_class(name) else None


def _doubt(common: Common, plan: ClassPlan, stored: Sequence[str], clip: ClipBackbone | None) -> None:
    """Say which names of new classes may be slips, before minutes are spent on them."""
    from ovseg_cli.names import question
    from ovseg_cli.prototypes.doubts import near_words

    for name in plan.build:
        near = near_words(name, stored, clip)
        if near:
            common.out.note(f"{name!r} is no word that ovseg knows.{question(map(repr, near))} It goes on.")


def _say(common: Common, text: str) -> None:
    if common.out.mode == "human":
        common.out.line(text)


def _progress_teller(common: Common, bars: ProgressBars, classes: int) -> Callable[[str, Progress], None]:
    """A callback that shows one bar at a time, each stage of each class with its own, so with its own rate.

    Without a terminal, it says on a line of its own which class is begun.
    """
    names: list[str] = []
    # The networks load when they are first used, so this stands until the first step is told.
    shown: dict[tuple[str, str], Any] = {("", ""): bars.start("loading the models")}

    def tell(name: str, step: Progress) -> None:
        if name not in names:
            names.append(name)
            common.out.log(f"making {name} ({len(names)} of {classes})")
        if (name, step.stage) not in shown:
            for task in shown.values():
                bars.remove(task)
            shown.clear()
            place = f" {len(names)}/{classes}" if classes > 1 else ""
            text = f"{name}{place} · {_STAGES.get(step.stage, step.stage)}"
            shown[name, step.stage] = bars.start(text, total=step.total)
        bars.update(shown[name, step.stage], done=step.done)

    return tell


def _added_line(added: NewClass) -> str:
    from ovseg_cli.prototypes.kinds import describe_source

    info = added.info
    again = f" ({info.rejected} made again)" if info.rejected else ""
    return (
        f"{info.name}: {amount(info.support_count, 'image')}{again}, "
        f"{amount(sum(info.prototype_counts.values()), 'prototype')}, "
        f"{info.kind} {describe_source(info.kind_source)}, {duration(added.seconds)}"
    )


def _show_plan(
    common: Common,
    names: Sequence[str],
    settings: Mapping[str, Any],
    if_exists: IfExists,
    pictures: Sequence[OwnPicture] | None,
) -> None:
    """What --dry-run prints; it makes no store."""
    from ovseg_cli.profiles import profile_of, resolve_profile
    from ovseg_cli.runs.classes import plan_classes

    store = common.find_store()
    if store is None:
        profile = resolve_profile(common.options.profile)
        plan, stored = plan_classes(None, names, if_exists), []
    else:
        with store:
            profile = profile_of(store)
            plan = plan_classes(store, names, if_exists)
            stored = store.class_names()
    _doubt(common, plan, stored, None)
    from ovseg_cli.prototypes.build import SupportSettings, plan_class

    asked = SupportSettings(**settings)
    count = None if pictures is None else len(pictures)
    steps = [
        {"name": name, "status": "planned", **plan_class(profile, name, asked, pictures=count)} for name in plan.build
    ]
    skipped = [{"name": name, "status": "skipped"} for name in plan.skip]

    def human() -> None:
        for name in plan.skip:
            common.out.line(f"{name}: already there, would stay as it is")
        for step in steps:
            common.out.line((f"{step['name']}", "bold"), " would be made so:")
            common.out.show(
                fields(
                    (key.replace("_", " "), _brief(value))
                    for key, value in step.items()
                    if key not in {"name", "status"}
                )
            )

    common.out.result(skipped + steps, human=human, quiet=plan.build)


def _brief(value: Any) -> str:
    """A setting as a person reads it; long lists of counting numbers become a range."""
    if isinstance(value, (list, tuple)):
        if len(value) > 4 and all(isinstance(v, int) for v in value):
            return f"{value[0]} … {value[-1]} ({len(value)})"
        return ", ".join(map(_brief, value))
    if isinstance(value, dict):
        return ", ".join(f"{key} {_brief(inner)}" for key, inner in value.items())
    if isinstance(value, float):
        return f"{value:g}"
    return "–" if value is None or value == "" else str(value)


# ---------------------------------------------------------------------- list-classes


def list_classes(common: Common) -> None:
    """List the classes of the store."""
    out = common.out
    store = common.find_store(typed=True)
    if store is None:
        out.result([], human=lambda: out.line("There is no store yet. `ovseg add-class NAME` makes one."))
        return
    with store:
        infos = store.classes()
        path, profile = store.path, store.profile_name

    def human() -> None:
        if not infos:
            out.line(f"No classes yet in {path} (profile {profile}). Add one: ovseg add-class NAME")
            return
        rows = [
            (
                info.name,
                info.kind,
                str(info.support_count),
                str(sum(info.prototype_counts.values())),
                file_size(info.nbytes),
                info.created_at.astimezone().isoformat(" ", "minutes")[:16],
            )
            for info in infos
        ]
        out.show_rows(
            ("class", "left"),
            ("kind", "left"),
            ("images", "right"),
            ("prototypes", "right"),
            ("size", "right"),
            ("made", "left"),
            rows=rows,
        )
        out.hint(f"{amount(len(infos), 'class', 'classes')} in {path} (profile {profile})")

    # Of ten thousand classes that takes as long as all the rest.
    data = [class_data(info) for info in infos] if out.mode == "json" else []
    out.result(data, human=human, quiet=[info.name for info in infos])


def class_data(info: ClassInfo) -> dict[str, Any]:
    """A class as `--json` prints it."""
    return {
        "name": info.name,
        "slug": info.slug,
        "kind": info.kind,
        "kind_source": info.kind_source,
        "created_at": info.created_at.isoformat(),
        "seed": info.seed,
        "images": info.support_count,
        "rejected": info.rejected,
        "prototypes": [
            {"extractor": extractor, "role": role, "kind": kind, "count": number}
            for (extractor, role, kind), number in sorted(info.prototype_counts.items())
        ],
        "extractors": list(info.extractors),
        "bytes": info.nbytes,
        "settings": info.settings,
    }


# ---------------------------------------------------------------------- show-class


def show_class(
    common: Common,
    name: Annotated[str, typer.Argument(metavar="NAME", autocompletion=complete_class, help="The class.")],
    contact_sheet: Annotated[
        Path | None,
        typer.Option(
            "--contact-sheet",
            metavar="FILE",
            help="Write the support images and their masks into one picture (.png).",
            show_default=False,
        ),
    ] = None,
) -> None:
    """Show how a class was made.

    Also what is stored of it, and which other classes look alike.
    """
    out = common.out
    with common.open_store(create=False) as store:
        info = store.get_class(name)
        supports = store.supports(info.name)
        alike = nearest_classes(store, info.name)
        sheet = None
        if contact_sheet is not None:
            sheet = contact_sheet
            if sheet.suffix.lower() not in _SHEET_SUFFIXES:
                raise UsageError(f"--contact-sheet names a picture ({', '.join(_SHEET_SUFFIXES)}); got {str(sheet)!r}.")
            write_contact_sheet(store, [info.name], sheet)
    data = {
        **class_data(info),
        "nearest": [{"name": other, "similarity": round(score, 4)} for other, score in alike],
        "supports": [
            {key: str(value) if isinstance(value, Path) else value for key, value in asdict(support).items()}
            for support in supports
        ],
        "contact_sheet": None if sheet is None else str(sheet),
    }

    def human() -> None:
        out.line((info.name, "bold"))
        seeds = [support.seed for support in supports if support.seed is not None]
        out.show(fields(_description(info, seeds, alike)))
        out.line()
        out.show(_prototype_table(info))
        if sheet is not None:
            out.line()
            out.line(f"contact sheet: {sheet}", copyable=True)
        elif supports:
            out.hint("")
            out.hint(f"support images: {supports[0].image_path.parent}", copyable=True)

    out.result(data, human=human, quiet=[] if sheet is None else [sheet])


def _description(info: ClassInfo, seeds: list[int], alike: list[tuple[str, float]]) -> Iterator[tuple[str, str]]:
    from ovseg_cli.prototypes.kinds import describe_source

    yield "kind", f"{info.kind} ({describe_source(info.kind_source)})"
    again = f", {info.rejected} made again" if info.rejected else ""
    yield "images", f"{info.support_count}{again}"
    if seeds:
        yield "seeds", _brief(seeds)
    for key, value in info.settings.items():
        if key not in _TECHNICAL and value not in ({}, []):
            yield key.replace("_", " "), _brief(value)
    if "extended" in info.settings:
        yield "extended by", ", ".join(_addition(settings) for settings in info.settings["extended"])
    if "merged" in info.settings:
        yield "merged from", ", ".join(part["name"] for part in info.settings["merged"])
    if "edited" in info.settings:
        dropped = [number for edit in info.settings["edited"] for number in edit["dropped"]]
        yield "taken out", f"{amount(len(dropped), 'image')} ({', '.join(map(str, dropped))})"
    yield "size", file_size(info.nbytes)
    yield "made", f"{info.created_at.astimezone():%Y-%m-%d %H:%M:%S}"
    if alike:
        yield "looks like", ", ".join(f"{other} ({score:.2f})" for other, score in alike)


def _addition(settings: Mapping[str, Any]) -> str:
    """One extension of a class: what its support images were."""
    if settings["source"] == "generated":
        return amount(settings["count"], "generated image")
    return amount(len(settings["pictures"]), "picture of your own", "pictures of your own")


def _prototype_table(info: ClassInfo) -> Table:
    """How many prototypes of each kind, a row per extractor and role."""
    counts = info.prototype_counts
    sides = dict.fromkeys(
        (extractor, role) for extractor, role, _ in sorted(counts, key=lambda k: (k[0], k[1] == "bg"))
    )
    order: tuple[PrototypeKind, ...] = ("mean", "instance", "part")
    kinds = [kind for kind in order if any(key[2] == kind for key in counts)]
    rows = [
        (
            extractor,
            "object" if role == "fg" else "background",
            *(str(counts.get((extractor, role, kind), 0)) for kind in kinds),
        )
        for extractor, role in sides
    ]
    columns: list[tuple[str, Align]] = [("prototypes", "left"), ("of the", "left"), *((k, "right") for k in kinds)]
    return table(*columns, rows=rows)


def nearest_classes(store: Store, name: str, most: int = 3) -> list[tuple[str, float]]:
    """The other classes whose mean object prototypes are nearest, with the cosine, averaged over extractors."""
    import numpy as np

    info = store.get_class(name)
    others = [other for other in store.class_names() if other != info.name]
    scores: dict[str, list[float]] = {}
    for extractor in info.extractors if others else ():
        own = store.prototypes([info.name], extractor)
        is_mean = np.array([kind == "mean" for kind in own.kind], dtype=bool) & own.role_is_fg
        if not is_mean.any():
            continue
        # Enough neighbours that the class's own prototypes cannot crowd out all others.
        found, ids = store.nearest(own.vectors[is_mean][:1], extractor, k=len(own.ids) + 64)
        best: dict[str, float] = {}
        valid = ids[0] >= 0
        for other, score in zip(store.class_of(ids[0][valid]), found[0][valid], strict=True):
            if other != info.name:
                best.setdefault(other, float(score))
        for other, score in best.items():
            scores.setdefault(other, []).append(score)
    means = {other: sum(values) / len(values) for other, values in scores.items()}
    return sorted(means.items(), key=lambda pair: -pair[1])[:most]


def write_contact_sheet(store: Store, names: Sequence[str], target: Path) -> None:
    """Draw the support images of the classes, and their masks, into one picture."""
    from ovseg_cli.atomic import write_image
    from ovseg_cli.drawing.contact_sheet import SheetRow, SheetTile, contact_sheet

    rows = [
        SheetRow(
            title=name,
            note=amount(store.get_class(name).support_count, "image"),
            tiles=[SheetTile.read(support.image_path, support.mask_path) for support in store.supports(name)],
        )
        for name in names
    ]
    write_image(target, contact_sheet(rows, tile=_TILE))


# ---------------------------------------------------------------------- remove-class


def remove_class(
    common: Common,
    names: NamesArg,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")] = False,
    dry_run: DryRunOpt = False,
) -> None:
    """Remove classes with all that is stored of them."""
    from ovseg_cli.runs.classes import unique_names

    out = common.out
    with common.open_store(create=False) as store:
        infos = [store.get_class(name) for name in unique_names(names)]
        shown = ", ".join(info.name for info in infos)
        size = file_size(sum(info.nbytes for info in infos))
        if not dry_run and not yes and not out.confirm(f"Remove {shown} ({size})?", instead="--yes"):
            out.note("nothing was removed")
            raise typer.Exit(1)
        if not dry_run:
            store.remove_classes([info.name for info in infos])
    verb = "Would remove" if dry_run else "Removed"
    data = [{"name": info.name, "status": "planned" if dry_run else "removed", "bytes": info.nbytes} for info in infos]
    out.result(data, human=lambda: out.line(f"{verb} {shown} ({size})."), quiet=[info.name for info in infos])
