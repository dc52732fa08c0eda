"""What a GPU is asked for, and when, without a GPU (see `tests.pretence`)."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch._subclasses.fake_tensor import DataDependentOutputException, DynamicOutputShapeException

from ovseg_cli import devices
from ovseg_cli.profiles import get_profile
from ovseg_cli.runs.speed_bench import NAMES, BenchSettings, _Bench
from ovseg_cli.segmentation.options import SegmentOptions
from ovseg_cli.segmentation.segmenter import Segmenter
from ovseg_cli.store import Store
from tests.pretence import GPU, Counting, PretendedModels, pretended_gpu

MINI = get_profile("mini")
SMALL, LARGE = (96, 128), (450, 600)
QUICK = {"short_side": 96, "windows": ((0, 0),)}


def noise(size, seed=0):
    return np.random.default_rng(seed).integers(0, 256, (*size, 3), np.uint8)


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    """Every class with as many prototypes as a profile makes."""
    folder = tmp_path_factory.mktemp("launches")
    with Store.open(folder / "store", profile=MINI) as opened:
        _Bench(SimpleNamespace(profile=MINI), opened, BenchSettings(), folder)._fill_store()
        yield opened


@pytest.fixture(scope="module")
def pretended():
    with pretended_gpu() as mode:
        yield PretendedModels(MINI, mode)


@pytest.fixture
def asked(store, pretended):
    """What is asked for pictures of one size that go together."""

    def of(method, size, classes, *, together=1, **options):
        options = SegmentOptions(prefilter=False, **QUICK | options)
        segmenter = Segmenter(pretended, store, NAMES[:classes], method=method, options=options)
        with Counting() as counting:
            segmenter.segment_batch([noise(size, number) for number in range(together)])
        return counting.asked

    return of


def method(name, *, slow=True, **options):
    marks = [pytest.mark.slow] if slow else []
    return pytest.param(name, options, marks=marks, id="-".join([name, *options.values()]))


@pytest.mark.parametrize(
    ("name", "options"),
    [
        method("gem", slow=False, refine="pamr"),
        *map(method, ("maskclip", "sclip", "clearclip", "naclip", "clipsurgery", "gem", "proxyclip")),
        *map(method, ("cliper-coarse", "cliper", "agggem", "hybrid")),
        method("prototype"),
        method("prototype", refine="pamr"),
    ],
)
def test_a_method_asks_for_as_much_whatever_the_picture_and_waits_once(asked, name, options):
    """Any number that is asked for on the way is an error here, and so is what the CPU would have to do."""
    few, many = asked(name, SMALL, 3, **options), asked(name, LARGE, 20, **options)
    assert many.launches.total() <= few.launches.total() + 2
    for found, (height, width), classes in ((few, SMALL, 3), (many, LARGE, 20)):
        label_map, *others = found.fetched
        assert label_map == ((8 * (2 * classes + 3) + height * width,), torch.uint8)  # and all figures
        assert others == [((1,), torch.float32)]  # whether it looks familiar, read after that
        assert found.waited == []


def test_what_is_asked_of_a_device_on_the_way_is_noticed(pretended):
    """The test above can fail."""
    there = torch.zeros(3, device=GPU)
    for wait in (lambda: int(there.sum()), lambda: bool((there > 0).any()), lambda: there.numpy()):
        with pytest.raises((DataDependentOutputException, RuntimeError)):
            wait()
    with pytest.raises(DynamicOutputShapeException):
        there.nonzero()
    with pytest.raises(RuntimeError, match="devices"):
        there + torch.zeros(3)
    with Counting() as counting:
        torch.tensor([1.0, 2.0], device=GPU)
        there.cpu()
    assert counting.asked.waited == [(2,)]
    assert counting.asked.fetched == [((3,), torch.float32)]


def test_where_little_memory_is_free_work_goes_in_more_and_smaller_steps(asked, monkeypatch):
    much = asked("gem", SMALL, 3, refine="pamr").launches
    monkeypatch.setattr(devices, "free_memory", lambda _device: 0)
    monkeypatch.setattr(devices, "LEAST", 2**16)
    little = asked("gem", SMALL, 3, refine="pamr").launches
    assert 2 * much.total() < little.total()


@pytest.mark.slow
def test_pictures_of_a_batch_share_launches(asked):
    alone, together = (asked("gem", SMALL, 3, together=count).launches.total() for count in (1, 4))
    assert together < 1.6 * alone
