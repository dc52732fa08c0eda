"""Reading the files that name the ids or colours of labels, as the tools in use write them.

What a file says must be clear from it; anything else is refused with its line. A file that was read as something that
it is not would shift every class.
"""

from __future__ import annotations

import csv
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial

import yaml

from ovseg_cli.errors import LabelError
from ovseg_cli.files.label_names import HASH_NOTE, IGNORE, MAX_ID, Colour, LabelMap, is_void, voc_colour
from ovseg_cli.files.text import read_text
from ovseg_cli.names import repeated
from ovseg_cli.urls import Place, place

__all__ = ["read_labelmap"]

_FORMS = "name:R,G,B:: (the first line has id 0), id: name, or a table with the columns id,name or name,r,g,b"


def read_labelmap(path: str | Place) -> LabelMap:
    """Read the names of label ids. Blank lines and comments (``#``) are skipped.

    Known forms:

    - ``name:R,G,B:parts:actions`` (CVAT, VOC, Datumaro; the end may be missing, the colour empty or ``#rrggbb``): the
      first entry has id 0, the next 1 ...
    - ``id: name``, ``id,name``, ``id name`` and ``id=name`` (also with tab or semicolon), with or without a colour
      behind it (three numbers or ``#rrggbb``), and the id behind the name where no blank separates them
    - ``R G B name`` and ``name R G B``, with any of these separators: the first has id 0, the next 1 ...
    - tables whose first line names the columns, such as ``name,r,g,b``, ``Pixel Value, Class`` or ADE20K's
    - one name per line: the first has id 0, the next 1 ...; in LabelMe's lists, which begin with ``__ignore__``,
      that line is 255 and the next 0
    - YAML and JSON: names in a list or by id, alone or under ``names``; objects with ``name`` and
      ``color``; pbtxt (``item { id: 1 name: "cat" }``)

    Several ids may have one name.

    Args:
        path: A UTF-8 text file.

    Returns:
        The label map.

    Raises:
        LabelError: The file is missing, not text, empty, contradictory, or of no known form (with the line).
    """
    path = place(path)
    text = read_text(path, "label map", LabelError)
    lines = _significant(text)
    named = path.suffix.lower() in (".yaml", ".yml", ".json")
    if named or _YAML_NAMES.search(text) or any(_YAML_HEAD.fullmatch(line) for _, line in lines[:1]):
        entries = _yaml_entries(path, text)
    elif lines and _ITEM_HEAD.match(lines[0][1]):
        entries = _pbtxt_entries(path, text)
    else:
        entries = _line_entries(path, lines) if lines else []
    if not entries:
        raise LabelError(f"The label map {path} names no label; write one line per label, such as cat:64,0,0::")
    return _labelmap(path, entries)


@dataclass(frozen=True, slots=True)
class _Entry:
    """One label: where it stands, and what is said of it."""

    line: int
    text: str
    index: int
    name: str
    colour: Colour | None


def _labelmap(path: Place, entries: Sequence[_Entry]) -> LabelMap:
    """Put the entries of a file together."""
    for entry in entries:
        if max(entry.colour or (0,)) > 255 or not 0 <= entry.index <= MAX_ID:
            raise LabelError(f"The label map {path}, line {entry.line}: {entry.text!r} has a number out of range.")
        if not entry.name:
            raise LabelError(f"The label map {path}, line {entry.line}: {entry.text!r} has no name.")
    guessed = frozenset(entry.index for entry in entries if entry.colour is None)
    colours = tuple(entry.colour or voc_colour(entry.index) for entry in entries)
    try:
        return LabelMap(tuple(e.name for e in entries), tuple(e.index for e in entries), colours, guessed)
    except LabelError as error:
        raise LabelError(f"The label map {path} is contradictory. {error}") from error


def _wrong(path: Place, line: int, text: str, why: str) -> LabelError:
    return LabelError(f"The label map {path}, line {line}: {text!r} {why}")


# ---------------------------------------------------------------------- lines

_Line = tuple[int, str]


@dataclass(frozen=True, slots=True)
class _Row:
    """What one line says: an id, a name and a colour, as far as it has them."""

    index: int | None
    name: str
    colour: Colour | None


_Parse = Callable[[str], _Row | None]

