"""What a profile is: frozen descriptions of models and of how they are used. No torch here.

A profile names every weight file by hub id and pinned revision (or by a folder inside the package), and every
number that changes a feature vector. The numbers that change feature vectors are hashed into the
extractor's *digest*: prototypes made under one digest are never compared with features of another.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, field, fields, is_dataclass
from pathlib import Path
from typing import Any, Final, Literal

from ovseg_cli.errors import UsageError
from ovseg_cli.names import did_you_mean
from ovseg_cli.profiles.geometry import Geometry, short_side_size, unsquashed_size, whole_patches_size

Sampler = Literal["dpmsolver++", "euler", "euler-ancestral", "lcm"]
"""What takes a diffusion model from noise to a picture: DPM-Solver++ (multistep), Euler's method, the same with fresh
noise in every step, or the steps of latent consistency models."""

ExtractorKind = Literal["unet-query", "clip-key", "clip-token", "vit-key"]

FEATURE_CODE = 1
"""Raised when the code that extracts features changes what they are, so that old prototypes are not compared with new
features."""

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)
CLIP_MEAN = (0.48145466, 0.4578275, 0.40821073)
CLIP_STD = (0.26862954, 0.26130258, 0.27577711)
VAE_MEAN = VAE_STD = (0.5, 0.5, 0.5)
"""Every Stable Diffusion's autoencoder takes pictures in [-1, 1]."""

LATER: Final = {"digest": "where it is not the default"}
"""Metadata of fields that came after stores had been made: at their default they stay out of records, so that a profile
that does not use them keeps its digest."""
FOR_PEOPLE: Final = {"digest": "never"}
"""Metadata of fields that change no answer: in a record where they are not the default, and in no digest."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Weights:
    """Where one model's files come from.

    Attributes:
        part: Short name shown to people ("diffusion", "clip", "dino").
        repo: Hub id, or None for weights that ship inside the package.
        revision: Commit hash on the hub; of a folder, a hash over its files (for bundled ones `bundled_revision`).
        bundled: Folder below ``ovseg_cli/profiles``, or None.
        files: Glob patterns of the files that are needed; nothing else is downloaded.
        marker: One file without which the weights count as absent.
        variant: diffusers' file variant (``"fp16"``), or None.
        licence: Licence of the weights.
        nbytes: Size of the download, about; 0 where nobody has said it yet.
        commercial: Whether the licence allows commercial use to everybody, without another contract.
        folder: A folder of the user's own, absolute, or None. Its revision is a hash over the files in it.
        allow_pickle: Pickles that may be read all the same, with an unpickler for tensors alone; whatever is not named
            here must be safetensors.
    """

    part: str
    repo: str | None = None
    revision: str
    bundled: str | None = None
    files: tuple[str, ...]
    marker: str
    variant: str | None = None
    licence: str
    nbytes: int
    commercial: bool = field(default=True, metadata=FOR_PEOPLE)
    folder: str | None = field(default=None, metadata=LATER)
    allow_pickle: tuple[str, ...] = field(default=(), metadata=FOR_PEOPLE)

    @property
    def model_id(self) -> str:
        """The hub id, or the name of the bundled folder, or where the user's own is: for people."""
        return self.repo or (f"local-dir:{self.folder}" if self.folder else f"bundled:{self.bundled}")

    @property
    def identity(self) -> str:
        """The same for digests: a folder of the user's own is what is in it (`revision`), wherever it lies."""
        return "local-dir" if self.folder else self.model_id


