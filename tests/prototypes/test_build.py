from __future__ import annotations

import dataclasses
import json
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from ovseg_cli.backbones.clip import ClipBackbone
from ovseg_cli.backbones.unet import Samples
from ovseg_cli.errors import GenerationError, ProfileMismatchError, UsageError
from ovseg_cli.models import Models
from ovseg_cli.profiles import get_profile
from ovseg_cli.prototypes.build import (
    MAX_ATTEMPTS_PER_IMAGE,
    Progress,
    SupportSettings,
    build_class,
    build_classes,
    plan_class,
    repool_class,
)
from ovseg_cli.prototypes.kinds import listed_words
from ovseg_cli.prototypes.support import ClassItem, OwnPicture
from ovseg_cli.store import Store
from tests.mini import MINI_FOLDER, mini_class, mini_models

MINI = get_profile("mini")
SIZE = 64


def drawing(seed):
    """A picture with a red square on blue, somewhere by the seed, and attention on the square."""
    random = np.random.default_rng(seed)
    image = np.zeros((SIZE, SIZE, 3), np.uint8)
    image[..., 2] = 120 + random.integers(0, 20, (SIZE, SIZE))
    attention = np.full((16, 16), 0.01, np.float32) + random.random((16, 16), dtype=np.float32) * 0.01
    y, x = (int(n) for n in random.integers(1, 9, 2))
    attention[y : y + 6, x : x + 6] = 0.3
    image[4 * y : 4 * (y + 6), 4 * x : 4 * (x + 6)] = (220, 10, 10)
    return image, attention


def black(seed):
    return np.zeros((SIZE, SIZE, 3), np.uint8), drawing(seed)[1]


def flat_attention(seed):
    return drawing(seed)[0], np.full((16, 16), 0.05, np.float32)


def weak_attention(seed):
    image, attention = drawing(seed)
    return image, attention * 0.1


def broken(seed):
    image, attention = drawing(seed)
    attention[0, 0] = np.nan
    return image, attention


class ChosenModels(Models):
    """Models whose generator draws what a test chose for each seed, and whose features are colours."""

    def __init__(self, special=None, otherwise=drawing, features=None):
        super().__init__(MINI, "cpu")
        self.special = special or {}
        self.otherwise = otherwise
        self.chosen_features = features
        self.batches = []
        self.calls = []

    @property
    def generator(self):
        return SimpleNamespace(generate=self._generate, locate=self._locate)

    def _locate(self, prompt, phrase):
        if phrase == "far too long":
            raise UsageError("cut off")

    def _generate(self, prompt, phrase, seeds, *, steps, on_step, **settings):
        self.batches.append(list(seeds))
        self.calls.append({"prompt": prompt, "phrase": phrase, "steps": steps, **settings})
        for step in range(steps):
            on_step(step + 1)
        drawn = [self.special.get(seed, self.otherwise)(seed) for seed in seeds]
        images, maps = (np.stack(part) for part in zip(*drawn, strict=True))
        return Samples(torch.from_numpy(images), torch.from_numpy(maps))

    def features(self, extractor, images):
        if self.chosen_features is not None:
            return self.chosen_features(extractor, images)
        return torch.nn.functional.avg_pool2d(images, 4) + 0.01


def build(models=None, name="thing", **settings):
    settings = {"count": 4, "steps": 2, "batch_size": 4, **settings}
    return build_class(models or ChosenModels(), name, SupportSettings(**settings))


