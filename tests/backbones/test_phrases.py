from __future__ import annotations

import unicodedata

import pytest

from ovseg_cli.backbones.phrases import phrase_token_positions
from ovseg_cli.errors import UsageError
from tests.mini import mini_models

DONUT = "chocolate glazed donut"


@pytest.fixture(scope="module")
def tokenizer():
    return mini_models().generator.pipeline.tokenizer


def tokens_of(tokenizer, prompt, phrase):
    ids = tokenizer(prompt).input_ids
    positions = phrase_token_positions(tokenizer, prompt, phrase)
    return positions, tokenizer.decode([ids[i] for i in positions])


@pytest.mark.parametrize(
    ("prompt", "phrase", "decoded"),
    [
        ("a good picture of a cat", "cat", "cat"),
        (f"a photo of a {DONUT} on grass", DONUT, DONUT),
        ("a good picture of a CAT", "CAT", "cat"),
        ("A Good Picture of a Cat", "cat", "cat"),
        ("a photo of a photo", "photo", "photo"),
        ("a cat", "a", "a"),
        ("a good picture of a zyxwv", "zyxwv", "zyxwv"),  # splits into several tokens
        ("a good picture of a crème brûlée", "crème brûlée", "crème brûlée"),
        ("a good picture of a 猫", "猫", "猫"),
        ("猫 and a dog", "dog", "dog"),
        ("a picture of a hot-dog, on a plate", "hot-dog", "hot - dog"),
        ("a picture of a cat's eye", "cat's eye", "cat's eye"),
        ("a  big   cat", "big   cat", "big cat"),
    ],
)
def test_the_phrases_tokens_are_found(tokenizer, prompt, phrase, decoded):
    _, text = tokens_of(tokenizer, prompt, phrase)
    assert text.replace(" ", "") == decoded.replace(" ", "")


def test_positions_are_those_of_the_whole_words_counted_by_hand(tokenizer):
    # <start> a photo of a chocolate glazed donut <end>
    assert phrase_token_positions(tokenizer, f"a photo of a {DONUT}", DONUT) == [5, 6, 7]


def test_of_a_repeated_word_the_last_one_counts(tokenizer):
    positions, _ = tokens_of(tokenizer, "a cat and a cat", "cat")
    assert positions == [5]


def test_a_word_that_only_contains_the_phrase_is_not_taken_for_it(tokenizer):
    positions, text = tokens_of(tokenizer, "a cat in a scattered field", "cat")
    assert (positions, text) == ([2], "cat")


def test_letters_that_grow_when_lowered_do_not_shift_the_phrase(tokenizer):
    _, text = tokens_of(tokenizer, "İİİ cat sky", "cat")
    assert text == "cat"


def test_a_name_written_with_combining_marks_is_found(tokenizer):
    name = unicodedata.normalize("NFD", "café")
    _, text = tokens_of(tokenizer, f"a good picture of a {name}", name)
    assert text == "café"


def test_positions_agree_with_the_padded_prompt_that_the_pipeline_encodes(tokenizer):
    positions = phrase_token_positions(tokenizer, "a photo of a cat on sand", "cat")
    padded = tokenizer("a photo of a cat on sand", padding="max_length", truncation=True).input_ids
    assert [padded[i] for i in positions] == tokenizer("cat", add_special_tokens=False).input_ids


@pytest.mark.parametrize("prompt", ["word " * 40 + "cat", "a b c d e f g h i j k l m n o p q r s t zyxwv cat"])
def test_a_phrase_that_the_tokenizer_cuts_off_is_refused(tokenizer, prompt):
    with pytest.raises(UsageError, match="24 tokens"):
        phrase_token_positions(tokenizer, prompt, "zyxwv cat" if "zyxwv" in prompt else "cat")


def test_a_long_tail_after_the_phrase_does_no_harm(tokenizer):
    positions, text = tokens_of(tokenizer, "a cat " + "x " * 40, "cat")
    assert (positions, text) == ([2], "cat")


def test_a_prompt_without_the_phrase_is_refused(tokenizer):
    with pytest.raises(UsageError, match="does not contain"):
        phrase_token_positions(tokenizer, "a photo of a dog", "cat")
