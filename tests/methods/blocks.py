"""Made-up blocks of a vision transformer, and attention written token by token."""

from __future__ import annotations

import numpy as np
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from ovseg_cli.backbones.clip import BlockTrace


def made_up_block(*, tokens, batch=2, heads=3, width=4, seed=0):
    """float64; projection and feed-forward part are two different maps."""
    random = torch.Generator().manual_seed(seed)

    def rand(*shape):
        return torch.randn(*shape, generator=random, dtype=torch.float64)

    out, inner, value = (rand(heads * width, heads * width) for _ in range(3))
    inputs, normed = (rand(batch, tokens, heads * width) for _ in range(2))
    queries, keys, values = (rand(batch, heads, tokens, width) for _ in range(3))
    return BlockTrace(
        inputs=inputs,
        normed=normed,
        queries=queries,
        keys=keys,
        values=values,
        project=lambda x: x.transpose(1, 2).flatten(2) @ out,
        values_of=lambda x: (x @ value).unflatten(2, (heads, width)).transpose(1, 2),
        feed_forward=lambda x: x + torch.tanh(x @ inner),
    )


def softmax(x):
    e = np.exp(x - x.max())
    return e / e.sum()


def attend(features, values, bias=None):
    """softmax(x x' / sqrt(d) + bias) over values, token by token; (B, heads, N, d) tensors."""
    x, v = features.numpy(), values.numpy()
    mixed = np.zeros_like(v)
    for b, h, i in np.ndindex(x.shape[:3]):
        scores = np.array([x[b, h, i] @ other for other in x[b, h]]) / np.sqrt(x.shape[-1])
        mixed[b, h, i] = softmax(scores if bias is None else scores + bias[i]) @ v[b, h]
    return torch.from_numpy(mixed)


class LargestTensor(TorchDispatchMode):
    """Remembers how many numbers the largest tensor had that any operation gave."""

    def __init__(self):
        super().__init__()
        self.numbers = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        result = func(*args, **(kwargs or {}))
        for value in result if isinstance(result, tuple) else (result,):
            if isinstance(value, torch.Tensor):
                self.numbers = max(self.numbers, value.numel())
        return result
