from __future__ import annotations

import json

import pytest

from tests.runs.conftest import paint


def files(folder):
    return sorted(p.relative_to(folder).as_posix() for p in folder.rglob("*") if p.is_file() and p.name[0] != ".")


def test_without_a_format_there_are_label_maps_only(cli, photos, here):
    assert "exports" not in cli("segment", "photos", "-c", "cat,dog", "--method", "gem", "--json").data
    assert not (here / "ovseg-out" / "export").exists()
    assert not [name for name in files(here / "ovseg-out") if "probabilities" in name]


def test_formats_are_written_beside_the_label_maps(cli, photos, here):
    run = ("segment", "photos", "-c", "cat,dog", "--method", "gem", "--format", "coco,masks", "--format", "yolo")
    result = cli(*run)
    assert result.exit_code == 0
    assert "Wrote 2 label maps as coco: ovseg-out/export/coco.json" in result.stdout
    assert (here / "ovseg-out/export/masks/cat/sub/b.png").is_file()
    assert (here / "ovseg-out/export/yolo/labels/sub/b.txt").is_file()
    again = cli(*run, "--json").data
    assert [(one["format"], one["written"]) for one in again["exports"]] == [
        ("coco", False),
        ("masks", False),
        ("yolo", False),
    ]


def test_another_format_later_needs_no_models(cli, photos, here, monkeypatch):
    cli("segment", "photos", "-c", "cat,dog", "--method", "gem")
    before = {p: p.stat().st_mtime_ns for p in (here / "ovseg-out" / "SegmentationClass").rglob("*.png")}

    def load(self, profile, *, precision=None):
        raise AssertionError("models are loaded")

    monkeypatch.setattr("ovseg_cli.cli.common.Common.load_models", load)
    assert cli("segment", "photos", "-c", "cat,dog", "--method", "gem", "--format", "cvat").exit_code == 0
    assert (here / "ovseg-out/export/cvat/annotations.xml").is_file()
    assert {p: p.stat().st_mtime_ns for p in before} == before


def test_new_pictures_are_in_the_export_of_the_next_run(cli, photos, here):
    run = ("segment", "photos", "-c", "cat,dog", "--method", "gem", "--format", "coco")
    cli(*run)
    paint(photos / "c.png", 1)
    assert cli(*run).exit_code == 0
    images = json.loads((here / "ovseg-out/export/coco.json").read_text())["images"]
    assert [image["file_name"] for image in images] == ["a.png", "c.png", "sub/b.png"]


def test_what_is_exported_is_not_taken_for_pictures(cli, photos, here):
    cli("segment", "photos", "-c", "cat", "--method", "gem", "--format", "masks", "-o", "photos/out")
    plan = cli("segment", "photos", "-c", "cat", "--method", "gem", "-o", "other", "--dry-run", "--json").data
    assert len(plan["images"]) == 2


@pytest.mark.parametrize(
    ("names", "why"),
    [
        (("coca",), "Unknown format 'coca'. Did you mean 'coco'?"),
        (("probabilities", "probabilities-8"), "exclude each other"),
    ],
)
def test_a_format_that_cannot_be_is_told_before_anything_is_done(cli, photos, here, names, why):
    result = cli("segment", "photos", "-c", "cat", *(part for name in names for part in ("--format", name)))
    assert result.exit_code == 2
    assert why in result.error
    assert not (here / "ovseg-out").exists()


def test_export_says_where_it_wrote(cli, photos, here):
    cli("segment", "photos", "-c", "cat,dog", "--method", "gem")
    assert cli("export", "ovseg-out", "--to", "coco", "-o", "c.json", "-q").stdout.strip() == str(here / "c.json")
    assert "There already: 2 label maps as cvat" in (
        cli("export", "ovseg-out", "--to", "cvat") and cli("export", "ovseg-out", "--to", "cvat").stdout
    )
    data = cli("export", "ovseg-out", "--to", "masks", "--empty", "--json").data
    assert data == {
        "format": "masks",
        "output": str(here / "ovseg-out" / "export" / "masks"),
        "pictures": 2,
        "written": True,
        "failures": [],
    }


def test_export_tells_what_could_not_be_read(cli, photos, here):
    cli("segment", "photos", "-c", "cat,dog", "--method", "gem")
    (here / "ovseg-out/SegmentationClass/a.png").write_bytes(b"")
    result = cli("export", "ovseg-out", "--to", "coco")
    assert result.exit_code == 3
    assert "a.png is empty" in result.stderr
    assert "Wrote 1 label map as coco" in result.stdout


def test_relabel_makes_a_run_of_its_own(cli, photos, here):
    run = ("segment", "photos", "-c", "cat,dog", "--method", "gem")
    cli(*run)
    result = cli("relabel", "ovseg-out", "--threshold", "0.4")
    assert (result.exit_code, "--format probabilities" in result.error) == (2, True)
    assert cli(*run, "--format", "probabilities").exit_code == 0
    result = cli("relabel", "ovseg-out", "--threshold", "0.6")
    assert result.exit_code == 0
    assert "masks   ovseg-out-relabelled/SegmentationClass" in result.stdout
    manifest = json.loads((here / "ovseg-out-relabelled" / "run.json").read_text())
    assert manifest["relabelled"]["threshold"] == 0.6
    data = cli("relabel", "ovseg-out", "-c", "dog", "-o", "dogs", "--json").data
    assert [c["images"] for c in data["classes"]] == [0, 1]
    assert cli("relabel", "ovseg-out").exit_code == 2


def test_pngs_of_scores_bring_the_scores(cli, photos, here):
    cli("segment", "photos", "-c", "cat,dog", "--method", "gem", "--format", "probability-png")
    assert (here / "ovseg-out/probabilities/a.npz").is_file()
    assert (here / "ovseg-out/export/probability-png/cat/a.png").is_file()
