from __future__ import annotations

import hashlib
import subprocess
import sys

import pytest

from ovseg_cli.errors import UsageError
from ovseg_cli.profiles import get_profile
from ovseg_cli.profiles.prompts import TEMPLATE_SETS, fill_prompts, prompt_templates, resolve_templates


@pytest.mark.parametrize(("which", "count"), [("single", 1), ("imagenet", 80), ("short", 7), ("car", 15)])
def test_the_sets_have_their_published_sizes_and_place_the_name_once(which, count):
    templates = prompt_templates(which)
    assert len(templates) == len(set(templates)) == count
    for template in templates:
        assert template.count("{name}") == 1
        assert "{article}" not in template
        assert template.replace("{name}", "").isascii()


def test_the_sets_are_known_facts_of_the_zero_shot_notebook():
    imagenet = prompt_templates("imagenet")
    assert imagenet[0] == "a bad photo of a {name}."
    assert imagenet[-1] == "a tattoo of the {name}."
    assert prompt_templates("single") == ("a photo of a {name}.",)
    assert prompt_templates("single")[0] in imagenet
    assert prompt_templates("short") == (
        "itap of a {name}.",
        "a bad photo of the {name}.",
        "a origami {name}.",
        "a photo of the large {name}.",
        "a {name} in a video game.",
        "art of the {name}.",
        "a photo of the small {name}.",
    )
    assert set(prompt_templates("short")) <= set(imagenet)


def test_the_eighty_stay_as_they_are():
    """They come from a library: if it changes them, embeddings that are kept are those of other texts."""
    joined = "\n".join(prompt_templates("imagenet"))
    assert hashlib.sha256(joined.encode()).hexdigest()[:16] == "8a5e7375483a6a2c"


@pytest.mark.parametrize("which", TEMPLATE_SETS)
@pytest.mark.parametrize("name", ["cat", "apple", "猫", "{article} {name}", "{}", "%s {0}"])
def test_published_templates_are_filled_as_pythons_format_does(which, name):
    expected = [template.replace("{name}", "{}").format(name) for template in prompt_templates(which)]
    assert fill_prompts(prompt_templates(which), name) == expected


def test_an_article_is_only_where_a_template_asks_for_it():
    assert fill_prompts(["a photo of {article} {name}", "a photo of a {name}."], "apple") == [
        "a photo of an apple",
        "a photo of a apple.",
    ]


def test_the_user_goes_before_the_profile_and_the_profile_before_the_method():
    own = get_profile("mini").clip.prompts
    assert own is not None
    assert resolve_templates(None, own, "imagenet") == own
    assert resolve_templates("short", own, "imagenet") == prompt_templates("short")
    assert resolve_templates(None, None, "imagenet") == prompt_templates("imagenet")
    assert resolve_templates("single", None, "imagenet") == prompt_templates("single")


def test_an_unknown_set_is_refused_with_the_names_of_those_there_are():
    with pytest.raises(UsageError, match=r"'bus'.*single, imagenet, imagenet-scene, short, car"):
        prompt_templates("bus")


def test_open_clip_is_not_imported_for_its_templates_which_are_its_own():
    import open_clip

    functions = open_clip.OPENAI_IMAGENET_TEMPLATES
    assert prompt_templates("imagenet") == tuple(fill("{name}") for fill in functions)
    code = (
        "import sys; from ovseg_cli.profiles.prompts import prompt_templates; "
        "assert len(prompt_templates('short')) == 7; assert not {'open_clip', 'torch'} & sys.modules.keys()"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
