"""Class names: what is allowed, when two are the same, how they are shown, and what their folders are called."""

from __future__ import annotations

import hashlib
import re
import unicodedata
from collections.abc import Collection, Sequence

from ovseg_cli.errors import ClassNameError, UsageError

MAX_NAME_LENGTH = 80
"""Longest name of a stored class, in characters: the generator must read all of it, in a prompt of 77 tokens."""

MAX_QUERY_LENGTH = 10_000
"""Longest name of a class that is only looked for. Text encoders read the beginning of a long one, but what is longer
than this is a mistake, such as a file that holds no class names."""

_RESERVED = frozenset({"background", "_background_"})
_MAX_SLUG_STEM = 48
_SHOWN = 60  # characters of a name in a message
_LISTED = 5  # names in a message
# Cc and Cs cannot be shown or encoded, Zl and Zp would break every line-based file that holds names.
_CONTROL_CATEGORIES = frozenset({"Cc", "Cs", "Zl", "Zp"})
# These turn the reading direction of what follows, so that a name shows as something that it is not.
_BIDI_CONTROLS = frozenset("\u061c\u200e\u200f\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069")
# Folder names that Windows keeps for devices, whatever their extension.
_DEVICES = frozenset(
    {"con", "prn", "aux", "nul"} | {f"{device}{digit}" for device in ("com", "lpt") for digit in "123456789"}
)


def normalise_class_name(name: str, *, stored: bool = True) -> str:
    """Bring a class name into the form in which it is stored and shown.

    Args:
        name: Name as typed, in any script.
        stored: Whether a class of this name is to be stored. One that is only looked for may have a longer name.

    Returns:
        The name in Unicode NFC, without outer spaces and with inner runs of spaces made one.

    Raises:
        ClassNameError: If nothing visible is left, or the name is longer than `MAX_NAME_LENGTH`
            characters (`MAX_QUERY_LENGTH` where it is not to be stored), holds a comma, a slash, a
            backslash, ".." or a control character, or is the name that outputs keep for pixels of no class.
    """
    normal = unicodedata.normalize("NFC", " ".join(name.split()))
    # Checked on the name as typed: splitting has already eaten tabs and line breaks.
    for character in name:
        if unicodedata.category(character) in _CONTROL_CATEGORIES or character in _BIDI_CONTROLS:
            raise ClassNameError(
                f"A class name cannot hold control characters or line breaks; got {shown_name(name)}: "
                "type it with plain spaces"
            )
    if not any(_says_something(character) for character in normal):
        raise ClassNameError(
            f"A class name must not be empty or mere punctuation; got {shown_name(name)}: "
            "say what to look for, like 'cat'"
        )
    if stored and len(normal) > MAX_NAME_LENGTH:
        raise ClassNameError(
            f"The name of a stored class has at most {MAX_NAME_LENGTH} characters; got {len(normal)} "
            f"({shown_name(normal)}): the image generator must read all of it, so shorten it, and put the description "
            "into --prompt"
        )
    if len(normal) > MAX_QUERY_LENGTH:
        raise ClassNameError(
            f"A class name has at most {MAX_QUERY_LENGTH} characters; got {len(normal)} ({shown_name(normal)}): "
            "shorten it (CLIP reads no more than 77 tokens)"
        )
    for forbidden, called in ((",", "a comma"), ("/", "a slash"), ("\\", "a backslash"), ("..", "'..'")):
        if forbidden in normal:
            hint = (
                "commas separate classes, so give each class on its own"
                if forbidden == ","
                else "use letters, digits and spaces"
            )
            raise ClassNameError(f"A class name cannot hold {called}; got {shown_name(normal)}: {hint}")
    if class_key(normal) in _RESERVED:
        raise ClassNameError(
            f"{normal!r} is the name of the pixels that belong to no class, so it cannot be a class: "
            "choose another name"
        )
    return normal


def class_key(name: str) -> str:
    """Give the key under which a class name is unique: names that differ only in case share it.

    Args:
        name: A class name; need not be normalised.

    Returns:
        The canonical caseless form (Unicode 3.13, D145), in NFC.
    """
    decomposed = unicodedata.normalize("NFD", " ".join(name.split()))
    return unicodedata.normalize("NFC", unicodedata.normalize("NFD", decomposed.casefold()))


def slugify(name: str) -> str:
    """Give the folder name of a class: short, lower-case ASCII, the same on every file system.

    A name that the slug cannot tell in full (accents, other scripts, punctuation, very long) gets a
    short hash after an underscore, so that different classes have different folders.

    Args:
        name: A class name; need not be normalised.

    Returns:
        For example "chocolate-glazed-donut", "creme-brulee_f1f9a25cd8".
    """
    key = class_key(name)
    ascii_only = unicodedata.normalize("NFKD", key).encode("ascii", "ignore").decode("ascii").casefold()
    stem = re.sub(r"[^a-z0-9]+", "-", ascii_only).strip("-")[:_MAX_SLUG_STEM].rstrip("-")
    if stem and stem.replace("-", " ") == key and stem not in _DEVICES:
        return stem
    # Nothing but the hash puts an underscore into a slug, so a hashed slug never meets a plain one.
    digest = hashlib.sha256(key.encode("utf-8", "surrogatepass")).hexdigest()
    return f"{stem or 'class'}_{digest[:10]}"


def check_names(what: str, names: object) -> None:
    """Refuse a string, or a list of other things, where a list of names is wanted.

    Args:
        what: What is wanted, for the message.
        names: What was given; None is for others to judge.

    Raises:
        UsageError: It is no list of strings.
    """
    if names is None:
        return
    if isinstance(names, str) or not isinstance(names, Collection):
        raise UsageError(f"{what} must be a list of names, like ['cat', 'dog']; got {names!r}.")
    if any(not isinstance(name, str) for name in names):
        raise UsageError(f"{what} must be a list of names, like ['cat', 'dog']; got {list(names)!r}.")


def short_name(name: str) -> str:
    """A name (or any other word) as tables and messages show it: only the beginning of a long one.

    >>> short_name("cat"), short_name("tabby " * 50)[-6:]
    ('cat', 'tabby…')
    """
    return name if len(name) <= _SHOWN else f"{name[:_SHOWN].rstrip()}…"


def shown_name(name: str) -> str:
    """A name as messages quote it: `short_name` in quotes.

    >>> shown_name("cat")
    "'cat'"
    """
    return repr(short_name(name))


def listed_names(names: Sequence[str], *, most: int = _LISTED) -> str:
    """Names as messages list them: the first ones, the beginning of long ones, and how many more there are.

    >>> listed_names(["cat", "dog"]), listed_names("abcdefg")
    ('cat, dog', 'a, b, c, d, e and 2 more')
    """
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return ", ".join(map(short_name, names[:most])) + more


def _says_something(character: str) -> bool:
    """Whether a character is a letter, a digit or a symbol (an emoji is one)."""
    return unicodedata.category(character)[0] in "LNS"
