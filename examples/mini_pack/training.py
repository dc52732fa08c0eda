"""The frame of every training: steps, learning rate, moving average, checkpoints and the log of curves.

A training is a function of its seed and of the step alone: batches and noise of step `s` come from a
generator seeded with (seed, s), so that a training that was stopped and continued ends with the weights
of one that was not (on the same machine and with the same number of threads).
"""

from __future__ import annotations

import csv
import math
import signal
import sys
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import Any, Final

import torch
from torch import Tensor, nn

from ovseg_cli.atomic import atomic_path

_CHECKPOINT_SECONDS: Final = 240.0
_LOG_STEPS: Final = 50


class Stopped(Exception):
    """A training ran out of its minutes, or was told to stop, after writing a checkpoint."""


@dataclass(frozen=True, slots=True)
class Schedule:
    """How long and how fast a training learns.

    The learning rate rises linearly over `warmup` steps, stays, and falls with a cosine to zero over the
    last share `decay` of all steps: shapes firm up only while it falls.

    Attributes:
        steps: Steps in all.
        batch: Samples per step.
        lr: Largest learning rate.
        warmup: Steps of warm-up.
        decay: Share of the steps over which the learning rate falls.
        weight_decay: Weight decay of AdamW, on matrices and kernels only.
        betas: Moments of AdamW.
        ema: Largest decay of the moving average of the weights; 0 for none.
        seed: Seed of initialisation, batches and noise.
    """

    steps: int
    batch: int
    lr: float
    warmup: int = 200
    decay: float = 0.6
    weight_decay: float = 0.01
    betas: tuple[float, float] = (0.9, 0.99)
    ema: float = 0.999
    seed: int = 0

    def lr_at(self, step: int) -> float:
        """Return the learning rate of a step (0-based)."""
        rise = min(1.0, (step + 1) / max(1, self.warmup))
        start = (1 - self.decay) * self.steps
        fall = 0.0 if step < start else (step - start) / max(1.0, self.steps - start)
        return self.lr * rise * 0.5 * (1 + math.cos(math.pi * fall))


class Clock:
    """The minutes that a command may use, all its trainings together; also hears Ctrl-C and SIGTERM."""

    def __init__(self, minutes: float | None = None) -> None:
        """Start the clock.

        Args:
            minutes: Minutes until `spent`; None for no limit.
        """
        self._end = math.inf if minutes is None else time.monotonic() + 60 * minutes
        self._told = False

    def listen(self) -> None:
        """From now on SIGINT and SIGTERM end the running training at its next step, with a checkpoint."""
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, self._hear)

    def _hear(self, number: int, frame: FrameType | None) -> None:
        if self._told:
            raise KeyboardInterrupt  # asked twice: at once
        self._told = True

    @property
    def spent(self) -> bool:
        """Whether to stop."""
        return self._told or time.monotonic() >= self._end


class Average:
    """Exponential moving average of parameters, with a decay that grows from 0 as (s + 1) / (s + 10)."""

    def __init__(self, parameters: Iterable[nn.Parameter], decay: float) -> None:
        """Begin with the current values."""
        self._parameters = list(parameters)
        self._decay = decay
        self.values = [parameter.detach().clone() for parameter in self._parameters]

    @torch.no_grad()
    def update(self, step: int) -> None:
        """Take in the values after a step (0-based)."""
        decay = min(self._decay, (step + 1) / (step + 10))
        torch._foreach_lerp_(self.values, [p.detach() for p in self._parameters], 1 - decay)

    @torch.no_grad()
    def copy_to_model(self) -> None:
        """Give the parameters the averaged values."""
        for parameter, value in zip(self._parameters, self.values, strict=True):
            parameter.copy_(value)


