"""DEDOS's proxy queries: what they are made of, how they read the frozen UNet, and how timesteps become one.

Li, Wang, Wang, Zhang and Li, "DEDOS", ICCV 2025, equations 3 to 8; no code was published. Numbers in the docstrings are
the paper's. Where it is silent, the choice is named.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ovseg_cli.heads.sizes import DedosSizes


class KroneckerQueries(nn.Module):
    """Equation 6: for each timestep the Kronecker product of a factor that all share and one of its own.

    Row ``a n2 + b`` and column ``p c2 + r`` of the product are ``base[a, p] * own[b, r]``. Both factors start as
    standard normal numbers, so that products have variance 1: a factor of zeros would keep the other from learning.
    """

    def __init__(self, sizes: DedosSizes) -> None:
        super().__init__()
        (n1, n2), (c1, c2) = sizes.queries, sizes.channels
        self.factors = nn.ParameterDict({"base": torch.randn(n1, c1)})
        for timestep in sizes.timesteps:
            self.factors[f"t{timestep}"] = torch.randn(n2, c2)

    def forward(self) -> Tensor:
        """Queries (N, n, c), one set for each timestep."""
        own = [factor for name, factor in self.factors.items() if name != "base"]
        return torch.stack([kronecker(self.factors["base"], factor) for factor in own])


def kronecker(first: Tensor, second: Tensor) -> Tensor:
    """The Kronecker product of (n1, c1) and (n2, c2): (n1 n2, c1 c2)."""
    return (first[:, None, :, None] * second[None, :, None, :]).flatten(2).flatten(0, 1)


class FreeQueries(nn.Module):
    """A plain matrix for each timestep: the control for equation 6."""

    def __init__(self, sizes: DedosSizes) -> None:
        super().__init__()
        self.free = nn.ParameterDict({f"t{t}": torch.randn(sizes.count, sizes.width) for t in sizes.timesteps})

    def forward(self) -> Tensor:
        """Queries (N, n, c)."""
        return torch.stack(list(self.free.values()))


class InjectionLayer(nn.Module):
    """Equations 3 to 5: queries look at one block's output in the UNet.

    Choices: several heads and a scale of one over the root of a head's width, where the paper writes neither; LayerNorm
    on the block's output, whose scale differs from block to block; the weights are shared over timesteps.
    """

    def __init__(self, width: int, channels: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.norm = nn.LayerNorm(channels)
        self.q = nn.Linear(width, width, bias=False)
        self.k = nn.Linear(channels, width, bias=False)
        self.v = nn.Linear(channels, width, bias=False)
        self.out = nn.Linear(width, width)

    def forward(self, queries: Tensor, features: Tensor, seen: Tensor | None = None) -> Tensor:
        """One step.

        Args:
            queries: (B, n, c).
            features: (B, h w, C) of a block.
            seen: bool (B, h w), the mask map of equation 4: tokens that are looked at; None for all.
        """
        features = self.norm(features)

        def split(x: Tensor) -> Tensor:
            return x.unflatten(2, (self.heads, -1)).transpose(1, 2)

        mask = None if seen is None else seen[:, None, None]
        found = F.scaled_dot_product_attention(
            split(self.q(queries)), split(self.k(features)), split(self.v(features)), mask
        )
        return self.out(found.transpose(1, 2).flatten(2) + queries)


class Injection(nn.Module):
    """Equations 3 to 5, block after block: q_t becomes q_{L,t}.

    Args:
        sizes: Sizes and the share of tokens that are seen in training. The mask map is a Bernoulli mask over tokens, of
            each picture and block its own: the shapes of equation 4 admit nothing else, and the paper says only that it
            makes queries look at the whole scene.
        channels: Of each block's output.
    """

    def __init__(self, sizes: DedosSizes, channels: Sequence[int]) -> None:
        super().__init__()
        self.keep = sizes.keep
        self.layers = nn.ModuleList(InjectionLayer(sizes.width, each, sizes.injection_heads) for each in channels)

    def forward(self, queries: Tensor, taps: Sequence[Tensor], random: torch.Generator | None = None) -> Tensor:
        """One timestep's queries (B, n, c), for the blocks' outputs (B, h w, C) at that timestep."""
        for layer, features in zip(self.layers, taps, strict=True):
            seen = None
            if self.training and self.keep < 1 and random is not None:
                seen = torch.rand(features.shape[:2], generator=random).to(features.device) < self.keep
                seen[:, 0] |= ~seen.any(dim=1)
            queries = layer(queries, features, seen)
        return queries


class Merge(nn.Module):
    """Equations 7 and 8: the maximum, the mean and each timestep's queries, side by side, through a linear layer."""

    def __init__(self, sizes: DedosSizes) -> None:
        super().__init__()
        self.linear = nn.Linear((len(sizes.timesteps) + 2) * sizes.width, sizes.width)

    def forward(self, queries: Tensor) -> Tensor:
        """Queries (N, B, n, c) to Q (B, n, c)."""
        parts = [queries.amax(dim=0), queries.mean(dim=0), *queries]
        return self.linear(torch.cat(parts, dim=-1))


class ProxyQueries(nn.Module):
    """Equations 3 to 8 together, and what stands for diffusion at inference.

    Args:
        sizes: Sizes and switches.
        channels: Of the UNet's blocks; empty without injection.

    Attributes:
        mean: (N, n, c), the running mean of injected queries, for inference without diffusion.
    """

    mean: Tensor

    def __init__(self, sizes: DedosSizes, channels: Sequence[int]) -> None:
        super().__init__()
        self.sizes = sizes
        self.source = KroneckerQueries(sizes) if sizes.kronecker else FreeQueries(sizes)
        self.injection = Injection(sizes, channels) if sizes.injection else None
        self.merge = Merge(sizes)
        self.register_buffer("mean", torch.zeros(len(sizes.timesteps), sizes.count, sizes.width))

    def forward(
        self, batch: int, taps: Sequence[Sequence[Tensor]] | None = None, random: torch.Generator | None = None
    ) -> Tensor:
        """Q (B, n, c).

        Args:
            batch: B.
            taps: For each timestep, for each block, (B, h w, C); None without injection: in training where it is
                dropped, and at inference unless the picture is asked.
            random: Draws the mask map.
        """
        queries = self.source()[:, None].expand(-1, batch, -1, -1)
        if self.injection is not None and taps is not None:
            queries = torch.stack(
                [self.injection(one, blocks, random) for one, blocks in zip(queries, taps, strict=True)]
            )
            if self.training:
                with torch.no_grad():
                    fresh = queries.mean(dim=1)
                    self.mean.copy_(fresh if not self.mean.any() else self.mean.lerp(fresh, 0.01))
        elif not self.training and self.sizes.injection and self.sizes.at_inference == "mean":
            queries = self.mean[:, None].expand(-1, batch, -1, -1)
        return self.merge(queries)
