"""Where a worker sits that is not this process: it is given all it needs as data, and answers by messages."""

from __future__ import annotations

import logging
import os
import pickle
import traceback
import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Protocol

from ovseg_cli.errors import UsageError
from ovseg_cli.runs.engines.crew import Hand
from ovseg_cli.runs.jobs import Labeller, Order
from ovseg_cli.runs.worker import Equipment, ReadySegmenter, Worker

if TYPE_CHECKING:
    from ovseg_cli.models import Models
    from ovseg_cli.segmentation.recipe import Recipe
    from ovseg_cli.store import Store
    from ovseg_cli.text.embedding import TextCache

Message = tuple[Literal["ready", "made", "free", "log", "error"], Any]
"""What a worker says: its equipment; an outcome; that it waits; a (level, text) for the log; or what ended its job."""

Loader = Callable[[str], ReadySegmenter]
"""Loads a segmenter onto a device; can be pickled."""


@dataclass(frozen=True, slots=True)
class ByRecipe:
    """Loads the segmenter of a recipe, with nothing but the recipe: no store is opened.

    Attributes:
        recipe: The recipe.
        scores: In how many bits scores are to be kept; 0 for not at all.
    """

    recipe: Recipe
    scores: Literal[0, 8, 16] = 0

    def __call__(self, device: str) -> ReadySegmenter:
        """See `Loader`."""
        from ovseg_cli.models import load_models

        return self.ready(load_models(self.recipe.profile, device=device, precision=self.recipe.precision))

    def ready(
        self, models: Models, *, texts: TextCache | None = None, progress: Callable[[int, int], None] | None = None
    ) -> ReadySegmenter:
        """The same with models that are there.

        Args:
            models: The models of the recipe's profile.
            texts: Where embeddings of words are kept; None for nowhere.
            progress: Told how many of how many words are read.
        """
        from ovseg_cli.segmentation.segmenter import Segmenter

        segmenter = Segmenter.by_recipe(models, self.recipe, texts=texts, progress=progress)
        segmenter.keep_scores = self.scores
        return ReadySegmenter(segmenter, models.device, models.computes_in)


class Craft(Protocol):
    """What a worker is to do, as data: it can be pickled."""

    def hand(self, device: str, told: Callable[[Equipment], None]) -> Hand:
        """What does it.

        Args:
            device: Where it computes.
            told: Is told what it works with, when its models are loaded.
        """


@dataclass(frozen=True, slots=True, kw_only=True)
class Segmenting:
    """Segments pictures.

    Attributes:
        load: Loads the segmenter.
        order: What all jobs have in common.
        batch: How many images may go together; None for the device's default.
        store: The store's folder, for explanations, which show its support images; None where workers open none.
    """

    load: Loader
    order: Order
    batch: int | None
    store: Path | None = None

    def hand(self, device: str, told: Callable[[Equipment], None]) -> Hand:
        """See `Craft`."""
        return Labeller(Worker(lambda: self.load(device), self._open_store, self.batch, told), self.order, ())

    def _open_store(self) -> Store:
        """Open the store, which other processes may be writing to."""
        from ovseg_cli.store import Store

        if self.store is None:
            raise UsageError("Explanations look into the store, which these workers do not open: leave out --explain.")
        return Store.open(self.store, create=False)


@dataclass(frozen=True, slots=True, kw_only=True)
class Spec:
    """What each worker is given, the same for all.

    Attributes:
        craft: What it is to do.
        folder: The current folder, which relative paths begin at.
        environment: Variables that libraries read.
        level: What is told in the log.
    """

    craft: Craft
    folder: Path = field(default_factory=Path.cwd)
    environment: Mapping[str, str] = field(default_factory=dict)
    level: int = logging.WARNING


class Workplace:
    """Does jobs, and says so.

    Args:
        spec: What it is given.
        device: Where it computes.
        send: Is told every message.
    """

    def __init__(self, spec: Spec, device: str, send: Callable[[Message], None]) -> None:
        os.environ.update(spec.environment)
        if spec.folder.is_dir():
            os.chdir(spec.folder)
        _forward_log(spec.level, send)
        self._send = send
        self._hand = spec.craft.hand(device, lambda found: send(("ready", found)))

    def start(self, *, load: bool) -> None:
        """Load the models, if need be; then wait."""
        self._send(self._attempt(self._hand.ready) if load else ("free", None))

    def do(self, job: Any) -> None:
        """Do a job; then wait."""

        def work() -> None:
            for outcome in chain(self._hand.do(job), self._hand.rest()):
                self._send(("made", outcome))

        self._send(self._attempt(work))

    def _attempt(self, work: Callable[[], None]) -> Message:
        try:
            work()
        except Exception as error:
            return ("error", portable(error))
        return ("free", None)


def portable(error: Exception) -> Exception:
    """An error that can be pickled, with the story of where it arose."""
    error.add_note(f"In a worker:\n{''.join(traceback.format_exception(error))}")
    try:
        pickle.loads(pickle.dumps(error))  # noqa: S301  # our own bytes
    except Exception:
        return RuntimeError(f"{type(error).__name__}: {error}")
    return error


def _forward_log(level: int, send: Callable[[Message], None]) -> None:
    """Send what the package tells to whoever owns the run, and keep the libraries' remarks to ourselves."""

    class Sending(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            send(("log", (record.levelno, record.getMessage())))

    log = logging.getLogger("ovseg_cli")
    for handler in list(log.handlers):
        log.removeHandler(handler)
    log.addHandler(Sending())
    log.setLevel(level)
    log.propagate = False
    if level > logging.INFO:
        warnings.simplefilter("ignore")
