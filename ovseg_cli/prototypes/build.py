"""One class, from its name to a record that the store can take: what ``add-class`` does."""

from __future__ import annotations

import logging
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from importlib.metadata import version
from typing import Any, Literal, TypeAlias, cast, get_args

import numpy as np
import numpy.typing as npt
import torch

from ovseg_cli.backbones.pixels import resize, to_tensor
from ovseg_cli.backbones.unet import Samples
from ovseg_cli.clustering.kmeans import START
from ovseg_cli.errors import GenerationError, OvsegError, ProfileMismatchError, UsageError
from ovseg_cli.models import Models
from ovseg_cli.names import unknown_choice
from ovseg_cli.profiles import ExtractorSpec, Profile
from ovseg_cli.profiles.prompts import fill_prompt
from ovseg_cli.prototypes.batches import Batches
from ovseg_cli.prototypes.kinds import listed_kind, resolve_kind
from ovseg_cli.prototypes.masks import Mask, MaskMethod, cut_out
from ovseg_cli.prototypes.pooling import PrototypePool, masks_to_grid
from ovseg_cli.prototypes.proposals import make_proposer
from ovseg_cli.prototypes.quality import find_degenerate
from ovseg_cli.prototypes.support import ClassItem, OwnPicture
from ovseg_cli.stages import stage
from ovseg_cli.store.records import (
    ClassKind,
    ClassRecord,
    ExtractorRecord,
    KindSource,
    PrototypeRecord,
    Role,
    SupportRecord,
)
from ovseg_cli.text.embedding import TextCache, embed_words

log = logging.getLogger("ovseg_cli")

MAX_ATTEMPTS_PER_IMAGE = 3
"""Generation gives up after this many images per image asked for."""

MAX_COUNT = 512


MAX_PARTS = 1024


@dataclass(frozen=True, slots=True, kw_only=True)
class SupportSettings:
    """How one class's support set and prototypes are made; None means the profile's default.

    Attributes:
        count: Support images to generate.
        steps: Sampler steps.
        seed: Seed of the first image; image i has seed + i. Also of k-means.
        prompt: Template with ``{name}`` (or ``{}``), and optionally ``{article}``.
        kind: "thing" (an object) or "stuff" (an amorphous region, which gives no background prototypes); None decides
            by the name (see `ovseg_cli.prototypes.kinds`).
        batch_size: Images in a network at once; it changes memory and speed, not the result.
        mask_method: How the object is cut out of its attribution map (see `ovseg_cli.prototypes.masks`).
        parts: k-means part centroids per role (fg, bg) and extractor, at most.
        extractors: Names of the feature extractors that get prototypes.
    """

    count: int | None = None
    steps: int | None = None
    seed: int | None = None
    prompt: str | None = None
    kind: ClassKind | None = None
    batch_size: int | None = None
    mask_method: MaskMethod | None = None
    parts: int | None = None
    extractors: tuple[str, ...] | None = None


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


@dataclass(frozen=True, slots=True, kw_only=True)
class _Plan:
    """`SupportSettings` with every default filled in and checked, but for the kind, which may want a model."""

    name: str
    prompt: str
    count: int
    steps: int
    seed: int
    kind: ClassKind | None
    batch_size: int
    mask_method: MaskMethod
    parts: int
    extractors: tuple[ExtractorSpec, ...]


@dataclass(frozen=True, slots=True)
class _Samples:
    """Accepted images: seeds (N,), uint8 (N, H, W, 3), raw attention float32 (N, g, g); and what was thrown away."""

    seeds: list[int]
    images: npt.NDArray[np.uint8]
    attention: npt.NDArray[np.float32]
    rejected: list[str]


_Drawn: TypeAlias = "tuple[npt.NDArray[np.uint8], npt.NDArray[np.float32]]"
"""Images uint8 (N, H, W, 3) and their attention float32 (N, g, g)."""


