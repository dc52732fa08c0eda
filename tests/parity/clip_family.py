"""What the CLIP methods and their published code are both fed with: image towers, pictures and texts."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ovseg_cli.backbones.clip import ClipBackbone
from tests.parity.inputs import as_tensor, fill, noise, picture

CLIP_NORM = {"mean": (0.48145466, 0.4578275, 0.40821073), "std": (0.26862954, 0.26130258, 0.27577711)}
DINO_NORM = {"mean": (0.485, 0.456, 0.406), "std": (0.229, 0.224, 0.225)}


@dataclass(frozen=True)
class Tower:
    """An image tower of CLIP, trained for 224 x 224 pixels."""

    width: int
    layers: int
    patch: int
    embed: int

    @property
    def heads(self) -> int:
        """All of CLIP's heads are 64 wide."""
        return self.width // 64


TOWERS = {
    "narrow": Tower(width=128, layers=8, patch=16, embed=32),
    "b16": Tower(width=768, layers=12, patch=16, embed=512),
    "l14": Tower(width=1024, layers=24, patch=14, embed=768),
}

SIDES = {"narrow": (224, 336), "b16": (224, 336), "l14": (224,)}
"""Pictures: one for which position embeddings stay as they are, and one for which they are resized."""


def normalised(side: int, mean: tuple[float, ...], std: tuple[float, ...]) -> Tensor:
    """The picture as a network sees it, float32 (1, 3, side, side)."""
    image = as_tensor(picture("clip-family", side, side))
    return (image - torch.tensor(mean).view(1, 3, 1, 1)) / torch.tensor(std).view(1, 3, 1, 1)


def texts(tower: Tower) -> Tensor:
    """Six made-up embeddings of texts, float32 (6, E), of norm 1."""
    return F.normalize(torch.from_numpy(noise(f"clip-family/texts/{tower.embed}", (6, tower.embed))), dim=-1)


def cosines(embedded: Tensor, tower: Tower) -> Tensor:
    """Of embedded tokens (1, N, E), of any norm, with the texts: (6, N)."""
    return (F.normalize(embedded, dim=-1) @ texts(tower).T)[0].T


def made_up_features() -> Tensor:
    """Features of another network: regions and noise around a common part, float32 (1, 96, 28, 28).

    DINO with made-up weights finds all patches so much alike that in its true size nothing but the patch itself is
    above ProxyCLIP's mean; here an eighth of the patches is.
    """
    coarse = torch.from_numpy(noise("clip-family/features/coarse", (1, 96, 4, 4)))
    regions = F.interpolate(coarse, (28, 28), mode="bilinear", align_corners=False)
    fine = torch.from_numpy(noise("clip-family/features/fine", (1, 96, 28, 28)))
    return regions + 0.4 * fine + torch.from_numpy(noise("clip-family/features/common", (1, 96, 1, 1)))


def backbone(tower: Tower, *, eps: float = 1e-5, quick_gelu: bool = True) -> ClipBackbone:
    """open_clip's image tower; its parameters have the names of OpenAI's."""
    from open_clip.transformer import QuickGELU, VisionTransformer

    visual = VisionTransformer(
        image_size=224,
        patch_size=tower.patch,
        width=tower.width,
        layers=tower.layers,
        heads=tower.heads,
        mlp_ratio=4.0,
        output_dim=tower.embed,
        act_layer=QuickGELU if quick_gelu else nn.GELU,
        norm_layer=lambda width: nn.LayerNorm(width, eps=eps),
    )
    fill(visual, "visual.")
    model: Any = nn.Module()
    model.visual = visual
    return ClipBackbone(model, lambda *_texts: torch.zeros(0), "cpu")
