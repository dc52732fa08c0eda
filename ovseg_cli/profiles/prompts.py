"""Filling prompt templates."""

from __future__ import annotations


def fill_prompt(template: str, name: str) -> str:
    """A prompt template with its ``{name}`` and ``{article}`` ("a" or "an", by the first letter) filled in."""
    article = "an" if name[:1].lower() in tuple("aeiou") else "a"
    return template.replace("{article}", article).replace("{name}", name)
