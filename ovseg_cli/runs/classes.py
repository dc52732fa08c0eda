"""Making several classes in a row: all names are checked before the first image is generated."""

from __future__ import annotations

import hashlib
import logging
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Final, Literal, cast

from ovseg_cli.errors import (
    ClassExistsError,
    ClassNameError,
    EngineError,
    OvsegError,
    StoreReadOnlyError,
    UsageError,
)
from ovseg_cli.names import ClassList, listed, normalise_class_name, shown_name
from ovseg_cli.prototypes.support import ClassItem
from ovseg_cli.runs.engines.crew import Crew, Single
from ovseg_cli.runs.engines.dispatch import Dispatch
from ovseg_cli.runs.worker import Equipment
from ovseg_cli.stages import stage

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from ovseg_cli.models import Models
    from ovseg_cli.precision import Precision
    from ovseg_cli.profiles import Profile
    from ovseg_cli.prototypes.build import Progress, SupportSettings
    from ovseg_cli.prototypes.support import OwnPicture
    from ovseg_cli.store import Store
    from ovseg_cli.store.records import ClassInfo, ClassKind, ClassRecord
    from ovseg_cli.text.embedding import TextCache

log = logging.getLogger("ovseg_cli")

TOGETHER: Final = 4
"""Classes of one job on a GPU, where they share batches: what is made of them is in memory until it is stored."""

IfExists = Literal["error", "skip", "replace", "extend"]


@dataclass(frozen=True, slots=True)
class ClassPlan:
    """What `add-class` is going to do.

    Attributes:
        build: names to make, in the order given.
        skip: names that are there already and stay as they are.
        replace: whether a class that is there is made anew.
        extend: those of `build` that are there, and get more support images.
    """

    build: tuple[str, ...]
    skip: tuple[str, ...]
    replace: bool
    extend: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class NewClass:
    """One class that was made and stored; `changed` is false where it held all the pictures that were to extend it."""

    info: ClassInfo
    seconds: float
    changed: bool = True


def plan_classes(store: Store | None, names: Sequence[str], if_exists: IfExists) -> ClassPlan:
    """Check all names, and the store for each of them.

    Args:
        store: the store, None while there is none.
        names: class names as typed.
        if_exists: what to do about a name that the store holds.

    Raises:
        ClassNameError: a name cannot be stored.
        ClassExistsError: a name is there and `if_exists` is `error`; all such names are listed.
        UsageError: a name is given twice.
    """
    wanted = new_names(names)
    existing = tuple(name for name in wanted if store is not None and store.has_class(name))
    if store is not None and existing and if_exists == "error":
        shown = ", ".join(repr(store.get_class(name).name) for name in existing)
        what, them = ("class is", "it") if len(existing) == 1 else ("classes are", "them")
        raise ClassExistsError(
            f"The {what} in the store already: {shown}. "
            f"Add --if-exists skip to leave {them} alone, --if-exists replace to make {them} anew, "
            f"or --if-exists extend to give {them} more support images."
        )
    skip = existing if if_exists == "skip" else ()
    return ClassPlan(
        build=tuple(name for name in wanted if name not in skip),
        skip=skip,
        replace=if_exists == "replace",
        extend=existing if if_exists == "extend" else (),
    )


def new_names(names: Sequence[str]) -> tuple[str, ...]:
    """The names of classes to be made, as they are stored.

    Raises:
        ClassNameError: a name cannot be stored, or holds a semicolon.
        UsageError: a name is given twice.
    """
    for name in names:
        if ";" in name:
            raise ClassNameError(
                f"The name of a new class cannot hold a semicolon; got {shown_name(name)}: "
                "semicolons separate words in class files, so give each class on its own"
            )
    return unique_names(names)


def unique_names(names: Sequence[str], *, stored: bool = True) -> tuple[str, ...]:
    """The names as they are stored.

    Args:
        names: class names as typed.
        stored: whether classes of these names are in the store, or to be; one only looked for may have a longer name.

    Raises:
        ClassNameError: a name cannot be stored.
        UsageError: a name is given twice (upper and lower case make no difference).
    """
    return ClassList(normalise_class_name(name, stored=stored) for name in names).names


def stored_names(store: Store, names: Sequence[str]) -> tuple[str, ...]:
    """The names in the spelling of the store, as far as it holds them.

    Raises:
        ClassNameError: a name is none that a class can have.
        UsageError: a name is given twice.
    """
    wanted = unique_names(names, stored=False)
    return tuple(store.get_class(name).name if store.has_class(name) else name for name in wanted)


@dataclass(frozen=True, slots=True)
class ClassJob:
    """Classes for one worker, and the place of the first among all."""

    first: int
    items: tuple[ClassItem, ...]


