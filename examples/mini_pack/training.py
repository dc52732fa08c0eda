"""The frame of every training: steps, learning rate, moving average, checkpoints and the log of curves.

A batch is a function of the training's seed and of the step alone: batches and noise of step `s` come from a
generator seeded with (seed, s), whoever prepares them, this process or others ahead of time. So a training that was
stopped and continued ends with the weights of one that was not (on the same machine and with the same number of
threads).

With a schedule by the clock (`Schedule.seconds`) that still holds of batches and noise, but no longer of the learning
rate, which follows the time. What the clock said at each step is noted in the checkpoint and, at the end, in
``NAME.pace``: a training that is given these notes (`Schedule.pace`) repeats the other one step by step. The time that
counts is the one spent in the training, so a break costs nothing: a training that was stopped goes on with the rest of
its seconds.
"""

from __future__ import annotations

import csv
import json
import math
import multiprocessing
import signal
import sys
import time
from collections.abc import Callable, Generator, Iterable, Mapping
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import Any, Final

import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader
from torch.utils.data import Dataset as StepsBase

from ovseg_cli.atomic import atomic_path

_CHECKPOINT_SECONDS: Final = 240.0
_LOG_STEPS: Final = 50
_AHEAD: Final = 4
"""Batches that each process prepares ahead."""
_RISE: Final = 0.1
"""By the clock, the learning rate has risen after this share of the time at the latest."""

Batch = dict[str, Tensor]
"""What a step needs, on the CPU."""
Draw = Callable[[torch.Generator], Batch]
"""Prepares a batch; it takes all its chance from the generator."""


class Stopped(Exception):
    """A training ran out of its minutes, or was told to stop, after writing a checkpoint."""


@dataclass(frozen=True, slots=True)
class Schedule:
    """How long and how fast a training learns.

    The learning rate rises linearly over `warmup` steps, stays, and falls with a cosine to zero over the
    last share `decay` of all steps: shapes firm up only while it falls. By the clock, it falls over that share of the
    seconds, or of the steps if these end sooner.

    Attributes:
        steps: Steps in all; with `seconds`, at most.
        batch: Samples per step.
        lr: Largest learning rate.
        warmup: Steps of warm-up.
        decay: Share of the steps over which the learning rate falls.
        weight_decay: Weight decay of AdamW, on matrices and kernels only.
        betas: Moments of AdamW.
        ema: Largest decay of the moving average of the weights; 0 for none. Its horizon never exceeds a ninth of the
            steps so far, so that it needs no clock: see `Average`.
        seed: Seed of initialisation, batches and noise.
        seconds: Time after which the training is at its end; None for no limit.
        pace: Progress at each step of an earlier training by the clock, which this one repeats; empty for none.
        workers: Processes that prepare batches, in the order of the steps; 0 prepares each when it is needed.
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
    seconds: float | None = None
    pace: tuple[float, ...] = ()
    workers: int = 0

    def progress(self, step: int, spent: float) -> float:
        """Return how far a training is before a step (0-based): 0 at the start, 1 or more at the end.

        Args:
            step: Steps done.
            spent: Seconds spent.
        """
        if self.pace:
            return self.pace[step] if step < len(self.pace) else 1.0
        done = step / self.steps if self.steps else 1.0
        return done if self.seconds is None else max(done, spent / self.seconds if self.seconds > 0 else 1.0)

    def lr_at(self, step: int, progress: float | None = None) -> float:
        """Return the learning rate of a step (0-based).

        Args:
            step: The step.
            progress: How far the training is by then (see `progress`); None takes the share of the steps.
        """
        rise = (step + 1) / max(1, self.warmup)
        if progress is None:
            progress = step / self.steps
        elif self.seconds is not None or self.pace:
            rise = max(rise, progress / _RISE)
        start = 1 - self.decay
        fall = 0.0 if progress < start else (progress - start) / max(1 / self.steps, self.decay)
        return self.lr * min(1.0, rise) * 0.5 * (1 + math.cos(math.pi * min(1.0, fall)))


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


class _Steps(StepsBase[Batch]):
    """The batches of a training by step."""

    def __init__(self, draw: Draw, seed: int) -> None:
        self._draw, self._seed = draw, seed

    def __getitem__(self, step: int) -> Batch:
        return self._draw(torch.Generator().manual_seed(self._seed * 1_000_003 + step))


def batches(draw: Draw, schedule: Schedule, first: int, *, pinned: bool = False) -> Generator[Batch]:
    """Prepare batches in the order of their steps.

    Args:
        draw: Prepares one.
        schedule: Its seed, steps and workers count. Where processes cannot be forked, there are no workers.
        first: First step.
        pinned: Whether to put batches into page-locked memory, from where a GPU takes them while it computes.

    Yields:
        The batches of the steps from `first` on; the same ones with any number of workers.
    """
    steps = _Steps(draw, schedule.seed)
    order = range(first, schedule.steps)
    if not schedule.workers or "fork" not in multiprocessing.get_all_start_methods():
        for step in order:
            yield steps[step]
        return
    loader = DataLoader(
        steps,
        batch_size=None,
        sampler=order,
        num_workers=schedule.workers,
        prefetch_factor=_AHEAD,
        pin_memory=pinned,
        collate_fn=_as_it_is,
        worker_init_fn=_leave_signals,
        # forked processes share the data set, captions and all, and start at once; they touch no GPU
        multiprocessing_context="fork",
    )
    yield from loader


def _as_it_is(batch: Batch) -> Batch:
    return batch


def _leave_signals(worker: int) -> None:
    """Ctrl-C reaches every process of a terminal: the training alone decides what it means."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)