@pytest.mark.slow
def test_the_listed_words_are_read_once_for_all_classes_of_a_store(tmp_path, monkeypatch):
    read = []
    encode = ClipBackbone.encode_texts
    monkeypatch.setattr(ClipBackbone, "encode_texts", lambda self, texts: read.extend(texts) or encode(self, texts))
    settings = SupportSettings(count=2, steps=1)
    store = Store.open(tmp_path, profile="mini")

    def made_by_a_process_of_its_own(name):
        read.clear()
        clip = ClipBackbone.load(MINI_FOLDER / "clip", device="cpu")
        monkeypatch.setattr(ChosenModels, "clip", clip)
        return build_class(ChosenModels(), name, settings, texts=store)

    first = made_by_a_process_of_its_own("gizmo")
    assert len(read) == 1 + len(listed_words())
    second = made_by_a_process_of_its_own("doohickey")
    assert read == ["a photo of a doohickey"]
    store.close()
    alone = build_class(ChosenModels(), "doohickey", settings)
    assert (second.kind, second.kind_source) == (alone.kind, "clip")
    assert first.kind_source == "clip"


# --------------------------------------------------------------------------- degenerate images


def test_good_images_keep_their_seeds_in_order():
    models = ChosenModels()
    record = build(models)
    assert [s.seed for s in record.supports] == [42, 43, 44, 45]
    assert [s.position for s in record.supports] == [0, 1, 2, 3]
    assert record.rejected == 0
    assert models.batches == [[42, 43, 44, 45]]
    for support in record.supports:
        np.testing.assert_array_equal(support.image, drawing(support.seed)[0])


@pytest.mark.slow
def test_degenerate_images_are_made_again_under_new_seeds_and_counted():
    models = ChosenModels({43: black, 45: flat_attention, 46: broken, 48: weak_attention})
    record = build(models, count=5, batch_size=3)
    assert models.batches == [[42, 43, 44], [45, 46], [47, 48, 49], [50]]
    assert [s.seed for s in record.supports] == [42, 44, 47, 49, 50]
    assert record.rejected == 4
    assert record.settings["rejected"] == {
        "blank image": 1,
        "flat attention": 1,
        "not finite": 1,
        "weak attention": 1,
    }
    for support in record.supports:
        np.testing.assert_array_equal(support.image, drawing(support.seed)[0])
        assert support.foreground.any()


@pytest.mark.slow
def test_an_image_that_only_looked_good_at_first_is_rejected_when_its_siblings_are_stronger():
    models = ChosenModels({42: weak_attention, 43: weak_attention})
    record = build(models, count=5, batch_size=2)
    assert models.batches[0] == [42, 43]
    assert [s.seed for s in record.supports] == [44, 45, 46, 47, 48]
    assert record.rejected == 2


def test_stuff_may_fill_a_picture_evenly():
    def even(seed):
        image, attention = flat_attention(seed)
        return image, attention + np.random.default_rng(seed).random(attention.shape, dtype=np.float32) * 1e-3

    record = build(ChosenModels(otherwise=even), count=2, kind="stuff")
    assert [s.seed for s in record.supports] == [42, 43]
    assert record.rejected == 0
    with pytest.raises(GenerationError, match="flat attention"):
        build(ChosenModels(otherwise=flat_attention), count=2, kind="thing")
    with pytest.raises(GenerationError, match="blank image"):
        build(ChosenModels(otherwise=black), count=2, kind="stuff")


@pytest.mark.slow
def test_it_gives_up_when_nothing_is_usable():
    models = ChosenModels({43: flat_attention}, otherwise=black)
    with pytest.raises(
        GenerationError, match=r"Only 0 of 3 .*'thing'.* 9 attempts \(8 blank image, 1 flat attention\)"
    ):
        build(models, count=3, batch_size=2)
    assert sorted(seed for batch in models.batches for seed in batch) == list(
        range(42, 42 + 3 * MAX_ATTEMPTS_PER_IMAGE)
    )


@pytest.mark.slow
def test_it_gives_up_when_too_few_are_usable():
    models = ChosenModels({44: drawing}, otherwise=black)
    with pytest.raises(GenerationError, match=r"Only 1 of 2 .* 6 attempts"):
        build(models, count=2)


@pytest.mark.slow
def test_features_without_any_finite_value_are_no_class():
    nothing = ChosenModels(features=lambda extractor, images: torch.full((len(images), 3, 16, 16), float("nan")))
    with pytest.raises(GenerationError, match="No foreground"):
        build(nothing)


