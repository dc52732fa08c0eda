"""What a benchmark is, and how one case is measured in a process of its own.

Nothing heavy is imported here, so that the process that starts the cases stays small beside them. Benchmarks import
torch and the package inside `Case.prepare`.
"""

from __future__ import annotations

import json
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

Job = Callable[[], np.ndarray]
"""The measured work. Its answer is compared with the baseline's."""


class DisagreementError(Exception):
    """Two ways to the same answer that differ, or an answer that is not what it must be."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Case:
    """One way of doing something.

    Attributes:
        name: Unique in its benchmark.
        what: What is done, in a few words.
        prepare: Makes the job for a device ("cpu", "cuda"); imports, models and inputs are made here, unmeasured.
        baseline: Name of the case that this one is compared with; None for a baseline, and for a lone figure.
        agree: Compares the baseline's answer with this one's: one phrase for the table, or `DisagreementError`.
        repeats: How many runs the median is taken of, after one run that is not counted.
        heavy: Minutes on a CPU: run once there, without a run before it.
        pictures: How many pictures the job goes through, for figures by the picture; 0 for none.
    """

    name: str
    what: str
    prepare: Callable[[str], Job]
    baseline: str | None = None
    agree: Callable[[np.ndarray, np.ndarray], str] | None = None
    repeats: int = 3
    heavy: bool = False
    pictures: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Benchmark:
    """A question about speed or memory, and the cases that answer it; a baseline comes before what refers to it."""

    name: str
    question: str
    cases: tuple[Case, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Measurement:
    """What one case's process saw.

    Attributes:
        seconds: Every counted run, by the clock.
        cpu_seconds: Every counted run, summed over the CPU's threads, and over the processes that it waited for:
            steadier than the clock on a busy machine.
        peak_bytes: Peak resident memory of the whole process: interpreter, libraries, weights and work.
        work_bytes: How far the measured runs raised that peak above what preparing had reached.
        cuda_peak_bytes: Peak of what torch allocated on the device during the runs; None on a CPU.
        device: Name of the device.
        threads: Threads that torch used on the CPU.
        torch: Its version.
    """

    seconds: list[float]
    cpu_seconds: list[float]
    peak_bytes: int
    work_bytes: int
    cuda_peak_bytes: int | None
    device: str
    threads: int
    torch: str

    @property
    def median(self) -> float:
        """Median of `seconds`."""
        return statistics.median(self.seconds)

    @property
    def cpu_median(self) -> float:
        """Median of `cpu_seconds`."""
        return statistics.median(self.cpu_seconds)

    @property
    def compared_bytes(self) -> int:
        """The memory that ratios are made of: the device's on CUDA, else `work_bytes`."""
        return self.work_bytes if self.cuda_peak_bytes is None else self.cuda_peak_bytes


def measure_here(case: Case, device: str, *, repeats: int | None = None) -> tuple[Measurement, np.ndarray]:
    """Measure one case in this process, which should have done nothing else; gives its answer too."""
    import torch

    cuda = device.startswith("cuda")
    job = case.prepare(device)
    if cuda:
        torch.cuda.reset_peak_memory_stats(device)
    start = _peak_bytes()
    once = case.heavy and not cuda
    if not once:
        job()
    seconds, cpu_seconds = [], []
    answer = np.empty(0)
    for _ in range(repeats or (1 if once else case.repeats)):
        began, cpu_began = time.perf_counter(), _cpu_seconds()
        answer = job()
        if cuda:
            torch.cuda.synchronize(device)
        seconds.append(time.perf_counter() - began)
        cpu_seconds.append(_cpu_seconds() - cpu_began)
    peak = _peak_bytes()
    measurement = Measurement(
        seconds=seconds,
        cpu_seconds=cpu_seconds,
        peak_bytes=peak,
        work_bytes=peak - start,
        cuda_peak_bytes=torch.cuda.max_memory_allocated(device) if cuda else None,
        device=torch.cuda.get_device_name(device) if cuda else "cpu",
        threads=torch.get_num_threads(),
        torch=torch.__version__,
    )
    return measurement, answer


def _cpu_seconds() -> float:
    """Of this process and of those that it started and waited for."""
    others = resource.getrusage(resource.RUSAGE_CHILDREN)
    return time.process_time() + others.ru_utime + others.ru_stime


def _peak_bytes() -> int:
    """Peak resident memory of this process."""
    status = Path("/proc/self/status")
    if status.exists():
        # On Linux ru_maxrss starts with the peak of the process that started this one; this does not.
        (line,) = (line for line in status.read_text().splitlines() if line.startswith("VmHWM:"))
        return int(line.split()[1]) * 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss  # bytes on macOS


def measure_apart(
    benchmark: str, case: str, device: str, *, repeats: int | None = None, threads: int | None = None
) -> tuple[Measurement, np.ndarray]:
    """Measure one case in a fresh process.

    Raises:
        RuntimeError: The process failed; the message ends with the last line that it wrote.
    """
    environment = {**os.environ, "HF_HUB_OFFLINE": "1"}
    if threads is not None:
        environment["OMP_NUM_THREADS"] = str(threads)
    with tempfile.TemporaryDirectory(prefix="ovseg-bench-") as folder:
        command = [sys.executable, "-m", "tests.benchmarks.child", benchmark, case, folder, "--device", device]
        command += ["--repeats", str(repeats)] if repeats else []
        done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
        if done.returncode:
            last = (done.stderr.strip().splitlines() or ["no message"])[-1]
            killed = "killed; out of memory? " if done.returncode == -9 else ""
            raise RuntimeError(f"{killed}exit status {done.returncode}: {last}")
        return read_result(Path(folder))


def write_result(folder: Path, measurement: Measurement, answer: np.ndarray) -> None:
    """Leave what `measure_here` gave for the process that asked."""
    fields = {name: getattr(measurement, name) for name in Measurement.__slots__}
    (folder / "measurement.json").write_text(json.dumps(fields), encoding="utf-8")
    np.save(folder / "answer.npy", answer)


def read_result(folder: Path) -> tuple[Measurement, np.ndarray]:
    """What `write_result` left."""
    fields = json.loads((folder / "measurement.json").read_text(encoding="utf-8"))
    return Measurement(**fields), np.load(folder / "answer.npy")
