"""Where memory does not suffice, less goes through the models at once; label maps stay what they are."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from PIL import Image

from ovseg_cli.runs.manifest import read_manifest
from ovseg_cli.runs.memory import Easing, Room
from ovseg_cli.runs.plan import plan_run
from ovseg_cli.runs.segment import run_folder
from ovseg_cli.runs.worker import MOST_CROPS, ReadySegmenter
from ovseg_cli.segmentation import task
from ovseg_cli.segmentation.options import SegmentOptions
from ovseg_cli.segmentation.recipe import make_recipe
from ovseg_cli.segmentation.segmenter import Segmenter
from tests.mini import example_scene, mini_models
from tests.runs.conftest import Factory, paint, request

ON_A_GPU = torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.")
ON_A_CPU = RuntimeError("[enforce fail at alloc_cpu.cpp:117] DefaultCPUAllocator: not enough memory: you tried ...")


class Tight(Factory):
    """A device with room for so many pictures, or crops, of more than so many pixels."""

    def __init__(self, *parts, images=100, crops=100, large=0, error=ON_A_GPU):
        super().__init__(*parts)
        self.images, self.crops, self.large, self.error = images, crops, large, error
        self.tried = []

    def __call__(self):
        loaded = super().__call__()
        segmenter, alone, together = loaded.segmenter, loaded.segmenter.segment, loaded.segmenter.segment_batch

        def check(images):
            crops = task.crops_at_once(1)
            self.tried.append((len(images), crops))
            pixels = images[0].size[0] * images[0].size[1]
            if pixels > self.large and (len(images) > self.images or crops > self.crops):
                raise self.error

        def segment(image, classes=None):
            check([image])
            return alone(image, classes)

        def segment_batch(images, classes=None):
            check(images)
            # What is stood in for calls its own `segment` for each.
            segmenter.segment = alone
            try:
                return together(images, classes)
            finally:
                segmenter.segment = segment

        segmenter.segment, segmenter.segment_batch = segment, segment_batch
        return loaded


@pytest.fixture
def photos(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for i in range(1, 10):
        paint(tmp_path / "photos" / f"{i}.png", *((1, 2) if i > 8 else (i % 3,)))
    return tmp_path / "photos"


@pytest.fixture
def run(photos, store, profile):
    def go(factory=None, out="out", **options):
        wanted = request()
        factory = factory or Factory(store, profile, wanted)
        plan = plan_run(["photos"], photos.parent / out, wanted)
        return run_folder(plan, factory, store, profile, **options)

    return go


@pytest.fixture
def tight(store, profile):
    return lambda **room: Tight(store, profile, request(), **room)


def maps(folder):
    return {path.name: path.read_bytes() for path in (folder / "SegmentationClass").iterdir()}


@pytest.mark.slow
@pytest.mark.parametrize("error", [ON_A_GPU, ON_A_CPU, MemoryError(), RuntimeError("CUBLAS_STATUS_ALLOC_FAILED")])
def test_fewer_pictures_go_together(run, photos, tight, error, caplog):
    run(out="alone")
    factory = tight(images=2, error=error)
    summary = run(factory, batch=8)
    assert (summary.done, len(summary.failed)) == (9, 0)
    assert [images for images, _ in factory.tried] == [8, 4, 2, 2, 2, 2, 1], "and the last one has another size"
    assert maps(photos.parent / "out") == maps(photos.parent / "alone")
    note = "out of memory: at most 2 pictures of 8 x 8 pixels and more go together through the models from now on"
    assert summary.notes == (note,)
    assert caplog.text.count(note) == 1
    assert read_manifest(photos.parent / "out").eased == ({"size": [8, 8], "images": 2, "crops": None},)


@pytest.mark.slow
def test_then_fewer_crops(run, photos, tight):
    factory = tight(crops=2)
    summary = run(factory, batch=4)
    assert summary.done == 9
    assert factory.tried[:7] == [(4, 16), (2, 16), (1, 16), (1, 8), (1, 4), (1, 2), (1, 2)]
    assert set(factory.tried[7:]) == {(1, 2)}, "it is not tried in vain again"
    assert json.loads((photos.parent / "out" / "run.json").read_text())["eased"][-1]["crops"] == 2


@pytest.mark.slow
def test_a_picture_for_which_there_is_no_room_at_all_fails_by_itself(run, photos, tight):
    factory = tight(crops=0, large=64)
    summary = run(factory)
    (failure,) = summary.failed
    assert failure.path == "photos/9.png"
    assert "(16 x 8 pixels) does not fit into the memory of cpu, not even one crop of it at a time" in failure.reason
    for way in ("--short-side", "--windows", "--device cpu", "fewer classes"):
        assert way in failure.reason
    assert summary.done == 8


@pytest.mark.slow
def test_smaller_pictures_are_not_concerned(run, photos, tight):
    paint(photos / "0.png", 1, 2)
    factory = tight(crops=4, large=64)
    run(factory)
    assert factory.tried[:4] == [(1, 16), (1, 8), (1, 4), (1, 16)]


def test_an_error_that_is_none_of_memory_ends_the_run(run, tight):
    with pytest.raises(RuntimeError, match="shapes"):
        run(tight(crops=0, error=RuntimeError("shapes cannot be multiplied")))


def test_other_work_that_does_not_fit_costs_its_picture(run, photos, monkeypatch):
    from ovseg_cli.runs import artefacts

    def full(path, ids, labels, write=artefacts.write_label):
        if path.name == "5.png":
            raise MemoryError
        write(path, ids, labels)

    monkeypatch.setattr(artefacts, "write_label", full)
    summary = run()
    assert [failure.reason for failure in summary.failed] == [
        "photos/5.png does not fit into memory, nor does what is made of it."
    ]


def test_the_default_is_what_crops_go_by():
    assert MOST_CROPS == task.MAX_CROPS_AT_ONCE


def test_room_is_that_of_the_largest_picture_that_was_no_larger():
    room = Room()
    room.fewer_crops((100, 100), 16)
    room.fewer_crops((10, 10), 4)
    assert [room.crops(size, 16) for size in ((9, 9), (10, 10), (50, 50), (200, 200))] == [16, 2, 2, 2]
    assert room.told() == Easing((10, 10), crops=2)
    assert room.told() is None


@pytest.mark.slow
def test_with_the_networks_label_maps_stay_within_rounding(tmp_path, store, monkeypatch):
    """The memory that a batch of crops takes is counted, and refused beyond four of them."""
    options = SegmentOptions(short_side=96, windows=((48, 24),), prefilter=False)
    recipe = make_recipe(store, mini_models().profile, ["cat", "dog"], method="maskclip", options=options)
    (tmp_path / "photos").mkdir()
    Image.fromarray(example_scene(8)).save(tmp_path / "photos" / "a.png")
    plan = plan_run([str(tmp_path / "photos")], tmp_path / "out", request("cat", "dog", method="maskclip"))
    segmenter = Segmenter.by_recipe(mini_models(), recipe)
    expected = segmenter.segment(example_scene(8)).ids
    seen, features = [], type(segmenter.scorer).features

    def tight(self, crops):
        seen.append(len(crops.images))
        if len(crops.images) > 4:
            raise ON_A_CPU
        return features(self, crops)

    monkeypatch.setattr(type(segmenter.scorer), "features", tight)
    load = lambda: ReadySegmenter(segmenter, "cpu", "float32")  # noqa: E731
    summary = run_folder(plan, load, store, mini_models().profile)
    assert summary.done == 1
    assert max(seen) > 4 >= seen[-1]
    with Image.open(tmp_path / "out" / "SegmentationClass" / "a.png") as image:
        assert (np.asarray(image) == expected).mean() > 0.999
