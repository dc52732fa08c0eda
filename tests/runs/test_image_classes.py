from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest
from PIL import Image

from ovseg_cli.errors import UsageError
from ovseg_cli.files.image_classes import read_image_classes
from ovseg_cli.runs.journal import read_journal
from ovseg_cli.runs.plan import plan_run, resume_key
from ovseg_cli.runs.segment import run_folder
from ovseg_cli.segmentation.options import SegmentOptions
from tests.runs.conftest import Factory, paint, request


@pytest.fixture
def photos(tmp_path, monkeypatch):
    """Three pictures, each half cat and half dog."""
    monkeypatch.chdir(tmp_path)
    for name in ("a.png", "sub/b.png", "sub/c.png"):
        paint(tmp_path / "photos" / name, 1, 2)
    return tmp_path / "photos"


@pytest.fixture
def asked(tmp_path):
    """What is asked for with such a file."""

    def make(text, **changes):
        path = tmp_path / "labels.txt"
        path.write_text(text)
        return request(image_classes=read_image_classes(path).among(["cat", "dog"]), **changes)

    return make


@pytest.fixture
def run(photos, store, profile):
    def go(wanted, **options):
        factory = Factory(store, profile, wanted)
        plan = plan_run(["photos"], photos.parent / "out", wanted, **options)
        return run_folder(plan, factory, store, profile), factory

    return go


def labels(photos, name):
    with Image.open(photos.parent / "out" / "SegmentationClass" / name) as image:
        return np.unique(np.asarray(image)).tolist()


def test_only_the_classes_of_its_line_are_looked_for_in_a_picture(run, photos, asked):
    summary, _ = run(asked("a.png: dog\nsub/b.png:"))
    assert labels(photos, "a.png") == [0, 2]
    assert labels(photos, "sub/b.png") == [0]
    assert labels(photos, "sub/c.png") == [1, 2]
    assert (summary.done, summary.given) == (3, 2)


def test_the_journal_and_the_manifest_say_who_said_what(run, photos, asked):
    wanted = asked("a.png: dog; cat\nsub/b.png:")
    run(wanted)
    out = photos.parent / "out"
    entries = {entry.output.rpartition("/")[2]: entry for entry in read_journal(out).values()}
    assert {name: (entry.kept, entry.kept_by) for name, entry in entries.items()} == {
        "a.png": ({"cat": None, "dog": None}, "image-classes"),
        "b.png": ({}, "image-classes"),
        "c.png": (None, None),
    }
    assert json.loads((out / "run.json").read_text())["image_classes"] == {
        "path": str(photos.parent / "labels.txt"),
        "digest": wanted.image_classes.digest,
        "pictures": 2,
        "others": "all classes",
    }


def test_the_pre_filter_decides_about_the_others(run, photos, asked):
    filtered = {"prefilter": True, "options": SegmentOptions(prefilter=True)}
    run(asked("a.png: dog", **filtered))
    kept_by = {entry.output: entry.kept_by for entry in read_journal(photos.parent / "out").values()}
    assert kept_by == {
        "SegmentationClass/a.png": "image-classes",
        "SegmentationClass/sub/b.png": "prefilter",
        "SegmentationClass/sub/c.png": "prefilter",
    }
    assert json.loads((photos.parent / "out/run.json").read_text())["image_classes"]["others"] == "prefilter"


def test_without_a_file_the_manifest_says_so(run, photos):
    run(request())
    assert json.loads((photos.parent / "out/run.json").read_text())["image_classes"] == {}


class TestResume:
    def test_only_pictures_whose_classes_changed_are_segmented_again(self, run, photos, asked):
        run(asked("a.png: dog\nsub/b.png: cat"))
        summary, factory = run(asked("# comment\nsub/b: cat; dog\na: DOG\n"))
        assert (summary.done, summary.skipped, factory.segmented) == (1, 2, 1)
        assert labels(photos, "sub/b.png") == [1, 2]

    def test_a_line_that_comes_or_goes_is_a_change(self, run, asked):
        run(asked("a.png: dog"))
        summary, _ = run(asked("a.png: dog\nsub/c.png: cat; dog"))
        assert (summary.done, summary.skipped) == (1, 2)
        summary, _ = run(request())
        assert (summary.done, summary.skipped) == (2, 1)

    def test_the_key_knows_no_class_from_nothing_said(self, photos):
        wanted = request()
        said = [None, (), ("cat",), ("cat", "dog")]
        assert len({resume_key(photos / "a.png", wanted, classes) for classes in said}) == len(said)


class TestPlan:
    def test_names_what_does_not_fit(self, photos, asked):
        plan = plan_run(["photos"], photos.parent / "out", asked("z.png: cat\nsub/b.png: cat\n"))
        assert [str(item.image.key) for item in plan.unnamed] == ["a", "sub/c"]
        assert [(line.picture, line.number) for line in plan.strays] == [("z.png", 1)]

    def test_another_list_of_classes_says_what_differs_and_how_ids_stay(self, run, asked, tmp_path):
        run(asked("a.png: dog"))
        (tmp_path / "more.txt").write_text("a.png: bird; dog")
        wanted = request(classes=("bird", "dog"), image_classes=read_image_classes(tmp_path / "more.txt"))
        with pytest.raises(UsageError, match=r"of other classes \(they lack bird, and they have cat\).*Where --cl"):
            run(wanted)

    def test_a_limit_changes_no_match(self, photos, asked):
        paint(photos / "sub" / "a.png", 1)
        plan = plan_run(["photos"], photos.parent / "out", asked("b.png: cat"), limit=1)
        assert ([item.classes for item in plan.items], plan.strays) == ([None], ())

    def test_nothing_but_background_needs_the_background(self, photos, asked):
        wanted = asked("a.png: cat\nsub/c.png:")
        bare = replace(wanted, options=SegmentOptions(background=False))
        with pytest.raises(UsageError, match=r"labels\.txt, line 2: 'sub/c\.png' shows no class.*--no-background"):
            plan_run(["photos"], photos.parent / "out", bare)
        plan_run(["photos/a.png"], photos.parent / "out", bare)  # that line is not about this picture
