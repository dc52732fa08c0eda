"""The FAISS index on disk: a cache of the vectors in the database.

An extractor has a catalogue and segments. A segment holds the vectors of some classes, is written once and never
changes. A class that comes is one more segment, a class that goes a line in the catalogue, and now and then a few small
segments become a larger one: so a change of the store costs as much as it is large, whatever there is beside it.

The catalogue says which state of the vectors it describes, and what the bytes of every file hash to. When either does
not fit, nothing is taken from the index, and it is brought up to date from the database, which is always right. Classes
are known by their generations: two of the same generation have the same vectors, in a copy of the store as well.
"""

from __future__ import annotations

import errno
import hashlib
import io
import json
import logging
import math
import os
import re
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from ovseg_cli.faiss_import import best_products, gpu_count, import_faiss, on_gpus
from ovseg_cli.store import digests
from ovseg_cli.store.classes import VectorBlock, unit_rows
from ovseg_cli.store.disk import (
    TEMPORARY_SUFFIX,
    is_link,
    listed,
    move_durably,
    refuse_links,
    replace_file,
    takes_no_more,
    write_new,
)
from ovseg_cli.store.records import PrototypeKind

logger = logging.getLogger(__name__)

FOLDER = "index"
EXACT_ROWS = 2**16
"""Up to so many vectors together every one is compared with a query, in half precision: a twentieth of a second for 768
numbers each. More go into lists by their nearest centroids, in 8 bits, of which a query looks at few."""

SEGMENT_ROWS = 2**19
"""The most vectors in a segment, which is held in memory while it is made: 0.4 GB of 768 numbers in 8 bits."""

INLINE_ROWS = 2**16
"""Up to so many vectors a change of the store brings the index up to date at once; more wait for a search."""

MANY_QUERIES = 8
"""From so many queries on, vectors that are compared one by one are compared with all queries at once."""

WANTED_RECALL = 0.99
SPARE = 16
"""So many more are found than asked for, to be scored by the vectors of the database, which puts right what rounding
has put in a wrong order."""
LOOKED_AT = 32
"""Lists that are looked at for each of many queries, before it is asked which others can hold something nearer."""

MOST_LOOKED_AT = 0.25
"""No query looks at a larger share of a segment's lists: then all would be compared as fast."""

_ROUNDED = 0.01  # by how much rounding may raise a product, with much to spare
_COMPARED_AT_ONCE = 2**14  # vectors: 50 MB of 768 numbers each, and their products with 256 queries 17 MB
_MERGED_AT_ONCE = 4  # segments of one order of magnitude that become one
_HASHED_WHEN_READ = 2**26  # bytes of a file that is compared with its digest when it is read; of others, the length
_SAMPLE = 40  # vectors for each centroid
_PROBES, _NEIGHBOURS = 64, 10  # what the recall of a segment is measured by
_FORMAT = 3
_FILE = re.compile(
    rf"[0-9a-f]{{16}}(-[0-9a-f]{{16}})?\.(faiss|rows|classes|json)(\.[0-9]+{re.escape(TEMPORARY_SUFFIX)})?"
)
"""What is ours in the folder: catalogues, segments, and both while they are written (and the one file of old)."""

IndexStatus = Literal["fresh", "outdated", "missing", "damaged"]
Reader = Callable[[Sequence[int]], Iterable[VectorBlock]]
"""Reads the vectors of classes by their row ids, in blocks of bounded size, class by class in the order of the ids."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Stamp:
    """Which vectors an index holds.

    Attributes:
        extractor: Digest of their extractor.
        revision: The store's vector revision.
        token: The store's vector token, new with each change of the vectors.
    """

    extractor: str
    revision: int
    token: str


@dataclass(frozen=True, slots=True, kw_only=True)
class SegmentNote:
    """What a catalogue says of a segment.

    Attributes:
        name: Beginning of its files' names.
        rows: How many vectors it holds.
        kind: "exact" or "lists".
        probes: How many lists a query looks at; 0 for "exact".
        recall: Which share of the `_NEIGHBOURS` nearest is found so, with `SPARE` more; measured when it was made.
        files: For each ending of a name, bytes and SHA-256 of the file.
    """

    name: str
    rows: int
    kind: Literal["exact", "lists"]
    probes: int
    recall: float
    files: dict[str, tuple[int, str]]

    def path(self, store: Path, ending: str) -> Path:
        """One of its files."""
        return store / FOLDER / f"{self.name}.{ending}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Catalogue:
    """What an extractor's index consists of.

    Attributes:
        stamp: The vectors that it holds.
        segments: Where they are.
        gone: Generations of classes that are in a segment and not in the store any more.
    """

    stamp: Stamp
    segments: tuple[SegmentNote, ...] = ()
    gone: frozenset[str] = frozenset()

    @property
    def rows(self) -> int:
        """Vectors in all segments, those of classes that are gone included."""
        return sum(segment.rows for segment in self.segments)

    @property
    def wants_lists(self) -> bool:
        """Whether there are more vectors than it pays to compare one by one."""
        return sum(segment.rows for segment in self.segments if segment.kind == "exact") > EXACT_ROWS


@dataclass(frozen=True, slots=True)
class IndexState:
    """What lies on disk for an extractor.

    Attributes:
        status: "fresh" can be used; "outdated" and "missing" are the normal course; "damaged" is not.
        reason: Why it is not fresh, else "".
        catalogue: What is there, if it is sound; None for nothing to go on from.
    """

    status: IndexStatus
    reason: str
    catalogue: Catalogue | None


def catalogue_path(store: Path, extractor: str) -> Path:
    """Give the path of an extractor's catalogue."""
    return store / FOLDER / f"{extractor[:16]}.json"


