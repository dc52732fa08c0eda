"""Cost aggregation: CAT-Seg's reading of the cosines between patches and names.

Cho, Shin, Hong, Arnab, Seo and Kim, "CAT-Seg: Cost Aggregation for Open-Vocabulary Semantic Segmentation", CVPR 2024.
Each name has a map of cosines. Window attention lets a map's patches look at each other, guided by CLIP's tokens;
attention over the names, which is linear in their number, lets maps compete, guided by the names' embeddings; a decoder
enlarges each map fourfold, guided by earlier tokens of CLIP.

Maps are (B, T, h, w, C). What does not depend on the name is computed once for all names: of a linear map of
``[x, guidance]`` the part of the guidance, and in the decoder the guidance's part of a convolution. So is the part of
the names that only fill up (`CostSizes.pad`): they are all alike, and linear attention is a sum over them. The answers
are those of the published code, to rounding (tests/parity).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ovseg_cli.heads.sizes import CostSizes

LEFT_OUT = -100.0
"""The logit of names that are not looked at, see `CostSizes.pad` and `CostSizes.best`."""


def cosines(patches: Tensor, texts: Tensor) -> Tensor:
    """The cost volume: cosines of patches with texts.

    Args:
        patches: (B, h, w, E), of any norm.
        texts: (B, T, P, E), of any norm, P texts for each name.

    Returns:
        (B, T, P, h, w).
    """
    return torch.einsum("bhwe,btpe->btphw", F.normalize(patches, dim=-1), F.normalize(texts, dim=-1))


def guided(linear: nn.Linear, x: Tensor, guidance: Tensor) -> Tensor:
    """``linear([x, guidance])`` for a guidance that is the same for many x: (..., C) and (..., G) broadcast."""
    own = x.shape[-1]
    return F.linear(x, linear.weight[:, :own], linear.bias) + F.linear(guidance, linear.weight[:, own:])


class WindowAttention(nn.Module):
    """Multi-head attention inside windows, where queries and keys see the guidance and values do not."""

    def __init__(self, hidden: int, guidance: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.q = nn.Linear(hidden + guidance, hidden)
        self.k = nn.Linear(hidden + guidance, hidden)
        self.v = nn.Linear(hidden, hidden)
        self.proj = nn.Linear(hidden, hidden)

    def forward(self, x: Tensor, guidance: Tensor, window: int, shift: int) -> Tensor:
        """Mix maps (B, T, h, w, C), guided by (B, 1, h, w, G)."""
        shape = x.shape
        mask = None if shift == 0 else shift_mask(shape[2], shape[3], window, shift, x)

        def windows(projected: Tensor) -> Tensor:
            """(B T, windows * heads, window * window, d), a window's heads side by side."""
            rolled = projected.flatten(0, 1)
            if shift:
                rolled = rolled.roll((-shift, -shift), dims=(1, 2))
            cut = rolled.unflatten(3, (self.heads, -1)).unflatten(2, (-1, window)).unflatten(1, (-1, window))
            return cut.permute(0, 1, 3, 5, 2, 4, 6).flatten(4, 5).flatten(1, 3)

        if mask is not None:  # for each of a window's heads
            mask = mask.repeat_interleave(self.heads, dim=0)[None]
        mixed = F.scaled_dot_product_attention(
            windows(guided(self.q, x, guidance)), windows(guided(self.k, x, guidance)), windows(self.v(x)), mask
        )
        rows, columns = shape[2] // window, shape[3] // window
        whole = mixed.unflatten(1, (rows, columns, self.heads)).unflatten(4, (window, window))
        whole = whole.permute(0, 1, 4, 2, 5, 3, 6).flatten(5, 6).flatten(3, 4).flatten(1, 2)
        if shift:
            whole = whole.roll((shift, shift), dims=(1, 2))
        return cast(Tensor, self.proj(whole.unflatten(0, shape[:2])))


def shift_mask(rows: int, columns: int, window: int, shift: int, like: Tensor) -> Tensor:
    """What keeps the parts of a shifted window apart that are not neighbours: (windows, window^2, window^2), 0 or -100.

    Args:
        rows: Of the grid.
        columns: Of the grid.
        window: Side of a window.
        shift: By how many patches it is shifted.
        like: Gives kind and device.
    """

    def region(length: int) -> Tensor:
        place = torch.arange(length, device=like.device)
        return (place >= length - window).long() + (place >= length - shift).long()

    regions = region(rows)[:, None] * 3 + region(columns)
    cut = regions.unflatten(1, (-1, window)).unflatten(0, (-1, window)).permute(0, 2, 1, 3).flatten(2).flatten(0, 1)
    apart = cut[:, None, :] != cut[:, :, None]
    return torch.where(apart, -100.0, 0.0).to(like)


