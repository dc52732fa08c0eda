"""Several methods on the same pictures, each into an output folder of its own, with shared walks through the networks.

The folder runs go on in turns, picture by picture. The first that asks for the label map of a picture has it made for
all that still need one; the others take theirs when it is their turn. So each folder is what `ovseg segment` leaves: it
has its own journal, resumes by itself, and can be scored, explained and continued like any other.
"""

from __future__ import annotations

import logging
from collections import OrderedDict
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, closing
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from ovseg_cli.errors import ImageError, MethodError
from ovseg_cli.files.images import open_image
from ovseg_cli.runs.engines.crew import Single
from ovseg_cli.runs.jobs import Labeller, Order
from ovseg_cli.runs.ledger import Ledger, RunSummary, only_writer
from ovseg_cli.runs.plan import Plan, current
from ovseg_cli.runs.segment import Step, steps_of
from ovseg_cli.runs.worker import BATCH_ON_GPU, ReadySegmenter, Worker
from ovseg_cli.urls import Place

if TYPE_CHECKING:
    from PIL import Image

    from ovseg_cli.profiles import Profile
    from ovseg_cli.segmentation.segmenter import Segmentation, Segmenter
    from ovseg_cli.store import Store

_FAULTS = (MethodError, MemoryError, RuntimeError)
"""What ends one method and not the others. What does not fit into memory fails by the picture (see `Worker`)."""

log = logging.getLogger("ovseg_cli")


@dataclass(frozen=True, slots=True, kw_only=True)
class TogetherRun:
    """What came of several folder runs.

    Attributes:
        summaries: By method, what was done.
        broken: By method that could not go on, why; its folder keeps what it has.
    """

    summaries: Mapping[str, RunSummary]
    broken: Mapping[str, str]


def run_together(
    plans: Mapping[str, Plan],
    segmenters: Callable[[Sequence[str]], Mapping[str, Segmenter]],
    store: Store,
    profile: Profile,
    *,
    argv: tuple[str, ...] = (),
    configured: Mapping[str, Any] | None = None,
    progress: Callable[[str, Step], None] | None = None,
    batch: int | None = None,
) -> TogetherRun:
    """Carry out plans for the same images, of one method each.

    Args:
        plans: By method; all of the same images in the same order.
        segmenters: Makes ready those methods of which a picture is to be segmented, all for the same models.
        store: As for `ovseg_cli.runs.segment.run_folder`; no run is recorded in it.
        profile: For the record, as there.
        argv: Likewise.
        configured: Likewise.
        progress: Told the method and how far it is, after each image.
        batch: How many images may go together, as for `run_folder`.

    Raises:
        OutputError: As `run_folder`.
        DiskFullError: Likewise.
        KeyboardInterrupt: Likewise; what is done stays done in every folder.
    """
    with ExitStack() as stack:
        for plan in plans.values():
            stack.enter_context(only_writer(plan.output))
        plans = {method: current(plan) for method, plan in plans.items()}
        needed = [method for method, plan in plans.items() if plan.count("segment")]
        crew = _Crew(plans, segmenters(needed) if needed else {}, batch)
        ledgers, runs = {}, {}
        for method, plan in plans.items():
            ledger = Ledger(plan, store, profile, argv, configured or {}, recorded=False, told=False)
            worker = Worker(
                crew.loader(method),
                lambda: store,
                crew.batch,
                ledger.note_models,
                opened=crew.open,
                timed=len(plans) == 1,
            )
            ledgers[method] = ledger
            runs[method] = stack.enter_context(
                closing(steps_of(plan, Single(Labeller(worker, Order.of(plan))), ledger, worker.can_open))
            )
        broken = dict(_in_turns(runs, progress))
    return TogetherRun(
        summaries={method: ledger.summary for method, ledger in ledgers.items()},
        broken=broken,
    )


def _in_turns(
    runs: Mapping[str, Iterator[Step]], progress: Callable[[str, Step], None] | None
) -> Iterator[tuple[str, str]]:
    """Let each run take one image after another; yields those that cannot go on, and why."""
    going = dict(runs)
    while going:
        for method, steps in list(going.items()):
            try:
                step = next(steps, None)
            except _FAULTS as error:
                log.warning("%s cannot go on: %s", method, _first_line(error))
                yield method, _first_line(error)
                step = None
            if step is None:
                del going[method]
            elif progress is not None:
                progress(method, step)


def _first_line(error: BaseException) -> str:
    return next(iter(str(error).splitlines()), "") or type(error).__name__


@dataclass(slots=True, eq=False)
class _Picture:
    """A picture that is open, and the answers that wait for their method."""

    image: Image.Image
    waiting: dict[str, Segmentation] = field(default_factory=dict)
    asked: set[str] = field(default_factory=set)


