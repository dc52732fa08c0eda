"""Segmenting one image after another with a fixed list of classes: what ``segment`` does to each image."""

from __future__ import annotations

import math
from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, cast

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torch.nn import functional as F

from ovseg_cli.backbones.pixels import picture_size
from ovseg_cli.choices import (
    MethodChoice,
    SegmentOptions,
    plan_settings,
    resolve_method,
    resolve_options,
)
from ovseg_cli.dense import DenseScorer, WordMaps, make_scorer, templates_for
from ovseg_cli.errors import UsageError
from ovseg_cli.labeling.decide import Enlargement, Head, decide, enlarge_rows
from ovseg_cli.labeling.refine import WORD_DILATIONS, pamr
from ovseg_cli.methods.hybrid import hybrid_scores
from ovseg_cli.methods.prefilter import ClassPrefilter, Kept
from ovseg_cli.methods.words import Reading
from ovseg_cli.names import ClassList, check_names
from ovseg_cli.profiles.geometry import Geometry, Resampling
from ovseg_cli.profiles.specs import PrefilterSpec, digest_of
from ovseg_cli.scoring import Features, Job, Picture, PrototypeScorer, fuse

if TYPE_CHECKING:
    from ovseg_cli.models import Models
    from ovseg_cli.store.store import Store

MAX_CELLS_AT_ONCE = 2**28
"""Scores of a batch of images (images x channels x rows x columns) that are held at once: 1 GB."""

MAX_REFINED_CELLS = 2**26
"""Values of words (words x rows x columns) that are refined along a picture's edges: 268 MB. What would be more is
refined at a smaller size."""

