"""Writing and reading a head's file with its tensors; what can be read without torch is in `ovseg_cli.heads.record`."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save
from torch import Tensor

from ovseg_cli.atomic import atomic_path
from ovseg_cli.errors import UsageError
from ovseg_cli.heads.catseg import CatSeg
from ovseg_cli.heads.record import KEY, HeadRecord, read_record
from ovseg_cli.heads.sizes import HeadSpec
from ovseg_cli.names import listed

if TYPE_CHECKING:
    from ovseg_cli.backbones.clip import ClipBackbone

Head = Any
"""A `CatSeg`, or a `ovseg_cli.heads.dedos.Dedos`, which is imported where it is needed: it brings transformers."""


def build_head(spec: HeadSpec, text_sizes: tuple[int, int] | None = None) -> Head:
    """A head, untrained.

    Args:
        spec: What it is built from.
        text_sizes: (depth, width) of CLIP's text tower, where that is trained too.
    """
    if spec.kind == "dedos":
        from ovseg_cli.heads.dedos import Dedos

        return Dedos(spec, text_sizes)
    return CatSeg(spec, text_sizes)


def save_head(path: Path, tensors: Mapping[str, Tensor], record: HeadRecord) -> None:
    """Write a head's file in one step.

    Raises:
        DiskFullError: No space is left on the disk.
        OutputError: It cannot be written.
    """
    plain = {name: value.detach().cpu().contiguous() for name, value in tensors.items()}
    record = replace(record, tensors=_digest(plain))
    with atomic_path(path) as part:
        # Not by `save_file`, whose files are private to their owner.
        part.write_bytes(save(plain, metadata={KEY: record.to_json()}))


def _digest(tensors: Mapping[str, Tensor]) -> str:
    """SHA-256 (hex) of tensors with their names, types and shapes."""
    digest = hashlib.sha256()
    for name in sorted(tensors):
        value = tensors[name]
        digest.update(f"{name} {value.dtype} {tuple(value.shape)}\n".encode())
        digest.update(value.contiguous().flatten().view(torch.uint8).numpy())
    return digest.hexdigest()


def load_head(path: Path, clip: ClipBackbone | None = None) -> tuple[Head, HeadRecord]:
    """A trained head, ready to segment.

    Args:
        path: Its file.
        clip: The CLIP below it, whose device it is put on; None to look at it alone.

    Raises:
        UsageError: It is no head, or its tensors are not those of its record.
    """
    record = read_record(path)
    try:
        tensors = load_file(path)
    except (SafetensorError, OSError) as error:
        raise UsageError(f"The head {path} is damaged: {error}. Train it again, or take a copy of the file.") from error
    if record.tensors not in ("", _digest(tensors)):
        raise UsageError(f"The head {path} is damaged: its tensors are not those that were written. Take another copy.")
    depth = len([name for name in tensors if name.startswith("text.q.")])
    sizes = (depth, tensors["text.q.0"].shape[0]) if "text.q.0" in tensors else None
    try:
        # On no device first: a header can ask for more than there is memory, and the tensors show what is true.
        with torch.device("meta"):
            state = build_head(record.spec, sizes).state_dict()
        wanted = {name: (value.shape, value.dtype) for name, value in state.items()}
    except (RuntimeError, ValueError, TypeError, ArithmeticError, AssertionError, IndexError) as error:
        raise UsageError(f"The head {path} is damaged: no head has the sizes of its record.") from error
    found = {name: (value.shape, value.dtype) for name, value in tensors.items()}
    if odd := [name for name in {**wanted, **found} if wanted.get(name) != found.get(name)]:
        raise UsageError(
            f"The head {path} is damaged: its tensors are not those of its record ({listed(odd, most=3)})."
        )
    head = build_head(record.spec, sizes)
    head.load_state_dict(tensors)
    head.eval().requires_grad_(False)
    if clip is not None:
        head.to(clip.device)
    return head, record
