"""The one place that imports faiss."""

from __future__ import annotations

import sys
import warnings
from typing import Any


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