class _Crew:
    """The segmenters of several methods, which answer for a picture when the first of them is asked.

    Args:
        plans: By method, as they are now.
        segmenters: Of those that segment.
        batch: How many pictures may go together; None for the device's default.
    """

    def __init__(self, plans: Mapping[str, Plan], segmenters: Mapping[str, Segmenter], batch: int | None) -> None:
        self._segmenters = segmenters
        device = next((segmenter.models.device for segmenter in segmenters.values()), "cpu")
        self.batch = batch or (1 if device == "cpu" else BATCH_ON_GPU)
        self._device = device
        self._wanted: dict[Place, set[str]] = {}
        for method, plan in plans.items():
            for item in plan.items:
                if item.action == "segment":
                    self._wanted.setdefault(item.image.path, set()).add(method)
        self._alone: set[str] = set()  # those that could not do with a picture, or with the others, once
        self._open: OrderedDict[Place, _Picture] = OrderedDict()
        self._faults: OrderedDict[Place, ImageError] = OrderedDict()

    def loader(self, method: str) -> Callable[[], ReadySegmenter]:
        """What makes ready one of them."""

        def load() -> ReadySegmenter:
            segmenter = self._segmenters[method]
            return ReadySegmenter(_Member(self, method, segmenter), self._device, segmenter.models.computes_in)

        return load

    def open(self, path: Place) -> Image.Image:
        """A picture, read once for all methods while they are at it.

        Raises:
            ImageError: It cannot be read.
        """
        if path in self._faults:
            raise self._faults[path]
        if path not in self._open:
            try:
                self._open[path] = _Picture(open_image(path))
            except ImageError as error:
                self._faults[path] = error
                raise
            while len(self._open) > 2 * self.batch + 1:
                self._open.popitem(last=False)
        return self._open[path].image

    def answers(
        self, method: str, images: Sequence[Image.Image], classes: Sequence[Sequence[str] | None]
    ) -> list[Segmentation]:
        """Those of one method, and with them those of the others that will be asked for the same pictures."""
        known = {id(picture.image): (path, picture) for path, picture in self._open.items()}
        pictures = [known.get(id(image)) for image in images]
        found = [picture[1].waiting.pop(method, None) for picture in pictures if picture is not None]
        if len(found) == len(images) and all(one is not None for one in found):
            return [one for one in found if one is not None]
        for picture in pictures:
            if picture is not None:
                picture[1].asked.add(method)
        others = [
            other
            for other in self._segmenters
            if other not in self._alone
            and all(p is not None and other in self._wanted[p[0]] and other not in p[1].asked for p in pictures)
        ]
        if method not in self._alone and others:
            shared = self._together([method, *others], images, classes)
            if shared is not None:
                for other in others:
                    for picture, answer in zip(pictures, shared[other], strict=True):
                        if picture is not None:
                            picture[1].waiting[other] = answer
                            picture[1].asked.add(other)
                return shared[method]
        try:
            return list(self._segmenters[method].segment_batch(images, classes=classes))
        except Exception:
            self._alone.add(method)
            raise

    def _together(
        self, methods: Sequence[str], images: Sequence[Image.Image], classes: Sequence[Sequence[str] | None]
    ) -> dict[str, list[Segmentation]] | None:
        """The answers of several methods; None where one of them cannot do with a picture, which is seen alone."""
        from ovseg_cli.segmentation import segmenter

        members = [self._segmenters[method] for method in methods]
        try:
            answers = segmenter.segment_batch_together(members, images, classes)
        except ImageError as error:
            log.debug("the methods go one by one on %d picture(s): %s", len(images), error)
            return None
        except _FAULTS as error:  # seen when the one at fault is alone; if none is, it is too much for all together
            log.debug("the methods go one by one from now on: %s", error)
            self._alone.update(self._segmenters)
            return None
        return dict(zip(methods, answers, strict=True))


class _Member:
    """One of a crew, as a worker knows it."""

    def __init__(self, crew: _Crew, method: str, segmenter: Segmenter) -> None:
        self._crew = crew
        self._method = method
        self.settings = segmenter.settings

    def segment(self, image: Image.Image, *, classes: Sequence[str] | None = None) -> Segmentation:
        """As `Segmenter.segment`."""
        return self._crew.answers(self._method, [image], [classes])[0]

    def segment_batch(
        self, images: Sequence[Image.Image], *, classes: Sequence[Sequence[str] | None] | None = None
    ) -> list[Segmentation]:
        """As `Segmenter.segment_batch`."""
        return self._crew.answers(self._method, images, [None] * len(images) if classes is None else classes)
