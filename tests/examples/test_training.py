from __future__ import annotations

import csv
import json
import math
import multiprocessing
import os
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from examples.mini_pack import training
from examples.mini_pack.training import Average, Batch, Clock, Schedule, Stopped, batches, train

SCHEDULE = Schedule(steps=60, batch=4, lr=0.01, warmup=5, decay=0.5, ema=0.9, seed=3)


class StopAfter(Clock):
    def __init__(self, steps: int) -> None:
        super().__init__()
        self._left = steps

    @property
    def spent(self) -> bool:
        self._left -= 1
        return self._left < 0


def fit(folder: Path, clock: Clock, schedule: Schedule = SCHEDULE) -> nn.Linear:
    torch.manual_seed(0)
    model = nn.Linear(3, 1)

    def draw(generator: torch.Generator) -> Batch:
        return {"x": torch.randn(schedule.batch, 3, generator=generator)}

    def loss(batch: Batch) -> tuple[Tensor, dict[str, Tensor]]:
        error = (model(batch["x"])[:, 0] - batch["x"].sum(1)).square().mean()
        return error, {"loss": error}

    train("line", folder, {"model": model}, schedule, draw, loss, clock)
    return model


def test_the_learning_rate_rises_stays_and_falls_to_zero() -> None:
    schedule = Schedule(steps=100, batch=1, lr=2.0, warmup=10, decay=0.5)
    assert schedule.lr_at(0) == pytest.approx(0.2)
    assert schedule.lr_at(9) == schedule.lr_at(50) == pytest.approx(2.0)
    assert schedule.lr_at(75) == pytest.approx(1.0)
    assert schedule.lr_at(99) < 0.01


def test_it_learns(tmp_path: Path) -> None:
    model = fit(tmp_path, Clock(), Schedule(steps=600, batch=16, lr=0.05, ema=0.9))
    assert torch.allclose(model.weight, torch.ones(1, 3), atol=0.02)


def test_a_stopped_training_ends_like_one_that_was_not_stopped(tmp_path: Path) -> None:
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
    through = fit(tmp_path / "a", Clock())
    for steps in (7, 30):
        with pytest.raises(Stopped, match="goes on"):
            fit(tmp_path / "b", StopAfter(steps))
    resumed = fit(tmp_path / "b", Clock())
    assert torch.equal(through.weight, resumed.weight)
    assert torch.equal(through.bias, resumed.bias)


def test_no_minutes_means_no_step_but_a_checkpoint(tmp_path: Path) -> None:
    with pytest.raises(Stopped, match="step 0 of 60"):
        fit(tmp_path, Clock(minutes=0))
    assert (tmp_path / "line.pt").is_file()


