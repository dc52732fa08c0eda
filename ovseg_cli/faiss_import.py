"""The one place that imports faiss."""

from __future__ import annotations

import logging
import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

logger = logging.getLogger(__name__)

_QUERIES_AT_ONCE = 256


def import_faiss() -> Any:
    """The faiss module, imported when it is first needed.

    On macOS faiss and torch bring two OpenMP runtimes, which crash together when both run several
    threads; faiss gets one thread there.
    """
    with warnings.catch_warnings():
        # SWIG's own types, on Python 3.12 and newer; nothing that a user can mend.
        warnings.simplefilter("ignore", DeprecationWarning)
        import faiss
    if sys.platform == "darwin":
        faiss.omp_set_num_threads(1)
    return faiss


def gpu_count() -> int:
    """How many GPUs FAISS can use. Packages of FAISS for CPUs alone know none."""
    faiss = import_faiss()
    known = hasattr(faiss, "StandardGpuResources") and hasattr(faiss, "get_num_gpus")
    return int(faiss.get_num_gpus()) if known else 0


@cache
def _gpu_resources() -> Any:
    """What FAISS needs to compute on the first GPU, made once; None where there is none that it can use."""
    faiss = import_faiss()
    try:
        return faiss.StandardGpuResources() if gpu_count() else None
    except RuntimeError as error:
        logger.info("FAISS does not use the GPU: %s", error)
        return None


def best_products(
    queries: NDArray[np.float32], vectors: NDArray[np.float32], k: int
) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
    """The largest inner products of each query with some vectors: on the GPU where there is one, else on the CPU.

    Args:
        queries: float32 (Q, D).
        vectors: float32 (N, D).
        k: How many to find; all N where there are no more.

    Returns:
        Products float32 (Q, min(k, N)), falling, and places among the vectors, int64 of the same shape.
    """
    k = min(k, len(vectors))
    resources = _gpu_resources() if k and len(queries) else None
    if resources is not None:
        faiss = import_faiss()
        try:
            found = faiss.knn_gpu(resources, queries, vectors, k, metric=faiss.METRIC_INNER_PRODUCT)
            return np.asarray(found[0], np.float32), np.asarray(found[1], np.int64)
        except RuntimeError as error:  # its memory is full, most likely
            logger.info("FAISS does not use the GPU this time: %s", error)
    if len(queries) > _QUERIES_AT_ONCE:  # so that their products take little memory
        starts = range(0, len(queries), _QUERIES_AT_ONCE)
        parts = [_on_the_cpu(queries[start : start + _QUERIES_AT_ONCE], vectors, k) for start in starts]
        return np.concatenate([scores for scores, _ in parts]), np.concatenate([places for _, places in parts])
    return _on_the_cpu(queries, vectors, k)


def _on_the_cpu(
    queries: NDArray[np.float32], vectors: NDArray[np.float32], k: int
) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
    """What `best_products` gives, by a matrix product."""
    products = queries @ vectors.T
    places = np.broadcast_to(np.arange(len(vectors)), products.shape)
    if k < len(vectors):
        places = np.argpartition(products, len(vectors) - k, axis=1)[:, len(vectors) - k :]
        products = np.take_along_axis(products, places, axis=1)
    order = np.argsort(-products, axis=1, kind="stable")
    return np.take_along_axis(products, order, axis=1), np.take_along_axis(places, order, axis=1)


@contextmanager
def on_gpus(index: Any) -> Iterator[Any]:
    """The same index on all GPUs that FAISS can use, for as long as the block lasts; None where there is none.

    Some cannot use the one that is there, or find its memory full.
    """
    faiss = import_faiss()
    moved = None
    if gpu_count():
        try:
            moved = faiss.index_cpu_to_all_gpus(index)
        except RuntimeError as error:
            logger.info("FAISS does not use the GPU: %s", error)
    yield moved
