"""How long a method takes for a picture, and how much memory, when it works alone."""

from __future__ import annotations

import multiprocessing
import signal
import sys
import time
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ovseg_cli.errors import ImageError, MethodError, StoreError
from ovseg_cli.files.images import open_image

if TYPE_CHECKING:
    from ovseg_cli.segmentation.recipe import Recipe


@dataclass(frozen=True, slots=True, kw_only=True)
class Speed:
    """What was measured.

    Attributes:
        seconds: Of each picture, after one more that came first and is not timed; empty where the method could do with
            none of them.
        memory: Bytes: on a GPU the most that tensors took, networks included; on a CPU the largest size of a process
            that does nothing else. None where the system does not say.
        device: Where.
        precision: In what.
        threads: Of the processor, for torch.
    """

    seconds: tuple[float, ...]
    memory: int | None
    device: str
    precision: str
    threads: int

    @property
    def mean(self) -> float | None:
        """Mean seconds a picture."""
        return sum(self.seconds) / len(self.seconds) if self.seconds else None

    def record(self) -> dict[str, Any]:
        """As JSON-able data."""
        return {**asdict(self), "seconds": [round(second, 4) for second in self.seconds]}

    @classmethod
    def of(cls, record: Any) -> Speed | None:
        """Read `record` back; None of anything else."""
        try:
            return cls(**{**record, "seconds": tuple(float(second) for second in record["seconds"])})
        except (TypeError, KeyError, ValueError):
            return None


def measure(recipe: Recipe, pictures: Sequence[Path], *, device: str, store: Path) -> Speed:
    """Time a method picture by picture, in a process of its own: what others leave in memory would count as its own.

    Args:
        recipe: What it does.
        pictures: Which; the first is seen twice, once for nothing.
        device: As typed.
        store: Where embeddings of words are kept.

    Raises:
        MethodError: The process ended without an answer.
    """
    with ProcessPoolExecutor(
        1, mp_context=multiprocessing.get_context("spawn"), initializer=_leave_interrupts_to_the_parent
    ) as pool:
        try:
            return pool.submit(measure_here, recipe, list(pictures), device, store).result()
        except BrokenProcessPool as error:
            raise MethodError(
                f"The process that timed {recipe.method} ended without an answer; there may be too little memory. "
                "Leave timing out with --timed 0."
            ) from error


def _leave_interrupts_to_the_parent() -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)


def measure_here(recipe: Recipe, pictures: Sequence[Path], device: str, store: Path) -> Speed:
    """Time a method in this process, whose memory is taken for the method's."""
    import torch

    from ovseg_cli.models import load_models
    from ovseg_cli.segmentation.segmenter import Segmenter
    from ovseg_cli.store import Store

    models = load_models(recipe.profile, device=device, precision=recipe.precision)
    try:
        texts: Store | None = Store.open(store, create=False)
    except StoreError:
        texts = None  # words are read anew then
    segmenter = Segmenter.by_recipe(models, recipe, texts=texts)
    seconds: list[float] = []
    warm = False
    for path in pictures:
        try:
            if not warm:
                segmenter.segment(open_image(path))
                warm = True
            started = time.perf_counter()
            segmenter.segment(open_image(path))  # the label map comes to the CPU, so the GPU is done
            seconds.append(time.perf_counter() - started)
        except ImageError:
            continue
    if texts is not None:
        texts.close()
    return Speed(
        seconds=tuple(seconds),
        memory=peak_memory(models.device) if seconds else None,
        device=models.device,
        precision=models.computes_in,
        threads=torch.get_num_threads(),
    )


def peak_memory(device: str) -> int | None:
    """The most memory that was used so far."""
    if device.startswith("cuda"):
        import torch

        return int(torch.cuda.max_memory_allocated(device))
    if device != "cpu":
        return None
    try:
        # Not `getrusage`: there the size of the parent counts, which was this process until it began its own program.
        lines = Path("/proc/self/status").read_text(encoding="ascii", errors="replace").splitlines()
    except OSError:
        return _largest_size()
    return next((1024 * int(line.split()[1]) for line in lines if line.startswith("VmHWM:")), None)


def _largest_size() -> int | None:
    """The same where there is no Linux."""
    try:
        import resource
    except ImportError:  # Windows
        return None
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else 1024 * peak
