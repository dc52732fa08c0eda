"""The list of methods."""

from __future__ import annotations

import subprocess
import sys

import pytest

from ovseg_cli.methods.catalogue import METHODS, naming_methods, word_methods
from ovseg_cli.profiles import PROFILES, get_profile
from ovseg_cli.segmentation.options import SegmentOptions
from ovseg_cli.segmentation.recipe import choose_method, make_recipe
from ovseg_cli.store import Store

MINI = get_profile("mini")


def test_dense_methods_are_those_that_read_words_alone():
    assert naming_methods() == ("prototype", "hybrid", *word_methods())
    assert set(METHODS) - set(naming_methods()) == {"diffseg"}
    assert "auto" not in METHODS


def test_no_two_methods_have_one_title():
    assert len({info.title for info in METHODS.values()}) == len(METHODS)


@pytest.mark.parametrize("profile", PROFILES.values(), ids=list(PROFILES))
def test_the_best_method_of_a_profile_is_one_that_it_can_run(profile):
    assert profile.clip.best in word_methods()
    if profile.clip.best == "proxyclip":
        assert profile.proxy is not None


def test_the_list_brings_no_torch():
    code = "import sys, ovseg_cli.methods.catalogue as c; print(len(c.METHODS), 'torch' in sys.modules)"
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert result.stdout.split() == [str(len(METHODS)), "False"]


@pytest.fixture
def store(tmp_path):
    with Store.open(tmp_path / "store", profile="mini") as opened:
        yield opened


@pytest.mark.parametrize("name", [name for name in naming_methods() if name != "prototype"])
def test_a_method_that_reads_words_can_be_asked_for_without_any_prototypes(store, name):
    choice = choose_method(store, MINI, ["cat", "dog"], name)
    assert (choice.method, choice.asked, choice.missing) == (name, name, ("cat", "dog"))
    resolved = make_recipe(store, MINI, ["cat", "dog"], method=choice, options=SegmentOptions())
    assert resolved.words.method == (MINI.clip.best if name == "hybrid" else name)
    assert (resolved.prefilter is not None) == METHODS[name].prefilter
    for asked in (True, False):
        options = SegmentOptions(prefilter=asked)
        assert (make_recipe(store, MINI, ["cat", "dog"], method=choice, options=options).prefilter is not None) == asked


def test_every_method_has_a_digest_of_its_own(store):
    names = [name for name in naming_methods() if name != "prototype"]
    digests = {
        make_recipe(
            store,
            MINI,
            ["cat"],
            method=choose_method(store, MINI, ["cat"], name),
            options=SegmentOptions(prefilter=False),
        ).digest
        for name in names
    }
    assert len(digests) == len(names)
