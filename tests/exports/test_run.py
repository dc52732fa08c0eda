from __future__ import annotations

import errno
import json
import os
import subprocess
import sys
import tracemalloc
from pathlib import Path

import numpy as np
import pytest
from filelock import FileLock

from ovseg_cli.atomic import atomic_folder
from ovseg_cli.errors import DiskFullError, LabelError, NoInputError, OutputError, UsageError
from ovseg_cli.exports import coco
from ovseg_cli.exports.base import Options
from ovseg_cli.exports.registry import FORMATS, exporter_of
from ovseg_cli.exports.run import export_run
from ovseg_cli.exports.source import open_source
from ovseg_cli.files.labels import write_label
from tests.exports.runs import make_run, with_gaps

MADE_OF_LABELS = [name for name, about in FORMATS.items() if not about.scores and name != "geotiff"]


@pytest.fixture
def made(tmp_path):
    return make_run(tmp_path)


def everything(folder):
    return {p.relative_to(folder).as_posix(): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


@pytest.mark.parametrize("name", MADE_OF_LABELS)
def test_an_export_lies_in_the_run_and_is_made_once(made, name):
    first = export_run(made.folder, name)
    assert first.output == made.folder / "export" / exporter_of(name).target
    assert first.written
    assert first.pictures == len(made.truth)
    before = {p: p.stat().st_mtime_ns for p in first.output.parent.rglob("*")}
    second = export_run(made.folder, name)
    assert not second.written
    assert {p: p.stat().st_mtime_ns for p in first.output.parent.rglob("*")} == before
    assert not [p for p in made.folder.rglob(".ovseg-*") if p.name != ".ovseg.lock"]


@pytest.mark.parametrize("name", MADE_OF_LABELS)
def test_the_same_label_maps_give_the_same_bytes(made, tmp_path, name):
    ending = Path(exporter_of(name).target).suffix
    one, two = (export_run(made.folder, name, tmp_path / f"{which}{ending}").output for which in ("one", "two"))
    if one.is_dir():
        assert everything(one) == everything(two)
    else:
        assert one.read_bytes() == two.read_bytes()


@pytest.mark.parametrize("name", ["coco", "masks"])
def test_another_export_is_replaced_only_when_asked(made, tmp_path, name):
    export_run(made.folder, name)
    other = make_run(tmp_path, truth={"only": np.ones((4, 4), np.uint16)})
    with pytest.raises(UsageError, match=r"made of other label maps.*--overwrite"):
        export_run(other.folder, name)
    result = export_run(other.folder, name, overwrite=True)
    assert (result.written, result.pictures) == (True, 1)
    left = everything(other.folder / "export")
    assert not any("noise" in path for path in left)


def test_other_options_are_another_export(made):
    export_run(made.folder, "coco")
    with pytest.raises(UsageError, match="--overwrite"):
        export_run(made.folder, "coco", options=Options(parts=True))


def test_a_folder_that_is_no_export_is_never_taken_away(made, tmp_path):
    mine = tmp_path / "mine"
    mine.mkdir()
    (mine / "thesis.txt").write_text("three years")
    with pytest.raises(UsageError, match="other things than an export"):
        export_run(made.folder, "yolo", mine, overwrite=True)
    assert (mine / "thesis.txt").read_text() == "three years"


@pytest.mark.parametrize(
    "where", ["", "..", "SegmentationClass", "SegmentationClass/sub", "../photos", "predictions.jsonl"]
)
@pytest.mark.parametrize("name", ["coco", "masks"])
def test_an_export_is_never_written_over_what_is_read(made, where, name):
    before = everything(made.folder.parent)
    with pytest.raises(UsageError, match="Name another place"):
        export_run(made.folder, name, made.folder / where, overwrite=True)
    assert everything(made.folder.parent) == before


def test_a_picture_is_not_written_over(made):
    with pytest.raises(UsageError, match="written over what is read"):
        export_run(made.folder, "coco", made.photos / "empty.png", overwrite=True)


@pytest.mark.parametrize("where", ["labelmap.txt", "../notes.txt", "../coco"])
def test_a_file_of_another_kind_is_not_replaced(tmp_path, where):
    made = with_gaps(tmp_path)
    (tmp_path / "notes.txt").write_text("mine")
    before = everything(tmp_path)
    with pytest.raises(UsageError, match="Name another"):
        export_run(made.folder, "coco", made.folder / where, images=made.photos, overwrite=True)
    assert everything(tmp_path) == before


def test_a_data_set_for_training_needs_its_pictures(made, tmp_path):
    made.photos.rename(tmp_path / "elsewhere")
    with pytest.raises(UsageError, match=r"cannot be found.*--images"):
        export_run(made.folder, "yolo", tmp_path / "set")
    assert not (tmp_path / "set").exists()
    found = export_run(made.folder, "yolo", tmp_path / "set", images=tmp_path / "elsewhere")
    assert len([p for p in (found.output / "images").rglob("*") if p.is_file()]) == len(made.truth)


def test_a_damaged_label_map_is_told_and_the_others_are_there(made):
    (made.folder / "SegmentationClass" / "noise.png").write_bytes(b"no picture")
    result = export_run(made.folder, "coco")
    assert [os.path.basename(failure.path) for failure in result.failed] == ["noise.png"]
    assert len(json.loads(result.output.read_text())["images"]) == len(made.truth) - 1
    write_label(made.folder / "SegmentationClass" / "noise.png", made.truth["noise"], made.labels)
    again = export_run(made.folder, "coco", overwrite=True)
    assert (again.written, again.failed) == (True, [])


def test_an_id_without_a_name_is_told(tmp_path):
    run = with_gaps(tmp_path)
    (run.folder / "labelmap.txt").write_text("0: sky\n5: cat\n40: dog\n")
    result = export_run(run.folder, "coco", tmp_path / "c.json", images=run.photos)
    (failure,) = result.failed
    assert "id 9" in failure.reason


def test_when_no_label_map_can_be_read_nothing_is_written(made, tmp_path):
    for path in (made.folder / "SegmentationClass").rglob("*.png"):
        path.write_bytes(b"")
    with pytest.raises(LabelError, match="No label map"):
        export_run(made.folder, "masks", tmp_path / "masks")
    assert not (tmp_path / "masks").exists()
    assert not list(tmp_path.glob(".ovseg-*"))


def test_a_full_disk_leaves_the_old_export(made, tmp_path, monkeypatch):
    place = tmp_path / "labels"
    export_run(made.folder, "masks", place)
    before = everything(place)
    (made.folder / "SegmentationClass" / "noise.png").unlink()

    def full(self, file, **more):
        raise OSError(errno.ENOSPC, "No space left on device", str(file))

    monkeypatch.setattr("PIL.Image.Image.save", full)
    with pytest.raises((DiskFullError, UsageError)):
        export_run(made.folder, "masks", place, options=Options(empty=True), overwrite=True)
    assert everything(place) == before
    assert not list(tmp_path.glob(".ovseg-*"))


def test_an_interruption_leaves_nothing(made, tmp_path, monkeypatch):
    def stop(*arguments, **more):
        raise KeyboardInterrupt

    monkeypatch.setattr(coco, "coco_code", stop)
    with pytest.raises(KeyboardInterrupt):
        export_run(made.folder, "coco", tmp_path / "c.json")
    assert not list(tmp_path.glob("*.json"))
    assert not list(tmp_path.glob(".ovseg-*"))


def test_a_run_that_is_being_written_is_waited_for(made):
    with FileLock(made.folder / ".ovseg.lock"), pytest.raises(OutputError, match="Another ovseg process"):
        export_run(made.folder, "coco")


def test_a_folder_of_label_maps_wants_a_place_and_takes_pictures(tmp_path):
    run = with_gaps(tmp_path)
    with pytest.raises(UsageError, match="-o PATH"):
        export_run(run.folder, "coco")
    bare = json.loads(export_run(run.folder, "coco", tmp_path / "bare.json").output.read_text())
    named = json.loads(export_run(run.folder, "coco", tmp_path / "n.json", images=run.photos).output.read_text())
    assert [image["file_name"] for image in bare["images"]] == ["a.png", "sub/b.png"]
    assert [image["file_name"] for image in named["images"]] == ["a.jpg", "sub/b.jpg"]
    (run.photos / "sub" / "b.jpg").unlink()
    with pytest.raises(UsageError, match="no picture for sub/b"):
        export_run(run.folder, "coco", tmp_path / "m.json", images=run.photos)


def test_what_is_no_run_is_told(tmp_path):
    with pytest.raises(LabelError, match="does not exist"):
        export_run(tmp_path / "nothing", "coco")
    (tmp_path / "SegmentationClass").mkdir()
    with pytest.raises(LabelError, match=r"labelmap\.txt"):
        export_run(tmp_path, "coco")
    (tmp_path / "labelmap.txt").write_text("background:0,0,0::\n")
    with pytest.raises((LabelError, NoInputError)):
        export_run(tmp_path, "coco")


def test_a_journal_that_leads_out_of_its_folder_is_not_followed(made):
    line = (made.folder / "predictions.jsonl").read_text().splitlines()[0]
    entry = json.loads(line) | {"path": "/elsewhere/p.png", "output": "SegmentationClass/../../photos/empty.png"}
    with (made.folder / "predictions.jsonl").open("a") as file:
        file.write(json.dumps(entry) + "\n")
    assert export_run(made.folder, "masks").pictures == len(made.truth)


def test_scores_that_were_not_kept_are_told(made):
    with pytest.raises(UsageError, match="--format probabilities"):
        export_run(made.folder, "probability-png")


def test_memory_does_not_grow_with_the_pictures(tmp_path):
    peaks = []
    for number, count in enumerate((20, 200)):
        truth = {f"{i:04d}": np.eye(40, dtype=np.uint16) for i in range(count)}
        run = make_run(tmp_path / str(number), ("cat",), truth)
        source = open_source(run.folder)
        exporter = coco.Coco()
        with exporter.open(tmp_path / f"{number}.json", source, Options()) as add:
            tracemalloc.start()
            for picture in source.pictures:
                add(picture, truth["0000"])
            peaks.append(tracemalloc.get_traced_memory()[1])
            tracemalloc.stop()
    assert peaks[1] < 2 * peaks[0] + 200_000


def test_what_a_killed_export_has_left_is_removed_by_the_next(made):
    left = made.folder / "export" / f".ovseg-{16 * 'a'}.new"
    mine = made.folder / "export" / ".ovseg-notes.new"
    for folder in (left, mine):
        folder.mkdir(parents=True)
        (folder / "part.png").write_bytes(b"x")
    export_run(made.folder, "masks")
    assert not left.exists()
    assert mine.exists()


def test_no_model_library_is_loaded():
    modules = ["ovseg_cli.exports.run", "ovseg_cli.runs.relabel"]
    modules += [about.exporter.partition(":")[0] for about in FORMATS.values()]
    loaded = f"import sys, {', '.join(modules)}; print('torch' in sys.modules, 'rasterio' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", loaded], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["False", "False"]


def test_a_folder_is_replaced_as_a_whole(tmp_path):
    target = tmp_path / "target"
    for content in ("old", "new"):
        with atomic_folder(target) as place:
            (place / content).write_text(content)
            assert target.exists() == (content == "new")
    assert [p.name for p in target.iterdir()] == ["new"]

    def fail():
        with atomic_folder(target) as place:
            (place / "part").write_text("")
            raise RuntimeError

    with pytest.raises(RuntimeError):
        fail()
    assert [p.name for p in target.iterdir()] == ["new"]
    assert [p.name for p in tmp_path.iterdir()] == ["target"]
