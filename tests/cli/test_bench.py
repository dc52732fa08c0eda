from __future__ import annotations

import json
import tempfile
from dataclasses import replace

import pytest

from ovseg_cli.runs import speed_bench
from ovseg_cli.runs.speed_report import Report
from ovseg_cli.stages import stage
from tests.runs.test_speed_report import made


@pytest.fixture
def asked(monkeypatch):
    """What would be measured: nothing is."""
    seen = {}

    def run_bench(profile, _load, settings, *, weights, progress):
        seen.update(profile=profile.name, settings=settings, weights=weights)
        progress(0, 3, "add-class")
        return made()

    monkeypatch.setattr(speed_bench, "run_bench", run_bench)
    return seen


def test_what_is_asked_for_is_measured(cli, asked):
    words = ("--what", "segment,methods", "--methods", "gem, sclip", "--size", "320x200", "--count", 3, "--steps", 2)
    assert cli("bench", *words, "--classes", 5, "--batch", 4, "--repeats", 7, "-q").exit_code == 0
    settings = asked["settings"]
    assert (asked["profile"], asked["weights"]) == ("mini", "bundled")
    assert (settings.what, settings.methods, settings.size) == (("segment", "methods"), ("gem", "sclip"), (320, 200))
    assert (settings.count, settings.steps, settings.classes, settings.batch, settings.repeats) == (3, 2, 5, 4, 7)


def test_the_answer_for_people_programs_and_files(cli, asked, here):
    shown = cli("bench", "-o", "page.md")
    assert "attribution  maps add 25.0% to drawing" in shown.stdout
    assert "(no stage)" in shown.stdout
    assert "## Stages" in (here / "page.md").read_text()
    assert cli("bench", "-o", "all.json", "--json").data == json.loads((here / "all.json").read_text())
    assert Report.read(here / "all.json").sections[0].name == "add-class"
    assert cli("bench", "-q").stdout.splitlines()[0] == "add-class\t2"


def test_random_weights_need_no_download(cli, asked):
    result = cli("--profile", "sd15", "bench")
    assert result.exit_code == 1
    assert "--random-weights" in result.error
    assert "ovseg pull --profile sd15" in result.error
    assert not asked
    assert cli("--profile", "sd15", "bench", "--random-weights", "-q").exit_code == 0
    assert (asked["profile"], asked["weights"]) == ("sd15", "random")
    noted = cli("bench", "--random-weights")
    assert "come with ovseg" in noted.stderr
    assert asked["weights"] == "bundled"


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("--what", "segmnt"), "Did you mean 'segment'"),
        (("--what", ""), "Unknown part ''"),
        (("--methods", "gemm"), "Did you mean 'gem'"),
        (("--size", "500"), "--size is width x height"),
        (("--size", "9x500"), "--size is width x height"),
        (("-o", "a.txt"), "written as .json or .md"),
        (("--profile", "sd16"), "Did you mean 'sd15'"),
        (("--compare", "a.json", "b.json"), "a.json does not exist"),
        (("--compare", "a.json", "b.json", "-o", "c.json"), "leave out --output"),
    ],
)
def test_mistakes_are_told_before_anything_is_loaded(cli, asked, words, message):
    result = cli("bench", *words)
    assert result.exit_code == 2
    assert message in result.error
    assert not asked


def test_two_files_are_compared(cli, here):
    for name, report in (("a", made()), ("b", replace(made(scale=3.0), profile="sd15"))):
        (here / f"{name}.json").write_text(json.dumps(report.record()))
    shown = cli("bench", "--compare", "a.json", "b.json")
    assert "not the same work; profile: mini and sd15" in shown.stderr
    assert "B/A" in shown.stdout
    data = cli("bench", "--compare", "a.json", "b.json", "--json").data
    assert data["rows"][0] == ["add-class", "2", "6", "3.00"]
    assert data["different"] == ["profile: mini and sd15"]


def test_ctrl_c_leaves_nothing_behind(cli, here, tmp_path, monkeypatch):
    (tmp_path / "temporary").mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "temporary"))
    monkeypatch.setattr(speed_bench, "_load_all", lambda *_: None)

    def interrupted(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(speed_bench, "add_classes", interrupted)
    result = cli("bench", "-o", "all.json")
    assert result.exit_code == 130
    assert not list((tmp_path / "temporary").iterdir())
    assert not (here / "all.json").exists()
    assert stage("one") is stage("another")
