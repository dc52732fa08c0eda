"""Segmenting one image after another with a fixed list of classes: what ``segment`` does to each image."""

from __future__ import annotations

import copy
import difflib
import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import numpy.typing as npt

from ovseg_cli.errors import UnknownClassError, UsageError
from ovseg_cli.profiles import Profile
from ovseg_cli.profiles.specs import InferenceSpec, PrefilterSpec, digest_of
from ovseg_cli.store.names import class_key

if TYPE_CHECKING:
    import torch

    from ovseg_cli.labeling.windows import Crop
    from ovseg_cli.methods.prefilter import ClassPrefilter
    from ovseg_cli.models import Models
    from ovseg_cli.store.store import Store

METHODS = ("prototype", "gem")
ANSWER_VERSION = 1
"""Raised when the same inputs give another label map than before, so that old results are not taken for new ones."""


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


def resolve_prefilter(profile: Profile, choice: MethodChoice, prefilter: bool | None = None) -> PrefilterSpec | None:
    """How classes are filtered before prototypes compete, None for not at all; loads no model.

    Args:
        profile: Says how, and whether when nobody says.
        choice: The method; GEM compares all words at once and knows no filter.
        prefilter: What the user asked for; None for the profile's default.

    Raises:
        UsageError: The filter was asked for, and the method or the profile has none.
    """
    spec = profile.prefilter
    if not prefilter:
        wanted = prefilter is None and choice.method == "prototype" and spec is not None and spec.default
        return spec if wanted else None
    if choice.method != "prototype":
        if choice.asked == "gem":
            raise UsageError("--prefilter works on prototypes, not with GEM. Leave it out, or use --method prototype.")
        raise UsageError(
            f"--prefilter works on prototypes, and there are {choice.reason}. "
            "Make them with ovseg add-class, or leave out --prefilter."
        )
    if spec is None:
        raise UsageError(f"The profile {profile.name!r} has no pre-filter. Leave out --prefilter.")
    return spec


