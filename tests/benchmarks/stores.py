"""A store without a disk, for measuring what is done with prototypes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from ovseg_cli.store.records import PrototypeBlock

PER_ROLE = 65
"""A class's prototypes of one role: the mean, 32 instances and 32 parts, as in OVDiff."""


class RandomPrototypes:
    """What `Segmenter` asks of a store, answered with random prototypes.

    Args:
        names: The classes.
        dims: Length of a vector per extractor digest.
    """

    def __init__(self, names: Sequence[str], dims: Mapping[str, int]) -> None:
        self._names = tuple(names)
        self._dims = dims

    def has_class(self, name: str) -> bool:
        return name in self._names

    def class_names(self) -> list[str]:
        return list(self._names)

    def get_class(self, name: str) -> RandomClass:
        return RandomClass(name)

    def prototypes(self, names: Sequence[str] | None, extractor: str) -> PrototypeBlock:
        chosen = self._names if names is None else tuple(names)
        count = 2 * PER_ROLE * len(chosen)
        vectors = np.random.default_rng(0).standard_normal((count, self._dims[extractor]), dtype=np.float32)
        return PrototypeBlock(
            classes=chosen,
            vectors=vectors / np.linalg.norm(vectors, axis=1, keepdims=True),
            class_index=np.repeat(np.arange(len(chosen)), 2 * PER_ROLE),
            role_is_fg=np.tile(np.repeat([True, False], PER_ROLE), len(chosen)),
            kind=("part",) * count,
            ids=np.arange(count),
        )


class RandomClass:
    """What `Segmenter` asks of a class."""

    generation = "random"

    def __init__(self, name: str) -> None:
        self.name = name
