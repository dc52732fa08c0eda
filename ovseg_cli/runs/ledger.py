"""The one owner of an output folder: its journal, its manifest, its lists, and what the store is told of the run."""

from __future__ import annotations

import logging
import os
import time
import uuid
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, replace
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import PurePosixPath
from typing import TYPE_CHECKING, Any, Literal

from ovseg_cli.atomic import make_folder, write_text
from ovseg_cli.errors import (
    DiskFullError,
    ImageError,
    OutputError,
    OvsegError,
    StoreLockedError,
    StoreReadOnlyError,
)
from ovseg_cli.files.discovery import picture_id
from ovseg_cli.files.labels import LABELMAP_NAME, LabelMap, write_labelmap
from ovseg_cli.files.layout import LIST_NAME, LOCK_NAME, MASK_FOLDER
from ovseg_cli.runs.journal import Entry, Journal, write_journal
from ovseg_cli.runs.lease import leased
from ovseg_cli.runs.manifest import Manifest, library_versions
from ovseg_cli.runs.memory import Easing
from ovseg_cli.runs.plan import Plan, PlanItem
from ovseg_cli.runs.worker import Equipment
from ovseg_cli.store.records import RunItem, RunRecord
from ovseg_cli.urls import Place, Url, redacted_argument

if TYPE_CHECKING:
    from ovseg_cli.profiles import Profile
    from ovseg_cli.store import Store

_ITEMS_AT_ONCE = 64
_PATIENCE = 1.0  # seconds to wait for another process that writes to the store, while there are pictures to segment

log = logging.getLogger("ovseg_cli")


@dataclass(frozen=True, slots=True)
class Failure:
    """One picture that could not be segmented, and why."""

    path: str
    reason: str


@dataclass(slots=True)
class RunSummary:
    """What a run did.

    Attributes:
        output: the output folder, absolute.
        method: the method that ran.
        classes: the classes looked for, in the order of their ids.
        images: how many the plan named.
        done: segmented now.
        skipped: done by an earlier run.
        failed: the pictures that could not be segmented.
        remaining: planned and not reached (with `fail_fast`).
        seconds: wall time.
        shares: share of the pixels per class, of all pictures of the plan that have a label map.
        images_with: in how many of these pictures each class is.
        prefilter: whether classes were ruled out per picture first.
        given: for how many pictures of the plan the user said which classes may be in it.
        unfamiliar: how many pictures of the plan with a label map look like nothing that the models were trained on,
            whichever run made it; None where they know photographs.
        notes: sentences for people about what they may not expect.
    """

    output: Place
    method: str
    classes: tuple[str, ...]
    images: int
    done: int = 0
    skipped: int = 0
    failed: list[Failure] = field(default_factory=list)
    remaining: int = 0
    seconds: float = 0.0
    shares: dict[str, float] = field(default_factory=dict)
    images_with: dict[str, int] = field(default_factory=dict)
    prefilter: bool = False
    given: int = 0
    unfamiliar: int | None = None
    notes: tuple[str, ...] = ()

    def counts(self) -> dict[str, int]:
        """Images by outcome."""
        return {
            "done": self.done,
            "skipped": self.skipped,
            "failed": len(self.failed),
            "remaining": self.remaining,
        }


