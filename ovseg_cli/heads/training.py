"""The training of a head: steps, the clock, checkpoints, and going on where a killed run stopped.

A step depends on the seed and its number alone, and on how far the training is. By the clock that is a matter of time,
so it is written down before each step (``pace.txt``): a run that was killed repeats the steps since its last checkpoint
with the same learning rates, and ends with the same weights.
"""

from __future__ import annotations

import csv
import json
import math
import signal
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from ovseg_cli.atomic import atomic_path, write_text
from ovseg_cli.errors import OutputError, OvsegError, UsageError
from ovseg_cli.heads.plans import Plan

CHECKPOINT_SECONDS = 60.0
LOG_STEPS = 20
_RISE = 0.1  # by the clock, the learning rate has risen after this share of the time at the latest

Loss = Callable[[int, torch.Generator], tuple[Tensor, dict[str, float]]]
"""The loss of a step by its number, and figures to log; it takes all its chance from the generator."""


@dataclass(frozen=True, slots=True)
class Moment:
    """How far a training is.

    Attributes:
        step: Steps done.
        seconds: Time that they took.
        left: Seconds that are left by the plan, about; None where nobody can say.
        share: 0 at the start, 1 at the end.
        figures: The mean figures since the last moment.
    """

    step: int
    seconds: float
    left: float | None
    share: float
    figures: Mapping[str, float]


def progress_at(plan: Plan, step: int, seconds: float) -> float:
    """How far a training is: 0 at the start, 1 or more at the end."""
    by_steps = 0.0 if plan.steps is None else step / plan.steps
    by_clock = 0.0 if plan.minutes is None else seconds / (60 * plan.minutes)
    return max(by_steps, by_clock)


def rate_at(plan: Plan, step: int, progress: float) -> float:
    """Share of the largest learning rate: a linear rise, then a cosine down to zero at the end."""
    rise = 1.0 if plan.warmup == 0 else (step + 1) / plan.warmup
    if plan.minutes is not None:
        rise = max(rise, progress / _RISE)
    return min(1.0, rise) * 0.5 * (1 + math.cos(math.pi * min(1.0, progress)))


def groups(head: nn.Module, plan: Plan) -> list[dict[str, Any]]:
    """The parameters by how they learn: CLIP's differences slowly; norms, biases and bare queries without decay."""
    found: dict[tuple[bool, bool], list[nn.Parameter]] = {}
    for name, parameter in head.named_parameters():
        of_clip = name.startswith(("visual.", "text."))
        decays = parameter.ndim >= 2 and "factors." not in name and "free." not in name
        found.setdefault((of_clip, decays), []).append(parameter)
    return [
        {
            "params": parameters,
            "lr": 0.0,
            "largest": plan.clip_lr if of_clip else plan.lr,
            "weight_decay": plan.decay if decays else 0.0,
        }
        for (of_clip, decays), parameters in found.items()
    ]


