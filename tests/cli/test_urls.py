"""Commands that are given URLs."""

from __future__ import annotations

import json

import pytest

from ovseg_cli.runs.report import write_report
from ovseg_cli.urls import place
from tests.shelf import Shelf

GEM = ("-c", "cat,dog", "--method", "gem")


@pytest.fixture
def run(cli, photos, here):
    """A run at a URL."""
    Shelf.clear()
    done = cli("segment", f"shelf://{photos}", *GEM, "--format", "probabilities", "-o", f"shelf://{here}/far")
    assert done.exit_code == 0
    return f"shelf://{here}/far"


class TestReport:
    def test_beside_the_run_it_leads_to_files_by_relative_ways(self, run, here):
        written = write_report(place(run))
        assert str(written.path) == f"{run}/report.html"
        assert written.pictures == 2
        page = (here / "far" / "report.html").read_text()
        assert '"../photos/"' in page
        assert f'"shelf://{here}/photos/"' in page
        assert "SegmentationClass/sub/b.png" in page

    def test_elsewhere_it_leads_to_addresses(self, run, here):
        write_report(place(run), here / "page.html")
        page = (here / "page.html").read_text()
        assert f"shelf://{here}/far/SegmentationClass/sub/b.png" in page
        assert "The picture cannot be shown" not in page


def test_what_is_made_of_a_run(run, cli, here):
    """Export, relabel, report and eval, each from there, to here or to there."""
    assert cli("export", run, "--to", "coco", "-o", "coco.json").exit_code == 0
    assert len(json.loads((here / "coco.json").read_text())["images"]) == 2
    assert cli("export", run, "--to", "masks", "--json").data["output"] == f"{run}/export/masks"
    again = cli("relabel", run, "--threshold", 0.4, "--json").data
    assert (again["output"], again["done"]) == (f"{run}-relabelled", 2)
    assert cli("report", run, "-o", f"{run}/again.html", "--json").data["report"] == f"{run}/again.html"
    assert cli("eval", "--gt", run, "--pred", f"{run}-relabelled", "--json").data["miou"] == 1
    assert cli("eval", "--gt", run, "--json").data["images"] == 2, "the last run, wherever it is"
    assert cli("eval", "--gt", run, "--images", f"shelf://{here}/photos", *GEM, "--json").data["miou"] == 1


def test_what_is_shown_are_urls(run, cli, photos):
    shown = cli("segment", f"shelf://{photos}", *GEM, "--format", "probabilities", "-o", run)
    assert f"masks   {run}/SegmentationClass" in shown.stdout
    plan = cli("segment", f"shelf://{photos}/a.png", *GEM, "-o", f"{run}-other", "--dry-run").stdout
    assert f"shelf://{photos}/a.png → far-other/SegmentationClass/a.png: would segment" in plan


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["segment", "nothing://x", *GEM], "Nothing is known of nothing://"),
        (["segment", "photos", *GEM, "-o", "nothing://x"], "Nothing is known of nothing://"),
        (["segment", "photos", *GEM, "-o", "http://host/out"], "Nothing can be written to http://host/out"),
        (["segment", "photos", *GEM, "--store", "s3://bucket/store"], "s3://bucket/store is a URL, and a path on this"),
        (["segment", "photos", *GEM, "--image-classes", "s3://b/x.txt"], "s3://b/x.txt is a URL, and a path on this"),
        (["explain", "s3://bucket/a.png", *GEM], "s3://bucket/a.png is a URL, and a path on this computer is wanted"),
        (["add-class", "cat", "--from-images", "s3://b/cats"], "s3://b/cats is a URL, and a path on this computer"),
        (["compare", "s3://b/one", "s3://b/two", "--gt", "labels"], "s3://b/one is a URL, and a path on this computer"),
        (["benchmark", "-o", "s3://b/x"], "s3://b/x is a URL, and a path on this computer"),
        (["export", "s3://", "--to", "coco"], "s3:// names no place"),
        (["report", "shelf:///nowhere"], "shelf:///nowhere holds no run"),
        (["relabel", "shelf:///nowhere", "--threshold", "0.5"], "shelf:///nowhere is no output folder"),
        (["eval", "--gt", "shelf:///nowhere"], "There is no folder shelf:///nowhere with ground truth"),
        (["segment", "https://me:pa55@host/photos/?sig=1", *GEM], "Folders at https:// cannot be listed"),
    ],
)
def test_what_cannot_be_is_said_in_one_line(cli, photos, arguments, says):
    result = cli(*arguments)
    assert result.exit_code in (1, 2)
    assert says in result.error
    assert "pa55" not in result.stderr


def test_a_default_in_a_file_may_be_one_in_your_own_only(cli, photos, here, monkeypatch):
    mine = here.parent / "mine.toml"
    mine.write_text(f'[segment]\noutput = "shelf://{here}/far"\n')
    monkeypatch.setenv("OVSEG_CONFIG", str(mine))
    assert cli("segment", "photos", *GEM, "--json").data["output"] == f"shelf://{here}/far"
    mine.write_text('[segment]\noutput = "beside"\n')
    assert cli("segment", "photos", *GEM, "--json").data["output"] == str(here.parent / "beside")
    monkeypatch.delenv("OVSEG_CONFIG")
    (here / "ovseg.toml").write_text(f'[segment]\noutput = "shelf://{here}/far"\n')
    assert "leads out of the project's folder" in cli("segment", "photos", *GEM).error


def test_what_workers_are_sent_holds_no_file_of_the_store(run, cli, photos, here):
    """The folder's files are those of a run on a disk, and nothing else is left."""
    names = sorted(p.relative_to(here / "far").as_posix() for p in (here / "far").rglob("*") if p.is_file())
    cli("segment", "photos", *GEM, "--format", "probabilities", "-o", "near")
    near = sorted(p.relative_to(here / "near").as_posix() for p in (here / "near").rglob("*") if p.is_file())
    assert names == [name for name in near if name != ".ovseg.lock"]