@dataclass(frozen=True, slots=True)
class _Order:
    """Images of a class that are to be drawn: with a prompt, in which the class is called so, from seeds.

    `tell` is told how many of them are drawn, with fractions.
    """

    prompt: str
    name: str
    seeds: list[int]
    steps: int
    tell: Callable[[float], None]


@dataclass(frozen=True, slots=True)
class _SupportSet:
    """Support images that are new, and what is to be recorded of how they came about."""

    supports: list[SupportRecord]
    rejected: int
    facts: dict[str, Any]


def plan_class(
    profile: Profile, name: str, settings: SupportSettings, *, pictures: int | None = None
) -> dict[str, Any]:
    """What `build_class` would do, without loading a model.

    Args:
        profile: The models and their defaults.
        name: The class name.
        settings: Overrides of these defaults.
        pictures: How many of the user's own pictures there are; None for a generated support set.

    Raises:
        UsageError: A setting is out of range, or the prompt does not mention the class.
    """
    plan = _plan(profile, name, settings)
    generator = profile.generator
    made: dict[str, Any] = {
        "prompt": plan.prompt,
        "negative_prompt": generator.negative_prompt,
        "count": plan.count,
        "steps": plan.steps,
        "guidance": generator.guidance,
        "sampler": generator.sampler,
        "image_size": generator.image_size,
        "seeds": [plan.seed, plan.seed + plan.count - 1],
    }
    return {
        "name": name,
        "profile": profile.name,
        **(made if pictures is None else {"prompt": plan.prompt, "count": pictures}),
        "kind": plan.kind or listed_kind(name) or "as CLIP says",
        "batch_size": plan.batch_size,
        "mask_method": plan.mask_method,
        "parts": plan.parts,
        "extractors": [extractor.name for extractor in plan.extractors],
    }


def build_class(
    models: Models,
    name: str,
    settings: SupportSettings,
    progress: Callable[[Progress], None] | None = None,
    *,
    pictures: Sequence[OwnPicture] | None = None,
    existing: ClassRecord | None = None,
    texts: TextCache | None = None,
) -> ClassRecord:
    """Make a support set, cut out the object, and pool prototypes for every chosen extractor.

    Args:
        models: The profile's models.
        name: A class name that the store accepts (see `ovseg_cli.names`).
        settings: Overrides of the profile's defaults.
        progress: Told about every step; an exception raised inside it ends the build, and nothing is kept.
        pictures: The user's own pictures, which take the place of generated ones.
        existing: The class as it is, to extend: its support images and masks stay as they are, and the prototypes
            are pooled anew from them and the new ones together.
        texts: Where embeddings of the listed words are looked up and kept, with which a name that is not listed is
            compared; None for nowhere.

    Returns:
        The record, held in memory; nothing is written.

    Raises:
        UsageError: A setting is out of range, or the class to extend was imported with smaller images than its own.
        GenerationError: There are too few usable images, or no foreground was found.
        ProfileMismatchError: The class to extend has prototypes by an extractor that the profile does not know.
    """
    tell = None if progress is None else lambda _name, step: progress(step)
    ((_, made),) = build_classes(models, [ClassItem(name, existing, pictures)], settings, tell, texts=texts)
    if isinstance(made, OvsegError):
        raise made
    return made


