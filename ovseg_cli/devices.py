"""What depends on the device: how much is worked on at once there, and how data gets there.

A CPU is fast where what is worked on stays in its cache, so that work goes in small portions. A GPU does much at once,
takes as long to be told of little work as of much, and is told of the next work while it does the last, until somebody
asks it for a number: so its portions are large, and nothing is asked before all is done.
"""

from __future__ import annotations

import time
from collections.abc import Hashable
from functools import lru_cache
from typing import Any

import numpy.typing as npt
import torch
from torch import Tensor

MOST = 2**28
"""Values of a portion on a GPU at most: 1 GB in float32."""

LEAST = 2**20
"""The same at least, however little memory is free."""

SHARE = 8
"""A portion takes one part in so many of the memory that is free: several such lie beside each other."""

VALUES_PER_PIXEL = 128
"""By these, pixels that networks are shown together are counted as a portion: eight pictures of 512x512 at most."""

UNKNOWN = 2**26
"""Values of a portion on a device that does not say how much memory is free."""


SMALL_STEPS = frozenset(("cpu",))
"""Kinds of devices that are fast where little is worked on at once, and that can be asked for a number at any time."""


def small_steps(device: torch.device) -> bool:
    """Whether a device is of `SMALL_STEPS`."""
    return device.type in SMALL_STEPS


def portion(device: torch.device, on_cpu: int) -> int:
    """How many float32 values of a kind are worked on together.

    Args:
        device: Where.
        on_cpu: How many on a CPU.
    """
    if small_steps(device):
        return on_cpu
    free = free_memory(device)
    return UNKNOWN if free is None else min(max(free // (4 * SHARE), LEAST), MOST)


def free_memory(device: torch.device) -> int | None:
    """Bytes that a GPU has free, those included that torch holds and does not use; None where nobody knows."""
    if device.type != "cuda" or not torch.cuda.is_available():
        return None
    index = torch.cuda.current_device() if device.index is None else device.index
    return _free_memory(index, int(time.monotonic()))


@lru_cache(maxsize=8)
def _free_memory(index: int, _second: int) -> int:
    """The same; asked once a second, as the driver takes its time to answer."""
    free, _ = torch.cuda.mem_get_info(index)
    return int(free + torch.cuda.memory_reserved(index) - torch.cuda.memory_allocated(index))


def put(tensor: Tensor, device: torch.device | str) -> Tensor:
    """A tensor of the CPU on a device, without waiting for what the device is doing."""
    if torch.device(device).type != "cuda":
        return tensor.to(device)
    # From memory that is pinned the copy goes on by itself; from other memory it waits for all work before it.
    return tensor.pin_memory().to(device, non_blocking=True)


def fetch(tensor: Tensor) -> npt.NDArray[Any]:
    """What a tensor holds, for the CPU: waits until its device has done all that it was given before."""
    return tensor.cpu().numpy()


def constant(values: Hashable, device: torch.device | str, dtype: torch.dtype) -> Tensor:
    """Numbers that are always the same, as a tensor that is put on a device once; nobody may write to it.

    Args:
        values: A tuple of numbers, or a range.
        device: Where.
        dtype: In what.
    """
    return _constant(values, torch.device(device), dtype)


@lru_cache(maxsize=256)
def _constant(values: Hashable, device: torch.device, dtype: torch.dtype) -> Tensor:
    with torch.inference_mode(mode=False):  # so that it may take part in training as well
        return put(torch.tensor(values, dtype=dtype), device)
