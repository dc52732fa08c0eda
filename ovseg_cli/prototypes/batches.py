"""How many images go through a network at once, where a device has little memory."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import TypeVar

from ovseg_cli.errors import GenerationError
from ovseg_cli.memory import is_out_of_memory, release

log = logging.getLogger("ovseg_cli")

T = TypeVar("T")


class Batches:
    """As many images at once as were asked for, and half as many whenever there was no memory for them.

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
        except (MemoryError, RuntimeError) as error:
            if not is_out_of_memory(error):
                raise
            short = str(error).partition(".")[0]
        release()  # out here nothing holds any more what the work had made
        if self.size == 1:
            raise GenerationError(
                f"There is too little memory for one image at a time ({short}). Let other programs free some, or take "
                "another --device."
            )
        self.size = -(-self.size // 2)
        log.warning("out of memory: at most %d images go together from now on", self.size)
        return None
