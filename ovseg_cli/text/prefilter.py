"""The class pre-filter (OVDiff, category pre-filtering): which of the asked classes CLIP sees in a picture at all.

Prototypes find the best class for a pixel, even where none of the classes is in the picture. Ruling classes out for
the whole picture first is worth ten points of mIoU on PASCAL VOC (OVDiff, supplement, table A.2).

Both stages compare the picture with text. The first keeps the classes that fit better than the average one; the
second tries all combinations of these, and keeps the combination whose joint prompt ("a cat and a dog") fits best.
Stuff is always kept: what a text says of a picture is seldom the grass that is in it.

Two additions to the published filter are off unless a profile turns them on. Many crops keep many classes, as each has
to keep one: background words among the candidates let a crop show none. And a combination can win by a hair with a
class too many: with a margin, the fewest classes that fit nearly as well are kept.
"""

from __future__ import annotations

import logging
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations, islice

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from ovseg_cli.backbones.clip import ClipBackbone
from ovseg_cli.backbones.pixels import resize
from ovseg_cli.labeling.windows import Crop
from ovseg_cli.names import ClassList, listed_names
from ovseg_cli.profiles.prompts import fill_prompt
from ovseg_cli.profiles.specs import ClipSpec, PrefilterSpec, digest_of
from ovseg_cli.text.embedding import TextCache

MAX_CACHED = 2**15
"""Joint prompts kept in memory: 64 MB for CLIP ViT-B/16, where a prompt is 512 numbers."""

log = logging.getLogger("ovseg_cli")


@dataclass(frozen=True, slots=True)
class Shortlist:
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


