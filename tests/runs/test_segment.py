from __future__ import annotations

import itertools
import json
import logging
import shutil
import sys
from dataclasses import replace

import numpy as np
import pytest
from filelock import FileLock
from PIL import Image

from ovseg_cli.drawing.palettes import class_colour
from ovseg_cli.errors import DiskFullError, OutputError, StoreReadOnlyError, UsageError
from ovseg_cli.files.labels import read_labelmap, voc_colour
from ovseg_cli.profiles import get_profile
from ovseg_cli.runs import artefacts, ledger
from ovseg_cli.runs.journal import read_journal
from ovseg_cli.runs.manifest import read_manifest
from ovseg_cli.runs.plan import plan_run
from ovseg_cli.runs.segment import run_folder
from ovseg_cli.store.lock import LOCK_NAME
from tests.runs.conftest import Factory, paint, request


@pytest.fixture
def photos(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    paint(tmp_path / "photos" / "a.png", 1, 0)
    paint(tmp_path / "photos" / "sub" / "b.png", 2, 1, 1, 2)
    paint(tmp_path / "photos" / "sub" / "c.png", 0)
    return tmp_path / "photos"


@pytest.fixture
def run(photos, store, profile):
    """Plan and carry out a run into `out`; gives (summary, factory)."""

    def go(*, wanted=None, factory=None, inputs=("photos",), overwrite=False, limit=None, **options):
        wanted = wanted or request()
        factory = factory or Factory(store, profile, wanted)
        plan = plan_run(list(inputs), photos.parent / "out", wanted, overwrite=overwrite, limit=limit)
        return run_folder(plan, factory, store, profile, argv=("ovseg", "segment"), **options), factory

    return go


@pytest.fixture
def out(photos):
    return photos.parent / "out"


def ids(path):
    with Image.open(path) as image:
        return np.asarray(image)


def form(path):
    with Image.open(path) as image:
        return image.mode, image.size


def files(folder):
    return sorted(str(p.relative_to(folder)) for p in folder.rglob("*") if p.is_file() and p.name[0] != ".")


def test_the_folder_holds_what_tools_expect(run, out):
    summary, _ = run()
    assert files(out) == [
        "ImageSets/Segmentation/default.txt",
        "SegmentationClass/a.png",
        "SegmentationClass/sub/b.png",
        "SegmentationClass/sub/c.png",
        "labelmap.txt",
        "predictions.jsonl",
        "run.json",
    ]
    assert summary.counts() == {"done": 3, "skipped": 0, "failed": 0, "remaining": 0}
    assert (out / "ImageSets/Segmentation/default.txt").read_text() == "a\nsub/b\nsub/c\n"
    labelmap = read_labelmap(out / "labelmap.txt")
    assert [(i, n) for i, n, _ in labelmap] == [(0, "background"), (1, "cat"), (2, "dog")]


def test_label_maps_are_right_and_of_the_original_size(run, out):
    run()
    assert form(out / "SegmentationClass/sub/b.png") == ("P", (32, 8))
    assert ids(out / "SegmentationClass/sub/b.png")[0].tolist() == [2] * 8 + [1] * 16 + [2] * 8
    assert ids(out / "SegmentationClass/a.png")[0].tolist() == [1] * 8 + [0] * 8


def test_the_journal_says_what_is_in_each_picture(run, out, photos):
    run()
    entry = read_journal(out)[str(photos / "sub" / "b.png")]
    assert entry.shares == {"cat": 0.5, "dog": 0.5}
    assert entry.scores == {"cat": 0.5, "dog": 0.5}
    assert entry.size == [32, 8]
    assert entry.method == "gem"
    assert entry.margin == 0.125
    assert entry.ms > 0


def test_the_manifest_says_how_it_was_made(run, out, store, profile):
    run(wanted=request(reason="no prototypes for cat"))
    data = json.loads((out / "run.json").read_text())
    assert data["status"] == "finished"
    assert data["classes"] == [
        {"id": 1, "name": "cat", "colour": [128, 0, 0]},
        {"id": 2, "name": "dog", "colour": [0, 128, 0]},
    ]
    assert data["method"] == {"asked": "auto", "used": "gem", "reason": "no prototypes for cat"}
    assert data["profile"]["name"] == "mini"
    assert data["profile_digest"] == profile.digest
    assert data["device"] == "cpu"
    assert data["libraries"]["torch"]
    assert data["settings"]["classes"] == ["cat", "dog"]
    assert data["store"] == {"path": str(store.path), "vector_revision": store.vector_revision}
    assert data["counts"]["done"] == 3
    assert data["started_at"] <= data["finished_at"]


def test_the_summary_adds_up_over_the_pictures(run):
    summary, _ = run()
    assert summary.images_with == {"background": 2, "cat": 2, "dog": 1}
    # of all pixels: a large picture counts for more than a small one
    assert summary.shares == pytest.approx({"background": 2 / 7, "cat": 3 / 7, "dog": 2 / 7})


def test_the_second_run_loads_no_model_and_changes_no_mask(run, out):
    run()
    before = {name: (out / name).stat().st_mtime_ns for name in files(out) if "SegmentationClass" in name}
    summary, factory = run()
    assert (summary.done, summary.skipped, factory.made) == (0, 3, 0)
    assert {name: (out / name).stat().st_mtime_ns for name in before} == before
    assert summary.images_with["cat"] == 2, "the summary covers what was done before"
    assert read_manifest(out).device == "cpu", "what is known of the maps is not forgotten"


def test_only_new_pictures_are_segmented(run, out, photos):
    run()
    paint(photos / "d.png", 2)
    summary, factory = run()
    assert (summary.done, summary.skipped, factory.segmented) == (1, 3, 1)
    assert len(read_journal(out)) == 4


def test_a_run_over_some_pictures_keeps_the_others(run, out):
    run()
    run(inputs=("photos/a.png",), overwrite=True)
    assert len(read_journal(out)) == 3
    assert (out / "ImageSets/Segmentation/default.txt").read_text() == "a\nsub/b\nsub/c\n"


class TestFailures:
    def test_a_damaged_picture_does_not_stop_the_rest(self, run, out, photos, caplog):
        (photos / "a.png").write_bytes(b"\x89PNG\r\n\x1a\n damaged")
        summary, _ = run()
        assert (summary.done, len(summary.failed)) == (2, 1)
        assert "a.png" in summary.failed[0].reason
        assert [r.levelno for r in caplog.records if "a.png" in r.getMessage()] == [logging.WARNING]
        entry = read_journal(out)[str(photos / "a.png")]
        assert entry.status == "failed"
        assert entry.output is None
        assert not (out / "SegmentationClass" / "a.png").exists()

    def test_it_is_tried_again_when_mended(self, run, out, photos):
        (photos / "a.png").write_bytes(b"")
        run()
        paint(photos / "a.png", 1)
        summary, factory = run()
        assert (summary.done, summary.skipped, factory.segmented) == (1, 2, 1)

    def test_a_picture_that_was_fine_and_is_damaged_now_loses_its_label_map(self, run, out, photos):
        run()
        (photos / "a.png").write_bytes(b"")
        summary, _ = run()
        assert len(summary.failed) == 1
        assert not (out / "SegmentationClass" / "a.png").exists()
        assert "a\n" not in (out / "ImageSets/Segmentation/default.txt").read_text().splitlines(keepends=True)

    def test_fail_fast_stops(self, run, photos, store):
        (photos / "a.png").write_bytes(b"")
        summary, _ = run(fail_fast=True)
        assert (summary.done, len(summary.failed), summary.remaining) == (0, 1, 2)
        assert store.last_run().status == "interrupted"

    def test_an_error_of_ours_is_not_taken_for_a_damaged_picture(self, run, store, profile):
        factory = Factory(store, profile, request())
        factory.fail_at[1] = ZeroDivisionError("a bug")
        with pytest.raises(ZeroDivisionError):
            run(factory=factory)
        assert store.last_run().status == "interrupted"


class TestInterruption:
    @pytest.mark.parametrize("at", [1, 2, 3])
    def test_after_ctrl_c_the_next_run_goes_on(self, run, out, store, profile, at):
        factory = Factory(store, profile, request())
        factory.fail_at[at] = KeyboardInterrupt()
        with pytest.raises(KeyboardInterrupt):
            run(factory=factory)
        assert read_manifest(out).status == "interrupted"
        assert store.last_run().status == "interrupted"
        assert store.last_run().counts["done"] == at - 1
        assert len(read_journal(out)) == at - 1
        summary, factory = run()
        assert (summary.skipped, summary.done, factory.segmented) == (at - 1, 4 - at, 4 - at)
        assert read_manifest(out).status == "finished"

    def test_within_the_writing_of_a_mask_nothing_half_written_stays(self, run, out, monkeypatch):
        def cut(path, ids, labelmap, write=artefacts.write_label):
            if path.name == "b.png":
                monkeypatch.setattr(Image.Image, "save", half_of_save)
            write(path, ids, labelmap)

        def half_of_save(self, target, *args, **kwargs):
            target.write_bytes(b"\x89PNG half")
            raise KeyboardInterrupt

        monkeypatch.setattr(artefacts, "write_label", cut)
        with pytest.raises(KeyboardInterrupt):
            run()
        assert [p.name for p in (out / "SegmentationClass").rglob("*") if p.is_file()] == ["a.png"]

    def test_a_kill_between_mask_and_journal_costs_one_picture(self, run, out, photos):
        run()
        journal = out / "predictions.jsonl"
        journal.write_bytes(journal.read_bytes()[:-10])
        summary, factory = run()
        assert (summary.skipped, factory.segmented) == (2, 1)

    def test_a_damaged_label_map_is_made_anew(self, run, out):
        run()
        path = out / "SegmentationClass" / "sub" / "b.png"
        sound = path.read_bytes()
        for damaged in (sound[:-1], sound[:40] + bytes([sound[40] ^ 1]) + sound[41:], b""):
            path.write_bytes(damaged)
            summary, factory = run()
            assert (summary.skipped, summary.done, factory.segmented) == (2, 1, 1)
            assert path.read_bytes() == sound

    @pytest.mark.parametrize("overwrite", [False, True])
    def test_a_damaged_line_costs_one_picture(self, run, out, caplog, overwrite):
        run()
        journal = out / "predictions.jsonl"
        lines = journal.read_bytes().splitlines(keepends=True)
        journal.write_bytes(lines[0] + b'{"path": [], "status": {}, "key": 3}\n' + lines[2])
        summary, _ = run(overwrite=overwrite)
        assert (summary.skipped, summary.done) == ((0, 3) if overwrite else (2, 1))
        assert "is damaged (line 2: path cannot be '[]')" in caplog.text
        assert len(journal.read_bytes().splitlines()) == 3

    def test_an_overwrite_that_was_cut_is_finished_by_a_plain_run(self, run, store, profile):
        run()
        factory = Factory(store, profile, request())
        factory.fail_at[2] = KeyboardInterrupt()
        with pytest.raises(KeyboardInterrupt):
            run(factory=factory, overwrite=True)
        summary, factory = run()
        assert (summary.skipped, summary.done) == (1, 2)

    def test_a_full_disk_ends_the_run_and_the_next_goes_on(self, run, out, store, monkeypatch, caplog):
        def full(path, ids, labelmap, write=artefacts.write_label):
            if path.name == "c.png":
                raise DiskFullError("No space left on the disk")
            write(path, ids, labelmap)

        with monkeypatch.context() as patch:
            patch.setattr(artefacts, "write_label", full)
            with pytest.raises(DiskFullError):
                run()
        summary, _ = run()
        assert (summary.skipped, summary.done) == (2, 1)

    def test_an_error_while_closing_does_not_hide_the_first(self, run, monkeypatch, caplog):
        def full(*_):
            raise DiskFullError("No space left on the disk")

        def interrupted(*_):
            raise KeyboardInterrupt

        monkeypatch.setattr(artefacts, "write_label", interrupted)
        monkeypatch.setattr(ledger, "write_list", full)
        with pytest.raises(KeyboardInterrupt):
            run()
        assert "could not be recorded" in caplog.text


class TestOtherClasses:
    def test_overwrite_leaves_no_mask_with_the_old_ids(self, run, out):
        run()
        run(wanted=request("dog", "cat"), inputs=("photos/a.png",), overwrite=True)
        assert [f for f in files(out) if f.startswith("SegmentationClass")] == ["SegmentationClass/a.png"]
        assert ids(out / "SegmentationClass/a.png")[0, 0] == 1, "VOC colour 1 is now the dog"
        assert read_manifest(out).class_names == ("dog", "cat")
        assert len(read_journal(out)) == 1

    def test_a_journal_cannot_make_us_remove_files_elsewhere(self, run, out, photos):
        run()
        precious = photos.parent / "precious.png"
        precious.touch()
        journal = out / "predictions.jsonl"
        journal.write_text(journal.read_text().replace("SegmentationClass/a.png", "../precious.png"))
        run(wanted=request("dog"), overwrite=True)
        assert precious.exists()

    def test_unicode_and_spaces(self, run, out):
        run(wanted=request("crème brûlée", "猫"))
        assert read_labelmap(out / "labelmap.txt").names == ("background", "crème brûlée", "猫")

    def test_more_than_254_classes_make_16_bit_masks(self, run, out, photos):
        names = tuple(f"class {i}" for i in range(1, 301))
        run(wanted=request(*names))
        assert form(out / "SegmentationClass/a.png")[0] == "I;16"


class TestOverlays:
    def test_are_drawn_on_request(self, run, out):
        run(wanted=request(overlay=True))
        assert [f for f in files(out) if f.startswith("overlay")] == [
            "overlay/a.png",
            "overlay/sub/b.png",
            "overlay/sub/c.png",
        ]

    def test_of_masks_that_are_there_need_no_model(self, run, out):
        run()
        summary, factory = run(wanted=request(overlay=True))
        assert (summary.skipped, factory.made) == (3, 0)
        fresh = {p.name: p.read_bytes() for p in (out / "overlay").rglob("*.png")}
        run(wanted=request(overlay=True), overwrite=True)
        assert {p.name: p.read_bytes() for p in (out / "overlay").rglob("*.png")} == fresh

    def test_are_not_lost_by_a_run_without(self, run, out):
        run(wanted=request(overlay=True))
        run()
        _, factory = run(wanted=request(overlay=True))
        assert factory.made == 0


class TestStore:
    def test_remembers_the_run(self, run, store, out, photos):
        (photos / "a.png").write_bytes(b"")
        run()
        last = store.last_run()
        assert last.status == "finished"
        assert last.output == out
        assert last.classes == ("cat", "dog")
        assert last.argv == ("ovseg", "segment")
        assert last.counts == {"done": 2, "skipped": 0, "failed": 1}

    def test_is_left_alone_when_the_run_is_not_to_be_recorded(self, run, store):
        run(recorded=False)
        assert store.last_run() is None

    @pytest.mark.parametrize(
        ("kind", "says"), [(StoreReadOnlyError, "it is read-only"), (DiskFullError, "it lies on a full disk")]
    )
    def test_that_cannot_be_written_is_no_obstacle(self, run, store, monkeypatch, caplog, kind, says):
        def refuse(*_):
            raise kind("refused")

        monkeypatch.setattr(store, "note_run", refuse)
        summary, _ = run()
        assert summary.done == 3
        assert "This run is not recorded" in caplog.text
        assert says in caplog.text
        assert "--pred" in caplog.text


def interrupted(module, line):
    """A tracer that interrupts what is called next at the given line of a module, counted as they run."""
    left = line

    def trace(frame, event, _):
        nonlocal left
        if frame.f_code.co_filename != module.__file__:
            return None
        if event == "line":
            left -= 1
            if left == 0:
                raise KeyboardInterrupt
        return trace

    return trace


# Between leaving a block and closing its file, Python closes the file when it collects it.
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
@pytest.mark.slow
def test_an_interruption_at_any_line_loses_nothing(run, photos, out, store, monkeypatch):
    """A signal may come between a change and the note that it was made."""
    monkeypatch.setattr(ledger, "_ITEMS_AT_ONCE", 1)
    before = sys.gettrace()
    for line in itertools.count(1):
        shutil.rmtree(out, ignore_errors=True)
        known = len(store.runs())
        sys.settrace(interrupted(ledger, line))
        try:
            run(inputs=("photos/a.png",))
        except KeyboardInterrupt:
            pass
        else:
            break
        finally:
            sys.settrace(before)
        maps = {f"SegmentationClass/{path.relative_to(out / 'SegmentationClass')}" for path in out.rglob("*.png")}
        noted = {entry.output for entry in read_journal(out).values()}
        # The picture's map may be there before the line that notes it; it is made anew.
        assert noted <= maps, line
        for info in store.runs()[: len(store.runs()) - known]:
            assert info.counts["done"] <= 1, line
    assert line > 100


def test_two_processes_do_not_write_to_one_folder(run, out, store, profile):
    factory = Factory(store, profile, request())
    inner = {}

    class Meddler(Factory):
        def __call__(self):
            try:
                run()
            except OutputError as error:
                inner["message"] = str(error)
            return factory()

    run(factory=Meddler(store, profile, request()))
    assert "Another ovseg process" in inner["message"]


def test_a_folder_that_cannot_be_made_is_told(photos, store, profile):
    (photos.parent / "file").touch()
    wanted = request()
    plan = replace(plan_run(["photos"], photos.parent / "out", wanted), output=photos.parent / "file" / "out")
    with pytest.raises(OutputError):
        run_folder(plan, Factory(store, profile, wanted), store, profile)


def test_progress_is_told_for_every_picture(run, photos):
    (photos / "a.png").write_bytes(b"")
    steps = []
    run(progress=steps.append)
    assert [(s.done, s.total, s.path.name) for s in steps] == [(1, 3, "a.png"), (2, 3, "b.png"), (3, 3, "c.png")]
    assert [s.error is None for s in steps] == [False, True, True]


class TestAnotherRunEndedMeanwhile:
    """Between planning and running, another run has written to the folder."""

    def test_its_label_maps_stay_in_the_journal(self, run, photos, out, store, profile):
        wanted = request()
        late = plan_run(["photos/a.png"], out, wanted)
        run(inputs=("photos/sub",))
        run_folder(late, Factory(store, profile, wanted), store, profile)
        assert [entry.output for entry in read_journal(out).values()] == [
            "SegmentationClass/a.png",
            "SegmentationClass/b.png",
            "SegmentationClass/c.png",
        ]

    def test_what_it_has_done_is_not_done_again(self, run, photos, out, store, profile):
        wanted = request()
        late = plan_run(["photos"], out, wanted)
        run()
        factory = Factory(store, profile, wanted)
        assert run_folder(late, factory, store, profile).skipped == 3
        assert factory.made == 0

    def test_label_maps_of_other_classes_are_not_replaced(self, run, photos, out, store, profile):
        late = plan_run(["photos"], out, request("bird"))
        run()
        with pytest.raises(UsageError, match=r"of other classes .*they have cat, dog"):
            run_folder(late, Factory(store, profile, request("bird")), store, profile)
        assert len(read_journal(out)) == 3


class TestABusyStore:
    """Another process holds the store's write lock for longer than a run waits."""

    @pytest.fixture
    def held(self, store):
        """Takes and releases the lock as another process would."""
        lock = FileLock(store.path / LOCK_NAME)
        store.lock_timeout = 0.2
        lock.acquire()
        yield lock
        lock.release(force=True)

    def test_label_maps_do_not_wait_for_it_and_the_run_is_told(self, run, out, held, caplog):
        summary, _ = run()
        assert summary.done == 3
        assert len(files(out / "SegmentationClass")) == 3
        (record,) = [r for r in caplog.records if r.levelno >= logging.WARNING and "recorded" in r.getMessage()]
        assert "not recorded" in record.getMessage()
        assert "--pred" in record.getMessage()
        assert read_manifest(out).status == "finished"

    def test_what_could_not_be_told_is_told_later(self, run, store, photos, held):
        wanted = request()

        class Releasing(Factory):
            def __call__(self):
                held.release()
                return super().__call__()

        run(factory=Releasing(store, get_profile(store.profile_name), wanted))
        last = store.last_run()
        assert (last.status, last.counts) == ("finished", {"done": 3, "skipped": 0, "failed": 0})
        assert store.lock_timeout == 0.2


class TestColoursOfClasses:
    def test_belong_to_the_class_and_not_to_its_place(self, run, out, photos):
        seen = []
        for names in (("cat", "dog"), ("bird", "cat", "dog")):
            place = names.index("cat") + 1
            paint(photos / "a.png", place, place)
            run(wanted=request(*names, overlay=True), overwrite=True)
            with Image.open(out / "overlay" / "a.png") as image:
                seen.append(class_colour("cat") in {colour for _, colour in image.getcolors(1 << 20)})
            with Image.open(out / "SegmentationClass" / "a.png") as image:
                assert image.getpalette()[3 * place : 3 * place + 3] == list(voc_colour(place)), "label maps keep VOC's"
        assert seen == [True, True], "the legend shows it as it is"


# ------------------------------------------------------------------ pictures that the models know nothing of


class Strange(Factory):
    """Calls pictures without a class unfamiliar."""

    def __call__(self):
        loaded = super().__call__()
        segment = loaded.segmenter.segment

        def judged(image, classes=None):
            result = segment(image, classes)
            return replace(result, unfamiliar=set(result.shares) == {"background"})

        loaded.segmenter.segment = judged
        return loaded


def test_unfamiliar_pictures_are_counted_and_noted_run_after_run(run, out, store, profile):
    for segmented in (3, 0):
        factory = Strange(store, profile, request())
        summary, _ = run(factory=factory)
        assert factory.segmented == segmented
        assert summary.unfamiliar == 1
        assert {path[-5:]: entry.unfamiliar for path, entry in read_journal(out).items()} == {
            "a.png": False,
            "b.png": False,
            "c.png": True,
        }
        assert read_manifest(out).unfamiliar == 1


def test_only_pictures_of_the_run_count(run, store, profile):
    run(factory=Strange(store, profile, request()))
    summary, _ = run(factory=Strange(store, profile, request()), inputs=("photos/a.png",))
    assert summary.unfamiliar == 0


def test_models_that_know_photographs_say_nothing(photos, store, out):
    profile = get_profile("sd15")
    wanted = request()
    plan = plan_run(["photos"], out, wanted)
    summary = run_folder(plan, Factory(store, profile, wanted), store, profile)
    assert summary.unfamiliar is None
    assert read_manifest(out).unfamiliar is None
    assert {entry.unfamiliar for entry in read_journal(out).values()} == {None}
