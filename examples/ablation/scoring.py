"""Label maps of one picture under many settings at once.

What `ovseg_cli.segmentation` does to a picture, from the same pure functions, in another order. Every prototype of an
extractor is compared with the picture once. Prototypes of one class and role that compete in exactly the same settings
form a group, and only the best cosine of each group is kept: the score of a class under a setting is the best of its
groups. Whatever the product can do comes out the same; a test sees to it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import Final

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from examples.ablation.rows import Making, Prefilter, Setting, StuffRule
from examples.ablation.supports import Classes, Pool
from ovseg_cli.backbones.pixels import to_working_tensor
from ovseg_cli.labeling.decide import decide
from ovseg_cli.labeling.refine import pamr
from ovseg_cli.labeling.windows import Crop, ScoreCanvas, all_crops
from ovseg_cli.methods.prototype import prototype_scores
from ovseg_cli.methods.stuff_filter import stuff_filter
from ovseg_cli.models import Models
from ovseg_cli.profiles import Profile
from ovseg_cli.store.records import PrototypeKind

BoolArray = npt.NDArray[np.bool_]
Shortlists = Mapping[Prefilter, Sequence[int]]
"""For each pre-filter the things that it leaves of a picture, as places in the list of classes."""

CROPS_AT_ONCE: Final = 16


# --------------------------------------------------------------------------- which prototypes compete


@dataclass(frozen=True, slots=True)
class Choice:
    """The part of a `Setting` that says which prototypes compete."""

    making: Making
    kinds: tuple[PrototypeKind, ...]
    stuff: StuffRule | None

    @classmethod
    def of(cls, setting: Setting) -> Choice:
        """The choice of a setting."""
        return cls(setting.making, setting.kinds, setting.stuff)


def competing(pool: Pool, choice: Choice, classes: Classes, similarity: float) -> BoolArray:
    """Which prototypes compete, bool (P,).

    Args:
        pool: All prototypes of one extractor.
        choice: What is chosen.
        classes: Whose prototypes they are.
        similarity: Cosine from which the stuff filter takes two prototypes for alike.
    """
    chosen = pool.made[choice.making] & np.isin(pool.kind, choice.kinds)
    of_stuff = pool.owner >= len(classes.things)
    rule = choice.stuff
    if rule is None:
        return chosen & ~of_stuff
    if rule == "no stuff parts":
        chosen = chosen & ~(of_stuff & (pool.kind == "part"))
    foreground, background = chosen & pool.foreground, chosen & ~pool.foreground
    if rule == "background kept, no filter":
        return chosen
    if rule == "no filter":
        return chosen & ~(of_stuff & background)
    alike = rule == "all foregrounds"  # things and stuff are treated alike
    stays = stuff_filter(
        torch.from_numpy(pool.vectors),
        background=torch.from_numpy(background),
        of_stuff=torch.from_numpy(np.zeros_like(of_stuff) if alike else of_stuff),
        against=torch.from_numpy(foreground if alike else foreground & of_stuff),
        threshold=similarity,
    ).numpy()
    if rule == "background kept":
        stays = stays | of_stuff
    return chosen & stays


def filtered_share(pool: Pool, choice: Choice, classes: Classes, similarity: float) -> float:
    """Which share of the things' background prototypes a stuff rule leaves out."""
    background = pool.made[choice.making] & np.isin(pool.kind, choice.kinds) & ~pool.foreground
    background &= pool.owner < len(classes.things)
    return 1 - float(competing(pool, choice, classes, similarity)[background].mean())


class Matcher:
    """Prototypes of one extractor in groups.

    Args:
        pool: All of them.
        choices: Who competes in what, bool (P,) each.
        device: Where pictures are compared.
    """

    def __init__(self, pool: Pool, choices: Mapping[Choice, BoolArray], device: str) -> None:
        used = np.logical_or.reduce(list(choices.values()))
        signature = np.stack([pool.owner, pool.foreground, *choices.values()])[:, used]
        groups, group_of = np.unique(signature.astype(np.int16), axis=1, return_inverse=True)
        self._vectors = torch.from_numpy(pool.vectors[used]).to(device)
        self._channel = torch.from_numpy(group_of.reshape(-1)).to(device) + 1  # 0 would be an ungrouped background
        self._groups = groups.shape[1]
        self._owner, self._foreground = groups[0], groups[1].astype(np.bool_)
        self._competes = dict(zip(choices, groups[2:].astype(np.bool_), strict=True))

    def best(self, maps: Sequence[Tensor]) -> Tensor:
        """The best cosine of each group, float32 (B, groups, g, g)."""
        return prototype_scores(maps, self._vectors, self._channel, self._groups + 1)[:, 1:]

    def scores(self, best: Tensor, choice: Choice, places: Sequence[int]) -> Tensor:
        """Scores of some classes, as `prototype_scores` gives them.

        Args:
            best: From `best`.
            choice: Which prototypes compete.
            places: Of the classes; background prototypes of others do not compete either.

        Returns:
            float32 (B, 1 + len(places), g, g).
        """
        competes = self._competes[choice] & np.isin(self._owner, places)
        wanted = [competes & ~self._foreground]
        wanted += [competes & self._foreground & (self._owner == place) for place in places]
        scores = best.new_full((len(best), len(wanted), *best.shape[2:]), -1.0)
        for channel, groups in enumerate(wanted):
            if groups.any():
                torch.amax(best[:, torch.from_numpy(np.flatnonzero(groups))], dim=1, out=scores[:, channel])
        return scores