@dataclass(frozen=True, slots=True, kw_only=True)
class GeneratorSpec:
    """How support images are made (OVDiff, supplement C.5).

    Attributes:
        weights: A folder in diffusers' layout, of Stable Diffusion 1.x, 2.x or XL or what was distilled from them.
        image_size: Side of the square images, in pixels.
        prompt: Template with ``{name}`` and optionally ``{article}`` ("a" or "an").
        negative_prompt: What classifier-free guidance steers away from.
        guidance: Classifier-free guidance scale. Up to 1 there is none, as few-step models need it: one walk through
            the network for each step instead of two, and no negative prompt.
        steps: Steps of the sampler.
        count: Support images per class.
        seed: First image's seed; image i has seed + i, whatever the batch size.
        batch_size: Images generated at once.
        min_attention_grid: Cross-attention layers on a coarser grid than this do not enter the attribution map.
        mask_method: How objects are cut out of their attribution maps when nobody says otherwise.
        parts: k-means part centroids per role (fg, bg).
        kmeans: Whether parts are clusters by Euclidean distance, as published, or by angle.
        attribution_timesteps: Diffusion timesteps at which the attention in given pictures is read (a class from the
            user's own pictures has no sampling run to read it from).
        refine_layers: Module paths of the self-attention blocks that refine CLIPer's maps, the leftmost factor first.
        refine_threshold: Share of its column's maximum that an entry of their attention has to reach; None for CLIPer's
            published one, which is for Stable Diffusion.
        cluster_divergence: Attention whose symmetric Kullback-Leibler divergence is below this belongs to one region of
            DiffSegClust; None for the published one, which is for Stable Diffusion.
        merge_divergence: The same of DiffSeg, which merges without k-means afterwards.
        idle_attention: Where cross-attention goes that no word draws: to the start token, as in Stable Diffusion, or to
            the prompt's padding. AggSD finds the background by it.
        read_size: Side of the square at which given pictures are read for dense methods; None for `image_size`.
        phrase_size: The same for methods that look for class names in them; None for `read_size`.
        sampler: What draws. What the network predicts (the noise, or "v"), and its noise schedule, are as its folder's
            scheduler says.
        spacing: How the sampler's timesteps are spread, in diffusers' words; None as the folder's scheduler says.

    Raises:
        ValueError: There is a negative prompt that nothing reads.
    """

    weights: Weights
    image_size: int
    prompt: str
    negative_prompt: str
    guidance: float
    steps: int
    count: int
    seed: int
    batch_size: int
    min_attention_grid: int = 8
    parts: int
    mask_method: Literal["otsu", "fixed", "self-attention", "sam"] = "otsu"
    kmeans: Literal["euclidean", "spherical"] = "euclidean"
    attribution_timesteps: tuple[int, ...] = (100, 200, 400)
    refine_layers: tuple[str, ...] = ("up_blocks.3.attentions.1", "up_blocks.3.attentions.0")
    refine_threshold: float | None = None
    cluster_divergence: float | None = None
    idle_attention: Literal["start", "padding"] = "start"
    read_size: int | None = None
    phrase_size: int | None = None
    merge_divergence: float | None = field(default=None, metadata=LATER)
    sampler: Sampler = field(default="dpmsolver++", metadata=LATER)
    spacing: Literal["leading", "trailing", "linspace"] | None = field(default=None, metadata=LATER)

    def __post_init__(self) -> None:
        if self.image_size % 8:
            raise ValueError(f"draws images of {self.image_size} pixels, which is no multiple of 8")
        if self.negative_prompt and not self.guided:
            raise ValueError(f"guidance {self.guidance:g} is none, so that nothing reads the negative prompt")

    @property
    def guided(self) -> bool:
        """Whether it draws with classifier-free guidance, which takes two walks through the network for each step."""
        return self.guidance > 1

    @property
    def walks(self) -> int:
        """How often a class's support images go through the network until they are drawn."""
        return self.count * self.steps * (2 if self.guided else 1)

    @property
    def reading_side(self) -> int:
        """Side of the square at which it reads given pictures."""
        return self.read_size or self.image_size

    @property
    def phrase_side(self) -> int:
        """Side of the square at which it looks for class names."""
        return self.phrase_size or self.reading_side


