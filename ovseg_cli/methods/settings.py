"""What a method that reads words is run with: its published settings, unless the profile's CLIP has its own."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields, replace
from typing import Any

from ovseg_cli.errors import UsageError
from ovseg_cli.methods.catalogue import METHODS, Method
from ovseg_cli.names import did_you_mean
from ovseg_cli.profiles import Profile
from ovseg_cli.profiles.prompts import TemplateSet, resolve_templates
from ovseg_cli.profiles.specs import DenseDefaults

_COMMON = frozenset(field.name for field in fields(DenseDefaults))


def dense_settings(profile: Profile, method: str, row: str | None = None, *, background: bool = True) -> DenseDefaults:
    """What a method that reads words is run with.

    Args:
        profile: The profile.
        method: One of `ovseg_cli.methods.catalogue.METHODS` that has settings.
        row: The data set whose settings are wanted; None for PASCAL VOC's, with or without background, or for what
            the method has instead.
        background: Whether pixels may belong to none of the classes.

    Raises:
        UsageError: The method has no such row, or the profile has settings of its own.
    """
    info = METHODS[method]
    if info.trained:
        if row is not None:
            raise UsageError("A trained head brings settings of its own. Leave out --settings.")
        settings = info.settings["trained"]
        return settings if background else replace(settings, background_words=(), threshold=None)
    if profile.clip.dense is not None:
        if row is not None:
            raise UsageError(
                f"The profile {profile.name!r} has settings of its own, as its models have another size than the "
                "published ones. Leave out --settings, or take another --profile."
            )
        return _own_settings(profile, method, profile.clip.dense, background=background)
    rows = info.rows(large=profile.clip.large)
    if row is None:
        return _usual(rows, background=background)
    if row not in rows:
        raise UsageError(
            f"{info.title} has no published settings {row!r}.{did_you_mean(row, rows)} It has: {', '.join(rows)}."
        )
    return rows[row]


def _usual(rows: Mapping[str, DenseDefaults], *, background: bool) -> DenseDefaults:
    """The settings for PASCAL VOC, or what the method has instead."""
    likely = ("voc21",) if background else ("voc20", "context59")
    return rows[next((name for name in likely if name in rows), next(iter(rows)))]


def _own_settings(profile: Profile, method: str, own: DenseDefaults, *, background: bool) -> DenseDefaults:
    """A profile's own settings, as a method needs them."""
    info: Method = METHODS[method]
    if info.reads in ("names", "regions"):
        # Windows are for CLIP. A diffusion model that looks for classes finds every one in every window,
        # and regions are those of the whole picture.
        side = profile.generator.phrase_side
        own = replace(own, windows=(), whole_image=True, short_side=side, squash=side)
    published = _usual(info.rows(large=profile.clip.large), background=background)
    if type(published) is DenseDefaults:
        settings = own if background else replace(own, background_words=(), threshold=None)
    else:  # what it has beyond the others stays as published, and so does a threshold on scores of another kind
        settings = replace(published, **{name: getattr(own, name) for name in _COMMON - {"threshold"}})
    tuned: dict[str, Any] = {}
    for tuning in profile.clip.tuned:
        if method in tuning.methods and background:
            tuned |= dict(tuning.values)
    return replace(settings, **tuned)


def templates_for(profile: Profile, settings: DenseDefaults, asked: TemplateSet | None) -> tuple[str, ...]:
    """The prompt templates: as asked, else the profile's own, else the method's."""
    return resolve_templates(asked, profile.clip.prompts, settings.templates)