def build_classes(
    models: Models,
    items: Iterable[ClassItem],
    settings: SupportSettings,
    progress: Callable[[str, Progress], None] | None = None,
    *,
    texts: TextCache | None = None,
) -> Iterator[tuple[int, ClassRecord | OvsegError]]:
    """Make several classes as `build_class` makes one; they share the batches in which images are drawn.

    Where the images that a class still wants do not fill a batch, those of the next one go with them. Each image is the
    one that it would be alone, up to rounding.

    Args:
        models: As `build_class` has them; so `settings` and `texts`.
        items: The classes.
        settings: Of all of them.
        progress: Told the class and every step; while a batch is drawn, the first class in it.
        texts: See above.

    Yields:
        As each class is finished, its place among the items and its record, or why it cannot be made.
    """
    tell = progress or (lambda _name, _progress: None)
    batches = Batches(max(1, settings.batch_size or models.profile.generator.batch_size))  # checked by `_plan`
    waiting = (
        _Making(place, _make(models, item, settings, batches, partial(tell, item.name), texts))
        for place, item in enumerate(items)
    )
    drawing: list[_Making] = []
    while True:
        while sum(making.left for making in drawing) < batches.size and (fresh := next(waiting, None)):
            made = fresh.go_on()
            if made is None:
                drawing.append(fresh)
            else:
                yield fresh.place, made
        if not drawing:
            return
        _draw_batch(models, drawing, batches)
        for making in [making for making in drawing if not making.left]:
            made = making.go_on()
            if made is not None:
                drawing.remove(making)
                yield making.place, made


class _Making:
    """A class that is being made.

    Args:
        place: Among all.
        work: Makes it; gives what images it wants, and takes them.

    Attributes:
        order: The images that it wants.
    """

    order: _Order

    def __init__(self, place: int, work: Generator[_Order, _Drawn | None, ClassRecord]) -> None:
        self.place = place
        self._work = work
        self._drawn: list[_Drawn] = []

    @property
    def drawn(self) -> int:
        """How many of the images that it wants are there."""
        return sum(len(images) for images, _ in self._drawn)

    @property
    def left(self) -> int:
        """How many are not."""
        return len(self.order.seeds) - self.drawn

    def take(self, drawn: _Drawn) -> None:
        """Take the next ones of the images that it wants."""
        self._drawn.append(drawn)

    def go_on(self) -> ClassRecord | OvsegError | None:
        """With the images that it wanted, until it wants more: the finished class, or why it cannot be made."""
        images, attention = zip(*self._drawn, strict=True) if self._drawn else ((), ())
        drawn = (np.concatenate(images), np.concatenate(attention)) if self._drawn else None
        self._drawn = []
        try:
            self.order = self._work.send(drawn)
        except StopIteration as end:
            return cast("ClassRecord", end.value)
        except OvsegError as error:
            return error
        return None


def _draw_batch(models: Models, makings: Sequence[_Making], batches: Batches) -> None:
    """Draw the next images that classes want, as many as go together, and give each its own."""
    shares: list[tuple[_Making, list[int]]] = []
    free = batches.size
    for making in makings:
        seeds = making.order.seeds[making.drawn :][:free]
        free -= len(seeds)
        if seeds:
            shares.append((making, seeds))
    generator = models.profile.generator
    first, own = shares[0]
    alone = len(shares) == 1
    order, done = first.order, first.drawn

    def draw() -> Samples:
        return models.generator.generate(
            order.prompt if alone else tuple(making.order.prompt for making, seeds in shares for _ in seeds),
            order.name if alone else tuple(making.order.name for making, seeds in shares for _ in seeds),
            [seed for _, seeds in shares for seed in seeds],
            image_size=generator.image_size,
            steps=order.steps,
            guidance=generator.guidance,
            negative_prompt=generator.negative_prompt,
            min_attention_grid=generator.min_attention_grid,
            sampler=generator.sampler,
            spacing=generator.spacing,
            on_step=lambda step: order.tell(done + len(own) * step / order.steps),
        )

    batch = batches.fit(draw)
    if batch is None:
        return
    numbers = [len(seeds) for _, seeds in shares]
    parts = zip(batch.images.split(numbers), batch.attribution.split(numbers), strict=True)
    for (making, _), (images, attention) in zip(shares, parts, strict=True):
        making.take((images.numpy(), attention.numpy()))


