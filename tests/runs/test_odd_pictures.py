"""Every odd or damaged picture is told, and none stops a run: neither of one process nor of several."""

from __future__ import annotations

import os
import struct
import zlib

import numpy as np
import pytest
from PIL import Image

from ovseg_cli.files import images
from ovseg_cli.runs.engines.options import EngineOptions
from ovseg_cli.runs.folder import crew_for
from ovseg_cli.runs.journal import read_journal
from ovseg_cli.runs.plan import plan_run
from ovseg_cli.runs.segment import run_folder
from tests.painting import LoadPainter
from tests.runs.conftest import paint, request


def chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def bomb(width: int, height: int) -> bytes:
    """A PNG of a few bytes that says it is large."""
    head = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + head + chunk(b"IDAT", zlib.compress(b"")) + chunk(b"IEND", b"")


def sound(folder):
    """Odd pictures that can be read."""
    grey = Image.fromarray(np.arange(64, dtype=np.uint16).reshape(8, 8) * 1000)
    frames = [Image.new("RGB", (8, 8), colour) for colour in ("red", "green")]
    paint(folder / "a.png", 1)
    Image.new("RGB", (1, 1), "red").save(folder / "one.png")
    Image.new("RGB", (1, 300), "red").save(folder / "line.png")
    grey.save(folder / "deep.png")
    grey.save(folder / "deep.tif")
    Image.new("CMYK", (8, 8)).save(folder / "cmyk.jpg")
    Image.new("1", (8, 8)).save(folder / "bits.bmp")
    Image.new("RGBA", (8, 8)).save(folder / "clear.webp")
    frames[0].save(folder / "moving.webp", save_all=True, append_images=frames[1:])
    frames[0].save(folder / "moving.png", save_all=True, append_images=frames[1:])
    frames[0].save(folder / "pages.tif", save_all=True, append_images=frames[1:])
    frames[0].save(folder / "wrong.jpg", format="PNG")
    (folder / "link.png").symlink_to(folder / "a.png")
    return 13


