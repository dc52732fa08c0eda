"""CAT-Seg as a head: CLIP's towers with trained projections, and the cost aggregation on top."""

from __future__ import annotations

from collections.abc import Sequence
from typing import cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ovseg_cli.backbones.clip import ClipBackbone
from ovseg_cli.heads.cost import CostAggregator
from ovseg_cli.heads.sizes import HeadSpec
from ovseg_cli.heads.towers import Difference, see


class CatSeg(nn.Module):
    """The whole of CAT-Seg but for CLIP itself.

    Attributes:
        spec: What it was built from.
        cost: The aggregator.
        visual: The difference to CLIP's vision tower; None for CLIP as it is.
        text: The difference to its text tower; likewise.
    """

    def __init__(self, spec: HeadSpec, text_sizes: tuple[int, int] | None = None) -> None:
        """Build it, untrained.

        Args:
            spec: What it is built from.
            text_sizes: (depth, width) of CLIP's text tower, where that is trained too.
        """
        super().__init__()
        self.spec = spec
        clip, sizes = spec.clip, spec.cost
        self.cost = CostAggregator(sizes, clip.embed, sizes.hooks)
        self.upsample = nn.ModuleList(
            [
                nn.ConvTranspose2d(clip.width, sizes.hooks[0], kernel_size=2, stride=2),
                nn.ConvTranspose2d(clip.width, sizes.hooks[1], kernel_size=4, stride=4),
            ]
        )
        self.visual = Difference(clip.depth, clip.width) if spec.tuned != "none" else None
        self.text = Difference(*text_sizes) if spec.tuned == "both" and text_sizes is not None else None

    def features(self, clip: ClipBackbone, pixels: Tensor) -> list[Tensor]:
        """What does not depend on the names.

        Args:
            clip: The CLIP that the head is for.
            pixels: float (B, 3, S, S), normalised.

        Returns:
            Patches in the space of texts (B, h, w, E), and two finer maps (B, C, 2 h, 2 w) and (B, C', 4 h, 4 w).
        """
        seen = see(clip, pixels, self.visual, hooks=self.spec.clip.hooks)
        fine = [
            up(seen.hooks[block].permute(0, 3, 1, 2))
            for up, block in zip(self.upsample, self.spec.clip.hooks, strict=True)
        ]
        return [seen.patches, *fine]

    def compare(self, features: Sequence[Tensor], texts: Tensor) -> Tensor:
        """Logits of names (B, T, 4 h, 4 w), for texts (B or 1, T, P, E)."""
        patches, *fine = features
        return cast(Tensor, self.cost(patches, texts.expand(len(patches), -1, -1, -1), fine))

    def probabilities(self, features: Sequence[Tensor], texts: Tensor) -> Tensor:
        """Probabilities of names (B, T, 4 h, 4 w): each is there or not, whatever the others are."""
        return self.compare(features, texts).sigmoid()


def pixel_loss(logits: Tensor, labels: Tensor) -> Tensor:
    """Binary cross-entropy over all pixels and names.

    The published code takes pixels without a label for pixels that show none of the names; here they are left out, as
    a label that is missing says nothing.

    Args:
        logits: (B, T, h, w).
        labels: int64 (B, H, W): the place of a name, `IGNORED` for a pixel without a label, `NOTHING` for one that
            shows none of the names.
    """
    logits = F.interpolate(logits, labels.shape[1:], mode="bilinear", align_corners=False)
    names = torch.arange(logits.shape[1], device=logits.device).view(1, -1, 1, 1)
    targets = (labels[:, None] == names).to(logits.dtype)
    counts = (labels != IGNORED)[:, None].to(logits.dtype)
    losses = F.binary_cross_entropy_with_logits(logits, targets, reduction="none")
    return (losses * counts).sum() / (counts.sum() * logits.shape[1]).clamp(min=1)


IGNORED = -1
NOTHING = -2
