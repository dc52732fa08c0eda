"""A run at a URL leaves what one on a disk leaves, whatever becomes of it on the way."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import fsspec
import pytest

from ovseg_cli.errors import OutputError, UsageError
from ovseg_cli.runs import journal, lease
from ovseg_cli.runs.engines.options import EngineOptions
from ovseg_cli.runs.folder import crew_for
from ovseg_cli.runs.jobs import FAR_AWAY
from ovseg_cli.runs.journal import Entry, Journal, is_intact, read_journal
from ovseg_cli.runs.ledger import only_writer
from ovseg_cli.runs.manifest import read_manifest
from ovseg_cli.runs.plan import plan_run
from ovseg_cli.runs.relabel import relabel_folder
from ovseg_cli.runs.segment import run_folder
from ovseg_cli.urls import place
from tests.painting import LoadPainter
from tests.runs.conftest import Factory, nine_pictures, paint, request
from tests.shelf import Shelf

CLASSES = ("cat", "dog")
TIMES = {"run.json", "predictions.jsonl", ".ovseg.lock"}


@pytest.fixture(autouse=True)
def clear(monkeypatch):
    Shelf.clear()
    memory = fsspec.filesystem("memory")
    memory.store.clear()
    memory.pseudo_dirs[:] = [""]
    monkeypatch.setattr(lease, "PATIENCE", 0.3)


@pytest.fixture
def photos(tmp_path, monkeypatch):
    """Nine pictures, of which the fourth is damaged."""
    monkeypatch.chdir(tmp_path)
    nine_pictures(tmp_path)
    (tmp_path / "photos" / "4.png").write_bytes(b"\x89PNG\r\n\x1a\n damaged")
    return tmp_path / "photos"


@pytest.fixture
def run(photos, store, profile):
    def go(source="photos", out="out", *, workers=None, wanted=None, **more):
        wanted = wanted or request(*CLASSES, overlay=True)
        planned = {name: more.pop(name) for name in ("overwrite", "retry_failed") if name in more}
        plan = plan_run([str(source)], place(str(out)), wanted, **planned)
        load = LoadPainter(CLASSES, photos.parent / "marks")
        crew = None if workers is None else crew_for(EngineOptions(workers=workers), load, store, "cpu")
        factory = more.pop("factory", None) or Factory(store, profile, wanted)
        return run_folder(plan, factory if crew is None else lambda: load("cpu"), store, profile, crew=crew, **more)

    return go


def on_memory(folder):
    for path in folder.rglob("*.png"):
        (place("memory://box/photos") / path.relative_to(folder).as_posix()).put_bytes(path.read_bytes())
    return "memory://box/photos"


def contents(given):
    """All files but those that tell the time."""
    given = place(str(given))
    if isinstance(given, Path):
        found = {path.relative_to(given).as_posix(): path.read_bytes() for path in given.rglob("*") if path.is_file()}
    else:
        root = given.listed()
        found = {str(path.relative_to(root)): path.read_bytes() for path in root.files()}
    return {name: content for name, content in found.items() if name not in TIMES}


def lines(given, *, without=("ms",)):
    text = (place(str(given)) / "predictions.jsonl").read_bytes().decode()
    return [{name: v for name, v in json.loads(line).items() if name not in without} for line in text.splitlines()]


def manifest(given, *, without=("id", "started_at", "finished_at")):
    found = json.loads((place(str(given)) / "run.json").read_bytes())
    return {name: value for name, value in found.items() if name not in without}


class TestTheSameBytes:
    @pytest.mark.parametrize("batch", [1, 3])
    def test_at_a_url_as_on_a_disk(self, run, photos, batch):
        wanted = request(*CLASSES, overlay=True, probabilities=8)
        here = run(out="out", batch=batch, wanted=wanted)
        there = run(on_memory(photos), "memory://box/out", batch=batch, wanted=wanted)
        assert contents("memory://box/out") == contents("out")
        assert len(contents("out")) == 3 * 8 + 2
        other = ("ms", "path", "key", "error")  # the picture's name and stamp are other ones
        assert lines("memory://box/out", without=other) == lines("out", without=other)
        assert manifest("memory://box/out") == {**manifest("out"), "inputs": ["memory://box/photos"]}
        assert there.counts() == here.counts()
        assert there.shares == here.shares

    def test_of_pictures_here_also_the_journal(self, run):
        run(out="out")
        run(out="memory://box/out")
        assert lines("memory://box/out") == lines("out")

    def test_of_a_file_url_all(self, run, photos):
        run(photos, out="out")
        run(photos.as_uri(), (photos.parent / "other").as_uri())
        assert contents(photos.parent / "other") == contents("out")
        assert lines(photos.parent / "other") == lines("out")

    @pytest.mark.slow
    def test_of_several_processes(self, run, photos):
        run(out="out")
        summary = run(f"shelf://{photos}", f"shelf://{photos.parent}/far", workers=2)
        assert summary.counts() == {"done": 8, "skipped": 0, "failed": 1, "remaining": 0}
        assert contents(photos.parent / "far") == contents("out")
        other = ("ms", "path", "key", "error")
        assert lines(photos.parent / "far", without=other) == lines("out", without=other)

    def test_relabelled(self, run, photos):
        run(out="out", wanted=request(*CLASSES, probabilities=16))
        run(on_memory(photos), "memory://box/out", wanted=request(*CLASSES, probabilities=16))
        relabel_folder(Path("out"), Path("again"), threshold=0.6)
        relabel_folder(place("memory://box/out"), place("memory://box/again"), threshold=0.6)
        assert contents("memory://box/again") == contents("again")
        again = relabel_folder(place("memory://box/out"), place("memory://box/again"), threshold=0.6)
        assert (again.done, again.skipped) == (0, 8)
        with pytest.raises(UsageError, match="is, or holds, the run"):
            relabel_folder(place("memory://box/out"), place("memory://box"), threshold=0.6)


class TestGoingOn:
    @pytest.fixture
    def far(self, photos):
        return f"shelf://{photos}", f"shelf://{photos.parent}/far"

    def test_what_is_done_is_not_done_again(self, run, far, photos):
        run(*far)
        paint(photos / "2.png", 1, 1, 1)
        paint(photos / "4.png", 1)
        (photos.parent / "far" / "SegmentationClass" / "6.png").unlink()
        (photos.parent / "far" / "SegmentationClass" / "7.png").write_bytes(b"of another size")
        summary = run(*far)
        assert (summary.done, summary.skipped) == (4, 5)
        assert run(*far).skipped == 9

    def test_failed_ones_alone(self, run, far, photos):
        run(*far)
        paint(photos / "4.png", 1)
        summary = run(*far, retry_failed=True)
        assert (summary.done, summary.skipped, summary.failed) == (1, 0, [])
        assert len(read_journal(place(far[1]))) == 9

    def test_a_drawing_that_is_missing_is_drawn(self, run, far):
        run(*far, wanted=request(*CLASSES))
        summary = run(*far)
        assert (summary.done, summary.skipped) == (0, 8)
        assert len([name for name in contents(far[1]) if name.startswith("overlay/")]) == 8

    def test_other_classes_are_refused_and_overwritten(self, run, far):
        run(*far)
        with pytest.raises(UsageError, match="holds label maps of other classes"):
            run(*far, wanted=request("cat"))
        assert run(*far, wanted=request("cat"), overwrite=True).done == 8
        assert not [name for name in contents(far[1]) if name.startswith("overlay/")], "they show what is no more"

    def test_a_picture_costs_a_read_and_its_files(self, run, far, photos):
        for i in range(10, 20):
            paint(photos / f"{i}.png", 1)
        Shelf.clear()
        run(*far)
        first = Shelf.asked.copy()
        for i in range(20, 30):
            paint(photos / f"{i}.png", 1)
        Shelf.clear()
        assert run(*far).done == 10
        # One read more of the journal; label maps and overlays of one picture are put together.
        per_picture = {"get": 1, "put": 2}
        assert {what: first[what] // 19 for what in first if first[what] >= 19} == per_picture
        assert Shelf.asked["get"] <= 10 + 8
        assert Shelf.asked["put"] <= 20 + 16
        assert Shelf.asked["list"] + Shelf.asked["info"] + Shelf.asked["exists"] < 20

    def test_an_interruption_loses_nothing(self, run, far, store, profile):
        factory = Factory(store, profile, request(*CLASSES, overlay=True))
        factory.fail_at[5] = KeyboardInterrupt()
        with pytest.raises(KeyboardInterrupt):
            run(*far, factory=factory)
        assert read_manifest(place(far[1])).status == "interrupted"
        assert 5 - FAR_AWAY <= len(read_journal(place(far[1]))) <= 5  # some were still being written
        counts = run(*far).counts()
        assert counts["done"] + counts["skipped"] == 8
        assert (counts["failed"], counts["remaining"]) == (1, 0)


class TestFaults:
    @pytest.fixture
    def far(self, photos):
        return f"shelf://{photos}", f"shelf://{photos.parent}/far"

    def test_a_picture_that_cannot_be_read_fails_alone(self, run, far):
        Shelf.faults["get", 3] = ConnectionError("reset by peer")
        summary = run(*far)
        assert len(summary.failed) == 2
        assert any("cannot be read: reset by peer" in failure.reason for failure in summary.failed)
        assert run(*far, retry_failed=True).done == 1

    @pytest.mark.parametrize(
        "at", [n if n in (1, 3, 5, 6, 13, 21, 24) else pytest.param(n, marks=pytest.mark.slow) for n in range(1, 26)]
    )
    def test_an_output_that_cannot_be_written_stops_the_run_which_can_go_on(self, run, far, at):
        Shelf.faults["put", at] = ConnectionError("reset by peer")
        try:
            run(*far)
        except OutputError as error:
            assert "reset by peer" in str(error)  # noqa: PT017
        else:
            assert at > 24, "the fault was beyond the last put"
        Shelf.clear()
        assert run(*far).counts()["failed"] == 1
        assert len([name for name in contents(far[1]) if name.startswith("SegmentationClass/")]) == 8
        assert "predictions.parts" not in str(contents(far[1]))

    @pytest.mark.parametrize("at", [1, 2, 3, 4, 5])
    def test_a_listing_that_fails_stops_it_before_anything_is_changed(self, run, far, at):
        run(*far)
        before = contents(far[1])
        Shelf.clear()
        Shelf.faults["list", at] = PermissionError("403")
        try:
            run(*far, overwrite=True)
        except (OutputError, UsageError) as error:
            assert "no rights (403)" in str(error)  # noqa: PT017
        Shelf.clear()
        run(*far)
        assert contents(far[1]) == before

    def test_nothing_is_written_where_nothing_can_be(self, run):
        with pytest.raises(UsageError, match="Nothing can be written to https://host/out"):
            run(out="https://host/out?sig=1")


class TestKilled:
    def driver(self, photos, out):
        code = "import sys; from tests.runs import url_driver; url_driver.main(*sys.argv[1:])"
        root = Path(__file__).parents[2]
        environment = os.environ | {"PYTHONPATH": str(root)}
        return subprocess.Popen([sys.executable, "-c", code, f"shelf://{photos}", out], env=environment)

    @pytest.mark.slow
    def test_the_next_run_goes_on_and_ends_the_same(self, run, photos):
        out = f"shelf://{photos.parent}/far"
        run(f"shelf://{photos}", f"shelf://{photos.parent}/whole")
        owner = self.driver(photos, out)
        labels = photos.parent / "far" / "SegmentationClass"
        limit = time.monotonic() + 60
        while len(list(labels.glob("*.png"))) < 5:
            assert owner.poll() is None
            assert time.monotonic() < limit
            time.sleep(0.02)
        owner.send_signal(signal.SIGKILL)
        owner.wait()
        noted = read_journal(place(out))
        assert len(noted) >= 3, "parts are read together"
        summary = run(f"shelf://{photos}", out)
        assert summary.skipped >= len(noted) - 1
        assert contents(out) == contents(photos.parent / "whole")
        assert lines(out) == lines(photos.parent / "whole")


def entry(name, **changes):
    return Entry(**({"path": f"/photos/{name}", "output": f"{name}.png", "status": "done", "key": "k"} | changes))


class TestJournal:
    @pytest.fixture
    def out(self):
        return place("memory://box/out")

    def parts(self, out):
        return sorted(path.name for path in (out / "predictions.parts").listed().files())

    def test_is_put_in_parts_and_whole_at_the_end(self, out, monkeypatch):
        monkeypatch.setattr(journal, "PART_LINES", 4)
        with Journal(out, [entry("kept")]) as written:
            for i in range(10):
                written.add(entry(str(i)))
            assert self.parts(out) == ["000001.jsonl", "000002.jsonl"]
            assert len(read_journal(out)) == 9, "two wait"
        assert self.parts(out) == ["000001.jsonl", "000002.jsonl", "000003.jsonl"]
        assert [*read_journal(out)] == [f"/photos/{name}" for name in ("kept", *map(str, range(10)))]
        journal.write_journal(out, read_journal(out).values())
        assert self.parts(out) == []
        assert len(read_journal(out)) == 11

    def test_nobody_waits_long(self, out, monkeypatch):
        now = [0.0]
        monkeypatch.setattr(journal.time, "monotonic", lambda: now[0])
        with Journal(out, []) as written:
            written.add(entry("a"))
            assert not read_journal(out)
            now[0] += journal.PART_SECONDS
            written.add(entry("b"))
            assert len(read_journal(out)) == 2
            assert self.parts(out) == ["000001.jsonl"]

    def test_a_later_part_wins(self, out):
        with Journal(out, [entry("a", key="old")]) as written:
            written.add(entry("a", key="new"))
        assert read_journal(out)["/photos/a"].key == "new"

    def test_label_maps_are_known_by_their_size(self, out):
        (out / "a.png").put_bytes(b"12345")
        for folder in (out, out.listed()):
            assert is_intact(entry("a", nbytes=5, digest="of others"), folder)
            assert not is_intact(entry("a", nbytes=6), folder)
            assert not is_intact(entry("b", nbytes=5), folder)


class TestOneOwner:
    @pytest.fixture(autouse=True)
    def quick(self, monkeypatch):
        monkeypatch.setattr(lease, "RENEWAL", 0.05)

    @pytest.fixture
    def out(self, tmp_path):
        return place(f"shelf://{tmp_path}/out")

    def test_a_second_one_is_kept_out(self, out):
        with (
            only_writer(out),
            pytest.raises(OutputError, match="Another ovseg process is writing to"),
            only_writer(out),
        ):
            pass
        with only_writer(out):
            pass
        assert not (out / ".ovseg.lock").exists()

    def test_a_dead_one_is_taken_over(self, out, caplog):
        (out / ".ovseg.lock").put_bytes(b'{"id": "of one that was killed"}')
        with only_writer(out):
            assert b"killed" not in (out / ".ovseg.lock").read_bytes()
        assert "is held by a run that goes on or was killed" in caplog.text

    def test_who_was_taken_for_dead_writes_no_more(self, out):
        with only_writer(out), Journal(out, []) as written:
            (out / ".ovseg.lock").put_bytes(b'{"id": "of another"}')
            limit = time.monotonic() + 5
            while not lease._held[out].lost:
                assert time.monotonic() < limit
                time.sleep(0.01)
            for _ in range(journal.PART_LINES - 1):
                written.add(entry("a"))
            with pytest.raises(OutputError, match="Another ovseg process"):
                written.add(entry("b"))
            written._lines._waiting = 0  # else the end raises the same
        assert (out / ".ovseg.lock").read_bytes() == b'{"id": "of another"}', "it is not taken from the other"

    def test_a_fault_of_the_network_is_waited_out(self, out):
        with only_writer(out):
            before = (out / ".ovseg.lock").read_bytes()
            Shelf.faults["put", 0] = ConnectionError("gone")
            time.sleep(0.2)
            assert (out / ".ovseg.lock").read_bytes() == before
            Shelf.faults.clear()
            time.sleep(0.2)
            assert (out / ".ovseg.lock").read_bytes() != before
            assert not lease._held[out].lost


def test_no_secret_is_written_down(run, photos, store):
    class Web(Shelf):
        protocol = "https"

        @classmethod
        def _strip_protocol(cls, path):
            assert path.endswith("?sig=abc")
            return str(photos / path.partition("?")[0].rpartition("/")[2])

    fsspec.register_implementation("https", Web, clobber=True)
    try:
        run("https://me:pa55@host/photos/1.png?sig=abc", argv=("ovseg", "segment", "https://me:pa55@h/1.png?sig=abc"))
        summary = run("https://me:pa55@host/photos/4.png?sig=abc")
    finally:
        sys.modules["fsspec.registry"]._registry.pop("https")
    texts = [path.read_text("latin-1") for path in Path("out").rglob("*") if path.suffix in (".json", ".jsonl", ".txt")]
    texts += [str(store.last_run()), str(summary)]
    assert "https://host/photos/1.png" in "".join(texts)
    for text in texts:
        assert "abc" not in text
        assert "pa55" not in text


def test_the_store_remembers_where_it_was(run, photos, store):
    run(out="memory://box/out")
    assert store.last_run().output == place("memory://box/out")
    assert replace(read_manifest(place("memory://box/out")), id="").status == "finished"
