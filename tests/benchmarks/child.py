"""The process that measures one case (`harness.measure_apart` starts it)."""

from __future__ import annotations

import argparse
from pathlib import Path

from tests.benchmarks.harness import measure_here, write_result
from tests.benchmarks.registry import BENCHMARKS


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("benchmark")
    parser.add_argument("case")
    parser.add_argument("folder", type=Path)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--repeats", type=int)
    arguments = parser.parse_args()
    (case,) = (case for case in BENCHMARKS[arguments.benchmark].cases if case.name == arguments.case)
    write_result(arguments.folder, *measure_here(case, arguments.device, repeats=arguments.repeats))


if __name__ == "__main__":
    main()
