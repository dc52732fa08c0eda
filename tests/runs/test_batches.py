from __future__ import annotations

import json
import weakref
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from ovseg_cli.errors import ImageError, UsageError
from ovseg_cli.files.image_classes import read_image_classes
from ovseg_cli.runs import artefacts, worker
from ovseg_cli.runs.journal import read_journal
from ovseg_cli.runs.plan import plan_run
from ovseg_cli.runs.segment import run_folder
from ovseg_cli.runs.worker import BATCH_ON_GPU
from tests.runs.conftest import Factory, paint, request


@pytest.fixture
def photos(tmp_path, monkeypatch):
    """Nine pictures: five of one size, three of another, and one of the first again."""
    monkeypatch.chdir(tmp_path)
    for i in range(1, 10):
        paint(tmp_path / "photos" / f"{i}.png", *((1, 2) if i in (6, 7, 8) else (i % 3,)))
    return tmp_path / "photos"


@pytest.fixture
def run(photos, store, profile):
    def go(batch=3, *, wanted=None, factory=None, out="out", **options):
        wanted = wanted or request()
        factory = factory or Factory(store, profile, wanted)
        plan = plan_run(["photos"], photos.parent / out, wanted)
        return run_folder(plan, factory, store, profile, batch=batch, **options), factory

    return go


def maps(photos, out="out"):
    found = {}
    for path in sorted((photos.parent / out / "SegmentationClass").iterdir()):
        with Image.open(path) as image:
            found[path.stem] = np.asarray(image).tolist()
    return found


def journal(photos):
    lines = (photos.parent / "out" / "predictions.jsonl").read_text().splitlines()
    return [Path(json.loads(line)["path"]).stem for line in lines]


def test_neighbours_of_one_size_go_together(run, photos):
    summary, factory = run(batch=3)
    assert factory.batches == [3, 2, 3], "the last one goes alone"
    assert (summary.done, factory.segmented) == (9, 9)


@pytest.mark.parametrize("batch", [0, -1])
def test_a_batch_has_one_picture_at_least(run, photos, batch):
    with pytest.raises(UsageError, match="batch must be at least 1"):
        run(batch=batch)


@pytest.mark.slow
@pytest.mark.parametrize("batch", [2, 3, 4, 100])
def test_label_maps_journal_and_progress_are_those_of_one_by_one(run, photos, batch):
    run(batch=1, out="alone")
    steps = []

    def tell(step):
        # Label map and journal come picture by picture, each before the next is told of.
        assert sorted(maps(photos)) == journal(photos) == [str(i) for i in range(1, step.done + 1)]
        steps.append((step.done, step.path.name))

    run(batch=batch, progress=tell)
    assert maps(photos) == maps(photos, "alone")
    assert steps == [(i, f"{i}.png") for i in range(1, 10)]


@pytest.mark.parametrize(("device", "asked", "used"), [("cpu", None, 1), ("cuda:0", None, BATCH_ON_GPU), ("cpu", 5, 5)])
def test_the_manifest_says_how_many(run, photos, store, profile, device, asked, used):
    for made in (1, 0):  # the second time no model is loaded, and what was is not forgotten
        factory = Factory(store, profile, request())
        factory.device = device
        run(batch=asked, factory=factory)
        assert factory.made == made
        assert json.loads((photos.parent / "out" / "run.json").read_text())["batch"] == used


def test_another_batch_makes_nothing_again(run):
    run(batch=3)
    summary, factory = run(batch=2)
    assert (summary.skipped, factory.made) == (9, 0)


def test_each_picture_of_a_batch_has_its_own_classes(run, photos):
    (photos.parent / "labels.txt").write_text("6: dog\n8:\n")
    wanted = request(image_classes=read_image_classes(photos.parent / "labels.txt").among(["cat", "dog"]))
    _, factory = run(wanted=wanted)
    assert factory.batches == [3, 2, 3]
    assert [np.unique(maps(photos)[name]).tolist() for name in "678"] == [[0, 2], [1, 2], [0]]


def test_no_more_pictures_are_in_memory_than_go_together(run, monkeypatch):
    seen, most = [], []

    def open_counted(path, open_image=worker.open_image):
        image = open_image(path)
        seen.append(weakref.ref(image))
        most.append(sum(one() is not None for one in seen))
        return image

    monkeypatch.setattr(worker, "open_image", open_counted)
    for batch in (1, 2, 3):
        most.clear()
        run(batch=batch, out=f"out{batch}")
        assert max(most) == batch


