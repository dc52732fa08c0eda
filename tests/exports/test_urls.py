"""What is exported from a run at a URL, or to one, is what is exported on a disk."""

from __future__ import annotations

from pathlib import Path

import pytest

from ovseg_cli.errors import OutputError, UsageError
from ovseg_cli.exports.base import Options
from ovseg_cli.exports.registry import FORMATS
from ovseg_cli.exports.run import export_run
from ovseg_cli.urls import place
from tests.exports.runs import make_run, with_gaps
from tests.shelf import Shelf

MADE_OF_LABELS = [name for name, about in FORMATS.items() if not about.scores and name != "geotiff"]


@pytest.fixture
def far(tmp_path):
    """A run at a URL; the same lies on the disk, with its pictures."""
    Shelf.clear()
    made = make_run(tmp_path)
    url = place(f"shelf://{made.folder}")
    journal = made.folder / "predictions.jsonl"
    journal.write_text(journal.read_text().replace(f'"path": "{made.photos}', f'"path": "shelf://{made.photos}'))
    return url


def everything(folder):
    """All but what names the run."""
    found = {p.relative_to(folder).as_posix(): p.read_bytes() for p in Path(folder).rglob("*") if p.is_file()}
    return {name: content for name, content in found.items() if name != "ovseg-export.json"}


@pytest.mark.parametrize("name", MADE_OF_LABELS)
def test_the_files_are_the_same(far, tmp_path, name):
    near = make_run(tmp_path / "near")
    options = Options(copy=name == "yolo")
    wanted = export_run(near.folder, name, tmp_path / "wanted.json", options=options).output
    export_run(far, name, place(f"shelf://{tmp_path}/there.json"), options=options)
    export_run(far, name, tmp_path / "here.json", options=options)
    for made in (tmp_path / "there.json", tmp_path / "here.json"):
        if wanted.is_file():
            assert made.read_bytes() == wanted.read_bytes()
        else:
            assert everything(made) == everything(wanted)


def test_geotiffs_read_their_pictures_from_there(far, tmp_path):
    pytest.importorskip("rasterio")
    near = make_run(tmp_path / "near")
    wanted = export_run(near.folder, "geotiff", tmp_path / "wanted").output
    export_run(far, "geotiff", place(f"shelf://{tmp_path}/there"))
    assert everything(tmp_path / "there") == everything(wanted)


def test_one_in_the_run_is_made_once(far):
    first = export_run(far, "masks")
    assert str(first.output) == f"{far}/export/masks"
    assert first.written
    assert not export_run(far, "masks").written
    (far / "SegmentationClass/noise.png").put_bytes(b"another")
    assert export_run(far, "coco").failed
    assert export_run(far, "coco", overwrite=True).failed, "what failed is tried again"


def test_one_that_was_killed_is_made_again(far):
    Shelf.faults["put", 6] = ConnectionError("gone")
    with pytest.raises(OutputError, match="gone"):
        export_run(far, "masks")
    assert (far / "export/masks/ovseg-export.json").is_file(), "what is there is known for an export"
    Shelf.clear()
    assert export_run(far, "masks", overwrite=True).written
    (far / "export/other/x").put_bytes(b"")
    with pytest.raises(UsageError, match="holds other things than an export"):
        export_run(far, "masks", far / "export/other", overwrite=True)


@pytest.mark.parametrize("target", ["", "/SegmentationClass", "/SegmentationClass/x", "/labelmap.txt"])
def test_nothing_is_written_over_what_is_read(far, target):
    with pytest.raises(UsageError):
        export_run(far, "masks", place(f"{far}{target}"), overwrite=True)


def test_a_folder_of_label_maps_with_pictures_elsewhere(tmp_path):
    made = with_gaps(tmp_path)
    wanted = export_run(made.folder, "coco", tmp_path / "wanted.json", images=made.photos).output
    export_run(place(f"shelf://{made.folder}"), "coco", tmp_path / "made.json", images=place(f"shelf://{made.photos}"))
    assert (tmp_path / "made.json").read_bytes() == wanted.read_bytes()


def test_a_picture_that_is_gone_fails_alone(far, tmp_path):
    (tmp_path / "photos" / "noise.png").unlink()
    result = export_run(far, "yolo")
    assert [failure.reason for failure in result.failed] == [
        f"shelf://{tmp_path}/photos/noise.png cannot be read: it does not exist."
    ]