def damaged(folder):
    """Pictures that cannot be read, each with what is told of it."""
    Image.effect_noise((64, 64), 90).convert("RGB").save(folder / "whole.jpg")
    Image.effect_noise((64, 64), 90).convert("RGB").save(folder / "whole.png")
    Image.effect_noise((64, 64), 90).convert("RGB").save(folder / "whole.tif", compression="tiff_lzw")
    Image.effect_noise((64, 64), 90).convert("RGB").save(folder / "whole.webp")
    for suffix in ("jpg", "png", "tif", "webp"):
        data = (folder / f"whole.{suffix}").read_bytes()
        (folder / f"whole.{suffix}").unlink()
        (folder / f"cut.{suffix}").write_bytes(data[: len(data) // 2])
        (folder / f"head.{suffix}").write_bytes(data[:20])
    (folder / "empty.png").write_bytes(b"")
    (folder / "text.png").write_text("no picture")
    (folder / "page.jpg").write_text("<html>404</html>")
    (folder / "bomb.png").write_bytes(bomb(60_000, 60_000))
    (folder / "long.png").write_bytes(bomb(2_000_000_000, 1))
    (folder / "none.png").write_bytes(bomb(0, 0))
    return {
        **{f"cut.{suffix}": "" for suffix in ("jpg", "png", "tif", "webp")},
        **{f"head.{suffix}": "" for suffix in ("jpg", "png", "tif", "webp")},
        "empty.png": "is empty (0 bytes)",
        "text.png": "not an image",
        "page.jpg": "not an image",
        "bomb.png": "too large to be opened safely",
        "long.png": "",
        "none.png": "",
    }


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "photos").mkdir()
    (tmp_path / "marks").mkdir()
    return tmp_path / "photos"


@pytest.fixture
def run(folder, store, profile):
    def go(*inputs, workers=1, batch=None, retry_failed=False, before=lambda: None):
        wanted = request("cat", "dog")
        plan = plan_run(inputs or ["photos"], folder.parent / "out", wanted, retry_failed=retry_failed)
        before()
        load = LoadPainter(wanted.classes, folder.parent / "marks")
        crew = crew_for(EngineOptions(workers=workers), load, store, "cpu")
        return run_folder(plan, lambda: load("cpu"), store, profile, crew=crew, batch=batch)

    return go


@pytest.mark.parametrize(("workers", "batch"), [(1, 1), (1, 8), pytest.param(2, 4, marks=pytest.mark.slow)])
def test_each_is_told_and_none_stops_the_run(folder, run, workers, batch):
    good, bad = sound(folder), damaged(folder)
    summary = run(workers=workers, batch=batch)
    assert summary.done == good
    told = {os.path.basename(failure.path): failure.reason for failure in summary.failed}
    assert sorted(told) == sorted(bad)
    for name, reason in told.items():
        assert reason.startswith(f"photos/{name} "), "it names the file"
        assert bad[name] in reason
    assert summary.remaining == 0
    states = {os.path.basename(path): entry.status for path, entry in read_journal(folder.parent / "out").items()}
    assert states == {**dict.fromkeys(bad, "failed"), **{name: "done" for name in states if name not in bad}}


def test_what_is_no_file_is_told_and_not_opened(folder, run):
    """To open a pipe that nobody writes to would take forever."""
    paint(folder / "a.png", 1)
    os.mkfifo(folder / "pipe.png")
    (folder / "zero.png").symlink_to("/dev/zero")
    (folder / "gone.png").symlink_to("nowhere.png")
    (folder / "circle.png").symlink_to("circle.png")
    names = ["pipe.png", "zero.png", "gone.png", "circle.png"]
    for batch in (1, 4):
        summary = run(*(f"photos/{name}" for name in ("a.png", *names)), batch=batch)
        assert summary.done + summary.skipped == 1
        assert [os.path.basename(failure.path) for failure in summary.failed] == names
    reasons = " ".join(failure.reason for failure in summary.failed)
    for part in ("is a pipe, not a file", "is a device, not a file", "does not exist"):
        assert part in reasons


def test_a_picture_that_vanishes_after_the_plan(folder, run):
    for name in "abc":
        paint(folder / f"{name}.png", 1)
    summary = run(before=(folder / "b.png").unlink)
    assert (summary.done, [failure.reason for failure in summary.failed]) == (2, ["photos/b.png does not exist."])


@pytest.mark.parametrize("becomes", ["folder", "pipe"])
def test_a_picture_that_becomes_something_else_after_the_plan(folder, run, becomes):
    for name in "abc":
        paint(folder / f"{name}.png", 1)

    def change():
        (folder / "b.png").unlink()
        (folder / "b.png").mkdir() if becomes == "folder" else os.mkfifo(folder / "b.png")

    summary = run(before=change, batch=4)
    assert (summary.done, len(summary.failed)) == (2, 1)


def test_a_picture_that_may_not_be_read(folder, run, monkeypatch):
    for name in "abc":
        paint(folder / f"{name}.png", 1)
    opened = images.Image.open

    def refuse(path, *args, **kwargs):
        if str(path).endswith("b.png"):
            raise PermissionError(13, "Permission denied", str(path))
        return opened(path, *args, **kwargs)

    monkeypatch.setattr(images.Image, "open", refuse)
    for batch in (1, 4):
        summary = run(batch=batch)
        assert [failure.reason for failure in summary.failed] == ["photos/b.png cannot be read: Permission denied."]
    assert summary.skipped == 2


class TestRetryFailed:
    @pytest.fixture
    def failed(self, folder, run):
        for name in "abc":
            paint(folder / f"{name}.png", 1)
        (folder / "b.png").write_bytes(b"")
        (folder / "c.png").write_bytes(b"")
        run()
        return folder

    def test_takes_these_alone(self, failed, run):
        paint(failed / "b.png", 2)
        paint(failed / "new.png", 2)
        summary = run(retry_failed=True)
        assert (summary.images, summary.done, len(summary.failed)) == (2, 1, 1)
        states = {os.path.basename(p): entry.status for p, entry in read_journal(failed.parent / "out").items()}
        assert states == {"a.png": "done", "b.png": "done", "c.png": "failed"}
        assert (failed.parent / "out" / "SegmentationClass" / "a.png").exists()
        listed = (failed.parent / "out" / "ImageSets/Segmentation/default.txt").read_text()
        assert listed == "a\nb\n"

    def test_without_it_they_are_tried_again_with_the_others(self, failed, run):
        paint(failed / "b.png", 2)
        paint(failed / "new.png", 2)
        summary = run()
        assert (summary.images, summary.done, summary.skipped, len(summary.failed)) == (4, 2, 1, 1)

    def test_with_nothing_to_try_changes_nothing(self, failed, run):
        for name in "bc":
            paint(failed / f"{name}.png", 2)
        run()
        before = sorted(read_journal(failed.parent / "out").items())
        summary = run(retry_failed=True)
        assert (summary.images, summary.done) == (0, 0)
        assert sorted(read_journal(failed.parent / "out").items()) == before