Image = Any
"""A PIL image in mode RGB, or a uint8 array (H, W, 3)."""


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
        kept: The classes that took part where not all of them did: those that the pre-filter left, each with its
            cosine to the picture (None for stuff, which is not filtered), or those that were named for this picture
            (all None); None where all took part.
        unfamiliar: Whether the image looks like nothing that the models were trained on, so that its labels mean
            little; None where they know photographs.
    """

    ids: npt.NDArray[np.uint16]
    names: tuple[str, ...]
    method: str
    shares: dict[str, float]
    mean_scores: dict[str, float]
    kept: dict[str, float | None] | None = None
    unfamiliar: bool | None = None

    def mask(self, name: str) -> npt.NDArray[np.bool_]:
        """Pixels of one class (its name in any case), bool (H, W).

        Raises:
            UnknownClassError: The image was not segmented for this class.
        """
        return self.ids == ClassList(self.names).place(name) + 1


@dataclass(frozen=True, slots=True, eq=False)
class Scored:
    """One image between its scores and its labels.

    Attributes:
        size: (H, W) of the image.
        classes: Which of the segmenter's classes take part, by their places; they have channels 1, 2, ...
        kept: What the pre-filter said, or the caller; None where all classes take part.
        prototypes: Where scores come from, one per extractor; empty for a method without prototypes.
        dense: Where scores come from; None for prototypes alone.
        values: float32 (channels, h, w): what is enlarged to the label map, refined: cosines with the best prototypes,
            what the dense scorer makes of its crops, or with both, what `head` makes nothing else of.
        head: What makes scores of enlarged values, one for the background and each class that takes part; None where
            the values are these scores.
        enlargement: How they are enlarged.
        features: For each extractor by its name, if they were to be kept: the crops, each with its feature maps as
            `Models.feature_maps` gives them, on the CPU.
        unfamiliar: As `Segmentation` has it.
    """

    size: tuple[int, int]
    classes: tuple[int, ...]
    kept: Kept | None
    prototypes: Sequence[PrototypeScorer]
    dense: DenseScorer | None
    values: Tensor
    head: Head | None
    enlargement: Enlargement
    features: Features
    unfamiliar: bool | None = None


class Segmenter:
    """Segments images for one list of classes.

    Args:
        models: The models of the store's profile.
        store: Where prototypes come from.
        classes: Class names in label order.
        method: "auto", one of `ovseg_cli.choices.METHODS`, or an already resolved choice.
        options: Everything else that decides the label map.
        progress: Told how many of how many words are read, where that is still to be done.

    Attributes:
        names: The classes in label order.
        settings: Everything that changes the answer, as JSON-able values; and, under `words`, which were cut.
        digest: Of `settings`, but for that.
        threshold: Score below which a class gives way to the background; None for no such rule.
        refine: What is done to the scores: "none" or "pamr".
        notes: Sentences for people about what they may not expect.

    Raises:
        UnknownClassError: See `resolve_method`.
        UsageError: `classes` is no list of names; and see `resolve_options`.
        ProfileMismatchError: See `resolve_options`.
    """

    def __init__(
        self,
        models: Models,
        store: Store,
        classes: Sequence[str],
        *,
        method: MethodChoice | str = "auto",
        options: SegmentOptions | None = None,
        progress: Callable[[int, int], None] | None = None,
    ) -> None:
        check_names("classes", classes)
        choice = resolve_method(store, classes, method) if isinstance(method, str) else method
        options = options or SegmentOptions()
        resolved = resolve_options(store, models.profile, classes, choice, options)
        self.models = models
        self.choice = choice
        self.names = tuple(classes)
        self.options = options
        self.settings = plan_settings(store, models.profile, classes, choice, options, resolved, models.precision)
        self.digest = digest_of(self.settings)
        self.threshold = options.threshold
        self.refine = resolved.refine
        self._inference = resolved.inference
        self._prototypes = [PrototypeScorer(models, store, spec, resolved) for spec in resolved.extractors]
        self._classes = ClassList(classes)
        self._known = tuple(map(self._classes.place, resolved.known))
        self._dense: DenseScorer | None = None
        self._dense_settings = resolved.dense_settings
        self.notes = resolved.notes
        if resolved.dense is not None and resolved.dense_settings is not None and resolved.vocabulary is not None:
            reading = Reading(progress)
            templates = templates_for(models.profile, resolved.dense_settings, options.templates)
            self._dense = make_scorer(
                models,
                resolved.dense,
                resolved.vocabulary,
                resolved.dense_settings,
                templates,
                store,
                reading,
                background=options.background,
            )
            if cut := reading.record():
                self.settings["words"]["cut"] = cut
            # Where nothing is joined, the dense method's own rule holds.
            # A picture of a mixed run keeps the run's, also where none of its classes has prototypes.
            if not resolved.known and options.background and options.threshold is None:
                self.threshold = self._dense.threshold
        spec = resolved.prefilter
        self._prefilter = (
            None if spec is None else _class_prefilter(models, store, self.names, resolved.unfiltered, spec)
        )
        self._filters_by = (spec, resolved.unfiltered, self.names)

    @property
    def method(self) -> str:
        """The method that segments."""
        return self.choice.method

    def segment(self, image: Image, classes: Sequence[str] | None = None) -> Segmentation:
        """Segment one image.

        Args:
            image: PIL image in mode RGB, or uint8 array (H, W, 3).
            classes: Which of the classes may be in this image, in any order and case: the others do not compete, and
                no pre-filter is asked. None leaves that to the pre-filter, or to all classes.

        Returns:
            The label map at the image's own size.

        Raises:
            ValueError: Not an RGB picture of 8 bits per channel.
            ImageError: The method cannot do with this image (AggSD: with so many classes in it).
            UnknownClassError: One of `classes` is none of the segmenter's.
            UsageError: `classes` is no list of names, or no class may be in this image, and neither may the background.
        """
        return self.label(self.score(image, classes))

    def segment_batch(
        self, images: Sequence[Image], classes: Sequence[Sequence[str] | None] | None = None
    ) -> list[Segmentation]:
        """Segment images of one size, which go through the networks together.

        As many go together as `MAX_CELLS_AT_ONCE` has room for, and one at least. Up to the rounding of larger
        products, which may turn a pixel between two classes, the answers are those of `segment`.

        Args:
            images: At least one; as `segment` takes them.
            classes: For each image, as `segment` takes them.

        Raises:
            ValueError: The images are of several sizes, or as `segment`.
            ImageError: The method cannot do with one of the images; as `segment`.
            UnknownClassError: As `segment`.
            UsageError: As `segment`.
        """
        named = _named(images, classes)
        step = self._images_at_once(_common_size(images))
        results = []
        for start in range(0, len(images), step):
            (answers,) = score_together([self], images[start : start + step], named[start : start + step])
            results += [self.label(scored) for scored in answers]
        return results

    def _images_at_once(self, size: tuple[int, int]) -> int:
        """How many images of (height, width) have room for their scores."""
        cells = 0  # of the scores and of the resized picture
        if self._inference is not None:
            cells += (len(self._known) + 4) * math.prod(self._inference.working_size(*size))
        if self._dense is not None and self._dense_settings is not None:
            cells += (self._dense.channels + 3) * math.prod(self._dense_settings.working_size(*size))
        return max(1, MAX_CELLS_AT_ONCE // cells)

    def score(self, image: Image, classes: Sequence[str] | None = None, *, keep_features: bool = False) -> Scored:
        """The scores that a label map is made of: the first half of `segment`.

        Args:
            image: As `segment` takes it.
            classes: As `segment` takes them.
            keep_features: With prototypes: whether the crops' features come along, which take much memory.

        Raises:
            ValueError: As `segment`.
            ImageError: As `segment`.
            UnknownClassError: As `segment`.
            UsageError: As `segment`.
        """
        ((scored,),) = score_together([self], [image], [classes], keep_features=keep_features)
        return scored

    def _takes_part(self, pictures: _Pictures, place: int, named: Sequence[str] | None) -> Kept | None:
        """Which classes take part in a picture; None for all."""
        if named is None:
            first = self._inference or self._dense_settings
            if self._prefilter is None or first is None:
                return None
            return pictures.filtered(place, first, self._prefilter, self._filters_by)
        check_names("the classes of an image", named)
        places = tuple(sorted(set(map(self._classes.place, named))))
        if not places and not self.options.background:
            raise UsageError("No class may be in the image, and neither may the background: allow one of them.")
        return Kept(places, (None,) * len(places))

    def _job_of_prototypes(self, classes: Sequence[Sequence[int]], keep: Sequence[Features] | None) -> Job | None:
        """What is wanted of prototypes, for pictures with these classes."""
        if self._inference is None:
            return None
        of_picture: list[list[PrototypeScorer] | None] = []
        for own in classes:
            known = [i for i, place in enumerate(self._known) if place in own]
            if not known:
                of_picture.append(None)
            elif len(known) == len(self._known):
                of_picture.append(self._prototypes)
            else:
                of_picture.append([scorer.only(known) for scorer in self._prototypes])
        return Job(self._inference, self._prototypes, of_picture, keep)

    def _job_of_words(self, classes: Sequence[Sequence[int]]) -> Job | None:
        """What is wanted of words, for pictures with these classes."""
        if self._dense is None or self._dense_settings is None:
            return None
        dense, every = self._dense, len(self.names)
        own = [dense if len(some) == every else dense.only(some) if some else None for some in classes]
        return Job(self._dense_settings, [dense], [None if scorer is None else [scorer] for scorer in own])

    def _finish(
        self,
        pictures: _Pictures,
        place: int,
        kept: Kept | None,
        prototypes: tuple[Job, Tensor | None] | None,
        words: tuple[Job, Tensor | None] | None,
    ) -> Scored:
        """The scores of one picture, from its jobs and their fused scores."""
        classes = tuple(range(len(self.names))) if kept is None else kept.classes
        scorers: Sequence[PrototypeScorer] = ()
        features: Features = {}
        dense = matched = maps = None
        picture = pictures.picture(place)
        if prototypes is not None:
            job, matched = prototypes
            scorers = cast("Sequence[PrototypeScorer]", job.of_picture[place] or ())
            features = {} if job.keep is None else job.keep[place]
            if matched is not None and self.refine == "pamr":
                matched = pamr(pictures.at(job.geometry)[place : place + 1], matched)
        if words is not None and words[1] is not None:
            job, fused = words
            (dense,) = cast("Sequence[DenseScorer]", job.of_picture[place])
            maps = dense.combine(fused, picture)
            if self.refine == "pamr":
                size = pictures.size if matched is None else (matched.shape[1], matched.shape[2])
                maps = _refined(maps, pictures.at(job.geometry)[place : place + 1], size)
        head: Head | None = None
        enlargement: Enlargement = "bilinear"
        if maps is None:
            # A picture that no class may be in is background.
            values = torch.zeros(1, 1, 1) if matched is None else matched
        elif matched is None:
            values, head, enlargement = maps.values, maps.head(maps.values, pictures.size), maps.enlargement
        else:
            numbers = [classes.index(known) + 1 for known in self._known if known in classes]
            values = self._join(matched, maps, numbers)
        return Scored(
            size=pictures.size,
            classes=classes,
            kept=kept,
            prototypes=scorers,
            dense=dense,
            values=values,
            head=head,
            enlargement=enlargement,
            features=features,
            unfamiliar=pictures.unfamiliar(place),
        )

    def _join(self, prototypes: Tensor, maps: WordMaps, known: Sequence[int]) -> Tensor:
        """Scores of prototypes (P + 1, h, w) and of words as one, at the former's size."""
        spec = self.models.profile.hybrid
        size = (prototypes.shape[1], prototypes.shape[2])
        enlarged = enlarge_rows(maps.values, size, 0, size[0], maps.enlargement)
        words = maps.head(maps.values, size).apply(enlarged)
        return hybrid_scores(prototypes, words, known, scale=spec.scale, weight=spec.weight)

    def label(self, scored: Scored) -> Segmentation:
        """The label map of scores: the second half of `segment`."""
        with torch.inference_mode():
            decision = decide(
                scored.values,
                scored.size,
                background=self.options.background,
                threshold=self.threshold,
                ids=[0, *(place + 1 for place in scored.classes)],
                head=scored.head,
                enlargement=scored.enlargement,
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
            unfamiliar=scored.unfamiliar,
        )


