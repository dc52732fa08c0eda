"""Reading small text files that people write."""

from __future__ import annotations

from pathlib import Path

from ovseg_cli.errors import OvsegError


def read_text(path: Path, what: str, error: type[OvsegError]) -> str:
    """The text of a UTF-8 file, with or without a byte order mark; its lines end in line feeds, whatever ended them.

    Args:
        path: The file.
        what: What it is, for messages: "class file".
        error: What is raised.

    Raises:
        OvsegError: As `error`: the file is missing, cannot be read, or is not UTF-8.
    """
    try:
        return path.read_text(encoding="utf-8-sig")
    except FileNotFoundError as reason:
        raise error(f"The {what} {path} does not exist.") from reason
    except UnicodeDecodeError as reason:
        raise error(f"The {what} {path} is not UTF-8 text; save it as UTF-8.") from reason
    except OSError as reason:
        raise error(f"The {what} {path} cannot be read: {reason.strerror}.") from reason