# ---------------------------------------------------------------------- what is there


def inspect_index(store: Path, stamp: Stamp, *, thorough: bool = False) -> IndexState:
    """Look at an extractor's index without loading FAISS.

    Args:
        store: The store's folder.
        stamp: The vectors that the index should hold.
        thorough: Whether the bytes of all files are compared with their digests; else that is left to those who read
            them, and only the lengths are compared.
    """
    path = catalogue_path(store, stamp.extractor)
    try:
        catalogue = _read_catalogue(path)
        for segment in catalogue.segments:
            for ending, (nbytes, digest) in segment.files.items():
                file = segment.path(store, ending)
                if file.stat().st_size != nbytes or (thorough and digests.file_digest(file) != digest):
                    return IndexState("damaged", f"the bytes of {file.name} do not match its checksum", None)
    except FileNotFoundError as error:
        return IndexState("missing", f"{Path(error.filename).name} is not there", None)
    except OSError as error:
        return IndexState("damaged", f"it cannot be read: {error.strerror}", None)
    except LookupError as error:
        return IndexState("outdated", str(error), None)
    except ValueError as error:
        return IndexState("damaged", str(error), None)
    if catalogue.stamp.extractor != stamp.extractor:
        return IndexState("outdated", "it is of another extractor", None)
    if catalogue.stamp != stamp:
        reason = f"it is of vector revision {catalogue.stamp.revision}, the store of {stamp.revision}"
        return IndexState("outdated", reason, catalogue)
    return IndexState("fresh", "", catalogue)


def _read_catalogue(path: Path) -> Catalogue:
    """Read a catalogue.

    Raises:
        OSError: If it cannot be read.
        LookupError: If another version of ovseg has written it.
        ValueError: If it is none.
    """
    try:
        kept = json.loads(path.read_bytes())
        if kept["format"] != _FORMAT:
            raise _OtherFormatError(f"it has the format {kept['format']}, and this is {_FORMAT}")
        if kept.pop("sha256") != _digest_of(kept):
            raise ValueError
        return Catalogue(
            stamp=Stamp(**kept["stamp"]),
            segments=tuple(
                SegmentNote(**{**note, "files": {end: (size, sha) for end, (size, sha) in note["files"].items()}})
                for note in kept["segments"]
            ),
            gone=frozenset(kept["gone"]),
        )
    except _OtherFormatError:
        raise
    except (ValueError, LookupError, TypeError, AttributeError, RecursionError) as error:
        raise ValueError(f"{path.name} is not a catalogue") from error


class _OtherFormatError(LookupError):
    """A catalogue of another version."""


def _digest_of(kept: dict[str, Any]) -> str:
    return digests.bytes_digest(json.dumps(kept, sort_keys=True).encode())


def _write_catalogue(store: Path, catalogue: Catalogue) -> None:
    kept: dict[str, Any] = {
        "format": _FORMAT,
        "stamp": asdict(catalogue.stamp),
        "segments": [asdict(segment) for segment in catalogue.segments],
        "gone": sorted(catalogue.gone),
    }
    kept = json.loads(json.dumps(kept))
    data = json.dumps({**kept, "sha256": _digest_of(kept)}, indent=1) + "\n"
    replace_file(catalogue_path(store, catalogue.stamp.extractor), data.encode("utf-8"))


