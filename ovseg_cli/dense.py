"""Dense CLIP methods on pictures: from crops to a score per word, and from fused scores to one per class.

The methods themselves are pure functions in `ovseg_cli.methods`; here they get what they need of a profile's models.
A scorer makes scores of crops (`features`, `compare`), which are fused over windows, and of the fused ones what a label
map is made of (`combine`). See `ovseg_cli.scoring` for what is shared among methods that look at the same crops.
"""

from __future__ import annotations

import copy
import math
from abc import abstractmethod
from collections.abc import Callable, Collection, Hashable, Iterator, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from types import MappingProxyType
from typing import TYPE_CHECKING, Literal, Self, cast

import torch
from torch import Tensor
from torch.nn import functional as F

from ovseg_cli.backbones.clip import BlockTrace
from ovseg_cli.backbones.phrases import PhrasedPrompt
from ovseg_cli.backbones.unet import Noising, PromptAttention
from ovseg_cli.errors import ImageError, UsageError
from ovseg_cli.labeling.decide import Enlargement, Head, enlarge_rows, extremes, strips
from ovseg_cli.methods import agg, cliper, clipsurgery, clusters, diffsegmenter, gem, last_layer, proxyclip
from ovseg_cli.methods.attention_refine import refine_maps
from ovseg_cli.methods.catalogue import METHODS
from ovseg_cli.methods.diffusion_defaults import DiffusionDefaults
from ovseg_cli.methods.words import Reading, Vocabulary, embed_words, word_scores
from ovseg_cli.profiles import ExtractorSpec, Profile
from ovseg_cli.profiles.prompts import TemplateSet, resolve_templates
from ovseg_cli.profiles.specs import DenseDefaults, GeneratorSpec
from ovseg_cli.scoring import Crops, Picture, Scorer, Walk
from ovseg_cli.store.names import class_key, listed_names

if TYPE_CHECKING:
    from ovseg_cli.methods.prefilter import TextCache
    from ovseg_cli.models import Models


@dataclass(frozen=True, slots=True, eq=False)
class WordMaps:
    """What a dense method makes of a picture, before it is enlarged to the label map.

    Attributes:
        values: float32 (K, h, w): what is enlarged.
        head: Of values that may have been refined and the label map's size (H, W): what makes class scores of them
            there.
        enlargement: How they are enlarged.
    """

    values: Tensor
    head: Callable[[Tensor, tuple[int, int]], Head]
    enlargement: Enlargement = "bilinear"


class DenseScorer(Scorer):
    """A scorer that reads the words of a vocabulary, with or without other networks than CLIP.

    Attributes:
        threshold: Class score below which a pixel is background, by the method's own settings; None for no such rule.
        vocabulary: The words.
    """

    threshold: float | None
    vocabulary: Vocabulary

    @abstractmethod
    def combine(self, fused: Tensor, picture: Picture) -> WordMaps:
        """What the label map is made of.

        Args:
            fused: float32 (channels, h, w), fused over crops.
            picture: The picture that the crops were cut from.
        """

    @abstractmethod
    def only(self, classes: Sequence[int]) -> Self:
        """The same for some of the classes, which become channels 1, 2, ... in the order given."""


def published_rows(profile: Profile, method: str) -> Mapping[str, DenseDefaults]:
    """A dense method's published settings by data set, for the size of the profile's CLIP."""
    if profile.clip.large and SCORERS[method] is CliperScorer:
        return cliper.ROWS_LARGE
    return PUBLISHED[method]


