"""Profiles as tables: from TOML that people write, from the record that a store keeps, and back to TOML.

What the fields are, their types, defaults and explanations all come from the dataclasses in `specs`: there is no second
list of them. In TOML a field is written with hyphens (`image-size`), and weights are named by their table
(`weights = "clip"` for `[weights.clip]`).
"""

from __future__ import annotations

import functools
import json
import math
import re
import types
import typing
from collections.abc import Iterable, Mapping
from dataclasses import MISSING, Field, fields, is_dataclass
from typing import Any, Literal, NoReturn, get_args, get_origin

from ovseg_cli.errors import StoreCorruptError, UsageError
from ovseg_cli.files.toml import KeyPath, TomlFile, shown
from ovseg_cli.names import did_you_mean
from ovseg_cli.profiles.specs import FOR_PEOPLE, ExtractorSpec, Profile, Weights

HIDDEN: Mapping[type, frozenset[str]] = {Profile: frozenset({"name", "source"}), Weights: frozenset({"part"})}
"""Fields that are not written in files: they follow from where something stands."""

DERIVED = frozenset({"dim", "grid"})
"""Fields of an extractor that may be left out where the model's own configuration is at hand."""

_MAY_BE_ZERO = frozenset({"seed", "noise_seed", "timestep", "attribution_timesteps", "nbytes", "block"})
_MOST = {"seed": 2**32 - 1, "noise_seed": 2**32 - 1, "timestep": 999, "attribution_timesteps": 999, "nbytes": 10**13}
_MOST_OF_OTHERS = 10**6
_SHARES = frozenset(
    {"threshold", "area_threshold", "refine_threshold", "mask_threshold", "weight", "margin", "stuff_similarity"}
)
_MAY_BE_NEGATIVE = frozenset({"mean", "values"})
_MAY_BE_EMPTY = frozenset({"negative_prompt", "licence", "summary"})
_TEMPLATES = frozenset({"prompt", "prompts", "phrase"})
_PLACEHOLDER = re.compile(r"\{[^{}]*\}?|\}")


def key_of(name: str) -> str:
    """A field as it is written in a file."""
    return name.replace("_", "-")


@functools.cache
def hints_of(cls: Any) -> dict[str, Any]:
    """The types of a dataclass's fields."""
    return typing.get_type_hints(cls)


@functools.cache
def notes_of(cls: Any) -> Mapping[str, str]:
    """What the docstrings of a dataclass and of its bases say of each field, each as one line."""
    notes: dict[str, str] = {}
    for base in reversed(cls.__mro__):
        _, _, section = (base.__doc__ or "").partition("Attributes:\n")
        name = ""
        for line in section.splitlines():
            match = re.match(r" {8}(\w+): (.*)", line) or re.match(r" {4}(\w+): (.*)", line)
            if match:
                name, notes[match[1]] = match[1], match[2]
            elif name and line.strip():
                notes[name] += " " + line.strip()
    return notes


def written_fields(cls: type) -> dict[str, Field[Any]]:
    """The fields of a dataclass that stand in files, by their keys."""
    return {key_of(f.name): f for f in fields(cls) if f.name not in HIDDEN.get(cls, ())}


def default_of(field: Field[Any]) -> Any:
    """The default of a field; MISSING where it has none."""
    return field.default_factory() if field.default_factory is not MISSING else field.default


