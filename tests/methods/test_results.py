from __future__ import annotations

from collections import Counter
from dataclasses import replace

import pytest

from ovseg_cli.evaluation.datasets import DATASETS
from ovseg_cli.methods.catalogue import METHODS
from ovseg_cli.methods.results import CODE, PUBLISHED, published_results
from ovseg_cli.profiles import get_profile


def test_every_figure_is_of_a_method_and_a_data_set_and_says_where_it_was_read():
    for result in PUBLISHED:
        assert result.method in METHODS
        assert result.dataset in {*DATASETS, "cityscapes27"}
        assert 5 < result.miou < 95
        assert result.protocol
        assert result.source
        assert ("ViT-L" in result.backbone) == result.large
    assert max(Counter((r.method, r.dataset, r.backbone) for r in PUBLISHED).values()) == 1, "one source for each"


def test_every_method_of_a_paper_has_figures_and_code():
    own = {name for name, method in METHODS.items() if method.source != "ours" and METHODS.origin(name) is None}
    assert own <= {result.method for result in PUBLISHED}
    assert own <= set(CODE) <= set(METHODS)


# As the sources print them: READMEs of SCLIP, NACLIP and CLIPer, CLIPer's table 1, Le's table 4, OVDiff's table A.4.
@pytest.mark.parametrize(
    ("method", "backbone", "row"),
    [
        ("sclip", "CLIP ViT-B/16", {"voc21": 59.63, "context59": 34.46, "cityscapes": 32.34, "ade150": 16.45}),
        ("naclip", "CLIP ViT-B/16", {"voc21": 64.07, "context59": 38.35, "cityscapes": 38.27, "coco-stuff": 25.69}),
        ("cliper", "CLIP ViT-L/14, Stable Diffusion 2.1", {"voc21": 71.6, "coco-object": 44.4, "cityscapes": 41.6}),
        ("cliper-coarse", "CLIP ViT-B/16", {"voc21": 60.7, "voc20": 84.3, "cityscapes": 35.9}),
        ("proxyclip", "CLIP ViT-L/14", {"voc21": 60.6, "ade150": 22.6}),
        ("specclust", "MetaCLIP ViT-B/16, Stable Diffusion 1.5", {"voc21": 57.1, "coco-stuff27": 39.3}),
    ],
)
def test_figures_stand_in_their_columns(method, backbone, row):
    found = {r.dataset: r.miou for r in PUBLISHED if (r.method, r.backbone) == (method, backbone)}
    assert {dataset: found[dataset] for dataset in row} == row


def test_the_size_of_clip_decides_which_figures_fit():
    small = get_profile("mini")
    large = replace(small, clip=replace(small.clip, large=True))
    assert [r.miou for r in published_results("sclip", "voc21", small)] == [59.63]
    assert [r.miou for r in published_results("sclip", "voc21", large)] == [43.5]
    assert [r.miou for r in published_results("sclip", "voc21")] == [59.63, 43.5]
    assert published_results("hybrid", "voc21") == ()
    assert published_results("gem", "voc21", small)[0].backbone == "CLIP ViT-B/16"
    assert "MetaCLIP" in published_results("gem", "voc21", get_profile("langseg"))[0].backbone
