"""What CAT-Seg and its published code are both fed with."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from ovseg_cli.heads.sizes import ClipSizes
from tests.parity.clip_family import Tower
from tests.parity.inputs import picture, uniform

VOCABULARY, CONTEXT = 49408, 77


@dataclass(frozen=True)
class Case:
    """A size of CAT-Seg.

    Attributes:
        name: As the published code calls the CLIP.
        tower: Its vision tower.
        trained_for: Pixels that the tower's position embeddings are for.
        text: (width, layers) of its text tower.
        hidden: Channels of the aggregator; the published ones are 128.
        names: How many names there are.
    """

    name: str
    tower: Tower
    trained_for: int
    text: tuple[int, int]
    hidden: int = 128
    guidance: int = 128
    decoder: tuple[int, int] = (64, 32)
    decoder_guidance: tuple[int, int] = (32, 16)
    hooks: tuple[int, int] = (256, 128)
    names: int = 7

    @property
    def sizes(self) -> ClipSizes:
        return ClipSizes(
            width=self.tower.width,
            embed=self.tower.embed,
            depth=self.tower.layers,
            patch=self.tower.patch,
            input_size=24 * self.tower.patch,
        )


_NARROW = Tower(width=128, layers=12, patch=16, embed=32)
_SMALL = {"hidden": 32, "guidance": 16, "decoder": (32, 16), "decoder_guidance": (16, 8), "hooks": (24, 12)}

CASES = {
    "narrow": Case("ViT-B/16", _NARROW, 224, (64, 2), **_SMALL),
    "many": Case("ViT-B/16", _NARROW, 224, (64, 2), **_SMALL, names=270),
    "b16": Case("ViT-B/16", Tower(width=768, layers=12, patch=16, embed=512), 224, (512, 12)),
    "l14": Case("ViT-L/14@336px", Tower(width=1024, layers=24, patch=14, embed=768), 336, (768, 12)),
}


def tokens(case: Case) -> Tensor:
    """Made-up texts of two to nine tokens between start and end, int64 (T, 77)."""
    numbers = uniform(f"catseg/tokens/{case.names}", (case.names, 10))
    texts = np.zeros((case.names, CONTEXT), np.int64)
    for row, line in zip(texts, numbers, strict=True):
        length = 2 + int(line[-1] * 8)
        row[: length + 2] = [VOCABULARY - 2, *(1 + (line[:length] * 49000).astype(int)), VOCABULARY - 1]
    return torch.from_numpy(texts)


def photograph() -> Tensor:
    """The picture as the published code takes it: float32 (3, 300, 420) in 0..255."""
    return torch.from_numpy(picture("catseg", 300, 420).copy()).permute(2, 0, 1).float()