class WindowBlock(nn.Module):
    """One Swin block on each name's map; see `WindowAttention`."""

    def __init__(self, sizes: CostSizes, *, shifted: bool) -> None:
        super().__init__()
        hidden = sizes.hidden
        self.window, self.shifted = sizes.window, shifted
        self.norm1 = nn.LayerNorm(hidden)
        self.attn = WindowAttention(hidden, sizes.guidance, sizes.heads)
        self.norm2 = nn.LayerNorm(hidden)
        self.mlp = nn.Sequential(nn.Linear(hidden, 4 * hidden), nn.GELU(), nn.Linear(4 * hidden, hidden))

    def forward(self, x: Tensor, guidance: Tensor) -> Tensor:
        """Mix maps (B, T, h, w, C), guided by (B, 1, h, w, G)."""
        side = min(x.shape[2:4])
        window = min(self.window, side)
        shift = window // 2 if self.shifted and side > self.window else 0
        x = x + self.attn(self.norm1(x), guidance, window, shift)
        return x + self.mlp(self.norm2(x))


class NameBlock(nn.Module):
    """Attention over the names at each place, linear in their number ("class aggregation")."""

    def __init__(self, sizes: CostSizes) -> None:
        super().__init__()
        hidden = sizes.hidden
        self.pool, self.heads, self.pad = sizes.pool, sizes.heads, sizes.pad
        self.q = nn.Linear(hidden + sizes.guidance, hidden)
        self.k = nn.Linear(hidden + sizes.guidance, hidden)
        self.v = nn.Linear(hidden, hidden)
        self.mlp = nn.Sequential(nn.Linear(hidden, 4 * hidden), nn.ReLU(), nn.Linear(4 * hidden, hidden))
        self.norm1 = nn.LayerNorm(hidden)
        self.norm2 = nn.LayerNorm(hidden)
        self.filling = nn.Parameter(torch.zeros(hidden)) if sizes.pad else None
        self.filling_guidance = nn.Parameter(torch.zeros(sizes.guidance)) if sizes.pad else None

    def forward(self, x: Tensor, guidance: Tensor) -> Tensor:
        """Mix maps (B, T, h, w, C), guided by (B, T, G)."""
        names, size = x.shape[1], x.shape[2:4]
        pool = self.pool if self.training else 1
        small = x
        if pool > 1:
            flat = F.avg_pool2d(x.flatten(0, 1).permute(0, 3, 1, 2), pool)
            small = flat.permute(0, 2, 3, 1).unflatten(0, x.shape[:2])
        small = small + self._attend(self.norm1(small), guidance[:, :, None, None], max(0, self.pad - names))
        small = small + self.mlp(self.norm2(small))
        if pool > 1:
            flat = small.flatten(0, 1).permute(0, 3, 1, 2)
            flat = F.interpolate(flat, size, mode="bilinear", align_corners=True)
            small = flat.permute(0, 2, 3, 1).unflatten(0, x.shape[:2])
        return x + small

    def _attend(self, x: Tensor, guidance: Tensor, filling: int) -> Tensor:
        """Linear attention over T, with `filling` further names that are all alike."""

        def features(projected: Tensor) -> Tensor:
            return F.elu(projected.unflatten(-1, (self.heads, -1))) + 1

        queries, keys = features(guided(self.q, x, guidance)), features(guided(self.k, x, guidance))
        values = self.v(x).unflatten(-1, (self.heads, -1))
        products = torch.einsum("bthwnk,bthwnv->bhwnkv", keys, values)
        total = keys.sum(dim=1)
        if filling and self.filling is not None:
            one = self.norm1(self.filling)
            key = features(guided(self.k, one, self.filling_guidance))
            value = self.v(one).unflatten(-1, (self.heads, -1))
            products = products + filling * torch.einsum("nk,nv->nkv", key, value)
            total = total + filling * key
        scale = 1 / (torch.einsum("bthwnk,bhwnk->bthwn", queries, total) + 1e-6)
        return torch.einsum("bthwnk,bhwnkv,bthwn->bthwnv", queries, products, scale).flatten(-2)


class CostLayer(nn.Module):
    """Two window blocks, the second with shifted windows, and one over the names."""

    def __init__(self, sizes: CostSizes) -> None:
        super().__init__()
        self.block_1 = WindowBlock(sizes, shifted=False)
        self.block_2 = WindowBlock(sizes, shifted=True)
        self.guidance_norm = nn.LayerNorm(sizes.guidance)
        self.names = NameBlock(sizes)

    def forward(self, x: Tensor, appearance: Tensor, texts: Tensor) -> Tensor:
        """Mix maps (B, T, h, w, C), guided by (B, h, w, G) and (B, T, G)."""
        guidance = self.guidance_norm(appearance)[:, None]
        return cast(Tensor, self.names(self.block_2(self.block_1(x, guidance), guidance), texts))


