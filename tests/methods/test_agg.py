from __future__ import annotations

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from ovseg_cli.backbones.unet import Noising
from ovseg_cli.methods.agg import (
    BACKGROUND_OFFSET,
    aggregate,
    aggsd_maps,
    aggsd_scores,
    doubt_background,
    fuse_cross_attention,
    leave_rest,
    list_classes,
    min_max,
)
from ovseg_cli.methods.words import word_scores
from tests.mini import mini_models, random_pictures


def random_attention(tokens, seed=0):
    return torch.softmax(2 * torch.randn(tokens, tokens, generator=torch.Generator().manual_seed(seed)), dim=1)


def random_maps(*shape, seed=1):
    return torch.rand(*shape, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize(("exponent", "steps"), [(1.0, 1), (1.0, 3), (2.0, 1), (0.5, 2), (3.0, 0)])
@pytest.mark.parametrize("share", [False, True])
def test_spreading_equals_the_power_of_the_transition_matrix(exponent, steps, share):
    attention, maps = random_attention(36), random_maps(3, 6, 6)
    transition = attention.double().numpy().T ** exponent
    transition = transition / transition.sum(axis=1, keepdims=True)
    flat = maps.double().numpy().reshape(3, 36)
    if share:
        flat = flat / flat.sum(axis=1, keepdims=True)
    expected = np.stack([np.linalg.matrix_power(transition, steps) @ one for one in flat])
    spread = aggregate(maps, attention, exponent=exponent, steps=steps, share=share)
    np.testing.assert_allclose(spread.flatten(1).numpy(), expected, rtol=1e-4, atol=1e-7)


def test_blocks_of_rows_make_no_difference(monkeypatch):
    attention, maps = random_attention(36), random_maps(3, 6, 6)
    whole = aggregate(maps, attention, exponent=2.0, steps=2)
    monkeypatch.setattr("ovseg_cli.methods.agg.ROWS_AT_ONCE", 5)
    torch.testing.assert_close(aggregate(maps, attention, exponent=2.0, steps=2), whole)


def test_a_map_of_ones_stays_one_and_nothing_is_made_up():
    spread = aggregate(torch.cat([torch.ones(1, 5, 5), random_maps(2, 5, 5)]), random_attention(25), steps=4)
    torch.testing.assert_close(spread[0], torch.ones(5, 5))
    assert spread.min() >= 0
    assert spread.max() <= 1 + 1e-6


def test_a_class_spreads_to_what_its_tokens_attend_to_and_no_further():
    blocks = (torch.arange(64).view(8, 8) % 8 < 3).flatten().float()  # the left three columns
    same = (blocks[:, None] == blocks[None]).float()
    attention = same / same.sum(dim=1, keepdim=True)
    seed = torch.zeros(1, 8, 8)
    seed[0, 4, 1] = 1
    torch.testing.assert_close(aggregate(seed, attention).flatten(), blocks / 24)


def test_a_token_that_no_token_attends_to_has_no_score_instead_of_none():
    attention = random_attention(16)
    attention[:, 5] = 0
    spread = aggregate(torch.ones(1, 4, 4), attention / attention.sum(dim=1, keepdim=True)).flatten()
    assert spread[5] == 0
    torch.testing.assert_close(spread.sum(), torch.tensor(15.0))


def test_the_background_is_what_no_class_is_sure_of():
    scores = torch.tensor([[0.0, 0.0, 0.15, 0.0], [0.05, 0.15, 0.05, 0.9], [0.08, 0.12, 0.03, 0.1]])
    found = doubt_background(scores, offset=0.8)
    torch.testing.assert_close(found[0], torch.tensor([0.12, 0.05, 0.15, 0.0]))
    assert torch.equal(found[1:], scores[1:])
    assert found.argmax(dim=0).tolist() == [0, 1, 0, 1]


def test_the_background_wins_exactly_where_every_class_has_less_than_a_tenth():
    cosines = random_maps(20, 9, 9) * 0.3
    scores = doubt_background(word_scores(cosines, range(1, 20 + 1), logit_scale=10.0), offset=BACKGROUND_OFFSET)
    assert torch.equal(scores.argmax(dim=0) == 0, scores[1:].amax(dim=0) < 0.1)
    assert 0 < (scores.argmax(dim=0) == 0).float().mean() < 1


def test_min_max_of_each_map():
    maps = torch.cat([random_maps(2, 4, 5) * 7 - 3, torch.full((1, 4, 5), 2.0)])
    found = min_max(maps)
    torch.testing.assert_close(found[:2].amin(dim=(1, 2)), torch.zeros(2))
    torch.testing.assert_close(found[:2].amax(dim=(1, 2)), torch.ones(2))
    assert (found[2] == 0).all()


# --------------------------------------------------------------------------- AggSD


@pytest.mark.parametrize(
    ("names", "text"),
    [
        (["cat"], "A photo of cat"),
        (["cat", "potted plant"], "A photo of cat, and potted plant"),
        (["dog", "hot dog", "dog"], "A photo of dog, hot dog, and dog"),
    ],
)
def test_the_prompt_lists_the_classes_and_knows_where_they_stand(names, text):
    prompt = list_classes(names)
    assert prompt.text == text
    assert [text[start:end] for start, end in prompt.spans] == names
    assert len(set(prompt.spans)) == len(names)


def test_coarse_layers_weigh_more():
    cross = {side: random_maps(3, side, side, seed=side) for side in (2, 4, 8)}
    layers = {2: 1, 4: 3, 8: 2}
    expected, total = torch.zeros(3, 8, 8), 0.0
    for side, count in layers.items():
        for _ in range(count):
            wide = F.interpolate(cross[side][None], (8, 8), mode="bicubic", antialias=True)[0]
            expected += wide * 8 / side
            total += 8 / side
    torch.testing.assert_close(fuse_cross_attention(cross, layers), expected / total)


def test_with_a_background_maps_are_normalised_and_without_one_it_never_wins():
    cross, layers, attention = {4: random_maps(3, 4, 4)}, {4: 2}, random_attention(16)
    found = aggsd_scores(aggsd_maps(cross, layers, attention))
    torch.testing.assert_close(found.amax(dim=(1, 2)), torch.ones(3))
    raw = aggsd_scores(aggsd_maps(cross, layers, attention, background=False), background=False)
    assert (raw[0] == 0).all()
    torch.testing.assert_close(min_max(raw[1:]), found[1:])
    torch.testing.assert_close(raw[1:], aggregate(cross[4], attention, share=True)[1:])


def test_what_the_classes_leave_is_the_background():
    """Seven tokens: the start, two of one class, one of another, three of padding."""
    attention = torch.softmax(torch.randn(7, 6, 6, generator=torch.Generator().manual_seed(0)), dim=0)
    maps = torch.stack([attention[0], attention[1:3].mean(dim=0), attention[3]])
    rest = leave_rest({6: maps}, [2, 1])[6]
    torch.testing.assert_close(rest[0], attention[0] + attention[4:].sum(dim=0))
    torch.testing.assert_close(rest[1:], maps[1:])


def test_the_maps_of_a_picture_are_on_the_latent_grid():
    backbone = mini_models().generator
    noising = Noising(timestep=101, seed=0, size=64)
    found = next(backbone.prompt_attention(random_pictures(1, 64, 64), [list_classes(["cat", "star"])], noising))
    maps = aggsd_maps({side: maps[0] for side, maps in found.cross.items()}, found.layers, found.self_attention[0])
    assert maps.shape == (3, 16, 16)
    assert min_max(maps).std(dim=(1, 2)).min() > 0.01
