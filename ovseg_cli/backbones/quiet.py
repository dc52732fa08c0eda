"""Loading models without the libraries' own progress bars and advice."""

from __future__ import annotations

import logging
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from importlib import import_module
from typing import Any


@contextmanager
def quiet_libraries() -> Iterator[None]:
    """Silence diffusers, transformers and open_clip while models load; their settings are put back afterwards.

    Our own progress display is on the same terminal, and open_clip reports each load on the root logger. diffusers and
    transformers must be imported by who needs them: doing so here would cost seconds where only CLIP is loaded.
    """
    if "diffusers" in sys.modules:
        import_module("transformers.utils.logging")  # its pipelines are going to import it
    names = ("transformers.utils.logging", "diffusers.utils.logging")
    libraries: list[Any] = [sys.modules[name] for name in names if name in sys.modules]
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