def dense_settings(profile: Profile, method: str, row: str | None = None, *, background: bool = True) -> DenseDefaults:
    """What a dense method is run with: its published settings, unless the profile's CLIP has its own.

    Args:
        profile: The profile.
        method: One of `ovseg_cli.methods.catalogue.DENSE_METHODS`.
        row: The data set whose settings are wanted; None for PASCAL VOC's, with or without background, or for what
            the method has instead.
        background: Whether pixels may belong to none of the classes.

    Raises:
        UsageError: The method has no such row, or the profile has settings of its own.
    """
    if profile.clip.dense is not None:
        if row is not None:
            raise UsageError(
                f"The profile {profile.name!r} has settings of its own, as its models have another size than the "
                "published ones. Leave out --settings, or take another --profile."
            )
        return _own_settings(profile, method, profile.clip.dense, background=background)
    rows = published_rows(profile, method)
    if row is None:
        likely = ("voc21",) if background else ("voc20", "context59")
        row = next((name for name in likely if name in rows), next(iter(rows)))
    if row not in rows:
        raise UsageError(f"{METHODS[method].title} has no published settings {row!r}. It has: {', '.join(rows)}.")
    return rows[row]


def _own_settings(profile: Profile, method: str, own: DenseDefaults, *, background: bool) -> DenseDefaults:
    """A profile's own settings, as a method needs them."""
    if SCORERS[method] is PhraseScorer:
        # Windows are for CLIP. A diffusion model that looks for classes finds every one in every window.
        side = _phrase_side(profile.generator)
        own = replace(own, windows=(), whole_image=True, short_side=side, squash=side)
    if SCORERS[method] is CliperScorer:
        published, tuned = published_rows(profile, method)["voc21" if background else "voc20"], profile.clip.cliper
        settings = replace(
            cast(cliper.CliperSettings, published), **{name: getattr(own, name) for name in _OF_ALL - {"threshold"}}
        )
        if tuned is None or not background:
            return settings
        return replace(settings, score_threshold=tuned.score, threshold=tuned.background)
    return own if background else replace(own, background_words=(), threshold=None)


_OF_ALL = {field.name for field in fields(DenseDefaults)}


def _phrase_side(generator: GeneratorSpec) -> int:
    """Side of the square at which the generator looks for class names."""
    return generator.phrase_size or _read_side(generator)


def _read_side(generator: GeneratorSpec) -> int:
    """Side of the square at which the generator reads pictures."""
    return generator.read_size or generator.image_size


def _noising(settings: DiffusionDefaults, generator: GeneratorSpec, size: int) -> Noising:
    """How pictures of a size are noised for a method."""
    seed = generator.seed if settings.noise_seed is None else settings.noise_seed
    return Noising(settings.timestep, seed, size, settings.mean, settings.std)


# --------------------------------------------------------------------------- methods that give tokens


@dataclass(frozen=True, slots=True)
class _Seen:
    """What a token method may read.

    Attributes:
        blocks: The traced blocks that it asked for, first to last.
        grid: (rows, columns) of patches.
        temperature: GEM's, see `ClipSpec`.
        proxy: float32 (B, D, rows, columns), ProxyCLIP's features.
    """

    blocks: list[BlockTrace]
    grid: tuple[int, int]
    temperature: float | None
    proxy: Tensor | None


@dataclass(frozen=True, slots=True)
class TokenMethod:
    """A method that gives tokens, which are projected into the space of text and compared with words there.

    Attributes:
        rows: Its published settings by data set.
        tokens: Of a walk, (B, N, D).
        stream: Whether it needs the profile's last `ClipSpec.streams` blocks, instead of the last one.
        class_token: Whether the tokens begin with the class token.
        proxy: Whether it needs another network's features.
    """

    rows: Mapping[str, DenseDefaults]
    tokens: Callable[[_Seen], Tensor]
    stream: bool = False
    class_token: bool = True
    proxy: bool = False


def _proxyclip(seen: _Seen) -> Tensor:
    if seen.proxy is None:
        raise ValueError("ProxyCLIP needs another network's features")
    return proxyclip.proxyclip_tokens(seen.blocks[-1], seen.proxy, seen.grid)