def discard(store: Path) -> bool:
    """Delete all index files, which the next searches make anew; say whether there was any.

    Raises:
        OSError: If one cannot be deleted.
    """
    files = leftovers(store, set(), building=False)
    for path in files:
        path.unlink(missing_ok=True)
    return bool(files)


def leftovers(store: Path, extractors: Collection[str], *, building: bool) -> list[Path]:
    """Find files in the index folder that no catalogue of an extractor names, or that a dead writer left unfinished.

    Args:
        store: The store's folder.
        extractors: Digests of all extractors in the database.
        building: Whether somebody else may just be writing a segment, so that unfinished files are left alone.

    Returns:
        Paths, sorted; links, and what is not ours by its name, are left alone.
    """
    kept = set()
    for extractor in extractors:
        path = catalogue_path(store, extractor)
        kept.add(path)
        with suppress(OSError, ValueError, LookupError):
            for segment in _read_catalogue(path).segments:
                kept.update(segment.path(store, ending) for ending in segment.files)
    return [
        path
        for path in listed(store / FOLDER)
        if _FILE.fullmatch(path.name)
        and path not in kept
        and not (building and path.suffix == TEMPORARY_SUFFIX)
        and path.is_file()
        and not is_link(path)
    ]


# ---------------------------------------------------------------------- searching


class DamagedIndexError(ValueError):
    """The files of an index are not what they were, or not what they say."""


@dataclass(frozen=True, slots=True)
class Among:
    """Which prototypes a search may find.

    Attributes:
        generations: Of the classes that they belong to.
        without_background: Those of them whose background prototypes may not be found.
        kinds: The kinds that may be found; None for all.
    """

    generations: frozenset[str]
    without_background: frozenset[str] = frozenset()
    kinds: tuple[PrototypeKind, ...] | None = None

    def of_role(self, *, foreground: bool) -> frozenset[str]:
        """Of which classes prototypes of a role may be found."""
        return self.generations if foreground else self.generations - self.without_background


