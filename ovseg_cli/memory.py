"""What says that memory does not suffice, and giving back what nothing needs."""

from __future__ import annotations

import gc
import sys

_SIGNS = ("out of memory", "not enough memory", "can't allocate memory", "cannot allocate memory", "alloc_failed")
"""What messages of torch, CUDA, cuBLAS, cuDNN and of CPU allocators have in common, in small letters."""


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an error says that memory does not suffice, on a device or on the computer.

    >>> is_out_of_memory(MemoryError()), is_out_of_memory(RuntimeError("CUDA out of memory. Tried to allocate 2 GiB"))
    (True, True)
    >>> is_out_of_memory(RuntimeError("shapes cannot be multiplied"))
    False
    """
    if isinstance(error, MemoryError):
        return True
    return isinstance(error, RuntimeError) and any(sign in str(error).lower() for sign in _SIGNS)


def release() -> None:
    """Give back what nothing needs any more; errors that are handled no longer hold anything by then."""
    gc.collect()
    torch = sys.modules.get("torch")
    if torch is not None and torch.cuda.is_available() and torch.cuda.is_initialized():
        torch.cuda.empty_cache()