TOKEN_METHODS: Mapping[str, TokenMethod] = MappingProxyType(
    {
        "maskclip": TokenMethod(last_layer.MASKCLIP_ROWS, lambda seen: last_layer.maskclip_tokens(seen.blocks[-1])),
        "clipsurgery": TokenMethod(clipsurgery.ROWS, lambda seen: clipsurgery.surgery_tokens(seen.blocks), stream=True),
        "sclip": TokenMethod(last_layer.SCLIP_ROWS, lambda seen: last_layer.sclip_tokens(seen.blocks[-1])),
        "clearclip": TokenMethod(last_layer.CLEARCLIP_ROWS, lambda seen: last_layer.clearclip_tokens(seen.blocks[-1])),
        "naclip": TokenMethod(
            last_layer.NACLIP_ROWS, lambda seen: last_layer.naclip_tokens(seen.blocks[-1], seen.grid)
        ),
        "gem": TokenMethod(
            gem.ROWS, lambda seen: gem.gem_tokens(seen.blocks, temperature=seen.temperature), stream=True
        ),
        "proxyclip": TokenMethod(proxyclip.ROWS, _proxyclip, class_token=False, proxy=True),
    }
)
"""The token methods by name."""


class _WordScorer(DenseScorer):
    """What scorers have in common that compare CLIP's patches with words.

    Args:
        models: The profile's models.
        vocabulary: The words.
        settings: Geometry, templates and scale.
        templates: Prompt templates that a word is put into.
        cache: Where text embeddings are kept.
        reading: Is told how far the reading of words is, and which of them were cut.
        background: Whether pixels may belong to none of the classes.
    """

    def __init__(
        self,
        models: Models,
        vocabulary: Vocabulary,
        settings: DenseDefaults,
        templates: Sequence[str],
        cache: TextCache | None,
        reading: Reading | None,
        *,
        background: bool,
    ) -> None:
        self._models = models
        self._settings = settings
        self._background = background
        self.vocabulary = vocabulary
        self.channels = self._count(vocabulary)
        self.threshold = settings.threshold if background else None
        weights = models.profile.clip.weights
        self._text = embed_words(
            models.clip, vocabulary.words, templates, weights=weights, cache=cache, reading=reading
        )

    @staticmethod
    def _count(vocabulary: Vocabulary) -> int:
        """How many scores a cell has."""
        return len(vocabulary.words)

    @property
    def words(self) -> tuple[str, ...]:
        """The words, in the order of the channels."""
        return self.vocabulary.words

    def only(self, classes: Sequence[int]) -> Self:
        """The same for some of the classes, with their words and the background's."""
        narrowed = copy.copy(self)
        narrowed.vocabulary, kept = narrow(self.vocabulary, classes)
        narrowed.channels = self._count(narrowed.vocabulary)
        narrowed._text = self._text[kept]
        return narrowed

    def pixels(self, size: tuple[int, int]) -> int:
        """Those at which CLIP sees a crop."""
        return math.prod(self._shown(size))

    def _shown(self, size: tuple[int, int]) -> tuple[int, int]:
        """(height, width) at which CLIP sees crops of a size."""
        settings = self._settings
        if settings.squash is not None:
            return settings.squash, settings.squash
        return whole_patches(*size, self._models.clip.patch, settings.patches)

    def _walk(self, size: tuple[int, int], blocks: Collection[int], *, attention: bool = False) -> Walk:
        """A walk through some blocks, for crops of a size."""
        settings, clip = self._settings, self._models.profile.clip
        return Walk(
            self._shown(size),
            settings.positions,
            blocks,
            mean=settings.mean or clip.mean,
            std=settings.std or clip.std,
            patches="round" if settings.squash is not None or min(size) < self._models.clip.patch else settings.patches,
            attention=attention,
        )

    def _sees(self, what: str) -> Hashable:
        """What features depend on besides the crops."""
        settings = self._settings
        return what, settings.squash, settings.patches, settings.positions, settings.mean, settings.std


