"""Dense CLIP methods on pictures: from crops to a score per word, and from fused scores to one per class.

The methods themselves are pure functions in `ovseg_cli.methods`; here they get what they need of a profile's models.
A scorer makes scores of crops (`features`, `compare`), which are fused over windows, and class scores of the fused ones
(`finish`). See `ovseg_cli.scoring` for what is shared among methods that look at the same crops.
"""

from __future__ import annotations

import copy
import math
from abc import abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from types import MappingProxyType
from typing import TYPE_CHECKING, Self

import torch
from torch import Tensor
from torch.nn import functional as F

from ovseg_cli.backbones.clip import BlockTrace
from ovseg_cli.backbones.diffusion import PhrasedPrompt, PromptAttention
from ovseg_cli.errors import ImageError, UsageError
from ovseg_cli.methods import agg, cliper, clipsurgery, clusters, diffsegmenter, gem, last_layer, proxyclip
from ovseg_cli.methods.attention_refine import refine_maps
from ovseg_cli.methods.catalogue import METHODS
from ovseg_cli.methods.diffusion_defaults import DiffusionDefaults
from ovseg_cli.methods.words import Reading, Vocabulary, embed_words, word_scores
from ovseg_cli.profiles import ExtractorSpec, Profile
from ovseg_cli.profiles.prompts import TemplateSet, resolve_templates
from ovseg_cli.profiles.specs import VAE_MEAN, VAE_STD, DenseDefaults
from ovseg_cli.scoring import Crops, Scorer, Walk
from ovseg_cli.store.names import listed_names

if TYPE_CHECKING:
    from ovseg_cli.methods.prefilter import TextCache
    from ovseg_cli.models import Models


class DenseScorer(Scorer):
    """A scorer that reads the words of a vocabulary, with or without other networks than CLIP.

    Attributes:
        threshold: Class score below which a pixel is background, by the method's own settings; None for no such rule.
        vocabulary: The words.
    """

    threshold: float | None
    vocabulary: Vocabulary

    @abstractmethod
    def finish(self, scores: Tensor, whole: Crops) -> Tensor:
        """Class scores, float32 (C + 1, g, g'), channel 0 the background's.

        Args:
            scores: float32 (channels, h, w), fused over crops.
            whole: The picture that the crops were cut from, alone.
        """

    @abstractmethod
    def only(self, classes: Sequence[int]) -> Self:
        """The same for some of the classes, which become channels 1, 2, ... in the order given."""


def dense_settings(profile: Profile, method: str) -> DenseDefaults:
    """What a dense method is run with: its published settings, unless the profile's CLIP has its own."""
    own = profile.clip.dense
    if own is not None:
        # Windows are for CLIP. A diffusion model that looks for classes finds every one in every window.
        return replace(own, windows=(), whole_image=True) if SCORERS[method] is PhraseScorer else own
    if method not in ("cliper", "cliper-coarse"):
        return PUBLISHED[method]
    published = cliper.DEFAULTS_LARGE if profile.clip.large else cliper.DEFAULTS
    tuned = profile.clip.cliper
    return published if tuned is None else replace(published, threshold=tuned.background)


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
        defaults: Its published settings.
        tokens: Of a walk, (B, N, D).
        stream: Whether it needs the profile's last `ClipSpec.streams` blocks, instead of the last one.
        class_token: Whether the tokens begin with the class token.
        proxy: Whether it needs another network's features.
    """

    defaults: DenseDefaults
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
        "maskclip": TokenMethod(last_layer.MASKCLIP_DEFAULTS, lambda seen: last_layer.maskclip_tokens(seen.blocks[-1])),
        "clipsurgery": TokenMethod(
            clipsurgery.DEFAULTS, lambda seen: clipsurgery.surgery_tokens(seen.blocks), stream=True
        ),
        "sclip": TokenMethod(last_layer.SCLIP_DEFAULTS, lambda seen: last_layer.sclip_tokens(seen.blocks[-1])),
        "clearclip": TokenMethod(
            last_layer.CLEARCLIP_DEFAULTS, lambda seen: last_layer.clearclip_tokens(seen.blocks[-1])
        ),
        "naclip": TokenMethod(
            last_layer.NACLIP_DEFAULTS, lambda seen: last_layer.naclip_tokens(seen.blocks[-1], seen.grid)
        ),
        "gem": TokenMethod(
            gem.DEFAULTS, lambda seen: gem.gem_tokens(seen.blocks, temperature=seen.temperature), stream=True
        ),
        "proxyclip": TokenMethod(proxyclip.DEFAULTS, _proxyclip, class_token=False, proxy=True),
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
    """

    def __init__(
        self,
        models: Models,
        vocabulary: Vocabulary,
        settings: DenseDefaults,
        templates: Sequence[str],
        cache: TextCache | None,
        reading: Reading | None,
    ) -> None:
        self._models = models
        self._settings = settings
        self.vocabulary = vocabulary
        self.channels = self._count(vocabulary)
        self.threshold = settings.threshold
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
        if self._settings.squash is not None:
            return self._settings.squash, self._settings.squash
        return whole_patches(*size, self._models.clip.patch)


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
    ) -> None:
        self._method = TOKEN_METHODS[method]
        self._proxy = _proxy_of(models.profile, method) if self._method.proxy else None
        depth = models.clip.depth
        last = models.profile.clip.streams if self._method.stream else 1
        self._blocks = range(max(0, depth - last), depth)
        self.sees = (method, settings.squash, settings.positions)
        super().__init__(models, vocabulary, settings, templates, cache, reading)

    def walk(self, size: tuple[int, int]) -> Walk:
        """Through the last block, or the last few."""
        return Walk(self._shown(size), self._settings.positions, self._blocks)

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
        """Probability of every word, from fused cosines (words, h, w)."""
        return torch.softmax(scores * self._settings.logit_scale, dim=0)

    def finish(self, scores: Tensor, whole: Crops) -> Tensor:
        """Class scores from fused cosines: probabilities of each class's best word, and of the background's."""
        return word_scores(scores, self.vocabulary.owner, logit_scale=self._settings.logit_scale)


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


