from __future__ import annotations

import subprocess
import sys
from typing import get_args

import pytest
import torch
from torch.nn import functional as F

from examples.mini_pack.vocabulary import STUFF_NAMES, THING_NAMES
from ovseg_cli.prototypes import kinds
from ovseg_cli.prototypes.kinds import describe_source, listed_kind, listed_words, resolve_kind, similar_kind
from ovseg_cli.store.records import KindSource
from tests.mini import mini_models

COCO_THINGS = """person, bicycle, car, motorcycle, airplane, bus, train, truck, boat, traffic light, fire hydrant,
stop sign, parking meter, bench, bird, cat, dog, horse, sheep, cow, elephant, bear, zebra, giraffe, backpack, umbrella,
handbag, tie, suitcase, frisbee, skis, snowboard, sports ball, kite, baseball bat, baseball glove, skateboard,
surfboard, tennis racket, bottle, wine glass, cup, fork, knife, spoon, bowl, banana, apple, sandwich, orange,
broccoli, carrot, hot dog, pizza, donut, cake, chair, couch, potted plant, bed, dining table, toilet, tv,
laptop, mouse, remote, keyboard, cell phone, microwave, oven, toaster, sink, refrigerator, book, clock, vase,
scissors, teddy bear, hair drier, toothbrush"""

COCO_STUFF = """banner, blanket, branch, bridge, building-other, bush, cabinet, cage, cardboard, carpet, ceiling-other,
ceiling-tile, cloth, clothes, clouds, counter, cupboard, curtain, desk-stuff, dirt, door-stuff, fence,
floor-marble, floor-other, floor-stone, floor-tile, floor-wood, flower, fog, food-other, fruit, furniture-other,
grass, gravel, ground-other, hill, house, leaves, light, mat, metal, mirror-stuff, moss, mountain, mud, napkin,
net, paper, pavement, pillow, plant-other, plastic, platform, playingfield, railing, railroad, river, road,
rock, roof, rug, salad, sand, sea, shelf, sky-other, skyscraper, snow, solid-other, stairs, stone, straw,
structural-other, table, tent, textile-other, towel, tree, vegetable, wall-brick, wall-concrete, wall-other,
wall-panel, wall-stone, wall-tile, wall-wood, water-other, waterdrops, window-blind, window-other, wood"""

VOC = """aeroplane, bicycle, bird, boat, bottle, bus, car, cat, chair, cow, diningtable, dog, horse, motorbike, person,
pottedplant, sheep, sofa, train, tvmonitor"""

CONTEXT_STUFF = """bedclothes, building, cabinet, ceiling, cloth, curtain, door, fence, floor, flower, food, grass,
ground, mountain, platform, road, rock, shelves, sidewalk, sky, snow, track, tree, wall, water, window, wood"""

ADE_STUFF = """wall, building, sky, floor, tree, ceiling, road, grass, sidewalk, earth, mountain, plant, water, sea,
field, rock, sand, path, runway, river, dirt track, land, lake"""

ADE_THINGS = "person, car, painting, sofa, lamp, bathtub, refrigerator, book, boat, bus, truck, airplane, bottle, vase"


def split(text):
    return [" ".join(name.split()) for name in text.split(",")]


# --------------------------------------------------------------------------- the list


def test_the_list_has_the_split_of_coco_stuff():
    things, stuff = split(COCO_THINGS), split(COCO_STUFF)
    assert (len(things), len(stuff)) == (80, 91)
    assert [name for name in things if listed_kind(name) != "thing"] == []
    assert [name for name in stuff if listed_kind(name) != "stuff"] == []


@pytest.mark.parametrize(
    ("names", "kind"),
    [(VOC, "thing"), (CONTEXT_STUFF, "stuff"), (ADE_STUFF, "stuff"), (ADE_THINGS, "thing")],
    ids=["voc", "context", "ade-stuff", "ade-things"],
)
def test_the_classes_of_other_benchmarks_are_listed(names, kind):
    assert [name for name in split(names) if listed_kind(name) != kind] == []


def test_no_word_is_listed_twice():
    words = [
        " ".join(kinds._words(word))
        for line in kinds.WORD_LIST.read_text(encoding="utf-8").splitlines()
        if line and line[0] not in "#["
        for word in line.split(",")
    ]
    assert sorted(words) == sorted(set(words))
    assert "" not in words
    assert set(words) == set(listed_words())


def plural(word):
    if word.endswith(("s", "sh", "ch", "x", "z")):
        return f"{word}es"
    return f"{word[:-1]}ies" if word.endswith("y") and word[-2] not in "aeiou" else f"{word}s"


