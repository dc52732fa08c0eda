from __future__ import annotations

import json
from dataclasses import fields

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ovseg_cli.errors import OutputError
from ovseg_cli.files.layout import JOURNAL_NAME
from ovseg_cli.runs import journal
from ovseg_cli.runs.journal import _CHECKS, Entry, Journal, is_intact, read_journal, write_journal, written

shares = st.dictionaries(st.text(), st.floats(0, 1), max_size=3)
names = st.text(st.characters(exclude_characters="\0"), min_size=1, max_size=60)
entries = st.builds(
    Entry,
    path=names,
    output=st.none() | names,
    size=st.none() | st.tuples(st.integers(1, 9999), st.integers(1, 9999)),
    status=st.sampled_from(["done", "failed"]),
    shares=shares,
    scores=shares,
    margin=st.none() | st.floats(0, 2),
    ms=st.none() | st.floats(0, 1e6),
    error=st.none() | st.text(),
    key=st.text(),
)


def entry(name: str, **changes) -> Entry:
    return Entry(**({"path": f"/photos/{name}", "output": f"{name}.png", "status": "done", "key": "k"} | changes))


@given(entries)
def test_a_line_holds_one_entry_whatever_is_in_it(made):
    line = made.to_line()
    assert "\n" not in line
    read = Entry.from_line(line)
    assert read.path == made.path
    assert read.shares == made.shares
    assert read.error == made.error
    assert read.margin == made.margin
    assert tuple(read.size or ()) == tuple(made.size or ())


def test_unknown_fields_of_a_later_version_are_dropped():
    line = json.dumps(json.loads(entry("a").to_line()) | {"mood": "sunny"})
    assert Entry.from_line(line) == entry("a")


def test_lines_of_earlier_versions_have_no_margin():
    data = json.loads(entry("a", margin=0.5).to_line())
    del data["margin"]
    assert Entry.from_line(json.dumps(data)) == entry("a")
    with pytest.raises(ValueError, match="margin cannot be 'much'"):
        Entry.from_line(json.dumps(data | {"margin": "much"}))


@pytest.mark.parametrize("line", ["[]", "{}", '{"path": 1, "status": "done", "key": ""}', "nonsense"])
def test_other_lines_are_refused(line):
    with pytest.raises(ValueError, match=r".+"):
        Entry.from_line(line)


def test_no_journal_is_an_empty_one(tmp_path):
    assert read_journal(tmp_path) == {}


def test_what_was_added_is_there_even_before_the_journal_is_closed(tmp_path):
    with Journal(tmp_path, [entry("kept")]) as journal:
        journal.add(entry("new"))
        assert list(read_journal(tmp_path)) == ["/photos/kept", "/photos/new"]


def test_the_last_line_about_a_picture_wins(tmp_path):
    write_journal(tmp_path, [entry("a", key="old"), entry("a", key="new")])
    assert read_journal(tmp_path)["/photos/a"].key == "new"


@pytest.mark.parametrize("cut", range(1, 40, 3))
def test_a_torn_last_line_is_forgotten(tmp_path, cut):
    write_journal(tmp_path, [entry("a"), entry("b")])
    path = tmp_path / JOURNAL_NAME
    path.write_bytes(path.read_bytes()[:-cut])
    assert list(read_journal(tmp_path)) == ["/photos/a"]


def test_a_line_torn_within_a_letter_is_forgotten(tmp_path):
    write_journal(tmp_path, [entry("a"), entry("猫")])
    path = tmp_path / JOURNAL_NAME
    data = path.read_bytes()
    path.write_bytes(data[: data.index("猫".encode()) + 1])
    assert list(read_journal(tmp_path)) == ["/photos/a"]


@pytest.mark.parametrize(
    "line",
    [
        b"{broken",
        b"[" * 100_000,
        b"\xff\xfe",
        b"null",
        *(
            json.dumps(json.loads(entry("c").to_line()) | change).encode()
            for change in (
                {"path": ["c"]},
                {"path": ""},
                {"path": "a\0b"},
                {"path": "x" * 5000},
                {"output": 7},
                {"output": "x" * 300},
                {"overlay": ["a.png"]},
                {"explain": {}},
                {"size": 3},
                {"size": [1, "2"]},
                {"size": [1]},
                {"status": []},
                {"method": 1},
                {"shares": []},
                {"shares": {"cat": "much"}},
                {"shares": {"cat": float("nan")}},
                {"scores": {"cat": None}},
                {"kept": {"cat": []}},
                {"kept": ["cat"]},
                {"kept_by": {}},
                {"ms": float("inf")},
                {"ms": True},
                {"error": 1},
                {"key": None},
                {"nbytes": "many"},
                {"nbytes": 10**30},
                {"digest": 5},
            )
        ),
    ],
)
def test_a_damaged_line_costs_only_its_own_picture_and_is_told(tmp_path, caplog, line):
    write_journal(tmp_path, [entry("a"), entry("b")])
    path = tmp_path / JOURNAL_NAME
    first, second = path.read_bytes().splitlines()
    path.write_bytes(b"\n".join((first, line, second, b"")))
    assert list(read_journal(tmp_path)) == ["/photos/a", "/photos/b"]
    (told,) = caplog.messages
    assert "is damaged (line 2: " in told
    assert len(told) < 600


def test_many_damaged_lines_are_told_once(tmp_path, caplog):
    write_journal(tmp_path, [entry("a")])
    path = tmp_path / JOURNAL_NAME
    path.write_bytes(b"?\n" * 50 + path.read_bytes())
    assert list(read_journal(tmp_path)) == ["/photos/a"]
    (told,) = caplog.messages
    assert "line 1: " in told
    assert "and 49 more" in told


def test_what_was_written_is_known_again(tmp_path):
    label = tmp_path / "a.png"
    label.write_bytes(b"some label map")
    nbytes, digest = written(label)
    made = entry("a", nbytes=nbytes, digest=digest)
    assert nbytes == 14
    assert is_intact(made, tmp_path)
    assert is_intact(entry("a"), tmp_path), "earlier versions noted neither"
    label.write_bytes(b"same size here")
    assert not is_intact(made, tmp_path)
    label.write_bytes(b"")
    assert not is_intact(made, tmp_path)
    label.unlink()
    assert not is_intact(made, tmp_path)
    assert not is_intact(entry("a"), tmp_path)
    assert not is_intact(entry("a", output=None), tmp_path)


def test_file_names_that_are_no_unicode_survive(tmp_path):
    odd = entry("x\udc80")
    with Journal(tmp_path, []) as journal:
        journal.add(odd)
    assert list(read_journal(tmp_path)) == ["/photos/x\udc80"]
    write_journal(tmp_path, [odd])
    assert list(read_journal(tmp_path)) == ["/photos/x\udc80"]


def test_a_folder_that_cannot_be_written_is_told(tmp_path):
    (tmp_path / JOURNAL_NAME).mkdir()
    with pytest.raises(OutputError, match="Cannot write"):
        Journal(tmp_path, [])


def test_every_field_of_an_entry_is_checked():
    assert set(journal._CHECKS) == {field.name for field in fields(Entry)}


def test_a_name_in_a_store_may_be_longer_than_one_on_a_disk():
    assert _CHECKS["path"](f"s3://bucket/{300 * 'n'}.jpg")
    assert not _CHECKS["path"](f"folder/{300 * 'n'}.jpg")