@dataclass(frozen=True, slots=True, eq=False)
class Segment:
    """A segment that is open for searching.

    Attributes:
        note: What the catalogue says of it.
        index: The FAISS index of its vectors, in the order of `ids`.
        ids: int64 (N,), database ids.
        owner: int32 (N,), places of their classes among `generations`.
        generations: Its classes.
        masks: For foreground (True) and background (False), which vectors may be found: bits, as FAISS wants them.
        reach: float32 (lists,), the least cosine of each list's centroid and a vector in it; none for "exact".
    """

    note: SegmentNote
    index: Any
    ids: NDArray[np.int64]
    owner: NDArray[np.int32]
    generations: tuple[str, ...]
    masks: dict[bool, NDArray[np.uint8]]
    reach: NDArray[np.float32]

    @classmethod
    def open(cls, store: Path, note: SegmentNote, gone: Collection[str]) -> Segment:
        """Open one; a large file is not read, but mapped into memory.

        Raises:
            DamagedIndexError: If its files are not what they should be.
            OSError: If they cannot be read.
        """
        try:
            rows = _arrays(store, note, "rows")
            ids, owner, foreground, reach = rows["ids"], rows["owner"], rows["foreground"], rows["reach"]
            generations = tuple(_members(store, note))
            alive = np.array([generation not in gone for generation in generations], bool)[owner]
            index = _open_faiss(store, note)
        except OSError:
            raise
        except Exception as error:  # what NumPy and FAISS raise on damaged files has no common base
            raise DamagedIndexError(f"{note.name} cannot be read: {error}") from error
        if not len(ids) == len(owner) == len(foreground) == note.rows == index.ntotal:
            raise DamagedIndexError(f"{note.name} holds another number of vectors than it says")
        if len(reach) != (0 if note.kind == "exact" else index.nlist):
            raise DamagedIndexError(f"{note.name} holds another number of lists than it says")
        masks = {role: np.packbits(alive & (foreground == role), bitorder="little") for role in (True, False)}
        return cls(note, index, ids, owner, generations, masks, reach)

    def narrowed(self, among: Among, ids: NDArray[np.int64] | None) -> Segment:
        """The same, with fewer vectors that may be found.

        Args:
            among: Which may be.
            ids: int64, sorted: those of its kinds; None for all kinds.
        """
        of_kind = np.ones(len(self.ids), bool) if ids is None else np.isin(self.ids, ids)
        masks = {}
        for role, mask in self.masks.items():
            wanted = among.of_role(foreground=role)
            of_class = np.array([generation in wanted for generation in self.generations], bool)[self.owner]
            masks[role] = mask & np.packbits(of_class & of_kind, bitorder="little")
        return replace(self, masks=masks)

    def search(
        self,
        queries: NDArray[np.float32],
        k: int,
        *,
        foreground: bool,
        floors: NDArray[np.float32] | None = None,
    ) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
        """See `VectorIndex.search`."""
        if len(queries) >= MANY_QUERIES and (self.note.kind == "exact" or gpu_count()):
            return self._compare(queries, k, foreground=foreground)
        if floors is not None and self.note.kind == "lists":
            return self._look(queries, k, floors, foreground=foreground)
        faiss = import_faiss()
        chosen = {"sel": faiss.IDSelectorBitmap(self.masks[foreground])}
        params = (
            faiss.SearchParameters(**chosen)
            if self.note.kind == "exact"
            else faiss.SearchParametersIVF(nprobe=self.note.probes, **chosen)
        )
        scores, places = self.index.search(np.ascontiguousarray(queries), min(k, len(self.ids)), params=params)
        found = places >= 0
        return np.where(found, scores, -np.inf).astype(np.float32), np.where(found, self.ids[places], -1)

    def _compare(
        self, queries: NDArray[np.float32], k: int, *, foreground: bool
    ) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
        """Compare all vectors, block by block: as fast as a matrix product, which no search of FAISS is on a CPU."""
        if self.note.kind == "lists":
            self.index.make_direct_map()
        bits = np.unpackbits(self.masks[foreground], count=len(self.ids), bitorder="little")
        rows, best = np.flatnonzero(bits), nothing(len(queries), k)
        for start in range(0, len(rows), _COMPARED_AT_ONCE):
            some = rows[start : start + _COMPARED_AT_ONCE]
            scores, places = best_products(queries, self.index.reconstruct_batch(some), k)
            best = best_of([best, (scores, self.ids[some[places]])], k)
        return best

    def _look(
        self, queries: NDArray[np.float32], k: int, floors: NDArray[np.float32], *, foreground: bool
    ) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
        """Look at the nearest lists, then at those that can hold something better; each with all its queries at once.

        The angle between a query and a vector is no smaller than that between the query and the centroid of its list,
        less the largest between this centroid and a vector of the list. That says what a list can hold at best.
        """
        lists, best = _InvertedLists(self.index), nothing(len(queries), k)
        bits = np.unpackbits(self.masks[foreground], count=len(self.ids), bitorder="little").astype(bool)
        held = [np.flatnonzero(bits[lists.places(number)]) for number in range(self.index.nlist)]
        holding = np.array([number for number, rows in enumerate(held) if len(rows)], np.int64)
        if not len(holding):
            return best
        cosines = queries @ self.index.quantizer.reconstruct_n(0, self.index.nlist)[holding].T
        wanted = _largest(cosines, LOOKED_AT)
        at_best = np.arccos(np.clip(cosines, -1, 1)) - np.arccos(np.clip(self.reach[holding], -1, 1))
        at_best = np.cos(np.maximum(at_best, 0)) + _ROUNDED
        for _pass in range(2):
            for column in np.flatnonzero(wanted.any(axis=0)).tolist():
                number, mine = int(holding[column]), np.flatnonzero(wanted[:, column])
                rows = held[number]
                scores, places = best_products(queries[mine], lists.vectors(number, rows), k)
                found = (scores, self.ids[lists.places(number)[rows][places]])
                best[0][mine], best[1][mine] = best_of([(best[0][mine], best[1][mine]), found], k)
            at_best[wanted] = -np.inf  # these are known
            most = max(1, round(MOST_LOOKED_AT * len(holding)))
            wanted = (at_best > np.maximum(best[0][:, -1], floors)[:, None]) & _largest(at_best, most)
        return best


class _InvertedLists:
    """The vectors of an index, list by list."""

    def __init__(self, index: Any) -> None:
        self._faiss, self._index, self._lists = import_faiss(), index, index.invlists

    def places(self, number: int) -> NDArray[np.int64]:
        """The places in the index of the vectors of a list."""
        size = self._lists.list_size(number)
        if not size:
            return np.empty(0, np.int64)
        places: NDArray[np.int64] = self._faiss.rev_swig_ptr(self._lists.get_ids(number), size)
        return places

    def vectors(self, number: int, rows: NDArray[np.int64] | slice) -> NDArray[np.float32]:
        """Some vectors of a list that is not empty, float32 (N, D), by their places in it."""
        size, width = self._lists.list_size(number), self._index.code_size
        codes = self._faiss.rev_swig_ptr(self._lists.get_codes(number), size * width).reshape(size, width)
        vectors: NDArray[np.float32] = self._index.sq.decode(np.ascontiguousarray(codes[rows]))
        return vectors


