from __future__ import annotations

import math

import pytest
import torch
from torch._subclasses import FakeTensorMode
from torch.nn import functional as F
from torch.utils._python_dispatch import TorchDispatchMode

from ovseg_cli.backbones.attention import (
    RunningAttribution,
    RunningCrossAttention,
    RunningSelfAttention,
    attention_probabilities,
    mean_self_attention,
    token_probabilities,
)


def test_probabilities_equal_a_loop_over_heads_and_rows():
    random = torch.Generator().manual_seed(0)
    q, k = (torch.randn(2, n, 6, generator=random) for n in (9, 5))
    ours = attention_probabilities(q, k, heads=3, scale=0.7)
    assert ours.shape == (2, 3, 9, 5)
    for b in range(2):
        for h in range(3):
            for n in range(9):
                logits = torch.stack(
                    [0.7 * (q[b, n, 2 * h : 2 * h + 2] * k[b, t, 2 * h : 2 * h + 2]).sum() for t in range(5)]
                )
                weights = logits.exp()
                torch.testing.assert_close(ours[b, h, n], weights / weights.sum())


def test_probabilities_of_half_precision_are_computed_in_single():
    q = torch.full((1, 4, 8), 3.0, dtype=torch.float16)
    assert attention_probabilities(q, q, heads=2, scale=0.5).dtype == torch.float32


@pytest.mark.parametrize(("width", "count"), [(8, 2), (8, 8), (4, 6)])
def test_probabilities_of_a_few_tokens_are_those_of_all(width, count):
    """Also of more tokens than a head has channels."""
    random = torch.Generator().manual_seed(0)
    q, k = torch.randn(2, 9, 3 * width, generator=random), torch.randn(2, 11, 3 * width, generator=random)
    places = torch.stack([torch.randperm(11, generator=random)[:count] for _ in range(2)])
    found = token_probabilities(q, k, 3, 0.7, F.one_hot(places, 11).transpose(1, 2).float())
    every = attention_probabilities(q, k, 3, 0.7)
    for image, own in enumerate(places):
        torch.testing.assert_close(found[image], every[image][..., own], atol=1e-6, rtol=1e-6)


@pytest.mark.parametrize("spread", [1, 40])
def test_probabilities_of_a_few_tokens_in_half_precision_are_a_thousandth_off(spread):
    """Also where products of queries and keys overflow half precision."""
    random = torch.Generator().manual_seed(0)
    q = (torch.randn(1, 64, 2 * 40, generator=random) * spread).half()
    k = (torch.randn(1, 77, 2 * 40, generator=random) * spread).half()
    scale = 40**-0.5 / spread**2 * 3
    found = token_probabilities(q, k, 2, scale, torch.eye(77)[None, :, 5:7].half())
    exact = attention_probabilities(q.double(), k.double(), 2, scale)[..., 5:7]
    assert found.dtype == torch.float16
    torch.testing.assert_close(found.double(), exact.double(), rtol=1.1e-3, atol=1e-7)


class Costs(TorchDispatchMode):
    """How many operators ran that compute, and what they copied from device to device."""

    def __init__(self):
        super().__init__()
        self.kernels = 0
        self.copied = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        answer = func(*args, **(kwargs or {}))
        if not func.is_view and func.namespace == "aten":
            self.kernels += 1
        tensors = [each for each in (*args, *(kwargs or {}).values()) if isinstance(each, torch.Tensor)]
        if isinstance(answer, torch.Tensor) and any(each.device != answer.device for each in tensors):
            self.copied += answer.numel() * answer.element_size()
        return answer


@pytest.mark.parametrize(("side", "kernels"), [(64, 3), (32, 5)])
def test_a_layer_is_read_in_a_few_kernels_and_nothing_goes_to_the_cpu(side, kernels):
    """On a GPU as fake tensors imitate it; the sizes are Stable Diffusion's."""
    with torch.inference_mode(), FakeTensorMode(), Costs() as costs:
        q = torch.empty(4, side**2, 640, device="cuda", dtype=torch.float16)
        k = torch.empty(4, 77, 640, device="cuda", dtype=torch.float16)
        running = RunningAttribution(2 * [[5, 6]], 64, min_grid=8)
        running.add(q, k, 8, 0.1)  # sends the places of the tokens
        assert costs.copied == 2 * 77 * 80 * 2
        costs.copied = costs.kernels = 0
        running.add(q, k, 8, 0.1)
        assert (costs.copied, costs.kernels) == (0, kernels)
        assert running.mean().device.type == "cuda"


