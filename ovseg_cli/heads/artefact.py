"""Writing and reading a head's file with its tensors; what can be read without torch is in `ovseg_cli.heads.record`."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from safetensors import SafetensorError
from safetensors.torch import load_file, save
from torch import Tensor

from ovseg_cli.atomic import atomic_path
from ovseg_cli.errors import UsageError
from ovseg_cli.heads.catseg import CatSeg
from ovseg_cli.heads.record import KEY, HeadRecord, read_record
from ovseg_cli.heads.sizes import HeadSpec

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
    with atomic_path(path) as part:
        # Not by `save_file`, whose files are private to their owner.
        part.write_bytes(save(plain, metadata={KEY: record.to_json()}))


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
    depth = len([name for name in tensors if name.startswith("text.q.")])
    sizes = (depth, tensors["text.q.0"].shape[0]) if depth else None
    head = build_head(record.spec, sizes)
    try:
        head.load_state_dict(tensors)
    except RuntimeError as error:
        reason = " ".join(str(error).split())[:200]
        raise UsageError(f"The head {path} is damaged: its tensors are not those of its record ({reason}).") from error
    head.eval().requires_grad_(False)
    if clip is not None:
        head.to(clip.device)
    return head, record
