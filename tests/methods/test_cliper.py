from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from ovseg_cli.backbones import clip
from ovseg_cli.methods import cliper, published
from ovseg_cli.methods.published import CliperSettings
from ovseg_cli.profiles.prompts import prompt_templates
from ovseg_cli.segmentation.options import SETTINGS
from tests.mini import mini_models, random_pictures

PLAIN = {"mean": (0.5, 0.5, 0.5), "std": (0.5, 0.5, 0.5)}


def softmax(x):
    e = np.exp(x - x.max(axis=-1, keepdims=True))
    return e / e.sum(axis=-1, keepdims=True)


def layer_norm(x, norm):
    mean, var = x.mean(-1, keepdims=True), x.var(-1, keepdims=True)
    return (x - mean) / np.sqrt(var + norm.eps) * norm.weight.numpy() + norm.bias.numpy()


@pytest.fixture(scope="module")
def case():
    backbone = mini_models().clip
    pictures = random_pictures(2, 64, 96)
    with torch.inference_mode():
        trace = backbone.trace(
            pictures, blocks=range(backbone.depth), input_size=(64, 96), positions="bilinear", attention=True, **PLAIN
        )
    return backbone, trace, [trace.blocks[i] for i in range(backbone.depth)]


# --------------------------------------------------------------------------- early-layer fusion


def reference_tokens(backbone, blocks, image):
    """One image in float64: a matrix that every embedding in turn divides by its column and row sums, in place."""
    resblocks = backbone.model.visual.transformer.resblocks
    last = resblocks[-1].attn
    heads, d = last.num_heads, last.embed_dim // last.num_heads
    attention = 0
    for block in blocks[:-1]:
        q, k = (x[image].double().numpy() for x in (block.queries, block.keys))
        attention = attention + softmax(q @ k.transpose(0, 2, 1) / np.sqrt(d))
    embeddings = [
        layer_norm(b.inputs[image].double().numpy(), r.ln_1) for b, r in zip(blocks[:-1], resblocks, strict=False)
    ]
    embeddings.append(blocks[-1].inputs[image].double().numpy())
    weight, bias = (x.double().numpy() for x in (last.in_proj_weight, last.in_proj_bias))
    out_weight, out_bias = (x.double().numpy() for x in (last.out_proj.weight, last.out_proj.bias))
    tokens = []
    for embedding in embeddings:
        values = layer_norm(embedding, resblocks[-1].ln_1) @ weight[2 * heads * d :].T + bias[2 * heads * d :]
        attention /= attention.sum(axis=-2, keepdims=True)
        attention /= attention.sum(axis=-1, keepdims=True)
        used = (attention + attention.transpose(0, 2, 1)) / 2
        used = np.maximum(used - used.mean(axis=-2, keepdims=True), 0)
        used /= used.sum(axis=-1, keepdims=True)
        mixed = np.concatenate([used[h] @ values[:, h * d : (h + 1) * d] for h in range(heads)], axis=-1)
        tokens.append(mixed @ out_weight.T + out_bias)
    return tokens, used.mean(axis=0)[1:, 1:]


@pytest.mark.parametrize("summed", [False, True], ids=["from-queries-and-keys", "summed-on-the-walk"])
@pytest.mark.parametrize("cells", [1, 2**19])
def test_fusion_equals_a_reference_written_from_the_published_description(case, cells, summed, monkeypatch):
    monkeypatch.setattr(clip, "CELLS_PER_CORE", cells)
    backbone, trace, blocks = case
    fusion = cliper.fuse_early_layers(blocks, trace.attention if summed else None)
    assert len(fusion.tokens) == backbone.depth
    for image in range(2):
        tokens, attention = reference_tokens(backbone, blocks, image)
        for ours, expected in zip(fusion.tokens, tokens, strict=True):
            np.testing.assert_allclose(ours[image].numpy(), expected, atol=2e-4)
        np.testing.assert_allclose(fusion.attention[image].numpy(), attention, atol=1e-5)


