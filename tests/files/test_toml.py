"""TOML with line numbers: the locator against texts whose lines are known, and files that are none."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ovseg_cli.errors import UsageError
from ovseg_cli.files.toml import MAX_BYTES, parse_toml, read_toml

TEXT = '''# a comment with = and [brackets]
name = "a # no comment"  # one
"quoted key" = 'x'
a.b . "c d" = 1
list = [
  "one",  # ]
  # "none",
  ["two", "three"], { x = 1, y = { z = 2 } },
]
text = """
[not.a.table]
k = 1 \\""" ""
"""
raw = \'\'\'
x = 'y'
\'\'\'
when = 1979-05-27 07:32:00

[table]
k = true
[table.sub."odd.name"]
k = -1.5e3
[[rows]]
k = 1
[rows.inner]
k = 2
[[rows]]
k = 3
[[rows.deep]]
k = 4
[[rows.deep]]
k = 5
'''
LINES = {
    ("name",): 2,
    ("quoted key",): 3,
    ("a",): 4,
    ("a", "b", "c d"): 4,
    ("list",): 5,
    ("list", 0): 6,
    ("list", 1): 8,
    ("list", 1, 1): 8,
    ("list", 2, "x"): 8,
    ("list", 2, "y", "z"): 8,
    ("text",): 10,
    ("raw",): 14,
    ("when",): 17,
    ("table",): 19,
    ("table", "k"): 20,
    ("table", "sub", "odd.name", "k"): 22,
    ("rows", 0): 23,
    ("rows", 0, "k"): 24,
    ("rows", 0, "inner", "k"): 26,
    ("rows", 1): 27,
    ("rows", 1, "k"): 28,
    ("rows", 1, "deep", 0, "k"): 30,
    ("rows", 1, "deep", 1, "k"): 32,
}


@pytest.mark.parametrize("ends", ["\n", "\r\n"])
@pytest.mark.parametrize("path", LINES, ids=str)
def test_the_line_of_a_key(path, ends):
    file = parse_toml(TEXT.replace("\n", ends), Path("my.toml"), what="profile")
    assert file.lines[path] == LINES[path]
    assert file.where(*path) == f"my.toml, line {LINES[path]}"


def test_what_is_not_there_has_the_line_of_what_is_around_it():
    file = parse_toml(TEXT, Path("my.toml"), what="profile")
    assert file.line("rows", 1, "none") == 27
    assert file.line("none", "k") is None
    assert file.where("none") == "my.toml"


keys = st.one_of(st.from_regex(r"\A[A-Za-z0-9_-]{1,6}\Z"), st.text(max_size=5).map(lambda text: f"q{text}"))
values = st.recursive(
    st.one_of(st.integers(-9, 9), st.booleans(), st.text(max_size=8)),
    lambda inner: st.one_of(st.lists(inner, max_size=3), st.dictionaries(keys, inner, max_size=3)),
    max_leaves=8,
)


def quoted(text):
    return '"' + "".join(f"\\U{ord(c):08x}" if not c.isalnum() or not c.isascii() else c for c in text) + '"'


def written(value, newline):
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, str):
        return quoted(value)
    if isinstance(value, list):
        return "[" + newline + ("," + newline).join(written(item, newline) for item in value) + newline + "]"
    if isinstance(value, dict):
        return "{" + ", ".join(f"{quoted(k)} = {written(v, newline)}" for k, v in value.items()) + "}"
    return str(value)


def paths(value, prefix=()):
    """Every key path of a value, itself left out."""
    inside = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, item in inside:
        yield (*prefix, key)
        yield from paths(item, (*prefix, key))


@pytest.mark.slow
@settings(max_examples=150, deadline=None)
@given(st.dictionaries(keys, values, min_size=1, max_size=5), st.sampled_from(["", "\n", " # ] x = 1\n"]))
def test_every_key_of_any_file_has_its_line(data, newline):
    text = "".join(f"{quoted(key)} = {written(value, newline)}\n" for key, value in data.items())
    file = parse_toml(text, Path("x.toml"), what="profile")
    assert file.data == data
    assert set(file.lines) == set(paths(data))
    for key, line in ((key, file.lines[key,]) for key in data):
        assert text.split("\n")[line - 1].startswith(f"{quoted(key)} = ")


@pytest.mark.parametrize(
    ("content", "told"),
    [
        (b"a = 1\nb = = 2\n", r"my\.toml, line 2: this is no TOML: Invalid value"),
        (b"a = 1\na = 2\n", r"my\.toml, line 2: this is no TOML: Cannot overwrite"),
        (b"a = 1\nb = '\xff'\n", r"my\.toml, line 2: this is no UTF-8"),
        ("a = 1".encode("utf-16"), r"line 1: this is no UTF-8"),
        (b"a = " + b"[" * 20_000, "nested too deeply|no TOML"),
        (b"a = " + b"9" * 5_000, r"my\.toml.*no TOML"),
        (b"#" * (10 * MAX_BYTES), "larger than 1 MB"),
        (b"\0", r"line 1: this is no TOML"),
    ],
    ids=["syntax", "twice", "latin-1", "utf-16", "deep", "digits", "large", "nul"],
)
def test_what_is_no_toml_is_told_in_one_line(tmp_path, content, told):
    (tmp_path / "my.toml").write_bytes(content)
    with pytest.raises(UsageError, match=told) as caught:
        read_toml(tmp_path / "my.toml", what="profile")
    assert "\n" not in str(caught.value)


def test_a_byte_order_mark_is_no_fault(tmp_path):
    (tmp_path / "my.toml").write_bytes(b"\xef\xbb\xbfa = 1\n")
    assert read_toml(tmp_path / "my.toml", what="profile").data == {"a": 1}


def test_what_is_no_file_is_told(tmp_path):
    (tmp_path / "folder").mkdir()
    (tmp_path / "loop").symlink_to("loop")
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "file").write_text("")
    for name, told in [
        ("folder", "it is a folder"),
        ("loop", "its links lead in a circle"),
        ("pipe", "it is no ordinary file"),
        ("none", "there is no such file"),
        ("file/x", "a part of the path is a file"),
        ("n" * 300, "the name is too long"),
        ("a\0b", "no file has such a name"),
    ]:
        with pytest.raises(UsageError, match=f"The profile .* cannot be read: {told}"):
            read_toml(tmp_path / name, what="profile")