def train(
    name: str,
    folder: Path,
    modules: Mapping[str, nn.Module],
    schedule: Schedule,
    draw: Draw,
    loss: Callable[[Batch], tuple[Tensor, dict[str, Tensor]]],
    clock: Clock,
    *,
    after: Callable[[int, float], None] | None = None,
) -> None:
    """Train, from the last checkpoint on if there is one; at the end the modules hold the averaged weights.

    Args:
        name: Name of the training: of its checkpoint and of its log of curves.
        folder: Where both are kept, as ``NAME.pt`` and ``NAME.csv``; and ``NAME.pace`` for a schedule by the clock.
        modules: What is saved. Parameters that require gradients are trained, on the device where they are.
        schedule: How long and how fast.
        draw: Prepares the batch of a step from a CPU generator that is seeded for it.
        loss: Called with the batch on the parameters' device; returns the loss and the figures to log.
        clock: When to stop.
        after: Called with the step and the progress before it, after each update.

    Raises:
        Stopped: If the clock ran out; the checkpoint is written.
    """
    state = _State(name, folder, modules, schedule)
    curves = _Curves(folder / f"{name}.csv", state.step)
    saved_at = last = time.monotonic()
    apart = min(_CHECKPOINT_SECONDS, schedule.seconds / 4) if schedule.seconds else _CHECKPOINT_SECONDS
    device = state.parameters[0].device
    with closing(batches(draw, schedule, state.step, pinned=device.type == "cuda")) as stream:
        while (progress := schedule.progress(state.step, state.seconds)) < 1:
            if clock.spent:
                state.save()
                raise Stopped(
                    f"{name}: stopped at step {state.step} of {schedule.steps}; the same command goes on from here"
                )
            batch = {key: part.to(device, non_blocking=True) for key, part in next(stream).items()}
            value, figures = loss(batch)
            rate = schedule.lr_at(state.step, progress)
            state.update(value, rate)
            if after is not None:
                after(state.step, progress)
            now = time.monotonic()
            state.count(progress, now - last)
            last = now
            curves.add(figures)
            ended = schedule.progress(state.step, state.seconds) >= 1
            if state.step % _LOG_STEPS == 0 or ended:
                line = curves.write(state.step, state.step * schedule.batch, state.seconds, rate)
                _show(f"{name} {_far(schedule, state.step, state.seconds)} {line}")
            if now - saved_at > apart and not ended:
                state.save()
                saved_at = now
    state.save()
    state.finish()