def _make(
    models: Models,
    item: ClassItem,
    settings: SupportSettings,
    batches: Batches,
    tell: Callable[[Progress], None],
    texts: TextCache | None,
) -> Generator[_Order, _Drawn | None, ClassRecord]:
    """One class; asks for the images that it wants."""
    profile, existing = models.profile, item.existing
    plan = _plan(profile, item.name, settings, existing)
    if existing is not None:
        _check_whole(existing)
    kind, kind_source = _kind(models, plan, existing, texts)
    if item.pictures is None:
        made = yield from _generate(models, plan, kind, batches, tell)
    else:
        made = _from_pictures(models, plan, kind, item.pictures, batches, tell)
    before = existing.supports if existing is not None else ()
    first = 1 + max((support.position for support in before), default=-1)
    supports = (*before, *(replace(s, position=first + i) for i, s in enumerate(made.supports)))

    remedy = "Try another --prompt or --seed." if item.pictures is None else "Give pictures that show it, or --masks."
    prototypes = _pool_all(models, plan, kind, supports, made.rejected, batches, tell, remedy)
    return ClassRecord(
        name=item.name,
        kind=kind,
        kind_source=kind_source,
        seed=plan.seed if existing is None else existing.seed,
        settings=_settings_record(profile, plan, made, existing),
        rejected=made.rejected + (existing.rejected if existing is not None else 0),
        extractors=_extractor_records(plan, prototypes),
        supports=supports,
        prototypes=prototypes,
    )


def repool_class(
    models: Models, record: ClassRecord, progress: Callable[[Progress], None] | None = None
) -> ClassRecord:
    """Pool the prototypes of a class anew from its support images and their masks.

    A store keeps no features of single pixels, which the parts are clusters of. So they are computed anew, by the
    extractors that the class has, as when it was made.

    Args:
        models: The profile's models.
        record: The class with the support images that it is to have; its own prototypes say by which extractors, and
            count for nothing else.
        progress: As `build_class` has it.

    Returns:
        The same record with other prototypes.

    Raises:
        UsageError: The class was imported with smaller images than its own.
        GenerationError: No foreground is left.
        ProfileMismatchError: The class has prototypes by an extractor that the profile does not know.
    """
    _check_whole(record)
    settings = SupportSettings(parts=record.settings.get("parts"))
    plan = replace(_plan(models.profile, record.name, settings, record), seed=record.seed)
    tell = progress or (lambda _progress: None)
    remedy = "Keep an image that shows it."
    prototypes = _pool_all(models, plan, record.kind, record.supports, 0, Batches(plan.batch_size), tell, remedy)
    settings_now = {**record.settings, **_clustered(models.profile)}
    extractors = _extractor_records(plan, prototypes)
    return replace(record, extractors=extractors, prototypes=prototypes, settings=settings_now)


def _pool_all(
    models: Models,
    plan: _Plan,
    kind: ClassKind,
    supports: Sequence[SupportRecord],
    rejected: int,
    batches: Batches,
    tell: Callable[[Progress], None],
    remedy: str,
) -> tuple[PrototypeRecord, ...]:
    """Prototypes of all extractors.

    Raises:
        GenerationError: One of them found no foreground; the message ends with `remedy`.
    """
    prototypes: list[PrototypeRecord] = []
    for extractor in plan.extractors:
        prototypes += _pool(models, extractor, plan, kind, supports, rejected, batches, tell)
    tell(Progress("cluster", len(plan.extractors), len(plan.extractors), rejected))
    with_foreground = {p.extractor for p in prototypes if p.role == "fg"}
    if any(extractor.digest not in with_foreground for extractor in plan.extractors):
        # Without it the class would be scored by the other extractors alone.
        raise GenerationError(f"No foreground was found in any support image of {plan.name!r}. {remedy}")
    return tuple(prototypes)


