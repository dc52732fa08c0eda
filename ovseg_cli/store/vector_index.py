"""The FAISS index on disk: a cache of the vectors in the database.

An index file has a sidecar that says which state of the vectors it holds and what its bytes hash to.
When either does not fit, the index is made again from the database; the database is always right.
"""

from __future__ import annotations

import json
import logging
import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from ovseg_cli.faiss_import import import_faiss
from ovseg_cli.store import digests
from ovseg_cli.store.disk import TEMPORARY_SUFFIX, is_link, listed, refuse_links, replace_file

logger = logging.getLogger(__name__)

FOLDER = "index"
_FORMAT = 1
_FILE = re.compile(rf"[0-9a-f]{{16}}\.(faiss|json)(\.[0-9]+{re.escape(TEMPORARY_SUFFIX)})?")
"""What `index_path`, `sidecar_path` and `replace_file` name."""

IndexStatus = Literal["fresh", "outdated", "missing", "damaged"]


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


@dataclass(frozen=True, slots=True)
class IndexState:
    """What lies on disk for an extractor.

    Attributes:
        status: "fresh" can be used; "outdated" and "missing" are the normal course; "damaged" is not.
        reason: Why it is not fresh, else "".
        data: The index file's bytes when it is fresh and they were asked for, else None.
    """

    status: IndexStatus
    reason: str
    data: bytes | None


def index_path(store: Path, extractor: str) -> Path:
    """Give the path of an extractor's index file."""
    return store / FOLDER / f"{extractor[:16]}.faiss"


def sidecar_path(store: Path, extractor: str) -> Path:
    """Give the path of the sidecar of an extractor's index file."""
    return store / FOLDER / f"{extractor[:16]}.json"


def inspect_index(store: Path, stamp: Stamp, *, load: bool = True) -> IndexState:
    """Look at an index file without loading FAISS.

    Args:
        store: The store's folder.
        stamp: The vectors that the index should hold.
        load: Whether its bytes are wanted; else they are only hashed, piece by piece.

    Returns:
        Its state.
    """
    path, sidecar = index_path(store, stamp.extractor), sidecar_path(store, stamp.extractor)
    try:
        data = path.read_bytes() if load else None
        digest = digests.file_digest(path) if data is None else digests.bytes_digest(data)
        note = sidecar.read_bytes()
    except FileNotFoundError as error:
        return IndexState("missing", f"{Path(error.filename).name} is not there", None)
    except OSError as error:
        return IndexState("damaged", f"it cannot be read: {error.strerror}", None)
    try:
        kept = json.loads(note)
        found = (kept["format"], kept["extractor"], kept["revision"], kept["token"])
        checksum = str(kept["sha256"])
    except (ValueError, KeyError, TypeError):
        return IndexState("damaged", f"{sidecar.name} is not a sidecar", None)
    if found != (_FORMAT, stamp.extractor, stamp.revision, stamp.token):
        return IndexState("outdated", f"it is of vector revision {found[2]}, the store of {stamp.revision}", None)
    if digest != checksum:
        return IndexState("damaged", "its bytes do not match its checksum", None)
    return IndexState("fresh", "", data)