@pytest.mark.slow
def test_foreground_is_needed_in_every_extractor():
    def features(extractor, images):
        lost = extractor.name == MINI.extractors[1].name
        return torch.full((len(images), 3, 16, 16), float("nan") if lost else 1.0)

    with pytest.raises(GenerationError, match="No foreground"):
        build(ChosenModels(features=features))


# --------------------------------------------------------------------------- the record


@pytest.mark.slow
def test_the_prototypes_are_the_colours_of_what_was_drawn():
    record = build()
    assert [e.digest for e in record.extractors] == [e.digest for e in MINI.extractors]
    for extractor in record.extractors:
        mine = [p for p in record.prototypes if p.extractor == extractor.digest]
        means = {p.role: p.vector for p in mine if p.kind == "mean"}
        assert extractor.dim == 3
        # The red square, with the rim of cells that its mask touches; and the blue rest.
        assert means["fg"][0] > means["fg"][2] + 0.2
        assert means["bg"][2] > means["bg"][0] + 0.4
        assert means["fg"][0] > means["bg"][0] + 0.4
        for role in ("fg", "bg"):
            assert [p.support for p in mine if (p.role, p.kind) == (role, "instance")] == [0, 1, 2, 3]
            assert 1 <= len([p for p in mine if (p.role, p.kind) == (role, "part")]) <= MINI.generator.parts


@pytest.mark.slow
def test_masks_sit_on_the_object():
    for support in build().supports:
        red = support.image[..., 0] > 100
        inside = support.foreground & red
        assert inside.sum() / (support.foreground | red).sum() > 0.7
        assert (support.background & red).mean() < 0.05
        assert support.attribution[red].mean() > 0.8 > 0.2 > support.attribution[~red].mean()


@pytest.mark.slow
def test_the_batch_size_changes_nothing_but_its_own_record():
    one, four = build(batch_size=1), build(batch_size=4)
    assert [s.seed for s in one.supports] == [s.seed for s in four.supports]
    for a, b in zip(one.prototypes, four.prototypes, strict=True):
        assert (a.role, a.kind, a.pixels, a.support) == (b.role, b.kind, b.pixels, b.support)
        np.testing.assert_allclose(a.vector, b.vector, rtol=1e-5)


def test_an_image_is_judged_among_all_and_not_among_those_of_its_batch():
    """The first two are weak beside the others, and one of them strong beside the other."""

    def faint(seed):
        image, attention = drawing(seed)
        return image, attention * 0.3

    special = {42: faint, 43: weak_attention}
    records = [build(ChosenModels(special), count=6, batch_size=size) for size in (1, 2, 6)]
    assert [[s.seed for s in record.supports] for record in records] == [[44, 45, 46, 47, 48, 49]] * 3
    assert [record.rejected for record in records] == [2, 2, 2]


# --------------------------------------------------------------------------- batches


def build_together(models, names, **settings):
    settings = SupportSettings(**{"count": 3, "steps": 2, "batch_size": 4, **settings})
    return list(build_classes(models, [ClassItem(name) for name in names], settings))


def same_class(one, other):
    assert (one.name, one.kind, one.seed, one.rejected) == (other.name, other.kind, other.seed, other.rejected)
    for a, b in zip(one.supports, other.supports, strict=True):
        assert a.seed == b.seed
        np.testing.assert_array_equal(a.image, b.image)
        np.testing.assert_array_equal(a.foreground, b.foreground)
    for a, b in zip(one.prototypes, other.prototypes, strict=True):
        assert (a.role, a.kind, a.pixels, a.support) == (b.role, b.kind, b.pixels, b.support)
        np.testing.assert_allclose(a.vector, b.vector, rtol=1e-5)