def train(
    name: str,
    folder: Path,
    modules: Mapping[str, nn.Module],
    schedule: Schedule,
    loss: Callable[[int, torch.Generator], tuple[Tensor, dict[str, float]]],
    clock: Clock,
    *,
    after: Callable[[int], None] | None = None,
) -> None:
    """Train, from the last checkpoint on if there is one; at the end the modules hold the averaged weights.

    Args:
        name: Name of the training: of its checkpoint and of its log of curves.
        folder: Where both are kept, as ``NAME.pt`` and ``NAME.csv``.
        modules: What is saved. Parameters that require gradients are trained.
        schedule: How long and how fast.
        loss: Called with the step (0-based) and a CPU generator seeded for it; returns the loss and the
            figures to log.
        clock: When to stop.
        after: Called with the step after each update.

    Raises:
        Stopped: If the clock ran out; the checkpoint is written.
    """
    checkpoint, log = folder / f"{name}.pt", folder / f"{name}.csv"
    parameters = [p for module in modules.values() for p in module.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(
        [
            {"params": [p for p in parameters if p.ndim >= 2], "weight_decay": schedule.weight_decay},
            {"params": [p for p in parameters if p.ndim < 2], "weight_decay": 0.0},
        ],
        lr=schedule.lr,
        betas=schedule.betas,
        fused=True,
    )
    average = Average(parameters, schedule.ema)
    step, seconds = 0, 0.0
    if checkpoint.is_file():
        state = torch.load(checkpoint, map_location="cpu", weights_only=True)
        for key, module in modules.items():
            module.load_state_dict(state["modules"][key])
        optimizer.load_state_dict(state["optimizer"])
        with torch.no_grad():
            for value, saved in zip(average.values, state["average"], strict=True):
                value.copy_(saved)
        step, seconds = state["step"], state["seconds"]

    def save() -> None:
        with atomic_path(checkpoint) as part:
            torch.save(
                {
                    "modules": {key: module.state_dict() for key, module in modules.items()},
                    "optimizer": optimizer.state_dict(),
                    "average": average.values,
                    "step": step,
                    "seconds": seconds,
                },
                part,
            )

    curves = _Curves(log, step)
    saved_at = last = time.monotonic()
    while step < schedule.steps:
        if clock.spent:
            save()
            raise Stopped(f"{name}: stopped at step {step} of {schedule.steps}; the same command goes on from here")
        for group in optimizer.param_groups:
            group["lr"] = schedule.lr_at(step)
        value, figures = loss(step, torch.Generator().manual_seed(schedule.seed * 1_000_003 + step))
        optimizer.zero_grad(set_to_none=True)
        value.backward()
        torch.nn.utils.clip_grad_norm_(parameters, 1.0)
        optimizer.step()
        average.update(step)
        if after is not None:
            after(step)
        step += 1
        now = time.monotonic()
        seconds, last = seconds + now - last, now
        curves.add(figures)
        if step % _LOG_STEPS == 0 or step == schedule.steps:
            line = curves.write(step, step * schedule.batch, seconds, schedule.lr_at(step - 1))
            _show(f"{name} {step}/{schedule.steps} {line}")
        if now - saved_at > _CHECKPOINT_SECONDS:
            save()
            saved_at = now
    save()
    if schedule.ema:
        average.copy_to_model()


class _Curves:
    """Means of the logged figures, as lines of a CSV file."""

    def __init__(self, path: Path, step: int) -> None:
        self._path = path
        self._sums: dict[str, list[float]] = {}
        if path.is_file():  # lines written after the checkpoint will be written again
            lines = path.read_text(encoding="utf-8").splitlines()
            kept = lines[:1] + [line for line in lines[1:] if int(line.partition(",")[0]) <= step]
            path.write_text("".join(line + "\n" for line in kept), encoding="utf-8")

    def add(self, figures: dict[str, float]) -> None:
        for key, value in figures.items():
            self._sums.setdefault(key, []).append(value)

    def write(self, step: int, samples: int, seconds: float, lr: float) -> str:
        means = {key: sum(values) / max(1, len(values)) for key, values in self._sums.items()}
        self._sums = {key: [] for key in self._sums}
        row: dict[str, Any] = {"step": step, "samples": samples, "seconds": round(seconds), "lr": f"{lr:.3g}"}
        row |= {key: f"{value:.5f}" for key, value in means.items()}
        fresh = not self._path.is_file()
        with self._path.open("a", newline="", encoding="utf-8") as file:
            writer = csv.DictWriter(file, row)
            if fresh:
                writer.writeheader()
            writer.writerow(row)
        figures = " ".join(f"{key} {value:.4f}" for key, value in means.items())
        return f"{samples / max(seconds, 1e-9):.0f}/s {seconds / 60:.1f} min {figures}"


def _show(line: str) -> None:
    print(line, file=sys.stderr, flush=True)
