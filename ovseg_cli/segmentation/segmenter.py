"""Segmenting one image after another with a fixed list of classes: what ``segment`` does to each image."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Literal, Self, cast

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torch.nn import functional as F

from ovseg_cli.errors import MethodError, OvsegError, UsageError
from ovseg_cli.files.probabilities import Scores
from ovseg_cli.labeling.decide import Enlargement, Head, decide, enlarge_rows
from ovseg_cli.labeling.refine import WORD_DILATIONS, pamr
from ovseg_cli.methods.catalogue import METHODS, scorer_of
from ovseg_cli.methods.hybrid import hybrid_scores
from ovseg_cli.names import ClassList, check_names
from ovseg_cli.profiles.geometry import Geometry
from ovseg_cli.profiles.specs import HybridSpec
from ovseg_cli.scorers.prototypes import PrototypeScorer
from ovseg_cli.scorers.scorer import Features
from ovseg_cli.scorers.words import WordMaps, WordScorer
from ovseg_cli.segmentation.images import Image, Images, common_size
from ovseg_cli.segmentation.options import SegmentOptions
from ovseg_cli.segmentation.recipe import Choice, FilterPart, Recipe, WordPart, make_recipe
from ovseg_cli.segmentation.shelf import Shelf
from ovseg_cli.segmentation.task import Task, survey
from ovseg_cli.segmentation.together import Fused, named_for, score_together
from ovseg_cli.stages import stage
from ovseg_cli.text.embedding import Reading, TextCache
from ovseg_cli.text.prefilter import ClassPrefilter, Shortlist

if TYPE_CHECKING:
    from ovseg_cli.models import Models
    from ovseg_cli.store.store import Store

MAX_CELLS_AT_ONCE = 2**28
"""Scores of a batch of images (images x channels x rows x columns) that are held at once: 1 GB."""

MAX_REFINED_CELLS = 2**26
"""Values of words (words x rows x columns) that are refined along a picture's edges: 268 MB. What would be more is
refined at a smaller size."""


@dataclass(frozen=True, slots=True, eq=False)
class Segmentation:
    """One segmented image.

    Attributes:
        ids: uint16 (H, W) at the image's own size; 0 is background, i is ``names[i - 1]``.
        names: The classes, in label order.
        method: What segmented, one of `ovseg_cli.methods.catalogue.METHODS`.
        shares: Share of the pixels per class that is present, "background" included.
        mean_scores: Mean winning score over the pixels of each of those (cosine for prototypes; for the others
            a probability or what stands for one).
        kept: The classes that took part where not all of them did: those that the pre-filter left, each with its
            cosine to the picture (None for stuff, which is not filtered), or those that were named for this picture
            (all None); None where all took part.
        unfamiliar: Whether the image looks like nothing that the models were trained on, so that its labels mean
            little; None where they know photographs.
        margin: How far the scores of a pixel are from giving it another label, mean over the pixels: the smaller, the
            less certain, among pictures of one method. None where there is only one label to give.
        scores: What the labels were chosen by, if it was to be kept.
    """

    ids: npt.NDArray[np.uint16]
    names: tuple[str, ...]
    method: str
    shares: dict[str, float]
    mean_scores: dict[str, float]
    kept: dict[str, float | None] | None = None
    unfamiliar: bool | None = None
    margin: float | None = None
    scores: Scores | None = None

    def mask(self, name: str) -> npt.NDArray[np.bool_]:
        """Pixels of one class (its name in any case), bool (H, W).

        Raises:
            UnknownClassError: The image was not segmented for this class.
        """
        return self.ids == ClassList(self.names).place(name) + 1


@dataclass(frozen=True, slots=True, eq=False)
class ScoreMaps:
    """One image between its scores and its labels.

    Attributes:
        size: (H, W) of the image.
        classes: Which of the segmenter's classes are scored, by their places; they have channels 1, 2, ...
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
        unfamiliar: Asks the device for what `Segmentation` has.
    """

    size: tuple[int, int]
    classes: tuple[int, ...]
    kept: Shortlist | None
    prototypes: Sequence[PrototypeScorer]
    dense: WordScorer | None
    values: Tensor
    head: Head | None
    enlargement: Enlargement
    features: Features
    unfamiliar: Callable[[], bool | None] = lambda: None


class Segmenter:
    """Segments images for one list of classes.

    Args:
        models: The models of the store's profile.
        store: Where prototypes come from.
        classes: Class names in label order.
        method: "auto", one of `ovseg_cli.methods.catalogue.METHODS`, or an already resolved choice.
        options: Everything else that decides the label map.
        progress: Told how many of how many words are read, where that is still to be done.

    Attributes:
        names: The classes in label order.
        settings: Everything that changes the answer, as JSON-able values; and, under `words`, which were cut.
        digest: Of `settings`, but for that.
        threshold: Score below which a class gives way to the background; None for no such rule.
        refine: What is done to the scores: "none" or "pamr".
        notes: Sentences for people about what they may not expect.
        keep_scores: In how many bits the scores of each picture come along, 8 or 16; 0 for not at all. They take
            labels x height x width times 1 or 2 bytes.

    Raises:
        UnknownClassError: See `choose_method`.
        UsageError: `classes` is no list of names; and see `make_recipe`.
        ProfileMismatchError: See `make_recipe`.
    """

    keep_scores: Literal[0, 8, 16] = 0

    def __init__(
        self,
        models: Models,
        store: Store,
        classes: Sequence[str],
        *,
        method: Choice | str = "auto",
        options: SegmentOptions | None = None,
        progress: Callable[[int, int], None] | None = None,
    ) -> None:
        recipe = make_recipe(store, models.profile, classes, method=method, options=options, precision=models.precision)
        self._prepare(models, recipe, store, progress)

    @classmethod
    def by_recipe(
        cls,
        models: Models,
        recipe: Recipe,
        *,
        texts: TextCache | None = None,
        progress: Callable[[int, int], None] | None = None,
    ) -> Self:
        """A segmenter without a store: all that it needs is in the recipe.

        Args:
            models: The models of the recipe's profile, in its precision.
            recipe: From `ovseg_cli.segmentation.recipe.make_recipe`, not of one that only plans.
            texts: Where embeddings of words are looked up and kept; None for nowhere.
            progress: As the class has it.

        Raises:
            ValueError: The models are others, or the recipe lacks its prototypes.
            UsageError: A class name is longer than the method can read.
        """
        segmenter = cls.__new__(cls)
        segmenter._prepare(models, recipe, texts, progress)
        return segmenter

    def _prepare(
        self,
        models: Models,
        recipe: Recipe,
        texts: TextCache | None,
        progress: Callable[[int, int], None] | None,
    ) -> None:
        if (models.profile, models.precision) != (recipe.profile, recipe.precision):
            raise ValueError(
                f"a recipe for {recipe.profile.name!r} in precision {recipe.precision!r} needs such models, got "
                f"{models.profile.name!r} in {models.precision!r}"
            )
        self.models = models
        self.recipe = recipe
        self.names = recipe.classes
        self.settings = dict(recipe.settings)
        self.digest = recipe.digest
        self.threshold = recipe.options.threshold
        self._classes = ClassList(self.names)
        part = recipe.prototypes
        self._shelf: Shelf | None = None
        if part is not None and part.store is not None:
            self._shelf = Shelf(models, part, background=recipe.options.background or recipe.words is not None)
        self._prototypes = _prototype_scorers(models, recipe) if self._shelf is None else self._shelf.looks
        matched = part.classes if part is not None else ()
        self._known = tuple(self._classes.place(name) for name in matched)
        self._dense: WordScorer | None = None
        if (words := recipe.words) is not None:
            reading = Reading(progress)
            self._dense = _word_scorer(models, words, texts, reading, background=recipe.options.background)
            if cut := reading.record():
                self.settings["words"] = {**self.settings["words"], "cut": cut}
            # Where nothing is joined, the dense method's own rule holds.
            # An image of a mixed run keeps the run's, also where none of its classes has prototypes.
            if not matched and recipe.options.background and recipe.options.threshold is None:
                self.threshold = self._dense.threshold
        spec = recipe.prefilter
        self._prefilter = None if spec is None else _class_prefilter(models, recipe, spec, texts)

    @property
    def scorer(self) -> WordScorer | None:
        """What reads words; None for prototypes alone."""
        return self._dense

    @property
    def choice(self) -> Choice:
        """Which method segments, and why."""
        return self.recipe.choice

    @property
    def options(self) -> SegmentOptions:
        """What else was asked for."""
        return self.recipe.options

    @property
    def refine(self) -> Literal["none", "pamr"]:
        """What is done to the scores."""
        return self.recipe.refine

    @property
    def notes(self) -> tuple[str, ...]:
        """Sentences for people about what they may not expect."""
        return self.recipe.notes

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
        named = named_for(images, classes)
        step = self._images_at_once(common_size(images))
        results = []
        for start in range(0, len(images), step):
            (answers,) = score_together([self], images[start : start + step], named[start : start + step])
            results += _read(self.labelling(scored) for scored in answers)
        return results

    def _images_at_once(self, size: tuple[int, int]) -> int:
        """How many images of (height, width) have room for their scores."""
        return max(1, MAX_CELLS_AT_ONCE // self.cells(size))

    def cells(self, size: tuple[int, int]) -> int:
        """How many values an image of (height, width) takes: its scores, and the resized picture."""
        cells = 0
        if (prototypes := self.recipe.prototypes) is not None:
            most = len(self._known) if prototypes.shortlist is None else prototypes.shortlist.most
            cells += (min(most, len(self._known)) + 4) * math.prod(prototypes.geometry.working_size(*size))
        if self._dense is not None and (words := self.recipe.words) is not None:
            cells += (self._dense.channels + 3) * math.prod(words.settings.working_size(*size))
        return cells

    def score(self, image: Image, classes: Sequence[str] | None = None, *, keep_features: bool = False) -> ScoreMaps:
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

    def share(self, images: Images, named: Sequence[Sequence[str] | None], *, keep_features: bool = False) -> _Share:
        """What it wants of images; see `ovseg_cli.segmentation.together.Participant`."""
        kept = [self._shortlist(images, place, own) for place, own in enumerate(named)]
        every = tuple(range(len(self.names)))
        classes = [every if some is None else some.classes for some in kept]
        keep: list[Features] | None = [{} for _ in classes] if keep_features else None
        matched = self._matched(images, classes)
        if self.recipe.words is None:  # what is not on the shortlist of one of them takes no part in it
            classes = [tuple(self._known[place] for place in some) for some, _ in matched]
        task = None
        if (part := self.recipe.prototypes) is not None:
            task = Task(part.geometry, self._prototypes, [scorers for _, scorers in matched], keep)
        return _Share(self, images, kept, classes, [some for some, _ in matched], task, self._task_of_words(classes))

    def _shortlist(self, images: Images, place: int, named: Sequence[str] | None) -> Shortlist | None:
        """Which classes take part in a picture; None for all."""
        if named is None:
            geometry = self._first_geometry
            if self._prefilter is None or geometry is None:
                return None
            return images.filtered(place, geometry, self._prefilter, (self.recipe.prefilter, self.names))
        check_names("the classes of an image", named)
        places = tuple(sorted({self._classes.place(name) for name in named}))
        if not places and not self.options.background:
            raise UsageError("No class may be in the image, and neither may the background: allow one of them.")
        return Shortlist(places, (None,) * len(places))

    @property
    def _first_geometry(self) -> Geometry | None:
        """How an image is resized for what is looked at first, and so for the pre-filter."""
        recipe = self.recipe
        if recipe.prototypes is not None:
            return recipe.prototypes.geometry
        return None if recipe.words is None else recipe.words.settings

    def _matched(
        self, images: Images, classes: Sequence[Sequence[int]]
    ) -> list[tuple[tuple[int, ...], list[PrototypeScorer] | None]]:
        """For images with these classes: which of those with prototypes are matched, and by what."""
        part = self.recipe.prototypes
        if part is None:
            return [((), None) for _ in classes]
        sets = [frozenset(own) for own in classes]
        known = [tuple(i for i, place in enumerate(self._known) if place in own) for own in sets]
        if self._shelf is None:
            return [(some, self._scorers_of(some)) for some in known]
        shelf = self._shelf
        many = [place for place, some in enumerate(known) if shelf.wants_survey(some)]
        seen = {}
        if many:
            pictures, kept = images.at(part.geometry), images.kept(part.geometry)
            with torch.inference_mode():
                seen = survey(pictures, many, part.geometry, shelf.looks, self.models, kept)
        return [shelf.scorers(some, seen.get(place)) if some else ((), None) for place, some in enumerate(known)]

    def _scorers_of(self, known: Sequence[int]) -> list[PrototypeScorer] | None:
        """What an image is scored by in which these of the classes with prototypes may be."""
        if not known:
            return None
        if len(known) == len(self._known):
            return self._prototypes
        return [scorer.only(known) for scorer in self._prototypes]

    def _task_of_words(self, classes: Sequence[Sequence[int]]) -> Task | None:
        """What is wanted of words, for images with these classes."""
        part = self.recipe.words
        if self._dense is None or part is None:
            return None
        dense, every = self._dense, len(self.names)
        own = [dense if len(some) == every else dense.only(some) if some else None for some in classes]
        return Task(part.settings, [dense], [None if scorer is None else [scorer] for scorer in own])

    def label(self, scored: ScoreMaps) -> Segmentation:
        """The label map of scores: the second half of `segment`."""
        return self.labelling(scored)()

    def labelling(self, scored: ScoreMaps) -> Callable[[], Segmentation]:
        """The same, up to the moment when a GPU is asked for what it found; what is returned asks it."""
        ids = np.array([0, *(place + 1 for place in scored.classes)], dtype=np.uint16)
        kept_scores = None
        if self.keep_scores:
            kind = np.uint8 if self.keep_scores == 8 else np.uint16
            kept_scores = Scores(np.zeros((len(ids), *scored.size), dtype=kind), ids)
        with torch.inference_mode(), stage("labels"):
            decided = decide(
                scored.values,
                scored.size,
                background=self.options.background,
                threshold=self.threshold,
                ids=ids.tolist(),
                head=scored.head,
                enlargement=scored.enlargement,
                keep=None if kept_scores is None else kept_scores.values,
            )
        competing = tuple(self.names[place] for place in scored.classes)
        kept = scored.kept
        labels = ("background", *competing)
        took_part = None if kept is None else dict(zip((self.names[i] for i in kept.classes), kept.scores, strict=True))

        def read() -> Segmentation:
            with stage("labels"):
                decision = decided()
            present = [i for i, share in enumerate(decision.shares) if share > 0]
            return Segmentation(
                ids=decision.ids,
                names=self.names,
                method=self.method,
                shares={labels[i]: float(decision.shares[i]) for i in present},
                mean_scores={labels[i]: float(decision.mean_scores[i]) for i in present},
                kept=took_part,
                unfamiliar=scored.unfamiliar(),
                margin=decision.margin,
                scores=kept_scores,
            )

        return read


def _read(labellings: Iterable[Callable[[], Segmentation]]) -> list[Segmentation]:
    """The answers of several images, none of which is read before all of them are on their way."""
    return [read() for read in list(labellings)]


@dataclass(frozen=True, slots=True, eq=False)
class _Share:
    """A segmenter's share of images that go through the networks together."""

    segmenter: Segmenter
    images: Images
    kept: Sequence[Shortlist | None]
    classes: Sequence[Sequence[int]]
    matched: Sequence[Sequence[int]]
    prototypes: Task | None
    words: Task | None

    @property
    def tasks(self) -> list[Task]:
        """What is wanted."""
        return [task for task in (self.prototypes, self.words) if task is not None]

    def finish(self, place: int, fused: Fused) -> ScoreMaps:
        """The scores of one image."""
        segmenter, images, kept = self.segmenter, self.images, self.kept[place]
        classes = tuple(self.classes[place])
        scorers: Sequence[PrototypeScorer] = ()
        features: Features = {}
        dense = matched = maps = None
        if (task := self.prototypes) is not None:
            matched = fused[task][place]
            scorers = cast("Sequence[PrototypeScorer]", task.of_image[place] or ())
            features = {} if task.keep is None else task.keep[place]
            if matched is not None and segmenter.refine == "pamr":
                with stage("refinement"):
                    matched = pamr(images.at(task.geometry)[place : place + 1], matched)
        if (task := self.words) is not None and (read := fused[task][place]) is not None:
            (dense,) = cast("Sequence[WordScorer]", task.of_image[place])
            with stage("combining"):
                maps = dense.combine(read, images.picture(place))
            if segmenter.refine == "pamr":
                size = images.size if matched is None else (matched.shape[1], matched.shape[2])
                with stage("refinement"):
                    maps = _refined(maps, images.at(task.geometry)[place : place + 1], size)
        head: Head | None = None
        enlargement: Enlargement = "bilinear"
        if maps is None:
            # A picture that no class may be in is background.
            values = torch.zeros(1, 1, 1) if matched is None else matched
        elif matched is None:
            values, head, enlargement = maps.values, maps.head(maps.values, images.size), maps.enlargement
        else:
            number = {known: place for place, known in enumerate(classes, start=1)}
            numbers = [number[segmenter._known[known]] for known in self.matched[place]]
            left_out = [number[known] for known in segmenter._known if known in number]
            left_out = sorted(set(left_out).difference(numbers))
            values = _joined(segmenter.models.profile.hybrid, matched, maps, numbers, left_out)
        return ScoreMaps(
            size=images.size,
            classes=classes,
            kept=kept,
            prototypes=scorers,
            dense=dense,
            values=values,
            head=head,
            enlargement=enlargement,
            features=features,
            unfamiliar=images.unfamiliar(place),
        )