def test_classes_share_batches_and_are_made_as_each_alone():
    special = {43: black, 45: black}
    models = ChosenModels(special)
    made = build_together(models, ["cat", "dog", "car"])
    assert models.batches == [[42, 43, 44, 42], [45, 43, 44, 42], [46, 45, 43, 44], [46, 45], [46]]
    assert [call["phrase"] for call in models.calls] == [
        ("cat", "cat", "cat", "dog"),
        ("cat", "dog", "dog", "car"),
        ("cat", "dog", "car", "car"),
        ("dog", "car"),
        "car",
    ]
    assert models.calls[0]["prompt"][2:] == ("a good picture of a cat", "a good picture of a dog")
    assert [place for place, _ in made] == [0, 1, 2]
    for _, record in made:
        same_class(record, build(ChosenModels(special), record.name, count=3))


def test_a_class_that_cannot_be_made_leaves_those_beside_it():
    class Picky(ChosenModels):
        def _generate(self, prompt, phrase, seeds, **settings):
            made = super()._generate(prompt, phrase, seeds, **settings)
            names = [phrase] * len(seeds) if isinstance(phrase, str) else phrase
            made.images[torch.tensor([name == "dog" for name in names])] = 0
            return made

    models = Picky()
    made = dict(build_together(models, ["cat", "dog", "far too long", "car"]))
    assert [type(made[place]) for place in (1, 2)] == [GenerationError, UsageError]
    assert [made[place].name for place in (0, 3)] == ["cat", "car"]
    assert "far too long" not in {name for call in models.calls for name in call["phrase"]}
    with pytest.raises(GenerationError, match="Only 0 of 3"):
        build(Picky(), "dog", count=3)


class SmallDevice(ChosenModels):
    """Has memory for so many images at once."""

    def __init__(self, room, seeing=99):
        super().__init__()
        self.room, self.seeing = room, seeing

    def _generate(self, prompt, phrase, seeds, **settings):
        if len(seeds) > self.room:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.")
        return super()._generate(prompt, phrase, seeds, **settings)

    def features(self, extractor, images):
        if len(images) > self.seeing:
            raise torch.OutOfMemoryError("CUDA out of memory.")
        return super().features(extractor, images)


def test_where_memory_is_short_fewer_images_go_at_once_and_the_class_is_the_same(caplog):
    models = SmallDevice(room=3, seeing=1)
    record = build(models, count=5, batch_size=5)
    assert models.batches == [[42, 43, 44], [45, 46]]
    assert [text for text in caplog.messages if "memory" in text] == [
        f"out of memory: at most {size} images go together from now on" for size in (3, 2, 1)
    ]
    assert record.settings["batch_size"] == 3
    same_class(record, build(count=5, batch_size=5))
    with pytest.raises(GenerationError, match=r"one image at a time \(CUDA out of memory\)\. .*--device"):
        build(SmallDevice(room=0))


@pytest.mark.slow
def test_stuff_gives_no_background_prototypes():
    record = build(kind="stuff")
    assert (record.kind, record.kind_source) == ("stuff", "user")
    assert {p.role for p in record.prototypes} == {"fg"}
    named = build(name="wet grass")  # known by its last word
    assert (named.kind, named.kind_source) == ("stuff", "list")
    assert {p.role for p in named.prototypes} == {"fg"}
    assert (build().kind, build().kind_source) == ("thing", "clip")  # "thing" is on no list
    thing = {(p.kind, p.pixels) for p in build().prototypes if p.role == "fg"}
    assert {(p.kind, p.pixels) for p in record.prototypes} == thing


def test_settings_reach_the_generator_and_the_record():
    models = ChosenModels()
    record = build(models, name="apple", prompt="{article} {} on a table", steps=3, seed=7)
    (call,) = models.calls
    assert call["prompt"] == "an apple on a table"
    assert call["phrase"] == "apple"
    assert call["steps"] == 3
    assert call["guidance"] == MINI.generator.guidance
    assert call["image_size"] == MINI.generator.image_size
    assert call["negative_prompt"] == MINI.generator.negative_prompt
    assert call["min_attention_grid"] == MINI.generator.min_attention_grid
    assert (call["sampler"], call["spacing"]) == ("dpmsolver++", None)
    assert record.settings["sampler"] == "dpmsolver++"
    assert [s.seed for s in record.supports] == [7, 8, 9, 10]
    assert {s.prompt for s in record.supports} == {"an apple on a table"}
    assert record.seed == 7
    assert record.settings["steps"] == 3
    assert record.settings["mask_method"] == MINI.generator.mask_method
    assert 0 < record.settings["mask_low"] < record.settings["mask_high"] < 1
    json.dumps(record.settings, allow_nan=False)