class Ledger:
    """Notes what becomes of the images of a run.

    Args:
        plan: The run.
        store: Where it is recorded.
        profile: The model set, for the record.
        argv: The command line, for the record.
        configured: Options that come from a file, for the record: see `Manifest`.
        recorded: Whether the store remembers it.
        told: Whether pictures that fail are told at once.

    Attributes:
        labels: What the ids of the label maps mean.
        summary: What was done so far.
    """

    def __init__(
        self,
        plan: Plan,
        store: Store,
        profile: Profile,
        argv: tuple[str, ...],
        configured: Mapping[str, Any],
        *,
        recorded: bool,
        told: bool = True,
    ) -> None:
        self._plan = plan
        self._told = told
        self._profile = profile
        argv = tuple(map(redacted_argument, argv))
        self._record = _StoreRecord(store if recorded else None, plan, argv)
        self.labels = LabelMap.from_classes(plan.request.classes)
        self.summary = RunSummary(
            output=plan.output,
            method=plan.request.method,
            prefilter=plan.request.prefilter,
            classes=plan.request.classes,
            images=len(plan.items),
            given=sum(item.classes is not None for item in plan.items),
        )
        made = _manifest(plan, store, profile, argv, self.labels, self._record.id)
        self._manifest = replace(made, configured={name: _without_secrets(one) for name, one in configured.items()})
        self._entries = {entry.path: entry for entry in plan.kept}
        self._begun = False

    @contextmanager
    def open(self) -> Iterator[Journal]:
        """Write what gives the label maps their meaning before the first of them is there, and begin the journal."""
        output = self._plan.output
        remove_inside(output, self._plan.stale)
        make_folder(output / MASK_FOLDER)
        # Entries of planned images that still hold stay in the journal from the start: a kill loses nothing.
        for item in self._plan.items:
            if item.entry is not None:
                self._entries[item.entry.path] = item.entry
        write_labelmap(output / LABELMAP_NAME, self.labels)
        self._manifest.write(output)
        with Journal(output, self._entries.values()) as journal:
            yield journal

    def note_models(self, loaded: Equipment) -> None:
        """Note what segments, where and in what; `open` writes it."""
        self._manifest = replace(
            self._manifest,
            settings=loaded.settings,
            device=loaded.device,
            precision=loaded.precision,
            batch=loaded.batch,
            libraries=library_versions(),
        )

    def note_easing(self, eased: Easing) -> None:
        """Note, and tell, that less goes through the models at once, as memory did not suffice; `close` writes it."""
        self._manifest = replace(self._manifest, eased=(*self._manifest.eased, asdict(eased)))
        self.summary.notes = (*self.summary.notes, str(eased))
        log.warning("%s", eased)

    def note(self, journal: Journal, item: PlanItem, entry: Entry) -> None:
        """Note an image in the journal; one whose old entry still holds is there already."""
        # First of all: should the rest be interrupted, `close` writes the journal from these.
        self._entries[entry.path] = entry
        if entry is not item.entry:
            journal.add(entry)
        if not self._begun:
            self._begun = True
            self._record.begin()

    def done(self, item: PlanItem, entry: Entry) -> Entry:
        """Count an image that has its files now."""
        if item.action == "segment":
            self.summary.done += 1
            self._record.add("done", entry)
        else:
            self.summary.skipped += 1
            self._record.add("skipped", entry)
        return entry

    def failed(self, item: PlanItem, error: ImageError) -> Entry:
        """Count an image that cannot be segmented."""
        reason = str(error)
        if self._told:
            log.warning("%s", reason)  # the message names the file
        self.summary.failed.append(Failure(str(item.image.path), reason))
        entry = Entry(path=picture_id(item.image.path), status="failed", error=reason, key=item.key)
        # A label map of what used to be under this name describes it no more.
        remove_inside(self._plan.output, item.files)
        self._record.add("failed", entry)
        return entry

    def close(self, status: Literal["finished", "interrupted"], started: float) -> None:
        """Bring the folder's own files up to date, then the store; an error here must not hide the first one."""
        summary, output = self.summary, self._plan.output
        summary.remaining = summary.images - summary.done - summary.skipped - len(summary.failed)
        summary.seconds = time.perf_counter() - started
        entries = [self._entries.get(picture_id(item.image.path)) for item in self._plan.items]
        add_shares(summary, entries)
        if self._profile.domain is not None:
            summary.unfamiliar = sum(entry is not None and entry.unfamiliar is True for entry in entries)
        try:
            ordered = sorted(self._entries.values(), key=lambda entry: (entry.output or "", entry.path))
            write_journal(output, ordered)
            write_list(output, ordered)
            replace(
                self._manifest,
                status=status,
                finished_at=datetime.now(UTC).isoformat(timespec="seconds"),
                counts=summary.counts(),
                unfamiliar=summary.unfamiliar,
            ).write(output)
            self._record.finish(status)
        except OvsegError as error:
            if status == "finished":
                raise
            log.warning("the end of the run could not be recorded: %s", error)


