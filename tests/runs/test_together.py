from __future__ import annotations

import logging

import numpy as np
import pytest

from ovseg_cli.errors import ImageError, MethodError, OutputError
from ovseg_cli.files.labels import LabelMap, read_label
from ovseg_cli.runs import together as module
from ovseg_cli.runs.folder import plan_folder
from ovseg_cli.runs.journal import read_journal
from ovseg_cli.runs.manifest import read_manifest
from ovseg_cli.runs.together import run_together
from ovseg_cli.segmentation import segmenter as segmenters
from ovseg_cli.segmentation.options import SegmentOptions
from ovseg_cli.segmentation.segmenter import Segmenter
from tests.doubles import FakeModels, PaintSegmenter
from tests.mini import EXAMPLES, mini_models
from tests.runs.conftest import paint

METHODS = ("gem", "sclip", "maskclip")


class Contest:
    """Three methods on painted pictures; counts what is segmented together and alone."""

    def __init__(self, store, profile, folder, monkeypatch, methods=METHODS) -> None:
        self.store, self.profile, self.folder, self.methods = store, profile, folder, methods
        self.together: list[list[str]] = []
        self.alone: list[str] = []
        self.failing: dict[str, Exception] = {}
        outer = self

        class Counting(PaintSegmenter):
            def segment_batch(self, images, classes=None):
                outer.alone.append(self.method)
                return self._answers(images, classes)

            def _answers(self, images, classes):
                if self.method in outer.failing:
                    raise outer.failing[self.method]
                return super().segment_batch(images, classes)

        def batch_together(members, images, classes=None):
            outer.together.append([member.method for member in members])
            return [member._answers(images, classes) for member in members]

        self.kind = Counting
        monkeypatch.setattr(segmenters, "segment_batch_together", batch_together)

    def plans(self, limit=None):
        return {
            method: plan_folder(
                self.store,
                [str(self.folder / "photos")],
                self.folder / "out" / method,
                classes=("cat", "dog"),
                method=method,
                limit=limit,
            )
            for method in self.methods
        }

    def run(self, limit=None, **options):
        planned = self.plans(limit)

        def ready(methods):
            models = FakeModels(self.profile)
            return {method: self.kind.by_recipe(models, planned[method].recipe) for method in methods}

        plans = {method: entry.plan for method, entry in planned.items()}
        return run_together(plans, ready, self.store, self.profile, **options)

    def label(self, method, name):
        return read_label(
            self.folder / "out" / method / "SegmentationClass" / name, LabelMap.from_classes(["cat", "dog"])
        )


@pytest.fixture
def contest(store, profile, tmp_path, monkeypatch):
    for number in range(4):
        paint(tmp_path / "photos" / f"p{number}.png", number % 3, 1)
    return Contest(store, profile, tmp_path, monkeypatch)


def test_each_method_has_a_folder_as_segment_leaves_it(contest):
    came = contest.run()
    for method in METHODS:
        output = contest.folder / "out" / method
        assert sorted(path.name for path in (output / "SegmentationClass").iterdir()) == [f"p{n}.png" for n in range(4)]
        assert np.unique(contest.label(method, "p2.png")).tolist() == [1, 2]
        entries = read_journal(output)
        assert {entry.method for entry in entries.values()} == {method}
        assert {entry.ms for entry in entries.values()} == {None}, "nobody can say how long one of them took"
        assert read_manifest(output).status == "finished"
        assert came.summaries[method].done == 4
    assert came.broken == {}


def test_all_go_together_picture_by_picture(contest):
    contest.run()
    assert contest.together == [list(METHODS)] * 4
    assert contest.alone == []


def test_what_is_done_is_not_done_again(contest):
    contest.run(limit=2)
    contest.together.clear()
    (contest.folder / "out" / "sclip" / "SegmentationClass" / "p0.png").unlink()
    came = contest.run()
    assert contest.together == [list(METHODS)] * 2
    assert contest.alone == ["sclip"], "of the first picture only its label map is missing"
    assert {method: (s.done, s.skipped) for method, s in came.summaries.items()} == {
        "gem": (2, 2),
        "sclip": (3, 1),
        "maskclip": (2, 2),
    }
    contest.together.clear()
    contest.run()
    assert contest.together == [], "no model is loaded when nothing is left to do"


