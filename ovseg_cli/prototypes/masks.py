"""Attribution maps to foreground and background masks (OVDiff, section 3.2, supplement C.5 and the published code)."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Literal, Protocol

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[np.float32]
Mask = npt.NDArray[np.bool_]
Picture = npt.NDArray[np.uint8]

MaskMethod = Literal["otsu", "fixed", "self-attention", "sam"]
"""How an object is cut out of its support image; the last two choose among region proposals."""

FIXED_LOW, FIXED_HIGH = 0.2, 0.5
"""Background below, foreground above: the paper's fixed thresholds."""

log = logging.getLogger("ovseg_cli")


class RegionProposer(Protocol):
    """Cuts a picture into regions without knowing what it shows (OVDiff's segmenter, there called Gamma)."""

    @property
    def name(self) -> str:
        """What made the regions, for the record."""

    def propose(self, image: Picture) -> Mask:
        """Regions of one picture.

        Args:
            image: uint8 (H, W, 3), RGB.

        Returns:
            bool (R, H, W). They may overlap and need not cover the picture; R may be 0.
        """


@dataclass(frozen=True, slots=True)
class Thresholds:
    """Where foreground and background begin on a normalised attribution map.

    Attributes:
        low: Background is below.
        high: Foreground is above.
        method: "otsu", or "fixed" when the maps have too few levels for Otsu.
    """

    low: float
    high: float
    method: Literal["otsu", "fixed"]


@dataclass(frozen=True, slots=True)
class Cutouts:
    """The objects of one class, cut out of its support images.

    Attributes:
        attribution: For each image float32 (H, W) in [0, 1].
        foreground: For each image bool (H, W).
        background: For each image bool (H, W); never overlaps the foreground.
        record: What was done, as JSON-able values: ``method``, the thresholds ``low`` and ``high``, ``fallbacks``
            (number of images by reason), and for region methods ``proposer`` and ``regions`` (proposals of all images).
    """

    attribution: list[Array]
    foreground: list[Mask]
    background: list[Mask]
    record: dict[str, Any]


def minmax(maps: Array) -> Array:
    """Each map stretched to [0, 1] on its own; a constant map becomes 0.

    Args:
        maps: float (N, h, w).

    Returns:
        float32 (N, h, w).
    """
    low = maps.min(axis=(1, 2), keepdims=True)
    span = maps.max(axis=(1, 2), keepdims=True) - low
    return np.divide(maps - low, span, out=np.zeros_like(maps, dtype=np.float32), where=span > 0).astype(np.float32)


def normalise_attribution(maps: Array, size: int | tuple[int, int]) -> Array:
    """Attribution maps in [0, 1] at image size: min-max on the grid, bilinear enlargement, min-max again.

    Args:
        maps: float (N, g, g), raw attention.
        size: (height, width) of the images in pixels, or the side of square ones.

    Returns:
        float32 (N, height, width) in [0, 1].
    """
    import torch
    from torch.nn import functional as F

    height, width = (size, size) if isinstance(size, int) else size
    grid = torch.from_numpy(minmax(maps))[:, None]
    enlarged = F.interpolate(grid, (height, width), mode="bilinear", align_corners=False)[:, 0]
    return minmax(enlarged.numpy())


def cut_out(
    images: Sequence[Picture], attention: Array, *, method: MaskMethod, proposer: RegionProposer | None = None
) -> Cutouts:
    """Cut the object of a class out of its support images.

    "otsu" and "fixed" threshold the attribution maps; the other methods choose foreground and background among the
    regions of `proposer` (`choose_regions`), and threshold the images in which that fails with the fixed pair.

    Args:
        images: Each uint8 (H, W, 3); sizes may differ.
        attention: float32 (N, g, g), raw attention of the class phrase, one map per image.
        method: How.
        proposer: Needed by the region methods and by no other; see `ovseg_cli.prototypes.proposals.make_proposer`.

    Raises:
        ValueError: Not one map per image, or a region method without a proposer.
    """
    if len(images) != len(attention):
        raise ValueError(f"one attention map per image is wanted, got {len(attention)} maps of {len(images)} images")
    maps = [
        normalise_attribution(item[None], image.shape[:2])[0] for item, image in zip(attention, images, strict=True)
    ]
    if method in ("otsu", "fixed"):
        return _cut_by_thresholds(maps, attention, method)
    if proposer is None:
        raise ValueError(f"the mask method {method!r} needs a region proposer")
    return _cut_by_regions(images, maps, method, proposer)


# --------------------------------------------------------------------------- thresholds


def class_thresholds(maps: Array) -> Thresholds:
    """Adaptive thresholds for one class: three-class Otsu over all its maps together.

    Falls back to the fixed pair (0.2, 0.5) when the maps have fewer distinct levels than Otsu needs.

    Args:
        maps: float (N, g, g), each already in [0, 1].
    """
    from skimage.filters import threshold_multiotsu

    try:
        low, high = threshold_multiotsu(maps.ravel(), classes=3)  # flat: three dimensions could look like colours
    except ValueError:
        return Thresholds(FIXED_LOW, FIXED_HIGH, "fixed")
    return Thresholds(float(low), float(high), "otsu")