def _refined(maps: WordMaps, working: Tensor, size: tuple[int, int]) -> WordMaps:
    """The same, refined along the edges of the picture.

    As in the published code (NACLIP, `naclip.py`), this is done at the size of the label map, of which no more than
    `MAX_REFINED_CELLS` values are held, and by the resized picture, which is enlarged again for it.

    Args:
        maps: What is refined.
        working: float (1, 3, h, w), the resized picture.
        size: (H, W) of the label map.
    """
    shrink = min(1.0, math.sqrt(MAX_REFINED_CELLS / (len(maps.values) * math.prod(size))))
    size = (max(1, round(size[0] * shrink)), max(1, round(size[1] * shrink)))
    values = enlarge_rows(maps.values, size, 0, size[0], maps.enlargement)
    picture = F.interpolate(working, size, mode="bilinear", align_corners=False)
    return replace(maps, values=pamr(picture, values, dilations=WORD_DILATIONS), enlargement="bilinear")


def _common_size(images: Sequence[Image]) -> tuple[int, int]:
    """(height, width) of all of them, or ValueError."""
    sizes = {picture_size(image) for image in images}
    if len(sizes) != 1:
        raise ValueError(f"images of one size are wanted, got {len(images)} images of {len(sizes)} sizes")
    return sizes.pop()


