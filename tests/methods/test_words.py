from __future__ import annotations

import logging

import numpy as np
import open_clip
import pytest
import torch
from torch.nn import functional as F

from ovseg_cli.backbones.clip import ClipBackbone
from ovseg_cli.errors import UsageError
from ovseg_cli.methods import words as module
from ovseg_cli.methods.words import word_scores
from ovseg_cli.profiles import get_profile
from ovseg_cli.profiles.prompts import fill_prompts, prompt_templates
from ovseg_cli.store import Store
from ovseg_cli.text import embedding
from ovseg_cli.text.embedding import Reading, embed_words, text_key
from ovseg_cli.text.vocabulary import Vocabulary, make_vocabulary, merge_synonyms, parse_synonyms
from tests.files import published_classes as published
from tests.mini import MINI_FOLDER, mini_models
from tests.scores import decide_now

WEIGHTS = get_profile("mini").clip.weights
TEMPLATES = ("a photo of {article} {name}", "{name}")

# --------------------------------------------------------------------------- words


def test_words_stand_for_classes_in_their_order():
    found = make_vocabulary(
        ["ship", "cat"], synonyms={"Cat": ["kitten", "tom cat"], "ship": ["boat"]}, background=["sky", "wall"]
    )
    assert found.classes == ("ship", "cat")
    assert found.words == ("ship", "boat", "cat", "kitten", "tom cat", "sky", "wall")
    assert found.owner == (1, 1, 2, 2, 2, 0, 0)
    assert (found.channels, found.left_out, found.notes) == (3, (), ())
    assert found.record() == {
        "classes": ["ship", "cat"],
        "words": ["ship", "boat", "cat", "kitten", "tom cat", "sky", "wall"],
        "owner": [1, 1, 2, 2, 2, 0, 0],
    }


def test_background_words_that_are_asked_for_are_left_out_without_a_note():
    found = make_vocabulary(
        ["SKY", "cat"], synonyms={"cat": ["Kitten"]}, background=["sky", "wall", "kitten", "Wall", "STRASSE", "straße"]
    )
    assert found.words == ("SKY", "cat", "Kitten", "wall", "STRASSE")
    assert found.left_out == ("sky", "kitten", "Wall", "straße")
    assert found.notes == ()


def test_a_word_belongs_to_one_class_and_the_rest_is_told():
    found = make_vocabulary(
        ["ship", "boat", "cat"],
        synonyms={"ship": ["Boat", "vessel", "VESSEL", "ship"], "boat": ["vessel"], "cat": ["kitten"]},
        background=["sky"],
    )
    assert found.words == ("ship", "vessel", "boat", "cat", "kitten", "sky")
    assert found.owner == (1, 1, 2, 3, 3, 0)
    assert found.left_out == ("Boat", "VESSEL", "ship", "vessel")
    assert found.notes == (
        "The synonym 'Boat' of 'ship' is left out: it belongs to 'boat'.",
        "The synonym 'VESSEL' of 'ship' is left out: it is there already.",
        "The synonym 'ship' of 'ship' is left out: it is there already.",
        "The synonym 'vessel' of 'boat' is left out: it belongs to 'ship'.",
    )


def test_words_are_compared_and_kept_in_one_unicode_form():
    found = make_vocabulary(["cafe\u0301"], synonyms={"caf\u00e9": ["coffee   house"]}, background=["CAF\u00c9", "猫"])
    assert found.words == ("caf\u00e9", "coffee house", "猫")


def test_one_class_with_nothing_beside_it_is_told():
    alone = make_vocabulary(["cat"], synonyms={"cat": ["kitten"]})
    assert alone.notes == ("Nothing competes with 'cat', so all of a picture becomes it: add words or classes.",)
    assert make_vocabulary(["cat"], background=["Cat"]).notes == alone.notes
    assert make_vocabulary(["cat"], background=["sky"]).notes == ()
    assert make_vocabulary(["cat", "dog"]).notes == ()


