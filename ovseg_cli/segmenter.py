"""Segmenting one image after another with a fixed list of classes: what ``segment`` does to each image."""

from __future__ import annotations

import copy
import difflib
import json
import shlex
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from typing import TYPE_CHECKING, Any, Literal, get_args

import numpy as np
import numpy.typing as npt

from ovseg_cli.errors import ProfileMismatchError, UnknownClassError, UsageError
from ovseg_cli.profiles import ExtractorSpec, Profile
from ovseg_cli.profiles.specs import InferenceSpec, PrefilterSpec, digest_of
from ovseg_cli.store.names import class_key
from ovseg_cli.store.records import PrototypeKind

if TYPE_CHECKING:
    import torch

    from ovseg_cli.labeling.windows import Crop
    from ovseg_cli.methods.prefilter import ClassPrefilter, Kept
    from ovseg_cli.models import Models
    from ovseg_cli.store.records import ClassInfo, PrototypeBlock
    from ovseg_cli.store.store import Store

    Features = dict[str, list[tuple[Crop, list[torch.Tensor]]]]

METHODS = ("prototype", "gem")
KINDS: tuple[PrototypeKind, ...] = get_args(PrototypeKind)
REFINEMENTS = ("none", "pamr")
ANSWER_VERSION = 2
"""Raised when the same inputs give another label map than before, so that old results are not taken for new ones."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SegmentOptions:
    """What decides a label map besides the picture, the classes and the method.

    Attributes:
        background: Whether pixels may belong to none of the classes.
        threshold: A class whose score is below this gives way to the background; None for the method's own rule.
        prefilter: With prototypes: whether CLIP first rules out classes that the picture does not show; None for the
            profile's default.
        extractors: With prototypes: names of the feature extractors whose scores are averaged; None for the
            profile's default ensemble.
        prototypes: With prototypes: which kinds are matched; None for all of them.
        stuff_filter: With prototypes: whether background prototypes of things that look like stuff are left out
            (OVDiff, stuff filter); None for yes.
        refine: What is done to the fused scores: "none", or "pamr" (pixel-adaptive mask refinement).

    Raises:
        UsageError: A value that cannot be.
    """

    background: bool = True
    threshold: float | None = None
    prefilter: bool | None = None
    extractors: tuple[str, ...] | None = None
    prototypes: tuple[PrototypeKind, ...] | None = None
    stuff_filter: bool | None = None
    refine: Literal["none", "pamr"] = "none"

    def __post_init__(self) -> None:
        if self.threshold is not None and not self.background:
            raise UsageError("--threshold needs the background: leave out --no-background, or the threshold.")
        for kind in self.prototypes or ():
            if kind not in KINDS:
                raise UsageError(f"Unknown kind of prototype {kind!r}. Kinds: {', '.join(KINDS)}.")
        if self.prototypes is not None and len(set(self.prototypes)) != max(1, len(self.prototypes)):
            raise UsageError(f"--prototypes takes each kind once: {', '.join(KINDS)}.")
        if self.refine not in REFINEMENTS:
            raise UsageError(f"Unknown refinement {self.refine!r}. Refinements: {', '.join(REFINEMENTS)}.")


@dataclass(frozen=True, slots=True)
class MethodChoice:
    """Which method segments, and why.

    Attributes:
        method: "prototype" or "gem".
        asked: What the user asked for ("auto" or a method).
        missing: Classes without prototypes, which made "auto" fall back.
        reason: One sentence for people.
    """

    method: Literal["prototype", "gem"]
    asked: str
    missing: tuple[str, ...]
    reason: str


@dataclass(frozen=True, slots=True, eq=False)
class Segmentation:
    """One segmented image.

    Attributes:
        ids: uint16 (H, W) at the image's own size; 0 is background, i is ``names[i - 1]``.
        names: The classes, in label order.
        method: "prototype" or "gem".
        shares: Share of the pixels per class that is present, "background" included.
        mean_scores: Mean winning score over the pixels of each of those (cosine for prototypes, probability for GEM).
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
        scorers: Where the scores come from, one per extractor with prototypes.
        fused: float32 (channels, h, w): scores fused over crops and scorers, and refined. What decides is
            ``scorers[0].finish(fused)``.
        features: For each extractor by its name, if they were to be kept: the crops, each with its feature maps as
            `Models.feature_maps` gives them, on the CPU.
    """

    size: tuple[int, int]
    classes: tuple[int, ...]
    kept: Kept | None
    scorers: Sequence[_PrototypeScorer | _GemScorer]
    fused: torch.Tensor
    features: Features

    @property
    def prototypes(self) -> list[_PrototypeScorer]:
        """The scorers, if the method is prototypes."""
        return [scorer for scorer in self.scorers if isinstance(scorer, _PrototypeScorer)]

    @property
    def gem(self) -> _GemScorer | None:
        """The scorer, if the method is GEM."""
        return next((scorer for scorer in self.scorers if isinstance(scorer, _GemScorer)), None)


def resolve_method(store: Store, classes: Sequence[str], method: str = "auto") -> MethodChoice:
    """Which method to use; loads no model.

    "auto" takes prototypes when every class has them, else GEM for all of them: scores of the two methods
    are not on one scale, so they are not mixed within an image.

    Raises:
        UnknownClassError: "prototype" was asked for and a class has no prototypes.
        UsageError: No such method, no class, or a class twice.
    """
    if method not in ("auto", *METHODS):
        raise UsageError(f"Unknown method {method!r}. Methods: auto, {', '.join(METHODS)}.")
    if not classes:
        raise UsageError('No classes to segment. Name some with --classes, or add one: ovseg add-class "cat".')
    if len({class_key(name) for name in classes}) < len(classes):
        raise UsageError(f"A class is given twice: {', '.join(classes)}.")
    missing = tuple(name for name in classes if not store.has_class(name))
    if method == "gem":
        return MethodChoice("gem", method, missing, "asked for")
    if not missing:
        return MethodChoice("prototype", method, (), "every class has prototypes")
    if method == "prototype":
        raise UnknownClassError(_unknown_message(missing[0], store.class_names()))
    listed = ", ".join(missing)
    return MethodChoice("gem", method, missing, f"no prototypes for {listed}")


def _unknown_message(name: str, known: Sequence[str]) -> str:
    close = difflib.get_close_matches(name.casefold(), [k.casefold() for k in known], n=1)
    hint = next((f" Did you mean {k!r}?" for k in known if close and k.casefold() == close[0]), "")
    return f'The store has no class {name!r}.{hint} Add it with: ovseg add-class "{name}" (or use --method auto).'


@dataclass(frozen=True, slots=True, kw_only=True)
class Resolved:
    """`SegmentOptions` with the defaults of a profile and the classes of a store filled in.

    Attributes:
        prefilter: How classes are filtered before prototypes compete; None for not at all.
        extractors: Whose scores are averaged; empty for a method without prototypes.
        prototypes: Which kinds are matched; likewise.
        stuff: Which of the asked classes are stuff; likewise.
        stuff_similarity: Cosine to a stuff prototype from which a thing's background prototype is left out; None for
            no stuff filter, which is also the case when no class is stuff.
    """

    prefilter: PrefilterSpec | None = None
    extractors: tuple[ExtractorSpec, ...] = ()
    prototypes: tuple[PrototypeKind, ...] = ()
    stuff: tuple[str, ...] = ()
    stuff_similarity: float | None = None


def resolve_options(
    store: Store, profile: Profile, classes: Sequence[str], choice: MethodChoice, options: SegmentOptions
) -> Resolved:
    """What the options come to for these classes; loads no model.

    Args:
        store: Knows the classes' kinds and extractors.
        profile: Says what happens when nobody says.
        classes: Class names.
        choice: The method; options that only prototypes have are refused with another one.
        options: What the user asked for.

    Raises:
        UsageError: An option that the method or the profile does not have.
        ProfileMismatchError: A class has no prototypes by one of the extractors.
    """
    if choice.method != "prototype":
        asked = {
            "--prefilter": options.prefilter,
            "--extractors": options.extractors,
            "--prototypes": options.prototypes,
            "--stuff-filter": options.stuff_filter,
        }
        for name, value in asked.items():
            if value and choice.asked == "gem":
                raise UsageError(f"{name} works on prototypes, not with GEM. Leave it out, or use --method prototype.")
            if value:
                raise UsageError(
                    f"{name} works on prototypes, and there are {choice.reason}. "
                    f"Make them with ovseg add-class, or leave out {name}."
                )
        return Resolved()
    if options.prefilter and profile.prefilter is None:
        raise UsageError(f"The profile {profile.name!r} has no pre-filter. Leave out --prefilter.")
    spec = profile.prefilter
    filtered = spec is not None and (spec.default if options.prefilter is None else options.prefilter)
    infos = [store.get_class(name) for name in classes]
    stuff = tuple(info.name for info in infos if info.kind == "stuff")
    return Resolved(
        prefilter=spec if filtered else None,
        extractors=_resolve_extractors(profile, infos, options.extractors),
        prototypes=KINDS if options.prototypes is None else tuple(k for k in KINDS if k in options.prototypes),
        stuff=stuff,
        stuff_similarity=profile.inference.stuff_similarity if stuff and options.stuff_filter is not False else None,
    )


def _resolve_extractors(
    profile: Profile, infos: Sequence[ClassInfo], asked: Sequence[str] | None
) -> tuple[ExtractorSpec, ...]:
    wanted = profile.pick_extractors(asked)
    for info in infos:
        lacking = [spec.name for spec in wanted if spec.digest not in info.extractors]
        if not lacking:
            continue
        has = [spec.name for spec in profile.known_extractors if spec.digest in info.extractors]
        names = [spec.name for spec in wanted]
        again = f"ovseg add-class {shlex.quote(info.name)} --if-exists replace"
        again += "" if asked is None else f" --extractors {','.join(names)}"
        use = f" segment with --extractors {','.join(has)}, or" if has else ""
        raise ProfileMismatchError(
            f"The class {info.name!r} has no prototypes by the feature extractor {lacking[0]!r} of the profile "
            f"{profile.name!r} as it is now:{use} make the class anew with {again}"
        )
    return wanted


class Segmenter:
    """Segments images for one list of classes.

    Args:
        models: The models of the store's profile.
        store: Where prototypes come from.
        classes: Class names in label order.
        method: "auto", "prototype", "gem", or an already resolved choice.
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
        self._inference = inference_for(models.profile, choice.method)
        self._scorers: Sequence[_PrototypeScorer | _GemScorer]
        self._prototypes: list[_PrototypeScorer] = []
        if choice.method == "prototype":
            self._scorers = self._prototypes = [
                _PrototypeScorer(models, store, self.names, extractor, resolved) for extractor in resolved.extractors
            ]
        else:
            self._scorers = [_GemScorer(models, self.names, background=options.background)]
        spec = resolved.prefilter
        self._prefilter = None if spec is None else _class_prefilter(models, store, self.names, resolved.stuff, spec)

    @property
    def method(self) -> str:
        """The method that segments: "prototype" or "gem"."""
        return self.choice.method

    @staticmethod
    def plan_digest(
        store: Store, profile: Profile, classes: Sequence[str], choice: MethodChoice, options: SegmentOptions
    ) -> str:
        """`digest` of the segmenter that these arguments would make; loads no model.

        Raises:
            UsageError: See `resolve_options`.
            ProfileMismatchError: Likewise.
        """
        resolved = resolve_options(store, profile, classes, choice, options)
        return digest_of(plan_settings(store, profile, classes, choice, options, resolved))

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

        with torch.inference_mode():
            size = picture_size(image)
            working = short_side_size(*size, self._inference.short_side)
            picture = to_working_tensor(image, working, self.models.device)
            kept = None if self._prefilter is None else self._prefilter(picture)
            scorers = self._scorers if kept is None else [s.only(kept.classes) for s in self._prototypes]
            features: Features = {}
            fused = self._fuse(picture, scorers, features if keep_features else None)
        return Scored(
            size=size,
            classes=tuple(range(len(self.names))) if kept is None else kept.classes,
            kept=kept,
            scorers=scorers,
            fused=fused,
            features=features,
        )

    def label(self, scored: Scored) -> Segmentation:
        """The label map of scores: the second half of `segment`."""
        import torch

        from ovseg_cli.labeling.decide import decide

        with torch.inference_mode():
            decision = decide(
                scored.scorers[0].finish(scored.fused),
                scored.size,
                background=self.options.background,
                threshold=self.options.threshold,
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
        scorers: Sequence[_PrototypeScorer | _GemScorer],
        features: Features | None = None,
    ) -> torch.Tensor:
        """Scores of a picture fused over crops and scorers, and refined, float32 (channels, h, w).

        Features are put into `features`, if there is one, on the CPU.
        """
        import torch

        from ovseg_cli.labeling.windows import ScoreCanvas, all_crops

        height, width = picture.shape[2:]
        crops = all_crops(height, width, self._inference.windows, whole_image=self._inference.whole_image)
        canvas = ScoreCanvas(scorers[0].channels, height, width, picture.device)
        for group in _batches(crops, crops_at_once(max(scorer.input_size for scorer in scorers))):
            images = torch.cat([crop.cut(picture) for crop in group])
            for scorer in scorers:
                if features is None or isinstance(scorer, _GemScorer):
                    scores = scorer.score(images)
                else:
                    maps = scorer.features(images)
                    scores = scorer.compare(maps)
                    seen = features.setdefault(scorer.extractor.name, [])
                    seen += [(crop, [layer[i : i + 1].cpu() for layer in maps]) for i, crop in enumerate(group)]
                for crop, fresh in zip(group, scores, strict=True):
                    canvas.add(crop, fresh)
        fused = canvas.mean()
        if self.options.refine == "pamr":
            from ovseg_cli.labeling.refine import pamr

            fused = pamr(picture, fused)
        return fused