class _State:
    """What a checkpoint holds: weights, optimizer, averages, and how far the training is."""

    def __init__(self, name: str, folder: Path, modules: Mapping[str, nn.Module], schedule: Schedule) -> None:
        """Begin, or take up what the last checkpoint holds."""
        self.parameters = [p for module in modules.values() for p in module.parameters() if p.requires_grad]
        self.step, self.seconds = 0, 0.0
        self._pace: list[float] = []
        self._modules, self._schedule = modules, schedule
        self._checkpoint, self._notes = folder / f"{name}.pt", folder / f"{name}.pace"
        self._optimizer = torch.optim.AdamW(
            [
                {"params": [p for p in self.parameters if p.ndim >= 2], "weight_decay": schedule.weight_decay},
                {"params": [p for p in self.parameters if p.ndim < 2], "weight_decay": 0.0},
            ],
            lr=schedule.lr,
            betas=schedule.betas,
            fused=True,
        )
        self._average = Average(self.parameters, schedule.ema)
        if self._checkpoint.is_file():
            self._load()

    def _load(self) -> None:
        state = torch.load(self._checkpoint, map_location="cpu", weights_only=True)
        for key, module in self._modules.items():
            module.load_state_dict(state["modules"][key])
        self._optimizer.load_state_dict(state["optimizer"])
        with torch.no_grad():
            for value, saved in zip(self._average.values, state["average"], strict=True):
                value.copy_(saved)
        self.step, self.seconds, self._pace = state["step"], state["seconds"], state["pace"]

    def update(self, loss: Tensor, rate: float) -> None:
        """Learn from one batch."""
        for group in self._optimizer.param_groups:
            group["lr"] = rate
        self._optimizer.zero_grad(set_to_none=True)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(self.parameters, 1.0)
        self._optimizer.step()
        self._average.update(self.step)

    def count(self, progress: float, seconds: float) -> None:
        """Count a step that was begun at `progress` and took so many seconds."""
        self.step += 1
        self.seconds += seconds
        if self._schedule.seconds is not None:
            self._pace.append(progress)

    def save(self) -> None:
        """Write the checkpoint."""
        with atomic_path(self._checkpoint) as part:
            torch.save(
                {
                    "modules": {key: module.state_dict() for key, module in self._modules.items()},
                    "optimizer": self._optimizer.state_dict(),
                    "average": self._average.values,
                    "step": self.step,
                    "seconds": self.seconds,
                    "pace": self._pace,
                },
                part,
            )

    def finish(self) -> None:
        """Give the parameters their averages, and note the pace of a training by the clock."""
        if self._pace:
            with atomic_path(self._notes) as part:
                part.write_text(json.dumps(self._pace), encoding="utf-8")
        if self._schedule.ema:
            self._average.copy_to_model()


def _far(schedule: Schedule, step: int, seconds: float) -> str:
    if schedule.seconds is None:
        return f"{step}/{schedule.steps}"
    return f"{step} ({min(1.0, schedule.progress(step, seconds)):.0%})"


class _Curves:
    """Means of the logged figures, as lines of a CSV file."""

    def __init__(self, path: Path, step: int) -> None:
        self._path = path
        self._sums: dict[str, list[Tensor]] = {}
        if path.is_file():  # lines written after the checkpoint will be written again
            lines = path.read_text(encoding="utf-8").splitlines()
            kept = lines[:1] + [line for line in lines[1:] if int(line.partition(",")[0]) <= step]
            path.write_text("".join(line + "\n" for line in kept), encoding="utf-8")

    def add(self, figures: dict[str, Tensor]) -> None:
        # not yet numbers: reading one waits for the GPU
        for key, value in figures.items():
            self._sums.setdefault(key, []).append(value.detach())

    def write(self, step: int, samples: int, seconds: float, lr: float) -> str:
        means = {key: float(torch.stack(values).float().mean()) for key, values in self._sums.items() if values}
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