@pytest.mark.slow
@pytest.mark.parametrize("seed", [2**31, 2**62])
def test_large_seeds_work(seed):
    record = build(seed=seed, count=2)
    assert [s.seed for s in record.supports] == [seed, seed + 1]


# --------------------------------------------------------------------------- settings and plan


@pytest.mark.parametrize(
    ("settings", "flag"),
    [
        ({"count": 0}, "--count"),
        ({"count": 513}, "--count"),
        ({"steps": 0}, "--steps"),
        ({"steps": 1001}, "--steps"),
        ({"seed": -1}, "--seed"),
        ({"seed": 2**62 + 1}, "--seed"),
        ({"batch_size": 0}, "--batch-size"),
        ({"prompt": "a picture"}, "prompt"),
        ({"prompt": ""}, "prompt"),
    ],
)
def test_settings_out_of_range_are_refused_before_anything_is_generated(settings, flag):
    models = ChosenModels()
    with pytest.raises(UsageError, match=flag):
        build_class(models, "cat", SupportSettings(**settings))
    with pytest.raises(UsageError, match=flag):
        plan_class(MINI, "cat", SupportSettings(**settings))
    assert models.batches == []


@pytest.mark.slow
def test_the_plan_says_what_is_then_done():
    models = ChosenModels()
    settings = SupportSettings(count=3, steps=2, seed=5, prompt="my {}", batch_size=2)
    plan = plan_class(MINI, "猫", settings)
    record = build_class(models, "猫", settings)
    assert plan["prompt"] == "my 猫" == record.supports[0].prompt
    assert plan["seeds"] == [5, 7] == [record.supports[0].seed, record.supports[-1].seed]
    drawn = ("prompt", "negative_prompt", "count", "steps", "guidance", "sampler", "image_size", "batch_size", "parts")
    for key in drawn:
        assert plan[key] == record.settings[key]
    assert plan["extractors"] == [e.name for e in record.extractors]
    json.dumps(plan)


def test_a_plan_without_settings_takes_the_profiles():
    generator = MINI.generator
    plan = plan_class(MINI, "cat", SupportSettings())
    assert (plan["count"], plan["steps"], plan["batch_size"]) == (
        generator.count,
        generator.steps,
        generator.batch_size,
    )
    assert plan["prompt"] == "a good picture of a cat"
    assert plan_class(get_profile("sd15"), "cat", SupportSettings())["prompt"] == "A good picture of a cat"


def test_a_name_with_braces_is_taken_literally():
    assert plan_class(MINI, "{article} cup", SupportSettings())["prompt"] == "a good picture of a {article} cup"


# --------------------------------------------------------------------------- progress


@pytest.mark.parametrize("special", [{}, {43: black, 44: black, 46: flat_attention}])
def test_progress_never_runs_backwards(special):
    told = []
    build_class(ChosenModels(special), "cat", SupportSettings(count=5, steps=3, batch_size=2), told.append)
    assert all(isinstance(p, Progress) for p in told)
    stages = [p.stage for p in told]
    assert list(dict.fromkeys(stages)) == ["generate", "features", "cluster"]
    generate = [p for p in told if p.stage == "generate"]
    done = [p.done for p in generate]
    assert done == sorted(done)
    assert 0 < done[0] < 1
    assert done[-1] == generate[-1].total == 5
    assert [p.rejected for p in told] == sorted(p.rejected for p in told)
    assert told[-1].rejected == len(special)
    features = [p.done for p in told if p.stage == "features"]
    assert features == [2, 4, 5] * len(MINI.extractors)
    assert told[-1].done == told[-1].total == len(MINI.extractors)


