"""Class names: what is allowed, when two are the same, how they are shown, and what their folders are called.

Two names are the same where their `class_key` is; nothing else decides that. `ClassList` is a list of names that knows
so. Here too is how messages list words (`listed`), and how they guess at a slip (`did_you_mean`).
"""

from __future__ import annotations

import difflib
import hashlib
import re
import unicodedata
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Self

from ovseg_cli.errors import ClassNameError, UnknownClassError, UsageError

MAX_NAME_LENGTH = 80
"""Longest name of a stored class, in characters: the generator must read all of it, in a prompt of 77 tokens."""

MAX_QUERY_LENGTH = 10_000
"""Longest name of a class that is only looked for. Text encoders read the beginning of a long one, but what is longer
than this is a mistake, such as a file that holds no class names."""

BACKGROUND = "background"
"""The name of the pixels that belong to no class: id 0 in the label maps that we write."""

_MAX_SLUG_STEM = 48
_SHOWN = 60  # characters of a name in a message
_LISTED = 5  # names in a message
_ALIKE = 0.6  # of difflib's ratio: from here on a word may be a slip of another
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
    if is_background(normal):
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
    return caseless(" ".join(name.split()))


def caseless(text: str) -> str:
    """A text without upper and lower case, in one form of Unicode; spaces stay.

    Case folding alone is not enough: ``"\u03ca\u0301"`` and ``"\u0390"`` are one letter, and fold apart.
    """
    decomposed = unicodedata.normalize("NFD", text)
    return unicodedata.normalize("NFC", unicodedata.normalize("NFD", decomposed.casefold()))


def is_background(name: str) -> bool:
    """Whether a name means "none of the classes": ``background``, also in underscores."""
    return class_key(name).strip("_") == BACKGROUND


def repeated(names: Iterable[str]) -> tuple[str, str] | None:
    """The first name that comes again, and how it is spelt then; None where each comes once.

    >>> repeated(["cat", "dog", "Cat"])
    ('cat', 'Cat')
    """
    seen: dict[str, str] = {}
    for name in names:
        key = class_key(name)
        if key in seen:
            return seen[key], name
        seen[key] = name
    return None


@dataclass(frozen=True, slots=True, init=False)
class ClassList(Collection[str]):
    """Class names in an order, each once: which names are the same is a matter of `class_key`, not of spelling.

    >>> classes = ClassList(["cat", "hot dog"])
    >>> "Hot  Dog" in classes, classes.place("HOT DOG"), classes.spelled("Cat"), list(classes)
    (True, 1, 'cat', ['cat', 'hot dog'])

    Attributes:
        names: The names as they are spelt here.

    Raises:
        UsageError: A name is given twice.
    """

    names: tuple[str, ...]
    _places: Mapping[str, int] = field(repr=False, compare=False)

    def __init__(self, names: Iterable[str] = ()) -> None:
        names = tuple(names)
        places = {class_key(name): place for place, name in enumerate(names)}
        if len(places) < len(names) and (twice := repeated(names)):
            raise UsageError(f"The class {shown_name(twice[1])} is given twice.")
        object.__setattr__(self, "names", names)
        object.__setattr__(self, "_places", places)

    @classmethod
    def distinct(cls, names: Iterable[str]) -> Self:
        """The names, each where it comes first and as it is spelt there."""
        first: dict[str, str] = {}
        for name in names:
            first.setdefault(class_key(name), name)
        return cls(first.values())

    def __len__(self) -> int:
        return len(self.names)

    def __iter__(self) -> Iterator[str]:
        return iter(self.names)

    def __getitem__(self, place: int) -> str:
        return self.names[place]

    def __contains__(self, name: object) -> bool:
        return isinstance(name, str) and class_key(name) in self._places

    def find(self, name: str) -> int | None:
        """The place of a name, counted from 0; None where it is not among them."""
        return self._places.get(class_key(name))

    def place(self, name: str) -> int:
        """The place of a name, counted from 0.

        Raises:
            UnknownClassError: It is not among them.
        """
        found = self.find(name)
        if found is None:
            raise UnknownClassError(
                f"{shown_name(name)} is not among the classes: {self.listed()}.{did_you_mean(name, self)}"
            )
        return found

    def spelled(self, name: str) -> str:
        """A name as it is spelt here.

        Raises:
            UnknownClassError: It is not among them.
        """
        return self.names[self.place(name)]

    def only(self, names: Iterable[str]) -> ClassList:
        """Those of these classes that are among the names, in the order and the spelling of this list."""
        wanted = {class_key(name) for name in names}
        return ClassList(name for key, name in zip(self._places, self.names, strict=True) if key in wanted)

    def lacking(self, names: Iterable[str]) -> tuple[str, ...]:
        """Those of the names that are not among these classes, as they are given."""
        return tuple(name for name in names if name not in self)

    def by_alphabet(self) -> list[int]:
        """The places of the names in the order of their keys."""
        return [self._places[key] for key in sorted(self._places)]

    def listed(self, *, most: int = _LISTED) -> str:
        """The names as messages list them: see `listed_names`."""
        return listed_names(self.names, most=most)


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