class _StoreRecord:
    """Tells the store about the run, in batches.

    Label maps do not need that: while another process is writing to the store it is told later, and a store that cannot
    be written is done without.
    """

    def __init__(self, store: Store | None, plan: Plan, argv: tuple[str, ...]) -> None:
        self.id = uuid.uuid4().hex
        self._store = store
        request = plan.request
        self._record = RunRecord(
            id=self.id,
            argv=argv,
            method=request.method,
            classes=request.classes,
            background=request.options.background,
            output=plan.output,
            inputs=plan.inputs,
            settings={
                "asked": request.asked,
                "threshold": request.options.threshold,
                "prefilter": request.prefilter,
                "image_classes": None if request.image_classes is None else request.image_classes.digest,
                "digest": request.digest,
            },
        )
        self._waiting: list[RunItem] = []
        self._told = False

    def begin(self) -> None:
        self._tell(last=False)

    def add(self, status: Literal["done", "skipped", "failed"], entry: Entry) -> None:
        width, height = entry.size or (None, None)
        self._waiting.append(
            RunItem(
                source=entry.path,
                output=entry.output,
                status=status,
                method=entry.method,
                error=entry.error,
                width=width,
                height=height,
            )
        )
        if len(self._waiting) % _ITEMS_AT_ONCE == 0:
            self._tell(last=False)

    def finish(self, status: Literal["finished", "interrupted"]) -> None:
        if self._tell(last=True):
            self._attempt(lambda store: store.finish_run(self.id, status), last=True)

    def _tell(self, *, last: bool) -> bool:
        """Tell the store what it does not know yet; False when it does not know all of it then."""
        return self._attempt(self._catch_up, last=last)

    def _catch_up(self, store: Store) -> None:
        # An interruption may come between these lines; the next call then tells the same once more.
        store.note_run(self._record, self._waiting)
        self._told = True
        self._waiting = []

    def _attempt(self, change: Callable[[Store], None], *, last: bool) -> bool:
        """Change the store, with little patience unless it is the last chance; False when that cannot be."""
        store = self._store
        if store is None:
            return False
        patience = store.lock_timeout
        store.lock_timeout = patience if last else min(patience, _PATIENCE)
        try:
            change(store)
        except StoreLockedError as error:
            if last:
                self._give_up(store, str(error))
            return False
        except OvsegError as error:
            reason = "it is read-only" if isinstance(error, StoreReadOnlyError) else str(error)
            if isinstance(error, DiskFullError):
                reason = "it lies on a full disk"
            self._give_up(store, reason)
            return False
        finally:
            store.lock_timeout = patience
        return True

    def _give_up(self, store: Store, reason: str) -> None:
        self._store = None
        known = "only in part" if self._told else "not"
        log.warning(
            "This run is %s recorded in the store %s, so name its folder to eval with --pred: %s",
            known,
            store.path,
            reason,
        )