def _extractor_records(plan: _Plan, prototypes: Sequence[PrototypeRecord]) -> tuple[ExtractorRecord, ...]:
    return tuple(
        ExtractorRecord(
            name=extractor.name,
            digest=extractor.digest,
            dim=next(len(p.vector) for p in prototypes if p.extractor == extractor.digest),
            spec=extractor.record(),
        )
        for extractor in plan.extractors
    )


def _plan(profile: Profile, name: str, settings: SupportSettings, existing: ClassRecord | None = None) -> _Plan:
    generator = profile.generator
    count = generator.count if settings.count is None else settings.count
    steps = generator.steps if settings.steps is None else settings.steps
    seed = _seed(profile, settings, count, existing)
    batch_size = generator.batch_size if settings.batch_size is None else settings.batch_size
    parts = generator.parts if settings.parts is None else settings.parts
    for label, value, low, high in (
        ("--count", count, 1, MAX_COUNT),
        ("--steps", steps, 1, 1000),
        ("--seed", seed, 0, 2**62),
        ("--batch-size", batch_size, 1, MAX_COUNT),
        ("--parts", parts, 1, MAX_PARTS),
    ):
        if not low <= value <= high:
            raise UsageError(f"{label} must be between {low} and {high}, got {value}.")
    method = settings.mask_method or generator.mask_method
    if method not in get_args(MaskMethod):
        raise unknown_choice("mask method", method, get_args(MaskMethod), heading="Methods")
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
        kind=settings.kind,
        batch_size=batch_size,
        mask_method=method,
        parts=parts,
        extractors=_extractors(profile, name, settings, existing),
    )


def _seed(profile: Profile, settings: SupportSettings, count: int, existing: ClassRecord | None) -> int:
    """The first seed: as asked, else the profile's, or the one after the last that the class has."""
    used = {s.seed for s in existing.supports if s.seed is not None} if existing is not None else set()
    if settings.seed is None:
        return 1 + max(used) if used else profile.generator.seed
    again = sorted(used & set(range(settings.seed, settings.seed + count)))
    if again:
        raise UsageError(
            f"The class {existing.name if existing else ''!r} has an image of seed {again[0]} already, and the same "
            f"seed draws the same picture. Take --seed {1 + max(used)}, or leave --seed out."
        )
    return settings.seed


def _extractors(
    profile: Profile, name: str, settings: SupportSettings, existing: ClassRecord | None
) -> tuple[ExtractorSpec, ...]:
    """The extractors asked for; else those that the class has, else the profile's."""
    if existing is None or settings.extractors is not None:
        return profile.pick_extractors(settings.extractors)
    known = {spec.digest: spec for spec in profile.known_extractors}
    for has in existing.extractors:
        if has.digest not in known:
            raise ProfileMismatchError(
                f"The class {name!r} has prototypes by a feature extractor {has.name!r} that the profile "
                f"{profile.name!r} does not have any more. Make it anew with --if-exists replace."
            )
    return tuple(known[has.digest] for has in existing.extractors)


def _kind(
    models: Models, plan: _Plan, existing: ClassRecord | None, texts: TextCache | None
) -> tuple[ClassKind, KindSource]:
    if plan.kind is not None:
        return plan.kind, "user"
    if existing is not None:
        return existing.kind, existing.kind_source
    listed = listed_kind(plan.name)
    if listed is not None:
        return listed, "list"
    # Hundreds of texts: seconds of a large model, which need not be spent on every class.
    return resolve_kind(plan.name, partial(embed_words, models.clip, weights=models.profile.clip.weights, cache=texts))


def _check_whole(existing: ClassRecord) -> None:
    """Refuse to pool prototypes anew from images that are smaller than those that they were pooled from."""
    if any(origin.get("images") == "scaled down" for origin in existing.settings.get("imported", [])):
        raise UsageError(
            f"The support images of {existing.name!r} were scaled down when it was exported, so its prototypes cannot "
            "be pooled anew. Export it with a larger --image-side, or make it anew with --if-exists replace."
        )


# ---------------------------------------------------------------------- generated support sets