class Builder:
    """Makes dataclasses of tables; subclasses say how tables are written, and what is told when one is wrong.

    Args:
        derived: Whether the fields in `DERIVED` may be left out; they are 0 then.
    """

    def __init__(self, *, derived: bool = False) -> None:
        self.derived = derived

    def key(self, name: str) -> str:
        """How a field is written."""
        return key_of(name)

    def fail(self, at: KeyPath, why: str) -> NoReturn:
        """Say what is wrong at a place."""
        raise NotImplementedError

    def weights(self, value: Any, at: KeyPath) -> Weights:
        """The weights that stand at a place."""
        raise NotImplementedError

    def build(self, cls: type, table: Any, at: KeyPath, *, hidden: Mapping[str, Any] | None = None) -> Any:
        """A dataclass from a table.

        Args:
            cls: Which.
            table: What stands there.
            at: Where.
            hidden: Fields that do not stand in the table.
        """
        if not isinstance(table, dict):
            self.fail(at, f"must be a table of fields, got {shown(table)}")
        values = dict(hidden or {})
        known = {self.key(f.name): f for f in fields(cls) if f.name not in values}
        self.refuse_unknown(table, known, at)
        hints = hints_of(cls)
        for key, field in known.items():
            if key in table:
                values[field.name] = self.value(hints[field.name], table[key], (*at, key), field)
            elif cls is ExtractorSpec and self.derived and field.name in DERIVED:
                values[field.name] = 0
            elif default_of(field) is MISSING:
                self.fail(at, f"{key} is missing: {lowered(notes_of(cls).get(field.name, ''))}")
        try:
            return cls(**values)
        except ValueError as error:
            self.fail(at, str(error))

    def refuse_unknown(self, table: Mapping[str, Any], known: Iterable[str], at: KeyPath) -> None:
        """Refuse a key that is none of those that are known."""
        known = list(known)
        for key in table:
            if key not in known:
                other = self.key(key)
                hint = f" It is written {other!r}." if other in known and other != key else did_you_mean(key, known)
                self.fail((*at, key), f"there is no field {key!r} here.{hint or ' Fields: ' + ', '.join(known) + '.'}")

    def value(self, hint: Any, value: Any, at: KeyPath, field: Field[Any]) -> Any:
        """A value of some type.

        Args:
            hint: The type.
            value: What stands there.
            at: Where.
            field: Of which field it is, or an element of it.
        """
        origin, args = get_origin(hint), get_args(hint)
        if origin in (types.UnionType, typing.Union):
            if value is None:
                return None
            (hint,) = [arg for arg in args if arg is not type(None)]
            return self.value(hint, value, at, field)
        if hint is Weights:
            return self.weights(value, at)
        if is_dataclass(hint):
            return self.build(typing.cast("type", hint), value, at)
        if origin is Literal:
            if value not in args:
                choices = ", ".join(map(repr, args))
                hint_ = did_you_mean(value, args) if isinstance(value, str) else ""
                self.fail(at, f"must be one of {choices}; got {shown(value)}.{hint_}")
            return value
        if origin is tuple:
            return self.array(args, value, at, field)
        return self.scalar(hint, value, at, field)

    def array(self, args: tuple[Any, ...], value: Any, at: KeyPath, field: Field[Any]) -> tuple[Any, ...]:
        """An array, as a tuple."""
        open_ended = len(args) == 2 and args[1] is Ellipsis
        if not isinstance(value, list | tuple):
            what = "tables, each under [[ ]]" if is_dataclass(args[0]) else "values, like [ … ]"
            self.fail(at, f"must be an array of {what}; got {shown(value)}")
        if not open_ended and len(value) != len(args):
            self.fail(at, f"must be {len(args)} values, got {len(value)}")
        if open_ended and not value and default_of(field) not in ((), None):
            self.fail(at, "must not be empty")
        kinds = [args[0]] * len(value) if open_ended else args
        return tuple(
            self.value(kind, item, (*at, n), field) for n, (kind, item) in enumerate(zip(kinds, value, strict=True))
        )

    def scalar(self, kind: type, value: Any, at: KeyPath, field: Field[Any]) -> Any:
        """A number, a text or a truth value, within its bounds."""
        if kind is bool:
            if not isinstance(value, bool):
                self.fail(at, f"must be true or false, got {shown(value)}")
            return value
        if kind is int:
            return self.whole(value, at, field.name)
        if kind is float:
            return self.number(value, at, field.name)
        return self.text(value, at, field.name)

    def whole(self, value: Any, at: KeyPath, name: str) -> int:
        """A whole number."""
        if not isinstance(value, int) or isinstance(value, bool):
            self.fail(at, f"must be a whole number, got {shown(value)}")
        low, high = (0 if name in _MAY_BE_ZERO else 1), _MOST.get(name, _MOST_OF_OTHERS)
        if not low <= value <= high:
            self.fail(at, f"must be from {low} to {high}, got {value}")
        return value

    def number(self, value: Any, at: KeyPath, name: str) -> float:
        """A number."""
        if not isinstance(value, int | float) or isinstance(value, bool) or not math.isfinite(value):
            self.fail(at, f"must be a number, got {shown(value)}")
        if name in _SHARES and not 0 <= value <= 1:
            self.fail(at, f"must be from 0 to 1, got {value:g}")
        if name == "std" and value <= 0:
            self.fail(at, f"must be more than 0, got {value:g}")
        if name not in _MAY_BE_NEGATIVE and value < 0:
            self.fail(at, f"must not be less than 0, got {value:g}")
        return float(value)

    def text(self, value: Any, at: KeyPath, name: str) -> str:
        """A text of one line."""
        if not isinstance(value, str):
            self.fail(at, f"must be a text in quotes, got {shown(value)}")
        if not value and name not in _MAY_BE_EMPTY:
            self.fail(at, "must not be empty")
        if not value.isprintable():
            self.fail(at, f"must be one line without control characters, got {shown(value)}")
        if name in _TEMPLATES:
            self.template(value, at)
        return value

    def template(self, value: str, at: KeyPath) -> None:
        """A prompt with a place for the name."""
        if "{name}" not in value:
            self.fail(at, f"must say where the name goes, as {{name}}; got {shown(value)}")
        for found in _PLACEHOLDER.findall(value):
            if found not in ("{name}", "{article}"):
                self.fail(at, f"may have {{name}} and {{article}} in it, not {found}; got {shown(value)}")


