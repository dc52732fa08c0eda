from __future__ import annotations

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from ovseg_cli.backbones.attention import AttentionLayer
from ovseg_cli.methods import attention_refine
from ovseg_cli.methods.attention_refine import refine_maps


@pytest.fixture(params=[7, 2**17, 10**9])
def cells(request, monkeypatch):
    """Blocks of one row, of some rows, and of all rows."""
    monkeypatch.setattr(attention_refine, "CELLS_ON_CPU", request.param)


def layer(side, heads, width, *, batch=1, seed=0, sharpness=1.5, dtype=torch.float32):
    random = torch.Generator().manual_seed(seed)
    queries, keys = (torch.randn(batch, side * side, heads * width, generator=random) * sharpness for _ in range(2))
    return AttentionLayer(queries.to(dtype), keys.to(dtype), heads, width**-0.5)


def matrices(layers, image, threshold):
    """Every head's whole matrix in float64, entry by entry as the published description says."""
    found = []
    for part in layers:
        width = part.queries.shape[-1] // part.heads
        for head in range(part.heads):
            place = slice(head * width, (head + 1) * width)
            logits = part.queries[image, :, place].double() @ part.keys[image, :, place].double().T * part.scale
            matrix = np.exp(logits.numpy() - logits.numpy().max(axis=1, keepdims=True))
            matrix /= matrix.sum(axis=1, keepdims=True)
            if threshold is not None:
                matrix = matrix / (matrix.max(axis=0, keepdims=True) + 1e-5)
                matrix[matrix < threshold] = 0
                matrix /= matrix.sum(axis=1, keepdims=True) + 1e-5
            found.append(matrix)
    return found


def brute_force(maps, layers, threshold):
    """The product of all matrices, from left to right, and then times the maps."""
    refined = []
    for image in range(len(maps)):
        product = np.eye(layers[0].queries.shape[1])
        for matrix in matrices(layers, image, threshold):
            product = product @ matrix
        side = round(len(product) ** 0.5)
        large = F.interpolate(maps[image : image + 1].double(), (side, side), mode="bilinear", align_corners=False)
        refined.append((product @ large[0].flatten(1).T.numpy()).T.reshape(-1, side, side))
    return np.stack(refined)


@pytest.mark.parametrize("threshold", [None, 0.1, 0.35, 0.9])
def test_equals_the_product_of_full_matrices(cells, threshold):
    maps = torch.rand(2, 4, 3, 5, generator=torch.Generator().manual_seed(9))
    layers = [layer(8, 3, 4, batch=2), layer(8, 2, 6, batch=2, seed=1)]
    refined = refine_maps(maps, layers, threshold=threshold)
    assert refined.shape == (2, 4, 8, 8)
    assert refined.dtype == torch.float32
    np.testing.assert_allclose(refined.numpy(), brute_force(maps, layers, threshold), atol=2e-6)


def test_the_order_of_layers_and_of_heads_matters():
    maps = torch.rand(1, 2, 6, 6)
    first, second = layer(6, 2, 4, sharpness=3), layer(6, 2, 4, seed=1, sharpness=3)
    forward = refine_maps(maps, [first, second], threshold=0.2)
    assert not torch.allclose(forward, refine_maps(maps, [second, first], threshold=0.2), atol=1e-3)


@pytest.mark.parametrize("threshold", [None, 0.1])
def test_a_constant_map_stays_constant(cells, threshold):
    """Rows sum to 1, up to what is added to their sums: at most 1e-5 for each of the matrices, if any."""
    maps = torch.full((1, 3, 4, 4), 0.7)
    refined = refine_maps(maps, [layer(9, 5, 4)], threshold=threshold)
    torch.testing.assert_close(refined, torch.full((1, 3, 9, 9), 0.7), atol=1e-4, rtol=0)


def test_the_plain_product_keeps_the_range():
    maps = torch.rand(1, 3, 5, 5)
    refined = refine_maps(maps, [layer(7, 4, 4)], threshold=None)
    assert refined.min() >= maps.min()
    assert refined.max() <= maps.max()