def test_only_the_early_blocks_attention_counts(case):
    """The last block's own queries and keys have no influence, nor has its MLP."""
    _, _, blocks = case
    last = blocks[-1]
    parts = ("normed", "queries", "keys", "values")
    other = replace(last, **{part: 2 * getattr(last, part) for part in parts})
    expected, found = cliper.fuse_early_layers(blocks), cliper.fuse_early_layers([*blocks[:-1], other])
    assert all(torch.equal(a, b) for a, b in zip(expected.tokens, found.tokens, strict=True))


def test_the_trace_is_left_alone(case):
    _, trace, blocks = case
    before, attention = [block.values.clone() for block in blocks], trace.attention.clone()
    cliper.fuse_early_layers(blocks, trace.attention)
    assert torch.equal(trace.attention, attention)
    assert all(torch.equal(a, block.values) for a, block in zip(before, blocks, strict=True))


def test_one_image_has_the_same_tokens_alone_and_in_a_batch(case):
    backbone, _, blocks = case
    pictures = random_pictures(2, 64, 96)[1:]
    alone = backbone.trace(pictures, blocks=range(backbone.depth), input_size=(64, 96), positions="bilinear", **PLAIN)
    found = cliper.fuse_early_layers(list(alone.blocks.values()))
    together = cliper.fuse_early_layers(blocks)
    for a, b in zip(found.tokens, together.tokens, strict=True):
        torch.testing.assert_close(a[0], b[1], atol=1e-4, rtol=1e-3)
    torch.testing.assert_close(found.attention[0], together.attention[1], atol=1e-5, rtol=1e-3)


def fused_attention(attention, iterations):
    """What an embedding gets: its rows sum to 1."""
    state = cliper._EarlyAttention(attention.clone())
    for _ in range(iterations):
        fused, sums = state.step()
    return fused / sums


def test_fused_attention_has_rows_of_sum_one_and_is_never_negative():
    attention = torch.softmax(3 * torch.randn(2, 3, 9, 9, generator=torch.Generator().manual_seed(0)), dim=-1)
    for iterations in (1, 2, 12):
        fused = fused_attention(attention, iterations)
        torch.testing.assert_close(fused.sum(dim=-1), torch.ones(2, 3, 9))
        assert fused.min() >= 0


def test_another_iteration_is_another_pass_over_the_same_matrix():
    """What the published code gets by working in place; a matrix that is balanced already does not change any more."""
    attention = torch.softmax(3 * torch.randn(1, 9, 9, generator=torch.Generator().manual_seed(0)), dim=-1)
    once = attention / attention.sum(-2, keepdim=True)
    once /= once.sum(-1, keepdim=True)
    torch.testing.assert_close(fused_attention(attention, 3), fused_attention(once, 2))
    assert not torch.allclose(fused_attention(attention, 1), fused_attention(attention, 2), atol=1e-3)
    torch.testing.assert_close(fused_attention(attention, 60), fused_attention(attention, 80))


def test_it_does_not_matter_whether_attention_is_summed_or_averaged():
    attention = torch.softmax(torch.randn(1, 9, 9), dim=-1)
    torch.testing.assert_close(fused_attention(attention * 11, 4), fused_attention(attention, 4))


def test_uniform_attention_gives_no_nan():
    assert fused_attention(torch.full((1, 4, 4), 0.25), 3).isfinite().all()


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_stays_finite_and_near(case, dtype):
    """Queries that overflow float16 when they are multiplied unscaled."""
    _, _, blocks = case

    def half(block):
        return replace(
            block,
            queries=block.queries.to(dtype),
            keys=block.keys.to(dtype),
            project=lambda heads: block.project(heads.float()).to(dtype),
            values_of=lambda tokens: block.values_of(tokens).to(dtype),
        )

    found, expected = cliper.fuse_early_layers([half(b) for b in blocks]), cliper.fuse_early_layers(blocks)
    for a, b in zip(found.tokens, expected.tokens, strict=True):
        assert a.dtype == dtype
        torch.testing.assert_close(a.float(), b, atol=0.05 * float(b.abs().max()), rtol=0)
    large = torch.full((1, 5, 64), 60.0, dtype=torch.float16)
    assert cliper.early_attention([large], [large]).isfinite().all()


