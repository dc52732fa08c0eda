"""DiffSeg: its regions, and how they come to label maps and figures."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from ovseg_cli import Store, segment
from ovseg_cli.errors import UsageError
from ovseg_cli.methods.catalogue import METHODS, word_methods
from ovseg_cli.methods.diffseg import region_maps
from ovseg_cli.methods.region_names import REGION_NAMES
from ovseg_cli.profiles import profile_of
from ovseg_cli.segmentation.options import SegmentOptions
from ovseg_cli.segmentation.recipe import make_recipe
from tests.mini import example_scene


def blocks(side: int, columns: list[int], blur: float = 0.02) -> torch.Tensor:
    """Self-attention of tokens that attend to their own block of columns, (N, N)."""
    owner = torch.tensor(columns).repeat(side)
    attention = (owner[:, None] == owner[None]).float() + blur
    return attention / attention.sum(dim=1, keepdim=True)


def published(attention: np.ndarray, threshold: float) -> np.ndarray:
    """`mask_merge` of google/diffseg be1d88c, segmentor.py, over three rounds: the merged rows, (R, N)."""

    def divergence(one, others):
        quotient = np.log(one) - np.log(others)
        return ((one * quotient).sum(-1) - (others * quotient).sum(-1)) / 2

    side = int(np.sqrt(len(attention)))
    points = min(16, side)
    step = (side - 1) // (points - 1)
    grid = (side - 1 - step * (points - 1)) // 2 + step * np.arange(points)
    anchors = attention[(grid[:, None] * side + grid).ravel()]
    near = divergence(anchors[:, None], attention[None]) < threshold
    merged = near @ attention / near.sum(axis=1, keepdims=True)
    for _ in range(2):
        taken, kept = set(), []
        for i, anchor in enumerate(merged):
            if i in taken:
                continue
            alike = np.flatnonzero(divergence(anchor, merged) < threshold)
            taken |= {i, *alike.tolist()}
            kept.append(merged[alike].mean(axis=0))
        merged = np.array(kept)
    return merged


@pytest.mark.slow
@pytest.mark.parametrize("threshold", [0.3, 1.1])
def test_regions_are_those_of_the_published_code(threshold):
    random = torch.Generator().manual_seed(0)
    attention = blocks(16, [0] * 5 + [1] * 4 + [2] * 7) * (0.2 + torch.rand(256, 256, generator=random))
    attention /= attention.sum(dim=1, keepdim=True)
    expected = published(attention.double().numpy(), threshold)
    found = region_maps(attention, divergence=threshold, most=256).flatten(1).numpy()
    assert len(found) == len(expected) > 1
    order = np.argsort(-np.bincount(expected.argmax(axis=0), minlength=len(expected)), kind="stable")
    np.testing.assert_allclose(found, expected[order], rtol=2e-4)


def test_the_largest_regions_come_first_and_are_left():
    attention = blocks(8, [0] * 2 + [1] * 5 + [2])
    maps = region_maps(attention, divergence=0.5, most=254)
    columns = [int(m.sum(dim=0).argmax()) for m in maps]
    assert [0 if c < 2 else 1 if c < 7 else 2 for c in columns] == [1, 0, 2]
    assert len(region_maps(attention, divergence=0.5, most=2)) == 2


class TestRuns:
    @pytest.fixture
    def store(self, tmp_path):
        with Store.open(tmp_path / "store", profile="mini") as opened:
            yield opened

    def test_every_pixel_has_a_region_and_none_a_name(self, store):
        found = segment(store, example_scene(8), method="diffseg")
        assert found.names == REGION_NAMES
        numbers = np.unique(found.ids)
        assert numbers.min() == 1
        assert 2 <= len(numbers) < 60
        sizes = [found.shares[REGION_NAMES[i - 1]] for i in numbers]
        assert sum(sizes) == pytest.approx(1)

    def test_classes_are_refused(self, store):
        with pytest.raises(UsageError, match="DiffSeg finds regions without names: leave out the classes"):
            segment(store, example_scene(8), ["cat"], method="diffseg")

    def test_what_would_have_no_effect_is_refused(self, store):

        profile = profile_of(store)
        with pytest.raises(UsageError, match="without names, so --logit-scale would have no effect"):
            make_recipe(store, profile, REGION_NAMES, method="diffseg", options=SegmentOptions(logit_scale=3.0))

    def test_it_is_none_of_the_methods_of_words(self):
        assert "diffseg" in METHODS
        assert "diffseg" not in word_methods()
        assert METHODS["diffseg"].finds_regions
