from __future__ import annotations

import errno
import json
import os
import stat
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from ovseg_cli import atomic
from ovseg_cli.atomic import atomic_path, make_folder, write_image, write_json, write_text
from ovseg_cli.errors import DiskFullError, OutputError


def everything(folder: Path) -> list[str]:
    return sorted(entry.name for entry in folder.iterdir())


def test_target_keeps_its_old_content_until_the_block_ends(tmp_path):
    target = tmp_path / "a.txt"
    target.write_text("old")
    with atomic_path(target) as path:
        path.write_text("new")
        assert path.parent == target.parent
        assert path.suffix == ".txt"
        assert path.name.startswith(atomic.TEMPORARY_PREFIX)
        assert target.read_text() == "old"
    assert target.read_text() == "new"
    assert everything(tmp_path) == ["a.txt"]


@pytest.mark.parametrize("error", [RuntimeError("boom"), KeyboardInterrupt(), SystemExit(3)])
def test_any_exception_leaves_the_old_file_and_nothing_else(tmp_path, error):
    target = tmp_path / "a.png"
    target.write_bytes(b"old")

    def write_half():
        with atomic_path(target) as path:
            path.write_bytes(b"half")
            raise error

    with pytest.raises(type(error)):
        write_half()
    assert target.read_bytes() == b"old"
    assert everything(tmp_path) == ["a.png"]


@pytest.fixture
def unswept(monkeypatch):
    """As in a process that has not written anywhere yet."""
    monkeypatch.setattr(atomic, "_swept", set())


needs_locks = pytest.mark.skipif(atomic.fcntl is None, reason="temporary files are not swept there")


@needs_locks
@pytest.mark.usefixtures("unswept")
def test_what_a_killed_process_left_is_swept_and_nothing_else(tmp_path):
    folder = tmp_path / "out"
    folder.mkdir()
    elsewhere = tmp_path / "precious.png"
    elsewhere.write_bytes(b"precious")
    script = (
        "import os, sys\n"
        "from ovseg_cli.atomic import atomic_path\n"
        "with atomic_path(sys.argv[1]) as path:\n"
        "    path.write_bytes(b'half')\n"
        "    os.kill(os.getpid(), 9)\n"
    )
    for name in ("a.png", "b"):
        assert subprocess.run([sys.executable, "-c", script, folder / name]).returncode == -9
    assert len(everything(folder)) == 1, "the second has swept what the first left"
    kept = [".ovseg-1234.png", f".ovseg-{'0' * 17}", f".ovseg-{'G' * 16}.png", f"x.ovseg-{'0' * 16}", ".ovseg.lock"]
    kept.append(f".ovseg-{'1' * 16}.tar.gz")
    for name in kept:
        (folder / name).write_text("mine")
    (folder / f".ovseg-{'2' * 16}.png").symlink_to(elsewhere)
    (folder / f".ovseg-{'3' * 16}.png").mkdir()
    write_text(folder / "c.txt", "new")
    expected = [*kept, f".ovseg-{'2' * 16}.png", f".ovseg-{'3' * 16}.png", "c.txt"]
    assert everything(folder) == sorted(expected)
    assert elsewhere.read_bytes() == b"precious"


@needs_locks
def test_what_is_being_written_is_not_swept(tmp_path, monkeypatch):
    with atomic_path(tmp_path / "slow.txt") as path:
        path.write_text("slow")
        monkeypatch.setattr(atomic, "_swept", set())
        write_text(tmp_path / "quick.txt", "quick")
        assert path.exists()
    assert everything(tmp_path) == ["quick.txt", "slow.txt"]