class TokenScorer(_WordScorer):
    """Cosines of a token method's patches with words; see `DenseScorer`.

    Args:
        models: The profile's models.
        method: Name of the method, one of `TOKEN_METHODS`.
        vocabulary: The words.
        settings: Geometry, templates and scale.
        templates: Prompt templates that a word is put into.
        cache: Where text embeddings are kept.
        reading: Is told how far the reading of words is, and which of them were cut.
        background: Whether pixels may belong to none of the classes.

    Raises:
        UsageError: The profile lacks a network that the method needs.
    """

    def __init__(
        self,
        models: Models,
        method: str,
        vocabulary: Vocabulary,
        settings: DenseDefaults,
        templates: Sequence[str],
        cache: TextCache | None = None,
        reading: Reading | None = None,
        *,
        background: bool = True,
    ) -> None:
        self._method = TOKEN_METHODS[method]
        self._proxy = _proxy_of(models.profile, method) if self._method.proxy else None
        depth = models.clip.depth
        last = models.profile.clip.streams if self._method.stream else 1
        self._blocks = range(max(0, depth - last), depth)
        super().__init__(models, vocabulary, settings, templates, cache, reading, background=background)
        self.sees = self._sees(method)

    def walk(self, size: tuple[int, int]) -> Walk:
        """Through the last block, or the last few."""
        return self._walk(size, self._blocks)

    def features(self, crops: Crops) -> list[Tensor]:
        """The method's patches in the space of text, one float32 (B, g, g', E)."""
        models, images = self._models, crops.images
        walk = self.walk((images.shape[2], images.shape[3]))
        trace = crops.trace(walk)
        proxy = None if self._proxy is None else _proxy_features(models, self._proxy, images, walk.input_size)
        blocks = [trace.blocks[i] for i in self._blocks]
        tokens = models.clip.embed(
            self._method.tokens(_Seen(blocks, trace.grid, models.profile.clip.gem_temperature, proxy))
        )
        grid = trace.grid if proxy is None else (proxy.shape[2], proxy.shape[3])
        return [(tokens[:, 1:] if self._method.class_token else tokens).unflatten(1, grid)]

    def compare(self, features: Sequence[Tensor]) -> Tensor:
        """Cosines of patches with every word, float32 (B, words, g, g')."""
        (patches,) = features
        return (patches @ self._text.T).permute(0, 3, 1, 2)

    def probabilities(self, scores: Tensor) -> Tensor:
        """Probability of every word, from cosines (words, h, w) at a pixel's own place."""
        return torch.softmax(scores * self._settings.logit_scale, dim=0)

    def combine(self, fused: Tensor, picture: Picture) -> WordMaps:
        """The cosines themselves, of which probabilities are made pixel by pixel."""
        return WordMaps(fused, self._head)

    def _head(self, cosines: Tensor, size: tuple[int, int]) -> Head:
        """Probabilities of each class's best word, and of the background's."""
        owner, scale = self.vocabulary.owner, self._settings.logit_scale
        channels, least = self.vocabulary.channels, self._settings.area_threshold

        def likely(rows: Tensor) -> Tensor:
            return word_scores(rows, owner, logit_scale=scale)

        if not (least and self._background):
            return Head(channels, likely)
        won = torch.zeros(channels, device=cosines.device)
        for _, _, rows in strips(cosines, size, channels=channels):
            won += likely(rows).argmax(dim=0).flatten().bincount(minlength=channels)
        stays = won > least * won[1:].sum()
        stays[0] = True
        return Head(channels, lambda rows: likely(rows) * stays.view(-1, 1, 1))


def narrow(vocabulary: Vocabulary, classes: Sequence[int]) -> tuple[Vocabulary, list[int]]:
    """The vocabulary of some of the classes, by their places, and the places of their words and the background's."""
    number = {place + 1: new for new, place in enumerate(classes, start=1)} | {0: 0}
    kept = [i for i, owner in enumerate(vocabulary.owner) if owner in number]
    narrowed = replace(
        vocabulary,
        classes=tuple(vocabulary.classes[place] for place in classes),
        words=tuple(vocabulary.words[i] for i in kept),
        owner=tuple(number[vocabulary.owner[i]] for i in kept),
    )
    return narrowed, kept


