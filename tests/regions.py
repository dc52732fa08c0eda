"""Models that see of a picture what its colours say, so that there can be any number of classes of any look.

The colour of a pixel is the number of a class: red counts 256, green 1. Its feature is one of the class's own, with
noise, of any length: what networks give, without networks.
"""

from __future__ import annotations

import zlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, fields, replace
from typing import Any

import numpy as np

from ovseg_cli.profiles import ExtractorSpec, Profile, get_profile

Look = Callable[[str, np.ndarray, np.random.Generator], np.ndarray]
"""Of an extractor's name and class numbers (N,), features float32 (N, D), drawn anew each time."""


@dataclass(frozen=True, slots=True, kw_only=True)
class MadeUpExtractor(ExtractorSpec):
    """An extractor under a digest of one's choice."""

    under: str

    @property
    def digest(self) -> str:
        return self.under


def made_up_extractor(name: str, digest: str, dim: int, grid: int = 28) -> MadeUpExtractor:
    """One of a length and a grid."""
    (spec,) = get_profile("mini").pick_extractors(["clip"])
    own = {field.name: getattr(spec, field.name) for field in fields(spec)}
    return MadeUpExtractor(**{**own, "name": name, "dim": dim, "grid": grid, "under": digest})


def made_up_profile(extractors: Sequence[ExtractorSpec], *, short_side: int, windows: Any = ()) -> Profile:
    """A profile of nothing but extractors: no pre-filter, and no opinion on what pictures look like."""
    mini = get_profile("mini")
    return replace(
        mini,
        name="made-up",
        extractors=tuple(extractors),
        extra_extractors=(),
        domain=None,
        prefilter=None,
        inference=replace(mini.inference, short_side=short_side, windows=windows),
    )


@dataclass
class RegionModels:
    """Stands in for `Models`; counts how many crops it has seen."""

    profile: Profile
    look: Look
    device: str = "cpu"
    precision: str = "auto"
    clip: Any = None
    domain: Any = None
    seen: dict[str, int] = field(default_factory=dict)

    def feature_maps(self, extractor: ExtractorSpec, images: Any, sight: Any = None) -> list[Any]:
        import torch

        maps = []
        side = extractor.grid
        for image in images.cpu().numpy():
            self.seen[extractor.name] = self.seen.get(extractor.name, 0) + 1
            rows, columns = (((np.arange(side) + 0.5) * length / side).astype(int) for length in image.shape[1:])
            colours = np.rint(255 * image[:, rows][:, :, columns]).astype(int)
            numbers = (256 * colours[0] + colours[1]).ravel()
            random = np.random.default_rng(zlib.crc32(image.tobytes()))
            features = self.look(extractor.name, numbers, random)
            maps.append(np.ascontiguousarray(features.T).reshape(-1, side, side))
        return [torch.from_numpy(np.stack(maps)).float()]


def painted(numbers: Sequence[int], size: tuple[int, int], seed: int = 0, regions: int = 24) -> np.ndarray:
    """A picture of regions, each of one of these class numbers: uint8 (H, W, 3)."""
    random = np.random.default_rng(seed)
    centres = random.random((regions, 2)) * size
    rows, columns = np.mgrid[: size[0], : size[1]]
    distances = np.stack([(rows - y) ** 2 + (columns - x) ** 2 for y, x in centres])
    shown = np.array([numbers[place % len(numbers)] for place in range(regions)])[distances.argmin(axis=0)]
    return np.stack([shown // 256, shown % 256, np.zeros_like(shown)], axis=2).astype(np.uint8)
