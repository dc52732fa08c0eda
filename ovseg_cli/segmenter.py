"""Segmenting one image after another with a fixed list of classes: what ``segment`` does to each image."""

from __future__ import annotations

import copy
import logging
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from ovseg_cli.choices import (
    MethodChoice,
    Resolved,
    SegmentOptions,
    plan_settings,
    resolve_method,
    resolve_options,
)
from ovseg_cli.errors import UnknownClassError
from ovseg_cli.profiles import ExtractorSpec
from ovseg_cli.profiles.specs import DenseDefaults, InferenceSpec, PrefilterSpec, digest_of
from ovseg_cli.store.names import class_key

log = logging.getLogger("ovseg_cli")

if TYPE_CHECKING:
    import torch

    from ovseg_cli.dense import Crops, DenseScorer
    from ovseg_cli.labeling.windows import Crop
    from ovseg_cli.methods.prefilter import ClassPrefilter, Kept
    from ovseg_cli.models import Models
    from ovseg_cli.store.records import PrototypeBlock
    from ovseg_cli.store.store import Store

    Features = dict[str, list[tuple[Crop, list[torch.Tensor]]]]


@dataclass(frozen=True, slots=True, eq=False)
class Segmentation:
    """One segmented image.

    Attributes:
        ids: uint16 (H, W) at the image's own size; 0 is background, i is ``names[i - 1]``.
        names: The classes, in label order.
        method: What segmented, one of `ovseg_cli.choices.METHODS`.
        shares: Share of the pixels per class that is present, "background" included.
        mean_scores: Mean winning score over the pixels of each of those (cosine for prototypes; for the others
            a probability or what stands for one).
        kept: The classes that the pre-filter let take part, each with its cosine to the picture (None for stuff, which
            is not filtered); None without a pre-filter.
    """

    ids: npt.NDArray[np.uint16]
    names: tuple[str, ...]
    method: str
    shares: dict[str, float]
    mean_scores: dict[str, float]
    kept: dict[str, float | None] | None = None

    def mask(self, name: str) -> npt.NDArray[np.bool_]:
        """Pixels of one class (its name in any case), bool (H, W).

        Raises:
            UnknownClassError: The image was not segmented for this class.
        """
        from ovseg_cli.store.names import class_key

        keys = [class_key(known) for known in self.names]
        if class_key(name) not in keys:
            raise UnknownClassError(f"{name!r} was not among the classes: {', '.join(self.names)}.")
        return self.ids == keys.index(class_key(name)) + 1


@dataclass(frozen=True, slots=True, eq=False)
class Scored:
    """One image between its scores and its labels.

    Attributes:
        size: (H, W) of the image.
        classes: Which of the segmenter's classes take part, by their places; they have channels 1, 2, ...
        kept: What the pre-filter said; None without one.
        prototypes: Where scores come from, one per extractor; empty for a method without prototypes.
        dense: Where scores come from; None for prototypes alone.
        fused: float32 (channels, h, w): scores fused over crops and scorers, and refined: cosines with the best
            prototypes, or what the dense scorer gives. With both, `scores` again.
        scores: float32 (C + 1, h', w'): what decides, a score for the background and each class that takes part.
        features: For each extractor by its name, if they were to be kept: the crops, each with its feature maps as
            `Models.feature_maps` gives them, on the CPU.
    """

    size: tuple[int, int]
    classes: tuple[int, ...]
    kept: Kept | None
    prototypes: Sequence[_PrototypeScorer]
    dense: DenseScorer | None
    fused: torch.Tensor
    scores: torch.Tensor
    features: Features


