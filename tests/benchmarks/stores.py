"""A store without a disk, for measuring what is done with prototypes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext

import numpy as np

from ovseg_cli.store.records import PrototypeBlock
from tests.benchmarks.scoring import PER_ROLE


class RandomPrototypes:
    """What `Segmenter` asks of a store, answered with random prototypes.

    Args:
        names: The classes.
        dims: Length of a vector per extractor digest.
        per_role: Prototypes of the object that a class has, and as many of what surrounds it.
    """

    path = None

    def __init__(self, names: Sequence[str], dims: Mapping[str, int], per_role: int = PER_ROLE) -> None:
        self._names = tuple(names)
        self._dims = dims
        self._per_role = per_role

    def snapshot(self) -> AbstractContextManager[None]:
        return nullcontext()

    def has_class(self, name: str) -> bool:
        return name in self._names

    def class_names(self) -> list[str]:
        return list(self._names)

    def get_classes(self, names: Sequence[str]) -> list[RandomClass]:
        return [RandomClass(name, tuple(self._dims)) for name in names]

    def cached_texts(self, _key: str, _texts: Sequence[str]) -> dict[str, np.ndarray]:
        return {}

    def keep_texts(self, _key: str, _vectors: Mapping[str, np.ndarray]) -> None:
        """Nothing is kept."""

    def prototypes(self, names: Sequence[str] | None, extractor: str) -> PrototypeBlock:
        chosen = self._names if names is None else tuple(names)
        count = 2 * self._per_role * len(chosen)
        vectors = np.random.default_rng(0).standard_normal((count, self._dims[extractor]), dtype=np.float32)
        return PrototypeBlock(
            classes=chosen,
            vectors=vectors / np.linalg.norm(vectors, axis=1, keepdims=True),
            class_index=np.repeat(np.arange(len(chosen)), 2 * self._per_role),
            role_is_fg=np.tile(np.repeat([True, False], self._per_role), len(chosen)),
            kind=("part",) * count,
            ids=np.arange(count),
        )


class ReadWords(RandomPrototypes):
    """A store without classes that has read every word, at random.

    Args:
        length: Of the embedding of a word.
    """

    def __init__(self, length: int) -> None:
        super().__init__((), {})
        self._length = length

    def cached_texts(self, _key: str, texts: Sequence[str]) -> dict[str, np.ndarray]:
        vectors = np.random.default_rng(0).standard_normal((len(texts), self._length), dtype=np.float32)
        return dict(zip(texts, vectors / np.linalg.norm(vectors, axis=1, keepdims=True), strict=True))


class RandomClass:
    """What `Segmenter` asks of a class."""

    generation = "random"
    kind = "thing"

    def __init__(self, name: str, extractors: tuple[str, ...]) -> None:
        self.name = name
        self.extractors = extractors