def _named(images: Sequence[Image], classes: Sequence[Sequence[str] | None] | None) -> Sequence[Sequence[str] | None]:
    """What may be in each of them, or ValueError."""
    named = [None] * len(images) if classes is None else classes
    if len(named) != len(images):
        raise ValueError(f"classes are given for {len(named)} images, and there are {len(images)}")
    return named


class _Pictures:
    """Pictures of one size, resized as they are asked for."""

    def __init__(self, images: Sequence[Image], models: Models) -> None:
        self.size = _common_size(images)
        self._pictures = [Picture(image, models.device) for image in images]
        self._models = models
        self._resized: dict[tuple[tuple[int, int], Resampling], Tensor] = {}
        self._filtered: dict[Hashable, Kept] = {}
        self._unfamiliar: list[bool] | None = None

    def picture(self, place: int) -> Picture:
        """One of them, as it came."""
        return self._pictures[place]

    def view(self, geometry: Geometry) -> tuple[tuple[int, int], Resampling]:
        """At which size they are worked at, and how they are brought to it."""
        patch = self._models.clip.patch if geometry.in_patches else 1
        return geometry.working_size(*self.size, patch), geometry.resample

    def at(self, geometry: Geometry) -> Tensor:
        """All of them, float (P, 3, h, w) in [0, 1]."""
        view = self.view(geometry)
        if view not in self._resized:
            self._resized[view] = torch.cat([picture.at(*view) for picture in self._pictures])
        return self._resized[view]

    def forget(self, place: int) -> None:
        """Let go of what networks have seen in one of them as a whole."""
        self._pictures[place].forget()

    def unfamiliar(self, place: int) -> bool | None:
        """Whether one of them looks like nothing that the models were trained on; None where they know photographs."""
        domain = self._models.domain
        if domain is None:
            return None
        if self._unfamiliar is None:
            self._unfamiliar = (domain.scores(self.at(domain.spec)) > 0).tolist()
        return self._unfamiliar[place]

    def filtered(self, place: int, geometry: Geometry, prefilter: ClassPrefilter, settings: Hashable) -> Kept:
        """What a pre-filter with these settings leaves for one of them."""
        key = (place, self.view(geometry), settings)
        if key not in self._filtered:
            self._filtered[key] = prefilter(self.at(geometry)[place : place + 1])
        return self._filtered[key]