def _joined(
    spec: HybridSpec, prototypes: Tensor, maps: WordMaps, known: Sequence[int], left_out: Sequence[int]
) -> Tensor:
    """Scores of prototypes (P + 1, h, w) and of words as one, at the former's size."""
    size = (prototypes.shape[1], prototypes.shape[2])
    enlarged = enlarge_rows(maps.values, size, 0, size[0], maps.enlargement)
    words = maps.head(maps.values, size).apply(enlarged)
    return hybrid_scores(prototypes, words, known, left_out, scale=spec.scale, weight=spec.weight)


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
    return [answer for (answer,) in segment_batch_together(segmenters, [image], [classes])]


def segment_batch_together(
    segmenters: Sequence[Segmenter], images: Sequence[Image], classes: Sequence[Sequence[str] | None] | None = None
) -> list[list[Segmentation]]:
    """Segment images of one size by several methods, which share what they can.

    As many methods go together as `MAX_CELLS_AT_ONCE` has room for, and one at least.

    Args:
        segmenters: As for `segment_together`.
        images: At least one; as `Segmenter.segment` takes them.
        classes: For each image, as `Segmenter.segment` takes them.

    Returns:
        By segmenter, by image.

    Raises:
        ImageError: As `segment_together`; likewise the others.
    """
    height, width = common_size(images)
    groups: list[list[Segmenter]] = [[]]
    cells = 0
    for segmenter in segmenters:
        more = len(images) * segmenter.cells((height, width))
        if groups[-1] and cells + more > MAX_CELLS_AT_ONCE:
            groups.append([])
            cells = 0
        groups[-1].append(segmenter)
        cells += more
    found: list[list[Segmentation]] = []
    for group in groups:
        answers = score_together(group, images, classes)
        begun = [[one.labelling(scored) for scored in own] for one, own in zip(group, answers, strict=True)]
        found += [_read(own) for own in begun]
    return found


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


