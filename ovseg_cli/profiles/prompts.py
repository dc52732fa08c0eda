"""Prompt templates: the texts that a model reads for a class name.

Sets are published with CLIP and with methods, all with a fixed article, whatever the name begins with. A profile whose
model was trained on other captions has templates of its own, in which ``{article}`` is "a" or "an".
"""

from __future__ import annotations

import functools
import importlib.util
import runpy
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal, get_args

from ovseg_cli.names import unknown_choice

TemplateSet = Literal["single", "imagenet", "imagenet-scene", "short", "car"]
TEMPLATE_SETS: tuple[TemplateSet, ...] = get_args(TemplateSet)


CAR_TEMPLATES = (
    "a clean origami {name}.",
    "a photo of a {name}.",
    "This is a photo of a {name}",
    "There is a {name} in the scene",
    "There is the {name} in the scene",
    "a photo of a {name} in the scene",
    *(f"a photo of a {size} {{name}}." for size in ("small", "medium", "large")),
    *(f"This is a photo of a {size} {{name}}." for size in ("small", "medium", "large")),
    *(f"There is a {size} {{name}} in the scene." for size in ("small", "medium", "large")),
)
"""The prompts of CaR (Sun et al., "CLIP as RNN", CVPR 2024), which CLIPer takes."""

SCENE_TEMPLATES = (
    *(f"there is {article} {{name}} in the scene." for article in ("a", "the")),
    *(f"this is {article} {{name}} in the scene." for article in ("a", "the", "one")),
)
"""What ViLD (Gu et al., ICLR 2022) adds to the 80; MaskCLIP and CLIP Surgery take all 85."""


def fill_prompt(template: str, name: str) -> str:
    """A prompt template with its ``{name}`` and ``{article}`` ("a" or "an", by the first letter) filled in."""
    article = "an" if name[:1].lower() in tuple("aeiou") else "a"
    return template.replace("{article}", article).replace("{name}", name)


def fill_prompts(templates: Sequence[str], name: str) -> list[str]:
    """Every text that stands for a name, in the order of the templates."""
    return [fill_prompt(template, name) for template in templates]


@functools.cache
def prompt_templates(which: TemplateSet) -> tuple[str, ...]:
    """The templates of a published set, each with ``{name}``.

    Args:
        which: "single" is "a photo of a {name}."; "imagenet" the 80 of CLIP's zero-shot notebook (Radford et al.,
            "Learning Transferable Visual Models From Natural Language Supervision", 2021, section 3.1.4);
            "imagenet-scene" these and `SCENE_TEMPLATES`; "short" the seven of them that the notebook found to do most
            of the work; "car" is `CAR_TEMPLATES`.

    Raises:
        UsageError: No such set.
    """
    if which not in TEMPLATE_SETS:
        raise unknown_choice("set of prompt templates", which, TEMPLATE_SETS, heading="Sets")
    if which == "single":
        return ("a photo of a {name}.",)
    if which == "car":
        return CAR_TEMPLATES
    published = _published_by_open_clip()
    functions = published["SIMPLE_IMAGENET_TEMPLATES" if which == "short" else "OPENAI_IMAGENET_TEMPLATES"]
    templates = tuple(fill("{name}") for fill in functions)
    return (*templates, *SCENE_TEMPLATES) if which == "imagenet-scene" else templates


def _published_by_open_clip() -> dict[str, Any]:
    """What stands in one file of open_clip, the whole of which takes seconds to import."""
    package = importlib.util.find_spec("open_clip")
    if package is None or package.origin is None:
        raise ModuleNotFoundError("No module named 'open_clip'")
    return runpy.run_path(str(Path(package.origin).with_name("zero_shot_metadata.py")))


def resolve_templates(asked: TemplateSet | None, own: Sequence[str] | None, default: TemplateSet) -> tuple[str, ...]:
    """The templates that a method's words are put into.

    Args:
        asked: The set that the user asked for; it goes before everything else.
        own: The profile's templates, which its CLIP was trained on; None where any published set will do.
        default: The set of the method's published numbers.

    Raises:
        UsageError: No such set.
    """
    if asked is None and own is not None:
        return tuple(own)
    return prompt_templates(default if asked is None else asked)