def whole_patches(
    height: int, width: int, patch: int, how: Literal["round", "floor", "pad"] = "round"
) -> tuple[int, int]:
    """(height, width) in whole patches, one at least: the nearest number, those that fit in, or those that cover."""
    whole: dict[str, Callable[[float], int]] = {"round": round, "floor": math.floor, "pad": math.ceil}
    rows, columns = (max(1, whole[how](length / patch)) for length in (height, width))
    return rows * patch, columns * patch


def _proxy_of(profile: Profile, method: str) -> ExtractorSpec:
    """The extractor whose network lends its features.

    Raises:
        UsageError: The profile has none.
    """
    for extractor in profile.known_extractors:
        if extractor.name == profile.proxy:
            return extractor
    raise UsageError(
        f"{METHODS[method].title} needs a self-supervised network, and the profile {profile.name!r} names none. "
        "Take another --method or --profile."
    )


def _proxy_features(models: Models, extractor: ExtractorSpec, images: Tensor, size: tuple[int, int]) -> Tensor:
    """Patch tokens of the same crops at the same size in pixels, as near as its patches allow."""
    vit = models.vit(extractor.weights)
    size = whole_patches(*size, vit.patch)
    return vit.tokens(
        images.to(models.device),
        input_size=size,
        mean=extractor.mean,
        std=extractor.std,
        positions=proxyclip.PROXY_POSITIONS,
    )


# --------------------------------------------------------------------------- methods that give maps


class CliperScorer(_WordScorer):
    """CLIPer: coarse maps of crops, sharpened on the whole picture; see `ovseg_cli.methods.cliper`.

    The geometry, the templates and the scale come from `settings`, so that they can be asked for like any other
    method's.
    """

    on_own_grid = True

    def __init__(
        self,
        models: Models,
        method: str,
        vocabulary: Vocabulary,
        settings: DenseDefaults,
        templates: Sequence[str],
        cache: TextCache | None = None,
        reading: Reading | None = None,
        *,
        background: bool = True,
    ) -> None:
        super().__init__(models, vocabulary, settings, templates, cache, reading, background=background)
        self._refined = method == "cliper"
        self._cliper = cast(cliper.CliperSettings, settings)
        self._blocks = range(models.clip.depth)
        self.sees = self._sees("cliper")

    @staticmethod
    def _count(vocabulary: Vocabulary) -> int:
        """How many words stand for a class: words for the background have no map."""
        return sum(owner > 0 for owner in vocabulary.owner)

    def walk(self, size: tuple[int, int]) -> Walk:
        """Through all blocks, with their attention."""
        return self._walk(size, self._blocks, attention=True)

    def features(self, crops: Crops) -> list[Tensor]:
        """Each embedding in the space of text, float32 (B, g, g', E), and the fused attention, float32 (B, n, n)."""
        clip = self._models.clip
        trace = crops.trace(self.walk((crops.images.shape[2], crops.images.shape[3])))
        fused = cliper.fuse_early_layers([trace.blocks[i] for i in self._blocks], trace.attention)
        embeddings = [clip.embed(tokens)[:, 1:].unflatten(1, trace.grid) for tokens in fused.tokens]
        return [*embeddings, fused.attention]

    def compare(self, features: Sequence[Tensor]) -> Tensor:
        """Coarse maps, float32 (B, words of classes, g, g')."""
        *embeddings, attention = features
        named = self.channels
        texts = cliper.cliper_texts(self._text[:named], self._text[named:])
        return cliper.cliper_maps(
            [embedding.flatten(1, 2) @ texts.T for embedding in embeddings],
            attention,
            classes=named,
            grid=(embeddings[0].shape[1], embeddings[0].shape[2]),
            logit_scale=self._cliper.logit_scale,
            layer=self._cliper.layer,
            threshold=self._cliper.attention_threshold,
        )

    def combine(self, fused: Tensor, picture: Picture) -> WordMaps:
        """Coarse maps, refined by the diffusion model's self-attention if that is asked for."""
        maps = fused
        if self._refined:
            generator = self._models.profile.generator
            layers = self._models.generator.attention_layers(
                picture.at((_read_side(generator),) * 2, "nearest"),
                Noising(cliper.TIMESTEP, generator.seed, _read_side(generator)),
                layers=generator.refine_layers,
            )
            threshold = generator.refine_threshold
            if threshold is None:
                threshold = self._cliper.attention_threshold
            (maps,) = refine_maps(fused[None], list(layers.values()), threshold=threshold)
        present = cliper.class_scores(fused, maps)
        owner = [number for number in self.vocabulary.owner if number > 0]

        def head(values: Tensor, size: tuple[int, int]) -> Head:
            ends = extremes(values, size)

            def scores(rows: Tensor) -> Tensor:
                words = cliper.cliper_scores(rows, ends, present, self._cliper, background=self._background)
                return _best_words(words, owner)

            return Head(self.vocabulary.channels, scores)

        return WordMaps(maps, head)