_NUMBERS = r"(\d+)(?:\s*,\s*|\s+)(\d+)(?:\s*,\s*|\s+)(\d+)"
_HEX = r"#([0-9a-fA-F]{6})"
_PACKED = re.compile(rf"[(\[]?\s*{_NUMBERS}\s*[)\]]?|{_HEX}")
_VOC_LINE = re.compile(rf"(.+?):(?:\s*(?:{_NUMBERS}|{_HEX})\s*(?::[^:]*){{0,2}}|:[^:]*:?[^:]*)")
# A line that begins or ends with a number in a field of its own is a row of a table, and no name.
_TABLE_LIKE = re.compile(r"\d+\s*[\s,;:=].*|.*[,;:=\t]\s*\d+|.*[\t{}].*")


def _significant(text: str) -> list[_Line]:
    """The lines that say something, with their numbers."""
    lines = [(number, line.strip()) for number, line in enumerate(text.split("\n"), start=1)]
    # A class may be called "#1 fan". In files of ours a note says so; elsewhere such a line is commented out.
    hashes = any(line == HASH_NOTE for _, line in lines)
    return [(n, line) for n, line in lines if line and (line[0] != "#" or (hashes and _has_colour(_voc_row(line))))]


def _has_colour(row: _Row | None) -> bool:
    return row is not None and row.colour is not None


def _line_entries(path: Place, lines: Sequence[_Line]) -> list[_Entry]:
    """Read a file of one label per line, in the first form that fits all of its lines."""
    if (columns := _named_columns(lines)) is not None:
        return _numbered([(n, line, _table_row(path, n, line, columns)) for n, line in lines[1:]])
    forms: list[tuple[str, _Parse]] = [
        ("id:name:R,G,B", _coloured_id_row),
        ("name:R,G,B:parts:actions", _voc_row),
        *((form, partial(_separated_row, separator=separator)) for separator, form in _SEPARATORS.items()),
    ]
    fits = []
    for form, parse in forms:
        rows = [(n, line, parse(line)) for n, line in lines]
        fitting = _of_one_shape(rows)
        if len(fitting) == len(lines):
            return _numbered(rows)
        odd = next((n, line) for n, line, row in rows if (n, line, row) not in fitting)
        fits.append((len(fitting), form, odd))
    most, form, odd = max(fits, key=lambda fit: fit[0])
    if most:
        raise _wrong(path, *odd, f"is not of the form {form}.")
    rows_of_a_table = [line for line in lines if _TABLE_LIKE.fullmatch(line[1])]
    if rows_of_a_table or _like_a_table(lines):
        raise _wrong(path, *(rows_of_a_table or lines)[0], f"is not of a known form: write {_FORMS}.")
    return _plain_names(path, lines)


_Parsed = tuple[int, str, _Row | None]


def _of_one_shape(rows: Sequence[_Parsed]) -> list[_Parsed]:
    """The rows that fit a form: all with an id, or all without, as the first of them."""
    fitting = [item for item in rows if item[2] is not None]
    return [item for item in fitting if _has_index(item) == _has_index(fitting[0])]


def _has_index(item: _Parsed) -> bool:
    return item[2] is not None and item[2].index is not None


def _numbered(rows: Sequence[_Parsed]) -> list[_Entry]:
    """Rows as entries; where they have no ids, the first has 0, the next 1 ..."""
    return [
        _Entry(n, line, position if row.index is None else row.index, row.name, row.colour)
        for position, (n, line, row) in enumerate(rows)
        if row is not None
    ]


def _plain_names(path: Place, lines: Sequence[_Line]) -> list[_Entry]:
    """One name per line."""
    if twice := repeated(name for _, name in lines):
        raise LabelError(
            f"The label map {path} is contradictory. It has both {twice[0]!r} and {twice[1]!r}, and no ids: to give "
            "one name to several ids, write lines such as 1: cat."
        )
    # LabelMe counts from -1, which an 8-bit label holds as 255.
    start = -1 if len(lines) > 1 and lines[0][1].startswith("__") and is_void(lines[0][1]) else 0
    ids = [IGNORE if i < 0 else i for i in range(start, start + len(lines))]
    return [_Entry(n, line, i, line, None) for (n, line), i in zip(lines, ids, strict=True)]