def _manifest(
    plan: Plan, store: Store, profile: Profile, argv: tuple[str, ...], labelmap: LabelMap, run_id: str
) -> Manifest:
    request, previous = plan.request, plan.previous
    # When nothing is left to segment no model is loaded; what is known of the maps is then in the old manifest.
    known = previous if previous is not None and previous.digest == request.digest else None
    classes: tuple[Mapping[str, Any], ...] = tuple(
        {"id": i, "name": name, "colour": list(colour)} for i, name, colour in labelmap if i != labelmap.background_id
    )
    return Manifest(
        ovseg=version("ovseg"),
        id=run_id,
        status="running",
        started_at=datetime.now(UTC).isoformat(timespec="seconds"),
        argv=argv,
        inputs=plan.inputs,
        classes=classes,
        background=request.options.background,
        threshold=request.options.threshold,
        prefilter=request.prefilter,
        method={"asked": request.asked, "used": request.method, "reason": request.reason},
        digest=request.digest,
        options=request.options.record(),
        image_classes=_image_classes(plan),
        settings=known.settings if known else {},
        profile=profile.record(),
        profile_digest=profile.digest,
        device=known.device if known else None,
        precision=known.precision if known else None,
        batch=known.batch if known else None,
        libraries=known.libraries if known else library_versions(),
        store={"path": str(store.path), "vector_revision": store.vector_revision},
    )


def _without_secrets(setting: Any) -> Any:
    """An option of a file with defaults, as it may be written down."""
    if not isinstance(setting, Mapping):
        return setting
    return {name: redacted_argument(value) if isinstance(value, str) else value for name, value in setting.items()}


def _image_classes(plan: Plan) -> dict[str, Any]:
    """The file of image classes, for the record."""
    if plan.request.image_classes is None:
        return {}
    return {
        "path": str(plan.request.image_classes.path.absolute()),
        "digest": plan.request.image_classes.digest,
        "pictures": len(plan.items) - len(plan.unnamed),
        "others": "prefilter" if plan.request.prefilter else "all classes",
    }


def add_shares(summary: RunSummary, entries: Sequence[Entry | None]) -> None:
    """Add up what is in the pictures that have a label map."""
    mapped = [entry for entry in entries if entry is not None and entry.status == "done"]
    pixels = [entry.size[0] * entry.size[1] if entry.size else 1 for entry in mapped]
    for entry, own in zip(mapped, pixels, strict=True):
        for name, share in entry.shares.items():
            if share > 0:
                summary.shares[name] = summary.shares.get(name, 0.0) + share * own / sum(pixels)
                summary.images_with[name] = summary.images_with.get(name, 0) + 1


def write_list(output: Place, entries: list[Entry]) -> None:
    """The VOC list of the pictures that have a label map: one name per line, without its suffix."""
    names = [
        entry.output.removeprefix(f"{MASK_FOLDER}/").removesuffix(".png")
        for entry in entries
        if entry.output is not None and entry.status == "done"
    ]
    broken = [name for name in names if name.splitlines() != [name]]
    for name in broken:
        log.warning("%r is left out of %s: a name with a line break would be two there", name, LIST_NAME)
    write_text(output / LIST_NAME, "".join(f"{name}\n" for name in names if name not in broken))


def remove_inside(output: Place, names: Iterable[str]) -> None:
    """Remove files that the journal names; never one outside the output folder, whatever the journal says.

    Raises:
        OutputError: one at a URL cannot be removed.
    """
    if isinstance(output, Url):
        try:
            output.remove([name for name in names if ".." not in PurePosixPath(name).parts])
        except OSError as error:
            raise OutputError(f"Cannot write {output}: {error.strerror}.") from error
        return
    for name in names:
        path = (output / name).resolve()
        if output.resolve() in path.parents and os.path.lexists(path):  # False also for names that are too long
            path.unlink(missing_ok=True)


@contextmanager
def only_writer(output: Place) -> Iterator[None]:
    """Keep a second process out of the folder: two journals in one file would be none."""
    if isinstance(output, Url):
        with leased(output):
            yield
        return
    from filelock import FileLock, Timeout

    make_folder(output)
    lock = FileLock(output / LOCK_NAME, timeout=0)
    try:
        lock.acquire()
    except Timeout:
        raise OutputError(
            f"Another ovseg process is writing to {output}. Wait for it, or choose another folder with -o."
        ) from None
    except OSError as error:
        raise OutputError(f"Cannot write {output}: {error.strerror}. Choose another folder with -o.") from error
    try:
        yield
    finally:
        lock.release()