class Enlarge(nn.Module):
    """One step of the decoder: twice as fine, with guidance of that size."""

    def __init__(self, channels: int, out: int, guidance: int) -> None:
        super().__init__()
        self.up = nn.ConvTranspose2d(channels, channels - guidance, kernel_size=2, stride=2)
        self.conv_1 = nn.Conv2d(channels, out, kernel_size=3, padding=1, bias=False)
        self.norm_1 = nn.GroupNorm(out // 16, out)
        self.conv_2 = nn.Conv2d(out, out, kernel_size=3, padding=1, bias=False)
        self.norm_2 = nn.GroupNorm(out // 16, out)

    def forward(self, x: Tensor, guidance: Tensor) -> Tensor:
        """Maps (B * T, C, h, w) and guidance (B, G, 2 h, 2 w) to (B * T, C', 2 h, 2 w)."""
        x = self.up(x)
        own = x.shape[1]
        shown = F.conv2d(guidance, self.conv_1.weight[:, own:], padding=1)
        x = F.conv2d(x, self.conv_1.weight[:, :own], padding=1)
        x = (x.unflatten(0, (len(guidance), -1)) + shown[:, None]).flatten(0, 1)
        return F.relu(self.norm_2(self.conv_2(F.relu(self.norm_1(x)))))


class CostAggregator(nn.Module):
    """CAT-Seg's aggregator: from patches and texts to a logit for each name at four times the patches' fineness.

    Args:
        sizes: Its sizes.
        embed: Channels of the space shared by patches and texts.
        fine: Channels of the two finer maps that guide the decoder.
    """

    def __init__(self, sizes: CostSizes, embed: int, fine: tuple[int, int]) -> None:
        super().__init__()
        self.sizes = sizes
        self.embedding = nn.Conv2d(sizes.prompts, sizes.hidden, kernel_size=7, padding=3)
        self.appearance = nn.Conv2d(embed, sizes.guidance, kernel_size=3, padding=1)
        self.text = nn.Linear(embed, sizes.guidance)
        self.layers = nn.ModuleList(CostLayer(sizes) for _ in range(sizes.layers))
        self.fine = nn.ModuleList(
            nn.Conv2d(channels, out, kernel_size=3, padding=1)
            for channels, out in zip(fine, sizes.decoder_guidance, strict=True)
        )
        first, second = sizes.decoder
        self.decoder = nn.ModuleList(
            [
                Enlarge(sizes.hidden, first, sizes.decoder_guidance[0]),
                Enlarge(first, second, sizes.decoder_guidance[1]),
            ]
        )
        self.head = nn.Conv2d(second, 1, kernel_size=3, padding=1)

    def forward(self, patches: Tensor, texts: Tensor, fine: Sequence[Tensor]) -> Tensor:
        """Logits of names.

        Args:
            patches: (B, h, w, E), CLIP's patches in the space of texts, of any norm.
            texts: (B, T, P, E), of any norm.
            fine: (B, C, 2 h, 2 w) and (B, C', 4 h, 4 w).

        Returns:
            (B, T, 4 h, 4 w).
        """
        cost, names = cosines(patches, texts), texts.shape[1]
        chosen = None
        limits = (self.sizes.pad, 0 if self.training else self.sizes.best)
        most = min((limit for limit in limits if limit), default=names)
        if most < names:
            chosen = cost.flatten(2).amax(dim=-1).topk(most, dim=-1, sorted=False).indices
            places = chosen[..., None, None]
            cost = cost.take_along_dim(places[..., None], dim=1)
            texts = F.normalize(texts, dim=-1).take_along_dim(places, dim=1)
        logits = self._aggregate(cost, patches.permute(0, 3, 1, 2), texts, fine)
        if chosen is None:
            return logits
        every = logits.new_full((len(logits), names, *logits.shape[2:]), LEFT_OUT)
        return every.scatter(1, chosen[..., None, None].expand_as(logits), logits)

    def _aggregate(self, cost: Tensor, guidance: Tensor, texts: Tensor, fine: Sequence[Tensor]) -> Tensor:
        batch = len(cost)
        x = self.embedding(cost.flatten(0, 1)).permute(0, 2, 3, 1).unflatten(0, (batch, -1))
        appearance = F.relu(self.appearance(guidance)).permute(0, 2, 3, 1)
        words = F.relu(self.text(F.normalize(texts.mean(dim=2), dim=-1)))
        for layer in self.layers:
            x = layer(x, appearance, words)
        maps = x.flatten(0, 1).permute(0, 3, 1, 2)
        for step, project, finer in zip(self.decoder, self.fine, fine, strict=True):
            maps = step(maps, F.relu(project(finer)))
        return cast(Tensor, self.head(maps).unflatten(0, (batch, -1))[:, :, 0])