def test_each_picture_is_read_once_in_a_process_that_works_alone(run, photos, monkeypatch):
    (photos / "1.png").write_bytes(b"")  # the first that can be opened is not the first
    read = []

    def open_noted(path, open_image=worker.open_image):
        read.append(path.name)
        return open_image(path)

    monkeypatch.setattr(worker, "open_image", open_noted)
    summary, _ = run(batch=2)
    assert (summary.done, len(summary.failed)) == (8, 1)
    assert sorted(read) == ["1.png", *(f"{i}.png" for i in range(1, 10))], "one that failed is tried twice"


def test_pictures_with_an_explanation_go_alone(run, photos, monkeypatch):
    explained = []

    def explain(self, one):
        explained.append(one.item.image.path.name)
        return worker.Labels(self._ready().segment(one.image), [], 0.0)

    monkeypatch.setattr(worker.Worker, "explain", explain)
    _, factory = run(wanted=request(explain=True))
    assert (len(explained), factory.batches) == (9, [])


class TestFailures:
    def test_an_unreadable_picture_costs_its_neighbours_nothing(self, run, photos):
        (photos / "2.png").write_bytes(b"")
        steps = []
        summary, factory = run(batch=3, progress=steps.append)
        assert (summary.done, [failure.path for failure in summary.failed]) == (8, ["photos/2.png"])
        assert factory.batches == [3, 3], "1 goes alone, then 3, 4 and 5"
        assert [(step.path.name, step.error is None) for step in steps] == [(f"{i}.png", i != 2) for i in range(1, 10)]

    def test_of_a_batch_only_the_guilty_one_fails(self, run, photos, store, profile):
        factory = Factory(store, profile, request())
        # Together: 1, then at 2 an error; one by one: 3 (picture 1), 4 (picture 2), 5 (picture 3).
        factory.fail_at = {2: ImageError("no"), 4: ImageError("photos/2.png has too many classes")}
        summary, _ = run(batch=3, factory=factory)
        assert [(f.path, f.reason) for f in summary.failed] == [("photos/2.png", "photos/2.png has too many classes")]
        assert factory.batches == [3, 2, 3], "and the next ones go together again"
        assert sorted(maps(photos)) == list("13456789")

    def test_fail_fast_stops_at_the_first_one_in_order(self, run, photos):
        (photos / "3.png").write_bytes(b"")
        summary, _ = run(batch=5, fail_fast=True)
        assert (summary.done, len(summary.failed), summary.remaining) == (2, 1, 6)
        assert sorted(maps(photos)) == ["1", "2"]

    def test_without_a_readable_picture_no_model_is_loaded(self, run, photos):
        for path in photos.iterdir():
            path.write_bytes(b"")
        summary, factory = run()
        assert (len(summary.failed), factory.made) == (9, 0)

    def test_an_error_of_ours_ends_the_run(self, run, store, profile):
        factory = Factory(store, profile, request())
        factory.fail_at = {2: ZeroDivisionError("a bug")}
        with pytest.raises(ZeroDivisionError):
            run(factory=factory)


class TestInterruption:
    def test_ctrl_c_in_a_batch_costs_that_batch(self, run, photos, store, profile):
        factory = Factory(store, profile, request())
        factory.fail_at = {5: KeyboardInterrupt()}
        with pytest.raises(KeyboardInterrupt):
            run(factory=factory)
        assert len(read_journal(photos.parent / "out")) == 3
        assert store.last_run().status == "interrupted"
        summary, _ = run()
        assert (summary.skipped, summary.done) == (3, 6)

    def test_ctrl_c_while_a_batch_is_written_keeps_what_is_written(self, run, photos, monkeypatch):
        def stop(path, ids, labelmap, write=artefacts.write_label):
            if path.name == "2.png":
                raise KeyboardInterrupt
            write(path, ids, labelmap)

        with monkeypatch.context() as patch:
            patch.setattr(artefacts, "write_label", stop)
            with pytest.raises(KeyboardInterrupt):
                run()
        assert [entry.status for entry in read_journal(photos.parent / "out").values()] == ["done"]
        summary, _ = run()
        assert (summary.skipped, summary.done) == (1, 8)

    def test_pictures_that_are_done_stay_in_their_place(self, run, photos):
        run()
        for name in ("2.png", "3.png", "7.png"):
            (photos.parent / "out" / "SegmentationClass" / name).unlink()
        steps = []
        summary, factory = run(progress=steps.append)
        assert (summary.skipped, summary.done, factory.batches) == (6, 3, [2])
        assert [step.path.name for step in steps] == [f"{i}.png" for i in range(1, 10)]