class StopError(BaseException):
    pass


@pytest.mark.parametrize("stage", ["generate", "features", "cluster"])
def test_an_exception_from_the_progress_ends_the_build(stage):
    def stop(progress):
        if progress.stage == stage:
            raise StopError

    with pytest.raises(StopError):
        build_class(ChosenModels(), "cat", SupportSettings(count=2, steps=1), stop)


# --------------------------------------------------------------------------- the user's own pictures


def own(seed, *, size=(48, 80), masked=True):
    """A red square on blue in a picture of any size, with its mask."""
    image = np.zeros((*size, 3), np.uint8)
    image[..., 2] = 130 + np.random.default_rng(seed).integers(0, 9, size)
    mask = np.zeros(size, bool)
    mask[8:24, 8 + 4 * seed : 24 + 4 * seed] = True
    image[mask] = (220, 10, 10)
    return OwnPicture(f"own{seed}", image, mask if masked else None, ~mask if masked else None)


def fg_mean(record, extractor=MINI.extractors[0]):
    (vector,) = [
        p.vector for p in record.prototypes if (p.role, p.kind, p.extractor) == ("fg", "mean", extractor.digest)
    ]
    return vector


def test_own_pictures_with_masks_need_no_generator():
    models = ChosenModels()
    pictures = [own(0), own(1, size=(64, 64)), own(2, size=(40, 200))]
    record = build_class(models, "thing", SupportSettings(kind="thing"), pictures=pictures)
    assert models.batches == []
    assert [s.image.shape for s in record.supports] == [p.image.shape for p in pictures]
    assert [s.seed for s in record.supports] == [None] * 3
    for support, picture in zip(record.supports, pictures, strict=True):
        np.testing.assert_array_equal(support.foreground, picture.foreground)
        np.testing.assert_array_equal(support.attribution, picture.foreground.astype(np.float32))
    assert record.settings["source"] == "own pictures"
    assert record.settings["pictures"] == ["own0", "own1", "own2"]
    red, _, blue = fg_mean(record)
    assert red > 0.6 > blue
    assert {p.support for p in record.prototypes if p.kind == "instance"} == {0, 1, 2}


class SeeingModels(ChosenModels):
    """Their generator attends to what is red in a given picture."""

    @property
    def generator(self):
        return SimpleNamespace(generate=self._generate, attribution=self._attend)

    def _attend(self, images, prompt, phrase, **settings):
        self.calls.append({"prompt": prompt, "phrase": phrase, **settings})
        red = (images[:, 0] - images[:, 2]).clamp(min=0)
        return torch.nn.functional.avg_pool2d(red, 4) * 0.3 + 0.01


def test_own_pictures_without_masks_are_cut_out_by_attention_and_useless_ones_are_told(caplog):
    models = SeeingModels()
    blank = OwnPicture("blank", np.full((30, 30, 3), 90, np.uint8))
    blue = OwnPicture(
        "blue",
        np.stack([np.zeros((30, 30)), np.zeros((30, 30)), np.tile(np.arange(30) * 8, (30, 1))], -1).astype(np.uint8),
    )
    pictures = [own(0, masked=False), blank, own(2, masked=False), blue]
    record = build_class(models, "mug", SupportSettings(kind="thing", batch_size=2), pictures=pictures)
    assert record.settings["pictures"] == ["own0", "own2"]
    assert record.settings["left_out"] == {"blank": "blank image", "blue": "flat attention"}
    assert "blank is left out of 'mug': blank image" in caplog.text
    assert record.rejected == 2
    assert models.calls[0]["prompt"] == "a good picture of a mug"
    for support, number in zip(record.supports, (0, 2), strict=True):
        true = own(number).foreground
        assert (support.foreground & true).sum() / (support.foreground | true).sum() > 0.5
    with pytest.raises(GenerationError, match=r"None of the 2 pictures of 'mug'.*--masks"):
        build_class(models, "mug", SupportSettings(kind="thing"), pictures=[blank, blue])


