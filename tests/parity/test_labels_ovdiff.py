"""Label maps of photographs, from the file on, against OVDiff's `predict.py`, on narrow networks."""

from __future__ import annotations

from contextlib import nullcontext
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from ovseg_cli.files.images import open_image
from ovseg_cli.segmentation.options import SegmentOptions
from ovseg_cli.segmentation.segmenter import Segmenter
from ovseg_cli.store.records import PrototypeBlock
from tests.parity import file_inputs_ovdiff as made
from tests.parity.file_inputs import write_photographs
from tests.parity.inputs import golden

AGREE = 0.995
"""Share of the pixels that have the same label."""

pytestmark = pytest.mark.parity


HEADS = {"sd": 1, "clip": 2, "dino": 3}
"""Of the narrow transformers: their numbers change fastest in the published features, and slowest in ours."""


class Shelves:
    """A store that holds the published run's prototypes, and no texts."""

    def __init__(self, profile: Any) -> None:
        self._names = {spec.digest: spec.name for spec in profile.extractors}
        self._values = golden("labels-ovdiff")

    snapshot = staticmethod(nullcontext)

    def class_names(self):
        return list(made.CLASSES)

    def has_class(self, name):
        return name in made.CLASSES

    path = None

    def get_classes(self, names):
        return [self._info(name) for name in names]

    def _info(self, name):
        kind = "stuff" if name in made.STUFF else "thing"
        return SimpleNamespace(name=name, kind=kind, generation=0, extractors=dict.fromkeys(self._names, ""))

    def prototypes(self, names, digest):
        rows = [self._values[f"{self._names[digest]}-{name}-{role}"] for name in names for role in ("fg", "bg")]
        heads = HEADS[self._names[digest]]
        theirs = np.concatenate(rows)
        vectors = theirs.reshape(len(theirs), -1, heads).swapaxes(1, 2).reshape(theirs.shape)
        each = len(rows[0])
        return PrototypeBlock(
            classes=tuple(names),
            vectors=vectors / np.linalg.norm(vectors, axis=1, keepdims=True),
            class_index=np.repeat(np.arange(len(names)), 2 * each),
            role_is_fg=np.tile(np.repeat([True, False], each), len(names)),
            kind=("mean", *["instance"] * 3, *["part"] * 4) * (2 * len(names)),
            ids=np.arange(len(vectors)),
        )

    def cached_texts(self, _model, _texts):
        return {}

    def keep_texts(self, _model, _vectors):
        pass


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    """The models, the prototypes and the photographs."""
    models = made.LabelModels()
    return models, Shelves(models.profile), write_photographs(tmp_path_factory.mktemp("labels"))


OPTIONS = {
    "all": SegmentOptions(prefilter=False),
    "filtered": SegmentOptions(),
    "pamr": SegmentOptions(refine="pamr"),
}


@pytest.mark.parametrize("name", ["chelsea", "astronaut"])
@pytest.mark.parametrize("case", OPTIONS)
def test_labels_of_a_file(case, name, world, tell):
    """All classes, those that the pre-filter leaves, and these refined."""
    models, store, files = world
    segmenter = Segmenter(models, store, made.CLASSES, method="prototype", options=OPTIONS[case])
    ids = segmenter.segment(open_image(files[name])).ids
    same = float((ids == golden("labels-ovdiff")[f"{case}-{name}"]).mean())
    tell("other labels", 1 - same)
    assert same >= AGREE, f"{same:.4f} of the labels are the same"