def test_running_mean_without_any_layer_says_why():
    attribution = RunningAttribution([[1]], 16, min_grid=8)
    attribution.add(torch.zeros(1, 16, 4), torch.zeros(1, 3, 4), 1, 1.0)  # 4 x 4: too coarse
    with pytest.raises(RuntimeError, match="at least 8"):
        attribution.mean()


def test_the_mean_over_heads_is_made_head_by_head(monkeypatch):
    random = torch.Generator().manual_seed(0)
    q, k = (torch.randn(2, 9, 12, generator=random) for _ in range(2))
    expected = attention_probabilities(q, k, heads=3, scale=0.7).mean(dim=1)
    asked = []

    def spy(queries, keys, heads, scale):
        asked.append(heads)
        return attention_probabilities(queries, keys, heads, scale)

    monkeypatch.setattr("ovseg_cli.backbones.attention.attention_probabilities", spy)
    torch.testing.assert_close(mean_self_attention(q, k, 3, 0.7), expected)
    assert asked == [1, 1, 1]


def brute_force_fusion(layers):
    """Row by row: enlarge what the cell around the token attends to, weighted by the side of the layer's grid."""
    finest = max(math.isqrt(attention.shape[1]) for attention in layers)
    total = sum(math.isqrt(attention.shape[1]) for attention in layers)
    fused = torch.zeros(len(layers[0]), finest**2, finest**2, dtype=torch.float64)
    for attention in layers:
        side = math.isqrt(attention.shape[1])
        for image in range(len(fused)):
            for y in range(finest):
                for x in range(finest):
                    row = attention[image, (y * side // finest) * side + x * side // finest].view(1, 1, side, side)
                    large = F.interpolate(row.double(), (finest, finest), mode="bilinear").flatten()
                    fused[image, y * finest + x] += large / large.sum() * side / total
    return fused


@pytest.mark.parametrize("sides", [(4,), (2, 4), (4, 2, 4, 2, 1), (3, 5)])
def test_fusion_equals_a_loop_over_tokens(sides):
    random = torch.Generator().manual_seed(1)
    running, layers = RunningSelfAttention(), []
    for side in sides:
        q, k = (torch.randn(2, side * side, 6, generator=random) for _ in range(2))
        running.add(q, k, 2, 1.0)
        layers.append(attention_probabilities(q, k, 2, 1.0).mean(dim=1))
    fused = running.mean()
    torch.testing.assert_close(fused.double(), brute_force_fusion(layers), atol=1e-6, rtol=1e-5)
    torch.testing.assert_close(fused.sum(dim=-1), torch.ones(fused.shape[:2]))


def test_the_mean_cross_attention_of_groups_equals_a_loop():
    random = torch.Generator().manual_seed(2)
    running, layers = RunningCrossAttention([[0], [2, 3], [4]]), []
    for side in (2, 4, 2, 2):
        q, k = torch.randn(2, side * side, 6, generator=random), torch.randn(2, 5, 6, generator=random)
        running.add(q, k, 3, 0.5)
        layers.append(attention_probabilities(q, k, 3, 0.5))
    found, counts = running.means()
    assert counts == {2: 3, 4: 1}
    for side, maps in found.items():
        mine = torch.stack([layer for layer in layers if layer.shape[2] == side * side])
        for channel, group in enumerate(([0], [2, 3], [4])):
            expected = mine[..., group].mean(dim=(0, 2, 4)).view(2, side, side)
            torch.testing.assert_close(maps[:, channel], expected)


def test_the_finest_grids_self_attention_is_the_mean_of_its_layers_whatever_the_order():
    random = torch.Generator().manual_seed(1)
    running, layers = RunningSelfAttention(finest=True), []
    for side in (2, 4, 3, 4):
        q, k = (torch.randn(2, side * side, 6, generator=random) for _ in range(2))
        running.add(q, k, 2, 1.0)
        layers.append(attention_probabilities(q, k, 2, 1.0).mean(dim=1))
    torch.testing.assert_close(running.mean(), (layers[1] + layers[3]) / 2)
