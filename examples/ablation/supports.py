"""Support sets and prototypes for every setting, without asking a network the same thing twice.

Every prototype comes from the product's `build_class`. Only what the networks answered while one class was made is
remembered: settings that cut out, cluster or choose differently start from the same pictures and features.
"""

from __future__ import annotations

import copy
import hashlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Final, Self

import numpy as np
import numpy.typing as npt
from torch import Tensor

from examples.ablation.rows import Clustering, Making, Setting
from examples.mini_pack.vocabulary import STUFF
from ovseg_cli.backbones.unet import DiffusionBackbone, Samples
from ovseg_cli.models import Models
from ovseg_cli.profiles import ExtractorSpec, Profile
from ovseg_cli.profiles.specs import Sight
from ovseg_cli.prototypes.build import SupportSettings, build_class
from ovseg_cli.store.classes import half_and_norm, raw_vector
from ovseg_cli.store.records import ClassRecord

COMPANIONS: Final = ("sheep", "car")
"""What stands on or before the stuff in its support images, one asked for and one not.

Asked for grass alone, the mini generator paints nothing else. The word's attention is then the same everywhere, and
``add-class`` refuses such pictures.
"""


class RememberingGenerator(DiffusionBackbone):
    """A text-to-image model that gives the same pictures again when the same is asked.

    Args:
        backbone: The model; its networks are shared, not copied.
        pictures: What it has generated so far, by everything that decides it.
    """

    def __init__(self, backbone: DiffusionBackbone, pictures: dict[object, Samples]) -> None:
        vars(self).update(vars(backbone))
        self._pictures = pictures

    def generate(self, prompt: str, phrase: str, seeds: Sequence[int], **settings: Any) -> Samples:
        """See `DiffusionBackbone.generate`."""
        settings.pop("on_step", None)  # nobody watches
        key = (prompt, phrase, tuple(seeds), *sorted(settings.items()))
        if key not in self._pictures:
            self._pictures[key] = super().generate(prompt, phrase, seeds, **settings)
        return self._pictures[key]


class RememberingModels(Models):
    """A profile's models that remember generated pictures and features until they are told to forget.

    Args:
        profile: Which models.
        device: A torch device.
    """

    def __init__(self, profile: Profile, device: str) -> None:
        super().__init__(profile, device)
        self._pictures: dict[object, Samples] = {}
        self._features: dict[object, list[Tensor]] = {}

    @property
    def generator(self) -> DiffusionBackbone:
        """The profile's text-to-image model."""
        return RememberingGenerator(super().generator, self._pictures)

    def feature_maps(self, extractor: ExtractorSpec, images: Tensor, sight: Sight | None = None) -> list[Tensor]:
        """See `Models.feature_maps`."""
        pixels = hashlib.sha256(images.contiguous().cpu().numpy().tobytes()).digest()
        key = (extractor.digest, tuple(images.shape), pixels, sight)
        if key not in self._features:
            self._features[key] = super().feature_maps(extractor, images, sight)
        return self._features[key]

    def clustering(self, kmeans: Clustering) -> Self:
        """The same networks and memory with a profile that clusters otherwise."""
        other = copy.copy(self)
        other.profile = replace(self.profile, generator=replace(self.profile.generator, kmeans=kmeans))
        return other

    def forget(self) -> None:
        """Give the memory back."""
        self._pictures.clear()
        self._features.clear()


@dataclass(frozen=True, slots=True, kw_only=True)
class Classes:
    """What can be asked for.

    Attributes:
        things: Names of things; everything that is neither these nor asked-for stuff is background.
        stuff: Names of stuff.
    """

    things: tuple[str, ...]
    stuff: tuple[str, ...] = ()

    @property
    def names(self) -> tuple[str, ...]:
        """All of them, things first: class i has label i + 1."""
        return self.things + self.stuff