def _word_scorer(
    models: Models, part: WordPart, texts: TextCache | None, reading: Reading, *, background: bool
) -> WordScorer:
    """The scorer of a method.

    Raises:
        UsageError: A class name is longer than the method can read.
        MethodError: The scorer of another package's method cannot be made.
    """
    make = scorer_of(part.method)
    try:
        return cast(
            WordScorer,
            make(models, part.vocabulary, part.settings, part.templates, texts, reading, background=background),
        )
    except OvsegError:
        raise
    except Exception as error:
        package = METHODS.origin(part.method)
        if package is None:
            raise
        raise MethodError(
            f"The method {part.method!r} of {package} cannot be run: its scorer says {type(error).__name__}: {error}. "
            "Tell its authors, or take another --method."
        ) from error


def _prototype_scorers(models: Models, recipe: Recipe) -> list[PrototypeScorer]:
    """One for each extractor.

    Raises:
        ValueError: The recipe only plans.
    """
    part = recipe.prototypes
    if part is None:
        return []
    if len(part.blocks) != len(part.extractors):
        raise ValueError("a recipe that only plans has no prototypes to segment by")
    return [
        PrototypeScorer(
            models,
            spec,
            block,
            kinds=part.kinds,
            stuff=part.stuff,
            stuff_similarity=part.stuff_similarity,
            sight=part.geometry.sight,
        )
        for spec, block in zip(part.extractors, part.blocks, strict=True)
    ]


def _class_prefilter(models: Models, recipe: Recipe, part: FilterPart, texts: TextCache | None) -> ClassPrefilter:
    return ClassPrefilter(models.clip, models.profile.clip, part.spec, recipe.classes, stuff=part.stuff, cache=texts)
