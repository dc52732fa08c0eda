"""Prompt templates: the texts that a model reads for a class name.

Three sets are published with CLIP, all with a fixed article, whatever the name begins with. A profile whose model was
trained on other captions has templates of its own, in which ``{article}`` is "a" or "an".
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import Literal, get_args

from ovseg_cli.errors import UsageError

TemplateSet = Literal["single", "imagenet", "short"]
TEMPLATE_SETS: tuple[TemplateSet, ...] = get_args(TemplateSet)


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
            "Learning Transferable Visual Models From Natural Language Supervision", 2021, section 3.1.4); "short" the
            seven of them that the notebook found to do most of the work.

    Raises:
        UsageError: No such set.
    """
    if which not in TEMPLATE_SETS:
        raise UsageError(f"Unknown set of prompt templates {which!r}. Sets: {', '.join(TEMPLATE_SETS)}.")
    if which == "single":
        return ("a photo of a {name}.",)
    import open_clip  # takes seconds

    functions = open_clip.OPENAI_IMAGENET_TEMPLATES if which == "imagenet" else open_clip.SIMPLE_IMAGENET_TEMPLATES
    return tuple(fill("{name}") for fill in functions)


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