def _like_a_table(lines: Sequence[_Line]) -> bool:
    """Whether lines without numbers have columns all the same, or are one line with several names."""
    counts = {(line.count(","), line.count(";")) for _, line in lines}
    return len(counts) == 1 and counts != {(0, 0)}


def _voc_row(line: str) -> _Row | None:
    match = _VOC_LINE.fullmatch(line)
    return match and _Row(None, match[1].strip(), _colour(match.groups()[1:]))


def _coloured_id_row(line: str) -> _Row | None:
    row = _separated_row(line, separator=":")
    return row if row is not None and row.index is not None and row.colour is not None else None


_SEPARATORS = {
    ":": "id: name",
    "=": "id=name",
    "\t": "id, name (with a tab between them)",
    ";": "id;name",
    ",": "id,name",
    " ": "id name",
}


def _separated_row(line: str, *, separator: str) -> _Row | None:
    """A line of fields: an id, a name and a colour, in one of the orders that leave no doubt; None if there is some."""
    fields = _fields(line, separator)
    if len(fields) < 2:
        return None
    bare = [field.strip() for field in fields]
    for count in (1, 3):  # a colour in front: in one field, or in three
        if (colour := _colour_of(bare[:count])) is not None and len(bare) > count and not _is_number(bare[count]):
            return _Row(None, separator.join(fields[count:]).strip(), colour)
    index = int(bare[0]) if _is_number(bare[0]) else None
    first = 0 if index is None else 1
    if _is_number(bare[first]):
        return None
    for count in (1, 3):
        rest = len(bare) - count
        if rest > first and (colour := _colour_of(bare[rest:])) is not None and not _is_number(bare[rest - 1]):
            return _Row(index, separator.join(fields[first:rest]).strip(), colour)
    if index is not None:
        return _Row(index, separator.join(fields[1:]).strip(), None)
    # "class 1" is a name with a blank in it; "class,1" is not.
    if separator != " " and _is_number(bare[-1]) and not any(_is_number(field) for field in bare[:-1]):
        return _Row(int(bare[-1]), separator.join(fields[:-1]).strip(), None)
    return None


def _fields(line: str, separator: str) -> list[str]:
    """The fields of a line; quotes keep a separator within one."""
    if separator in ":=":
        return line.split(separator)
    if separator == " ":
        line = " ".join(line.split())
    try:
        return next(csv.reader([line], delimiter=separator, strict=True, skipinitialspace=f'{separator} "' in line))
    except csv.Error:
        return [line]


def _is_number(field: str) -> bool:
    return field.isascii() and field.isdecimal()


def _colour_of(fields: Sequence[str]) -> Colour | None:
    """The colour that is written in one field (``#800000``, ``128 0 0``) or in three."""
    if len(fields) == 3:
        return _colour(fields) if all(map(_is_number, fields)) else None
    match = _PACKED.fullmatch(fields[0]) if len(fields) == 1 else None
    return match and _colour(match.groups())


def _colour(groups: Sequence[str | None]) -> Colour | None:
    """Three numbers, or six hexadecimal digits behind them."""
    red, green, blue = groups[:3]
    if red is not None and green is not None and blue is not None:
        return int(red), int(green), int(blue)
    code = groups[3] if len(groups) > 3 else None
    return None if code is None else (int(code[:2], 16), int(code[2:4], 16), int(code[4:], 16))


# ---------------------------------------------------------------------- tables that name their columns

_ID_WORDS = ("id", "idx", "index", "value", "pixel value", "pixel", "label id", "class id", "category id", "number")
_NAME_WORDS = ("name", "class name", "label name", "category name", "names")
_EITHER_WORDS = ("class", "label", "category")
_COLOUR_WORDS = (("r", "g", "b"), ("red", "green", "blue"))
_PACKED_WORDS = ("color", "colour", "rgb", "hex", "color rgb", "colour rgb")


@dataclass(frozen=True, slots=True)
class _Columns:
    """The places of the columns of a table: the id (None for lines in order), the name, and the colour's."""

    separator: str
    count: int
    index: int | None
    name: int
    colour: tuple[int, ...]