def test_pictures_of_one_size_go_together_too(contest):
    contest.run(batch=3)
    assert contest.together == [list(METHODS)] * 2
    assert np.unique(contest.label("maskclip", "p3.png")).tolist() == [0, 1]


def test_a_method_that_fails_on_pictures_leaves_the_others_alone(contest):
    contest.failing["sclip"] = ImageError("too many classes")
    came = contest.run()
    assert {method: (s.done, len(s.failed)) for method, s in came.summaries.items()} == {
        "gem": (4, 0),
        "sclip": (0, 4),
        "maskclip": (4, 0),
    }
    assert contest.together[-1] == ["gem", "maskclip"], "once it has failed, it goes by itself and the others together"
    contest.failing.clear()
    assert contest.run().summaries["sclip"].done == 4, "what failed is tried again"


@pytest.mark.parametrize("error", [RuntimeError("an illegal memory access\nmore"), MethodError("its scorer says no")])
def test_a_method_that_breaks_is_told_and_the_others_go_on(contest, error, caplog):
    contest.failing["gem"] = error
    came = contest.run()
    assert came.broken == {"gem": str(error).splitlines()[0]}
    assert [came.summaries[method].done for method in METHODS] == [0, 4, 4]
    assert read_manifest(contest.folder / "out" / "gem").status == "interrupted"


@pytest.mark.slow
def test_want_of_memory_costs_a_method_its_pictures_and_the_others_nothing(contest):
    contest.failing["gem"] = MemoryError()
    came = contest.run()
    assert came.broken == {}
    assert [(s.done, len(s.failed)) for s in came.summaries.values()] == [(0, 4), (4, 0), (4, 0)]
    assert read_manifest(contest.folder / "out" / "gem").eased[0]["crops"] == 1


def test_a_picture_that_cannot_be_read_fails_for_all_and_is_told_of_nobody_thrice(contest, caplog):
    (contest.folder / "photos" / "p1.png").write_bytes(b"\x89PNG\r\n\x1a\nbroken")
    with caplog.at_level(logging.WARNING):
        came = contest.run()
    assert [len(summary.failed) for summary in came.summaries.values()] == [1, 1, 1]
    assert [summary.done for summary in came.summaries.values()] == [3, 3, 3]
    assert "p1.png" not in caplog.text


def test_an_interruption_keeps_every_folder(contest):
    def interrupt(method, step):
        if (method, step.done) == ("sclip", 2):
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        contest.run(progress=interrupt)
    for method, done in (("gem", 2), ("sclip", 2), ("maskclip", 1)):
        output = contest.folder / "out" / method
        assert sum(entry.status == "done" for entry in read_journal(output).values()) == done
        assert read_manifest(output).status == "interrupted"
    contest.together.clear()
    came = contest.run()
    assert [summary.done for summary in came.summaries.values()] == [2, 2, 3]


def test_a_folder_in_use_is_refused(contest):
    from ovseg_cli.runs.ledger import only_writer

    with only_writer(contest.folder / "out" / "sclip"), pytest.raises(OutputError, match="Another ovseg process"):
        contest.run()


def test_label_maps_are_those_of_each_method_alone(store, tmp_path):
    methods, names = ("maskclip", "sclip", "naclip"), ("cat", "dog")
    options = SegmentOptions(short_side=64, windows=((64, 64),))
    models = mini_models()
    pictures = [str(EXAMPLES / "images" / f"scene_{number:03d}.jpg") for number in (3, 8)]
    planned = {
        method: plan_folder(store, pictures, tmp_path / method, classes=names, method=method, options=options)
        for method in methods
    }
    alone = {method: Segmenter.by_recipe(models, entry.recipe) for method, entry in planned.items()}
    run_together(
        {method: entry.plan for method, entry in planned.items()},
        lambda wanted: {method: alone[method] for method in wanted},
        store,
        models.profile,
    )
    for method in methods:
        for item in planned[method].plan.items:
            expected = alone[method].segment(module.open_image(item.image.path)).ids
            np.testing.assert_array_equal(
                read_label(tmp_path / method / item.output, LabelMap.from_classes(names)), expected
            )