@dataclass(frozen=True, slots=True, kw_only=True)
class RegionSpec:
    """How support images are cut into regions without looking for any class (OVDiff's segmenter).

    Attributes:
        layers: Module paths of self-attention blocks inside the generator's UNet.
        timestep: Diffusion timestep of the noise that is added before the attention is read.
        noise_seed: Seed of that noise.
        anchors: Side of the grid of tokens whose attention regions grow from.
        divergence: Attention whose symmetric Kullback-Leibler divergence is below this belongs to one region.
        sam: A SAM or SAM 2 for automatic masks, fetched when it is first asked for; None when the profile has none.
    """

    layers: tuple[str, ...]
    timestep: int = 100
    noise_seed: int = 42
    anchors: int
    divergence: float = 0.8
    sam: Weights | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class ExtractorSpec:
    """One dense feature extractor, completely enough that equal digests mean comparable features.

    Attributes:
        name: Short name, unique in its profile: "sd", "clip", "dino".
        kind: ``unet-query`` (cross-attention queries of a diffusion UNet), ``clip-key`` or ``vit-key``
            (self-attention keys of one transformer block, heads concatenated), or ``clip-token`` (the tokens that
            leave one block of CLIP: its residual stream, before the final layer norm and the projection into the
            space of text; OVDiff, supplement C.2, "outputs of transformer layers"). Class tokens and registers are
            left out.
        weights: The model.
        layers: ``unet-query``: module paths of cross-attention blocks inside the UNet; others: one block
            index, negative from the end, as a string.
        dim: Length of a feature vector: the layers' channels together. What the model gives is checked against it.
        grid: Cells along a side of the finest layer's feature map; checked as well.
        input_size: The crop is squashed to this square before the model sees it.
        mean: Per-channel mean of the input normalisation (RGB in [0, 1]).
        std: Per-channel standard deviation.
        timestep: ``unet-query``: the diffusion timestep whose noise is added.
        noise_seed: ``unet-query``: seed of that noise, fixed so that one image has one answer.
        mask_threshold: A feature cell belongs to a mask when the mask, resized bilinearly to the grid,
            is above this (0 is the published code's ``.bool()``: any overlap counts).
    """

    name: str
    kind: ExtractorKind
    weights: Weights
    layers: tuple[str, ...]
    dim: int
    grid: int
    input_size: int
    mean: tuple[float, float, float]
    std: tuple[float, float, float]
    timestep: int | None = None
    noise_seed: int | None = None
    mask_threshold: float = 0.0

    def record(self) -> dict[str, Any]:
        """Everything that changes a feature vector, as JSON-able values."""
        record = {"code": FEATURE_CODE, **asdict(self)}
        weights = record.pop("weights")
        record["model"] = self.weights.identity
        record["revision"] = weights["revision"]
        record["variant"] = weights["variant"]
        return record

    @property
    def digest(self) -> str:
        """SHA-256 (hex) of `record`."""
        return digest_of(self.record())


