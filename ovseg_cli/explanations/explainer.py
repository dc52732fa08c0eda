"""Explaining pixels of pictures: which prototype won, and which support image it comes from."""

from __future__ import annotations

import logging
from collections import OrderedDict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.nn import functional as F

from ovseg_cli.backbones.pixels import resize, to_tensor
from ovseg_cli.errors import ClassChangedError, ImageError, LabelError, MethodError, UsageError
from ovseg_cli.explanations.points import choose_points, enlarged, scores_at
from ovseg_cli.explanations.records import Explanation, Match, Region, Rule, Source, Standing, Word
from ovseg_cli.explanations.weights import cell_weights
from ovseg_cli.files.images import open_image
from ovseg_cli.files.labels import BACKGROUND, read_label
from ovseg_cli.files.layout import MARKED_BACKGROUND, MARKED_FOREGROUND
from ovseg_cli.methods.catalogue import check_explained
from ovseg_cli.methods.prototype import finest_grid, prototype_scores
from ovseg_cli.scorers.tokens import TokenScorer

if TYPE_CHECKING:
    from ovseg_cli.profiles import ExtractorSpec
    from ovseg_cli.scorers.prototypes import PrototypeScorer
    from ovseg_cli.segmentation.segmenter import ScoreMaps, Segmentation, Segmenter
    from ovseg_cli.store import Store
    from ovseg_cli.store.records import PrototypeInfo, Role, StoredSupport

log = logging.getLogger("ovseg_cli")

MOST_WORDS = 5
"""Words told of a pixel that GEM labelled."""

LEAST_PROBABILITY = 0.0005
"""Less probable words are told only where there would be fewer than two."""

MAX_REMEMBERED = 128
"""Prototypes whose support image stays in memory."""

REGION_SIDE = 256
"""Longer side of a support image as it is shown, at most: the user's own pictures may be large."""


