from __future__ import annotations

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from ovseg_cli.backbones.unet import Noising
from ovseg_cli.methods.diffsegmenter import class_map, diffsegmenter_scores, name_class
from tests.mini import mini_models, random_pictures


def scores_of(maps, **settings):
    """Of whole maps."""
    flat = maps.flatten(1)
    return diffsegmenter_scores(maps, (flat.amin(dim=1), flat.amax(dim=1)), **settings)


def random_maps(*shape, seed=1):
    return torch.rand(*shape, generator=torch.Generator().manual_seed(seed))


def test_the_map_of_a_class_equals_a_loop_over_grids_and_tokens():
    cross = {side: random_maps(side, side, seed=side) for side in (1, 2, 4, 8)}
    cross[1] = torch.tensor([[0.7]])  # the coarsest grid is flat: it tells nothing
    attention = torch.softmax(random_maps(64, 64) * 4, dim=1)
    total = np.zeros((8, 8))
    for side, weight in ((2, 0.5), (4, 0.1), (8, 0.1)):
        wide = F.interpolate(cross[side][None, None].double(), (8, 8), mode="bilinear")[0, 0].numpy()
        total += weight * (wide - wide.min()) / (wide.max() - wide.min())
    expected = [sum(attention[i, j].item() * total.flat[j] for j in range(64)) for i in range(64)]
    np.testing.assert_allclose(class_map(cross, attention).flatten().numpy(), expected, rtol=1e-5)


@pytest.mark.parametrize("sides", [(16, 8, 4), (64, 32, 16, 8), (16, 1)])
def test_any_set_of_grids_gives_a_map_on_the_finest(sides):
    cross = {side: random_maps(side, side, seed=side) for side in sides}
    tokens = sides[0] ** 2
    assert class_map(cross, torch.full((tokens, tokens), 1 / tokens)).shape == (sides[0], sides[0])


def test_scores_are_normalised_class_by_class_against_a_constant_background():
    maps = random_maps(3, 5, 5) * torch.tensor([1.0, 30.0, 0.01])[:, None, None]
    scores = scores_of(maps, background=0.4)
    assert scores.shape == (4, 5, 5)
    assert (scores[0] == 0.4).all()
    torch.testing.assert_close(scores[1:].amax(dim=(1, 2)), torch.ones(3))
    torch.testing.assert_close(scores[1:].amin(dim=(1, 2)), torch.zeros(3))


def test_the_prompt_names_one_class():
    prompt = name_class("potted plant")
    ((start, end),) = prompt.spans
    assert prompt.text == "a photograph of potted plant"
    assert prompt.text[start:end] == "potted plant"


def test_each_class_has_a_map_of_its_own():
    backbone = mini_models().generator
    prompts, noising = [name_class("cat"), name_class("star")], Noising(timestep=100, seed=0, size=64)
    found = backbone.prompt_attention(random_pictures(1, 64, 64), prompts, noising, finest_self_attention=True)
    maps = [class_map({side: maps[0, 1] for side, maps in one.cross.items()}, one.self_attention[0]) for one in found]
    scores = scores_of(torch.stack(maps))
    assert scores.shape == (3, 16, 16)
    assert (scores[1] - scores[2]).abs().max() > 0.01