class Segmenter:
    """Segments images for one list of classes.

    Args:
        models: The models of the store's profile.
        store: Where prototypes come from.
        classes: Class names in label order.
        method: "auto", one of `ovseg_cli.choices.METHODS`, or an already resolved choice.
        options: Everything else that decides the label map.

    Attributes:
        names: The classes in label order.
        settings: Everything that changes the answer, as JSON-able values.
        digest: Of `settings`.

    Raises:
        UnknownClassError: See `resolve_method`.
        UsageError: See `resolve_options`.
        ProfileMismatchError: Likewise.
    """

    def __init__(
        self,
        models: Models,
        store: Store,
        classes: Sequence[str],
        *,
        method: MethodChoice | str = "auto",
        options: SegmentOptions | None = None,
    ) -> None:
        choice = resolve_method(store, classes, method) if isinstance(method, str) else method
        options = options or SegmentOptions()
        resolved = resolve_options(store, models.profile, classes, choice, options)
        self.models = models
        self.choice = choice
        self.names = tuple(classes)
        self.options = options
        self.settings = plan_settings(store, models.profile, classes, choice, options, resolved)
        self.digest = digest_of(self.settings)
        self.threshold = options.threshold
        self._inference = resolved.inference
        self._prototypes = [_PrototypeScorer(models, store, spec, resolved) for spec in resolved.extractors]
        keys = [class_key(name) for name in classes]
        self._known = tuple(keys.index(class_key(name)) for name in resolved.known)
        self._dense: DenseScorer | None = None
        self._dense_settings = resolved.dense_settings
        if resolved.dense is not None and resolved.dense_settings is not None and resolved.vocabulary is not None:
            from ovseg_cli.dense import make_scorer, templates_for

            for note in resolved.vocabulary.notes:
                log.info("%s", note)  # the command line tells it before

            templates = templates_for(models.profile, resolved.dense_settings, options.templates)
            self._dense = make_scorer(
                models, resolved.dense, resolved.vocabulary, resolved.dense_settings, templates, cache=store
            )
            # Where nothing is joined, the dense method's own rule holds.
            if not resolved.known and options.background and options.threshold is None:
                self.threshold = self._dense.threshold
        spec = resolved.prefilter
        self._prefilter = None if spec is None else _class_prefilter(models, store, self.names, resolved.stuff, spec)

    @property
    def method(self) -> str:
        """The method that segments."""
        return self.choice.method

    def segment(self, image: Any) -> Segmentation:
        """Segment one image.

        Args:
            image: PIL image in mode RGB, or uint8 array (H, W, 3).

        Returns:
            The label map at the image's own size.

        Raises:
            ValueError: Not an RGB picture of 8 bits per channel.
        """
        return self.label(self.score(image))

    def score(self, image: Any, *, keep_features: bool = False) -> Scored:
        """The scores that a label map is made of: the first half of `segment`.

        Args:
            image: As `segment` takes it.
            keep_features: With prototypes: whether the crops' features come along, which take much memory.

        Raises:
            ValueError: As `segment`.
        """
        import torch

        from ovseg_cli.backbones.pixels import picture_size, to_working_tensor
        from ovseg_cli.labeling.windows import short_side_size

        size = picture_size(image)
        pictures: dict[int, torch.Tensor] = {}

        def picture(geometry: InferenceSpec | DenseDefaults) -> torch.Tensor:
            side = geometry.short_side
            if side not in pictures:
                pictures[side] = to_working_tensor(image, short_side_size(*size, side), self.models.device)
            return pictures[side]

        features: Features = {}
        fused: list[torch.Tensor] = []
        with torch.inference_mode():
            first = self._inference or self._dense_settings
            kept = None if self._prefilter is None or first is None else self._prefilter(picture(first))
            classes = tuple(range(len(self.names))) if kept is None else kept.classes
            known = [place for place in self._known if place in classes]
            prototypes = [s.only([self._known.index(place) for place in known]) for s in self._prototypes if known]
            if self._inference is not None and prototypes:
                seen = features if keep_features else None
                fused.append(self._fuse(picture(self._inference), self._inference, prototypes, seen))
            dense = None
            if self._dense is not None and self._dense_settings is not None:
                dense = self._dense if kept is None else self._dense.only(classes)
                shown = picture(self._dense_settings)
                fused.append(self._fuse(shown, self._dense_settings, [dense]))
                words = dense.finish(fused[-1], shown)
            if dense is None:
                scores = fused[-1]
            elif self._inference is None:
                scores = words
            else:
                numbers = [classes.index(place) + 1 for place in known]
                scores = fused[-1] = self._join(fused[0] if prototypes else words[:1], words, numbers)
        return Scored(
            size=size,
            classes=classes,
            kept=kept,
            prototypes=prototypes,
            dense=dense,
            fused=fused[-1],
            scores=scores,
            features=features,
        )

    def _join(self, prototypes: torch.Tensor, words: torch.Tensor, known: Sequence[int]) -> torch.Tensor:
        """Scores of prototypes (P + 1, h, w) and of words (C + 1, h', w') as one, at the former's size."""
        from torch.nn import functional as F

        from ovseg_cli.methods.hybrid import hybrid_scores

        spec = self.models.profile.hybrid
        words = F.interpolate(words[None], prototypes.shape[1:], mode="bilinear", align_corners=False)[0]
        return hybrid_scores(prototypes, words, known, scale=spec.scale, weight=spec.weight)

    def label(self, scored: Scored) -> Segmentation:
        """The label map of scores: the second half of `segment`."""
        import torch

        from ovseg_cli.labeling.decide import decide

        with torch.inference_mode():
            decision = decide(
                scored.scores,
                scored.size,
                background=self.options.background,
                threshold=self.threshold,
                ids=[0, *(place + 1 for place in scored.classes)],
            )
        competing = tuple(self.names[place] for place in scored.classes)
        labels = ("background", *competing)
        present = [i for i in range(len(labels)) if decision.shares[i] > 0]
        kept = scored.kept
        return Segmentation(
            ids=decision.ids,
            names=self.names,
            method=self.method,
            shares={labels[i]: float(decision.shares[i]) for i in present},
            mean_scores={labels[i]: float(decision.mean_scores[i]) for i in present},
            kept=None if kept is None else dict(zip(competing, kept.scores, strict=True)),
        )

    def _fuse(
        self,
        picture: torch.Tensor,
        geometry: InferenceSpec | DenseDefaults,
        scorers: Sequence[_PrototypeScorer | DenseScorer],
        features: Features | None = None,
    ) -> torch.Tensor:
        """Scores of a picture fused over crops and scorers, and refined, float32 (channels, h, w).

        Features are put into `features`, if there is one, on the CPU.
        """
        from ovseg_cli.labeling.windows import ScoreCanvas

        height, width = picture.shape[2:]
        canvas = ScoreCanvas(scorers[0].channels, height, width, picture.device)
        for group, crops in self._cut(picture, geometry, scorers):
            for scorer in scorers:
                if features is not None and isinstance(scorer, _PrototypeScorer):
                    maps = scorer.features(crops)
                    scores = scorer.compare(maps)
                    seen = features.setdefault(scorer.extractor.name, [])
                    seen += [(crop, [layer[i : i + 1].cpu() for layer in maps]) for i, crop in enumerate(group)]
                else:
                    scores = scorer.score(crops)
                for crop, fresh in zip(group, scores, strict=True):
                    canvas.add(crop, fresh)
        return self._refined(canvas.mean(), picture)

    def _cut(
        self,
        picture: torch.Tensor,
        geometry: InferenceSpec | DenseDefaults,
        scorers: Sequence[_PrototypeScorer | DenseScorer],
    ) -> Iterator[tuple[list[Crop], Crops]]:
        """The crops of a picture in batches, with what the scorers share of each."""
        import torch

        from ovseg_cli.dense import Crops
        from ovseg_cli.labeling.windows import all_crops

        crops = all_crops(picture.shape[2], picture.shape[3], geometry.windows, whole_image=geometry.whole_image)
        blocks = {block for scorer in scorers for block in scorer.blocks}
        for group in _batches(crops, crops_at_once(max(scorer.input_size for scorer in scorers))):
            yield group, Crops(torch.cat([crop.cut(picture) for crop in group]), self.models, blocks)

    def _refined(self, fused: torch.Tensor, picture: torch.Tensor) -> torch.Tensor:
        if self.options.refine == "none":
            return fused
        from ovseg_cli.labeling.refine import pamr

        return pamr(picture, fused)


