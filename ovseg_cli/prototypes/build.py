"""One class, from its name to a record that the store can take: what ``add-class`` does."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from importlib.metadata import version
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import torch

from ovseg_cli.errors import GenerationError, UsageError
from ovseg_cli.models import Models
from ovseg_cli.profiles import ExtractorSpec, Profile
from ovseg_cli.profiles.prompts import fill_prompt
from ovseg_cli.prototypes.masks import (
    Thresholds,
    class_thresholds,
    masks_from_attribution,
    minmax,
    normalise_attribution,
)
from ovseg_cli.prototypes.pooling import PrototypePool, masks_to_grid
from ovseg_cli.prototypes.quality import find_degenerate
from ovseg_cli.store.records import ClassRecord, ExtractorRecord, PrototypeRecord, Role, SupportRecord

MAX_ATTEMPTS_PER_IMAGE = 3
"""Generation gives up after this many images per image asked for."""

MAX_COUNT = 512


@dataclass(frozen=True, slots=True, kw_only=True)
class SupportSettings:
    """How one class's support set is made; None means the profile's default.

    Attributes:
        count: Support images.
        steps: Sampler steps.
        seed: Seed of the first image; image i has seed + i.
        prompt: Template with ``{name}`` (or ``{}``), and optionally ``{article}``.
        kind: "thing" (an object, the default) or "stuff" (an amorphous region, which gives no background prototypes).
        batch_size: Images generated at once; it changes memory and speed, not the images.
    """

    count: int | None = None
    steps: int | None = None
    seed: int | None = None
    prompt: str | None = None
    kind: Literal["thing", "stuff"] | None = None
    batch_size: int | None = None


@dataclass(frozen=True, slots=True)
class Progress:
    """Where `build_class` is.

    Attributes:
        stage: "generate" counts usable images (with fractions of the running batch), "features" counts images per
            extractor, "cluster" counts extractors.
        done: How far.
        total: Of how many.
        rejected: Degenerate images so far.
    """

    stage: Literal["generate", "features", "cluster"]
    done: float
    total: int
    rejected: int


@dataclass(frozen=True, slots=True)
class _Plan:
    """`SupportSettings` with every default filled in and checked."""

    name: str
    prompt: str
    count: int
    steps: int
    seed: int
    kind: Literal["thing", "stuff"]
    kind_source: Literal["user", "default"]
    batch_size: int


@dataclass(frozen=True, slots=True)
class _SupportSet:
    """Accepted images: seeds (N,), uint8 (N, H, W, 3), raw attention float32 (N, g, g); and what was thrown away."""

    seeds: list[int]
    images: npt.NDArray[np.uint8]
    attention: npt.NDArray[np.float32]
    rejected: list[str]


def plan_class(profile: Profile, name: str, settings: SupportSettings) -> dict[str, Any]:
    """What `build_class` would do, without loading a model.

    Raises:
        UsageError: A setting is out of range, or the prompt does not mention the class.
    """
    plan = _plan(profile, name, settings)
    return {
        "name": name,
        "profile": profile.name,
        "prompt": plan.prompt,
        "negative_prompt": profile.generator.negative_prompt,
        "count": plan.count,
        "steps": plan.steps,
        "guidance": profile.generator.guidance,
        "image_size": profile.generator.image_size,
        "seeds": [plan.seed, plan.seed + plan.count - 1],
        "kind": plan.kind,
        "batch_size": plan.batch_size,
        "parts": profile.generator.parts,
        "extractors": [extractor.name for extractor in profile.extractors],
    }


def build_class(
    models: Models,
    name: str,
    settings: SupportSettings,
    progress: Callable[[Progress], None] | None = None,
) -> ClassRecord:
    """Generate a support set, cut out the object, and pool prototypes for every extractor of the profile.

    Args:
        models: The profile's models.
        name: A class name that the store accepts (see `ovseg_cli.store.names`).
        settings: Overrides of the profile's defaults.
        progress: Told about every step; an exception raised inside it ends the build, and nothing is kept.

    Returns:
        The record, held in memory; nothing is written.

    Raises:
        UsageError: A setting is out of range.
        GenerationError: The generator gave too few usable images, or no foreground was found.
    """
    profile = models.profile
    plan = _plan(profile, name, settings)
    tell = progress or (lambda _progress: None)
    support = _generate(models, plan, tell)

    relative = minmax(support.attention)
    thresholds = class_thresholds(relative)
    attribution = normalise_attribution(support.attention, support.images.shape[1])
    foreground, background = masks_from_attribution(attribution, thresholds)

    prototypes: list[PrototypeRecord] = []
    pictures = torch.from_numpy(support.images).permute(0, 3, 1, 2).float() / 255
    for extractor in profile.extractors:
        prototypes += _pool(models, extractor, plan, pictures, foreground, background, support, tell)
    tell(Progress("cluster", len(profile.extractors), len(profile.extractors), len(support.rejected)))
    with_foreground = {p.extractor for p in prototypes if p.role == "fg"}
    if any(extractor.digest not in with_foreground for extractor in profile.extractors):
        # Small objects can slip through the coarsest grid; the class would be scored by the other extractors alone.
        raise GenerationError(
            f"No foreground was found in any support image of {name!r}. Try another --prompt or --seed."
        )
    return ClassRecord(
        name=name,
        kind=plan.kind,
        kind_source=plan.kind_source,
        seed=plan.seed,
        settings=_settings_record(profile, plan, thresholds, support),
        rejected=len(support.rejected),
        extractors=tuple(
            ExtractorRecord(
                name=extractor.name,
                digest=extractor.digest,
                dim=next(len(p.vector) for p in prototypes if p.extractor == extractor.digest),
                spec=extractor.record(),
            )
            for extractor in profile.extractors
        ),
        supports=tuple(
            SupportRecord(
                position=i,
                seed=support.seeds[i],
                prompt=plan.prompt,
                image=support.images[i],
                attribution=attribution[i],
                foreground=foreground[i],
                background=background[i],
            )
            for i in range(len(support.seeds))
        ),
        prototypes=tuple(prototypes),
    )


def _plan(profile: Profile, name: str, settings: SupportSettings) -> _Plan:
    generator = profile.generator
    count = generator.count if settings.count is None else settings.count
    steps = generator.steps if settings.steps is None else settings.steps
    seed = generator.seed if settings.seed is None else settings.seed
    batch_size = generator.batch_size if settings.batch_size is None else settings.batch_size
    for label, value, low, high in (
        ("--count", count, 1, MAX_COUNT),
        ("--steps", steps, 1, 1000),
        ("--seed", seed, 0, 2**62),
        ("--batch-size", batch_size, 1, MAX_COUNT),
    ):
        if not low <= value <= high:
            raise UsageError(f"{label} must be between {low} and {high}, got {value}.")
    template = generator.prompt if settings.prompt is None else settings.prompt.replace("{}", "{name}")
    if "{name}" not in template:
        raise UsageError(
            f"The prompt {template!r} has no place for the class name. Write {{}} where it goes, "
            f'for example --prompt "a photo of a {{}} on a table".'
        )
    return _Plan(
        name=name,
        prompt=fill_prompt(template, name),
        count=count,
        steps=steps,
        seed=seed,
        kind=settings.kind or "thing",
        kind_source="default" if settings.kind is None else "user",
        batch_size=batch_size,
    )


def _generate(models: Models, plan: _Plan, tell: Callable[[Progress], None]) -> _SupportSet:
    """Images until `plan.count` of them are usable; a degenerate one is replaced under the next unused seed."""
    generator = models.profile.generator
    support = _SupportSet([], np.zeros((0, 0, 0, 3), np.uint8), np.zeros((0, 0, 0), np.float32), [])
    next_seed, attempts = plan.seed, plan.count * MAX_ATTEMPTS_PER_IMAGE
    tell = _never_back(tell)
    while len(support.seeds) < plan.count:
        wanted = min(plan.batch_size, plan.count - len(support.seeds), attempts)
        if wanted <= 0:
            reasons = ", ".join(f"{support.rejected.count(r)} {r}" for r in dict.fromkeys(support.rejected))
            raise GenerationError(
                f"Only {len(support.seeds)} of {plan.count} support images of {plan.name!r} are usable after "
                f"{plan.count * MAX_ATTEMPTS_PER_IMAGE} attempts ({reasons}). The model may not know this name: "
                "try other words, --prompt or --seed. Nothing was stored."
            )
        attempts -= wanted
        seeds = list(range(next_seed, next_seed + wanted))
        next_seed += wanted

        on_step = _step_reporter(tell, plan, done=len(support.seeds), wanted=wanted, rejected=len(support.rejected))
        batch = models.generator.generate(
            plan.prompt,
            plan.name,
            seeds,
            image_size=generator.image_size,
            steps=plan.steps,
            guidance=generator.guidance,
            negative_prompt=generator.negative_prompt,
            min_attention_grid=generator.min_attention_grid,
            on_step=on_step,
        )
        support = _judge(support, seeds, batch.images.numpy(), batch.attribution.numpy())
    tell(Progress("generate", plan.count, plan.count, len(support.rejected)))
    return support


def _never_back(tell: Callable[[Progress], None]) -> Callable[[Progress], None]:
    """`tell`, but images that were rejected after all make the count wait instead of running backwards."""
    furthest = 0.0

    def forward(progress: Progress) -> None:
        nonlocal furthest
        furthest = max(furthest, progress.done)
        tell(replace(progress, done=furthest))

    return forward


def _step_reporter(
    tell: Callable[[Progress], None], plan: _Plan, *, done: int, wanted: int, rejected: int
) -> Callable[[int], None]:
    """Sampler steps of one batch as fractions of its images."""
    return lambda step: tell(Progress("generate", done + wanted * step / plan.steps, plan.count, rejected))


def _judge(
    support: _SupportSet, seeds: list[int], images: npt.NDArray[np.uint8], attention: npt.NDArray[np.float32]
) -> _SupportSet:
    """The support set with a new batch added and every degenerate image taken out.

    Images accepted earlier are judged again, because the class's median peak moves with every batch.
    """
    all_seeds = support.seeds + seeds
    if support.seeds:
        images = np.concatenate([support.images, images])
        attention = np.concatenate([support.attention, attention])
    peaks = np.nan_to_num(attention.max(axis=(1, 2)))
    reasons = find_degenerate(images, attention, median_peak=float(np.median(peaks)))
    keep = [i for i, reason in enumerate(reasons) if reason is None]
    return _SupportSet(
        seeds=[all_seeds[i] for i in keep],
        images=images[keep],
        attention=attention[keep],
        rejected=support.rejected + [reason for reason in reasons if reason is not None],
    )


def _pool(
    models: Models,
    extractor: ExtractorSpec,
    plan: _Plan,
    pictures: torch.Tensor,
    foreground: npt.NDArray[np.bool_],
    background: npt.NDArray[np.bool_],
    support: _SupportSet,
    tell: Callable[[Progress], None],
) -> list[PrototypeRecord]:
    """Prototypes of one extractor, batch by batch so that only one batch of features is in memory."""
    count = len(pictures)
    masks: dict[Role, torch.Tensor] = {"fg": torch.from_numpy(foreground), "bg": torch.from_numpy(background)}
    if plan.kind == "stuff":
        # What surrounds a stuff region in a picture is often more of another stuff class (OVDiff, section 3.4).
        del masks["bg"]
    pools = {role: PrototypePool(parts=models.profile.generator.parts, images=count, seed=plan.seed) for role in masks}
    for start in range(0, count, plan.batch_size):
        features = models.features(extractor, pictures[start : start + plan.batch_size])
        grid = (features.shape[2], features.shape[3])
        for role, mask in masks.items():
            cells = masks_to_grid(mask[start : start + plan.batch_size], grid, extractor.mask_threshold)
            for offset, (image_features, image_cells) in enumerate(zip(features, cells, strict=True)):
                pools[role].add(image_features, image_cells.to(image_features.device), start + offset)
        tell(Progress("features", min(start + plan.batch_size, count), count, len(support.rejected)))
    return [
        PrototypeRecord(
            extractor=extractor.digest,
            role=role,
            kind=pooled.kind,
            vector=pooled.vector,
            pixels=pooled.pixels,
            support=pooled.support,
        )
        for role, pool in pools.items()
        for pooled in pool.prototypes()
    ]


def _settings_record(profile: Profile, plan: _Plan, thresholds: Thresholds, support: _SupportSet) -> dict[str, Any]:
    """Everything that would be needed to make this class again."""
    return {
        "profile": profile.name,
        "profile_digest": profile.digest,
        "prompt": plan.prompt,
        "negative_prompt": profile.generator.negative_prompt,
        "count": plan.count,
        "steps": plan.steps,
        "guidance": profile.generator.guidance,
        "image_size": profile.generator.image_size,
        "batch_size": plan.batch_size,
        "parts": profile.generator.parts,
        "mask_method": thresholds.method,
        "mask_low": round(thresholds.low, 4),
        "mask_high": round(thresholds.high, 4),
        "rejected": {reason: support.rejected.count(reason) for reason in dict.fromkeys(support.rejected)},
        "versions": {package: version(package) for package in ("ovseg", "torch", "diffusers", "transformers")},
    }
