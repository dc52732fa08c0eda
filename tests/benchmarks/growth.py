"""What a store of 10 classes costs, and one of 10,000: each of 130 prototypes of 768 numbers, as sd15 makes them.

The stores are made when they are first needed, and lie in `ovseg-growth` in the folder for temporary files (the largest
takes 2.5 GB): delete it afterwards.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from tests.benchmarks.harness import Benchmark, Case, DisagreementError, Job

if TYPE_CHECKING:
    from ovseg_cli.store import ClassRecord, Store

SIZES = (10, 100, 1_000, 10_000)
PER_CLASS = 130
DIM = 768
EXTRACTOR = "e" * 64
FOLDER = Path(tempfile.gettempdir()) / "ovseg-growth"

_THEMES = 40  # classes look like others of their theme
_SCENES = 60  # what surrounds them


class GrowthProfile:
    """What a store keeps of a profile."""

    name = "growth"
    digest = "d" * 64

    def record(self) -> dict[str, Any]:
        return {"name": self.name}


def _directions(seed: int, count: int, dim: int) -> np.ndarray:
    rows = np.random.default_rng(seed).standard_normal((count, dim), dtype=np.float32)
    return rows / np.linalg.norm(rows, axis=1, keepdims=True)


def clean_vectors_of(number: int, dim: int = DIM) -> np.ndarray:
    """What a class looks like without noise, float32 (PER_CLASS, D): half the object, half what surrounds it."""
    half = PER_CLASS // 2
    themes, scenes = _directions(1, _THEMES, dim), _directions(2, _SCENES, dim)
    own = _directions(1_000 + number, 9, dim)
    parts = themes[number % _THEMES] + 0.8 * own[0] + 0.7 * own[1 + np.arange(half) % 8]
    around = scenes[(number + np.arange(half) % 5) % _SCENES]
    return np.concatenate([parts, around])


def vectors_of(number: int, dim: int = DIM) -> np.ndarray:
    """The prototypes of a class, float32 (PER_CLASS, D) of length 1: half of the object, half of what surrounds it."""
    rows = clean_vectors_of(number, dim) + 0.6 * _directions(50_000 + number, 2 * (PER_CLASS // 2), dim)
    return rows / np.linalg.norm(rows, axis=1, keepdims=True)


def class_record(number: int) -> ClassRecord:
    """A class with one small support image."""
    from ovseg_cli.store import ClassRecord, ExtractorRecord, PrototypeRecord, SupportRecord

    mask = np.zeros((16, 16), bool)
    mask[4:12, 4:12] = True
    image = np.full((16, 16, 3), number % 256, np.uint8)
    return ClassRecord(
        name=f"class {number:05d}",
        kind="thing",
        kind_source="default",
        seed=number,
        extractors=(ExtractorRecord(name="clip", digest=EXTRACTOR, dim=DIM),),
        supports=(
            SupportRecord(
                position=0,
                seed=number,
                prompt="",
                image=image,
                attribution=mask.astype(np.float32),
                foreground=mask,
                background=~mask,
            ),
        ),
        prototypes=tuple(
            PrototypeRecord(
                extractor=EXTRACTOR,
                role="fg" if place < PER_CLASS // 2 else "bg",
                kind="part",
                vector=vector,
                pixels=9,
                support=0,
            )
            for place, vector in enumerate(vectors_of(number))
        ),
    )


def fill(store: Store, count: int) -> None:
    """Add classes: through the store's own code, but for the waiting for the disk, a thousand in a transaction."""
    from ovseg_cli.store import support

    def records(first: int) -> Iterator[ClassRecord]:
        return (class_record(number) for number in range(first, min(first + 1_000, count)))

    waits = support.write_new, support.sync_folder
    support.write_new, support.sync_folder = Path.write_bytes, lambda _folder: None  # type: ignore[assignment]
    try:
        for first in range(len(store.class_names()), count, 1_000):
            store.add_classes(records(first))
    finally:
        support.write_new, support.sync_folder = waits  # type: ignore[assignment]


def store_of(count: int) -> Store:
    """A store of so many classes."""
    from ovseg_cli.store import Store

    store = Store.open(FOLDER / str(count), profile=GrowthProfile())
    if len(store.class_names()) < count:
        fill(store, count)
    return store


def opened(path: Path) -> np.ndarray:
    from ovseg_cli.store import Store

    with Store.open(path) as store:
        return np.array([store.has_class("class 00003")])


def listed(path: Path) -> np.ndarray:
    from ovseg_cli.store import Store

    with Store.open(path) as store:
        infos = store.classes()
    return np.array([sum(info.prototype_counts.values()) for info in infos[:10]])


def read_two(path: Path) -> np.ndarray:
    from ovseg_cli.store import Store

    with Store.open(path) as store:
        return store.prototypes(["class 00003", "class 00007"], EXTRACTOR).vectors[:, :8]


def added(path: Path) -> np.ndarray:
    """A class that is replaced by the same, so that the store stays as large as it is."""
    from ovseg_cli.store import Store

    with Store.open(path) as store:
        return np.array([store.add_class(class_record(5), replace=True).support_count])


def removed(path: Path) -> np.ndarray:
    """Two classes removed, one after the other, and one of the two put back; in the end both are there."""
    from ovseg_cli.store import Store

    with Store.open(path) as store:
        gone = store.remove_classes(["class 00006"])
        store.add_class(class_record(6))
    return np.array([sum(gone[0].prototype_counts.values())])


def searched(path: Path) -> np.ndarray:
    """The first search of a process: the index is opened, too."""
    from ovseg_cli.store import Store

    with Store.open(path) as store:
        queries = store.prototypes(["class 00003"], EXTRACTOR)
        _, ids = store.nearest(queries.vectors[queries.role_is_fg][:1], EXTRACTOR, k=200)
        return np.array([store.class_of(ids[0, :1])[0] == "class 00003"])


def checked(path: Path) -> np.ndarray:
    from ovseg_cli.store import Store

    with Store.open(path) as store:
        return np.array([store.health().ok])


STEPS: dict[str, tuple[str, Callable[[Path], np.ndarray]]] = {
    "open": ("opened, one name looked up", opened),
    "list": ("all classes described", listed),
    "read": ("two classes' prototypes read", read_two),
    "add": ("a class replaced, index and all", added),
    "remove": ("a class removed and added", removed),
    "search": ("the 200 nearest of one vector", searched),
    "check": ("everything read and compared", checked),
}


def step(name: str, count: int, _device: str) -> Job:
    path = store_of(count).path
    if name == "search":
        searched(path)  # makes the index where there is none yet
    return partial(STEPS[name][1], path)


def same(baseline: np.ndarray, answer: np.ndarray) -> str:
    if not np.array_equal(baseline, answer):
        raise DisagreementError("the answers differ")
    return "equal"


BENCHMARK = Benchmark(
    name="growth",
    question=f"a store of {SIZES[0]} to {SIZES[-1]} classes of {PER_CLASS} prototypes of {DIM} numbers",
    cases=tuple(
        Case(
            name=f"{name}-{count}",
            what=what,
            prepare=partial(step, name, count),
            baseline=None if count == SIZES[0] else f"{name}-{SIZES[0]}",
            agree=None if count == SIZES[0] else same,
            heavy=count >= 10_000,
        )
        for name, (what, _) in STEPS.items()
        for count in SIZES
    ),
)