@pytest.mark.parametrize(
    ("classes", "options", "message"),
    [
        ([], {}, "no class to look for"),
        (["cat", "Cat"], {}, "'Cat' is given twice"),
        (["cat"], {"synonyms": {"dog": ["hound"]}}, "'dog' has synonyms but is not among the classes: cat"),
        (["cat"], {"synonyms": {"cats": ["toms"]}}, "Did you mean 'cat'?"),
        (["cat"], {"synonyms": {"cat": [" "]}}, "must not be empty"),
        (["cat"], {"background": [""]}, "must not be empty"),
        (["cat"], {"background": ["\udcff"]}, "is no text"),
    ],
)
def test_words_that_make_no_sense_are_refused(classes, options, message):
    with pytest.raises(UsageError, match=message):
        make_vocabulary(classes, **options)


def test_synonyms_as_they_are_typed():
    typed = parse_synonyms(["ship=boat", "cat = kitten, tom cat", "ship=vessel", "猫=貓", "x=a=b"])
    assert typed == {"ship": ("boat", "vessel"), "cat": ("kitten", "tom cat"), "猫": ("貓",), "x": ("a=b",)}
    assert parse_synonyms([]) == {}
    assert merge_synonyms({"ship": ["sail"], "dog": ["hound"]}, typed)["ship"] == ("sail", "boat", "vessel")


@pytest.mark.parametrize("value", ["ship", "=boat", "ship=", "ship=boat,,sail", " = ", ""])
def test_a_synonym_without_a_class_or_a_word_is_refused(value):
    with pytest.raises(UsageError, match="CLASS=WORD"):
        parse_synonyms([value])


# --------------------------------------------------------------------------- scores


def published_head(cosines, owner, scale, threshold):
    """Scores (C + 1, h, w) and labels (h, w), pixel by pixel and word by word."""
    height, width = cosines.shape[1:]
    scores = np.zeros((max(owner) + 1, height, width))
    labels = np.zeros((height, width), dtype=int)
    for y in range(height):
        for x in range(width):
            logits = [scale * value for value in cosines[:, y, x].tolist()]
            weights = [np.exp(value - max(logits)) for value in logits]
            for word, number in enumerate(owner):
                scores[number, y, x] = max(scores[number, y, x], weights[word] / sum(weights))
            best = scores[:, y, x].argmax()
            labels[y, x] = 0 if threshold is not None and scores[best, y, x] < threshold else best
    return scores, labels


def cosines_of(words, height=5, width=6, seed=0):
    return np.random.default_rng(seed).uniform(0.1, 0.4, (words, height, width)).astype(np.float32)


SCLIP_OWNER = published.published_queries(published.sclip_voc21(), ", ")[1]
SOME_OWNER = (1, 1, 2, 3, 3, 3, 0, 0)


@pytest.mark.parametrize(
    ("owner", "scale", "threshold"),
    [
        (SCLIP_OWNER, 65.0, 0.1),
        (SCLIP_OWNER, 40.0, 0.2),
        (SOME_OWNER, 40.0, None),
        (SOME_OWNER, 40.0, 0.6),
        ((1, 2, 3), 20.0, 0.8),
        ((0, 1, 2, 0, 1), 1.0, 0.21),
        ((1, 0), 50.0, None),
    ],
)
def test_scores_and_labels_are_those_of_the_published_head(owner, scale, threshold):
    cosines = cosines_of(len(owner))
    ours = word_scores(torch.from_numpy(cosines), owner, logit_scale=scale)
    scores, labels = published_head(cosines.astype(np.float64), owner, scale, threshold)
    assert ours.dtype == torch.float32
    np.testing.assert_allclose(ours.numpy(), scores, rtol=1e-4, atol=1e-7)
    decided = decide_now(ours, labels.shape, background=True, threshold=threshold)
    np.testing.assert_array_equal(decided.ids, labels)
    if threshold is not None:
        assert 0 < (labels == 0).sum() < labels.size


