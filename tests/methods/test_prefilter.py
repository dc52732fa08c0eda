from __future__ import annotations

import dataclasses
import json
import math
from types import SimpleNamespace

import numpy as np
import open_clip
import pytest
import torch

from ovseg_cli.backbones.clip import ClipBackbone
from ovseg_cli.backbones.pixels import squash
from ovseg_cli.profiles import PROFILES, get_profile
from ovseg_cli.profiles.specs import PrefilterSpec
from ovseg_cli.text import prefilter as module
from ovseg_cli.text.prefilter import (
    ClassPrefilter,
    Shortlist,
    joint_prompt,
    likely_classes,
    needed,
    overlapping_crops,
    subsets,
)
from tests.mini import mini_models, random_pictures

SIDE = 32
WIDTH = 12
LENGTH = 60
CLIP = dataclasses.replace(get_profile("sd15").clip, mean=(0.5, 0.45, 0.55), std=(0.2, 0.3, 0.25))
SPEC = PrefilterSpec(input_size=SIDE, phrase="{article} {name}", prompt="a photo of {name}")
NAMES = ("apple", "bus", "car", "cat", "dog", "donut", "igloo", "owl")


class Words:
    """A tokenizer of whole words; remembers every text that it was asked for."""

    def __init__(self, length: int) -> None:
        self.length = length
        self.vocabulary = {word: place for place, word in enumerate(("a", "an", "photo", "of", "and"), start=1)}
        self.calls: list[list[str]] = []

    def __call__(self, texts, context_length=None):
        if context_length is None:
            self.calls.append(list(texts))
        length = context_length or self.length
        rows = torch.zeros(len(texts), length, dtype=torch.int64)
        for row, text in zip(rows, texts, strict=True):
            words = [self.vocabulary.setdefault(word, len(self.vocabulary) + 1) for word in text.split()]
            words = [98, *words[: length - 2], 99]
            row[: len(words)] = torch.tensor(words)
        return rows

    @property
    def texts(self) -> list[str]:
        return [text for call in self.calls for text in call]


