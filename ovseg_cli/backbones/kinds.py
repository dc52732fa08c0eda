"""Which kind of model lies in a folder, by its own configuration, and why one cannot be loaded."""

from __future__ import annotations

import json
import pickle
from collections.abc import Collection
from pathlib import Path

from ovseg_cli.errors import WeightsError


def kind_of(folder: Path, configuration: str, field: str, *, known: Collection[str], what: str) -> str:
    """What a configuration calls its model.

    Args:
        folder: The model's folder.
        configuration: The file in it, JSON.
        field: Where the kind stands.
        known: Kinds that can be used.
        what: What the model is, for messages.

    Raises:
        WeightsError: The file says nothing, or names another kind.
    """
    try:
        kind = json.loads((folder / configuration).read_text(encoding="utf-8"))[field]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise WeightsError(
            f"The {what} in {folder} cannot be loaded: no {field} in its {configuration} ({error!r})."
        ) from error
    if not isinstance(kind, str) or kind not in known:
        raise WeightsError(
            f"The {what} in {folder} cannot be loaded: its {field} is {kind!r}. What can be used: {', '.join(known)}."
        )
    return kind


def cannot_be_loaded(what: str, folder: Path, error: Exception) -> WeightsError:
    """What people are told when a library could not load a folder.

    Args:
        what: What the model is.
        folder: Where it is.
        error: What the library, or a library below it, has raised.
    """
    cause: BaseException | None = error
    while cause is not None:
        if isinstance(cause, pickle.UnpicklingError):  # torch's own text tells how to run the code all the same
            return WeightsError(
                f"The {what} in {folder} cannot be loaded: a pickle in it is damaged, or holds more than tensors, "
                "which could be code. Take it in safetensors, from somebody whom you trust."
            )
        cause = cause.__cause__ or cause.__context__
    return WeightsError(f"The {what} in {folder} cannot be loaded: {error}")
