from __future__ import annotations

import doctest

import pytest

from ovseg_cli.prototypes import doubts
from ovseg_cli.prototypes.doubts import edit_distance, near_words
from tests.mini import mini_models


def test_examples_in_docstrings():
    assert doctest.testmod(doubts).failed == 0


@pytest.mark.parametrize(
    ("name", "meant"), [("kat", "cat"), ("elefant", "elephant"), ("giarffe", "giraffe"), ("umbrela", "umbrella")]
)
def test_slips_are_near_what_was_meant(name, meant):
    assert near_words(name, [], None)[0] == meant


@pytest.mark.parametrize("name", ["cat", "Cats", "chocolate glazed donut", "my mug", "xylograph", "quokka"])
def test_words_and_names_that_are_like_nothing_are_not_doubted(name):
    assert near_words(name, [], None) == ()


def test_classes_of_the_store_are_known_words_too():
    assert near_words("quoka", ["Quokka"], None) == ("Quokka",)
    assert near_words("quokka", ["Quokka"], None) == ()


def test_clip_says_which_is_meant_most_likely(monkeypatch):
    monkeypatch.setattr(doubts, "listed_words", lambda: dict.fromkeys(("bat", "hat", "rat"), "thing"))

    class Clip:
        def embed_text(self, names, templates):
            import torch

            return torch.tensor([[1.0, 0.0] if name in ("kat", "rat") else [0.0, 1.0] for name in names])

    assert near_words("kat", [], Clip())[0] == "rat"
    assert near_words("kat", ["cat"], Clip())[0] == "cat", "c sounds like k"


def test_the_real_clip_can_be_asked():
    assert near_words("kat", [], mini_models().clip)[0] == "cat"


@pytest.mark.parametrize(("one", "other", "steps"), [("", "", 0), ("ab", "ba", 1), ("kitten", "sitting", 2.5)])
def test_distances(one, other, steps):
    assert edit_distance(one, other, 3) == edit_distance(other, one, 3) == steps
    assert edit_distance(one, other, 0) == min(steps, 1)