def listed(words: Sequence[str], *, most: int = _LISTED, between: str = ", ") -> str:
    """Words as messages list them: the first ones, and how many more there are.

    >>> listed(["a.jpg", "b.jpg"]), listed("abcdefg")
    ('a.jpg, b.jpg', 'a, b, c, d, e and 2 more')
    """
    more = f" and {len(words) - most} more" if len(words) > most else ""
    return between.join(words[:most]) + more


def listed_names(names: Sequence[str], *, most: int = _LISTED) -> str:
    """Names as messages list them: as `listed` does, and of long ones the beginning.

    >>> listed_names(["cat", "tabby " * 50])[-12:]
    'tabby tabby…'
    """
    return listed([*map(short_name, names)], most=most)


def nearest(word: str, known: Iterable[str], *, most: int = 1, alike: float = _ALIKE) -> list[str]:
    """Words that one may be a slip of, the likeliest first; upper and lower case make no difference.

    Args:
        word: As typed.
        known: The words there are.
        most: How many at most.
        alike: From which likeness on, in 0..1 as `difflib.SequenceMatcher.ratio` measures it.
    """
    spelling = {class_key(other): other for other in known}
    return [spelling[key] for key in difflib.get_close_matches(class_key(word), spelling, n=most, cutoff=alike)]


def did_you_mean(word: str, known: Iterable[str], *, most: int = 1) -> str:
    """A question behind a message about a word that is not known; empty where nothing is near it.

    >>> did_you_mean("catt", ["cat", "dog"]), did_you_mean("zebra", ["cat", "dog"])
    (" Did you mean 'cat'?", '')
    """
    return question(map(shown_name, nearest(word, known, most=most)))


def question(meant: Iterable[str]) -> str:
    """The same about words that were found otherwise, each as it is to be shown."""
    either = " or ".join(meant)
    return f" Did you mean {either}?" if either else ""


def unknown_choice(what: str, given: str, known: Iterable[str], *, heading: str) -> UsageError:
    """The error of a word that is none of a fixed few.

    >>> str(unknown_choice("method", "gemm", ["gem", "sclip"], heading="Methods"))
    "Unknown method 'gemm'. Did you mean 'gem'? Methods: gem, sclip."
    """
    known = list(known)
    # A caller from Python may give what is no word at all.
    hint = did_you_mean(given, known) if isinstance(given, str) else ""
    return UsageError(f"Unknown {what} {given!r}.{hint} {heading}: {', '.join(known)}.")


def _says_something(character: str) -> bool:
    """Whether a character is a letter, a digit or a symbol (an emoji is one)."""
    return unicodedata.category(character)[0] in "LNS"
