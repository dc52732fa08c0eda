"""Reading and writing beside the computing: what is promised of a folder holds, whatever is done meanwhile."""

from __future__ import annotations

import json
import threading
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from PIL import Image

from ovseg_cli.atomic import TEMPORARY_PREFIX
from ovseg_cli.errors import DiskFullError, ImageError
from ovseg_cli.runs import beside, jobs, worker
from ovseg_cli.runs.beside import Beside, Between
from ovseg_cli.runs.plan import plan_run
from ovseg_cli.runs.segment import run_folder
from tests.runs.conftest import Factory, paint, request


@pytest.fixture
def items(tmp_path):
    """What `Beside` sees of items of a plan."""
    paths = [paint(tmp_path / f"{i}.png", 1) for i in range(6)]
    return [SimpleNamespace(image=SimpleNamespace(path=path)) for path in paths]


class TestThreads:
    def test_pictures_are_read_before_they_are_wanted_and_no_more_than_asked_for(self, items):
        read, enough = [], threading.Event()

        def open_picture(item):
            read.append(items.index(item))
            if len(read) == 3:
                enough.set()
            return items.index(item)

        files = Beside(open_picture, items, ahead=2, behind=1)
        assert files.open(items[0]) == 0
        assert enough.wait(10), "two more are read while nobody asks"
        files.stop()
        assert sorted(read) == [0, 1, 2]

    def test_a_large_picture_is_read_when_it_is_its_turn(self, items, monkeypatch):
        monkeypatch.setattr(beside, "MOST_PIXELS", 63)  # they have 64
        readers = []
        files = Beside(lambda item: readers.append(threading.current_thread()), items, ahead=4, behind=1)
        files.open(items[0])
        files.stop()
        assert readers == [threading.main_thread()]

    def test_one_for_which_there_was_no_room_beside_others_is_read_again(self, items):
        answers = [ImageError("does not fit"), "picture"]
        answers[0].__cause__ = MemoryError()
        files = Beside(lambda _: answers.pop(0), items[:1], ahead=1, behind=1)
        assert files.open(items[0]) == "picture"
        files.stop()

    def test_what_is_written_comes_in_order_and_is_waited_for_only_when_much_is_under_way(self):
        gate = threading.Event()
        files = Beside(lambda item: item, [], ahead=1, behind=2)
        files.write(lambda: gate.wait(10) and "first")
        files.put("second")
        assert list(files.written()) == []
        gate.set()
        files.write(lambda: "third")
        assert [*files.written(), *files.written(all_of_it=True)] == ["first", "second", "third"]
        files.stop()

    def test_an_error_of_the_work_is_raised_where_its_turn_is(self):
        files = Beside(lambda item: item, [], ahead=1, behind=9)
        files.put("first")
        files.write(lambda: 1 // 0)
        rest = files.written(all_of_it=True)
        assert next(rest) == "first"
        with pytest.raises(ZeroDivisionError):
            next(rest)
        files.stop()


@pytest.fixture
def photos(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for i in range(1, 10):
        paint(tmp_path / "photos" / f"{i}.png", 1, 2 if i % 2 else 1, size=8 if i < 7 else 16)
    return tmp_path / "photos"


@pytest.fixture
def run(photos, store, profile):
    def start(out, device, factory=None, **options):
        factory = factory or Factory(store, profile, request())
        factory.device = device
        plan = plan_run(["photos"], Path(out), request(overlay=True))
        return run_folder(plan, factory, store, profile, batch=2, **options)

    return start


def left(out):
    """Every file of a folder but the record of the run, and its journal without times."""
    lines = [json.loads(line) for line in (out / "predictions.jsonl").read_text().splitlines()]
    entries = [{name: value for name, value in line.items() if name not in ("ms", "key")} for line in lines]
    files = {str(path.relative_to(out)): path.read_bytes() for path in out.rglob("*.png")}
    return entries, files


def test_a_gpus_folder_is_a_cpus(run, photos, tmp_path):
    (photos / "4.png").write_bytes(b"")
    summaries = {device: run(device, device) for device in ("cpu", "cuda")}
    assert [(s.done, [f.path for f in s.failed]) for s in summaries.values()] == [(8, ["photos/4.png"])] * 2
    assert left(tmp_path / "cpu") == left(tmp_path / "cuda")


def test_a_gpu_reads_and_writes_in_other_threads_and_each_picture_once(run, monkeypatch):
    seen = {"read": [], "written": [], "labelled": []}

    def noting(module, name, kind, real):
        def noted(*arguments, **named):
            seen[kind].append(threading.current_thread() is threading.main_thread())
            return real(*arguments, **named)

        monkeypatch.setattr(module, name, noted)

    noting(worker, "open_image", "read", worker.open_image)
    noting(jobs, "_write_labels", "written", jobs._write_labels)
    noting(worker.Worker, "_together", "labelled", worker.Worker._together)
    run("cuda", "cuda")
    assert seen["read"] == [True, *[False] * 8], "the first tells whether models are needed"
    assert seen["written"] == [False] * 9
    assert set(seen["labelled"]) == {True}
    for kind in seen.values():
        kind.clear()
    run("cpu", "cpu")
    assert {kind: set(where) for kind, where in seen.items()} == {kind: {True} for kind in seen}


@pytest.mark.parametrize("at", [1, 4, 9])
def test_an_interruption_loses_nothing_that_is_noted_and_leaves_no_half_file(at, run, store, profile, tmp_path):
    factory = Factory(store, profile, request())
    factory.fail_at = {at: KeyboardInterrupt()}
    with pytest.raises(KeyboardInterrupt):
        run("out", "cuda", factory)
    entries, files = left(tmp_path / "out")
    assert {entry["output"] for entry in entries} <= set(files)
    for path in (tmp_path / "out").rglob("*"):
        assert not path.name.startswith(TEMPORARY_PREFIX), path
    for path in files:
        Image.open(tmp_path / "out" / path).load()
    again = run("out", "cuda")
    assert (again.done + again.skipped, len(left(tmp_path / "out")[1])) == (9, 18)


def test_a_full_disk_ends_the_run_and_what_was_written_before_is_noted(run, monkeypatch, tmp_path):
    real, written = jobs._write_labels, []

    def full(order, one, *rest):
        if one.item.image.path.name == "5.png":
            raise DiskFullError("no space")
        written.append(one.item.image.path.name)
        return real(order, one, *rest)

    monkeypatch.setattr(jobs, "_write_labels", full)
    with pytest.raises(DiskFullError):
        run("out", "cuda")
    entries, _ = left(tmp_path / "out")
    assert [Path(entry["path"]).name for entry in entries] == [f"{i}.png" for i in range(1, 5)]
    assert json.loads((tmp_path / "out" / "run.json").read_text())["status"] == "interrupted"


def test_between_the_computing_each_thing_is_done_at_once():
    files = Between(lambda item: item)
    files.write(lambda: np.int64(1))
    files.put(2)
    assert list(files.written()) == [1, 2]