# --------------------------------------------------------------------------- maps


def test_texts_are_classes_words_and_the_mean_of_the_classes():
    classes, words = (F.normalize(torch.randn(n, 6), dim=-1) for n in (3, 2))
    texts = cliper.cliper_texts(classes, words)
    assert texts.shape == (6, 6)
    assert torch.equal(texts[:5], torch.cat([classes, words]))
    mean = classes.mean(dim=0)
    torch.testing.assert_close(texts[5], mean / mean.norm())
    assert cliper.cliper_texts(classes, words[:0]).shape == (4, 6)


def published_maps(cosines, attention, classes, scale, layer, threshold):
    """(K, n, T) and (n, n) in numpy: the map of one layer is changed where it lies, and the mean sees it."""
    seg = softmax(scale * cosines).transpose(0, 2, 1)[:, :classes]
    for c in range(classes):
        chosen = seg[layer, c]
        chosen[chosen < chosen.max() * threshold] = 0
    return seg.mean(axis=0) + seg[layer] @ attention


@pytest.mark.parametrize("layer", [-1, -2, 0])
def test_maps_equal_a_reference_written_from_the_published_description(layer):
    random = np.random.default_rng(0)
    cosines, attention = random.uniform(-0.2, 0.2, (4, 2, 6, 5)), random.dirichlet(np.ones(6), (2, 6))
    maps = cliper.cliper_maps(
        list(torch.from_numpy(cosines).float()),
        torch.from_numpy(attention).float(),
        classes=3,
        grid=(2, 3),
        logit_scale=20.0,
        layer=layer,
        threshold=0.6,
    )
    assert maps.shape == (2, 3, 2, 3)
    for image in range(2):
        expected = published_maps(cosines[:, image].copy(), attention[image], 3, 20.0, layer, 0.6)
        np.testing.assert_allclose(maps[image].flatten(1).numpy(), expected, atol=1e-5)


def test_four_hundred_classes_and_one_class():
    for classes in (1, 400):
        cosines = [torch.rand(1, 6, classes + 3) for _ in range(3)]
        maps = cliper.cliper_maps(
            cosines, torch.full((1, 6, 6), 1 / 6), classes=classes, grid=(1, 6), logit_scale=50, layer=-1, threshold=0.1
        )
        assert maps.shape == (1, classes, 1, 6)
        assert maps.isfinite().all()


# --------------------------------------------------------------------------- sizes and settings


@pytest.mark.parametrize(
    ("size", "patch", "expected"),
    [
        ((300, 451), 16, (336, 512)),
        ((375, 500), 16, (336, 448)),
        ((500, 375), 14, (448, 336)),
        ((333, 500), 14, (336, 504)),
        ((100, 100), 16, (336, 336)),
        ((1, 3), 16, (336, 1008)),
    ],
)
def test_input_size_keeps_the_aspect_in_whole_patches(size, patch, expected):
    assert published.CLIPER["voc21"].in_patches
    assert published.CLIPER["voc21"].working_size(*size, patch) == expected


def test_every_published_row_is_there():
    assert list(published.CLIPER) == list(published.CLIPER_LARGE) == list(SETTINGS)
    for rows, voc in ((published.CLIPER, (100, 0.7, 0.6)), (published.CLIPER_LARGE, (50, 0.5, 0.4))):
        assert (rows["voc21"].logit_scale, rows["voc21"].score_threshold, rows["voc21"].threshold) == voc
        assert all(row.whole_image and not row.windows for row in rows.values())
        assert [name for name, row in rows.items() if row.stretch] == ["voc21"]
        assert rows["voc21"].background_words == rows["voc20"].background_words
        assert [len(rows[name].background_words) for name in ("voc21", "coco-object", "context60")] == [25, 23, 1]
    assert (published.CLIPER["voc20"].score_threshold, published.CLIPER["voc20"].threshold) == (0.0, 0.001)
    assert len(set(prompt_templates("car"))) == 15
    assert all(template.count("{name}") == 1 for template in prompt_templates("car"))


