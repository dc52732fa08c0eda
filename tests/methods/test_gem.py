from __future__ import annotations

import numpy as np
import pytest
import torch

from ovseg_cli.methods.gem import adaptive_temperature, gem_tokens, self_self_attention
from tests.mini import mini_models, random_pictures

PLAIN = {"mean": (0.5, 0.5, 0.5), "std": (0.5, 0.5, 0.5)}


def softmax(x):
    e = np.exp(x - x.max())
    return e / e.sum()


def unit(x):
    return x / np.linalg.norm(x)


def reference_head(features, values, temperature, iterations=1):
    """One head, token by token: norm, softmax, mix; then norm, softmax, mix of the values."""
    xs = features
    for _ in range(iterations):
        xs = np.stack([unit(x) for x in xs])
        xs = np.stack([sum(w * y for w, y in zip(softmax(temperature * (xs @ x)), xs, strict=True)) for x in xs])
    xs = np.stack([unit(x) for x in xs])
    return np.stack([sum(w * v for w, v in zip(softmax(temperature * (xs @ x)), values, strict=True)) for x in xs])


@pytest.mark.parametrize("iterations", [0, 1, 2])
def test_self_self_attention_equals_the_token_by_token_reference(iterations):
    random = np.random.default_rng(0)
    features, values = random.normal(size=(2, 2, 3, 7, 4))
    temperature = np.array([3.0, 8.0])
    ours = self_self_attention(
        torch.from_numpy(features),
        torch.from_numpy(values),
        torch.from_numpy(temperature).view(2, 1, 1, 1),
        iterations=iterations,
    )
    for b in range(2):
        for h in range(3):
            expected = reference_head(features[b, h], values[b, h], temperature[b], iterations)
            np.testing.assert_allclose(ours[b, h].numpy(), expected, atol=1e-10)


@pytest.fixture(scope="module")
def case():
    backbone = mini_models().clip
    pictures = random_pictures(2, 64, 64)
    depth = backbone.depth
    blocks = backbone.trace(pictures, blocks=range(depth), input_size=64, **PLAIN).blocks
    return backbone, [blocks[i] for i in range(depth)]


def layer_norm(x, norm):
    mean, var = x.mean(-1, keepdims=True), x.var(-1, keepdims=True)
    return (x - mean) / np.sqrt(var + norm.eps) * norm.weight.numpy() + norm.bias.numpy()


@pytest.mark.slow
@pytest.mark.parametrize(("last", "fixed"), [(1, None), (3, None), (2, 15.0)])
def test_the_gem_stream_equals_a_reference_written_from_the_published_description(case, last, fixed):
    backbone, blocks = case
    resblocks = backbone.model.visual.transformer.resblocks
    ours = gem_tokens(blocks[-last:], temperature=fixed).numpy()
    for image in range(2):
        stream = blocks[-last].inputs[image].double().numpy()
        for step, block in zip(blocks[-last:], list(resblocks)[-last:], strict=True):
            attention = block.attn
            width, heads = attention.embed_dim, attention.num_heads
            d = width // heads
            normed = layer_norm(step.inputs[image].double().numpy(), block.ln_1)
            temperature = fixed or np.mean([np.linalg.norm(token) for token in normed]) / np.sqrt(d)
            qkv = normed @ attention.in_proj_weight.double().numpy().T + attention.in_proj_bias.double().numpy()
            q, k, v = np.split(qkv, 3, axis=-1)
            outputs = []
            for head in range(heads):
                part = slice(head * d, (head + 1) * d)
                three = [reference_head(s[:, part], v[:, part], temperature) for s in (v, k, q)]
                outputs.append(sum(three) / 3)
            weight, bias = attention.out_proj.weight.double().numpy(), attention.out_proj.bias.double().numpy()
            stream = stream + np.concatenate(outputs, axis=-1) @ weight.T + bias
        np.testing.assert_allclose(ours[image], stream, atol=2e-3, rtol=1e-3)


def test_temperature_is_per_image_and_block(case):
    _, blocks = case
    block = blocks[-1]
    ours = adaptive_temperature(block)
    assert ours.shape == (2, 1, 1, 1)
    for image in range(2):
        norms = [float(token.norm()) for token in block.normed[image]]
        assert float(ours[image]) == pytest.approx(sum(norms) / len(norms) / block.values.shape[-1] ** 0.5, rel=1e-5)


def test_one_image_has_the_same_tokens_alone_and_in_a_batch(case):
    backbone, blocks = case
    alone = backbone.trace(random_pictures(2, 64, 64)[1:], blocks=(-2, -1), input_size=64, **PLAIN).blocks
    tokens = gem_tokens([alone[i] for i in sorted(alone)])
    torch.testing.assert_close(tokens[0], gem_tokens(blocks[-2:])[1], atol=1e-4, rtol=1e-3)
