"""Every benchmark by name. A new one is a new module and a line here."""

from __future__ import annotations

from tests.benchmarks import (
    attribution,
    clip_family,
    cliper,
    decide,
    evaluating,
    growth,
    large,
    many,
    mini,
    prefilter,
    refine,
    scoring,
    sd15_size,
    slopes,
    texts,
    together,
    words,
)

BENCHMARKS = {
    benchmark.name: benchmark
    for benchmark in (
        attribution.BENCHMARK,
        scoring.BENCHMARK,
        decide.BENCHMARK,
        refine.BENCHMARK,
        texts.BENCHMARK,
        words.BENCHMARK,
        together.BENCHMARK,
        prefilter.BENCHMARK,
        clip_family.BENCHMARK,
        cliper.BENCHMARK,
        mini.BENCHMARK,
        large.BENCHMARK,
        sd15_size.BENCHMARK,
        evaluating.BENCHMARK,
        growth.BENCHMARK,
        many.BENCHMARK,
        slopes.BENCHMARK,
    )
}