def test_the_order_of_the_words_and_the_strips_do_not_matter(monkeypatch):
    cosines = torch.from_numpy(cosines_of(8, 7, 5))
    whole = word_scores(cosines, SOME_OWNER, logit_scale=30.0)
    order = torch.randperm(8, generator=torch.Generator().manual_seed(1))
    shuffled = word_scores(cosines[order], [SOME_OWNER[i] for i in order], logit_scale=30.0)
    torch.testing.assert_close(shuffled, whole)
    for cells in (1, 2 * 8 * 5, 3 * 8 * 5):
        monkeypatch.setattr(module, "MAX_CELLS", cells)
        torch.testing.assert_close(word_scores(cosines, SOME_OWNER, logit_scale=30.0), whole)


def test_a_word_for_a_class_takes_from_all_others_and_never_raises_the_sum():
    cosines = torch.from_numpy(cosines_of(5))
    fewer = word_scores(cosines[:4], (1, 2, 3, 0), logit_scale=40.0)
    more = word_scores(cosines, (1, 2, 3, 0, 2), logit_scale=40.0)
    torch.testing.assert_close(fewer.sum(0), torch.ones(5, 6))
    assert (more.sum(0) < 1).all()
    assert (more[[0, 1, 3]] < fewer[[0, 1, 3]]).all()


def test_without_words_for_it_the_background_scores_nothing_and_a_threshold_makes_it():
    cosines = torch.from_numpy(cosines_of(3))
    scores = word_scores(cosines, (1, 2, 3), logit_scale=40.0)
    assert (scores[0] == 0).all()
    assert decide_now(scores, (5, 6), background=True).ids.min() > 0
    share = decide_now(scores, (5, 6), background=True, threshold=0.9).shares[0]
    assert 0 < share < 1
    assert share == pytest.approx(float((scores.amax(0) < 0.9).double().mean()))


def test_one_class_alone_takes_everything_and_a_word_beside_it_does_not():
    cosines = torch.from_numpy(cosines_of(2))
    alone = word_scores(cosines[:1], (1,), logit_scale=40.0)
    torch.testing.assert_close(alone[1], torch.ones(5, 6))
    assert (decide_now(alone, (5, 6), background=True, threshold=1.0).ids == 1).all()
    beside = word_scores(cosines, (1, 0), logit_scale=40.0)
    torch.testing.assert_close(beside.sum(0), torch.ones(5, 6))
    np.testing.assert_array_equal(decide_now(beside, (5, 6), background=True).ids, (cosines[0] > cosines[1]).numpy())


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_400_classes_at_a_high_scale_stay_probabilities(dtype):
    vocabulary = make_vocabulary(
        [f"class {i}" for i in range(400)],
        synonyms={f"class {i}": [f"word {i}"] for i in range(0, 400, 3)},
        background=published.BACKGROUND,
    )
    cosines = torch.from_numpy(cosines_of(len(vocabulary.words), 3, 4)).to(dtype)
    cosines[7, 0, 0] = 1
    cosines[:, 1, 1] = -1
    scores = word_scores(cosines, vocabulary.owner, logit_scale=100.0)
    assert scores.shape == (401, 3, 4)
    assert scores.dtype == torch.float32
    expected, _ = published_head(cosines.double().numpy(), vocabulary.owner, 100.0, None)
    np.testing.assert_allclose(scores.numpy(), expected, rtol=1e-4, atol=1e-9)
    torch.testing.assert_close(scores[:, 1, 1], torch.full((401,), 1 / len(vocabulary.words)))


@pytest.mark.parametrize("owner", [(1, 2), (1, 2, 3, 4), (1, 1, 3), (1, 2, -1), ()])
def test_owners_that_do_not_fit_the_words_are_refused(owner):
    with pytest.raises(ValueError, match="3 words"):
        word_scores(torch.rand(3, 2, 2), owner, logit_scale=1.0)


# --------------------------------------------------------------------------- embeddings


class Memory(dict):
    """A cache in memory that remembers what it was asked for and given."""

    def __init__(self):
        self.kept = []

    def cached_texts(self, model, texts):
        return {text: self[model, text] for text in texts if (model, text) in self}

    def keep_texts(self, model, vectors):
        self.kept.append(list(vectors))
        self.update({(model, text): vector for text, vector in vectors.items()})


