"""Loading models without the libraries' own progress bars and advice."""

from __future__ import annotations

import logging
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any


@contextmanager
def quiet_libraries() -> Iterator[None]:
    """Silence diffusers, transformers and open_clip while models load; their settings are put back afterwards.

    Our own progress display is on the same terminal, and open_clip reports each load on the root logger. diffusers
    must be imported by who needs it: doing so here would cost half a second where only CLIP is loaded.
    """
    import transformers.utils.logging as transformers_logging

    diffusers_logging = sys.modules.get("diffusers.utils.logging")
    libraries: list[Any] = [library for library in (transformers_logging, diffusers_logging) if library is not None]
    root = logging.getLogger()
    verbosity = [library.get_verbosity() for library in libraries]
    bars = [library.is_progress_bar_enabled() for library in libraries]
    root_level = root.level
    try:
        for library in libraries:
            library.set_verbosity_error()
            library.disable_progress_bar()
        root.setLevel(logging.ERROR)
        yield
    finally:
        root.setLevel(root_level)
        for library, level, bar in zip(libraries, verbosity, bars, strict=True):
            library.set_verbosity(level)
            if bar:
                library.enable_progress_bar()