class Segmenter:
    """Segments images for one list of classes.

    Args:
        models: The models of the store's profile.
        store: Where prototypes come from.
        classes: Class names in label order.
        method: "auto", "prototype", "gem", or an already resolved choice.
        background: Whether pixels may belong to none of the classes.
        threshold: A class whose score is below this gives way to the background.
        prefilter: Whether CLIP first rules out classes that the picture does not show (default: the profile's).

    Raises:
        UnknownClassError: See `resolve_method`.
        UsageError: A threshold without a background, or see `resolve_prefilter`.
    """

    def __init__(
        self,
        models: Models,
        store: Store,
        classes: Sequence[str],
        *,
        method: MethodChoice | str = "auto",
        background: bool = True,
        threshold: float | None = None,
        prefilter: bool | None = None,
    ) -> None:
        choice = resolve_method(store, classes, method) if isinstance(method, str) else method
        check_threshold(threshold, background=background)
        self.models = models
        self.choice = choice
        self.names = tuple(classes)
        self.background = background
        self.threshold = threshold
        self.settings = self.plan_settings(store, models.profile, classes, choice, background, threshold, prefilter)
        self.digest = digest_of(self.settings)
        self._scorers: Sequence[_PrototypeScorer | _GemScorer]
        self._prototypes: list[_PrototypeScorer] = []
        if choice.method == "prototype":
            self._scorers = self._prototypes = _prototype_scorers(models, store, self.names, background=background)
        else:
            self._scorers = [_GemScorer(models, self.names, background=background)]
        spec = resolve_prefilter(models.profile, choice, prefilter)
        self._prefilter = None if spec is None else _class_prefilter(models, store, self.names, spec)

    @property
    def method(self) -> str:
        """The method that segments: "prototype" or "gem"."""
        return self.choice.method

    @staticmethod
    def plan_settings(
        store: Store,
        profile: Profile,
        classes: Sequence[str],
        choice: MethodChoice,
        background: bool,
        threshold: float | None,
        prefilter: bool | None = None,
    ) -> dict[str, Any]:
        """Everything that changes the answer, as JSON-able values; loads no model."""
        record = profile.record()
        spec = resolve_prefilter(profile, choice, prefilter)
        settings: dict[str, Any] = {
            "answer_version": ANSWER_VERSION,
            "method": choice.method,
            "classes": list(classes),
            "background": background,
            "threshold": threshold,
            "inference": json.loads(json.dumps(asdict(inference_for(profile, choice.method)))),
        }
        if choice.method == "prototype":
            infos = [store.get_class(name) for name in classes]
            settings["extractors"] = {e.name: e.digest for e in profile.extractors}
            settings["prototypes"] = [[info.name, info.generation] for info in infos]
            if spec is not None:  # absent, not None, so that answers without it keep the digest that they had
                weights = profile.clip.weights
                settings["prefilter"] = {
                    **spec.record(),
                    "model": weights.model_id,
                    "revision": weights.revision,
                    "mean": list(profile.clip.mean),
                    "std": list(profile.clip.std),
                    "stuff": [info.name for info in infos if info.kind == "stuff"],
                }
        else:
            settings["clip"] = record["clip"]
        return settings

    @classmethod
    def plan_digest(
        cls,
        store: Store,
        profile: Profile,
        classes: Sequence[str],
        choice: MethodChoice,
        background: bool,
        threshold: float | None,
        prefilter: bool | None = None,
    ) -> str:
        """`digest` of the segmenter that these arguments would make; loads no model."""
        return digest_of(cls.plan_settings(store, profile, classes, choice, background, threshold, prefilter))

    def segment(self, image: Any) -> Segmentation:
        """Segment one image.

        Args:
            image: PIL image in mode RGB, or uint8 array (H, W, 3).

        Returns:
            The label map at the image's own size.

        Raises:
            ValueError: Not an RGB picture of 8 bits per channel.
        """
        import torch

        from ovseg_cli.backbones.pixels import to_tensor
        from ovseg_cli.labeling.decide import decide

        with torch.inference_mode():
            picture = to_tensor(image, self.models.device)
            kept = None if self._prefilter is None else self._prefilter(picture)
            scorers = self._scorers if kept is None else [s.only(kept.classes) for s in self._prototypes]
            scores = self._scores(picture, scorers)
            size = (int(picture.shape[2]), int(picture.shape[3]))
            decision = decide(scores, size, background=self.background, threshold=self.threshold)
        competing = self.names if kept is None else tuple(self.names[place] for place in kept.classes)
        labels = ("background", *competing)
        present = [i for i in range(len(labels)) if decision.shares[i] > 0]
        ids = decision.ids
        if kept is not None:  # from places among the kept classes to places among all
            ids = np.array([0, *(place + 1 for place in kept.classes)], dtype=np.uint16)[ids]
        return Segmentation(
            ids=ids,
            names=self.names,
            method=self.method,
            shares={labels[i]: float(decision.shares[i]) for i in present},
            mean_scores={labels[i]: float(decision.mean_scores[i]) for i in present},
            kept=None if kept is None else dict(zip(competing, kept.scores, strict=True)),
        )

    def _scores(self, picture: torch.Tensor, scorers: Sequence[_PrototypeScorer | _GemScorer]) -> torch.Tensor:
        """Scores fused over crops and scorers, float32 (channels, h, w) at the profile's working size."""
        import torch

        from ovseg_cli.backbones.pixels import resize
        from ovseg_cli.labeling.windows import ScoreCanvas, all_crops, short_side_size

        inference = inference_for(self.models.profile, self.method)
        height, width = short_side_size(picture.shape[2], picture.shape[3], inference.short_side)
        picture = resize(picture, (height, width))
        crops = all_crops(height, width, inference.windows, whole_image=inference.whole_image)
        canvas = ScoreCanvas(scorers[0].channels, height, width, picture.device)
        for group in _batches(crops, crops_at_once(max(scorer.input_size for scorer in scorers))):
            images = torch.cat([crop.cut(picture) for crop in group])
            for scorer in scorers:
                for crop, scores in zip(group, scorer.score(images), strict=True):
                    canvas.add(crop, scores)
        return scorers[0].finish(canvas.mean())


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