def needed(fits: Mapping[tuple[int, ...], float], margin: float, free: Collection[int] = ()) -> tuple[int, ...]:
    """Stage 2: the classes of the subset whose joint prompt fits best, as far as it needs them.

    As published (`margin` 0) the best subset stays. With a margin, prompts that fit nearly as well may stand for it,
    if they name no other classes: of those, the one stays that names the fewest. So a class goes that hardly improves
    the fit, and of two lookalikes one stays.

    Args:
        fits: The cosine of each subset's joint prompt with a crop; of equals, those listed first are better.
        margin: How far below the best cosine is nearly as well; at least 0.
        free: Those that stand for no class. Prompts may name them at will, and they never stay.

    Returns:
        The classes that stay, in the order of the subset; none where the free words say it all.
    """
    best = max(fits, key=lambda subset: fits[subset])
    allowed = {*best, *free}
    near = [subset for subset, fit in fits.items() if fit >= fits[best] - margin and allowed.issuperset(subset)]
    fewest = min(near, key=lambda subset: (len(set(subset).difference(free)), -fits[subset]))
    return tuple(place for place in fewest if place not in free)


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

    The prompts of single classes are compared with every picture: they are embedded once, when the filter is made, and
    kept for later runs. Which joint prompts are tried depends on the picture, and there are more of them than anything
    could keep (of 500 classes, 10^20 sets of ten). The `MAX_CACHED` used last stay in memory; none outlives the run.

    A class whose own prompt is longer than the model can read is never ruled out: it would be judged by the beginning
    of its name. A joint prompt that is too long is not tried.

    Args:
        backbone: The CLIP model.
        clip: Its weights, how pictures are normalised for it, and the background words.
        spec: The filter's settings.
        names: Class names. Joint prompts name them in the order of the alphabet, as in the published code, whose list
            is VOC's; the order in which they are asked for makes no difference.
        stuff: Which of the names are stuff, and always kept.
        cache: Where the prompts of single classes are looked up and kept; None for nowhere.

    Attributes:
        unread: The names that are always kept because their prompts are too long.
    """

    def __init__(
        self,
        backbone: ClipBackbone,
        clip: ClipSpec,
        spec: PrefilterSpec,
        names: Sequence[str],
        *,
        stuff: Collection[str] = (),
        cache: TextCache | None = None,
    ) -> None:
        self._backbone = backbone
        self._clip = clip
        self._spec = spec
        # Stage 1 weighs the things among themselves: C counts only those that can be dropped.
        classes = ClassList(names)
        always = classes.only(stuff)
        things = {names[place]: place for place in classes.by_alphabet() if names[place] not in always}
        others = ClassList(things).lacking(clip.background_words) if spec.background else ()
        vectors = self._embed_single([*things, *others], cache) if things else {}
        self.unread = tuple(name for name in things if name not in vectors)
        if self.unread:
            log.warning("Longer than CLIP can read, so the pre-filter always keeps: %s.", listed_names(self.unread))
        self._always = [place for place, name in enumerate(names) if name in always or name in self.unread]
        self._words = tuple(vectors)
        self._places = {index: things[word] for index, word in enumerate(vectors) if word in things}
        self._free = frozenset(range(len(vectors))) - self._places.keys()  # the background words
        self._vectors = torch.stack(list(vectors.values())) if vectors else torch.empty(0)
        self._joint: dict[tuple[int, ...], Tensor | None] = {}

    @torch.inference_mode()
    def __call__(self, picture: Tensor) -> Shortlist:
        """Which classes a picture may show.

        Each crop of the picture is filtered by itself; a class stays when it stays in one of them. Where none does,
        and none is kept anyway, the one that fits a crop best stays.

        Args:
            picture: float (1, 3, H, W) in [0, 1].
        """
        scores: dict[int, float | None] = dict.fromkeys(self._always)
        if self._places:
            crops = self._embed_crops(picture)
            cosines = _cosines(crops, self._vectors)
            likely = [likely_classes(row, self._spec.limit) for row in cosines]
            stay = {place for some in self._needed(crops, likely) for place in some}
            best = cosines.max(axis=0)
            if not stay and not scores:
                stay = {max(self._places, key=lambda index: best[index])}
            scores.update((self._places[index], float(best[index])) for index in stay)
        classes = tuple(sorted(scores))
        return Shortlist(classes, tuple(scores[place] for place in classes))

    def _needed(self, crops: Tensor, likely: Sequence[Sequence[int]]) -> Iterator[tuple[int, ...]]:
        """Stage 2 for crops (B, E): which of some words stay in each. All crops are asked about at once."""
        candidates = [subsets(words) for words in likely]
        tried = list(dict.fromkeys(subset for own in candidates for subset in own))
        texts = dict(zip(tried, self._embed_joint(tried), strict=True))
        told = [(subset, text) for subset, text in texts.items() if text is not None]
        places = {subset: place for place, (subset, _) in enumerate(told)}
        cosines = _cosines(crops, torch.stack([text for _, text in told]))
        for own, row in zip(candidates, cosines, strict=True):
            fits = {subset: float(row[places[subset]]) for subset in own if subset in places}
            yield needed(fits, self._spec.margin, self._free)

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

    def _embed_single(self, words: Sequence[str], cache: TextCache | None) -> dict[str, Tensor]:
        """Embeddings of the prompts of single words, each float32 (E,) of norm 1; without those that are too long."""
        weights = self._clip.weights
        model = digest_of({"model": weights.identity, "revision": weights.revision, "variant": weights.variant})
        prompts = {word: joint_prompt(self._spec, [word]) for word in words}
        kept = {} if cache is None else cache.cached_texts(model, list(prompts.values()))
        vectors = {text: torch.tensor(vector, device=self._backbone.device) for text, vector in kept.items()}
        fresh = [text for text in prompts.values() if text not in vectors]
        if fresh:
            encoded, cut = self._backbone.encode_texts(fresh)
            new = {text: vector for text, vector, long in zip(fresh, encoded, cut.tolist(), strict=True) if not long}
            vectors.update(new)
            if cache is not None:
                cache.keep_texts(model, {text: vector.cpu().numpy() for text, vector in new.items()})
        return {word: vectors[text] for word, text in prompts.items() if text in vectors}

    def _embed_joint(self, wanted: Sequence[tuple[int, ...]]) -> list[Tensor | None]:
        """Embeddings of joint prompts, each float32 (E,) of norm 1, or None where the text does not fit the model."""
        fresh = [subset for subset in wanted if len(subset) > 1 and subset not in self._joint]
        if fresh:
            encoded, cut = self._backbone.encode_texts(
                [joint_prompt(self._spec, [self._words[index] for index in subset]) for subset in fresh]
            )
            self._joint.update(
                (subset, None if long else vector)
                for subset, vector, long in zip(fresh, encoded, cut.tolist(), strict=True)
            )
        # What is used goes to the end, and the oldest go first.
        found = [self._vectors[s[0]] if len(s) == 1 else self._joint.setdefault(s, self._joint.pop(s)) for s in wanted]
        for subset in list(islice(self._joint, max(0, len(self._joint) - MAX_CACHED))):
            del self._joint[subset]
        return found


def _cosines(pictures: Tensor, texts: Tensor) -> npt.NDArray[np.float64]:
    """Cosines of unit vectors, (B, E) and (T, E), as float64 (B, T) on the CPU."""
    return (pictures @ texts.T).double().cpu().numpy()