def test_the_log_has_each_line_once_after_an_abrupt_end(tmp_path: Path) -> None:
    schedule = Schedule(steps=200, batch=4, lr=0.01, ema=0.9)
    with pytest.raises(Stopped):
        fit(tmp_path, StopAfter(60), schedule)
    checkpoint = (tmp_path / "line.pt").read_bytes()
    with pytest.raises(Stopped):
        fit(tmp_path, StopAfter(90), schedule)
    (tmp_path / "line.pt").write_bytes(checkpoint)  # as if the process had died before its next checkpoint
    fit(tmp_path, Clock(), schedule)
    with (tmp_path / "line.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [int(row["step"]) for row in rows] == [50, 100, 150, 200]
    assert [int(row["samples"]) for row in rows] == [200, 400, 600, 800]
    assert all(math.isfinite(float(row["loss"])) for row in rows)


def test_the_average_follows_its_formula() -> None:
    parameter = nn.Parameter(torch.tensor([1.0]))
    average = Average([parameter], decay=0.5)
    expected = 1.0
    for step in range(12):
        with torch.no_grad():
            parameter.add_(1.0)
        average.update(step)
        decay = min(0.5, (step + 1) / (step + 10))
        expected = decay * expected + (1 - decay) * float(parameter.detach())
    assert float(average.values[0]) == pytest.approx(expected)
    average.copy_to_model()
    assert float(parameter.detach()) == pytest.approx(expected)


def test_matrices_decay_and_biases_do_not(tmp_path: Path) -> None:
    model = nn.Linear(2, 1)
    nn.init.ones_(model.weight)
    nn.init.ones_(model.bias)
    schedule = Schedule(steps=10, batch=1, lr=0.1, warmup=0, decay=0.0, weight_decay=0.5, ema=0)

    def nothing(batch: Batch) -> tuple[Tensor, dict[str, Tensor]]:
        return 0 * (model.weight.sum() + model.bias.sum()), {}

    train("idle", tmp_path, {"model": model}, schedule, lambda generator: {}, nothing, Clock())
    assert torch.allclose(model.weight, torch.full((1, 2), 0.95**10), atol=1e-5)
    assert torch.equal(model.bias, torch.ones(1))


def numbers(generator: torch.Generator) -> Batch:
    return {"x": torch.randn(5, generator=generator), "where": torch.tensor(os.getpid())}


@pytest.mark.skipif("fork" not in multiprocessing.get_all_start_methods(), reason="needs processes that can be forked")
@pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")
def test_processes_prepare_the_same_batches_in_the_same_order() -> None:
    schedule = Schedule(steps=12, batch=1, lr=0.1, seed=4)
    inline = list(batches(numbers, schedule, 3))
    ahead = list(batches(numbers, replace(schedule, workers=2), 3))
    assert len(inline) == len(ahead) == 9
    for ours, theirs in zip(inline, ahead, strict=True):
        assert torch.equal(ours["x"], theirs["x"])
    assert {int(batch["where"]) for batch in inline} == {os.getpid()}
    assert len({int(batch["where"]) for batch in ahead} - {os.getpid()}) == 2


@pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")
def test_a_training_with_processes_ends_like_one_without(tmp_path: Path) -> None:
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
    alone = fit(tmp_path / "a", Clock())
    schedule = replace(SCHEDULE, workers=2)
    with pytest.raises(Stopped, match="step 20 of 60"):
        fit(tmp_path / "b", StopAfter(20), schedule)
    helped = fit(tmp_path / "b", Clock(), schedule)
    assert torch.equal(alone.weight, helped.weight)


class Ticks:
    """A clock by which every look takes a tenth of a second."""

    def __init__(self) -> None:
        self.now = 0.0

    def monotonic(self) -> float:
        self.now += 0.1
        return self.now


TIMED = Schedule(steps=1000, batch=4, lr=0.01, warmup=100, decay=0.5, ema=0.9, seed=3, seconds=6.0)


def rates(folder: Path) -> list[float]:
    with (folder / "line.csv").open() as file:
        return [float(row["lr"]) for row in csv.DictReader(file)]


def test_by_the_clock_the_learning_rate_has_fallen_when_the_time_is_over(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(training, "time", Ticks())
    monkeypatch.setattr(training, "_LOG_STEPS", 1)
    fit(tmp_path, Clock(), TIMED)
    found = rates(tmp_path)
    assert 30 < len(found) <= 60  # of 1000: six seconds are over
    # a tenth of the time is enough to rise, though that is no hundred steps
    assert max(found) == pytest.approx(0.01)
    assert found.index(max(found)) < 10
    assert found[-1] < 0.01 * 0.02
    assert found[len(found) * 3 // 4] == pytest.approx(0.005, rel=0.2)


def test_by_the_clock_the_steps_still_end_a_training(tmp_path: Path) -> None:
    schedule = replace(TIMED, steps=60, seconds=1e6)
    assert schedule.progress(30, 5.0) == pytest.approx(0.5)
    assert schedule.progress(30, 9e5) == pytest.approx(0.9)
    fit(tmp_path, Clock(), schedule)
    assert (tmp_path / "line.csv").read_text().splitlines()[-1].startswith("60,")


def test_a_break_costs_a_training_by_the_clock_no_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    ticks = Ticks()
    monkeypatch.setattr(training, "time", ticks)
    monkeypatch.setattr(training, "_LOG_STEPS", 1)
    with pytest.raises(Stopped):
        fit(tmp_path, StopAfter(20), TIMED)
    ticks.now += 1000
    fit(tmp_path, Clock(), TIMED)
    found = rates(tmp_path)
    assert 30 < len(found) <= 60
    assert found[-1] < 0.01 * 0.02


def test_the_pace_of_a_training_by_the_clock_can_be_repeated(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
    monkeypatch.setattr(training, "time", Ticks())
    first = fit(tmp_path / "a", Clock(), TIMED)
    monkeypatch.undo()
    pace = tuple(json.loads((tmp_path / "a" / "line.pace").read_text()))
    again = replace(TIMED, seconds=None, pace=pace)
    with pytest.raises(Stopped):
        fit(tmp_path / "b", StopAfter(20), again)
    second = fit(tmp_path / "b", Clock(), again)
    assert torch.equal(first.weight, second.weight)
    assert not torch.equal(first.weight, fit(tmp_path, Clock(), replace(again, pace=pace[::2])).weight)