def _best_words(words: Tensor, owner: Sequence[int]) -> Tensor:
    """Scores of words that stand for classes, (1 + W, h, w) with the background's first, as scores of classes."""
    classes = max(owner)
    numbers = torch.tensor(owner, device=words.device)
    scores = torch.full((classes + 1, *words.shape[1:]), -torch.inf, device=words.device)
    scores[0] = words[0]
    return scores.scatter_reduce_(0, numbers.view(-1, 1, 1).expand_as(words[1:]), words[1:], "amax")


class SpreadScorer(TokenScorer):
    """GEM's probabilities, spread or gathered by the diffusion model's self-attention.

    AggGEM, DiffSegClust and SpecClust; see `ovseg_cli.methods.agg` and `ovseg_cli.methods.clusters`.
    """

    on_own_grid = True

    def __init__(
        self,
        models: Models,
        method: str,
        vocabulary: Vocabulary,
        settings: DenseDefaults,
        templates: Sequence[str],
        cache: TextCache | None = None,
        reading: Reading | None = None,
        *,
        background: bool = True,
    ) -> None:
        super().__init__(models, "gem", vocabulary, settings, templates, cache, reading, background=background)
        self._gather = method

    def combine(self, fused: Tensor, picture: Picture) -> WordMaps:
        """Probabilities spread over the picture, or regions with the cosines that label them."""
        attention = picture.once("self-attention", lambda: self._self_attention(picture))
        side = math.isqrt(len(attention))
        # Windows make scores finer than the tokens; a token then gets the mean of its place, not one point of it.
        finer = bool(self._settings.windows)
        cosines = F.interpolate(fused[None], (side, side), mode="bilinear", align_corners=False, antialias=finer)[0]
        if self._gather == "agggem":
            spread = agg.aggregate(self._likely(cosines), attention)
            return WordMaps(spread, lambda values, _size: Head(len(values), lambda rows: rows), "bicubic")
        if self._gather == "specclust":
            return self._labelled(clusters.spectral_maps(attention), cosines, "nearest")
        divergence = self._models.profile.generator.cluster_divergence
        if divergence is None:
            divergence = clusters.DIVERGENCE
        return self._labelled(clusters.diffseg_maps(attention, divergence=divergence), cosines, "bicubic")

    def _likely(self, cosines: Tensor) -> Tensor:
        """Class probabilities and the background's, (C + 1, h, w)."""
        likely = word_scores(cosines, self.vocabulary.owner, logit_scale=self._settings.logit_scale)
        return agg.doubt_background(likely) if self._background else likely

    def _labelled(self, regions: Tensor, cosines: Tensor, enlargement: Enlargement) -> WordMaps:
        """Regions (R, g, g), each of which gets the mean probabilities of its pixels."""
        channels = self.vocabulary.channels

        def head(values: Tensor, size: tuple[int, int]) -> Head:
            means = clusters.region_means(
                (
                    (rows.argmax(dim=0), self._likely(enlarge_rows(cosines, size, start, stop)))
                    for start, stop, rows in strips(values, size, channels=len(cosines), enlargement=enlargement)
                ),
                len(values),
            )
            return Head(channels, lambda rows: means[:, rows.argmax(dim=0)])

        return WordMaps(regions, head, enlargement)

    def _self_attention(self, picture: Picture) -> Tensor:
        profile, settings = self._models.profile, agg.AGGGEM_DIFFUSION
        generator = profile.generator
        side = _read_side(generator)
        (attention,) = self._models.generator.self_attention(
            picture.at((side, side), settings.resample),
            _noising(settings, generator, side),
            layers=profile.regions.layers,
            padded=settings.padded or generator.idle_attention == "padding",
        )
        return attention


