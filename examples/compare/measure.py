"""Every method on every picture: label maps, times, and how right they are."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image

from examples.compare.truth import LEFT_OUT, Truth
from ovseg_cli.errors import ImageError, LabelError, UnknownClassError, UsageError
from ovseg_cli.evaluation.confusion import ConfusionMatrix
from ovseg_cli.evaluation.report import Report, build_report
from ovseg_cli.files.images import InputImage, open_image
from ovseg_cli.files.labels import BACKGROUND
from ovseg_cli.methods.catalogue import METHODS, word_methods
from ovseg_cli.methods.catalogue import METHODS as CATALOGUE
from ovseg_cli.models import Models
from ovseg_cli.names import unknown_choice
from ovseg_cli.segmentation.options import SegmentOptions
from ovseg_cli.segmentation.segmenter import Segmenter, segment_together
from ovseg_cli.store import Store

Tell = Callable[[str], None]


@dataclass(frozen=True, slots=True, eq=False)
class Panel:
    """What one method makes of one picture.

    Attributes:
        method: Its name.
        ids: uint16 (H, W): 0 background, i + 1 for class i; None where it failed.
        miou: Of this picture, over the classes of its ground truth, 0..1; None without any. (Over those that were found
            too, as for a folder, a pixel of a wrong class would count as much as an object.)
        error: Why it failed; empty where it did not.
    """

    method: str
    ids: npt.NDArray[np.uint16] | None
    miou: float | None = None
    error: str = ""


@dataclass(frozen=True, slots=True, eq=False)
class Compared:
    """One picture under every method.

    Attributes:
        source: Where it comes from.
        image: Upright RGB.
        truth: As `Truth.read` gives it; None without ground truth.
        panels: One for each method.
    """

    source: InputImage
    image: Image.Image
    truth: npt.NDArray[np.int32] | None
    panels: tuple[Panel, ...]


@dataclass(slots=True, eq=False)
class Contestant:
    """A method and its figures so far.

    Attributes:
        segmenter: What segments by it.
        matrix: Of all its pictures with ground truth.
        done: Pictures that it segmented.
        seconds: For each of those, where it was timed.
        scored: How many of them have ground truth.
        failures: (picture, reason).
    """

    segmenter: Segmenter
    matrix: ConfusionMatrix
    done: int = 0
    seconds: list[float] = field(default_factory=list)
    scored: int = 0
    failures: list[tuple[str, str]] = field(default_factory=list)

    @property
    def speed(self) -> float | None:
        """Images per second; None when it was not timed, or failed on every picture."""
        return len(self.seconds) / sum(self.seconds) if self.seconds else None

    def report(self) -> Report | None:
        """How right it was over all pictures with ground truth; None without any."""
        return _report(self.segmenter.names, self.matrix, self.scored) if self.scored else None

    def record(self) -> dict[str, Any]:
        """The figures as JSON-able values."""
        report, info = self.report(), CATALOGUE[self.segmenter.method]
        return {
            "method": self.segmenter.method,
            "title": info.title,
            "source": info.source,
            "miou": None if report is None else report.miou,
            "iou": {} if report is None else {score.name: score.iou for score in report.classes},
            "images_per_second": self.speed,
            "pictures": self.done,
            "scored": self.scored,
            "failures": [{"picture": picture, "reason": reason} for picture, reason in self.failures],
        }


def _report(names: Sequence[str], matrix: ConfusionMatrix, images: int) -> Report:
    return build_report((BACKGROUND, *names), matrix.counts, images=images, ignored_pixels=matrix.ignored)


def choose_methods(store: Store, names: Sequence[str]) -> tuple[str, ...]:
    """The methods that are compared when none is named.

    All that read words; those that match prototypes too, when every class has some (prototype), or any has (hybrid).
    """
    there = [store.has_class(name) for name in names]
    with_prototypes = [*(["prototype"] if all(there) else []), *(["hybrid"] if any(there) else [])]
    return (*with_prototypes, *word_methods())


def enter(
    models: Models, store: Store, names: Sequence[str], methods: Sequence[str] | None, tell: Tell
) -> list[Contestant]:
    """Make ready the methods; of those that nobody named, what cannot run is told and left out.

    Args:
        models: The profile's models, shared by all methods.
        store: Where prototypes come from.
        names: Classes in label order.
        methods: By name; None takes `choose_methods`.
        tell: Told what is left out.

    Raises:
        UsageError: A method is unknown, named twice, or cannot run with these classes, this store and this profile.
    """
    if methods is not None:
        if unknown := [name for name in methods if name not in METHODS]:
            raise unknown_choice("method", unknown[0], METHODS, heading="Methods")
        if len(set(methods)) < len(methods):
            raise UsageError(f"A method is given twice: {', '.join(methods)}.")
    contestants = []
    for name in choose_methods(store, names) if methods is None else methods:
        try:
            segmenter = Segmenter(models, store, names, method=name, options=SegmentOptions(background=True))
        except UnknownClassError as error:  # prototypes of classes that the store does not have
            raise UsageError(f"{name} needs a --store that has all the classes. {error}") from error
        except UsageError as error:
            if methods is not None:
                raise
            tell(f"{name} is left out: {error}")
            continue
        contestants.append(Contestant(segmenter, ConfusionMatrix(len(names) + 1, ignore=LEFT_OUT)))
    return contestants


def compare(
    contestants: Sequence[Contestant],
    pictures: Sequence[InputImage],
    truth: Truth | None,
    tell: Tell,
    *,
    timed: bool = False,
    known: bool = False,
) -> Iterator[Compared]:
    """Segment pictures by every method, and keep account.

    A picture that cannot be read is told and passed over. A method that fails on a picture is told and left out there.
    Methods share their walks through the networks, unless they are timed.

    Args:
        contestants: Their figures grow with every picture.
        pictures: Where they are.
        truth: Ground truth, if there is some.
        tell: Told what went wrong.
        timed: Whether each method works by itself, and is timed.
        known: Whether methods are told which of the classes are in each picture, by its ground truth (an oracle; image
            labels, as AggSD's published figures have them). A picture without ground truth may show all of them.

    Yields:
        The pictures that can be read.

    Raises:
        LabelError: The ground truth of a picture has another size or cannot be read.
    """
    warm = not timed
    for source in pictures:
        try:
            image = open_image(source.path)
        except ImageError as error:
            tell(f"{source.key} is passed over: {error}")
            continue
        if not warm:  # models are loaded by the first picture, which is nobody's speed
            _one_by_one(contestants, image, None)
            warm = True
        true = truth.read(str(source.key)) if truth is not None and str(source.key) in truth else None
        if true is not None and true.shape != (image.height, image.width):
            raise LabelError(
                f"The sizes differ: the ground truth of {source.key} is {true.shape[1]}x{true.shape[0]}, the picture "
                f"{image.width}x{image.height}."
            )
        classes = None
        if known and true is not None:
            names = contestants[0].segmenter.names
            classes = [names[number - 1] for number in np.unique(true) if number > 0]
        answers = None if timed else _together(contestants, image, classes, str(source.key), tell)
        if answers is None:
            answers = _one_by_one(contestants, image, classes)
        panels = tuple(
            _take(contestant, answer, true, str(source.key), tell, timed=timed)
            for contestant, answer in zip(contestants, answers, strict=True)
        )
        yield Compared(source, image, true, panels)


@dataclass(frozen=True, slots=True, eq=False)
class _Answer:
    """A label map and how long it took; or None, and why there is none."""

    ids: npt.NDArray[np.uint16] | None
    seconds: float = 0.0
    error: str = ""


def _together(
    contestants: Sequence[Contestant], image: Image.Image, classes: Sequence[str] | None, key: str, tell: Tell
) -> list[_Answer] | None:
    """The answers of all; None where one of them fails: which one is seen when each works by itself."""
    try:
        results = segment_together([contestant.segmenter for contestant in contestants], image, classes)
        return [_Answer(result.ids) for result in results]
    except Exception as error:
        tell(f"{key}: the methods go one by one here: {error}")
        return None


def _one_by_one(contestants: Sequence[Contestant], image: Image.Image, classes: Sequence[str] | None) -> list[_Answer]:
    answers = []
    for contestant in contestants:
        start = time.perf_counter()
        try:
            ids = contestant.segmenter.segment(image, classes).ids
            answers.append(_Answer(ids, time.perf_counter() - start))
        except Exception as error:  # whatever it is: the other methods and pictures go on
            answers.append(_Answer(None, error=str(error) or type(error).__name__))
    return answers


def _take(
    contestant: Contestant,
    answer: _Answer,
    true: npt.NDArray[np.int32] | None,
    key: str,
    tell: Tell,
    *,
    timed: bool,
) -> Panel:
    method, ids = contestant.segmenter.method, answer.ids
    if ids is None:
        contestant.failures.append((key, answer.error))
        tell(f"{method} fails on {key}: {answer.error}")
        return Panel(method, None, error=answer.error)
    contestant.done += 1
    if timed:
        contestant.seconds.append(answer.seconds)
    if true is None:
        return Panel(method, ids)
    here = ConfusionMatrix(contestant.matrix.num_classes, ignore=LEFT_OUT)
    here.update(true, ids)
    contestant.matrix += here
    contestant.scored += 1
    return Panel(method, ids, miou=_report(contestant.segmenter.names, here, 1).miou_present)