@dataclass(frozen=True, slots=True)
class ClassOutcome:
    """A class that was made, or why not; `record` and `fault` are None where it was there already."""

    place: int
    seconds: float = 0.0
    record: ClassRecord | None = None
    fault: OvsegError | None = None


class ClassMaker:
    """Makes classes; what it makes is data, which somebody else stores.

    Args:
        models: Gives the networks.
        settings: How the support sets are made.
        told: Is told what it works with.
        progress: Is told the class name and how far it is.
        texts: Where embeddings of words are kept; None for nowhere.
    """

    batch = 1

    def __init__(
        self,
        models: Callable[[], Models],
        settings: SupportSettings,
        told: Callable[[Equipment], None],
        progress: Callable[[str, Progress], None] | None = None,
        texts: TextCache | None = None,
    ) -> None:
        self._texts = texts
        self._load = models
        self._models: Models | None = None
        self._settings = settings
        self._told = told
        self._progress = progress

    def ready(self) -> None:
        """Have the networks; each is loaded when it is first needed."""
        if self._models is None:
            self._models = self._load()
            # On a CPU an image costs as much in any batch, and fewer classes at once are stored sooner.
            self.batch = 1 if self._models.device == "cpu" else TOGETHER
            self._told(Equipment({}, str(self._models.device), self._models.computes_in, self.batch))

    def do(self, job: ClassJob) -> Iterator[ClassOutcome]:
        """Make the classes of a job; the seconds of each are those since the one before it."""
        from ovseg_cli.prototypes.build import build_classes

        self.ready()
        began = time.perf_counter()
        models = cast("Models", self._models)
        for place, made in build_classes(models, job.items, self._settings, self._progress, texts=self._texts):
            now = time.perf_counter()
            fault = made if isinstance(made, OvsegError) else None
            record = None if isinstance(made, OvsegError) else made
            yield ClassOutcome(job.first + place, now - began, record, fault)
            began = time.perf_counter()

    def rest(self) -> Iterator[ClassOutcome]:
        """Nothing: each class is told of when it is made."""
        return iter(())

    def stop(self) -> None:
        """Nothing is under way."""


@dataclass(frozen=True, slots=True)
class ClassCraft:
    """Makes classes in another process: all that it is given. It opens no store."""

    profile: Profile
    precision: Precision
    settings: SupportSettings

    def hand(self, device: str, told: Callable[[Equipment], None]) -> ClassMaker:
        """See `ovseg_cli.runs.engines.workplace.Craft`."""

        def load() -> Models:
            from ovseg_cli.models import load_models

            return load_models(self.profile, device=device, precision=self.precision)

        return ClassMaker(load, self.settings, told)


