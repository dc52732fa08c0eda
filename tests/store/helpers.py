"""Small real classes and profiles to fill stores with; also used by the processes that tests start."""

from __future__ import annotations

from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from ovseg_cli.store import ClassRecord, ExtractorRecord, PrototypeRecord, Store, SupportRecord, read_mask
from ovseg_cli.store.bundle import open_bundle

CLIP = "c" * 64
SD = "5d" * 32
DIMS = {CLIP: 24, SD: 40}


@dataclass(frozen=True)
class FakeProfile:
    name: str = "mini"
    digest: str = "d" * 64
    extra: dict[str, Any] = field(default_factory=dict)

    def record(self) -> dict[str, Any]:
        return {"name": self.name, "extractors": ["clip", "sd"], **self.extra}


def make_support(position: int, seed: int, size: tuple[int, int] = (9, 12)) -> SupportRecord:
    rng = np.random.default_rng([seed, position])
    level = rng.random(size)
    return SupportRecord(
        position=position,
        seed=seed + position,
        prompt="A good picture of a crème brûlée",
        image=rng.integers(0, 256, (*size, 3), dtype=np.uint8),
        attribution=level.astype(np.float32),
        foreground=level > 0.7,
        background=level < 0.4,
    )


def make_class(
    name: str = "cat", seed: int = 0, *, supports: int = 2, extractors: tuple[str, ...] = (CLIP, SD)
) -> ClassRecord:
    """A class in which everything follows from the seed."""
    rng = np.random.default_rng(seed)
    names = {CLIP: "clip", SD: "sd"}

    def vector(digest: str) -> np.ndarray:
        return (rng.normal(size=DIMS[digest]) * 7.0).astype(np.float32)

    prototypes = []
    for digest in extractors:
        for role in ("fg", "bg"):
            for kind, support in (
                ("mean", None),
                ("part", None),
                *(("instance", index) for index in range(supports)),
            ):
                prototypes.append(
                    PrototypeRecord(
                        extractor=digest, role=role, kind=kind, vector=vector(digest), pixels=5, support=support
                    )
                )
    return ClassRecord(
        name=name,
        kind="thing",
        kind_source="default",
        seed=seed,
        settings={"steps": 12, "prompt": "A good picture of a 猫"},
        rejected=1,
        extractors=tuple(
            ExtractorRecord(name=names[digest], digest=digest, dim=DIMS[digest], spec={"layers": ["a"]})
            for digest in extractors
        ),
        supports=tuple(make_support(position, seed) for position in range(supports)),
        prototypes=tuple(prototypes),
    )


def read_bundle(path: Path) -> list[ClassRecord]:
    """All classes of a file at once."""
    with open_bundle(path) as bundle:
        return list(bundle.records())


def unit(vector: np.ndarray) -> np.ndarray:
    exact = vector.astype(np.float64)
    return exact / np.linalg.norm(exact)


def assert_whole(store: Store, expected: ClassRecord) -> None:
    """The store holds this class: every row, every file, and the contents of both."""
    info = store.get_class(expected.name)
    assert (info.name, info.seed, info.support_count) == (expected.name, expected.seed, len(expected.supports))
    assert sum(info.prototype_counts.values()) == len(expected.prototypes)
    for stored, record in zip(store.supports(expected.name), expected.supports, strict=True):
        assert stored.seed == record.seed
        with Image.open(stored.image_path) as image:
            np.testing.assert_array_equal(np.asarray(image), record.image)
        with Image.open(stored.attribution_path) as image:
            assert np.abs(np.asarray(image) / 255.0 - record.attribution).max() <= 0.5 / 255 + 1e-6
        foreground, background = read_mask(stored.mask_path)
        np.testing.assert_array_equal(foreground, record.foreground)
        np.testing.assert_array_equal(background, record.background)
    for extractor in expected.extractors:
        block = store.prototypes([expected.name], extractor.digest)
        records = [item for item in expected.prototypes if item.extractor == extractor.digest]
        assert block.kind == tuple(item.kind for item in records)
        assert block.role_is_fg.tolist() == [item.role == "fg" for item in records]
        np.testing.assert_allclose(block.vectors, [unit(item.vector) for item in records], atol=1e-3)


def fill(path: Path) -> None:
    """Leave no byte free on the disk of a store."""
    with suppress(OSError), (path.parent / "filler").open("wb", buffering=0) as file:
        while True:
            file.write(bytes(4096))