class FileBuilder(Builder):
    """Makes dataclasses of what a file of a user's own says.

    Args:
        file: The file.
        known: The weights by the names of their tables.
    """

    def __init__(self, file: TomlFile, known: Mapping[str, Weights] | None = None) -> None:
        super().__init__(derived=True)
        self.file = file
        self.known = known or {}

    def fail(self, at: KeyPath, why: str) -> NoReturn:
        """Say what is wrong, with the file and the line."""
        names = [f"[{part + 1}]" if isinstance(part, int) else part for part in at]
        name = ".".join(names).replace(".[", "[")
        raise UsageError(
            f"{self.file.where(*at)}: {name + ' ' if name and not why.startswith('there') else ''}{full_stop(why)}"
        )

    def weights(self, value: Any, at: KeyPath) -> Weights:
        """The weights that are named there."""
        if not isinstance(value, str):
            self.fail(at, f'must name a table of weights, like "clip" for [weights.clip]; got {shown(value)}')
        if value not in self.known:
            hint = did_you_mean(value, self.known) or f" There is: {', '.join(self.known) or 'none'}."
            self.fail(at, f"names weights that are nowhere: a table [weights.{value}] is needed.{hint}")
        return self.known[value]


class _RecordBuilder(Builder):
    """Makes dataclasses of what `Profile.record` has written."""

    def key(self, name: str) -> str:
        """As the dataclasses have it."""
        return name

    def fail(self, at: KeyPath, why: str) -> NoReturn:
        """Say that the record is not what this ovseg writes."""
        raise ValueError(f"{'.'.join(map(str, at)) or 'it'} {full_stop(why)}")

    def weights(self, value: Any, at: KeyPath) -> Weights:
        """They stand there themselves."""
        return typing.cast("Weights", self.build(Weights, value, at))


def profile_from_record(record: Mapping[str, Any]) -> Profile:
    """The profile that `Profile.record` was called of.

    Raises:
        StoreCorruptError: It is no such record, or one by an ovseg that knew other fields.
    """
    try:
        return typing.cast("Profile", _RecordBuilder().build(Profile, dict(record), ()))
    except ValueError as error:
        raise StoreCorruptError(
            f"What is kept of the profile {record.get('name')!r} cannot be understood ({error}) Update ovseg if a "
            "newer one made it, or name the profile's file with --profile."
        ) from error


_TELLS_ONLY = frozenset({"summary", "licence", "nbytes", "part", "folder", "name"})
"""Fields that tell something to people, or where something lies, beside those marked as `FOR_PEOPLE`: no result depends
on them."""


def differences(old: Profile, new: Profile) -> list[str]:
    """What has changed between two profiles, as far as a result can depend on it.

    Returns:
        Such as "generator.guidance was 8.0, is 9.0".
    """
    return list(_differences(old, new, ""))


def _differences(old: Any, new: Any, at: str) -> Iterable[str]:
    if is_dataclass(old) and type(old) is type(new):
        for field in fields(old):
            if field.name not in _TELLS_ONLY and field.metadata != FOR_PEOPLE:
                before, after = getattr(old, field.name), getattr(new, field.name)
                yield from _differences(before, after, f"{at}.{key_of(field.name)}".lstrip("."))
    elif isinstance(old, tuple) and isinstance(new, tuple) and any(map(is_dataclass, (*old, *new))):
        names = [[getattr(item, "name", str(n + 1)) for n, item in enumerate(items)] for items in (old, new)]
        if names[0] != names[1]:
            yield f"{at} were {', '.join(names[0])}, are {', '.join(names[1])}"
            return
        for name, before, after in zip(names[0], old, new, strict=True):
            yield from _differences(before, after, f"{at}[{name}]")
    elif old != new:
        yield f"{at} was {_brief(old)}, is {_brief(new)}"


def _brief(value: Any) -> str:
    if is_dataclass(value):
        return "given"
    text = "left out" if value is None else json.dumps(value, ensure_ascii=False)
    return text if len(text) <= 60 else f"{text[:60]}…"


def lowered(sentence: str) -> str:
    """The first sentence of a note, as it goes on after a colon."""
    first = re.split(r"(?<=\.) |; ", sentence)[0].replace("`", "").rstrip(".")
    return first[:1].lower() + first[1:] if not first[:2].isupper() else first


_CODE = re.compile(r"\(|ovseg_cli")
"""What is no name of a field, and keeps its underscores."""


