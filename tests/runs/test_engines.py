"""Several processes do what one does: the same files, the same journal, whatever becomes of the processes."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from ovseg_cli.errors import DiskFullError, EngineError, UsageError
from ovseg_cli.runs.engines import dispatch, processes
from ovseg_cli.runs.engines.options import EngineOptions
from ovseg_cli.runs.folder import crew_for, plan_folder, run_plan
from ovseg_cli.runs.journal import read_journal
from ovseg_cli.runs.manifest import read_manifest
from ovseg_cli.runs.plan import plan_run
from ovseg_cli.runs.segment import run_folder
from ovseg_cli.segmentation.options import SegmentOptions
from tests.mini import EXAMPLES, mini_class, mini_models
from tests.painting import BUGGY, DEADLY, FORBIDDEN, FULL, SLOW, UNLUCKY, LoadPainter
from tests.runs.conftest import nine_pictures, paint, request

CLASSES = ("cat", "dog")


@pytest.fixture
def photos(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return nine_pictures(tmp_path)


@pytest.fixture
def run(photos, store, profile):
    def go(workers=2, *, out="out", load=None, options=None, overlay=False, **more):
        plan = plan_run(["photos"], photos.parent / out, request(*CLASSES, overlay=overlay))
        load = load or LoadPainter(CLASSES, photos.parent / "marks")
        options = options or EngineOptions(workers=workers)
        crew = crew_for(options, load, store, "cpu")
        return run_folder(plan, lambda: load("cpu"), store, profile, crew=crew, **more)

    return go


def spoil(path: Path, colour: tuple[int, int, int]) -> None:
    """Give a picture an odd first pixel."""
    with Image.open(path) as image:
        pixels = np.asarray(image).copy()
    pixels[0, 0] = colour
    Image.fromarray(pixels).save(path)


def bytes_of(folder: Path) -> dict[str, bytes]:
    """All files but those that tell the time."""
    found = {}
    for path in folder.rglob("*"):
        if path.is_file() and path.name not in ("run.json", "predictions.jsonl", ".ovseg.lock"):
            found[path.relative_to(folder).as_posix()] = path.read_bytes()
    return found


def journal(folder: Path) -> list[dict]:
    lines = (folder / "predictions.jsonl").read_text().splitlines()
    return [{name: value for name, value in json.loads(line).items() if name != "ms"} for line in lines]


def loaded(photos: Path) -> list[str]:
    return sorted(path.name.partition("-")[2] for path in (photos.parent / "marks").glob("loaded-*"))


@pytest.mark.slow
@pytest.mark.parametrize("batch", [pytest.param(1, marks=pytest.mark.slow), 3])
def test_files_and_journal_are_those_of_one_process(run, photos, batch):
    (photos / "4.png").write_bytes(b"\x89PNG\r\n\x1a\n damaged")
    run(1, out="alone", batch=batch, overlay=True)
    steps = []
    both = LoadPainter(CLASSES, photos.parent / "marks", together=3)
    summary = run(2, batch=batch, overlay=True, progress=steps.append, load=both)
    assert bytes_of(photos.parent / "out") == bytes_of(photos.parent / "alone")
    assert journal(photos.parent / "out") == journal(photos.parent / "alone")
    assert summary.counts() == {"done": 8, "skipped": 0, "failed": 1, "remaining": 0}
    assert [(step.done, step.path.name) for step in steps] == [(i, f"{i}.png") for i in range(1, 10)]
    assert len({name.split("-")[0] for name in loaded(photos)}) == 3, "this process, and two others"


@pytest.mark.slow
def test_what_is_done_is_not_done_again_whoever_did_it(run, photos):
    run(2)
    assert run(1).skipped == 9
    (photos.parent / "out" / "SegmentationClass" / "3.png").unlink()
    summary = run(2)
    assert (summary.done, summary.skipped) == (1, 8)


@pytest.mark.slow
def test_the_manifest_says_what_the_workers_segment_with(run, photos, monkeypatch):
    monkeypatch.setenv("OMP_NUM_THREADS", "5")
    run(2)
    manifest = read_manifest(photos.parent / "out")
    assert (manifest.device, manifest.precision, manifest.batch) == ("cpu", "float32", 1)
    assert manifest.settings == {"threads": "2"}, "the workers share the threads"


def test_no_process_is_begun_for_nothing(run, photos):
    run(1)
    run(2)
    assert len(loaded(photos)) == 1


class TestADeathOfAWorker:
    def test_loses_nothing(self, run, photos, caplog):
        run(1, out="alone")
        spoil(photos / "5.png", UNLUCKY)
        summary = run(2)
        assert summary.counts() == {"done": 9, "skipped": 0, "failed": 0, "remaining": 0}
        assert [entry["status"] for entry in journal(photos.parent / "out")] == ["done"] * 9
        assert "a worker has died (killed by SIGKILL)" in caplog.text

    @pytest.mark.slow
    @pytest.mark.parametrize("batch", [pytest.param(1, marks=pytest.mark.slow), 4])
    def test_twice_over_one_picture_makes_that_one_fail(self, run, photos, batch):
        spoil(photos / "3.png", DEADLY)
        summary = run(2, batch=batch)
        assert (summary.done, [Path(failure.path).name for failure in summary.failed]) == (8, ["3.png"])
        assert "2 workers have died over it (the last one: killed by SIGKILL)" in summary.failed[0].reason
        assert read_journal(photos.parent / "out")[str(photos / "3.png")].status == "failed"

    @pytest.mark.slow
    def test_while_models_are_loaded_again_and_again_ends_the_run(self, run, photos):
        with pytest.raises(EngineError, match="die while they load the models"):
            run(2, load=LoadPainter(CLASSES, photos.parent / "marks", dying=True))
        assert not (photos.parent / "out" / "SegmentationClass").exists(), "nothing was begun"

    @pytest.mark.slow
    def test_with_every_picture_ends_the_run(self, run, photos, monkeypatch):
        monkeypatch.setattr(dispatch, "MOST_IN_VAIN", 2)
        for path in photos.iterdir():
            spoil(path, DEADLY)
        with pytest.raises(EngineError, match="before they have done anything"):
            run(2)
        assert read_manifest(photos.parent / "out").status == "interrupted"


class TestErrors:
    def test_of_a_picture_cost_that_picture(self, run, photos):
        spoil(photos / "2.png", FORBIDDEN)
        summary = run(2)
        assert [failure.reason for failure in summary.failed] == ["the picture has too many classes"]

    @pytest.mark.slow
    @pytest.mark.parametrize(
        ("colour", "kind"), [pytest.param(FULL, DiskFullError, marks=pytest.mark.slow), (BUGGY, ZeroDivisionError)]
    )
    def test_of_ours_end_the_run_and_nothing_is_lost(self, run, photos, colour, kind):
        spoil(photos / "6.png", colour)
        with pytest.raises(kind) as raised:
            run(2)
        assert any("In a worker" in note for note in raised.value.__notes__)
        entries = read_journal(photos.parent / "out")
        assert all(entry.status == "done" for entry in entries.values())
        assert len(entries) >= 4
        paint(photos / "6.png", 1, 2)
        assert run(2).skipped == len(entries)

    @pytest.mark.slow
    def test_fail_fast_stops(self, run, photos):
        spoil(photos / "2.png", FORBIDDEN)
        summary = run(2, fail_fast=True)
        assert len(summary.failed) == 1
        assert summary.done + summary.remaining == 8
        assert summary.remaining > 0


@pytest.mark.slow
def test_an_interruption_keeps_what_is_done_out_of_turn(run, photos):
    """The first picture is slow; those behind it are done meanwhile, and stay so."""
    spoil(photos / "1.png", SLOW)
    begun = time.monotonic()

    class Impatient(processes.Processes):
        def wait(self):
            if len(list((photos.parent / "out" / "SegmentationClass").glob("*.png"))) == 8:
                raise KeyboardInterrupt
            return super().wait()

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(processes, "Processes", Impatient)
        with pytest.raises(KeyboardInterrupt):
            run(2)
    assert time.monotonic() - begun < 20, "nobody waits for the slow one"
    done = read_journal(photos.parent / "out")
    assert 7 <= len(done) <= 8
    assert {path.name for path in (photos.parent / "out").rglob(".ovseg-*")} == set(), "nothing half-written stays"
    paint(photos / "1.png", 1)
    assert run(1).skipped == len(done)


@pytest.mark.slow
def test_workers_end_when_their_owner_is_killed(run, photos, store):
    for path in photos.iterdir():
        spoil(path, SLOW)
    code = (
        "import sys; sys.path.insert(0, sys.argv[1])\n"
        "from tests.runs import engine_driver\n"
        "engine_driver.main(*sys.argv[2:])\n"
    )
    root = Path(__file__).parents[2]
    arguments = [sys.executable, "-c", code, str(root), str(store.path), str(photos), str(photos.parent / "out")]
    owner = subprocess.Popen(arguments)
    marks = photos.parent / "marks"
    limit = time.monotonic() + 60
    while len(list(marks.glob("slow-*"))) < 2:
        assert owner.poll() is None
        assert time.monotonic() < limit
        time.sleep(0.05)
    workers = [int(path.name.removeprefix("slow-")) for path in marks.glob("slow-*")]
    owner.send_signal(signal.SIGKILL)
    owner.wait()
    for worker in workers:
        os.kill(worker, signal.SIGTERM)  # they sleep; what they send next, nobody would hear
    limit = time.monotonic() + 20
    while any(Path(f"/proc/{worker}").exists() for worker in workers):
        assert time.monotonic() < limit
        time.sleep(0.05)


class TestOptions:
    def test_several_workers_share_the_devices(self, monkeypatch):
        monkeypatch.setattr("torch.cuda.is_available", lambda: True)
        monkeypatch.setattr("torch.cuda.device_count", lambda: 3)
        assert EngineOptions(devices="0,2").devices_for("auto") == ["cuda:0", "cuda:2"]
        assert EngineOptions(devices="all").devices_for("auto") == ["cuda:0", "cuda:1", "cuda:2"]
        assert EngineOptions(devices="0,2", workers=3).devices_for("auto") == ["cuda:0", "cuda:2", "cuda:0"]

    @pytest.mark.parametrize(
        ("options", "device", "says"),
        [
            ({"devices": "0,7"}, "auto", r"no CUDA device 7 here\. This computer has 0, 1"),
            ({"devices": "0,0"}, "auto", "twice"),
            ({"devices": "gpu"}, "auto", "numbers of GPUs"),
            ({"devices": "0"}, "cpu", "exclude each other"),
            ({"devices": "0,1", "workers": 1}, "auto", "2 devices need as many workers"),
            ({"workers": 0}, "auto", "workers must be between 1 and"),
            ({"engine": "spark"}, "auto", "no engine 'spark'"),
            ({"engine": "ray", "devices": "0"}, "auto", "names GPUs of this computer"),
            ({"ray_address": "here:1"}, "auto", "belongs to --engine ray"),
        ],
    )
    def test_what_cannot_be_is_refused(self, monkeypatch, options, device, says):
        monkeypatch.setattr("torch.cuda.is_available", lambda: True)
        monkeypatch.setattr("torch.cuda.device_count", lambda: 2)
        with pytest.raises(UsageError, match=says):
            EngineOptions(**options).devices_for(device)

    def test_without_a_gpu_that_is_told(self, monkeypatch):
        monkeypatch.setattr("torch.cuda.is_available", lambda: False)
        for devices in ("0", "all"):
            with pytest.raises(UsageError, match="This computer has no CUDA device"):
                EngineOptions(devices=devices).devices_for("auto")

    @pytest.mark.slow
    def test_each_worker_has_its_device(self, run, photos, monkeypatch):
        monkeypatch.setattr("torch.cuda.is_available", lambda: True)
        monkeypatch.setattr("torch.cuda.device_count", lambda: 2)
        known = EngineOptions(devices="0,1").devices_for("auto")
        monkeypatch.setattr(EngineOptions, "devices_for", lambda *_: known)
        both = LoadPainter(CLASSES, photos.parent / "marks", together=2)
        run(options=EngineOptions(devices="0,1"), batch=1, load=both)
        assert {name.split("-", 1)[1] for name in loaded(photos)} == {"cuda-0", "cuda-1"}


@pytest.mark.slow
def test_with_the_bundled_models_label_maps_and_explanations_are_the_same(tmp_path, store):
    """Workers get the recipe with its prototypes, and look into the store for nothing but explanations."""
    store.add_class(mini_class("cat"))
    options = SegmentOptions(short_side=64, windows=((0, 0),), prefilter=False)
    for engine in (EngineOptions(), EngineOptions(workers=2)):
        out = tmp_path / str(engine.workers)
        pictures = [str(EXAMPLES / "images" / f"scene_{number:03d}.jpg") for number in (3, 8, 9)]
        planned = plan_folder(store, pictures, out, classes=["cat"], options=options, explain=True)
        assert run_plan(planned, store, mini_models, engine=engine, device="cpu").done == 3
    assert bytes_of(tmp_path / "2") == bytes_of(tmp_path / "None")
    assert journal(tmp_path / "2") == journal(tmp_path / "None")
    settings = [read_manifest(tmp_path / name).settings for name in ("2", "None")]
    assert settings[0] == settings[1]