def _largest(values: NDArray[np.float32], count: int) -> NDArray[np.bool_]:
    """Which values are the `count` largest of their row, and what equals the least of these."""
    if count >= values.shape[1]:
        return np.ones(values.shape, np.bool_)
    return values >= np.partition(values, -count, axis=1)[:, -count, None]


def _checked_bytes(store: Path, note: SegmentNote, ending: str) -> bytes:
    data = note.path(store, ending).read_bytes()
    if digests.bytes_digest(data) != note.files[ending][1]:
        raise DamagedIndexError(f"the bytes of {note.name}.{ending} do not match its checksum")
    return data


def _open_faiss(store: Path, note: SegmentNote) -> Any:
    faiss = import_faiss()
    if note.files["faiss"][0] <= _HASHED_WHEN_READ:
        index = faiss.deserialize_index(np.frombuffer(_checked_bytes(store, note, "faiss"), np.uint8))
    else:
        mapped = getattr(faiss, "IO_FLAG_MMAP_IFC", 0) if note.kind == "exact" else faiss.IO_FLAG_MMAP
        index = faiss.read_index(str(note.path(store, "faiss")), mapped | faiss.IO_FLAG_READ_ONLY)
    wanted = faiss.IndexScalarQuantizer if note.kind == "exact" else faiss.IndexIVFScalarQuantizer
    if not isinstance(index, wanted) or index.metric_type != faiss.METRIC_INNER_PRODUCT:
        raise DamagedIndexError(f"{note.name} is a {type(index).__name__}")
    return index


class VectorIndex:
    """Search for the largest inner products among the prototypes of one extractor.

    Args:
        stamp: The vectors that it holds.
        segments: Where they are.
    """

    def __init__(self, stamp: Stamp, segments: Sequence[Segment]) -> None:
        self.stamp = stamp
        self._segments = tuple(segments)

    def narrowed(self, among: Among, ids: NDArray[np.int64] | None) -> VectorIndex:
        """The same, with fewer vectors that may be found; see `Segment.narrowed`."""
        return VectorIndex(self.stamp, [segment.narrowed(among, ids) for segment in self._segments])

    @classmethod
    def open(cls, store: Path, catalogue: Catalogue) -> VectorIndex:
        """Open all segments of a catalogue.

        Raises:
            DamagedIndexError: If a file is not what it should be.
            OSError: If a file cannot be read.
        """
        return cls(catalogue.stamp, [Segment.open(store, note, catalogue.gone) for note in catalogue.segments])

    def search(
        self,
        queries: NDArray[np.float32],
        k: int,
        *,
        foreground: bool,
        floors: NDArray[np.float32] | None = None,
    ) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
        """Find the vectors with the largest inner product, up to the rounding of the segments.

        Args:
            queries: float32 (Q, D).
            k: How many to find for each query.
            foreground: Whether to look among foreground or background prototypes.
            floors: float32 (Q,), for many queries of length 1: what scores more is found for certain, as far as
                `MOST_LOOKED_AT` allows, and what scores less in the nearest lists; None for what the recall that was
                measured promises.

        Returns:
            Scores float32 (Q, k), falling, and database ids int64 (Q, k); where fewer than k are found, the rest is
            -inf and -1.
        """
        best = nothing(len(queries), k)
        for segment in self._segments:
            # What is not among the best so far need not be found in the next segment.
            least = None if floors is None else np.maximum(floors, best[0][:, -1])
            best = best_of([best, segment.search(queries, k, foreground=foreground, floors=least)], k)
        return best


def nothing(count: int, k: int) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
    """The answer of a search that finds nothing: -inf and -1, (count, k) each."""
    return np.full((count, k), -np.inf, np.float32), np.full((count, k), -1, np.int64)


def best_of(
    found: Sequence[tuple[NDArray[np.float32], NDArray[np.int64]]], k: int
) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
    """The best k of several answers, each scores (Q, any) and ids."""
    scores, ids = (np.concatenate(part, axis=1) for part in zip(*found, strict=True))
    order = np.argsort(-scores, axis=1, kind="stable")[:, :k]
    return np.take_along_axis(scores, order, axis=1), np.take_along_axis(ids, order, axis=1)