def unread_clip():
    """The bundled CLIP, having read nothing yet; and the texts that it reads from now on."""
    loaded = mini_models().clip
    backbone = ClipBackbone(loaded.model, loaded.tokenizer, "cpu")
    read = []
    encode = backbone.encode_texts
    backbone.encode_texts = lambda texts: read.append(list(texts)) or encode(texts)
    return backbone, read


def ensemble(model, tokenizer, word, templates):
    """CLIP's zero-shot notebook: unit embeddings, their mean, made unit."""
    with torch.inference_mode():
        each = model.encode_text(tokenizer(fill_prompts(templates, word)))
    each = each / each.norm(dim=-1, keepdim=True)
    mean = each.mean(dim=0)
    return mean / mean.norm()


@pytest.mark.parametrize("templates", [TEMPLATES, prompt_templates("short")], ids=["own", "short"])
def test_words_are_embedded_as_in_the_zero_shot_notebook(templates):
    backbone, _ = unread_clip()
    words = ["cat", "apple", "кот", "猫", "🐱", "قطة", "cat in a hat"]
    ours = embed_words(backbone, [*words, "cat"], templates, weights=WEIGHTS)
    assert ours.dtype == torch.float32
    torch.testing.assert_close(ours.norm(dim=-1), torch.ones(8))
    for row, word in zip(ours, [*words, "cat"], strict=True):
        expected = ensemble(backbone.model, backbone.tokenizer, word, templates)
        torch.testing.assert_close(row, expected, atol=1e-5, rtol=1e-5)


def test_kept_words_are_not_read_again(tmp_path):
    backbone, read = unread_clip()
    with Store.open(tmp_path / "store", profile="mini") as store:
        first = embed_words(backbone, ["cat", "猫"], TEMPLATES, weights=WEIGHTS, cache=store)
    assert sum(map(len, read)) == 4
    again, read = unread_clip()
    with Store.open(tmp_path / "store") as store:
        second = embed_words(again, ["猫", "dog", "cat"], TEMPLATES, weights=WEIGHTS, cache=store)
        assert read == [["a photo of a dog", "dog"]]
        torch.testing.assert_close(second[[2, 0]], first, atol=0, rtol=0)
        embed_words(again, ["cat"], TEMPLATES[:1], weights=WEIGHTS, cache=store)
        assert read[1:] == [["a photo of a cat"]]


def test_what_is_kept_depends_on_the_model_and_the_templates():
    sd15 = get_profile("sd15").clip.weights
    keys = {text_key(weights, templates) for weights in (WEIGHTS, sd15) for templates in (TEMPLATES, TEMPLATES[:1])}
    assert len(keys) == 4
    assert text_key(WEIGHTS, list(TEMPLATES)) in keys


def test_an_interrupted_reading_goes_on_where_it_was(monkeypatch):
    monkeypatch.setattr(embedding, "TEXTS_AT_ONCE", 2)
    backbone, read = unread_clip()
    memory = Memory()
    encode = backbone.encode_texts

    def interrupted(texts):
        if len(read) == 2:
            raise KeyboardInterrupt
        return encode(texts)

    backbone.encode_texts = interrupted
    names = ["cat", "dog", "bird", "fish", "apple"]
    told = []
    reading = Reading(lambda done, total: told.append((done, total)))
    with pytest.raises(KeyboardInterrupt):
        embed_words(backbone, names, ("{name}",), weights=WEIGHTS, cache=memory, reading=reading)
    assert memory.kept == [["cat", "dog"], ["bird", "fish"]]
    assert told == [(0, 5), (2, 5), (4, 5)]
    later, read = unread_clip()
    vectors = embed_words(later, names, ("{name}",), weights=WEIGHTS, cache=memory, reading=reading)
    assert read == [["apple"]]
    assert told[3:] == [(0, 1), (1, 1)]
    embed_words(later, names, ("{name}",), weights=WEIGHTS, cache=memory, reading=reading)
    assert len(told) == 5
    torch.testing.assert_close(vectors, embed_words(unread_clip()[0], names, ("{name}",), weights=WEIGHTS))