class VectorIndex:
    """Exact inner-product search over the prototypes of one extractor.

    Args:
        index: A FAISS `IndexIDMap2` over an `IndexFlatIP`.
        stamp: The vectors that it holds.
    """

    def __init__(self, index: Any, stamp: Stamp) -> None:
        self._index = index
        self.stamp = stamp

    @classmethod
    def build(cls, vectors: NDArray[np.float32], ids: NDArray[np.int64], stamp: Stamp) -> VectorIndex:
        """Make an index.

        Args:
            vectors: float32 (N, D), rows of length 1.
            ids: int64 (N,), database ids.
            stamp: What these vectors are.
        """
        faiss = import_faiss()
        index = faiss.IndexIDMap2(faiss.IndexFlatIP(vectors.shape[1]))
        index.add_with_ids(np.ascontiguousarray(vectors), np.ascontiguousarray(ids))
        return cls(index, stamp)

    @classmethod
    def load(cls, data: bytes, stamp: Stamp) -> VectorIndex:
        """Read an index from the bytes of its file.

        Raises:
            ValueError: If the bytes are not such an index.
        """
        faiss = import_faiss()
        try:
            index = faiss.deserialize_index(np.frombuffer(data, np.uint8))
        except RuntimeError as error:
            raise ValueError(str(error)) from error
        if not isinstance(index, faiss.IndexIDMap2) or index.metric_type != faiss.METRIC_INNER_PRODUCT:
            raise ValueError(f"it is a {type(index).__name__}")
        return cls(index, stamp)

    @property
    def dim(self) -> int:
        """Length D of the vectors."""
        return int(self._index.d)

    @property
    def ids(self) -> NDArray[np.int64]:
        """Database ids of all vectors, int64 (N,)."""
        return np.asarray(import_faiss().vector_to_array(self._index.id_map), np.int64)

    def search(
        self, queries: NDArray[np.float32], k: int, among: NDArray[np.int64]
    ) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
        """Find the vectors with the largest inner product.

        Args:
            queries: float32 (Q, D).
            k: How many to find for each query.
            among: int64 (M,), the ids that may be found.

        Returns:
            Scores float32 (Q, k), falling, and ids int64 (Q, k); where fewer than k vectors may be
            found, the rest is -inf and -1.
        """
        faiss = import_faiss()
        selector = faiss.IDSelectorBatch(np.ascontiguousarray(among))
        scores, ids = self._index.search(np.ascontiguousarray(queries), k, params=faiss.SearchParameters(sel=selector))
        scores[ids < 0] = -np.inf
        return scores, ids

    def save(self, store: Path) -> None:
        """Put the index and its sidecar on disk; the caller holds the write lock.

        Raises:
            StoreError: If the folder is a link; the index in memory is none the worse, here and below.
            OSError: If the disk refuses.
        """
        refuse_links(store / FOLDER)
        data = import_faiss().serialize_index(self._index).tobytes()
        note = {
            "format": _FORMAT,
            "extractor": self.stamp.extractor,
            "revision": self.stamp.revision,
            "token": self.stamp.token,
            "dim": self.dim,
            "ntotal": int(self._index.ntotal),
            "sha256": digests.bytes_digest(data),
        }
        path = index_path(store, self.stamp.extractor)
        path.parent.mkdir(exist_ok=True)
        replace_file(path, data)
        replace_file(sidecar_path(store, self.stamp.extractor), (json.dumps(note, indent=1) + "\n").encode("utf-8"))


def open_index(
    store: Path,
    stamp: Stamp,
    vectors: Callable[[], tuple[NDArray[np.float32], NDArray[np.int64]]],
) -> tuple[VectorIndex, bool]:
    """Load an extractor's index from disk, or make it again from the database.

    Args:
        store: The store's folder.
        stamp: The vectors that the index should hold.
        vectors: Reads vectors float32 (N, D) and their ids int64 (N,) from the database.

    Returns:
        The index, and whether it was made anew, so that it wants saving.
    """
    state = inspect_index(store, stamp)
    if state.data is not None:
        try:
            return VectorIndex.load(state.data, stamp), False
        except ValueError as error:
            state = IndexState("damaged", str(error), None)
    # Outdated and missing are the daily course of a cache; damage is for the user to know.
    level = logging.WARNING if state.status == "damaged" else logging.INFO
    path = index_path(store, stamp.extractor)
    logger.log(level, "the vector index %s was %s (%s): rebuilt from the database", path, state.status, state.reason)
    return VectorIndex.build(*vectors(), stamp), True


def discard(store: Path) -> bool:
    """Delete all index files, which the next searches make anew; say whether there was any.

    Raises:
        OSError: If one cannot be deleted.
    """
    files = leftovers(store, set())
    for path in files:
        path.unlink(missing_ok=True)
    return bool(files)


def leftovers(store: Path, extractors: set[str]) -> list[Path]:
    """Find files in the index folder that belong to no extractor, or that a dead writer left unfinished.

    Args:
        store: The store's folder.
        extractors: Digests of all extractors in the database.

    Returns:
        Paths, sorted; links, and what is not ours by its name, are left alone.
    """
    kept = {path(store, digest) for digest in extractors for path in (index_path, sidecar_path)}
    return [
        path
        for path in listed(store / FOLDER)
        if _FILE.fullmatch(path.name) and path not in kept and path.is_file() and not is_link(path)
    ]
