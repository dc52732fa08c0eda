"""How long a method takes for a picture, and how much memory, when it works alone."""

from __future__ import annotations

import gc
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ovseg_cli.errors import ImageError
from ovseg_cli.files.images import open_image

if TYPE_CHECKING:
    from ovseg_cli.models import Models
    from ovseg_cli.segmentation.recipe import Recipe
    from ovseg_cli.text.embedding import TextCache


@dataclass(frozen=True, slots=True, kw_only=True)
class Speed:
    """What was measured.

    Attributes:
        seconds: Of each picture, after one more that came first and is not timed; empty where the method could do with
            none of them.
        memory: Bytes: on a GPU the most that tensors took, networks included; on a CPU how far the process grew at
            most, from before the networks were loaded. None where the system does not say.
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


def measure(
    recipe: Recipe, load_models: Callable[[], Models], pictures: Sequence[Path], *, texts: TextCache | None = None
) -> Speed:
    """Load what a method needs, and time it picture by picture.

    Args:
        recipe: What it does.
        load_models: Gives models of which nothing is loaded yet, so that the memory is this method's alone.
        pictures: Which; the first is seen twice, once for nothing.
        texts: Where embeddings of words are kept.
    """
    import torch

    from ovseg_cli.segmentation.segmenter import Segmenter

    gc.collect()
    models = load_models()
    memory = _Memory(models.device)
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
    speed = Speed(
        seconds=tuple(seconds),
        memory=memory.grown() if seconds else None,
        device=models.device,
        precision=str(models.dtype).removeprefix("torch."),
        threads=torch.get_num_threads(),
    )
    del segmenter, models
    gc.collect()
    if speed.device.startswith("cuda"):
        torch.cuda.empty_cache()
    return speed


class _Memory:
    """How much more memory there is in use at most than when this was made."""

    def __init__(self, device: str) -> None:
        self._device = device
        if device.startswith("cuda"):
            import torch

            torch.cuda.reset_peak_memory_stats(device)
            self._before: int | None = torch.cuda.memory_allocated(device)
        else:
            self._before = _begin_peak() if device == "cpu" else None

    def grown(self) -> int | None:
        """Bytes; None where the system does not say."""
        if self._before is None:
            return None
        if self._device.startswith("cuda"):
            import torch

            return int(torch.cuda.max_memory_allocated(self._device)) - self._before
        peak = _status("VmHWM")
        return None if peak is None else max(0, peak - self._before)


def _begin_peak() -> int | None:
    """Let the kernel forget the largest size that this process had (Linux); its size now, None where that cannot be."""
    if not sys.platform.startswith("linux"):
        return None
    try:
        Path("/proc/self/clear_refs").write_text("5", encoding="ascii")
    except OSError:
        return None
    return _status("VmRSS")


def _status(name: str) -> int | None:
    try:
        lines = Path("/proc/self/status").read_text(encoding="ascii", errors="replace").splitlines()
    except OSError:
        return None
    return next((1024 * int(line.split()[1]) for line in lines if line.startswith(f"{name}:")), None)