class PhraseScorer(DenseScorer):
    """The diffusion model's own attention to class names (AggSD, DiffSegmenter); see `DenseScorer`.

    Each class that is asked for is found somewhere, so these want the classes of the picture: the class pre-filter's,
    unless the user knows better.
    """

    on_own_grid = True
    threshold: float | None = None
    sees = "pictures"

    def __init__(
        self,
        models: Models,
        method: str,
        vocabulary: Vocabulary,
        settings: DenseDefaults,
        templates: Sequence[str],
        cache: TextCache | None = None,
        reading: Reading | None = None,
        *,
        background: bool = True,
    ) -> None:
        self._models = models
        self._method = method
        self._background = background
        generator = models.profile.generator
        self._side = _phrase_side(generator)
        self._padded = generator.idle_attention == "padding"
        self.vocabulary = vocabulary
        self.channels = vocabulary.channels
        prompt = agg.list_classes if method == "aggsd" else lambda names: diffsegmenter.name_class(*names)
        if cut := [name for name in vocabulary.classes if not models.generator.prompts.reads(prompt([name]))]:
            raise UsageError(
                f"{METHODS[method].title} wants class names whole, and these are longer than the diffusion model's "
                f"text encoder can read: {listed_names(cut)}. Shorten them, or take a --method that reads "
                "the beginning, such as gem."
            )

    def only(self, classes: Sequence[int]) -> Self:
        """The same for some of the classes."""
        narrowed = copy.copy(self)
        narrowed.vocabulary, _ = narrow(self.vocabulary, classes)
        narrowed.channels = narrowed.vocabulary.channels
        return narrowed

    def pixels(self, size: tuple[int, int]) -> int:
        """Those of the square that every crop is squashed to."""
        return self._side**2

    def features(self, crops: Crops) -> list[Tensor]:
        """The crops themselves: what the network sees in them depends on the classes."""
        return [crops.images]

    def compare(self, features: Sequence[Tensor]) -> Tensor:
        """Class maps of crops, float32 (B, channels, g, g).

        Raises:
            ImageError: The classes of this picture do not fit into one prompt.
        """
        (images,) = features
        try:
            return torch.stack([self._maps(image[None]) for image in images])
        except UsageError as error:  # this picture has too many classes for one prompt, and the next one may not
            raise ImageError(
                f"{METHODS[self._method].title}: {error} --image-classes says which for each picture."
            ) from error

    def _maps(self, image: Tensor) -> Tensor:
        names = self.vocabulary.classes
        if self._method == "aggsd":
            # In the order of the names, as in the code, where it is that of VOC's list; not in that of the question.
            order = sorted(range(len(names)), key=lambda place: class_key(names[place]))
            (seen,) = self._attend(image, [agg.list_classes([names[place] for place in order])], agg.AGGSD_DIFFUSION)
            cross = {side: maps[0] for side, maps in seen.cross.items()}
            if self._padded:
                cross = agg.leave_rest(cross, seen.tokens)
            maps = agg.aggsd_maps(cross, seen.layers, seen.self_attention[0], background=self._background)
            return maps[[0, *(order.index(place) + 1 for place in range(len(names)))]]
        prompts = [diffsegmenter.name_class(name) for name in names]
        found = [
            diffsegmenter.class_map({side: m[0, 1] for side, m in seen.cross.items()}, seen.self_attention[0])
            for seen in self._attend(image, prompts, diffsegmenter.DIFFUSION)
        ]
        return torch.stack([torch.zeros_like(found[0]), *found])

    def _attend(
        self, image: Tensor, prompts: Sequence[PhrasedPrompt], settings: DiffusionDefaults
    ) -> Iterator[PromptAttention]:
        return self._models.generator.prompt_attention(
            image,
            prompts,
            _noising(settings, self._models.profile.generator, self._side),
            padded=settings.padded or self._padded,
            emphasis=settings.emphasis,
            finest_self_attention=settings.finest_self_attention,
        )

    def combine(self, fused: Tensor, picture: Picture) -> WordMaps:
        """The maps, each of which is scaled over the whole picture."""
        if self._method == "aggsd":
            scores = agg.aggsd_scores(fused, background=self._background)
            return WordMaps(scores, lambda values, _size: Head(len(values), lambda rows: rows), "bicubic")
        rest = diffsegmenter.BACKGROUND if self._background else 0.0

        def head(values: Tensor, size: tuple[int, int]) -> Head:
            ends = extremes(values, size)
            return Head(len(values) + 1, lambda rows: diffsegmenter.diffsegmenter_scores(rows, ends, background=rest))

        return WordMaps(fused[1:], head)


