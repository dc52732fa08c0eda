from __future__ import annotations

import pytest

from examples.mini_pack import vocabulary as v


def test_every_word_means_one_thing() -> None:
    words = [word for thing in v.THINGS for word in (thing.name, *thing.aliases)] + list(v.STUFF_NAMES)
    assert len(words) == len(set(words))
    assert len({thing.glyph for thing in v.THINGS}) == len(v.THINGS) == 44
    assert len(v.STUFF) == 8


def test_label_ids_start_at_background_and_have_no_gap() -> None:
    assert v.LABEL_NAMES[0] == "background"
    assert [v.LABEL_IDS[name] for name in v.LABEL_NAMES] == list(range(53))


@pytest.mark.parametrize("word", ["doughnut", "donut", "chocolate glazed donut"])
def test_aliases_find_the_same_thing(word: str) -> None:
    assert v.find_thing(word).name == "doughnut"


def test_unknown_names_are_told_with_the_known_ones() -> None:
    with pytest.raises(ValueError, match=r"'wolf'.*cat, dog"):
        v.find_thing("wolf")
