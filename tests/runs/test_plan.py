from __future__ import annotations

import json
import os
from dataclasses import replace

import pytest

from ovseg_cli.errors import NoInputError, UsageError
from ovseg_cli.runs.plan import check_output, plan_run, resume_key
from ovseg_cli.runs.segment import run_folder
from ovseg_cli.segmentation.options import SegmentOptions
from tests.runs.conftest import Factory, paint, request


@pytest.fixture
def photos(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    paint(tmp_path / "photos" / "a.png", 1)
    paint(tmp_path / "photos" / "sub" / "b.png", 2)
    return tmp_path / "photos"


@pytest.fixture
def segmented(photos, store, profile):
    """A folder of label maps of the pictures; returns what makes another such run."""

    def run(wanted=None, inputs=("photos",), **options):
        wanted = wanted or request()
        plan = plan_run(list(inputs), photos.parent / "out", wanted, **options)
        run_folder(plan, Factory(store, profile, wanted), store, profile)
        return plan

    run()
    return run


def actions(plan):
    return {str(item.image.key): item.action for item in plan.items}


def test_a_first_run_does_everything_and_mirrors_the_tree(photos):
    plan = plan_run(["photos"], photos.parent / "out", request(overlay=True))
    assert [(i.output, i.overlay) for i in plan.items] == [
        ("SegmentationClass/a.png", "overlay/a.png"),
        ("SegmentationClass/sub/b.png", "overlay/sub/b.png"),
    ]
    assert set(actions(plan).values()) == {"segment"}
    assert not (photos.parent / "out").exists(), "planning writes nothing"


def test_what_is_done_is_skipped(segmented, photos):
    plan = plan_run(["photos"], photos.parent / "out", request())
    assert actions(plan) == {"a": "skip", "sub/b": "skip"}


def test_a_picture_is_the_same_as_long_as_its_bytes_are(segmented, photos):
    """Copies and checkouts change the time alone; a restored file may have the old time and size, and other pixels."""
    status = (photos / "a.png").stat()
    os.utime(photos / "a.png", ns=(status.st_atime_ns, status.st_mtime_ns + 1))
    assert actions(plan_run(["photos"], photos.parent / "out", request())) == {"a": "skip", "sub/b": "skip"}
    data = bytearray((photos / "a.png").read_bytes())
    data[-1] ^= 1
    (photos / "a.png").write_bytes(data)
    os.utime(photos / "a.png", ns=(status.st_atime_ns, status.st_mtime_ns))
    assert (photos / "a.png").stat().st_size == status.st_size
    assert actions(plan_run(["photos"], photos.parent / "out", request())) == {"a": "segment", "sub/b": "skip"}


@pytest.mark.parametrize("change", ["content", "mask gone"])
def test_what_no_longer_holds_is_done_again(segmented, photos, change):
    if change == "content":
        paint(photos / "a.png", 1, 2, 1)
    else:
        (photos.parent / "out" / "SegmentationClass" / "a.png").unlink()
    plan = plan_run(["photos"], photos.parent / "out", request())
    assert actions(plan) == {"a": "segment", "sub/b": "skip"}
    assert plan.redone == (change != "mask gone")


def test_new_prototypes_make_old_label_maps_stale(segmented, photos):
    plan = plan_run(["photos"], photos.parent / "out", request(digest="e" * 64))
    assert set(actions(plan).values()) == {"segment"}
    assert plan.redone == 2


def test_a_missing_overlay_is_drawn_without_segmenting(segmented, photos):
    plan = plan_run(["photos"], photos.parent / "out", request(overlay=True))
    assert set(actions(plan).values()) == {"draw"}


def test_overwrite_does_everything_again(segmented, photos):
    plan = plan_run(["photos"], photos.parent / "out", request(), overwrite=True)
    assert set(actions(plan).values()) == {"segment"}
    assert plan.stale == ()


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"classes": ("dog", "cat")}, "other classes"),
        ({"classes": ("cat", "dog", "bird")}, "other classes"),
        ({"method": "prototype"}, "the method 'gem'"),
        ({"options": SegmentOptions(background=False)}, "with background"),
    ],
)
def test_label_maps_of_another_kind_are_not_mixed(segmented, photos, changes, words):
    wanted = replace(request(), **changes)
    with pytest.raises(UsageError, match=rf"{words}.*--overwrite.*-o"):
        plan_run(["photos"], photos.parent / "out", wanted)
    plan = plan_run(["photos/a.png"], photos.parent / "out", wanted, overwrite=True)
    assert sorted(plan.stale) == ["SegmentationClass/a.png", "SegmentationClass/sub/b.png"]


