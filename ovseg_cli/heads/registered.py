"""Names for heads: which file `--method head:NAME` means."""

from __future__ import annotations

import json
import os
from pathlib import Path

from ovseg_cli.atomic import write_json
from ovseg_cli.errors import OutputError, UsageError
from ovseg_cli.names import did_you_mean

PREFIX = "head:"
"""With which a method's name begins that is a trained head."""


def registry_path() -> Path:
    """The file that keeps the names: ``OVSEG_HEADS``, else in the user's folder for configuration."""
    import platformdirs

    named = os.environ.get("OVSEG_HEADS")
    if named:
        return Path(os.path.expanduser(named))
    return Path(platformdirs.user_config_dir("ovseg", appauthor=False)) / "heads.json"


def registered() -> dict[str, Path]:
    """The registered heads by name.

    Raises:
        UsageError: The file is damaged.
    """
    path = registry_path()
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return {}
    except (OSError, ValueError) as error:
        raise UsageError(f"The names of heads in {path} cannot be read: {error}. Remove the file.") from error
    if not isinstance(found, dict) or not all(isinstance(value, str) for value in found.values()):
        raise UsageError(f"{path} holds no names of heads. Remove the file.")
    return {name: Path(value) for name, value in found.items()}


def register(name: str, path: Path) -> None:
    """Let a name stand for a head's file.

    Raises:
        UsageError: It is no head, or no name.
        OutputError: The file of names cannot be written.
    """
    from ovseg_cli.heads.record import read_record  # not needed for the command line's help

    if not name or not name.isprintable() or any(mark in name for mark in "/\\:"):
        raise UsageError(f"A head's name is letters without / \\ and :, got {name!r}.")
    read_record(path)
    _write({**registered(), name: path.absolute()})


def unregister(name: str) -> None:
    """Let a name stand for nothing; the file stays.

    Raises:
        UsageError: No head is called so.
    """
    found = registered()
    if name not in found:
        raise UsageError(f"No head is called {name!r}.{did_you_mean(name, found)} ovseg heads lists them.")
    del found[name]
    _write(found)


def _write(heads: dict[str, Path]) -> None:
    path = registry_path()
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise OutputError(f"Cannot make the folder {path.parent}: {error.strerror}.") from error
    write_json(path, {name: str(heads[name]) for name in sorted(heads)})


def head_path(method: str) -> Path:
    """The file that a method's name means: that file where there is one, else the one that is registered so.

    Args:
        method: ``head:FILE`` or ``head:NAME``.

    Raises:
        UsageError: There is neither.
    """
    text = method.removeprefix(PREFIX)
    path = Path(os.path.expanduser(text))
    if text and path.is_file():
        return path.absolute()
    known = registered()
    if text in known:
        return known[text]
    names = f" Registered are: {', '.join(known)}." if known else ""
    raise UsageError(
        f"There is no head {text!r}: neither a file nor a registered name.{did_you_mean(text, known)}{names} "
        "Train one with ovseg train-head."
    )