MAX_CROPS_AT_ONCE = 16
MAX_INPUT_PIXELS_AT_ONCE = 4 * 512**2
"""Of network input in one batch of crops: features of Stable Diffusion take 126 MB for each 512x512 crop."""


def inference_for(profile: Profile, method: str) -> InferenceSpec:
    """How a method cuts images up: dense CLIP methods may have windows of their own."""
    own = profile.clip.windows if method == "gem" else None
    return profile.inference if own is None else replace(profile.inference, windows=own)


def crops_at_once(input_size: int) -> int:
    """How many crops go through a network together, by the side of its input in pixels."""
    return max(1, min(MAX_CROPS_AT_ONCE, MAX_INPUT_PIXELS_AT_ONCE // input_size**2))


def plan_settings(
    store: Store,
    profile: Profile,
    classes: Sequence[str],
    choice: MethodChoice,
    options: SegmentOptions,
    resolved: Resolved,
) -> dict[str, Any]:
    """Everything that changes the answer, as JSON-able values."""
    settings: dict[str, Any] = {
        "answer_version": ANSWER_VERSION,
        "method": choice.method,
        "classes": list(classes),
        "background": options.background,
        "threshold": options.threshold,
        "refine": options.refine,
        "inference": json.loads(json.dumps(asdict(inference_for(profile, choice.method)))),
    }
    if choice.method != "prototype":
        return settings | {"clip": profile.record()["clip"]}
    settings["extractors"] = {spec.name: spec.digest for spec in resolved.extractors}
    settings["prototype_kinds"] = list(resolved.prototypes)
    settings["prototypes"] = [[info.name, info.generation] for info in map(store.get_class, classes)]
    settings["stuff_filter"] = resolved.stuff_similarity
    if resolved.prefilter is not None:
        weights = profile.clip.weights
        settings["prefilter"] = {
            **resolved.prefilter.record(),
            "model": weights.model_id,
            "revision": weights.revision,
            "mean": list(profile.clip.mean),
            "std": list(profile.clip.std),
            "stuff": list(resolved.stuff),
        }
    return settings


def _batches(crops: list[Crop], limit: int) -> list[list[Crop]]:
    """Crops of one size together, at most `limit` at once."""
    by_size: dict[tuple[int, int], list[Crop]] = {}
    for crop in crops:
        by_size.setdefault((crop.height, crop.width), []).append(crop)
    return [group[i : i + limit] for group in by_size.values() for i in range(0, len(group), limit)]


class _PrototypeScorer:
    """Cosine to the nearest prototype, for one extractor."""

    def __init__(
        self,
        models: Models,
        store: Store,
        names: Sequence[str],
        extractor: ExtractorSpec,
        resolved: Resolved,
    ) -> None:
        import torch

        self._models = models
        self.extractor = extractor
        self.input_size = extractor.input_size
        block = store.prototypes(list(names), extractor.digest)
        self.channels = len(names) + 1
        keys = [class_key(name) for name in names]  # the store spells a name as it was added
        order = np.array([keys.index(class_key(name)) for name in block.classes], dtype=np.int64)
        owner = order[block.class_index]
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

    def score(self, images: torch.Tensor) -> torch.Tensor:
        """Scores of crops, float32 (B, C + 1, g, g)."""
        return self.compare(self.features(images))

    def features(self, images: torch.Tensor) -> list[torch.Tensor]:
        """Feature maps of crops: the first half of `score`."""
        return self._models.feature_maps(self.extractor, images)

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

    def finish(self, scores: torch.Tensor) -> torch.Tensor:
        """Fused scores as they are."""
        return scores


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


class _GemScorer:
    """Cosine of GEM features with class and background words."""

    def __init__(self, models: Models, names: Sequence[str], *, background: bool) -> None:
        self._clip = models.profile.clip
        self.input_size = self._clip.input_size
        self._backbone = models.clip
        self._classes = len(names)
        asked = {name.casefold() for name in names}
        words = [w for w in self._clip.background_words if w.casefold() not in asked] if background else []
        self.words = (*names, *words)
        self._text = self._backbone.embed_text(self.words, self._clip.prompts)
        self.channels = len(self._text)

    def score(self, images: torch.Tensor) -> torch.Tensor:
        """Cosines of crops with every word, float32 (B, words, g, g)."""
        from ovseg_cli.methods.gem import gem_tokens

        clip = self._clip
        trace = self._backbone.trace(
            images,
            blocks=range(self._backbone.depth - clip.gem_blocks, self._backbone.depth),
            input_size=clip.input_size,
            mean=clip.mean,
            std=clip.std,
        )
        blocks = [trace.blocks[i] for i in sorted(trace.blocks)]
        tokens = self._backbone.embed(gem_tokens(blocks, temperature=clip.gem_temperature))
        cosines = tokens[:, 1:] @ self._text.T
        return cosines.permute(0, 2, 1).reshape(len(images), -1, *trace.grid)

    def probabilities(self, scores: torch.Tensor) -> torch.Tensor:
        """Probability of every word, from fused cosines (words, h, w)."""
        import torch

        return torch.softmax(scores * self._clip.logit_scale, dim=0)

    def finish(self, scores: torch.Tensor) -> torch.Tensor:
        """Probabilities per class and for the background, from fused cosines."""
        from ovseg_cli.methods.gem import word_probabilities

        return word_probabilities(scores, classes=self._classes, logit_scale=self._clip.logit_scale)


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