def scan(
    queries: NDArray[np.float32],
    k: int,
    blocks: Iterable[VectorBlock],
    *,
    foreground: bool,
    kinds: Collection[PrototypeKind] | None = None,
) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
    """What `VectorIndex.search` finds, exactly and without an index: all vectors are compared, block by block."""
    best = nothing(len(queries), k)
    for block in blocks:
        mine = block.foreground == foreground
        if kinds is not None:
            mine &= np.isin(np.array(block.kind), list(kinds))
        scores, places = best_products(queries, unit_rows(block.halves[mine]), k)
        best = best_of([best, (scores, block.ids[mine][places])], k)
    return best


# ---------------------------------------------------------------------- bringing it up to date


@dataclass(slots=True)
class Update:
    """A newer state of an index: its new segments lie on disk under passing names until `put_in_place`.

    Attributes:
        catalogue: What there will be.
        pending: Passing path to final path.
    """

    catalogue: Catalogue
    pending: dict[Path, Path] = field(default_factory=dict)

    def put_in_place(self, store: Path) -> None:
        """Give the segments their names, then write the catalogue; the caller holds the write lock."""
        for path, target in self.pending.items():
            move_durably(path, target)
        _write_catalogue(store, self.catalogue)

    def forget(self) -> None:
        """Delete what has not been put into its place."""
        for path in self.pending:
            with suppress(OSError):
                path.unlink(missing_ok=True)


def held_classes(store: Path, catalogue: Catalogue) -> set[str]:
    """The generations that an index holds, but for those that are gone.

    Raises:
        DamagedIndexError: If a segment is not what it should be.
        OSError: If one cannot be read.
    """
    every = (_members(store, note) for note in catalogue.segments)
    return {generation for members in every for generation in members if generation not in catalogue.gone}


def prepare(
    store: Path,
    stamp: Stamp,
    dim: int,
    before: Catalogue | None,
    *,
    came: Mapping[str, int],
    went: Collection[str],
    read: Reader,
    lists: bool,
) -> Update:
    """Write the segments that bring an index up to date.

    Args:
        store: The store's folder.
        stamp: The vectors that it is to hold.
        dim: Length D of the vectors.
        before: What there is; None for nothing that can be used.
        came: Classes that it lacks: generation to row id.
        went: Generations that it holds, and that are gone.
        read: Reads their vectors.
        lists: Whether there is time to make lists of more vectors than are compared exactly.

    Raises:
        StoreError: If the folder is a link.
        DamagedIndexError: If a segment that is there is damaged.
        OSError: If the disk refuses. Nothing is left then.
    """
    refuse_links(store / FOLDER)
    (store / FOLDER).mkdir(exist_ok=True)
    kept = list(before.segments) if before is not None else []
    gone = set(before.gone if before is not None else ()) | set(went)
    fresh, update = dict(came), Update(Catalogue(stamp=stamp))
    grown = before is not None and before.wants_lists and lists
    if gone or grown or len(kept) >= _MERGED_AT_ONCE:
        members = {note.name: _members(store, note) for note in kept}
        for note in _to_rewrite(kept, members, gone, lists=lists):
            kept.remove(note)
            fresh |= {each: row for each, (row, _) in members[note.name].items() if each not in gone}
        gone &= {each for note in kept for each in members[note.name]}
    shares, as_lists = _shares(fresh, read, lists=lists)
    try:
        kept += [_write_segment(store, stamp, dim, share, read, update, as_lists=as_lists) for share in shares]
    except BaseException:
        update.forget()
        raise
    update.catalogue = Catalogue(stamp=stamp, segments=tuple(kept), gone=frozenset(gone))
    return update


def _to_rewrite(
    notes: Sequence[SegmentNote],
    members: Mapping[str, Mapping[str, tuple[int, int]]],
    gone: Collection[str],
    *,
    lists: bool,
) -> list[SegmentNote]:
    """The segments whose classes go into a new one: many of a size, and those that are mostly of classes that went."""
    chosen: list[SegmentNote] = []
    exact = [note for note in notes if note.kind == "exact"]
    if lists and sum(note.rows for note in exact) > EXACT_ROWS:
        chosen = exact
    by_size: dict[int, list[SegmentNote]] = {}
    for note in exact if not chosen else ():
        by_size.setdefault(round(math.log(max(1, note.rows), _MERGED_AT_ONCE)), []).append(note)
    for size in sorted(by_size):
        # A merged segment belongs to the next size, so it counts there as one more.
        together = [*chosen, *by_size[size]]
        full = len(by_size[size]) + bool(chosen) >= _MERGED_AT_ONCE
        if full and sum(note.rows for note in together) <= 2 * INLINE_ROWS:
            chosen = together
    for note in notes:
        lost = sum(rows for each, (_, rows) in members[note.name].items() if each in gone)
        if note not in chosen and 2 * lost > note.rows and (lists or note.rows - lost <= INLINE_ROWS):
            chosen = [*chosen, note]
    return chosen