def test_limit_takes_the_first(photos):
    assert actions(plan_run(["photos"], photos.parent / "out", request(), limit=1)) == {"a": "segment"}


def test_pictures_outside_the_run_stay_in_the_journal(segmented, photos):
    plan = plan_run(["photos/a.png"], photos.parent / "out", request())
    assert [entry.output for entry in plan.kept] == ["SegmentationClass/sub/b.png"]


def test_another_picture_does_not_replace_a_label_map_unasked(segmented, photos):
    other = paint(photos.parent / "more" / "a.png", 2)
    with pytest.raises(UsageError, match=r"belongs to .*photos/a\.png.*-o.*--overwrite"):
        plan_run(["more"], photos.parent / "out", request())
    assert actions(plan_run(["more"], photos.parent / "out", request(), overwrite=True)) == {"a": "segment"}
    (photos / "a.png").unlink()
    plan = plan_run(["more"], photos.parent / "out", request())
    assert actions(plan) == {"a": "segment"}, "a picture that is gone needs no label map"
    assert [item.image.path for item in plan.items] == [other.relative_to(photos.parent)]


def test_a_picture_that_gets_a_longer_name_leaves_no_old_label_map(segmented, photos):
    paint(photos / "a.bmp", 1)
    plan = plan_run(["photos"], photos.parent / "out", request())
    assert {i.output for i in plan.items} >= {"SegmentationClass/a.bmp.png", "SegmentationClass/a.png.png"}
    assert plan.stale == ("SegmentationClass/a.png",)


class TestOutputFolder:
    def test_inside_the_input_it_is_not_read_again(self, photos, store, profile, monkeypatch):
        monkeypatch.chdir(photos)
        wanted = request()
        for _ in range(2):
            plan = plan_run(["."], photos / "ovseg-out", wanted)
            assert sorted(actions(plan)) == ["a", "sub/b"]
            run_folder(plan, Factory(store, profile, wanted), store, profile)

    @pytest.mark.parametrize(
        ("given", "output"),
        [
            ("photos", "photos"),
            ("photos/sub", "photos"),
            ("photos/a.png", "photos"),
            ("photos/*.png", "photos"),
            ("**/*.png", "."),
        ],
    )
    def test_over_the_input_is_refused(self, photos, given, output):
        with pytest.raises(UsageError, match="Choose another one with -o"):
            plan_run([given], photos.parent / output, request())

    def test_through_a_link_is_refused_too(self, photos):
        (photos.parent / "link").symlink_to(photos)
        with pytest.raises(UsageError, match="is the input folder"):
            check_output(["photos"], photos.parent / "link")

    def test_that_is_a_file_is_refused(self, photos):
        (photos.parent / "out").touch()
        with pytest.raises(UsageError, match="is a file"):
            plan_run(["photos"], photos.parent / "out", request())


def test_no_images_are_an_error(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "empty").mkdir()
    with pytest.raises(NoInputError, match="empty"):
        plan_run(["empty"], tmp_path / "out", request())


@pytest.mark.parametrize(
    "change",
    [
        None,
        {"classes": [1]},
        {"classes": "cat"},
        {"classes": [{"id": 1}]},
        {"method": "gem"},
        {"settings": [1]},
        {"libraries": None},
        {"background": "yes"},
        {"digest": 3},
        {"format": "1"},
    ],
)
def test_a_damaged_manifest_is_told_and_forgiven_to_overwrite(segmented, photos, change):
    path = photos.parent / "out" / "run.json"
    path.write_text("{" if change is None else json.dumps(json.loads(path.read_text()) | change))
    with pytest.raises(Exception, match=r"run\.json is damaged.*--overwrite"):
        plan_run(["photos"], photos.parent / "out", request())
    assert set(actions(plan_run(["photos"], photos.parent / "out", request(), overwrite=True)).values()) == {"segment"}


def test_the_key_depends_on_all_that_decides(photos):
    path = photos / "a.png"
    base = request()
    variants = [
        base,
        replace(base, classes=("dog", "cat")),
        replace(base, method="prototype"),
        replace(base, options=SegmentOptions(background=False)),
        replace(base, options=SegmentOptions(threshold=0.2)),
        replace(base, digest="f" * 64),
    ]
    assert len({resume_key(path, wanted) for wanted in variants}) == len(variants)
    assert resume_key(path, base) == resume_key(path, replace(base, overlay=True, asked="gem"))