def whole_patches(height: int, width: int, patch: int) -> tuple[int, int]:
    """(height, width) rounded to whole patches, one at least."""
    return max(1, round(height / patch)) * patch, max(1, round(width / patch)) * patch


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
    return vit.tokens(images.to(models.device), input_size=size, mean=extractor.mean, std=extractor.std)


# --------------------------------------------------------------------------- methods that give maps


class CliperScorer(_WordScorer):
    """CLIPer: coarse maps of crops, sharpened on the whole picture; see `ovseg_cli.methods.cliper`.

    Thresholds are those of PASCAL VOC with background, for the size of CLIP that the profile has, unless the profile
    has its own. The geometry, the templates and the scale come from `settings`, so that they can be asked for like any
    other method's.
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
    ) -> None:
        super().__init__(models, vocabulary, settings, templates, cache, reading)
        self._refined = method == "cliper"
        clip = models.profile.clip
        chosen = cliper.DEFAULT_SETTINGS_LARGE if clip.large else cliper.DEFAULT_SETTINGS
        if clip.cliper is not None:
            chosen = replace(chosen, score_threshold=clip.cliper.score, background_threshold=clip.cliper.background)
        self._cliper = replace(chosen, logit_scale=settings.logit_scale)
        if self.threshold is None:
            self.threshold = chosen.background_threshold
        self._blocks = range(models.clip.depth)
        self.sees = ("cliper", settings.squash, settings.positions)

    @staticmethod
    def _count(vocabulary: Vocabulary) -> int:
        """How many words stand for a class: words for the background have no map."""
        return sum(owner > 0 for owner in vocabulary.owner)

    def walk(self, size: tuple[int, int]) -> Walk:
        """Through all blocks, with their attention."""
        return Walk(self._shown(size), self._settings.positions, self._blocks, attention=True)

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

    def finish(self, scores: Tensor, whole: Crops) -> Tensor:
        """Class scores from fused coarse maps, refined by the diffusion model's self-attention if that is asked for."""
        refined = scores
        if self._refined:
            models, generator = self._models, self._models.profile.generator
            layers = models.generator.attention_layers(
                cliper.nearest_square(whole.images, generator.read_size or generator.image_size),
                layers=generator.refine_layers,
                timestep=cliper.TIMESTEP,
                noise_seed=generator.seed,
                input_size=generator.read_size or generator.image_size,
                mean=VAE_MEAN,
                std=VAE_STD,
            )
            threshold = generator.refine_threshold
            if threshold is None:
                threshold = self._cliper.attention_threshold
            (refined,) = refine_maps(scores[None], list(layers.values()), threshold=threshold)
        present = cliper.class_scores(scores, refined)
        words = cliper.cliper_scores(refined, present, self._cliper)
        return _best_words(words, self.vocabulary.owner)


def _best_words(words: Tensor, owner: Sequence[int]) -> Tensor:
    """Scores of words that stand for classes, (1 + W, h, w) with the background's first, as scores of classes."""
    classes = max(owner)
    numbers = torch.tensor([number for number in owner if number > 0], device=words.device)
    scores = torch.full((classes + 1, *words.shape[1:]), -torch.inf, device=words.device)
    scores[0] = words[0]
    return scores.scatter_reduce_(0, numbers.view(-1, 1, 1).expand_as(words[1:]), words[1:], "amax")


