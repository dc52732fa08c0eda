"""A picture segmented with the prototypes of 10 to 10,000 classes: all compared, and those that the index finds.

The stores are those of the benchmark `growth`. The networks are made up, and cost nothing (`tests.regions`): what is
measured is finding and scoring. The picture is a quarter of what `sd15` works at on each side, cut up in the same
proportions: nine crops of 28 x 28 cells.
"""

from __future__ import annotations

from functools import partial

import numpy as np

from tests.benchmarks import growth
from tests.benchmarks.harness import Benchmark, Case, DisagreementError, Job

SIDE, SIZE, WINDOWS = 112, (112, 149), ((112, 56), (84, 42))
SHOWN = (3, 9, 4, 7, 1, 8)  # in every store
LEAST_EQUAL = 0.995


def feature_of(_name: str, numbers: np.ndarray, random: np.random.Generator) -> np.ndarray:
    """What a class looks like, as its prototypes do (`growth.vectors_of`), or what surrounds it."""
    features = np.empty((len(numbers), growth.DIM), np.float32)
    for number in np.unique(numbers).tolist():
        mine = np.flatnonzero(numbers == number)
        clean = growth.clean_vectors_of(number)
        features[mine] = clean[random.integers(0, len(clean), len(mine))]
    noise = random.standard_normal(features.shape, dtype=np.float32)
    return features + 0.6 * noise / np.linalg.norm(noise, axis=1, keepdims=True)


def segmented(count: int, exact: bool, _device: str) -> Job:
    from ovseg_cli.segmentation.options import SegmentOptions
    from ovseg_cli.segmentation.segmenter import Segmenter
    from tests.regions import RegionModels, made_up_extractor, made_up_profile, painted

    store = growth.store_of(count)
    growth.searched(store.path)  # makes the index where there is none yet
    profile = made_up_profile(
        [made_up_extractor("clip", growth.EXTRACTOR, growth.DIM)], short_side=SIDE, windows=WINDOWS
    )
    models = RegionModels(profile, feature_of)
    picture = painted(SHOWN, SIZE)
    segmenter = Segmenter(
        models,  # type: ignore[arg-type]
        store,
        store.class_names(),
        method="prototype",
        options=SegmentOptions(exact=exact or None),
    )
    return lambda: segmenter.segment(picture).ids


def as_exact(exact: np.ndarray, found: np.ndarray) -> str:
    equal = float((exact == found).mean())
    if equal < LEAST_EQUAL:
        raise DisagreementError(f"only {equal:.2%} of the pixels are equal")
    return f"{equal:.2%} equal"


BENCHMARK = Benchmark(
    name="many",
    question=f"a picture and {growth.SIZES[0]} to {growth.SIZES[-1]} classes of {growth.PER_CLASS} prototypes",
    cases=tuple(
        Case(
            name=f"{name}-{count}",
            what=what,
            prepare=partial(segmented, count, name == "exact"),
            baseline=None if name == "exact" else f"exact-{count}",
            agree=None if name == "exact" else as_exact,
            heavy=name == "exact" and count >= 1_000,
        )
        for count in growth.SIZES
        for name, what in (("exact", "all classes compared"), ("own", "as it is without --exact"))
    ),
)