def add_classes(
    store: Store,
    models: Models | None,
    plan: ClassPlan,
    settings: SupportSettings,
    *,
    pictures: Sequence[OwnPicture] | None = None,
    progress: Callable[[str, Progress], None] | None = None,
    crew: Callable[[int], Crew] | None = None,
) -> Iterator[NewClass]:
    """Make and store the planned classes; each is stored as soon as it, and those before it, are made.

    An exception (Ctrl-C too) leaves the classes that are made, and nothing of those in the making.

    Args:
        store: where to put them. Nobody else writes to it: workers give back what they make.
        models: the networks of the store's profile; None where others do the work.
        plan: from `plan_classes`.
        settings: how the support sets are made.
        pictures: the user's own pictures of the one class planned; None to generate them.
        progress: told the class name and how far it is, by this process.
        crew: makes those who do the work, by how much there is; None for this process.

    Yields:
        Each class, right after it was stored.

    Raises:
        StoreReadOnlyError: before anything is generated, when nothing could be stored.
        GenerationError: a name that the generator cannot draw.
        ClassChangedError: another process changed a class while it was being extended.
        EngineError: no worker is left.
    """
    if store.read_only:
        raise StoreReadOnlyError(
            f"The store {store.path} is read-only. Choose another with --store, or change its permissions."
        )
    if pictures and plan.build and models is not None:
        _tell_unfamiliar(models, pictures)
    work = _Planned(store, plan, pictures)
    if crew is not None:
        workers = crew(len(plan.build))
    else:
        workers = Single(ClassMaker(lambda: cast("Models", models), settings, lambda _: None, progress, store))
    early: dict[int, ClassOutcome] = {}
    try:
        workers.start(load=True)
        together = min(max(1, workers.batch), max(1, len(plan.build) // workers.size))
        dispatch = Dispatch(len(plan.build), work.jobs(together), workers, work.left_out)
        early = dispatch.early
        for outcome in dispatch.outcomes(work.there.get):
            if outcome.fault is not None:
                raise outcome.fault
            yield work.stored(outcome)
    finally:
        workers.stop()
        for _, outcome in sorted(early.items()):
            if outcome.record is not None:  # made out of turn, before something ended it all
                work.stored(outcome)


class _Planned:
    """Planned classes as jobs, and what is made of them in the store.

    Attributes:
        there: By place, classes that hold all pictures already that were to extend them.
    """

    def __init__(self, store: Store, plan: ClassPlan, pictures: Sequence[OwnPicture] | None) -> None:
        self._store = store
        self._plan = plan
        self._pictures = pictures
        self._before: dict[int, ClassInfo] = {}
        self.there: dict[int, ClassOutcome] = {}

    def jobs(self, together: int) -> Iterator[ClassJob]:
        """Those that are to be made, so many to a job; a class that is to be extended is read when its turn comes."""
        run: list[ClassItem] = []
        for place, name in enumerate(self._plan.build):
            item = self._item(place, name)
            if item is not None:
                run.append(item)
            if run and (item is None or len(run) == together):
                yield ClassJob(place + (item is not None) - len(run), tuple(run))
                run = []
        if run:
            yield ClassJob(len(self._plan.build) - len(run), tuple(run))

    def _item(self, place: int, name: str) -> ClassItem | None:
        """What is to be made; None of a class that holds all the pictures that were to extend it."""
        existing = None
        if name in self._plan.extend:
            self._before[place], existing = self._store.get_class(name), self._store.read_class(name)
        fresh = self._pictures and _unseen(name, self._pictures, existing)
        if existing is not None and self._pictures and not fresh:
            self.there[place] = ClassOutcome(place)
            return None
        return ClassItem(name, existing, fresh)

    def stored(self, outcome: ClassOutcome) -> NewClass:
        """Store what was made."""
        known = self._before.get(outcome.place)
        if outcome.record is None and known is not None:
            return NewClass(known, outcome.seconds, changed=False)
        with stage("store write"):
            info = self._store.add_class(
                cast("ClassRecord", outcome.record),
                replace=self._plan.replace or known is not None,
                expected_generation=None if known is None else known.generation,
            )
        return NewClass(info, outcome.seconds)

    def left_out(self, place: int, why: str) -> ClassOutcome:
        """A class that workers have died over."""
        fault = EngineError(f"The class {self._plan.build[place]!r} cannot be made: {why}")
        return ClassOutcome(place, fault=fault)


def edit_class(
    store: Store,
    models: Models,
    name: str,
    drop: Sequence[int],
    *,
    progress: Callable[[str, Progress], None] | None = None,
) -> NewClass:
    """Take support images out of a class, and pool its prototypes anew from the others.

    Args:
        store: where the class is.
        models: the networks of the store's profile.
        name: the class.
        drop: numbers of support images, as contact sheets and `show-class` give them; from `kept_supports`.
        progress: told the class name and how far it is.

    Raises:
        UnknownClassError: there is no such class.
        UsageError: a number is of no image, or none would be left; or the class was imported with smaller images.
        GenerationError: no foreground is left.
        ClassChangedError: another process changed the class meanwhile.
    """
    from ovseg_cli.prototypes.build import repool_class

    started = time.perf_counter()
    before = store.get_class(name)
    kept_supports(store, before.name, drop)
    whole = store.read_class(before.name)
    edits = [*whole.settings.get("edited", []), {"dropped": sorted(set(drop))}]
    record = replace(
        whole,
        supports=tuple(support for support in whole.supports if support.position not in drop),
        prototypes=(),
        settings={**whole.settings, "edited": edits},
    )
    made = repool_class(models, record, _telling(progress, before.name))
    info = store.add_class(made, replace=True, expected_generation=before.generation)
    return NewClass(info, time.perf_counter() - started)


def kept_supports(store: Store, name: str, drop: Sequence[int]) -> list[int]:
    """The numbers of the support images that are left of a class without some.

    Raises:
        UnknownClassError: there is no such class.
        UsageError: a number is of no image, or none would be left.
    """
    there = [support.position for support in store.supports(name)]
    unknown = [number for number in drop if number not in there]
    if unknown:
        raise UsageError(
            f"The class {name!r} has no support image {unknown[0]}: its images are "
            f"{listed([str(number) for number in there], most=40)}. "
            "ovseg show-class --contact-sheet FILE.png shows them."
        )
    left = [number for number in there if number not in drop]
    if not left:
        raise UsageError(f"No support image of {name!r} would be left. To take the class away: ovseg remove-class.")
    return left


def merge_classes(
    store: Store,
    models: Models,
    names: Sequence[str],
    into: str,
    *,
    kind: ClassKind | None = None,
    progress: Callable[[str, Progress], None] | None = None,
) -> NewClass:
    """Make one class of several: of all their support images, with prototypes pooled anew; the others go.

    Args:
        store: where the classes are.
        models: the networks of the store's profile.
        names: the classes, two at least.
        into: name of the class that they become: one of them, or one that is not there.
        kind: thing or stuff; None for what all of them are.
        progress: told the class name and how far it is.

    Raises:
        UnknownClassError: one of the classes is not there.
        ClassExistsError: `into` is another class that is there.
        UsageError: fewer than two classes; or things and stuff together; or classes by different extractors; or one
            was imported with smaller images.
        ClassChangedError: another process changed one of them meanwhile.
    """
    from ovseg_cli.prototypes.build import repool_class

    started = time.perf_counter()
    infos, into, kind = plan_merge(store, names, into, kind)
    records = [store.read_class(info.name) for info in infos]
    supports = [support for record in records for support in record.supports]
    first = records[0]
    history = [{"name": record.name, "seed": record.seed, "settings": record.settings} for record in records]
    imported = [origin for record in records for origin in record.settings.get("imported", [])]
    record = replace(
        first,
        name=into,
        kind=kind,
        kind_source=first.kind_source if kind == first.kind else "user",
        settings={**first.settings, "merged": history, **({"imported": imported} if imported else {})},
        rejected=sum(record.rejected for record in records),
        supports=tuple(replace(support, position=place) for place, support in enumerate(supports)),
        prototypes=(),
    )
    made = repool_class(models, record, _telling(progress, into))
    info = store.swap_classes(made, {info.name: info.generation for info in infos})
    return NewClass(info, time.perf_counter() - started)


def plan_merge(
    store: Store, names: Sequence[str], into: str, kind: ClassKind | None
) -> tuple[list[ClassInfo], str, ClassKind]:
    """Check what `merge_classes` is asked for; give the classes, the name that they get, and their kind.

    Raises:
        UnknownClassError: see `merge_classes`; and so on.
        ClassExistsError: see `merge_classes`.
        UsageError: see `merge_classes`.
    """
    infos = [store.get_class(name) for name in unique_names(names)]
    (into,) = new_names([into])
    if len(infos) < 2:
        raise UsageError("Merging takes two classes at least. To give one another name: ovseg rename-class.")
    if into not in ClassList(info.name for info in infos) and store.has_class(into):
        raise ClassExistsError(
            f"The store already has a class {store.get_class(into).name!r}: name it among those that are merged, "
            "or choose another name with --into"
        )
    kinds = sorted({info.kind for info in infos})
    if kind is None and len(kinds) > 1:
        raise UsageError("Some of these classes are things, others stuff: say what they become, --thing or --stuff.")
    if len({info.extractors for info in infos}) > 1:
        raise UsageError(
            "These classes have prototypes by different feature extractors: make them by the same ones first, with "
            "ovseg add-class --if-exists replace."
        )
    return infos, into, kind or kinds[0]


def _telling(progress: Callable[[str, Progress], None] | None, name: str) -> Callable[[Progress], None] | None:
    return None if progress is None else lambda step: progress(name, step)


def _unseen(name: str, pictures: Sequence[OwnPicture], existing: ClassRecord | None) -> Sequence[OwnPicture]:
    """Those of the pictures that the class does not hold yet, each once: the same picture twice counts double."""
    seen = {_digest(support.image) for support in existing.supports} if existing is not None else set()
    fresh: list[OwnPicture] = []
    again: list[OwnPicture] = []
    for picture in pictures:
        digest = _digest(picture.image)
        (again if digest in seen else fresh).append(picture)
        seen.add(digest)
    if again:
        names = listed([picture.name for picture in again])
        log.warning(
            "%d of %d pictures are left out, as the class %r has the same already: %s. To make it anew of other masks: "
            "--if-exists replace.",
            len(again),
            len(pictures),
            name,
            names,
        )
    return fresh


def _digest(image: NDArray[np.uint8]) -> str:
    return hashlib.sha256(repr(image.shape).encode() + image.tobytes()).hexdigest()


def _tell_unfamiliar(models: Models, pictures: Sequence[OwnPicture]) -> None:
    """Say how many of the user's own pictures look like nothing that the models were trained on."""
    domain = models.domain
    if domain is None:
        return
    if count := sum(domain.unfamiliar(picture.image) for picture in pictures):
        log.warning("%s", domain.spec.remark(count, len(pictures), "what is learned from such pictures means little"))