# --------------------------------------------------------------------------- one picture


@dataclass(frozen=True, slots=True, eq=False)
class Features:
    """One picture as the extractors see it.

    Attributes:
        picture: float32 (1, 3, h, w), resized to the profile's short side.
        size: (H, W) before.
        maps: By extractor name: crops of one size, and the layers of their features.
    """

    picture: Tensor
    size: tuple[int, int]
    maps: Mapping[str, Sequence[tuple[Sequence[Crop], Sequence[Tensor]]]]


def working_picture(image: npt.NDArray[np.uint8], models: Models) -> Tensor:
    """A picture, uint8 (H, W, 3), at the size at which it is segmented: float32 (1, 3, h, w) in [0, 1]."""
    inference = models.profile.inference
    size = inference.working_size(image.shape[0], image.shape[1])
    return to_working_tensor(image, size, models.device, inference.resample)


def extract(models: Models, image: npt.NDArray[np.uint8], extractors: Sequence[str]) -> Features:
    """Features of every crop of a picture.

    Args:
        models: The networks.
        image: uint8 (H, W, 3), RGB.
        extractors: By name.
    """
    inference = models.profile.inference
    picture = working_picture(image, models)
    height, width = picture.shape[2:]
    crops = all_crops(height, width, inference.windows, whole_image=inference.whole_image)
    batches = [
        same_size[start : start + CROPS_AT_ONCE]
        for _, items in groupby(crops, key=lambda crop: (crop.height, crop.width))
        for same_size in [list(items)]
        for start in range(0, len(same_size), CROPS_AT_ONCE)
    ]
    return Features(
        picture=picture,
        size=(image.shape[0], image.shape[1]),
        maps={
            spec.name: [
                (batch, models.feature_maps(spec, torch.cat([crop.cut(picture) for crop in batch])))
                for batch in batches
            ]
            for spec in models.profile.pick_extractors(extractors)
        },
    )


class Study:
    """Segments pictures under every setting with the prototypes of one support set.

    Args:
        profile: Its inference settings are those of the pictures.
        pools: From `build_pools`, by extractor name.
        settings: What is measured.
        classes: What is asked for.
        device: Where pictures are compared.
    """

    def __init__(
        self,
        profile: Profile,
        pools: Mapping[str, Pool],
        settings: Sequence[Setting],
        classes: Classes,
        device: str = "cpu",
    ) -> None:
        self._settings = tuple(dict.fromkeys(settings))
        self._classes = classes
        similarity = profile.inference.stuff_similarity
        self._matchers = {}
        for name, pool in pools.items():
            wanted = dict.fromkeys(Choice.of(setting) for setting in self._settings if name in setting.extractors)
            chosen = {choice: competing(pool, choice, classes, similarity) for choice in wanted}
            self._matchers[name] = Matcher(pool, chosen, device)

    @torch.inference_mode()
    def label_maps(self, features: Features, kept: Shortlists) -> dict[Setting, npt.NDArray[np.uint16]]:
        """One label map per setting, uint16 (H, W): 0 background, i + 1 for class i.

        Args:
            features: Of the picture.
            kept: What each pre-filter leaves.
        """
        fused = {name: self._fuse(name, features, kept) for name in self._matchers}
        found = {}
        for setting in self._settings:
            key = (Choice.of(setting), setting.prefilter)
            scores = torch.stack([fused[name][key] for name in setting.extractors]).mean(dim=0)
            if setting.refine == "pamr":
                scores = pamr(features.picture, scores)
            ids = [0, *(place + 1 for place in self._places(setting.stuff, setting.prefilter, kept))]
            found[setting] = decide(scores.clamp(min=0), features.size, background=True, ids=ids)().ids
        return found

    def _fuse(self, name: str, features: Features, kept: Shortlists) -> dict[tuple[Choice, Prefilter | None], Tensor]:
        """One extractor's scores fused over the crops, for every choice and pre-filter that it takes part in."""
        matcher, (height, width) = self._matchers[name], features.picture.shape[2:]
        wanted = {
            (Choice.of(setting), setting.prefilter): self._places(setting.stuff, setting.prefilter, kept)
            for setting in self._settings
            if name in setting.extractors
        }
        canvases = {
            key: ScoreCanvas(1 + len(places), height, width, features.picture.device) for key, places in wanted.items()
        }
        for crops, maps in features.maps[name]:
            best = matcher.best(maps)
            for key, places in wanted.items():
                for crop, scores in zip(crops, matcher.scores(best, key[0], places), strict=True):
                    canvases[key].add(crop, scores)
        return {key: canvas.mean() for key, canvas in canvases.items()}

    def _places(self, stuff: StuffRule | None, prefilter: Prefilter | None, kept: Shortlists) -> list[int]:
        """The classes that compete in a picture: what the pre-filter leaves, and stuff if it is asked for."""
        things = range(len(self._classes.things)) if prefilter is None else kept[prefilter]
        return [*things, *(range(len(self._classes.things), len(self._classes.names)) if stuff is not None else ())]
