from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from open_clip.tokenizer import HFTokenizer
from transformers import CLIPTokenizer

from examples.mini_pack.captions import caption
from examples.mini_pack.tokens import CONTEXT_LENGTH, Encoder, train_tokenizer
from examples.mini_pack.vocabulary import STUFF, THINGS


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    rng = np.random.default_rng(0)
    folder = tmp_path_factory.mktemp("tokenizer")
    texts = [
        caption(tuple(THINGS[int(i)] for i in rng.choice(len(THINGS), 2, replace=False)), STUFF[i % 8], i % 2 == 0, rng)
        for i in range(1500)
    ]
    train_tokenizer(texts, folder)
    return folder


@pytest.fixture(scope="module")
def tokenizer(folder: Path) -> CLIPTokenizer:
    return CLIPTokenizer.from_pretrained(folder)


def test_every_word_of_the_vocabulary_is_one_token(tokenizer: CLIPTokenizer) -> None:
    for thing in THINGS:
        for name in (thing.name, *thing.aliases):
            assert len(tokenizer(name, add_special_tokens=False).input_ids) == len(name.split()), name


def test_the_end_of_text_has_the_highest_id(tokenizer: CLIPTokenizer) -> None:
    # CLIP's text encoders find the end of a text by argmax
    ids = tokenizer("a cat", padding="max_length").input_ids
    assert len(ids) == CONTEXT_LENGTH
    assert tokenizer.eos_token_id == max(tokenizer.get_vocab().values()) == ids[3]
    assert ids[0] == tokenizer.bos_token_id


def test_any_text_can_be_written(tokenizer: CLIPTokenizer) -> None:
    text = "a crème brûlée, 42 zyzzyvas!"
    assert tokenizer.unk_token_id not in tokenizer(text, add_special_tokens=False).input_ids[:5]
    assert "zyzzyvas" in tokenizer.decode(tokenizer(text).input_ids)


def test_open_clip_reads_the_same_ids(folder: Path, tokenizer: CLIPTokenizer) -> None:
    theirs = HFTokenizer(str(folder), context_length=CONTEXT_LENGTH)
    text = "a good picture of a chocolate glazed donut on the grass"
    assert theirs([text])[0].tolist() == tokenizer(text, padding="max_length").input_ids


def test_the_encoder_finds_names_and_aliases(tokenizer: CLIPTokenizer) -> None:
    encoder = Encoder(tokenizer)
    encoded = encoder.encode(
        "a photo of a chocolate glazed donut and a cat on the grass", ["cat", "doughnut", "dog", "grass"]
    )
    words = tokenizer.convert_ids_to_tokens(encoded.ids.tolist())
    found = {name: [words[i].removesuffix("</w>") for i in places] for name, places in encoded.words.items()}
    assert found == {"cat": ["cat"], "doughnut": ["chocolate", "glazed", "donut"], "grass": ["grass"]}


def test_a_long_caption_is_cut_and_its_lost_words_are_not_found(tokenizer: CLIPTokenizer) -> None:
    encoder = Encoder(tokenizer)
    encoded = encoder.encode("a cat and " * 8 + "a dog", ["cat", "dog"])
    assert encoded.ids.shape == (CONTEXT_LENGTH,)
    assert list(encoded.words) == ["cat"]
