"""What a folder run does with images: open, segment and explain them. Nothing is written here."""

from __future__ import annotations

import logging
import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol, TypeVar, cast

from ovseg_cli.errors import ImageError
from ovseg_cli.files.images import open_image
from ovseg_cli.memory import is_out_of_memory, release
from ovseg_cli.runs.memory import Easing, Room
from ovseg_cli.runs.plan import PlanItem
from ovseg_cli.stages import stage
from ovseg_cli.urls import Place

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray
    from PIL import Image

    from ovseg_cli.explanations import Explainer, Explanation
    from ovseg_cli.files.probabilities import Scores
    from ovseg_cli.segmentation.segmenter import Segmenter
    from ovseg_cli.store import Store

BATCH_ON_GPU = 8
"""Pictures of one size that go through the models together where nobody says; on a CPU each goes alone."""

MOST_CROPS = 16
"""Crops that go together while memory suffices: `ovseg_cli.segmentation.task.MAX_CROPS_AT_ONCE`, without torch."""

log = logging.getLogger("ovseg_cli")

Result = TypeVar("Result")


class SegmentationLike(Protocol):
    """The result for one picture, as `ovseg_cli.segmentation.segmenter.Segmentation` has it."""

    @property
    def ids(self) -> NDArray[np.uint16]:
        """Class ids, `(H, W)`, 0 = background."""

    @property
    def method(self) -> str:
        """What made it."""

    @property
    def shares(self) -> dict[str, float]:
        """Share of the pixels per class, in [0, 1]."""

    @property
    def mean_scores(self) -> dict[str, float]:
        """Mean score per class."""

    @property
    def kept(self) -> dict[str, float | None] | None:
        """The classes that took part, with the pre-filter's cosines if it chose them; None for all."""

    @property
    def unfamiliar(self) -> bool | None:
        """Whether the models were trained on nothing like it; None where they know photographs."""

    @property
    def margin(self) -> float | None:
        """How far its pixels' scores are from giving other labels, on the mean; None for only one label."""

    @property
    def scores(self) -> Scores | None:
        """What the labels were chosen by, if it was to be kept."""


class SegmenterLike(Protocol):
    """What a run needs of a segmenter."""

    @property
    def settings(self) -> dict[str, Any]:
        """JSON-able settings for the record."""

    def segment(self, image: Image.Image, *, classes: Sequence[str] | None = None) -> Any:
        """Label one upright RGB picture; `classes` are those that may be in it, None to find out."""

    def segment_batch(
        self, images: Sequence[Image.Image], *, classes: Sequence[Sequence[str] | None] | None = None
    ) -> Sequence[Any]:
        """Label pictures of one size as `segment` labels each of them."""


class ReadySegmenter(NamedTuple):
    """A segmenter, ready to work, where it computes (`cpu`, `cuda:0` ...), and in what (`float16`, `float32`)."""

    segmenter: SegmenterLike
    device: str
    precision: str


class Equipment(NamedTuple):
    """What a worker segments with, for the record, and how many pictures may go together."""

    settings: Mapping[str, Any]
    device: str
    precision: str
    batch: int


@dataclass(frozen=True, slots=True)
class OpenImage:
    """A picture that waits to be segmented, and how long it took to read it."""

    item: PlanItem
    image: Image.Image
    seconds: float


@dataclass(frozen=True, slots=True, eq=False)
class Labels:
    """What became of a picture: its labels, why they are these where somebody asked, and when the work began.

    That is None where nobody can say, as the work was done for several methods together.
    """

    result: SegmentationLike
    explanations: Sequence[Explanation] | None
    begun: float | None