def segment_together(
    segmenters: Sequence[Segmenter], image: Image, classes: Sequence[str] | None = None
) -> list[Segmentation]:
    """Segment one image by several methods, which share what they can.

    Methods that cut the image into the same crops and show them to CLIP at one size walk through it once; those with
    the same tokens (GEM, and what spreads GEM's answer) compute them once; the diffusion model's self-attention of the
    whole image and the pre-filter's answer are shared as well.

    Args:
        segmenters: Each with its method, for the same models.
        image: As `Segmenter.segment` takes it.
        classes: Likewise.

    Returns:
        One answer per segmenter, those of `Segmenter.segment`.

    Raises:
        ImageError: One of the methods cannot do with this image.
        ValueError: The segmenters have different models, or as `Segmenter.segment`.
        UnknownClassError: As `Segmenter.segment`.
        UsageError: As `Segmenter.segment`.
    """
    answers = score_together(segmenters, [image], [classes])
    return [segmenter.label(scored) for segmenter, (scored,) in zip(segmenters, answers, strict=True)]


def score_together(
    segmenters: Sequence[Segmenter],
    images: Sequence[Image],
    classes: Sequence[Sequence[str] | None] | None = None,
    *,
    keep_features: bool = False,
) -> list[list[Scored]]:
    """Scores of images of one size by several segmenters; see `segment_together` and `Segmenter.segment_batch`.

    The scores of all are held at once: of each image by each segmenter, 4 bytes for every channel and pixel of the
    resized image.

    Args:
        segmenters: At least one, all for the same models.
        images: At least one.
        classes: For each image, what may be in it, as `Segmenter.segment` takes it.
        keep_features: With prototypes: whether the crops' features come along, which take much memory.

    Returns:
        By segmenter, by image.

    Raises:
        ValueError: The segmenters have different models, or the images different sizes; or as `Segmenter.segment`.
        ImageError: As `segment_together`.
        UnknownClassError: As `Segmenter.segment`.
        UsageError: As `Segmenter.segment`.
    """
    if not segmenters:
        raise ValueError("at least one segmenter is wanted")
    models = segmenters[0].models
    if any(segmenter.models is not models for segmenter in segmenters):
        raise ValueError("segmenters with the same models are wanted")
    named = _named(images, classes)
    pictures = _Pictures(images, models)
    with torch.inference_mode():
        shares = [_Share(segmenter, pictures, named, keep_features=keep_features) for segmenter in segmenters]
        alike: dict[Hashable, list[Job]] = {}
        for share in shares:
            for job in share.jobs:
                how = (pictures.view(job.geometry), job.geometry.windows, job.geometry.whole_image)
                alike.setdefault(how, []).append(job)
        fused: dict[Job, list[Tensor | None]] = {}
        for jobs in alike.values():
            fused.update(zip(jobs, fuse(pictures.at(jobs[0].geometry), jobs, models), strict=True))
        answers: list[list[Scored]] = [[] for _ in shares]
        for place in range(len(images)):
            for share, finished in zip(shares, answers, strict=True):
                finished.append(share.finish(place, fused))
            pictures.forget(place)
        return answers


class _Share:
    """One segmenter's share of `score_together`: what it wants, and what it makes of that."""

    def __init__(
        self,
        segmenter: Segmenter,
        pictures: _Pictures,
        named: Sequence[Sequence[str] | None],
        *,
        keep_features: bool,
    ) -> None:
        self._segmenter = segmenter
        self._pictures = pictures
        self._kept = [segmenter._takes_part(pictures, place, own) for place, own in enumerate(named)]
        every = tuple(range(len(segmenter.names)))
        classes = [every if kept is None else kept.classes for kept in self._kept]
        keep: list[Features] | None = [{} for _ in classes] if keep_features else None
        self._prototypes = segmenter._job_of_prototypes(classes, keep)
        self._words = segmenter._job_of_words(classes)
        self.jobs = [job for job in (self._prototypes, self._words) if job is not None]

    def finish(self, place: int, fused: Mapping[Job, Sequence[Tensor | None]]) -> Scored:
        """The scores of one picture."""

        def of(job: Job | None) -> tuple[Job, Tensor | None] | None:
            return None if job is None else (job, fused[job][place])

        return self._segmenter._finish(self._pictures, place, self._kept[place], of(self._prototypes), of(self._words))


def _class_prefilter(
    models: Models, store: Store, names: Sequence[str], stuff: Sequence[str], spec: PrefilterSpec
) -> ClassPrefilter:
    return ClassPrefilter(models.clip, models.profile.clip, spec, names, stuff=stuff, cache=store)