def _named_columns(lines: Sequence[_Line]) -> _Columns | None:
    """How to read the lines as a table, if the first of them names its columns."""
    for separator in ("\t", ";", ",", " "):
        words = [re.sub(r"[\s_]+", " ", word.strip()).casefold() for word in _fields(lines[0][1], separator)]
        if len(words) >= 2 and len(lines) > 1 and not any(map(_is_number, words)):
            rows = [[field.strip() for field in _fields(line, separator)] for _, line in lines[1:]]
            if (columns := _columns(words, rows, separator)) is not None:
                return columns
    return None


def _columns(words: Sequence[str], rows: Sequence[Sequence[str]], separator: str) -> _Columns | None:
    """The meaning of the columns of these names."""

    def numbers(place: int) -> bool:
        return all(place < len(row) and _is_number(row[place]) for row in rows)

    def place_of(known: Sequence[str], *, of_numbers: bool) -> int | None:
        places = [words.index(word) for word in known if word in words]
        return next((place for place in places if numbers(place) == of_numbers), None)

    index = place_of((*_ID_WORDS, *_EITHER_WORDS), of_numbers=True)
    name = place_of((*_NAME_WORDS, *_EITHER_WORDS), of_numbers=False)
    colour = next((tuple(map(words.index, three)) for three in _COLOUR_WORDS if set(three) <= set(words)), ())
    colour = colour or tuple(words.index(word) for word in _PACKED_WORDS if word in words)[:1]
    if name is None or (index is None and not colour):
        return None
    return _Columns(separator, len(words), index, name, colour)


def _table_row(path: Place, number: int, line: str, columns: _Columns) -> _Row:
    fields = _fields(line, columns.separator)
    if len(fields) > columns.count and columns.name == columns.count - 1:
        # The last column holds names, which may have separators in them.
        fields[columns.name :] = [columns.separator.join(fields[columns.name :])]
    if len(fields) != columns.count:
        raise _wrong(path, number, line, f"has {len(fields)} columns, and the first line names {columns.count}.")
    colour = _colour_of([fields[place].strip() for place in columns.colour]) if columns.colour else None
    if columns.colour and colour is None:
        raise _wrong(path, number, line, "has no colour in the column for it; write three numbers, or #rrggbb.")
    index = None if columns.index is None else int(fields[columns.index])
    return _Row(index, fields[columns.name].strip(), colour)


# ---------------------------------------------------------------------- YAML, JSON and pbtxt

_NAME_KEYS = ("names", "id2label", "label2id", "label_map", "labels", "classes", "categories")
_COLOUR_KEYS = ("segmentation_colors", "colors", "palette")
_YAML_HEAD = re.compile(rf"({'|'.join(_NAME_KEYS)})\s*:\s*([\[{{].*)?|---|- .*|\[.*|\{{.*")
_YAML_NAMES = re.compile(r"^names\s*:\s*([\[{].*)?$", re.MULTILINE)


def _yaml_entries(path: Place, text: str) -> list[_Entry]:
    """The names of a YAML or JSON file: a list, or by id; alone, or under one of the keys in use."""
    try:
        root = yaml.compose(text, Loader=yaml.SafeLoader)  # nodes: numbers and "no" stay the text that they are
    except (yaml.YAMLError, RecursionError, ValueError) as error:
        mark = getattr(error, "problem_mark", None)
        where = "" if mark is None else f", line {mark.line + 1}"
        raise LabelError(f"The label map {path}{where} is no YAML or JSON that can be read; {_YAML_ADVICE}") from error
    node, named = root, _fields_of(root)
    node = next((named[key] for key in _NAME_KEYS if key in named and not _is_scalar(named[key])), root)
    listed = (named[key].value for key in _COLOUR_KEYS if isinstance(named.get(key), yaml.SequenceNode))
    colours: Sequence[yaml.Node] = next(listed, [])
    if isinstance(node, yaml.SequenceNode):
        if any(isinstance(value, yaml.MappingNode) for value in node.value):
            return [_yaml_object(path, value, i) for i, value in enumerate(node.value)]
        entries = [_yaml_entry(path, value, str(i), value.value) for i, value in enumerate(node.value)]
        return _with_colours(path, entries, colours)
    if not isinstance(node, yaml.MappingNode):
        raise LabelError(f"The label map {path} holds no list of names; {_YAML_ADVICE}")
    pairs = node.value
    backwards = not all(_is_index(key) for key, _ in pairs) and all(_is_index(value) for _, value in pairs)
    entries = [
        _yaml_entry(path, key, value.value, key.value)
        if backwards
        else _yaml_entry(path, value, key.value, value.value)
        for key, value in pairs
    ]
    return _with_colours(path, entries, colours)


