"""Who is to do the jobs of a run, as it is asked for."""

from __future__ import annotations

import logging
import os
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal, get_args

from ovseg_cli.errors import UsageError
from ovseg_cli.runs.engines.crew import Crew
from ovseg_cli.runs.engines.workplace import Craft, Spec
from ovseg_cli.runs.worker import Equipment

EngineName = Literal["local", "ray"]

MAX_WORKERS = 1024

_FOR_LIBRARIES = ("HF_", "TRANSFORMERS_", "DIFFUSERS_", "GOMP_")
"""How the names of variables begin that workers on other computers are given."""


@dataclass(frozen=True, slots=True, kw_only=True)
class EngineOptions:
    """Who is to do the jobs of a run.

    Attributes:
        engine: "local" for this computer, "ray" for a cluster.
        workers: How many workers; None for one for each device, or all that a cluster has room for.
        devices: GPUs of this computer by their numbers, or "all"; none for the device that was asked for.
        ray_address: Where the cluster is; None for `RAY_ADDRESS`, or a small one on this computer.

    Raises:
        UsageError: What is asked for contradicts itself.
    """

    engine: EngineName = "local"
    workers: int | None = None
    devices: str | None = None
    ray_address: str | None = None

    def __post_init__(self) -> None:
        if self.engine not in get_args(EngineName):
            raise UsageError(f"There is no engine {self.engine!r}: choose local or ray.")
        if self.workers is not None and not 1 <= self.workers <= MAX_WORKERS:
            raise UsageError(f"workers must be between 1 and {MAX_WORKERS}, got {self.workers}.")
        if self.engine == "ray" and self.devices is not None:
            raise UsageError(
                "--devices names GPUs of this computer; with --engine ray the cluster decides. Leave it out."
            )
        if self.engine != "ray" and self.ray_address is not None:
            raise UsageError("--ray-address belongs to --engine ray: add that, or leave it out.")

    def devices_for(self, device: str) -> list[str]:
        """The device of each local worker.

        Args:
            device: What is taken where no GPUs are named; "auto" where nobody says.

        Raises:
            UsageError: GPUs are named twice, together with a device, or are not here.
        """
        devices = [device] if self.devices is None else _named(self.devices, device)
        workers = len(devices) if self.workers is None else self.workers
        if workers < len(devices):
            raise UsageError(f"{len(devices)} devices need as many workers at least, got --workers {workers}.")
        return [devices[i % len(devices)] for i in range(workers)]


def _named(devices: str, device: str) -> list[str]:
    if device != "auto":
        raise UsageError(f"--devices and --device exclude each other, got {devices!r} and {device!r}.")
    import torch

    here = torch.cuda.device_count() if torch.cuda.is_available() else 0
    known = "This computer has no CUDA device" if here == 0 else f"This computer has {', '.join(map(str, range(here)))}"
    if devices.strip() == "all":
        if here == 0:
            raise UsageError("This computer has no CUDA device. Leave out --devices; --workers N shares the cores.")
        return [f"cuda:{number}" for number in range(here)]
    numbers = [part.strip() for part in devices.split(",")]
    if not all(number.isdecimal() and number.isascii() for number in numbers):
        raise UsageError(f"--devices takes numbers of GPUs with commas between them, as 0,1, or all; got {devices!r}.")
    wanted = [int(number) for number in numbers]
    if len(set(wanted)) < len(wanted):
        raise UsageError(f"--devices names a GPU twice: {devices!r}. Several workers on one: --workers N.")
    if absent := [number for number in wanted if number >= here]:
        raise UsageError(f"There is no CUDA device {absent[0]} here. {known} (see `ovseg doctor`).")
    return [f"cuda:{number}" for number in wanted]


CrewMaker = Callable[[Craft, Callable[[Equipment], None], int], Crew]
"""Makes a crew: of what it is to do, whom to tell of its equipment, and how much there is to do."""


def make_crew(options: EngineOptions, device: str) -> CrewMaker | None:
    """What makes a crew; None when this process does the jobs itself.

    Args:
        options: Who is to do them.
        device: What was asked for.

    Raises:
        UsageError: See `EngineOptions.devices_for`; or Ray is not installed.
    """
    level = logging.getLogger("ovseg_cli").getEffectiveLevel()
    if options.engine == "ray":
        from ovseg_cli.runs.engines.cluster import Actors, check_ray

        check_ray()

        def cluster(craft: Craft, told: Callable[[Equipment], None], count: int) -> Crew:
            environment = {name: value for name, value in os.environ.items() if name.startswith(_FOR_LIBRARIES)}
            spec = Spec(craft=craft, environment=environment, level=level)
            return Actors(spec, options.workers, device, options.ray_address, told, most=count)

        return cluster
    devices = options.devices_for(device)
    if len(devices) == 1 and options.devices is None:
        return None

    def processes(craft: Craft, told: Callable[[Equipment], None], count: int) -> Crew:
        from ovseg_cli.runs.engines.processes import Processes

        return Processes(Spec(craft=craft, level=level), devices[: max(1, count)], told)

    return processes