class Explainer:
    """Segments pictures and explains pixels of them.

    A picture goes through the networks once, as when it is segmented without an explanation. Beyond that an explanation
    takes one support image per extractor and label through them, unless it was shown before. The features of the
    picture's crops stay in memory meanwhile, each once: at Stable Diffusion's size 35 MB for each of at most 48 crops.

    Args:
        segmenter: Says what a pixel is.
        store: Where its prototypes are from.
    """

    def __init__(self, segmenter: Segmenter, store: Store) -> None:
        check_explained(segmenter.method)
        if segmenter.recipe.words is not None and not isinstance(segmenter.scorer, TokenScorer):
            raise MethodError(
                f"The record of {segmenter.method!r} says that it can be explained, and its scorer gives no tokens."
            )
        self._segmenter = segmenter
        self._store = store
        self._sources: OrderedDict[int, Source] = OrderedDict()

    @torch.inference_mode()
    def explain(
        self,
        image: Any,
        points: Sequence[tuple[int, int]] | None = None,
        classes: Sequence[str] | None = None,
    ) -> tuple[Segmentation, list[Explanation]]:
        """Segment a picture and explain some of its pixels.

        Args:
            image: PIL image in mode RGB, or uint8 array (H, W, 3).
            points: (x, y) of each pixel; None for one in each class that was found (see `choose_points`).
            classes: Which classes may be in this picture, as `Segmenter.segment` takes them.

        Returns:
            The segmentation, the same as `Segmenter.segment` gives, and one explanation per point.

        Raises:
            UsageError: A point is outside the picture.
            UnknownClassError: One of `classes` is none of the segmenter's.
            ValueError: Not an RGB picture of 8 bits per channel.
        """
        scored = self._segmenter.score(image, classes, keep_features=True)
        for x, y in points or ():
            check_point((x, y), scored.size)
        segmentation = self._segmenter.label(scored)
        if points is None:
            points = choose_points(scored, segmentation.ids, background=self._segmenter.options.background)
        named = classes is not None
        return segmentation, [self._explain(scored, segmentation, point, named=named) for point in points]

    def _explain(
        self, scored: ScoreMaps, segmentation: Segmentation, point: tuple[int, int], *, named: bool
    ) -> Explanation:
        x, y = point
        options = self._segmenter.options
        labels = (BACKGROUND, *(segmentation.names[place] for place in scored.classes))
        own = int(segmentation.ids[y, x])
        channel = 0 if own == 0 else scored.classes.index(own - 1) + 1
        scores = scores_at(scored, [y], [x], background=options.background)[:, 0, 0].cpu().numpy()
        competing = list(range(0 if options.background else 1, len(labels)))
        ranked = sorted(competing, key=lambda c: (c != channel, -scores[c], c))
        standings = tuple(Standing(label=labels[c], score=float(scores[c])) for c in ranked)
        explanation = Explanation(
            x=x,
            y=y,
            label=labels[channel],
            method=segmentation.method,
            rule=_rule(standings, self._segmenter.threshold),
            threshold=self._segmenter.threshold,
            background=options.background,
            standings=standings,
            ruled_out=tuple(
                n for n in segmentation.names if segmentation.kept is not None and n not in segmentation.kept
            ),
            named=named,
            refined=self._segmenter.refine != "none",
            stuff_filter=self._segmenter.settings.get("stuff_filter"),
        )
        if isinstance(scored.dense, TokenScorer):
            return replace(explanation, words=_words(scored.dense, scored, point))
        asked = dict.fromkeys([*ranked[:2], *([0] if options.background else [])])
        return replace(explanation, matches=tuple(self._matches(scored, point, {c: labels[c] for c in asked})))

    def _matches(self, scored: ScoreMaps, point: tuple[int, int], labels: Mapping[int, str]) -> list[Match]:
        """What each extractor says for some channels at a pixel."""
        canvas = (int(scored.values.shape[1]), int(scored.values.shape[2]))
        matches = []
        for scorer in scored.prototypes:
            looks = scored.features[scorer.extractor.name]
            crops = [crop for crop, _ in looks]
            grids = [finest_grid(maps) for _, maps in looks]
            sums = _Sums(scorer, labels)
            for i, cells in cell_weights(point, size=scored.size, canvas=canvas, crops=crops, grids=grids).items():
                sums.add(looks[i][1], cells)
            for channel, label in labels.items():
                best = sums.best(channel)
                if best is not None:
                    matches.append(
                        Match(
                            label=label,
                            extractor=scorer.extractor.name,
                            score=sums.scores[channel],
                            cosine=float(sums.cosines[best]),
                            share=float(sums.shares[best]),
                            source=self._source(scorer.extractor, int(scorer.ids[best]), scorer.vector(best)),
                        )
                    )
        return matches

    # ------------------------------------------------------------------ support images

    def _source(self, extractor: ExtractorSpec, prototype: int, vector: Tensor) -> Source:
        """Where a prototype comes from; the last few are remembered."""
        if prototype not in self._sources:
            self._sources[prototype] = self._find_source(extractor, prototype, vector)
            while len(self._sources) > MAX_REMEMBERED:
                self._sources.popitem(last=False)
        self._sources.move_to_end(prototype)
        return self._sources[prototype]

    def _find_source(self, extractor: ExtractorSpec, prototype: int, vector: Tensor) -> Source:
        try:
            (info,) = self._store.prototype_info([prototype])
        except ValueError:
            raise ClassChangedError(
                "Another process changed one of the classes while it was being explained. Run the same command again."
            ) from None
        block = self._store.prototypes([info.class_name], extractor.digest)
        kinds, of_role = np.array(block.kind), block.role_is_fg == (info.role == "fg")
        alike = block.ids[of_role & (kinds == info.kind)].tolist()
        source = Source(
            id=prototype,
            class_name=info.class_name,
            role=info.role,
            kind=info.kind,
            number=alike.index(prototype) + 1,
            of=len(alike),
            pixels=info.pixels,
        )
        if info.support is not None:
            source = replace(source, support=info.support, found_by="own" if info.kind == "instance" else "most pixels")
        else:
            instances = of_role & (kinds == "instance")
            if not instances.any():
                return source
            nearest = int((block.vectors[instances] @ vector.cpu().numpy()).argmax())
            (instance,) = self._store.prototype_info([int(block.ids[instances][nearest])])
            source = replace(source, support=instance.support, found_by="most alike")
        return self._with_region(extractor, info, source, vector)

    def _with_region(self, extractor: ExtractorSpec, info: PrototypeInfo, source: Source, vector: Tensor) -> Source:
        supports = {support.position: support for support in self._store.supports(info.class_name)}
        support = supports.get(source.support) if source.support is not None else None
        if support is None:
            return source
        return replace(source, seed=support.seed, region=self._region(extractor, info.role, support, vector))

    def _region(self, extractor: ExtractorSpec, role: Role, support: StoredSupport, vector: Tensor) -> Region | None:
        """Where a support image matches a prototype, by the features that the prototype was pooled from."""
        try:
            image = open_image(support.image_path)
            marks = read_label(support.mask_path)
        except (ImageError, LabelError) as error:
            log.warning("a support image cannot be shown: %s", error)
            return None
        side = (extractor.input_size, extractor.input_size)
        maps = self._segmenter.models.feature_maps(extractor, resize(to_tensor(image), side))
        channel = torch.ones(1, dtype=torch.int64, device=vector.device)
        cosines = prototype_scores(maps, vector[None], channel, 2)[:, 1:]
        scale = min(1.0, REGION_SIDE / max(image.size))
        width, height = (max(1, round(length * scale)) for length in image.size)
        similarity = F.interpolate(cosines, (height, width), mode="bilinear", align_corners=False)[0, 0]
        mask = Image.fromarray(marks == (MARKED_FOREGROUND if role == "fg" else MARKED_BACKGROUND))
        return Region(
            image=np.asarray(image.resize((width, height), Image.Resampling.LANCZOS)),
            mask=np.asarray(mask.resize((width, height), Image.Resampling.NEAREST)),
            similarity=similarity.cpu().numpy(),
        )