def _members(store: Path, note: SegmentNote) -> dict[str, tuple[int, int]]:
    """The classes of a segment: generation to row id and number of vectors."""
    arrays = _arrays(store, note, "classes")
    try:
        columns = (arrays["generations"].astype(str).tolist(), arrays["categories"].tolist(), arrays["counts"].tolist())
        return {each: (row, count) for each, row, count in zip(*columns, strict=True)}
    except (KeyError, ValueError) as error:
        raise DamagedIndexError(f"{note.name} does not say which classes it holds: {error}") from error


def _arrays(store: Path, note: SegmentNote, ending: str) -> dict[str, NDArray[Any]]:
    """The arrays of one of a segment's files."""
    data = _checked_bytes(store, note, ending)
    try:
        with np.load(io.BytesIO(data), allow_pickle=False) as arrays:
            return dict(arrays)
    except Exception as error:  # what NumPy raises on damaged files has no common base
        raise DamagedIndexError(f"{note.name}.{ending} cannot be read: {error}") from error


def _shares(fresh: Mapping[str, int], read: Reader, *, lists: bool) -> tuple[list[dict[str, int]], bool]:
    """Split classes into as many segments as they need, and say whether these are to have lists."""
    if not fresh:
        return [], False
    ordered = sorted(fresh.items(), key=lambda pair: pair[1])
    sample = [row for _, row in ordered[:: max(1, len(ordered) // 16)]]
    rows = len(ordered) * sum(len(block.ids) for block in read(sample)) / len(sample)
    as_lists = lists and rows > EXACT_ROWS
    parts = math.ceil(rows / (SEGMENT_ROWS if as_lists else EXACT_ROWS))
    size = math.ceil(len(ordered) / max(1, parts))
    return [dict(ordered[start : start + size]) for start in range(0, len(ordered), size)], as_lists


def _write_segment(
    store: Path, stamp: Stamp, dim: int, members: Mapping[str, int], read: Reader, update: Update, *, as_lists: bool
) -> SegmentNote:
    """Write the vectors of some classes, under passing names that are noted in `update`."""
    faiss = import_faiss()
    categories = np.array(sorted(members.values()), np.int64)
    by_row = {row: generation for generation, row in members.items()}
    made = _Lists(dim, categories.tolist(), read) if as_lists else _Exact(dim)
    ids, owner, foreground = [], [], []
    for block in read(categories.tolist()):
        made.add(block.vectors)
        ids.append(block.ids)
        owner.append(np.searchsorted(categories, block.category).astype(np.int32))
        foreground.append(block.foreground)
    index, probes, recall = made.finish()
    reach = np.empty(0, np.float32) if isinstance(made, _Exact) else _reach_of(index)
    every = np.concatenate([np.empty(0, np.int32), *owner])
    arrays = {
        "rows": {
            "ids": np.concatenate([np.empty(0, np.int64), *ids]),
            "owner": every,
            "foreground": np.concatenate([np.empty(0, bool), *foreground]),
            "reach": reach,
        },
        "classes": {
            "generations": np.array([by_row[row] for row in categories.tolist()], "S32"),
            "categories": categories,
            "counts": np.bincount(every, minlength=len(categories)),
        },
    }
    passing = store / FOLDER / f"{stamp.extractor[:16]}-{os.urandom(8).hex()}"
    temporary = {
        ending: passing.with_name(f"{passing.name}.{ending}.{os.getpid()}{TEMPORARY_SUFFIX}")
        for ending in (*arrays, "faiss")
    }
    update.pending.update({path: path for path in temporary.values()})  # so that they go if one cannot be written
    for ending, parts in arrays.items():
        buffer = io.BytesIO()
        np.savez(buffer, allow_pickle=False, **parts)
        write_new(temporary[ending], buffer.getvalue())
    _write_faiss(faiss, index, temporary["faiss"])
    files = {ending: (path.stat().st_size, digests.file_digest(path)) for ending, path in temporary.items()}
    # Named by the content, so that the same vectors have the same files.
    content = hashlib.sha256("".join(digest for _, digest in files.values()).encode()).hexdigest()
    note = SegmentNote(
        name=f"{stamp.extractor[:16]}-{content[:16]}",
        rows=int(index.ntotal),
        kind="exact" if isinstance(made, _Exact) else "lists",
        probes=probes,
        recall=recall,
        files=files,
    )
    update.pending.update({path: note.path(store, ending) for ending, path in temporary.items()})
    return note


def _reach_of(index: Any) -> NDArray[np.float32]:
    """See `Segment.reach`; 1 for an empty list."""
    lists, reach = _InvertedLists(index), np.ones(index.nlist, np.float32)
    for number, centroid in enumerate(index.quantizer.reconstruct_n(0, index.nlist)):
        if len(lists.places(number)):
            vectors = lists.vectors(number, slice(None))
            reach[number] = (vectors @ centroid / np.linalg.norm(vectors, axis=1)).min()
    return reach


def _write_faiss(faiss: Any, index: Any, path: Path) -> None:
    """Write an index; FAISS does not say what the system said.

    Raises:
        OSError: If the disk refuses.
    """
    refuse_links(path)
    try:
        faiss.write_index(index, str(path))
    except RuntimeError as error:
        code = errno.ENOSPC if takes_no_more(path.parent) else errno.EIO
        raise OSError(code, os.strerror(code), str(path)) from error


class _Exact:
    """All vectors in half precision."""

    def __init__(self, dim: int) -> None:
        faiss = import_faiss()
        self._index = faiss.IndexScalarQuantizer(dim, faiss.ScalarQuantizer.QT_fp16, faiss.METRIC_INNER_PRODUCT)
        self._index.train(np.zeros((1, dim), np.float32))

    def add(self, vectors: NDArray[np.float32]) -> None:
        self._index.add(np.ascontiguousarray(vectors))

    def finish(self) -> tuple[Any, int, float]:
        return self._index, 0, 1.0


class _Lists:
    """Vectors in 8 bits, in lists by their nearest centroids, of which a query looks at so many as its recall needs."""

    def __init__(self, dim: int, categories: Sequence[int], read: Reader) -> None:
        faiss = import_faiss()
        first = next(iter(read(categories[:1])))
        rows = len(categories) * len(first.ids)
        count = 2 ** max(4, round(math.log2(2 * math.sqrt(rows))))
        wanted = max(1, min(len(categories), _SAMPLE * count // max(1, len(first.ids))))
        # By chance, not every so many: classes may have been added in some order.
        chosen = np.random.default_rng(0).choice(len(categories), wanted, replace=False)
        sample = np.concatenate([block.vectors for block in read([categories[place] for place in np.sort(chosen)])])
        self._index = faiss.IndexIVFScalarQuantizer(
            faiss.IndexFlatIP(dim), dim, count, faiss.ScalarQuantizer.QT_8bit, faiss.METRIC_INNER_PRODUCT
        )
        # Rounded as they are: what is left of a vector without its centroid can be far larger than in the sample.
        self._index.by_residual = False
        self._index.cp.spherical = True
        self._index.cp.min_points_per_centroid = 1
        with on_gpus(faiss.IndexFlatIP(dim)) as clustering:
            if clustering is not None:
                self._index.clustering_index = clustering
            self._index.train(sample)
            self._index.clustering_index = None
        self._queries = sample[:: max(1, len(sample) // _PROBES)][:_PROBES]
        self._best = nothing(len(self._queries), _NEIGHBOURS)

    def add(self, vectors: NDArray[np.float32]) -> None:
        start = self._index.ntotal
        self._index.add(np.ascontiguousarray(vectors))
        scores = self._queries @ vectors.T
        places = np.broadcast_to(np.arange(start, start + len(vectors)), scores.shape)
        self._best = best_of([self._best, (scores, places)], _NEIGHBOURS)

    def finish(self) -> tuple[Any, int, float]:
        """With the fewest lists (a power of two) that find what is wanted, or beyond which more lists find no more."""
        faiss = import_faiss()
        probes, best = 4, 0.0
        while True:
            params = faiss.SearchParametersIVF(nprobe=probes)
            found = self._index.search(self._queries, _NEIGHBOURS + SPARE, params=params)[1]
            hits = [len(np.intersect1d(mine, right)) for mine, right in zip(found, self._best[1], strict=True)]
            recall = sum(hits) / (_NEIGHBOURS * len(hits))
            # Eight bits tell some neighbours apart no better, however many lists are looked at.
            enough = recall >= WANTED_RECALL or (best > 0.9 and recall - best < 1 - WANTED_RECALL)
            if enough or probes >= self._index.nlist:
                return self._index, probes, round(recall, 4)
            probes, best = 2 * probes, recall
