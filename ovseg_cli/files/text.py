"""Reading small text files that people write."""

from __future__ import annotations

import codecs
import os
import stat

from ovseg_cli.errors import OvsegError
from ovseg_cli.urls import Place, Url

_SPECIAL = {
    stat.S_IFIFO: "a pipe",
    stat.S_IFSOCK: "a socket",
    stat.S_IFCHR: "a device",
    stat.S_IFBLK: "a device",
}


def special_kind(path: Place) -> str | None:
    """What `path` is if it is neither file nor folder nor absent: to open it may take forever, so nobody should."""
    if isinstance(path, Url):
        return None
    try:
        return _SPECIAL.get(stat.S_IFMT(os.stat(path).st_mode))
    except (OSError, ValueError):
        return None


def read_text(path: Place, what: str, error: type[OvsegError]) -> str:
    """The text of a file in UTF-8, or UTF-16 with a byte order mark; its lines end in line feeds, whatever ended them.

    Args:
        path: The file.
        what: What it is, for messages: "class file".
        error: What is raised.

    Raises:
        OvsegError: As `error`: the file is missing, is no file, cannot be read, or is of another encoding.
    """
    if (kind := special_kind(path)) is not None:
        raise error(f"The {what} {path} is {kind}; save it as a file.")
    try:
        text = decoded(path.read_bytes())
    except FileNotFoundError as reason:
        raise error(f"The {what} {path} does not exist.") from reason
    except UnicodeDecodeError as reason:
        raise error(f"The {what} {path} is not UTF-8 text; save it as UTF-8.") from reason
    except OSError as reason:
        raise error(f"The {what} {path} cannot be read: {reason.strerror}.") from reason
    return text.replace("\r\n", "\n").replace("\r", "\n")


def decoded(data: bytes, errors: str = "strict") -> str:
    """Text as editors and shells save it: UTF-8 with or without a byte order mark, or UTF-16 with one.

    Args:
        data: The bytes of a file.
        errors: What becomes of bytes that are not UTF-8, as `bytes.decode` has it.

    Raises:
        UnicodeDecodeError: It is neither.
    """
    if data.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
        return data.decode("utf-16")
    return data.decode("utf-8-sig", errors)
