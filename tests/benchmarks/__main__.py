"""Run benchmarks by name: ``python -m tests.benchmarks [NAME[/CASE] ...] [--list] [--json FILE]``."""

from __future__ import annotations

import argparse
import json
import os
import platform
import sys
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from textwrap import shorten
from typing import Any

import numpy as np

from tests.benchmarks.harness import Benchmark, Case, DisagreementError, Measurement, measure_apart
from tests.benchmarks.registry import BENCHMARKS

COLUMNS = ("case", "what", "baseline", "seconds", "ratio", "CPU s", "ratio", "work MB", "ratio", "peak MB", "answer")

NOTES = """\
Times are medians; each ratio is to the baseline of this run. On a busy machine trust the ratio of CPU seconds.
work MB: above what models and inputs took (on CUDA the peak of torch's allocations, weights included).
peak MB: the whole process in main memory."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """One case after it ran: its measurement, or why there is none."""

    case: Case
    measurement: Measurement | None = None
    base: Measurement | None = None
    agreement: str = ""
    error: str = ""

    @property
    def time_ratio(self) -> float | None:
        """Seconds over the baseline's."""
        return self.measurement.median / self.base.median if self.measurement and self.base else None

    @property
    def cpu_ratio(self) -> float | None:
        """CPU seconds over the baseline's."""
        return self.measurement.cpu_median / self.base.cpu_median if self.measurement and self.base else None

    @property
    def memory_ratio(self) -> float | None:
        """Memory over the baseline's (see `Measurement.compared_bytes`)."""
        if not (self.measurement and self.base and self.base.compared_bytes):
            return None
        return self.measurement.compared_bytes / self.base.compared_bytes

    def row(self) -> tuple[str, ...]:
        """Cells for `COLUMNS`."""
        head = (self.case.name, self.case.what, self.case.baseline or "–")
        if self.measurement is None:
            return (*head, *["–"] * (len(COLUMNS) - 4), self._verdict())
        return (
            *head,
            f"{self.measurement.median:.3g}",
            _ratio(self.time_ratio),
            f"{self.measurement.cpu_median:.3g}",
            _ratio(self.cpu_ratio),
            f"{self.measurement.compared_bytes / 1e6:,.0f}",
            _ratio(self.memory_ratio),
            f"{self.measurement.peak_bytes / 1e6:,.0f}",
            self._verdict(),
        )

    def _verdict(self) -> str:
        if self.error:
            return shorten(f"FAILED: {self.error}", 60, placeholder=" …")
        return "; ".join(part for part in (self.agreement, self._by_picture()) if part)

    def _by_picture(self) -> str:
        pictures, seen = self.case.pictures, self.measurement
        if not pictures or seen is None:
            return ""
        return f"{pictures / seen.median:.2f} pictures/s, {seen.cpu_median / pictures:.2f} CPU s each"

    def record(self) -> dict[str, Any]:
        """JSON-able."""
        return {
            "case": self.case.name,
            "what": self.case.what,
            "baseline": self.case.baseline,
            "measurement": asdict(self.measurement) if self.measurement else None,
            "time_ratio": self.time_ratio,
            "cpu_ratio": self.cpu_ratio,
            "memory_ratio": self.memory_ratio,
            "agreement": self.agreement,
            "error": self.error,
        }


def run(benchmark: Benchmark, device: str, *, repeats: int | None, threads: int | None) -> list[Outcome]:
    """Measure every case of one benchmark, each against its baseline."""
    measured: dict[str, tuple[Measurement, np.ndarray]] = {}
    outcomes = []
    for case in benchmark.cases:
        print(f"{benchmark.name}/{case.name} …", file=sys.stderr, end=" ", flush=True)
        try:
            measured[case.name] = measure_apart(benchmark.name, case.name, device, repeats=repeats, threads=threads)
        except RuntimeError as error:
            outcomes.append(Outcome(case=case, error=str(error)))
        else:
            outcomes.append(_compare(case, *measured[case.name], measured.get(case.baseline or "")))
        seen = "  ".join(cell for cell in outcomes[-1].row()[3:] if cell not in ("", "–"))
        print(outcomes[-1].error or seen, file=sys.stderr, flush=True)
    return outcomes