MAX_CROPS_AT_ONCE = 16
MAX_INPUT_PIXELS_AT_ONCE = 4 * 512**2
"""Of network input in one batch of crops: features of Stable Diffusion take 126 MB for each 512x512 crop."""


def crops_at_once(input_size: int) -> int:
    """How many crops go through a network together, by the side of its input in pixels."""
    return max(1, min(MAX_CROPS_AT_ONCE, MAX_INPUT_PIXELS_AT_ONCE // input_size**2))


def _batches(crops: list[Crop], limit: int) -> list[list[Crop]]:
    """Crops of one size together, at most `limit` at once."""
    by_size: dict[tuple[int, int], list[Crop]] = {}
    for crop in crops:
        by_size.setdefault((crop.height, crop.width), []).append(crop)
    return [group[i : i + limit] for group in by_size.values() for i in range(0, len(group), limit)]


class _PrototypeScorer:
    """Cosine to the nearest prototype, for one extractor."""

    blocks = ()

    def __init__(
        self,
        models: Models,
        store: Store,
        extractor: ExtractorSpec,
        resolved: Resolved,
    ) -> None:
        import torch

        self._models = models
        self.extractor = extractor
        self.input_size = extractor.input_size
        block = store.prototypes(resolved.known, extractor.digest)
        self.channels = len(resolved.known) + 1
        owner = block.class_index
        stays = np.isin(np.array(block.kind), resolved.prototypes)
        if resolved.stuff_similarity is not None:
            stays &= _not_stuff(block, resolved.stuff, resolved.stuff_similarity, among=stays, device=models.device)
        channel = np.where(block.role_is_fg, owner + 1, 0)
        self.ids = torch.from_numpy(block.ids[stays])
        self._owner = torch.from_numpy(owner[stays]).to(models.device)
        self._channel = torch.from_numpy(channel[stays]).to(models.device)
        self._vectors = torch.from_numpy(block.vectors[stays]).to(models.device)

    def only(self, classes: Sequence[int]) -> _PrototypeScorer:
        """The same for some of the classes, which become channels 1, 2, ... in the order given.

        The other classes' background prototypes go with them, as in the published code: what surrounds a class that
        is not there says nothing about the picture.
        """
        import torch

        place = torch.full((self.channels - 1,), -1, device=self._owner.device)
        place[list(classes)] = torch.arange(len(classes), device=place.device)
        stays = place[self._owner] >= 0
        narrowed = copy.copy(self)
        narrowed.channels = len(classes) + 1
        narrowed.ids = self.ids[stays.cpu()]
        narrowed._owner = place[self._owner[stays]]
        narrowed._channel = torch.where(self._channel[stays] > 0, narrowed._owner + 1, 0)
        narrowed._vectors = self._vectors[stays]
        return narrowed

    def score(self, crops: Crops) -> torch.Tensor:
        """Scores of crops, float32 (B, C + 1, g, g)."""
        return self.compare(self.features(crops))

    def features(self, crops: Crops) -> list[torch.Tensor]:
        """Feature maps of crops: the first half of `score`."""
        return self._models.feature_maps(self.extractor, crops.images)

    def compare(self, maps: Sequence[torch.Tensor]) -> torch.Tensor:
        """Scores of feature maps: the second half of `score`."""
        from ovseg_cli.methods.prototype import prototype_scores

        return prototype_scores(maps, self._vectors, self._channel, self.channels)

    @property
    def channel(self) -> torch.Tensor:
        """Which channel each prototype scores for, int64 (P,): 0 for the background."""
        return self._channel

    def vector(self, place: int) -> torch.Tensor:
        """The unit vector of one prototype, float32 (D,)."""
        return self._vectors[place]

    def cosines_at(self, maps: Sequence[torch.Tensor], cells: torch.Tensor) -> torch.Tensor:
        """Cosines of all prototypes with some cells of one crop, float32 (P, N).

        Args:
            maps: Feature maps of the crop, as `features` gives them, on any device.
            cells: int64 (N, 2): row and column on the finest grid.
        """
        from ovseg_cli.methods.prototype import prototype_cosines_at

        device = self._vectors.device
        return prototype_cosines_at([layer.to(device) for layer in maps], self._vectors, cells.to(device))[0]


def _not_stuff(
    block: PrototypeBlock, stuff: Sequence[str], similarity: float, *, among: npt.NDArray[np.bool_], device: str
) -> npt.NDArray[np.bool_]:
    """Which prototypes the stuff filter leaves, bool (N,), when only those of `among` are matched."""
    import torch

    from ovseg_cli.methods.stuff_filter import stuff_filter

    of_stuff = np.isin(block.class_index, [i for i, name in enumerate(block.classes) if name in stuff])
    stays = stuff_filter(
        torch.from_numpy(block.vectors).to(device),
        background=torch.from_numpy(~block.role_is_fg),
        of_stuff=torch.from_numpy(of_stuff),
        against=torch.from_numpy(block.role_is_fg & of_stuff & among),
        threshold=similarity,
    )
    return stays.cpu().numpy()


def _class_prefilter(
    models: Models, store: Store, names: Sequence[str], stuff: Sequence[str], spec: PrefilterSpec
) -> ClassPrefilter:
    from ovseg_cli.methods.prefilter import ClassPrefilter

    keys = {class_key(name) for name in stuff}
    return ClassPrefilter(
        models.clip,
        models.profile.clip,
        spec,
        names,
        stuff=[name for name in names if class_key(name) in keys],
        cache=store,
    )
