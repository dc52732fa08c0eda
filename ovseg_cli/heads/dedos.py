"""DEDOS as a head: queries that have seen a diffusion model, a refined CLIP, a mask decoder, and names for its objects.

Li et al., "DEDOS", ICCV 2025, sections 3.3 to 3.7. Each part is a module of its own (`queries`, `refine`, `decoder`,
`aggregation`, `matching`, and `cost`, which is CAT-Seg's) and can be switched off (`DedosSizes`). No diffusion model is
imported here: its features come from outside (`ovseg_cli.heads.taps`), in training, and at inference only where the
head was made for that.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, cast

import torch
from torch import Tensor, nn

from ovseg_cli.backbones.clip import ClipBackbone
from ovseg_cli.heads.aggregation import TextAggregation
from ovseg_cli.heads.catseg import pixel_loss
from ovseg_cli.heads.cost import CostAggregator
from ovseg_cli.heads.decoder import MaskDecoder
from ovseg_cli.heads.matching import set_loss
from ovseg_cli.heads.queries import ProxyQueries
from ovseg_cli.heads.refine import Consistency, Refinement
from ovseg_cli.heads.sizes import HeadSpec
from ovseg_cli.heads.towers import Difference, Seen, see


class Dedos(nn.Module):
    """The whole of DEDOS but for CLIP and the diffusion model.

    Args:
        spec: What it is built from.
        text_sizes: (depth, width) of CLIP's text tower, where that is trained too.

    Attributes:
        spec: As above.
        visual: The difference to CLIP's vision tower; None for CLIP as it is.
        text: The difference to its text tower; likewise.
    """

    def __init__(self, spec: HeadSpec, text_sizes: tuple[int, int] | None = None) -> None:
        super().__init__()
        sizes, clip = spec.dedos, spec.clip
        if sizes is None:
            raise ValueError("a head of DEDOS needs its sizes")
        self.spec, self.sizes = spec, sizes
        width = sizes.width
        self.queries = ProxyQueries(sizes, sizes.tap_channels if sizes.injection else ())
        self.refinement = Refinement(width, clip.width) if sizes.refine else None
        self.consistency = Consistency(width, clip.width) if sizes.consistency and sizes.injection else None
        # As CAT-Seg's, with one map more: the mask decoder wants four.
        fine = spec.cost.hooks
        self.upsample = nn.ModuleList(
            [
                nn.ConvTranspose2d(clip.width, fine[0], kernel_size=2, stride=2),
                nn.ConvTranspose2d(clip.width, fine[1], kernel_size=4, stride=4),
            ]
        )
        self.downsample = nn.Conv2d(clip.width, width, kernel_size=3, stride=2, padding=1)
        self.decoder = MaskDecoder(sizes, (fine[1], fine[0], clip.width, width))
        self.naming = TextAggregation(width, clip.embed, sizes.text)
        # Guided by CLIP's own maps, as in CAT-Seg. The pixel decoder's, untrained at first, hid the cosines: nothing
        # was learnt in 170 steps (examples/heads/README.md).
        self.cost = CostAggregator(spec.cost, clip.embed, fine) if sizes.cost else None
        self.visual = Difference(clip.depth, clip.width) if spec.tuned != "none" else None
        self.text = Difference(*text_sizes) if spec.tuned == "both" and text_sizes is not None else None

    @property
    def _hooks(self) -> tuple[int, int, int]:
        """The blocks that are read: CAT-Seg's two, and the last."""
        return *self.spec.clip.hooks, self.spec.clip.depth - 1

    def _see(self, clip: ClipBackbone, pixels: Tensor, queries: Tensor) -> Seen:
        """CLIP's walk, refined by the queries after every block from the first hook on."""
        refinement, first = self.refinement, self.spec.clip.hooks[0]
        if refinement is None:
            return see(clip, pixels, self.visual, hooks=self._hooks)
        wide = refinement.widen(queries)

        def refine(block: int, tokens: Tensor) -> Tensor:
            return tokens if block < first else refinement(tokens, wide)

        return see(clip, pixels, self.visual, hooks=self._hooks, refine=refine)

    def _decode(self, seen: Seen, queries: Tensor) -> tuple[Any, list[Tensor]]:
        """The decoders' answer, and the maps that guide the cost aggregation."""
        early, middle, last = (seen.hooks[block].permute(0, 3, 1, 2) for block in self._hooks)
        maps = [self.upsample[1](early), self.upsample[0](middle), last, self.downsample(last)]
        decoded = self.decoder(maps, queries)
        return decoded, [maps[1], maps[0]]

    def features(
        self, clip: ClipBackbone, pixels: Tensor, taps: Sequence[Sequence[Tensor]] | None = None
    ) -> list[Tensor]:
        """What does not depend on the names.

        Args:
            clip: The CLIP that the head is for.
            pixels: float (B, 3, S, S), normalised.
            taps: The diffusion model's features, for queries that ask it at inference.

        Returns:
            Patches (B, h, w, E); two finer maps that guide the cost aggregation; objects (B, n, c) and their masks'
            logits.
        """
        queries = self.queries(len(pixels), taps)
        seen = self._see(clip, pixels, queries)
        decoded, guides = self._decode(seen, queries)
        return [seen.patches, *guides, decoded.objects[-1], decoded.masks[-1]]

    def _cost_logits(self, patches: Tensor, guides: Sequence[Tensor], texts: Tensor) -> Tensor | None:
        if self.cost is None:
            return None
        return self.cost(patches, texts.expand(len(patches), -1, -1, -1), guides)

    def compare(self, features: Sequence[Tensor], texts: Tensor) -> Tensor:
        """Logits of `probabilities`."""
        return self.probabilities(features, texts).clamp(1e-6, 1 - 1e-6).logit()

    def probabilities(self, features: Sequence[Tensor], texts: Tensor) -> Tensor:
        """Probabilities of names (B, T, 4 h, 4 w), for texts (B or 1, T, P, E).

        Of masks: the sum over queries of the name's probability times the mask's. With cost aggregation: the mean of
        that and of its probabilities.
        """
        patches, *guides, objects, masks = features
        words = texts.mean(dim=2).expand(len(patches), -1, -1)
        named = self.naming(objects, words).sigmoid()
        of_masks = torch.einsum("bnt,bnhw->bthw", named, masks.sigmoid()).clamp(max=1)
        cost = self._cost_logits(patches, guides, texts)
        return of_masks if cost is None else (of_masks + cost.sigmoid()) / 2

    def loss(
        self,
        clip: ClipBackbone,
        pixels: Tensor,
        texts: Tensor,
        labels: Tensor,
        random: torch.Generator,
        *,
        taps: Sequence[Sequence[Tensor]] | None = None,
        denoised: Tensor | None = None,
    ) -> tuple[Tensor, dict[str, float]]:
        """Equation 16, with the cost aggregation's loss where that is part of it.

        Args:
            clip: The CLIP that the head is for.
            pixels: float (B, 3, S, S), normalised.
            texts: (B, T, P, E) of norm 1.
            labels: int64 (B, S, S): places among the T names, `IGNORED` or `NOTHING`.
            random: On the CPU.
            taps: The diffusion model's features of the pictures; None where this batch is trained without.
            denoised: The pictures as it has denoised them, normalised as CLIP's; None likewise.

        Returns:
            The loss, and its parts.
        """
        queries = self.queries(len(pixels), taps, random)
        seen = self._see(clip, pixels, queries)
        decoded, guides = self._decode(seen, queries)
        words = texts.mean(dim=2)
        classes = [self.naming(each, words) for each in decoded.objects]
        parts = set_loss(classes, decoded.masks, labels, self.sizes.points, random)
        cost = self._cost_logits(seen.patches, guides, texts)
        if cost is not None:
            parts["cost"] = pixel_loss(cost, labels)
        total = torch.stack(list(parts.values())).sum()
        if self.consistency is not None and denoised is not None:
            parts["consistency"] = self._consistency(clip, seen, denoised, queries)
            total = total + self.sizes.consistency * parts["consistency"]
        return total, {name: float(value.detach()) for name, value in parts.items()}

    def _consistency(self, clip: ClipBackbone, seen: Seen, denoised: Tensor, queries: Tensor) -> Tensor:
        """Equations 9 to 12, averaged over the blocks that are read. The denoised pictures are only looked at."""
        consistency = cast(Consistency, self.consistency)  # asked before
        with torch.no_grad():
            after = self._see(clip, denoised, queries)
        losses = [
            consistency(queries, seen.hooks[block].flatten(1, 2), after.hooks[block].flatten(1, 2))
            for block in self._hooks
        ]
        return torch.stack(losses).mean()
