from __future__ import annotations

import dataclasses
import doctest
import re
import subprocess
import sys
import unicodedata

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from ovseg_cli import names
from ovseg_cli.errors import ClassNameError, UnknownClassError, UsageError
from ovseg_cli.files.labels import LabelMap
from ovseg_cli.names import (
    MAX_QUERY_LENGTH,
    ClassList,
    class_key,
    did_you_mean,
    is_background,
    listed,
    listed_names,
    nearest,
    normalise_class_name,
    repeated,
    short_name,
    shown_name,
    slugify,
    unknown_choice,
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
        ("__background__", "belong to no class"),
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


def test_the_examples_hold() -> None:
    assert doctest.testmod(names).failed == 0


def test_names_need_neither_a_store_nor_a_network() -> None:
    code = "import sys, ovseg_cli.names; print(sorted({'numpy', 'PIL', 'sqlalchemy', 'torch'} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("Σίσυφος", "ΣΊΣΥΦΟΣ"),  # the sigma at the end has its own small letter
        ("\u0390", "\u03aa\u0301"),  # one letter whose capital is written as two
        ("\u1fb3", "ΑΙ"),
        ("Straße", "STRASSE"),
        ("hot dog", " Hot \u00a0 DOG "),
        ("cafe\u0301", "CAF\u00c9"),
        ("\u01f0", "J\u030c"),
    ],
)
def test_names_are_the_same_wherever_they_are_compared(one: str, other: str) -> None:
    assert class_key(one) == class_key(other)
    for name, again in ((one, other), (other, one)):
        classes = ClassList(["cat", name])
        assert again in classes
        assert classes.place(again) == 1
        assert classes.spelled(again) == name
        assert classes.only([again]).names == (name,)
        assert classes.lacking(["dog", again]) == ("dog",)
        assert LabelMap.from_classes(["cat", name]).id_of(again) == 2
        assert nearest(again, ["cat", name]) == [name]
        assert repeated(["cat", name, again]) == (name, again)
        with pytest.raises(UsageError, match="given twice"):
            ClassList(["cat", name, again])


@pytest.mark.parametrize(("one", "other"), [("cat", "cats"), ("Σίσυφος", "Σισυφος"), ("ohm", "oh m"), ("ı", "i")])
def test_names_that_are_not_the_same(one: str, other: str) -> None:
    assert ClassList([one, other]).place(other) == 1
    assert LabelMap.from_classes([one, other]).ids_of(other) == (2,)


class TestClassList:
    CLASSES = ClassList(["Zebra", "hot dog", "ant"])

    def test_is_a_list_of_names_in_an_order(self) -> None:
        assert list(self.CLASSES) == ["Zebra", "hot dog", "ant"]
        assert (len(self.CLASSES), self.CLASSES[1], self.CLASSES.names) == (3, "hot dog", ("Zebra", "hot dog", "ant"))
        assert not ClassList()

    def test_is_a_value(self) -> None:
        assert ClassList(("Zebra", "hot dog", "ant")) == self.CLASSES
        assert len({self.CLASSES, ClassList(iter(self.CLASSES))}) == 1
        assert ClassList(["zebra", "hot dog", "ant"]) != self.CLASSES  # another spelling is written to label maps
        assert ClassList(["hot dog", "Zebra", "ant"]) != self.CLASSES
        with pytest.raises(dataclasses.FrozenInstanceError):
            self.CLASSES.names = ()  # type: ignore[misc]

    def test_places(self) -> None:
        assert [self.CLASSES.place(name) for name in ("ANT", "Hot  Dog", "zebra")] == [2, 1, 0]
        assert (self.CLASSES.find("Ant"), self.CLASSES.find("bee")) == (2, None)
        assert (3 in self.CLASSES, None in self.CLASSES) == (False, False)
        with pytest.raises(UnknownClassError) as caught:
            self.CLASSES.place("hotdog")
        assert str(caught.value) == ("'hotdog' is not among the classes: Zebra, hot dog, ant. Did you mean 'hot dog'?")

    def test_a_name_that_is_given_twice_is_refused_as_it_is_typed(self) -> None:
        with pytest.raises(UsageError, match=r"^The class 'ANT' is given twice\.$"):
            ClassList([*self.CLASSES, "ANT"])
        with pytest.raises(UsageError, match="'ant' is given twice"):
            ClassList(["ant"] * 2)
        assert ClassList.distinct([*self.CLASSES, "ANT", "bee"]).names == (*self.CLASSES, "bee")

    def test_parts(self) -> None:
        assert self.CLASSES.only(["bee", "ANT", "zebra"]) == ClassList(["Zebra", "ant"])
        assert self.CLASSES.lacking(["bee", "ANT", "Ox"]) == ("bee", "Ox")
        assert self.CLASSES.by_alphabet() == [2, 1, 0]
        assert self.CLASSES.listed(most=1) == "Zebra and 2 more"

    @given(st.lists(any_text, unique_by=class_key, max_size=6), any_text)
    def test_as_many_places_as_keys(self, distinct: list[str], other: str) -> None:
        classes = ClassList(distinct)
        assert [classes.place(name) for name in distinct] == list(range(len(distinct)))
        assert (other in classes) == (class_key(other) in map(class_key, distinct))
        assert ClassList.distinct([*distinct, *(name.casefold() for name in distinct)]) == classes


@pytest.mark.parametrize("name", ["background", "Background", "_background_", "__BACKGROUND__"])
def test_what_no_class_can_be_called_is_what_label_maps_call_the_background(name: str) -> None:
    assert is_background(name)
    with pytest.raises(ClassNameError, match="belong to no class"):
        normalise_class_name(name)


class TestHints:
    def test_the_nearest_word_as_it_is_spelt(self) -> None:
        assert did_you_mean("chocolate glased donut", ["Chocolate Glazed Donut"]) == (
            " Did you mean 'Chocolate Glazed Donut'?"
        )
        assert did_you_mean("kat", ["cat", "bat", "hot dog"], most=2) == " Did you mean 'cat' or 'bat'?"
        assert did_you_mean("zebra", ["cat", "dog"]) == ""
        assert did_you_mean("zebra", []) == ""

    def test_how_alike(self) -> None:
        assert nearest("cats", ["cat"], alike=0.75) == ["cat"]
        assert nearest("car", ["cat"], alike=0.75) == []

    @pytest.mark.parametrize("given", ["gemm", "GEM"])
    def test_a_word_that_is_none_of_a_few(self, given: str) -> None:
        error = unknown_choice("method", given, ("gem", "sclip"), heading="Methods")
        assert str(error) == f"Unknown method {given!r}. Did you mean 'gem'? Methods: gem, sclip."

    def test_what_is_no_word_gets_no_hint(self) -> None:
        error = unknown_choice("method", 7, iter(("gem", "sclip")), heading="Methods")  # type: ignore[arg-type]
        assert str(error) == "Unknown method 7. Methods: gem, sclip."


def test_lists_of_other_things_are_shown_in_whole() -> None:
    path = "a/" * 40 + "b.jpg"
    assert listed([path]) == path
    assert listed(["a", "b", "c"], most=2, between="; ") == "a; b and 1 more"
    assert listed([]) == ""