def test_every_listed_word_has_its_own_kind_in_the_singular_and_the_plural():
    for word, kind in listed_words().items():
        assert listed_kind(word) == kind
        assert listed_kind(word.upper()) == kind
        assert listed_kind(plural(word)) == kind


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("chocolate glazed donut", "thing"),
        ("grass snake", "thing"),
        ("wet grass", "stuff"),
        ("old brick wall", "stuff"),
        ("stuffed animal", "thing"),
        ("potted plant", "thing"),
        ("climbing plant", "stuff"),
        ("coffee cup", "thing"),
        ("coffee", "stuff"),
        ("hot dog", "thing"),
        ("traffic lights", "thing"),
        ("window-blind", "stuff"),
        ("a cat", "thing"),
        ("The Sky", "stuff"),
        ("brick_wall", "stuff"),
        ("CAT!", "thing"),
        ("ｃａｔ", "thing"),
    ],
)
def test_the_longest_listed_ending_decides(name, kind):
    assert listed_kind(name) == kind


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("man in a suit", "thing"),
        ("house of stone", "stuff"),
        ("bowl of soup", "thing"),
        ("dog with a red ball on grass", "thing"),
        ("field of sunflowers", "stuff"),
        ("body of water", "stuff"),
        ("slice of bread", "stuff"),
        ("pair of old shoes", "thing"),
        ("herds of elephants on sand", "thing"),
        ("row of rows of trees", "stuff"),
    ],
)
def test_the_head_noun_is_before_the_preposition_or_behind_a_quantity(name, kind):
    assert listed_kind(name) == kind


@pytest.mark.parametrize(
    ("plural", "kind"),
    [
        ("buses", "thing"),
        ("knives", "thing"),
        ("loaves", None),
        ("cherries", "thing"),
        ("shelves", "stuff"),
        ("potatoes", "thing"),
        ("glasses", "thing"),
        ("women", "thing"),
        ("mice", "thing"),
        ("leaves", "stuff"),
        ("brick walls", "stuff"),
        ("grasses", "stuff"),
        ("dunes", "stuff"),
    ],
)
def test_plurals(plural, kind):
    assert listed_kind(plural) == kind


@pytest.mark.parametrize("name", ["gizmo", "猫", "🐱", "кот", "", " ", "of", "the", "in of on", "ss", "s", "'", "..."])
def test_what_is_not_listed(name):
    assert listed_kind(name) is None


# --------------------------------------------------------------------------- CLIP


class Compass:
    """Embeds words by the directions that it is given, all others straight up."""

    def __init__(self, **directions):
        self.directions = {name.replace("_", " "): torch.tensor(at) for name, at in directions.items()}
        self.asked = []

    def embed_text(self, names, prompts):
        self.asked += names
        up = torch.tensor([0.0, 1.0])
        return F.normalize(torch.stack([self.directions.get(name, up) for name in names]), dim=1)


def test_listed_names_ask_no_model():
    assert resolve_kind("wet grass", None) == ("stuff", "list")
    assert resolve_kind("Cat", None) == ("thing", "list")


def test_without_a_model_an_unlisted_name_is_a_thing():
    assert resolve_kind("gizmo", None) == ("thing", "default")


def test_the_nearest_listed_words_vote():
    near = {name: (1.0, 0.1 * i) for i, name in enumerate(["sand", "mud", "snow", "gravel", "dog", "cat", "cow"])}
    assert len(near) == kinds.NEIGHBOURS
    compass = Compass(regolith=(1.0, 0.0), **near)
    assert resolve_kind("regolith", compass.embed_text) == ("stuff", "clip")
    assert set(compass.asked) == {"regolith", *listed_words()}
    most = {name: (1.0, 0.1 * i) for i, name in enumerate(["sand", "mud", "snow", "cat", "dog", "cow", "bus"])}
    assert resolve_kind("gizmo", Compass(gizmo=(1.0, 0.0), **most).embed_text) == ("thing", "clip")


def test_a_vote_weighs_what_its_cosine_is():
    known = {"far": "thing", "farther": "thing", "near": "stuff"}
    embed = Compass(x=(1.0, 0.0), near=(1.0, 0.0), far=(0.1, 1.0), farther=(0.1, -1.0)).embed_text
    assert similar_kind("x", embed, known) == "stuff"
    assert similar_kind("x", embed, {**known, "opposite": "thing", "opposed": "stuff"}) == "stuff"
    assert similar_kind("x", embed, {"far": "thing"}) == "thing"


def test_the_bundled_clip_knows_the_kinds_of_its_words():
    """Leave one out, over the words that the bundled model has seen: it knows no others."""
    world = {**dict.fromkeys(THING_NAMES, "thing"), **dict.fromkeys(STUFF_NAMES, "stuff")}
    embed = mini_models().clip.embed_text
    right = [
        similar_kind(name, embed, {word: kind for word, kind in world.items() if word != name}) == kind
        for name, kind in world.items()
    ]
    assert sum(right) >= 50


# --------------------------------------------------------------------------- the rest


def test_every_source_is_described():
    assert len({describe_source(source) for source in get_args(KindSource)}) == len(get_args(KindSource))


@pytest.mark.slow
def test_looking_a_name_up_loads_no_model_code():
    code = "import sys; from ovseg_cli.prototypes.kinds import listed_kind; sys.exit('torch' in sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)