def _generate(
    models: Models, plan: _Plan, kind: ClassKind, batches: Batches, tell: Callable[[Progress], None]
) -> Generator[_Order, _Drawn | None, _SupportSet]:
    """Generated images with the object cut out."""
    generator = models.profile.generator
    proposer = make_proposer(models, plan.mask_method)  # before minutes of drawing: it may have to be fetched
    models.generator.locate(plan.prompt, plan.name)  # a name that the prompt cuts off, likewise, and alone
    drawn = yield from _draw(plan, kind, tell)
    with stage("masks"):
        cutouts = cut_out(list(drawn.images), drawn.attention, method=plan.mask_method, proposer=proposer)
    supports = [
        SupportRecord(
            position=i,
            seed=seed,
            prompt=plan.prompt,
            image=drawn.images[i],
            attribution=cutouts.attribution[i],
            foreground=cutouts.foreground[i],
            background=cutouts.background[i],
        )
        for i, seed in enumerate(drawn.seeds)
    ]
    facts = {
        "source": "generated",
        "prompt": plan.prompt,
        "negative_prompt": generator.negative_prompt,
        "count": plan.count,
        "steps": plan.steps,
        "guidance": generator.guidance,
        "sampler": generator.sampler,
        "image_size": generator.image_size,
        "batch_size": batches.size,
        **_mask_facts(cutouts.record),
        "rejected": {reason: drawn.rejected.count(reason) for reason in dict.fromkeys(drawn.rejected)},
    }
    return _SupportSet(supports, len(drawn.rejected), facts)


def _mask_facts(record: dict[str, Any]) -> dict[str, Any]:
    return {f"mask_{key}": value for key, value in record.items()}


def _draw(plan: _Plan, kind: ClassKind, tell: Callable[[Progress], None]) -> Generator[_Order, _Drawn | None, _Samples]:
    """Images until `plan.count` of them are usable; degenerate ones are replaced under the next unused seeds.

    All that are wanted are judged together, so that in how many batches they were drawn makes no difference.
    """
    support = _Samples([], np.zeros((0, 0, 0, 3), np.uint8), np.zeros((0, 0, 0), np.float32), [])
    next_seed, attempts = plan.seed, plan.count * MAX_ATTEMPTS_PER_IMAGE
    tell = _never_back(tell)
    while len(support.seeds) < plan.count:
        wanted = min(plan.count - len(support.seeds), attempts)
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
        drawn = yield _Order(plan.prompt, plan.name, seeds, plan.steps, _step_reporter(tell, plan, support))
        with stage("judging"):
            support = _judge(support, seeds, *cast("_Drawn", drawn), kind)
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


def _step_reporter(tell: Callable[[Progress], None], plan: _Plan, support: _Samples) -> Callable[[float], None]:
    """Tells of images that are drawn, sampler steps of a batch counting as fractions of its images."""
    done, rejected = len(support.seeds), len(support.rejected)
    return lambda more: tell(Progress("generate", done + more, plan.count, rejected))


def _judge(
    support: _Samples,
    seeds: list[int],
    images: npt.NDArray[np.uint8],
    attention: npt.NDArray[np.float32],
    kind: ClassKind,
) -> _Samples:
    """The support set with a new batch added and every degenerate image taken out.

    Images accepted earlier are judged again, because the class's median peak moves with every batch.
    """
    all_seeds = support.seeds + seeds
    if support.seeds:
        images = np.concatenate([support.images, images])
        attention = np.concatenate([support.attention, attention])
    peaks = np.nan_to_num(attention.max(axis=(1, 2)))
    reasons = find_degenerate(images, attention, median_peak=float(np.median(peaks)), stuff=kind == "stuff")
    keep = [i for i, reason in enumerate(reasons) if reason is None]
    return _Samples(
        seeds=[all_seeds[i] for i in keep],
        images=images[keep],
        attention=attention[keep],
        rejected=support.rejected + [reason for reason in reasons if reason is not None],
    )


