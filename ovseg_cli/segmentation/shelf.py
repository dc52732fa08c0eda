"""Prototypes of many classes, which stay in their store: for each picture those are read that can matter to it.

Where few classes are left for a picture (by its pre-filter, say), the prototypes of these are read. Of many, the
store's search index finds those that can win: the picture is surveyed at some cells in all of its crops, and the
classes are taken whose prototypes come near enough to the best one at one of them. The background is made of the
background prototypes that come nearest to each of the cells that are surveyed: where it may win, none is missed, as far
as the index can say what a list of vectors holds at best. What was found is then scored exactly, at every cell.

A class that wins a cell by one extractor in one crop has the nearest prototype there. Cells that are alike have the
same neighbours: the cosine of a prototype differs between two cells by no more than their distance. So the cells that
are searched for are chosen to be near all others, and the margin stands for what crops and extractors do to each other
when their scores are averaged.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ovseg_cli.errors import ClassChangedError
from ovseg_cli.faiss_import import best_products
from ovseg_cli.profiles import ExtractorSpec
from ovseg_cli.scorers.prototypes import PrototypeScorer
from ovseg_cli.segmentation.options import KINDS
from ovseg_cli.store import Store
from ovseg_cli.store.records import PrototypeBlock, PrototypeKind
from ovseg_cli.store.vector_index import Among

if TYPE_CHECKING:
    from ovseg_cli.models import Models
    from ovseg_cli.segmentation.recipe import PrototypePart

SAME = 0.98
"""Cosine from which two cells have the same neighbours."""

_DEEPER = 8  # so many times as many are found where the first look was not enough
_STUFF_AT_ONCE = 64  # stuff classes that background prototypes are compared with at once


class Shelf:
    """The prototypes that a recipe matches, where they stay in their store.

    Args:
        models: The profile's models.
        part: What is matched, with a store.
        background: Whether what surrounds the classes competes with them.

    Attributes:
        looks: One scorer for each extractor that sees crops, and has no prototypes to compare them with.

    Raises:
        StoreError: The store cannot be opened.
    """

    def __init__(self, models: Models, part: PrototypePart, *, background: bool = True) -> None:
        if part.store is None or part.shortlist is None:
            raise ValueError("these prototypes do not stay in a store")
        self._models, self._part, self._spec, self._background = models, part, part.shortlist, background
        self._store = Store.open(part.store, create=False)
        self._token = ""
        self._stays: dict[str, dict[int, bool]] = {spec.digest: {} for spec in part.extractors}
        self._stuff = frozenset(part.stuff)
        self._generations = dict(zip(part.classes, part.generations, strict=True))
        self.looks = [self._scorer(spec, nothing_of(part.classes, spec.dim)) for spec in part.extractors]

    def wants_survey(self, classes: Sequence[int]) -> bool:
        """Whether some classes, by their places, are so many that they are searched for."""
        return len(classes) > self._spec.most_exact

    def scorers(
        self, classes: Sequence[int], surveyed: Sequence[Tensor] | None
    ) -> tuple[tuple[int, ...], list[PrototypeScorer]]:
        """What one picture is scored by.

        Args:
            classes: Places of the classes that may be in it, ascending; at least one.
            surveyed: For each extractor, features of the picture: float32 (N, D) of norm 1. None where the classes are
                so few that no survey is wanted.

        Returns:
            Places of the classes that are scored, ascending, and one scorer for each extractor, in which they have the
            channels 1, 2, ...

        Raises:
            ClassChangedError: A class is not what it was when the recipe was made.
        """
        part = self._part
        with self._store.snapshot():
            self._require_unchanged()
            if surveyed is None:
                names = [part.classes[place] for place in classes]
                return tuple(classes), [self._scorer(spec, self._whole(spec, names)) for spec in part.extractors]
            among = self._among(classes)
            queries = [spread(features.numpy(), self._spec.queries) for features in surveyed]
            around = [self._around(spec, own, among)[1] for spec, own in zip(part.extractors, queries, strict=True)]
            found = self._found(classes, queries, around, among)
            names = [part.classes[place] for place in found]
            scorers = []
            for spec, features in zip(part.extractors, surveyed, strict=True):
                block = self._store.prototypes(names, spec.digest)
                ids, _ = self._around(spec, features.numpy(), among, floors=self._floors(block, features.numpy()))
                block = _with_background(block, ids, self._read(spec, ids), part.kinds[0])
                scorers.append(self._scorer(spec, block))
            return found, scorers

    def _scorer(self, spec: ExtractorSpec, block: PrototypeBlock) -> PrototypeScorer:
        return PrototypeScorer(self._models, spec, block, kinds=self._part.kinds, sight=self._part.geometry.sight)

    def _require_unchanged(self) -> None:
        """Raise where a class is not what the recipe says. Other classes may come and go."""
        token = self._store.vector_token
        if token == self._token:
            return
        there = self._store.generations()
        for name, generation in self._generations.items():
            if there.get(name) != generation:
                raise ClassChangedError(
                    f"Another process changed the class {name!r} while pictures were segmented. Run the same command "
                    "again: it begins with the classes as they are now."
                )
        self._token = token

    def _among(self, classes: Sequence[int]) -> Among:
        """Prototypes of these classes, of the kinds that are matched, but for what surrounds stuff."""
        part = self._part
        names = [part.classes[place] for place in classes]
        stuff = () if part.stuff_similarity is None else [name for name in names if name in self._stuff]
        return Among(
            generations=frozenset(self._generations[name] for name in names),
            without_background=frozenset(self._generations[name] for name in stuff),
            kinds=part.kinds if set(part.kinds) != set(KINDS) else None,
        )

    # ------------------------------------------------------------------ classes

    def _found(
        self,
        classes: Sequence[int],
        queries: Sequence[NDArray[np.float32]],
        around: Sequence[NDArray[np.float32]],
        among: Among,
    ) -> tuple[int, ...]:
        """Which of the classes can win somewhere, at most `ShortlistSpec.most` of them."""
        part = self._part
        place_of = {part.classes[place]: place for place in classes}
        gaps: dict[str, float] = {}
        for spec, own, background in zip(part.extractors, queries, around, strict=True):
            for name, gap in self._near(spec, own, background, among).items():
                gaps[name] = min(gap, gaps.get(name, gap))
        nearest = sorted(gaps, key=lambda name: gaps[name])[: self._spec.most]
        return tuple(sorted(place_of[name] for name in nearest)) or tuple(classes[:1])

    def _near(
        self, spec: ExtractorSpec, queries: NDArray[np.float32], around: NDArray[np.float32], among: Among
    ) -> dict[str, float]:
        """The classes that come near enough to the best score at some features, each with how near.

        Args:
            spec: Whose features.
            queries: float32 (Q, D).
            around: float32 (Q,), the scores of the background.
            among: Which prototypes compete.
        """
        limits, gaps = self._spec, dict[str, float]()
        k, waiting = limits.prototypes, np.arange(len(queries))
        for _depth in range(2):
            scores, ids, owner = self._store.candidates(
                queries[waiting],
                spec.digest,
                k=k,
                role="fg",
                among=among,
                floors=around[waiting] - np.float32(limits.margin),
            )
            least = np.maximum(scores[:, 0], around[waiting]) - limits.margin
            deeper = []
            for query, row, numbers, enough in zip(waiting.tolist(), scores, ids, least.tolist(), strict=True):
                own: dict[str, float] = {}
                for place in np.flatnonzero((row >= enough) & (numbers >= 0)).tolist():
                    own.setdefault(owner[int(numbers[place])], float(row[place]) - enough)
                for name, lead in list(own.items())[: limits.classes]:
                    gap = limits.margin - lead
                    gaps[name] = min(gap, gaps.get(name, gap))
                # A class of many prototypes alike can hide the others behind it.
                if numbers[-1] >= 0 and row[-1] >= enough and len(own) < limits.classes:
                    deeper.append(query)
            if not deeper:
                break
            k, waiting = k * _DEEPER, np.array(deeper)
        return gaps

    # ------------------------------------------------------------------ background

    def _floors(self, block: PrototypeBlock, features: NDArray[np.float32]) -> NDArray[np.float32]:
        """Below which scores the background is far from winning at some features (N, D): float32 (N,)."""
        matched = block.vectors[block.role_is_fg & np.isin(np.array(block.kind), self._part.kinds)]
        if not len(matched):
            return np.full(len(features), -1, np.float32)
        return best_products(features, matched, 1)[0][:, 0] - np.float32(self._spec.margin)

    def _around(
        self,
        spec: ExtractorSpec,
        queries: NDArray[np.float32],
        among: Among,
        *,
        floors: NDArray[np.float32] | None = None,
    ) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
        """The background prototypes near some features (Q, D): int64 (N,), sorted, and the best score for each (Q,).

        Args:
            spec: Whose features.
            queries: float32 (Q, D).
            among: Which prototypes may be found.
            floors: float32 (Q,), above which none may be missed; None for what a quick search finds.
        """
        k, waiting, found = self._spec.background, np.arange(len(queries)), set[int]()
        best = np.full(len(queries), -np.inf, np.float32)
        for _depth in range(2 if self._background else 0):
            own = None if floors is None else floors[waiting]
            scores, ids, _ = self._store.candidates(
                queries[waiting], spec.digest, k=k, role="bg", among=among, floors=own
            )
            stays = self._not_stuff(spec, np.unique(ids[ids >= 0]))
            passes = np.isin(ids, [number for number, stay in stays.items() if stay])
            found.update(ids[passes].tolist())
            best[waiting] = np.where(passes, scores, -np.inf).max(axis=1)
            short = ~passes.any(axis=1) & (ids[:, -1] >= 0)
            if not short.any():
                break
            k, waiting = k * _DEEPER, waiting[short]
        return np.array(sorted(found), np.int64), best

    def _not_stuff(self, spec: ExtractorSpec, ids: NDArray[np.int64]) -> dict[int, bool]:
        """Which of these background prototypes, none of stuff, the stuff filter leaves; that is remembered."""
        part, known = self._part, self._stays[spec.digest]
        if part.stuff_similarity is None:
            return dict.fromkeys(ids.tolist(), True)
        fresh = np.array([number for number in ids.tolist() if number not in known], np.int64)
        if len(fresh):
            vectors, nearest = torch.from_numpy(self._read(spec, fresh)), torch.full((len(fresh),), -torch.inf)
            for start in range(0, len(part.stuff), _STUFF_AT_ONCE):
                block = self._store.prototypes(part.stuff[start : start + _STUFF_AT_ONCE], spec.digest)
                against = block.role_is_fg & np.isin(np.array(block.kind), part.kinds)
                if against.any():
                    cosines = vectors @ torch.from_numpy(block.vectors[against]).T
                    nearest = torch.maximum(nearest, cosines.amax(dim=1))
            known.update(zip(fresh.tolist(), (nearest <= part.stuff_similarity).tolist(), strict=True))
        return {number: known[number] for number in ids.tolist()}

    def _read(self, spec: ExtractorSpec, ids: NDArray[np.int64]) -> NDArray[np.float32]:
        return self._store.vectors(ids, spec.digest) if len(ids) else np.empty((0, spec.dim), np.float32)

    def _whole(self, spec: ExtractorSpec, names: Sequence[str]) -> PrototypeBlock:
        """All prototypes of classes that the stuff filter leaves."""
        block, part = self._store.prototypes(names, spec.digest), self._part
        if part.stuff_similarity is None:
            return block
        of_stuff = np.isin(block.class_index, [i for i, name in enumerate(block.classes) if name in self._stuff])
        stays = block.role_is_fg.copy()
        asked = ~block.role_is_fg & ~of_stuff & np.isin(np.array(block.kind), part.kinds)
        judged = self._not_stuff(spec, block.ids[asked])
        stays[asked] = [judged[number] for number in block.ids[asked].tolist()]
        return _rows_of(block, stays)


def spread(features: NDArray[np.float32], count: int) -> NDArray[np.float32]:
    """Some features that are near all others: each next one is the farthest from those before.

    Args:
        features: float32 (N, D), each of norm 1, N at least 1.
        count: How many at most; fewer where the rest is all but the same (`SAME`).

    Returns:
        float32 (M, D), rows of `features`.
    """
    chosen = [0]
    nearest = features @ features[0]
    while len(chosen) < min(count, len(features)):
        place = int(nearest.argmin())
        if nearest[place] >= SAME:
            break
        chosen.append(place)
        np.maximum(nearest, features @ features[place], out=nearest)
    return np.ascontiguousarray(features[chosen])


def nothing_of(classes: tuple[str, ...], dim: int) -> PrototypeBlock:
    """No prototypes of these classes."""
    none = np.empty(0, np.int64)
    return PrototypeBlock(
        classes=classes,
        vectors=np.empty((0, dim), np.float32),
        class_index=none,
        role_is_fg=np.empty(0, np.bool_),
        kind=(),
        ids=none,
    )


def _rows_of(block: PrototypeBlock, rows: NDArray[np.bool_]) -> PrototypeBlock:
    """Some of the prototypes of a block."""
    return replace(
        block,
        vectors=block.vectors[rows],
        class_index=block.class_index[rows],
        role_is_fg=block.role_is_fg[rows],
        kind=tuple(np.array(block.kind)[rows].tolist()),
        ids=block.ids[rows],
    )


def _with_background(
    block: PrototypeBlock, ids: NDArray[np.int64], vectors: NDArray[np.float32], kind: PrototypeKind
) -> PrototypeBlock:
    """The foreground of a block with other background prototypes, whose class and kind do not matter any more."""
    front, count = _rows_of(block, block.role_is_fg), len(ids)
    return replace(
        front,
        vectors=np.concatenate([front.vectors, vectors]),
        class_index=np.concatenate([front.class_index, np.zeros(count, np.int64)]),
        role_is_fg=np.concatenate([front.role_is_fg, np.zeros(count, np.bool_)]),
        kind=(*front.kind, *(kind,) * count),
        ids=np.concatenate([front.ids, ids]),
    )
