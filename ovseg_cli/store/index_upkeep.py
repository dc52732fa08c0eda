"""Keeping the vector indexes of a store in step with its database, and searching by them."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from filelock import FileLock, Timeout
from numpy.typing import NDArray
from sqlalchemy import select
from sqlalchemy.orm import Session

from ovseg_cli.errors import OvsegError, StoreLockedError
from ovseg_cli.store import classes, vector_index
from ovseg_cli.store.classes import VectorBlock
from ovseg_cli.store.database import Database
from ovseg_cli.store.disk import os_errors, refuse_links
from ovseg_cli.store.lock import write_lock
from ovseg_cli.store.sweep import BUILD_LOCK, Change
from ovseg_cli.store.tables import Extractor
from ovseg_cli.store.vector_index import Among, Catalogue, DamagedIndexError, IndexState, Stamp, Update, VectorIndex

logger = logging.getLogger(__name__)

_DOUBT = 0.05
"""How far the score by an index may be from the true one before the index counts as damaged."""

_QUERIES_AT_ONCE = 64
_MANY = 1_000  # classes that are looked up one by one


@dataclass(frozen=True, slots=True)
class ExtractorRow:
    """What is needed of an extractor: its row id, and what the row says."""

    id: int
    name: str
    digest: str
    dim: int


def _extractors(session: Session, digest: str | None = None) -> list[ExtractorRow]:
    """All extractors in the store, or the one of a digest."""
    query = select(Extractor.id, Extractor.name, Extractor.digest, Extractor.dim).order_by(Extractor.id)
    if digest is not None:
        query = query.where(Extractor.digest == digest)
    return [ExtractorRow(*row) for row in session.execute(query)]


class IndexUpkeep:
    """The indexes of one store.

    Args:
        database: The store's database.
        store: The store's folder.
        read_only: Whether nothing can be written.
        lock_timeout: Seconds to wait for another process that is writing.
    """

    def __init__(self, database: Database, store: Path, *, read_only: bool, lock_timeout: float) -> None:
        self._database = database
        self._store = store
        self._read_only = read_only
        self._lock_timeout = lock_timeout
        self._open: dict[str, VectorIndex] = {}
        self._narrow: dict[str, tuple[Among, VectorIndex]] = {}

    def close(self) -> None:
        """Let go of all indexes."""
        self._open.clear()
        self._narrow.clear()

    def search(
        self,
        session: Session,
        extractor: str,
        queries: NDArray[np.float32],
        k: int,
        *,
        foreground: bool,
        among: Among | None = None,
        rough: bool = False,
        floors: NDArray[np.float32] | None = None,
    ) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
        """Find the prototypes most similar to some features.

        Args:
            session: Reading session.
            extractor: Digest of an extractor that is in the store.
            queries: float32 (Q, D), rows of length 1 or 0.
            k: How many to find for each.
            foreground: Whether to look among foreground or background prototypes.
            among: Which may be found; None for all.
            rough: Whether the scores of the index do, up to its rounding; else they are those of the database.
            floors: float32 (Q,), where they are rough: see `VectorIndex.search`.

        Returns:
            As `Store.nearest` gives it.
        """
        (row,) = _extractors(session, extractor)
        for _attempt in range(2):
            index = self._index(session, row)
            if index is None:
                break
            try:
                index = self._narrowed(session, row, index, among)
                found = [vector_index.nothing(0, k)]
                if rough:
                    found.append(index.search(queries, k, foreground=foreground, floors=floors))
                    best, its = found[-1]
                    self._doubt(session, best[:, :1], its[:, :1], queries, row.dim)
                for start in range(0, 0 if rough else len(queries), _QUERIES_AT_ONCE):
                    part = queries[start : start + _QUERIES_AT_ONCE]
                    found.append(self._search(session, index, part, k, row.dim, foreground=foreground))
                scores, ids = (np.concatenate(part) for part in zip(*found, strict=True))
            except DamagedIndexError as error:
                self._open.pop(extractor, None)
                self._narrow.pop(extractor, None)
                self._tell(extractor, "damaged", str(error))
                self._rebuild(session, row, None)
            else:
                return scores, ids
        if among is None:
            blocks = classes.vector_blocks(session, row.id, row.dim)
            return vector_index.scan(queries, k, blocks, foreground=foreground)
        wanted, there = among.of_role(foreground=foreground), classes.indexed_classes(session, row.id)
        numbers = [number for generation, number in there.items() if generation in wanted]
        blocks = classes.vector_blocks(session, row.id, row.dim, numbers)
        return vector_index.scan(queries, k, blocks, foreground=foreground, kinds=among.kinds)

    def _narrowed(self, session: Session, row: ExtractorRow, index: VectorIndex, among: Among | None) -> VectorIndex:
        """An index with fewer vectors that may be found; the last one is remembered."""
        if among is None:
            return index
        known = self._narrow.get(row.digest)
        if known is not None and known[0] == among and known[1].stamp == index.stamp:
            return known[1]
        ids = None if among.kinds is None else classes.ids_of_kinds(session, row.id, among.kinds)
        narrowed = index.narrowed(among, ids)
        self._narrow[row.digest] = (among, narrowed)
        return narrowed

    def _search(
        self, session: Session, index: VectorIndex, queries: NDArray[np.float32], k: int, dim: int, *, foreground: bool
    ) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
        """Search by an index, and score what it finds by the vectors of the database."""
        rough, ids = index.search(queries, k + vector_index.SPARE, foreground=foreground)
        return vector_index.best_of([(self._doubt(session, rough, ids, queries, dim), ids)], k)

    def _doubt(
        self,
        session: Session,
        rough: NDArray[np.float32],
        ids: NDArray[np.int64],
        queries: NDArray[np.float32],
        dim: int,
    ) -> NDArray[np.float32]:
        """Score what an index finds by the vectors of the database.

        Raises:
            DamagedIndexError: The index says something else.
        """
        found = ids >= 0
        scores = np.full(ids.shape, -np.inf, np.float32)
        places, inverse = np.unique(ids[found], return_inverse=True)
        try:
            vectors = classes.vectors_by_id(session, places, dim)
        except KeyError as error:
            raise DamagedIndexError(f"it names a prototype {error} that is not there") from error
        scores[found] = np.einsum("nd,nd->n", vectors[inverse], queries[np.nonzero(found)[0]])
        if found.any() and np.abs(scores[found] - rough[found]).max() > _DOUBT:
            raise DamagedIndexError("its vectors are not those of the database")
        return scores

    def follow(self, change: Change) -> None:
        """Bring the indexes up to date after a change, while the write lock is held.

        A cache is not worth failing for: what cannot be done now is left to the next search.
        """
        if not change.came and not change.went:
            return
        try:
            with self._database.read() as session:
                for row in _extractors(session):
                    self._follow(session, row, change)
        except (OvsegError, OSError, DamagedIndexError) as error:
            logger.info("the vector index was not brought up to date, so the next search does: %s", error)

    def _follow(self, session: Session, row: ExtractorRow, change: Change) -> None:
        stamp = self._stamp(session, row.digest)
        before = vector_index.inspect_index(self._store, stamp).catalogue
        if before is not None and before.stamp.token == change.token:
            among = list(change.came.values())
            came = classes.indexed_classes(session, row.id, among if len(among) <= _MANY else None)
            update = self._prepare(
                session,
                row,
                stamp,
                before,
                {generation: number for generation, number in came.items() if generation in change.came},
                change.went,
            )
        else:
            update = self._prepare(session, row, stamp, before, *self._difference(session, row, before))
        if update is not None:
            update.put_in_place(self._store)

    def _prepare(
        self,
        session: Session,
        row: ExtractorRow,
        stamp: Stamp,
        before: Catalogue | None,
        came: dict[str, int],
        went: Sequence[str],
        *,
        patient: bool = False,
    ) -> Update | None:
        """Write what an index lacks; None where that is more than a change has time for."""

        def read(numbers: Sequence[int]) -> Iterator[VectorBlock]:
            return classes.vector_blocks(session, row.id, row.dim, numbers)

        if not patient and classes.count_of(session, row.id, list(came.values())) > vector_index.INLINE_ROWS:
            logger.info("the vector index is not up to date: the next search does that, or ovseg store reindex")
            return None
        with os_errors(self._store):
            return vector_index.prepare(
                self._store, stamp, row.dim, before, came=came, went=went, read=read, lists=patient
            )

    def _difference(
        self, session: Session, row: ExtractorRow, before: Catalogue | None
    ) -> tuple[dict[str, int], list[str]]:
        """The classes that an index lacks, and the generations that it holds in vain."""
        there = classes.indexed_classes(session, row.id)
        held = set() if before is None else vector_index.held_classes(self._store, before)
        return {each: number for each, number in there.items() if each not in held}, sorted(held - there.keys())

    def mend(self) -> list[str]:
        """Bring the indexes up to date that are not; give the names of their extractors.

        Raises:
            StoreLockedError: If another process keeps writing, or makes an index.
            StoreError: If the disk refuses.
        """
        mended = []
        with self._database.read() as session:
            for row in _extractors(session):
                state = vector_index.inspect_index(self._store, self._stamp(session, row.digest), thorough=True)
                if state.status != "fresh":
                    self._open.pop(row.digest, None)
                    self._rebuild(session, row, state.catalogue, must=True)
                    mended.append(row.name)
        return mended

    def reindex(self) -> dict[str, Catalogue]:
        """Make all indexes anew, whatever is there; give what they consist of, by the extractors' names.

        Raises:
            StoreLockedError: If another process keeps writing, or makes an index.
            StoreError: If the disk refuses.
        """
        with self._database.read() as session:
            made = {row.name: self._rebuild(session, row, None, must=True) for row in _extractors(session)}
        return {name: catalogue for name, catalogue in made.items() if catalogue is not None}

    def _stamp(self, session: Session, extractor: str) -> Stamp:
        meta = classes.meta(session)
        return Stamp(extractor=extractor, revision=meta.vector_revision, token=meta.vector_token)

    def _index(self, session: Session, row: ExtractorRow) -> VectorIndex | None:
        """The index of the vectors as `session` sees them; None where it cannot be had now."""
        stamp = self._stamp(session, row.digest)
        opened = self._open.get(row.digest)
        if opened is not None and opened.stamp == stamp:
            return opened
        index, state = self._opened(stamp)
        wants_lists = state.catalogue is not None and state.catalogue.wants_lists and not self._read_only
        if index is None or wants_lists:
            if self._is_behind(stamp):
                return index  # there is a newer state of the store and its index, and this reader sees an older one
            if state.status != "fresh":
                self._tell(row.digest, state.status, state.reason)
            elif wants_lists:
                path = vector_index.catalogue_path(self._store, row.digest)
                logger.warning("the vector index %s has grown large: it is made anew, which takes minutes, once", path)
            self._rebuild(session, row, state.catalogue)
            newer, _ = self._opened(stamp)
            index = newer or index
        if index is not None:
            self._open[row.digest] = index
        return index

    def _opened(self, stamp: Stamp) -> tuple[VectorIndex | None, IndexState]:
        """The index on disk if it is fresh and sound, and what is there."""
        state = vector_index.inspect_index(self._store, stamp)
        for _attempt in range(3):
            if state.status != "fresh" or state.catalogue is None:
                break
            try:
                return VectorIndex.open(self._store, state.catalogue), state
            except FileNotFoundError:  # between the two looks, another process has put newer segments in their place
                state = vector_index.inspect_index(self._store, stamp)
            except (DamagedIndexError, OSError) as error:
                return None, IndexState("damaged", str(error), None)
        return None, state

    def _is_behind(self, stamp: Stamp) -> bool:
        """Whether the vectors have changed since a reader began."""
        with self._database.read_now() as session:
            return self._stamp(session, stamp.extractor) != stamp

    def _tell(self, extractor: str, status: str, reason: str) -> None:
        # Outdated and missing are the daily course of a cache; damage is for the user to know.
        level = logging.WARNING if status == "damaged" else logging.INFO
        path = vector_index.catalogue_path(self._store, extractor)
        logger.log(level, "the vector index %s was %s (%s): rebuilt from the database", path, status, reason)

    def _rebuild(
        self, session: Session, row: ExtractorRow, before: Catalogue | None, *, must: bool = False
    ) -> Catalogue | None:
        """Bring an index up to date, and put it on disk if that can be done now; None if not.

        The segments are written without the write lock, so that others need not wait for minutes.

        Args:
            session: Reading session.
            row: The extractor.
            before: What is there that can be used.
            must: Whether to wait for others, and to say why it cannot be done.
        """
        if self._read_only and not must:
            return None
        try:
            with os_errors(self._store):
                if not must:
                    with write_lock(self._store, 0.0):
                        pass  # while another process writes, nothing could be put in its place
                with self._building(self._lock_timeout if must else 0.0):
                    stamp = self._stamp(session, row.digest)
                    try:
                        lacks = self._difference(session, row, before)
                        update = self._prepare(session, row, stamp, before, *lacks, patient=True)
                    except DamagedIndexError:
                        before = None
                        lacks = self._difference(session, row, before)
                        update = self._prepare(session, row, stamp, before, *lacks, patient=True)
                    if update is None:
                        return None
                    try:
                        with write_lock(self._store, self._lock_timeout):
                            if self._is_behind(stamp):
                                return None
                            update.put_in_place(self._store)
                            known = {each.digest for each in _extractors(session)}
                            for path in vector_index.leftovers(self._store, known, building=True):
                                path.unlink(missing_ok=True)
                    finally:
                        update.forget()
                    return update.catalogue
        except StoreLockedError:
            if must:
                raise
            logger.info("the vector index of %s was not saved, as another process is writing", self._store)
        except OvsegError as error:
            if must:
                raise
            logger.warning("the vector index was not saved, so all vectors are compared one by one: %s", error)
        return None

    @contextmanager
    def _building(self, timeout: float) -> Iterator[None]:
        """Keep others from taking unfinished segments for leftovers, and from making the same."""
        path = self._store / BUILD_LOCK
        refuse_links(path)
        try:
            with FileLock(path).acquire(timeout=timeout):
                yield
        except Timeout as error:
            raise StoreLockedError(
                f"Another ovseg process makes the index of {self._store}: wait until it is done, then run the "
                "command again"
            ) from error