def _compare(
    case: Case, measurement: Measurement, answer: np.ndarray, base: tuple[Measurement, np.ndarray] | None
) -> Outcome:
    if base is None:
        return Outcome(case=case, measurement=measurement)
    agreement = error = ""
    try:
        agreement = case.agree(base[1], answer) if case.agree else ""
    except DisagreementError as disagreement:
        error = str(disagreement)
    return Outcome(case=case, measurement=measurement, base=base[0], agreement=agreement, error=error)


def _ratio(value: float | None) -> str:
    return "–" if value is None else f"{value:.2f}x"


def select(text: str) -> Benchmark:
    """A benchmark by name, or ``name/case``: that case and its baseline alone.

    Raises:
        KeyError: There is no such benchmark or case.
    """
    name, _, chosen = text.partition("/")
    benchmark = BENCHMARKS[name]
    if not chosen:
        return benchmark
    case = {case.name: case for case in benchmark.cases}[chosen]
    return replace(benchmark, cases=tuple(c for c in benchmark.cases if c.name in (case.baseline, case.name)))


def table(rows: list[tuple[str, ...]]) -> str:
    """Aligned columns, the first row as headings."""
    widths = [max(len(cell) for cell in column) for column in zip(*rows, strict=True)]
    lines = ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows]
    return "\n".join([lines[0], "  ".join("-" * width for width in widths), *lines[1:]])


def listing() -> str:
    """Every benchmark and case, and what each is compared with."""
    rows = [("benchmark", "case", "what", "baseline")]
    for benchmark in BENCHMARKS.values():
        rows += [(benchmark.name, case.name, case.what, case.baseline or "–") for case in benchmark.cases]
    return table(rows)


def main(arguments: list[str] | None = None) -> int:
    """The exit status: 1 when a case failed or an answer is not the baseline's."""
    parser = argparse.ArgumentParser(
        prog="python -m tests.benchmarks",
        description="Speed and memory, each case in a process of its own and as a ratio to a baseline of the same run.",
    )
    parser.add_argument("names", nargs="*", metavar="NAME[/CASE]", help=f"default: all of {', '.join(BENCHMARKS)}")
    parser.add_argument("--list", action="store_true", help="list what there is, and stop")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write everything that was seen to a file")
    parser.add_argument("--device", default="cpu", help="cpu (default), cuda or cuda:N")
    parser.add_argument("--repeats", type=int, help="measured runs per case (default: each case's own)")
    parser.add_argument("--threads", type=int, help="CPU threads per process (default: what torch chooses)")
    options = parser.parse_args(arguments)
    try:
        chosen = [select(name) for name in dict.fromkeys(options.names or BENCHMARKS)]
    except KeyError as unknown:
        parser.error(f"no benchmark or case {unknown}; see --list")
    if options.list:
        print(listing())
        return 0

    records, failed = [], False
    for benchmark in chosen:
        load = os.getloadavg()
        outcomes = run(benchmark, options.device, repeats=options.repeats, threads=options.threads)
        failed |= any(outcome.error for outcome in outcomes)
        print(f"\n{benchmark.name}: {benchmark.question}")
        print(table([COLUMNS, *(outcome.row() for outcome in outcomes)]))
        print(f"load average {load[0]:.1f} before, {os.getloadavg()[0]:.1f} after", flush=True)
        records.append({"benchmark": benchmark.name, "load_before": load, "cases": [o.record() for o in outcomes]})
    print(f"\n{NOTES}")
    if options.json:
        machine = {"platform": platform.platform(), "python": platform.python_version(), "cpus": os.cpu_count()}
        report = {"machine": machine, "device": options.device, "benchmarks": records}
        options.json.write_text(json.dumps(report, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
    return int(failed)


if __name__ == "__main__":
    sys.exit(main())