# ---------------------------------------------------------------------- the user's own pictures


def _from_pictures(
    models: Models,
    plan: _Plan,
    kind: ClassKind,
    pictures: Sequence[OwnPicture],
    batches: Batches,
    tell: Callable[[Progress], None],
) -> _SupportSet:
    """The user's pictures with the object cut out: by their masks, else by the attention that the name draws."""
    masked = [picture for picture in pictures if picture.foreground is not None]
    if masked and len(masked) < len(pictures):
        raise ValueError("either all pictures have masks, or none")
    if not 1 <= len(pictures) <= MAX_COUNT:
        raise UsageError(f"A class takes 1 to {MAX_COUNT} pictures of yours, got {len(pictures)}.")
    tell(Progress("generate", 0, len(pictures), 0))
    found = _by_masks(pictures) if masked else _by_attention(models, plan, kind, pictures, batches, tell)
    tell(Progress("generate", len(pictures), len(pictures), found.rejected))
    return found


def _by_masks(pictures: Sequence[OwnPicture]) -> _SupportSet:
    supports = [
        SupportRecord(
            position=i,
            seed=None,
            prompt="",
            image=picture.image,
            attribution=(picture.foreground + 0.5 * ~(picture.foreground | picture.background)).astype(np.float32),
            foreground=picture.foreground,
            background=picture.background,
        )
        for i, picture in enumerate(pictures)
        if picture.foreground is not None and picture.background is not None
    ]
    facts = {"source": "own pictures", "pictures": [picture.name for picture in pictures], "mask_method": "given"}
    return _SupportSet(supports, 0, facts)


def _by_attention(
    models: Models,
    plan: _Plan,
    kind: ClassKind,
    pictures: Sequence[OwnPicture],
    batches: Batches,
    tell: Callable[[Progress], None],
) -> _SupportSet:
    """Pictures in which the name draws no attention to one place are left out, and told."""
    generator = models.profile.generator
    proposer = make_proposer(models, plan.mask_method)
    maps: list[npt.NDArray[np.float32]] = []
    done = 0

    def read() -> npt.NDArray[np.float32]:
        batch = [
            resize(to_tensor(picture.image, models.device), (generator.image_size, generator.image_size))
            for picture in pictures[done : done + batches.size]
        ]
        found = models.generator.attribution(
            torch.cat(batch),
            plan.prompt,
            plan.name,
            timesteps=generator.attribution_timesteps,
            seed=plan.seed,
            size=generator.image_size,
            min_attention_grid=generator.min_attention_grid,
        )
        return found.numpy()

    while done < len(pictures):
        found = batches.fit(read)
        if found is not None:
            maps.append(found)
            done += len(found)
            tell(Progress("generate", done, len(pictures), 0))
    attention = np.concatenate(maps)
    peaks = np.nan_to_num(attention.max(axis=(1, 2)))
    images = [picture.image for picture in pictures]
    reasons = find_degenerate(images, attention, median_peak=float(np.median(peaks)), stuff=kind == "stuff")
    unusable = {pictures[i].name: reason for i, reason in enumerate(reasons) if reason is not None}
    for name, reason in unusable.items():
        log.warning("%s is left out of %r: %s", name, plan.name, reason)
    keep = [i for i, reason in enumerate(reasons) if reason is None]
    if not keep:
        raise GenerationError(
            f"None of the {len(pictures)} pictures of {plan.name!r} can be used ({', '.join(set(unusable.values()))}). "
            "Give pictures that show it more clearly, other words, or --masks. Nothing was stored."
        )
    cutouts = cut_out(
        [images[i] for i in keep],
        attention[keep],
        method=plan.mask_method,
        proposer=proposer,
    )
    supports = [
        SupportRecord(
            position=place,
            seed=None,
            prompt=plan.prompt,
            image=images[i],
            attribution=cutouts.attribution[place],
            foreground=cutouts.foreground[place],
            background=cutouts.background[place],
        )
        for place, i in enumerate(keep)
    ]
    facts = {
        "source": "own pictures",
        "pictures": [pictures[i].name for i in keep],
        "left_out": unusable,
        "prompt": plan.prompt,
        "attribution_timesteps": list(generator.attribution_timesteps),
        **_mask_facts(cutouts.record),
    }
    return _SupportSet(supports, len(unusable), facts)


