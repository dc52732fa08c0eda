"""The class pre-filter (OVDiff, category pre-filtering): which of the asked classes CLIP sees in a picture at all.

Prototypes find the best class for a pixel, even where none of the classes is in the picture. Ruling classes out for
the whole picture first is worth ten points of mIoU on PASCAL VOC (OVDiff, supplement, table A.2).

Both stages compare the picture with text. The first keeps the classes that fit better than the average one; the
second tries all combinations of these, and keeps the combination whose joint prompt ("a cat and a dog") fits best.
Stuff is always kept: what a text says of a picture is seldom the grass that is in it.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from itertools import combinations, islice

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torch.nn import functional as F

from ovseg_cli.backbones.clip import ClipBackbone
from ovseg_cli.backbones.pixels import resize
from ovseg_cli.labeling.windows import Crop
from ovseg_cli.profiles.prompts import fill_prompt
from ovseg_cli.profiles.specs import ClipSpec, PrefilterSpec

MAX_CACHED = 2**15
"""Embedded prompts kept: 64 MB for CLIP ViT-B/16, where a prompt is 512 numbers."""

TEXTS_AT_ONCE = 128


@dataclass(frozen=True, slots=True)
class Kept:
    """What the filter leaves of a list of classes.

    Attributes:
        classes: Places of the kept classes in that list, ascending; never empty.
        scores: One per kept class: its best cosine with a crop of the picture; None for stuff, which is not compared.
    """

    classes: tuple[int, ...]
    scores: tuple[float | None, ...]


def likely_classes(cosines: npt.NDArray[np.float64], limit: int) -> list[int]:
    """Stage 1: the classes whose probability is at least that of a blind guess.

    ``p = softmax(cosines)`` without temperature; classes with ``p >= 1 / C`` stay, at most the best `limit` of them.
    The best class always reaches 1 / C, so a single class always stays: the filter compares classes with each other
    and never says that a picture shows none of them.

    Args:
        cosines: float64 (C,), C at least 1.
        limit: How many classes may stay.

    Returns:
        Places of the classes that stay, ascending. Of equals, those listed first stay.
    """
    weights = np.exp(cosines - cosines.max())
    probabilities = weights / weights.sum()
    likely = np.flatnonzero(probabilities >= 1 / len(cosines))
    best = likely[np.argsort(-probabilities[likely], kind="stable")[:limit]]
    return sorted(best.tolist())


def subsets(classes: Sequence[int]) -> list[tuple[int, ...]]:
    """All non-empty subsets of classes, smaller ones first, each in the order given."""
    return [subset for size in range(1, len(classes) + 1) for subset in combinations(classes, size)]


def joint_prompt(spec: PrefilterSpec, names: Sequence[str]) -> str:
    """One text that says that a picture shows all of these classes: "a photo of a cat and an apple"."""
    return fill_prompt(spec.prompt, " and ".join(fill_prompt(spec.phrase, name) for name in names))


def overlapping_crops(height: int, width: int, grids: Sequence[int]) -> list[Crop]:
    """Crops of a picture, grid by grid; in a grid of n x n, each overlaps its neighbours by half (1: all of it)."""

    def spans(length: int, n: int) -> list[tuple[int, int]]:
        # From the floor to the ceiling, so that a very thin picture has no empty crop.
        return [(i * length // (n + 1), -(-(i + 2) * length // (n + 1))) for i in range(n)]

    return [
        Crop(top, left, bottom - top, right - left)
        for n in grids
        for top, bottom in spans(height, n)
        for left, right in spans(width, n)
    ]


class ClassPrefilter:
    """Filters one list of classes for picture after picture; a prompt that comes again is not embedded again.

    Args:
        backbone: The CLIP model.
        clip: How pictures are normalised for it.
        spec: The filter's settings.
        names: Class names; joint prompts name them in this order.
        stuff: Which of the names are stuff, and always kept.
    """

    def __init__(
        self,
        backbone: ClipBackbone,
        clip: ClipSpec,
        spec: PrefilterSpec,
        names: Sequence[str],
        *,
        stuff: Collection[str] = (),
    ) -> None:
        self._backbone = backbone
        self._clip = clip
        self._spec = spec
        self._names = tuple(names)
        # Stage 1 weighs the things among themselves: C counts only those that can be dropped.
        self._things = [place for place, name in enumerate(names) if name not in stuff]
        self._stuff = [place for place, name in enumerate(names) if name in stuff]
        self._prompts: dict[tuple[int, ...], Tensor | None] = {}

    @torch.inference_mode()
    def __call__(self, picture: Tensor) -> Kept:
        """Which classes a picture may show.

        Each crop of the picture is filtered by itself; a class stays when it stays in one of them.

        Args:
            picture: float (1, 3, H, W) in [0, 1].
        """
        scores: dict[int, float | None] = dict.fromkeys(self._stuff)
        if self._things:
            crops = self._embed_crops(picture)
            texts = self._embed_texts([(place,) for place in self._things])
            cosines = _cosines(crops, torch.stack([text for text in texts if text is not None]))
            best = cosines.max(axis=0)
            for crop, row in zip(crops, cosines, strict=True):
                likely = likely_classes(row, self._spec.limit)
                for place in self._best_subset(crop, [self._things[i] for i in likely]):
                    scores[place] = float(best[self._things.index(place)])
        classes = tuple(sorted(scores))
        return Kept(classes, tuple(scores[place] for place in classes))

    def _best_subset(self, crop: Tensor, classes: Sequence[int]) -> tuple[int, ...]:
        """Stage 2: the subset whose joint prompt fits a crop (E,) best; of equals, the smaller and then the first."""
        candidates = subsets(classes)
        texts = self._embed_texts(candidates)
        told = [i for i, text in enumerate(texts) if text is not None]
        cosines = _cosines(crop[None], torch.stack([text for text in texts if text is not None]))[0]
        return candidates[told[int(cosines.argmax())]]

    def _embed_crops(self, picture: Tensor) -> Tensor:
        """Embeddings of the crops of a picture, float32 (crops, E), each of norm 1."""
        side = self._spec.input_size
        crops = overlapping_crops(picture.shape[2], picture.shape[3], self._spec.crops)
        trace = self._backbone.trace(
            torch.cat([resize(crop.cut(picture), (side, side)) for crop in crops]),
            blocks=(-1,),
            input_size=side,
            mean=self._clip.mean,
            std=self._clip.std,
        )
        (last,) = trace.blocks.values()
        return self._backbone.embed(last.outputs[:, :1])[:, 0]

    def _embed_texts(self, wanted: Sequence[tuple[int, ...]]) -> list[Tensor | None]:
        """Embeddings of joint prompts, each float32 (E,) of norm 1, or None where the text does not fit the model."""
        fresh = [subset for subset in wanted if subset not in self._prompts]
        for start in range(0, len(fresh), TEXTS_AT_ONCE):
            chunk = fresh[start : start + TEXTS_AT_ONCE]
            texts = [joint_prompt(self._spec, [self._names[place] for place in subset]) for subset in chunk]
            tokens = self._backbone.tokenizer(texts)
            vectors = F.normalize(self._backbone.model.encode_text(tokens.to(self._backbone.device)).float(), dim=-1)
            # The end token, which has the highest id, comes last only in a text that may have been cut short.
            # Such a text leaves out some of the classes that it is to stand for; a single class has no other one.
            full = (tokens.argmax(dim=1) == tokens.shape[1] - 1).tolist()
            self._prompts.update(
                (subset, None if cut and len(subset) > 1 else vector)
                for subset, vector, cut in zip(chunk, vectors, full, strict=True)
            )
        found = [self._prompts[subset] for subset in wanted]
        for subset in list(islice(self._prompts, max(0, len(self._prompts) - MAX_CACHED))):  # the oldest
            del self._prompts[subset]
        return found


def _cosines(pictures: Tensor, texts: Tensor) -> npt.NDArray[np.float64]:
    """Cosines of unit vectors, (B, E) and (T, E), as float64 (B, T) on the CPU."""
    return (pictures @ texts.T).double().cpu().numpy()