class FakeClip:
    """Sees colours in 4 x 4 cells, reads a text as the sum of its words: many pictures show several classes."""

    device = "cpu"

    def __init__(self, length: int = LENGTH) -> None:
        random = torch.Generator().manual_seed(3)
        self.tokenizer = Words(length)
        self.model = self
        self.projection = torch.randn(48, WIDTH, generator=random)
        self.words = torch.randn(100, WIDTH, generator=random)
        self.words[[0, 1, 2, 3, 4, 5, 98, 99]] = 0

    def trace(self, images, *, blocks, input_size, mean, std):
        pixels = squash(images, input_size, mean, std)
        tokens = torch.nn.functional.adaptive_avg_pool2d(pixels, 4).flatten(1)
        (last,) = blocks
        assert last == -1
        return SimpleNamespace(blocks={11: SimpleNamespace(outputs=torch.stack([tokens, torch.ones_like(tokens)], 1))})

    def embed(self, tokens):
        return torch.nn.functional.normalize(tokens @ self.projection, dim=-1)

    def encode_text(self, tokens):
        return self.words[tokens].sum(1)

    def encode_texts(self, texts):
        vectors = torch.nn.functional.normalize(self.encode_text(self.tokenizer(texts)), dim=-1)
        return vectors, torch.tensor([len(text.split()) + 2 > self.tokenizer.length for text in texts])

    def encode_image(self, pixels):
        return pixels.reshape(1, 3, 4, SIDE // 4, 4, SIDE // 4).mean((3, 5)).reshape(1, 48) @ self.projection


def real_clip() -> ClipBackbone:
    """open_clip in small, with random weights."""
    torch.manual_seed(0)
    model = open_clip.CLIP(
        embed_dim=WIDTH,
        quick_gelu=True,
        vision_cfg={"image_size": SIDE, "layers": 2, "width": 32, "head_width": 16, "patch_size": 8},
        text_cfg={"context_length": LENGTH, "vocab_size": 100, "width": 16, "heads": 2, "layers": 1},
    )
    return ClipBackbone(model, Words(LENGTH), "cpu")


@pytest.fixture
def backbone():
    return FakeClip()


def make(backbone, names=NAMES, *, stuff=(), cache=None, words=(), **changes):
    clip = dataclasses.replace(CLIP, background_words=tuple(words))
    return ClassPrefilter(backbone, clip, dataclasses.replace(SPEC, **changes), names, stuff=stuff, cache=cache)


def pictures(count, height=SIDE, width=SIDE):
    return random_pictures(count, height, width).split(1)


def by_hand(backbone, picture, names, limit, largest=99):
    """Both stages with whole forward passes and plain loops; the picture has the model's own size."""

    def unit(vector):
        return vector.double().numpy() / np.linalg.norm(vector.double().numpy())

    def text(chosen):
        words = " and ".join(("an " if name[0] in "aeiou" else "a ") + name for name in chosen)
        return unit(backbone.model.encode_text(backbone.tokenizer([f"a photo of {words}"]))[0])

    with torch.inference_mode():
        mean, std = torch.tensor(CLIP.mean).view(3, 1, 1), torch.tensor(CLIP.std).view(3, 1, 1)
        image = unit(backbone.model.encode_image((picture - mean) / std)[0])
        cosines = [float(image @ text([name])) for name in names]
        total = sum(math.exp(c) for c in cosines)
        places = [i for i, c in enumerate(cosines) if math.exp(c) / total >= 1 / len(names) - 1e-12]
        if not places or len(places) > limit:
            places = sorted(sorted(range(len(names)), key=lambda i: -cosines[i])[:limit])
        best, answer = -2.0, ()
        for bits in range(1, 2 ** len(places)):
            chosen = [place for k, place in enumerate(places) if bits >> k & 1]
            cosine = float(image @ text([names[place] for place in chosen]))
            if cosine > best and len(chosen) <= largest:
                best, answer = cosine, tuple(chosen)
    return answer, tuple(cosines[i] for i in answer)


# --------------------------------------------------------------------------- both stages


@pytest.mark.parametrize("limit", [2, 10])
@pytest.mark.parametrize("count", [1, 2, 5, 8])
def test_the_kept_classes_are_those_of_a_plain_search(backbone, count, limit):
    names = NAMES[:count]
    filtered = make(backbone, names, limit=limit)
    answers = set()
    for picture in pictures(6):
        kept = filtered(picture)
        classes, scores = by_hand(backbone, picture, names, limit)
        assert kept.classes == classes
        assert kept.scores == pytest.approx(scores, abs=1e-5)
        answers.add(kept.classes)
    # One answer for all pictures, or of one class each, would show little.
    assert len(answers) > 1 or count < 5
    assert limit == 2 or count < 5 or max(map(len, answers)) > 1


def test_embeddings_are_those_of_open_clips_forward_passes():
    backbone = real_clip()
    for picture in pictures(2):
        kept = make(backbone)(picture)
        classes, scores = by_hand(backbone, picture, NAMES, 10)
        assert kept.classes == classes
        assert kept.scores == pytest.approx(scores, abs=1e-5)


def test_a_single_class_always_stays(backbone):
    """Its share of the softmax is 1, which is at least 1 / 1: the filter compares, it does not detect."""
    assert all(make(backbone, ["cat"])(picture).classes == (0,) for picture in pictures(3))


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("limit", [1, 3, 50])
def test_stage_one_keeps_what_is_at_least_as_likely_as_a_guess(seed, limit):
    cosines = np.random.default_rng(seed).uniform(-1, 1, 12)
    shares = [math.exp(c) / sum(map(math.exp, cosines)) for c in cosines]
    above = [i for i in range(12) if shares[i] >= 1 / 12]
    kept = likely_classes(cosines, limit)
    assert kept == sorted(kept)
    assert set(kept) <= set(above)
    assert len(kept) == min(limit, len(above))
    assert min(shares[i] for i in kept) >= max((shares[i] for i in above if i not in kept), default=0)


@pytest.mark.parametrize("count", [1, 2, 3, 7, 11, 1000])
def test_equal_classes_all_reach_the_guess_and_the_first_ones_stay(count):
    assert likely_classes(np.full(count, 0.2531), 10) == list(range(min(count, 10)))


def test_the_softmax_has_no_temperature():
    # 1 / C is reached by 0.2 only when the difference to 0.3 is not multiplied.
    assert likely_classes(np.array([0.3, 0.21, -0.6]), 10) == [0, 1]


def test_subsets_are_all_of_them_small_ones_first():
    assert subsets([4, 6, 9]) == [(4,), (6,), (9,), (4, 6), (4, 9), (6, 9), (4, 6, 9)]
    assert len(set(subsets(range(10)))) == 1023


def test_of_equal_subsets_the_smaller_and_then_the_first_is_kept(backbone, monkeypatch):
    monkeypatch.setattr(module, "_cosines", lambda pictures, texts: np.zeros((len(pictures), len(texts))))
    assert make(backbone)(pictures(1)[0]).classes == (0,)


def test_the_order_of_the_classes_makes_no_difference(backbone):
    """Joint prompts name classes by the alphabet: in the order of the question, other pictures would keep others."""
    orders = [NAMES, NAMES[::-1], (*NAMES[3:], *NAMES[:3])]
    for picture in pictures(4):
        kept = [make(backbone, names)(picture) for names in orders]
        first, *others = [
            dict(zip((names[place] for place in one.classes), one.scores, strict=True))
            for names, one in zip(orders, kept, strict=True)
        ]
        assert all(other == pytest.approx(first, abs=1e-6) for other in others)


# --------------------------------------------------------------------------- texts


def test_joint_prompts_name_the_classes_in_their_order_with_their_articles(backbone):
    assert joint_prompt(SPEC, ["owl", "cat", "apple"]) == "a photo of an owl and a cat and an apple"
    make(backbone, ("owl", "cat"))(pictures(1)[0])
    assert set(backbone.tokenizer.texts) <= {
        "a photo of an owl",
        "a photo of a cat",
        "a photo of an owl and a cat",
    }


def test_the_published_prompt_has_one_article():
    spec = get_profile("sd15").prefilter
    assert joint_prompt(spec, ["cat"]) == "a cat"
    assert joint_prompt(spec, ["apple", "cat"]) == "a apple and a cat"


@pytest.mark.parametrize("name", ["{name}", "{article}", "the {article} {name}"])
def test_braces_in_a_name_stay(name):
    assert joint_prompt(SPEC, [name, "cat"]) == f"a photo of a {name} and a cat"


def test_each_text_is_embedded_once_for_all_pictures(backbone):
    filtered = make(backbone)
    for picture in pictures(8):
        filtered(picture)
    tokenizer = backbone.tokenizer
    assert len(tokenizer.texts) == len(set(tokenizer.texts))
    asked = len(tokenizer.calls)
    for picture in pictures(8):
        filtered(picture)
    assert len(tokenizer.calls) == asked


def test_joint_prompts_kept_are_bounded_and_the_bound_changes_no_answer(backbone, monkeypatch):
    expected = [make(backbone)(picture) for picture in pictures(8)]
    monkeypatch.setattr(module, "MAX_CACHED", 3)
    filtered = make(backbone)
    for picture, kept in zip(pictures(8), expected, strict=True):
        found = filtered(picture)
        assert found.classes == kept.classes
        assert found.scores == pytest.approx(kept.scores, abs=1e-6)
        assert len(filtered._joint) <= 3


def test_the_joint_prompts_used_last_stay_in_memory(backbone, monkeypatch):
    monkeypatch.setattr(module, "MAX_CACHED", 4)
    filtered = make(backbone)
    filtered._embed_joint([(0, 1), (0, 2), (1, 2), (0, 1, 2)])
    filtered._embed_joint([(0, 1)])
    filtered._embed_joint([(2, 3)])
    assert list(filtered._joint) == [(1, 2), (0, 1, 2), (0, 1), (2, 3)]


def test_combinations_whose_text_does_not_fit_are_not_compared():
    """Start, "a photo of", "a X", "and a Y" and end are 10 tokens; a text of three classes would be cut."""
    narrow = make(FakeClip(length=11))
    sizes = set()
    for picture in pictures(8):
        kept = narrow(picture)
        assert kept.classes == by_hand(FakeClip(), picture, NAMES, 10, largest=2)[0]
        sizes.add(len(make(FakeClip())(picture).classes))
    assert max(sizes) > 2  # with room for it, more would have been kept


def test_a_name_that_is_too_long_for_the_model_is_always_kept(caplog):
    long = "one two three four five six seven"
    backbone = FakeClip(length=11)
    filtered = make(backbone, ["cat", long, "dog", "owl"], stuff=["owl"])
    assert filtered.unread == (long,)
    assert [record.message for record in caplog.records] == [
        f"Longer than CLIP can read, so the pre-filter always keeps: {long}."
    ]
    without = make(backbone, ["cat", "dog"])
    for picture in pictures(12):
        scores = dict(zip((kept := filtered(picture)).classes, kept.scores, strict=True))
        assert (scores.pop(1), scores.pop(3)) == (None, None)
        assert tuple(scores) == tuple((0, 2)[place] for place in without(picture).classes)
    caplog.clear()
    assert make(FakeClip(length=11), [long])(pictures(1)[0]) == Shortlist((0,), (None,))
    assert without.unread == ()


def test_a_background_word_that_is_asked_for_is_no_background(monkeypatch):
    """Also where only case folding of the whole Unicode kind finds that it is the same word."""
    mini = get_profile("mini")
    clip = dataclasses.replace(mini.clip, background_words=("\u0390", "\u03aa\u0301s"))
    read = []
    monkeypatch.setattr(ClassPrefilter, "_embed_single", lambda self, words, cache: read.extend(words) or {})
    ClassPrefilter(mini_models().clip, clip, dataclasses.replace(mini.prefilter, background=True), ["\u03aa\u0301"])
    assert read == ["\u03aa\u0301", "\u03aa\u0301s"]


def test_names_in_any_script_are_compared():
    mini = get_profile("mini")
    names = ["猫", "кот", "🐱", "قطة", "cat"]
    filtered = ClassPrefilter(mini_models().clip, mini.clip, mini.prefilter, names)
    assert filtered.unread == ()
    assert filtered(random_pictures(1, 64, 64)).classes


# --------------------------------------------------------------------------- kept from run to run


class Notes:
    """A text cache in memory that counts."""

    def __init__(self):
        self.texts = {}
        self.reads = 0

    def cached_texts(self, model, texts):
        self.reads += 1
        found = {text: self.texts[model, text] for text in texts if (model, text) in self.texts}
        for vector in found.values():
            vector.flags.writeable = False  # as what comes from a database is
        return found

    def keep_texts(self, model, vectors):
        for text, vector in vectors.items():
            assert (vector.dtype, vector.ndim) == (np.float32, 1)
            self.texts[model, text] = vector


@pytest.mark.parametrize("make_clip", [FakeClip, real_clip])
def test_single_prompts_are_kept_from_run_to_run_and_joint_ones_are_not(make_clip):
    notes = Notes()
    first = make(make_clip(), cache=notes)
    expected = [first(picture) for picture in pictures(4)]
    assert {text for _, text in notes.texts} == {joint_prompt(SPEC, [name]) for name in NAMES}
    backbone = make_clip()
    # Words get their numbers in the order in which they are met.
    backbone.tokenizer([joint_prompt(SPEC, [name]) for name in NAMES])
    backbone.tokenizer.calls.clear()
    second = make(backbone, (*NAMES[1:], NAMES[0]), cache=notes)
    assert backbone.tokenizer.calls == []
    assert notes.reads == 2
    again = make(backbone, cache=notes)
    assert [again(picture) for picture in pictures(4)] == expected
    assert not {joint_prompt(SPEC, [name]) for name in NAMES} & set(backbone.tokenizer.texts)
    assert second(pictures(1)[0]).classes


def test_kept_prompts_belong_to_their_weights():
    notes = Notes()
    make(FakeClip(), cache=notes)
    other = dataclasses.replace(CLIP, weights=dataclasses.replace(CLIP.weights, revision="0" * 40))
    ClassPrefilter(FakeClip(), other, SPEC, NAMES, cache=notes)
    assert len({model for model, _ in notes.texts}) == 2
    assert len(notes.texts) == 2 * len(NAMES)


def test_prompts_that_were_cut_are_not_kept():
    notes = Notes()
    make(FakeClip(length=11), ["cat", "one two three four five six seven"], cache=notes)
    assert {text for _, text in notes.texts} == {"a photo of a cat"}


def test_what_is_embedded_per_picture_does_not_grow_with_the_classes():
    """Stage 1 is one product; stage 2 embeds at most the subsets of `limit` classes."""
    few, many = (make(FakeClip(), [f"n{i}" for i in range(count)], limit=5) for count in (20, 90))
    for filtered in (few, many):
        filtered._backbone.tokenizer.calls.clear()
        for picture in pictures(3):
            before = len(filtered._backbone.tokenizer.texts)
            filtered(picture)
            assert len(filtered._backbone.tokenizer.texts) - before <= 2**5 - 1 - 5


# --------------------------------------------------------------------------- the margin and the background words


def fits_of(seed, words=5):
    random = np.random.default_rng(seed)
    return {subset: float(random.normal(0.2, 0.05)) for subset in subsets(range(words))}


@pytest.mark.parametrize("free", [(), (3, 4), (0, 1, 2, 3, 4)])
@pytest.mark.parametrize("margin", [0.0, 0.01, 0.05, 0.2])
def test_the_fewest_classes_stay_that_fit_nearly_as_well(margin, free):
    sizes = set()
    for seed in range(30):
        fits = fits_of(seed)
        best = sorted(fits, key=lambda subset: -fits[subset])[0]
        options = []
        for subset, fit in fits.items():
            classes = [place for place in subset if place not in free]
            if fits[best] - fit <= margin and all(place in best for place in classes):
                options.append((len(classes), -fit, tuple(classes)))
        assert needed(fits, margin, free) == sorted(options)[0][2]
        sizes.add(len(needed(fits, margin, free)) - len(set(best).difference(free)))
    assert sizes == {0} if margin == 0 or len(free) == 5 else min(sizes) < 0


def test_without_margin_and_words_the_best_subset_stays_whole():
    for seed in range(10):
        fits = fits_of(seed)
        assert needed(fits, 0.0) == max(fits, key=fits.get)
    assert needed({(2,): 0.1, (1, 2): 0.1, (1,): 0.05}, 0.0) == (2,)  # of equals the first


def test_of_two_lookalikes_one_stays():
    apart = {(0,): 0.30, (1,): 0.299, (2,): 0.1, (0, 1): 0.29, (0, 2): 0.2, (1, 2): 0.2}
    assert needed(apart, 0.05, free={2}) == (0,)
    together = {**apart, (0, 1): 0.31}
    assert needed(together, 0.05, free={2}) == (0,)
    assert needed({**together, (2,): 0.27}, 0.05, free={2}) == ()


def test_a_higher_margin_keeps_no_more():
    for seed in range(10):
        kept = [len(needed(fits_of(seed), margin, {4})) for margin in (0.0, 0.01, 0.03, 0.1)]
        assert kept == sorted(kept, reverse=True)


def test_background_words_compete_and_are_never_kept(backbone):
    words = ("grass", "sky", "road", "sand", "CAT")
    plain, against = make(backbone), make(backbone, words=words, background=True)
    fewer = 0
    for picture in pictures(12):
        kept = against(picture)
        assert kept.classes
        assert max(kept.classes) < len(NAMES)
        fewer += len(kept.classes) < len(plain(picture).classes)
    assert fewer > 0
    texts = set(backbone.tokenizer.texts)
    assert "a photo of a grass" in texts
    assert not any("CAT" in text for text in texts)  # asked for, so no background


def test_background_words_are_left_alone_unless_the_profile_says_so(backbone):
    make(backbone, words=("grass", "sky"))(pictures(1)[0])
    assert not any("grass" in text or "sky" in text for text in backbone.tokenizer.texts)


def test_the_best_class_stays_where_background_words_say_it_all(backbone, monkeypatch):
    monkeypatch.setattr(module, "needed", lambda *_: ())
    for picture in pictures(4):
        filtered = make(backbone, words=("grass", "sky"), background=True, crops=(1, 2))
        crops = filtered._embed_crops(picture)
        best = (crops @ filtered._vectors[: len(NAMES)].T).amax(0)
        assert filtered(picture) == Shortlist((int(best.argmax()),), (pytest.approx(float(best.max()), abs=1e-6),))
        assert make(backbone, stuff=["cat"])(picture) == Shortlist((NAMES.index("cat"),), (None,))


def test_a_stuff_class_may_be_a_background_word_too(backbone):
    filtered = make(backbone, ("grass", "cat", "dog"), stuff=["grass"], words=("grass", "sky"), background=True)
    for picture in pictures(6):
        scores = dict(zip((kept := filtered(picture)).classes, kept.scores, strict=True))
        assert scores.pop(0) is None
        assert set(scores) <= {1, 2}


# --------------------------------------------------------------------------- crops


@pytest.mark.parametrize("size", [(40, 64), (33, 17), (1, 1), (1, 50), (7, 2)])
@pytest.mark.parametrize("n", [1, 2, 3, 5])
def test_a_grid_of_crops_covers_the_picture_and_overlaps_by_half(size, n):
    crops = overlapping_crops(*size, [n])
    assert len(crops) == n * n
    count = np.zeros(size, int)
    for crop in crops:
        assert crop.height >= 1
        assert crop.width >= 1
        assert crop.height <= 2 * size[0] / (n + 1) + 2
        count[crop.top : crop.top + crop.height, crop.left : crop.left + crop.width] += 1
    assert count.min() >= 1
    if n == 2 and min(size) > 2:
        middle = count[size[0] // 2, size[1] // 2]
        assert middle == 4


def test_the_first_grid_is_the_whole_picture():
    (whole,) = overlapping_crops(40, 64, (1,))
    assert dataclasses.astuple(whole) == (0, 0, 40, 64)
    assert len(overlapping_crops(40, 64, (1, 2))) == 5


def test_classes_of_all_crops_are_united(backbone):
    picture = pictures(1, 60, 90)[0]
    together = make(backbone, crops=(1, 2))(picture)
    alone = [make(backbone)(crop.cut(picture)) for crop in overlapping_crops(60, 90, (1, 2))]
    assert len({kept.classes for kept in alone}) > 1
    assert set(together.classes) == {place for kept in alone for place in kept.classes}
    for place, score in zip(together.classes, together.scores, strict=True):
        own = [dict(zip(kept.classes, kept.scores, strict=True)).get(place, -1) for kept in alone]
        assert score >= max(own) - 1e-5  # also over crops that dropped the class


@pytest.mark.parametrize("size", [(1, 1), (1, 300), (200, 3)])
def test_pictures_of_any_size(backbone, size):
    assert make(backbone, crops=(1, 2, 3))(pictures(1, *size)[0]).classes


# --------------------------------------------------------------------------- stuff


def test_stuff_is_always_kept_and_changes_nothing_for_things(backbone):
    names = ("grass", "cat", "sky", "apple", "dog")
    for picture in pictures(5):
        things = make(backbone, ("cat", "apple", "dog"))(picture)
        mixed = make(backbone, names, stuff={"grass", "sky"})(picture)
        scores = dict(zip(mixed.classes, mixed.scores, strict=True))
        assert (scores.pop(0), scores.pop(2)) == (None, None)
        assert tuple(scores) == tuple((1, 3, 4)[place] for place in things.classes)
        assert tuple(scores.values()) == pytest.approx(things.scores, abs=1e-6)
    assert not any("grass" in text or "sky" in text for text in backbone.tokenizer.texts)


def test_stuff_alone_needs_no_model():
    filtered = ClassPrefilter(None, CLIP, SPEC, ["grass", "sky"], stuff=["sky", "grass"])
    assert filtered(pictures(1)[0]) == Shortlist((0, 1), (None, None))


# --------------------------------------------------------------------------- the same again


def test_the_answer_does_not_depend_on_what_was_asked_before(backbone):
    shown = pictures(6)
    filtered = make(backbone)
    forward = [filtered(picture) for picture in shown]
    fresh = make(backbone)
    backward = [fresh(picture) for picture in reversed(shown)][::-1]
    assert [kept.classes for kept in forward] == [kept.classes for kept in backward]
    assert forward == [filtered(picture) for picture in shown]


# --------------------------------------------------------------------------- profiles


@pytest.mark.parametrize("profile", PROFILES.values(), ids=lambda p: p.name)
def test_the_filters_of_the_profiles_are_sound(profile):
    spec = profile.prefilter
    assert "{name}" in spec.phrase
    assert "{name}" in spec.prompt
    assert 1 <= spec.limit <= 10
    assert 2**spec.limit - 1 <= module.MAX_CACHED
    assert min(spec.crops) >= 1
    assert json.loads(json.dumps(spec.record())) == spec.record()
    assert dataclasses.replace(spec, default=not spec.default).record() == spec.record()
    assert dataclasses.replace(spec, crops=(5,)).record() != spec.record()


def test_sd15_filters_as_published():
    spec = get_profile("sd15").prefilter
    assert (spec.input_size, spec.crops, spec.limit, spec.default) == (224, (1,), 10, True)
    assert (spec.margin, spec.background) == (0, False)


def test_the_bundled_filter_runs_at_its_own_size():
    mini = get_profile("mini")
    kept = ClassPrefilter(mini_models().clip, mini.clip, mini.prefilter, NAMES)(random_pictures(1, 90, 130))
    assert kept.classes
    assert all(-1 <= score <= 1 for score in kept.scores)


def test_a_device_is_asked_twice_for_a_picture_however_many_crops_it_has(monkeypatch):
    mini, asked = get_profile("mini"), []
    spec = dataclasses.replace(mini.prefilter, crops=(1, 2, 3))
    filtered = ClassPrefilter(mini_models().clip, mini.clip, spec, NAMES)
    cosines = module._cosines
    monkeypatch.setattr(module, "_cosines", lambda *both: asked.append(len(both[0])) or cosines(*both))
    filtered(random_pictures(1, 90, 130))
    assert asked == [14, 14]  # single words, then joint prompts