LONG = " ".join(f"word{i}" for i in range(300))


def test_a_name_of_300_words_is_told_once_and_read_by_its_beginning(caplog):
    backbone, _ = unread_clip()
    memory, reading = Memory(), Reading()
    told = (
        "CLIP reads at most 24 tokens of a prompt. With these words prompts are longer, and only their beginning "
        f"counts: {LONG[:59]}…."
    )
    with caplog.at_level(logging.WARNING, "ovseg_cli"):
        words = ["cat", LONG, "dog"]
        vectors = embed_words(backbone, words, TEMPLATES, weights=WEIGHTS, cache=memory, reading=reading)
    assert caplog.messages == [told]
    rule = "the first 23 tokens of each prompt, the start token among them, and then the end token"
    assert reading.record() == {"words": [LONG], "tokens": 24, "rule": rule}
    torch.testing.assert_close(vectors.norm(dim=-1), torch.ones(3))
    torch.testing.assert_close(vectors[1], embed_words(backbone, [LONG + " tail"], TEMPLATES, weights=WEIGHTS)[0])
    caplog.clear()
    later, read = unread_clip()
    again, reading = embed_words(later, [LONG, "cat"], TEMPLATES, weights=WEIGHTS, cache=memory), Reading()
    assert read == [], "it is kept, and told all the same"
    torch.testing.assert_close(again[0], vectors[1], atol=0, rtol=0)
    assert caplog.messages == [told]
    embed_words(later, ["cat"], TEMPLATES, weights=WEIGHTS, cache=memory, reading=reading)
    assert reading.record() == {}


def test_words_that_are_the_same_to_the_model_are_told(caplog):
    backbone, _ = unread_clip()
    words = ["cat", f"{LONG} red", f"{LONG} green", f"other {LONG}"]
    vectors = embed_words(backbone, words, TEMPLATES, weights=WEIGHTS)
    assert caplog.messages[1:] == [f"CLIP cannot tell these apart, as they begin alike: {LONG[:59]}…, {LONG[:59]}…."]
    torch.testing.assert_close(vectors[1], vectors[2])
    assert not torch.allclose(vectors[1], vectors[3], atol=1e-3)


@pytest.mark.parametrize("name", ["bundled", "ViT-B-16"])
def test_of_a_long_text_the_first_tokens_and_the_end_stay(name):
    tokenizer = open_clip.get_tokenizer(f"local-dir:{MINI_FOLDER / 'clip'}" if name == "bundled" else name)
    text = f"a photo of a {LONG}."
    (short,) = tokenizer([text])
    (whole,) = tokenizer([text], context_length=5000)
    end = whole.max()
    assert short[-1] == end
    torch.testing.assert_close(short[:-1], whole[: len(short) - 1])
    assert (short == end).sum() == 1


def test_a_name_that_fits_most_templates_is_told_too(caplog):
    backbone, _ = unread_clip()
    length = backbone.tokenizer(["a"]).shape[1]
    name = " ".join(["cat"] * (length - 3))
    embed_words(backbone, [name], ("{name}",), weights=WEIGHTS)
    assert not caplog.records
    embed_words(backbone, [name], ("{name}", "a big {name}"), weights=WEIGHTS)
    assert len(caplog.records) == 1


def test_cosines_of_embedded_words_find_the_word_itself():
    backbone, _ = unread_clip()
    vocabulary = make_vocabulary(["cat", "dog"], synonyms={"cat": ["kitten"]}, background=["grass", "water"])
    vectors = embed_words(backbone, vocabulary.words, TEMPLATES, weights=WEIGHTS)
    cosines = F.normalize(vectors, dim=-1) @ vectors.T
    scores = word_scores(cosines[:, None], vocabulary.owner, logit_scale=40.0)
    assert scores[:, 0].argmax(0).tolist() == list(vocabulary.owner)


def test_a_vocabulary_of_the_same_words_is_the_same():
    assert make_vocabulary(["cat"]) == Vocabulary(("cat",), ("cat",), (1,))