# --------------------------------------------------------------------------- labels


def settings(score=0.4, background=0.3, stretch=False):
    return CliperSettings(
        short_side=336, whole_image=True, logit_scale=1, score_threshold=score, threshold=background, stretch=stretch
    )


def scores_of(maps, scores, chosen, **others):
    """Of whole maps."""
    flat = maps.flatten(1)
    return cliper.cliper_scores(maps, (flat.amin(dim=1), flat.amax(dim=1)), scores, chosen, **others)


def published_labels(maps, scores, chosen):
    """Pixel by pixel."""
    shown = []
    for each, score in zip(maps, scores, strict=True):
        weighted = each / (each.max() + 1e-5) * score
        if chosen.stretch:
            weighted = weighted - weighted.min()
            weighted = weighted / (weighted.max() + 1e-6)
        shown.append(weighted if score > chosen.score_threshold else np.zeros_like(weighted))
    labels = np.zeros(maps.shape[1:], int)
    for y, x in np.ndindex(*labels.shape):
        here = [m[y, x] for m in shown]
        if chosen.threshold > 0:
            here = [0 if value < chosen.threshold else value for value in here]
            labels[y, x] = np.argmax(here) + 1 if max(here) > 0 else 0
        else:
            labels[y, x] = np.argmax([(1 - max(here)) ** 2, *here])
    return labels


@pytest.mark.parametrize("chosen", [settings(), settings(0, 0.0001), settings(0.5, 0.4, True), settings(0.7, 0.0)])
def test_scores_give_the_published_labels(chosen):
    random = np.random.default_rng(2)
    maps, scores = random.random((4, 8, 9)), np.array([0.9, 0.45, 0.3, 0.75])
    found = scores_of(torch.from_numpy(maps), torch.from_numpy(scores), chosen)
    best, labels = found.max(dim=0)
    labels[best < chosen.threshold] = 0
    np.testing.assert_array_equal(labels.numpy(), published_labels(maps, scores, chosen))
    assert len(np.unique(labels)) > 2


def test_an_image_without_any_class_is_all_background():
    found = scores_of(torch.rand(3, 4, 4), torch.full((3,), 0.2), settings())
    assert (found == 0).all()
    found = scores_of(torch.zeros(3, 4, 4), torch.zeros(3), settings(0, 0.1, True))
    assert found.isfinite().all()
    assert (found == 0).all()


def test_without_background_all_classes_compete_where_none_scores_enough():
    """Otherwise a whole picture would become the class that was named first."""
    maps, low = torch.rand(3, 4, 4), torch.tensor([0.2, 0.3, 0.25])
    found = scores_of(maps, low, settings(), background=False)
    weighted = maps / (maps.amax(dim=(1, 2), keepdim=True) + 1e-5) * low.view(-1, 1, 1)
    assert torch.equal(found[1:].argmax(dim=0), weighted.argmax(dim=0))
    one = scores_of(maps, torch.tensor([0.2, 0.5, 0.25]), settings(), background=False)
    assert (one[[1, 3]] == 0).all()
    assert (one[2] > 0).any()


def test_rows_of_an_image_have_the_scores_of_the_whole():
    maps, scores = torch.rand(3, 8, 5), torch.tensor([0.9, 0.5, 0.6])
    chosen = settings(stretch=True)
    ends = (maps.amin(dim=(1, 2)), maps.amax(dim=(1, 2)))
    whole = cliper.cliper_scores(maps, ends, scores, chosen)
    assert torch.equal(cliper.cliper_scores(maps[:, 2:5], ends, scores, chosen), whole[:, 2:5])


def test_class_scores_are_means_of_the_maxima():
    coarse, refined = torch.rand(2, 3, 4, 5), torch.rand(2, 3, 6, 6)
    scores = cliper.class_scores(coarse, refined)
    assert scores.shape == (2, 3)
    assert float(scores[1, 2]) == pytest.approx((float(coarse[1, 2].max()) + float(refined[1, 2].max())) / 2)
