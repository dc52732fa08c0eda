"""How many images go through a network at once, where a device has little memory."""

from __future__ import annotations

import gc
import logging
from collections.abc import Callable
from typing import TypeVar

import torch

from ovseg_cli.errors import GenerationError

log = logging.getLogger("ovseg_cli")

T = TypeVar("T")


class Room:
    """As many images as were asked for, and half as many whenever a device had no memory for them.

    Nothing is predicted: what is free changes while others use the device. Never more than were asked for either, so
    that the same command makes the same bytes wherever there is room for it.

    Attributes:
        size: How many at once.
    """

    def __init__(self, size: int) -> None:
        self.size = size

    def fit(self, work: Callable[[], T]) -> T | None:
        """Do the work for `size` images; None where memory was short, and it is to be done again for the new `size`.

        Raises:
            GenerationError: It was short for one.
        """
        try:
            return work()
        except torch.OutOfMemoryError as error:
            short = str(error).partition(".")[0]
        # Out here nothing holds what the work had made.
        gc.collect()
        if torch.cuda.is_available():
            torch.cuda.empty_cache()
        if self.size == 1:
            raise GenerationError(
                f"The device has too little memory for one image at a time ({short}). Let other programs free some, or "
                "take another --device."
            )
        self.size = -(-self.size // 2)
        log.warning("The device has too little memory for so many images at once: from here on %d.", self.size)
        return None
