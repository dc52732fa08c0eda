"""DEDOS's parts, each against its equation."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from ovseg_cli.heads.aggregation import TextAggregation
from ovseg_cli.heads.artefact import build_head
from ovseg_cli.heads.catseg import IGNORED, NOTHING, pixel_loss
from ovseg_cli.heads.dedos import Dedos
from ovseg_cli.heads.matching import at_points, draw_points, match, set_loss
from ovseg_cli.heads.plans import dedos_row, dedos_sizes, make_spec
from ovseg_cli.heads.queries import FreeQueries, Injection, KroneckerQueries, Merge, ProxyQueries, kronecker
from ovseg_cli.heads.refine import Consistency, Refinement, affinity
from ovseg_cli.heads.sizes import ClipSizes, DedosSizes
from ovseg_cli.heads.towers import see
from tests.mini import example_labels, example_names, example_scene, mini_models

UNEVEN = DedosSizes(
    queries=(3, 5),
    channels=(4, 8),
    injection_heads=4,
    decoder_layers=2,
    decoder_heads=4,
    encoder_layers=1,
    feedforward=(32, 32),
    points=32,
    taps=("a", "b"),
    tap_channels=(6, 10),
)


def clip_sizes():
    clip = mini_models().clip
    return ClipSizes(width=192, embed=128, depth=clip.depth, patch=clip.patch, input_size=64)


def small_head(**changes):
    torch.manual_seed(0)
    return Dedos(make_spec("dedos", clip_sizes(), "fast", dedos=replace(UNEVEN, **changes)))


def some_taps(batch, sizes=UNEVEN):
    return [
        [torch.randn(batch, tokens, width) for tokens, width in zip((7, 4), sizes.tap_channels, strict=True)]
        for _ in sizes.timesteps
    ]


def unit_texts(batch, names):
    return F.normalize(torch.randn(batch, names, 1, 128), dim=-1)


def test_kronecker_products_are_torchs():
    first, second = torch.randn(3, 4), torch.randn(5, 8)
    assert torch.allclose(kronecker(first, second), torch.kron(first, second))
    queries = KroneckerQueries(UNEVEN)()
    assert queries.shape == (3, 15, 32)
    assert 0.5 < queries.var() < 2


def test_injection_against_its_equations():
    """Equations 3 to 5 for one head, written out."""
    sizes = replace(UNEVEN, injection_heads=1)
    injection = Injection(sizes, [6]).eval()
    (layer,) = injection.layers
    queries, features = torch.randn(2, 15, 32), torch.randn(2, 7, 6)
    normed = layer.norm(features)
    q, k, v = queries @ layer.q.weight.T, normed @ layer.k.weight.T, normed @ layer.v.weight.T
    wanted = layer.out(torch.softmax(q @ k.mT / 32**0.5, dim=-1) @ v + queries)
    assert torch.allclose(injection(queries, [features]), wanted, atol=1e-5)


def test_tokens_that_are_masked_are_not_seen():
    layer = Injection(UNEVEN, [6]).layers[0]
    queries, features = torch.randn(1, 15, 32), torch.randn(1, 7, 6)
    seen = torch.tensor([[True, False, True, True, False, True, True]])
    assert torch.allclose(layer(queries, features, seen), layer(queries, features[:, seen[0]]), atol=1e-5)


def test_merge_against_its_equations():
    merge, queries = Merge(UNEVEN), torch.randn(3, 2, 15, 32)
    parts = torch.cat([queries.max(dim=0).values, queries.mean(dim=0), queries[0], queries[1], queries[2]], dim=-1)
    assert torch.allclose(merge(queries), merge.linear(parts))


@pytest.mark.parametrize("dropped", [True, False])
def test_gradients_reach_every_factor(dropped):
    queries = ProxyQueries(UNEVEN, UNEVEN.tap_channels).train()
    queries(2, None if dropped else some_taps(2), torch.Generator().manual_seed(0)).square().sum().backward()
    assert set(queries.source.factors) == {"base", "t200", "t100", "t50"}
    assert all(factor.grad.abs().sum() > 0 for factor in queries.source.factors.values())


def test_what_stands_for_diffusion_at_inference():
    taps = some_taps(4)
    raw = ProxyQueries(UNEVEN, UNEVEN.tap_channels).train()
    raw(4, taps, None)
    mean = raw.mean.clone()
    assert mean.abs().sum() > 0
    raw.eval()
    plain = raw(1)
    assert torch.allclose(plain, raw.merge(raw.source()[:, None]))
    raw.sizes = replace(UNEVEN, at_inference="mean")
    assert torch.allclose(raw(1), raw.merge(mean[:, None]))
    raw.sizes = replace(UNEVEN, at_inference="image")
    assert not torch.allclose(raw(4, taps)[:1], plain)


def test_refinement_starts_as_plain_clip():
    models = mini_models()
    pixels = torch.randn(1, 3, 64, 64)
    refinement, queries = Refinement(32, 192), torch.randn(1, 15, 32)
    wide = refinement.widen(queries)
    with torch.no_grad():
        plain = see(models.clip, pixels, None, hooks=(1, 5))
        refined = see(models.clip, pixels, None, hooks=(1, 5), refine=lambda _block, tokens: refinement(tokens, wide))
    assert torch.allclose(plain.patches, refined.patches, atol=1e-5)


def test_refinement_against_its_equations():
    refinement, tokens, queries = Refinement(8, 6), torch.randn(1, 1 + 5, 6), torch.randn(1, 4, 6)
    torch.nn.init.normal_(refinement.project.weight)
    patches = tokens[0, 1:]
    shares = torch.softmax(patches @ queries[0].T / 6**0.5, dim=-1)
    wanted = refinement.project(torch.cat([shares @ queries[0], patches], dim=-1))
    found = refinement(tokens, queries)
    assert torch.allclose(found[0, 1:], wanted, atol=1e-6)
    assert torch.equal(found[:, 0], tokens[:, 0])


def test_no_consistency_loss_where_queries_keep_all_of_clip():
    """Equal pictures, and projections that change no cosine: orthonormal, with no fewer queries than channels."""
    consistency = Consistency(8, 8)
    with torch.no_grad():
        for linear in (consistency.of_queries, consistency.of_patches):
            linear.weight.copy_(torch.eye(8))
            linear.bias.zero_()
    queries = torch.linalg.qr(torch.randn(12, 8)).Q[None]
    patches = torch.randn(1, 9, 8)
    assert consistency(queries, patches, patches) < 1e-10
    assert consistency(torch.randn(1, 12, 8), patches, patches) > 1e-4
    wanted = F.cosine_similarity(patches[0][:, None], patches[0][None], dim=-1)
    assert torch.allclose(affinity(patches, patches)[0], wanted, atol=1e-6)


def test_names_in_another_order_give_logits_in_that_order():
    torch.manual_seed(0)
    head = small_head().eval()
    models, order = mini_models(), torch.tensor([3, 0, 4, 1, 2])
    texts = unit_texts(1, 5)
    with torch.no_grad():
        features = head.features(models.clip, torch.randn(1, 3, 64, 64))
        plain, turned = head.probabilities(features, texts), head.probabilities(features, texts[:, order])
    assert torch.allclose(plain[:, order], turned, atol=1e-5)
    assert plain.shape == (1, 5, 32, 32)


def test_text_blocks_are_linear_attention():
    naming = TextAggregation(16, 128, 1)
    objects, names = torch.randn(2, 6, 16), torch.randn(2, 5, 16)
    (block,) = naming.blocks
    q, k, v = F.elu(block.q(objects)) + 1, F.elu(block.k(names)) + 1, block.v(names)
    weights = q @ k.mT
    mixed = weights / weights.sum(dim=-1, keepdim=True) @ v
    wanted = block.norm_1(objects + mixed)
    wanted = block.norm_2(wanted + block.mlp(wanted))
    assert torch.allclose(block(objects, names), wanted, atol=1e-4)


# --------------------------------------------------------------------------- the loss


def test_points_lie_where_labels_are():
    labels = torch.full((2, 8, 8), IGNORED)
    labels[0, 2, 3:6] = 1
    labels[1, 7, 7] = NOTHING
    places = draw_points(labels, 50, torch.Generator().manual_seed(0))
    assert set(places[0].tolist()) == {19, 20, 21}
    assert set(places[1].tolist()) == {63}


def test_points_of_a_map_of_the_labels_size_are_its_pixels():
    maps = torch.randn(1, 2, 8, 8)
    places = torch.tensor([[0, 9, 63]])
    assert torch.allclose(at_points(maps, places, (8, 8)), maps.flatten(2)[:, :, places[0]], atol=1e-5)


def test_the_best_queries_are_matched():
    truth = torch.tensor([[1.0, 1, 0, 0], [0, 0, 1, 1]])
    masks = torch.tensor([[-9.0, -9, 9, 9], [0, 0, 0, 0], [9, 9, -9, -9]])
    classes = torch.tensor([[-5.0, -5, 5], [0, 0, 0], [5, -5, -5]])
    queries, found = match(classes, masks, torch.tensor([0, 2]), truth)
    assert dict(zip(queries, found, strict=True)) == {0: 1, 2: 0}


def test_a_perfect_answer_has_next_to_no_loss():
    labels = torch.zeros(1, 8, 8, dtype=torch.long)
    labels[:, :, 4:] = 1
    masks = torch.stack([(labels[0] == 0) * 40.0 - 20, (labels[0] == 1) * 40.0 - 20, torch.full((8, 8), -20.0)])[None]
    classes = torch.tensor([[[20.0, -20], [-20, 20], [-20, -20]]])
    losses = set_loss([classes], [masks], labels, 32, torch.Generator().manual_seed(0))
    assert sum(losses.values()) < 1e-2
    wrong = set_loss([classes.flip(1)], [masks], labels, 32, torch.Generator().manual_seed(0))
    assert sum(wrong.values()) > 1


def test_pictures_that_show_no_name_are_trained_without_nan():
    head = small_head().train()
    labels = torch.full((2, 64, 64), NOTHING)
    labels[1] = IGNORED
    value, parts = head.loss(
        mini_models().clip, torch.randn(2, 3, 64, 64), unit_texts(2, 4), labels, torch.Generator().manual_seed(0)
    )
    value.backward()
    assert torch.isfinite(value)
    assert parts["mask"] == parts["dice"] == 0
    assert all(torch.isfinite(p.grad).all() for p in head.parameters() if p.grad is not None)


def test_every_part_learns_and_the_networks_below_do_not():
    models, head = mini_models(), small_head().train()
    # At the start [0 | I] keeps queries out of CLIP, and so what widens them from learning in the first step.
    torch.nn.init.normal_(head.refinement.project.weight, std=0.05)
    labels = torch.randint(0, 4, (2, 64, 64))
    value, parts = head.loss(
        models.clip,
        torch.randn(2, 3, 64, 64),
        unit_texts(2, 4),
        labels,
        torch.Generator().manual_seed(0),
        taps=some_taps(2),
        denoised=torch.randn(2, 3, 64, 64),
    )
    value.backward()
    assert set(parts) == {"class", "mask", "dice", "cost", "consistency"}
    silent = [name for name, p in head.named_parameters() if p.grad is None or not p.grad.abs().sum() > 0]
    # The last block of CLIP's dense walk has no queries, so its difference learns nothing.
    assert {name for name in silent if not name.startswith("decoder.")} <= {"visual.q.5"}
    assert all(p.grad is None for p in models.clip.model.parameters())


@pytest.mark.slow
@pytest.mark.parametrize("row", ["I", "II", "III", "IV", "V", "V-raw", "V-mean", "V-image", "V-free"])
def test_rows_of_the_table(row):
    sizes = dedos_row(replace(UNEVEN, text=2), row)
    torch.manual_seed(0)
    head = Dedos(make_spec("dedos", clip_sizes(), "fast", dedos=sizes)).train()
    assert (head.queries.injection is not None) == (row not in ("I", "V-free"))
    assert (head.refinement is not None) == (row != "I")
    assert isinstance(head.queries.source, FreeQueries if row in ("I", "II", "V-free") else KroneckerQueries)
    assert (head.consistency is not None) == (row in ("IV", "V", "V-raw", "V-mean", "V-image"))
    assert len(head.naming.blocks) == (2 if row.startswith("V") else 0)
    assert len(sizes.timesteps) == (1 if row == "II" else 3)
    value, _ = head.loss(
        mini_models().clip,
        torch.randn(1, 3, 64, 64),
        unit_texts(1, 3),
        torch.randint(0, 3, (1, 64, 64)),
        torch.Generator().manual_seed(0),
        taps=some_taps(1, sizes) if head.queries.injection is not None else None,
    )
    assert torch.isfinite(value)


@pytest.mark.slow
def test_scenes_are_learnt_by_heart():
    """CAT-Seg tells the pixels of four scenes apart after 150 steps."""
    models = mini_models()
    torch.manual_seed(0)
    head = build_head(make_spec("catseg", clip_sizes(), "fast", tuned="none")).train()
    cuts = [(example_scene(n)[64:128, 96:160], example_labels(n)[64:128, 96:160]) for n in range(4)]
    pixels = torch.stack([torch.from_numpy(image.copy()).permute(2, 0, 1).float() / 127.5 - 1 for image, _ in cuts])
    ids = torch.stack([torch.from_numpy(label.astype(np.int64)) for _, label in cuts])
    present, labels = ids.unique(return_inverse=True)
    names = [example_names()[i] for i in present]
    texts = models.clip.embed_text(names, models.profile.clip.prompts).clone()[None, :, None]
    with torch.no_grad():
        seen = see(models.clip, pixels, None, hooks=head.spec.clip.hooks)
    optimizer = torch.optim.AdamW(head.parameters(), lr=2e-3)
    for _ in range(150):
        hooks = [seen.hooks[block].permute(0, 3, 1, 2) for block in head.spec.clip.hooks]
        logits = head.compare([seen.patches, *(up(x) for up, x in zip(head.upsample, hooks, strict=True))], texts)
        loss = pixel_loss(logits, labels)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    found = F.interpolate(logits, (64, 64), mode="bilinear").argmax(dim=1)
    assert (found == labels).float().mean() > 0.95


@pytest.mark.slow
def test_no_diffusion_model_is_imported_for_segmenting():
    code = (
        "import sys, ovseg_cli.scorers.heads, ovseg_cli.heads.dedos, ovseg_cli.heads.artefact\n"
        "assert not [name for name in sys.modules if name.split('.')[0] == 'diffusers'], 'diffusers was imported'"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_the_small_sizes_fit_the_decoders():
    assert dedos_sizes("fast").width % 32 == 0
    assert dedos_sizes("published").count == 100