def test_an_image_has_the_same_maps_alone_and_in_a_batch():
    maps = torch.rand(3, 2, 5, 5)
    together = layer(6, 2, 4, batch=3)
    alone = AttentionLayer(together.queries[1:2], together.keys[1:2], 2, together.scale)
    expected = refine_maps(maps, [together], threshold=0.1)[1:2]
    torch.testing.assert_close(refine_maps(maps[1:2], [alone], threshold=0.1), expected)


def test_classes_do_not_influence_each_other():
    maps = torch.rand(1, 4, 6, 6)
    layers = [layer(6, 3, 4)]
    expected = refine_maps(maps, layers, threshold=0.1)[:, 2:3]
    torch.testing.assert_close(refine_maps(maps[:, 2:3], layers, threshold=0.1), expected)


def test_uniform_attention_is_the_mean():
    """1 / 36 in every entry is more than any threshold of its column's maximum, but the maximum is small."""
    flat = AttentionLayer(torch.zeros(1, 36, 4), torch.zeros(1, 36, 4), 1, 0.5)
    maps = torch.rand(1, 2, 6, 6)
    refined = refine_maps(maps, [flat], threshold=0.9)
    expected = maps.mean(dim=(2, 3), keepdim=True).expand(-1, -1, 6, 6)
    torch.testing.assert_close(refined, expected, atol=1e-4, rtol=0)


def test_a_token_without_any_entry_above_the_threshold_gets_nothing():
    """Token 0 looks at 0 and 3, tokens 1 and 2 at themselves, and token 3 looks a little at everything."""
    looks = torch.tensor([[1.0, 0, 0, 1], [0, 1, 0, 0], [0, 0, 1, 0], [0, 0, 0, 0]])
    part = AttentionLayer(looks[None] * 20, torch.eye(4)[None] * 20, 1, 1.0)
    refined = refine_maps(torch.ones(1, 1, 2, 2), [part], threshold=0.6)
    torch.testing.assert_close(refined.flatten(), torch.tensor([1.0, 1, 1, 0]), atol=1e-4, rtol=0)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_goes_in_and_single_is_computed(dtype):
    """Large products, which overflow float16: q . k is up to 1e5 before it is scaled."""
    maps = torch.rand(1, 3, 6, 6)
    half = layer(6, 2, 64, sharpness=40, dtype=dtype)
    single = AttentionLayer(half.queries.float(), half.keys.float(), half.heads, half.scale)
    refined = refine_maps(maps.to(dtype), [half], threshold=0.1)
    assert refined.isfinite().all()
    torch.testing.assert_close(refined, refine_maps(maps.to(dtype).float(), [single], threshold=0.1))


def test_sharp_attention_neither_overflows_nor_underflows():
    maps = torch.rand(1, 2, 6, 6)
    sharp = [layer(6, 2, 8, sharpness=30)]
    np.testing.assert_allclose(
        refine_maps(maps, sharp, threshold=0.1).numpy(), brute_force(maps, sharp, 0.1), atol=1e-4
    )


def test_inputs_are_left_alone():
    maps, part = torch.rand(1, 2, 6, 6), layer(6, 2, 4)
    before = maps.clone(), part.queries.clone(), part.keys.clone()
    refine_maps(maps, [part], threshold=0.1)
    assert all(torch.equal(a, b) for a, b in zip(before, (maps, part.queries, part.keys), strict=True))


@pytest.mark.parametrize(
    "layers",
    [
        [],
        [layer(6, 2, 4), layer(5, 2, 4)],
        [layer(6, 2, 4, batch=2)],
        [AttentionLayer(torch.zeros(1, 12, 4), torch.zeros(1, 12, 4), 1, 1.0)],
        [AttentionLayer(torch.zeros(1, 16, 4), torch.zeros(1, 9, 4), 1, 1.0)],
    ],
)
def test_layers_that_do_not_fit_are_refused(layers):
    with pytest.raises(ValueError, match="one square grid"):
        refine_maps(torch.rand(1, 2, 4, 4), layers, threshold=0.1)
