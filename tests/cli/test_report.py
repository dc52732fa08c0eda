from __future__ import annotations

import json

import pytest

from ovseg_cli import report_folder


def test_segment_writes_it_on_request(cli, photos, here):
    assert cli("segment", "photos", "-c", "cat,dog").exit_code == 0
    assert not (here / "ovseg-out/report.html").exists()
    result = cli("segment", "photos", "-c", "cat,dog", "--report")
    assert result.exit_code == 0
    assert "ovseg-out/report.html" in result.stdout
    page = (here / "ovseg-out/report.html").read_text()
    assert "Run of gem on 2 pictures" in page


def test_it_is_written_when_some_pictures_failed(cli, photos, here):
    (photos / "bad.png").write_bytes(b"nothing of a picture")
    result = cli("segment", "photos", "-c", "cat,dog", "--report", "--json")
    assert result.exit_code == 3
    assert result.data["report"] == {
        "report": str(here / "ovseg-out/report.html"),
        "pictures": 2,
        "left_out": 0,
        "failed": 1,
        "bytes": (here / "ovseg-out/report.html").stat().st_size,
    }
    assert "bad.png" in (here / "ovseg-out/report.html").read_text()


def test_a_dry_run_writes_none(cli, photos, here):
    cli("segment", "photos", "-c", "cat", "--report", "--dry-run")
    assert not (here / "ovseg-out").exists()


def test_of_a_finished_run(cli, photos, here):
    cli("segment", "photos", "-c", "cat,dog")
    before = sorted(path.name for path in (here / "ovseg-out").iterdir())
    result = cli("report", "ovseg-out", "-o", "pages/run.html")
    assert result.exit_code == 0
    assert "2 pictures; 0.0 MB" in result.stdout
    assert (here / "pages/run.html").exists()
    assert sorted(path.name for path in (here / "ovseg-out").iterdir()) == before
    assert cli("report", "ovseg-out", "-q").stdout.strip() == str(here / "ovseg-out/report.html")
    assert json.loads(cli("report", "ovseg-out", "--json").stdout)["pictures"] == 2


@pytest.mark.parametrize(
    ("args", "told"),
    [
        (("photos",), "photos holds no run"),
        (("nowhere",), "nowhere holds no run"),
        (("ovseg-out", "-o", "page.pdf"), "written as .html"),
    ],
)
def test_what_cannot_be_is_refused(cli, photos, args, told):
    cli("segment", "photos", "-c", "cat")
    result = cli("report", *args)
    assert result.exit_code == 2
    assert told in result.error


def test_it_needs_no_store_and_loads_no_model(cli, photos, here, monkeypatch):
    cli("segment", "photos", "-c", "cat")
    monkeypatch.setenv("OVSEG_STORE", str(here / "no store"))
    assert cli("report", "ovseg-out").exit_code == 0
    assert not (here / "no store").exists()


def test_in_python(cli, photos, here):
    cli("segment", "photos", "-c", "cat")
    assert report_folder("ovseg-out") == here / "ovseg-out" / "report.html"
    assert report_folder("ovseg-out", "page.html").exists()