PositionMode = Literal["bicubic", "bicubic-sharp", "bicubic-tenth", "bilinear"]
"""How the position embeddings of a vision transformer are resized to another grid of patches.

- "bicubic": with antialiasing, as open_clip does it.
- "bicubic-sharp": without. In torch that is another cubic too (-0.75 instead of -0.5), so that it differs also where
  the grid grows.
- "bicubic-tenth": the same, on a grid that is taken to be a tenth of a cell longer than it is on both sides. That kept
  rounding from losing a row in DINO's code (`interpolate_pos_encoding`), and was copied from there.
- "bilinear": without antialiasing.
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class DenseDefaults(Geometry):
    """What a dense method is run with when nobody says otherwise: the settings of its published numbers.

    Attributes:
        squash: Side of the square that every crop is squashed to before CLIP sees it; None to keep a crop's aspect. A
            picture that is seen whole is squashed at once where this is its short side, so that it is resized once.
        patches: What becomes of a crop that is not whole patches. "round": it is resized to the nearest number of
            patches (a picture that is seen whole: instead of the short side, so that it is resized once). "floor":
            what does not fill a patch at the right and the bottom is left out, as the first layer of the published
            towers does it. "pad": there the mean colour is added. Scores are those of the whole crop all the same.
        mean: Per-channel mean of the input normalisation (RGB in [0, 1]); None for CLIP's own.
        std: Per-channel standard deviation; likewise.
        templates: Prompt templates that the text embeddings are averaged over (see `ovseg_cli.profiles.prompts`).
        logit_scale: Cosines are multiplied by this before the softmax over class and background words.
        background_words: What "none of the asked classes" looks like; a word that is asked for is left out.
        threshold: A pixel whose best class has a smaller probability is background; None for no threshold.
        area_threshold: Classes that win no more than this share of the pixels that are not background are left out of
            the picture.
        positions: How position embeddings are resized to the grid that CLIP sees.
        refine: What is done to the scores: "none", or "pamr" (pixel-adaptive mask refinement).
    """

    squash: int | None = None
    patches: Literal["round", "floor", "pad"] = "round"
    mean: tuple[float, float, float] | None = None
    std: tuple[float, float, float] | None = None
    templates: Literal["single", "imagenet", "imagenet-scene", "short", "car"] = "imagenet"
    logit_scale: float = 40.0
    background_words: tuple[str, ...] = ()
    threshold: float | None = None
    area_threshold: float = 0.0
    positions: PositionMode = "bicubic"
    refine: Literal["none", "pamr"] = "none"

    @property
    def in_patches(self) -> bool:
        """Whether the picture is resized to whole patches of CLIP."""
        return not self.windows and self.squash is None and self.patches == "round"

    def working_size(self, height: int, width: int, patch: int = 1) -> tuple[int, int]:
        """(height, width) that a picture is resized to before it is cut up; see `Geometry.working_size`."""
        if self.squash == self.short_side and not self.windows:
            return self.squash, self.squash
        if self.in_patches:
            return whole_patches_size(height, width, self.short_side, patch, self.long_side)
        return short_side_size(height, width, self.short_side, self.long_side, cut=self.cut)


@dataclass(frozen=True, slots=True, kw_only=True)
class Tuning:
    """Numbers that a method has tuned for every data set and size of CLIP, and that a profile has to tune again.

    Attributes:
        methods: Of which methods.
        values: Fields of their settings (`ovseg_cli.methods.published`), each with its number.
    """

    methods: tuple[str, ...]
    values: tuple[tuple[str, float], ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class ClipSpec:
    """The CLIP model that segments without prototypes.

    Attributes:
        weights: A folder that open_clip loads as ``local-dir:``.
        input_size: Side of the square to which crops are squashed where pictures are told from others (`DomainSpec`).
            Nothing else looks at it: dense methods, extractors and the pre-filter have sizes of their own.
        mean: Per-channel mean of the input normalisation (RGB in [0, 1]).
        std: Per-channel standard deviation.
        background_words: Words that the class pre-filter may take for what is none of the classes (see
            `PrefilterSpec.background`). What competes in segmentation belongs to each method's settings.
        best: The dense method that "auto" takes for classes without prototypes.
        prompts: Text templates with ``{article}`` and ``{name}``, for a model that was trained on captions of its own;
            None for each method's published set. Their normalised embeddings are averaged.
        dense: What takes the place of every dense method's published settings; None for a model of the published sizes.
        large: Whether the model is a ViT-L, for which methods have published settings of their own.
        streams: How many of the last blocks carry the second stream of GEM and CLIP Surgery. Both published codes say 7
            (``gem_depth = 7``, a comment in CLIP Surgery's), and their loops, ``range(1, 7)``, take 6.
        gem_temperature: GEM's inverse temperature; None takes the published adaptive one, which fits the widths of
            the published models and is far too soft for very narrow ones.
        tuned: Beside `dense`: what single methods are run with where there is a background.
        quick_gelu: Whether the model must have been built with QuickGELU, as OpenAI's were trained; None to take it as
            it is. With the other activation everything runs, and every answer is a little wrong.
    """

    weights: Weights
    input_size: int
    mean: tuple[float, float, float]
    std: tuple[float, float, float]
    background_words: tuple[str, ...] = ()
    best: str
    prompts: tuple[str, ...] | None = None
    dense: DenseDefaults | None = None
    large: bool = False
    streams: int = 6
    gem_temperature: float | None = None
    tuned: tuple[Tuning, ...] = ()
    quick_gelu: bool | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Sight:
    """How the networks of extractors see crops.

    Attributes:
        resample: How crops are resized: "bicubic" with antialiasing, or "bilinear" without.
        unsquashed: The extractors, of kind ``vit-key``, that see a crop in its own shape: as it is up to their input
            size, and a larger one with that as its short side. What does not fill a patch at the right and the bottom
            is left out.
        long_side: How long the long side of such a crop becomes at most.
        positions: How the position embeddings of CLIP and DINO are resized; None for "bicubic", and transformers' way.
    """

    resample: Literal["bicubic", "bilinear"] = "bicubic"
    unsquashed: tuple[str, ...] = ()
    long_side: int = 800
    positions: PositionMode | None = None

    def size(self, extractor: ExtractorSpec, height: int, width: int) -> tuple[int, int]:
        """(height, width) at which an extractor's network sees a crop, before what fills no patch is left out."""
        if extractor.name in self.unsquashed:
            return unsquashed_size(height, width, extractor.input_size, self.long_side)
        return extractor.input_size, extractor.input_size


@dataclass(frozen=True, slots=True, kw_only=True)
class InferenceSpec(Geometry):
    """How an image to be segmented is cut up (OVDiff: short side 448, windows 448/224 and 336/224, and all of it).

    Attributes:
        sight: How the crops are seen.
        stuff_similarity: A background prototype of a thing is left out when its cosine to a foreground prototype of
            stuff is above this (OVDiff, stuff filter).
    """

    whole_image: bool = True
    sight: Sight = Sight()
    stuff_similarity: float = 0.85


@dataclass(frozen=True, slots=True, kw_only=True)
class PrefilterSpec:
    """How CLIP rules classes out for a whole picture before prototypes compete (OVDiff, category pre-filtering).

    Attributes:
        input_size: Each crop is squashed to this square; a multiple of CLIP's patch size.
        phrase: What stands for one class, with ``{name}`` and optionally ``{article}``.
        prompt: The text around the phrases, which are joined by "and" and put where ``{name}`` stands.
        limit: Classes that may pass the first stage. The second stage tries all 2 ** limit - 1 subsets of them.
        crops: Grids of crops whose kept classes are united: n gives n x n crops that overlap by half, 1 is the
            whole picture.
        margin: Classes of the best subset go as long as the joint prompt of the rest fits worse by no more than this
            (cosine). 0 keeps the subset whole, as published.
        background: Whether CLIP's background words are candidates too, so that a crop without any class keeps none;
            not in the published filter.
        default: Whether prototypes are filtered when nobody says otherwise.
    """

    input_size: int
    phrase: str
    prompt: str = "{name}"
    limit: int = 10
    crops: tuple[int, ...] = (1,)
    margin: float = 0.0
    background: bool = False
    default: bool = True

    def record(self) -> dict[str, Any]:
        """Everything that changes which classes are kept, as JSON-able values."""
        record = json.loads(json.dumps(asdict(self)))
        del record["default"]
        return record


@dataclass(frozen=True, slots=True, kw_only=True)
class HybridSpec:
    """How prototypes and words are weighed against each other (see `ovseg_cli.methods.hybrid`).

    Attributes:
        scale: Factor on cosines with prototypes before their softmax.
        weight: How much prototypes count when every class has some, in [0, 1].
    """

    scale: float = 30.0
    weight: float = 0.8


@dataclass(frozen=True, slots=True, kw_only=True)
class DomainSpec(Geometry):
    """The pictures that models know, where that is less than photographs (see `ovseg_cli.methods.domain`).

    Attributes:
        weights: A folder with what tells these pictures from others.
        knows: For people: what the models were trained on.
        instead: For people: what to do with other pictures.
        block: Which of CLIP's blocks is read, from the front.
    """

    weights: Weights
    knows: str
    instead: str
    block: int
    whole_image: bool = True

    def remark(self, unfamiliar: int, of: int, so: str) -> str:
        """What people are told when some of their pictures are none of these.

        Args:
            unfamiliar: How many, at least one.
            of: How many pictures there are.
            so: What follows from that.
        """
        whose = "the picture looks" if of == 1 else f"{unfamiliar} of {of} pictures {_look(unfamiliar)}"
        return f"{whose} like nothing that the models were trained on ({self.knows}), so {so}. {self.instead}"


def _look(number: int) -> str:
    return "looks" if number == 1 else "look"


@dataclass(frozen=True, slots=True, kw_only=True)
class Profile:
    """A named set of models and their settings.

    Attributes:
        name: What ``--profile`` takes.
        summary: One sentence for people.
        generator: The text-to-image model.
        regions: How support images are cut into regions.
        clip: The CLIP model.
        extractors: Dense feature extractors of the default ensemble, in ensemble order.
        extra_extractors: Others that may be picked by name.
        inference: Windows.
        prefilter: How prototypes are filtered by class, None for never.
        hybrid: How prototypes and words are weighed where some classes have prototypes and others do not.
        proxy: Name of the extractor whose network lends its features to ProxyCLIP; None for a profile without one.
        domain: What the models know where that is less than photographs; None for models that know these.
        table: For people: which published table it is for, or why there is none.
        source: The file of a profile of the user's own, absolute; None for one of ovseg's.
    """

    name: str
    summary: str
    generator: GeneratorSpec
    regions: RegionSpec
    clip: ClipSpec
    extractors: tuple[ExtractorSpec, ...]
    extra_extractors: tuple[ExtractorSpec, ...] = ()
    inference: InferenceSpec
    prefilter: PrefilterSpec | None = None
    hybrid: HybridSpec = HybridSpec()
    proxy: str | None = None
    domain: DomainSpec | None = None
    table: str = field(default="", metadata=FOR_PEOPLE)
    source: str | None = field(default=None, compare=False, metadata=FOR_PEOPLE)

    @property
    def weights(self) -> tuple[Weights, ...]:
        """Every distinct set of weights that the profile loads with its default ensemble."""
        return self.weights_for(self.extractors)

    def weights_for(self, extractors: Iterable[ExtractorSpec]) -> tuple[Weights, ...]:
        """Every distinct set of weights that the profile loads with these extractors."""
        parts = (self.generator.weights, self.clip.weights, *(e.weights for e in extractors))
        return tuple(dict.fromkeys(parts))

    @property
    def known_extractors(self) -> tuple[ExtractorSpec, ...]:
        """Those of the default ensemble and the others."""
        return (*self.extractors, *self.extra_extractors)

    @property
    def proxy_extractor(self) -> ExtractorSpec | None:
        """The extractor whose network lends its features to ProxyCLIP; None for a profile without one."""
        return next((extractor for extractor in self.known_extractors if extractor.name == self.proxy), None)

    def pick_extractors(self, names: Sequence[str] | None) -> tuple[ExtractorSpec, ...]:
        """The extractors of an ensemble.

        Args:
            names: Their names in any order; None for the default ensemble.

        Returns:
            In the profile's order, so that one set of names is one ensemble.

        Raises:
            UsageError: A name that is unknown or given twice, or no name at all.
        """
        if names is None:
            return self.extractors
        known = {extractor.name: extractor for extractor in self.known_extractors}
        listed = ", ".join(known)
        for name in names:
            if name not in known:
                raise UsageError(
                    f"The profile {self.name!r} has no extractor {name!r}.{did_you_mean(name, known)} It has: {listed}."
                )
        if len(set(names)) < len(names):
            raise UsageError(f"An extractor is given twice: {', '.join(names)}.")
        if not names:
            raise UsageError(f"No extractor is named. The profile {self.name!r} has: {listed}.")
        return tuple(extractor for name, extractor in known.items() if name in names)

    @property
    def bundled(self) -> bool:
        """True when nothing has to be fetched for the default ensemble."""
        return all(w.bundled is not None for w in self.weights)

    def record(self) -> dict[str, Any]:
        """The whole profile as JSON-able values (kept in the store and in every run.json)."""
        return json.loads(json.dumps(_recorded(self, people=True)))

    @property
    def commercial(self) -> bool:
        """Whether all licences of the default ensemble allow commercial use."""
        return all(w.commercial for w in self.weights)

    @property
    def every_weights(self) -> tuple[Weights, ...]:
        """Every distinct set of weights that the profile can load, whatever is asked of it."""
        others = (self.regions.sam, None if self.domain is None else self.domain.weights)
        return tuple(dict.fromkeys((*self.weights_for(self.known_extractors), *(w for w in others if w is not None))))

    @property
    def digest(self) -> str:
        """SHA-256 (hex) of all that can change a result: no words for people, nor where files lie."""
        return digest_of(json.loads(json.dumps(_recorded(self, people=False))))


def _recorded(value: Any, *, people: bool) -> Any:
    """What `dataclasses.asdict` gives, less the fields that their metadata keep out."""
    if isinstance(value, (tuple, list)):
        return [_recorded(item, people=people) for item in value]
    if not is_dataclass(value):
        return value
    found = {
        f.name: _recorded(getattr(value, f.name), people=people)
        for f in fields(value)
        if not f.metadata or (getattr(value, f.name) != f.default and (people or f.metadata == LATER))
    }
    # A folder of the user's own is what is in it, which its revision says, wherever it lies.
    return found if people or "folder" not in found else found | {"folder": "local-dir"}


def bundled_revision(folder: Path) -> str:
    """What `Weights.revision` must be for a bundled folder: a hash over all its safetensors files and their names."""
    digest = hashlib.sha256()
    for file in sorted(folder.rglob("*.safetensors")):
        digest.update(file.relative_to(folder).as_posix().encode())
        digest.update(hashlib.sha256(file.read_bytes()).digest())
    return f"sha256:{digest.hexdigest()[:16]}"


def digest_of(record: dict[str, Any]) -> str:
    """SHA-256 (hex) of a JSON-able dict, independent of key order."""
    return hashlib.sha256(json.dumps(record, sort_keys=True, separators=(",", ":")).encode()).hexdigest()
