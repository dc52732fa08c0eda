"""Options that share work out, pictures that failed, and how far a run is, as the command line has them."""

from __future__ import annotations

import dataclasses
import json

import pytest

from ovseg_cli.cli import output
from ovseg_cli.cli.output import Milestones, Output
from ovseg_cli.segmentation import recipe


@pytest.mark.parametrize(
    ("line", "says"),
    [
        ("segment photos -c cat --devices 0,1", "CUDA device"),
        ("segment photos -c cat --devices 0 --device cpu", "exclude each other"),
        ("segment photos -c cat --ray-address here:1", "--ray-address belongs to --engine ray"),
        ("segment photos -c cat --engine ray --devices 0", "the cluster decides"),
        ("segment photos -c cat --retry-failed --overwrite", "leave out one of them"),
        ("add-class cat --from-images photos --workers 2", "--from-images makes one"),
        ("eval --gt labels --pred out --workers 2", "name these with --images"),
        ("eval --gt labels --images photos --method gem,sclip --workers 2", "name these with --images"),
    ],
)
def test_what_cannot_be_is_refused_in_one_line(cli, photos, gt, line, says, monkeypatch):
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    result = cli(*line.split())
    assert result.exit_code == 2
    assert says in result.error


def test_explanations_look_into_the_store_which_a_cluster_does_not_open(cli, photos):
    cli("add-class", "cat", "dog")
    result = cli("segment", "photos", "-c", "cat,dog", "--method", "prototype", "--explain", "--engine", "ray")
    assert (result.exit_code, "it adds the explanations" in result.error) == (2, True)


def test_prototypes_that_stay_in_the_store_do_not_go_to_a_cluster(cli, photos, monkeypatch):
    cli("add-class", "cat", "dog")
    monkeypatch.setattr(recipe, "SHORTLIST", dataclasses.replace(recipe.SHORTLIST, most_exact=1))
    result = cli("segment", "photos", "-c", "cat,dog", "--method", "prototype", "--engine", "ray")
    assert (result.exit_code, "add --exact" in result.error) == (2, True)


class TestFailed:
    @pytest.fixture
    def failed(self, photos):
        (photos / "c.png").write_bytes(b"")
        return photos

    def test_it_is_said_what_becomes_of_them(self, cli, failed):
        result = cli("segment", "photos", "-c", "cat,dog", "--method", "gem")
        assert result.exit_code == 3
        assert "The next run tries failed pictures again; with --retry-failed, it takes them alone." in result.stderr

    def test_are_tried_alone(self, cli, failed):
        cli("segment", "photos", "-c", "cat,dog", "--method", "gem")
        result = cli("segment", "photos", "-c", "cat,dog", "--method", "gem", "--retry-failed", "--json")
        assert result.exit_code == 3
        assert (result.data["images"], result.data["failed"]) == (1, 1)

    def test_where_none_has_failed_that_is_said(self, cli, photos):
        cli("segment", "photos", "-c", "cat,dog", "--method", "gem")
        result = cli("segment", "photos", "-c", "cat,dog", "--method", "gem", "--retry-failed")
        assert result.exit_code == 0
        assert "nothing to try again" in result.stderr


class TestHowFarItIs:
    @pytest.fixture
    def clock(self, monkeypatch):
        now = [0.0]
        monkeypatch.setattr(output.time, "monotonic", lambda: now[0])
        return now

    def test_a_log_has_a_line_at_each_tenth_and_each_minute(self, clock, capsys):
        milestones = Milestones(Output(), 1000, "pictures")
        milestones._started = milestones._said = 0.0
        for done in range(1, 301):
            clock[0] += 2
            milestones.reach(done, rate=0.5, left=(1000 - done) * 2.0, failed=done // 250)
        lines = capsys.readouterr().err.splitlines()
        assert lines[0] == "30 of 1000 pictures (3.0 %) after 1 min 00 s, 0.50 a second, 32 min 20 s left"
        assert lines[3] == "100 of 1000 pictures (10.0 %) after 3 min 20 s, 0.50 a second, 30 min 00 s left"
        assert lines[-1].endswith(", 1 failed")
        assert len(lines) < 15

    def test_a_program_reads_lines_of_json(self, clock, capsys):
        milestones = Milestones(Output(mode="json"), 100, "pictures")
        milestones._started = milestones._said = 0.0
        for done in range(1, 101):
            clock[0] += 1
            milestones.reach(done, rate=1.0, left=100.0 - done)
        said = capsys.readouterr()
        assert said.out == ""
        lines = [json.loads(line)["progress"] for line in said.err.splitlines()]
        assert len(lines) == 9
        assert lines[0] == {
            "done": 10,
            "total": 100,
            "failed": 0,
            "seconds": 10.0,
            "per_second": 1.0,
            "seconds_left": 90.0,
        }

    def test_quiet_is_quiet(self, clock, capsys):
        milestones = Milestones(Output(mode="quiet"), 10, "pictures")
        for done in range(1, 11):
            clock[0] += 100
            milestones.reach(done)
        assert capsys.readouterr().err == ""