def test_an_object_of_one_pixel_makes_a_class():
    image = np.full((64, 64, 3), 40, np.uint8)
    mask = np.zeros((64, 64), bool)
    mask[21, 37] = True
    record = build_class(
        ChosenModels(), "dot", SupportSettings(kind="thing", parts=32), pictures=[OwnPicture("dot", image, mask, ~mask)]
    )
    counts = {(p.role, p.kind): p.pixels for p in record.prototypes if p.extractor == MINI.extractors[0].digest}
    assert counts["fg", "mean"] == counts["fg", "part"] == 1  # one part only, though 32 are allowed


# --------------------------------------------------------------------------- extending


def test_extending_pools_old_and_new_images_together_and_draws_new_ones():
    models = ChosenModels()
    first = build(models, kind="thing")
    longer = build_class(models, "thing", SupportSettings(count=2, steps=2, batch_size=4), existing=first)
    assert [s.seed for s in longer.supports] == [42, 43, 44, 45, 46, 47]
    assert [s.position for s in longer.supports] == [0, 1, 2, 3, 4, 5]
    for old, kept in zip(first.supports, longer.supports, strict=False):
        assert kept is old
    at_once = build(ChosenModels(), kind="thing", count=6, batch_size=6)
    instances = [p.vector for p in longer.prototypes if p.kind == "instance"]
    for ours, theirs in zip(instances, (p.vector for p in at_once.prototypes if p.kind == "instance"), strict=True):
        np.testing.assert_allclose(ours, theirs, atol=0.05)  # the thresholds are those of six maps there
    assert (longer.kind, longer.kind_source, longer.seed) == ("thing", "user", 42)
    assert [e["count"] for e in longer.settings["extended"]] == [2]
    again = build_class(models, "thing", SupportSettings(count=1, steps=2), existing=longer)
    assert [s.seed for s in again.supports][-1] == 48
    assert [e["count"] for e in again.settings["extended"]] == [2, 1]


def test_extending_generated_images_by_own_pictures():
    first = build(kind="thing")
    longer = build_class(ChosenModels(), "thing", SupportSettings(), pictures=[own(1)], existing=first)
    assert [s.seed for s in longer.supports] == [42, 43, 44, 45, None]
    assert longer.supports[-1].position == 4
    assert {p.support for p in longer.prototypes if p.kind == "instance"} == {0, 1, 2, 3, 4}
    assert longer.settings["prompt"] == first.settings["prompt"]
    assert longer.settings["extended"][0]["pictures"] == ["own1"]


def test_a_seed_that_was_drawn_already_is_refused():
    first = build(kind="thing")
    with pytest.raises(UsageError, match=r"seed 45 already.*--seed 46"):
        build_class(ChosenModels(), "thing", SupportSettings(seed=45, count=2), existing=first)


def test_an_imported_class_with_smaller_images_cannot_be_extended():
    first = build(kind="thing")
    settings = first.settings | {"imported": [{"file": "a.ovclass", "images": "scaled down"}]}
    with pytest.raises(UsageError, match=r"'thing' were scaled down.*--image-side.*--if-exists replace"):
        build_class(ChosenModels(), "thing", SupportSettings(), existing=dataclasses.replace(first, settings=settings))


def test_extending_keeps_to_the_extractors_of_the_class():
    only = build(kind="thing", extractors=("clip",))
    assert [e.name for e in only.extractors] == ["clip"]
    longer = build_class(ChosenModels(), "thing", SupportSettings(count=1, steps=1), existing=only)
    assert [e.name for e in longer.extractors] == ["clip"]
    stranger = dataclasses.replace(only.extractors[0], digest="0" * 64)
    lost = dataclasses.replace(only, extractors=(stranger,), prototypes=())
    with pytest.raises(ProfileMismatchError, match="--if-exists replace"):
        build_class(ChosenModels(), "thing", SupportSettings(count=1, steps=1), existing=lost)


# --------------------------------------------------------------------------- the bundled models


