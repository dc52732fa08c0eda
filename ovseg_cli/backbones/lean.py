"""Importing open_clip without what takes seconds and is never called: half of the time until a first picture.

torchvision, which open_clip needs, imports torch's compiler for one question that one of its operators asks. open_clip
imports timm and transformers for kinds of models that hardly anybody has.
"""

from __future__ import annotations

import importlib
import json
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType
from typing import Any

from torch import Tensor

from ovseg_cli.backbones.quiet import quiet_libraries

_COMPILER = "torch._dynamo.utils"

_OPTIONAL = {"timm": "timm_model", "transformers": "hf_model"}
"""What open_clip can be without, and the module of open_clip that knows of it."""


def import_open_clip(folder: Path | None = None) -> Any:
    """open_clip, with timm and transformers only where a model needs them.

    Args:
        folder: A model's folder in open_clip's hub layout; None for everything but loading a model.
    """
    wanted = [name for name in _OPTIONAL if folder is not None and _names(folder, f"{_OPTIONAL[name]}_name")]
    if "open_clip" in sys.modules:
        open_clip = importlib.import_module("open_clip")
    else:
        with _compiler_on_demand(), _hidden([name for name in _OPTIONAL if name not in wanted]):
            open_clip = importlib.import_module("open_clip")
    for name in wanted:
        part = importlib.import_module(f"open_clip.{_OPTIONAL[name]}")
        if getattr(part, name) is None:  # an earlier model did without
            importlib.reload(part)
    return open_clip


def load_tokenizer(folder: Path) -> Callable[..., Tensor]:
    """The tokenizer of a model's folder in open_clip's hub layout."""
    if _names(folder, "hf_tokenizer_name"):
        importlib.import_module("transformers.utils.logging")  # so that it can be told to be quiet
    with quiet_libraries():
        tokenizer: Callable[..., Tensor] = import_open_clip().get_tokenizer(f"local-dir:{folder}")
    return tokenizer


class _Compiler(ModuleType):
    """Stands for the compiler's module, until somebody wants more of it than to name the one question."""

    @staticmethod
    def is_compile_supported(device: str) -> bool:
        """Asked when the operator runs, by the compiler's own rule."""
        return bool(_true_compiler().is_compile_supported(device))

    def __getattr__(self, attribute: str) -> Any:
        if attribute.startswith("__"):  # these are looked at in all modules there are
            raise AttributeError(attribute)
        return getattr(_true_compiler(), attribute)


def _true_compiler() -> ModuleType:
    _take_away()
    return importlib.import_module(_COMPILER)


def _take_away() -> None:
    if isinstance(sys.modules.get(_COMPILER), _Compiler):
        del sys.modules[_COMPILER]


@contextmanager
def _compiler_on_demand() -> Iterator[None]:
    """Within it, who imports a function of torch's compiler does not load all of it."""
    sys.modules.setdefault(_COMPILER, _Compiler(_COMPILER))
    try:
        yield
    finally:
        _take_away()


@contextmanager
def _hidden(names: Sequence[str]) -> Iterator[None]:
    """Within it, these packages cannot be imported, unless they were before."""
    hidden = [name for name in names if name not in sys.modules]
    for name in hidden:
        sys.modules[name] = None  # type: ignore[assignment]  # so the language has it
    try:
        yield
    finally:
        for name in hidden:
            del sys.modules[name]


def _names(folder: Path, key: str) -> bool:
    """Whether a model's towers are of a kind. What is wrong with its configuration is for open_clip to say."""
    try:
        towers = json.loads((folder / "open_clip_config.json").read_text(encoding="utf-8"))["model_cfg"]
        return any(isinstance(tower, dict) and bool(tower.get(key)) for tower in towers.values())
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return False