class SpreadScorer(TokenScorer):
    """GEM's probabilities, spread or gathered by the diffusion model's self-attention.

    AggGEM, DiffSegClust and SpecClust; see `ovseg_cli.methods.agg` and `ovseg_cli.methods.clusters`.
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
    ) -> None:
        super().__init__(models, "gem", vocabulary, settings, templates, cache, reading)
        self._gather = method

    def finish(self, scores: Tensor, whole: Crops) -> Tensor:
        """Class scores from GEM's fused cosines."""
        attention = whole.once("self-attention", lambda: self._self_attention(whole.images))
        side = math.isqrt(len(attention))
        size = (side, side) if self._gather == "agggem" else (scores.shape[1], scores.shape[2])
        # Windows make scores finer than the tokens; a token then gets the mean of its place, not one point of it.
        finer = bool(self._settings.windows)
        cosines = F.interpolate(scores[None], size, mode="bilinear", align_corners=False, antialias=finer)[0]
        likely = super().finish(cosines, whole)
        if 0 in self.vocabulary.owner:
            likely = agg.doubt_background(likely)
        if self._gather == "agggem":
            return agg.aggregate(likely, attention)
        if self._gather == "specclust":
            return clusters.label_regions(clusters.spectral_regions(attention, size), likely)
        divergence = self._models.profile.generator.cluster_divergence
        if divergence is None:
            divergence = clusters.DIVERGENCE
        return clusters.label_regions(clusters.diffseg_regions(attention, size, divergence=divergence), likely)

    def _self_attention(self, picture: Tensor) -> Tensor:
        profile = self._models.profile
        generator = profile.generator
        (attention,) = self._models.generator.self_attention(
            picture,
            layers=profile.regions.layers,
            timestep=agg.AGGGEM_DIFFUSION.timestep,
            noise_seed=generator.seed,
            input_size=generator.read_size or generator.image_size,
            mean=VAE_MEAN,
            std=VAE_STD,
        )
        return attention


class PhraseScorer(DenseScorer):
    """The diffusion model's own attention to class names (AggSD, DiffSegmenter); see `DenseScorer`.

    Each class that is asked for is found somewhere, so these want the classes of the picture: the class pre-filter's,
    unless the user knows better.
    """

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
    ) -> None:
        self._models = models
        self._method = method
        generator = models.profile.generator
        self._side = generator.phrase_size or generator.read_size or generator.image_size
        self._padded = generator.idle_attention == "padding"
        self.vocabulary = vocabulary
        self.channels = vocabulary.channels
        prompt = agg.list_classes if method == "aggsd" else lambda names: diffsegmenter.name_class(*names)
        if cut := [name for name in vocabulary.classes if not models.generator.reads(prompt([name]))]:
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
            (seen,) = self._attend(image, [agg.list_classes(names)], agg.AGGSD_DIFFUSION)
            cross = {side: maps[0] for side, maps in seen.cross.items()}
            if self._padded:
                cross = agg.leave_rest(cross, seen.tokens)
            return agg.aggsd_maps(cross, seen.layers, seen.self_attention[0], background=self._background)
        prompts = [diffsegmenter.name_class(name) for name in names]
        maps = [
            diffsegmenter.class_map({side: m[0, 1] for side, m in seen.cross.items()}, seen.self_attention[0])
            for seen in self._attend(image, prompts, diffsegmenter.DIFFUSION)
        ]
        return torch.stack([torch.zeros_like(maps[0]), *maps])

    def _attend(
        self, image: Tensor, prompts: Sequence[PhrasedPrompt], settings: DiffusionDefaults
    ) -> Iterator[PromptAttention]:
        return self._models.generator.prompt_attention(
            image,
            prompts,
            timestep=settings.timestep,
            noise_seed=self._models.profile.generator.seed,
            input_size=self._side,
            mean=VAE_MEAN,
            std=VAE_STD,
            padded=settings.padded or self._padded,
            emphasis=settings.emphasis,
            finest_self_attention=settings.finest_self_attention,
        )

    def finish(self, scores: Tensor, whole: Crops) -> Tensor:
        """Class scores from fused maps, each scaled over the whole picture."""
        if self._method == "aggsd":
            return agg.aggsd_scores(scores, background=self._background)
        background = diffsegmenter.BACKGROUND if self._background else 0.0
        return diffsegmenter.diffsegmenter_scores(scores[1:], background=background)

    @property
    def _background(self) -> bool:
        return 0 in self.vocabulary.owner


WHOLE = DenseDefaults(short_side=512, whole_image=True)
"""The geometry of methods that look for classes with the diffusion model."""

PUBLISHED: Mapping[str, DenseDefaults] = MappingProxyType(
    {name: method.defaults for name, method in TOKEN_METHODS.items()}
    | {"cliper-coarse": cliper.DEFAULTS, "cliper": cliper.DEFAULTS}
    | dict.fromkeys(("agggem", "diffsegclust", "specclust"), agg.AGGGEM_DEFAULTS)
    | dict.fromkeys(("aggsd", "diffsegmenter"), WHOLE)
)
"""Each dense method's published settings."""

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

    Raises:
        UsageError: The profile lacks a network that the method needs, or a class name is too long for it.
    """
    return SCORERS[method](models, method, vocabulary, settings, templates, cache, reading)


def templates_for(profile: Profile, settings: DenseDefaults, asked: TemplateSet | None) -> tuple[str, ...]:
    """The prompt templates: as asked, else the profile's own, else the method's."""
    return resolve_templates(asked, profile.clip.prompts, settings.templates)