PUBLISHED: Mapping[str, Mapping[str, DenseDefaults]] = MappingProxyType(
    {name: method.rows for name, method in TOKEN_METHODS.items()}
    | {"cliper-coarse": cliper.ROWS, "cliper": cliper.ROWS}
    | dict.fromkeys(("agggem", "diffsegclust", "specclust"), agg.ROWS)
    | {"aggsd": agg.AGGSD_ROWS, "diffsegmenter": diffsegmenter.ROWS}
)
"""Each dense method's published settings by data set."""

SCORERS: Mapping[str, type[TokenScorer | CliperScorer | PhraseScorer]] = MappingProxyType(
    dict.fromkeys(TOKEN_METHODS, TokenScorer)
    | {"cliper-coarse": CliperScorer, "cliper": CliperScorer}
    | dict.fromkeys(("agggem", "diffsegclust", "specclust"), SpreadScorer)
    | dict.fromkeys(("aggsd", "diffsegmenter"), PhraseScorer)
)


def make_scorer(
    models: Models,
    method: str,
    vocabulary: Vocabulary,
    settings: DenseDefaults,
    templates: Sequence[str],
    cache: TextCache | None = None,
    reading: Reading | None = None,
    *,
    background: bool = True,
) -> DenseScorer:
    """The scorer of a dense method.

    Args:
        models: The profile's models.
        method: One of `ovseg_cli.methods.catalogue.DENSE_METHODS`.
        vocabulary: The words.
        settings: Geometry, templates and scale.
        templates: Prompt templates that a word is put into.
        cache: Where text embeddings are kept.
        reading: Is told how far the reading of words is, and which of them were cut.
        background: Whether pixels may belong to none of the classes.

    Raises:
        UsageError: The profile lacks a network that the method needs, or a class name is too long for it.
    """
    return SCORERS[method](models, method, vocabulary, settings, templates, cache, reading, background=background)


def templates_for(profile: Profile, settings: DenseDefaults, asked: TemplateSet | None) -> tuple[str, ...]:
    """The prompt templates: as asked, else the profile's own, else the method's."""
    return resolve_templates(asked, profile.clip.prompts, settings.templates)
