from __future__ import annotations

import re
import unicodedata

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from ovseg_cli.errors import ClassNameError
from ovseg_cli.names import (
    MAX_QUERY_LENGTH,
    class_key,
    listed_names,
    normalise_class_name,
    short_name,
    shown_name,
    slugify,
)

any_text = st.text(max_size=100)
simple_names = st.text(alphabet="abcdefghijklmnopqrstuvwxyz0123456789 ", min_size=1, max_size=40).filter(str.strip)


@pytest.mark.parametrize(
    ("typed", "stored"),
    [
        ("cat", "cat"),
        ("  chocolate   glazed donut ", "chocolate glazed donut"),
        ("cre\u0300me bru\u0302le\u0301e", "crème brûlée"),
        ("猫", "猫"),
        ("rock'n'roll guitar", "rock'n'roll guitar"),
        ("👩\u200d🚀", "👩\u200d🚀"),
        ("St. Bernard", "St. Bernard"),
        ("x" * 80, "x" * 80),
        ("a\u00a0b", "a b"),
    ],
)
def test_good_names_are_brought_into_one_form(typed: str, stored: str) -> None:
    assert normalise_class_name(typed) == stored


@pytest.mark.parametrize(
    ("typed", "says"),
    [
        ("", "must not be empty"),
        ("   ", "must not be empty"),
        ("\u200b\u200d", "must not be empty"),
        (".", "mere punctuation"),
        ("evil\u202ename", "control characters"),
        ("cat,dog", "a comma"),
        ("cat/dog", "a slash"),
        ("cat\\dog", "a backslash"),
        ("..", "'..'"),
        ("a..b", "'..'"),
        ("cat\n", "control characters"),
        ("cat\tdog", "control characters"),
        ("cat\x00", "control characters"),
        ("cat\x1b[31m", "control characters"),
        ("cat\u2028dog", "control characters"),
        ("cat\udcff", "control characters"),
        ("x" * 81, "at most 80 characters; got 81"),
        ("Background", "belong to no class"),
    ],
)
def test_bad_names_say_what_is_wrong(typed: str, says: str) -> None:
    with pytest.raises(ClassNameError, match=re.escape(says)) as caught:
        normalise_class_name(typed)
    assert caught.value.exit_code == 2
    str(caught.value).encode()  # printable whatever was typed


def test_a_name_that_is_only_looked_for_may_be_long() -> None:
    name = "tabby " * 299 + "cat"
    assert normalise_class_name(f" {name} ", stored=False) == name
    assert normalise_class_name("猫" * MAX_QUERY_LENGTH, stored=False) == "猫" * MAX_QUERY_LENGTH
    with pytest.raises(ClassNameError, match="at most 10000 characters; got 10001"):
        normalise_class_name("x" * (MAX_QUERY_LENGTH + 1), stored=False)
    with pytest.raises(ClassNameError, match="a comma") as caught:
        normalise_class_name(f"{name}, dog", stored=False)
    assert len(str(caught.value)) < 200


def test_long_names_are_shown_by_their_beginning() -> None:
    long = "tabby " * 50
    assert short_name("cat") == "cat"
    assert short_name("x" * 60) == "x" * 60
    assert short_name(long) == "tabby " * 9 + "tabby…"
    assert shown_name(long) == f"'{short_name(long)}'"
    assert listed_names(["cat", long]) == f"cat, {short_name(long)}"
    assert listed_names(list("abcdefg")) == "a, b, c, d, e and 2 more"
    assert listed_names(list("abc"), most=2) == "a, b and 1 more"


@given(any_text)
@example("ǰ")
@example("İstanbul")
@example("ŉ")
def test_a_stored_name_is_its_own_normal_form(typed: str) -> None:
    try:
        name = normalise_class_name(typed)
    except ClassNameError:
        return
    assert normalise_class_name(name) == name
    assert unicodedata.is_normalized("NFC", name)
    assert name == name.strip()
    assert not set(name) & set(",/\\\n\t")


@given(any_text)
@example("ß")
@example("ΐ")
@example("ͅα")
def test_key_ignores_case_and_composition(name: str) -> None:
    key = class_key(name)
    assert class_key(key) == key
    assert class_key(name.casefold()) == key
    for form in ("NFC", "NFD"):
        assert class_key(unicodedata.normalize(form, name)) == key


@pytest.mark.parametrize(
    ("name", "slug"),
    [
        ("cat", "cat"),
        ("Chocolate Glazed Donut", "chocolate-glazed-donut"),
        ("airbus a380", "airbus-a380"),
    ],
)
def test_plain_names_have_plain_slugs(name: str, slug: str) -> None:
    assert slugify(name) == slug


@pytest.mark.parametrize("name", ["crème brûlée", "猫", "con", "a-b", "x" * 80, "!", "..", "rock'n'roll"])
def test_other_slugs_end_in_a_hash(name: str) -> None:
    assert re.fullmatch(r"[a-z0-9-]+_[0-9a-f]{10}", slugify(name))


@given(any_text)
def test_slug_is_a_safe_folder_name(name: str) -> None:
    slug = slugify(name.encode("utf-8", "ignore").decode())
    assert re.fullmatch(r"[a-z0-9]([a-z0-9-]*[a-z0-9])?(_[0-9a-f]{10})?", slug)
    assert len(slug) < 64


@given(st.lists(st.one_of(simple_names, st.text(alphabet="aàáâäAÀ猫犬 -'", min_size=1)), min_size=2, max_size=30))
def test_slugs_differ_exactly_when_keys_do(names: list[str]) -> None:
    assert len({slugify(name) for name in names}) == len({class_key(name) for name in names})
