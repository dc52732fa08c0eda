"""What the networks compute in; how it is chosen, without loading torch."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal, get_args

from ovseg_cli.errors import UsageError
from ovseg_cli.names import did_you_mean

if TYPE_CHECKING:
    import torch

Precision = Literal["auto", "float32", "float16"]
"""What can be asked for: "auto" is float16 on CUDA, where weights take half the memory, and float32 elsewhere.

Not bfloat16: its rounding is eight times as coarse, and no network of the profiles overflows float16 where it is used.
"""

PRECISIONS: tuple[Precision, ...] = get_args(Precision)


def choose_precision(precision: str, device: str) -> torch.dtype:
    """The type of the networks' weights and of what they hand from layer to layer.

    Args:
        precision: What was asked for.
        device: A torch device.

    Raises:
        UsageError: There is no such precision.
    """
    import torch

    if precision not in PRECISIONS:
        hint, either = did_you_mean(precision, PRECISIONS), f"{', '.join(PRECISIONS[:-1])} or {PRECISIONS[-1]}"
        raise UsageError(f"Unknown precision {precision!r}.{hint} Use {either}.")
    half = precision == "float16" or (precision == "auto" and device.startswith("cuda"))
    return torch.float16 if half else torch.float32
