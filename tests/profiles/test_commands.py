"""`ovseg pull --extractors` and what `ovseg profiles` says of extractors."""

from __future__ import annotations

import json

import pytest
from typer.testing import CliRunner

from ovseg_cli.cli.app import app
from ovseg_cli.profiles import PROFILES, get_profile


def run(*words):
    return CliRunner().invoke(app, list(words), prog_name="ovseg")


@pytest.fixture
def asked(monkeypatch):
    """What pull asks for, in order; nothing is fetched."""
    parts = []
    monkeypatch.setattr("ovseg_cli.profiles.fetch_weights", lambda weights, offline: parts.append(weights.part))
    return parts


@pytest.mark.parametrize(
    ("words", "parts"),
    [
        ((), ["diffusion", "clip", "dino"]),
        (("--extractors", "sd,clip"), ["diffusion", "clip"]),
        (("--extractors", "clip-token"), ["diffusion", "clip"]),
        (("--extractors", "mae", "--extractors", "dinov2, clip"), ["diffusion", "clip", "dinov2", "mae"]),
        (("--mask-method", "sam"), ["diffusion", "clip", "dino", "sam"]),
        (("--mask-method", "otsu", "--extractors", "sd"), ["diffusion", "clip"]),
    ],
)
def test_pull_fetches_what_the_extractors_need(asked, words, parts):
    result = run("pull", "--profile", "sd15", "--json", *words)
    assert result.exit_code == 0
    assert asked == parts
    data = json.loads(result.stdout)
    assert [weights["part"] for weights in data["weights"]] == parts
    assert not data["ready"]


def test_pull_of_an_unknown_extractor_is_a_usage_error(asked):
    result = run("pull", "--profile", "mini", "--extractors", "sd,swin")
    assert result.exit_code == 2
    assert "no extractor 'swin'. It has: sd, clip, dino, clip-token" in result.stderr
    assert asked == []


def test_pull_of_a_sam_that_the_profile_lacks_is_a_usage_error(asked):
    result = run("pull", "--profile", "mini", "--mask-method", "sam")
    assert result.exit_code == 2
    assert "no SAM weights" in result.stderr
    assert asked == []


def test_bundled_extractors_need_no_network():
    result = run("pull", "--profile", "mini", "--extractors", "dino", "--offline", "--json")
    assert result.exit_code == 0
    assert json.loads(result.stdout)["ready"]


def test_profiles_lists_every_extractor():
    for data in json.loads(run("profiles", "--json").stdout):
        profile = get_profile(data["name"])
        known = {extractor["name"]: extractor for extractor in data["extractors"]}
        assert [name for name, extractor in known.items() if extractor["default"]] == [
            extractor.name for extractor in profile.extractors
        ]
        assert profile.pick_extractors(list(known)) == (*profile.extractors, *profile.extra_extractors)
        assert all(extractor["present"] == profile.bundled for extractor in known.values())
        assert {extractor["digest"] for extractor in known.values()} == {
            extractor.digest for extractor in profile.pick_extractors(list(known))
        }


def test_profiles_names_the_extractors_for_a_person():
    text = run("profiles").stdout
    assert len(PROFILES) == text.count("extractors: ")
    assert "extractors: sd, clip; with --extractors also dino, clip-token" in text