def masks_from_attribution(maps: Array, thresholds: Thresholds) -> tuple[Mask, Mask]:
    """Foreground and background masks; what lies between the thresholds belongs to neither.

    Args:
        maps: float (..., H, W) in [0, 1].
        thresholds: From `class_thresholds`.

    Returns:
        (foreground, background), each bool of the shape of `maps`.
    """
    return maps > thresholds.high, maps < thresholds.low


_FIXED = Thresholds(FIXED_LOW, FIXED_HIGH, "fixed")


def _cut_by_thresholds(maps: list[Array], attention: Array, method: Literal["otsu", "fixed"]) -> Cutouts:
    thresholds = class_thresholds(minmax(attention)) if method == "otsu" else _FIXED
    fallbacks = Counter({"too few levels for Otsu": len(maps)} if thresholds.method != method else {})
    return _collect(maps, [masks_from_attribution(item, thresholds) for item in maps], method, thresholds, fallbacks)


def _collect(
    maps: list[Array],
    masks: Iterable[tuple[Mask, Mask]],
    method: MaskMethod,
    thresholds: Thresholds,
    fallbacks: Counter[str],
    **facts: Any,
) -> Cutouts:
    """The result, with what was substituted told and recorded."""
    foreground, background = zip(*masks, strict=True) if maps else ((), ())
    for reason, count in fallbacks.items():
        log.warning(
            "Masks (%s): %s in %d of %d images; these are cut at the fixed thresholds %g and %g.",
            *(method, reason, count, len(maps), FIXED_LOW, FIXED_HIGH),
        )
    record = {
        "method": method,
        "low": round(thresholds.low, 4),
        "high": round(thresholds.high, 4),
        "fallbacks": dict(fallbacks),
        **facts,
    }
    return Cutouts(maps, list(foreground), list(background), record)


# --------------------------------------------------------------------------- regions

_CROSS = np.array([[0, 1, 0], [1, 1, 1], [0, 1, 0]], np.uint8)


def choose_regions(proposals: Mask, attribution: Array) -> tuple[Mask, Mask] | str:
    """Foreground and background among region proposals, by the attention inside them (OVDiff, section 3.2).

    What no proposal covers is one more region. A region weighs the mean attention of its pixels; a pixel belongs to
    the heaviest region that covers it. The heaviest region of all is the foreground. The background is the lightest
    region that keeps a pixel, where the attention is below 0.2, eroded once by the 3 x 3 cross.

    Where the published code would give masks without meaning, there are none here: when the heaviest region is what
    no proposal covers, the object was missed, and when one region owns every pixel, it would be both masks.

    Args:
        proposals: bool (R, H, W).
        attribution: float (H, W) in [0, 1].

    Returns:
        (foreground, background), each bool (H, W); or why the proposals do not tell.
    """
    from skimage.morphology import erosion

    regions = [region for region in proposals if region.any()]
    if not regions:
        return "no region"
    uncovered = ~np.logical_or.reduce(regions)
    if uncovered.any():
        regions.append(uncovered)
    weights = [float(attribution[region].mean(dtype=np.float64)) for region in regions]
    # The pixels' owners without an array of products: heavier regions are painted over lighter ones. Of equal
    # weights the first proposal wins.
    order = sorted(range(len(regions)), key=lambda index: (weights[index], -index))
    owner = np.empty(attribution.shape, np.int32)
    for rank, index in enumerate(order):
        owner[regions[index]] = rank
    heaviest, lightest = len(order) - 1, int(owner.min())
    if regions[order[heaviest]] is uncovered:
        return "the object in no region"
    if lightest == heaviest:
        return "one region only"
    background = (owner == lightest) & (attribution < FIXED_LOW)
    # "ignore": the picture's edge erodes nothing, as in the published code.
    return owner == heaviest, erosion(background, _CROSS, mode="ignore")


def _cut_by_regions(
    images: Sequence[Picture], maps: list[Array], method: MaskMethod, proposer: RegionProposer
) -> Cutouts:
    masks: list[tuple[Mask, Mask]] = []
    fallbacks: Counter[str] = Counter()
    found = 0
    for image, attribution in zip(images, maps, strict=True):
        proposals = proposer.propose(image)
        if proposals.shape[1:] != attribution.shape:
            raise ValueError(
                f"{proposer.name} proposed regions of shape {proposals.shape[1:]} for an image of {attribution.shape}"
            )
        found += len(proposals)
        chosen = choose_regions(proposals, attribution)
        if isinstance(chosen, str):
            fallbacks[chosen] += 1
            chosen = masks_from_attribution(attribution, _FIXED)
        masks.append(chosen)
    return _collect(maps, masks, method, _FIXED, fallbacks, proposer=proposer.name, regions=found)