def check_threshold(threshold: float | None, *, background: bool) -> None:
    """Refuse a threshold that cannot work.

    Raises:
        UsageError: Without a background there is nothing that a weak class could give way to.
    """
    if threshold is not None and not background:
        raise UsageError("--threshold needs the background: leave out --no-background, or the threshold.")


def _batches(crops: list[Crop], limit: int) -> list[list[Crop]]:
    """Crops of one size together, at most `limit` at once."""
    by_size: dict[tuple[int, int], list[Crop]] = {}
    for crop in crops:
        by_size.setdefault((crop.height, crop.width), []).append(crop)
    return [group[i : i + limit] for group in by_size.values() for i in range(0, len(group), limit)]


class _PrototypeScorer:
    """Cosine to the nearest prototype, for one extractor."""

    def __init__(
        self, models: Models, extractor_index: int, store: Store, names: Sequence[str], *, background: bool
    ) -> None:
        import torch

        self._models = models
        self._background = background
        self._extractor = models.profile.extractors[extractor_index]
        self.input_size = self._extractor.input_size
        block = store.prototypes(list(names), self._extractor.digest)
        self.channels = len(names) + 1
        keys = [class_key(name) for name in names]  # the store spells a name as it was added
        order = np.array([keys.index(class_key(name)) for name in block.classes], dtype=np.int64)
        owner = order[block.class_index]
        channel = np.where(block.role_is_fg, owner + 1, 0)
        self._owner = torch.from_numpy(owner).to(models.device)
        self._channel = torch.from_numpy(channel).to(models.device)
        self._vectors = torch.from_numpy(block.vectors).to(models.device)

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
        narrowed._owner = place[self._owner[stays]]
        narrowed._channel = torch.where(self._channel[stays] > 0, narrowed._owner + 1, 0)
        narrowed._vectors = self._vectors[stays]
        return narrowed

    def score(self, images: torch.Tensor) -> torch.Tensor:
        """Scores of crops, float32 (B, C + 1, g, g)."""
        from ovseg_cli.methods.prototype import prototype_scores

        features = self._models.features(self._extractor, images)
        return prototype_scores(features, self._vectors, self._channel, self.channels)

    def finish(self, scores: torch.Tensor) -> torch.Tensor:
        """Fused scores as they are, negative ones as 0, which lets the background win there (OVDiff, inference)."""
        # Without a background that would only make ties, all won by the first class.
        return scores.clamp(min=0) if self._background else scores


class _GemScorer:
    """Cosine of GEM features with class and background words."""

    def __init__(self, models: Models, names: Sequence[str], *, background: bool) -> None:
        self._clip = models.profile.clip
        self.input_size = self._clip.input_size
        self._backbone = models.clip
        self._classes = len(names)
        asked = {name.casefold() for name in names}
        words = [w for w in self._clip.background_words if w.casefold() not in asked] if background else []
        self._text = self._backbone.embed_text([*names, *words], self._clip.prompts)
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

    def finish(self, scores: torch.Tensor) -> torch.Tensor:
        """Probabilities per class and for the background, from fused cosines."""
        from ovseg_cli.methods.gem import word_probabilities

        return word_probabilities(scores, classes=self._classes, logit_scale=self._clip.logit_scale)


def _prototype_scorers(
    models: Models, store: Store, names: Sequence[str], *, background: bool
) -> list[_PrototypeScorer]:
    count = len(models.profile.extractors)
    return [_PrototypeScorer(models, i, store, names, background=background) for i in range(count)]


def _class_prefilter(models: Models, store: Store, names: Sequence[str], spec: PrefilterSpec) -> ClassPrefilter:
    from ovseg_cli.methods.prefilter import ClassPrefilter

    stuff = [name for name in names if store.get_class(name).kind == "stuff"]
    return ClassPrefilter(models.clip, models.profile.clip, spec, names, stuff=stuff)
