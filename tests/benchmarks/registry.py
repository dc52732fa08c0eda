"""Every benchmark by name. A new one is a new module and a line here."""

from __future__ import annotations

from tests.benchmarks import attribution, decide, mini, scoring, sd15_size

BENCHMARKS = {
    benchmark.name: benchmark
    for benchmark in (
        attribution.BENCHMARK,
        scoring.BENCHMARK,
        decide.BENCHMARK,
        mini.BENCHMARK,
        sd15_size.BENCHMARK,
    )
}