def _fields_of(node: yaml.Node) -> dict[str, yaml.Node]:
    """The values of a mapping by key; none of anything else."""
    pairs = node.value if isinstance(node, yaml.MappingNode) else []
    return {key.value: value for key, value in pairs if isinstance(key, yaml.ScalarNode)}


def _yaml_object(path: Place, node: yaml.Node, position: int) -> _Entry:
    """A label as an object, as in Mapillary's and COCO's files: its name, its colour, and its id or its place."""
    fields = _fields_of(node)
    name = fields.get("readable") or fields.get("name")
    index = fields.get("id")
    entry = _yaml_entry(path, name or node, str(position) if index is None else index.value, name and name.value)
    colour = fields.get("color") or fields.get("colour")
    return entry if colour is None else replace(entry, colour=_yaml_colour(path, colour))


def _with_colours(path: Place, entries: list[_Entry], colours: Sequence[yaml.Node]) -> list[_Entry]:
    """Entries with the colours of a list that stands beside them, as in Datumaro's `dataset_meta.json`."""
    if len(colours) != len(entries):
        return entries
    return [replace(entry, colour=_yaml_colour(path, node)) for entry, node in zip(entries, colours, strict=True)]


def _yaml_colour(path: Place, node: yaml.Node) -> Colour:
    values = [value.value for value in node.value] if isinstance(node, yaml.SequenceNode) else [node.value]
    colour = _colour_of(values) if all(isinstance(value, str) for value in values) else None
    if colour is None:
        line = node.start_mark.line + 1
        raise LabelError(f"The label map {path}, line {line} has no colour; write three numbers, or #rrggbb.")
    return colour


_YAML_ADVICE = "write names: [background, cat], or names: with lines such as 1: cat below it."


def _yaml_entry(path: Place, node: yaml.Node, index: object, name: object) -> _Entry:
    line = node.start_mark.line + 1
    if not isinstance(name, str) or not isinstance(index, str) or not _is_number(index) or not _is_scalar(node):
        raise LabelError(f"The label map {path}, line {line} gives no name to an id; {_YAML_ADVICE}")
    return _Entry(line, name, int(index), " ".join(name.split()), None)


def _is_scalar(node: yaml.Node) -> bool:
    return isinstance(node, yaml.ScalarNode)


def _is_index(node: yaml.Node) -> bool:
    return isinstance(node, yaml.ScalarNode) and _is_number(node.value)


_ITEM_HEAD = re.compile(r"item\s*\{")
_QUOTED = r'"(?:[^"\\\n]|\\.)*"|\'(?:[^\'\\\n]|\\.)*\''
_ITEM = re.compile(rf"item\s*\{{((?:[^{{}}\"'#]|#.*|{_QUOTED})*)\}}")
_FIELD = re.compile(rf"(\w+)\s*:\s*({_QUOTED}|[^\s,;\"']+)")


def _pbtxt_entries(path: Place, text: str) -> list[_Entry]:
    """The items of TensorFlow's label maps."""
    entries = []
    rest = _ITEM.sub(lambda match: "\n" * match[0].count("\n"), text)
    for number, odd in _significant(rest):
        raise _wrong(path, number, odd, 'is not of the form item { id: 1 name: "cat" }.')
    for match in _ITEM.finditer(text):
        line = text.count("\n", 0, match.start()) + 1
        body = re.sub(rf"({_QUOTED})|#.*", lambda part: part[1] or "", match[1])
        fields = {key: value[1:-1] if value[0] in "\"'" else value for key, value in _FIELD.findall(body)}
        name = fields.get("display_name") or fields.get("name", "")
        if not _is_number(fields.get("id", "")) or not name:
            raise _wrong(path, line, " ".join(match[0].split()), 'is not of the form item { id: 1 name: "cat" }.')
        entries.append(_Entry(line, match[0], int(fields["id"]), re.sub(r"\\(.)", r"\1", name), None))
    return entries