class Training:
    """A head while it is trained.

    Args:
        head: The head; what it holds at the end are the averaged weights.
        plan: How.
        folder: Where checkpoint, pace and curves lie.
        identity: What the training is of, as JSON-able values: a checkpoint of anything else is refused.
        resume: Whether a checkpoint is taken up.

    Attributes:
        step: Steps done.
        seconds: Time that they took.

    Raises:
        UsageError: The checkpoint is of another training.
        OutputError: The folder cannot be written.
    """

    def __init__(
        self, head: nn.Module, plan: Plan, folder: Path, identity: Mapping[str, Any], *, resume: bool = True
    ) -> None:
        self.head, self.plan, self.folder = head, plan, folder
        self.step, self.seconds = 0, 0.0
        self._identity = json.loads(json.dumps(identity))
        self._names = [name for name, _ in head.named_parameters()]
        self._parameters = [parameter for _, parameter in head.named_parameters()]
        self._optimizer = torch.optim.AdamW(groups(head, plan), betas=(0.9, 0.999))
        self._average = [parameter.detach().clone() for parameter in self._parameters]
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise OutputError(f"Cannot make the folder {folder}: {error.strerror}.") from error
        if not resume:
            for name in ("checkpoint.safetensors", "pace.txt", "curves.csv", "curves.png"):
                (folder / name).unlink(missing_ok=True)
        if (folder / "checkpoint.safetensors").is_file():
            self._load()
        else:
            (folder / "curves.csv").unlink(missing_ok=True)
        self._pace = _Pace(folder / "pace.txt")
        self._curves = Curves(folder / "curves.csv", self.step)

    @property
    def done(self) -> bool:
        """Whether it is at its end."""
        return self._progress() >= 1

    def _progress(self) -> float:
        known = self._pace.at(self.step) if self.plan.minutes is not None else None
        return progress_at(self.plan, self.step, self.seconds) if known is None else known

    def run(self, loss: Loss, tell: Callable[[Moment], None] | None = None) -> None:
        """Train to the end.

        Args:
            loss: The loss of a step.
            tell: Told now and then how far it is.

        Raises:
            KeyboardInterrupt: The user does not want to wait; the checkpoint is written.
            OvsegError: The loss is no number any more; the last checkpoint is kept.
        """
        self.head.train()
        saved_at = last = time.monotonic()
        with _patient() as waiting:
            while (progress := self._progress()) < 1:
                if waiting.told:
                    self.save()
                    waiting.pass_on()
                if self.plan.minutes is not None:
                    self._pace.note(self.step, progress)
                self._take(loss, progress)
                now = time.monotonic()
                self.seconds += now - last
                last = now
                if self.step % LOG_STEPS == 0 or self._progress() >= 1:
                    figures = self._curves.write(self.step, self.seconds, rate_at(self.plan, self.step - 1, progress))
                    if tell is not None:
                        tell(self._moment(figures))
                if now - saved_at > CHECKPOINT_SECONDS:
                    self.save()
                    saved_at = last = time.monotonic()
            self.save()
            if waiting.told:  # in the last step
                waiting.pass_on()
        self.head.eval()

    def _take(self, loss: Loss, progress: float) -> None:
        """One step."""
        random = torch.Generator().manual_seed(self.plan.seed * 1_000_003 + self.step)
        value, figures = loss(self.step, random)
        if not math.isfinite(float(value.detach())):
            raise OvsegError(
                f"The loss is {float(value.detach())} at step {self.step}: the training has failed. What was saved "
                "before is kept; take a smaller --lr, or look for damaged pictures."
            )
        rate = rate_at(self.plan, self.step, progress)
        for group in self._optimizer.param_groups:
            group["lr"] = rate * group["largest"]
        self._optimizer.zero_grad(set_to_none=True)
        value.backward()
        nn.utils.clip_grad_norm_(self._parameters, self.plan.clip_norm)
        self._optimizer.step()
        decay = min(self.plan.average, (self.step + 1) / (self.step + 10))
        with torch.no_grad():
            torch._foreach_lerp_(self._average, [p.detach() for p in self._parameters], 1 - decay)
        self.step += 1
        self._curves.add({"loss": float(value.detach()), **figures})

    def _moment(self, figures: Mapping[str, float]) -> Moment:
        share = min(1.0, self._progress())
        left = None if not share else self.seconds * (1 - share) / share
        return Moment(self.step, self.seconds, left, share, figures)

    # ------------------------------------------------------------------ what is kept

    def weights(self) -> dict[str, Tensor]:
        """The averaged weights, and the head's buffers, by name."""
        buffers = {name: value.detach() for name, value in self.head.named_buffers() if name in self.head.state_dict()}
        return {**dict(zip(self._names, self._average, strict=True)), **buffers}

    def save(self) -> None:
        """Write the checkpoint in one step."""
        tensors = {f"head.{name}": value for name, value in self.head.state_dict().items()}
        tensors |= {f"average.{n}": value for n, value in zip(self._names, self._average, strict=True)}
        for name, parameter in zip(self._names, self._parameters, strict=True):
            for key, value in self._optimizer.state.get(parameter, {}).items():
                tensors[f"adam.{key}.{name}"] = torch.as_tensor(value)
        note = json.dumps({"step": self.step, "seconds": self.seconds, "identity": self._identity})
        plain = {name: value.detach().cpu().contiguous().clone() for name, value in tensors.items()}
        with atomic_path(self.folder / "checkpoint.safetensors") as part:
            save_file(plain, part, metadata={"training": note})

    def _load(self) -> None:
        path = self.folder / "checkpoint.safetensors"
        try:
            with safe_open(path, "pt") as file:
                note = json.loads((file.metadata() or {})["training"])
                tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118  # no mapping
        except (SafetensorError, OSError, KeyError, ValueError) as error:
            raise UsageError(f"The checkpoint {path} is damaged. Begin anew with --no-resume.") from error
        if note["identity"] != self._identity:
            odd = [
                key
                for key in {**note["identity"], **self._identity}
                if note["identity"].get(key) != self._identity.get(key)
            ]
            raise UsageError(
                f"The checkpoint {path} is of another training: {', '.join(odd)} differ. Give the options of that one "
                "to go on with it, or --no-resume to begin anew."
            )
        self.head.load_state_dict({n.removeprefix("head."): v for n, v in tensors.items() if n.startswith("head.")})
        with torch.no_grad():
            for name, parameter, average in zip(self._names, self._parameters, self._average, strict=True):
                average.copy_(tensors[f"average.{name}"])
                state = {
                    key: tensors[f"adam.{key}.{name}"].to(parameter.device if key != "step" else "cpu")
                    for key in ("step", "exp_avg", "exp_avg_sq")
                    if f"adam.{key}.{name}" in tensors
                }
                if state:
                    self._optimizer.state[parameter] = state
        self.step, self.seconds = note["step"], note["seconds"]