def test_a_class_of_the_bundled_models_from_end_to_end():
    record = build_class(mini_models(), "chocolate glazed donut", SupportSettings(count=2, steps=2, seed=1))
    assert record.name == "chocolate glazed donut"
    assert len(record.supports) == 2
    for support in record.supports:
        assert support.image.shape == (64, 64, 3)
        assert support.prompt == "a good picture of a chocolate glazed donut"
    dims = {e.name: e.dim for e in record.extractors}
    assert set(dims) == {"sd", "clip"}
    for p in record.prototypes:
        assert np.isfinite(p.vector).all()
    again = build_class(mini_models(), "chocolate glazed donut", SupportSettings(count=2, steps=2, seed=1))
    for a, b in zip(record.prototypes, again.prototypes, strict=True):
        np.testing.assert_array_equal(a.vector, b.vector)
    assert dataclasses.asdict(record.supports[0])["seed"] == record.supports[0].seed


@pytest.mark.slow
def test_prototypes_of_two_classes_differ_more_than_those_of_two_halves_of_one():
    def mean(name, seed, extractor):
        record = halves[name, seed]
        (vector,) = [
            p.vector for p in record.prototypes if (p.role, p.kind, p.extractor) == ("fg", "mean", extractor.digest)
        ]
        return vector / np.linalg.norm(vector)

    halves = {
        (name, seed): build_class(mini_models(), name, SupportSettings(count=3, steps=8, seed=seed))
        for name in ("cat", "banana")
        for seed in (1, 100)
    }
    for extractor in MINI.extractors:
        same = min(mean(n, 1, extractor) @ mean(n, 100, extractor) for n in ("cat", "banana"))
        other = mean("cat", 1, extractor) @ mean("banana", 1, extractor)
        assert same > other


def test_the_class_that_other_tests_use_has_masks_of_sensible_size():
    for support in mini_class("cat").supports:
        assert 0.02 < support.foreground.mean() < 0.6
        assert support.background.mean() > 0.1


@pytest.mark.slow
def test_pooled_anew_a_class_stays_what_it_was():
    """Of all its images it has the same prototypes, bit for bit; of fewer, the same instances of these."""
    models = ChosenModels()
    made = build_class(models, "thing", SupportSettings(count=5, steps=1, seed=3, parts=2))
    steps = []
    again = repool_class(models, dataclasses.replace(made, prototypes=()), steps.append)
    assert len(again.prototypes) == len(made.prototypes)
    for one, other in zip(again.prototypes, made.prototypes, strict=True):
        np.testing.assert_array_equal(one.vector, other.vector)
        assert (one.extractor, one.role, one.kind, one.pixels, one.support) == (
            other.extractor,
            other.role,
            other.kind,
            other.pixels,
            other.support,
        )
    assert {step.stage for step in steps} == {"features", "cluster"}
    drawn = len(models.batches)

    fewer = dataclasses.replace(made, supports=(made.supports[0], made.supports[3]), prototypes=())
    pooled = repool_class(models, fewer)
    assert len(models.batches) == drawn, "nothing is drawn"
    assert {p.support for p in pooled.prototypes} == {None, 0, 3}
    kept = {p.support: p.vector for p in pooled.prototypes if (p.kind, p.role) == ("instance", "fg")}
    was = {p.support: p.vector for p in made.prototypes if (p.kind, p.role) == ("instance", "fg")}
    for position in (0, 3):
        np.testing.assert_array_equal(kept[position], was[position])
    assert pooled.settings == fewer.settings
    assert pooled.supports == fewer.supports


@pytest.mark.slow
def test_pooled_anew_from_images_without_the_object():
    made = build_class(ChosenModels(), "thing", SupportSettings(count=2, steps=1))
    empty = [dataclasses.replace(s, foreground=np.zeros_like(s.foreground)) for s in made.supports]
    with pytest.raises(GenerationError, match="Keep an image that shows it"):
        repool_class(ChosenModels(), dataclasses.replace(made, supports=tuple(empty), prototypes=()))
