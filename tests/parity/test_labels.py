"""From file to label map: `ovseg segment` against the published scripts, on the same weights and files."""

from __future__ import annotations

from typing import Any

import pytest

from ovseg_cli.files.images import open_image
from ovseg_cli.segmentation.options import SegmentOptions
from ovseg_cli.segmentation.segmenter import Segmenter
from ovseg_cli.store import Store
from tests.parity.file_inputs import LISTS, LabelModels, synonyms_of, write_photographs
from tests.parity.inputs import golden

AGREE = 0.995
"""Share of the pixels that have the same label."""

AGREE_GELU = 0.994
"""The same for MaskCLIP, whose code has GELU in the place of QuickGELU, which CLIP was trained with and ours has."""

CASES: dict[tuple[str, str], dict[str, Any]] = {
    ("sclip", "voc21"): {},
    ("sclip", "voc20"): {},
    ("naclip", "voc21"): {},
    ("naclip", "plain"): {"settings": "voc21", "refine": "none"},
    ("naclip", "voc20"): {"refine": "none"},
    ("naclip", "context59"): {"refine": "none"},
    ("clearclip", "voc21"): {},
    ("clearclip", "context60"): {},
    ("clearclip", "voc20"): {},
    ("proxyclip", "voc21"): {},
    ("proxyclip", "context60"): {},
    ("proxyclip", "voc20"): {},
    ("maskclip", "voc20"): {},
    ("maskclip", "context59"): {},
    ("gem", "cosine"): {"settings": None},
    ("clipsurgery", "cosine"): {"settings": None},
}
"""What `segment` is asked for besides the method and the published settings of the data set."""

ONE_WORD = ("maskclip", "gem", "clipsurgery")
"""Methods whose code has one word for each class."""


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    """The models, an empty store and the photographs."""
    folder = tmp_path_factory.mktemp("labels")
    return LabelModels(), Store.open(folder / "store", profile="sd15"), write_photographs(folder)


MAPS = [
    pytest.param(method, case, name, id=f"{method}-{case}-{name}")
    for method, case in CASES
    for name in golden(f"labels-{method}-{case}")
    if not name.endswith("-sure")
]
"""Photographs and lists of classes, such as "chelsea-60"."""


@pytest.mark.parity
@pytest.mark.parametrize(("method", "case", "name"), MAPS)
def test_labels_of_a_file(method, case, name, world, tell):
    """Every pixel of a photograph, by 5 classes or by 60."""
    models, store, files = world
    photograph, _, count = name.partition("-")
    classes = LISTS[count]
    synonyms = () if method in ONE_WORD else synonyms_of(classes)
    background = case in ("voc21", "plain", "context60")
    options = SegmentOptions(**{"settings": case} | CASES[method, case], synonyms=synonyms, background=background)
    segmenter = Segmenter(models, store, classes, method=method, options=options)
    ours = segmenter.segment(open_image(files[photograph])).ids
    same = float((ours == golden(f"labels-{method}-{case}")[name]).mean())
    tell("other labels", 1 - same)
    assert same >= (AGREE_GELU if method == "maskclip" else AGREE), f"{same:.4f} of the labels are the same"
