"""From a batch of crops to a loss: what CAT-Seg and DEDOS have in common."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, cast

import torch
from torch import Tensor

from ovseg_cli.backbones.clip import ClipBackbone
from ovseg_cli.backbones.pixels import resize
from ovseg_cli.heads.catseg import pixel_loss
from ovseg_cli.heads.data import Augmentation, Batch, Pictures, choose_names, draw_batch
from ovseg_cli.heads.plans import Plan
from ovseg_cli.heads.texts import head_texts, name_tokens, tuned_texts
from ovseg_cli.profiles.specs import Profile


class StepLoss:
    """The loss of a step, by its number; see `ovseg_cli.heads.training.Loss`.

    Args:
        head: The head.
        clip: The CLIP below it.
        profile: How CLIP's input is normalised, and which weights it is.
        pictures: What is learnt from.
        plan: How crops are drawn.
        templates: Prompt templates of the names.
        taps: Of a head that reads the UNet's features: where they come from (`ovseg_cli.heads.taps.TapCache`).
    """

    def __init__(
        self,
        head: Any,
        clip: ClipBackbone,
        profile: Profile,
        pictures: Pictures,
        plan: Plan,
        templates: Sequence[str],
        taps: Any = None,
    ) -> None:
        self._head, self._clip, self._profile = head, clip, profile
        self._pictures, self._plan, self._taps = pictures, plan, taps
        self._how = Augmentation(crop=plan.crop, zoom=plan.zoom, colour=plan.colour)
        names = pictures.data.names
        self._tokens = name_tokens(clip, names, templates) if head.text is not None else None
        self._texts = None
        if head.text is None:
            self._texts = head_texts(head, clip, names, templates, weights=profile.clip.weights)

    def __call__(self, _step: int, random: torch.Generator) -> tuple[Tensor, dict[str, float]]:
        """The loss, and its parts."""
        batch = draw_batch(self._pictures, self._plan.batch, self._how, random)
        chosen, labels = choose_names(batch.labels, len(self._pictures.data.names), self._plan.names, random)
        device = self._clip.device
        texts, labels = self._texts_of(chosen), labels.to(device)
        pixels = self.normalised(batch.images)
        if self._head.spec.kind == "catseg":
            features = self._head.features(self._clip, pixels)
            value = pixel_loss(self._head.compare(features, texts), labels)
            return value, {}
        return self._head.loss(self._clip, pixels, texts, labels, random, **self._diffusion(batch, random))

    def normalised(self, images: Tensor) -> Tensor:
        """Crops as CLIP takes them."""
        spec, side = self._profile.clip, self._head.spec.clip.input_size
        images = resize(images.to(self._clip.device), (side, side), "bilinear")
        shape = (1, 3, 1, 1)
        return (images - images.new_tensor(spec.mean).view(shape)) / images.new_tensor(spec.std).view(shape)

    def _texts_of(self, chosen: Tensor) -> Tensor:
        """The texts of each crop's names, (B, K, P, E)."""
        if self._texts is not None:
            return self._texts[chosen.to(self._texts.device)]
        used, place = chosen.unique(return_inverse=True)
        tokens = cast(Tensor, self._tokens)  # one of both is there
        return tuned_texts(self._head, self._clip, tokens[used])[place.to(self._clip.device)]

    def _diffusion(self, batch: Batch, random: torch.Generator) -> dict[str, Any]:
        """What the diffusion model says of a batch, unless this one is trained without."""
        sizes = self._head.spec.dedos
        if self._taps is None or float(torch.rand((), generator=random)) < sizes.drop:
            return {}
        found = self._taps.of(self._pictures, batch)
        more: dict[str, Any] = {"taps": found.taps}
        if sizes.consistency:
            more["denoised"] = self.normalised(found.denoised)
        return more
