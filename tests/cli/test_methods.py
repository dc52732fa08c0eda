from __future__ import annotations

from ovseg_cli.methods.catalogue import METHODS


def test_every_method_is_listed(cli):
    result = cli("methods", "--json")
    assert [one["name"] for one in result.data] == list(METHODS)


def test_a_method_is_shown_with_its_published_settings(cli):
    result = cli("methods", "cliper", "--json")
    rows = {(row["settings"], row["clip"]): row for row in result.data["settings"]}
    assert len(rows) == 16
    assert rows["voc21", "L/14"]["score_threshold"] == 0.5
    assert rows["coco-object", "B/16"]["templates"] == "imagenet"
    shown = cli("methods", "sclip").stdout
    assert "SCLIP, Wang et al., ECCV 2024" in shown
    assert "26 words" in shown
    assert cli("methods", "prototype", "--json").data["settings"] == []


def test_a_method_that_there_is_not_is_refused_with_the_names(cli):
    result = cli("methods", "sclp")
    assert result.exit_code == 2
    assert "Unknown method 'sclp'. Did you mean 'sclip'? Methods: auto, prototype" in result.stderr