def _words(scorer: TokenScorer, scored: ScoreMaps, point: tuple[int, int]) -> tuple[Word, ...]:
    """The most probable words at a pixel."""
    probabilities = scorer.probabilities(enlarged(scored.values, scored.size, [point[1]], [point[0]]))[:, 0, 0]
    order = probabilities.argsort(descending=True)[:MOST_WORDS].tolist()
    best = [i for place, i in enumerate(order) if place < 2 or probabilities[i] >= LEAST_PROBABILITY]
    owner = scorer.vocabulary.owner
    return tuple(Word(label=scorer.words[i], score=float(probabilities[i]), background=owner[i] == 0) for i in best)


class _Sums:
    """Sums over the cells of a pixel, for the prototypes of one extractor.

    Attributes:
        scores: Of the best cosine in each cell, for each of the channels that are wanted.
        cosines: Of each prototype's cosine, float32 (P,).
        shares: Of the weights of the cells where each prototype is its channel's best, float32 (P,).
    """

    def __init__(self, scorer: PrototypeScorer, channels: Iterable[int]) -> None:
        self._scorer = scorer
        channel = scorer.channel.cpu()
        self._places = {wanted: (channel == wanted).nonzero()[:, 0] for wanted in channels}
        self.scores = dict.fromkeys(self._places, 0.0)
        self.cosines = torch.zeros(len(channel))
        self.shares = torch.zeros(len(channel))

    def add(self, maps: Sequence[Tensor], cells: Mapping[tuple[int, int], float]) -> None:
        """Add the cells of one crop."""
        weights = torch.tensor(list(cells.values()))
        cosines = self._scorer.cosines_at(maps, torch.tensor(list(cells))).cpu()
        self.cosines += cosines @ weights
        for channel, places in self._places.items():
            if len(places):
                best, which = cosines[places].max(dim=0)
                self.scores[channel] += float(best @ weights)
                self.shares.index_add_(0, places[which], weights)

    def best(self, channel: int) -> int | None:
        """The place of a channel's prototype of the highest mean cosine; None if it has no prototypes."""
        places = self._places[channel]
        return int(places[self.cosines[places].argmax()]) if len(places) else None


def _rule(standings: Sequence[Standing], threshold: float | None) -> Rule:
    """Why the first of the standings has the pixel."""
    own, others = standings[0], standings[1:]
    if own.label != BACKGROUND:
        return "best"
    best = max((other.score for other in others), default=0.0)
    if threshold is not None and best > own.score:
        return "threshold"
    return "nothing" if max(best, own.score) <= 0 else "best"


def check_point(point: tuple[int, int], size: tuple[int, int]) -> None:
    """Refuse a point outside a picture.

    Args:
        point: (x, y).
        size: (H, W).

    Raises:
        UsageError: It is outside.
    """
    (x, y), (height, width) = point, size
    if not (0 <= x < width and 0 <= y < height):
        raise UsageError(
            f"The pixel {x},{y} is outside the picture, which is {width} pixels wide and {height} high: "
            f"X is 0 to {width - 1}, Y is 0 to {height - 1}."
        )