@needs_locks
def test_a_file_that_is_swept_before_it_is_locked_is_made_again(tmp_path, monkeypatch):
    lock = atomic.fcntl.flock
    swept = []

    def late(descriptor, operation):
        if not swept:
            swept.extend(tmp_path.glob(".ovseg-*"))
            swept[0].unlink()
        lock(descriptor, operation)

    monkeypatch.setattr(atomic.fcntl, "flock", late)
    write_text(tmp_path / "a.txt", "all the same")
    assert swept
    assert (tmp_path / "a.txt").read_text() == "all the same"


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EDQUOT])
def test_full_disk_while_writing(tmp_path, monkeypatch, code):
    def full(self, data):
        with self.open("wb") as file:
            file.write(data[: len(data) // 2])
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr(Path, "write_bytes", full)
    with pytest.raises(DiskFullError, match=r"a\.txt.*Free some space"):
        write_text(tmp_path / "a.txt", "some text")
    assert everything(tmp_path) == []


def test_full_disk_at_the_flush(tmp_path, monkeypatch):
    def full(descriptor):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(DiskFullError):
        write_image(tmp_path / "a.png", Image.new("L", (4, 4)))
    assert everything(tmp_path) == []


def test_full_disk_for_real(tmp_path):
    """`/dev/full` answers every write with ENOSPC."""
    if not Path("/dev/full").exists():
        pytest.skip("this system has no /dev/full")
    with pytest.raises(DiskFullError):
        write_text("/dev/full", "x")


@pytest.mark.parametrize("code", [errno.EACCES, errno.EROFS, errno.EPERM])
def test_forbidden_folder(tmp_path, monkeypatch, code):
    def forbidden(path, *args, **kwargs):
        raise OSError(code, os.strerror(code), str(path))

    monkeypatch.setattr(os, "open", forbidden)
    with pytest.raises(OutputError, match=r"Cannot write .*a\.txt: .*choose another place"):
        write_text(tmp_path / "a.txt", "x")


def test_file_where_a_folder_is_needed(tmp_path):
    (tmp_path / "out").write_text("x")
    with pytest.raises(OutputError, match="out"):
        write_text(tmp_path / "out" / "a.txt", "x")
    with pytest.raises(OutputError, match="file of that name"):
        make_folder(tmp_path / "out")
    with pytest.raises(OutputError):
        make_folder(tmp_path / "out" / "deep" / "er")


def test_folder_where_a_file_is_needed(tmp_path):
    (tmp_path / "a.txt").mkdir()
    with pytest.raises(OutputError, match="folder of that name"):
        write_text(tmp_path / "a.txt", "x")
    assert everything(tmp_path) == ["a.txt"]


def test_name_too_long(tmp_path):
    with pytest.raises(OutputError, match="too long"):
        write_text(tmp_path / ("x" * 300), "x")
    # A name of the greatest length works: the temporary name does not grow with it.
    write_text(tmp_path / ("x" * 251 + ".txt"), "x")


def test_errors_about_other_files_pass_unchanged(tmp_path):
    with pytest.raises(FileNotFoundError), atomic_path(tmp_path / "a.txt"):
        (tmp_path / "absent").read_text()
    with pytest.raises(BrokenPipeError), atomic_path(tmp_path / "a.txt"):
        raise BrokenPipeError(errno.EPIPE, "pipe")
    assert everything(tmp_path) == []


def test_permissions_follow_the_umask(tmp_path):
    old = os.umask(0o027)
    try:
        write_text(tmp_path / "a.txt", "x")
    finally:
        os.umask(old)
    assert stat.S_IMODE((tmp_path / "a.txt").stat().st_mode) == 0o640


def test_parents_are_made_and_links_stay(tmp_path):
    write_text(tmp_path / "a" / "b" / "c.txt", "x")
    link = tmp_path / "link.txt"
    link.symlink_to(tmp_path / "a" / "b" / "c.txt")
    write_text(link, "y")
    assert link.is_symlink()
    assert (tmp_path / "a" / "b" / "c.txt").read_text() == "y"


def test_pipe_is_written_directly(tmp_path):
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    reader = os.open(pipe, os.O_RDONLY | os.O_NONBLOCK)
    try:
        write_text(pipe, "through")
        assert os.read(reader, 100) == b"through"
    finally:
        os.close(reader)


def test_text_and_json_are_utf8_with_plain_line_ends(tmp_path):
    write_text(tmp_path / "a.txt", "crème\n猫\n")
    assert (tmp_path / "a.txt").read_bytes() == "crème\n猫\n".encode()
    data = {"name": "crème brûlée", "path": b"caf\xe9.png".decode("utf-8", "surrogateescape"), "x": [1, None]}
    write_json(tmp_path / "a.json", data)
    raw = (tmp_path / "a.json").read_text(encoding="utf-8")
    assert "crème" in raw
    assert json.loads(raw) == data


def test_json_refuses_nan(tmp_path):
    with pytest.raises(ValueError, match="JSON compliant"):
        write_json(tmp_path / "a.json", {"miou": float("nan")})
    assert everything(tmp_path) == []


def test_image_format_follows_the_suffix(tmp_path):
    pixels = np.arange(48, dtype=np.uint8).reshape(4, 4, 3)
    for name, kind in [("a.png", "PNG"), ("a.jpg", "JPEG"), ("a.webp", "WEBP")]:
        write_image(tmp_path / name, Image.fromarray(pixels))
        with Image.open(tmp_path / name) as image:
            assert image.format == kind
    with pytest.raises(ValueError, match="unknown file extension"):
        write_image(tmp_path / "a.what", Image.fromarray(pixels))
    assert everything(tmp_path) == ["a.jpg", "a.png", "a.webp"]
