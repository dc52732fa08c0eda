"""compare, and what eval says of upper bounds and of regions without names."""

from __future__ import annotations

import json

import numpy as np
import pytest

from ovseg_cli.files.labels import LabelMap, write_label, write_labelmap

TRUE = LabelMap.from_classes(["cat", "dog"])
REGIONS = LabelMap.from_classes([f"region {i}" for i in range(1, 6)])


@pytest.fixture
def runs(here):
    """Ten pictures with their labels, and the label maps of a run that errs a little, and of one that errs more."""
    rng = np.random.default_rng(0)
    for i in range(10):
        truth = np.kron(rng.integers(0, 3, (3, 4)), np.ones((5, 5), dtype=int))
        write_label(here / "labels" / f"{i}.png", truth, TRUE)
        for name, share in (("good", 0.05), ("bad", 0.4)):
            wrong = np.where(rng.random(truth.shape) < share, rng.integers(0, 3, truth.shape), truth)
            write_label(here / name / f"{i}.png", wrong, TRUE)
        write_label(here / "areas" / f"{i}.png", rng.permutation(5)[truth] + 1, REGIONS)
    for name, labels in (("labels", TRUE), ("good", TRUE), ("bad", TRUE), ("areas", REGIONS)):
        write_labelmap(here / name / "labelmap.txt", labels)
    return here


class TestCompare:
    def test_folders_and_reports_give_the_same(self, cli, runs):
        first = cli("compare", "good", "bad", "--gt", "labels", "--json").data
        for name in ("good", "bad"):
            assert cli("eval", "--gt", "labels", "--pred", name, "-o", f"{name}.json", "-q").exit_code == 0
        assert cli("compare", "good.json", "bad.json", "--json").data == first
        assert cli("compare", "good.json", "bad", "--gt", "labels", "--json").data == first
        assert first["interval"]["low"] < first["difference"] < first["interval"]["high"] < 0
        assert first["difference"] == pytest.approx(first["miou_b"] - first["miou_a"])
        assert {each["name"] for each in first["classes"]} == {"background", "cat", "dog"}
        assert len(first["pictures"]) == 10

    def test_people_are_told_whether_and_where(self, cli, runs):
        text = cli("compare", "good", "bad", "--gt", "labels").stdout
        assert "The runs differ." in text
        assert "95% interval -0." in text
        assert "and 5 more" in text
        same = cli("compare", "good", "good", "--gt", "labels")
        assert "cannot be told apart" in same.stdout
        assert cli("compare", "good", "bad", "--gt", "labels", "-q").stdout.startswith("-0.")

    def test_everything_is_written(self, cli, runs):
        result = cli(
            "compare", "good", "bad", "--gt", "labels", "--bootstrap", "50", "--seed", "3", "-o", "c.json", "--json"
        )
        assert json.loads((runs / "c.json").read_text()) == result.data
        assert (result.data["draws"], result.data["seed"]) == (50, 3)

    def test_mistakes(self, cli, runs):
        for arguments, message in (
            (("good", "bad"), "name the ground truth with --gt"),
            (("labels/0.png", "bad", "--gt", "labels"), "write one with ovseg eval -o FILE.json"),
            (("good", "nowhere", "--gt", "labels"), "nowhere does not exist"),
        ):
            result = cli("compare", *arguments)
            assert result.exit_code == 2
            assert message in result.error
        cli("eval", "--gt", "labels", "--pred", "good", "-o", "good.json", "-q")
        result = cli("compare", "good.json", "bad", "--gt", "labels", "-c", "cat")
        assert "good.json is a report, whose classes are counted already" in result.error

    def test_nothing_is_written_over_what_is_read_or_over_another_file(self, cli, runs):
        assert cli("eval", "--gt", "labels", "--pred", "good", "-o", "good.json", "-q").exit_code == 0
        before = (runs / "good.json").read_bytes()
        assert (
            "-output would write over" in cli("compare", "good.json", "bad", "--gt", "labels", "-o", "good.json").error
        )
        assert "is written as .json" in cli("compare", "good", "bad", "--gt", "labels", "-o", "notes.txt").error
        assert "nope.json does not exist" in cli("compare", "nope.json", "good.json").error
        scored = ("eval", "--gt", "labels", "--pred", "good", "-o", "x.csv")
        error = cli(*scored, "--per-picture", "./x.csv").error
        assert error == "--output and --per-picture both name x.csv, which can hold only one. Name two files."
        error = cli(*scored, "--label-map", "x.csv").error
        assert not (runs / "x.csv").exists()
        (runs / "x.csv").write_bytes((runs / "labels" / "labelmap.txt").read_bytes())
        assert "would write over x.csv, which is read" in cli(*scored, "--label-map", "x.csv").error
        assert (runs / "good.json").read_bytes() == before


class TestBounds:
    def test_are_beside_the_figures(self, cli, runs):
        result = cli("eval", "--gt", "labels", "--pred", "bad", "--oracle", "all", "--json")
        found = {bound["oracle"]: bound["figures"][0]["value"] for bound in result.data["oracles"]}
        assert list(found) == ["names", "regions", "presence"]
        assert result.data["miou"] < found["regions"] == 1
        assert [bound["oracle"] for bound in result.data["oracles"]] == list(found)
        text = cli("eval", "--gt", "labels", "--pred", "bad", "--oracle", "regions", "-o", "r.md").stdout
        assert "upper bounds (oracles)" in text
        assert "perfect regions 1.000" in " ".join(text.split())
        assert "perfect names" not in text
        assert "| perfect regions | 1.000 |" in (runs / "r.md").read_text()

    def test_one_that_there_is_not(self, cli, runs):
        result = cli("eval", "--gt", "labels", "--pred", "bad", "--oracle", "name")
        assert (result.exit_code, result.error) == (
            2,
            "Unknown oracle 'name'. Did you mean 'names'? Oracles: names, regions, presence, all.",
        )


class TestMatch:
    def test_the_truth_names_regions(self, cli, runs):
        data = cli("eval", "--gt", "labels", "--pred", "areas", "--match", "image", "--json").data
        assert data["miou"] == 1
        assert data["match"] == "image"
        assert data["convention"].startswith("an oracle's figures, not a segmenter's")
        assert [each["name"] for each in data["classes"]] == ["background", "cat", "dog"]
        once = cli("eval", "--gt", "labels", "--pred", "areas", "--match", "dataset", "--json").data
        assert once["miou"] < 0.9
        some = cli("eval", "--gt", "labels", "--pred", "areas", "--match", "image", "-c", "dog", "--json").data
        assert [each["name"] for each in some["classes"]] == ["background", "dog"]

    def test_has_no_bounds_beyond(self, cli, runs):
        result = cli("eval", "--gt", "labels", "--pred", "areas", "--match", "image", "--oracle", "names")
        assert "--match and --oracle exclude each other" in result.error

    def test_boundary_iou_is_asked_for(self, cli, runs):
        data = cli("eval", "--gt", "labels", "--pred", "good", "--boundary", "--json").data
        assert {f["key"] for f in data["figures"]} >= {"miou", "boundary_miou"}
        assert all(each["boundary_iou"] > 0 for each in data["classes"])