class Worker:
    """Labels pictures, with a segmenter that is loaded when it is first needed.

    Where memory does not suffice, fewer pictures go together from then on, down to one; then fewer crops of each. That
    changes label maps no more than the rounding of batched products does.

    Args:
        load: Loads it.
        store: Gives where prototypes come from, for explanations.
        batch: How many pictures may go together; None for the device's default.
        loaded: Is told of the segmenter and of the batch, once.
        opened: Opens a picture; None for `open_image`.
        timed: Whether its pictures' time is its own.

    Attributes:
        batch: How many pictures may go together; None before that is known.
        device: Where the segmenter computes; empty before it is loaded.
    """

    def __init__(
        self,
        load: Callable[[], ReadySegmenter],
        store: Callable[[], Store],
        batch: int | None,
        loaded: Callable[[Equipment], None],
        *,
        opened: Callable[[Place], Image.Image] | None = None,
        timed: bool = True,
    ) -> None:
        self._load = load
        self._store = store
        self._tell = loaded
        self._open = opened or open_image
        self._timed = timed
        self._segmenter: SegmenterLike | None = None
        self._explainer: Explainer | None = None
        self.device = ""
        self._room = Room()
        self._first: OpenImage | None = None
        self.batch = batch

    def can_open(self, item: PlanItem) -> bool:
        """Whether a picture can be read, before models are loaded for it; it is kept until it is opened."""
        found = self._read(item)
        self._first = found if isinstance(found, OpenImage) else None
        return self._first is not None

    def open(self, item: PlanItem) -> OpenImage | ImageError:
        """A picture, or why it cannot be read: those before it come first."""
        first = self._first
        if first is None or first.item is not item:
            return self._read(item)
        self._first = None
        return first

    def _read(self, item: PlanItem) -> OpenImage | ImageError:
        begun = time.perf_counter()
        try:
            with stage("reading"):
                return OpenImage(item, self._open(item.image.path), time.perf_counter() - begun)
        except ImageError as error:
            return error

    def ready(self) -> None:
        """Load the segmenter, if that was not done before; `batch` is known then."""
        if self._segmenter is None:
            loaded = self._load()
            self._segmenter = loaded.segmenter
            self.device = loaded.device
            if self.batch is None:
                self.batch = 1 if loaded.device == "cpu" else BATCH_ON_GPU
            self._tell(Equipment(loaded.segmenter.settings, loaded.device, loaded.precision, self.batch))

    def eased(self) -> Easing | None:
        """What goes through the models at once by now, where that has changed since it was last asked for."""
        return self._room.told()

    def label(self, images: Sequence[OpenImage]) -> Iterator[tuple[OpenImage, Callable[[], Labels]]]:
        """Label pictures of one size: together if they are several, and one by one if one of them is at fault.

        Yields:
            Each picture, with what gives its labels or raises the `ImageError` that it is at fault for.
        """
        waiting = deque([list(images)] if images else [])
        while waiting:
            group = waiting.popleft()
            size = group[0].image.size
            most = self._room.images(size, len(group))
            if len(group) > most:
                waiting.extendleft(reversed([group[i : i + most] for i in range(0, len(group), most)]))
                continue
            begun = time.perf_counter()
            results: Sequence[SegmentationLike | None] | None = [None] * len(group)
            if len(group) > 1:
                results = self._together(group)
            if results is None:  # here, as the error holds all that did not fit
                release()
                self._room.fewer_images(size, len(group))
                waiting.appendleft(group)
                continue
            share = (time.perf_counter() - begun) / len(group)
            for one, result in zip(group, results, strict=True):
                yield one, self._one(one, result, share)

    def _together(self, group: Sequence[OpenImage]) -> Sequence[SegmentationLike | None] | None:
        """Labels of pictures of one size; None for each when one of them is at fault, and for all when it is memory."""
        try:
            with self._crops(group[0]):
                return self._ready().segment_batch(
                    [one.image for one in group], classes=[one.item.classes for one in group]
                )
        except ImageError as error:
            log.debug("%d pictures go one by one, so that only the one at fault fails: %s", len(group), error)
            return [None] * len(group)
        except (MemoryError, RuntimeError) as error:
            if not is_out_of_memory(error):
                raise
            return None

    def _one(self, one: OpenImage, result: SegmentationLike | None, seconds: float) -> Callable[[], Labels]:
        def labels() -> Labels:
            begun = time.perf_counter() - one.seconds - seconds
            found = result
            if found is None:
                segment = self._ready().segment
                found = self._alone(one, lambda: segment(one.image, classes=one.item.classes))
            return Labels(found, None, begun if self._timed else None)

        return labels

    def explain(self, one: OpenImage) -> Labels:
        """Label a picture, and say why.

        Raises:
            ImageError: The method cannot do with it.
        """
        from ovseg_cli.explanations import Explainer

        begun = time.perf_counter() - one.seconds
        if self._explainer is None:
            self._explainer = Explainer(cast("Segmenter", self._ready()), self._store())
        explain = self._explainer.explain
        result, explanations = self._alone(one, lambda: explain(one.image, classes=one.item.classes))
        return Labels(result, explanations, begun)

    def _alone(self, one: OpenImage, work: Callable[[], Result]) -> Result:
        """Do something with one picture, with as many of its crops at once as memory has room for.

        Raises:
            ImageError: Not even one crop at a time fits.
        """
        size = one.image.size
        while True:
            try:
                with self._crops(one):
                    return work()
            except (MemoryError, RuntimeError) as error:
                if not is_out_of_memory(error):
                    raise
            release()
            crops = self._room.crops(size, MOST_CROPS)
            if crops == 1:
                raise ImageError(
                    f"{one.item.image.path} ({size[0]} x {size[1]} pixels) does not fit into the memory of "
                    f"{self.device or 'this computer'}, not even one crop of it at a time. Free memory that other "
                    "programs hold, look for fewer classes, work at a smaller --short-side or with smaller --windows, "
                    "or use --device cpu."
                )
            self._room.fewer_crops(size, crops)

    def _crops(self, one: OpenImage) -> AbstractContextManager[None]:
        """Within it, as many crops go together as have room."""
        crops = self._room.crops(one.image.size, MOST_CROPS)
        if crops == MOST_CROPS:
            return nullcontext()
        from ovseg_cli.segmentation.task import fewer_crops

        return fewer_crops(crops)

    def _ready(self) -> SegmenterLike:
        self.ready()
        return cast(SegmenterLike, self._segmenter)
