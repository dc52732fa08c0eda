"""The one place that imports faiss."""

from __future__ import annotations

import logging
import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

logger = logging.getLogger(__name__)


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


@contextmanager
def on_gpus(index: Any) -> Iterator[Any]:
    """The same index on all GPUs that FAISS can use, for as long as the block lasts; None where there is none.

    Packages of FAISS for CPUs alone know no GPU; others cannot use the one that is there, or find its memory full.
    """
    faiss = import_faiss()
    moved = None
    if hasattr(faiss, "index_cpu_to_all_gpus") and getattr(faiss, "get_num_gpus", int)() > 0:
        try:
            moved = faiss.index_cpu_to_all_gpus(index)
        except RuntimeError as error:
            logger.info("FAISS does not use the GPU: %s", error)
    yield moved