# ---------------------------------------------------------------------- prototypes


def _pool(
    models: Models,
    extractor: ExtractorSpec,
    plan: _Plan,
    kind: ClassKind,
    supports: Sequence[SupportRecord],
    rejected: int,
    batches: Batches,
    tell: Callable[[Progress], None],
) -> list[PrototypeRecord]:
    """Prototypes of one extractor, batch by batch so that only one batch of features is in memory."""
    # What surrounds a stuff region in a picture is often more of another stuff class (OVDiff, section 3.4).
    roles: tuple[Role, ...] = ("fg",) if kind == "stuff" else ("fg", "bg")
    count, side = len(supports), (extractor.input_size, extractor.input_size)
    spherical = models.profile.generator.kmeans == "spherical"
    pools = {role: PrototypePool(parts=plan.parts, images=count, seed=plan.seed, spherical=spherical) for role in roles}
    done = 0

    def seen() -> tuple[Sequence[SupportRecord], torch.Tensor]:
        batch = supports[done : done + batches.size]
        # Pictures of one's own differ in size; the extractor squashes them to this square in any case.
        pictures = [resize(to_tensor(support.image, models.device), side) for support in batch]
        return batch, models.features(extractor, torch.cat(pictures))

    while done < count:
        with stage("pooling"):
            found = batches.fit(seen)
            if found is None:
                continue
            batch, features = found
            for support, image_features in zip(batch, features, strict=True):
                if not support.foreground.any():
                    continue  # the object was not found, so what is called background may show it
                for role in roles:
                    mask = support.foreground if role == "fg" else support.background
                    cells = _cells(mask, (features.shape[2], features.shape[3]), extractor.mask_threshold)
                    pools[role].add(image_features, cells, support.position)
        done += len(batch)
        tell(Progress("features", done, count, rejected))
    with stage("clustering"):
        pooled_by_role = {role: pool.prototypes() for role, pool in pools.items()}
    return [
        PrototypeRecord(
            extractor=extractor.digest,
            role=role,
            kind=pooled.kind,
            vector=pooled.vector,
            pixels=pooled.pixels,
            support=pooled.support,
        )
        for role, own in pooled_by_role.items()
        for pooled in own
    ]


def _cells(mask: Mask, grid: tuple[int, int], threshold: float) -> torch.Tensor:
    return masks_to_grid(torch.from_numpy(mask)[None], grid, threshold)[0]


def _clustered(profile: Profile) -> dict[str, str]:
    """How parts are found, for records."""
    return {"kmeans": profile.generator.kmeans, "kmeans_start": START}


def _settings_record(profile: Profile, plan: _Plan, made: _SupportSet, existing: ClassRecord | None) -> dict[str, Any]:
    """Everything that would be needed to make this class again."""
    record: dict[str, Any] = {
        "profile": profile.name,
        "profile_digest": profile.digest,
        **made.facts,
        "parts": plan.parts,
        **_clustered(profile),
        "versions": {package: version(package) for package in ("ovseg", "torch", "diffusers", "transformers")},
    }
    if existing is None:
        return record
    # The first support set stays in front; each later one follows with what was its own.
    addition = {"seed": plan.seed, **record} if made.facts["source"] == "generated" else record
    changed = {"parts": plan.parts, **_clustered(profile)}
    return existing.settings | changed | {"extended": [*existing.settings.get("extended", []), addition]}