def in_words_of_a_file(note: str) -> str:
    """A note of a dataclass as a comment: fields have hyphens, and what is None is left out."""
    note = re.sub(
        r"`+([^`]*)`+", lambda match: match[1] if _CODE.search(match[1]) else match[1].replace("_", "-"), note
    )
    note = re.sub(r"(, or None|, None for weights that ship inside the package)(?=[.;])", "", note)
    return re.sub(r"\bNone\b", "left out", note)


def full_stop(sentence: str) -> str:
    """A sentence with its end."""
    return sentence if sentence.endswith((".", "?")) else f"{sentence}."


# ---------------------------------------------------------------------- to TOML


def write_value(value: Any) -> str:
    """A value as TOML has it; arrays that are long get a line for each element."""
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, list | tuple):
        inner = [write_value(item) for item in value]
        line = f"[{', '.join(inner)}]"
        return line if len(line) <= 90 else "[\n" + "".join(f"  {item},\n" for item in inner) + "]"
    if isinstance(value, float):
        return repr(value)
    if isinstance(value, int):
        return f"{value:_}" if value >= 10**6 else str(value)
    # JSON's escapes are TOML's, but for those of characters beyond 16 bits, which may stand as they are.
    return json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007f")


def is_table(value: Any) -> bool:
    """Whether a value is written under a header of its own."""
    return (is_dataclass(value) and not isinstance(value, Weights)) or (
        isinstance(value, tuple) and any(is_dataclass(item) for item in value)
    )


class Writer:
    """Writes dataclasses as commented TOML; what has its default is left out, and named in a comment."""

    def __init__(self) -> None:
        self.lines: list[str] = []
        self._told: set[tuple[type, str]] = set()

    def comment(self, text: str) -> None:
        """A comment, on lines that are not too long."""
        line = "#"
        for word in text.split():
            if len(line) + 1 + len(word) > 100:
                self.lines.append(line)
                line = "#"
            line += f" {word}"
        self.lines.append(line)

    def header(self, header: str) -> None:
        """The head of a table."""
        self.lines += [*([""] if self.lines else []), header]

    def pair(self, key: str, value: Any, note: str = "") -> None:
        """One field, with its note in front."""
        if note:
            self.comment(note)
        self.lines.append(f"{key} = {write_value(value)}")

    def fields(self, value: Any, at: str, skipped: Iterable[str] = ()) -> None:
        """The fields of a dataclass, those that are tables last."""
        cls: type = type(value)
        shown_fields = {k: f for k, f in written_fields(cls).items() if f.name not in skipped}
        left_out = []
        for key, field in shown_fields.items():
            item = getattr(value, field.name)
            if item == default_of(field):
                left_out.append(key if item in (None, ()) or is_table(item) else f"{key} = {write_value(item)}")
            elif not is_table(item):
                self.pair(key, item.part if isinstance(item, Weights) else item, self.note(cls, key, field.name))
        if left_out and not self.seen(cls, ""):
            self.comment(f"Left out, as they have defaults: {', '.join(left_out)}")
        for key, field in shown_fields.items():
            item = getattr(value, field.name)
            if is_table(item) and item != default_of(field):
                self.table(f"{at}.{key}".lstrip("."), item)

    def note(self, cls: Any, key: str, name: str) -> str:
        """What is said of a field the first time, in the words of a file."""
        return "" if self.seen(cls, key) else in_words_of_a_file(notes_of(cls).get(name, ""))

    def seen(self, cls: Any, key: str) -> bool:
        """Whether a field was explained before."""
        before = (cls, key) in self._told
        self._told.add((cls, key))
        return before

    def table(self, at: str, value: Any) -> None:
        """A table, or an array of them."""
        for item in value if isinstance(value, tuple) else (value,):
            self.header(f"[[{at}]]" if isinstance(value, tuple) else f"[{at}]")
            self.fields(item, at)


def text_of(profile: Profile, *, intro: Iterable[str] = (), weights: Iterable[Mapping[str, Any]] = ()) -> str:
    """A profile as a file.

    Args:
        profile: The profile.
        intro: Paragraphs of comment for its beginning.
        weights: What to write of each of `Profile.every_weights`.
    """
    writer = Writer()
    for paragraph in intro:
        writer.comment(paragraph)
        writer.lines.append("")
    tables = {
        f.name
        for f in written_fields(Profile).values()
        if is_table(getattr(profile, f.name)) and getattr(profile, f.name) != default_of(f)
    }
    # What is no table stands before the first header.
    writer.fields(profile, "", skipped=tables)
    for part, table in zip(profile.every_weights, weights, strict=True):
        writer.header(f"[weights.{part.part}]")
        for key, value in table.items():
            writer.pair(key, value, writer.note(Weights, key, key.replace("-", "_")))
    writer.fields(profile, "", skipped={f.name for f in fields(Profile)} - tables)
    return "\n".join(writer.lines) + "\n"