@dataclass(frozen=True, slots=True, eq=False)
class Pool:
    """Prototypes by one extractor from one support set, made in several ways.

    Attributes:
        vectors: float32 (P, D), of length 1, as a store would give them.
        owner: int64 (P,), which of the classes.
        foreground: bool (P,).
        kind: P strings, "mean", "instance" or "part".
        made: For each making which prototypes are its, bool (P,). Makings share what they have in common.
    """

    vectors: npt.NDArray[np.float32]
    owner: npt.NDArray[np.int64]
    foreground: npt.NDArray[np.bool_]
    kind: npt.NDArray[np.str_]
    made: Mapping[Making, npt.NDArray[np.bool_]]


def build_pools(
    models: RememberingModels,
    settings: Iterable[Setting],
    classes: Classes,
    *,
    seed: int,
    count: int | None = None,
    steps: int | None = None,
) -> dict[str, Pool]:
    """Prototypes of all classes as far as some settings want them.

    Stuff gets background prototypes too: the method has none, and some ablations do.

    Args:
        models: The networks.
        settings: What is going to be measured.
        classes: What is asked for.
        seed: Of the first support image of each class.
        count: Support images per class; None for the profile's default.
        steps: Sampler steps; likewise.

    Returns:
        A pool for every extractor that is wanted, by its name.
    """
    wanted: dict[Making, set[str]] = {}
    for setting in settings:
        wanted.setdefault(setting.making, set()).update(setting.extractors)
    with_stuff = {setting.making for setting in settings if setting.stuff is not None}
    builders = {name: _PoolBuilder() for name in sorted(set().union(*wanted.values()))}
    for place, name in enumerate(classes.names):
        for making, extractors in wanted.items():
            if name in classes.stuff and making not in with_stuff:
                continue
            settings_of = SupportSettings(
                steps=steps,
                seed=seed,
                kind="thing",
                mask_method=making.mask_method,
                parts=making.parts,
                extractors=tuple(sorted(extractors)),
            )
            record = _build(
                models.clustering(making.kmeans), name, count or models.profile.generator.count, settings_of
            )
            for extractor in record.extractors:
                builders[extractor.name].add(place, making, record, extractor.digest)
        models.forget()
    return {name: builder.pool() for name, builder in builders.items()}


def _build(models: Models, name: str, count: int, settings: SupportSettings) -> ClassRecord:
    """One class: a thing as ``add-class`` makes it, stuff as it does with a prompt for each of `COMPANIONS`.

    Later prompts extend the class, with seeds of their own.
    """
    place = next((stuff.places[0].replace(name, "{name}") for stuff in STUFF if stuff.name == name), None)
    if place is None:
        return build_class(models, name, replace(settings, count=count))
    record: ClassRecord | None = None
    shares = [len(share) for share in np.array_split(np.arange(count), len(COMPANIONS))]
    for companion, share in zip(COMPANIONS, shares, strict=True):
        if share:
            prompt = f"a good picture of a {companion} {place}"
            seed = settings.seed if record is None else None
            record = build_class(
                models, name, replace(settings, count=share, prompt=prompt, seed=seed), existing=record
            )
    if record is None:
        raise ValueError(f"a class needs at least one support image, got {count}")
    return record


class _PoolBuilder:
    """Collects prototypes; one that is there already, bit for bit, is not taken again."""

    def __init__(self) -> None:
        self._rows: dict[tuple[int, str, str, bytes], int] = {}
        self._vectors: list[npt.NDArray[np.float32]] = []
        self._made: dict[Making, list[int]] = {}

    def add(self, place: int, making: Making, record: ClassRecord, digest: str) -> None:
        for prototype in record.prototypes:
            if prototype.extractor != digest:
                continue
            half, _ = half_and_norm(prototype)
            key = (place, prototype.role, prototype.kind, half.tobytes())
            if key not in self._rows:
                self._rows[key] = len(self._vectors)
                self._vectors.append(raw_vector(half, 1.0))
            self._made.setdefault(making, []).append(self._rows[key])

    def pool(self) -> Pool:
        made = {making: np.zeros(len(self._vectors), np.bool_) for making in self._made}
        for making, rows in self._made.items():
            made[making][rows] = True
        return Pool(
            vectors=np.stack(self._vectors),
            owner=np.array([key[0] for key in self._rows], np.int64),
            foreground=np.array([key[1] == "fg" for key in self._rows], np.bool_),
            kind=np.array([key[2] for key in self._rows]),
            made=made,
        )