class _Pace:
    """How far the training was before each step, as lines of a file that grows."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._known: list[float] = []
        if path.is_file():
            whole = path.read_text(encoding="utf-8").rpartition("\n")[0]  # a line without its end is torn
            for line in whole.splitlines():
                with suppress(ValueError):
                    self._known.append(float(line))
            write_text(path, "".join(f"{value!r}\n" for value in self._known))

    def at(self, step: int) -> float | None:
        return self._known[step] if step < len(self._known) else None

    def note(self, step: int, progress: float) -> None:
        if step == len(self._known):
            self._known.append(progress)
            try:
                with self._path.open("a", encoding="utf-8") as file:
                    file.write(f"{progress!r}\n")
            except OSError as error:
                raise OutputError(f"Cannot write {self._path}: {error.strerror}.") from error


class Curves:
    """Means of the logged figures, as lines of a CSV file."""

    def __init__(self, path: Path, step: int) -> None:
        self.path = path
        self._sums: dict[str, list[float]] = {}
        if path.is_file():  # lines written after the checkpoint will be written again
            lines = path.read_text(encoding="utf-8").splitlines()
            kept = lines[:1] + [line for line in lines[1:] if line.split(",")[0].isdigit()]
            kept = kept[:1] + [line for line in kept[1:] if int(line.split(",")[0]) <= step]
            write_text(path, "".join(line + "\n" for line in kept))

    def add(self, figures: Mapping[str, float]) -> None:
        """Take the figures of one step."""
        for key, value in figures.items():
            self._sums.setdefault(key, []).append(value)

    def write(self, step: int, seconds: float, rate: float) -> dict[str, float]:
        """Write the means since the last line, and return them."""
        means = {key: sum(values) / len(values) for key, values in self._sums.items() if values}
        self._sums = {key: [] for key in self._sums}
        row = {"step": step, "seconds": f"{seconds:.1f}", "rate": f"{rate:.4g}"}
        row |= {key: f"{value:.5f}" for key, value in means.items()}
        fresh = not self.path.is_file()
        with self.path.open("a", newline="", encoding="utf-8") as file:
            if not fresh:
                with self.path.open(encoding="utf-8") as known:
                    columns = known.readline().strip().split(",")
                row = {column: row.get(column, "") for column in columns}
            writer = csv.DictWriter(file, list(row), lineterminator="\n")
            if fresh:
                writer.writeheader()
            writer.writerow(row)
        return means


class _Waiting:
    """Whether the user wants the training to stop."""

    def __init__(self) -> None:
        self.told = False
        self.first: tuple[int, FrameType | None] | None = None
        self.before: dict[int, Any] = {}

    def hear(self, number: int, frame: FrameType | None) -> None:
        if self.told:
            self.pass_on()  # asked twice: at once
        self.told, self.first = True, (number, frame)

    def pass_on(self) -> None:
        """What the signal would have done at once."""
        number, frame = self.first or (signal.SIGINT, None)
        handler = self.before.get(number)
        if callable(handler):
            handler(number, frame)
        raise KeyboardInterrupt


@contextmanager
def _patient() -> Iterator[_Waiting]:
    """While the block runs, Ctrl-C and SIGTERM are only noted: a step that is half done would spoil the weights."""
    waiting = _Waiting()
    if threading.current_thread() is not threading.main_thread():
        yield waiting
        return
    for number in map(int, (signal.SIGINT, signal.SIGTERM)):
        before = signal.getsignal(number)
        if before is not signal.SIG_IGN:
            waiting.before[number] = before
            signal.signal(number, waiting.hear)
    try:
        yield waiting
    finally:
        for number, before in waiting.before.items():
            signal.signal(number, before)
